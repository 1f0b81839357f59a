// huge_pmd.hpp -- extents that are mapped by one PMD: the tables deposited behind them, and taking them apart.
//
// Guarantee.  An anonymous huge PMD can always be split, without memory: a PTE table was set aside (deposited) with
// its PMD page as it was made.  At no time in a split does a CPU have the extent in its TLB both as one huge page and
// as small ones (G-15), nor does anybody see the PMD none.
//
// Method.  Split: the PMD is made invalid (huge still, but not for the hardware), the huge translation is flushed,
// the deposited table is filled with entries and put in its place.  A PMD of a file is not worth that: it goes,
// and pages fault in again.
//
// Lock order.  notifier > pml.  Deposits are listed with their PMD page, under its pml, and count in pgtables_bytes.  On powerpc
// each lies behind its own PMD (arch/powerpc.hpp), for the hardware to note hash slots in.
#pragma once
#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Sets a PTE table aside for the huge PMD in this slot, and takes one back.  Under pml.
void deposit_table(cpu& self, pmd_ref pmdp, pgtable_t table);
pgtable_t withdraw_table(cpu& self, pmd_ref pmdp);
/// Whether a table stands behind the huge PMD of that page: behind every anonymous one, and a file's on some architectures.
bool needs_deposit(cpu& self, pfn_t head);
/// A withdrawn table that nothing needs any more; 0: there was none.
void free_deposited(cpu& self, mm& m, pgtable_t table);
/// Of a deposited table, or of a PMD page: the next deposited table.
pgtable_t next_deposited(cpu& self, pgtable_t t, bool pmd_page);

/// Takes the extent's PMD apart, if it is huge (__split_huge_pmd).
void split_huge_pmd(cpu& self, vma& v, pmd_ref pmdp, va_t extent);
/// The same for the extent that `at` lies inside of, where it does.  Before a VMA ends there.
void split_huge_pmd_at(cpu& self, vma& v, va_t at);

/// Whether the extent at va may be mapped huge by an anonymous page: the machine's policy and the VMA's advice.
bool anon_thp_allowed(cpu& self, const vma& v, va_t va);

/// Whether khugepaged and MADV_COLLAPSE may make huge pages of the VMA's regular file (file_thp_enabled): the era's rule, and
/// nobody has it open for writing.
bool file_thp_enabled(cpu& self, const vma& v);
/// Whether the VMA's advice, or its program, forbids huge pages (vma_thp_disabled).  `forced`: by MADV_COLLAPSE, which is advice.
bool vma_thp_disabled(const vma& v, bool forced);
/// What the machine's policy and the VMA's advice say.
bool thp_wanted(cpu& self, const vma& v);

/// Installs a huge PMD of an anonymous page (or the huge zero page) with the table to deposit.  Under pml, PMD none.
void set_anon_huge_pmd(cpu& self, vma& v, va_t extent, pmd_ref pmdp, pfn_t head, pgtable_t table, bool write);

}  // namespace pgtbl::inline PGTBL_WORLD
