#include "sync/rwsem.hpp"

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD {

namespace {
constexpr u64 handoff_after_ns = 4'000'000;   // as the kernel's RWSEM_WAIT_TIMEOUT
constexpr u64 longest_park_ns = 100'000'000;  // nobody depends on it: a wake-up that is missed costs this
// Looks before queueing, where the owner may well run.
constexpr unsigned looks_before_queueing = spinning_helps ? 64 : 0;

// A waiter looks on for about as long as falling asleep and being woken would take: so it loses at most twice
// what it would have lost by knowing.
constexpr u64 longest_spin_ns = 20'000, shortest_spin_ns = 500;
}  // namespace

// How one who queues passes the time, before it sleeps.  It spins, then it yields: with more threads than cores
// the one that is waited for, a reader that was let in while it slept, may have to run on this very core.  Where
// that is so spinning only stands in its way; therefore each lock learns from its waits how long it is worth.
class rwsem::patience {
 public:
  patience(rwsem& s, u64 since) : sem_(s), since_(since), until_(since + s.spin_ns_.get()) {}
  patience(const patience&) = delete;
  patience& operator=(const patience&) = delete;
  ~patience() {
    if (!spinning_helps) return;
    const u64 was = sem_.spin_ns_.get();
    const u64 now = now_ns() - since_ < longest_spin_ns ? was * 2 : was / 2;
    sem_.spin_ns_.set(std::clamp(now, shortest_spin_ns, longest_spin_ns));
  }
  /// Passes some time; false: it is time to sleep.
  bool look_again() {
    if (yields_ == 0 || !spinning_helps) return false;
    if (spins_ && ++looks_ % looks_a_reading == 0) spins_ = now_ns() < until_;
    if (spins_) {
      cpu_relax();
    } else {
      --yields_;
      yield();
    }
    return true;
  }
  /// After a wake-up that was no use.
  void renew() { yields_ = yields_at_most / 2; }

 private:
  static constexpr unsigned looks_a_reading = 8, yields_at_most = 24;
  rwsem& sem_;
  const u64 since_, until_;
  unsigned looks_ = 0, yields_ = yields_at_most;
  bool spins_ = true;
};

// One who waits, on its own stack.  It may return, and the record vanish, as soon as state says entered.
struct rwsem::waiter {
  static constexpr u32 waiting = 0, asleep = 1, entered = 2;
  bool writes;
  u64 since;
  atomic<u32> state{waiting};  // a writer's goes from asleep back to waiting when it is to try again
  var<waiter*> next{nullptr};  // protected by queue_lock_
  var<waiter*> prev{nullptr};  // protected by queue_lock_
  var<u32> queued{0};          // protected by queue_lock_
};

void rwsem::lock_queue() {
  if (!queue_lock_.take()) [[unlikely]]
    queue_lock_.take_slow();
}

void rwsem::enqueue(waiter& w) {
  waiter* const last = last_;
  w.queued = 1;
  w.prev = last;
  (last != nullptr ? last->next : first_) = &w;
  last_ = &w;
}

void rwsem::dequeue(waiter& w) {
  w.queued = 0;
  waiter *const next = w.next, *const prev = w.prev;
  (prev != nullptr ? prev->next : first_) = next;
  (next != nullptr ? next->prev : last_) = prev;
}

// What is left to do when the queue's lock has been given back: system calls do not belong under it.
struct rwsem::wakeups {
  waiter* readers = nullptr;            // have entered; chained by next
  const atomic<u32>* writer = nullptr;  // sleeps, and is to try again

  void deliver() const {
    if (writer != nullptr) unpark_one(*writer);
    for (waiter *r = readers, *next; r != nullptr; r = next) {
      next = r->next;
      // Release: the lock is r's.  After this r's record may be gone; waking a word that nobody sleeps on
      // any more is harmless.
      const atomic<u32>& state = r->state;
      if (r->state.exchange(waiter::entered, acq_rel) == waiter::asleep) unpark_one(state);
    }
  }
};

// Whoever makes the lock free, or queues, while somebody is first in the queue.
rwsem::wakeups rwsem::wake_first() {
  waiter* const w = first_;
  if (w == nullptr) return {};
  if (w->writes) {
    // A writer takes the lock itself, against those who try meanwhile: a lock given to a thread that has
    // yet to wake up would stand idle until then.
    if ((word_.load(relaxed) & readers_mask) != 0) return {};
    const bool asleep = w->state.exchange(waiter::waiting, acq_rel) == waiter::asleep;
    return {.writer = asleep ? &w->state : nullptr};
  }

  // All readers of the queue, also those behind a writer: the phase is the readers'.
  u64 n = 0;
  for (waiter* r = w; r != nullptr; r = r->next) n += r->writes ? 0 : one_reader;
  // Count them in first, and look then whether a writer was quicker.  Its unlock will call us again.
  const u64 old = word_.fetch_add(n, acquire);
  if ((old & writer) != 0) {
    const bool overdue = now_ns() - w->since > handoff_after_ns;
    if (overdue && (old & handoff) == 0) word_.fetch_or(handoff, relaxed);
    // If it has unlocked meanwhile, it saw the waiters bit and comes after us to the queue.
    word_.fetch_sub(n, relaxed);
    return {};
  }
  wakeups woken;
  for (waiter *r = w, *next; r != nullptr; r = next) {
    next = r->next;
    if (r->writes) continue;
    dequeue(*r);
    r->next = woken.readers;
    woken.readers = r;
  }
  word_.fetch_and(first_ == nullptr ? ~(waiters | handoff) : ~handoff, relaxed);
  return woken;
}

void rwsem::wake() {
  lock_queue();
  const wakeups woken = wake_first();
  queue_lock_.give();
  woken.deliver();
}

std::optional<hold> rwsem::try_read_lock(context& self) {
  u64 v = word_.load(relaxed);
  while ((v & (writer | waiters | handoff)) == 0)
    if (word_.compare_exchange_weak(v, v + one_reader, acquire, relaxed)) return taken(self, read_class_);
  self.led.of(read_class_).failed.add();
  return std::nullopt;
}

std::optional<hold> rwsem::try_write_lock(context& self) {
  // As the kernel's: a try gets only a lock that nobody holds and nobody waits for.
  u64 expected = 0;
  if (!word_.compare_exchange_strong(expected, writer, acquire, relaxed)) {
    self.led.of(write_class_).failed.add();
    return std::nullopt;
  }
  owned_by(self.tid.load(relaxed));
  return taken(self, write_class_);
}

bool rwsem::read_slow(context& self, wait_watch* watch) {
  const u64 start = now_ns();
  waiter w{.writes = false, .since = start};
  lock_queue();
  // Take back the reader that read_lock() counted, and say that we queue instead.
  const bool alone = first_ == nullptr;
  enqueue(w);
  const u64 now = alone ? word_.fetch_add(waiters - one_reader, relaxed) + waiters - one_reader
                        : word_.fetch_sub(one_reader, relaxed) - one_reader;
  // The last unlock may have met our count and left without waking anybody; or the writer that turned
  // us away is gone.  (A writer at the front stays asleep while readers are inside, and keeps us out.)
  const wakeups woken = (now & writer) == 0 ? wake_first() : wakeups{};
  queue_lock_.give();
  woken.deliver();

  for (patience p(*this, start); w.state.load(acquire) != waiter::entered;) {
    if (p.look_again()) continue;
    u32 expected = waiter::waiting;
    w.state.compare_exchange_strong(expected, waiter::asleep, acq_rel, acquire);
    if (expected == waiter::entered) break;
    park(w.state, waiter::asleep, longest_park_ns);
    if (!wait_watch::lasts(watch) && withdraw(w)) return false;
  }
  self.led.waited(read_class_, now_ns() - start);
  return true;
}

bool rwsem::try_write_as_first(waiter& w) {
  if (first_ != &w) return false;
  u64 v = word_.load(relaxed);
  for (;;) {
    if ((v & (writer | readers_mask)) != 0) {
      const bool overdue = (v & handoff) == 0 && now_ns() - w.since > handoff_after_ns;
      if (!overdue) return false;
      if (word_.compare_exchange_weak(v, v | handoff, relaxed, relaxed)) return false;
      continue;
    }
    const u64 keep = w.next != nullptr ? v & waiters : 0;
    if (word_.compare_exchange_weak(v, writer | keep, acquire, relaxed)) break;
  }
  dequeue(w);
  return true;
}

bool rwsem::write_slow(context& self, wait_watch* watch) {
  const u64 start = now_ns();
  // A writer that runs will soon be out: wait for it awake, ahead of the queue if that is not overdue.
  for (unsigned n = 0; n < looks_before_queueing; ++n) {
    u64 v = word_.load(relaxed);
    if ((v & (writer | readers_mask | handoff)) == 0) {
      if (word_.compare_exchange_weak(v, v | writer, acquire, relaxed)) {
        self.led.waited(write_class_, now_ns() - start);
        return true;
      }
    } else if ((v & writer) == 0) {
      break;  // readers: only queueing keeps new ones out
    }
    cpu_relax();
  }

  waiter w{.writes = true, .since = start};
  lock_queue();
  enqueue(w);
  if (first_ == &w) word_.fetch_or(waiters, relaxed);
  bool entered = try_write_as_first(w);
  queue_lock_.give();

  for (patience p(*this, start); !entered;) {
    const bool sleepy = !p.look_again();
    if (!sleepy && (word_.load(relaxed) & (writer | readers_mask)) != 0) continue;
    lock_queue();
    entered = try_write_as_first(w);
    // Asleep is said under the queue's lock, after the lock was seen taken: who frees it comes after us
    // to the queue, and finds us asleep.
    const bool sleep = !entered && sleepy;
    const bool first = first_ == &w;
    if (sleep) w.state.store(waiter::asleep, relaxed);
    queue_lock_.give();
    if (sleep) {
      park(w.state, waiter::asleep, first ? handoff_after_ns : longest_park_ns);
      if (!wait_watch::lasts(watch) && withdraw(w)) return false;
      p.renew();
    }
  }
  self.led.waited(write_class_, now_ns() - start);
  return true;
}

/// Leaves the queue without the lock.  False: too late, w is being let in.
bool rwsem::withdraw(waiter& w) {
  lock_queue();
  if (w.queued == 0) {
    queue_lock_.give();
    return false;
  }
  const bool was_first = first_ == &w;
  dequeue(w);
  const u64 gone = first_ == nullptr ? waiters | handoff : was_first ? handoff : 0;
  const u64 now = word_.fetch_and(~gone, relaxed);
  // Who stood behind w may have nothing to wait for any more: readers behind a writer that waited for readers.
  const wakeups woken = was_first && (now & writer) == 0 ? wake_first() : wakeups{};
  queue_lock_.give();
  woken.deliver();
  return true;
}

hold rwsem::downgrade(context& self, hold h) {
  self.led.released(write_class_, h.token);
  note_unlocked(self, this);
  owned_by(0);
  // Release: readers that enter now see the writes; no acquire, we have been inside all along.
  const u64 old = word_.fetch_add(one_reader - writer, release);
  if ((old & waiters) != 0) wake();
  return taken(self, read_class_);
}

}  // namespace pgtbl::inline PGTBL_WORLD
