#include "check/snapshot.hpp"

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD {

page_words words_of(cpu& self, pfn_t pfn) {
  physical& phys = self.ram->phys;
  page_words w;
  const kernel_mapping bytes(self, pfn);
  w.first = phys.load_word(pfn, 0);
  if (page_size == sizeof(u64)) return w;
  w.rest = phys.load_word(pfn, sizeof(u64));
  for (u64 at = 2 * sizeof(u64); at < page_size; at += sizeof(u64))
    if (phys.load_word(pfn, at) != w.rest) {
      w.mixed = 1;
      w.rest = 0;
      break;
    }
  return w;
}

namespace {

snapshot_row page_row(cpu& self, va_t va, pfn_t pfn, u64 entry, bool huge) {
  const pfn_t head = self.ram->head_of(pfn);
  const frame& page = self.ram->of(pfn);
  const frame& folio = self.ram->of(head);
  snapshot_row r;
  r.va = va;
  r.huge = huge;
  r.uffd_wp = (entry & bit_uffd_wp) != 0;
  if (self.ram->is_zero(head)) {
    r.kind = 'Z';
    return r;
  }
  r.pfn = pfn;
  r.words = words_of(self, pfn);
  r.kind = (folio.flags.load(relaxed) & pg_anon) != 0 ? 'A' : 'F';
  r.order = folio.order;
  r.mapcount =
      page.mapcount.load(relaxed) + (folio.order == huge_order ? folio.entire_mapcount.load(relaxed) : 0);
  return r;
}

snapshot_row pte_row(cpu& self, va_t va, pte_t pte) {
  if (pte.present()) return page_row(self, va, pte.pfn(), pte.v, false);
  snapshot_row r;
  r.va = va;
  r.kind = (pte.marker() & marker_guard) != 0 ? 'g' : 's';
  r.uffd_wp = (pte.marker() & marker_uffd_wp) != 0;
  return r;
}

/// One extent's part.  False: the table vanished; once more (B37).
bool snapshot_extent(cpu& self, mm& m, va_t start, va_t end, std::vector<snapshot_row>& rows) {
  const pmd_ref p = pmd_offset(self, m, start);
  const pmd_t pmd = p ? p.get() : pmd_t{};
  if (pmd.huge()) {
    for (va_t va = start; va < end; va += page_size)
      rows.push_back(page_row(self, va, pmd.pfn() + index_at(va, page_shift), pmd.v, true));
    return true;
  }
  if (!pmd.table()) return true;
  const auto t = pte_offset_map(self, p, start);
  if (!t) return false;
  for (va_t va = start; va < end; va += page_size)
    if (const pte_t pte = t->get(va); !pte.none()) rows.push_back(pte_row(self, va, pte));
  return true;
}

}  // namespace

void snapshot(cpu& self, mm& m, va_t start, va_t end, std::vector<snapshot_row>& rows) {
  const mmap_read_guard lock(self, m);
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    for (va_t va = std::max(start, e.start), stop = std::min(end, e.end); va < stop;) {
      const va_t next = std::min(pmd_align_down(va) + pmd_size, stop);
      while (!snapshot_extent(self, m, va, next, rows) && guard(Guard::walk_again)) {}
      va = next;
    }
  });
}

void cache_snapshot(cpu& self, mapping& f, std::vector<cache_row>& rows) {
  for (pgoff_t at = 0;;) {
    // A section for each item: the vector may allocate.
    self.rcu.read_lock();
    const cache_item item = f.pages.find(at, page_cache::max_index);
    self.rcu.read_unlock();
    if (!item) return;
    at = item.next();
    if (!item.entry.is_page()) continue;
    const frame& folio = self.ram->of(self.ram->head_of(item.entry.pfn()));
    const bool uptodate = (folio.flags.load(relaxed) & pg_uptodate) != 0;
    for (pgoff_t index = item.index; index < item.next(); ++index)
      rows.push_back({index, words_of(self, item.entry.pfn_at(index)), folio.order, uptodate});
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
