// The model end of the seam: the same names as world/real/world.hpp, each access one operation.
//
// Rules for what is compiled here: shared data only in atomic<T>, var<T> and what make<T> returns; waits
// only through await, park and locks; no clocks (time stands still), no order that depends on addresses.
#pragma once
#include <atomic>
#include <cstring>
#include <memory>
#include <source_location>
#include <type_traits>
#include <utility>

#include "world/geometry.hpp"
#include "world/model/operation.hpp"

namespace pgtbl::inline PGTBL_WORLD {

using std::memory_order;
inline constexpr memory_order relaxed = std::memory_order_relaxed;
inline constexpr memory_order acquire = std::memory_order_acquire;
inline constexpr memory_order release = std::memory_order_release;
inline constexpr memory_order acq_rel = std::memory_order_acq_rel;
inline constexpr memory_order seq_cst = std::memory_order_seq_cst;

using where = std::source_location;

namespace model_detail {

template <class T>
u64 to_bits(const T& v) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "an operation carries one word");
  u64 bits = 0;
  std::memcpy(&bits, &v, sizeof v);
  return bits;
}
template <class T>
T from_bits(u64 bits) {
  T v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
template <class T>
inline constexpr bool fits = std::is_trivially_copyable_v<T> && sizeof(T) <= 8;

inline u64 perform(operation op) {
  engine::current().perform(op);
  return op.result;
}
constexpr u8 number(memory_order o) { return static_cast<u8>(o); }

/// What a failed compare-exchange may be ordered by, as the standard derives it.
constexpr memory_order on_failure(memory_order o) {
  return o == acq_rel ? acquire : o == release ? relaxed : o;
}

template <class T>
const char* type_name() {
  return std::source_location::current().function_name();
}

/// A value and the place where it was written: an assignment has no room for another argument.
template <class T>
struct located {
  T value;
  where at;
  template <class U>
    requires std::is_convertible_v<U, T>
  located(U&& v, where w = where::current()) : value(static_cast<T>(std::forward<U>(v))), at(w) {}
};

}  // namespace model_detail

template <class T>
class atomic {
 public:
  using value_type = T;
  atomic() : atomic(T{}) {}
  atomic(T v) : loc_(engine::current().new_location(model_detail::to_bits(v), this)) {}
  atomic(const atomic&) = delete;
  atomic& operator=(const atomic&) = delete;

  location loc() const { return loc_; }

  T load(memory_order o = seq_cst, where at = where::current()) const {
    return from(model_detail::perform(of(op_kind::load, o, at)));
  }
  void store(T v, memory_order o = seq_cst, where at = where::current()) {
    operation op = of(op_kind::store, o, at);
    op.operand = model_detail::to_bits(v);
    model_detail::perform(op);
  }
  T exchange(T v, memory_order o = seq_cst, where at = where::current()) {
    return rmw(rmw_fn::exchange, v, o, at);
  }
  T fetch_add(T v, memory_order o = seq_cst, where at = where::current()) {
    return rmw(rmw_fn::add, v, o, at);
  }
  T fetch_sub(T v, memory_order o = seq_cst, where at = where::current()) {
    return rmw(rmw_fn::sub, v, o, at);
  }
  T fetch_and(T v, memory_order o = seq_cst, where at = where::current()) {
    return rmw(rmw_fn::bit_and, v, o, at);
  }
  T fetch_or(T v, memory_order o = seq_cst, where at = where::current()) {
    return rmw(rmw_fn::bit_or, v, o, at);
  }
  T fetch_xor(T v, memory_order o = seq_cst, where at = where::current()) {
    return rmw(rmw_fn::bit_xor, v, o, at);
  }

  bool compare_exchange_strong(
      T& expected, T v, memory_order o, memory_order failure, where at = where::current()) {
    operation op = of(op_kind::rmw, o, at);
    op.fn = rmw_fn::compare_exchange;
    op.failure_order = model_detail::number(failure);
    op.operand = model_detail::to_bits(v);
    op.expected = model_detail::to_bits(expected);
    engine::current().perform(op);
    if (!op.succeeded) expected = from(op.result);
    return op.succeeded;
  }
  bool compare_exchange_strong(T& expected, T v, memory_order o = seq_cst, where at = where::current()) {
    return compare_exchange_strong(expected, v, o, model_detail::on_failure(o), at);
  }
  // A weak one that fails for no reason goes round its loop again: a state that teaches nothing.
  bool compare_exchange_weak(
      T& expected, T v, memory_order o, memory_order failure, where at = where::current()) {
    return compare_exchange_strong(expected, v, o, failure, at);
  }
  bool compare_exchange_weak(T& expected, T v, memory_order o = seq_cst, where at = where::current()) {
    return compare_exchange_strong(expected, v, o, model_detail::on_failure(o), at);
  }

