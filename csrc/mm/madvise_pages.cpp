// MADV_FREE, MADV_COLD and MADV_PAGEOUT: what they say of pages, entry by entry.
//
// A huge or large folio of which the range covers a part is split first, so that the rest is not meant.  That needs
// the folio lock, which is only tried, and no spinlock: the walk lets the table go, splits, and looks again.
#include "mm/folio_split.hpp"
#include "mm/lru_batch.hpp"
#include "mm/madvise_parts.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

enum class advice : u8 { free, cold, pageout };

/// How many entries map pages of the folio.
u64 mapped_times(cpu& self, pfn_t head) {
  const frame& h = self.ram->of(head);
  u64 n = h.entire_mapcount.load(acquire);
  for (u64 i = 0; i < 1ULL << h.order; ++i) n += self.ram->of(head + i).mapcount.load(acquire);
  return n;
}

/// A large folio that is mapped more often than once.
bool mapped_twice(cpu& self, pfn_t head) {
  const frame& h = self.ram->of(head);
  const u64 n = mapped_times(self, head);
  return h.entire_mapcount.load(acquire) != 0 ? n > 1 : n > 1ULL << h.order;
}

/// Whether nobody has references to the folio but its mappings, its file, and the caller.
bool only_expected(cpu& self, pfn_t head) {
  const frame& h = self.ram->of(head);
  const u64 cached = (h.flags.load(relaxed) & pg_anon) != 0 ? 0 : 1ULL << h.order;
  return h.refcount.load(acquire) == mapped_times(self, head) + cached + 1;
}

/// Splits the folio into single pages, by a reference that the caller took under the lock of the entry.  Not where
/// another program maps it too: it did not ask for that.  What is pinned keeps its mappings: it is looked at before they go.
bool split_taken(cpu& self, pfn_t head, const mm& m) {
  bool split = false;
  if (auto h = folio_trylock_hold(self, head)) {
    const folio_guard lock(self, head, *h);
    split = self.ram->of(head).order != 0 && mapped_in(self, head, m) == mapped_times(self, head) &&
            only_expected(self, head) && split_folio(self, head, head, true);
  }
  folio_put(self, head);
  return split;
}

/// What reclaim does with a page of shared memory for which there is no swap: it is unmapped, and stays in its file.
/// By a reference that the caller took under the lock of the entry.
void page_out_taken(cpu& self, pfn_t head) {
  if (auto h = folio_trylock_hold(self, head)) {
    const folio_guard lock(self, head, *h);
    try_to_unmap(self, head);
    flush_unmap_batch(self);
  }
  folio_put(self, head);
}

class advised_walk {
 public:
  advised_walk(cpu& self, vma& v, advice what) : self_(self), v_(v), what_(what) {}

  void run(va_t start, va_t end) {
    for (va_t va = start; va < end;) {
      const va_t next = std::min(pmd_align_down(va) + pmd_size, end);
      extent(va, next);
      va = next;
    }
    flush_tlb_range(self_, v_.owner, start, end, false);
  }

 private:
  void extent(va_t start, va_t end) {
    const pmd_ref pmdp = pmd_offset(self_, v_.owner, start);
    for (va_t va = start; pmdp && va < end;) {
      const pmd_t pmd = pmdp.get();
      if (pmd.none()) return;
      if (pmd.huge()) {
        if (huge(pmdp, end - start == pmd_size)) return;
        continue;
      }
      stop at;
      {
        auto t = pte_offset_map_lock(self_, pmdp, va);
        if (!t) continue;
        at = entries(*t, va, end);
      }
      if (at.head == 0) continue;
      if (at.split && split_taken(self_, at.head, v_.owner)) continue;
      if (!at.split) page_out_taken(self_, at.head);
      va += at.bytes;
    }
  }

  /// A huge PMD.  False: it was taken apart; look again.
  bool huge(pmd_ref pmdp, bool whole) {
    pfn_t head = 0;
    {
      const spin_guard pml(self_, pml_of(self_, pmdp), lock_class::pml);
      pmd_t e = pmdp.get();
      if (!e.huge()) return false;
      head = e.pfn();
      if ((e.v & bit_present) == 0 || self_.ram->is_huge_zero(head)) return true;
      if (whole) {
        if (mapped_twice(self_, head)) return true;
        const u64 gone = what_ == advice::free ? bit_accessed | bit_dirty : bit_accessed;
        while (e.huge() && !pmdp.slot->compare_exchange_strong(e.v, e.v & ~gone, acq_rel)) {}
        if (what_ == advice::free) make_lazy(head);
        if (!pages_out(head)) return true;
      }
      folio_get(self_, head);
    }
    if (!whole) return !split_taken(self_, head, v_.owner);
    page_out_taken(self_, head);
    return true;
  }

