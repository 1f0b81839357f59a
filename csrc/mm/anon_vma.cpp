#include "mm/anon_vma.hpp"

#include "mm/mapping.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

void free_now(context&, rcu_head* head) { destroy(static_cast<anon_vma*>(head)); }

/// A family's first, or a member of it.
anon_vma* new_anon_vma(anon_vma* parent) {
  anon_vma* a = make<anon_vma>();
  a->parent = parent != nullptr ? parent : a;
  a->root = parent != nullptr ? parent->root : a;
  if (parent != nullptr)
    a->root->refs.fetch_add(1, relaxed);
  else
    a->children = 1;
  return a;
}

/// Under the root's lock for write.
void chain_link(vma& v, anon_vma_chain* c) {
  c->next = v.chain.get();
  v.chain = c;
  c->node.first = v.pgoff;
  c->node.last = v.pgoff + v.pages() - 1;
  c->av->tree.insert(&c->node);
}

bool singular(const vma& v) {
  const anon_vma_chain* c = v.chain;
  return c != nullptr && c->next == nullptr;
}

/// Two neighbours that could become one VMA, as far as their anon_vma goes (anon_vma_compatible).
bool compatible(const vma& lower, const vma& upper) {
  return lower.end == upper.start && lower.file == upper.file &&
         ((lower.flags() ^ upper.flags()) & ~(vm_access_flags | vm_ignore_merge)) == 0 &&
         upper.pgoff == lower.pgoff + lower.pages();
}

/// A neighbour's anon_vma that the VMA can share.
anon_vma* find_mergeable(vma& v) {
  mm& m = v.owner;
  const auto reusable = [&](const vma* n, bool fits) -> anon_vma* {
    if (n == nullptr || !fits) return nullptr;
    anon_vma* a = n->anon_vma.load(acquire);
    return a != nullptr && singular(*n) ? a : nullptr;
  };
  const vma* next = m.vmas.find(v.end);
  if (anon_vma* a = reusable(next, next != nullptr && compatible(v, *next))) return a;
  const vma_entry before = m.vmas.last_before(v.start);
  return reusable(before.vma, before && compatible(*before.vma, v));
}

}  // namespace

void put_anon_vma(cpu& self, anon_vma* a) {
  if (a->refs.fetch_sub(1, acq_rel) != 1) return;
  anon_vma* root = a->root;
  self.domain->call_atomic(self.rcu, a, free_now, sizeof(anon_vma));  // under whatever lock the caller has
  if (root != a) put_anon_vma(self, root);
}

void anon_vma_prepare(cpu& self, vma& v) {
  if (v.anon_vma.load(acquire) != nullptr) return;
  anon_vma* shared = find_mergeable(v);
  anon_vma* a = shared != nullptr ? shared : new_anon_vma(nullptr);
  anon_vma_chain* c = make<anon_vma_chain>(v, *a);
  bool used = false;
  {
    const anon_vma_write_guard family(self, a);
    // Two faults of one VMA may both be here: mmap_lock is held for read only.
    const spin_guard g(self, v.owner.page_table_lock, lock_class::pml);
    if (v.anon_vma.load(relaxed) == nullptr) {
      chain_link(v, c);
      a->active_vmas += 1;
      if (shared != nullptr) a->refs.fetch_add(1, relaxed);
      v.anon_vma.store(a, release);
      used = true;
    }
  }
  pause_at(self, point::av_published);
  if (used) return;
  destroy(c);
  if (shared == nullptr) put_anon_vma(self, a);
}

// Every chain holds a reference of its anon_vma: the first was given with it, as it was made.

void anon_vma_clone(cpu& self, vma& dst, vma& src) {
  const anon_vma_write_guard family(self, src);
  for (anon_vma_chain* c = src.chain; c != nullptr; c = c->next) {
    anon_vma_chain* mine = make<anon_vma_chain>(dst, *c->av);
    c->av->refs.fetch_add(1, relaxed);
    chain_link(dst, mine);
    // An ancestor whose VMA has gone, and which has one descendant at most, serves the child: a program that
    // forks on and on would else grow a chain for ever.
    if (dst.anon_vma.load(relaxed) == nullptr && dst.owner.id != src.owner.id && c->av->children < 2 &&
        c->av->active_vmas == 0)
      dst.anon_vma.store(c->av, release);
  }
  if (anon_vma* a = dst.anon_vma.load(relaxed); a != nullptr) a->active_vmas += 1;
}

