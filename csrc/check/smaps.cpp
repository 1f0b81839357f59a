#include "check/smaps.hpp"

#include <algorithm>

#include "mm/huge_pmd.hpp"
#include "mm/zap.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr unsigned pss_shift = 12;

void add_page(cpu& self, smaps_row& r, pfn_t pfn, bool dirty) {
  const memory& ram = *self.ram;
  const pfn_t head = ram.head_of(pfn);
  const frame& folio = ram.of(head);
  const u32 flags = folio.flags.load(relaxed);
  const u64 times =
      std::max<u64>(1, ram.of(pfn).mapcount.load(relaxed) + u64{folio.entire_mapcount.load(relaxed)});
  dirty |= (flags & pg_dirty) != 0;
  r.rss += page_size;
  r.pss += (page_size << pss_shift) / times;
  (times > 1 ? (dirty ? r.shared_dirty : r.shared_clean) : (dirty ? r.private_dirty : r.private_clean)) +=
      page_size;
  if ((flags & pg_anon) == 0) return;
  r.anonymous += page_size;
  if ((flags & pg_lazyfree) != 0 && !dirty) r.lazy_free += page_size;
}

void add_huge(cpu& self, smaps_row& r, pmd_t e) {
  if (self.ram->is_huge_zero(e.pfn())) return;
  const rss_kind kind = rss_of(self, e.pfn());
  (kind == rss_kind::anon    ? r.anon_huge
   : kind == rss_kind::shmem ? r.shmem_pmd_mapped
                             : r.file_pmd_mapped) += pmd_size;
  for (u64 i = 0; i < pages_per_huge; ++i) add_page(self, r, e.pfn() + i, e.dirty());
}

/// One extent's part.  False: the table vanished; once more (B37).
bool add_extent(cpu& self, mm& m, smaps_row& r, va_t start, va_t end) {
  const pmd_ref p = pmd_offset(self, m, start);
  const pmd_t pmd = p ? p.get() : pmd_t{};
  if (pmd.huge()) {
    add_huge(self, r, pmd);
    return true;
  }
  if (!pmd.table()) return true;
  const auto t = pte_offset_map(self, p, start);
  if (!t) return false;
  for (va_t va = start; va < end; va += page_size)
    if (const pte_t e = t->get(va); e.present() && !self.ram->is_zero(e.pfn()))
      add_page(self, r, e.pfn(), e.dirty());
  return true;
}

}  // namespace

std::vector<smaps_row> smaps(cpu& self, mm& m) {
  std::vector<smaps_row> rows;
  const mmap_read_guard lock(self, m);
  m.vmas.for_each(0, task_size, [&](const vma_entry& e) {
    vma& v = *e.vma;
    smaps_row r;
    r.start = e.start;
    r.end = e.end;
    r.flags = v.flags();
    for (va_t va = e.start; va < e.end;) {
      const va_t next = std::min(pmd_align_down(va) + pmd_size, e.end);
      while (!add_extent(self, m, r, va, next) && guard(Guard::walk_again)) {}
      va = next;
    }
    if (v.is(vm_locked)) r.locked = r.pss;
    const va_t last = pmd_align_down(e.end);
    const bool file = file_thp_enabled(self, v) && thp_wanted(self, v) &&
                      ((v.pgoff - (v.start >> page_shift)) & (pages_per_huge - 1)) == 0;
    r.thp_eligible = last >= pmd_size && last - pmd_size >= v.start &&
                     (file || anon_thp_allowed(self, v, last - pmd_size));
    rows.push_back(r);
  });
  return rows;
}

std::string vm_flags_text(u64 flags) {
  struct named {
    u64 flag;
    const char* code;
  };
  static constexpr named codes[] = {
      {vm_read, "rd"},         {vm_write, "wr"},       {vm_exec, "ex"},       {vm_shared, "sh"},
      {vm_uffd_missing, "um"}, {vm_maybe_guard, "gu"}, {vm_uffd_wp, "uw"},    {vm_locked, "lo"},
      {vm_seq_read, "sr"},     {vm_rand_read, "rr"},   {vm_dontcopy, "dc"},   {vm_lockonfault, "lf"},
      {vm_account, "ac"},      {vm_noreserve, "nr"},   {vm_wipeonfork, "wf"}, {vm_dontdump, "dd"},
      {vm_hugepage, "hg"},     {vm_nohugepage, "nh"},  {vm_uffd_minor, "ui"}, {vm_sealed, "sl"}};
  std::string s;
  for (const named& n : codes)
    if ((flags & n.flag) != 0) s.append(s.empty() ? "" : " ").append(n.code);
  return s;
}

}  // namespace pgtbl::inline PGTBL_WORLD
