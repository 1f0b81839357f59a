// rwsem.hpp -- a fair reader-writer semaphore: mmap_lock, i_mmap_rwsem, the write half of a VMA lock.
//
// Problem.  What the laboratory measures is, most of all, who waits for whom at mmap_lock.  A lock that
// starves writers, or that lets nobody pass a sleeping waiter, would make up a gain or hide one.
// Guarantee.  What the kernel's rwsem gives:
//   * new readers queue behind a waiting writer, so readers cannot starve it;
//   * when a reader is first in the queue, all readers of the queue enter together (the phase is theirs);
//   * a running writer may take a free lock ahead of sleepers, which keeps the throughput, but not
//     ahead of one that has waited for 4 ms: from then on the lock is handed to the first of the queue;
//   * a try never waits and never queues;
//   * downgrade() turns write into read without a moment in which another writer could enter.
// Not recursive: a reader that reads again behind a waiting writer waits for itself.
// Method.  One word: readers, a writer bit, a bit for "somebody queues" and one for "handed on".  An
// uncontended operation is one locked instruction on it, and an unlock looks at the queue only when the
// bit says so, therefore makes no system call.  The queue is a list of records on their owners' stacks
// under a lock_word; each waiter spins briefly, then sleeps on its own record.
// Cost.  Read: an add and a subtraction; write: a compare-exchange and a subtraction.
#pragma once
#include <optional>

