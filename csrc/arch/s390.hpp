// s390.hpp -- two tables of 2K in a page of 4K, with one rcu_head for both; PGSTE tables; and, later, one table a page.
//
// Problem.  A page of two halves may stand on its mm's list, so that the half that is free can be handed out, and may
// be queued for RCU; list node and rcu_head are the same two words.  Both halves may be deferred at once.  And a half
// that a batch is about to free (PP) is not free yet.
// Method.  Four bits of the page's state:  AA, which halves are allocated; PP, which are pending removal.  A half goes
// from A to P in one atomic step under context.lock, and P is cleared outside of it: of all who clear something, the one
// that finds nothing left frees the page (B44).  pgtable_list holds the pages with exactly one half allocated.  A page of
// which a half was deferred is marked Active first, is never put on the list again, and so never hands out a half:
// what is left of it goes when both are gone, by RCU, once.  Neither the callback nor anything after the lock looks at the
// mm, which may be gone by then (B46).
// Order.  Active before AA and PP change: listed first, the deferred half would be handed out again at once.
// Only the head of the list is looked at.  Pages with a pending half go to the tail, pages whose half can be had at
// once to the head; so nothing may be listed that never becomes usable (B45).
// PGSTE.  A program that may run guests has whole pages, their second half being the status of the first one's entries:
// AA = 11, never PP, never listed.
// One table a page (6.9 and later): nothing of all this; pte_free_defer queues the page's head.
#pragma once
#include "arch/interface.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class s390_form : u8 { halves, one_table };

class s390_tables final : public pte_tables {
 public:
  explicit s390_tables(table_host& host, s390_form form = s390_form::halves) : host_(host), form_(form) {}

  std::optional<table_addr> pte_alloc_one(context& self, arch_context& mm) override;
  void pte_free(context& self, arch_context& mm, table_addr table) override;
  void pte_free_defer(context& self, arch_context& mm, table_addr table) override;
  void pte_free_tlb(context& self, arch_context& mm, table_addr table) override;
  void tlb_remove_table(context& self, table_addr table) override;
  void audit(const table_page& page, std::string& found) const override;

  // Of a page's `refs`.
  static constexpr u32 aa(u32 half) { return 1U << half; }
  static constexpr u32 pp(u32 half) { return 0x10U << half; }
  static constexpr u32 aa_both = 0x03, pp_both = 0x30;

 private:
  u32 half_of(table_addr a) const { return a % host_.page_bytes() < host_.page_bytes() / 2 ? 0 : 1; }
  u32 change(context& self, table_page& page, u32 bits, const char* what);
  void shadow(table_page& page, const char* what, u32 active, u32 listed);
  std::optional<table_addr> take_listed(context& self, arch_context& mm);
  void begin_free(context& self, arch_context& mm, table_page& page, u32 half, bool by_batch);
  void end_free(context& self, table_page& page, u32 half);
  void free_whole(context& self, table_page& page);
  bool halves(const arch_context& mm) const { return form_ == s390_form::halves && mm.alloc_pgste == 0; }
  /// The same of a table that is freed.
  bool frees_halves(const arch_context& mm) const {
    return form_ == s390_form::halves && (mm.alloc_pgste == 0 || !guard(Guard::s390_pgste_whole));
  }
  void release(context& self, table_page& page);

  table_host& host_;
  const s390_form form_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
