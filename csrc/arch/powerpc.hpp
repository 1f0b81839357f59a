// powerpc.hpp -- fragments: one page holds several PTE tables, and one rcu_head.
//
// Problem.  A 64K page holds 16 tables of 4K.  Two of them may be deferred at once, and the page has one head: queued
// twice, the list of callbacks is corrupt, and the page is freed while tables in it live (B39).
// Method.  pt_frag_refcount counts the fragments that live or were never handed out.  Whoever defers a fragment marks
// the page Active, and then drops its reference as in any free.  Only the last to go looks at the mark: Active, the page
// waits for one grace period, which began after the last deferral; not Active, it is freed at once.  That works because
// a fragment, once freed, is never handed out again.
// Order.  The mark before the reference (B40): dropped first, it may be the last, and the page is freed unmarked under
// readers, and marked when it is somebody else's.  Ordinary frees that come after a deferral look at the mark, too.
// States.  References and mark:
//   n>0, not Active    in use
//   n>0, Active        at least one fragment was deferred; the others live, or were never handed out
//   0, not Active      freed at once
//   0, Active          queued, once; freed after the grace period
#pragma once
#include "arch/interface.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// PTE fragments; PMD fragments are the same with another number and another cache, and are never deferred.
class powerpc_tables final : public pte_tables {
 public:
  using cache = var<table_addr> arch_context::*;
  /// fragments: how many tables a page holds (64K pages, hash: 16 of PTEs, 4 of PMDs; 4K pages: 1).
  powerpc_tables(table_host& host, u32 fragments, cache next = &arch_context::next)
      : host_(host), fragments_(fragments), next_(next) {}

  std::optional<table_addr> pte_alloc_one(context& self, arch_context& mm) override;
  void pte_free(context& self, arch_context& mm, table_addr table) override;
  void pte_free_defer(context& self, arch_context& mm, table_addr table) override;
  void tlb_remove_table(context& self, table_addr table) override { drop(self, host_.page_of(table), 1); }
  /// The fragments of the cached page that were never handed out give their references back at once.  Where they were
  /// the last, the page is freed without a grace period, marked or not: no reference to the mm is left, and its VMAs
  /// have left every i_mmap tree, so that nobody can be in one of its tables.
  void destroy_context(context& self, arch_context& mm) override;
  void audit(const table_page& page, std::string& found) const override;

 private:
  std::optional<table_addr> take_cached(context& self, arch_context& mm);
  u64 fragment_bytes() const { return host_.page_bytes() / fragments_; }
  void drop(context& self, table_page& page, u32 references, bool destroying = false);
  void queue(context& self, table_page& page, rcu_callback f);
  void step(table_page& page, const char* what, u32 refs_before, u32 refs_after, u32 active);

  table_host& host_;
  const u32 fragments_;
  const cache next_;  // where a mm has the next fragment that was never handed out
};

/// assert_pte_locked: who changes a PTE holds its table's lock, found through the PMD.  A PMD that is none passes:
/// anonymous collapse empties it before it clears the entries of the table that it took (B41).
/// ptl: of the table that the PMD leads to now; null where it is none.
void assert_pte_locked(context& self, const spinlock* ptl);

/// The table that stands ready behind a huge PMD, which hash MMUs keep the slots of its hash entries in; and which
/// a split takes for its entries.  One per PMD slot, changed under its pml; a hash fault reads it without.
class deposit {
 public:
  /// slot: of the PMD, in the second half of its table.  words: of a table.
  deposit(atomic<u64>& slot, u32 words) : slot_(slot), words_(words) {}

  /// Before the PMD is made huge.
  void put(context& self, table_addr table);
  /// After the PMD is huge no more, and nobody is in a hash fault that saw it: the table, with no hash slot left in it (as the
  /// entries of small pages that come into it would find them); 0: there was none, and that was reported.
  table_addr withdraw(context& self, table_host& host);
  /// A hash fault put a translation of page `i`, of `pages` of the huge page, into the hash table, and notes its slot: all over
  /// the table, as there are slots for the 4K parts of pages.  Under the huge PMD, with interrupts off.
  void note_slot(context& self, table_host& host, u64 i, u64 pages);

  table_addr peek() const { return slot_.load(relaxed); }

  /// What a word says in which a slot was noted.
  static constexpr u64 noted = 0x8;

 private:
  atomic<u64>& slot_;
  const u32 words_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
