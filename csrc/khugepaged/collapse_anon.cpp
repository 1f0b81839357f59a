// collapse_anon.cpp -- an extent of anonymous memory becomes one huge page.
//
// Guarantee.  Contents stay; a store of any thread is found afterwards; who shared a small page since a fork keeps it.
//
// Method.  Under mmap_lock for write and the VMA's mark: no fault comes in.  The table is taken out of its PMD with
// all of its entries, so that the hardware and lockless walkers see none; an IPI makes sure that they are out, because
// the table is used again (B02).  Then the pages are isolated: each locked, off the LRU, and without a reference that
// the mappings do not explain.  If one is not to be had the table goes back as it was; else everything is copied, the
// entries are cleared, and the huge PMD takes the place of the table, which is deposited behind it.
//
// Why mmap_lock for write, in every release: while the PMD is none a fault would find nothing, and fill it again.
// There is no one lock that stops faults on 512 unrelated pages, holes and zero pages.
//
// Lock order.  mmap_lock (write) > VMA mark > anon_vma (write) > notifier > pml > ptl; folio locks are tried.
//
// Cost.  Copies 2 MiB with mmap_lock held for write: every fault of the VMA waits for that.
#include "khugepaged/scan_trace.hpp"
#include "mm/anon_vma.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/zap.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// Entries of either size that map the folio's pages: each has a reference.
u64 entries_of(cpu& self, pfn_t head) {
  const frame& h = self.ram->of(head);
  u64 n = h.entire_mapcount.load(acquire);
  for (u64 i = 0; i < 1ULL << h.order; ++i) n += self.ram->of(head + i).mapcount.load(acquire);
  return n;
}

/// Mapped by more than one program, as far as the counts tell.
bool maybe_shared(cpu& self, pfn_t pfn, pfn_t head) {
  return self.ram->of(pfn).mapcount.load(acquire) + self.ram->of(head).entire_mapcount.load(acquire) > 1;
}

bool only_mapped(cpu& self, pfn_t head) {
  return self.ram->of(head).refcount.load(acquire) == entries_of(self, head);
}

scan_result scan_page(cpu& self, pte_t e, const collapse_control& cc, u32& shared) {
  const pfn_t pfn = e.pfn(), head = self.ram->head_of(pfn);
  const frame& h = self.ram->of(head);
  const u32 flags = h.flags.load(acquire);
  if ((flags & pg_anon) == 0) return scan_result::page_anon;
  if (maybe_shared(self, pfn, head) && ++shared > cc.max_ptes_shared && cc.is_khugepaged)
    return scan_result::exceed_shared_pte;
  if ((flags & pg_lru) == 0) return scan_result::page_lru;
  if ((flags & pg_locked) != 0) return scan_result::page_lock;
  if (guard(Guard::anon_refcount) && !only_mapped(self, head)) return scan_result::page_count;
  return scan_result::succeed;
}

}  // namespace

anon_scan scan_pmd(cpu& self, vma& v, va_t extent, const collapse_control& cc) {
  const found_pmd found = find_pmd_or_thp_or_none(self, v.owner, extent);
  if (found.what != scan_result::succeed) return {found.what};
  const auto t = pte_offset_map_lock(self, found.pmdp, extent);
  if (!t) return {scan_result::pmd_null};
  anon_scan s{scan_result::succeed};
  u32 shared = 0, referenced = 0;
  bool writable = false;
  for (u64 i = 0; i < pages_per_huge && s.result == scan_result::succeed; ++i) {
    const pte_t e = t->get(extent + (i << page_shift));
    if (e.none() || (e.present() && self.ram->is_zero(e.pfn()))) {
      ++s.none_or_zero;
      if ((v.is(vm_uffd_flags) && guard(Guard::anon_uffd_hole)) ||
          (s.none_or_zero > cc.max_ptes_none && cc.is_khugepaged))
        s.result = scan_result::exceed_none_pte;
    } else if (!e.present()) {
      if (++s.unmapped > cc.max_ptes_swap && cc.is_khugepaged) s.result = scan_result::exceed_swap_pte;
      if ((e.marker() & marker_uffd_wp) != 0) s.result = scan_result::pte_uffd_wp;
    } else if ((e.v & bit_uffd_wp) != 0 && guard(Guard::anon_uffd_wp)) {
      s.result = scan_result::pte_uffd_wp;
    } else {
      s.result = scan_page(self, e, cc, shared);
      writable |= e.write();
      referenced += e.young() ? 1 : 0;
    }
  }
  if (s.result != scan_result::succeed) return s;
  if (!writable && !self.rules->collapse_read_only)
    s.result = scan_result::page_ro;
  else if (cc.is_khugepaged && (referenced == 0 || (s.unmapped != 0 && referenced < pages_per_huge / 2)))
    s.result = scan_result::lack_referenced_page;
  return s;
}