  operation of(op_kind kind, memory_order o, where at) const {
    operation op{.kind = kind};
    op.order = model_detail::number(o);
    op.size = sizeof(T);
    op.loc = loc_;
    op.at = at;
    return op;
  }
  static T from(u64 bits) { return model_detail::from_bits<T>(bits); }

 private:
  T rmw(rmw_fn fn, T v, memory_order o, where at) {
    operation op = of(op_kind::rmw, o, at);
    op.fn = fn;
    op.operand = model_detail::to_bits(v);
    return from(model_detail::perform(op));
  }

  location loc_;
};

/// For functions that hand on the place of their caller.
template <class T>
T load_at(const atomic<T>& a, memory_order o, where at) {
  return a.load(o, at);
}
template <class T>
void store_at(atomic<T>& a, T v, memory_order o, where at) {
  a.store(v, o, at);
}
template <class T>
T exchange_at(atomic<T>& a, T v, memory_order o, where at) {
  return a.exchange(v, o, at);
}

/// Data that a lock protects: its accesses are operations of their own kind, which must not race.  The value
/// stands here and not in the engine: without a race there is only one value to read.
template <class T>
class var {
 public:
  var() : loc_(engine::current().new_location(bits(), this)) {}
  // From a located value, not from a T: an assignment must not go through a temporary variable.
  var(model_detail::located<T> v) : v_(v.value), loc_(engine::current().new_location(bits(), this)) {}
  var(const var&) = delete;
  var& operator=(const var&) = delete;
  var& operator=(model_detail::located<T> x) {
    put(x.value, x.at);
    return *this;
  }
  operator T() const { return get(where{}); }
  T get(where at = where::current()) const {
    access(op_kind::plain_load, at);
    return v_;
  }
  var& operator+=(model_detail::located<T> d) {
    put(static_cast<T>(get(d.at) + d.value), d.at);
    return *this;
  }
  var& operator-=(model_detail::located<T> d) {
    put(static_cast<T>(get(d.at) - d.value), d.at);
    return *this;
  }
  location loc() const { return loc_; }

 private:
  u64 bits() const {
    if constexpr (model_detail::fits<T>) return model_detail::to_bits(v_);
    return 0;
  }
  void put(T v, where at) {
    v_ = v;
    access(op_kind::plain_store, at);
  }
  void access(op_kind kind, where at) const {
    operation op{.kind = kind};
    op.size = sizeof(T) < 8 ? sizeof(T) : 8;
    op.loc = loc_;
    op.operand = bits();
    op.at = at;
    engine::current().perform(op);
  }

  T v_{};
  location loc_;
};

/// A statistic: never an operation.
class counter {
 public:
  void add(u64 d = 1) { v_ += d; }
  void raise_to(u64 x) {
    if (x > v_) v_ = x;
  }
  u64 get() const { return v_; }
  void set(u64 x) { v_ = x; }

 private:
  u64 v_ = 0;
};

/// What one looks at without a promise: never an operation.
template <class T>
using hint = T;

inline void fence(memory_order o, where at = where::current()) {
  operation op{.kind = op_kind::fence};
  op.order = model_detail::number(o);
  op.at = at;
  engine::current().perform(op);
}
inline void compiler_barrier(where at = where::current()) {
  operation op{.kind = op_kind::light_fence};
  op.at = at;
  engine::current().perform(op);
}
bool membarrier_available();
inline void membarrier(where at = where::current()) {
  if (!membarrier_available()) return fence(seq_cst, at);
  operation op{.kind = op_kind::heavy_fence};
  op.at = at;
  engine::current().perform(op);
}
bool set_membarrier_enabled(bool on);

// Where a loop looks again.  An engine may abandon the execution here: one in which the loop is passed at the
// first look is explored too, and has the same outcome.
inline void cpu_relax() { engine::current().look_again(); }
inline void yield() { engine::current().look_again(); }
inline void sleep_ns(u64) {}
inline u64 now_ns() { return engine::current().now(); }
inline u64 ticks() { return engine::current().now(); }
inline u64 ticks_to_ns(u64 t) { return t; }

