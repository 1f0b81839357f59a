// spinlock.hpp -- a spinlock in 4 bytes: ptl, pml, and the internal locks of the laboratory.
//
// Guarantee.  Mutual exclusion, and a bounded loss when its owner does not run: a waiter pauses, yields,
// and at last sleeps for a bounded time.  No order among waiters (world/lock_word.hpp says why).
// Method.  lock_word, counted in the ledger of the caller's context.  Waiting is timed on the slow path
// only.  In checked builds the lock order is compared before a wait (base/hooks.hpp), and a lock that is
// used after kill() is a breach of G-3: a table's lock must outlive everyone who may spin on it.
// Cost.  What pthread_spin_lock costs.
#pragma once
#include <optional>

#include "base/breach.hpp"
#include "base/context.hpp"
#include "base/hooks.hpp"
#include "base/wait_watch.hpp"
#include "world/lock_word.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// What a lock gives when it is taken, and wants back: the time stamp of a hold that is being timed.
struct hold {
  u64 token = 0;
};

class spinlock {
 public:
  [[nodiscard]] hold lock(context& self, lock_class c, where at = where::current()) {
    note_locking(self, this, c);
    if (!word_.take(at)) [[unlikely]]
      lock_slow(self, c);
    return taken(self, c);
  }

  /// Nothing where p gave up.
  [[nodiscard]] std::optional<hold> lock(context& self, lock_class c, wait_watch& p) {
    note_locking(self, this, c);
    if (!word_.take() && !lock_slow(self, c, &p)) return std::nullopt;
    return taken(self, c);
  }

  [[nodiscard]] std::optional<hold> try_lock(context& self, lock_class c) {
    if (!word_.try_take()) {
      self.led.of(c).failed.add();
      return std::nullopt;
    }
    return taken(self, c);
  }

  void unlock(context& self, lock_class c, hold h) {
    note_unlocked(self, this);
    self.led.released(c, h.token);
    if (!word_.give()) [[unlikely]]
      died_while_held(self, c);
  }

  bool is_locked() const { return word_.peek() == lock_word::held; }

  /// The lock of a table that is being set up; the memory may have been a table before.
  void init() { word_.set(lock_word::free); }
  /// The lock's table is being torn down: from now on any use of the lock is a breach of G-3.
  void kill() {
#if !defined(PGTBL_WORLD_REAL)
    word_.set(lock_word::dead);
#endif
  }

 private:
  hold taken(context& self, lock_class c) {
    note_locked(self, this, c);
    return {self.led.acquired(c)};
  }
  bool lock_slow(context& self, lock_class c, wait_watch* p = nullptr);
  void died_while_held(context& self, lock_class c);

  lock_word word_;
};
#if !defined(PGTBL_WORLD_MODEL)
static_assert(sizeof(spinlock) == 4);
#endif

/// Holds a spinlock for a scope.
class [[nodiscard]] spin_guard {
 public:
  spin_guard(context& self, spinlock& l, lock_class c, where at = where::current())
      : self_(self), lock_(&l), class_(c), hold_(l.lock(self, c, at)) {}
  spin_guard(const spin_guard&) = delete;
  spin_guard& operator=(const spin_guard&) = delete;
  ~spin_guard() { unlock(); }
  void unlock() {
    if (lock_ == nullptr) return;
    lock_->unlock(self_, class_, hold_);
    lock_ = nullptr;
  }

 private:
  context& self_;
  spinlock* lock_;
  lock_class class_;
  hold hold_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
