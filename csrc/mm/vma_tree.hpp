// vma_tree.hpp -- the index of an mm's VMAs by address: what Linux has its maple tree for.
//
// Problem.  A fault looks its VMA up under RCU alone, without mmap_lock, while munmap and mprotect
// take VMAs apart.  It must not see half of a split, nor fall between two nodes that are being
// rebalanced.
//
// Guarantee.  A reader sees all of an edit or nothing of it: every look-up answers from one version
// of the tree, the one that was current when it began.  A snapshot extends that to any number of
// look-ups.  Whether the VMA that was found is still the one to use is the caller's question (the
// VMA lock's sequence, G-38).
//
// Method.  A B+tree of disjoint ranges [start, end), copied along the path.  A published node never
// changes.  An edit works on fresh copies that nobody else can see, and commit() publishes the new
// root with one release store; the nodes that it replaced go to RCU.  A parent keeps of each child
// its first start, its last end and the largest gap within, so free space is found in one descent.
//
// Protection.  Readers: an RCU read section, or mmap_lock in any mode.  Edits: mmap_lock for write,
// so there is one at a time.
//
// Cost.  find() touches two or three cache lines a level, five levels for 100,000 VMAs.  An edit
// copies one node a level for each path that it touches first, and one more for each merge.
#pragma once
#include <cassert>
#include <optional>
#include <type_traits>

#include "sync/rcu.hpp"
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct vma;

/// One range and its VMA.  A default-made entry (vma == nullptr) stands for "there is none".
struct vma_entry {
  va_t start = 0;
  va_t end = 0;
  struct vma* vma = nullptr;
  explicit operator bool() const { return vma != nullptr; }
};

/// What an edit copies of a node.
struct vma_node_body {
#if defined(PGTBL_WORLD_MODEL)
  static constexpr unsigned fan = 3;  // small enough that a scenario of five VMAs splits a node
#else
  static constexpr unsigned fan = 15;  // keys fill two cache lines exactly, and so do the slots
#endif
  static_assert(fan == 3 || fan == 15, "upper() cuts in four, to the end");
  static constexpr va_t unused = ~va_t{0};  // start of a slot beyond count

  // The arrays are plain: they are written before the node is published, and never after.  level and
  // count are var<>, so that in the model each visit is checked against the node's release.
  var<u32> level{0};  // 0: a leaf
  var<u32> count{0};  // slots in use
  va_t start[fan];
  void* slot[fan]{};  // leaf: vma*; else: vma_node*
  u64 serial = 0;     // the edit that made the node; read by edits only
  va_t end[fan]{};    // leaf: end of the range; else: last end below the child
  u64 gap[fan]{};     // largest hole within the child; 0 in a leaf

  /// What a slot says: in a leaf one entry, else the summary of a child.
  struct item {
    va_t start;
    va_t end;
    u64 gap;
    void* slot;
  };
  item get(unsigned i) const { return {start[i], end[i], gap[i], slot[i]}; }
  void put(unsigned i, const item& x) {
    start[i] = x.start;
    end[i] = x.end;
    gap[i] = x.gap;
    slot[i] = x.slot;
  }

  vma_node_body() {
    for (va_t& s : start) s = unused;
  }
  /// Number of slots that start at or below va.  Without branches: how a comparison ends is a coin
  /// toss, and a mispredicted one costs more than the whole search.  Three comparisons at a time do not
  /// wait for each other.
  unsigned upper(va_t va) const {
    unsigned n = 0;
    for (unsigned part = (fan + 1) / 4; part != 0; part /= 4) {
      const va_t* s = start + n + part - 1;
      n += part * (unsigned{s[0] <= va} + unsigned{s[part] <= va} + unsigned{s[2 * part] <= va});
    }
    return n;
  }
};