/// One operation, that waits: the explorer never sees the turns of the loop.
template <class T, class P>
T await(const atomic<T>& a, P pred, memory_order o, where at = where::current()) {
  operation op = a.of(op_kind::await, o, at);
  op.holds = [](void* ctx, u64 v) {
    return static_cast<bool>((*static_cast<P*>(ctx))(model_detail::from_bits<T>(v)));
  };
  op.ctx = &pred;
  return atomic<T>::from(model_detail::perform(op));
}

/// As await(): how the real world passes the time between two looks is no part of the program.
template <class T, class P, class S>
T await_with(const atomic<T>& a, P pred, memory_order o, S, where at = where::current()) {
  return await(a, pred, o, at);
}

/// Waits until step(value, next) says yes, and stores next in the same step.  Returns the value before.
/// What locks are made of here; the real world has no such operation.
template <class T, class S>
T await_update(atomic<T>& a, S step, memory_order o, where at = where::current()) {
  operation op = a.of(op_kind::update, o, at);
  op.step = [](void* ctx, u64 v, u64& next) {
    T to = model_detail::from_bits<T>(v);
    if (!(*static_cast<S*>(ctx))(model_detail::from_bits<T>(v), to)) return false;
    next = model_detail::to_bits(to);
    return true;
  };
  op.ctx = &step;
  return atomic<T>::from(model_detail::perform(op));
}

inline void park(const atomic<u32>& word, u32 expected, u64, where at = where::current()) {
  operation op = word.of(op_kind::park, relaxed, at);
  op.expected = expected;
  engine::current().perform(op);
}
// The word may be gone by now, as it may for a futex: only its number is used, and no access is made.
inline void unpark_one(const atomic<u32>& word, where at = where::current()) {
  operation op = word.of(op_kind::unpark, relaxed, at);
  op.operand = 1;
  engine::current().perform(op);
}
inline void unpark_all(const atomic<u32>& word, where at = where::current()) {
  operation op = word.of(op_kind::unpark, relaxed, at);
  engine::current().perform(op);
}

inline u32 thread_id() { return engine::current().actor() + 1; }
inline void name_thread(const char*) {}
inline void thread_name(u32, char (&out)[16]) { out[0] = 0; }
inline u32 fork_generation() { return 0; }  // actors do not fork

/// An actor more.
class thread {
 public:
  thread() = default;
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, thread>)
  explicit thread(F&& f) : joinable_(true) {
    using body = std::remove_cvref_t<F>;
    void* p = engine::current().begin_object(sizeof(body), alignof(body), "thread");
    auto* b = std::construct_at(static_cast<body*>(p), std::forward<F>(f));
    engine::current().end_object();
    engine::current().spawn([](void* ctx) { (*static_cast<body*>(ctx))(); }, b, id_);
  }
  thread(const thread&) = delete;
  thread& operator=(const thread&) = delete;
  thread(thread&& o) noexcept : id_(o.id_), joinable_(std::exchange(o.joinable_, false)) {}
  thread& operator=(thread&& o) noexcept {
    id_ = o.id_;
    joinable_ = std::exchange(o.joinable_, false);
    return *this;
  }
  void join() {
    if (joinable_) engine::current().join(id_);
    joinable_ = false;
  }
  bool joinable() const { return joinable_; }

 private:
  u32 id_ = 0;
  bool joinable_ = false;
};

namespace model_detail {
inline void object_step(op_kind kind, const void* p, const char* type, where at) {
  operation op{.kind = kind};
  op.object = p;
  op.text = type;
  op.at = at;
  engine::current().perform(op);
}
}  // namespace model_detail

/// Nothing here: which address an object gets is the engine's business.
template <class T>
class pooled {};

template <class T, class... A>
T* make(A&&... a) {
  void* p = engine::current().begin_object(sizeof(T), alignof(T), model_detail::type_name<T>());
  model_detail::object_step(op_kind::alloc, p, model_detail::type_name<T>(), where{});
  T* t = std::construct_at(static_cast<T*>(p), std::forward<A>(a)...);
  engine::current().end_object();
  return t;
}
template <class T>
void destroy(T* p, where at = where::current()) {
  if (p == nullptr) return;
  std::destroy_at(p);
  model_detail::object_step(op_kind::free, p, model_detail::type_name<T>(), at);
}
template <class T>
T* make_array(std::size_t n) {
  void* p = engine::current().begin_object(n * sizeof(T) + 1, alignof(T), model_detail::type_name<T>());
  model_detail::object_step(op_kind::alloc, p, model_detail::type_name<T>(), where{});
  T* t = static_cast<T*>(p);
  std::uninitialized_value_construct_n(t, n);
  engine::current().end_object();
  return t;
}
template <class T>
void destroy_array(T* p, std::size_t n, where at = where::current()) {
  if (p == nullptr) return;
  std::destroy_n(p, n);
  model_detail::object_step(op_kind::free, p, model_detail::type_name<T>(), at);
}

