#include "explore/stage.hpp"

#include <algorithm>
#include <cstring>

#include "base/guards.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

stage::stage() : cells_(cells), objects_(set_up_objects + max_actors * actor_objects) {
  regions_[0].base = arena_.begin();
  regions_[0].size = set_up_bytes;
  regions_[0].locations = 1;  // location 0 is none
  for (u32 t = 0; t < max_actors; ++t) {
    regions_[t + 1].base = arena_.begin() + set_up_bytes + t * actor_bytes;
    regions_[t + 1].size = actor_bytes;
    actor_names_[t] = std::string(1, static_cast<char>('A' + t));
  }
  fibers_ = std::make_unique<fiber_set>(max_actors, stack_bytes, &stage::entry, this);
}

stage::~stage() = default;

namespace {
/// The set-up and the judgement are no part of what is tried: all guards stand.
class with_all_guards {
 public:
  with_all_guards() : removed_(guards_removed.get()) { guards_removed.set({}); }
  ~with_all_guards() { guards_removed.set(removed_); }
  with_all_guards(const with_all_guards&) = delete;
  with_all_guards& operator=(const with_all_guards&) = delete;

 private:
  guard_mask removed_;
};
}  // namespace

void stage::set_up(const program_maker& make) {
  const engine_scope scope(*this);
  const with_all_guards guards;
  program_ = make();
  actors_ = program_->actors();
  if (actors_ == 0 || actors_ > max_actors)
    throw program_error("a program has 1 to " + std::to_string(max_actors) + " actors, not " +
                        std::to_string(actors_));
  for (u32 t = 0; t < actors_; ++t) twins_[t] = program_->twin_of(t);
  setting_up_ = false;
  snapshot_.assign(arena_.begin(), arena_.begin() + regions_[0].used);
  set_up_objects_ = regions_[0].objects;
  unexplored_initial_.assign(regions_[0].locations, 0);
  for (u32 l = 1; l < regions_[0].locations; ++l) unexplored_initial_[l] = cells_[l].initial;
}

void stage::restart() {
  std::memcpy(arena_.begin(), snapshot_.data(), snapshot_.size());
  regions_[0].go_back(snapshot_.size(), static_cast<u32>(unexplored_initial_.size()), set_up_objects_);
  if (unexplored_.size() != unexplored_initial_.size())
    unexplored_ = unexplored_initial_;
  else
    std::copy(unexplored_initial_.begin(), unexplored_initial_.end(), unexplored_.begin());
  failed_ = false;
  for (u32 t = 0; t < actors_; ++t) {
    region& r = regions_[t + 1];
    r.go_back(0, 0, 0);
    ended_[t] = false;
    pending_[t] = nullptr;
    looks_at_clock_[t] = 0;
    noted_[t].clear();
    last_told_[t] = {};
    fibers_->restart(t);
  }
  for (u32 t = 0; t < actors_; ++t) run(t);
}

void stage::run(u32 actor) {
  acting_ = actor;
  fibers_->resume(actor);
  acting_ = nobody;
}

void stage::entry(void* self, u32 actor) {
  stage& s = *static_cast<stage*>(self);
  try {
    s.program_->act(actor);
  } catch (const program_error& e) {
    s.refuse(e.what());
  } catch (const std::exception& e) {
    s.fail("exception", s.actor_names_[actor] + " threw: " + e.what());
  }
  s.ended_[actor] = true;
  s.pending_[actor] = nullptr;
  for (;;) s.fibers_->suspend(actor);
}

void stage::judge() {
  acting_ = nobody;
  judged_.clear();
  steps_of_judgement_ = 0;
  const with_all_guards guards;
  try {
    program_->judge();
  } catch (const stuck_judgement& s) {
    fail(s.invariant, std::string("after all actors have ended, who comes now ") + s.what());
  } catch (const std::exception& e) {
    fail("exception", std::string("the judgement threw: ") + e.what());
  }
}

void stage::fail(const std::string& invariant, const std::string& message) {
  if (failed_) return;
  failed_ = true;
  failed_invariant_ = invariant;
  failed_message_ = message;
}

void stage::refuse(const std::string& why) {
  fail("refused", why);
  if (refused_.empty()) refused_ = why;
}

void stage::refuse_as_nondeterministic(u32 actor, u32 step, const std::string& before, const operation& now) {
  std::string what = to_string(now.kind);
  if (now.loc != no_location) what += " of " + describe(now.loc);
  refuse("the program is not deterministic apart from the engine's choices: step " +
         std::to_string(step + 1) + " of actor " + actor_name(actor) + " was " + before +
         ", and in the same place of the same execution is now a " + what + " at " + place_of(now.at));
}

// ---- operations ---------------------------------------------------------------------------------

void stage::step(operation& op) {
  const u32 t = acting_;
  if (noting_) noted_[t].push_back({program_->held_by(t), program_->doing(t)});
  if (answer(t, op)) return;
  pending_[t] = &op;
  fibers_->suspend(t);
}

