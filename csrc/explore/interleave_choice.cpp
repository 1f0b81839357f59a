// Who moves next: at random, by priorities, as a schedule says, or depth first with sleep sets and a bound on preemptions.
#include "explore/interleave_engine.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

u32 interleave_engine::choose(process_set enabled, std::size_t depth, bool& redundant) {
  switch (options_.how) {
    case strategy::random: return choose_randomly(enabled);
    case strategy::pct: return choose_by_priority(enabled, depth);
    case strategy::replay: {
      if (depth >= forced_.size()) return first_of(enabled);
      const u32 p = forced_[depth];
      if ((enabled >> p & 1) != 0) return p;
      refuse("the schedule does not fit this program: step " + std::to_string(depth + 1) +
             " cannot be taken");
      return no_process;
    }
    case strategy::exhaustive: break;
  }
  if (depth == path_.size()) open_node(enabled);
  const node& n = path_[depth];
  redundant = n.chosen == no_process;
  return redundant || same_as_before(n, enabled) ? n.chosen : no_process;
}

/// Along the path of the last execution everything must be as it was.
bool interleave_engine::same_as_before(const node& n, process_set enabled) {
  const std::string refusal =
      "the program is not deterministic apart from the engine's choices: after the same steps ";
  if (const process_set other = enabled ^ n.enabled; other != 0) {
    const u32 p = first_of(other) % max_actors;
    refuse(refusal + "actor " + actor_name(p) + ((enabled >> first_of(other) & 1) != 0 ? " can" : " cannot") +
           " go on now" + (pending(p) != nullptr ? " at " + place_of(pending(p)->at) : "") +
           ", other than before");
    return false;
  }
  if (print_of(n.chosen) == n.prints[n.chosen]) return true;
  const operation& op = *pending(n.chosen % max_actors);
  refuse(refusal + "actor " + actor_name(n.chosen % max_actors) + " used " +
         describe(n.prints[n.chosen].loc) + ", and now makes a " + to_string(op.kind) +
         (op.loc != no_location ? " of " + describe(op.loc) : "") + " at " + place_of(op.at));
  return false;
}

/// Without a branch that a processor could only guess.
u32 interleave_engine::choose_randomly(process_set enabled) {
  u8 who[processes];
  u32 n = 0;
  const u32 most = tso() ? processes : actors();
  for (u32 p = 0; p < most; ++p) {
    who[n] = static_cast<u8>(p);
    n += enabled >> p & 1;
  }
  return who[random_.below(n)];
}

u32 interleave_engine::choose_by_priority(process_set enabled, std::size_t depth) {
  for (std::size_t i = 0; i < changes_.size(); ++i)
    if (changes_[i] == depth && last_ != no_process) priorities_[last_] = static_cast<u32>(i);
  u32 best = first_of(enabled);
  for (process_set rest = enabled; rest != 0; rest &= rest - 1)
    if (priorities_[first_of(rest)] > priorities_[best]) best = first_of(rest);
  return best;
}

bool interleave_engine::costs_preemption(const node& n, u32 p) const {
  return p < max_actors && n.last != no_process && p != n.last && (n.enabled >> n.last & 1) != 0;
}

bool interleave_engine::in_budget(const node& n, u32 p) const {
  return options_.preemptions < 0 || n.preemptions + (costs_preemption(n, p) ? 1 : 0) <= options_.preemptions;
}

interleave_engine::footprint interleave_engine::print_of(u32 p) const {
  if (p >= max_actors) {
    const u16 loc = buffers_[p - max_actors][heads_[p - max_actors]].loc;
    return {loc, object_of(loc), true, false, false};
  }
  const operation& op = *pending(p);
  const bool lives = op.kind == op_kind::alloc || op.kind == op_kind::free;
  footprint f;
  f.object = lives                   ? static_cast<object_id>(op.expected)
             : op.loc == no_location ? no_object
                                     : object_of(op.loc);
  f.ends_object = lives;
  f.is_heavy = op.kind == op_kind::heavy_fence;
  if (is_plain(op.kind)) return f;
  f.loc = static_cast<u16>(op.loc);
  f.writes = op.kind != op_kind::load && op.kind != op_kind::await;
  // A store enters its actor's buffer: memory changes when it drains.
  if (tso() && op.kind == op_kind::store && !is_seq_cst(op.order)) f.loc = 0;
  return f;
}

bool interleave_engine::conflict(u32 p, const footprint& a, u32 q, const footprint& b) const {
  if (p % max_actors == q % max_actors) return true;
  if (a.loc != 0 && a.loc == b.loc && (a.writes || b.writes)) return true;
  if (a.object != no_object && a.object == b.object && (a.ends_object || b.ends_object)) return true;
  // An interrupt waits until its target's buffer is empty: whatever the target does matters.
  if (!tso()) return false;
  return (a.is_heavy && a.loc - first_handshake == q % max_actors) ||
         (b.is_heavy && b.loc - first_handshake == p % max_actors);
}

void interleave_engine::open_node(process_set enabled) {
  node n;
  n.enabled = enabled;
  n.last = last_;
  n.preemptions = static_cast<u8>(preemptions_);
  for (process_set rest = enabled; rest != 0; rest &= rest - 1)
    n.prints[first_of(rest)] = print_of(first_of(rest));
  if (options_.sleep_sets) {
    if (!path_.empty()) {
      const node& before = path_.back();
      for (process_set rest = (before.asleep | before.done) & ~(1u << before.chosen); rest != 0;
           rest &= rest - 1) {
        const u32 p = first_of(rest);
        if (!conflict(p, before.prints[p], before.chosen, before.prints[before.chosen])) n.asleep |= 1u << p;
      }
    }
  }
  n.chosen = no_process;
  const process_set awake = enabled & ~n.asleep;
  if (last_ != no_process && (awake >> last_ & 1) != 0) n.chosen = last_;
  for (process_set rest = awake; rest != 0 && n.chosen == no_process; rest &= rest - 1)
    if (in_budget(n, first_of(rest))) n.chosen = static_cast<u8>(first_of(rest));
  path_.push_back(n);
}

bool interleave_engine::backtrack() {
  for (; !path_.empty(); path_.pop_back()) {
    node& n = path_.back();
    if (n.chosen == no_process) continue;
    n.done |= 1u << n.chosen;
    for (process_set rest = n.enabled & ~n.done & ~n.asleep; rest != 0; rest &= rest - 1) {
      if (!in_budget(n, first_of(rest))) continue;
      n.chosen = static_cast<u8>(first_of(rest));
      return true;
    }
  }
  return false;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
