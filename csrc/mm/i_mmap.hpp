// i_mmap.hpp -- the VMAs that map a file, by the pages of the file that they map.
//
// Guarantee.  for_each(first, last) meets exactly the VMAs that map a page of first..last, in order
// of their first page; VMAs with the same first page in the order in which they were inserted.  The
// order, and the shape of the tree, depend on nothing but the sequence of operations.
//
// Method.  An interval tree: a treap by first page, whose nodes also keep the highest last page
// below them, so that a subtree which ends too early is skipped.  Priorities are a hash of the
// number of the insertion.
//
// Protection.  i_mmap_rwsem: write to insert and erase, read to iterate.  The node is part of its
// VMA and allocates nothing.
//
// Cost.  O(log n) to insert and erase, O(log n + k) to meet k VMAs; expected, over the hash.
#pragma once
#include <cassert>
#include <type_traits>

#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct vma;

/// Embedded in a VMA.  first and last may change only while the node is in no tree.
struct i_mmap_node {
  pgoff_t first = 0;     // first page of the file that is mapped
  pgoff_t last = 0;      // last page, inclusive
  vma* owner = nullptr;  // the VMA that this is part of

  bool linked() const { return tree_ != nullptr; }

 private:
  friend class i_mmap_tree;
  using link = var<i_mmap_node*>;

  // All protected by i_mmap_rwsem.
  link left_{nullptr};
  link right_{nullptr};
  link parent_{nullptr};
  var<pgoff_t> max_last_{0};  // highest last at and below this node
  var<u64> priority_{0};      // no node has a lower one than its children
  var<const void*> tree_{nullptr};
};

class i_mmap_tree {
 public:
  i_mmap_tree() = default;
  i_mmap_tree(const i_mmap_tree&) = delete;
  i_mmap_tree& operator=(const i_mmap_tree&) = delete;

  bool empty() const { return root_ == nullptr; }
  u64 size() const { return size_; }

  void insert(i_mmap_node* n) {
    assert(!n->linked() && n->first <= n->last);
    n->tree_ = this;
    n->left_ = nullptr;
    n->right_ = nullptr;
    n->max_last_ = n->last;
    n->priority_ = hash(inserted_ + 1);
    inserted_ += 1;
    size_ += 1;

    i_mmap_node* above = nullptr;
    for (i_mmap_node* at = root_; at != nullptr; at = n->first < at->first ? at->left_ : at->right_) {
      above = at;
      if (at->max_last_ < n->last) at->max_last_ = n->last;
    }
    n->parent_ = above;
    if (above == nullptr) {
      root_ = n;
      return;
    }
    (n->first < above->first ? above->left_ : above->right_) = n;
    while (n->parent_ != nullptr && n->parent_.get()->priority_ < n->priority_) rotate_up(n);
  }

  void erase(i_mmap_node* n) {
    assert(n->tree_ == this);
    while (n->left_ != nullptr && n->right_ != nullptr) {
      i_mmap_node* l = n->left_;
      i_mmap_node* r = n->right_;
      rotate_up(l->priority_ < r->priority_ ? r : l);
    }
    i_mmap_node* below = n->left_ != nullptr ? n->left_ : n->right_;
    i_mmap_node* above = n->parent_;
    replace_child(above, n, below);
    for (; above != nullptr; above = above->parent_) update(above);
    n->tree_ = nullptr;
    size_ -= 1;
  }

  /// The first node that overlaps pages first..last, or null.
  i_mmap_node* find_first(pgoff_t first, pgoff_t last) const { return leftmost(root_, first, last); }

  /// The one after n that overlaps pages first..last, or null.
  i_mmap_node* find_next(i_mmap_node* n, pgoff_t first, pgoff_t last) const {
    if (i_mmap_node* m = leftmost(n->right_, first, last)) return m;
    // Upwards: a parent whose left subtree we leave comes next, then what is on its right.
    for (;;) {
      i_mmap_node* p = n->parent_;
      if (p == nullptr) return nullptr;
      const bool from_left = p->left_ == n;
      n = p;
      if (!from_left) continue;
      if (n->first > last) return nullptr;
      if (n->last >= first) return n;
      if (i_mmap_node* m = leftmost(n->right_, first, last)) return m;
    }
  }

  /// Calls f(node) for each node that overlaps pages first..last.  f may return void, or bool: false
  /// ends the walk.  f must not change the tree.  Returns false if f ended it.
  template <class F>
  bool for_each(pgoff_t first, pgoff_t last, F&& f) const {
    for (i_mmap_node* n = find_first(first, last); n != nullptr; n = find_next(n, first, last)) {
      if constexpr (std::is_same_v<std::invoke_result_t<F&, i_mmap_node&>, bool>) {
        if (!f(*n)) return false;
      } else {
        f(*n);
      }
    }
    return true;
  }

 private:
  // splitmix64: insertions in any pattern get priorities that look drawn.
  static constexpr u64 hash(u64 x) {
    x *= 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
  }

  static i_mmap_node* leftmost(i_mmap_node* n, pgoff_t first, pgoff_t last) {
    while (n != nullptr && n->max_last_ >= first) {
      i_mmap_node* l = n->left_;
      if (l != nullptr && l->max_last_ >= first) {
        // Something on the left ends late enough.  If the first such starts too late, so does all
        // that is to its right: the left subtree decides.
        n = l;
        continue;
      }
      if (n->first > last) return nullptr;
      if (n->last >= first) return n;
      n = n->right_;
    }
    return nullptr;
  }

  static void update(i_mmap_node* n) {
    pgoff_t m = n->last;
    if (i_mmap_node* l = n->left_; l != nullptr && l->max_last_ > m) m = l->max_last_;
    if (i_mmap_node* r = n->right_; r != nullptr && r->max_last_ > m) m = r->max_last_;
    n->max_last_ = m;
  }

  void replace_child(i_mmap_node* above, i_mmap_node* n, i_mmap_node* by) {
    if (by != nullptr) by->parent_ = above;
    if (above == nullptr) {
      root_ = by;
    } else {
      (above->left_ == n ? above->left_ : above->right_) = by;
    }
  }

  /// Exchanges n with its parent; the order from left to right stays.
  void rotate_up(i_mmap_node* n) {
    i_mmap_node* p = n->parent_;
    replace_child(p->parent_, p, n);
    const bool was_left = p->left_ == n;
    i_mmap_node* inner = was_left ? n->right_ : n->left_;
    (was_left ? p->left_ : p->right_) = inner;
    if (inner != nullptr) inner->parent_ = p;
    (was_left ? n->right_ : n->left_) = p;
    p->parent_ = n;
    update(p);
    update(n);
  }

  // All protected by i_mmap_rwsem.
  var<i_mmap_node*> root_{nullptr};
  var<u64> size_{0};
  var<u64> inserted_{0};  // insertions ever
};

}  // namespace pgtbl::inline PGTBL_WORLD
