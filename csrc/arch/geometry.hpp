// geometry.hpp -- what the architecture of this build is made of: sizes, levels, and which locks it splits.
//
// Chosen when it is compiled (-DPGTBL_ARCH_S390 and the like; none: x86-64), so that a walk pays nothing.  Nothing
// outside of csrc/arch/ may assume 512 or 4096.  What is simplified is said in docs/architectures.md: entries have one layout
// everywhere, and a table above the PTE tables is one page.
#pragma once
#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct arch_geometry {
  const char* name;
  unsigned page_shift;
  // log2 of the entries of a table, level by level; 0: there is no such level.
  unsigned pte_bits, pmd_bits, pud_bits, pgd_bits;
  unsigned tables_per_page_shift;  // how many PTE tables a page can hold, as log2
  u64 task_size;                   // where a program's addresses end
  bool split_ptl, split_pml;  // a lock for each page of PTE tables, and for each of PMD tables; else the mm's
  bool vma_locks, thp;
  bool frees_by_rcu;        // munmap and exit free tables by RCU in every era (MMU_GATHER_RCU_TABLE_FREE)
  bool deposits_for_files;  // a table stands behind a huge PMD of a file, too
  bool deposits_in_tables;  // deposited tables are listed through their own first entry
};

#if defined(PGTBL_WORLD_MODEL)
// Shrunk until a table can be explored: two bits a level, a page is one word, a huge page is four pages.
inline constexpr arch_geometry geometry = {.name = "x86-64",
                                           .page_shift = 3,
                                           .pte_bits = 2,
                                           .pmd_bits = 2,
                                           .pud_bits = 2,
                                           .pgd_bits = 2,
                                           .tables_per_page_shift = 0,
                                           .task_size = 1ULL << 10,
                                           .split_ptl = true,
                                           .split_pml = true,
                                           .vma_locks = true,
                                           .thp = true,
                                           .frees_by_rcu = false,
                                           .deposits_for_files = false,
                                           .deposits_in_tables = false};
#elif defined(PGTBL_ARCH_X86_PAE)
inline constexpr arch_geometry geometry = {.name = "x86-pae",
                                           .page_shift = 12,
                                           .pte_bits = 9,
                                           .pmd_bits = 9,
                                           .pud_bits = 0,
                                           .pgd_bits = 2,
                                           .tables_per_page_shift = 0,
                                           .task_size = 3ULL << 30,
                                           .split_ptl = true,
                                           .split_pml = true,
                                           .vma_locks = false,
                                           .thp = true,
                                           .frees_by_rcu = false,
                                           .deposits_for_files = false,
                                           .deposits_in_tables = false};
#elif defined(PGTBL_ARCH_ARM)
inline constexpr arch_geometry geometry = {.name = "arm",
                                           .page_shift = 12,
                                           .pte_bits = 9,
                                           .pmd_bits = 9,
                                           .pud_bits = 0,
                                           .pgd_bits = 0,
                                           .tables_per_page_shift = 0,
                                           .task_size = 1ULL << 30,
                                           .split_ptl = false,
                                           .split_pml = false,
                                           .vma_locks = false,
                                           .thp = false,
                                           .frees_by_rcu = false,
                                           .deposits_for_files = false,
                                           .deposits_in_tables = false};
#elif defined(PGTBL_ARCH_POWERPC)
inline constexpr arch_geometry geometry = {.name = "powerpc",
                                           .page_shift = 16,
                                           .pte_bits = 8,
                                           .pmd_bits = 10,
                                           .pud_bits = 10,
                                           .pgd_bits = 8,
                                           .tables_per_page_shift = 4,
                                           .task_size = 1ULL << 51,
                                           .split_ptl = true,
                                           .split_pml = true,
                                           .vma_locks = true,
                                           .thp = true,
                                           .frees_by_rcu = true,
                                           .deposits_for_files = true,
                                           .deposits_in_tables = false};
#elif defined(PGTBL_ARCH_SPARC64)
inline constexpr arch_geometry geometry = {.name = "sparc64",
                                           .page_shift = 13,
                                           .pte_bits = 10,
                                           .pmd_bits = 10,
                                           .pud_bits = 10,
                                           .pgd_bits = 10,
                                           .tables_per_page_shift = 0,
                                           .task_size = 1ULL << 52,
                                           .split_ptl = true,
                                           .split_pml = false,
                                           .vma_locks = false,
                                           .thp = true,
                                           .frees_by_rcu = true,
                                           .deposits_for_files = false,
                                           .deposits_in_tables = true};
#elif defined(PGTBL_ARCH_S390)
inline constexpr arch_geometry geometry = {.name = "s390",
                                           .page_shift = 12,
                                           .pte_bits = 8,
                                           .pmd_bits = 9,
                                           .pud_bits = 9,
                                           .pgd_bits = 9,
                                           .tables_per_page_shift = 1,
                                           .task_size = 1ULL << 47,
                                           .split_ptl = true,
                                           .split_pml = true,
                                           .vma_locks = true,
                                           .thp = true,
                                           .frees_by_rcu = true,
                                           .deposits_for_files = false,
                                           .deposits_in_tables = true};
#else
inline constexpr arch_geometry geometry = {.name = "x86-64",
                                           .page_shift = 12,
                                           .pte_bits = 9,
                                           .pmd_bits = 9,
                                           .pud_bits = 9,
                                           .pgd_bits = 9,
                                           .tables_per_page_shift = 0,
                                           .task_size = 1ULL << 47,
                                           .split_ptl = true,
                                           .split_pml = true,
                                           .vma_locks = true,
                                           .thp = true,
                                           .frees_by_rcu = false,
                                           .deposits_for_files = false,
                                           .deposits_in_tables = false};
#endif

/// Whether tables come and go through a pte_tables of csrc/arch/, with descriptors beside the frames'.  x86-64's are
/// the frames themselves: one table a page, whose own rcu_head is queued.
#if defined(PGTBL_ARCH_X86_PAE) || defined(PGTBL_ARCH_ARM) || defined(PGTBL_ARCH_POWERPC) || \
    defined(PGTBL_ARCH_SPARC64) || defined(PGTBL_ARCH_S390)
#define PGTBL_ARCH_TABLES
inline constexpr bool tables_by_arch = true;
#else
inline constexpr bool tables_by_arch = false;
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
