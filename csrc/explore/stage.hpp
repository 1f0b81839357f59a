// stage.hpp -- what both engines stand on: actors on fibers, memory that starts each execution afresh,
// numbered locations and objects.
//
// Method.  The set-up runs once, its operations done at once.  Then the arena is copied, and each execution
// begins with the copy put back.  While actors run, perform() turns each operation into steps, and a step stops
// its actor until the engine answers it.  Composite operations become steps here, so that engines know
// only loads, stores, read-modify-writes, waits, fences, and the two halves of an asymmetric fence:
//
//   heavy_fence  a fence of the caller, then for each other actor u one exchange on u's handshake word: the
//                interrupt that the kernel sends to u
//   light_fence  u's own exchange on its handshake word, which orders nothing by itself.  So before or after
//                each heavy fence, and then with all that the interrupt orders; but no fence towards others
//   park         reads the number of wake-ups that the word's queue has seen, then the word, and if that is as
//                expected waits for another wake-up: a wake-up that is forgotten is a deadlock
//   unpark       one wake-up more
//
// With use_address_reuse(), what is freed may come back: each size of object has a word that holds the block that
// was freed last.  A free puts its block there, an allocation takes what it finds; whether it comes before or after
// the free is a choice like any other.  A block that comes back is the same object, alive again.
//
// Locations that a scenario leaves unexplored (statistics that nobody decides by) are answered at once.
#pragma once
#include <cstddef>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "explore/program.hpp"
#include "world/model/fiber.hpp"
#include "world/model/world.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

using object_id = u16;
inline constexpr object_id no_object = 0xffff;

class stage : public engine {
 public:
  static constexpr u32 max_actors = 8;
  static constexpr u32 max_steps = 2000;  // of one actor
  static constexpr u32 max_judgement_steps = 200'000;
  static constexpr u32 set_up_cells = 20000;  // locations made by the set-up
  static constexpr u32 actor_cells = 128;     // locations made by one actor
  static constexpr u32 cells = set_up_cells + max_actors * actor_cells;
  static constexpr u32 first_handshake = 2 * cells;  // after the queues of parked words
  static constexpr u32 first_free_block = first_handshake + max_actors;
  static constexpr u32 block_sizes = 16;
  static constexpr u32 location_count = first_free_block + block_sizes;
  static constexpr u32 nobody = ~0U;

  stage();
  ~stage() override;

  /// Makes the program; once.
  void set_up(const program_maker& make);

  // engine
  void perform(operation& op) final;
  location new_location(u64 value, const void* address) final;
  void name(location loc, const char* text, int index) final;
  void* begin_object(std::size_t bytes, std::size_t align, const char* type) final;
  void end_object() final;
  void spawn(void (*body)(void*), void* ctx, u32& id) final;
  void join(u32 id) final;
  u32 actor() const final { return acting_ == nobody ? 0 : acting_; }
  u64 now() const final;
  bool abstract_locks() const final { return abstract_locks_; }

  // For set-ups.
  void use_abstract_locks(bool on) { abstract_locks_ = on; }
  bool abstract_rcu() const final { return abstract_rcu_; }
  void use_abstract_rcu(bool on) { abstract_rcu_ = on; }
  bool has_membarrier() const final { return has_membarrier_; }
  void look_again() final;
  /// Loops that are not written with await() end the execution instead of going round.
  void abandon_spinning(bool on) { abandon_spinning_ = on; }
  void use_membarriers(bool on) { has_membarrier_ = on; }
  /// An allocation may get the memory of an object that was freed.
  void use_address_reuse(bool on) { reuse_addresses_ = on; }
  /// Each look at the clock of an actor finds this much more time gone by.
  void let_time_pass(u64 ns) { clock_step_ = ns; }
  /// How traces tell a value of a variable, where the number alone says little.
  using teller = std::string (*)(u64);
  /// Every location inside of [p, p + bytes) gets this name; those of an array, its index.
  void name_range(const void* p,
                  std::size_t bytes,
                  const std::string& text,
                  bool numbered = false,
                  teller tell = nullptr);
  template <class T>
  void name_all(const T& x, const std::string& text, bool numbered = false, teller tell = nullptr) {
    name_range(&x, sizeof x, text, numbered, tell);
  }
  /// The locations in x are statistics: answered at once, in no order.
  template <class T>
  void leave_unexplored(const T& x) {
    leave_unexplored(&x, sizeof x);
  }
  void leave_unexplored(const void* p, std::size_t bytes);
  /// What the program refers to and never changes, and what therefore need not be in the arena.
  template <class T>
  T& keep(T x) {
    const auto p = std::make_shared<T>(std::move(x));
    kept_.push_back(p);
    return *p;
  }
  void name_actor(u32 actor, const std::string& text) { actor_names_[actor] = text; }
  const std::string& actor_name(u32 actor) const { return actor_names_[actor]; }
  std::vector<std::string> roles() const {
    std::vector<std::string> all;
    for (u32 t = 0; t < actors_; ++t) all.push_back(program_->role(t));
    return all;
  }
  u32 actors() const { return actors_; }
  /// A judgement says what a complete execution came to; kept over all of them.
  void note_reached(std::string what) { reached_.insert(std::move(what)); }
  std::vector<std::string> reached() const { return {reached_.begin(), reached_.end()}; }

