#include "mm/zap.hpp"

#include "base/breach.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

rss_kind rss_of(cpu& self, pfn_t head) {
  return (self.ram->of(head).flags.load(relaxed) & pg_anon) != 0 ? rss_kind::anon : rss_kind::shmem;
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

void gather::page(pfn_t head, va_t va, u64 bytes) {
  cover(va, va + bytes);
  self_.led.add(event::pages_zapped);
  if (!guard(Guard::zap_flush)) {
    folio_put(self_, head);
    return;
  }
  if (n_pages_ == capacity) finish();
  cover(va, va + bytes);
  pages_[n_pages_++] = head;
}

void gather::table(pfn_t table, va_t start, va_t end) {
  if (n_tables_ == capacity) finish();
  cover(start, end);
  tables_ = true;
  tables_list_[n_tables_++] = table;
}

void gather::finish() {
  pause_at(self_, point::zp_before_flush);
  if (end_ != 0) flush_tlb_range(self_, mm_, start_, end_, tables_);
  for (u32 i = 0; i < n_pages_; ++i) folio_put(self_, pages_[i]);
  for (u32 i = 0; i < n_tables_; ++i) {
    pause_at(self_, point::mu_table_freed);
    if (self_.ram->of(tables_list_[i]).level == 1)
      pte_free_now(self_, tables_list_[i]);
    else
      self_.ram->free_table(self_, self_.frames, tables_list_[i]);
  }
  n_pages_ = n_tables_ = 0;
  start_ = ~0ULL;
  end_ = 0;
  tables_ = false;
}

// ---------------------------------------------------------------- zap

namespace {

/// A huge PMD in the range: file memory just loses it (what stays mapped faults in again).
void zap_huge_pmd(cpu& self, mm& m, pmd_ref pmdp, va_t extent, gather& g) {
  spin_guard pml(self, pml_of(self, pmdp), lock_class::pml);
  if (!pmdp.get().huge()) return;  // changed before we had the lock: the caller looks again
  assert_pmd_locked(self, pmdp, pmdp.get());
  const pmd_t old{pmdp.slot->exchange(0, acq_rel)};
  pml.unlock();
  page_remove_pmd(self, m, old.pfn(), old);
  g.page(old.pfn(), extent, pmd_size);
}

/// The PTEs of one extent.  False: the table was not there any more.
bool zap_ptes(cpu& self, mm& m, pmd_ref pmdp, va_t start, va_t end, gather& g, zap_what what) {
  pfn_t pages[ptrs_per_table];
  va_t at[ptrs_per_table];
  u32 n = 0;
  {
    auto t = pte_offset_map_lock(self, pmdp, start);
    if (!t) return false;
    flush_batched_pending(self, m);
    for (va_t va = start; va < end; va += page_size) {
      const pte_t seen = t->get(va);
      if (seen.none()) continue;
      if (what == zap_what::file_pages && seen.present() &&
          rss_of(self, self.ram->head_of(seen.pfn())) == rss_kind::anon)
        continue;
      const pte_t old = t->get_and_clear(va);
      if (!old.present()) continue;
      page_remove_pte(self, m, old.pfn(), old);
      pages[n] = self.ram->head_of(old.pfn());
      at[n++] = va;
    }
  }
  for (u32 i = 0; i < n; ++i) g.page(pages[i], at[i], page_size);
  return true;
}

}  // namespace

void zap_range(cpu& self, vma& v, va_t start, va_t end, gather& g, zap_what what) {
  mm& m = v.owner;
  for (va_t va = start; va < end;) {
    const va_t next = pmd_align_down(va) + pmd_size < end ? pmd_align_down(va) + pmd_size : end;
    const pmd_ref pmdp = pmd_offset(self, m, va);
    // One PMD until it is empty: it may turn from table to huge to none under us (B38).
    while (pmdp) {
      const pmd_t pmd = pmdp.get();
      if (pmd.none()) break;
      if (pmd.huge()) {
        zap_huge_pmd(self, m, pmdp, pmd_align_down(va), g);
      } else if (zap_ptes(self, m, pmdp, va, next, g, what)) {
        break;
      } else if (!self.rules->map_may_fail) {
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
void free_below(mm& m, atomic<u64>& slot, va_t lo, va_t hi, va_t floor, va_t ceiling, gather& g) {
  const pmd_t e{slot.load(acquire)};
  if (!e.table() || lo < floor || hi > ceiling) return;
  slot.store(0, release);
  m.pgtables_bytes.fetch_sub(static_cast<i64>(page_size), relaxed);
  g.table(e.pfn(), lo, hi);
}

}  // namespace

void free_pgd_range(cpu& self, mm& m, va_t start, va_t end, va_t floor, va_t ceiling, gather& g) {
  physical& phys = self.ram->phys;
  const auto reach = [](va_t va, unsigned shift) { return va & ~((1ULL << shift) - 1); };
  for (va_t va = pmd_align_down(start); va < end; va += pmd_size)
    if (const pmd_ref p = pmd_offset(self, m, va))
      free_below(m, *p.slot, va, va + pmd_size, floor, ceiling, g);
  for (va_t va = reach(start, pud_shift); va < end; va += 1ULL << pud_shift) {
    const pmd_t pgd{phys.entries(m.root)[index_at(va, pgd_shift)].load(acquire)};
    if (pgd.table())
      free_below(m, phys.entries(pgd.pfn())[index_at(va, pud_shift)], va, va + (1ULL << pud_shift), floor,
                 ceiling, g);
  }
  for (va_t va = reach(start, pgd_shift); va < end; va += 1ULL << pgd_shift)
    free_below(m, phys.entries(m.root)[index_at(va, pgd_shift)], va, va + (1ULL << pgd_shift), floor, ceiling,
               g);
}

}  // namespace pgtbl::inline PGTBL_WORLD
