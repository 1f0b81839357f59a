// coherent.hpp -- update_mmu_cache: what a processor has to be told when a PTE of a file's page is set.
//
// Nothing, but on arm with virtually tagged caches (arch/arm.hpp, pgtable/vivt.hpp): two addresses of one page would be two
// cache lines, so the program's other shared mappings of the page become uncached, and so does this one.
// Order.  Linux sets the PTE first, and then looks for others: on its one processor nobody runs in between.  Here somebody
// might, and would fill a line; so the others go first, and the entry is set as it is to be.
// Locks.  Called under the ptl of the PTE that is to be set, which is the lock of every PTE of the mm: none is taken (B49 c).
// mmap_lock keeps the list of mappings; only those of the same mm matter, so it is the mm's own list that is looked at.
// In the hypothetical form each table has a lock, and the other table's nests inside; how it is found, and whether it is taken,
// is what the versions differ in (the switch adjust_pte).  Two faults on two tables then wait for each other, in every version: one
// of them notices, is reported (G-31), and goes without.
#pragma once
#include "mm/fault_parts.hpp"

namespace pgtbl::inline PGTBL_WORLD {

#if defined(PGTBL_ARCH_ARM)
/// The entry as it is to be set at va, in that table.  by_fault: else there is no fault whose lock could be asked for.
pte_t update_mmu_cache(cpu& self, vma& v, pte_locked& t, va_t va, pte_t e, bool by_fault = true);
#else
inline pte_t update_mmu_cache(cpu&, vma&, pte_locked&, va_t, pte_t e, bool = true) { return e; }
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
