// Programs that no engine can explore, or that loop: what an engine says about them is tested with these.  They are
// no protocols, and not listed.
#include "explore/scenario.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

enum class offence : u8 { spins, rolls_dice, makes_too_many };

class offender final : public program {
 public:
  offender(stage& s, offence what) : what_(what) {
    s.name_all(flag_, "flag");
    s.name_all(other_, "other");
  }
  u32 actors() const override { return 2; }
  void act(u32 i) override {
    if (i == 1) {
      flag_.store(1, release);
      return;
    }
    switch (what_) {
      case offence::spins:
        while (flag_.load(relaxed) != 2) {}
        break;
      case offence::rolls_dice: {
        static u32 rolls = 0;  // outlives an execution: what follows is chosen by nobody
        flag_.load(relaxed);
        if (++rolls % 3 == 0) other_.store(1, relaxed);
        for (u32 n = 0; n < 3; ++n) flag_.load(relaxed);
        break;
      }
      case offence::makes_too_many:
        for (u32 n = 0; n < 1000; ++n) pgtbl::make<atomic<u32>>();
        break;
    }
  }

 private:
  offence what_;
  atomic<u32> flag_{0}, other_{0};
};

template <offence What>
program* cast_of(stage& s, const era&) {
  return pgtbl::make<offender>(s, What);
}

constexpr scenario table[] = {
    {"broken:spins", "waits without await", "v6.6", cast_of<offence::spins>},
    {"broken:rolls-dice", "decides by what no engine chose", "v6.6", cast_of<offence::rolls_dice>},
    {"broken:makes-too-many", "allocates without end", "v6.6", cast_of<offence::makes_too_many>},
};

}  // namespace

std::span<const scenario> scenarios_that_offend() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
