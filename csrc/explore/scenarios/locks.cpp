// Locks by themselves: mutual exclusion, no lost wake-up, and the hand-off of a queued semaphore.
//
// What a lock protects is a var: two unordered accesses of it are a data race, whatever they do.
#include "explore/scenario.hpp"
#include "explore/scenarios/tell.hpp"
#include "sync/rwsem.hpp"
#include "sync/spinlock.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {

struct worker {
  context self;
  bool entered = false;
};

/// Three threads add one, each under the same lock.
class spinlock_cast final : public program {
 public:
  spinlock_cast(stage& s, u32 n) : n_(n) {
    for (u32 i = 0; i < n; ++i) workers_[i].self.id = i;
    s.name_all(lock_, "lock");
    s.name_all(sum_, "sum");
  }
  u32 actors() const override { return n_; }
  u32 twin_of(u32 i) const override { return i == 0 ? 0 : i - 1; }
  std::string role(u32) const override { return "locker"; }
  std::string held_by(u32 i) const override { return locks_of(workers_[i].self); }
  void act(u32 i) override {
    context& self = workers_[i].self;
    const spin_guard g(self, lock_, lock_class::ptl);
    sum_ += 1;
  }
  void judge() override {
    if (sum_ != n_) fail("an addition under the lock was lost");
    if (lock_.is_locked()) fail("the lock was left locked");
  }

 private:
  u32 n_;
  worker workers_[stage::max_actors];
  spinlock lock_;
  var<u32> sum_{0};
};

/// Letters say what each actor does with a semaphore: r reads, w writes, t tries to write, y tries to read, d
/// writes and downgrades.
class rwsem_cast final : public program {
 public:
  rwsem_cast(stage& s, const char* parts) : parts_(parts) {
    for (n_ = 0; parts[n_] != 0; ++n_) workers_[n_].self.id = n_;
    s.name_all(sem_, "rwsem");
    s.name_all(sum_, "sum");
  }
  u32 actors() const override { return n_; }
  u32 twin_of(u32 i) const override { return i != 0 && parts_[i - 1] == parts_[i] ? i - 1 : i; }
  std::string role(u32 i) const override {
    switch (parts_[i]) {
      case 'r': return "reader";
      case 'w': return "writer";
      case 't': return "try to write";
      case 'y': return "try to read";
      default: return "writer that downgrades";
    }
  }
  std::string held_by(u32 i) const override { return locks_of(workers_[i].self); }
  void act(u32 i) override {
    context& self = workers_[i].self;
    switch (parts_[i]) {
      case 'r': read(self, sem_.read_lock(self)); break;
      case 'w': write(self, sem_.write_lock(self)); break;
      case 'd': downgrade(self, sem_.write_lock(self)); break;
      case 't':
        if (const auto h = sem_.try_write_lock(self)) write(self, *h), workers_[i].entered = true;
        break;
      case 'y':
        if (const auto h = sem_.try_read_lock(self)) read(self, *h);
        break;
      default: break;
    }
  }
  void judge() override {
    u32 expected = 0;
    for (u32 i = 0; i < n_; ++i) expected += parts_[i] == 'w' || parts_[i] == 'd' || workers_[i].entered;
    if (sum_ != expected) fail("an addition under the semaphore was lost");
    if (sem_.is_locked()) fail("the semaphore was left locked");
    if (sem_.is_contended()) fail("the semaphore thinks that somebody queues");
  }

 private:
  void read(context& self, hold h) {
    static_cast<void>(sum_.get());
    sem_.read_unlock(self, h);
  }
  void write(context& self, hold h) {
    sum_ += 1;
    sem_.write_unlock(self, h);
  }
  void downgrade(context& self, hold h) {
    sum_ += 1;
    h = sem_.downgrade(self, h);
    read(self, h);
  }
  const char* parts_;
  u32 n_ = 0;
  worker workers_[stage::max_actors];
  rwsem sem_{lock_class::other_read, lock_class::other_write};
  var<u32> sum_{0};
};

template <u32 N>
program* spinlocks(stage& s, const era&) {
  return make<spinlock_cast>(s, N);
}

constexpr char rr[] = "rr", rw[] = "rw", ww[] = "ww", rd[] = "rd", tw[] = "tw", yw[] = "yw", rrw[] = "rrw",
               www[] = "www", tww[] = "tww";
template <const char* Parts>
program* semaphore(stage& s, const era&) {
  return make<rwsem_cast>(s, Parts);
}
/// Whoever has waited has waited for too long at its next look at the clock: the lock is handed on.
template <const char* Parts>
program* overdue(stage& s, const era& rules) {
  constexpr u64 longer_than_the_patience = 5'000'000;
  s.let_time_pass(longer_than_the_patience);
  return semaphore<Parts>(s, rules);
}

constexpr const char* any_era = "v6.6 v6.5 v6.4";
constexpr scenario table[] = {
    {"ptl", "two threads under one spinlock", any_era, spinlocks<2>},
    {"ptl-three", "three threads under one spinlock", any_era, spinlocks<3>},
    {"rwsem-read-read", "two readers enter together", any_era, semaphore<rr>},
    {"rwsem-read-write", "a reader and a writer exclude each other, and neither sleeps for ever", any_era,
     semaphore<rw>},
    {"rwsem-write-write", "two writers exclude each other, and neither sleeps for ever", any_era,
     semaphore<ww>},
    {"rwsem-downgrade", "a writer downgrades while a reader queues", any_era, semaphore<rd>},
    {"rwsem-trywrite", "a try to write never waits and never queues", any_era, semaphore<tw>},
    {"rwsem-tryread", "a try to read never waits and never queues", any_era, semaphore<yw>},
    {"rwsem-hand-off", "two readers and a writer: the phase is handed on", any_era, semaphore<rrw>},
    {"rwsem-three-writers", "three writers: each gets its turn", any_era, semaphore<www>},
    {"rwsem-overdue-writer", "a writer that has waited for too long is handed the lock by a writer", any_era,
     overdue<ww>},
    {"rwsem-overdue-readers", "readers that have waited for too long are handed the lock by a writer",
     any_era, overdue<rrw>},
    {"rwsem-overdue-and-try", "nobody passes a writer that has waited for too long", any_era, overdue<tww>},
};

}  // namespace

std::span<const scenario> scenarios_of_locks() { return table; }

}  // namespace pgtbl::inline PGTBL_WORLD::explore
