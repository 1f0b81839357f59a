// Properties of the leaf structures of mm/: the VMA tree, the interval tree of a file, its page cache.
//
//   test_structures SEED     every property, with random operations from this seed
//   test_structures bench    nanoseconds of a look-up
//
// Each structure is compared with a plain model after random operations; then readers run against a
// writer, under the laboratory's own RCU.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <new>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "mm/i_mmap.hpp"
#include "mm/page_cache.hpp"
#include "mm/vma_tree.hpp"
#include "sync/rcu.hpp"

namespace pgtbl::inline PGTBL_WORLD {
// The structures know no more of a VMA than its name.
struct vma {
  u64 number = 0;
};
}  // namespace pgtbl::inline PGTBL_WORLD

namespace {
// Allocations of this thread that may still succeed; and what is allocated now.
thread_local long allocations_left = -1;
thread_local long long bytes_allocated = 0;

void* allocate(std::size_t n, std::size_t align) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  bytes_allocated += static_cast<long long>(n);
  void* p = std::aligned_alloc(align, (n + align - 1) / align * align);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

// Not inlined: or g++ sees free() meet what the library's operator new gave.
#define NOT_INLINED [[gnu::noinline]]
NOT_INLINED void* operator new(std::size_t n) { return allocate(n, 16); }
NOT_INLINED void* operator new(std::size_t n, std::align_val_t a) {
  return allocate(n, static_cast<std::size_t>(a));
}
NOT_INLINED void operator delete(void* p) noexcept { std::free(p); }
NOT_INLINED void operator delete(void* p, std::size_t) noexcept { std::free(p); }
NOT_INLINED void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
NOT_INLINED void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

using namespace pgtbl;

namespace {

#define CHECK(...)                                                                      \
  do {                                                                                  \
    if (!(__VA_ARGS__)) {                                                               \
      std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #__VA_ARGS__); \
      std::abort();                                                                     \
    }                                                                                   \
  } while (false)

using random_engine = std::mt19937_64;
u64 below(random_engine& r, u64 n) { return r() % n; }

/// A domain, and this thread's place in it.
struct test_rcu {
  struct member {
    explicit member(test_rcu& rcu) : domain(rcu.domain) { domain.attach(reader, self); }
    ~member() { domain.detach(reader); }
    member(const member&) = delete;
    member& operator=(const member&) = delete;
    rcu_domain& domain;
    context self;
    rcu_reader reader;
  };
  rcu_domain domain;
  member writer{*this};
  /// All that was retired is freed.
  void settle() { domain.barrier(writer.reader); }
};

// ---- the VMA tree ------------------------------------------------------------------------------

struct range {
  va_t end;
  vma* v;
};
using vma_model = std::map<va_t, range>;

/// Checks a node against what its parent says of it; returns the number of entries below.
u64 check_node(const vma_node* n, bool root) {
  const u32 count = n->count;
  CHECK(count >= (root ? (n->leaf() ? 1U : 2U) : (vma_node::fan + 1) / 4) && count <= vma_node::fan);
  u64 entries = 0;
  for (u32 i = 0; i != vma_node::fan; ++i) {
    if (i >= count) {
      CHECK(n->start[i] == vma_node::unused && n->slot[i] == nullptr && n->end[i] == 0 && n->gap[i] == 0);
      continue;
    }
    CHECK(n->start[i] < n->end[i] && n->slot[i] != nullptr);
    CHECK(i == 0 || n->end[i - 1] <= n->start[i]);
    if (n->leaf()) {
      CHECK(n->gap[i] == 0);
      ++entries;
      continue;
    }
    const vma_node* c = n->child(i);
    CHECK(c->level + 1 == n->level);
    const u32 m = c->count;
    CHECK(c->start[0] == n->start[i] && c->end[m - 1] == n->end[i]);
    u64 gap = 0;
    for (u32 j = 0; j != m; ++j) {
      gap = std::max(gap, c->gap[j]);
      if (j != 0) gap = std::max(gap, c->start[j] - c->end[j - 1]);
    }
    CHECK(gap == n->gap[i]);
    entries += check_node(c, false);
  }
  return entries;
}

void check_tree(const vma_snapshot& t, u64 size, const vma_model& model) {
  CHECK(size == model.size());
  if (t.root() != nullptr) CHECK(check_node(t.root(), true) == size);
  auto at = model.begin();
  CHECK(t.for_each(0, ~va_t{0}, [&](const vma_entry& e) {
    CHECK(at != model.end() && e.start == at->first && e.end == at->second.end && e.vma == at->second.v);
    ++at;
  }));
  CHECK(at == model.end());
}

void check_lookups(const vma_snapshot& t, const vma_model& model, va_t va, va_t hi) {
  auto at = model.upper_bound(va);  // first that starts above va
  vma_entry containing{};
  if (at != model.begin() && std::prev(at)->second.end > va) {
    const auto& [start, r] = *std::prev(at);
    containing = {start, r.end, r.v};
  }
  CHECK(t.find(va) == containing.vma);
  const vma_entry next = t.first_at_or_after(va);
  if (containing) {
    CHECK(next.start == containing.start && next.end == containing.end);
  } else {
    CHECK(next.vma == (at == model.end() ? nullptr : at->second.v));
  }
  at = model.lower_bound(va);
  const vma_entry before = t.last_before(va);
  CHECK(before.vma == (at == model.begin() ? nullptr : std::prev(at)->second.v));
  if (before) CHECK(before.start == std::prev(at)->first);

  u64 met = 0, expected = 0;
  t.for_each(va, hi, [&](vma_entry) { ++met; });
  for (const auto& [start, r] : model) expected += start < hi && r.end > va ? 1 : 0;
  CHECK(va >= hi || met == expected);
  CHECK(va >= hi || t.overlaps(va, hi) == (expected != 0));
}

void check_gaps(const vma_snapshot& t, const vma_model& model, va_t lo, va_t hi, u64 length, u64 align) {
  std::optional<va_t> lowest, highest;
  va_t from = lo;
  const auto hole = [&](va_t to) {
    to = std::min(to, hi);
    const va_t first = (from + align - 1) & ~(align - 1);
    if (first >= from && to >= length && first <= to - length) {
      if (!lowest) lowest = first;
      highest = (to - length) & ~(align - 1);
    }
  };
  for (const auto& [start, r] : model) {
    hole(start);
    from = std::max(from, r.end);
  }
  hole(hi);
  CHECK(t.gap_below(lo, hi, length, align) == highest);
  CHECK(t.gap_above(lo, hi, length, align) == lowest);
}

void vma_tree_against_map(u64 seed, va_t space, unsigned rounds) {
  random_engine r(seed);
  std::vector<vma> vmas(64);
  test_rcu rcu;
  vma_model model;
  {
    vma_tree tree(rcu.domain);
    for (unsigned round = 0; round != rounds; ++round) {
      vma_model changed = model;
      const bool growing = round / 200 % 2 == 0;
      bool commit = below(r, 4) != 0;
      {
        vma_tree::edit e(tree, rcu.writer.reader);
        const u64 operations = 1 + below(r, 4) * below(r, 4);
        for (u64 i = 0; i != operations; ++i) {
          vma* v = &vmas[below(r, vmas.size())];
          const va_t va = below(r, space);
          auto at = changed.lower_bound(va);
          const u64 what = below(r, 10);
          if (what < (growing ? 5 : 2)) {
            const va_t end = std::min(space, va + 1 + below(r, 8));
            if (!e.view().overlaps(va, end)) {
              e.insert(va, end, v);
              changed[va] = {end, v};
            }
          } else if (at == changed.end()) {
            continue;
          } else if (what < 7) {
            CHECK(e.erase(at->first) == at->second.v);
            changed.erase(at);
          } else if (what < 8) {
            CHECK(e.replace(at->first, v) == at->second.v);
            at->second.v = v;
          } else {
            // Anything from the end of the one before to the start of the one after.
            const va_t lo = at == changed.begin() ? 0 : std::prev(at)->second.end;
            const va_t hi = std::next(at) == changed.end() ? space : std::next(at)->first;
            const va_t start = lo + below(r, hi - lo);
            const va_t end = start + 1 + below(r, hi - start);
            const range moved{end, at->second.v};
            e.resize(at->first, start, end);
            changed.erase(at);
            changed[start] = moved;
          }
        }
        if (below(r, 1000) == 0) {
          e.clear();
          changed.clear();
        }
        if (round % 16 == 0) check_tree(e.view(), e.size(), changed);
        if (commit) e.commit();
      }
      if (commit) model = changed;
      if (round % 16 == 0 || round + 1 == rounds) check_tree(tree.snapshot(), tree.size(), model);
      for (unsigned i = 0; i != 4; ++i) {
        const va_t a = below(r, space + 2), b = below(r, space + 2);
        if (round % 4 == 0) check_lookups(tree.snapshot(), model, a, b);
        if (round % 4 == 0 && a < b)
          check_gaps(tree.snapshot(), model, a, b, 1 + below(r, 40), u64{1} << below(r, 5));
      }
      if (round % 64 == 0) rcu.settle();
    }
  }
  rcu.settle();
}

/// Fills from one end leave nodes that are nearly full: the order of mmaps is no pathology.
void vma_tree_fill(bool downwards) {
  test_rcu rcu;
  vma v;
  vma_tree tree(rcu.domain);
  constexpr u64 n = 20000;
  for (u64 i = 0; i != n; ++i) {
    const va_t at = 16 * (downwards ? n - i : i);
    vma_tree::edit e(tree, rcu.writer.reader);
    e.insert(at, at + 8, &v);
    e.commit();
    if (i % 256 == 0) rcu.settle();
  }
  CHECK(check_node(tree.snapshot().root(), true) == n);
  CHECK(tree.snapshot().root()->level <= 3);
  for (u64 i = 0; i != n; ++i) {
    const va_t at = 16 * (downwards ? n - i : i);
    CHECK(tree.find(at + 7) == &v && tree.find(at + 8) == nullptr);
  }
  // The holes are all of 8: nothing fits, and finding that out takes one look at the root.
  const va_t lo = downwards ? 16 : 0;
  CHECK(!tree.gap_below(lo, lo + 16 * n, 9, 1) && tree.gap_below(lo, lo + 16 * n, 8, 1) == lo + 16 * n - 8);
  for (u64 i = 0; i != n; ++i) {
    vma_tree::edit e(tree, rcu.writer.reader);
    CHECK(e.erase(16 * (downwards ? n - i : i)) == &v);
    e.commit();
    if (i % 256 == 0) rcu.settle();
  }
  CHECK(tree.size() == 0 && tree.snapshot().root() == nullptr);
}

/// Whatever allocation fails, the operation has changed nothing, and the edit can be dropped.
void vma_tree_out_of_memory(u64 seed) {
  random_engine r(seed);
  test_rcu rcu;
  vma v;
  vma_tree tree(rcu.domain);
  vma_model model;
  for (unsigned round = 0; round != 3000; ++round) {
    vma_model changed = model;
    bool failed = false;
    {
      vma_tree::edit e(tree, rcu.writer.reader);
      try {
        for (unsigned i = 0; i != 6; ++i) {
          const va_t va = below(r, 1000) * 4;
          const bool there = changed.contains(va);
          allocations_left = static_cast<long>(below(r, 12));
          if (there && below(r, 2) == 0) {
            e.resize(va, va + 1, va + 3);
            e.resize(va + 1, va, va + 4);
          } else if (there) {
            e.erase(va);
          } else {
            e.insert(va, va + 4, &v);
          }
          allocations_left = -1;
          if (there && e.view().find(va) == nullptr) {
            changed.erase(va);
          } else {
            changed[va] = {va + 4, &v};
          }
        }
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      allocations_left = -1;
      if (e.view().root() != nullptr) CHECK(check_node(e.view().root(), true) == e.size());
      if (!failed) e.commit();
    }
    if (!failed) model = changed;
    if (round % 50 == 0) {
      check_tree(tree.snapshot(), tree.size(), model);
      rcu.settle();
    }
  }
  check_tree(tree.snapshot(), tree.size(), model);
}

/// Readers see a range that is always tiled without a hole, by VMAs that all carry one number: the
/// number of the edit, which replaces them all and splits or joins two.
void vma_tree_readers(u64 seed, unsigned edits) {
  test_rcu rcu;
  constexpr va_t space = 4096;
  std::vector<vma> numbers(edits + 1);
  for (unsigned i = 0; i <= edits; ++i) numbers[i].number = i;
  vma_tree tree(rcu.domain);
  {
    vma_tree::edit e(tree, rcu.writer.reader);
    for (va_t at = 0; at != space; at += 64) e.insert(at, at + 64, &numbers[0]);
    e.commit();
  }
  atomic<u32> stop{0};
  std::vector<thread> readers;
  for (u64 i = 0; i != 2; ++i) {
    readers.emplace_back([&, i] {
      test_rcu::member me(rcu);
      random_engine r(seed + i);
      u64 last = 0;
      while (stop.load(relaxed) == 0) {
        me.reader.read_lock();
        const vma_snapshot t = tree.snapshot();
        va_t at = 0;
        const u64 number = t.find(0)->number;
        CHECK(number >= last);
        last = number;
        t.for_each(0, space, [&](vma_entry e) {
          CHECK(e.start == at && e.vma->number == number);
          at = e.end;
        });
        CHECK(at == space);
        for (unsigned k = 0; k != 16; ++k) {
          const va_t va = below(r, space);
          const vma_entry e = tree.find_entry(va);
          CHECK(e && e.start <= va && va < e.end && e.vma->number >= number);
        }
        me.reader.read_unlock();
      }
    });
  }
  random_engine r(seed + 2);
  for (unsigned i = 1; i <= edits; ++i) {
    vma_tree::edit e(tree, rcu.writer.reader);
    std::vector<va_t> starts;
    e.view().for_each(0, space, [&](vma_entry x) { starts.push_back(x.start); });
    for (va_t s : starts) e.replace(s, &numbers[i]);
    const vma_entry x = e.view().find_entry(below(r, space));
    const vma_entry y = e.view().next(x);
    if (e.size() > 64 && y) {
      e.erase(y.start);
      e.resize(x.start, x.start, y.end);
    } else if (x.end - x.start > 1) {
      const va_t middle = x.start + 1 + below(r, x.end - x.start - 1);
      e.resize(x.start, x.start, middle);
      e.insert(middle, x.end, &numbers[i]);
    }
    if (below(r, 8) != 0) e.commit();
    if (i % 32 == 0) rcu.settle();
  }
  stop.store(1, relaxed);
  for (thread& t : readers) t.join();
  rcu.settle();
}

// ---- i_mmap ------------------------------------------------------------------------------------

void i_mmap_against_list(u64 seed, u64 space, unsigned rounds) {
  random_engine r(seed);
  i_mmap_tree tree;
  std::vector<i_mmap_node> nodes(200);
  std::vector<i_mmap_node*> order;  // by first page, then by insertion
  for (unsigned round = 0; round != rounds; ++round) {
    i_mmap_node* n = &nodes[below(r, nodes.size())];
    if (n->linked()) {
      tree.erase(n);
      std::erase(order, n);
    } else {
      n->first = below(r, space);
      n->last = n->first + below(r, below(r, 8) == 0 ? space : 10);
      tree.insert(n);
      order.insert(std::upper_bound(order.begin(), order.end(), n,
                                    [](auto* a, auto* b) { return a->first < b->first; }),
                   n);
    }
    CHECK(tree.size() == order.size() && tree.empty() == order.empty());
    const u64 first = below(r, space), last = first + below(r, 30);
    auto at = order.begin();
    const auto skip = [&] {
      while (at != order.end() && ((*at)->last < first || (*at)->first > last)) ++at;
    };
    CHECK(tree.for_each(first, last, [&](i_mmap_node& m) {
      skip();
      CHECK(at != order.end() && *at == &m);
      ++at;
    }));
    skip();
    CHECK(at == order.end());
    if (round % 100 == 0) {
      std::vector<i_mmap_node*> all;
      tree.for_each(0, ~u64{0}, [&](i_mmap_node& m) { all.push_back(&m); });
      CHECK(all == order);
      u64 met = 0;
      CHECK(tree.for_each(0, ~u64{0}, [&](i_mmap_node&) { return ++met < 3; }) == (order.size() < 3));
    }
  }
}

// ---- the page cache ----------------------------------------------------------------------------

pgoff_t extent_of(pgoff_t index) { return index & ~(ptrs_per_table - 1); }

struct cache_model {
  std::map<pgoff_t, cache_entry> items;

  cache_item find(pgoff_t first, pgoff_t last) const {
    if (auto h = items.find(extent_of(first)); h != items.end() && h->second.is_huge())
      return {h->first, h->second};
    auto at = items.lower_bound(first);
    return at == items.end() || at->first > last ? cache_item{} : cache_item{at->first, at->second};
  }
  bool is_huge(pgoff_t index) const {
    auto h = items.find(extent_of(index));
    return h != items.end() && h->second.is_huge();
  }
  u64 count() const {
    u64 n = 0;
    for (const auto& [index, e] : items) n += e.is_huge() ? pages_per_huge : e.is_page() ? 1 : 0;
    return n;
  }
};

void page_cache_against_map(u64 seed, unsigned rounds) {
  random_engine r(seed);
  test_rcu rcu;
  rcu_reader& self = rcu.writer.reader;
  const pgoff_t places[] = {0, ptrs_per_table, 5 * ptrs_per_table, (pgoff_t{1} << 28) - ptrs_per_table,
                            page_cache::max_index + 1 - ptrs_per_table};
  {
    page_cache cache(rcu.domain);
    cache_model model;
    u64 reach = 1;
    for (unsigned round = 0; round != rounds; ++round) {
      if (round % 500 == 0) reach = 1 + below(r, std::size(places));
      const pgoff_t base = places[below(r, reach)];
      const pgoff_t index = base + below(r, 3) * below(r, ptrs_per_table) / 2;
      const u64 what = below(r, 100);
      const pfn_t pfn = 1 + below(r, 1'000'000);
      if (what < 50) {
        if (!model.is_huge(index)) {
          const cache_entry e = below(r, 8) == 0 ? cache_entry::retry() : cache_entry::small(pfn);
          CHECK(cache.store(self, index, e) == model.items[index]);
          model.items[index] = e;
        }
      } else if (what < 92) {
        const cache_item old = model.find(index, index);
        CHECK(cache.erase(self, index) == old.entry);
        if (old) model.items.erase(old.index);
      } else if (what < 94) {
        cache.for_each(base, base + ptrs_per_table - 1, [&](cache_item x) {
          CHECK(cache.erase(self, x.index) == x.entry);
          model.items.erase(x.index);
        });
        CHECK(!cache.find(base, base + ptrs_per_table - 1));
      } else if (!model.is_huge(base)) {
        const cache_entry e = cache_entry::huge(pfn);
        cache.store_huge(self, base, e);
        model.items.erase(model.items.lower_bound(base), model.items.lower_bound(base + ptrs_per_table));
        model.items[base] = e;
      } else {
        std::vector<cache_entry> entries(ptrs_per_table);
        model.items.erase(base);
        for (pgoff_t i = 0; i != ptrs_per_table; ++i) {
          if (below(r, 16) != 0) continue;
          entries[i] = below(r, 8) == 0 ? cache_entry::retry() : cache_entry::small(pfn + i);
          model.items[base + i] = entries[i];
        }
        cache.split_huge(self, base, entries.data());
      }
      CHECK(cache.count() == model.count());
      const pgoff_t a = places[below(r, std::size(places))] + below(r, ptrs_per_table);
      CHECK(cache.load(a) == model.find(a, a).entry);
      CHECK(cache.load(index) == model.find(index, index).entry);
      const cache_item x = cache.find(a, a + 2000), y = model.find(a, a + 2000);
      CHECK(x.index == y.index && x.entry == y.entry);
      if (round % 100 == 0) {
        auto at = model.items.begin();
        CHECK(cache.for_each(0, page_cache::max_index, [&](cache_item z) {
          CHECK(at != model.items.end() && at->first == z.index && at->second == z.entry);
          ++at;
        }));
        CHECK(at == model.items.end());
        rcu.settle();
      }
    }
  }
  rcu.settle();
}

/// A page at the end of 1 TiB takes an extent and three directories; and all of it goes again.
void page_cache_sparse() {
  test_rcu rcu;
  rcu_reader& self = rcu.writer.reader;
  page_cache cache(rcu.domain);
  const long long before = bytes_allocated;
  const pgoff_t end = (pgoff_t{1} << 40 >> page_shift) - 1;
  cache.store(self, end, cache_entry::small(7));
  cache.store(self, 0, cache_entry::small(8));
  CHECK(bytes_allocated - before < 64 << 10);
  CHECK(cache.load(end).pfn() == 7 && cache.load(end - 1).empty() && cache.find(1, end).index == end);
  cache.erase(self, end);
  CHECK(cache.load(0).pfn() == 8 && cache.load(end).empty() && cache.count() == 1);
  cache.erase(self, 0);
  CHECK(cache.count() == 0 && !cache.find(0, page_cache::max_index));
  rcu.settle();
}

/// One extent turns huge and back while readers look at every page of it: none is ever missing.  The
/// extents around it come and go, so the directories do, too.
void page_cache_readers(u64 seed, unsigned rounds) {
  test_rcu rcu;
  constexpr pfn_t base_pfn = 1000;
  constexpr pgoff_t base = 3 * ptrs_per_table;
  page_cache cache(rcu.domain);
  rcu_reader& self = rcu.writer.reader;
  std::vector<cache_entry> entries(ptrs_per_table);
  for (pgoff_t i = 0; i != ptrs_per_table; ++i) {
    entries[i] = cache_entry::small(base_pfn + i);
    cache.store(self, base + i, entries[i]);
  }
  atomic<u32> stop{0};
  std::vector<thread> readers;
  for (u64 k = 0; k != 2; ++k) {
    readers.emplace_back([&, k] {
      test_rcu::member me(rcu);
      random_engine r(seed + k);
      while (stop.load(relaxed) == 0) {
        me.reader.read_lock();
        for (unsigned n = 0; n != 64; ++n) {
          const pgoff_t i = below(r, ptrs_per_table);
          const cache_entry e = cache.load(base + i);
          CHECK(e.is_page() && e.pfn_at(base + i) == base_pfn + i);
          const pgoff_t far = below(r, 2) << 20 | below(r, ptrs_per_table);
          const cache_entry f = cache.load(far);
          CHECK(f.empty() || f.pfn() == far + 1);
        }
        pgoff_t next = base;
        cache.for_each(base, base + ptrs_per_table - 1, [&](cache_item x) {
          CHECK(x.index <= next && x.entry.pfn() == base_pfn + (x.index - base));
          next = x.next();
        });
        CHECK(next == base + ptrs_per_table);
        me.reader.read_unlock();
      }
    });
  }
  random_engine r(seed + 2);
  for (unsigned round = 0; round != rounds; ++round) {
    cache.store_huge(self, base, cache_entry::huge(base_pfn));
    const pgoff_t far = below(r, 2) << 20 | below(r, ptrs_per_table);
    cache.store(self, far, cache_entry::small(far + 1));
    cache.split_huge(self, base, entries.data());
    cache.erase(self, far);
    if (round % 64 == 0) rcu.settle();
  }
  stop.store(1, relaxed);
  for (thread& t : readers) t.join();
  rcu.settle();
}

/// A word of an extent whose other side is a script: each load first lets the writer do some steps.
struct scripted_word {
  struct script {
    // Small, then huge, split, huge again, and so on: as store_huge() and split_huge() do it.
    u64 huge = 0, slot = cache_entry::small(5).bits(), collapses = 0, step = 0;
    u64 moves = 0;  // how many steps before each load, two bits each
    void advance() {
      for (u64 n = moves & 3; n != 0; --n) {
        switch (step++ % 4) {
          case 0: huge = cache_entry::huge(5).bits(), ++collapses; break;
          case 1: slot = 0; break;
          case 2: slot = cache_entry::small(5).bits(); break;
          case 3: huge = collapses << 2; break;
        }
      }
      moves >>= 2;
    }
  };
  script* s;
  bool is_huge;
  u64 load(memory_order) const {
    s->advance();
    return is_huge ? s->huge : s->slot;
  }
};

/// However the writer's steps fall between the loads of a look-up, the page is found.
void page_cache_schedules() {
  for (u64 moves = 0; moves != 1 << 16; ++moves) {
    scripted_word::script s;
    s.moves = moves;
    const cache_entry e = page_cache::look(scripted_word{&s, true}, scripted_word{&s, false});
    CHECK(e.is_page() && e.pfn() == 5);
  }
}

/// The same extent, with nothing else to do, so that real threads meet in the moments between the loads.
void page_cache_hammer(u64 seed, unsigned rounds) {
  test_rcu rcu;
  page_cache cache(rcu.domain);
  rcu_reader& self = rcu.writer.reader;
  std::vector<cache_entry> entries(ptrs_per_table);
  for (pgoff_t i = 0; i != ptrs_per_table; ++i) {
    entries[i] = cache_entry::small(1 + i);
    cache.store(self, i, entries[i]);
  }
  atomic<u32> stop{0};
  std::vector<thread> readers;
  for (u64 k = 0; k != 3; ++k) {
    readers.emplace_back([&, k] {
      test_rcu::member me(rcu);
      random_engine r(seed + k);
      while (stop.load(relaxed) == 0) {
        me.reader.read_lock();
        const pgoff_t i = below(r, ptrs_per_table);
        for (unsigned n = 0; n != 1000; ++n) CHECK(cache.load(i).pfn_at(i) == 1 + i);
        me.reader.read_unlock();
      }
    });
  }
  for (unsigned round = 0; round != rounds; ++round) {
    cache.store_huge(self, 0, cache_entry::huge(1));
    cache.split_huge(self, 0, entries.data());
  }
  stop.store(1, relaxed);
  for (thread& t : readers) t.join();
}

// ---- nanoseconds -------------------------------------------------------------------------------

/// Look-ups at random addresses.  In a chain, each depends on the one before: that is what a fault
/// waits for.
void bench_find(u64 n) {
  test_rcu rcu;
  random_engine r(1);
  std::vector<u64> order(n);
  for (u64 i = 0; i != n; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), r);
  std::vector<vma> vmas(n);
  vma_tree tree(rcu.domain);
  const u64 t0 = now_ns();
  for (u64 i : order) {
    vma_tree::edit e(tree, rcu.writer.reader);
    e.insert(i * 8192, i * 8192 + 4096, &vmas[i]);
    e.commit();
    if (i % 256 == 0) rcu.settle();
  }
  const u64 insert_ns = (now_ns() - t0) / n;
  std::vector<va_t> addresses(1 << 14);
  for (va_t& a : addresses) a = below(r, n) * 8192 + below(r, 4096);
  constexpr unsigned repeat = 50;
  const auto measure = [&](auto chained) {
    double best = 1e9;
    u64 sum = 0;
    for (unsigned k = 0; k != repeat; ++k) {
      u64 link = 0;
      const u64 from = now_ns();
      for (va_t a : addresses) {
        const vma* v = tree.find(a + link);
        sum += v != nullptr ? 1 : 0;
        if constexpr (chained) link = reinterpret_cast<std::uintptr_t>(v) & 1;  // 0, by way of the result
      }
      best = std::min(best, static_cast<double>(now_ns() - from) / static_cast<double>(addresses.size()));
    }
    CHECK(sum == repeat * addresses.size());
    return best;
  };
  const double alone = measure(std::false_type{}), in_chain = measure(std::true_type{});
  const u64 g0 = now_ns();
  u64 gaps = 0;
  for (unsigned k = 0; k != 10000; ++k) gaps += tree.gap_below(0, n * 8192 + 65536, 8192 + k % 4096) ? 1 : 0;
  std::printf("%7llu VMAs: find %.1f ns, %.1f ns in a chain; insert and commit %llu ns; gap_below %.0f ns\n",
              static_cast<unsigned long long>(n), alone, in_chain, static_cast<unsigned long long>(insert_ns),
              static_cast<double>(now_ns() - g0) / 10000.0);
  CHECK(gaps == 10000);
}

void bench_load() {
  test_rcu rcu;
  page_cache cache(rcu.domain);
  constexpr pgoff_t n = 1 << 16;
  for (pgoff_t i = 0; i != n; ++i) cache.store(rcu.writer.reader, i, cache_entry::small(i + 1));
  random_engine r(1);
  std::vector<pgoff_t> at(1 << 14);
  for (pgoff_t& a : at) a = below(r, n);
  double best = 1e9;
  u64 link = 0;
  for (unsigned k = 0; k != 50; ++k) {
    const u64 from = now_ns();
    for (pgoff_t a : at) link = cache.load(a + link).bits() >> 60;
    best = std::min(best, static_cast<double>(now_ns() - from) / static_cast<double>(at.size()));
  }
  CHECK(link == 0);
  std::printf("  65536 pages: load %.1f ns in a chain\n", best);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s SEED | bench\n", argv[0]);
    return 2;
  }
  if (std::strcmp(argv[1], "bench") == 0) {
    for (u64 n : {10, 1000, 100000}) bench_find(n);
    bench_load();
    return 0;
  }
  const u64 seed = std::strtoull(argv[1], nullptr, 10);
  vma_tree_against_map(seed, 300, 4000);
  vma_tree_against_map(seed + 1, 20000, 8000);
  vma_tree_fill(false);
  vma_tree_fill(true);
  vma_tree_out_of_memory(seed);
  vma_tree_readers(seed, 3000);
  i_mmap_against_list(seed, 60, 5000);
  i_mmap_against_list(seed + 1, 100000, 5000);
  page_cache_against_map(seed, 6000);
  page_cache_sparse();
  page_cache_readers(seed, 3000);
  page_cache_schedules();
#if defined(NDEBUG)
  page_cache_hammer(seed, 200'000);
#else
  page_cache_hammer(seed, 10'000);  // a sanitizer makes it slow
#endif
  std::puts("ok");
  return 0;
}
