#include "mm/page_cache.hpp"

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD {

// ---- nodes -------------------------------------------------------------------------------------

void page_cache::free_now(node* n) {
  if (n->level == 0) {
    destroy(static_cast<extent*>(n));
  } else {
    destroy(static_cast<directory*>(n));
  }
}

void page_cache::free_all(node* n) {
  if (n->level != 0)
    for (const atomic<node*>& below : static_cast<directory*>(n)->slot)
      if (node* m = below.load(relaxed)) free_all(m);
  free_now(n);
}

page_cache::~page_cache() {
  if (node* n = root_.load(relaxed)) free_all(n);
}

void page_cache::retire(rcu_reader& self, node* n) {
  const u64 bytes = n->level == 0 ? sizeof(extent) : sizeof(directory);
  // The caller holds xa_lock, a spinlock.
  rcu_.call_atomic(self, n, [](context&, rcu_head* head) { free_now(static_cast<node*>(head)); }, bytes);
}

/// The extent of index, made if need be.  Loads are relaxed: xa_lock orders them.
page_cache::extent* page_cache::make_extent(pgoff_t index) {
  assert(index <= max_index);
  node* n = root_.load(relaxed);
  if (n == nullptr) {
    u32 level = 0;
    while (index >> shift_of(level) >= ptrs_per_table) ++level;
    n = level == 0 ? static_cast<node*>(make<extent>()) : make<directory>(level);
    // Release, here and below: pairs with the acquire loads of find_extent(); the node was made before.
    root_.store(n, release);
  }
  while (!n->covers(index)) {
    // One level more: what there was is the first child.  A reader that still comes by the old root
    // finds all that it could have found before.
    directory* top = make<directory>(n->level + 1);
    top->slot[0].store(n, relaxed);
    top->used = 1;
    root_.store(top, release);
    n = top;
  }
  while (n->level != 0) {
    atomic<node*>& place = static_cast<directory*>(n)->slot[slot_at(index, n->level)];
    node* below = place.load(relaxed);
    if (below == nullptr) {
      below = n->level == 1 ? static_cast<node*>(make<extent>()) : make<directory>(n->level - 1);
      place.store(below, release);
      n->used += 1;
    }
    n = below;
  }
  return static_cast<extent*>(n);
}

/// Unlinks and retires the nodes on the way to index that have become empty.
void page_cache::prune(rcu_reader& self, pgoff_t index) {
  for (;;) {
    node* n = root_.load(relaxed);
    atomic<node*>* place = &root_;
    node* above = nullptr;
    while (n != nullptr && n->used != 0 && n->level != 0) {
      above = n;
      place = &static_cast<directory*>(n)->slot[slot_at(index, n->level)];
      n = place->load(relaxed);
    }
    if (n == nullptr || n->used != 0) return;
    // No order is needed: a reader that still finds n finds it empty.
    place->store(nullptr, relaxed);
    if (above != nullptr) above->used -= 1;
    retire(self, n);
    if (above == nullptr) return;
  }
}

// ---- look-ups ----------------------------------------------------------------------------------

cache_item page_cache::find_below(const node* n, pgoff_t base, pgoff_t first, pgoff_t last) {
  const unsigned shift = shift_of(n->level);
  const pgoff_t end = base + ((ptrs_per_table - 1) << shift);  // where the last slot begins
  const pgoff_t from = first <= base ? 0 : (first - base) >> shift;
  const pgoff_t to = last >= end ? ptrs_per_table - 1 : (last - base) >> shift;
  for (pgoff_t i = from; i <= to; ++i) {
    const pgoff_t at = base + (i << shift);
    if (n->level == 0) {
      const cache_entry e = static_cast<const extent*>(n)->load(i);
      if (e) return {e.is_huge() ? base : at, e};
    } else if (const node* below = static_cast<const directory*>(n)->slot[i].load(acquire)) {
      if (const cache_item item = find_below(below, at, first, last)) return item;
    }
  }
  return {};
}

cache_item page_cache::find(pgoff_t first, pgoff_t last) const {
  const node* n = root_.load(acquire);
  if (n == nullptr || first > last || !n->covers(first)) return {};
  return find_below(n, 0, first, last);
}

// ---- changes -----------------------------------------------------------------------------------

cache_entry page_cache::store(rcu_reader& self, pgoff_t index, cache_entry e) {
  assert(!e.is_huge());
  if (e.empty()) return erase(self, index);
  extent* x = make_extent(index);
  assert(!has_entry(x->huge.load(relaxed)));
  atomic<u64>& slot = x->slot[slot_of(index)];
  const cache_entry old = cache_entry::from_bits(slot.load(relaxed));
  // Release: pairs with the acquire load of the slot in look(); the page was set up before.
  slot.store(e.bits(), release);
  if (old.empty()) x->used += 1;
  pages_.add(pages_of(e) - pages_of(old));
  return old;
}

cache_entry page_cache::erase(rcu_reader& self, pgoff_t index) {
  extent* x = extent_for_change(index);
  if (x == nullptr) return {};
  cache_entry old = cache_entry::from_bits(x->huge.load(relaxed));
  if (old.is_huge()) {
    x->huge.store(x->no_huge(), release);
  } else {
    atomic<u64>& slot = x->slot[slot_of(index)];
    old = cache_entry::from_bits(slot.load(relaxed));
    if (old.empty()) return {};
    slot.store(0, release);
  }
  x->used -= 1;
  pages_.add(-pages_of(old));
  if (x->used == 0) prune(self, index);
  return old;
}

void page_cache::store_huge(rcu_reader&, pgoff_t index, cache_entry e) {
  assert(e.is_huge() && slot_of(index) == 0);
  extent* x = make_extent(index);
  u64 before = pages_of(cache_entry::from_bits(x->huge.load(relaxed)));
  x->collapses += 1;
  // Release: pairs with the first load of huge in look(); the page was copied before.
  x->huge.store(e.bits(), release);
  for (atomic<u64>& slot : x->slot) {
    const cache_entry old = cache_entry::from_bits(slot.load(relaxed));
    if (old.empty()) continue;
    before += pages_of(old);
    // Release: pairs with the load of the slot in look(), which, having seen it empty, must
    // see the huge entry when it looks again.
    slot.store(0, release);
  }
  x->used = 1;
  pages_.add(pages_of(e) - before);
}

void page_cache::split_huge(rcu_reader& self, pgoff_t index, const cache_entry* entries) {
  extent* x = extent_for_change(index);
  assert(slot_of(index) == 0 && x != nullptr && has_entry(x->huge.load(relaxed)));
  u64 after = 0;
  u32 used = 0;
  for (pgoff_t i = 0; i != ptrs_per_table; ++i) {
    assert(!entries[i].is_huge());
    if (entries[i].empty()) continue;
    x->slot[i].store(entries[i].bits(), release);
    after += pages_of(entries[i]);
    ++used;
  }
  // Release: pairs with the loads of huge in look(), which must not find the slots empty then.
  x->huge.store(x->no_huge(), release);
  x->used = used;
  pages_.add(after - pages_per_huge);
  if (used == 0) prune(self, index);
}

}  // namespace pgtbl::inline PGTBL_WORLD
