// Verbs about private memory: its collapse, the splits of huge pages, guards in its entries, and zaps that take more than
// one extent.
#include "base/errors.hpp"
#include "explore/scenarios/machine_cast.hpp"
#include "khugepaged/collapse.hpp"
#include "mm/access.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

/// khugepaged's scan has found the extent worth it; the program then goes on.
void collapse_decided(machine_cast& c, const cast_actor& a) {
  collapse_control cc;
  cc.is_khugepaged = true;
  cc.max_ptes_none = pages_per_huge;
  collapse_huge_page(*a.self, c.program_of(a), c.page_va(a.which, 0), {scan_result::succeed}, cc);
}

/// The VMA is cut behind its first page, and with it what maps that huge.
void cut_behind_first(machine_cast& c, const cast_actor& a) {
  try {
    sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, 0), page_size, madv_random);
  } catch (const os_error&) {
    // Nothing may be mapped there any more.
  }
}

void punch_last(machine_cast& c, const cast_actor& a) {
  file_punch(*a.self, c.file(), pmd_size - page_size, page_size);
}

void install_guard(machine_cast& c, const cast_actor& a) {
  constexpr u64 page = pages_per_huge - 1;
  try {
    sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, page), page_size, madv_guard_install);
    c.has_guarded(a, page);
  } catch (const os_error&) {
    // An era may not have guards, or not in files.
  }
}

void drop_all_but_first(machine_cast& c, const cast_actor& a) {
  sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, 1), c.bytes() - page_size, madv_dontneed);
}

void drop_last_extent(machine_cast& c, const cast_actor& a) {
  sys_madvise(*a.self, c.program_of(a), c.page_va(a.which, 0) + c.bytes() - pmd_size, pmd_size,
              madv_dontneed);
}

void store_to_last_extent(machine_cast& c, const cast_actor& a) {
  const u64 page = (c.bytes() - pmd_size) >> page_shift;
  mm_store(*a.self, c.program_of(a), c.page_va(a.which, page), machine_cast::mark_of(a));
  c.has_stored_to(a, page);
}

constexpr verb_row table[] = {
    {{"collapse_anon_decided", true}, collapse_decided, takes_huge},
    {{"split_vma", true}, cut_behind_first},
    {{"punch_last", true}, punch_last, outside | drops},
    {{"guard_install", true}, install_guard, unmaps},
    {{"dontneed_all_but_first", true}, drop_all_but_first, drops},
    {{"dontneed_last_extent", true}, drop_last_extent, drops},
    {{"store_last_extent", true}, store_to_last_extent},
};

}  // namespace

std::span<const verb_row> verbs_of_anon() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
