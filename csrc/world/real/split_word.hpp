// split_word.hpp -- a 64-bit word of two halves, which are two atomics; and which some operations take as one.
//
// Only on x86 (the host): an 8-byte operation and 4-byte operations on its halves are atomic with respect to each other.
#pragma once
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class split_word {
 public:
  constexpr split_word() = default;
  constexpr explicit split_word(u64 v) : word_(v) {}
  split_word(const split_word&) = delete;
  split_word& operator=(const split_word&) = delete;

  u32 load_low(memory_order o) const { return __atomic_load_n(half(0), static_cast<int>(o)); }
  u32 load_high(memory_order o) const { return __atomic_load_n(half(1), static_cast<int>(o)); }
  void store_low(u32 v, memory_order o) { __atomic_store_n(half(0), v, static_cast<int>(o)); }
  void store_high(u32 v, memory_order o) { __atomic_store_n(half(1), v, static_cast<int>(o)); }
  u32 exchange_low(u32 v) { return __atomic_exchange_n(half(0), v, __ATOMIC_ACQ_REL); }
  u32 exchange_high(u32 v) { return __atomic_exchange_n(half(1), v, __ATOMIC_ACQ_REL); }

  /// set_64bit and cmpxchg8b; and the processor's own walk.
  u64 load_whole(memory_order o) const { return __atomic_load_n(&word_, static_cast<int>(o)); }
  void store_whole(u64 v, memory_order o) { __atomic_store_n(&word_, v, static_cast<int>(o)); }
  u64 exchange_whole(u64 v) { return __atomic_exchange_n(&word_, v, __ATOMIC_ACQ_REL); }
  bool compare_exchange_whole(u64& expected, u64 v) {
    return __atomic_compare_exchange_n(&word_, &expected, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  }

 private:
  using half_t [[gnu::may_alias]] = u32;
  half_t* half(u32 which) { return reinterpret_cast<half_t*>(&word_) + which; }
  const half_t* half(u32 which) const { return reinterpret_cast<const half_t*>(&word_) + which; }
  alignas(8) u64 word_ = 0;
};

}  // namespace pgtbl::inline PGTBL_WORLD
