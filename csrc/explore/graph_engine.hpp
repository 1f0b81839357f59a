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
// Cost.  A run of the program for each graph, plus the models' checks; see bench/bench_explore.py.
#pragma once
#include <string>
#include <vector>

#include "explore/consistency.hpp"
#include "explore/hash_set.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class graph_engine final : public stage {
 public:
  explicit graph_engine(memory_model m) : model_(m), consistent_(m) {}

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

 private:
  struct clocks {
    event_clock hb, porf, message;  // what it happens after; what it depends on; what its readers acquire
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

  void execute();
  void prepare_run();
  bool replay_events();
  bool replay_one(u32 actor, operation& op);
  void decide(event& e, operation& op, u64 old);
  void check_same(const event& e, const operation& op);
  void extend();
  void finish_run();
  void take_clocks(const event& e);

  event make_event(u32 actor, const operation& op) const;
  bool add(u32 actor, operation& op);
  bool add_plain(event& e, operation& op);
  bool add_write(event& e);
  bool add_read(event& e, operation& op);
  void outcome_of(event& e, operation& op, u64 old) const;
  void append(const event& e);
  void push(const graph& g);
  void push_copy_with(const event& e);
  void make_room(graph& g, u16 loc, u16 rank);

  void revisit_all(const event& write);
  bool may_revisit(std::size_t read_at, event_clock prefix) const;
  bool maximal(std::size_t at, std::size_t read_at, event_clock prefix) const;
  void revisit(std::size_t read_at, const event& write, event_clock prefix);
  void try_revisit(graph& cut, std::size_t read_at, const event& write, u16 rank);

  u64 value_of(u16 write, location loc) const { return write == 0 ? initial(loc) : g_[index_(write)].value; }
  u16 rank_of(u16 write) const { return write == 0 ? u16{0} : g_[index_(write)].rank; }
  u16 top_rank(location loc) const;
  u16 floor_rank(event_clock hb, location loc) const;
  bool read_by_rmw(const graph& g, location loc, u16 rank) const;
  bool strong_model() const { return model_ == memory_model::sc || model_ == memory_model::tso; }
  bool acquires(u8 order) const { return strong_model() || is_acquire(order); }
  bool releases(u8 order) const { return strong_model() || is_release(order); }
  bool happens_before(const event& a, const event& b) const {
    return clocks_[index_(b.name())].hb[a.actor] > a.index;
  }

  bool check_lifetime(const event& e);
  bool check_race(const event& e);
  void check_everything();
  void check_lifetimes_in_order();
  bool freed_and_reborn(const event& free, const event& access) const;
  void blame(const std::string& invariant,
             const std::string& message,
             const event& first,
             const event* second = nullptr);
  void find_deadlock();
  violation tell();
  u64 graph_hash() const;
  u16 first_of(location loc) const { return chain_epoch_[loc] == epoch_ ? chain_[loc] : no_event; }
  u16 first_of_object(object_id o) const { return object_epoch_[o] == epoch_ ? object_chain_[o] : no_event; }
  void link(const event& e, u16 position);

  static constexpr u16 no_event = 0xffff;

  const memory_model model_;
  consistency consistent_;
  std::vector<graph> stack_, spare_;
  graph g_, scratch_, cut_;
  outcome result_;
  std::vector<choice> choices_;  // of add_read: scratch
  std::vector<event> kept_, writers_;
  cause cause_;
  bool keep_hashes_ = true, started_ = false, replaying_ = false;
  hash_set hashes_;
  u64 revisits_ = 0;

  // Of the current run.
  event_index index_;
  u32 done_[max_actors] = {};  // events of an actor that have been run
  bool waits_[max_actors] = {};
  bool dropped_ = false, recheck_ = false;
  event_clock hb_[max_actors], porf_[max_actors], acquired_[max_actors], released_[max_actors];
  std::vector<clocks> clocks_;  // by position
  // Events of the same location, and of the same object, newest first.
  u32 epoch_ = 0;
  std::vector<u16> chain_ = std::vector<u16>(location_count), object_chain_ = std::vector<u16>(65536);
  std::vector<u32> chain_epoch_ = std::vector<u32>(location_count), object_epoch_ = std::vector<u32>(65536);
  std::vector<u16> next_same_, next_of_object_;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