void stage::perform(operation& op) {
  if (acting_ == nobody) {
    do_at_once(op);
    return;
  }
  if (op.loc != no_location && op.loc < unexplored_.size() && cells_[op.loc].unexplored) {
    do_unexplored(op);
    return;
  }
  switch (op.kind) {
    case op_kind::heavy_fence: heavy_fence(op); return;
    case op_kind::light_fence: light_fence(op); return;
    case op_kind::park: park(op); return;
    case op_kind::unpark: unpark(op); return;
    case op_kind::alloc:
    case op_kind::free: op.expected = find_object(op.object); break;
    case op_kind::spawn:
    case op_kind::join: return;
    default: break;
  }
  step(op);
  if (op.kind == op_kind::free && reuse_addresses_) give_free_block(op);
}

void stage::heavy_fence(const operation& op) {
  operation fence{.kind = op_kind::fence};
  fence.order = number(seq_cst);
  fence.at = op.at;
  step(fence);
  for (u32 u = 0; u < actors_; ++u) {
    if (u == acting_) continue;
    operation ipi{.kind = op_kind::heavy_fence, .fn = rmw_fn::add};
    ipi.order = number(acq_rel);
    ipi.loc = first_handshake + u;
    ipi.at = op.at;
    step(ipi);
  }
}

void stage::light_fence(const operation& op) {
  operation light{.kind = op_kind::light_fence, .fn = rmw_fn::add};
  light.order = number(acq_rel);
  light.loc = first_handshake + acting_;
  light.at = op.at;
  step(light);
}

void stage::park(const operation& op) {
  operation look{.kind = op_kind::load};
  look.order = number(acquire);
  look.loc = queue_of(op.loc);
  look.at = op.at;
  step(look);
  operation read = look;
  read.loc = op.loc;
  read.size = op.size;
  step(read);
  if (read.result != op.expected) return;
  u64 seen = look.result;
  operation sleep = look;
  sleep.kind = op_kind::await;
  sleep.ctx = &seen;
  sleep.holds = [](void* ctx, u64 v) { return v != *static_cast<u64*>(ctx); };
  step(sleep);
}

void stage::unpark(const operation& op) {
  operation wake{.kind = op_kind::rmw, .fn = rmw_fn::add};
  wake.order = number(acq_rel);
  wake.operand = 1;
  wake.loc = queue_of(op.loc);
  wake.at = op.at;
  step(wake);
}

void stage::do_unexplored(operation& op) {
  u64& v = unexplored_[op.loc];
  switch (op.kind) {
    case op_kind::store:
    case op_kind::plain_store: v = op.operand; return;
    case op_kind::rmw: {
      const rmw_outcome out = apply(op, v);
      op.result = v;
      op.succeeded = out.stored;
      v = out.value;
      return;
    }
    case op_kind::update: {
      u64 next = v;
      op.step(op.ctx, v, next);
      op.result = v;
      v = next;
      return;
    }
    default: op.result = v; return;
  }
}

/// Set-up and judgement run alone: the initial values are the memory of the one, final ones that of the other.
void stage::do_at_once(operation& op) {
  if (op.kind == op_kind::fail) {
    fail("invariant", op.text);
    return;
  }
  if (op.loc == no_location) return;
  if (!setting_up_ && ++steps_of_judgement_ > max_judgement_steps)
    throw stuck_judgement{"endless loop",
                          "looks again and again at " + describe(op.loc) + ", at " + place_of(op.at)};
  const bool counted = !setting_up_ && op.loc < unexplored_.size() && cells_[op.loc].unexplored;
  const auto judged = judged_.find(op.loc);
  const u64 old = setting_up_               ? cells_[op.loc].initial
                  : judged != judged_.end() ? judged->second
                  : counted                 ? unexplored_[op.loc]
                                            : final_value(op.loc);
  u64 v = old;
  switch (op.kind) {
    case op_kind::store:
    case op_kind::plain_store: v = op.operand; break;
    case op_kind::rmw: {
      const rmw_outcome out = apply(op, old);
      op.succeeded = out.stored;
      v = out.value;
      break;
    }
    case op_kind::update:
      if (!op.step(op.ctx, old, v)) stuck_alone(op);
      break;
    case op_kind::await:
      if (!op.holds(op.ctx, old)) stuck_alone(op);
      break;
    default: break;
  }
  op.result = old;
  if (v == old) return;
  if (setting_up_) {
    cells_[op.loc].initial = v;
  } else {
    judged_[op.loc] = v;  // a judgement may take locks: what it writes is its own
  }
}

void stage::stuck_alone(const operation& op) {
  const std::string what = "waits for " + describe(op.loc) + " at " + place_of(op.at);
  if (setting_up_) throw program_error("the set-up " + what);
  throw stuck_judgement{"deadlock", what + ": it was left locked, or a section was left open"};
}

