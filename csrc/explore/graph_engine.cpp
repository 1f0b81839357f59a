#include "explore/graph_engine.hpp"

#include <chrono>

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace

// ---- the search ---------------------------------------------------------------------------------

outcome graph_engine::explore(const bounds& limits) {
  const engine_scope scope(*this);
  const double start = seconds_now();
  if (!started_) stack_.push({}, 1.0);
  started_ = true;
  result_ = {};
  for (u64 runs = 0; !stack_.empty() && !result_.failed; ++runs) {
    if (result_.executions >= limits.executions) break;
    if (runs % 64 == 63 && (seconds_now() - start > limits.seconds || !watched(limits))) break;
    share_ = stack_.pop(g_.events);
    execute();
    throw_if_refused();
    result_.progress += share_;
  }
  result_.complete = stack_.empty() && !result_.failed;
  result_.seconds = seconds_now() - start;
  return result_;
}

bool graph_engine::watched(const bounds& limits) const {
  return !limits.watch || limits.watch({result_.executions, result_.blocked, result_.progress});
}

void graph_engine::execute() {
  g_.begin();
  for (u32 t = 0; t < actors(); ++t) done_[t] = 0, waits_[t] = false;
  dropped_ = recheck_ = false;
  restart();
  if (!replay_events()) {
    ++result_.dropped;
    return;
  }
  if (replaying_ && !failed()) check_everything();
  extend();
  if (dropped_) {
    ++result_.dropped;
    return;
  }
  finish_run();
}

/// In the actor's own context: a step that the graph has already is answered without a switch, if it can be.
bool graph_engine::answer(u32 actor, operation& op) {
  if (done_[actor] >= g_.length(actor) || op.kind == op_kind::fail || failed()) return false;
  return replay_one(actor, op);
}

// ---- along a given graph --------------------------------------------------------------------------

/// Runs all actors along the graph, in an order that respects reads-from.  False: it is no execution.
bool graph_engine::replay_events() {
  for (bool more = true; more && !failed();) {
    more = false;
    for (u32 t = 0; t < actors(); ++t) {
      while (!waits_[t] && done_[t] < g_.length(t) && pending(t) != nullptr && !failed()) {
        if (!replay_one(t, *pending(t))) break;
        more = true;
        run(t);
      }
    }
    if (dropped_) return false;
  }
  if (failed()) return true;
  if (recheck_) {
    clocks_.clear();
    for (const event_clocks& c : g_.clocks) clocks_.push_back(c.hb);
    if (!consistent_(g_.events, clocks_)) return false;
  }
  for (u32 t = 0; t < actors(); ++t)
    if (!waits_[t] && done_[t] < g_.length(t))
      refuse("the program is not deterministic apart from the engine's choices: actor " + actor_name(t) +
             " ended after " + std::to_string(done_[t]) + " of the " + std::to_string(g_.length(t)) +
             " steps that it made before in the same place");
  return true;
}

bool graph_engine::check_same(const event& e, const operation& op) {
  if (e.kind == op.kind && (e.loc == op.loc || op.kind == op_kind::free)) return true;
  if (reuses_addresses() && e.kind == op.kind && e.object != no_object) {
    // Which life of the object a pointer leads to is the program's doing: nothing orders this access with it.
    fail("use after free",
         actor_name(e.actor) + "'s " + to_string(op.kind) + " at " + place_of(op.at) +
             " meets memory that was freed and handed out again, and nothing orders the two");
    return false;
  }
  refuse_as_nondeterministic(
      e.actor, e.index, std::string("a ") + to_string(e.kind) + (e.loc != 0 ? " of " + describe(e.loc) : ""),
      op);
  return false;
}

/// The next event of the actor; false if what it reads has not run yet, or if it waits.
bool graph_engine::replay_one(u32 actor, operation& op) {
  const u16 p = g_.position(actor, done_[actor]);
  event& e = g_[p];
  if (!check_same(e, op)) return false;
  if (e.reads && e.from != 0 && done_[actor_of(e.from)] <= index_of(e.from)) return false;
  e.order = op.order, e.failure_order = op.failure_order;
  g_.details[p] = detail_of(op, op.operand);
  if (e.reads) {
    const u64 old = value_of(e.from, e.loc);
    decide(p, op, old);
    if (dropped_) return false;
    op.result = old;
    op.succeeded = !e.failed_rmw;
  }
  g_.take_clocks(e);
  if (e.blocked) {
    waits_[actor] = true;
    return false;
  }
  ++done_[actor];
  return true;
}

/// What a read does with what it reads.  A wait that was revisited learns only here whether it ends.
void graph_engine::decide(u16 p, operation& op, u64 old) {
  event& e = g_[p];
  if (!e.undecided && !e.writes) return;
  candidate c{e, 0};
  outcome_of(c, op, old);
  g_.details[p].value = c.value;
  if (!e.undecided) return;
  e.undecided = false;
  e.blocked = c.e.blocked;
  if (e.blocked) {
    dropped_ = e.rank != g_.top_rank(e.loc);
  } else if (c.e.writes && !follows_twin(e, op.fn, e.from)) {
    dropped_ = true;
  } else if (c.e.writes) {
    g_.become_write(p);
    recheck_ = true;
  }
}

// ---- beyond it --------------------------------------------------------------------------------------

void graph_engine::extend() {
  while (!dropped_ && !failed()) {
    u32 t = 0;
    while (t < actors() && (pending(t) == nullptr || waits_[t])) ++t;
    if (t == actors()) return;
    operation& op = *pending(t);
    if (op.kind == op_kind::fail) {
      fail("invariant", op.text);
      return;
    }
    const std::size_t before = stack_.size();
    if (!add(t, op)) return;
    if (const std::size_t more = stack_.size() - before; more != 0) {
      share_ /= static_cast<double>(more + 1);
      stack_.give(before, share_);
    }
    if (!waits_[t]) run(t);
  }
}

void graph_engine::finish_run() {
  if (!failed() && strong_model()) check_lifetimes_in_order();
  bool blocked = false;
  for (u32 t = 0; t < actors(); ++t) blocked |= waits_[t];
  if (!failed()) {
    if (blocked) {
      find_deadlock();
    } else {
      judge();
    }
  }
  if (failed()) {
    result_.failed = true;
    result_.why = tell();
    ++result_.executions;
    return;
  }
  if (blocked) {
    ++result_.blocked;
    return;
  }
  ++result_.executions;
  if (keep_hashes_ && !hashes_.insert(graph_hash())) ++result_.duplicates;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
