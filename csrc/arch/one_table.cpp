#include "arch/one_table.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
enum state : u32 { live, queued, gone };
}

void one_table::step(table_page& page, const char* what, u32 to) {
  if constexpr (!tells_states) return;
  const u32 from = page.shadow;
  page.shadow = to;
  host_.changed(what, from, to);
}

std::optional<table_addr> one_table::pte_alloc_one(context& self, arch_context&) {
  table_page* page = host_.page_alloc(self);
  if (page == nullptr) return std::nullopt;
  page->refs.store(1, relaxed);
  if constexpr (tells_states) page->shadow = live;
  return host_.base_of(*page);
}

void one_table::pte_free(context& self, arch_context&, table_addr table) { tlb_remove_table(self, table); }

void one_table::tlb_remove_table(context& self, table_addr table) {
  table_page& page = host_.page_of(table);
  step(page, "free", gone);
  page.refs.store(0, relaxed);
  host_.page_free(self, page);
}

void one_table::pte_free_defer(context& self, arch_context&, table_addr table) {
  if (handle_ == table_handle::entries && !guard(Guard::sparc_handle_is_entries)) {
    // As the generic function does: the handle is the descriptor.  Its head then lies over the table's first entries.
    host_.entry(table).store(reinterpret_cast<u64>(&host_), relaxed);
    return;
  }
  table_page& page = host_.page_of(table);
  if (!page.claim(self, overlay::use::queued, "G-8")) return;
  step(page, "defer", queued);
  host_.page_call_rcu(self, page, [](context& ctx, rcu_head* head) {
    table_page& p = overlay::page_of<table_page>(head);
    p.leave();
    static_cast<one_table&>(p.host->tables()).step(p, "grace period", gone);
    p.refs.store(0, relaxed);
    p.host->page_free(ctx, p);
  });
}

void one_table::audit(const table_page& page, std::string& found) const {
  if (page.refs.load(acquire) != 1) found += "G-11: a page of tables is alive, and holds no table\n";
}

}  // namespace pgtbl::inline PGTBL_WORLD
