#include "sync/irq.hpp"

namespace pgtbl::inline PGTBL_WORLD {

void ipi_wait(context& self, std::span<irq_state* const> targets) {
  if (targets.empty()) return;
  self.led.add(event::ipi, targets.size());
  // Between the caller's publication and the looks at the counts.  Pairs with local_irq_disable(): either
  // we see the target's odd count, or the target's section sees what was published.
  membarrier();
  for (const irq_state* t : targets) {
    const u64 seen = t->seq.load(acquire);
    if ((seen & 1) == 0) continue;
    // A later value means that the section that we saw is over; one that has begun since saw everything.
    await(t->seq, [seen](u64 v) { return v != seen; }, acquire);
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
