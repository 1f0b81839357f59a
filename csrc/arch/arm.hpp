// arm.hpp -- virtually indexed, virtually tagged caches: two mappings of a page are two cache lines.
//
// Problem.  A store through one address of a page stays in that address's line, and a load through another never sees
// it.  So a page that a program maps more than once must be mapped uncached.  Each time a PTE of a file's page was
// set, update_mmu_cache() looks for the other mappings in the same mm, and changes them, and then the new one.  It holds
// the lock of the PTE that was set, and needs those of the others.
// Locks.  These processors have no split PTE locks and no huge pages: one lock, page_table_lock, covers every PTE of the
// mm, and is held already; taking it again never ends (B49 c).  The mode with split locks is hypothetical, and kept because
// the code has been written for it: then the other table's lock nests inside, unless the other PTE lies in the same
// table (B49 a).  Two faults on two tables would wait for each other in that mode; the series does not say how it would
// be avoided, and the explorer shows it.
// Versions of the look-up of the other PTE and its lock; each is here without one guard:
//   before 6.6   the PMD is read once for the table and once for the lock: they may be of two tables (arm_one_read)
//   6.6          pte_offset_map_nolock: both from one read; no table, nothing to adjust.  Where locks are split, an alias
//                in the same table is locked again (arm_same_table)
//   6.13         whether to lock is found by comparing with the fault's lock, which a caller that is no fault, as
//                migration, has not (arm_by_address)
//   2025         decided by whether locks are split, and whether both addresses lie in one table's range
#pragma once
#include "arch/interface.hpp"
#include "arch/states.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// What a PTE is to this model: a page, and whether it may be cached.
inline constexpr u64 arm_present = 1, arm_uncached = 2;

/// A page that several addresses of one mm map, and the cache lines that they keep of it.
struct arm_alias {
  atomic<u64>* pmd = nullptr;  // leads to the table; by its number, 0: none
  u32 pmd_range = 0;           // which stretch of addresses one table covers
  u32 index = 0;               // of the PTE in its table
  // The line: what was stored or loaded through this address and not yet written back.  By the processor.
  atomic<u64> line{0};
  static constexpr u64 valid = 1ULL << 63, dirty = 1ULL << 62;
  u32 shadow = arm_none;  // told to the watch, never asked
};

struct arm_table {
  spinlock ptl;
  atomic<u64> pte[2] = {};
};

/// A program's mappings of one page of a file.
struct arm_mm {
  static constexpr u32 most = 3;
  arm_alias alias[most];
  u32 aliases = 0;
  arm_table* tables[most + 1] = {};  // by number, from 1
  spinlock page_table_lock;          // of every PTE, where locks are not split
  spinlock i_mmap;                   // flush_dcache_mmap_lock: the list of mappings stays as it is
  bool split_locks = false;          // hypothetical
  atomic<u64> memory{0};             // the page itself
  state_watch* watch = nullptr;      // set before anything happens
};

/// A fault, or another caller that sets PTEs.
struct arm_caller {
  const spinlock* fault_ptl = nullptr;  // vmf->ptl; null where there is no fault
};

/// Sets the PTE of that mapping, as a fault or a migration does, and makes the program's other mappings of the page
/// coherent with it (update_mmu_cache).
void arm_set_pte(context& self, arm_mm& mm, u32 which, bool is_fault);

/// The mapping goes, as munmap takes it: its line is written back first (flush_cache_page).
void arm_unmap(context& self, arm_mm& mm, u32 which);

/// What the program's loads and stores find by way of that mapping: nothing where it is not mapped.
std::optional<u64> arm_load(arm_mm& mm, u32 which);
bool arm_store(arm_mm& mm, u32 which, u64 value);

}  // namespace pgtbl::inline PGTBL_WORLD
