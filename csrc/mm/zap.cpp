#include "mm/zap.hpp"

#include "base/breach.hpp"
#include "mm/huge_pmd.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

rss_kind rss_of(cpu& self, pfn_t head) {
  const u32 flags = self.ram->of(head).flags.load(relaxed);
  return (flags & pg_anon) != 0 ? rss_kind::anon : (flags & pg_fs) != 0 ? rss_kind::file : rss_kind::shmem;
}

namespace {
void drop_count(cpu& self, atomic<u32>& count, pfn_t pfn) {
  if (count.fetch_sub(1, acq_rel) != 0) return;
  count.store(0, relaxed);
  breach(self, "G-25", "the map count of frame " + std::to_string(pfn) + " falls below zero");
}
}  // namespace

void page_remove_pte(cpu& self, mm& m, pfn_t pfn, pte_t old) {
  const pfn_t head = self.ram->head_of(pfn);
  if (old.dirty()) self.ram->of(head).flags.fetch_or(pg_dirty, relaxed);
  m.rss.add(self, rss_of(self, head), -1);
  drop_count(self, self.ram->of(pfn).mapcount, pfn);
}

void page_remove_pmd(cpu& self, mm& m, pfn_t head, pmd_t old) {
  if (old.dirty()) self.ram->of(head).flags.fetch_or(pg_dirty, relaxed);
  m.rss.add(self, rss_of(self, head), -static_cast<i64>(pages_per_huge));
  drop_count(self, self.ram->of(head).entire_mapcount, head);
}

// ---------------------------------------------------------------- the gather

gather::~gather() {
  // Whoever cleared an entry that we found none counted himself before, and does not count any more once he has
  // flushed it (mm_tlb_flush_nested).
  if (guard(Guard::zap_nested) && mm_.zaps.load(acquire) > 1) {
    cover(0, task_size);
    tables_ = true;
  }
  finish();
  mm_.zaps.fetch_sub(1, release);
}

void gather::page(pfn_t head, va_t va, u64 bytes) {
  cover(va, va + bytes);
  self_.led.add(event::pages_zapped);
  if (!guard(Guard::zap_flush)) {
    folio_put(self_, head);
    return;
  }
  pages_[n_pages_++] = head;
}

void gather::table(pgtable_t table, va_t start, va_t end) {
  if (n_tables_ == capacity) finish();
  cover(start, end);
  tables_ = true;
  if (life_of(self_, table).level == 1) pte_free_tlb(self_, mm_, table);
  tables_list_[n_tables_++] = table;
}

void gather::finish() {
  pause_at(self_, point::zp_before_flush);
  if (end_ != 0) {
    flush_tlb_range(self_, mm_, start_, end_, tables_);
    invalidate_secondary(self_, mm_, start_, end_);
  }
  for (u32 i = 0; i < n_pages_; ++i) folio_put(self_, pages_[i]);
  n_pages_ = 0;
  if (n_tables_ != 0) free_tables();
  start_ = ~0ULL;
  end_ = 0;
  tables_ = false;
}

void gather::free_tables() {
  if (self_.rules->gather_by_rcu) {
    free_tables_by_rcu(self_, tables_list_, n_tables_);
    n_tables_ = 0;
    return;
  }
  for (u32 i = 0; i < n_tables_; ++i) {
    pause_at(self_, point::mu_table_freed);
    tlb_remove_table(self_, tables_list_[i]);
  }
  n_tables_ = 0;
}

// ---------------------------------------------------------------- entries

