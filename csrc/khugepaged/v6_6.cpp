// v6_6.cpp -- retraction and collapse of a PTE-mapped extent as Linux 6.6 has them: no mmap_lock for write.
//
// Guarantee.  A walker that had mapped the table before it left its PMD may use it, and spin on its lock,
// until it unmaps; a walker that comes later finds the PMD changed.  No entry is ever written into a table
// that has left: the writer's recheck and our two locks meet at the ptl.  Faults in other extents never wait.
//
// Method.  Whoever holds the pml and the table's ptl may turn the PMD from that table to something else,
// because a later winner of the ptl looks at the PMD again before it touches the table.  The folio lock of
// the huge page, held throughout, stops faults from refilling what was emptied.  The table goes to RCU.
//
// Lock order.  folio lock > i_mmap_rwsem (read) > notifier > pml > ptl.  mmap_lock: none in retraction; read
// in collapse_pte_mapped_thp, taken by the caller before the folio lock.
//
// Cost.  Retraction: two spinlocks, one flush and one call_rcu a mapping.  No IPI but the flush's.
#include "khugepaged/collapse.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/zap.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD::v6_6 {

namespace {

/// i_mmap_rwsem in the mode that the era says; read is enough, as no entry is cleared without its locks.
class i_mmap_guard {
 public:
  i_mmap_guard(cpu& self, mapping& f, bool write) : self_(self), sem_(f.i_mmap_rwsem), write_(write) {
    if (!guard(Guard::retract_i_mmap)) return;
    hold_ = write ? sem_.write_lock(self) : sem_.read_lock(self);
  }
  ~i_mmap_guard() {
    if (!hold_) return;
    write_ ? sem_.write_unlock(self_, *hold_) : sem_.read_unlock(self_, *hold_);
  }
  i_mmap_guard(const i_mmap_guard&) = delete;
  i_mmap_guard& operator=(const i_mmap_guard&) = delete;

 private:
  cpu& self_;
  rwsem& sem_;
  bool write_;
  std::optional<hold> hold_;
};

/// What becomes of a table that has left its PMD.
void table_gone(cpu& self, mm& m, pmd_t old) {
  pte_detached(self, m, old.pgtable());
  pause_at(self, point::rt_before_defer);
  pte_free_defer(self, m, old.pgtable());
}

/// One mapping: its PMD, which led to an empty table, becomes none.
void retract_one(cpu& self, vma& v, va_t extent) {
  mm& m = v.owner;
  assert_vma_alive(self, v);
  const found_pmd found = find_pmd_or_thp_or_none(self, m, extent);
  if (found.what != scan_result::succeed) return;
  pause_at(self, point::rt_after_find);
  // Spares the work.  No guard: the program may end right after this look, and its VMA, that stands in i_mmap while
  // we hold the semaphore, keeps the tables until then (B09).
  if (m.exiting()) return;
  // Its table may hold markers, which nothing else remembers (G-17).  A first look, as that at anon_vma.
  if (v.is(vm_uffd_wp)) {
    self.led.add(event::retract_skipped);
    return;
  }
  pause_at(self, point::rt_after_uffd_check);

  std::optional<notifier_range> notifier;
  if (guard(Guard::retract_notifier)) notifier.emplace(self, m, extent, extent + pmd_size);
  pause_at(self, point::rt_notified);
  spin_guard pml(self, pml_of(self, found.pmdp), lock_class::pml);
  pause_at(self, point::rt_pml);
  // From 6.14 on MADV_DONTNEED may have freed the table since, and there is no lock of it to be found (B17).
  if (self.rules->retract_checks_pmd && guard(Guard::retract_pmd_state) && !found.pmdp.get().table()) return;
  std::optional<spin_guard> ptl;
  if (guard(Guard::retract_ptl))
    ptl.emplace(self, ptl_of(self, found.pmdp.get()), lock_class::ptl, where::current());
  pause_at(self, point::rt_ptl);

  // The early look at anon_vma was a guess.  Whoever puts a private page into this table sets anon_vma
  // before it takes the ptl (a private write fault, UFFDIO_COPY: B22): under the ptl the answer is final.
  // So is the answer about write protection: it was registered before the first marker (B23).
  if ((v.anon_vma.load(acquire) != nullptr && guard(Guard::retract_recheck_anon)) ||
      (v.is(vm_uffd_wp) && guard(Guard::retract_recheck_wp))) {
    self.led.add(event::retract_skipped);
    return;
  }
  const pmd_t old = pmdp_collapse_flush(self, m, extent, found.pmdp);
  pause_at(self, point::rt_flushed);
  ptl.reset();
  pml.unlock();
  pause_at(self, point::rt_unlocked);
  notifier.reset();
  table_gone(self, m, old);
  self.led.add(event::retract_done);
}

}  // namespace

