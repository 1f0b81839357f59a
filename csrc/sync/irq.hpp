// irq.hpp -- "interrupts off" as a section of a CPU, and the interrupt that waits for it.
//
// Problem.  GUP-fast and the hardware walker hold no lock and no RCU section: they turn interrupts off,
// and whoever takes a table away sends an interrupt to every CPU and waits for the answers.  An
// interrupt is answered only where interrupts are on, so the walks that might have seen the table are
// over.
// Guarantee.  ipi_wait(): of each target's sections, those that began before the call are over when it
// returns, and all that they did happens before; those that begin later see all that the caller did.
// Method.  The asymmetric fence of RCU: a section is a plain store and a compiler barrier; the sender
// pays for both with one membarrier.  Where the kernel lacks it, each section has a full fence.
// Cost.  A section: two plain stores.  An IPI: a membarrier (microseconds), whatever the number of targets.
#pragma once
#include <span>

#include "base/context.hpp"
#include "base/guards.hpp"
#include "base/hooks.hpp"
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Written by its CPU alone.  Sections do not nest; irq_guard does, for those who need it.
struct alignas(64) irq_state {
  atomic<u64> seq{0};                        // odd: interrupts are off
  bool asymmetric = membarrier_available();  // stable: the machine's CPUs agree on it at set-up
  bool off() const { return (seq.load(relaxed) & 1) != 0; }
};

inline void local_irq_disable(irq_state& s) {
  // Release: a sender that waits for the section before, and finds this one begun, has what that one read and wrote.
  s.seq.store(s.seq.load(relaxed) + 1, guard(Guard::irq_disable_release) ? release : relaxed);
  // The odd count before the section's reads.  Pairs with the membarrier in ipi_wait(), which stands
  // between the sender's publication and its look at the count.
  if (s.asymmetric) [[likely]] {
    compiler_barrier();
  } else {
    fence(seq_cst);
  }
}

inline void local_irq_enable(irq_state& s) {
  // Release pairs with the sender's acquire: what the section read and wrote is over when it is waited for.
  s.seq.store(s.seq.load(relaxed) + 1, release);
}

/// local_irq_save() and local_irq_restore(): off for a scope, which may stand inside another.
class [[nodiscard]] irq_guard {
 public:
  explicit irq_guard(irq_state& s) : s_(s), outermost_(!s.off()) {
    if (outermost_) local_irq_disable(s_);
  }
  irq_guard(const irq_guard&) = delete;
  irq_guard& operator=(const irq_guard&) = delete;
  ~irq_guard() {
    if (outermost_) local_irq_enable(s_);
  }

 private:
  irq_state& s_;
  bool outermost_;
};

/// G-32 where interrupts count too.
inline void might_sleep(context& self, const irq_state& s, const char* what) {
  if constexpr (checked_build) {
    if (s.off()) checked::sleeping_irqs_off(self, what);
  }
  might_sleep(self, what);
}

/// Sends an interrupt to the targets and waits until each has answered.  The caller has published what
/// it asks of them, is not among them, and has its own interrupts on: two CPUs that send to each other with
/// interrupts off would wait for ever.
void ipi_wait(context& self, std::span<irq_state* const> targets);

}  // namespace pgtbl::inline PGTBL_WORLD
