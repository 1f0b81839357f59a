// x86_pae.hpp -- 64-bit entries on a processor that loads 32 bits at a time: two halves, which really are two words.
//
// Problem.  Frames above 4 GiB make the high half of an entry differ.  A reader without the lock reads the low half, the
// high half, and the low half again; if the low half changed it starts over.  That proves nothing where the same low
// half came back in between: the table was taken out and put back (anonymous collapse that failed), or another table
// came whose frame agrees in the low word, 4 GiB apart.  Low of one, high of another: a wild pointer (B48).
// Method.  The reader keeps its interrupts off for the three loads (pmdp_get_lockless_start and _end).  Whoever clears
// a PMD makes every other CPU take an interrupt, and waits, before anybody can store a present value again: while
// the pml is held (pmdp_get_lockless_sync).  The IPI of the TLB flush is not enough: it goes to the CPUs that run the
// mm, and a walk of the reverse map reads this PMD on a CPU that runs another.
// Order.  none to present: high, barrier, low; present to none: low, barrier, high.  So whenever the low half says
// present, the high half is its own, as long as nothing happened in between.  From present to another present only by way
// of none and a flush.  pte_offset_map_lock's second read needs no interrupts off: what is torn differs, and is read again.
// A PMD is stored by one 64-bit write (set_64bit); cleared by halves.  In the model that write is high, then low: it adds
// executions and takes none away.
#pragma once
#include "arch/interface.hpp"
#include "arch/states.hpp"
#include "sync/irq.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class pae_slot {
 public:
  u64 get() const { return low_.load(acquire) | static_cast<u64>(high_.load(acquire)) << 32; }

  /// Low, high, low.  For a reader without the lock; a PMD's, between pmdp_get_lockless_start and _end.
  u64 get_lockless() const {
    for (;;) {
      const u32 low = low_.load(acquire);
      const u32 high = high_.load(acquire);  // acquire: before the second look at low
      if (!guard(Guard::pae_low_again) || low_.load(relaxed) == low)
        return low | static_cast<u64>(high) << 32;
      cpu_relax();
    }
  }

  /// none to present.
  void set(u64 v) {
    if (guard(Guard::pae_high_first)) {
      high_.store(static_cast<u32>(v >> 32), relaxed);
      step("set: high half", pae_high_stored);
    }
    // Release: the high half, and the table, before the low half that says present (get_lockless()'s first load).
    low_.store(static_cast<u32>(v), release);
    step("set: low half", pae_whole);
    if (!guard(Guard::pae_high_first)) high_.store(static_cast<u32>(v >> 32), relaxed);
  }

  u64 get_and_clear() {
    if (!guard(Guard::pae_low_off_first)) {
      const u64 high = high_.exchange(0, acq_rel);
      return low_.exchange(0, acq_rel) | high << 32;
    }
    const u32 low = low_.exchange(0, acq_rel);
    step("get_and_clear: low half", pae_low_cleared);
    const u32 high = high_.load(relaxed);
    // Release: the low half before the high half (get_lockless()'s second and third load).
    high_.store(0, release);
    step("get_and_clear: high half", pae_unwaited);
    return low | static_cast<u64>(high) << 32;
  }

  /// pmdp_get_lockless_sync is over.
  void waited() { step("pmdp_get_lockless_sync", pae_none); }
  state_watch* watch = nullptr;  // set before anything happens

 private:
  void step(const char* what, u32 to) {
    if constexpr (!tells_states) return;
    const u32 from = shadow_;
    shadow_ = to;
    if (watch != nullptr) watch->changed(what, from, to);
  }

  atomic<u32> low_{0}, high_{0};
  u32 shadow_ = pae_none;  // told, never asked
};
static_assert(entry_slot<pae_slot>);

/// pmdp_get_lockless, from start to end: whole, as long as removers send pmdp_get_lockless_sync.
inline u64 pmdp_get_lockless(irq_state& irq, const pae_slot& pmd) {
  std::optional<irq_guard> off;
  if (guard(Guard::pae_irq_off)) off.emplace(irq);
  return pmd.get_lockless();
}

/// Waits until no CPU is in the middle of reading what the caller has cleared.  Under pml.  running: those of `others`
/// that run the mm, whom the TLB flush interrupts anyhow.
inline void pmdp_get_lockless_sync(context& self,
                                   pae_slot& pmd,
                                   std::span<irq_state* const> others,
                                   std::span<irq_state* const> running) {
  if (!guard(Guard::pae_sync)) return;
  ipi_wait(self, guard(Guard::pae_sync_all) ? others : running);
  pmd.waited();
}

}  // namespace pgtbl::inline PGTBL_WORLD
