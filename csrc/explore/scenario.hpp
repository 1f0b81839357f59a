// scenario.hpp -- the casts that pgtbl ships: who acts, on what, and what must hold at the end.
//
// A scenario is a program with a name.  Its actors run the shipped sources; its set-up is not explored.  Guards
// that are removed, the era and the memory model are chosen for a run.  Symmetric actors get the same part.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "base/era.hpp"
#include "base/guards.hpp"
#include "explore/graph_engine.hpp"
#include "explore/interleave_engine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

struct scenario {
  const char* name;
  const char* about;
  const char* eras;  // those that it is for, by spaces; the first is used unless another is asked for
  program* (*make)(stage& s, const era& rules);
};

/// The eras in which what a cast plays is another protocol than in the one before: 6.13 compares the PMD each time that
/// collapse locks the table, and has all faults under the VMA's lock; 6.14 looks at the PMD again as it retracts, and
/// frees tables in zaps; 6.17 zaps under the VMA's lock; 6.18 maps whole folios.
inline constexpr const char* eras_of_retraction = "v6.6 v6.4 v6.5 v6.14";
inline constexpr const char* eras_of_collapse = "v6.6 v6.4 v6.5 v6.13";
inline constexpr const char* eras_of_zaps = "v6.6 v6.4 v6.5 v6.14 v6.17";
inline constexpr const char* eras_of_faults = "v6.6 v6.4 v6.5 v6.13 v6.18";
inline constexpr const char* eras_of_faults_and_retraction = "v6.6 v6.4 v6.5 v6.13 v6.14 v6.18";

/// A cast that is written down instead of shipped: "cast:VERB,VERB@1:LAYOUT[:2][:private]..." (machine_cast.hpp).
program* make_written_cast(const std::string& name, stage& s, const era& rules);
inline constexpr const char* written_cast = "cast:";

/// What an actor of a cast on a machine can do.
struct verb {
  const char* name;
  bool shipped;  // for written casts too: it means the same in each
};
std::vector<verb> machine_verbs();

std::span<const scenario> scenarios_of_primer();
std::span<const scenario> scenarios_of_locks();
std::span<const scenario> scenarios_of_rcu();
std::span<const scenario> scenarios_of_interrupts();
std::span<const scenario> scenarios_of_tables();
std::span<const scenario> scenarios_of_collapse();
std::span<const scenario> scenarios_of_forks();
std::span<const scenario> scenarios_of_reclaim();
std::span<const scenario> scenarios_of_anon();
std::span<const scenario> scenarios_of_uffd();
std::span<const scenario> scenarios_of_devices();
std::span<const scenario> scenarios_of_files();
std::span<const scenario> scenarios_of_arch_tables();
std::span<const scenario> scenarios_of_arch_entries();
std::span<const scenario> scenarios_of_arch_that_offend();  // not among all_scenarios(), as those that offend
std::span<const scenario> scenarios_that_offend();          // not among all_scenarios()
std::vector<scenario> all_scenarios();
/// Null if there is none of that name.
const scenario* find_scenario(const std::string& name);

struct request {
  std::string scenario, era;
  memory_model memory = memory_model::rc11;
  std::vector<std::string> without;  // guards
  bounds limits;
  strategy how = strategy::exhaustive;
  bool interleavings = false;  // by the plain engine (sc and tso alone)
  int preemptions = -1;
  u64 seed = 1;
  bool keep_hashes = true;
  bool shorten = true;              // look for the shortest trace of a violation
  bool symmetry = true;             // of actors with the same part, one order
  bool reuse_addresses = false;     // what is freed may be handed to the next allocation
  std::vector<std::string> graphs;  // explore only these
  bool only_graphs = false;
};

struct verdict {
  outcome found;
  std::string era;
  std::string guard;                  // what the removed guard says
  std::vector<std::string> cast;      // who acts
  std::vector<std::string> reached;   // changes of state that complete executions made: "operation|from|to"
  std::vector<std::string> frontier;  // what is left
  bool by_schedule = false;           // the violation's schedule is an interleaving
  memory_model schedule_memory = memory_model::sc;
};

verdict explore_scenario(const request& r);
/// One execution again, step by step.
verdict replay_scenario(const request& r, const std::string& schedule, bool by_schedule);
/// Whether both engines find the same set of graphs (sc and tso), or the same kind of verdict.
struct engine_agreement {
  u64 graphs = 0, interleavings = 0;
  bool same = false, failed_graphs = false, failed_interleavings = false, complete = false;
};
engine_agreement compare_on_scenario(const request& r);

}  // namespace pgtbl::inline PGTBL_WORLD::explore
