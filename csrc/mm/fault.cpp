// fault.cpp -- the way into a page fault and out of it: which lock it holds, which of the handlers it comes to, and
// what the program gets to know.
#include "mm/fault.hpp"

#include "base/errors.hpp"
#include "mm/fault_parts.hpp"
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD {

alloc_map pte_alloc_map_lock(const fault_in& f, pmd_ref pmdp, va_t va) {
  if (!pte_alloc(f.self, f.m, pmdp)) return {std::nullopt, outcome::oom};
  // Before 6.5 mapping could not fail, and the caller tested first (pmd_trans_unstable): another fault may
  // have mapped the extent huge.  What is a table stays one, while mmap_lock or i_mmap_rwsem is held.
  if (!f.self.rules->map_may_fail && !pmdp.get().table()) return {};
  return {pte_offset_map_lock(f.self, pmdp, va)};
}

namespace {

bool vma_allows(const vma& v, access a) {
  switch (a) {
    case access::read: return v.is(vm_access_flags);
    case access::write: return v.is(vm_write);
    case access::exec: return v.is(vm_exec);
  }
  return false;
}

/// An entry that is neither none nor present.
outcome do_swap_page(const fault_in& f, pmd_ref pmdp, pte_t orig) {
  if ((orig.marker() & marker_guard) != 0) return outcome::sigsegv;
  if ((orig.marker() & marker_poison) != 0) return outcome::poisoned;
  if ((orig.marker() & marker_uffd_wp) != 0) {
    // Left over from a registration that has ended.
    if (auto t = pte_offset_map_lock(f.self, pmdp, f.va); t && t->get() == orig) t->get_and_clear(f.va);
    return outcome::retry;
  }
  // The page is being split: it comes back under another entry, by somebody who waits for nothing of ours.
  if (orig.migration())
    if (const auto t = pte_offset_map(f.self, pmdp, f.va)) t->wait_while(f.va, orig);
  return outcome::retry;
}

/// The entry is there, and the VMA allows more than it does: mprotect took rights away, and gave them back.
void widen_entry(const fault_in& f, pmd_ref pmdp, pte_t orig) {
  auto t = pte_offset_map_lock(f.self, pmdp, f.va);
  if (!t || t->get() != orig) return;
  const frame& page = f.self.ram->of(orig.pfn());
  const bool own =
      (f.v.shared() || (page.flags.load(acquire) & pg_anon_exclusive) != 0) && (orig.v & bit_uffd_wp) == 0;
  t->set(f.va, {modify_prot(orig.v, own ? f.v.prot() : read_only(f.v.prot()))});
}

outcome handle_pte_fault(const fault_in& f, access a, pmd_ref pmdp) {
  cpu& self = f.self;
  pte_t orig{};
  if (const pmd_t pmd = pmdp.get(); !pmd.none()) {
    // Since the caller looked, another fault may have mapped the extent huge.  Before 6.5 one had to see that here
    // (pmd_trans_unstable): mapping could not fail.
    if (!self.rules->map_may_fail && !pmd.table()) return outcome::retry;
    const auto t = pte_offset_map_nolock(self, pmdp, f.va);
    if (!t) return outcome::retry;  // not a table any more: the access is repeated
    orig = t->get();
  }
  pause_at(self, point::ft_orig_read);
  if (orig.none()) return f.v.is_anon() ? do_anonymous_page(f, pmdp) : do_file_fault(f, pmdp);
  if (orig.marker() == marker_uffd_wp && f.v.is(vm_uffd_wp)) {
    fault_in marked = f;
    marked.wp_marker = true;
    return f.v.is_anon() ? do_anonymous_page(marked, pmdp) : do_file_fault(marked, pmdp);
  }
  if (!orig.present()) return do_swap_page(f, pmdp, orig);
  if ((orig.v & bit_present) == 0 || (a == access::exec && !orig.exec())) {
    widen_entry(f, pmdp, orig);
    return outcome::done;
  }
  if ((f.write || f.unshare) && !orig.write()) return do_wp_page(f, pmdp, orig);
  self.led.add(event::fault_spurious);
  return outcome::done;
}

outcome handle_mm_fault(const fault_in& f, access a) {
  cpu& self = f.self;
  assert_vma_alive(self, f.v);
  const pmd_ref pmdp = pmd_alloc(self, f.m, f.va);
  if (!pmdp) return outcome::oom;
  pmd_t pmd = pmdp.get();
  if (pmd.none() && f.v.is_anon()) {
    if (const auto o = do_huge_pmd_anonymous_page(f, pmdp)) return *o;
    pmd = pmdp.get();
  }
  if (pmd.huge()) {
    if ((pmd.v & bit_present) == 0) {  // being taken apart: under this lock
      const spin_guard wait(self, pml_of(self, pmdp), lock_class::pml);
      return outcome::retry;
    }
    if (!(f.write || f.unshare) || pmd.write()) {
      self.led.add(event::fault_spurious);
      return outcome::done;
    }
    if (const auto o = wp_huge_pmd(f, pmdp, pmd)) return *o;
  }
  return handle_pte_fault(f, a, pmdp);
}

[[noreturn]] void segv(cpu& self, va_t va, access a, const char* why) {
  self.led.add(event::fault_segv);
  throw segmentation_fault(std::string(to_string(a)) + " of address " + std::to_string(va) + ": " + why);
}

[[noreturn]] void bus(cpu& self, va_t va, access a, const char* why) {
  self.led.add(event::fault_bus);
  throw bus_error(std::string(to_string(a)) + " of address " + std::to_string(va) + ": " + why);
}

/// A fault that a userfaultfd is to handle: queued, while its lock is held.
uffd_waiter* report(cpu& self, vma& v, va_t va, access a, uffd_reason why) {
  uffd_waiter* const w = uffd_report(self, v, va, a, why);
  if (w == nullptr || guard(Guard::uffd_drop_lock)) return w;
  uffd_wait(self, w);
  return nullptr;
}

/// How the fault ends: at once, or when the waiter that it answers with was woken.  Throws where the program would die.
uffd_waiter* conclude(cpu& self, vma& v, va_t va, access a, outcome o) {
  switch (o) {
    case outcome::done: return nullptr;
    case outcome::sigbus: bus(self, va, a, "beyond the end of the file");
    case outcome::poisoned: bus(self, va, a, "poisoned by a userfaultfd");
    case outcome::reported_missing: return report(self, v, va, a, uffd_reason::missing);
    case outcome::reported_minor: return report(self, v, va, a, uffd_reason::minor);
    case outcome::reported_wp: return report(self, v, va, a, uffd_reason::wp);
    case outcome::sigsegv: segv(self, va, a, "a guard region");
    case outcome::oom:
      throw out_of_memory("no frame is left for the page at address " + std::to_string(va) + " (" +
                          std::to_string(self.ram->frames()) + " frames in all)");
    case outcome::retry: self.led.add(event::fault_retry); return nullptr;  // the caller repeats the access
    case outcome::need_mmap_lock: return nullptr;
  }
  return nullptr;
}

/// Under the VMA's lock alone, where the era has that for the kind of memory.  Nothing: not so; under mmap_lock.
std::optional<uffd_waiter*> fault_under_vma_lock(cpu& self, mm& m, va_t va, access a) {
  const u32 kinds = (self.rules->anon_faults_under_vma_lock != 0 ? vmas_anon : 0U) |
                    (self.rules->file_faults_under_vma_lock != 0 ? vmas_file : 0U);
  const auto v = lock_vma_under_rcu(self, m, va, kinds);
  if (!v) return std::nullopt;
  vma& area = **v;
  if (!vma_allows(area, a)) return std::nullopt;  // an error is told under mmap_lock
  if (area.is(vm_uffd_flags) && !self.rules->uffd_under_vma_lock) return std::nullopt;
  const outcome o = handle_mm_fault({self, m, area, page_align_down(va), a == access::write, true}, a);
  if (o == outcome::need_mmap_lock) return std::nullopt;
  if (o == outcome::done) self.led.add(event::fault_vma_lock);
  return conclude(self, area, va, a, o);
}

}  // namespace

bool do_set_pmd(cpu& self, vma& v, va_t va, pmd_ref pmdp, pfn_t head) {
  const va_t extent = pmd_align_down(va);
  const frame& h = self.ram->of(head);
  if (h.order != huge_order || extent < v.start || extent + pmd_size > v.end) return false;
  if (v.pgoff_of(extent) != h.index) return false;  // misaligned
  // Forced: a huge page that is there already costs nothing, so the lack of advice does not matter.
  if (self.rules->nohuge_maps_no_pmd && vma_thp_disabled(v, true)) return false;
  std::optional<pgtable_t> table;  // to be deposited
  if (geometry.deposits_for_files && guard(Guard::deposit_table)) {
    table = pte_alloc_one(self, v.owner);
    if (!table) return false;
  }
  spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  if (!pmdp.get().none()) {
    pml.unlock();
    if (table) pte_free(self, v.owner, *table);
    return false;
  }
  assert_pmd_locked(self, pmdp, {});
  if (table) {
    deposit_table(self, pmdp, *table);
    v.owner.pgtables_bytes.fetch_add(static_cast<i64>(pte_table_bytes), relaxed);
  }
  self.ram->of(head).entire_mapcount.fetch_add(1, relaxed);
  v.owner.rss.add(self, v.file->rss(), static_cast<i64>(pages_per_huge));
  pmdp.set(self, mk_huge_pmd(head, v.shared() ? v.prot() : read_only(v.prot())));
  return true;
}

uffd_waiter* fault_under_mmap_lock(cpu& self, mm& m, va_t va, access a, bool unshare) {
  vma* v = m.vmas.find(va);
  if (v == nullptr) segv(self, va, a, "nothing is mapped there");
  if (!vma_allows(*v, a)) segv(self, va, a, "the mapping does not allow it");
  fault_in f{self, m, *v, page_align_down(va), a == access::write, false};
  f.unshare = unshare && !v->shared();
  const outcome o = handle_mm_fault(f, a);
  if (o == outcome::done) self.led.add(event::fault_mmap_lock);
  return conclude(self, *v, va, a, o);
}

namespace {

uffd_waiter* fault_attempt(cpu& self, mm& m, va_t va, access a) {
  self.led.add(event::fault);
  if ((self.rules->anon_faults_under_vma_lock | self.rules->file_faults_under_vma_lock) != 0)
    if (const auto ended = fault_under_vma_lock(self, m, va, a)) return *ended;
  const mmap_read_guard lock(self, m);
  return fault_under_mmap_lock(self, m, va, a);
}

void fault_once(cpu& self, mm& m, va_t va, access a) {
  // No lock is held any more: who resolves it may need mmap_lock for write.
  if (uffd_waiter* const w = fault_attempt(self, m, va, a)) [[unlikely]]
    uffd_wait(self, w);
}

}  // namespace

void handle_page_fault(cpu& self, mm& m, va_t va, access a) {
  // A fault may wait for mmap_lock or a folio, whose holder may be waiting for this very section to end.
  if (self.rcu.in_section()) [[unlikely]]
    throw deadlock_error("the " + std::string(to_string(a)) + " of address " + std::to_string(va) +
                         " takes a page fault, which may sleep: not inside of a read section of machine.rcu");
  try {
    fault_once(self, m, va, a);
  } catch (const out_of_memory&) {
    // Tables that wait for a grace period may be what is missing: let them come back, and try once more.
    if (self.ram->pending() == 0) throw;
    self.domain->barrier(self.rcu);
    fault_once(self, m, va, a);
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
