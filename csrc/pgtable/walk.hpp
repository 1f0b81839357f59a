// walk.hpp -- from the root down to the PMD slot, and tables going in and out of it.
//
// The levels above the PTE table are never taken away under a living mapping: only free_pgtables frees
// them, after it unlinked the VMAs.  So the walk down needs the caller's cover (mm/mm.hpp), and no more.
#pragma once
#include "base/hooks.hpp"
#include "pgtable/map.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// G-6: the levels above a PTE table are read only under a cover that keeps them: mmap_lock, the VMA's lock,
/// i_mmap_rwsem, the anon_vma lock, or interrupts off.  Checked builds only.
inline void assert_upper_tables_covered(cpu& self, va_t va) {
  if constexpr (checked_build) {
    const bool covered =
        self.irq.off() || holds_class(self, lock_class::mmap_read) ||
        holds_class(self, lock_class::mmap_write) || holds_class(self, lock_class::vma_read) ||
        holds_class(self, lock_class::i_mmap_read) || holds_class(self, lock_class::i_mmap_write) ||
        holds_class(self, lock_class::anon_vma_read) || holds_class(self, lock_class::anon_vma_write);
    if (!covered)
      breach(self, "G-6",
             "CPU " + std::to_string(self.id) + " walks to the PMD of address " + std::to_string(va) +
                 " and holds nothing that keeps the tables above it");
  }
}

/// G-6 again: the PMD page that the slot lies in is still one.  Checked builds only.
inline void assert_upper_table_live(cpu& self, pmd_ref p, va_t va) {
  if constexpr (checked_build) {
    const frame& f = self.ram->of(p.in());
    if (f.state.load(acquire) != frame_state::table_live || f.level != 2)
      breach(self, "G-6",
             "CPU " + std::to_string(self.id) + " reads the PMD of address " + std::to_string(va) +
                 " in frame " + std::to_string(p.in()) + ", which is no PMD page any more");
  }
}

/// The PMD slot for va; none where a level above is missing.
inline pmd_ref pmd_offset(cpu& self, const mm_tables& t, va_t va) {
  assert_upper_tables_covered(self, va);
  physical& phys = self.ram->phys;
  const pmd_t pgd{t.pgd[index_at(va, pgd_shift)].load(acquire)};
  if (!pgd.present()) [[unlikely]]
    return {};
  const pmd_t pud{phys.entry(pgd.pfn(), index_at(va, pud_shift)).load(acquire)};
  if (!pud.present()) [[unlikely]]
    return {};
  return {&phys.entry(pud.pfn(), index_at(va, pmd_shift)), pud};
}

/// The PMD slot for va, with the levels above allocated.  None when memory is exhausted.
pmd_ref pmd_alloc(cpu& self, mm_tables& t, va_t va);

/// G-34 and G-35: a PMD changes only under its pml, and a table leaves it only under its own ptl too; file collapse
/// before 6.6 takes tables away under mmap_lock for write, and neither.  Checked builds only.
void assert_pmd_locked(cpu& self, pmd_ref pmdp, pmd_t old);

/// Puts a table into a PMD that is none.  Returns whether it went in; else the table stays the caller's.
/// Takes pml; the table counts in pgtables_bytes from here on (A4).
bool pmd_install(cpu& self, mm_tables& t, pmd_ref pmdp, pfn_t table);

/// Makes sure that the PMD holds something: allocates and installs a table where it is none.  False when
/// memory is exhausted.
bool pte_alloc(cpu& self, mm_tables& t, pmd_ref pmdp);

/// Fetches and clears a PMD that holds a table, then flushes the extent's small translations and the
/// cached upper levels (pmdp_collapse_flush).  The caller holds what its era demands.
pmd_t pmdp_collapse_flush(cpu& self, mm_tables& t, va_t start, pmd_ref pmdp);

/// The table leaves its PMD for good: accounting, life state.
void pte_detached(cpu& self, mm_tables& t, pfn_t table);

/// Frees a detached table after a grace period (pte_free_defer): walkers that mapped it before it was
/// detached may use it, and spin on its lock, until they unmap.  Allocates nothing; waits for a grace period only
/// where the domain is above its hard limit, so the caller holds no spinlock and is in no section.
void pte_free_defer(cpu& self, pfn_t table);

/// Frees a PTE table at once.  Nobody may have it mapped.
void pte_free_now(cpu& self, pfn_t table);

/// Frees tables of any level after a grace period (tlb_remove_table): in batches that need a page each, or, where
/// there is none, one by one.  Nobody can come to them any more.
void free_tables_by_rcu(cpu& self, const pfn_t* tables, u32 n);

/// Interrupts every CPU and waits until each is outside of an interrupts-off section
/// (tlb_remove_table_sync_one): lockless walkers that saw the table are gone then.
void tlb_remove_table_sync_one(cpu& self);

}  // namespace pgtbl::inline PGTBL_WORLD
