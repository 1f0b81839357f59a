// geometry.hpp -- how large pages and tables are, in each world and on each architecture: what follows from
// arch/geometry.hpp.
#pragma once
#include "arch/geometry.hpp"

namespace pgtbl::inline PGTBL_WORLD {

using pfn_t = u64;    // number of a frame of simulated physical memory; 0 is never handed out
using va_t = u64;     // virtual address, in bytes
using pgoff_t = u64;  // index of a page in a file
/// A page table's handle: the number of its place in memory, a page having tables_per_page of them.  Where a page holds one
/// table, it is the frame's number.  0: none.
enum class pgtable_t : u64 {};

inline constexpr unsigned page_shift = geometry.page_shift;
inline constexpr unsigned table_shift = geometry.pte_bits;  // log2 of the entries of a PTE table
inline constexpr u64 page_size = 1ULL << page_shift;
inline constexpr u64 ptrs_per_table = 1ULL << table_shift;
inline constexpr unsigned pmd_shift = page_shift + table_shift;
inline constexpr unsigned pud_shift = pmd_shift + geometry.pmd_bits;
inline constexpr unsigned pgd_shift = pud_shift + geometry.pud_bits;
inline constexpr unsigned va_bits = pgd_shift + geometry.pgd_bits;
inline constexpr u64 pmd_size = 1ULL << pmd_shift;  // bytes that one PTE table (one extent) covers
inline constexpr u64 pages_per_huge = ptrs_per_table;
inline constexpr unsigned huge_order = table_shift;
inline constexpr va_t task_size = geometry.task_size;
/// Where brk starts: below the mappings that mmap chooses, above the lowest gigabytes, where there is room.
inline constexpr va_t brk_base =
    task_size > 1ULL << (pud_shift + 2) ? 1ULL << (pud_shift + 2) : task_size / 8 & ~(pmd_size - 1);
inline constexpr u64 tables_per_page = 1ULL << geometry.tables_per_page_shift;
inline constexpr unsigned pgtable_shift =
    page_shift - geometry.tables_per_page_shift;  // log2 of a table's bytes
inline constexpr u8 root_level = geometry.pgd_bits != 0 ? 4 : geometry.pud_bits != 0 ? 3 : 2;
constexpr u8 level_below(u8 level) {
  if (level == 4 && geometry.pud_bits == 0) return 2;
  return static_cast<u8>(level - 1);
}
/// How many entries a table of that level has (1: PTE).
constexpr u64 ptrs_at(u32 level) {
  constexpr unsigned bits[] = {0, geometry.pte_bits, geometry.pmd_bits, geometry.pud_bits, geometry.pgd_bits};
  return 1ULL << bits[level];
}

/// What a table of that level counts in pgtables_bytes: its entries.
constexpr u64 table_bytes(u32 level) {
#if defined(PGTBL_WORLD_MODEL)
  return ptrs_at(level) != 0 ? page_size : 0;  // a page is one word there
#else
  return ptrs_at(level) * 8;
#endif
}
inline constexpr u64 pte_table_bytes = table_bytes(1);
/// log2 of the frames in a row that a table of that level takes: s390's segment tables and arm's first level take four.
constexpr unsigned table_order(u32 level) {
  unsigned order = 0;
  while (page_size << order < table_bytes(level)) ++order;
  return order;
}
inline constexpr unsigned largest_table_order = [] {
  unsigned most = 0;
  for (u32 level = 1; level <= 4; ++level)
    if (table_order(level) > most) most = table_order(level);
  return most;
}();

constexpr pfn_t pfn_of(pgtable_t t) { return static_cast<u64>(t) >> geometry.tables_per_page_shift; }
/// The first table of that page; of a page that is one table, its handle.
constexpr pgtable_t table_at(pfn_t pfn) { return pgtable_t{pfn << geometry.tables_per_page_shift}; }

constexpr u64 page_align_down(u64 x) { return x & ~(page_size - 1); }
constexpr u64 page_align_up(u64 x) { return page_align_down(x + page_size - 1); }
constexpr u64 pmd_align_down(u64 x) { return x & ~(pmd_size - 1); }
constexpr u64 pmd_align_up(u64 x) { return pmd_align_down(x + pmd_size - 1); }

}  // namespace pgtbl::inline PGTBL_WORLD

// At the end: the world needs the geometry, so whoever starts here must get it first.
#include "world/world.hpp"
