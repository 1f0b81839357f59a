// interface.hpp -- what an architecture is, as far as its tables and its entries go: what a new one has to fill.
// Caches and what stands behind huge pages have hooks elsewhere; docs/architectures.md lists them.
//
// Two parts.  How PTE tables come and go is a class (pte_tables); how an entry is stored and read is a type, because a
// walk must cost nothing more than its loads (entry_slot; x86-64: one word; x86-pae: two halves).
//
// Life of a table, whatever page it lies in:
//   pte_alloc_one       a table for this mm: whole page, or a part of one
//   pte_free            at once: nobody can have it mapped, and no list or batch knows it
//   pte_free_defer      after a grace period: walkers that hold RCU may still be in it.  Allocates nothing, takes no
//                       sleeping lock; may be called for every part of a page at the same time
//   pte_free_tlb        the first half of a free through mmu_gather, while the mm lives ...
//   tlb_remove_table    ... and the second, after the flush or the grace period: the mm may be gone
//   destroy_context     the mm is gone: gives back what its cache had not handed out
#pragma once
#include <concepts>

#include "arch/table_page.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// What a mm keeps for its architecture (mm->context).
struct arch_context {
  spinlock lock;                // powerpc: mm->page_table_lock; s390: context.lock
  var<table_addr> next{0};      // powerpc: pte_frag, the next fragment never handed out; 0: none.  Under lock
  var<table_addr> pmd_next{0};  // powerpc: pmd_frag, the same of PMD fragments.  Under lock
  page_list pages;              // s390: pgtable_list, pages with exactly one half to hand out.  Under lock
  u32 alloc_pgste = 0;          // s390: its tables have room for a guest's state; stable from birth
  atomic<u32> has_pgste{0};     // s390: a guest runs; goes up once
};

class pte_tables {
 public:
  virtual std::optional<table_addr> pte_alloc_one(context& self, arch_context& mm) = 0;
  virtual void pte_free(context& self, arch_context& mm, table_addr table) = 0;
  virtual void pte_free_defer(context& self, arch_context& mm, table_addr table) = 0;
  virtual void pte_free_tlb(context&, arch_context&, table_addr) {}
  virtual void tlb_remove_table(context& self, table_addr table) = 0;
  virtual void destroy_context(context&, arch_context&) {}
  /// What cannot be at quiescence: one line each, appended to `found`.
  virtual void audit(const table_page& page, std::string& found) const = 0;

 protected:
  ~pte_tables() = default;
};

/// A slot that holds one entry.  `set` from none to present; `get_and_clear` fetches what was there, accessed and dirty
/// bits up to that moment; `get_lockless` may meet a writer in the middle.
template <class S>
concept entry_slot = requires(S s, const S c, u64 v) {
  { c.get() } -> std::same_as<u64>;
  { c.get_lockless() } -> std::same_as<u64>;
  s.set(v);
  { s.get_and_clear() } -> std::same_as<u64>;
};

}  // namespace pgtbl::inline PGTBL_WORLD
