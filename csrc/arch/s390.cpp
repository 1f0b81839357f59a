#include "arch/s390.hpp"

#include <cstdio>

namespace pgtbl::inline PGTBL_WORLD {

namespace {
constexpr u32 shadow_active = 0x100, shadow_listed = 0x200;
}

// ---- what is told of the state machine -----------------------------------------------------------

void s390_tables::shadow(table_page& page, const char* what, u32 active, u32 listed) {
  if constexpr (!tells_states) return;
  const u32 from = page.shadow;
  page.shadow = (from & 0xff) | active | listed;
  if (page.shadow != from) host_.changed(what, from, page.shadow);
}

/// Toggles bits of the page's state; what it is then.  A half that is allocated and pending cannot be.
u32 s390_tables::change(context& self, table_page& page, u32 bits, const char* what) {
  const u32 now = page.refs.fetch_xor(bits, acq_rel) ^ bits;
  if ((now & aa_both & (now & pp_both) >> 4) != 0) {
    char text[16];
    std::snprintf(text, sizeof text, "%#04x", now);
    breach(self, "A-15", std::string("a half is allocated and pending at once: PP--AA is ") + text);
  }
  if constexpr (tells_states) {
    const u32 from = page.shadow;
    page.shadow = (from & ~0xffU) | now;
    host_.changed(what, from, page.shadow);
  }
  return now;
}

// ---- allocation ------------------------------------------------------------------------------------

std::optional<table_addr> s390_tables::take_listed(context& self, arch_context& mm) {
  const spin_guard g(self, mm.lock, lock_class::other);
  table_page* page = mm.pages.first();
  if (page == nullptr) return std::nullopt;
  const u32 state = page->refs.load(relaxed);
  // A half that is pending is still in somebody's batch (B43).
  const u32 pending = guard(Guard::s390_pending_busy) ? (state & pp_both) >> 4 : 0;
  const u32 busy = (state & aa_both) | pending;
  if (busy == aa_both) return std::nullopt;
  if (!guard(Guard::s390_active_unlisted) && page->active.load(relaxed) != 0) return std::nullopt;
  const u32 half = (busy & aa(0)) == 0 ? 0 : 1;
  change(self, *page, aa(half), "alloc: half taken");
  mm.pages.del(*page);
  shadow(*page, "alloc: off the list", page->shadow & shadow_active, 0);
  return host_.base_of(*page) + half * (host_.page_bytes() / 2);
}

std::optional<table_addr> s390_tables::pte_alloc_one(context& self, arch_context& mm) {
  const bool whole = !halves(mm);
  if (!whole) {
    if (const auto half = take_listed(self, mm)) return half;
  }
  table_page* page = host_.page_alloc(self);
  if (page == nullptr) return std::nullopt;
  page->pt_mm = &mm;
  page->guest_status = mm.alloc_pgste != 0;
  const u32 state = whole ? aa_both : aa(0);
  page->refs.store(state, relaxed);
  if constexpr (tells_states) page->shadow = state;
  if (whole) return host_.base_of(*page);
  const spin_guard g(self, mm.lock, lock_class::other);
  mm.pages.add_head(self, *page, "A-17");
  shadow(*page, "alloc: fresh page listed", 0, shadow_listed);
  return host_.base_of(*page);
}

// ---- free ------------------------------------------------------------------------------------------

/// Under context.lock: the half goes from allocated to pending, and the page to where it belongs.
void s390_tables::begin_free(context& self, arch_context& mm, table_page& page, u32 half, bool by_batch) {
  const spin_guard g(self, mm.lock, lock_class::other);
  const u32 bits = guard(Guard::s390_two_steps) ? aa(half) | pp(half) : aa(half);
  const u32 now = change(self, page, bits, "free: half pending");
  const bool other_lives = (now & aa(1 - half)) != 0;
  const bool active = page.active.load(relaxed) != 0;
  if (other_lives && !active) {
    // One half can be had.  Out of a batch only later: so behind those that can be had now.
    by_batch ? mm.pages.add_tail(self, page, "A-17") : mm.pages.add_head(self, page, "A-17");
  } else if (other_lives && !guard(Guard::s390_active_unlisted)) {
    mm.pages.add_tail(self, page,
                      "A-17");  // the second version of the series: known to be of no use, and listed
  } else if (guard(Guard::s390_unlist)) {
    mm.pages.del(page);  // its words may be the rcu_head from now on (B42)
  }
  shadow(page, "free: list", page.shadow & shadow_active,
         page.now() == overlay::use::listed ? shadow_listed : 0);
}

/// Clears what is left of the half.  Who finds nothing more has the page to himself.
void s390_tables::end_free(context& self, table_page& page, u32 half) {
  const u32 left = guard(Guard::s390_two_steps) ? change(self, page, pp(half), "free: pending over")
                                                : page.refs.load(acquire);
  if (left == 0) release(self, page);
}

void s390_tables::free_whole(context& self, table_page& page) {
  if (change(self, page, aa_both, "free: whole page") == 0) release(self, page);
}

namespace {
void free_page_after_grace_period(context& self, rcu_head* head) {
  table_page& page = overlay::page_of<table_page>(head);
  if (!guard(Guard::s390_callback_no_mm)) {  // the first version of the series: the callback minds the list
    const spin_guard g(self, page.pt_mm->lock, lock_class::other);
    page.pt_mm->pages.del(page);
  }
  page.leave();
  page.host->page_free(self, page);
}
}  // namespace

void s390_tables::release(context& self, table_page& page) {
  if (page.now() == overlay::use::listed)
    breach(self, "A-19", "a page of tables is released, and is on the list of its mm");
  // Nobody else is left who could clear the mark: whoever set it held a half.
  if (page.active.exchange(0, acq_rel) == 0) {
    host_.page_free(self, page);
    return;
  }
  if (page.claim(self, overlay::use::queued, "A-17"))
    host_.page_call_rcu(self, page, free_page_after_grace_period);
}

void s390_tables::pte_free(context& self, arch_context& mm, table_addr table) {
  table_page& page = host_.page_of(table);
  if (!frees_halves(mm)) {
    free_whole(self, page);
    return;
  }
  begin_free(self, mm, page, half_of(table), false);
  end_free(self, page, half_of(table));
}

void s390_tables::pte_free_defer(context& self, arch_context& mm, table_addr table) {
  table_page& page = host_.page_of(table);
  // KVM may have been switched on since the VMA was looked at, and that is all right (B47).
  if (!guard(Guard::s390_pgste_allowed) && mm.has_pgste.load(relaxed) != 0)
    breach(self, "B47", "pte_free_defer warns of a program with guests");
  const u32 half = half_of(table);
  const auto mark = [&] {
    page.active.store(1, relaxed);
    shadow(page, "defer: mark", shadow_active, page.shadow & shadow_listed);
  };
  if (!frees_halves(mm)) {
    mark();
    free_whole(self, page);
  } else if (!guard(Guard::s390_one_head)) {  // the first version: each half queues the page
    begin_free(self, mm, page, half, false);
    if (!page.claim(self, overlay::use::queued, "A-17")) return;
    host_.page_call_rcu(self, page, [](context& ctx, rcu_head* head) {
      table_page& p = overlay::page_of<table_page>(head);
      p.leave();
      const table_addr first = p.host->base_of(p);
      const bool lower = (p.refs.load(relaxed) & pp(0)) != 0;
      p.host->tables().tlb_remove_table(ctx, lower ? first : first + p.host->page_bytes() / 2);
    });
  } else if (guard(Guard::s390_active_first)) {
    mark();  // before AA and PP: begin_free() looks at it under the lock
    pte_free(self, mm, table);
  } else {
    begin_free(self, mm, page, half, false);
    mark();
    end_free(self, page, half);
  }
}

void s390_tables::pte_free_tlb(context& self, arch_context& mm, table_addr table) {
  if (frees_halves(mm)) begin_free(self, mm, host_.page_of(table), half_of(table), true);
}

void s390_tables::tlb_remove_table(context& self, table_addr table) {
  table_page& page = host_.page_of(table);
  // A whole page's is allocated and never pending.
  if (page.refs.load(relaxed) == aa_both)
    free_whole(self, page);
  else
    end_free(self, page, half_of(table));
}

// ---- at quiescence ----------------------------------------------------------------------------------

void s390_tables::audit(const table_page& page, std::string& found) const {
  const u32 state = page.refs.load(acquire);
  const bool listed = page.now() == overlay::use::listed;
  const u32 halves = state & aa_both;
  if ((state & pp_both) != 0) found += "A-19: a half is pending, and nobody is at it\n";
  if (form_ == s390_form::halves && halves == 0 && page.now() != overlay::use::queued)
    found += "A-19: a page without a table was not freed\n";
  if (page.guest_status) {
    if (listed || (halves != aa_both && page.now() != overlay::use::queued))
      found += "A-19: a page that has a guest's status in it was freed by halves\n";
    return;
  }
  const bool one = halves == aa(0) || halves == aa(1);
  if (listed && (!one || page.active.load(acquire) != 0))
    found += "A-16: a page is on the list, and none of its halves can be handed out\n";
  if (!listed && one && page.active.load(acquire) == 0 && form_ == s390_form::halves)
    found += "A-16: a page has a half to hand out, and is on no list\n";
}

}  // namespace pgtbl::inline PGTBL_WORLD
