// walk.hpp -- from the root down to the PMD slot, and tables going in and out of it.
//
// The levels above the PTE table are never taken away under a living mapping: only free_pgtables frees
// them, after it unlinked the VMAs.  So the walk down needs the caller's cover (mm/mm.hpp), and no more.
#pragma once
#include "base/hooks.hpp"
#include "pgtable/map.hpp"
#if defined(PGTBL_ARCH_POWERPC)
#include "arch/powerpc.hpp"
#endif

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
    const auto& f = life_of(self, p.in());
    if (f.state.load(acquire) != frame_state::table_live || f.level != 2)
      breach(self, "G-6",
             "CPU " + std::to_string(self.id) + " reads the PMD of address " + std::to_string(va) +
                 " in frame " + std::to_string(pfn_of(p.in())) + ", which is no PMD page any more");
  }
}

/// The PMD slot for va; none where a level above is missing.
inline pmd_ref pmd_offset(cpu& self, const mm_tables& t, va_t va) {
  assert_upper_tables_covered(self, va);
  // Where there is no level above it, the PMD page is the root.
  if constexpr (root_level == 2) return {&t.pgd[index_at(va, pmd_shift)], mk_table(t.root)};
  physical& phys = self.ram->phys;
  pmd_t above{t.pgd[index_at(va, pgd_shift)].load(acquire)};
  if (!above.present()) [[unlikely]]
    return {};
  if constexpr (geometry.pud_bits != 0) {
    above = {phys.entry(above.pgtable(), index_at(va, pud_shift)).load(acquire)};
    if (!above.present()) [[unlikely]]
      return {};
  }
  return {&phys.entry(above.pgtable(), index_at(va, pmd_shift)), above};
}

/// The PMD slot for va, with the levels above allocated.  None when memory is exhausted.
pmd_ref pmd_alloc(cpu& self, mm_tables& t, va_t va);

/// G-34 and G-35: a PMD changes only under its pml, and a table leaves it only under its own ptl too; file collapse
/// before 6.6 takes tables away under mmap_lock for write, and neither.  Checked builds only.
void assert_pmd_locked(cpu& self, pmd_ref pmdp, pmd_t old);

/// A PTE table for the mm, empty; none when memory is exhausted.
std::optional<pgtable_t> pte_alloc_one(cpu& self, mm_tables& t);

/// Puts a table into a PMD that is none.  Returns whether it went in; else the table stays the caller's.
/// Takes pml; the table counts in pgtables_bytes from here on (A4).
bool pmd_install(cpu& self, mm_tables& t, pmd_ref pmdp, pgtable_t table);

/// Makes sure that the PMD holds something: allocates and installs a table where it is none.  False when
/// memory is exhausted.
bool pte_alloc(cpu& self, mm_tables& t, pmd_ref pmdp);

/// Fetches and clears a PMD that holds a table, then flushes the extent's small translations and the
/// cached upper levels (pmdp_collapse_flush).  The caller holds what its era demands.
pmd_t pmdp_collapse_flush(cpu& self, mm_tables& t, va_t start, pmd_ref pmdp);

/// The table leaves its PMD for good: accounting, life state.
void pte_detached(cpu& self, mm_tables& t, pgtable_t table);

/// Frees a detached table after a grace period (pte_free_defer): walkers that mapped it before it was
/// detached may use it, and spin on its lock, until they unmap.  Allocates nothing; waits for a grace period only
/// where the domain is above its hard limit, so the caller holds no spinlock and is in no section.
void pte_free_defer(cpu& self, mm_tables& t, pgtable_t table);

/// Frees a PTE table at once.  Nobody may have it mapped.
void pte_free(cpu& self, mm_tables& t, pgtable_t table);

/// A PTE table on its way out through mmu_gather, while its mm lives ...
void pte_free_tlb(cpu& self, mm_tables& t, pgtable_t table);
/// ... and a table of any level at the end of that way, when nobody can have it any more.  The mm may be gone.
void tlb_remove_table(cpu& self, pgtable_t table);

/// Tables above the PTE tables: a page each, several in a row where they are larger (table_order), or a fragment of one.
std::optional<pgtable_t> upper_alloc_one(cpu& self, mm_tables& t, u8 level);
void upper_free(cpu& self, pgtable_t table);

/// Checked builds: nobody may have the table mapped, or be reading it in hardware (G-1, G-2).
void assert_unmapped(cpu& self, pgtable_t table);

/// Frees tables of any level after a grace period (tlb_remove_table): in batches that need a page each, or, where
/// there is none, one by one.  Nobody can come to them any more.
void free_tables_by_rcu(cpu& self, const pgtable_t* tables, u32 n);

/// Interrupts every CPU and waits until each is outside of an interrupts-off section
/// (tlb_remove_table_sync_one): lockless walkers that saw the table are gone then.
void tlb_remove_table_sync_one(cpu& self);

#if defined(PGTBL_ARCH_POWERPC)
/// The table deposited behind a huge PMD: its place is in the second half of the PMD table.
inline deposit deposit_behind(entry_word& pmd) {
  constexpr u32 words = static_cast<u32>((1ULL << pgtable_shift) / sizeof(u64));
  return {(&pmd)[ptrs_at(2)], words};
}
/// After a huge PMD was cleared, and under its pml: waits until nobody is in a hash fault or in a walk without a lock that may
/// have seen it.
void serialize_against_pte_lookup(cpu& self);
#endif

#if defined(PGTBL_ARCH_X86_PAE)
/// After a PMD was cleared, and under its pml: waits until nobody is between its two halves (arch/x86_pae.hpp).
void pmdp_get_lockless_sync(cpu& self, const mm_tables& t, pmd_ref pmdp);
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