void anon_vma_fork(cpu& self, vma& child, vma& parent) {
  anon_vma* theirs = parent.anon_vma.load(acquire);
  if (theirs == nullptr) return;
  anon_vma_clone(self, child, parent);
  if (child.anon_vma.load(relaxed) != nullptr) return;
  anon_vma* a = new_anon_vma(theirs);
  anon_vma_chain* c = make<anon_vma_chain>(child, *a);
  const anon_vma_write_guard family(self, a);
  chain_link(child, c);
  theirs->children += 1;
  a->active_vmas = 1;
  child.anon_vma.store(a, release);
}

void unlink_anon_vmas(cpu& self, vma& v) {
  anon_vma_chain* first = v.chain;
  if (first == nullptr) return;
  anon_vma* root = first->av->root;
  root->refs.fetch_add(1, relaxed);  // the lock must outlive its last user
  {
    const anon_vma_write_guard family(self, root);
    for (anon_vma_chain* c = first; c != nullptr; c = c->next) {
      c->av->tree.erase(&c->node);
      if (c->av->tree.empty()) c->av->parent->children -= 1;
    }
    if (anon_vma* own = v.anon_vma.load(relaxed); own != nullptr) own->active_vmas -= 1;
    v.anon_vma.store(nullptr, release);
    v.chain = nullptr;
  }
  while (first != nullptr) {
    anon_vma_chain* next = first->next;
    put_anon_vma(self, first->av);
    destroy(first);
    first = next;
  }
  put_anon_vma(self, root);
}

void anon_vma_trees_erase(vma& v) {
  for (anon_vma_chain* c = v.chain; c != nullptr; c = c->next) c->av->tree.erase(&c->node);
}

void anon_vma_trees_insert(vma& v) {
  for (anon_vma_chain* c = v.chain; c != nullptr; c = c->next) {
    c->node.first = v.pgoff;
    c->node.last = v.pgoff + v.pages() - 1;
    c->av->tree.insert(&c->node);
  }
}

// ---------------------------------------------------------------- pages

namespace {
mapping* as_owner(anon_vma* a) { return reinterpret_cast<mapping*>(a); }
anon_vma* as_anon_vma(mapping* f) { return reinterpret_cast<anon_vma*>(f); }
}  // namespace

void folio_set_new_anon(cpu& self, pfn_t head, vma& v, va_t va) {
  frame& f = self.ram->of(head);
  f.index = v.pgoff_of(va);
  f.file.store(as_owner(v.anon_vma.load(acquire)), relaxed);
  f.flags.store(pg_anon | pg_anon_exclusive | pg_uptodate | pg_lru, release);
}

void folio_move_anon(cpu& self, pfn_t head, vma& v) {
  self.ram->of(head).file.store(as_owner(v.anon_vma.load(acquire)), release);
}

anon_vma* folio_get_anon_vma(cpu& self, pfn_t head) {
  const rcu_section section(self.rcu);
  frame& f = self.ram->of(head);
  anon_vma* a = as_anon_vma(f.file.load(acquire));
  const auto mapped = [&] {
    if (f.entire_mapcount.load(acquire) != 0) return true;
    for (u64 i = 0; i < 1ULL << f.order; ++i)
      if (self.ram->of(head + i).mapcount.load(acquire) != 0) return true;
    return false;
  };
  // A mapping keeps its VMA, and that its anon_vmas: while there is one, this is alive; and its root.
  if (a == nullptr || !mapped()) return nullptr;
  for (u32 n = a->refs.load(relaxed); n != 0;)
    if (a->refs.compare_exchange_weak(n, n + 1, acquire, relaxed)) {
      if (mapped()) return a;
      put_anon_vma(self, a);
      return nullptr;
    }
  return nullptr;
}

}  // namespace pgtbl::inline PGTBL_WORLD
