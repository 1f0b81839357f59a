// Waits of the model world: one operation each, that can move when what it waits for is there.
#pragma once
#include "world/model/atomic.hpp"

namespace pgtbl::inline PGTBL_WORLD {

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

}  // namespace pgtbl::inline PGTBL_WORLD
