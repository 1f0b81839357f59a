#include "khugepaged/collapse.hpp"

#include "mm/fault.hpp"

namespace pgtbl::inline PGTBL_WORLD {

const char* to_string(scan_result r) {
  static constexpr const char* names[] = {
#define X(name) #name,
      PGTBL_SCAN_RESULTS(X)
#undef X
  };
  return names[static_cast<unsigned>(r)];
}

const char* tracepoint_text(scan_result r) {
  switch (r) {
    case scan_result::fail: return "failed";
    case scan_result::succeed: return "succeeded";
    case scan_result::pmd_mapped: return "page_pmd_mapped";
    case scan_result::page_ro: return "no_writable_page";
    case scan_result::page_count: return "not_suitable_page_count";
    case scan_result::page_lru: return "page_not_in_lru";
    case scan_result::page_lock: return "page_locked";
    case scan_result::page_anon: return "page_not_anon";
    case scan_result::any_process: return "no_process_for_page";
    case scan_result::vma_check: return "vma_check_failed";
    case scan_result::address_range: return "not_suitable_address_range";
    case scan_result::del_page_lru: return "could_not_delete_page_from_lru";
    case scan_result::alloc_huge_page_fail: return "alloc_huge_page_failed";
    default: return to_string(r);
  }
}

found_pmd find_pmd_or_thp_or_none(cpu& self, mm& m, va_t va) {
  const pmd_ref p = pmd_offset(self, m, va);
  if (!p) return {scan_result::pmd_null, p};
  pause_at(self, point::fp_slot_found);
  assert_upper_table_live(self, p, va);
  switch (p.get().kind()) {
    case pmd_kind::none: return {scan_result::pmd_none, p};
    case pmd_kind::huge: return {scan_result::pmd_mapped, p};
    case pmd_kind::table: return {scan_result::succeed, p};
    default: return {scan_result::pmd_null, p};
  }
}

std::optional<va_t> extent_in(const vma& v, pgoff_t pgoff) {
  if (pgoff < v.pgoff) return std::nullopt;
  const va_t at = v.va_of(pgoff);
  if ((at & (pmd_size - 1)) != 0 || at < v.start || v.end < at + pmd_size) return std::nullopt;
  return at;
}

locked_huge lock_huge_folio(cpu& self, mapping& f, pgoff_t start) {
  for (;;) {
    const cached_page p = filemap_get(self, f, start);
    if (!p) return {scan_result::page_null, 0, {}};
    locked_huge found{scan_result::succeed, p.head, {}};
    if (guard(Guard::cpmt_folio_lock)) found.lock.emplace(self, p.head);
    const frame& h = self.ram->of(p.head);
    const bool stays = still_cached(self, f, start, p);
    if (stays && h.order == huge_order) return found;
    found.lock.reset();
    folio_put(self, p.head);
    if (stays) return {scan_result::page_compound, 0, {}};
  }
}

bool set_huge_pmd(cpu& self, vma& v, va_t extent, pmd_ref pmdp, pfn_t head) {
  folio_get(self, head);
  if (do_set_pmd(self, v, extent, pmdp, head)) return true;
  folio_put(self, head);
  return false;
}

void put_off(cpu& self, mm& m, va_t extent) {
  if (!self.rules->retry_array) return;
  put_off_array& a = m.put_off;
  const spin_guard g(self, a.lock, lock_class::other);
  if (a.n == m.home.config.put_off_extents) {
    self.led.add(event::retract_forgotten);
    return;
  }
  a.at[a.n] = extent;
  a.n += 1;
  self.led.add(event::retract_put_off);
}

u32 collapse_put_off(cpu& self, mm& m) {
  if (!self.rules->retry_array) return 0;
  {
    const spin_guard g(self, m.put_off.lock, lock_class::other);
    if (m.put_off.n == 0) return 0;
  }
  const mmap_write_guard lock(self, m, mmap_write_guard::try_it{});
  if (!lock.held()) return 0;
  va_t at[put_off_array::capacity];
  u32 n;
  {
    const spin_guard g(self, m.put_off.lock, lock_class::other);
    n = m.put_off.n;
    for (u32 i = 0; i < n; ++i) at[i] = m.put_off.at[i];
    m.put_off.n = 0;
  }
  if (m.exiting()) return 0;
  u32 changed = 0;
  for (u32 i = 0; i < n; ++i) {
    changed += collapse_pte_mapped_thp(self, m, at[i], false) == scan_result::succeed ? 1 : 0;
    self.led.add(event::retract_caught_up);
  }
  return changed;
}

scan_result retract_page_tables(
    cpu& self, mapping& f, pgoff_t start, pfn_t head, const collapse_control& cc) {
  return self.rules->retract_without_mmap_lock ? v6_6::retract_page_tables(self, f, start, head, cc)
                                               : v6_4::retract_page_tables(self, f, start, head, cc);
}

scan_result collapse_pte_mapped_thp(cpu& self, mm& m, va_t va, bool install) {
  const scan_result r = self.rules->collapse_clears_ptes
                            ? v6_6::collapse_pte_mapped_thp(self, m, va, install)
                            : v6_4::collapse_pte_mapped_thp(self, m, va, install);
  if (r == scan_result::succeed) self.led.add(event::collapse_pte_mapped);
  return r;
}

}  // namespace pgtbl::inline PGTBL_WORLD
