// Interrupts off as a section, and the interrupt that waits for it, by themselves.
//
// A CPU walks to an item with interrupts off; another takes the item away, sends its interrupt, and frees it.  A free that is
// not ordered after every access is a use after free.
#include <array>

#include "explore/scenario.hpp"
#include "explore/scenarios/tell.hpp"
#include "sync/irq.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

class irq_cast final : public program {
 public:
  irq_cast(stage& s, u32 sections, bool membarriers) : sections_(sections) {
    s.use_membarriers(membarriers);
    irq_ = pgtbl::make<irq_state>();
    sender_.id = 1;
    shared_.store(pgtbl::make<atomic<u64>>(7));
    s.name_all(*irq_, "interrupts of P0");
    s.name_all(shared_, "pointer");
    s.name_all(*shared_.load(), "item");
  }
  u32 actors() const override { return 2; }
  std::string role(u32 i) const override { return i == 0 ? "walker" : "sender"; }
  std::string held_by(u32 i) const override { return i == 0 && inside_ ? "interrupts off" : ""; }
  void act(u32 i) override {
    if (i == 1) return take_away();
    for (u32 n = 0; n < sections_; ++n) walk();
  }
  void judge() override {
    if (irq_->off()) pgtbl::fail("interrupts were left off");
  }

 private:
  void walk() {
    const irq_guard off(*irq_);
    inside_ = true;
    if (const atomic<u64>* x = shared_.load(acquire)) static_cast<void>(x->load(relaxed));
    inside_ = false;
  }
  void take_away() {
    atomic<u64>* const x = shared_.load(relaxed);
    shared_.store(nullptr, release);
    const std::array<irq_state*, 1> targets{irq_};
    ipi_wait(sender_, targets);
    destroy(x);
  }

  u32 sections_;
  irq_state* irq_;
  context sender_;
  bool inside_ = false;  // of a section, as traces say it: to ask the state would be a step
  atomic<atomic<u64>*> shared_{nullptr};
};

template <u32 Sections, bool Membarriers = true>
program* cast_of(stage& s, const era&) {
  return pgtbl::make<irq_cast>(s, Sections, Membarriers);
}

constexpr const char* any_era = "v6.6 v6.5 v6.4";
constexpr scenario table[] = {
    {"irq-section", "a walk with interrupts off, and an interrupt that waits for it", any_era, cast_of<1>},
    {"irq-two-sections", "two walks, of which the interrupt may meet the second alone", any_era, cast_of<2>},
    {"irq-fences", "where membarrier is missing: the walks fence for themselves", any_era, cast_of<2, false>},
};

}  // namespace

std::span<const scenario> scenarios_of_interrupts() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
