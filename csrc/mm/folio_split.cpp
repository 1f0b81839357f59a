#include "mm/folio_split.hpp"

#include "mm/anon_vma.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/zap.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// A split of one anonymous folio: its entries become migration entries, and present again.
class anon_entries {
 public:
  anon_entries(cpu& self, pfn_t head, anon_vma& a)
      : self_(self),
        head_(head),
        index_(self.ram->of(head).index),
        pages_(1ULL << self.ram->of(head).order),
        anon_(a) {}

  /// Every entry of the folio goes to a migration entry (try_to_migrate), huge PMDs taken apart first.
  void take() {
    for_each_mapping(anon_, index_, pages_, [&](vma& v) {
      each_table(v, [&](vma& area, pmd_ref pmdp, va_t start, va_t end) {
        if (pmdp.get().huge()) split_huge_pmd(self_, area, pmdp, pmd_align_down(start));
        return take_from(area, pmdp, start, end);
      });
    });
    flush_unmap_batch(self_);
  }
  /// And back (remove_migration_ptes).
  void give_back() {
    for_each_mapping(anon_, index_, pages_, [&](vma& v) {
      each_table(
          v, [&](vma& area, pmd_ref pmdp, va_t start, va_t end) { return give_to(area, pmdp, start, end); });
    });
  }

 private:
  /// Calls f(vma, pmd, start, end) for each extent in which the VMA may map pages of the folio, until it is true.
  template <class F>
  void each_table(vma& v, F&& f) {
    const pgoff_t first = index_ > v.pgoff ? index_ : v.pgoff.get();
    const pgoff_t end = std::min<pgoff_t>(index_ + pages_, v.pgoff + v.pages());
    for (va_t va = v.va_of(first), stop = v.va_of(end); va < stop;) {
      const va_t next = std::min(pmd_align_down(va) + pmd_size, stop);
      const pmd_ref pmdp = pmd_offset(self_, v.owner, va);
      while (pmdp && !pmdp.get().none() && !f(v, pmdp, va, next)) {}
      va = next;
    }
  }

  bool only_zeroes(pfn_t pfn) const {
    const kernel_mapping bytes(self_, pfn);
    for (u64 at = 0; at < page_size; at += sizeof(u64))
      if (self_.ram->phys.load_word(pfn, at) != 0) return false;
    return true;
  }

  pfn_t page_at(const vma& v, va_t va) const { return head_ + (v.pgoff_of(va) - index_); }

  bool take_from(vma& v, pmd_ref pmdp, va_t start, va_t end) {
    mm& m = v.owner;
    const notifier_range notifier(self_, m, start, end);
    auto t = pte_offset_map_lock(self_, pmdp, start);
    if (!t) return false;
    for (va_t va = start; va < end; va += page_size) {
      const pfn_t pfn = page_at(v, va);
      const pte_t seen = t->get(va);
      if (!seen.present() || seen.pfn() != pfn) continue;
      const pte_t old = t->get_and_clear(va);
      frame& f = self_.ram->of(pfn);
      const u64 exclusive = (f.flags.load(relaxed) & pg_anon_exclusive) != 0 ? bit_migration_exclusive : 0;
      if (old.dirty()) self_.ram->of(head_).flags.fetch_or(pg_dirty, relaxed);
      t->set(va, {mk_swap(swap_kind::migration, pfn_to_entry(pfn)).v | (old.v & bit_write) | exclusive});
      // Its rss stays: the page is still the program's.
      f.mapcount.fetch_sub(1, acq_rel);
      folio_put(self_, head_);  // never the last: the caller has one
    }
    flush_tlb_range(self_, m, start, end,
                    false);  // before the lock is given up: nobody stores to it any more
    return true;
  }

  bool give_to(vma& v, pmd_ref pmdp, va_t start, va_t end) {
    auto t = pte_offset_map_lock(self_, pmdp, start);
    if (!t) return false;
    for (va_t va = start; va < end; va += page_size) {
      const pfn_t pfn = page_at(v, va);
      const pte_t seen = t->get(va);
      if (!seen.migration() || seen.pfn() != pfn) continue;
      const bool exclusive = (seen.v & bit_migration_exclusive) != 0;
      prot_bits p = v.prot();
      p.write = p.write && (seen.v & bit_write) != 0 && exclusive;
      const pfn_t head = self_.ram->head_of(pfn);
      if (self_.ram->of(head).order == 0 && !v.is(vm_locked) && only_zeroes(pfn)) {
        t->set(va, mk_pte(memory::zero_page, {p.read || p.write || v.is(vm_access_flags), false, p.exec}));
        v.owner.rss.add(self_, rss_kind::anon, -1);
        continue;
      }
      pte_t e = mk_pte(pfn, p);
      if ((self_.ram->of(head).flags.load(relaxed) & pg_dirty) != 0) e.v |= bit_dirty;
      folio_get(self_, head);
      frame& f = self_.ram->of(pfn);
      f.mapcount.fetch_add(1, relaxed);
      if (exclusive) f.flags.fetch_or(pg_anon_exclusive, relaxed);
      t->set(va, e);
    }
    return true;
  }

