// v6_4.cpp -- retraction and collapse of a PTE-mapped extent as Linux 6.4 has them, under mmap_lock for write.
// Linux 6.5 has the same two protocols: what changed in between are the map helpers, which from then on may
// fail and look again (the switches map_may_fail and maplock_rechecks), so that these could go.
//
// Guarantee.  While a table is taken away nobody else is in it but lockless walkers: every other way in is
// closed by a lock held for write.  So neither pml nor ptl is taken.
//
// Method.  i_mmap_rwsem for write keeps rmap walks out, mmap_lock for write and the VMA's mark keep faults
// out.  Retraction holds the folio lock, which faults take under mmap_lock: it may only try those two, and
// what it cannot get it puts off (an array of eight addresses in each mm, for khugepaged's next visit).
// GUP-fast and the hardware are waited for by the TLB flush and an IPI to all CPUs; then the table is freed.
//
// Lock order.  mmap_lock (write) > folio lock > VMA mark > i_mmap_rwsem (write) > anon_vma (write) > notifier.
//
// Cost.  Every fault of the address space waits while mmap_lock is held: for a retraction as long as a flush
// and an IPI take; for collapse_pte_mapped_thp as long as its passes over 512 entries take.
#include "khugepaged/collapse.hpp"
#include "mm/anon_vma.hpp"
#include "mm/huge_pmd.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD::v6_4 {

namespace {

class i_mmap_write_guard {
 public:
  i_mmap_write_guard(cpu& self, mapping& f) : self_(self), sem_(f.i_mmap_rwsem) {
    if (guard(Guard::retract_i_mmap)) hold_ = sem_.write_lock(self);
  }
  ~i_mmap_write_guard() {
    if (hold_) sem_.write_unlock(self_, *hold_);
  }
  i_mmap_write_guard(const i_mmap_write_guard&) = delete;
  i_mmap_write_guard& operator=(const i_mmap_write_guard&) = delete;

 private:
  cpu& self_;
  rwsem& sem_;
  std::optional<hold> hold_;
};

/// The table leaves and is freed at once (collapse_and_free_pmd).  mmap_lock, the VMA and i_mmap are held for
/// write; the lockless walkers are told by the flush and the IPI.
void collapse_and_free_pmd(cpu& self, mm& m, va_t extent, pmd_ref pmdp) {
  std::optional<notifier_range> notifier;
  if (guard(Guard::retract_notifier)) notifier.emplace(self, m, extent, extent + pmd_size);
  const pmd_t old = pmdp_collapse_flush(self, m, extent, pmdp);
  pause_at(self, point::rt_flushed);
  tlb_remove_table_sync_one(self);  // whoever read the PMD with interrupts off is out now (B02)
  notifier.reset();
  pte_detached(self, m, old.pgtable());
  if (self.rules->free_by_rcu)
    pte_free_defer(self, m, old.pgtable());
  else
    pte_free(self, m, old.pgtable());
}

/// One mapping, with mmap_lock for write.
scan_result retract_one(cpu& self, vma& v, va_t extent, pmd_ref pmdp) {
  mm& m = v.owner;
  if (!vma_try_start_write(self, v)) return scan_result::pte_mapped_hugepage;
  pause_at(self, point::mv_write_locked);
  // A private write fault, under mmap_lock for read, may have come in between (B04).
  if (v.anon_vma.load(acquire) != nullptr && guard(Guard::retract_recheck_anon))
    return scan_result::page_anon;
  // So may a registration: its markers are in this table (B23).
  if (v.is(vm_uffd_wp) && guard(Guard::retract_recheck_wp)) return scan_result::pte_uffd_wp;
  if (m.exiting())
    return scan_result::any_process;  // spares the work: mmap_lock for write is what keeps the tables
  collapse_and_free_pmd(self, m, extent, pmdp);
  self.led.add(event::retract_done);
  return scan_result::succeed;
}

/// What becomes of one VMA that maps the extent.
scan_result visit(cpu& self, vma& v, va_t extent, bool is_target, pfn_t head, const collapse_control& cc) {
  mm& m = v.owner;
  const found_pmd found = find_pmd_or_thp_or_none(self, m, extent);
  if (found.what == scan_result::pmd_none && is_target) return scan_result::pte_mapped_hugepage;
  if (found.what != scan_result::succeed) return found.what;
  pause_at(self, point::rt_after_find);
  // Other mappings are not MADV_COLLAPSE's business; and mmap_lock can only be tried, under the folio lock.
  if (cc.is_khugepaged || is_target) {
    const mmap_write_guard lock(self, m, mmap_write_guard::try_it{});
    if (lock.held()) {
      const scan_result r = retract_one(self, v, extent, found.pmdp);
      if (r != scan_result::succeed || cc.is_khugepaged) return r;
      return set_huge_pmd(self, v, extent, found.pmdp, head) ? scan_result::succeed : scan_result::fail;
    }
  }
  if (!is_target) put_off(self, m, extent);
  return scan_result::pte_mapped_hugepage;  // the target's caller goes on with it
}

}  // namespace

