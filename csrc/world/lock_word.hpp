// lock_word.hpp -- the one word that a spinlock is made of.
//
// Problem.  The model must know a lock as a lock: as one operation that may have to wait.  Written as
// a loop of exchanges it would be explored try by try, without end.
// Guarantee.  take() and give() pair as acquire and release; between them nobody else's take() returns.
// Method.  In the real world one exchange, and a plain store to give it back.  Because that store wakes
// nobody, take_slow() never sleeps for longer than it is told to: doubling pauses, then yields, then
// sleeps of at most a millisecond.  There is no queue: with more threads than cores a FIFO lock is
// handed to threads that do not run, and collapses (a ticket lock to a seventeenth).
// Cost.  One locked instruction; 4 bytes.
#pragma once
#include "world/world.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Whether to look again before sleeping.  In the model a look that finds nothing new is a wasted state.
#if defined(PGTBL_WORLD_MODEL)
inline constexpr bool spinning_helps = false;
#else
inline constexpr bool spinning_helps = true;
#endif

class lock_word {
 public:
  static constexpr u32 free = 0, held = 1, dead = 2;
  static constexpr u64 no_end = ~u64{0};

  lock_word() = default;
  lock_word(const lock_word&) = delete;
  lock_word& operator=(const lock_word&) = delete;

#if defined(PGTBL_WORLD_MODEL)
  // One operation each.  take() waits inside of it, and lets a dead word through, so that its user
  // can report it instead of waiting for ever.
  bool take(where at = where::current()) {
    const u32 old = await_update(
        word_, [](u32 v, u32& next) { return v == free ? (next = held, true) : (next = v, v == dead); },
        acquire, at);
    return old == free;
  }
  bool take_slow(u64 = no_end) { return false; }
  bool try_take(where at = where::current()) {
    u32 expected = free;
    return word_.compare_exchange_strong(expected, held, acquire, relaxed, at);
  }
  bool give(where at = where::current()) {
    const u32 old = word_.load(relaxed, at);
    if (old != dead) word_.store(free, release, at);
    return old != dead;
  }
#elif defined(PGTBL_WORLD_TORTURE)
  // As below, but never over a dead word: the use of a destroyed lock must be seen.
  bool take(where = {}) { return try_take(); }
  bool take_slow(u64 until = no_end);  // false: the word is dead, or now_ns() has come to `until`
  bool try_take() {
    u32 expected = free;
    return word_.compare_exchange_strong(expected, held, acquire, relaxed);
  }
  bool give() {  // false: the word is dead
    u32 expected = held;
    return word_.compare_exchange_strong(expected, free, release, relaxed);
  }
#else
  /// True: taken.  False: call take_slow().
  bool take(where = {}) { return word_.exchange(held, acquire) == free; }
  bool take_slow(u64 until = no_end);  // false: now_ns() has come to `until`
  bool try_take() { return word_.load(relaxed) == free && word_.exchange(held, acquire) == free; }
  bool give() {
    word_.store(free, release);
    return true;
  }
#endif

  u32 peek() const { return word_.load(relaxed); }
  void set(u32 v) { word_.store(v, release); }

 private:
  atomic<u32> word_{free};
};

}  // namespace pgtbl::inline PGTBL_WORLD
