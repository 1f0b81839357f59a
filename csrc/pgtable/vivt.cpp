#include "pgtable/vivt.hpp"

#if defined(PGTBL_ARCH_ARM)
#include <algorithm>

#include "pgtable/cpu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

static_assert((geometry.cache_lines & (geometry.cache_lines - 1)) == 0);

vivt_cache::vivt_cache(memory& ram)
    : ram_(ram), lines_(make_array<line>(geometry.cache_lines)), held_(make_array<held>(ram.frames())) {
  for (u32 i = 0; i < geometry.cache_lines; ++i) lines_[i].store = ram.frames() + i;
}

vivt_cache::~vivt_cache() {
  destroy_array(lines_, geometry.cache_lines);
  destroy_array(held_, ram_.frames());
}

vivt_cache::line& vivt_cache::place(u32 mm, va_t page) const {
  // Mixed, so that two mappings side by side do not drive each other out.
  const u64 h = (page + (u64{mm} << 40)) * 0x9e3779b97f4a7c15;
  return lines_[(h >> 40) & (geometry.cache_lines - 1)];
}

void vivt_cache::drop(line& l) {
  if (l.dirty) ram_.phys.copy_page(l.frame, l.store);
  --held_[l.frame].n;
  --used_;
  l.dirty = false;
  l.frame = 0;
}

vivt_cache::line& vivt_cache::line_for(u32 mm, va_t page, pfn_t pfn) {
  line& l = place(mm, page);
  if (l.frame == pfn && l.mm == mm && l.page == page) return l;
  // Another address; or this one's former frame, which a zap has taken out, and whose line it is about to drop.
  if (l.frame != 0) drop(l);
  write_back_others(pfn, mm);
  ram_.phys.copy_page(l.store, pfn);
  l.mm = mm;
  l.page = page;
  l.frame = pfn;
  held_[pfn].mm = mm;
  ++held_[pfn].n;
  ++used_;
  return l;
}

void vivt_cache::write_back(pfn_t pfn) {
  for (u32 i = 0; i < geometry.cache_lines && held_[pfn].n != 0; ++i)
    if (lines_[i].frame == pfn) drop(lines_[i]);
}

void vivt_cache::drop_others(u32 mm, pfn_t pfn, const std::vector<va_t>& kept) {
  const processor p(*this);
  if (held_[pfn].n == 0 || held_[pfn].mm != mm) return;
  for (u32 i = 0; i < geometry.cache_lines; ++i) {
    line& l = lines_[i];
    if (l.frame == pfn && std::find(kept.begin(), kept.end(), l.page << page_shift) == kept.end()) drop(l);
  }
}

void vivt_cache::flush_range(u32 mm, va_t start, va_t end) {
  const processor p(*this);
  const va_t first = start >> page_shift, last = (end + page_size - 1) >> page_shift;
  if (last - first <= geometry.cache_lines) {
    for (va_t page = first; page < last; ++page)
      if (line& l = place(mm, page); l.frame != 0 && l.mm == mm && l.page == page) drop(l);
    return;
  }
  for (u32 i = 0; i < geometry.cache_lines; ++i) {
    line& l = lines_[i];
    if (l.frame != 0 && l.mm == mm && l.page >= first && l.page < last) drop(l);
  }
}

pfn_t vivt_cache::frame_at(u32 mm, va_t va) const {
  const line& l = place(mm, va >> page_shift);
  return l.mm == mm && l.page == va >> page_shift ? l.frame : 0;
}

kernel_mapping::kernel_mapping(cpu& self, pfn_t pfn) : alone_(self.arch->lines) {
  self.arch->lines.write_back(pfn);
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
