// Faults on anonymous memory where nothing is mapped yet: the zero page for a load, a page for a store, or a whole
// extent of either where huge pages are asked for.
#include "mm/fault_parts.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

outcome install_private(const fault_in& f, pmd_ref pmdp, pfn_t pfn) {
  auto [t, why] = pte_alloc_map_lock(f, pmdp, f.va);
  if (!t || !entry_is_free(f, t->get())) {
    const outcome o = t ? outcome::done : why;
    t.reset();
    folio_put(f.self, pfn);
    return o;
  }
  page_add_pte(f, pfn, rss_kind::anon);
  t->set(f.va, protected_if_marked(f, f.unshare ? unshared_pte(f, pfn) : private_pte(f, pfn)));
  pause_at(f.self, point::ft_pte_set);
  return outcome::done;
}

namespace {

/// A load: everybody's page of zeroes will do, until the first store.
outcome map_zero_page(const fault_in& f, pmd_ref pmdp) {
  auto [t, why] = pte_alloc_map_lock(f, pmdp, f.va);
  if (!t) return why;
  if (!entry_is_free(f, t->get())) return outcome::done;
  t->set(f.va, protected_if_marked(f, mk_pte(memory::zero_page, read_only(f.v.prot()))));
  f.self.led.add(event::fault_zero);
  pause_at(f.self, point::ft_pte_set);
  return outcome::done;
}

}  // namespace

outcome do_anonymous_page(const fault_in& f, pmd_ref pmdp) {
  if (f.v.is(vm_uffd_missing)) {
    // A table now, and an anon_vma for a store: the kernel has them before it looks.
    if (f.write && !prepare_anon_vma(f)) return outcome::need_mmap_lock;
    return pte_alloc(f.self, f.m, pmdp) ? outcome::reported_missing : outcome::oom;
  }
  if (!f.write) return map_zero_page(f, pmdp);
  if (!prepare_anon_vma(f)) return outcome::need_mmap_lock;
  const auto pfn = new_anon_page(f);
  if (!pfn) return outcome::oom;
  f.self.ram->phys.clear_page(*pfn);
  f.self.led.add(event::fault_anon);
  return install_private(f, pmdp, *pfn);
}

std::optional<outcome> do_huge_pmd_anonymous_page(const fault_in& f, pmd_ref pmdp) {
  cpu& self = f.self;
  memory& ram = *self.ram;
  const va_t extent = pmd_align_down(f.va);
  if (!anon_thp_allowed(self, f.v, f.va)) return std::nullopt;
  if (f.v.is(vm_uffd_missing)) return outcome::reported_missing;
  if (!prepare_anon_vma(f)) return outcome::need_mmap_lock;
  const auto table = pte_alloc_one(self, f.m);  // to be deposited
  if (!table) return std::nullopt;
  const auto head = f.write ? ram.alloc_huge(self, self.frames) : ram.huge_zero_page(self, self.frames);
  if (!head) {
    pte_free(self, f.m, *table);
    return std::nullopt;
  }
  if (f.write)
    for (u64 i = 0; i < pages_per_huge; ++i) ram.phys.clear_page(*head + i);
  {
    const spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
    if (pmdp.get().none()) {
      set_anon_huge_pmd(self, f.v, extent, pmdp, *head, *table, f.write);
      self.led.add(f.write ? event::fault_anon : event::fault_zero);
      if (f.write) self.led.add(event::fault_anon_huge);
      return outcome::done;
    }
  }
  pte_free(self, f.m, *table);
  if (f.write) folio_put(self, *head);
  return outcome::done;  // somebody was faster: the access is repeated
}

}  // namespace pgtbl::inline PGTBL_WORLD
