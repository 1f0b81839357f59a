// page_cache.hpp -- the pages of one file: index -> entry (a mapping's i_pages).
//
// Problem.  A fault and a read find a page under RCU, without a lock, while collapse_file turns an
// extent of small pages into one huge page, and while a split turns it back.
//
// Guarantee.  load() returns an entry that index had at some moment during the call, and 0 only if
// index was empty at such a moment: a page that is there throughout, in whichever form, is never
// missed.  An entry is seen only with all that was written before it was stored.
//
// Method.  Extents of ptrs_per_table pages below a directory that deepens as the file grows.  An
// extent has one word for a huge page and one for each small page.
//   collapse  stores the huge entry, then empties the slots;
//   split     fills the slots, then takes the huge entry away;
//   load      reads the huge word, the slot, and, if both are empty, the huge word again.
// A huge word without an entry holds a number that grows with each collapse, so a load that found
// both empty and the huge word unchanged knows that no collapse went by between the two readings.
// An extent or directory that became empty is unlinked and freed by RCU.
//
// Protection.  load, find and for_each: an RCU read section, or the mapping's xa_lock.  All that
// changes the cache: xa_lock.  What is found under RCU is a hint until its folio is pinned and looked
// up again, as always.
//
// Cost.  load() is one dependent read for each level (one for a file of up to 2 MiB, two up to
// 1 GiB, three up to 512 GiB), and two more.  Memory: 4 KiB for each extent that has a page, and at
// most as many directories of 4 KiB as have an extent below them.
#pragma once
#include <cassert>
#include <type_traits>

#include "sync/rcu.hpp"
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// What is stored at an index: a small page, a huge page, the retry marker, or nothing (0).  Two low
/// bits tell which.
class cache_entry {
 public:
  constexpr cache_entry() = default;
  static constexpr cache_entry small(pfn_t pfn) { return cache_entry(pfn << 2 | small_tag); }
  /// pfn is the head's; the entry stands for all pages of its extent.
  static constexpr cache_entry huge(pfn_t pfn) { return cache_entry(pfn << 2 | huge_tag); }
  /// What collapse_file puts into holes, so that nobody fills them: look again.
  static constexpr cache_entry retry() { return cache_entry(retry_tag); }
  static constexpr cache_entry from_bits(u64 bits) { return cache_entry(bits); }

  constexpr bool empty() const { return bits_ == 0; }
  constexpr bool is_page() const { return (bits_ & 1) != 0; }
  constexpr bool is_small() const { return (bits_ & 3) == small_tag; }
  constexpr bool is_huge() const { return (bits_ & 3) == huge_tag; }
  constexpr bool is_retry() const { return bits_ == retry_tag; }
  constexpr explicit operator bool() const { return bits_ != 0; }

  /// The frame of a small page, the head's frame of a huge one.
  constexpr pfn_t pfn() const { return bits_ >> 2; }
  /// The frame that holds the page at index: subpages of a huge page lie one behind the other.
  constexpr pfn_t pfn_at(pgoff_t index) const {
    return is_huge() ? pfn() + (index & (ptrs_per_table - 1)) : pfn();
  }
  constexpr u64 bits() const { return bits_; }
  friend constexpr bool operator==(cache_entry, cache_entry) = default;

 private:
  static constexpr u64 small_tag = 1, retry_tag = 2, huge_tag = 3;
  constexpr explicit cache_entry(u64 bits) : bits_(bits) {}
  u64 bits_ = 0;
};

/// A place in the file and what is there.
struct cache_item {
  pgoff_t index = 0;  // of the first page that the entry stands for
  cache_entry entry;
  explicit operator bool() const { return static_cast<bool>(entry); }
  /// First index behind the entry.
  pgoff_t next() const { return index + (entry.is_huge() ? ptrs_per_table : 1); }
};

class page_cache {
 public:
  static constexpr pgoff_t max_index = (pgoff_t{1} << 52) - 1;

  explicit page_cache(rcu_domain& rcu) : rcu_(rcu) {}
  /// No reader may be left.  Pages are the caller's: the cache forgets them.
  ~page_cache();
  page_cache(const page_cache&) = delete;
  page_cache& operator=(const page_cache&) = delete;

  // ---- under RCU or xa_lock --------------------------------------------------------------------

  cache_entry load(pgoff_t index) const {
    const extent* x = find_extent(index);
    return x == nullptr ? cache_entry() : x->load(slot_of(index));
  }
  /// The first item that stands for a page of first..last, retry markers included; an empty item if
  /// there is none.  A huge page's item has its own first index, which may be below first.
  cache_item find(pgoff_t first, pgoff_t last) const;

