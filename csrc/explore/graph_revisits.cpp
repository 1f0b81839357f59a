// Backward revisits: a write that is about to be added is offered to the reads that came before it.
#include <algorithm>

#include "explore/graph_engine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
bool is_wait(op_kind k) { return k == op_kind::await || k == op_kind::update; }
}  // namespace

/// The new write (not yet in the graph) is offered to every read that it does not depend on.
void graph_engine::revisit_all(const event& write, u64 value) {
  event_clock prefix = g_.porf(write.actor);
  if (write.reads && write.from != 0) prefix = latest(prefix, g_.clocks[g_.position(write.from)].porf);
  prefix[write.actor] = write.index;
  for (u16 p = g_.first_at(write.loc); p != no_event; p = g_.next_at(p)) {
    const event& r = g_[p];
    if (!r.reads || r.actor == write.actor || prefix[r.actor] > r.index) continue;
    if (r.kind == op_kind::rmw && !revisit_follows_twin(p, prefix)) continue;
    if (may_revisit(p, prefix)) revisit(p, write, value, prefix);
  }
}

/// As follows_twin(), of a read that gets its value from the new write.  A wait is asked when it has run.
bool graph_engine::revisit_follows_twin(u16 read_at, event_clock prefix) const {
  const event& r = g_[read_at];
  const u32 t = twin_of(r.actor);
  if (!symmetric_ || t == r.actor || r.index != 0 || g_.length(t) == 0) return true;
  const event& first = g_[g_.position(t, 0)];
  if (first.loc != r.loc || first.kind != r.kind || g_.details[read_at].fn == rmw_fn::compare_exchange)
    return true;
  return prefix[t] != 0;
}

bool graph_engine::may_revisit(u16 read_at, event_clock prefix) const {
  for (std::size_t p = read_at; p < g_.size(); ++p) {
    const event& e = g_[p];
    if (p != read_at && prefix[e.actor] > e.index) continue;
    if ((e.reads || e.writes) && !maximal(static_cast<u16>(p), prefix)) return false;
  }
  return true;
}

/// Whether the event at p, which the revisit would cut off, was added in the canonical way: last in coherence
/// order among what was there before it and what the write depends on, and read by none of these.
bool graph_engine::maximal(u16 at, event_clock prefix) const {
  const event& e = g_[at];
  const u16 rank = e.reads ? e.source_rank() : e.rank;
  for (u16 p = g_.first_at(e.loc); p != no_event; p = g_.next_at(p)) {
    const event& other = g_[p];
    if (p == at || (p > at && prefix[other.actor] <= other.index)) continue;
    if (e.writes && other.reads && other.from == e.name()) return false;
    if (other.writes && other.rank > rank) return false;
  }
  return true;
}

/// The graph is cut back to what came before the read, and what the write depends on.  What is cut off was last in
/// coherence order, so that the ranks of the rest have no gaps.
void graph_engine::revisit(u16 read_at, const event& write, u64 value, event_clock prefix) {
  cut_.clear();
  cut_at_.assign(g_.size(), no_event);
  for (u16 p = 0; p < g_.size(); ++p) {
    if (p > read_at && prefix[g_[p].actor] <= g_[p].index) continue;
    cut_at_[p] = static_cast<u16>(cut_.size());
    cut_.push_back(g_[p]);
  }
  if (write.reads) {  // right after what it reads
    try_revisit(read_at, write, value, write.rank);
    return;
  }
  // After all that it has seen.
  const event_clock hb = g_.hb(write.actor);
  u16 floor = 0, top = 0;
  for (u16 p = g_.first_at(write.loc); p != no_event; p = g_.next_at(p)) {
    const event& e = g_[p];
    if (!is_kept(p) || p == read_at) continue;
    if (e.writes) top = std::max(top, e.rank);
    if (hb[e.actor] > e.index) floor = std::max(floor, e.rank);
  }
  for (u16 rank = static_cast<u16>(top + 1); rank > floor; --rank) try_revisit(read_at, write, value, rank);
}

void graph_engine::try_revisit(u16 read_at, const event& write, u64 value, u16 rank) {
  const event& before_it = g_[read_at];
  const event_clock before =
      before_it.index == 0 ? event_clock{} : g_.clocks[g_.position(before_it.actor, before_it.index - 1u)].hb;
  for (u16 p = g_.first_at(write.loc); p != no_event; p = g_.next_at(p)) {
    if (p == read_at || !is_kept(p) || g_[p].rank < rank) continue;
    // Nothing may come between a read-modify-write and what it reads.
    if (g_[p].rank == rank && g_[p].reads && g_[p].writes) return;
    // Nothing that happens before the read may be newer than what it reads now.
    if (before[g_[p].actor] > g_[p].index) return;
  }
  event read = before_it;
  read.from = write.name();
  read.rank = rank;
  read.writes = read.blocked = read.failed_rmw = false;
  read.undecided = is_wait(read.kind);
  if (!read.undecided && read.kind != op_kind::load) {
    const event_detail& d = g_.details[read_at];
    operation op{.kind = read.kind, .fn = d.fn, .size = d.size};
    op.operand = d.operand;
    op.expected = d.expected;
    read.writes = apply(op, value).stored;
    read.failed_rmw = !read.writes;
    if (read.writes) ++read.rank;
  }
  scratch_.assign(cut_.begin(), cut_.end());
  const u16 shift = read.writes ? 2 : 1;
  for (u16 p = g_.first_at(write.loc); p != no_event; p = g_.next_at(p))
    if (is_kept(p) && g_[p].rank >= rank) scratch_[cut_at_[p]].rank = static_cast<u16>(g_[p].rank + shift);
  scratch_[cut_at_[read_at]] = read;
  scratch_.push_back(write);
  scratch_.back().rank = rank;
  if (!allowed(read_at, write)) return;
  stack_.push(scratch_);
  ++revisits_;
}

/// Whether scratch_, the graph after a revisit, is consistent.
bool graph_engine::allowed(u16 read_at, const event& write) {
  if (rc11_is_trivial(write)) return true;
  clocks_.clear();
  if (model_ == memory_model::rc11) {
    event_clock written = g_.hb(write.actor), message = g_.released(write.actor);
    if (write.reads && write.from != 0 && g_.acquires(write.read_order()))
      written = latest(written, g_.clocks[g_.position(write.from)].message);
    written[write.actor] = static_cast<u16>(write.index + 1);
    if (g_.releases(write.order)) message = written;
    if (write.reads && write.from != 0) message = latest(message, g_.clocks[g_.position(write.from)].message);
    const event& read = scratch_[cut_at_[read_at]];
    event_clock known =
        read.index == 0 ? event_clock{} : g_.clocks[g_.position(read.actor, read.index - 1u)].hb;
    if (g_.acquires(read.read_order())) known = latest(known, message);
    known[read.actor] = static_cast<u16>(read.index + 1);
    for (u16 p = 0; p < g_.size(); ++p)
      if (is_kept(p)) clocks_.push_back(p == read_at ? known : g_.clocks[p].hb);
    clocks_.push_back(written);
  }
  return consistent_(scratch_, clocks_);
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
