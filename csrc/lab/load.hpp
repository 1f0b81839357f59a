// load.hpp -- a walker: a thread that performs a script on a schedule, and notes how long each step took.
//
// Open loop.  Steps are due at the times of a schedule that was fixed before; a step that comes late because
// the one before it waited is counted from the moment at which it was due.  So a wait of 1 ms shows in every
// step that should have happened meanwhile, and not in one.  With rate 0 the loop is closed: a step is due
// when the one before it ended, which measures the capacity.
//
// Steps marked `off clock` (a script starting over, a walker waiting for another) happen while the schedule stands
// still: the times of all later steps move by what they took.
//
// Other programs.  A walker that finds that it was not running while it waited for the next due time (two
// readings of the clock lie more than 50 us apart) lets the schedule stand still for that long, too: no
// protocol had anything to do with it.  The same goes for a step during which the system preempted the thread,
// as far as waiting for locks does not explain how long it took; such a step is no sample.  Both are reported.
// Shorter disturbances stay in: the interrupt of a TLB flush is one, and is what a race is about.
//
// Nothing is allocated between start and end: the samples have their place before.
#pragma once
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "lab/script.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// The two measured intervals, in ticks.
struct windows {
  static constexpr unsigned idle = 0, loaded = 1, count = 2;
  u64 begin[count] = {};
  u64 end[count] = {};
  u64 drain = 0;  // what was due before end[loaded] and is not done by then is given up
  /// In which window a moment lies; `count`: in none.
  unsigned of(u64 t) const {
    for (unsigned w = 0; w < count; ++w)
      if (t >= begin[w] && t < end[w]) return w;
    return count;
  }
};

struct sample {
  u64 due = 0;      // ticks
  u64 latency = 0;  // ticks from due to done
  u32 own = 0;      // ticks from begun to done; at most 2^32 - 1
  u8 kind = 0;
  u8 window = 0;
  u8 faults = 0;  // page faults that the step took (255: that many or more)
  u8 write = 0;
};

/// What the operating system did to a thread in one window.
struct thread_usage {
  i64 minor_faults = 0, involuntary = 0, voluntary = 0;
  u64 cpu_ns = 0, wall_ns = 0;
};

struct walker_config {
  std::span<const step> steps;
  std::span<const float> gaps;  // intervals of the schedule in units of the mean one; repeated
  double rate = 0;              // steps a second; 0: closed loop
  u64 max_samples = 0;
  bool crowded = false;    // more threads than processors: waiting yields
  std::size_t points = 0;  // meeting points on the stage
};

struct walker_result {
  std::vector<sample> samples;  // `taken` of them are valid
  u64 taken = 0;
  u64 dropped = 0;  // samples that had no room
  u64 steps[windows::count] = {};
  u64 faults[windows::count] = {};
  u64 off_clock[windows::count] = {};  // ticks
  u64 stolen[windows::count] = {};  // ticks in which the thread was not running, and the schedule stood still
  u64 preempted[windows::count] = {};  // steps that are no samples for that reason
  u64 unserved = 0;                    // steps due in the loaded window that were given up
  u64 refused[step_ops] = {};          // steps that the simulated kernel answered with an error
  u64 rounds = 0;                      // times that the script started over
  thread_usage usage[windows::count];
  u32 cpu = 0;
  std::exception_ptr error;
};

/// How the threads of a round begin and stop together.
struct start_gate {
  atomic<u32> ready{0};  // threads that are prepared
  atomic<u32> go{0};     // windows are decided
  atomic<u32> stop{0};   // end early
  windows when;          // written before go
};

/// Body of a thread of a round: prepare(self) makes what does the work, ready to begin; it is run once the windows are
/// decided.  What either throws ends the round, and stands in `error`.
template <class Prepare>
void take_part(machine& m,
               start_gate& gate,
               const char* name,
               u32& number,
               std::exception_ptr& error,
               Prepare&& prepare) {
  name_thread(name);
  cpu* self = m.cpu_get();
  try {
    if (self == nullptr) throw usage_error(std::string("no CPU of the machine is left for ") + name);
    number = self->id;
    auto work = prepare(*self);
    gate.ready.fetch_add(1, acq_rel);
    await(gate.go, [](u32 g) { return g != 0; }, acquire);
    work->run();
  } catch (...) {
    error = std::current_exception();
    gate.stop.store(1, relaxed);
    gate.ready.fetch_add(1, acq_rel);
  }
  if (self != nullptr) m.cpu_put(self);
}

/// Body of a walker's thread.  First performs the script once, unmeasured.
void run_walker(machine& m, const stage& on, const walker_config& c, start_gate& gate, walker_result& out);

}  // namespace pgtbl::inline PGTBL_WORLD