  cpu& self_;
  const pfn_t head_;
  const pgoff_t index_;
  const u64 pages_;
  anon_vma& anon_;
};

/// All references at once, if they are as many as that: nobody else gets one then.
bool freeze(frame& h, u32 expected) {
  if (!guard(Guard::split_freeze)) return true;
  return h.refcount.compare_exchange_strong(expected, 0, acq_rel);
}

bool split_anon(cpu& self, pfn_t head, pfn_t at, bool uniform) {
  anon_vma* a = folio_get_anon_vma(self, head);
  if (a == nullptr) return false;  // about to be freed
  bool done = false;
  const u64 pages = 1ULL << self.ram->of(head).order;
  {
    // For write: no new mapping of the folio comes by fork while we look.
    const anon_vma_write_guard family(self, a);
    anon_entries entries(self, head, *a);
    entries.take();
    frame& h = self.ram->of(head);
    done = freeze(h, 1);
    if (done) {
      pause_at(self, point::sp_frozen);
      self.ram->split_descriptors(head, at, uniform, false);
      for (u64 i = 0; i < pages; ++i) {  // ours, until the mappings have theirs
        frame& f = self.ram->of(head + i);
        if ((f.flags.load(relaxed) & pg_tail) == 0) f.refcount.store(1, release);
      }
    }
    entries.give_back();
  }
  put_anon_vma(self, a);
  if (!done) return false;
  for (u64 i = 1; i < pages; ++i)  // heads alone have references; what is mapped no more goes here
    if ((self.ram->of(head + i).flags.load(relaxed) & pg_tail) == 0) folio_put(self, head + i);
  return true;
}

bool split_file(cpu& self, mapping& f, pfn_t head, pfn_t at, bool uniform) {
  try_to_unmap(self, head);
  flush_unmap_batch(self);
  frame& h = self.ram->of(head);
  const u64 pages = 1ULL << h.order;
  const pgoff_t index = h.index;
  const bool huge = h.order == huge_order;
  // The cache's references and ours.
  if (!freeze(h, static_cast<u32>(pages) + 1)) return false;
  pause_at(self, point::sp_frozen);
  cache_entry entries[ptrs_per_table];
  for (u64 i = 0; i < pages; ++i) entries[i] = cache_entry::small(head + i);
  // What lies beyond the end of the file stayed only because its folio reached there.
  const pgoff_t end = f.size_pages();
  pfn_t beyond[ptrs_per_table];
  u64 n = 0;
  {
    const spin_guard g(self, f.xa_lock, lock_class::page_cache);
    self.ram->split_descriptors(head, at, uniform, true);
    if (huge) f.pages.split_huge(self.rcu, index, entries);
    if (huge && f.regular()) f.nr_thps.fetch_sub(1, relaxed);
    for (u64 i = 1; i < pages; ++i) {
      frame& part = self.ram->of(head + i);
      if ((part.flags.load(relaxed) & pg_tail) != 0 || index + i < end) continue;
      for (u64 k = 0; k < 1ULL << part.order; ++k) f.pages.erase(self.rcu, index + i + k);
      part.file.store(nullptr, release);
      beyond[n++] = head + i;
    }
    h.refcount.store((1U << h.order) + 1, release);  // the cache's, and the caller's
  }
  for (u64 i = 0; i < n; ++i) folio_put(self, beyond[i], 1U << self.ram->of(beyond[i]).order);
  return true;
}

}  // namespace

bool split_folio(cpu& self, pfn_t head, pfn_t at, bool uniform) {
  frame& h = self.ram->of(head);
  const bool anon = (h.flags.load(relaxed) & pg_anon) != 0;
  mapping* file = h.file.load(acquire);
  if (!anon && file == nullptr) return false;
  const bool done = anon ? split_anon(self, head, at, uniform) : split_file(self, *file, head, at, uniform);
  if (done) self.led.add(event::folio_split);
  return done;
}

}  // namespace pgtbl::inline PGTBL_WORLD
