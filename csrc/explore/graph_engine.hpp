// graph_engine.hpp -- exploration of execution graphs: every outcome of a program once, and a proof if all are good.
//
// Problem.  Two actors of twenty steps have 10^11 interleavings and some ten different outcomes.
// Guarantee.  Each consistent execution graph (who reads from whom, and the order of writes to each location) is
// met exactly once, whatever the number of interleavings that lead to it; explore() asserts that none is met
// twice.  An access that is not ordered after the allocation and before the free of its object, two unordered
// accesses of a plain variable, a wait that nobody can end, and fail() are violations.
// Method.  The algorithm of TruSt: M. Kokologiannakis, I. Marmanis, V. Gladstein, V. Vafeiadis, "Truly stateless,
// optimal dynamic partial order reduction", POPL 2022.  The program is run as far as it goes, event by event.
// A read that is added is given each write that it may read; a write each place in coherence order.  Then
// the write is offered to every earlier read that it does not depend on (revisits): the graph is cut back to
// what both need, unless what would be cut off was not chosen in the one canonical way, in which case another
// branch has this graph.  Each alternative is a graph of its own, kept on a stack, and built again by running the
// program along it.  So memory is linear in the length of an execution, and the subtrees of two graphs on the
// stack have nothing in common: they may be explored anywhere.
// Waits (await, update) are reads that may block.  One that blocks is kept only if it reads the last write: others
// are found again by revisits.
// Symmetry.  Of actors with the same part (program::twin_of) whose first steps are read-modify-writes of one location
// that always write (locks, counters), only those executions are met in which they take these steps in order: all others
// are the same with actors renamed.  To the algorithm that is one more condition for a wait to end.
// Cost.  A run of the program for each graph, plus the models' checks; see bench/bench_explore.py.  An event that
// is added last in coherence order closes no cycle and is not checked.
#pragma once
#include <string>
#include <vector>

#include "explore/consistency.hpp"
#include "explore/graph_stack.hpp"
#include "explore/growing_graph.hpp"
#include "explore/hash_set.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class graph_engine final : public stage {
 public:
  explicit graph_engine(memory_model m) : model_(m), consistent_(m), g_(is_strong(m)) {}

  /// Explores until everything is, a bound is reached, or a violation is found.
  outcome explore(const bounds& limits);

  /// What is left to explore, one string a graph; empty once explore() was complete.
  std::vector<std::string> frontier() const;
  /// Explores only these instead of everything.
  void start_from(const std::vector<std::string>& graphs);
  /// Runs one execution: the one that a violation's schedule names.
  outcome replay(const std::string& schedule);

  /// Whether hashes of the complete graphs are kept, to find duplicates; they can be compared with others'.
  void keep_hashes(bool on) { keep_hashes_ = on; }
  const hash_set& hashes() const { return hashes_; }
  u64 revisits() const { return revisits_; }
  void use_symmetry(bool on) { symmetric_ = on; }

 private:
  static constexpr u16 no_event = growing_graph::no_event;
  /// A step that may become the next event, and what it would write.
  struct candidate {
    event e;
    u64 value;
  };
  struct choice {
    u16 write, rank;
  };
  struct cause {
    std::string invariant, message;
    u16 first = 0, second = 0;  // events at fault
  };

  bool answer(u32 actor, operation& op) override;
  u64 final_value(location loc) const override;

  // The search, and running along a graph: graph_engine.cpp
  bool watched(const bounds& limits) const;
  void execute();
  bool replay_events();
  bool replay_one(u32 actor, operation& op);
  void decide(u16 p, operation& op, u64 old);
  bool check_same(const event& e, const operation& op);
  void extend();
  void finish_run();

  // The next event: graph_growth.cpp
  event make_event(u32 actor, const operation& op) const;
  static event_detail detail_of(const operation& op, u64 value);
  bool add(u32 actor, operation& op);
  void add_plain(const event& e, const operation& op);
  void add_write(event e, const operation& op);
  bool add_read(const event& e, operation& op);
  void collect_choices(const event& e, operation& op);
  void outcome_of(candidate& c, operation& op, u64 old);
  void append(const event& e, const operation& op, u64 value);
  bool consistent_with(const event& e);
  void push_copy_with(const event& e);
  bool rc11_is_trivial(const event& e) const;
  bool follows_twin(const event& e, rmw_fn fn, u16 source) const;

  // Revisits: graph_revisits.cpp
  void revisit_all(const event& write, u64 value);
  bool revisit_follows_twin(u16 read_at, event_clock prefix) const;
  bool may_revisit(u16 read_at, event_clock prefix) const;
  bool maximal(u16 at, event_clock prefix) const;
  void revisit(u16 read_at, const event& write, u64 value, event_clock prefix);
  void try_revisit(u16 read_at, const event& write, u64 value, u16 rank);
  bool allowed(u16 read_at, const event& write);
  bool is_kept(u16 p) const { return cut_at_[p] != no_event; }

  u64 value_of(u16 write, location loc) const {
    return write == 0 ? initial(loc) : g_.details[g_.position(write)].value;
  }
  static constexpr bool is_strong(memory_model m) { return m == memory_model::sc || m == memory_model::tso; }
  bool strong_model() const { return is_strong(model_); }

  // Invariants that every program has: graph_invariants.cpp
  void check_lifetime(const event& e);
  void check_race(const event& e);
  void check_everything();
  void check_lifetimes_in_order();
  bool freed_and_reborn(const event& free, const event& access) const;
  void blame(const std::string& invariant,
             const std::string& message,
             const event& first,
             const event* second = nullptr);
  void find_deadlock();

  // What is told of a graph: graph_story.cpp
  violation tell();
  u64 graph_hash() const;

  const memory_model model_;
  consistency consistent_;
  graph_stack stack_;
  growing_graph g_;
  outcome result_;
  cause cause_;
  bool keep_hashes_ = true, symmetric_ = false, started_ = false, replaying_ = false;
  hash_set hashes_;
  u64 revisits_ = 0;

  // Of the current run.
  u32 done_[max_actors] = {};  // events of an actor that have been run
  bool waits_[max_actors] = {};
  bool dropped_ = false, recheck_ = false;
  double share_ = 0;

  // Scratch.
  graph scratch_, cut_;
  std::vector<u16> cut_at_;  // where an event of the graph is in the part that a revisit keeps
  std::vector<event_clock> clocks_;
  std::vector<choice> choices_;
  std::vector<candidate> kept_, writers_;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
