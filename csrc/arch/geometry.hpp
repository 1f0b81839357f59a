// geometry.hpp -- what the architecture of this build is made of: sizes, levels, and which locks it splits.
//
// Chosen when it is compiled (-DPGTBL_ARCH_S390 and the like; none: x86-64), so that a walk pays nothing.  Nothing
// outside of csrc/arch/ may assume 512 or 4096.  What is simplified is said in docs/architectures.md: entries have one layout
// everywhere.
#pragma once
#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// As x86-64 has it; an architecture names what is different.
struct arch_geometry {
  const char* name = "x86-64";
  unsigned page_shift = 12;
  // log2 of the entries of a table, level by level; 0: there is no such level.
  unsigned pte_bits = 9, pmd_bits = 9, pud_bits = 9, pgd_bits = 9;
  unsigned tables_per_page_shift = 0;      // how many PTE tables a page can hold, as log2
  unsigned pmd_tables_per_page_shift = 0;  // and of PMD tables, where they are fragments
  u64 task_size = 1ULL << 47;              // where a program's addresses end
  // A lock for each page of PTE tables, and for each of PMD tables; else the mm's.
  bool split_ptl = true, split_pml = true;
  bool vma_locks = true, thp = true;
  bool frees_by_rcu = false;  // munmap and exit free tables by RCU in every era (MMU_GATHER_RCU_TABLE_FREE)
  bool deposits_for_files = false;  // a table stands behind a huge PMD of a file, too
  u32 cache_lines = 0;              // of a virtually tagged cache, a page each; 0: caches need no thought
  bool deposits_in_tables = false;  // deposited tables are listed through their own first entry
};

inline constexpr arch_geometry geometry = {
#if defined(PGTBL_WORLD_MODEL)
    // Shrunk until a table can be explored: two bits a level, a page is one word, a huge page is four pages.
    .page_shift = 3, .pte_bits = 2, .pmd_bits = 2, .pud_bits = 2, .pgd_bits = 2, .task_size = 1ULL << 10,
#elif defined(PGTBL_ARCH_X86_PAE)
    .name = "x86-pae",
    .pud_bits = 0,
    .pgd_bits = 2,
    .task_size = 3ULL << 30,
    .vma_locks = false,
#elif defined(PGTBL_ARCH_ARM)
    .name = "arm",
    .pmd_bits = 11,
    .pud_bits = 0,
    .pgd_bits = 0,
    .task_size = 3ULL << 30,
    .split_ptl = false,
    .split_pml = false,
    .vma_locks = false,
    .thp = false,
    .cache_lines = 512,
#elif defined(PGTBL_ARCH_POWERPC)
    .name = "powerpc",
    .page_shift = 16,
    .pte_bits = 8,
    .pmd_bits = 10,
    .pud_bits = 10,
    .pgd_bits = 8,
    .tables_per_page_shift = 4,
    .pmd_tables_per_page_shift = 2,
    .task_size = 1ULL << 51,
    .frees_by_rcu = true,
    .deposits_for_files = true,
#elif defined(PGTBL_ARCH_SPARC64)
    .name = "sparc64",
    .page_shift = 13,
    .pte_bits = 10,
    .pmd_bits = 10,
    .pud_bits = 10,
    .pgd_bits = 10,
    .task_size = 1ULL << 52,
    .split_pml = false,
    .vma_locks = false,
    .frees_by_rcu = true,
    .deposits_in_tables = true,
#elif defined(PGTBL_ARCH_S390)
    .name = "s390",
    .pte_bits = 8,
    .pmd_bits = 11,
    .pud_bits = 11,
    .pgd_bits = 11,
    .tables_per_page_shift = 1,
    .task_size = 1ULL << 53,
    .frees_by_rcu = true,
    .deposits_in_tables = true,
#endif
};

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
