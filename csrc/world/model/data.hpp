// Data beside atomics: var<T>, whose accesses must not race, and what is no operation at all.
#pragma once
#include "world/model/atomic.hpp"

namespace pgtbl::inline PGTBL_WORLD {

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

}  // namespace pgtbl::inline PGTBL_WORLD
