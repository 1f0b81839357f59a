#include "pgtable/arch_tables.hpp"

#if defined(PGTBL_ARCH_TABLES)
#include <vector>

#include "arch/one_table.hpp"
#include "arch/powerpc.hpp"
#include "arch/s390.hpp"
#include "pgtable/walk.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
#if defined(PGTBL_ARCH_POWERPC)
using form_t = powerpc_tables;
form_t* make_form(table_host& host, table_form) {
  return make<form_t>(host, static_cast<u32>(tables_per_page));
}
#elif defined(PGTBL_ARCH_S390)
using form_t = s390_tables;
form_t* make_form(table_host& host, table_form form) {
  return make<form_t>(host, form == table_form::one_table ? s390_form::one_table : s390_form::halves);
}
#else
using form_t = one_table;
form_t* make_form(table_host& host, table_form) {
#if defined(PGTBL_ARCH_SPARC64)
  return make<form_t>(host, table_handle::entries);
#else
  return make<form_t>(host);
#endif
}
#endif

#if defined(PGTBL_ARCH_POWERPC)
constexpr u32 pmds_per_page = 1U << geometry.pmd_tables_per_page_shift;
constexpr u64 handles_per_pmd = tables_per_page / pmds_per_page;
#endif

std::string named(pgtable_t t) {
  std::string s = "the table in frame " + std::to_string(pfn_of(t));
  if (tables_per_page > 1) s += ", part " + std::to_string(static_cast<u64>(t) % tables_per_page);
  return s;
}
}  // namespace

arch_tables::arch_tables(memory& ram, table_form form)
    :
#if defined(PGTBL_ARCH_X86_PAE)
      pmds(ram.frames()),
#elif defined(PGTBL_ARCH_ARM)
      lines(ram),
      split_ptl(form == table_form::split_locks),
#endif
      ram_(ram),
      pages_(make_array<table_page>(ram.frames())),
      lives_(make_array<table_life>(ram.frames() * tables_per_page)),
      locks_(geometry.split_ptl && geometry.split_pml ? nullptr : make_array<spinlock*>(ram.frames())) {
  tables_ = make_form(*this, form);
#if defined(PGTBL_ARCH_POWERPC)
  pmd_tables_ = make<powerpc_tables>(pmd_host_, pmds_per_page, &arch_context::pmd_next);
#endif
}

arch_tables::~arch_tables() {
  destroy(static_cast<form_t*>(tables_));
#if defined(PGTBL_ARCH_POWERPC)
  destroy(static_cast<powerpc_tables*>(pmd_tables_));
#endif
  destroy_array(pages_, ram_.frames());
  destroy_array(lives_, ram_.frames() * tables_per_page);
  if (locks_ != nullptr) destroy_array(locks_, ram_.frames());
}

atomic<u64>& arch_tables::entry(table_addr a) {
  return reinterpret_cast<atomic<u64>&>(
      ram_.phys.entry(pgtable_t{a >> pgtable_shift}, a % (u64{1} << pgtable_shift) / sizeof(u64)));
}

// ---------------------------------------------------------------- tables

std::optional<pgtable_t> arch_tables::pte_alloc_one(cpu& self, mm_tables& t) {
  const auto a = tables_->pte_alloc_one(self, t.context);
  if (!a) return std::nullopt;
  const pgtable_t table{*a >> pgtable_shift};
  table_life& l = life(table);
  const frame_state before = l.state.load(acquire);
  if (before == frame_state::table_queued || before == frame_state::table_detached)
    breach(self, geometry.tables_per_page_shift == 1 ? "A-18" : "A-12",
           named(table) + " is handed out, and is a " + to_string(before));
  else if (before != frame_state::free)
    breach(self, "A-12", named(table) + " is handed out twice");
  ram_.phys.fill_table(table, 0);
  l.level = 1;
  l.cookie = 0;
  l.index = 0;
  l.owner = &t;
  l.state.store(frame_state::table_live, release);
  if (locks_ != nullptr && !geometry.split_ptl) {
#if defined(PGTBL_ARCH_ARM)
    share_lock(pfn_of(table), split_ptl ? ram_.of(pfn_of(table)).ptl : t.page_table_lock);
#else
    share_lock(pfn_of(table), t.page_table_lock);
#endif
  }
  self.led.add(event::pte_allocated);
  return table;
}

void arch_tables::end_life(cpu& self, pgtable_t table) {
  table_life& l = life(table);
  if (l.state.load(relaxed) == frame_state::table_queued)
    ram_.note_pending(-1);
  else
    self.led.add(event::pte_freed_now);
  self.led.add(event::pte_freed);
  l.generation.fetch_add(1, release);  // before it can be handed out: a stale translation must differ
  ram_.phys.fill_table(table, memory::poison);
  l.state.store(frame_state::free, release);
}

void arch_tables::pte_free(cpu& self, mm_tables& t, pgtable_t table) {
  if constexpr (checked_build) assert_unmapped(self, table);
  end_life(self, table);
  tables_->pte_free(self, t.context, addr_of(table));
}

void arch_tables::pte_free_defer(cpu& self, mm_tables& t, pgtable_t table) {
  table_life& l = life(table);
  if constexpr (checked_build) l.cookie = self.domain->get_state();
  l.state.store(frame_state::table_queued, release);
  self.led.add(event::pte_deferred);
  ram_.note_pending(1);
  tables_->pte_free_defer(self, t.context, addr_of(table));
}

void arch_tables::pte_free_tlb(cpu& self, mm_tables& t, pgtable_t table) {
  tables_->pte_free_tlb(self, t.context, addr_of(table));
}

