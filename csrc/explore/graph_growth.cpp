// How a graph grows by one event, and which alternatives are left for later.
#include <algorithm>

#include "explore/graph_engine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

event graph_engine::make_event(u32 actor, const operation& op) const {
  event e;
  e.kind = op.kind;
  e.order = op.order;
  e.failure_order = op.failure_order;
  e.actor = static_cast<u8>(actor);
  e.index = static_cast<u16>(done_[actor]);
  e.loc = static_cast<u16>(op.loc);
  e.reads = reads_memory(op.kind);
  e.writes = op.kind == op_kind::store;
  const bool lives = op.kind == op_kind::alloc || op.kind == op_kind::free;
  e.object = lives                   ? static_cast<object_id>(op.expected)
             : op.loc == no_location ? no_object
                                     : object_of(op.loc);
  return e;
}

event_detail graph_engine::detail_of(const operation& op, u64 value) {
  return {value, op.operand, op.expected, op.at, op.fn, op.size};
}

/// The actor's next step.  False: this run is over.
bool graph_engine::add(u32 actor, operation& op) {
  if (done_[actor] == max_steps) {
    fail("endless loop",
         actor_name(actor) + " has taken " + std::to_string(max_steps) + " steps and goes on with a " +
             to_string(op.kind) + (op.loc != no_location ? " of " + describe(op.loc) : "") + " at " +
             place_of(op.at) + ": it waits for something without await(), and nothing happens");
    return false;
  }
  const event e = make_event(actor, op);
  if (e.reads) {
    if (!add_read(e, op)) return false;
  } else if (e.writes) {
    add_write(e, op);
  } else {
    add_plain(e, op);
  }
  return !failed();
}

void graph_engine::append(const event& e, const operation& op, u64 value) {
  g_.append(e, detail_of(op, value));
  if (e.blocked) {
    waits_[e.actor] = true;
  } else {
    ++done_[e.actor];
  }
}

void graph_engine::add_plain(const event& e, const operation& op) {
  append(e, op, op.operand);
  if (e.kind == op_kind::plain_load || e.kind == op_kind::plain_store) check_race(e);
  if (e.object != no_object && !strong_model() && !failed()) check_lifetime(e);
}

/// No two events are there that rc11 has to order: everything that coherence allows is consistent.
bool graph_engine::rc11_is_trivial(const event& e) const {
  return model_ == memory_model::ra ||
         (model_ == memory_model::rc11 && g_.seq_cst_events() + (e.seq_cst() ? 1U : 0U) < 2);
}

/// Whether the graph may grow by e, which is not last in coherence order.  scratch_ is that graph.
bool graph_engine::consistent_with(const event& e) {
  scratch_.assign(g_.events.begin(), g_.events.end());
  if (e.writes)
    for (u16 p = g_.first_at(e.loc); p != no_event; p = g_.next_at(p))
      if (scratch_[p].rank >= e.rank) ++scratch_[p].rank;
  scratch_.push_back(e);
  if (rc11_is_trivial(e)) return true;
  clocks_.clear();
  if (model_ == memory_model::rc11) {
    for (const event_clocks& c : g_.clocks) clocks_.push_back(c.hb);
    event_clock mine = g_.hb(e.actor);
    if (e.reads && e.from != 0 && g_.acquires(e.read_order()))
      mine = latest(mine, g_.clocks[g_.position(e.from)].message);
    mine[e.actor] = static_cast<u16>(e.index + 1);
    clocks_.push_back(mine);
  }
  return consistent_(scratch_, clocks_);
}

void graph_engine::push_copy_with(const event& e) {
  if (consistent_with(e)) stack_.push(scratch_);
}

void graph_engine::add_write(event e, const operation& op) {
  const u16 floor = g_.floor_rank(g_.hb(e.actor), e.loc), top = g_.top_rank(e.loc);
  // At the end of coherence order nothing comes after it: always consistent, so this run goes on with that.
  for (u16 rank = top; rank > floor; --rank) {
    if (g_.read_by_rmw(e.loc, rank)) continue;
    e.rank = rank;
    push_copy_with(e);
  }
  e.rank = static_cast<u16>(top + 1);
  revisit_all(e, op.operand);
  append(e, op, op.operand);
  if (e.object != no_object && !strong_model()) check_lifetime(e);
}

