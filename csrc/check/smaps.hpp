// smaps.hpp -- how much of each mapping is in memory, and whose: what /proc/PID/smaps tells.
#pragma once
#include <string>
#include <vector>

#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// One VMA.  Bytes; pss in 1/4096 of a byte, as the kernel sums it.
struct smaps_row {
  va_t start = 0, end = 0;
  u64 flags = 0;  // VmFlags
  u64 rss = 0, pss = 0;
  u64 shared_clean = 0, shared_dirty = 0, private_clean = 0, private_dirty = 0;
  u64 anonymous = 0, lazy_free = 0, anon_huge = 0, shmem_pmd_mapped = 0, file_pmd_mapped = 0, locked = 0;
  bool thp_eligible = false;  // a fault or khugepaged may give it huge pages
};

/// Every VMA, upwards.  Takes mmap_lock for read; where a table vanishes under the walk, the PMD is looked at again.
std::vector<smaps_row> smaps(cpu& self, mm& m);

/// VmFlags of smaps, without the mr, mw, me and ms that every VMA has: "rd wr sh".
std::string vm_flags_text(u64 flags);

}  // namespace pgtbl::inline PGTBL_WORLD
