#include "mm/gup.hpp"

#include <cerrno>

#include "base/errors.hpp"
#include "mm/fault.hpp"
#include "mm/userfaultfd.hpp"
#include "pgtable/flush.hpp"
#include "pgtable/map.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// The frame with a reference, if the reference could be had and `slot` still holds what led there; 0: not now.
pfn_t take(
    cpu& self, pfn_t pfn, const atomic<u64>& slot, u64 seen, const atomic<u64>& above, u64 seen_above) {
  if (self.ram->is_zero(self.ram->head_of(pfn))) return pfn;  // never freed, and never counted
  const pfn_t head = self.ram->head_of(pfn);
  if (!folio_try_get(self, head)) return 0;
  // A collapse that cleared the entry before our reference was counted did not see it: then the entry tells (B14).
  const bool same = slot.load(acquire) == seen && above.load(acquire) == seen_above;
  if (same && self.ram->head_of(pfn) == head) {
    self.ram->of(head).pins.fetch_add(1, relaxed);
    return pfn;
  }
  folio_put(self, head);
  return 0;
}

constexpr u64 readable = bit_present | bit_user;

/// Without a lock.  0: nothing there, or it changed under us.
pfn_t gup_fast(cpu& self, mm& m, va_t va) {
  const mmu_section off(self);
  const pmd_ref pmdp = pmd_offset(self, m, va);
  if (!pmdp) return 0;
  const pmd_t pmd = pmdp.get();
  if (pmd.huge() && (pmd.v & readable) == readable)
    return take(self, pmd.pfn() + index_at(va, page_shift), *pmdp.slot, pmd.v, *pmdp.slot, pmd.v);
  if (!pmd.table()) return 0;
  atomic<u64>& slot = self.ram->phys.entry(pmd.pfn(), index_at(va, page_shift));
  const pte_t pte{slot.load(acquire)};
  if ((pte.v & readable) != readable) return 0;
  return take(self, pte.pfn(), slot, pte.v, *pmdp.slot, pmd.v);
}

/// By faulting it in, under mmap_lock, which is given up where a userfaultfd is waited for; 0: it cannot be had.
pfn_t gup_slow(cpu& self, mm& m, va_t va) {
  for (;;) {
    uffd_waiter* waiter = nullptr;
    try {
      const mmap_read_guard lock(self, m);
      while (waiter == nullptr) {
        if (const pfn_t pfn = gup_fast(self, m, va)) return pfn;
        self.led.add(event::fault);
        waiter = fault_under_mmap_lock(self, m, va, access::read);
      }
    } catch (const segmentation_fault&) {
      return 0;
    } catch (const bus_error&) {
      return 0;
    }
    uffd_wait(self, waiter);
  }
}

}  // namespace

pinned_pages pin_pages(cpu& self, mm& m, va_t start, u64 pages) {
  load_mm(self, m);
  pinned_pages p;
  p.frames.reserve(pages);
  for (u64 i = 0; i < pages; ++i) {
    const va_t va = start + i * page_size;
    if (va >= task_size) break;
    pfn_t pfn = gup_fast(self, m, va);
    try {
      if (pfn == 0) pfn = gup_slow(self, m, va);
    } catch (...) {
      unpin_pages(self, p);
      throw;
    }
    if (pfn == 0) break;
    p.frames.push_back(pfn);
  }
  if (p.frames.empty()) throw os_error(EFAULT, "address " + std::to_string(start) + " cannot be read");
  return p;
}

void unpin_pages(cpu& self, pinned_pages& p) {
  for (const pfn_t pfn : p.frames) {
    const pfn_t head = self.ram->head_of(pfn);
    if (self.ram->is_zero(head)) continue;
    self.ram->of(head).pins.fetch_sub(1, relaxed);
    folio_put(self, head);
  }
  p.frames.clear();
}

}  // namespace pgtbl::inline PGTBL_WORLD