  /// Where the walk over entries has to let the table go: a folio, with a reference, that is to be split or unmapped.
  struct stop {
    pfn_t head = 0;
    bool split = false;
    u64 bytes = page_size;  // of the range that map its pages
  };

  bool pages_out(pfn_t head) const {
    return what_ == advice::pageout && (self_.ram->of(head).flags.load(relaxed) & pg_anon) == 0;
  }

  /// Entries from va on, which moves; stops where a folio needs more than its entries changed.
  stop entries(pte_locked& t, va_t& va, va_t end) {
    flush_batched_pending(self_, v_.owner);
    for (; va < end; va += page_size) {
      const pte_t e = t.get(va);
      if ((e.v & bit_present) == 0 || self_.ram->is_zero(e.pfn())) continue;
      const pfn_t head = self_.ram->head_of(e.pfn());
      const frame& h = self_.ram->of(head);
      if (what_ == advice::free && (h.flags.load(relaxed) & pg_anon) == 0) continue;
      if (h.order != 0) {
        const u64 pages = batch(t, va, end, head);
        if (pages < 1ULL << h.order) {
          folio_get(self_, head);
          return {head, true, pages << page_shift};
        }
        for (u64 i = 0; i < pages; ++i) one(t, va + (i << page_shift), t.get(va + (i << page_shift)), head);
        if (pages_out(head) && !mapped_twice(self_, head)) {
          folio_get(self_, head);
          return {head, false, pages << page_shift};
        }
        va += (pages - 1) << page_shift;
        continue;
      }
      one(t, va, e, head);
      if (pages_out(head) && mapped_times(self_, head) == 1) {
        folio_get(self_, head);
        return {head, false};
      }
    }
    return {};
  }

  /// How many entries from va on map one page of the folio after the other (B57: compared one by one, and never
  /// beyond the table).
  u64 batch(pte_locked& t, va_t va, va_t end, pfn_t head) const {
    const pfn_t first = t.get(va).pfn(), last = head + (1ULL << self_.ram->of(head).order) - 1;
    u64 n = 1;
    for (va_t at = va + page_size; at < end && first + n <= last; at += page_size, ++n) {
      const pte_t e = t.get(at);
      if ((e.v & bit_present) == 0 || e.pfn() != first + n) break;
    }
    return n;
  }

  void one(pte_locked& t, va_t va, pte_t e, pfn_t head) {
    const u64 gone = what_ == advice::free ? bit_accessed | bit_dirty : bit_accessed;
    if (what_ == advice::free) {
      // A page that was found dirty as it was unmapped somewhere belongs to others too, unless nobody maps it.
      const bool dirty = (self_.ram->of(head).flags.load(acquire) & pg_dirty) != 0;
      if (dirty && mapped_times(self_, head) != 1) return;
    }
    while (e.present() && !t.replace(va, e, {e.v & ~gone})) e = t.get(va);
    if (what_ == advice::free) make_lazy(head);
  }

  void make_lazy(pfn_t head) {
    frame& h = self_.ram->of(head);
    h.flags.fetch_and(~u32{pg_dirty}, relaxed);
    if ((h.flags.load(relaxed) & pg_lazyfree) == 0) lru_add_lazyfree(self_, head);
  }

  cpu& self_;
  vma& v_;
  advice what_;
};

}  // namespace

void madvise_free(cpu& self, vma& v, va_t start, va_t end) {
  lru_add_drain(self);
  const notifier_range notifier(self, v.owner, start, end);
  advised_walk(self, v, advice::free).run(start, end);
}

void madvise_cold(cpu& self, vma& v, va_t start, va_t end, bool page_out) {
  lru_add_drain(self);
  advised_walk(self, v, page_out ? advice::pageout : advice::cold).run(start, end);
}

}  // namespace pgtbl::inline PGTBL_WORLD