  std::string describe(location loc) const;
  /// A value as a reader wants it: small numbers, pointers as what they point to, entries of tables.
  std::string describe_value(location loc, u64 v) const;
  /// index: of the step among its actor's, where the execution is over and was noted; or now.
  static constexpr u32 now_step = ~0U;
  trace_step line_of(u32 actor, const operation& op, u32 index = now_step) const;
  /// Notes with each step what its actor holds, for a trace that is told afterwards.
  void note_locks(bool on) { noting_ = on; }

 protected:
  // What an engine does about a step of `acting`, in the actor's own context.  True: op is answered.
  virtual bool answer(u32 actor, operation& op) = 0;
  /// A step of the set-up or of the judgement: done at once on the final values.
  virtual u64 final_value(location loc) const = 0;
  virtual void location_born(location) {}

  /// Puts the arena back and starts every actor: each runs to its first step.
  void restart();
  /// Lets an actor, whose pending step was answered, run to its next one.
  void run(u32 actor);
  /// After the last step of all: false if the program found its outcome wrong.
  void judge();

  u32 twin_of(u32 actor) const { return twins_[actor]; }

  void fail(const std::string& invariant, const std::string& message);
  bool failed() const { return failed_; }
  /// The program cannot be explored: ends this execution.  Not an exception, which must not cross an actor's stack;
  /// the driver throws it.
  void refuse(const std::string& why);
  void throw_if_refused() const {
    if (!refused_.empty()) throw program_error(refused_);
  }
  /// What an actor did when it was run before, and does now, at the same point of the same execution.
  void refuse_as_nondeterministic(u32 actor, u32 step, const std::string& before, const operation& now);
  bool reuses_addresses() const { return reuse_addresses_; }
  const std::string& failed_invariant() const { return failed_invariant_; }
  const std::string& failed_message() const { return failed_message_; }

  operation* pending(u32 actor) const { return pending_[actor]; }
  void set_pending(u32 actor, operation& op) { pending_[actor] = &op; }
  // What a wait decides is no step of its actor, in whose context an engine may ask, even if it looks at a var.
  bool holds(const operation& op, u64 value) {
    const u32 who = std::exchange(acting_, nobody);
    const bool yes = op.holds(op.ctx, value);
    acting_ = who;
    return yes;
  }
  bool steps(const operation& op, u64 value, u64& next) {
    const u32 who = std::exchange(acting_, nobody);
    const bool yes = op.step(op.ctx, value, next);
    acting_ = who;
    return yes;
  }
  bool ended(u32 actor) const { return ended_[actor]; }
  object_id object_of(location loc) const { return loc < cells ? cells_[loc].object : no_object; }
  u64 initial(location loc) const { return loc < cells ? cells_[loc].initial : 0; }
  const char* type_of(object_id o) const { return objects_[o].type; }
  static bool is_handshake(location loc) { return loc >= first_handshake && loc < first_free_block; }
  static location queue_of(location loc) { return cells + loc; }

 private:
  struct cell {
    u64 initial = 0;
    const void* address = nullptr;
    object_id object = no_object;
    bool unexplored = false;
    const char* name = nullptr;
    int index = -1;
    teller tell = nullptr;
  };
  struct object {
    const char* begin = nullptr;
    std::size_t size = 0;
    const char* type = "";
  };
  struct region {  // of the set-up [0] and of each actor
    char* base = nullptr;
    std::size_t size = 0, used = 0;
    u32 locations = 0, objects = 0;
    std::vector<object_id> open;
    /// To an earlier state: what was made since is no more.
    void go_back(std::size_t bytes, u32 n_locations, u32 n_objects) {
      used = bytes;
      locations = n_locations;
      objects = n_objects;
      open.clear();
    }
  };
  static constexpr std::size_t set_up_bytes = 64u << 20, actor_bytes = 256u << 10, stack_bytes = 64u << 10;
  static constexpr std::size_t arena_bytes = set_up_bytes + max_actors * actor_bytes;
  static constexpr u32 set_up_objects = 4096, actor_objects = 64;

