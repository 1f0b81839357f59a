// Verbs of those who collapse: khugepaged's parts, MADV_COLLAPSE, and what a program sees after one that gave up.
#include "base/errors.hpp"
#include "explore/scenarios/machine_cast.hpp"
#include "khugepaged/collapse.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

template <bool Install>
void collapse_mapped(machine_cast& c, const cast_actor& a) {
  cpu& self = *a.self;
  mm& m = c.program_of(a);
  const va_t at = c.page_va(a.which, 0);
  if (self.rules->collapse_mmap_write) {
    const mmap_write_guard lock(self, m);
    if (!m.exiting()) collapse_pte_mapped_thp(self, m, at, Install);
    return;
  }
  const mmap_read_guard lock(self, m);
  if (!m.exiting()) collapse_pte_mapped_thp(self, m, at, Install);
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

void advise_collapse(machine_cast& c, const cast_actor& a) {
  try {
    sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, 0), c.bytes(), madv_collapse);
  } catch (const os_error&) {
    // An advice may be refused.
  }
}

constexpr verb_row table[] = {
    {{'C', "collapse_pte_mapped", true}, collapse_mapped<true>},
    {{'K', "khugepaged_collapse", true}, collapse_mapped<false>},
    {{'F', "collapse_file", true}, collapse_the_file<true>, outside | takes_huge},
    {{'c', "collapse_file_decided", true}, collapse_the_file<false>, outside | takes_huge},
    {{'A', "madvise_collapse", true}, advise_collapse, takes_huge},
    {{'y', "collapse_pte_mapped_and_look", false}, collapse_and_look, knows_the_way},
    {{'Z', "collapse_pte_mapped_and_truncate", false}, collapse_and_truncate, cuts_file},
};

}  // namespace

std::span<const verb_row> verbs_of_collapse() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