namespace {

/// A huge PMD that goes as a whole.  False: it changed before we had the lock, and the caller looks again.
bool zap_huge_pmd(cpu& self, mm& m, pmd_ref pmdp, va_t extent, gather& g) {
  spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  if (!pmdp.get().huge()) return false;
  assert_pmd_locked(self, pmdp, pmdp.get());
  const pmd_t old = pmdp.get_and_clear(self);
  const pfn_t head = old.pfn();
  const bool zero = self.ram->is_huge_zero(head);
  const pgtable_t deposited = zero || needs_deposit(self, head) ? withdraw_table(self, pmdp) : pgtable_t{};
  pml.unlock();
  if (deposited != pgtable_t{}) {
    m.pgtables_bytes.fetch_sub(static_cast<i64>(pte_table_bytes), relaxed);
    g.table(deposited, extent, extent + pmd_size);
  }
  if (zero) {
    g.cover(extent, extent + pmd_size);
    return true;
  }
  page_remove_pmd(self, m, head, old);
  if (g.full()) g.finish();
  g.page(head, extent, pmd_size);
  return true;
}

/// One entry goes, where it is of the kind that shall go.  False: it stays.
bool zap_pte(cpu& self, mm& m, pte_locked& t, va_t va, gather& g, const zap_options& o) {
  const pte_t seen = t.get(va);
  if (seen.none()) return true;
  if (seen.present()) {
    const pfn_t head = self.ram->head_of(seen.pfn());
    if (o.file_pages_only && rss_of(self, head) == rss_kind::anon) return false;
    const pte_t old = t.get_and_clear(va);
    if (self.ram->is_zero(head)) {
      g.cover(va, va + page_size);
      return true;
    }
    page_remove_pte(self, m, old.pfn(), old);
    g.page(head, va, page_size);
    if (o.keep_wp && (old.v & bit_uffd_wp) != 0) {
      t.set(va, mk_marker(marker_uffd_wp));
      return false;
    }
    return true;
  }
  if (seen.migration()) {
    const pfn_t head = self.ram->head_of(seen.pfn());
    if (o.file_pages_only) return false;
    t.get_and_clear(va);
    m.rss.add(self, rss_of(self, head), -1);  // its map count and reference went as it became one
    return true;
  }
  if (o.file_pages_only && (seen.marker() & marker_poison) != 0) return false;  // as a private page would
  // A guard is not a page of the program's: only what takes the mapping itself away takes it (G-17).
  if ((seen.marker() & marker_guard) != 0 && !o.drop_markers) return false;
  if ((seen.marker() & marker_uffd_wp) != 0 && o.keep_wp) return false;
  t.get_and_clear(va);
  return true;
}

/// PT_RECLAIM at the end of a zap that never let the ptl go: the table is empty.  pml comes before ptl, so that
/// it may only be tried here (B20).
pmd_t try_get_and_clear_pmd(cpu& self, pmd_ref pmdp) {
  spinlock& pml = pml_of(self, pmdp);
  std::optional<hold> h;
  if (guard(Guard::reclaim_try_pml))
    h = pml.try_lock(self, lock_class::pml);
  else
    h = pml.lock(self, lock_class::pml);
  if (!h) return {};
  const pmd_t old = pmdp.get_and_clear(self);
  pml.unlock(self, lock_class::pml, *h);
  return old;
}

/// The PTEs of one extent.  False: the table was not there any more.
bool zap_pte_range(cpu& self, mm& m, pmd_ref pmdp, va_t start, va_t end, gather& g, const zap_options& o) {
  bool can_reclaim = o.reclaim && self.rules->reclaim_tables && end - start == pmd_size;
  bool direct = true;  // the ptl was held from the first entry to the last
  pmd_t taken{};
  for (va_t va = start;;) {
    {
      auto t = pte_offset_map_lock(self, pmdp, va);
      if (!t) return false;
      flush_batched_pending(self, m);
      for (; va < end && !g.full(); va += page_size)
        if (!zap_pte(self, m, *t, va, g, o)) can_reclaim = false;
      pause_at(self, point::zp_last_pte);
      // Where it was let go meanwhile, a fault may have filled an entry behind us (B19).
      if (va == end && can_reclaim && (direct || !guard(Guard::reclaim_rescan)))
        taken = try_get_and_clear_pmd(self, pmdp);
    }
    if (va == end) break;
    direct = false;
    g.finish();
    pause_at(self, point::zp_ptl_dropped);
  }
  if (!can_reclaim) return true;
  if (taken.none()) taken = try_to_free_pte(self, m, pmdp, start);
  if (taken.none()) return true;
  pause_at(self, point::zp_pmd_cleared);
  pte_detached(self, m, taken.pgtable());
  self.led.add(event::pte_reclaimed);
  g.table(taken.pgtable(), start, end);
  return true;
}

}  // namespace

