// Verbs of those who collapse: khugepaged's parts, MADV_COLLAPSE, and what a program sees after one that gave up.
#include "base/errors.hpp"
#include "explore/scenarios/machine_cast.hpp"
#include "khugepaged/collapse.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

scan_result collapse_under_mmap_lock(machine_cast& c, const cast_actor& a, bool install) {
  cpu& self = *a.self;
  mm& m = c.program_of(a);
  const va_t at = c.page_va(a.which, 0);
  if (self.rules->collapse_mmap_write) {
    const mmap_write_guard lock(self, m);
    return m.exiting() ? scan_result::any_process : collapse_pte_mapped_thp(self, m, at, install);
  }
  const mmap_read_guard lock(self, m);
  return m.exiting() ? scan_result::any_process : collapse_pte_mapped_thp(self, m, at, install);
}

template <bool Install>
void collapse_mapped(machine_cast& c, const cast_actor& a) {
  collapse_under_mmap_lock(c, a, Install);
}

/// Entries may be in the way, and a mapping that is all of the file's extent may not.
void collapse_by_entries(machine_cast& c, const cast_actor& a) {
  if (collapse_under_mmap_lock(c, a, true) == scan_result::vma_check)
    pgtbl::fail("B51: a mapping is refused because it has had a private page, wherever that was");
}

void advise_collapse(machine_cast& c, const cast_actor& a) {
  try {
    sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, 0), c.bytes(), madv_collapse);
  } catch (const os_error&) {
    // An advice may be refused.
  }
}

/// The other program's tables were not MADV_COLLAPSE's business before 6.6; khugepaged comes to what was noted of them.
void collapse_and_catch_up(machine_cast& c, const cast_actor& a) {
  const u32 other = 1 - a.which;
  advise_collapse(c, a);
  collapse_put_off(*a.self, c.program(other));
  for (va_t at = c.page_va(other, 0); at < c.page_va(other, 0) + c.bytes(); at += pmd_size)
    if (const pmd_ref p = pmd_offset(*a.self, c.program(other), at); p && p.get().table())
      pgtbl::fail("B52: an extent was put off, and forgotten: the other program goes on with small pages");
}

void collapse_and_truncate(machine_cast& c, const cast_actor& a) {
  collapse_mapped<true>(c, a);
  file_truncate(*a.self, c.file(), 0);
}

/// A collapse that aborts half-way has cleared the first entry, and nobody else does.
void collapse_and_look(machine_cast& c, const cast_actor& a) {
  collapse_mapped<true>(c, a);
  const pmd_ref p = c.pmd_of(*a.self, a.which);
  if (!p || !p.get().table()) return;
  bool cleared = false;
  if (const auto t = pte_offset_map(*a.self, p, c.page_va(a.which, 0))) cleared = t->get().none();
  if (cleared && c.still_translates(a))
    pgtbl::fail("G-14: a collapse that gave up cleared the first entry, and the page is still translated");
}

/// Scanned: with the look whether the extent is worth it; else it was decided before the others came.
template <bool Scanned>
void collapse_the_file(machine_cast& c, const cast_actor& a) {
  collapse_control cc;
  cc.is_khugepaged = true;
  cc.max_ptes_none = pages_per_huge;
  Scanned ? scan_file(*a.self, c.file(), 0, cc) : collapse_file(*a.self, c.file(), 0, cc);
}

constexpr verb_row table[] = {
    {{"collapse_pte_mapped", true}, collapse_mapped<true>},
    {{"collapse_by_entries", false}, collapse_by_entries},
    {{"khugepaged_collapse", true}, collapse_mapped<false>},
    {{"collapse_file", true}, collapse_the_file<true>, outside | takes_huge},
    {{"collapse_file_decided", true}, collapse_the_file<false>, outside | takes_huge},
    {{"madvise_collapse", true}, advise_collapse, takes_huge},
    {{"madvise_and_catch_up", false}, collapse_and_catch_up, takes_huge},
    {{"collapse_pte_mapped_and_look", false}, collapse_and_look, knows_the_way},
    {{"collapse_pte_mapped_and_truncate", false}, collapse_and_truncate, cuts_file},
};

}  // namespace

std::span<const verb_row> verbs_of_collapse() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
