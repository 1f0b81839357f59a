#include "explore/interleave_engine.hpp"

#include <chrono>

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace

outcome interleave_engine::explore(const bounds& limits) {
  const engine_scope scope(*this);
  const double start = seconds_now();
  random_ = dice(options_.seed);
  result_ = {};
  for (u64 runs = 0;; ++runs) {
    execute();
    throw_if_refused();
    if (result_.failed || options_.how == strategy::replay) break;
    if (result_.executions + result_.blocked >= limits.executions) break;
    if (runs % 64 == 63 && seconds_now() - start > limits.seconds) break;
    if (runs % 64 == 63 && limits.watch && !limits.watch({result_.executions, result_.blocked, 0})) break;
    if (options_.how != strategy::exhaustive) continue;
    if (!backtrack()) {
      result_.complete = true;
      break;
    }
  }
  result_.seconds = seconds_now() - start;
  return result_;
}

void interleave_engine::restart_search(int preemptions) {
  options_.preemptions = preemptions;
  options_.sleep_sets = false;
  path_.clear();
}

// ---- one execution --------------------------------------------------------------------------------

void interleave_engine::reset() {
  if (memory_.empty()) {
    memory_.resize(location_count);
    for (location l = 1; l < location_count; ++l) memory_[l].value = initial(l);
  }
  for (const location l : written_) memory_[l] = {initial(l), 0};
  written_.clear();
  for (u32 t = 0; t < actors(); ++t) {
    buffers_[t].clear();
    heads_[t] = 0;
    steps_[t] = 0;
  }
  for (const object_id o : died_) dead_[o] = 0;
  died_.clear();
  taken_.clear();
  told_.clear();
  last_ = no_process;
  preemptions_ = 0;
  hash_ = 0;
  if (options_.how != strategy::pct) return;
  for (u32& p : priorities_) p = 1000 + static_cast<u32>(random_.below(65536));
  changes_.clear();
  for (u32 i = 1; i < options_.pct_depth; ++i)
    changes_.push_back(static_cast<u32>(random_.below(options_.pct_length)));
}

void interleave_engine::execute() {
  reset();
  beginning_ = true;
  restart();
  beginning_ = false;
  for (u32 t = 0; t < actors(); ++t) look_at_next_step(t);
  decided_ = false;
  while (!failed()) {
    if (!decided_) decide();
    decided_ = false;
    if (next_ == no_process && !redundant_ && find_deadlock()) break;
    if (next_ == no_process) {
      ++result_.blocked;
      return;
    }
    take_step();
    if (next_ >= max_actors || failed()) continue;
    const u32 p = next_;
    run(p);
    if (pending(p) == nullptr) look_at_next_step(p);
  }
  if (!failed()) judge();
  ++result_.executions;
  if (failed()) {
    result_.failed = true;
    result_.why = {failed_invariant(), failed_message(), told_, schedule(), preemptions_, roles()};
  } else if (options_.keep_hashes) {
    hashes_.insert(hash_);
  }
}

/// In the actor's own context: where it is chosen again, it goes on without a switch.  Else it stops, and the driver
/// finds the decision made.
bool interleave_engine::answer(u32 actor, operation& op) {
  // A plain access of what is never freed moves nothing that an engine has to know.
  if (is_plain(op.kind) && object_of(op.loc) == no_object) {
    if (steps_[actor] < max_steps) ++steps_[actor];
    return true;
  }
  if (beginning_ || failed()) return false;
  set_pending(actor, op);
  look_at_next_step(actor);
  for (;;) {
    decide();
    if (next_ != actor && (next_ < max_actors || next_ == no_process)) {
      decided_ = true;
      return false;
    }
    take_step();
    if (failed()) return false;
    if (next_ == actor) return true;
  }
}

/// Who moves: next_, or no_process where nobody can, or where this execution is known already.
void interleave_engine::decide() {
  const process_set enabled = enabled_processes();
  redundant_ = false;
  next_ = enabled == 0 ? no_process : static_cast<u8>(choose(enabled, taken_.size(), redundant_));
  if (redundant_) next_ = no_process;
  if (next_ < max_actors && last_ != no_process && next_ != last_ && (enabled >> last_ & 1) != 0)
    ++preemptions_;
}

