// cow.cpp -- stores to what may not be written in place: copy, or find that nobody else has it.
//
// Guarantee.  After a store returned, it is seen by every thread of the program and by nobody else: no other program
// that shared the page since a fork, nor the file that a private mapping is of.
//
// Method.  A page marked exclusive is written in place.  So is one to which the mapping holds the only reference: it
// becomes exclusive, under its folio lock.  Else the page is copied without any spinlock, by a reference of ours
// which keeps its other owners from writing it in place meanwhile; then the entry is compared again with what it was
// (a COW of another thread, a zap, a collapse may have come between), cleared, flushed, and set to the copy: at no
// time do two CPUs of the program use both.
#include "mm/fault_parts.hpp"
#include "mm/userfaultfd.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

bool same_entry(pte_t now, pte_t orig) { return ((now.v ^ orig.v) & ~(bit_accessed | bit_dirty)) == 0; }

/// An anonymous page that no other program has (PageAnonExclusive, or wp_can_reuse_anon_folio).  Under the ptl.
bool can_reuse(const fault_in& f, pfn_t pfn, pfn_t head) {
  frame& page = f.self.ram->of(pfn);
  frame& folio = f.self.ram->of(head);
  if ((folio.flags.load(acquire) & pg_anon) == 0) return false;  // a file's page in a private mapping
  if ((page.flags.load(acquire) & pg_anon_exclusive) != 0) return true;
  if (!guard(Guard::cow_shared)) return true;
  if (folio.order != 0 || folio.refcount.load(acquire) != 1) return false;
  const auto lock = folio_trylock_hold(f.self, head);
  if (!lock) return false;
  const bool alone = folio.refcount.load(acquire) == 1;
  if (alone) {
    folio_move_anon(f.self, head, f.v);
    page.flags.fetch_or(pg_anon_exclusive, release);
  }
  folio_unlock(f.self, head, *lock);
  return alone;
}

/// `head`: the old page's folio, with a reference of ours; 0: the zero page.
outcome wp_page_copy(const fault_in& f, pmd_ref pmdp, pte_t orig, pfn_t head) {
  cpu& self = f.self;
  if (!prepare_anon_vma(f)) return outcome::need_mmap_lock;
  const auto copy = new_anon_page(f);
  if (!copy) return outcome::oom;
  if (head == 0) {
    self.ram->phys.clear_page(*copy);
  } else {
    const kernel_mapping bytes(self, orig.pfn());
    self.ram->phys.copy_page(*copy, orig.pfn());
  }
  pause_at(self, point::cow_copied);
  const notifier_range notifier(self, f.m, f.va, f.va + page_size);
  auto t = pte_offset_map_lock(self, pmdp, f.va);
  if (!t || (guard(Guard::cow_recheck) && !same_entry(t->get(), orig))) {
    const bool vanished = !t;
    t.reset();
    folio_put(self, *copy);
    return vanished ? outcome::retry : outcome::done;
  }
  const pte_t old = t->get_and_clear(f.va);
  if (guard(Guard::cow_flush)) flush_tlb_range(self, f.m, f.va, f.va + page_size, false);
  invalidate_secondary(self, f.m, f.va, f.va + page_size);  // before anybody stores to the copy
  pause_at(self, point::cow_cleared);
  page_add_pte(f, *copy, rss_kind::anon);
  // What is unshared stays protected as it was.
  t->set(f.va, f.unshare ? pte_t{unshared_pte(f, *copy).v | (old.v & bit_uffd_wp)} : private_pte(f, *copy));
  if (head != 0) {
    // After the copy is mapped: who finds this page mapped once less may write it in place.
    page_remove_pte(self, f.m, old.pfn(), old);
    t.reset();
    folio_put(self, head);
  }
  self.led.add(event::fault_cow);
  return outcome::done;
}

}  // namespace