#include "base/context.hpp"
#include "base/hooks.hpp"
#include "base/wait_watch.hpp"
#include "sync/spinlock.hpp"
#include "world/lock_word.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class rwsem {
 public:
  rwsem(lock_class read, lock_class write) : read_class_(read), write_class_(write) {}
  rwsem(const rwsem&) = delete;
  rwsem& operator=(const rwsem&) = delete;

  [[nodiscard]] hold read_lock(context& self, where at = where::current()) {
    note_sleeping_lock(self, read_class_);
    if (enters_in_one_step(writer, one_reader, at)) return taken(self, read_class_);
    // A reader counts itself first and looks then; the slow path takes the count back.
    const u64 old = word_.fetch_add(one_reader, acquire);
    if ((old & (writer | waiters | handoff)) != 0) [[unlikely]]
      read_slow(self);
    return taken(self, read_class_);
  }
  /// The same for a wait that somebody watches: nothing where it is not wanted any more.
  [[nodiscard]] std::optional<hold> read_lock(context& self, wait_watch& watch, where at = where::current()) {
    note_sleeping_lock(self, read_class_);
    if (enters_in_one_step(writer, one_reader, at)) return taken(self, read_class_);
    const u64 old = word_.fetch_add(one_reader, acquire);
    if ((old & (writer | waiters | handoff)) != 0 && !read_slow(self, &watch)) return std::nullopt;
    return taken(self, read_class_);
  }
  [[nodiscard]] std::optional<hold> try_read_lock(context& self);
  void read_unlock(context& self, hold h) {
    note_unlocked(self, this);
    self.led.released(read_class_, h.token);
    // Release: the next writer's acquire must find the reads of this section done.
    const u64 old = word_.fetch_sub(one_reader, release);
    if ((old & waiters) != 0 && (old & readers_mask) == one_reader) [[unlikely]]
      wake();
  }

  [[nodiscard]] hold write_lock(context& self, where at = where::current()) {
    note_sleeping_lock(self, write_class_);
    if (enters_in_one_step(writer | readers_mask, writer, at)) return taken(self, write_class_);
    u64 expected = 0;
    if (!word_.compare_exchange_strong(expected, writer, acquire, relaxed)) [[unlikely]]
      write_slow(self);
    owned_by(self.tid.load(relaxed));
    return taken(self, write_class_);
  }
  [[nodiscard]] std::optional<hold> write_lock(context& self,
                                               wait_watch& watch,
                                               where at = where::current()) {
    note_sleeping_lock(self, write_class_);
    if (enters_in_one_step(writer | readers_mask, writer, at)) return taken(self, write_class_);
    u64 expected = 0;
    if (!word_.compare_exchange_strong(expected, writer, acquire, relaxed) && !write_slow(self, &watch))
      return std::nullopt;
    owned_by(self.tid.load(relaxed));
    return taken(self, write_class_);
  }
  [[nodiscard]] std::optional<hold> try_write_lock(context& self);
  void write_unlock(context& self, hold h) {
    note_unlocked(self, this);
    self.led.released(write_class_, h.token);
    owned_by(0);
    const u64 old = word_.fetch_sub(writer, release);
    if ((old & waiters) != 0) [[unlikely]]
      wake();
  }

  /// Write becomes read, and readers that queue at the front enter too.  Counts as a read acquisition, as
  /// the kernel's tracepoint does.
  [[nodiscard]] hold downgrade(context& self, hold h);

  bool is_write_locked() const { return (word_.load(relaxed) & writer) != 0; }
  bool is_locked() const { return (word_.load(relaxed) & (writer | readers_mask)) != 0; }
  /// Somebody queues.
  bool is_contended() const { return (word_.load(relaxed) & waiters) != 0; }
  /// Readers inside; for a moment also one that has come and is about to queue.
  u32 readers() const { return static_cast<u32>(word_.load(relaxed) & readers_mask); }
  /// Thread id of the writer inside, or 0.  For messages only: it may be gone before it is read.
  u32 owner() const { return static_cast<u32>(owner_.get()); }

 private:
  static constexpr u64 one_reader = 1;
  static constexpr u64 readers_mask = 0xffff'ffffULL;
  static constexpr u64 writer = 1ULL << 32;
  static constexpr u64 waiters = 1ULL << 33;  // the queue is not empty; changed under queue_lock_
  static constexpr u64 handoff = 1ULL << 34;  // the first has waited too long: nobody passes it

  struct waiter;
  struct wakeups;
  class patience;

  hold taken(context& self, lock_class c) {
    note_locked(self, this, c);
    return {self.led.acquired(c)};
  }
  void note_sleeping_lock([[maybe_unused]] context& self, [[maybe_unused]] lock_class c) {
    if constexpr (checked_build) {
      might_sleep(self, "waiting for a semaphore");
      note_locking(self, this, c);
    }
  }

  // In the model, an engine that explores something else than this lock takes it as one operation.  More
  // readers get in than the queue would let in, so nothing that can go wrong is lost but a wait for oneself.
  bool enters_in_one_step([[maybe_unused]] u64 kept_out_by,
                          [[maybe_unused]] u64 add,
                          [[maybe_unused]] where at) {
#if defined(PGTBL_WORLD_MODEL)
    if (engine::current().abstract_locks()) {
      await_update(
          word_, [=](u64 v, u64& next) { return next = v + add, (v & kept_out_by) == 0; }, acquire, at);
      return true;
    }
#endif
    return false;
  }
  void owned_by(u32 tid) { owner_.set(tid); }

  // False: the watch does not want to wait any longer.
  bool read_slow(context& self, wait_watch* watch = nullptr);
  bool write_slow(context& self, wait_watch* watch = nullptr);
  bool withdraw(waiter& w);
  void wake();

  // With the queue locked:
  void lock_queue();
  void enqueue(waiter& w);
  void dequeue(waiter& w);
  wakeups wake_first();
  bool try_write_as_first(waiter& w);

  // Alone on its line: a reader that needs a field beside it, after its add, would fetch the line again.
  alignas(64) atomic<u64> word_{0};
  alignas(64) counter owner_;  // written by the writer inside alone
  counter spin_ns_;            // how long waiters look on before they yield; an estimate, written by all
  lock_word queue_lock_;
  var<waiter*> first_{nullptr};  // protected by queue_lock_
  var<waiter*> last_{nullptr};   // protected by queue_lock_
  lock_class read_class_, write_class_;
};

/// Holds a semaphore for reading, for a scope.
class [[nodiscard]] read_guard {
 public:
  read_guard(context& self, rwsem& s, where at = where::current())
      : self_(self), sem_(&s), hold_(s.read_lock(self, at)) {}
  read_guard(const read_guard&) = delete;
  read_guard& operator=(const read_guard&) = delete;
  ~read_guard() { unlock(); }
  void unlock() {
    if (sem_ != nullptr) sem_->read_unlock(self_, hold_);
    sem_ = nullptr;
  }

 private:
  context& self_;
  rwsem* sem_;
  hold hold_;
};

/// Holds a semaphore for writing, for a scope.
class [[nodiscard]] write_guard {
 public:
  write_guard(context& self, rwsem& s, where at = where::current())
      : self_(self), sem_(&s), hold_(s.write_lock(self, at)) {}
  write_guard(const write_guard&) = delete;
  write_guard& operator=(const write_guard&) = delete;
  ~write_guard() { unlock(); }
  void unlock() {
    if (sem_ != nullptr) sem_->write_unlock(self_, hold_);
    sem_ = nullptr;
  }

 private:
  context& self_;
  rwsem* sem_;
  hold hold_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
