// arch_load.hpp -- real threads on the page tables of one architecture: what its way of freeing them holds on to.
//
// Problem.  How many pages a scheme keeps for the tables that live, and for how long after the last of them went, is what the
// architectures of csrc/arch differ in; and a double use of an rcu_head that no model was asked about shows here.
// Method.  A few programs, each with PMD slots and a context.  Churners take a slot: an empty one gets a table, a full one
// gives its table up, by deferral or through a batch.  Walkers follow a slot inside of an RCU section, and know whose
// entries they must find: anything else is a table that was freed, or handed out again, under them.  No machine, no
// faults, no TLB: only tables, with the page sizes of the architecture, and the RCU of the laboratory.
// At the end everything is freed, and what a page says of its tables is compared with who has them.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

struct arch_load_config {
  std::string arch = "x86-64";
  bool one_table = false;  // s390 from 6.9 on
  u32 churners = 2, walkers = 1, programs = 2;
  u32 slots = 512;         // of each program
  u32 batch_percent = 50;  // of the tables given up: the share that goes through a batch
  u64 ns = 1'000'000'000;
  u64 seed = 1;
  std::function<bool()> interrupted;  // asked now and then; true ends the run
};

struct arch_load_result {
  double seconds = 0;
  bool interrupted = false;
  u64 allocated = 0, deferred = 0, gathered = 0;  // tables
  u64 walks = 0, stale = 0;                       // looks at a table, and those that found what was never its
  u64 pages_allocated = 0, pages_freed = 0;
  u64 pages_max = 0, tables_max = 0;       // held, and living, at most (as sampled)
  double pages_mean = 0, tables_mean = 0;  // over the samples
  u64 page_bytes = 0, tables_per_page = 0;
  u64 pages_left = 0;  // after everything was freed: none
  u64 queued_max = 0;  // pages that waited for a grace period, at most
  u64 grace_periods = 0;
  std::vector<std::string> breaches;
};

/// value_error where there is no such architecture, or the numbers make no run.
arch_load_result run_arch_load(const arch_load_config& config);

}  // namespace pgtbl::inline PGTBL_WORLD