scan_result retract_page_tables(cpu& self, mapping& f, pgoff_t start, pfn_t, const collapse_control& cc) {
  const i_mmap_guard g(self, f, self.rules->retract_i_mmap_write != 0);
  f.i_mmap.for_each(start, start, [&](i_mmap_node& n) {
    vma& v = *n.owner;
    pause_at(self, point::rt_vma);
    // Private pages make it likely that the extent will be taken apart again soon.
    const bool is_private = v.anon_vma.load(relaxed) != nullptr;
    pause_at(self, point::rt_after_anon_check);
    std::optional<va_t> at = extent_in(v, start);
    if (!at && !guard(Guard::retract_range) && start >= v.pgoff) at = pmd_align_down(v.va_of(start));
    if (is_private || !at) {
      self.led.add(event::retract_skipped);
      return;
    }
    const bool is_target = &v.owner == cc.target && *at == cc.target_addr;
    if (!cc.is_khugepaged && !is_target && !self.rules->retract_others_on_madvise) {
      put_off(self, v.owner, *at);
      return;
    }
    retract_one(self, v, *at);
  });
  return scan_result::pte_mapped_hugepage;  // the caller treats its own mapping
}

// ---------------------------------------------------------------- collapse_pte_mapped_thp

namespace {

struct extent_work {
  cpu& self;
  mm& m;
  vma& v;
  va_t extent;
  pmd_ref pmdp;
  pfn_t head;
};

/// The entry at page i maps page i of the folio.
bool maps_subpage(const extent_work& w, pte_t e, u64 i) { return e.pfn() == w.head + i; }

/// Step 1: every entry is none, or maps its own page of the folio.  Changes nothing, so that khugepaged, which
/// comes back to unsuitable ranges for ever, does not trouble secondary MMUs with invalidations.
scan_result check_ptes(const extent_work& w) {
  const auto t = pte_offset_map_lock(w.self, w.pmdp, w.extent);
  if (!t) return scan_result::fail;
  for (u64 i = 0; i < pages_per_huge; ++i) {
    const pte_t e = t->get(w.extent + (i << page_shift));
    if (e.none()) continue;
    if (!e.present()) return scan_result::pte_non_present;
    if (!maps_subpage(w, e, i)) return scan_result::fail;
  }
  return scan_result::succeed;
}

struct cleared {
  scan_result result = scan_result::succeed;
  u32 ptes = 0;
  pmd_t table;  // the PMD's value, which led to the entries
};

/// Step 2: clears the entries and removes their rmap, under the ptl, without a flush: a stale translation
/// leads to the same page of a folio that we hold.  The ptl was free since step 1: everything is tested again,
/// because a write fault may have put a private page here, or reclaim a swap entry (B15).  Entries must go with
/// their rmap, or a truncate would remove both a second time (B34).
cleared clear_ptes(const extent_work& w, pte_locked& t) {
  cleared c;
  for (u64 i = 0; i < pages_per_huge; ++i) {
    const va_t va = w.extent + (i << page_shift);
    const pte_t e = t.get(va);
    if (e.none()) continue;
    if (guard(Guard::cpmt_verify)) {
      if (!e.present()) c.result = scan_result::pte_non_present;
      if (e.present() && !maps_subpage(w, e, i)) c.result = scan_result::fail;
      if (c.result != scan_result::succeed) return c;
    }
    if (guard(Guard::cpmt_clear_ptes)) t.get_and_clear(va);
    // The dirty bit is dropped on purpose: a page of shared memory is dirty already, and nobody stores to a huge page of
    // a regular file.
    w.self.ram->of(w.head + i).mapcount.fetch_sub(1, acq_rel);
    ++c.ptes;
    pause_at(w.self, point::cp_cleared_i);
  }
  return c;
}

/// References and rss of the entries that are gone.  The folio keeps the cache's references and ours.
void account(const extent_work& w, u32 ptes) {
  if (ptes == 0) return;
  w.m.rss.add(w.self, w.v.file->rss(), -static_cast<i64>(ptes));
  folio_put(w.self, w.head, ptes);
}

/// Step 2 with its lock, and the way back.  The table is unmapped again when it returns, unless `keep` takes it, locked,
/// where all went well.
cleared empty(const extent_work& w, std::optional<pte_locked>* keep) {
  cpu& self = w.self;
  auto map = pte_offset_map_rw_nolock(self, w.pmdp, w.extent);
  if (!map) return {scan_result::fail, 0, {}};
  pause_at(self, point::cp_before_clear);
  const pmd_t seen = map->pmdval();
  pte_locked t = std::move(*map).lock();
  // Not the table of the check any more: what is written here would be seen by nobody (B14).
  if (self.rules->collapse_pmd_same && w.pmdp.get() != seen) return {scan_result::fail, 0, {}};
  cleared c = clear_ptes(w, t);
  c.table = t.pmdval();
  if (c.result == scan_result::succeed) {
    if (keep != nullptr) keep->emplace(std::move(t));
    return c;
  }
  // Other CPUs may still use what was cleared: flushed while the ptl keeps the entries as they are (B16).
  if (c.ptes != 0 && guard(Guard::cpmt_abort_flush)) flush_tlb_mm(self, w.m);
  if (guard(Guard::cpmt_abort_account)) account(w, c.ptes);
  return c;
}

/// UFFDIO_COPY into a private mapping puts a page in without a look at the page cache: the folio lock does not keep it
/// out (B24).
bool private_pages_may_come(const vma& v) {
  return v.is(vm_uffd_flags) && !v.shared() && guard(Guard::cpmt_early_pml);
}

/// Steps 2 to 4 in one section of both locks: from a table full of PTEs to none.
scan_result empty_and_remove_at_once(const extent_work& w) {
  cpu& self = w.self;
  notifier_range notifier(self, w.m, w.extent, w.extent + pmd_size);
  pause_at(self, point::cp_notified);
  spin_guard pml(self, pml_of(self, w.pmdp), lock_class::pml);
  std::optional<pte_locked> table;
  const cleared c = empty(w, &table);
  if (c.result != scan_result::succeed) return c.result;
  const pmd_t old = pmdp_collapse_flush(self, w.m, w.extent, w.pmdp);
  table.reset();
  pml.unlock();
  notifier.done();
  account(w, c.ptes);
  pause_at(self, point::cp_removed);
  table_gone(self, w.m, old);
  return scan_result::succeed;
}

/// Steps 2 to 4: from a table full of PTEs to none.
scan_result empty_and_remove(const extent_work& w) {
  cpu& self = w.self;
  notifier_range notifier(self, w.m, w.extent, w.extent + pmd_size);
  pause_at(self, point::cp_notified);
  const cleared c = empty(w, nullptr);
  if (c.result != scan_result::succeed) return c.result;
  pause_at(self, point::cp_ptl_dropped);
  account(w, c.ptes);
  pause_at(self, point::cp_refs_dropped);

  // Step 4.  The table is still empty: the folio lock stops faults, the occupied cache slot everyone else.
  pause_at(self, point::cp_before_remove);
  spin_guard pml(self, pml_of(self, w.pmdp), lock_class::pml);
  // MADV_DONTNEED may have freed the emptied table (6.14), so before its lock is asked for.  The entries were accounted
  // for; only translations are left of them (B17).
  if (self.rules->collapse_pmd_same && guard(Guard::cpmt_remove_same) && w.pmdp.get() != c.table) {
    flush_tlb_mm(self, w.m);
    return scan_result::fail;
  }
  std::optional<spin_guard> ptl;
  if (guard(Guard::cpmt_remove_ptl))
    ptl.emplace(self, ptl_of(self, c.table), lock_class::ptl, where::current());
  const pmd_t old = pmdp_collapse_flush(self, w.m, w.extent, w.pmdp);
  ptl.reset();
  pml.unlock();
  notifier.done();
  pause_at(self, point::cp_removed);
  table_gone(self, w.m, old);
  return scan_result::succeed;
}

scan_result install_pmd(const extent_work& w, bool install) {
  pause_at(w.self, point::cp_before_install);
  if (!install) return scan_result::succeed;
  return set_huge_pmd(w.self, w.v, w.extent, w.pmdp, w.head) ? scan_result::succeed : scan_result::fail;
}

}  // namespace