/// The program found itself wrong.
inline void fail(const char* text, where at = where::current()) {
  operation op{.kind = op_kind::fail};
  op.text = text;
  op.at = at;
  engine::current().perform(op);
}
/// A name for traces.
template <class T>
void name(const atomic<T>& a, const char* text, int index = -1) {
  engine::current().name(a.loc(), text, index);
}

/// Simulated physical memory.  A page is one word; a table has ptrs_per_table entries, which is more, so
/// each frame has a row of that many, and a page of data uses the first of it.  A row is an object of its own:
/// it ends when a freed table is poisoned, and begins again when the frame's next owner clears or fills it.
class physical {
 public:
  explicit physical(u64 frames) : frames_(frames), rows_(make_array<row>(frames)) {
    for (u64 i = 0; i < frames; ++i) rows_[i].entries = make_array<atomic<u64>>(ptrs_per_table);
  }
  ~physical() {
    for (u64 i = 0; i < frames_; ++i)
      if (!rows_[i].ended) destroy_array(rows_[i].entries, ptrs_per_table);
    destroy_array(rows_, frames_);
  }
  physical(const physical&) = delete;
  physical& operator=(const physical&) = delete;

  u64 frames() const { return frames_; }
  atomic<u64>* entries(pfn_t pfn) { return rows_[pfn].entries; }
  atomic<u64>& entry(pfn_t pfn, u64 index) { return entries(pfn)[index]; }

  void clear_page(pfn_t pfn, where at = where::current()) {
    begin_again(pfn, at);
    for (u64 i = 0; i < ptrs_per_table; ++i) entries(pfn)[i].store(0, relaxed, at);
  }
  /// Poison: whoever looks at it now uses what was freed.
  void fill_page(pfn_t pfn, u64 word, where at = where::current()) {
    if (word == 0) return clear_page(pfn, at);
    if (std::exchange(rows_[pfn].ended, true)) return;
    model_detail::object_step(op_kind::free, entries(pfn), "table", at);
  }
  void copy_page(pfn_t to, pfn_t from, where at = where::current()) {
    begin_again(to, at);
    store_word(to, 0, load_word(from, 0, at), at);
  }
  u64 load_word(pfn_t pfn, u64, where at = where::current()) { return entries(pfn)[0].load(relaxed, at); }
  void touch_word(pfn_t pfn, u64, where at = where::current()) { entries(pfn)[0].fetch_add(0, relaxed, at); }
  void store_word(pfn_t pfn, u64, u64 v, where at = where::current()) {
    entries(pfn)[0].store(v, relaxed, at);
  }
  void load_bytes(pfn_t pfn, u64 offset, void* out, u64 n, where at = where::current()) {
    const u64 w = load_word(pfn, 0, at);
    std::memcpy(out, reinterpret_cast<const u8*>(&w) + offset, n);
  }
  void store_bytes(pfn_t pfn, u64 offset, const void* in, u64 n, where at = where::current()) {
    u64 w = 0;
    std::memcpy(reinterpret_cast<u8*>(&w) + offset, in, n);
    if (n == 8) {
      store_word(pfn, 0, w, at);
      return;
    }
    // The bytes beside them stay what they are, whoever else writes to the page meanwhile.
    u64 mask = 0;
    std::memset(reinterpret_cast<u8*>(&mask) + offset, 0xff, n);
    await_update(
        entries(pfn)[0], [w, mask](u64 v, u64& next) { return next = (v & ~mask) | w, true; }, relaxed, at);
  }
  void populate() {}

 private:
  struct row {
    atomic<u64>* entries = nullptr;
    bool ended = false;  // the owner's: whoever has the frame from the allocator
  };
  void begin_again(pfn_t pfn, where at) {
    if (std::exchange(rows_[pfn].ended, false))
      model_detail::object_step(op_kind::alloc, entries(pfn), "table", at);
  }
  u64 frames_;
  row* rows_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
