// operation.hpp -- what the model world hands to an engine, and what an engine is.
//
// Problem.  An explorer must decide, before each step of a program, whose step it is and which of the
// values that memory may hold is read.  So a program has to stop at each such step and ask.
// Method.  Every access, fence, wait, allocation and free of the model world becomes one `operation`,
// described completely (kind, location, operands, order, place in the source), and is handed to
// engine::perform(), which fills in the result whenever it likes: at once (direct_engine), or after
// other actors have moved (explore/).  Nothing here knows how an engine decides.
//
// A location is a number, given out when the variable is constructed, in an order that depends on the
// program alone: the same execution, run again, has the same locations.
#pragma once
#include <cstddef>
#include <source_location>

#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

using location = u32;
inline constexpr location no_location = 0;

enum class op_kind : u8 {
  load,
  store,
  rmw,  // fn(old, operand); a compare-exchange that fails is a load with the second order
  fence,
  light_fence,  // compiler_barrier(): the light half of an asymmetric fence, ordered by heavy_fence alone
  heavy_fence,  // membarrier(): a full fence of every actor
  await,        // a load that waits until holds(value)
  update,       // an rmw that waits until step(value, next) agrees, then stores next: taking a lock
  park,         // waits until the value differs from `expected`; may also return for no reason
  unpark,       // wakes operand sleepers (0: all); changes no memory
  plain_load,   // of a var<T>: no order of its own, so it must not race
  plain_store,
  alloc,  // an object of `size` bytes begins to exist
  free,   // the object at `object` ends; any access not ordered before it is a use after free
  spawn,
  join,
  fail,  // the program says that it is wrong: `text`
};
const char* to_string(op_kind k);

enum class rmw_fn : u8 { none, exchange, add, sub, bit_and, bit_or, bit_xor, compare_exchange };

struct operation {
  op_kind kind;
  rmw_fn fn = rmw_fn::none;
  u8 order = 0;           // std::memory_order
  u8 failure_order = 0;   // of a compare-exchange that fails
  u8 size = 8;            // of the value, in bytes; operands and results are zero-extended
  bool succeeded = true;  // out: a compare-exchange stored
  location loc = no_location;
  u64 operand = 0;
  u64 expected = 0;
  u64 result = 0;                                           // out: the value read (an rmw's: before it)
  bool (*holds)(void* ctx, u64 value) = nullptr;            // await; must be pure
  bool (*step)(void* ctx, u64 value, u64& next) = nullptr;  // update; must be pure
  void* ctx = nullptr;
  const void* object = nullptr;
  const char* text = nullptr;  // alloc: the type; fail: what is wrong
  std::source_location at{};
};

/// Decides what happens next.  Calls other than perform() and spawn() are bookkeeping, not steps of the program.
class engine {
 public:
  engine() = default;
  engine(const engine&) = delete;
  engine& operator=(const engine&) = delete;
  virtual ~engine();

  virtual void perform(operation& op) = 0;

  virtual location new_location(u64 value, const void* address) = 0;
  virtual void name(location loc, const char* text, int index);
  /// Memory for an object; locations created until end_object() belong to it.
  virtual void* begin_object(std::size_t bytes, std::size_t align, const char* type) = 0;
  virtual void end_object() = 0;

  virtual void spawn(void (*body)(void*), void* ctx, u32& id) = 0;
  virtual void join(u32 id) = 0;
  virtual u32 actor() const { return 0; }
  virtual u64 now() const { return 0; }
  /// The actor spins: nothing that it looked for has happened yet.
  virtual void look_again() {}
  /// True: a semaphore is one operation, without its queue.  Higher scenarios stay small that way.
  virtual bool abstract_locks() const { return false; }
  /// True: RCU is its definition (rcu_spec), and callbacks run when their thread calls barrier().
  virtual bool abstract_rcu() const { return false; }
  /// False: membarrier() is a plain fence, as on a kernel without it.
  virtual bool has_membarrier() const { return true; }

  /// The engine of this thread: the innermost engine_scope's, or a direct_engine that is always there.
  static engine& current() { return installed_ != nullptr ? *installed_ : fallback(); }

 private:
  friend class engine_scope;
  static engine& fallback();
  static inline constinit thread_local engine* installed_ = nullptr;
};

/// Makes an engine the current one of this thread, for a scope.
class [[nodiscard]] engine_scope {
 public:
  explicit engine_scope(engine& e);
  engine_scope(const engine_scope&) = delete;
  engine_scope& operator=(const engine_scope&) = delete;
  ~engine_scope();

 private:
  engine* before_;
};

/// The new value of an rmw's location, and whether it is stored at all.
struct rmw_outcome {
  u64 value;
  bool stored;
};
rmw_outcome apply(const operation& op, u64 old);

}  // namespace pgtbl::inline PGTBL_WORLD