void arch_tables::tlb_remove_table(cpu& self, pgtable_t table) {
  if constexpr (checked_build) assert_unmapped(self, table);
  end_life(self, table);
  tables_->tlb_remove_table(self, addr_of(table));
}

// ---------------------------------------------------------------- pages

table_page* arch_tables::page_alloc(context& self) { return page_of_level(self, *this, 1); }

table_page* arch_tables::page_of_level(context& ctx, table_host& host, u8 level) {
  cpu& self = static_cast<cpu&>(ctx);
  const auto pfn = ram_.alloc_table(self, self.frames, level);
  if (!pfn) return nullptr;
  table_page& page = pages_[*pfn];
  page.host = &host;
  page.active.store(0, relaxed);
  page.pt_mm = nullptr;
  page.guest_status = false;
  return &page;
}

void arch_tables::page_free(context& ctx, table_page& page) {
  cpu& self = static_cast<cpu&>(ctx);
  const pfn_t pfn = number(page);
  const pgtable_t first = table_at(pfn);
  for (u64 i = 0; i < tables_per_page; ++i) {
    const pgtable_t table{static_cast<u64>(first) + i};
    const frame_state s = life(table).state.load(acquire);
    if (s == frame_state::free) continue;
    if constexpr (checked_build) assert_unmapped(self, table);
    // Deferred tables end with their page, after a grace period; but at once where nobody has the mm any more.
    if (const u64 cookie = life(table).cookie; cookie != 0 && !self.domain->poll_state(cookie))
      breach(self, "A-13", named(table) + " was freed by deferral, and its page goes before a grace period");
    if (s != frame_state::table_queued)
      breach(self, "A-19", "the page of " + named(table) + " is freed, and this is a " + to_string(s));
    end_life(self, table);
  }
  page_gone(self, page);
}

void arch_tables::page_gone(context& ctx, table_page& page) {
  cpu& self = static_cast<cpu&>(ctx);
  page.refs.store(0, relaxed);
  ram_.free_table(self, self.frames, number(page));
}

void arch_tables::page_call_rcu(context& ctx, table_page& page, rcu_callback f) {
  cpu& self = static_cast<cpu&>(ctx);
  // Late walkers still spin on the page's lock: it dies in the callback (B07).
  if (!guard(Guard::dtor_deferred)) ram_.of(number(page)).ptl.kill();
  self.domain->call(self.rcu, page.head(), f, page_size);
}

void arch_tables::destroy_context(cpu& self, mm_tables& t) {
  // What is freed here need not wait: nobody has the mm any more (A-13's exception).
  if (const table_addr next = t.context.next; next != 0)
    for (u64 i = 0; i < tables_per_page; ++i)
      life(pgtable_t{static_cast<u64>(table_at(next >> page_shift)) + i}).cookie = 0;
  tables_->destroy_context(self, t.context);
#if defined(PGTBL_ARCH_POWERPC)
  pmd_tables_->destroy_context(self, t.context);
#endif
}

#if defined(PGTBL_ARCH_POWERPC)
std::optional<pgtable_t> arch_tables::pmd_alloc_one(cpu& self, mm_tables& t) {
  const auto a = pmd_tables_->pte_alloc_one(self, t.context);
  if (!a) return std::nullopt;
  const pgtable_t table{*a >> pgtable_shift};
  if (life(table).state.load(acquire) != frame_state::free)
    breach(self, "A-12", named(table) + " is handed out twice");
  return table;
}

void arch_tables::pmd_free(cpu& self, pgtable_t table) {
  for (u64 i = 0; i < handles_per_pmd; ++i)
    ram_.phys.fill_table(pgtable_t{static_cast<u64>(table) + i}, memory::poison);
  pmd_tables_->tlb_remove_table(self, addr_of(table));
}
#endif

void arch_tables::audit(std::span<const arch_context* const> contexts, std::string& found) {
  std::vector<u32> unissued(ram_.frames());  // fragments of a page that its mm has not handed out
  for (const arch_context* c : contexts) {
    if (c->next != 0)
      unissued[c->next >> page_shift] = static_cast<u32>((page_size - c->next % page_size) >> pgtable_shift);
#if defined(PGTBL_ARCH_POWERPC)
    if (c->pmd_next != 0)
      unissued[c->pmd_next >> page_shift] =
          static_cast<u32>((page_size - c->pmd_next % page_size) / (page_size / pmds_per_page));
#endif
  }
  for (pfn_t p = 1; p < ram_.frames(); ++p) {
    const frame& f = ram_.of(p);
    if (f.state.load(acquire) != frame_state::table_live || !in_parts(f.level)) continue;
    std::string here;
    pages_[p].host->tables().audit(pages_[p], here);
    u64 live = 0, waiting = 0;
    for (u64 i = 0; i < tables_per_page; ++i) {
      const frame_state s = life(pgtable_t{static_cast<u64>(table_at(p)) + i}).state.load(acquire);
      live += s == frame_state::table_live ? 1 : 0;
      waiting += s == frame_state::table_queued ? 1 : 0;
    }
#if defined(PGTBL_ARCH_POWERPC)
    if (const u64 refs = pages_[p].refs.load(acquire); refs != live + unissued[p])
      here += "A-11: " + std::to_string(refs) + " references, and " + std::to_string(unissued[p]) +
              " fragments that were never handed out\n";
#endif
    if (waiting != 0 && pages_[p].active.load(acquire) == 0)
      here += "A-13: a table was freed by deferral, and its page is not marked\n";
    for (std::size_t at = 0; at < here.size();) {
      const std::size_t end = here.find('\n', at);
      found += here.substr(at, end - at) + " (frame " + std::to_string(p) + ", " + std::to_string(live) +
               (f.level == 1 ? "" : " PMD") + " tables live in it)\n";
      at = end + 1;
    }
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