u64 stage::now() const { return acting_ == nobody ? 0 : clock_step_ * ++looks_at_clock_[acting_]; }

// A thread that a library starts for itself never gets a processor here: what it would do is an actor's to do.
void stage::spawn(void (*)(void*), void*, u32& id) { id = ~0U; }
void stage::join(u32) {}

/// A wait that nothing ends, on no location: the engines take it for a wait that another execution need not make.
void stage::look_again() {
  if (acting_ == nobody || !abandon_spinning_) return;
  operation op{.kind = op_kind::await};
  op.holds = [](void*, u64) { return false; };
  step(op);
}

std::string stage::who_acts() const {
  return acting_ == nobody ? "the set-up" : "actor " + actor_name(acting_);
}

// ---- locations and objects ----------------------------------------------------------------------

location stage::new_location(u64 value, const void* address) {
  region& r = here();
  const u32 most = acting_ == nobody ? set_up_cells : actor_cells;
  if (r.locations == most)
    throw program_error(who_acts() + " makes more than " + std::to_string(most) + " shared variables");
  const location l = acting_ == nobody ? r.locations++ : set_up_cells + acting_ * actor_cells + r.locations++;
  cells_[l] = {value, address, r.open.empty() ? no_object : r.open.back()};
  location_born(l);
  return l;
}

void stage::name(location loc, const char* text, int index) {
  cells_[loc].name = text;
  cells_[loc].index = index;
}

object_id stage::object_index(u32 which, u32 n) const {
  return static_cast<object_id>(which == 0 ? n : set_up_objects + (which - 1) * actor_objects + n);
}

void* stage::begin_object(std::size_t bytes, std::size_t align, const char* type) {
  region& r = here();
  const u32 which = acting_ == nobody ? 0 : acting_ + 1;
  if (void* const again = reuse_addresses_ && acting_ != nobody ? take_free_block(bytes, align) : nullptr) {
    here().open.push_back(find_object(again));
    return again;
  }
  const std::size_t at = (r.used + align - 1) / align * align;
  if (at + bytes > r.size)
    throw program_error(who_acts() + " needs more than " + std::to_string(r.size >> 10) + " KiB");
  if (r.objects == (which == 0 ? set_up_objects : actor_objects))
    throw program_error(who_acts() + " makes more than " + std::to_string(r.objects) + " objects, here a " +
                        type);
  r.used = at + std::max<std::size_t>(bytes, 1);
  const object_id o = object_index(which, r.objects++);
  objects_[o] = {r.base + at, bytes, type};
  r.open.push_back(o);
  return r.base + at;
}

void* stage::take_free_block(std::size_t bytes, std::size_t align) {
  operation take{.kind = op_kind::rmw, .fn = rmw_fn::exchange};
  take.order = number(acq_rel);
  take.loc = free_block_of(bytes);
  step(take);
  auto* const p = reinterpret_cast<char*>(take.result);
  const object_id o = p == nullptr ? no_object : find_object(p);
  if (o == no_object || objects_[o].size != bytes || take.result % align != 0) return nullptr;
  return p;
}

void stage::give_free_block(const operation& op) {
  if (op.expected == no_object) return;
  operation give{.kind = op_kind::rmw, .fn = rmw_fn::exchange};
  give.order = number(acq_rel);
  give.loc = free_block_of(objects_[op.expected].size);
  give.operand = reinterpret_cast<u64>(op.object);
  give.at = op.at;
  step(give);
}

void stage::end_object() { here().open.pop_back(); }

object_id stage::find_object(const void* p) const {
  const char* c = static_cast<const char*>(p);
  for (u32 which = 0; which <= actors_; ++which) {
    const region& r = regions_[which];
    if (c < r.base || c >= r.base + r.used) continue;
    for (u32 n = r.objects; n-- > 0;)
      if (objects_[object_index(which, n)].begin == c) return object_index(which, n);
  }
  return no_object;
}

void stage::name_range(
    const void* p, std::size_t bytes, const std::string& text, bool numbered, teller tell) {
  names_.push_back(std::make_unique<std::string>(text));
  const char* from = static_cast<const char*>(p);
  int n = 0;
  for (u32 l = 1; l < regions_[0].locations; ++l) {
    const char* a = static_cast<const char*>(cells_[l].address);
    if (a < from || a >= from + bytes) continue;
    cells_[l].name = names_.back()->c_str();
    cells_[l].index = numbered ? n++ : -1;
    cells_[l].tell = tell;
  }
}

void stage::leave_unexplored(const void* p, std::size_t bytes) {
  const char* from = static_cast<const char*>(p);
  for (u32 l = 1; l < regions_[0].locations; ++l) {
    const char* a = static_cast<const char*>(cells_[l].address);
    if (a >= from && a < from + bytes) cells_[l].unexplored = true;
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