void graph_engine::outcome_of(candidate& c, operation& op, u64 old) {
  event& e = c.e;
  e.failed_rmw = false;
  switch (e.kind) {
    case op_kind::await: e.blocked = !holds(op, old); return;
    case op_kind::update:
      c.value = old;
      e.blocked = !steps(op, old, c.value);
      e.writes = !e.blocked;
      return;
    case op_kind::rmw:
    case op_kind::light_fence:
    case op_kind::heavy_fence: {
      const rmw_outcome out = apply(op, old);
      e.writes = out.stored;
      e.failed_rmw = !out.stored;
      c.value = out.value;
      return;
    }
    default: return;
  }
}

/// False: the same execution with both actors renamed is the one that is explored.
bool graph_engine::follows_twin(const event& e, rmw_fn fn, u16 source) const {
  const u32 t = twin_of(e.actor);
  if (!symmetric_ || t == e.actor || e.index != 0 || g_.length(t) == 0) return true;
  const event& first = g_[g_.position(t, 0)];
  if (first.loc != e.loc || first.kind != e.kind || fn == rmw_fn::compare_exchange) return true;
  return source != 0 && g_.clocks[g_.position(source)].porf[t] != 0;
}

/// What the read may read, newest first: into kept_ those that this graph may grow by, into writers_ those that
/// others may read, also where another read-modify-write already follows what it reads.
void graph_engine::collect_choices(const event& e, operation& op) {
  const u16 floor = g_.floor_rank(g_.hb(e.actor), e.loc), top = g_.top_rank(e.loc);
  choices_.clear();
  kept_.clear();
  writers_.clear();
  if (floor == 0) choices_.push_back({0, 0});
  for (u16 p = g_.first_at(e.loc); p != no_event; p = g_.next_at(p))
    if (g_[p].writes && g_[p].rank >= floor) choices_.push_back({g_[p].name(), g_[p].rank});
  std::sort(choices_.begin(), choices_.end(), [](choice a, choice b) { return a.rank > b.rank; });
  for (const choice c : choices_) {
    candidate r{e, 0};
    r.e.from = c.write;
    r.e.rank = c.rank;
    outcome_of(r, op, value_of(c.write, e.loc));
    if (r.e.blocked && c.rank != top) continue;
    if (r.e.writes) {
      if (!follows_twin(e, op.fn, c.write)) continue;
      ++r.e.rank;
      writers_.push_back(r);
      if (g_.read_by_rmw(e.loc, r.e.rank)) continue;
    }
    kept_.push_back(r);
  }
  std::stable_partition(kept_.begin(), kept_.end(), [](const candidate& r) { return !r.e.blocked; });
}

bool graph_engine::add_read(const event& e, operation& op) {
  collect_choices(e, op);
  for (const candidate& w : writers_) revisit_all(w.e, w.value);

  // This run goes on with the newest write that does not block it and is consistent; the others are kept for later.
  const u16 top = g_.top_rank(e.loc);
  std::size_t mine = kept_.size();
  for (std::size_t k = 0; k < kept_.size(); ++k) {
    const event& r = kept_[k].e;
    if (mine != kept_.size()) {
      push_copy_with(r);
    } else if (r.source_rank() == top || consistent_with(r)) {
      mine = k;
    }
  }
  if (mine == kept_.size()) {
    dropped_ = true;
    return false;
  }
  const candidate& chosen = kept_[mine];
  if (chosen.e.writes) g_.make_room(e.loc, chosen.e.rank);
  op.result = value_of(chosen.e.from, e.loc);
  op.succeeded = !chosen.e.failed_rmw;
  append(chosen.e, op, chosen.value);
  if (e.object != no_object && !strong_model()) check_lifetime(chosen.e);
  return true;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
