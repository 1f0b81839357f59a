// race.hpp -- one round of a race: a machine of one era, walkers on their schedules, collapsers beside them.
//
// A round has a warm-up (each script once, each extent prepared), an idle window in which the collapsers
// sleep, and a loaded window in which they work.  Both windows are decided before the first step, on the
// clock, and are the same for every era; so is the schedule of the walkers.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lab/collapser.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct round_config {
  machine_config machine;
  std::vector<u64> file_bytes;  // the files that steps name, by their sizes
  u32 mms = 0;
  script setup;  // done once, by the caller's thread
  std::vector<script> walkers;
  std::vector<double> rates;  // steps a second of each walker; 0: closed loop
  std::vector<float> gaps;    // intervals of the schedule, in units of the mean one
  u64 idle_ns = 0, loaded_ns = 0;
  u64 max_samples = 0;  // of each walker
  u32 processors = 1;   // of the real machine that are ours

  collapse_mode mode = collapse_mode::collapse;
  u16 collapse_file = 0;
  va_t collapse_base = 0;
  std::vector<u16> collapse_mms;
  std::vector<std::vector<u32>> collapsers;  // the extents of each
  u32 khugepaged_every = 0;
  double collapse_rate = 0;  // turns a second of each collapser; 0: without a pause

  bool check = true;  // the machine's invariants, once all threads are out

  /// Called about every 50 ms by the caller's thread; true ends the round early.
  std::function<bool()> interrupted;
};

struct round_result {
  bool interrupted = false;
  u64 idle_ns = 0, loaded_ns = 0;  // as they were: shorter when interrupted
  u64 begin[windows::count] = {};  // ticks
  std::vector<walker_result> walkers;
  std::vector<collapser_result> collapsers;
  // Every row of machine.ledger(), over the loaded window, and what the walkers counted of it.
  std::vector<std::pair<std::string, u64>> ledger;
  ledger_sum walkers_idle, walkers_loaded, collapse;
  u64 pending_max = 0;                  // PTE tables that waited for a grace period at most
  std::optional<u64> table_frames_max;  // frames that held page tables at most; checked builds only
};

/// Throws what was wrong with the configuration, what ended a thread, and invariant_error if something is broken.
round_result run_round(const round_config& c);

}  // namespace pgtbl::inline PGTBL_WORLD