namespace {

/// The VMA that covers the extent, if it still may have a huge page there (hugepage_vma_revalidate).
struct revalidated {
  scan_result result;
  vma* v = nullptr;
};
revalidated revalidate(mm& m, va_t extent, const collapse_control& cc) {
  if (m.exiting()) return {scan_result::any_process};
  vma* v = m.vmas.find(extent);
  if (v == nullptr) return {scan_result::vma_null};
  if (!v->covers(extent, extent + pmd_size)) return {scan_result::address_range};
  if (vma_thp_disabled(*v, !cc.is_khugepaged)) return {scan_result::vma_check};
  if (!v->is_anon() || !v->has_anon_vma()) return {scan_result::page_anon};
  return {scan_result::succeed, v};
}

class anon_collapse {
 public:
  anon_collapse(cpu& self, mm& m, va_t extent, const collapse_control& cc)
      : self_(self), m_(m), extent_(extent), cc_(cc) {}

  scan_result run(const anon_scan& found) {
    const auto fresh = self_.ram->alloc_huge(self_, self_.frames);
    if (!fresh) return scan_result::alloc_huge_page_fail;
    huge_ = *fresh;
    scan_result r = look(found);
    if (r == scan_result::succeed) {
      const mmap_write_guard lock(self_, m_);
      r = under_write_lock();
    }
    if (r != scan_result::succeed) folio_put(self_, huge_);
    return r;
  }

 private:
  /// A page that the table maps: isolated, and locked where it is the first of its folio that we met.
  struct taken {
    pfn_t pfn = 0;  // 0: a hole, or the zero page
    bool locked = false;
    hold lock;
  };

  scan_result look(const anon_scan& found) {
    const mmap_read_guard lock(self_, m_);
    const revalidated v = revalidate(m_, extent_, cc_);
    if (v.result != scan_result::succeed) return v.result;
    const scan_result r = find_pmd_or_thp_or_none(self_, m_, extent_).what;
    if (r != scan_result::succeed || found.unmapped == 0) return r;
    // Entries that are not present would be swapped in here; without swap they are markers, or are about to change.
    trace_swapin(self_);
    return scan_result::fail;
  }

  scan_result under_write_lock() {
    const revalidated found = revalidate(m_, extent_, cc_);
    if (found.result != scan_result::succeed) return found.result;
    vma& v = *found.v;
    // Before the PMD is looked at for the last time: who holds the VMA's lock alone may free tables, from 6.17 on (B18).
    const bool early = self_.rules->collapse_anon_vma_early && guard(Guard::anon_mark_first);
    if (early) vma_start_write(self_, v);
    const found_pmd pmd = find_pmd_or_thp_or_none(self_, m_, extent_);
    if (pmd.what != scan_result::succeed) return pmd.what;
    pause_at(self_, point::ca_pmd_checked);
    if (!early) vma_start_write(self_, v);
    pmdp_ = pmd.pmdp;
    {
      const anon_vma_write_guard family(self_, v);  // rmap walks of other programs are out too
      detach();
      const scan_result r = isolate_all(v);
      if (r != scan_result::succeed) {
        let_go();
        put_back();
        return r;
      }
    }
    pause_at(self_, point::ca_isolated);
    copy_and_clear();
    install(v);
    return scan_result::succeed;
  }

  void detach() {
    notifier_range notifier(self_, m_, extent_, extent_ + pmd_size);
    spin_guard pml(self_, pml_of(self_, pmdp_), lock_class::pml);
    const pmd_t old = pmdp_collapse_flush(self_, m_, extent_, pmdp_);
    pml.unlock();
    notifier.done();
    saved_.store(old.v, relaxed);
    tlb_remove_table_sync_one(self_);  // GUP-fast must be out: its table gets other entries
    pause_at(self_, point::ca_detached);
  }

  /// The table went back, or never left: through a PMD of our own, which nobody else knows.
  pmd_ref ours() { return {&saved_, pmdp_.above}; }

  scan_result isolate_all(const vma& v) {
    const auto t = pte_offset_map_lock(self_, ours(), extent_);
    if (!t) return scan_result::pmd_null;
    u32 none_or_zero = 0, shared = 0;
    scan_result r = scan_result::succeed;
    for (u64 i = 0; i < pages_per_huge && r == scan_result::succeed; ++i) {
      const pte_t e = t->get(extent_ + (i << page_shift));
      if (e.none() || (e.present() && self_.ram->is_zero(e.pfn()))) {
        ++none_or_zero;
        if ((v.is(vm_uffd_flags) && guard(Guard::anon_uffd_hole)) ||
            (none_or_zero > cc_.max_ptes_none && cc_.is_khugepaged))
          r = scan_result::exceed_none_pte;
      } else if ((e.v & bit_uffd_wp) != 0 && guard(Guard::anon_uffd_wp)) {
        r = scan_result::pte_uffd_wp;
      } else if (!e.present()) {
        r = scan_result::pte_non_present;
      } else {
        r = isolate(i, e, shared);
      }
    }
    trace_isolate(self_, r, none_or_zero);
    return r;
  }

