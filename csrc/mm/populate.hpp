// populate.hpp -- pages brought in before anybody touches them: MAP_POPULATE, mlock, MADV_POPULATE_*.
#pragma once
#include "mm/mapping.hpp"
#include "pgtable/mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class populated : u8 {
  all,
  no_permission,  // the mapping does not allow the access
  refused,        // an access would die: beyond the file's end, or a guard region
  no_memory,
};

/// Faults [start, end) of one VMA in, as the access would.  The caller holds mmap_lock for read.
populated populate_vma(cpu& self, mm& m, const vma& v, va_t start, va_t end, access a);
/// The same as mlock wants it: writable private memory gets pages of its own.  PROT_NONE has no permission.
populated populate_for_use(cpu& self, mm& m, const vma& v, va_t start, va_t end);
/// What of [start, end) can be had; takes mmap_lock for read (mm_populate after mmap).
void populate_quietly(cpu& self, mm& m, va_t start, va_t end);

}  // namespace pgtbl::inline PGTBL_WORLD
