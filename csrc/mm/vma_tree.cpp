#include "mm/vma_tree.hpp"

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD {

// ---- look-ups ----------------------------------------------------------------------------------

vma_entry vma_snapshot::first_at_or_after(va_t va) const {
  for (const vma_node* n = root_; n != nullptr;) {
    const unsigned above = n->upper(va);
    unsigned i = above == 0 ? 0 : above - 1;
    if (n->end[i] <= va) ++i;
    if (i == n->count) return {};  // at the root only: below it, the parent has compared already
    if (n->leaf()) return n->entry(i);
    n = n->child(i);
  }
  return {};
}

vma_entry vma_snapshot::last_before(va_t va) const {
  if (va == 0) return {};
  for (const vma_node* n = root_; n != nullptr;) {
    const unsigned above = n->upper(va - 1);
    if (above == 0) return {};
    if (n->leaf()) return n->entry(above - 1);
    n = n->child(above - 1);
  }
  return {};
}

namespace {

/// What a gap search looks for.
struct wanted {
  va_t lo, hi;
  u64 length, align;

  std::optional<va_t> highest_in(va_t from, va_t to) const {
    from = std::max(from, lo);
    to = std::min(to, hi);
    if (to < from || to - from < length) return {};
    const va_t at = (to - length) & ~(align - 1);
    if (at < from) return {};
    return at;
  }
  std::optional<va_t> lowest_in(va_t from, va_t to) const {
    from = std::max(from, lo);
    to = std::min(to, hi);
    if (to < from || to - from < length) return {};
    const u64 pad = (align - (from & (align - 1))) & (align - 1);
    if (pad > to - from - length) return {};
    return from + pad;
  }
};

// Both search the holes between the entries below n; those on its edges belong to the caller.

std::optional<va_t> highest_inside(const vma_node* n, const wanted& w) {
  for (unsigned i = n->count; i-- != 0;) {
    if (n->end[i] <= w.lo) return {};
    if (n->gap[i] >= w.length && n->start[i] < w.hi) {
      if (auto at = highest_inside(n->child(i), w)) return at;
    }
    if (i == 0) return {};
    if (auto at = w.highest_in(n->end[i - 1], n->start[i])) return at;
  }
  return {};
}

std::optional<va_t> lowest_inside(const vma_node* n, const wanted& w) {
  const u32 count = n->count;
  for (unsigned i = 0; i != count; ++i) {
    if (n->start[i] >= w.hi) return {};
    if (n->gap[i] >= w.length && n->end[i] > w.lo) {
      if (auto at = lowest_inside(n->child(i), w)) return at;
    }
    if (i + 1 == count) return {};
    if (auto at = w.lowest_in(n->end[i], n->start[i + 1])) return at;
  }
  return {};
}

}  // namespace

// length > 0 keeps the test of gap[] away from leaves, whose slots have no child.
std::optional<va_t> vma_snapshot::gap_below(va_t lo, va_t hi, u64 length, u64 align) const {
  assert(length != 0 && align != 0 && (align & (align - 1)) == 0);
  const wanted w{lo, hi, length, align};
  if (root_ == nullptr) return w.highest_in(lo, hi);
  if (auto at = w.highest_in(root_->end[root_->count - 1], hi)) return at;
  if (auto at = highest_inside(root_, w)) return at;
  return w.highest_in(lo, root_->start[0]);
}

std::optional<va_t> vma_snapshot::gap_above(va_t lo, va_t hi, u64 length, u64 align) const {
  assert(length != 0 && align != 0 && (align & (align - 1)) == 0);
  const wanted w{lo, hi, length, align};
  if (root_ == nullptr) return w.lowest_in(lo, hi);
  if (auto at = w.lowest_in(lo, root_->start[0])) return at;
  if (auto at = lowest_inside(root_, w)) return at;
  return w.lowest_in(root_->end[root_->count - 1], hi);
}

// ---- nodes, as edits change them ---------------------------------------------------------------

namespace {

constexpr unsigned fan = vma_node::fan;
/// No node but the root has fewer slots.  A quarter, not half: a node that is filled from one end
/// splits into a quarter and three quarters, so that ascending or descending mmaps leave full nodes.
constexpr unsigned low = (fan + 1) / 4;

unsigned child_for(const vma_node* n, va_t va) {
  const unsigned above = n->upper(va);
  return above == 0 ? 0 : above - 1;
}

/// The slot of a leaf whose range starts at start.
unsigned slot_for(const vma_node* n, va_t start) {
  const unsigned above = n->upper(start);
  assert(above != 0 && n->start[above - 1] == start);
  return above - 1;
}

void move_slots(vma_node* to, unsigned to_at, const vma_node* from, unsigned from_at, unsigned k) {
  if (to == from && to_at > from_at) {
    while (k-- != 0) to->put(to_at + k, from->get(from_at + k));
  } else {
    for (unsigned i = 0; i != k; ++i) to->put(to_at + i, from->get(from_at + i));
  }
}

void set_count(vma_node* n, unsigned count) {
  for (unsigned i = count; i < n->count; ++i) n->put(i, {vma_node::unused, 0, 0, nullptr});
  n->count = count;
}

void put_in(vma_node* n, unsigned at, const vma_node::item& x) {
  move_slots(n, at + 1, n, at, n->count - at);
  n->put(at, x);
  n->count += 1;
}

void take_out(vma_node* n, unsigned at) {
  move_slots(n, at, n, at + 1, n->count - at - 1);
  set_count(n, n->count - 1);
}

vma_node::item summary(vma_node* n) {
  const u32 count = n->count;
  u64 gap = n->gap[0];
  for (unsigned i = 1; i < count; ++i) gap = std::max({gap, n->gap[i], n->start[i] - n->end[i - 1]});
  return {n->start[0], n->end[count - 1], gap, n};
}

void destroy_all(vma_node* n) {
  if (!n->leaf())
    for (unsigned i = 0; i < n->count; ++i) destroy_all(n->child(i));
  destroy(n);
}

void free_node(context&, rcu_head* head) { destroy(static_cast<vma_node*>(head)); }

}  // namespace

vma_tree::~vma_tree() {
  if (vma_node* root = root_.load(relaxed)) destroy_all(root);
}

vma_tree::edit::edit(vma_tree& tree, rcu_reader& self)
    : tree_(tree),
      self_(self),
      serial_(tree.serial_),
      root_(tree.root_.load(relaxed)),  // ours to change: mmap_lock is held for write
      size_(tree.size_.get()) {}

vma_tree::edit::~edit() {
  if (!open_) return;
  if (root_ != nullptr) discard(root_);
  close();
}

void vma_tree::edit::commit() {
  assert(open_);
  // Release: pairs with the acquire load of root_ in snapshot(); the fresh nodes were filled before.
  tree_.root_.store(root_, release);
  tree_.size_.set(size_);
  // A reader that came before the store may still be in the old nodes.
  while (retired_ != nullptr) {
    vma_node* n = retired_;
    retired_ = static_cast<vma_node*>(n->next);
    tree_.rcu_.call(self_, n, free_node, sizeof(vma_node));
  }
  tree_.serial_ = serial_ + 1;  // what was fresh is published now
  close();
}

void vma_tree::edit::close() {
  while (spare_ != nullptr) {
    vma_node* n = spare_;
    spare_ = static_cast<vma_node*>(n->next);
    destroy(n);
  }
  open_ = false;
}

void vma_tree::edit::reserve(unsigned nodes) {
  for (; spares_ < nodes; ++spares_) {
    vma_node* n = make<vma_node>();
    n->next = spare_;
    spare_ = n;
  }
}

/// Sets aside as many nodes as the operation at va may need, so that it cannot fail half-way.
void vma_tree::edit::reserve_for(va_t va, bool insertion) {
  assert(open_);
  unsigned depth = 0, copies = 0, splits = 0, refills = 0;
  for (const vma_node* n = root_; n != nullptr; n = n->leaf() ? nullptr : n->child(child_for(n, va))) {
    ++depth;
    if (!fresh(n)) ++copies;
    splits = n->count == fan ? splits + 1 : 0;  // splits go up until a node has room
    if (n != root_ && n->count <= low) ++refills;
  }
  if (splits == depth) ++splits;  // all are full, or there is none: a new root
  reserve(copies + (insertion ? splits : refills));
}

vma_node* vma_tree::edit::take(u32 level) {
  assert(spares_ != 0);
  vma_node* n = spare_;
  spare_ = static_cast<vma_node*>(n->next);
  --spares_;
  n->serial = serial_;
  n->level = level;
  return n;
}

vma_node* vma_tree::edit::own(vma_node* n) {
  if (fresh(n)) return n;
  vma_node* copy = take(n->level);
  std::copy_n(n->start, fan, copy->start);
  std::copy_n(n->slot, fan, copy->slot);
  std::copy_n(n->end, fan, copy->end);
  std::copy_n(n->gap, fan, copy->gap);
  copy->count = n->count.get();
  drop(n);
  return copy;
}

vma_node* vma_tree::edit::own_child(vma_node* n, unsigned i) {
  vma_node* c = own(n->child(i));
  n->slot[i] = c;
  return c;
}

void vma_tree::edit::drop(vma_node* n) {
  if (fresh(n)) {
    destroy(n);  // nobody else has seen it
    return;
  }
  n->next = retired_;
  retired_ = n;
}

void vma_tree::edit::drop_all(vma_node* n) {
  if (!n->leaf())
    for (unsigned i = 0; i < n->count; ++i) drop_all(n->child(i));
  drop(n);
}

void vma_tree::edit::discard(vma_node* n) {
  if (!fresh(n)) return;  // nor is anything below it
  if (!n->leaf())
    for (unsigned i = 0; i < n->count; ++i) discard(n->child(i));
  destroy(n);
}

// ---- the operations ----------------------------------------------------------------------------

vma_node* vma_tree::edit::add(vma_node* n, unsigned at, const vma_node::item& x) {
  if (n->count < fan) {
    put_in(n, at, x);
    return nullptr;
  }
  const unsigned keep = at <= 1 ? std::max(low - 1, at) : at == fan ? fan + 1 - low : fan / 2;
  vma_node* right = take(n->level);
  move_slots(right, 0, n, keep, fan - keep);
  right->count = fan - keep;
  set_count(n, keep);
  if (at <= keep && at != fan) {
    put_in(n, at, x);
  } else {
    put_in(right, at - keep, x);
  }
  return right;
}

vma_node* vma_tree::edit::insert_below(vma_node* n, const vma_node::item& x) {
  if (n->leaf()) return add(n, n->upper(x.start), x);
  const unsigned i = child_for(n, x.start);
  vma_node* c = own_child(n, i);
  vma_node* right = insert_below(c, x);
  n->put(i, summary(c));
  return right == nullptr ? nullptr : add(n, i + 1, summary(right));
}

void vma_tree::edit::insert(va_t start, va_t end, vma* v) {
  assert(start < end && v != nullptr && !view().overlaps(start, end));
  reserve_for(start, true);
  root_ = root_ == nullptr ? take(0) : own(root_);
  if (vma_node* right = insert_below(root_, {start, end, 0, v})) {
    vma_node* top = take(root_->level + 1);
    put_in(top, 0, summary(root_));
    put_in(top, 1, summary(right));
    root_ = top;
  }
  ++size_;
}

/// Child i of n has become too small: joins it with a neighbour, or shares the neighbour's slots.
void vma_tree::edit::refill(vma_node* n, unsigned i) {
  vma_node* c = n->child(i);
  if (n->count == 1) {
    // Only where low is 1 (the model) is there no neighbour; n itself is then too small as well.
    if (c->count == 0) {
      drop(c);
      take_out(n, 0);
    }
    return;
  }
  const unsigned other = i == 0 ? 1 : i - 1;
  vma_node* s = n->child(other);
  const u32 total = c->count + s->count;
  if (total <= fan) {
    if (other < i) {
      move_slots(c, s->count, c, 0, c->count);
      move_slots(c, 0, s, 0, s->count);
    } else {
      move_slots(c, c->count, s, 0, s->count);
    }
    c->count = total;
    drop(s);
    n->put(i, summary(c));
    take_out(n, other);
    return;
  }
  s = own_child(n, other);
  const u32 share = total / 2 - c->count;  // > 0: c has fewer than low slots, s more than fan - low
  if (other < i) {
    move_slots(c, share, c, 0, c->count);
    move_slots(c, 0, s, s->count - share, share);
  } else {
    move_slots(c, c->count, s, 0, share);
    move_slots(s, 0, s, share, s->count - share);
  }
  c->count += share;
  set_count(s, s->count - share);
  n->put(i, summary(c));
  n->put(other, summary(s));
}

vma* vma_tree::edit::erase_below(vma_node* n, va_t start) {
  if (n->leaf()) {
    const unsigned i = slot_for(n, start);
    vma* v = n->entry(i).vma;
    take_out(n, i);
    return v;
  }
  const unsigned i = child_for(n, start);
  vma_node* c = own_child(n, i);
  vma* v = erase_below(c, start);
  if (c->count != 0) n->put(i, summary(c));
  if (c->count < low) refill(n, i);
  return v;
}

vma* vma_tree::edit::erase(va_t start) {
  assert(view().find_entry(start).start == start && view().find(start) != nullptr);
  reserve_for(start, false);
  root_ = own(root_);
  vma* v = erase_below(root_, start);
  while (root_ != nullptr && (root_->count == 0 || (!root_->leaf() && root_->count == 1))) {
    vma_node* old = root_;
    root_ = old->count == 0 ? nullptr : old->child(0);
    drop(old);
  }
  --size_;
  return v;
}

template <class F>
void vma_tree::edit::change_below(vma_node* n, va_t start, F& change) {
  if (n->leaf()) {
    change(n, slot_for(n, start));
    return;
  }
  const unsigned i = child_for(n, start);
  vma_node* c = own_child(n, i);
  change_below(c, start, change);
  n->put(i, summary(c));
}

template <class F>
void vma_tree::edit::change(va_t start, F f) {
  assert(view().find_entry(start).start == start && view().find(start) != nullptr);
  reserve_for(start, false);
  root_ = own(root_);
  change_below(root_, start, f);
}

void vma_tree::edit::resize(va_t start, va_t new_start, va_t new_end) {
  assert(new_start < new_end);
  assert(view().last_before(start).end <= new_start);
  assert(!view().next(view().find_entry(start)) || view().next(view().find_entry(start)).start >= new_end);
  change(start, [&](vma_node* n, unsigned i) { n->put(i, {new_start, new_end, 0, n->slot[i]}); });
}

vma* vma_tree::edit::replace(va_t start, vma* v) {
  assert(v != nullptr);
  vma* old = nullptr;
  change(start, [&](vma_node* n, unsigned i) {
    old = n->entry(i).vma;
    n->slot[i] = v;
  });
  return old;
}

void vma_tree::edit::clear() {
  assert(open_);
  if (root_ != nullptr) drop_all(root_);
  root_ = nullptr;
  size_ = 0;
}

}  // namespace pgtbl::inline PGTBL_WORLD
