#include "explore/graph_engine.hpp"

#include <algorithm>
#include <chrono>

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
bool is_wait(op_kind k) { return k == op_kind::await || k == op_kind::update; }
bool is_plain(op_kind k) { return k == op_kind::plain_load || k == op_kind::plain_store; }
}  // namespace

// ---- the search ---------------------------------------------------------------------------------

outcome graph_engine::explore(const bounds& limits) {
  const engine_scope scope(*this);
  const double start = seconds_now();
  if (!started_) stack_.emplace_back();
  started_ = true;
  result_ = {};
  for (u64 runs = 0; !stack_.empty() && !result_.failed; ++runs) {
    if (result_.executions >= limits.executions) break;
    if (runs % 64 == 63 && seconds_now() - start > limits.seconds) break;
    std::swap(g_, stack_.back());
    spare_.push_back(std::move(stack_.back()));
    stack_.pop_back();
    execute();
  }
  result_.complete = stack_.empty() && !result_.failed;
  result_.seconds = seconds_now() - start;
  return result_;
}

void graph_engine::execute() {
  prepare_run();
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

void graph_engine::prepare_run() {
  ++epoch_;
  index_.build(g_);
  clocks_.resize(g_.size());
  next_same_.resize(g_.size());
  next_of_object_.resize(g_.size());
  for (std::size_t p = 0; p < g_.size(); ++p) link(g_[p], static_cast<u16>(p));
  for (u32 t = 0; t < max_actors; ++t) {
    done_[t] = 0;
    waits_[t] = false;
    hb_[t] = porf_[t] = acquired_[t] = released_[t] = event_clock{};
  }
  dropped_ = recheck_ = false;
  cause_ = {};
}

void graph_engine::link(const event& e, u16 position) {
  next_same_[position] = first_of(e.loc);
  chain_[e.loc] = position;
  chain_epoch_[e.loc] = epoch_;
  next_of_object_[position] = first_of_object(e.object);
  object_chain_[e.object] = position;
  object_epoch_[e.object] = epoch_;
}

/// In the actor's own context: a step that the graph has already is answered without a switch, if it can be.
bool graph_engine::answer(u32 actor, operation& op) {
  if (op.kind == op_kind::fail || done_[actor] >= index_.length(actor) || failed()) return false;
  return replay_one(actor, op);
}

// ---- along a given graph --------------------------------------------------------------------------

/// Runs all actors along the graph, in an order that respects reads-from.  False: it is no execution.
bool graph_engine::replay_events() {
  for (bool more = true; more && !failed();) {
    more = false;
    for (u32 t = 0; t < actors(); ++t) {
      while (!waits_[t] && done_[t] < index_.length(t) && pending(t) != nullptr && !failed()) {
        if (!replay_one(t, *pending(t))) break;
        more = true;
        run(t);
      }
    }
    if (dropped_) return false;
  }
  if (failed()) return true;
  if (recheck_ && !consistent_(g_)) return false;
  for (u32 t = 0; t < actors(); ++t)
    if (!waits_[t] && done_[t] < index_.length(t))
      throw program_error("the program is not deterministic: actor " + actor_name(t) + " ended after " +
                          std::to_string(done_[t]) + " of the " + std::to_string(index_.length(t)) +
                          " steps that it made before");
  return true;
}

void graph_engine::check_same(const event& e, const operation& op) {
  if (e.kind == op.kind && (e.loc == op.loc || op.kind == op_kind::free)) return;
  fail("not deterministic", "the program is not deterministic apart from the engine's choices: step " +
                                std::to_string(e.index + 1) + " of actor " + actor_name(e.actor) + " was a " +
                                to_string(e.kind) + " of " + describe(e.loc) + " and is now a " +
                                to_string(op.kind) + " of " + describe(op.loc) + " at " + place_of(op.at));
}

/// The next event of the actor; false if what it reads has not run yet, or if it waits.
bool graph_engine::replay_one(u32 actor, operation& op) {
  event& e = g_[index_(actor, done_[actor])];
  check_same(e, op);
  if (failed()) return false;
  if (e.reads && e.from != 0 && done_[actor_of(e.from)] <= index_of(e.from)) return false;
  const event fresh = make_event(actor, op);
  e.fn = fresh.fn, e.order = fresh.order, e.failure_order = fresh.failure_order, e.size = fresh.size;
  e.operand = fresh.operand, e.expected = fresh.expected, e.at = fresh.at;
  if (e.reads) {
    const u64 old = value_of(e.from, e.loc);
    decide(e, op, old);
    if (dropped_) return false;
    op.result = old;
    op.succeeded = !e.failed_rmw;
  } else if (e.writes) {
    e.value = op.operand;
  }
  take_clocks(e);
  if (e.blocked) {
    waits_[actor] = true;
    return false;
  }
  ++done_[actor];
  return true;
}

/// What a read does with what it reads.  A wait that was revisited learns only here whether it ends.
void graph_engine::decide(event& e, operation& op, u64 old) {
  if (!e.undecided) {
    if (e.writes) outcome_of(e, op, old);
    return;
  }
  e.undecided = false;
  outcome_of(e, op, old);
  const u16 rank = rank_of(e.from);
  if (e.blocked) {
    dropped_ = rank != top_rank(e.loc);
  } else if (e.writes) {
    e.writes = false;
    make_room(g_, e.loc, static_cast<u16>(rank + 1));
    e.writes = true;
    e.rank = static_cast<u16>(rank + 1);
    recheck_ = true;
  }
}

void graph_engine::outcome_of(event& e, operation& op, u64 old) const {
  e.failed_rmw = false;
  switch (e.kind) {
    case op_kind::await: e.blocked = !op.holds(op.ctx, old); return;
    case op_kind::update: {
      u64 next = old;
      e.blocked = !op.step(op.ctx, old, next);
      e.writes = !e.blocked;
      e.value = next;
      return;
    }
    case op_kind::rmw:
    case op_kind::light_fence:
    case op_kind::heavy_fence: {
      const rmw_outcome out = apply(op, old);
      e.writes = out.stored;
      e.failed_rmw = !out.stored;
      e.value = out.value;
      return;
    }
    default: return;
  }
}

void graph_engine::take_clocks(const event& e) {
  const u32 t = e.actor;
  if (e.reads && e.from != 0) {
    const clocks& w = clocks_[index_(e.from)];
    porf_[t] = latest(porf_[t], w.porf);
    event_clock& into = acquires(e.read_order()) ? hb_[t] : acquired_[t];
    into = latest(into, w.message);
  }
  if (e.kind == op_kind::fence && acquires(e.order)) hb_[t] = latest(hb_[t], acquired_[t]);
  hb_[t][t] = porf_[t][t] = static_cast<u16>(e.index + 1);
  if (e.kind == op_kind::fence && releases(e.order)) released_[t] = hb_[t];
  clocks& c = clocks_[index_(e.name())];
  c.hb = hb_[t];
  c.porf = porf_[t];
  if (!e.writes) return;
  c.message = releases(e.order) ? hb_[t] : released_[t];
  if (e.reads && e.from != 0) c.message = latest(c.message, clocks_[index_(e.from)].message);
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
    if (!add(t, op)) return;
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

event graph_engine::make_event(u32 actor, const operation& op) const {
  event e;
  e.kind = op.kind;
  e.fn = op.fn;
  e.order = op.order;
  e.failure_order = op.failure_order;
  e.size = op.size;
  e.actor = static_cast<u8>(actor);
  e.index = static_cast<u16>(done_[actor]);
  e.loc = static_cast<u16>(op.loc);
  e.operand = op.operand;
  e.expected = op.expected;
  e.at = op.at;
  e.reads = reads_memory(op.kind);
  e.writes = op.kind == op_kind::store;
  const bool lives = op.kind == op_kind::alloc || op.kind == op_kind::free;
  e.object = lives                   ? static_cast<object_id>(op.expected)
             : op.loc == no_location ? no_object
                                     : object_of(op.loc);
  return e;
}

/// The actor's next step.  False: this run is over.
bool graph_engine::add(u32 actor, operation& op) {
  if (done_[actor] == max_steps) {
    fail("endless loop", actor_name(actor) + " has taken " + std::to_string(max_steps) +
                             " steps and goes on, at " + place_of(op.at) +
                             ": it waits for something without await(), and nothing happens");
    return false;
  }
  event e = make_event(actor, op);
  const bool added = e.reads ? add_read(e, op) : e.writes ? add_write(e) : add_plain(e, op);
  if (!added) return false;
  return !failed();
}

bool graph_engine::add_plain(event& e, operation&) {
  append(e);
  if (is_plain(e.kind) && !check_race(e)) return true;
  if (e.object != no_object && !strong_model()) check_lifetime(e);
  return true;
}

void graph_engine::append(const event& e) {
  const std::size_t p = g_.size();
  g_.push_back(e);
  index_.add(e, p);
  clocks_.emplace_back();
  next_same_.emplace_back();
  next_of_object_.emplace_back();
  link(e, static_cast<u16>(p));
  take_clocks(e);
  if (e.blocked) {
    waits_[e.actor] = true;
  } else {
    ++done_[e.actor];
  }
}

void graph_engine::push(const graph& g) {
  if (spare_.empty()) {
    stack_.push_back(g);
    return;
  }
  stack_.push_back(std::move(spare_.back()));
  spare_.pop_back();
  stack_.back().assign(g.begin(), g.end());
}

u16 graph_engine::top_rank(location loc) const {
  u16 top = 0;
  for (u16 p = first_of(loc); p != no_event; p = next_same_[p])
    if (g_[p].writes) top = std::max(top, g_[p].rank);
  return top;
}

/// What coherence forces on an access that comes after hb: the newest write that it has seen, or overwritten.
u16 graph_engine::floor_rank(event_clock hb, location loc) const {
  u16 floor = 0;
  for (u16 p = first_of(loc); p != no_event; p = next_same_[p]) {
    const event& e = g_[p];
    if (hb[e.actor] <= e.index) continue;
    if (e.writes) floor = std::max(floor, e.rank);
    if (e.reads) floor = std::max(floor, rank_of(e.from));
  }
  return floor;
}

/// Nothing may come between a read-modify-write and what it read.
bool graph_engine::read_by_rmw(const graph& g, location loc, u16 rank) const {
  return std::any_of(g.begin(), g.end(),
                     [&](const event& e) { return e.loc == loc && e.reads && e.writes && e.rank == rank; });
}

void graph_engine::make_room(graph& g, u16 loc, u16 rank) {
  for (event& e : g)
    if (e.writes && e.loc == loc && e.rank >= rank) ++e.rank;
}

void graph_engine::push_copy_with(const event& e) {
  scratch_ = g_;
  if (e.writes) make_room(scratch_, e.loc, e.rank);
  scratch_.push_back(e);
  if (consistent_(scratch_)) push(scratch_);
}

bool graph_engine::add_write(event& e) {
  e.value = e.operand;
  const u16 floor = floor_rank(hb_[e.actor], e.loc), last = static_cast<u16>(top_rank(e.loc) + 1);
  // At the end of coherence order nothing comes after it: always consistent, so this run goes on with that.
  for (u16 rank = static_cast<u16>(last - 1); rank > floor; --rank) {
    if (read_by_rmw(g_, e.loc, rank)) continue;
    e.rank = rank;
    push_copy_with(e);
  }
  e.rank = last;
  revisit_all(e);
  append(e);
  if (e.object != no_object && !strong_model()) check_lifetime(e);
  return true;
}

bool graph_engine::add_read(event& e, operation& op) {
  const u16 floor = floor_rank(hb_[e.actor], e.loc), top = top_rank(e.loc);
  std::vector<choice>& choices = choices_;
  std::vector<event>&kept = kept_, &writers = writers_;
  choices.clear();
  kept.clear();
  writers.clear();
  if (floor == 0) choices.push_back({0, 0});
  for (u16 p = first_of(e.loc); p != no_event; p = next_same_[p])
    if (g_[p].writes && g_[p].rank >= floor) choices.push_back({g_[p].name(), g_[p].rank});
  std::sort(choices.begin(), choices.end(), [](choice a, choice b) { return a.rank > b.rank; });

  for (const choice c : choices) {
    event r = e;
    r.from = c.write;
    outcome_of(r, op, value_of(c.write, e.loc));
    if (r.blocked && c.rank != top) continue;
    r.rank = static_cast<u16>(c.rank + 1);
    if (!r.writes) r.rank = 0;
    if (r.writes)
      writers.push_back(r);  // may be read by others even where another already follows what it reads
    if (r.writes && read_by_rmw(g_, e.loc, r.rank)) continue;
    kept.push_back(r);
  }
  for (const event& w : writers) revisit_all(w);

  // This run goes on with the newest write that does not block it and is consistent; the others are kept for later.
  std::stable_partition(kept.begin(), kept.end(), [](const event& r) { return !r.blocked; });
  std::size_t mine = kept.size();
  for (std::size_t k = 0; k < kept.size(); ++k) {
    const bool newest = rank_of(kept[k].from) == top;
    if (mine != kept.size()) {
      push_copy_with(kept[k]);
      continue;
    }
    bool fits = newest;
    if (!fits) {
      scratch_ = g_;
      if (kept[k].writes) make_room(scratch_, e.loc, kept[k].rank);
      scratch_.push_back(kept[k]);
      fits = consistent_(scratch_);
    }
    if (fits) mine = k;
  }
  if (mine == kept.size()) {
    dropped_ = true;
    return false;
  }
  event& chosen = kept[mine];
  if (chosen.writes) make_room(g_, chosen.loc, chosen.rank);
  op.result = value_of(chosen.from, chosen.loc);
  op.succeeded = !chosen.failed_rmw;
  append(chosen);
  if (e.object != no_object && !strong_model()) check_lifetime(g_.back());
  return true;
}

// ---- revisits ---------------------------------------------------------------------------------------

/// The new write (not yet in the graph) is offered to every read that it does not depend on.
void graph_engine::revisit_all(const event& write) {
  event_clock prefix = porf_[write.actor];
  if (write.reads && write.from != 0) prefix = latest(prefix, clocks_[index_(write.from)].porf);
  prefix[write.actor] = write.index;
  for (u16 p = first_of(write.loc); p != no_event; p = next_same_[p]) {
    const event& r = g_[p];
    if (!r.reads || r.actor == write.actor || prefix[r.actor] > r.index) continue;
    if (may_revisit(p, prefix)) revisit(p, write, prefix);
  }
}

bool graph_engine::may_revisit(std::size_t read_at, event_clock prefix) const {
  for (std::size_t p = read_at; p < g_.size(); ++p) {
    const event& e = g_[p];
    if (p != read_at && prefix[e.actor] > e.index) continue;
    if (!maximal(p, read_at, prefix)) return false;
  }
  return true;
}

/// Whether the event at p, which the revisit would cut off, was added in the canonical way: last in coherence
/// order among what was there before it and what the write depends on, and read by none of these.
bool graph_engine::maximal(std::size_t at, std::size_t, event_clock prefix) const {
  const event& e = g_[at];
  if (!e.reads && !e.writes) return true;
  const u16 rank = e.reads ? rank_of(e.from) : e.rank;
  for (u16 p = first_of(e.loc); p != no_event; p = next_same_[p]) {
    const event& other = g_[p];
    if (p == at || (p > at && prefix[other.actor] <= other.index)) continue;
    if (e.writes && other.reads && other.from == e.name()) return false;
    if (other.writes && other.rank > rank) return false;
  }
  return true;
}

void graph_engine::revisit(std::size_t read_at, const event& write, event_clock prefix) {
  cut_.clear();
  for (std::size_t p = 0; p < g_.size(); ++p)
    if (p <= read_at || prefix[g_[p].actor] > g_[p].index) cut_.push_back(g_[p]);
  event& read = cut_[read_at];
  read.writes = false;
  // Close the gaps in coherence order.  Only locations that lost a write have one.
  for (event& e : cut_) {
    if (!e.writes) continue;
    u16 rank = 1;
    for (u16 p = first_of(e.loc); p != no_event; p = next_same_[p]) {
      const event& other = g_[p];
      const bool stays = (p < read_at || prefix[other.actor] > other.index) && p != read_at;
      if (stays && other.writes && other.rank < g_[index_(e.name())].rank) ++rank;
    }
    e.rank = rank;
  }
  // Where the write itself may go: after what it has seen, and a read-modify-write right after what it reads.
  event_clock hb = hb_[write.actor];
  if (write.reads && write.from != 0 && acquires(write.read_order()))
    hb = latest(hb, clocks_[index_(write.from)].message);
  u16 floor = 0, top = 0, source = 0;
  for (const event& e : cut_) {
    if (e.loc != write.loc) continue;
    u16 rank = e.writes ? e.rank : u16{0};
    top = std::max(top, rank);
    if (e.writes && e.name() == write.from) source = e.rank;
    if (hb[e.actor] <= e.index || (e.actor == write.actor && e.index >= write.index)) continue;
    if (e.reads && e.from != 0)
      for (const event& w : cut_)
        if (w.writes && w.name() == e.from) rank = std::max(rank, w.rank);
    floor = std::max(floor, rank);
  }
  if (write.reads) {
    const u16 rank = static_cast<u16>(source + 1);
    if (rank > floor) try_revisit(cut_, read_at, write, rank);
    return;
  }
  for (u16 rank = static_cast<u16>(top + 1); rank > floor; --rank) try_revisit(cut_, read_at, write, rank);
}

void graph_engine::try_revisit(graph& cut, std::size_t read_at, const event& write, u16 rank) {
  if (read_by_rmw(cut, write.loc, rank)) return;
  scratch_ = cut;
  make_room(scratch_, write.loc, rank);
  scratch_.push_back(write);
  scratch_.back().rank = rank;
  event& read = scratch_[read_at];
  read.from = write.name();
  read.rank = 0;
  read.blocked = read.failed_rmw = false;
  read.undecided = is_wait(read.kind);
  // Nothing that happens before the read may be newer than what it reads now.
  const event_clock before =
      read.index == 0 ? event_clock{} : clocks_[index_(read.actor, read.index - 1u)].hb;
  for (const event& e : scratch_) {
    if (e.loc != read.loc || before[e.actor] <= e.index) continue;
    if (e.writes && e.rank > rank) return;
    if (!e.reads || e.from == 0 || &e == &read) continue;
    for (const event& w : scratch_)
      if (w.writes && w.name() == e.from && w.rank > rank) return;
  }
  if (!read.undecided && read.kind != op_kind::load) {
    operation op{.kind = read.kind, .fn = read.fn, .size = read.size};
    op.operand = read.operand;
    op.expected = read.expected;
    const rmw_outcome out = apply(op, write.value);
    read.failed_rmw = !out.stored;
    if (out.stored) {
      make_room(scratch_, read.loc, static_cast<u16>(rank + 1));
      read.rank = static_cast<u16>(rank + 1);
      read.value = out.value;
      read.writes = true;
    }
  }
  if (!consistent_(scratch_)) return;
  push(scratch_);
  ++revisits_;
}

// ---- invariants that every program has ----------------------------------------------------------------

void graph_engine::blame(const std::string& invariant,
                         const std::string& message,
                         const event& first,
                         const event* second) {
  fail(invariant, message);
  cause_ = {invariant, message, first.name(), second == nullptr ? u16{0} : second->name()};
}

/// The object came to life again between the free and the access, and both are ordered so.
bool graph_engine::freed_and_reborn(const event& free, const event& access) const {
  for (u16 p = first_of_object(access.object); p != no_event; p = next_of_object_[p])
    if (g_[p].kind == op_kind::alloc && happens_before(free, g_[p]) &&
        (happens_before(g_[p], access) || &g_[p] == &access))
      return true;
  return false;
}

/// By happens-before: every access lies after the allocation and before the free of its object's life.
bool graph_engine::check_lifetime(const event& e) {
  const std::string what =
      std::string(to_string(e.kind)) + " of " + (e.loc != 0 ? describe(e.loc) : std::string("an object"));
  for (u16 p = first_of_object(e.object); p != no_event; p = next_of_object_[p]) {
    const event& x = g_[p];
    if (x.name() == e.name()) continue;
    if (x.kind == op_kind::free && !freed_and_reborn(x, e)) {
      blame(e.kind == op_kind::free ? "double free" : "use after free",
            actor_name(e.actor) + "'s " + what + " is not ordered before the free by " + actor_name(x.actor) +
                " at " + place_of(x.at),
            e, &x);
      return false;
    }
    if (e.kind == op_kind::free && !happens_before(x, e)) {
      blame("use after free",
            actor_name(e.actor) + " frees what " + actor_name(x.actor) + " uses at " + place_of(x.at) +
                ", and nothing orders the two",
            x, &e);
      return false;
    }
    if (x.kind == op_kind::alloc && !happens_before(x, e)) {
      blame("read before construction",
            actor_name(e.actor) + "'s " + what + " may come before " + actor_name(x.actor) +
                " has constructed it",
            e, &x);
      return false;
    }
  }
  return true;
}

bool graph_engine::check_race(const event& e) {
  for (u16 p = first_of(e.loc); p != no_event; p = next_same_[p]) {
    const event& x = g_[p];
    if (x.actor == e.actor || (x.kind != op_kind::plain_store && e.kind != op_kind::plain_store)) continue;
    if (happens_before(x, e)) continue;
    blame("data race",
          actor_name(x.actor) + " and " + actor_name(e.actor) + " access " + describe(e.loc) +
              " at the same time",
          e, &x);
    return false;
  }
  return true;
}

/// A graph that was handed in may hold the offence already.
void graph_engine::check_everything() {
  for (std::size_t p = 0; p < g_.size() && !failed(); ++p) {
    if (is_plain(g_[p].kind)) check_race(g_[p]);
    if (!failed() && g_[p].object != no_object && !strong_model()) check_lifetime(g_[p]);
  }
}

/// Under sc and tso: is there an order of this graph in which the free comes first?
void graph_engine::check_lifetimes_in_order() {
  for (std::size_t f = 0; f < g_.size() && !failed(); ++f) {
    if (g_[f].kind != op_kind::free || g_[f].object == no_object) continue;
    const std::vector<char> before = consistent_.before(g_, f);
    for (std::size_t p = 0; p < g_.size() && !failed(); ++p) {
      const event& x = g_[p];
      if (p == f || x.object != g_[f].object || before[p]) continue;
      bool reborn = false;
      for (std::size_t a = 0; a < g_.size() && !reborn; ++a) {
        if (g_[a].kind != op_kind::alloc || g_[a].object != x.object || before[a]) continue;
        reborn = a == p || (consistent_.before(g_, a)[f] && consistent_.before(g_, p)[a]);
      }
      if (reborn) continue;
      blame(x.kind == op_kind::free ? "double free" : "use after free",
            actor_name(x.actor) + "'s " + to_string(x.kind) + (x.loc != 0 ? " of " + describe(x.loc) : "") +
                " can come after the free by " + actor_name(g_[f].actor) + " at " + place_of(g_[f].at),
            x, &g_[f]);
    }
  }
}

/// Every wait reads the last write there is, and that does not end it.
void graph_engine::find_deadlock() {
  std::string who;
  for (u32 t = 0; t < actors(); ++t) {
    if (!waits_[t]) continue;
    const event& e = g_[index_(t, done_[t])];
    if (e.loc == no_location || rank_of(e.from) != top_rank(e.loc)) return;
    who +=
        (who.empty() ? "" : "; ") + actor_name(t) + " waits for " + describe(e.loc) + " at " + place_of(e.at);
  }
  fail("deadlock", who + ": nobody is left who could end that");
}

// ---- graphs as bytes ------------------------------------------------------------------------------------

namespace {
void put16(std::string& s, u16 v) {
  s += static_cast<char>(v & 0xff);
  s += static_cast<char>(v >> 8);
}
u16 get16(const std::string& s, std::size_t at) {
  return static_cast<u16>(static_cast<u8>(s[at]) | static_cast<u8>(s[at + 1]) << 8);
}
constexpr std::size_t bytes_per_event = 13;

/// Structure alone: values come back when the program runs along it.
std::string to_bytes(const graph& g) {
  std::string s;
  for (const event& e : g) {
    s += static_cast<char>(e.actor);
    put16(s, e.index);
    s += static_cast<char>(e.kind);
    s += static_cast<char>(e.reads | e.writes << 1 | e.blocked << 2 | e.undecided << 3 | e.failed_rmw << 4);
    put16(s, e.loc);
    put16(s, e.object);
    put16(s, e.from);
    put16(s, e.rank);
  }
  return s;
}

graph from_bytes(const std::string& s) {
  if (s.size() % bytes_per_event != 0)
    throw program_error("this is not a graph: its length is no multiple of 13");
  graph g;
  for (std::size_t i = 0; i < s.size(); i += bytes_per_event) {
    event e;
    e.actor = static_cast<u8>(s[i]);
    e.index = get16(s, i + 1);
    e.kind = static_cast<op_kind>(s[i + 3]);
    const u8 flags = static_cast<u8>(s[i + 4]);
    e.reads = (flags & 1) != 0, e.writes = (flags & 2) != 0, e.blocked = (flags & 4) != 0;
    e.undecided = (flags & 8) != 0, e.failed_rmw = (flags & 16) != 0;
    e.loc = get16(s, i + 5);
    e.object = get16(s, i + 7);
    e.from = get16(s, i + 9);
    e.rank = get16(s, i + 11);
    if (e.actor >= stage::max_actors || e.index >= stage::max_steps || e.kind > op_kind::fail ||
        e.loc >= stage::location_count)
      throw program_error("this is not a graph: event " + std::to_string(i / bytes_per_event) +
                          " makes no sense");
    g.push_back(e);
  }
  return g;
}
}  // namespace

// ---- what is told of a graph --------------------------------------------------------------------------

u64 graph_engine::final_value(location loc) const {
  u64 v = initial(loc);
  u16 newest = 0;
  for (u16 p = first_of(loc); p != no_event; p = next_same_[p])
    if (g_[p].writes && g_[p].rank > newest) newest = g_[p].rank, v = g_[p].value;
  return v;
}

u64 graph_engine::graph_hash() const {
  u64 hash = 0;
  for (const event& e : g_) {
    if (e.reads) hash += reads_from_edge(e.from, e.name());
    if (!e.writes) continue;
    u16 before = 0, best = 0;
    for (u16 p = first_of(e.loc); p != no_event; p = next_same_[p]) {
      const event& w = g_[p];
      if (w.writes && w.rank < e.rank && w.rank > best) best = w.rank, before = w.name();
    }
    hash += coherence_edge(before, e.name());
  }
  return hash;
}

violation graph_engine::tell() {
  violation v;
  v.invariant = failed_invariant();
  v.message = failed_message();
  index_.build(g_);
  std::vector<u16> order = consistent_.interleaving(g_);
  const bool interleaved = !order.empty() || g_.empty();
  if (!interleaved) order = consistent_.story(g_);
  std::vector<char> told(g_.size(), 0);
  for (const u16 p : order) {
    const event& e = g_[p];
    told[p] = 1;
    operation op{.kind = e.kind, .fn = e.fn, .order = e.order, .size = e.size};
    op.loc = e.loc;
    op.operand = e.operand;
    op.expected = e.expected;
    op.at = e.at;
    if (e.reads) op.result = value_of(e.from, e.loc);
    trace_step s = line_of(e.actor, op);
    if (e.blocked) s.text = "waits for " + describe(e.loc) + ", which is " + describe_value(op.result);
    if (!interleaved && e.reads)
      for (u16 q = first_of(e.loc); q != no_event; q = next_same_[q]) {
        const event& w = g_[q];
        if (!told[q] || !w.writes || w.rank <= rank_of(e.from) || &w == &e) continue;
        s.note = "stale: " + actor_name(w.actor) + " already wrote " + describe_value(w.value) + " at " +
                 place_of(w.at);
        break;
      }
    if (cause_.first == e.name()) s.note += (s.note.empty() ? "" : "; ") + cause_.invariant;
    v.steps.push_back(s);
  }
  if (!interleaved) v.message += " (no interleaving does this: it takes a weak memory)";
  v.schedule = to_bytes(g_);
  return v;
}

std::vector<std::string> graph_engine::frontier() const {
  std::vector<std::string> all;
  for (const graph& g : stack_) all.push_back(to_bytes(g));
  return all;
}

void graph_engine::start_from(const std::vector<std::string>& graphs) {
  stack_.clear();
  for (const std::string& s : graphs) stack_.push_back(from_bytes(s));
  started_ = true;
}

outcome graph_engine::replay(const std::string& schedule) {
  start_from({schedule});
  replaying_ = true;
  bounds one;
  one.executions = 1;
  return explore(one);
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
