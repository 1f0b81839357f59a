#include "world/lock_word.hpp"

#if !defined(PGTBL_WORLD_MODEL)

namespace pgtbl::inline PGTBL_WORLD {

namespace {
constexpr unsigned longest_pause = 16;       // pauses in a row
constexpr unsigned rounds_before_yield = 4;  // rounds of the longest pause
constexpr unsigned yields_before_sleep = 64;
constexpr u64 shortest_sleep_ns = 50'000, longest_sleep_ns = 1'000'000;
}  // namespace

// Test before the exchange: waiters then share the line, and its owner's store is the only one that
// takes it away from them.
bool lock_word::take_slow(u64 until) {
  unsigned pauses = 1, rounds = 0, yields = 0;
  u64 sleep = shortest_sleep_ns;
  for (;;) {
    const u32 v = word_.load(relaxed);
    if (v == dead) return false;
    if (v == free && try_take()) return true;
    for (unsigned i = 0; i < pauses; ++i) cpu_relax();
    if (pauses < longest_pause) {
      pauses *= 2;
    } else if (rounds < rounds_before_yield) {
      ++rounds;
    } else if (yields < yields_before_sleep) {
      ++yields;
      yield();
    } else {
      // park() compares the word, so a lock given back meanwhile is not slept over.
      park(word_, held, sleep);
      if (sleep < longest_sleep_ns) sleep *= 2;
      if (until != no_end && now_ns() >= until) return false;
    }
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