  /// Calls f(item) for each item of first..last, upwards.  f may return void, or bool: false ends the
  /// walk.  f may change the cache.  Under RCU, an extent that collapses meanwhile may be met in both
  /// forms.  Returns false if f ended it.
  template <class F>
  bool for_each(pgoff_t first, pgoff_t last, F&& f) const {
    while (first <= last) {
      const cache_item item = find(first, last);
      if (!item) return true;
      if constexpr (std::is_same_v<std::invoke_result_t<F&, cache_item>, bool>) {
        if (!f(item)) return false;
      } else {
        f(item);
      }
      first = item.next();
    }
    return true;
  }

  /// Pages in the cache; a huge page counts all of its pages, a retry marker none.  Exact under
  /// xa_lock, a recent value without.
  u64 count() const { return pages_.get(); }

  /// What an extent's huge word and the slot of one of its pages say together.  A template so that a
  /// test can move the writer between any two loads; otherwise Word is atomic<u64>.
  template <class Word>
  static cache_entry look(const Word& huge, const Word& slot) {
    // Acquire: pairs with the release stores of entries, so that the page is seen as it was when it was
    // put in; and with split_huge()'s "no huge page", so that the slots are seen filled.
    for (u64 h = huge.load(acquire);;) {
      if (has_entry(h)) return cache_entry::from_bits(h);
      // Acquire: pairs with store_huge()'s emptying of the slot, so that huge is seen set below.
      if (const u64 s = slot.load(acquire)) return cache_entry::from_bits(s);
      // Not only "still no huge page": a collapse and a split may both have gone by.
      const u64 again = huge.load(acquire);
      if (again == h) return {};
      h = again;
    }
  }

  // ---- under xa_lock ---------------------------------------------------------------------------

  /// Puts a small page or the retry marker at index, whose extent must not be huge; returns what was
  /// there.  May throw std::bad_alloc, having changed nothing.
  cache_entry store(rcu_reader& self, pgoff_t index, cache_entry e);
  /// Takes away what stands at index (a huge page as a whole); returns it.
  cache_entry erase(rcu_reader& self, pgoff_t index);
  /// Puts a huge page in the place of all that the extent of index has.  May throw std::bad_alloc,
  /// having changed nothing.
  void store_huge(rcu_reader& self, pgoff_t index, cache_entry e);
  /// Puts ptrs_per_table entries (small, retry or empty) in the place of the extent's huge page.
  void split_huge(rcu_reader& self, pgoff_t index, const cache_entry* entries);

 private:
  static constexpr pgoff_t slot_of(pgoff_t index) { return index & (ptrs_per_table - 1); }
  static constexpr unsigned shift_of(unsigned level) { return table_shift * level; }
  /// Slot of index in a node of that level.
  static constexpr pgoff_t slot_at(pgoff_t index, unsigned level) {
    return slot_of(index >> shift_of(level));
  }

  struct node : rcu_head {
    explicit node(unsigned l) : level(l) {}
    const u32 level;   // 0: an extent; else: a directory of nodes one level below
    var<u32> used{0};  // slots that are not empty (an extent's huge page counts one); under xa_lock
    bool covers(pgoff_t index) const { return index >> shift_of(level) < ptrs_per_table; }
  };
  struct directory : node {
    using node::node;
    atomic<node*> slot[ptrs_per_table]{};
  };
  struct extent : node {
    extent() : node(0) {}
    atomic<u64> huge{0};  // a huge entry, or a number of collapses << 2
    atomic<u64> slot[ptrs_per_table]{};
    var<u64> collapses{0};  // store_huge() calls; under xa_lock

    u64 no_huge() const { return collapses << 2; }
    cache_entry load(pgoff_t i) const { return look(huge, slot[i]); }
  };
  static constexpr bool has_entry(u64 huge) { return (huge & 3) != 0; }
  static constexpr u64 pages_of(cache_entry e) { return e.is_huge() ? pages_per_huge : e.is_page() ? 1 : 0; }

  const extent* find_extent(pgoff_t index) const {
    // Acquire, here and below: pairs with the release store that linked the node.
    const node* n = root_.load(acquire);
    if (n == nullptr || !n->covers(index)) return nullptr;
    while (n->level != 0) {
      n = static_cast<const directory*>(n)->slot[slot_at(index, n->level)].load(acquire);
      if (n == nullptr) return nullptr;
    }
    return static_cast<const extent*>(n);
  }
  extent* extent_for_change(pgoff_t index) { return const_cast<extent*>(find_extent(index)); }
  extent* make_extent(pgoff_t index);
  void prune(rcu_reader& self, pgoff_t index);
  void retire(rcu_reader& self, node* n);
  static cache_item find_below(const node* n, pgoff_t base, pgoff_t first, pgoff_t last);
  static void free_now(node* n);
  static void free_all(node* n);

  rcu_domain& rcu_;
  atomic<node*> root_{nullptr};  // written under xa_lock
  counter pages_;                // likewise
};

}  // namespace pgtbl::inline PGTBL_WORLD
