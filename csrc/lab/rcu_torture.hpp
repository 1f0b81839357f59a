// rcu_torture.hpp -- does a grace period wait for every reader?  After rcutorture.
//
// Problem.  A grace period that is too short by nanoseconds frees memory under a reader once in a
// million, and nothing is seen.
// Method.  Updaters publish objects and take them out again.  A removed object has age 1, and grows a
// year older with each grace period of any kind (synchronize, expedited, call, polled, conditional); at
// age 2 it is poisoned, at age 10 it is used again.  Readers hold an object over a section, nested and
// with delays, and report one of age 2 or more, or poisoned.  Fake updaters mix grace periods in; threads
// come and go, also inside of sections.  Cookies must not pass inside of the section that took them, and
// must have passed after a grace period.
// The delays decide what is found.  Long sections and stalls find grace periods that do not wait; a missing
// fence shows only in short sections with tens of thousands of updates a second.  Run both profiles.
// Cost.  Bounded by options.duration_ns, plus the longest delay.
#pragma once
#include <string>

#include "sync/rcu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

enum class rcu_delays : u8 { brief, lengthy };

/// How an updater waits for a grace period; also bits in rcu_torture_options::ways.
enum class rcu_way : u8 { synchronize, expedited, call, polled, conditional };
inline constexpr unsigned rcu_ways = 5;
inline constexpr const char* rcu_way_names[rcu_ways] = {"synchronize", "expedited", "call", "polled",
                                                        "conditional"};

struct rcu_torture_options {
  u32 readers = 2, updaters = 2, fakes = 2, visitors = 1;  // visitors: threads that come and go
  u64 duration_ns = 1'000'000'000;
  u64 seed = 1;
  rcu_delays delays = rcu_delays::brief;
  u32 ways = (1U << rcu_ways) - 1;
  bool stop_at_error = true;
};

struct rcu_torture_result {
  static constexpr unsigned oldest = 10;

  u64 reads = 0, updates = 0, visits = 0, cookies = 0, barriers = 0;
  u64 ages[oldest + 1] = {};  // how old the objects were that readers held: beyond 1 is an error
  u64 by_way[rcu_ways] = {};
  u64 errors = 0, first_error_ns = 0;
  std::string first_error;
  rcu_stats rcu;
};

rcu_torture_result rcu_torture(const rcu_torture_options& options);

}  // namespace pgtbl::inline PGTBL_WORLD
