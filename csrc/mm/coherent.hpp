// coherent.hpp -- update_mmu_cache: what a processor has to be told when a PTE of a file's page was set.
//
// Nothing, but on arm with virtually tagged caches (arch/arm.hpp): two addresses of one page would be two cache lines, so
// the program's other shared mappings of the page become uncached, and then this one.
// Locks.  Called under the ptl of the PTE that was set, which is the lock of every PTE of the mm: none is taken (B49 c).
// mmap_lock keeps the list of mappings; only those of the same mm matter, so it is the mm's own list that is looked at.
// Here is the order and the locking of it; the lines themselves, and a load that misses a store, are the explorer's.
#pragma once
#include "mm/fault_parts.hpp"

namespace pgtbl::inline PGTBL_WORLD {

#if defined(PGTBL_ARCH_ARM)
inline constexpr u64 bit_uncached = 1ULL << 4;
void update_mmu_cache(cpu& self, vma& v, pte_locked& t, va_t va);
#else
inline void update_mmu_cache(cpu&, vma&, pte_locked&, va_t) {}
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