scan_result retract_page_tables(
    cpu& self, mapping& f, pgoff_t start, pfn_t head, const collapse_control& cc) {
  scan_result target = scan_result::fail;
  const i_mmap_write_guard g(self, f);
  f.i_mmap.for_each(start, start, [&](i_mmap_node& n) {
    vma& v = *n.owner;
    pause_at(self, point::rt_vma);
    const std::optional<va_t> at = extent_in(v, start);
    const bool is_target = at && &v.owner == cc.target && *at == cc.target_addr;
    if (v.anon_vma.load(relaxed) != nullptr || v.is(vm_uffd_wp) || !at) {
      self.led.add(event::retract_skipped);
      // The caller's own extent, privately written somewhere: collapse_pte_mapped_thp can still map it.
      if (is_target) target = scan_result::pte_mapped_hugepage;
      return;
    }
    const scan_result r = visit(self, v, *at, is_target, head, cc);
    if (is_target) target = r;
  });
  return cc.is_khugepaged ? scan_result::succeed : target;
}

// ---------------------------------------------------------------- collapse_pte_mapped_thp

namespace {

/// Passes 1 and 2 under the ptl: every entry maps its own page of the folio; then the rmap of each is removed,
/// and the entries stay as they are in the table that is about to be freed.
struct counted {
  scan_result result;
  u32 ptes;
};
counted check_and_remove_rmap(cpu& self, vma& v, pmd_ref pmdp, va_t extent, pfn_t head) {
  // Nobody else is here: the lock is for the form of it.
  const auto t = pte_offset_map_lock(self, pmdp, extent);
  if (!t) return {scan_result::fail, 0};
  for (u64 i = 0; i < pages_per_huge; ++i) {
    const pte_t e = t->get(extent + (i << page_shift));
    if (e.none()) continue;
    if (!e.present()) return {scan_result::pte_non_present, 0};
    if (e.pfn() != head + i) return {scan_result::fail, 0};
  }
  u32 ptes = 0;
  for (u64 i = 0; i < pages_per_huge; ++i) {
    if (t->get(extent + (i << page_shift)).none()) continue;
    self.ram->of(head + i).mapcount.fetch_sub(1, acq_rel);
    ++ptes;
  }
  v.owner.rss.add(self, v.file->rss(), -static_cast<i64>(ptes));
  return {scan_result::succeed, ptes};
}

}  // namespace

scan_result collapse_pte_mapped_thp(cpu& self, mm& m, va_t va, bool install) {
  const va_t extent = pmd_align_down(va);
  // The PMD before the VMA: right here, because mmap_lock is held for write.
  const found_pmd found = find_pmd_or_thp_or_none(self, m, extent);
  if (found.what == scan_result::pmd_mapped) return found.what;
  vma* v = m.vmas.find(va);
  if (v == nullptr || v->file == nullptr || !v->covers(extent, extent + pmd_size) ||
      vma_thp_disabled(*v, true))
    return scan_result::vma_check;
  // Private pages may have come and gone: the entries tell (B51).
  if (!guard(Guard::cpmt_anon_vma) && v->anon_vma.load(acquire) != nullptr) return scan_result::vma_check;
  // Its table may hold markers, which nothing else remembers (G-17).
  if (v->is(vm_uffd_wp) && guard(Guard::cpmt_uffd_wp)) return scan_result::pte_uffd_wp;
  const pgoff_t start = v->pgoff_of(extent);
  if ((start & (pages_per_huge - 1)) != 0) return scan_result::vma_check;

  locked_huge folio = lock_huge_folio(self, *v->file, start);
  if (folio.why != scan_result::succeed) return folio.why;
  scan_result r = found.what;
  if (r == scan_result::succeed) {
    vma_start_write(self, *v);
    const i_mmap_write_guard g(self, *v->file);
    pause_at(self, point::mv_write_locked);
    const counted c = check_and_remove_rmap(self, *v, found.pmdp, extent, folio.head);
    r = c.result;
    if (r == scan_result::succeed) {
      if (c.ptes != 0) folio_put(self, folio.head, c.ptes);
      // No private page is in this table; but one may have been, and who looks for its mappings comes by here.
      const anon_vma_write_guard family(self, *v);
      collapse_and_free_pmd(self, m, extent, found.pmdp);
    }
  } else if (r == scan_result::pmd_none) {
    r = scan_result::succeed;
  }
  if (r == scan_result::succeed && install && !set_huge_pmd(self, *v, extent, found.pmdp, folio.head))
    r = scan_result::fail;
  folio.lock.reset();
  folio_put(self, folio.head);
  return r;
}

}  // namespace pgtbl::inline PGTBL_WORLD::v6_4
