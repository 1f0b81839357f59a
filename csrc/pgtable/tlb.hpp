// tlb.hpp -- what one CPU remembers of page tables: 4K and 2M translations, and the paging-structure
// cache that lets it skip the upper levels.
//
// Everything here belongs to one CPU and is touched only by its thread, inside its interrupts-off
// section.  Other CPUs ask for flushes through the mailbox (pgtable/flush.hpp).  An entry carries the
// generation that its frame had when it was filled: a hit on a frame that was freed since is a stale
// translation, and an error (G-14).
#pragma once
#include "arch/arch.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct translation {
  u64 key = 0;    // epoch << 48 | virtual page number + 1
  u64 entry = 0;  // the leaf entry that was read: frame, write, dirty
  u32 generation = 0;
  u32 frame_offset = 0;  // of a 2M entry: unused
};

struct tlb {
#if defined(PGTBL_WORLD_MODEL)
  static constexpr u64 small_entries = 8, huge_entries = 4, psc_entries = 4;
#else
  static constexpr u64 small_entries = 1024, huge_entries = 64, psc_entries = 64;
#endif
  static constexpr u64 flush_ceiling = 33;  // a larger range is flushed whole, as x86 does

  translation small[small_entries];
  translation huge[huge_entries];
  translation psc[psc_entries];  // key: va >> pmd_shift; entry: the PMD that pointed to the table
  u64 epoch = 1;                 // 16 bits; a new epoch forgets everything

  u64 key(u64 number) const { return epoch << 48 | (number + 1); }
  translation* find_small(va_t va) {
    translation& t = small[va >> page_shift & (small_entries - 1)];
    return t.key == key(va >> page_shift) ? &t : nullptr;
  }
  translation* find_huge(va_t va) {
    translation& t = huge[va >> pmd_shift & (huge_entries - 1)];
    return t.key == key(va >> pmd_shift) ? &t : nullptr;
  }
  translation* find_psc(va_t va) {
    translation& t = psc[va >> pmd_shift & (psc_entries - 1)];
    return t.key == key(va >> pmd_shift) ? &t : nullptr;
  }
  void put_small(va_t va, u64 entry, u32 gen) {
    small[va >> page_shift & (small_entries - 1)] = {key(va >> page_shift), entry, gen, 0};
  }
  void put_huge(va_t va, u64 entry, u32 gen) {
    huge[va >> pmd_shift & (huge_entries - 1)] = {key(va >> pmd_shift), entry, gen, 0};
  }
  void put_psc(va_t va, u64 entry, u32 gen) {
    psc[va >> pmd_shift & (psc_entries - 1)] = {key(va >> pmd_shift), entry, gen, 0};
  }
  void drop_psc(va_t va) {
    if (translation* t = find_psc(va)) t->key = 0;
  }

  void flush_all() {
    if (++epoch == 1ULL << 16) {  // the keys of the first epoch would come true again: forget them by hand
      for (auto& t : small) t = {};
      for (auto& t : huge) t = {};
      for (auto& t : psc) t = {};
      epoch = 1;
    }
  }
  /// Drops what lies in [start, end); the cached upper levels too where `tables` says so.
  void flush_range(va_t start, va_t end, bool tables) {
    if (end - start > flush_ceiling << page_shift) {
      if (tables) {
        flush_all();
      } else {
        flush_leaves();
      }
      return;
    }
    for (va_t va = start; va < end; va += page_size) {
      if (translation* t = find_small(va)) t->key = 0;
      if (translation* t = find_huge(va)) t->key = 0;
      if (tables) drop_psc(va);
    }
  }
  void flush_leaves() {
    for (auto& t : small) t.key = 0;
    for (auto& t : huge) t.key = 0;
  }
};

}  // namespace pgtbl::inline PGTBL_WORLD
