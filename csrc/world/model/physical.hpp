// Simulated physical memory in the model world.
#pragma once
#include <cstring>
#include <utility>

#include "world/geometry.hpp"
#include "world/model/objects.hpp"
#include "world/model/waiting.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// An entry of a page table in memory.
using entry_word = atomic<u64>;

/// Simulated physical memory.  A page is one word; a table has ptrs_per_table entries, which is more, so
/// each frame has a row of that many, and a page of data uses the first of it.  A row is an object of its own:
/// it ends when a freed table is poisoned, and begins again when the frame's next owner clears or fills it.
class physical {
 public:
  explicit physical(u64 frames) : frames_(frames), rows_(make_array<row>(frames)) {
    for (u64 i = 0; i < frames; ++i) rows_[i].entries = make_array<atomic<u64>>(ptrs_per_table);
  }
  ~physical() {
    for (u64 i = 0; i < frames_; ++i)
      if (!rows_[i].ended) destroy_array(rows_[i].entries, ptrs_per_table);
    destroy_array(rows_, frames_);
  }
  physical(const physical&) = delete;
  physical& operator=(const physical&) = delete;

  u64 frames() const { return frames_; }
  entry_word* entries(pgtable_t t) { return rows_[pfn_of(t)].entries; }
  entry_word& entry(pgtable_t t, u64 index) { return entries(t)[index]; }

  void clear_page(pfn_t pfn, where at = where::current()) {
    begin_again(pfn, at);
    for (u64 i = 0; i < ptrs_per_table; ++i) row_of(pfn)[i].store(0, relaxed, at);
  }
  /// Poison: whoever looks at it now uses what was freed.
  void fill_page(pfn_t pfn, u64 word, where at = where::current()) {
    if (word == 0) return clear_page(pfn, at);
    if (std::exchange(rows_[pfn].ended, true)) return;
    model_detail::object_step(op_kind::free, row_of(pfn), "table", at);
  }
  void copy_page(pfn_t to, pfn_t from, where at = where::current()) {
    begin_again(to, at);
    store_word(to, 0, load_word(from, 0, at), at);
  }
  u64 load_word(pfn_t pfn, u64, where at = where::current()) { return row_of(pfn)[0].load(relaxed, at); }
  void touch_word(pfn_t pfn, u64, where at = where::current()) { row_of(pfn)[0].fetch_add(0, relaxed, at); }
  void store_word(pfn_t pfn, u64, u64 v, where at = where::current()) {
    row_of(pfn)[0].store(v, relaxed, at);
  }
  void load_bytes(pfn_t pfn, u64 offset, void* out, u64 n, where at = where::current()) {
    const u64 w = load_word(pfn, 0, at);
    std::memcpy(out, reinterpret_cast<const u8*>(&w) + offset, n);
  }
  void store_bytes(pfn_t pfn, u64 offset, const void* in, u64 n, where at = where::current()) {
    u64 w = 0;
    std::memcpy(reinterpret_cast<u8*>(&w) + offset, in, n);
    if (n == 8) {
      store_word(pfn, 0, w, at);
      return;
    }
    // The bytes beside them stay what they are, whoever else writes to the page meanwhile.
    u64 mask = 0;
    std::memset(reinterpret_cast<u8*>(&mask) + offset, 0xff, n);
    await_update(
        row_of(pfn)[0], [w, mask](u64 v, u64& next) { return next = (v & ~mask) | w, true; }, relaxed, at);
  }
  void populate() {}

 private:
  struct row {
    atomic<u64>* entries = nullptr;
    bool ended = false;  // the owner's: whoever has the frame from the allocator
  };
  atomic<u64>* row_of(pfn_t pfn) { return rows_[pfn].entries; }
  void begin_again(pfn_t pfn, where at) {
    if (std::exchange(rows_[pfn].ended, false))
      model_detail::object_step(op_kind::alloc, row_of(pfn), "table", at);
  }
  u64 frames_;
  row* rows_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
