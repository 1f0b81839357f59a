#include "mm/gup.hpp"

#include <cerrno>

#include "base/errors.hpp"
#include "mm/fault.hpp"
#include "mm/userfaultfd.hpp"
#include "pgtable/flush.hpp"
#include "pgtable/map.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

/// FOLL_GET counts in the low half of frame::pins, FOLL_PIN in the high one.
constexpr u32 pin_weight(u32 flags) { return (flags & gup_pin) != 0 ? pins_pinned : 1; }

/// The frame with a reference, if the reference could be had and `slot` still holds what led there; 0: not now.
pfn_t take(cpu& self,
           pfn_t pfn,
           const atomic<u64>& slot,
           u64 seen,
           const atomic<u64>& above,
           u64 seen_above,
           u32 flags) {
  if (self.ram->is_zero(self.ram->head_of(pfn))) return pfn;  // never freed, and never counted
  const pfn_t head = self.ram->head_of(pfn);
  pause_at(self, point::gf_pte_read);
  if (!folio_try_get(self, head)) return 0;
  pause_at(self, point::gf_pinned);
  // Who cleared the entry, or took the table with it, before our reference was counted did not see it; then the entry, or the
  // PMD, tells (B01): an anonymous collapse leaves the entries in the table that it has detached.
  const bool same_entry = !guard(Guard::gup_pte_recheck) || slot.load(acquire) == seen;
  const bool same_table = !guard(Guard::gup_pmd_recheck) || above.load(acquire) == seen_above;
  if (same_entry && same_table && self.ram->head_of(pfn) == head) {
    self.ram->of(head).pins.fetch_add(pin_weight(flags), relaxed);
    return pfn;
  }
  folio_put(self, head);
  return 0;
}

constexpr u64 needed(u32 flags) {
  return bit_present | bit_user | ((flags & gup_write) != 0 ? u64{bit_write} : u64{0});
}

/// GUP-fast's section: interrupts are off, and a flush by broadcast goes on beside it.
class gup_section {
 public:
  explicit gup_section(cpu& self) : self_(self) {
    self.walks_for_software.store(1, seq_cst);
    section_.emplace(self);
  }
  ~gup_section() {
    section_.reset();
    self_.walks_for_software.store(0, release);
  }
  gup_section(const gup_section&) = delete;
  gup_section& operator=(const gup_section&) = delete;

 private:
  cpu& self_;
  std::optional<mmu_section> section_;
};

/// Without a lock.  0: nothing there, or it changed under us.
pfn_t gup_fast(cpu& self, mm& m, va_t va, u32 flags) {
  const gup_section off(self);
  const u64 want = needed(flags);
  const pmd_ref pmdp = pmd_offset(self, m, va);
  if (!pmdp) return 0;
  const pmd_t pmd = pmdp.get();
  if (pmd.huge() && (pmd.v & want) == want)
    return take(self, pmd.pfn() + index_at(va, page_shift), *pmdp.slot, pmd.v, *pmdp.slot, pmd.v, flags);
  if (!pmd.table()) return 0;
  atomic<u64>& slot = self.ram->phys.entry(pmd.pfn(), index_at(va, page_shift));
  const pte_t pte{slot.load(acquire)};
  if ((pte.v & want) != want) return 0;
  return take(self, pte.pfn(), slot, pte.v, *pmdp.slot, pmd.v, flags);
}

/// By faulting it in, under mmap_lock, which is given up where a userfaultfd is waited for; 0: it cannot be had.
pfn_t gup_slow(cpu& self, mm& m, va_t va, u32 flags) {
  const access a = (flags & gup_write) != 0 ? access::write : access::read;
  for (;;) {
    uffd_waiter* waiter = nullptr;
    try {
      const mmap_read_guard lock(self, m);
      while (waiter == nullptr) {
        if (const pfn_t pfn = gup_fast(self, m, va, flags)) return pfn;
        self.led.add(event::fault);
        waiter = fault_under_mmap_lock(self, m, va, a);
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

pinned_pages pin_pages(cpu& self, mm& m, va_t start, u64 pages, u32 flags) {
  load_mm(self, m);
  pinned_pages p;
  p.frames.reserve(pages);
  p.each = pin_weight(flags);
  for (u64 i = 0; i < pages; ++i) {
    const va_t va = start + i * page_size;
    if (va >= task_size) break;
    pfn_t pfn = gup_fast(self, m, va, flags);
    try {
      if (pfn == 0) pfn = gup_slow(self, m, va, flags);
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
    self.ram->of(head).pins.fetch_sub(p.each, relaxed);
    folio_put(self, head);
  }
  p.frames.clear();
}

}  // namespace pgtbl::inline PGTBL_WORLD
