#include "check/pagemap.hpp"

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD {

namespace {

pagemap_row row_of(cpu& self, va_t va, pfn_t pfn, u64 entry, bool huge) {
  const frame& page = self.ram->of(pfn);
  const pfn_t head = self.ram->head_of(pfn);
  const frame& folio = self.ram->of(head);
  pagemap_row r;
  r.va = va;
  r.pfn = pfn;
  r.anon = (folio.flags.load(relaxed) & pg_anon) != 0;
  r.zero = self.ram->is_zero(pfn);
  r.index = r.anon ? 0 : folio.index + (pfn - head);
  if (r.zero == 0) {
    r.mapcount =
        page.mapcount.load(relaxed) + (folio.order == huge_order ? folio.entire_mapcount.load(relaxed) : 0);
    r.refcount = folio.refcount.load(relaxed);
    r.order = folio.order;
  }
  r.huge = huge;
  r.write = (entry & bit_write) != 0;
  r.dirty = (entry & bit_dirty) != 0;
  r.young = (entry & bit_accessed) != 0;
  return r;
}

pagemap_row row_without_page(va_t va, pte_t e) {
  pagemap_row r;
  r.va = va;
  r.guard = (e.marker() & marker_guard) != 0;
  r.swap = r.guard == 0;
  return r;
}

/// One extent's part.  False: the table vanished; once more (B37).
bool pagemap_extent(cpu& self, mm& m, va_t start, va_t end, std::vector<pagemap_row>& rows) {
  const pmd_ref p = pmd_offset(self, m, start);
  const pmd_t pmd = p ? p.get() : pmd_t{};
  if (pmd.huge()) {
    for (va_t va = start; va < end; va += page_size)
      rows.push_back(row_of(self, va, pmd.pfn() + index_at(va, page_shift), pmd.v, true));
    return true;
  }
  if (!pmd.table()) return true;
  const auto t = pte_offset_map(self, p, start);
  if (!t) return false;
  for (va_t va = start; va < end; va += page_size) {
    const pte_t e = t->get(va);
    if (e.present())
      rows.push_back(row_of(self, va, e.pfn(), e.v, false));
    else if (!e.none())
      rows.push_back(row_without_page(va, e));
  }
  return true;
}

}  // namespace

void pagemap(cpu& self, mm& m, va_t start, va_t end, std::vector<pagemap_row>& rows) {
  const mmap_read_guard lock(self, m);
  m.vmas.for_each(start, end, [&](const vma_entry& e) {
    for (va_t va = std::max(start, e.start), stop = std::min(end, e.end); va < stop;) {
      const va_t next = std::min(pmd_align_down(va) + pmd_size, stop);
      while (!pagemap_extent(self, m, va, next, rows) && guard(Guard::walk_again)) {}
      va = next;
    }
  });
}

std::vector<walk_step> walk(cpu& self, mm& m, va_t va) {
  std::vector<walk_step> steps;
  const mmap_read_guard lock(self, m);
  constexpr unsigned shifts[] = {pgd_shift, pud_shift, pmd_shift};
  pgtable_t table = m.root;
  for (u8 level = root_level; level > 1; level = level_below(level)) {
    entry_word& slot = self.ram->phys.entries(table)[index_at(va, shifts[4 - level])];
    const pmd_t e{slot.load(acquire)};
    steps.push_back({level, e.v, pfn_of(table)});
    if (!e.table()) return steps;
    if (level == 2) {
      if (const auto t = pte_offset_map(self, {&slot, mk_table(table)}, va))
        steps.push_back({1, t->get().v, pfn_of(t->table())});
      return steps;
    }
    table = e.pgtable();
  }
  return steps;
}

}  // namespace pgtbl::inline PGTBL_WORLD