/// A node of the tree.  rcu_head also links the nodes that an edit set aside: readers do not look at it.
struct alignas(64) vma_node : vma_node_body, rcu_head, pooled<vma_node> {
  bool leaf() const { return level == 0; }
  vma_node* child(unsigned i) const { return static_cast<vma_node*>(slot[i]); }
  vma_entry entry(unsigned i) const { return {start[i], end[i], static_cast<vma*>(slot[i])}; }
};

/// One version of the tree.  Valid for as long as the caller stays in the RCU read section, or holds
/// the lock, under which it got it.
class vma_snapshot {
 public:
  explicit vma_snapshot(const vma_node* root) : root_(root) {}

  /// The entry that contains va, or none.
  vma_entry find_entry(va_t va) const {
    for (const vma_node* n = root_; n != nullptr;) {
      const unsigned above = n->upper(va);
      if (above == 0) return {};  // happens at the root only: below it, the parent has compared already
      if (n->leaf()) return va < n->end[above - 1] ? n->entry(above - 1) : vma_entry{};
      n = n->child(above - 1);
    }
    return {};
  }
  /// The VMA that contains va, or null.
  vma* find(va_t va) const { return find_entry(va).vma; }

  /// The entry that contains va, or else the first one above it: Linux's find_vma().
  vma_entry first_at_or_after(va_t va) const;
  /// The last entry that starts below va.
  vma_entry last_before(va_t va) const;
  /// The neighbours of an entry that was found in this snapshot.
  vma_entry next(const vma_entry& e) const { return first_at_or_after(e.end); }
  vma_entry prev(const vma_entry& e) const { return last_before(e.start); }

  /// Calls f(entry) for each entry that overlaps [lo, hi), upwards.  f may return void, or bool:
  /// false ends the walk.  Returns false if f ended it.
  template <class F>
  bool for_each(va_t lo, va_t hi, F&& f) const {
    return root_ == nullptr || walk(root_, lo, hi, f);
  }
  /// Whether any entry overlaps [lo, hi).
  bool overlaps(va_t lo, va_t hi) const {
    const vma_entry e = first_at_or_after(lo);
    return e && e.start < hi;
  }

  /// The highest address a, a multiple of align, such that [a, a + length) is free and within
  /// [lo, hi): Linux's top-down search.  align is a power of two.
  std::optional<va_t> gap_below(va_t lo, va_t hi, u64 length, u64 align = page_size) const;
  /// The lowest such address: the bottom-up search.
  std::optional<va_t> gap_above(va_t lo, va_t hi, u64 length, u64 align = page_size) const;

  const vma_node* root() const { return root_; }

 private:
  template <class F>
  static bool walk(const vma_node* n, va_t lo, va_t hi, F& f) {
    const u32 count = n->count;
    const unsigned above = n->upper(lo);
    for (unsigned i = above == 0 ? 0 : above - 1; i < count && n->start[i] < hi; ++i) {
      if (n->end[i] <= lo) continue;
      if (!n->leaf()) {
        if (!walk(n->child(i), lo, hi, f)) return false;
      } else if constexpr (std::is_same_v<std::invoke_result_t<F&, vma_entry>, bool>) {
        if (!f(n->entry(i))) return false;
      } else {
        f(n->entry(i));
      }
    }
    return true;
  }

  const vma_node* root_;
};

/// The tree of one mm.
class vma_tree {
 public:
  explicit vma_tree(rcu_domain& rcu) : rcu_(rcu) {}
  /// No reader may be left.
  ~vma_tree();
  vma_tree(const vma_tree&) = delete;
  vma_tree& operator=(const vma_tree&) = delete;