  static void entry(void* self, u32 actor);
  void step(operation& op);
  struct stuck_judgement : std::runtime_error {
    stuck_judgement(const char* i, const std::string& what) : std::runtime_error(what), invariant(i) {}
    const char* invariant;
  };
  void do_at_once(operation& op);
  [[noreturn]] void stuck_alone(const operation& op);
  void do_unexplored(operation& op);
  void heavy_fence(const operation& op);
  void light_fence(const operation& op);
  void park(const operation& op);
  void unpark(const operation& op);
  std::string who_acts() const;
  object_id find_object(const void* p) const;
  std::string describe_pointer(const char* p) const;
  std::string told_object(const operation& op) const;
  location free_block_of(std::size_t bytes) const { return first_free_block + bytes / 16 % block_sizes; }
  /// Null: no block of that size comes back.
  void* take_free_block(std::size_t bytes, std::size_t align);
  void give_free_block(const operation& op);
  object_id object_index(u32 which, u32 n) const;
  region& here() { return regions_[acting_ == nobody ? 0 : acting_ + 1]; }

  std::unique_ptr<fiber_set> fibers_;
  std::vector<cell> cells_;
  std::vector<object> objects_;
  region regions_[max_actors + 1];
  u32 set_up_objects_ = 0;
  reserved_memory arena_{arena_bytes};
  std::vector<char> snapshot_;
  std::vector<u64> unexplored_, unexplored_initial_;  // current values, by location, of the set-up
  std::vector<std::unique_ptr<std::string>> names_;
  std::vector<std::shared_ptr<void>> kept_;

  std::set<std::string> reached_;
  std::unordered_map<location, u64> judged_;  // what the judgement has written
  u32 steps_of_judgement_ = 0;

  program* program_ = nullptr;
  u32 actors_ = 0, acting_ = nobody;
  bool setting_up_ = true, abstract_locks_ = false, abstract_rcu_ = false, has_membarrier_ = true,
       abandon_spinning_ = false, reuse_addresses_ = false;
  u64 clock_step_ = 0;
  mutable u64 looks_at_clock_[max_actors] = {};
  operation* pending_[max_actors] = {};
  bool ended_[max_actors] = {};
  u32 twins_[max_actors] = {};
  std::string actor_names_[max_actors];
  bool failed_ = false, noting_ = false;
  struct note {
    std::string locks;
    program::place doing;
  };
  std::vector<note> noted_[max_actors];
  mutable trace_step last_told_[max_actors];
  std::string failed_invariant_, failed_message_, refused_;
};

/// A step as the engines see it.
constexpr bool reads_memory(op_kind k) {
  return k == op_kind::load || k == op_kind::rmw || k == op_kind::await || k == op_kind::update ||
         k == op_kind::light_fence || k == op_kind::heavy_fence;
}
using model_detail::number;
constexpr bool is_seq_cst(u8 order) { return order == number(seq_cst); }
constexpr bool is_acquire(u8 order) {  // consume (1) is treated as acquire, as compilers do
  return order == number(acquire) || order == number(acq_rel) || is_seq_cst(order) || order == 1;
}
constexpr bool is_release(u8 order) {
  return order == number(release) || order == number(acq_rel) || is_seq_cst(order);
}

std::string place_of(const std::source_location& at);
const char* order_name(u8 order);
/// The hash of a graph is the sum of its edges': the order in which they are met does not matter.
constexpr u64 mix(u64 x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  x ^= x >> 33;
  return x;
}
constexpr u64 reads_from_edge(u16 write, u16 read) { return mix(0x2000000000ULL + write * 65536ULL + read); }
constexpr u64 coherence_edge(u16 before, u16 after) {
  return mix(0x1000000000ULL + before * 65536ULL + after);
}
/// An event's name: 0 is the initial write of a location.
constexpr u16 event_name(u32 actor, u32 index) { return static_cast<u16>(actor * 2048 + index + 1); }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
