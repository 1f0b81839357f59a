// MADV_GUARD_INSTALL and MADV_GUARD_REMOVE: markers in the page table that make a touch a segmentation fault, without
// a VMA of their own.
//
// A marker is nothing that a page cache or a folio knows of: a table that holds one must not be retracted (B26).  In
// these releases an anon_vma, prepared before the first marker is put in, says so to retraction, which looks at it
// under the table's lock; vm_maybe_guard is for reports.
#include <cerrno>

#include "base/errors.hpp"
#include "mm/madvise_parts.hpp"
#include "pgtable/flush.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr unsigned tries_in_a_row = 2;

bool valid(cpu& self, const vma& v, bool allow_locked) {
  if (!self.rules->guard_in_files && (!v.is_anon() || !v.is(vm_write))) return false;
  return allow_locked || !v.is(vm_locked);
}

/// Markers into [start, end), which lies in one extent.  False: something is mapped there.
bool install_markers(cpu& self, mm& m, va_t start, va_t end) {
  for (;;) {
    const pmd_ref pmdp = pmd_alloc(self, m, start);
    if (!pmdp) throw os_error(ENOMEM, "no frame is left for a page table");
    if (pmdp.get().huge()) return false;
    if (!pte_alloc(self, m, pmdp)) throw os_error(ENOMEM, "no frame is left for a page table");
    if (!self.rules->map_may_fail && !pmdp.get().table()) continue;
    auto t = pte_offset_map_lock(self, pmdp, start);
    if (!t) continue;
    for (va_t va = start; va < end; va += page_size) {
      const pte_t e = t->get(va);
      if ((e.marker() & marker_guard) != 0) continue;
      if (!e.none() && e.marker() != marker_uffd_wp) return false;
      t->set(va, mk_marker(marker_guard));
    }
    return true;
  }
}

}  // namespace

int madvise_guard_install(cpu& self, vma& v, va_t start, va_t end) {
  mm& m = v.owner;
  if (!valid(self, v, false)) return EINVAL;
  if (guard(Guard::guard_anon_vma)) anon_vma_prepare(self, v);
  v.flags_.fetch_or(vm_maybe_guard, relaxed);
  pause_at(self, point::gd_anon_vma_set);
  unsigned tries = 0;
  for (va_t va = start; va < end;) {
    const va_t next = std::min(pmd_align_down(va) + pmd_size, end);
    if (install_markers(self, m, va, next)) {
      va = next;
      continue;
    }
    // What is mapped there goes, and once more: a fault may have been faster.  Not for ever: who goes on touching what is
    // to be a guard gets the processor.
    if (++tries > tries_in_a_row) yield();
    const notifier_range notifier(self, m, start, end);
    gather g(self, m);
    zap_range(self, v, start, end, g);
  }
  return 0;
}

int madvise_guard_remove(cpu& self, vma& v, va_t start, va_t end) {
  mm& m = v.owner;
  if (!valid(self, v, true)) return EINVAL;
  for (va_t va = start; va < end;) {
    const va_t next = std::min(pmd_align_down(va) + pmd_size, end);
    const pmd_ref pmdp = pmd_offset(self, m, va);
    while (pmdp && pmdp.get().table()) {
      auto t = pte_offset_map_lock(self, pmdp, va);
      if (!t) continue;
      for (va_t at = va; at < next; at += page_size)
        if ((t->get(at).marker() & marker_guard) != 0) t->get_and_clear(at);
      break;
    }
    va = next;
  }
  return 0;
}

}  // namespace pgtbl::inline PGTBL_WORLD