pmd_t try_to_free_pte(cpu& self, mm&, pmd_ref pmdp, va_t extent) {
  const spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  auto map = pte_offset_map_rw_nolock(self, pmdp, extent);
  if (!map) return {};
  const pte_locked t = std::move(*map).lock();
  for (u64 i = 0; i < ptrs_per_table; ++i)
    if (!t.get(extent + (i << page_shift)).none()) return {};
  return pmdp.get_and_clear(self);
}

// ---------------------------------------------------------------- zap

void zap_range(cpu& self, vma& v, va_t start, va_t end, gather& g, const zap_options& options) {
  mm& m = v.owner;
  zap_options o = options;
  o.keep_wp = v.is(vm_uffd_wp) && !v.is_anon() && !o.drop_markers;
  for (va_t va = start; va < end;) {
    const va_t extent = pmd_align_down(va);
    const va_t next = extent + pmd_size < end ? extent + pmd_size : end;
    const pmd_ref pmdp = pmd_offset(self, m, va);
    // One PMD until it was emptied: it may turn from table to huge to none under us (B38).  Not longer, as a program
    // that faults it in again and again would hold us here.
    while (pmdp) {
      const pmd_t pmd = pmdp.get();
      if (pmd.none()) break;
      if (pmd.huge()) {
        const bool whole = next - va == pmd_size;
        if (o.file_pages_only && rss_of(self, pmd.pfn()) == rss_kind::anon) break;
        if (whole) {
          if (zap_huge_pmd(self, m, pmdp, extent, g)) break;
        } else {
          split_huge_pmd(self, v, pmdp, extent);  // of a file: it goes, and what stays mapped faults in again
        }
      } else if (zap_pte_range(self, m, pmdp, va, next, g, o) || !self.rules->map_may_fail) {
        break;
      }
    }
    va = next;
  }
}

// ---------------------------------------------------------------- free_pgtables

namespace {

/// Frees the table below one slot if nothing else can be mapped in its whole reach [lo, hi).
/// Takes no lock: the VMAs that reached here are unlinked.
void free_below(mm& m, entry_word& slot, u64 bytes, va_t lo, va_t hi, va_t floor, va_t ceiling, gather& g) {
  const pmd_t e{slot.load(acquire)};
  if (!e.table() || lo < floor || hi > ceiling) return;
  slot.store(0, release);
  m.pgtables_bytes.fetch_sub(static_cast<i64>(bytes), relaxed);
  g.table(e.pgtable(), lo, hi);
}

}  // namespace

void free_pgd_range(cpu& self, mm& m, va_t start, va_t end, va_t floor, va_t ceiling, gather& g) {
  physical& phys = self.ram->phys;
  const auto reach = [](va_t va, unsigned shift) { return va & ~((1ULL << shift) - 1); };
  for (va_t va = pmd_align_down(start); va < end; va += pmd_size)
    if (const pmd_ref p = pmd_offset(self, m, va))
      free_below(m, *p.slot, pte_table_bytes, va, va + pmd_size, floor, ceiling, g);
  if constexpr (geometry.pud_bits != 0) {
    for (va_t va = reach(start, pud_shift); va < end; va += 1ULL << pud_shift) {
      const pmd_t pgd{m.pgd[index_at(va, pgd_shift)].load(acquire)};
      if (pgd.table())
        free_below(m, phys.entry(pgd.pgtable(), index_at(va, pud_shift)), table_bytes(2), va,
                   va + (1ULL << pud_shift), floor, ceiling, g);
    }
  }
  if constexpr (geometry.pgd_bits != 0)
    for (va_t va = reach(start, pgd_shift); va < end; va += 1ULL << pgd_shift)
      free_below(m, m.pgd[index_at(va, pgd_shift)], table_bytes(level_below(4)), va, va + (1ULL << pgd_shift),
                 floor, ceiling, g);
}

}  // namespace pgtbl::inline PGTBL_WORLD
