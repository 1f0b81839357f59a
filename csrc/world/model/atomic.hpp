// atomic<T> of the model world: each access is one operation, handed to the engine.
#pragma once
#include <atomic>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "world/model/operation.hpp"

namespace pgtbl::inline PGTBL_WORLD {

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

}  // namespace pgtbl::inline PGTBL_WORLD
