#include "arch/powerpc.hpp"

#include "base/hooks.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
powerpc_tables& tables_of(table_page& page) { return static_cast<powerpc_tables&>(page.host->tables()); }
}  // namespace

/// For the state machine: 0, 1 or more references, and whether the page is marked.
void powerpc_tables::step(table_page& page, const char* what, u32 refs_before, u32 refs_after, u32 active) {
  if constexpr (!tells_states) return;
  const auto state = [](u32 refs, u32 mark) { return (refs == 0 ? 0U : 1U) | mark << 1; };
  const u32 from = state(refs_before, page.shadow);
  page.shadow = active;
  host_.changed(what, from, state(refs_after, active));
}

std::optional<table_addr> powerpc_tables::take_cached(context& self, arch_context& mm) {
  std::optional<spin_guard> g;
  if (guard(Guard::ppc_cache_lock)) g.emplace(self, mm.lock, lock_class::other, where::current());
  // get(): as an actor's first step it has to name its place itself, a trace having no other.
  const table_addr mine = (mm.*next_).get();
  if (mine == 0) return std::nullopt;
  const table_addr next = mine + fragment_bytes();
  mm.*next_ = next % host_.page_bytes() == 0 ? 0 : next;
  return mine;
}

std::optional<table_addr> powerpc_tables::pte_alloc_one(context& self, arch_context& mm) {
  if (const auto cached = take_cached(self, mm)) return cached;
  table_page* page = host_.page_alloc(self);
  if (page == nullptr) return std::nullopt;
  const table_addr first = host_.base_of(*page);
  page->shadow = 0;
  page->refs.store(1, relaxed);
  if (fragments_ == 1) return first;
  const spin_guard g(self, mm.lock, lock_class::other);
  // Another thread may have filled the cache since we looked: its fragments would be handed out by nobody, and its
  // page never freed.  This page then serves one fragment.
  if (guard(Guard::ppc_cache_recheck) && mm.*next_ != 0) return first;
  page->refs.store(fragments_, relaxed);
  mm.*next_ = first + fragment_bytes();
  return first;
}

void powerpc_tables::queue(context& self, table_page& page, rcu_callback f) {
  if (page.claim(self, overlay::use::queued, "A-10")) host_.page_call_rcu(self, page, f);
}

void powerpc_tables::drop(context& self, table_page& page, u32 references, bool destroying) {
  const u32 before = page.refs.fetch_sub(references, acq_rel);
  if (before < references) {
    breach(self, "A-11", "a fragment is freed whose page has no reference left");
    return;
  }
  // Destroyed with its context the page is freed at once, marked or not: nobody is left who could walk in it.
  const bool gone = destroying && before == references;
  step(page, destroying ? "destroy_context" : "free", before, before - references, gone ? 0 : page.shadow);
  if (before != references) return;
  // Whoever marked the page did so before it dropped its reference, and ours was dropped after it: seen.
  if (!destroying && guard(Guard::ppc_free_sees_active) && page.active.exchange(0, acq_rel) != 0) {
    queue(self, page, [](context& ctx, rcu_head* head) {
      table_page& p = overlay::page_of<table_page>(head);
      p.leave();
      tables_of(p).step(p, "grace period", 0, 0, 0);
      p.host->page_free(ctx, p);
    });
    return;
  }
  page.active.store(0, relaxed);
  host_.page_free(self, page);
}

void powerpc_tables::pte_free(context& self, arch_context&, table_addr table) {
  drop(self, host_.page_of(table), 1);
}

void powerpc_tables::pte_free_defer(context& self, arch_context&, table_addr table) {
  table_page& page = host_.page_of(table);
  if (!guard(Guard::ppc_one_head)) {  // as posted first: each fragment queues the page
    queue(self, page, [](context& ctx, rcu_head* head) {
      table_page& p = overlay::page_of<table_page>(head);
      p.leave();
      tables_of(p).drop(ctx, p, 1);
    });
    return;
  }
  if (guard(Guard::ppc_active_first)) {
    page.active.store(1, relaxed);  // before the reference: drop()'s fetch_sub releases it
    step(page, "defer: mark", 1, 1, 1);
  }
  drop(self, page, 1);
  if (!guard(Guard::ppc_active_first)) page.active.store(1, relaxed);
}

void powerpc_tables::destroy_context(context& self, arch_context& mm) {
  const table_addr next = mm.*next_;
  if (next == 0 || !guard(Guard::ppc_destroy_drops)) return;
  mm.*next_ = 0;
  table_page& page = host_.page_of(next);
  const auto given = static_cast<u32>((next - host_.base_of(page)) / fragment_bytes());
  drop(self, page, fragments_ - given, true);
}

void powerpc_tables::audit(const table_page& page, std::string& found) const {
  const u32 refs = page.refs.load(acquire);
  if (refs == 0 && page.now() != overlay::use::queued)
    found += "A-11: a page of fragments has no reference, and was not freed\n";
  if (refs > fragments_)
    found += "A-11: a page of " + std::to_string(fragments_) + " fragments has " + std::to_string(refs) +
             " references\n";
}

void assert_pte_locked(context& self, const spinlock* ptl) {
  if (ptl == nullptr) {
    if (!guard(Guard::assert_none_exempt))
      breach(self, "B41", "assert_pte_locked finds no table in the PMD, and stops the kernel");
    return;
  }
  if (!holds(self, ptl)) breach(self, "G-33", "assert_pte_locked: a PTE is changed without its table's lock");
}

void deposit::put(context& self, table_addr table) {
  if (slot_.load(relaxed) != 0) breach(self, "B50", "a table is deposited behind a huge PMD that has one");
  slot_.store(table, release);
}

table_addr deposit::withdraw(context& self, table_host& host) {
  const table_addr table = slot_.load(relaxed);
  if (table == 0) {
    breach(self, "B50", "a huge PMD goes, and no table was deposited behind it");
    return 0;
  }
  slot_.store(0, relaxed);
  const table_addr end = table + words_ * sizeof(u64);
  if (guard(Guard::ppc_slots_cleared))
    for (table_addr a = table; a < end; a += sizeof(u64)) host.entry(a).store(0, relaxed);
  for (table_addr a = table; a < end; a += sizeof(u64)) {
    if (host.entry(a).load(relaxed) == 0) continue;
    breach(self, "B50", "a table is withdrawn from behind a huge PMD, and has hash slots in it");
    break;
  }
  return table;
}

void deposit::note_slot(context& self, table_host& host, u64 i, u64 pages) {
  const table_addr table = slot_.load(acquire);
  if (table == 0) {
    breach(self, "B50", "a hash fault finds a huge PMD, and no table to note its slot in");
    return;
  }
  host.entry(table + i * words_ / pages * sizeof(u64)).store(noted, relaxed);
}

}  // namespace pgtbl::inline PGTBL_WORLD
