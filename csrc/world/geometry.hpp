// geometry.hpp -- how large pages and tables are, in each world.
//
// The model world shrinks everything until a table can be explored: two bits per level, a page is
// one word, a huge page is four pages.  Nothing outside csrc/arch/ may assume 512 or 4096.
#pragma once
#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

using pfn_t = u64;    // number of a frame of simulated physical memory; 0 is never handed out
using va_t = u64;     // virtual address, in bytes
using pgoff_t = u64;  // index of a page in a file

#if defined(PGTBL_WORLD_MODEL)
inline constexpr unsigned page_shift = 3;
inline constexpr unsigned table_shift = 2;
#else
inline constexpr unsigned page_shift = 12;
inline constexpr unsigned table_shift = 9;  // log2 of the entries of a table
#endif

inline constexpr u64 page_size = 1ULL << page_shift;
inline constexpr u64 ptrs_per_table = 1ULL << table_shift;
inline constexpr unsigned pmd_shift = page_shift + table_shift;
inline constexpr unsigned pud_shift = pmd_shift + table_shift;
inline constexpr unsigned pgd_shift = pud_shift + table_shift;
inline constexpr unsigned va_bits = pgd_shift + table_shift;
inline constexpr u64 pmd_size = 1ULL << pmd_shift;  // bytes that one PTE table (one extent) covers
inline constexpr u64 pages_per_huge = ptrs_per_table;
inline constexpr unsigned huge_order = table_shift;
inline constexpr va_t task_size = 1ULL << (va_bits - 1);  // the lower half belongs to the program

constexpr u64 page_align_down(u64 x) { return x & ~(page_size - 1); }
constexpr u64 page_align_up(u64 x) { return page_align_down(x + page_size - 1); }
constexpr u64 pmd_align_down(u64 x) { return x & ~(pmd_size - 1); }
constexpr u64 pmd_align_up(u64 x) { return pmd_align_down(x + pmd_size - 1); }

}  // namespace pgtbl::inline PGTBL_WORLD

// At the end: the world needs the geometry, so whoever starts here must get it first.
#include "world/world.hpp"