  bool met(pfn_t head, u64 before) const {
    for (u64 i = 0; i < before; ++i)
      if (pages_[i].locked && self_.ram->head_of(pages_[i].pfn) == head) return true;
    return false;
  }

  scan_result isolate(u64 i, pte_t e, u32& shared) {
    const pfn_t pfn = e.pfn(), head = self_.ram->head_of(pfn);
    frame& h = self_.ram->of(head);
    if ((h.flags.load(acquire) & pg_anon) == 0) return scan_result::page_anon;
    if (maybe_shared(self_, pfn, head) && ++shared > cc_.max_ptes_shared && cc_.is_khugepaged)
      return scan_result::exceed_shared_pte;
    if (h.order != 0 && met(head, i)) {
      pages_[i].pfn = pfn;
      return scan_result::succeed;
    }
    const auto lock = folio_trylock_hold(self_, head);
    if (!lock) return scan_result::page_lock;
    scan_result r = scan_result::succeed;
    // A reference more than the mappings': somebody writes it, or reads it, behind our back (a pin: B30).
    if (guard(Guard::anon_refcount) && !only_mapped(self_, head))
      r = scan_result::page_count;
    else if ((h.flags.fetch_and(~u32{pg_lru}, acq_rel) & pg_lru) == 0)
      r = scan_result::del_page_lru;
    if (r != scan_result::succeed) {
      folio_unlock(self_, head, *lock);
      return r;
    }
    folio_get(self_, head);
    pages_[i] = {pfn, true, *lock};
    return scan_result::succeed;
  }

  /// Locks, LRU and references of what was isolated.
  void let_go() {
    for (taken& p : pages_) {
      if (!p.locked) continue;
      const pfn_t head = self_.ram->head_of(p.pfn);
      self_.ram->of(head).flags.fetch_or(pg_lru, release);
      folio_unlock(self_, head, p.lock);
      folio_put(self_, head);
    }
  }

  void put_back() {
    const pmd_t old{saved_.load(relaxed)};
    if (!old.table()) {
      report_bogus(old);
      return;
    }
    const spin_guard pml(self_, pml_of(self_, pmdp_), lock_class::pml);
    pmdp_.set(self_, old);
  }
  void report_bogus(pmd_t old) {
    breach(self_, "G-4",
           "the collapse of address " + std::to_string(extent_) + " puts back a PMD of value " +
               std::to_string(old.v) + ", which is no table");
  }

  void copy_and_clear() {
    memory& ram = *self_.ram;
    for (u64 i = 0; i < pages_per_huge; ++i) {
      if (pages_[i].pfn == 0)
        ram.phys.clear_page(huge_ + i);
      else
        ram.phys.copy_page(huge_ + i, pages_[i].pfn);
      pause_at(self_, point::ca_copied);
    }
    {
      auto t = pte_offset_map_lock(self_, ours(), extent_);
      for (u64 i = 0; t && i < pages_per_huge; ++i) {
        const pte_t old = t->get_and_clear(extent_ + (i << page_shift));
        if (pages_[i].pfn == 0) continue;
        const pfn_t head = ram.head_of(pages_[i].pfn);
        page_remove_pte(self_, m_, pages_[i].pfn, old);
        folio_put(self_, head);  // the mapping's; ours, or the folio's lock, keeps it
      }
    }
    let_go();
  }

  void install(vma& v) {
    const pgtable_t table = pmd_t{saved_.load(relaxed)}.pgtable();
    const spin_guard pml(self_, pml_of(self_, pmdp_), lock_class::pml);
    // It counts in pgtables_bytes already, as a table; deposited it goes on to.
    m_.pgtables_bytes.fetch_sub(static_cast<i64>(pte_table_bytes), relaxed);
    set_anon_huge_pmd(self_, v, extent_, pmdp_, huge_, table, true);
  }

  cpu& self_;
  mm& m_;
  const va_t extent_;
  const collapse_control& cc_;
  pfn_t huge_ = 0;
  pmd_ref pmdp_;
  entry_word saved_{0};  // the PMD that led to the table, while the slot is none
  taken pages_[pages_per_huge];
};

}  // namespace

scan_result collapse_huge_page(
    cpu& self, mm& m, va_t extent, const anon_scan& found, const collapse_control& cc) {
  const scan_result r = anon_collapse(self, m, extent, cc).run(found);
  if (r == scan_result::succeed) self.led.add(event::collapse_anon);
  trace_collapse_anon(self, r, r == scan_result::succeed ? 1 : 0);
  return r;
}

}  // namespace pgtbl::inline PGTBL_WORLD