scan_result collapse_pte_mapped_thp(cpu& self, mm& m, va_t va, bool install) {
  const va_t extent = pmd_align_down(va);
  // The VMA first: munmap frees tables while others hold mmap_lock for read; a VMA in the tree proves that
  // the tables here are not under demolition (B10).
  vma* v = m.vmas.find(va);
  if (guard(Guard::cpmt_vma_first) && (v == nullptr || v->file == nullptr)) return scan_result::vma_check;
  if (find_pmd_or_thp_or_none(self, m, extent).what == scan_result::pmd_mapped)
    return scan_result::pmd_mapped;
  if (v == nullptr || v->file == nullptr || !v->covers(extent, extent + pmd_size) ||
      vma_thp_disabled(*v, true))
    return scan_result::vma_check;
  // Private pages may have come and gone, a uprobe's for one: the entries tell (B51).
  if (!guard(Guard::cpmt_anon_vma) && v->anon_vma.load(acquire) != nullptr) return scan_result::vma_check;
  // Its table may hold markers, which nothing else remembers (G-12).
  if (v->is(vm_uffd_wp) && guard(Guard::cpmt_uffd_wp)) return scan_result::pte_uffd_wp;
  pause_at(self, point::cp_vma_ok);
  const pgoff_t start = v->pgoff_of(extent);
  if ((start & (pages_per_huge - 1)) != 0) return scan_result::vma_check;

  locked_huge folio = lock_huge_folio(self, *v->file, start);
  if (folio.why != scan_result::succeed) return folio.why;
  pause_at(self, point::cp_folio_locked);
  // Once more: from here on mmap_lock and the folio lock keep it as it is.
  const found_pmd now = find_pmd_or_thp_or_none(self, m, extent);
  const extent_work w{self, m, *v, extent, now.pmdp, folio.head};
  scan_result r = now.what;
  if (r == scan_result::succeed) {
    r = check_ptes(w);
    pause_at(self, point::cp_checked);
    if (r == scan_result::succeed)
      r = private_pages_may_come(*v) ? empty_and_remove_at_once(w) : empty_and_remove(w);
  } else if (r == scan_result::pmd_none) {
    r = scan_result::succeed;
  }
  if (r == scan_result::succeed) r = install_pmd(w, install);
  folio.lock.reset();
  folio_put(self, folio.head);
  return r;
}

}  // namespace pgtbl::inline PGTBL_WORLD::v6_6
