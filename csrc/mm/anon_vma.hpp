// anon_vma.hpp -- from an anonymous page to the mappings that may have it.
//
// Problem.  A file page is found in every mapping through the file's i_mmap.  A private page has no file, and
// fork spreads it over programs: splitting or collapsing it must find all of them.
//
// Guarantee.  for_each_mapping() meets every VMA that may map the folio: a page is known by the anon_vma of the
// VMA that first had it, and a VMA stands in the tree of its own anon_vma and of each ancestor's.
//
// Method.  One anon_vma for a VMA (or for neighbours that could become one VMA), made at its first private page.
// fork chains the child's VMA to all anon_vmas of the parent's, and gives it one of its own, of the same family:
// one lock, the root's, covers the family.
//
// Publishing.  vma.anon_vma goes from null to its value under mmap_lock for read, before the ptl of the table is
// taken under which the first private page appears: who takes tables away looks at it under that ptl (B22).
//
// Protection.  Trees and counts: the root's lock.  Lifetime: a count of references; the structure itself goes by
// RCU, so that a page's anon_vma can be tried.
#pragma once
#include <type_traits>

#include "mm/mm.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct anon_vma : rcu_head {
  anon_vma() : rcu_head{} {}
  anon_vma* root =
      nullptr;  // the oldest of the family; stable.  A reference of ours, but for the root itself
  anon_vma* parent = nullptr;                                         // stable
  rwsem lock{lock_class::anon_vma_read, lock_class::anon_vma_write};  // the root's is the one that is used
  atomic<u32> refs{1};
  var<u32> children{0};     // anon_vmas whose parent this is (a root counts itself); under the root's lock
  var<u32> active_vmas{0};  // VMAs whose own anon_vma this is; under the root's lock
  i_mmap_tree tree;         // of the chains' nodes; under the root's lock
};

/// One VMA in one anon_vma.
struct anon_vma_chain {
  anon_vma_chain(vma& v, anon_vma& a) : av(&a) { node.owner = &v; }
  anon_vma* av;
  i_mmap_node node;
  var<anon_vma_chain*> next{nullptr};  // in vma.chain
};

class [[nodiscard]] anon_vma_write_guard {
 public:
  /// Of the family of the VMA; nothing where it has none.
  anon_vma_write_guard(cpu& self, const vma& v) : anon_vma_write_guard(self, v.anon_vma.load(relaxed)) {}
  anon_vma_write_guard(cpu& self, anon_vma* a) : self_(self), root_(a != nullptr ? a->root : nullptr) {
    if (root_ != nullptr) hold_ = root_->lock.write_lock(self);
  }
  ~anon_vma_write_guard() { unlock(); }
  anon_vma_write_guard(const anon_vma_write_guard&) = delete;
  anon_vma_write_guard& operator=(const anon_vma_write_guard&) = delete;
  void unlock() {
    if (root_ != nullptr) root_->lock.write_unlock(self_, hold_);
    root_ = nullptr;
  }

 private:
  cpu& self_;
  anon_vma* root_;
  hold hold_;
};

/// The VMA gets an anon_vma, unless it has one: a neighbour's where the two could be one VMA.  Under mmap_lock.
void anon_vma_prepare(cpu& self, vma& v);
/// dst, which is new and in no tree, is chained to all that src is chained to.
void anon_vma_clone(cpu& self, vma& dst, vma& src);
/// The same for a child's VMA, which gets an anon_vma of its own besides (or takes over one that lost its VMA).
void anon_vma_fork(cpu& self, vma& child, vma& parent);
/// Takes the VMA out of every tree; frees what nobody uses any more.
void unlink_anon_vmas(cpu& self, vma& v);
/// Before and after a VMA changes its range: under the family's lock for write.
void anon_vma_trees_erase(vma& v);
void anon_vma_trees_insert(vma& v);

/// A new anonymous folio at va of the VMA: this mm's alone.
void folio_set_new_anon(cpu& self, pfn_t head, vma& v, va_t va);
/// The whole folio belongs to this VMA from now on (folio_move_anon_rmap).  Under its lock.
void folio_move_anon(cpu& self, pfn_t head, vma& v);
/// The anon_vma of a folio that is mapped, with a reference; null where it is mapped no more.
anon_vma* folio_get_anon_vma(cpu& self, pfn_t head);
void put_anon_vma(cpu& self, anon_vma* a);

/// Calls f(vma, va of the folio's first page, or of the first that the VMA covers) for each VMA that may map the
/// folio's pages [index, index + pages).  The caller has the family's lock.
template <class F>
void for_each_mapping(anon_vma& a, pgoff_t index, u64 pages, F&& f) {
  a.tree.for_each(index, index + pages - 1, [&](i_mmap_node& n) { f(*n.owner); });
}

}  // namespace pgtbl::inline PGTBL_WORLD
