// interleave_engine.hpp -- exploration one interleaving at a time: the plain engine.
//
// Problem.  The graph engine is subtle, proves nothing where it cannot finish, and its graphs are no schedules.
// Guarantee.  With `sleep_sets` and no bound: every outcome under sc or tso is met, at least once.  With a
// bound on preemptions: every interleaving that has no more.  Random search guarantees nothing, and finds much.
// Method.  Depth first over the choice of who moves next.  Under tso each actor has a store buffer, whose oldest
// entry another "process" moves to memory at any time.  Sleep sets: after a subtree was explored, the process that
// began it stays asleep in its siblings until a step comes that conflicts with its own.  There is no cleverer
// reduction on purpose: this engine is the other's judge.
// PCT: S. Burckhardt, P. Kothari, M. Musuvathi, S. Nagarakatte, "A randomized scheduler with probabilistic
// guarantees of finding bugs", ASPLOS 2010.
// Cost.  About a microsecond an interleaving of twenty steps.
#pragma once
#include <bit>
#include <string>
#include <vector>

#include "base/dice.hpp"
#include "explore/hash_set.hpp"
#include "explore/stage.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

enum class strategy : u8 { exhaustive, random, pct, replay };

struct interleave_options {
  memory_model memory = memory_model::sc;  // sc or tso
  strategy how = strategy::exhaustive;
  bool sleep_sets = true;    // of an exhaustive search; not together with a bound on preemptions
  int preemptions = -1;      // of an exhaustive search: at most so many; -1: any number
  u64 seed = 1;              // of a random one
  u32 pct_depth = 3;         // as many ordered steps as the bug needs
  u32 pct_length = 64;       // steps of an execution, roughly
  bool keep_hashes = false;  // the set of graphs that were met
};

class interleave_engine final : public stage {
 public:
  explicit interleave_engine(const interleave_options& o) : options_(o) {}

  outcome explore(const bounds& limits);
  /// Runs one schedule (a violation's) and tells it step by step.
  outcome replay(const std::string& schedule);
  /// Another bound, from the beginning.
  void restart_search(int preemptions);
  const hash_set& hashes() const { return hashes_; }

 private:
  static constexpr u32 processes = 2 * max_actors;  // actors, then their store buffers
  using process_set = u32;
  /// What a step touches: two steps without conflict may change places.
  struct footprint {
    u16 loc = 0;
    object_id object = no_object;
    bool writes = false, ends_object = false, is_heavy = false;
    bool operator==(const footprint&) const = default;
  };
  struct node {
    process_set enabled = 0, done = 0, asleep = 0;
    u8 chosen = 0, last = 0, preemptions = 0;
    footprint prints[processes];
  };
  struct word {
    u64 value = 0;
    u16 writer = 0;
  };
  struct buffered {
    u16 loc;
    u16 name;
    u64 value;
  };
  static constexpr u8 no_process = 0xff;
  static bool is_plain(op_kind k) { return k == op_kind::plain_load || k == op_kind::plain_store; }
  static u32 first_of(process_set set) { return static_cast<u32>(std::countr_zero(set)); }

  bool answer(u32 actor, operation& op) override;
  u64 final_value(location loc) const override { return memory_[loc].value; }
  void location_born(location loc) override {
    if (!memory_.empty()) memory_[loc] = {initial(loc), 0};
  }

  void execute();
  void reset();
  u32 choose(process_set enabled, std::size_t depth, bool& redundant);
  u32 choose_randomly(process_set enabled);
  u32 choose_by_priority(process_set enabled, std::size_t depth);
  void open_node(process_set enabled);
  bool same_as_before(const node& n, process_set enabled);
  bool backtrack();
  bool costs_preemption(const node& n, u32 p) const;
  bool in_budget(const node& n, u32 p) const;
  void look_at_next_step(u32 t);
  process_set enabled_processes();
  bool is_enabled(u32 p);
  footprint print_of(u32 p) const;
  bool conflict(u32 p, const footprint& a, u32 q, const footprint& b) const;
  void decide();
  void take_step();
  void drain(u32 actor);
  void do_operation(u32 actor, operation& op);
  void write(location loc, u64 value, u16 name);
  u64 read(u32 actor, const operation& op, u16 name);
  void begin_or_end_object(u32 actor, const operation& op);
  void tell_of_dead_object(u32 actor, const operation& op);
  u64 peek(u32 actor, location loc) const;
  bool drained(u32 actor) const { return heads_[actor] == buffers_[actor].size(); }
  bool tso() const { return options_.memory == memory_model::tso; }
  bool needs_empty_buffer(const operation& op) const;
  bool find_deadlock();
  std::string schedule() const;

  interleave_options options_;
  outcome result_;
  hash_set hashes_;
  std::vector<node> path_;
  std::vector<u8> taken_, forced_;
  std::vector<trace_step> told_;
  bool telling_ = false;
  dice random_{1};
  u32 priorities_[processes] = {};
  std::vector<u32> changes_;

  // Of the current execution.
  process_set ready_ = 0, waiting_ = 0;  // actors that can move in any case, or if memory lets them
  u8 next_ = no_process;
  bool beginning_ = false, decided_ = false, redundant_ = false;
  std::vector<word> memory_;
  std::vector<location> written_;
  std::vector<buffered> buffers_[max_actors];
  std::size_t heads_[max_actors] = {};
  u16 steps_[max_actors] = {};
  std::vector<char> dead_ = std::vector<char>(65536);  // objects
  std::vector<object_id> died_;
  u8 last_ = no_process;
  int preemptions_ = 0;
  u64 hash_ = 0;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