outcome do_wp_page(const fault_in& f, pmd_ref pmdp, pte_t orig) {
  cpu& self = f.self;
  pfn_t head = 0;
  {
    auto t = pte_offset_map_lock(self, pmdp, f.va);
    if (!t) return outcome::retry;
    // The entry must still be the one that was read without the lock: else somebody was here in between.
    if (!same_entry(t->get(), orig)) return outcome::done;
    if ((orig.v & bit_uffd_wp) != 0 && f.v.is(vm_uffd_wp) && !f.unshare) {
      if (!uffd_wp_async(f.v)) return outcome::reported_wp;
      t->set(f.va, {t->get().v & ~bit_uffd_wp});
      orig.v &= ~bit_uffd_wp;
    }
    head = self.ram->head_of(orig.pfn());
    if (self.ram->is_zero(orig.pfn())) {
      t.reset();
      return wp_page_copy(f, pmdp, orig, 0);
    }
    if (f.v.shared() || can_reuse(f, orig.pfn(), head)) {
      if (f.unshare) return outcome::done;
      t->set(f.va, {t->get().v | bit_write | bit_dirty | bit_accessed});
      if (f.v.shared())
        self.ram->of(head).flags.fetch_or(pg_dirty, relaxed);
      else
        self.led.add(event::fault_reuse);
      return outcome::done;
    }
    folio_get(self, head);
  }
  const outcome o = wp_page_copy(f, pmdp, orig, head);
  folio_put(self, head);
  return o;
}

// ---------------------------------------------------------------- huge

namespace {

/// The huge zero page is written: a huge page takes its place, or small ones.
std::optional<outcome> replace_huge_zero(const fault_in& f, pmd_ref pmdp) {
  cpu& self = f.self;
  memory& ram = *self.ram;
  const va_t extent = pmd_align_down(f.va);
  if (!self.rules->huge_zero_wp || !anon_thp_allowed(self, f.v, f.va)) return std::nullopt;
  if (!prepare_anon_vma(f)) return outcome::need_mmap_lock;
  const auto head = ram.alloc_huge(self, self.frames);
  if (!head) return std::nullopt;
  for (u64 i = 0; i < pages_per_huge; ++i) ram.phys.clear_page(*head + i);
  const notifier_range notifier(self, f.m, extent, extent + pmd_size);
  spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  const pmd_t now = pmdp.get();
  if (!now.huge() || !ram.is_huge_zero(now.pfn())) {
    pml.unlock();
    folio_put(self, *head);
    return outcome::done;
  }
  pmdp.set(self, {});
  flush_tlb_range(self, f.m, extent, extent + pmd_size, false);
  const pgtable_t table = withdraw_table(self, pmdp);
  f.m.pgtables_bytes.fetch_sub(static_cast<i64>(pte_table_bytes), relaxed);
  set_anon_huge_pmd(self, f.v, extent, pmdp, *head, table, true);
  self.led.add(event::fault_anon);
  self.led.add(event::fault_anon_huge);
  return outcome::done;
}

/// An anonymous huge page that no other program has any more is written in place.
bool reuse_huge(const fault_in& f, pmd_ref pmdp, pmd_t orig) {
  cpu& self = f.self;
  const pfn_t head = orig.pfn();
  frame& h = self.ram->of(head);
  const spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  pmd_t now = pmdp.get();
  if (!now.huge() || now.pfn() != head || (now.v & bit_present) == 0)
    return true;  // changed: looked at again
  if ((h.flags.load(acquire) & pg_anon_exclusive) == 0) {
    const auto lock = folio_trylock_hold(self, head);
    if (!lock) return false;
    const bool alone = h.refcount.load(acquire) == 1;
    if (alone) {
      folio_move_anon(self, head, f.v);
      h.flags.fetch_or(pg_anon_exclusive, release);
    }
    folio_unlock(self, head, *lock);
    if (!alone) return false;
  }
  if (f.unshare) return true;
  // The hardware may set accessed meanwhile.
  while (!pmdp.slot->compare_exchange_strong(now.v, now.v | bit_write | bit_dirty | bit_accessed, acq_rel)) {}
  self.led.add(event::fault_reuse);
  return true;
}

}  // namespace

std::optional<outcome> wp_huge_pmd(const fault_in& f, pmd_ref pmdp, pmd_t orig) {
  cpu& self = f.self;
  if ((orig.v & bit_uffd_wp) != 0 && f.v.is(vm_uffd_wp) && !uffd_wp_async(f.v) && !f.unshare)
    return outcome::reported_wp;
  if (self.ram->is_huge_zero(orig.pfn())) {
    if (!f.unshare)
      if (const auto o = replace_huge_zero(f, pmdp)) return o;
  } else if (rss_of(self, orig.pfn()) == rss_kind::anon && reuse_huge(f, pmdp, orig)) {
    return outcome::done;
  }
  // What is shared is copied page by page; a file's page too.
  split_huge_pmd(self, f.v, pmdp, pmd_align_down(f.va));
  return std::nullopt;
}

}  // namespace pgtbl::inline PGTBL_WORLD