/// Whether memory, or a store buffer, decides if the actor can move.
void interleave_engine::look_at_next_step(u32 t) {
  const process_set me = 1u << t;
  ready_ &= ~me;
  waiting_ &= ~me;
  if (ended(t) || pending(t) == nullptr) return;
  const operation& op = *pending(t);
  const bool depends =
      op.kind == op_kind::await || op.kind == op_kind::update || (tso() && needs_empty_buffer(op));
  (depends ? waiting_ : ready_) |= me;
}

interleave_engine::process_set interleave_engine::enabled_processes() {
  process_set set = ready_;
  for (process_set rest = waiting_; rest != 0; rest &= rest - 1)
    if (is_enabled(first_of(rest))) set |= rest & -rest;
  if (!tso()) return set;
  for (u32 t = 0; t < actors(); ++t)
    if (!drained(t)) set |= 1u << (max_actors + t);
  return set;
}

bool interleave_engine::needs_empty_buffer(const operation& op) const {
  switch (op.kind) {
    case op_kind::rmw:
    case op_kind::update:
    case op_kind::free:
    case op_kind::heavy_fence: return true;
    case op_kind::fence:
    case op_kind::store: return is_seq_cst(op.order);
    default: return false;
  }
}

/// Of an actor that waits.
bool interleave_engine::is_enabled(u32 p) {
  const operation& op = *pending(p);
  if (tso() && needs_empty_buffer(op) && !drained(p)) return false;
  if (op.kind == op_kind::await) return holds(op, peek(p, op.loc));
  if (op.kind == op_kind::update) {
    const u64 v = peek(p, op.loc);
    u64 next = v;
    return steps(op, v, next);
  }
  if (op.kind == op_kind::heavy_fence) return drained(op.loc - first_handshake);
  return true;
}

u64 interleave_engine::peek(u32 actor, location loc) const {
  for (std::size_t i = buffers_[actor].size(); i-- > heads_[actor];)
    if (buffers_[actor][i].loc == loc) return buffers_[actor][i].value;
  return memory_[loc].value;
}

void interleave_engine::take_step() {
  const u32 p = next_;
  taken_.push_back(static_cast<u8>(p));
  if (p >= max_actors) {
    drain(p - max_actors);
    return;
  }
  last_ = static_cast<u8>(p);
  operation& op = *pending(p);
  if (op.kind == op_kind::fail) {
    fail("invariant", op.text);
    return;
  }
  if (steps_[p] == max_steps) {
    fail("endless loop",
         actor_name(p) + " has taken " + std::to_string(max_steps) + " steps and goes on with a " +
             to_string(op.kind) + (op.loc != no_location ? " of " + describe(op.loc) : "") + " at " +
             place_of(op.at) + ": it waits for something without await(), and nothing happens");
    return;
  }
  do_operation(p, op);
  if (telling_) told_.push_back(line_of(p, op));
}

void interleave_engine::drain(u32 actor) {
  const buffered& b = buffers_[actor][heads_[actor]++];
  write(b.loc, b.value, b.name);
  if (!telling_) return;
  trace_step s;
  s.actor = actor;
  s.kind = op_kind::store;
  s.text = describe(b.loc) + " = " + describe_value(b.loc, b.value) + " reaches memory";
  s.variable = describe(b.loc);
  s.writes = true;
  s.note = "its store buffer drains";
  told_.push_back(s);
}

void interleave_engine::write(location loc, u64 value, u16 name) {
  word& w = memory_[loc];
  if (options_.keep_hashes) hash_ += coherence_edge(w.writer, name);
  w = {value, name};
  written_.push_back(loc);
}

u64 interleave_engine::read(u32 actor, const operation& op, u16 name) {
  const word& w = memory_[op.loc];
  u64 value = w.value;
  u16 from = w.writer;
  for (std::size_t i = buffers_[actor].size(); i-- > heads_[actor];) {
    if (buffers_[actor][i].loc != op.loc) continue;
    value = buffers_[actor][i].value;
    from = buffers_[actor][i].name;
    break;
  }
  if (options_.keep_hashes) hash_ += reads_from_edge(from, name);
  return value;
}