  /// The current version; under RCU or mmap_lock.
  vma_snapshot snapshot() const {
    // Acquire: pairs with the release store of root_ in edit::commit(), so the nodes are seen whole.
    return vma_snapshot(root_.load(acquire));
  }
  vma* find(va_t va) const { return snapshot().find(va); }
  vma_entry find_entry(va_t va) const { return snapshot().find_entry(va); }
  vma_entry first_at_or_after(va_t va) const { return snapshot().first_at_or_after(va); }
  vma_entry last_before(va_t va) const { return snapshot().last_before(va); }
  template <class F>
  bool for_each(va_t lo, va_t hi, F&& f) const {
    return snapshot().for_each(lo, hi, f);
  }
  std::optional<va_t> gap_below(va_t lo, va_t hi, u64 length, u64 align = page_size) const {
    return snapshot().gap_below(lo, hi, length, align);
  }
  std::optional<va_t> gap_above(va_t lo, va_t hi, u64 length, u64 align = page_size) const {
    return snapshot().gap_above(lo, hi, length, align);
  }

  /// Number of entries.  Exact under mmap_lock, a recent value without.
  u64 size() const { return size_.get(); }

  class edit;

 private:
  rcu_domain& rcu_;
  atomic<vma_node*> root_{nullptr};  // written under mmap_lock for write
  counter size_;                     // likewise
  var<u64> serial_{1};               // of the edit that is open, or comes next; likewise
};

/// A set of changes that readers will see at once, by commit(), or never.  One at a time, under
/// mmap_lock for write.  Each operation happens, or throws std::bad_alloc and has changed nothing.
///
///     vma_tree::edit e(mm.vmas, self.rcu);
///     e.resize(area.start, area.start, middle);
///     e.insert(middle, area.end, upper_half);
///     e.commit();
class vma_tree::edit {
 public:
  edit(vma_tree& tree, rcu_reader& self);
  /// Without commit(), frees what the edit had built; the tree is as it was.
  ~edit();
  edit(const edit&) = delete;
  edit& operator=(const edit&) = delete;

  /// Adds an entry; no other may overlap [start, end).
  void insert(va_t start, va_t end, vma* v);
  /// Takes out the entry that starts at start, and returns its VMA; there must be one.
  vma* erase(va_t start);
  /// Gives the entry that starts at start another range, without crossing a neighbour.
  void resize(va_t start, va_t new_start, va_t new_end);
  /// Gives the entry that starts at start another VMA; returns the old one.
  vma* replace(va_t start, vma* v);
  /// Takes out everything.
  void clear();

  /// The tree as it will be after commit().  Until the next operation of the edit.
  vma_snapshot view() const { return vma_snapshot(root_); }
  u64 size() const { return size_; }

  /// Publishes; the edit is over then.
  void commit();

 private:
  bool fresh(const vma_node* n) const { return n->serial == serial_; }
  void reserve(unsigned nodes);
  void reserve_for(va_t va, bool insertion);
  vma_node* take(u32 level);   // a fresh node, out of what reserve() set aside
  vma_node* own(vma_node* n);  // n if it is fresh, else a fresh copy of it
  vma_node* own_child(vma_node* n, unsigned i);
  void drop(vma_node* n);      // n is no longer part of the tree
  void drop_all(vma_node* n);  // nor is anything below it
  void discard(vma_node* n);   // destroys what is fresh at and below n
  // Both return the node that was split off to the right of n, or null.
  vma_node* add(vma_node* n, unsigned at, const vma_node::item& x);
  vma_node* insert_below(vma_node* n, const vma_node::item& x);
  vma* erase_below(vma_node* n, va_t start);
  template <class F>
  void change_below(vma_node* n, va_t start, F& change);
  template <class F>
  void change(va_t start, F change);
  void refill(vma_node* n, unsigned i);
  void close();

  vma_tree& tree_;
  rcu_reader& self_;
  u64 serial_;
  vma_node* root_;
  u64 size_;
  vma_node* retired_ = nullptr;  // published nodes that the new version does without, by rcu_head
  vma_node* spare_ = nullptr;    // by rcu_head
  unsigned spares_ = 0;
  bool open_ = true;
};

}  // namespace pgtbl::inline PGTBL_WORLD
