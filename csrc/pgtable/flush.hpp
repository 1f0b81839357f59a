// flush.hpp -- making other CPUs forget translations.
//
// Guarantee.  When a flush returns, no CPU in the mm's mask has a translation of the range, and every
// hardware walk that began before it is over: what was unmapped may be freed or copied.
//
// Method.  Each target finds the range in its mailbox when it next turns interrupts off, so before it
// uses another translation; the flush waits until each target is outside of its section (sync/irq.hpp).
// With `broadcast` the machine flushes as INVLPGB does: the same wait for hardware walks, no IPI counted.
//
// Cost.  This CPU alone: tens of ns.  Others in the mask: one membarrier, microseconds.
#pragma once
#include "pgtable/cpu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Forgets [start, end) of the mm on every CPU in its mask; the cached upper levels too if `tables`.
/// Counts one flush if any CPU is in the mask.
void flush_tlb_range(cpu& self, mm_tables& t, va_t start, va_t end, bool tables);
void flush_tlb_mm(cpu& self, mm_tables& t);
#if defined(PGTBL_ARCH_ARM)
/// The same, and what the cache has of the range stays (pgtable/vivt.hpp).
void flush_tlb_alone(cpu& self, mm_tables& t, va_t start, va_t end, bool tables);
#endif

/// What ptep_clear_flush does in an rmap walk: flush this page now, or note the mm for the end of the
/// batch when another CPU is in its mask (an IPI a page would be too dear).
void flush_or_defer(cpu& self, mm_tables& t, va_t va);
/// Flushes every mm of the batch, one flush each (try_to_unmap_flush).
void flush_unmap_batch(cpu& self);
/// Does the flush that an rmap walk of somebody else has put off, if there is one (flush_tlb_batched_pending).
/// Under ptl, before entries are taken to be gone: a zap that finds them none would else not flush, and a
/// stale translation would outlive the mapping.
void flush_batched_pending(cpu& self, mm_tables& t);

/// Takes up the mailbox; inside an interrupts-off section of self.
void drain_mailbox(cpu& self);

/// Runs the mm on this CPU: translations of the one before are forgotten.
void switch_mm(cpu& self, mm_tables* next);
inline void load_mm(cpu& self, mm_tables& t) {
  if (self.loaded != &t) [[unlikely]]
    switch_mm(self, &t);
}

/// An interrupts-off section of the simulated hardware: translations are looked up and used inside.
class mmu_section {
 public:
  explicit mmu_section(cpu& self) : self_(self) {
    local_irq_disable(self.irq);
    if (self.mailbox.pending.load(relaxed) != 0) [[unlikely]]
      drain_mailbox(self);
  }
  ~mmu_section() { local_irq_enable(self_.irq); }
  mmu_section(const mmu_section&) = delete;
  mmu_section& operator=(const mmu_section&) = delete;

 private:
  cpu& self_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