void interleave_engine::begin_or_end_object(u32 actor, const operation& op) {
  const auto o = static_cast<object_id>(op.expected);
  if (o == no_object) return;
  if (op.kind == op_kind::alloc) {
    dead_[o] = 0;
  } else if (dead_[o] != 0) {
    tell_of_dead_object(actor, op);
  } else {
    dead_[o] = 1;
    died_.push_back(o);
  }
}

void interleave_engine::tell_of_dead_object(u32 actor, const operation& op) {
  fail(op.kind == op_kind::free ? "double free" : "use after free",
       actor_name(actor) + "'s " + to_string(op.kind) + (op.loc != 0 ? " of " + describe(op.loc) : "") +
           " comes after the free, at " + place_of(op.at));
}

void interleave_engine::do_operation(u32 actor, operation& op) {
  const u16 name = event_name(actor, steps_[actor]++);
  if (dead_[object_of(op.loc)] != 0) {
    tell_of_dead_object(actor, op);
    return;
  }
  switch (op.kind) {
    case op_kind::alloc:
    case op_kind::free: begin_or_end_object(actor, op); return;
    case op_kind::load:
    case op_kind::await: op.result = read(actor, op, name); return;
    case op_kind::store:
      if (tso() && !is_seq_cst(op.order)) {
        buffers_[actor].push_back({static_cast<u16>(op.loc), name, op.operand});
      } else {
        write(op.loc, op.operand, name);
      }
      return;
    case op_kind::rmw:
    case op_kind::light_fence:
    case op_kind::heavy_fence: {
      op.result = read(actor, op, name);
      const rmw_outcome out = apply(op, op.result);
      op.succeeded = out.stored;
      if (out.stored) write(op.loc, out.value, name);
      return;
    }
    case op_kind::update: {
      op.result = read(actor, op, name);
      u64 next = op.result;
      steps(op, op.result, next);
      write(op.loc, next, name);
      return;
    }
    default: return;
  }
}

/// False: an actor spins, and this execution is abandoned.
bool interleave_engine::find_deadlock() {
  std::string who;
  for (u32 t = 0; t < actors(); ++t) {
    if (ended(t)) continue;
    const operation& op = *pending(t);
    if (op.loc == no_location) return false;  // it spins: no deadlock
    who += (who.empty() ? "" : "; ") + actor_name(t) + " waits for " + describe(op.loc) + " at " +
           place_of(op.at);
  }
  if (!who.empty()) fail("deadlock", who + ": nobody is left who could end that");
  return true;
}

// ---- schedules --------------------------------------------------------------------------------------

/// "A12Bb3": A takes twelve steps, B one, B's store buffer drains three times.
std::string interleave_engine::schedule() const {
  std::string s;
  for (std::size_t i = 0; i < taken_.size();) {
    std::size_t n = 1;
    while (i + n < taken_.size() && taken_[i + n] == taken_[i]) ++n;
    s += static_cast<char>(taken_[i] < max_actors ? 'A' + taken_[i] : 'a' + taken_[i] - max_actors);
    if (n > 1) s += std::to_string(n);
    i += n;
  }
  return s;
}

outcome interleave_engine::replay(const std::string& text) {
  forced_.clear();
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i++];
    u32 p = no_process;
    if (c >= 'A' && c < 'A' + static_cast<int>(max_actors)) p = static_cast<u32>(c - 'A');
    if (c >= 'a' && c < 'a' + static_cast<int>(max_actors)) p = static_cast<u32>(c - 'a') + max_actors;
    if (p == no_process)
      throw program_error(std::string("a schedule has letters and numbers, not '") + c + "'");
    std::size_t n = 0;
    while (i < text.size() && text[i] >= '0' && text[i] <= '9')
      n = n * 10 + static_cast<std::size_t>(text[i++] - '0');
    forced_.insert(forced_.end(), n == 0 ? 1 : n, static_cast<u8>(p));
  }
  options_.how = strategy::replay;
  telling_ = true;
  return explore({});
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
