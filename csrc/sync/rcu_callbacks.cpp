// Callbacks of an RCU domain: batches, limits, rcu_barrier, and the worker that runs what threads leave behind.
#include <system_error>

#include "base/errors.hpp"
#include "base/hooks.hpp"
#include "sync/rcu_internal.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
constexpr u32 batches_per_step = 16;        // a membarrier is dear where threads run: one for 1024 callbacks,
constexpr u64 bytes_per_step = 4ULL << 20;  // or for 4 MiB
// A grace period ends for all of them at once.  Who seals a batch pays for two: more, and one call() in a
// thousand would take as long as all the others; fewer, and the backlog would never shrink.
constexpr u32 batches_per_run = 2;
constexpr u64 forever_ns = 3600'000'000'000;
}  // namespace

void rcu_batch::append(const rcu_batch& later) {
  if (later.first == nullptr) return;
  if (first == nullptr) {
    first = later.first;
  } else {
    last->next = later.first;
  }
  last = later.last;
  objects += later.objects;
  bytes += later.bytes;
  cookie = later.cookie;
}

void rcu_domain::call(rcu_reader& self, rcu_head* head, rcu_callback func, u64 bytes, wait_watch* p) {
  if (enqueue(self, head, func, bytes)) [[unlikely]]
    flush(self, may::run, p);
}

void rcu_domain::call_atomic(rcu_reader& self, rcu_head* head, rcu_callback func, u64 bytes) {
  if (enqueue(self, head, func, bytes)) [[unlikely]]
    flush(self, may::not_wait, nullptr);
}

/// True: the open batch is full.
bool rcu_domain::enqueue(rcu_reader& self, rcu_head* head, rcu_callback func, u64 bytes) {
  head->next = nullptr;
  head->func = func;
#if defined(PGTBL_WORLD_MODEL)
  if (rcu_reader::by_definition()) {  // the queue is its owner's alone: barrier() runs it
    self.append(head, bytes);
    return false;
  }
#endif
  if (self.enter_queue()) [[likely]] {
    self.append(head, bytes);
    self.leave_queue();
  } else {
    enqueue_shut(self, head, bytes);
  }
  return self.open_objects() >= batch_objects_ || self.open_bytes() >= batch_bytes_;
}

void rcu_domain::enqueue_shut(rcu_reader& self, rcu_head* head, u64 bytes) {
  check_ours();
  if (self.domain_ != this) throw usage_error("call: this thread is not attached to this RCU domain");
  {
    locked lock(*this);
    self.append(head, bytes);
    self.drains_at_tick_ = self.drains_ - 1;  // not quiet: a whole tick to go
    self.shut_.store(0, relaxed);
  }
  ensure_worker();
}

/// The open batch of a reader, by its owner or of a queue that is shut.
rcu_batch rcu_domain::open_batch_locked(rcu_reader& reader) {
  const rcu_batch b{reader.first_, reader.last_, reader.open_objects(), reader.open_bytes(), get_state()};
  reader.first_ = nullptr;
  reader.last_ = nullptr;
  reader.sealed_objects_.add(b.objects);
  reader.sealed_bytes_.add(b.bytes);
  pending_max_.raise_to(pending_.fetch_add(b.objects, relaxed) + b.objects);
  pending_bytes_max_.raise_to(pending_bytes_.fetch_add(b.bytes, relaxed) + b.bytes);
  return b;
}

void rcu_domain::seal_locked(rcu_reader& reader) {
  if (reader.first_ == nullptr) return;
  file_locked(reader, open_batch_locked(reader));
}

void rcu_domain::file_locked(rcu_reader& reader, const rcu_batch& batch) {
  if (reader.sealed_n_ == rcu_reader::max_batches) {
    reader.sealed_[reader.sealed_n_ - 1].append(batch);  // no room: these wait for the later cookie
  } else {
    reader.sealed_[reader.sealed_n_++] = batch;
  }
}

bool rcu_domain::over(u64 objects, u64 bytes) const {
  return pending_.load(relaxed) >= objects || pending_bytes_.load(relaxed) >= bytes;
}

void rcu_domain::flush(rcu_reader& self, may how, wait_watch* p) {
  check_ours();
  const bool may_run = how == may::run && !self.in_section() && !self.in_callback_;
  self.bytes_since_step_ += self.open_bytes();
  u64 oldest = 0;
  {
    locked lock(*this);
    seal_locked(self);
    if (self.sealed_n_ != 0) oldest = self.sealed_[0].cookie;
  }
  const bool urgent = over(config_.soft_objects, config_.soft_bytes);
  if (urgent) soft_throttles_.fetch_add(1, relaxed);
  if (++self.batches_since_step_ >= batches_per_step || self.bytes_since_step_ >= bytes_per_step || urgent) {
    self.batches_since_step_ = 0;
    self.bytes_since_step_ = 0;
    step(&self, oldest, urgent ? rcu_gp_kind::expedited : rcu_gp_kind::normal);
  }
  if (!may_run) {
    if (urgent) kick();
    return;
  }
  run_expired(self, urgent ? rcu_reader::max_batches : batches_per_run);
  if (over(config_.hard_objects, config_.hard_bytes)) throttle(self, p);
}

/// The oldest of the reader's own batches whose grace period is over, so many at most.
void rcu_domain::run_expired(rcu_reader& self, u32 at_most) {
  rcu_batch bag;
  {
    locked lock(*this);
    u32 n = 0;
    while (n < self.sealed_n_ && n < at_most &&
           (passed(self.sealed_[n].cookie) || !guard(Guard::rcu_batch_waits)))
      bag.append(self.sealed_[n++]);
    if (n == 0) return;
    self.sealed_n_ -= n;
    ++self.drains_;
    for (u32 i = 0; i < self.sealed_n_; ++i) self.sealed_[i] = self.sealed_[i + n];
    self.run_ticket_ = ++tickets_;
  }
  run(self, bag);
}

/// Runs a bag that was taken under self's ticket, and gives the ticket back.
void rcu_domain::run(rcu_reader& self, const rcu_batch& bag) {
  context& ctx = *self.owner_;
  self.in_callback_ = true;
  for (rcu_head* h = bag.first; h != nullptr;) {
    rcu_head* next = h->next;  // the callback may free h
    pause_at(ctx, point::rcu_callback);
    h->func(ctx, h);
    h = next;
  }
  self.in_callback_ = false;
  pending_.fetch_sub(bag.objects, relaxed);
  pending_bytes_.fetch_sub(bag.bytes, relaxed);
  invoked_.fetch_add(bag.objects, relaxed);
  locked lock(*this);
  self.run_ticket_ = 0;
  runs_.fetch_add(1, release);
}

void rcu_domain::throttle(rcu_reader& self, wait_watch* p) {
  might_sleep(self.owner(), "call_rcu above the hard limit");
  hard_throttles_.fetch_add(1, relaxed);
  const u64 start = now_ns();
  while (over(config_.hard_objects, config_.hard_bytes)) {
    if (!wait_gp(&self, get_state(), rcu_gp_kind::expedited, p)) break;
    run_expired(self, rcu_reader::max_batches);
    if (!over(config_.hard_objects, config_.hard_bytes)) break;
    kick();  // what is left is others'
    sleep_ns(100'000);
    if (!wait_watch::lasts(p)) break;
  }
  throttled_ns_.fetch_add(now_ns() - start, relaxed);
}

/// Shuts the queues, or only the quiet ones: whose owner has run nothing of it since the last call (it
/// queues too little, or only inside of sections).  True if none is left open.
bool rcu_domain::shut_locked(bool quiet_only) {
  bool any = false, all = true;
  for (rcu_reader* r = readers_; r != nullptr; r = r->next_) {
    if (r->shut_.load(relaxed) != 0) continue;
    const bool quiet = r->drains_ == r->drains_at_tick_;
    r->drains_at_tick_ = r->drains_;
    if (quiet_only && !quiet) {
      all = false;
      continue;
    }
    r->shut_.store(1, relaxed);
    any = true;
  }
  if (!any) return all;
  // shut_ before the looks at busy_, against busy_ before shut_ in enter_queue().
  if (guard(Guard::rcu_steal_fence)) heavy_fence();
  for (rcu_reader* r = readers_; r != nullptr; r = r->next_)
    if (r->shut_.load(relaxed) != 0) await(r->busy_, [](u32 busy) { return busy == 0; }, acquire);
  return all;
}

/// Everything from queues that are shut, and from readers that are gone; runner runs it.
rcu_batch rcu_domain::take_shut_locked(rcu_reader& runner) {
  rcu_batch bag;
  for (rcu_reader* r = readers_; r != nullptr; r = r->next_) {
    if (r->shut_.load(relaxed) == 0) continue;
    for (u32 i = 0; i < r->sealed_n_; ++i) bag.append(r->sealed_[i]);
    r->sealed_n_ = 0;
    if (r->first_ != nullptr) bag.append(open_batch_locked(*r));
  }
  bag.append(orphans_);
  orphans_ = {};
  bag.cookie = get_state();
  // What a barrier gave back keeps its number, for those who wait for it.
  runner.run_ticket_ = orphans_ticket_ != 0 ? orphans_ticket_ : ++tickets_;
  orphans_ticket_ = 0;
  return bag;
}

/// A barrier gives up: its bag is left to the worker, or to the next barrier.
void rcu_domain::give_back(rcu_reader& runner, const rcu_batch& bag) {
  {
    locked lock(*this);
    orphans_.append(bag);
    if (orphans_ticket_ == 0 || runner.run_ticket_ < orphans_ticket_) orphans_ticket_ = runner.run_ticket_;
    runner.run_ticket_ = 0;
    runs_.fetch_add(1, release);
  }
  ensure_worker();
}

bool rcu_domain::barrier(rcu_reader& self, wait_watch* p) {
  check_may_wait(self, "barrier");
  if (self.run_ticket_ != 0)
    throw deadlock_error(
        "barrier inside of a barrier of the same thread would wait for the callbacks of that one");
#if defined(PGTBL_WORLD_MODEL)
  if (rcu_reader::by_definition()) return barrier_by_definition(self);
#endif
  rcu_batch bag;
  u64 ticket = 0;
  {
    locked lock(*this);
    shut_locked(false);
    bag = take_shut_locked(self);
    ticket = ++tickets_;
  }
  if (bag.first != nullptr && !wait_gp(&self, bag.cookie, rcu_gp_kind::normal, p)) {
    give_back(self, bag);
    return false;
  }
  run(self, bag);
  return !guard(Guard::rcu_barrier_runners) || wait_for_runners(ticket, p);
}

/// Batches that others had taken before ticket was drawn may still be waiting or running.
bool rcu_domain::wait_for_runners(u64 ticket, wait_watch* p) {
  bool late = false;
  while (!late) {
    const u64 runs = runs_.load(acquire);
    {
      locked lock(*this);
      if (!runner_before_locked(ticket)) return true;
    }
    back_off wait(*this, rcu_gp_kind::normal);
    await_with(
        runs_, [&](u64 now) { return now != runs || late; }, acquire,
        [&](u64 n) {
          wait(n);
          late = n >= back_off::pauses && !wait_watch::lasts(p);
        });
  }
  return false;
}

bool rcu_domain::runner_before_locked(u64 ticket) const {
  if (orphans_ticket_ != 0 && orphans_ticket_ < ticket) return true;
  for (const rcu_reader* r = readers_; r != nullptr; r = r->next_)
    if (r->run_ticket_ != 0 && r->run_ticket_ < ticket) return true;
  return false;
}

// ---- the worker ---------------------------------------------------------------------------------

void rcu_domain::ensure_worker() {
  {
    locked lock(*this);
    if (!worker_started_) {
      worker_started_ = true;
      try {
        worker_ = make<thread>([this] { work(); });
      } catch (const std::system_error&) {
        worker_started_ = false;  // no thread to be had now: the next one that comes by tries again
      }
    }
  }
  kick();
}

void rcu_domain::kick() {
  worker_word_.fetch_add(1, release);
  unpark_one(worker_word_);
}

void rcu_domain::work() {
  name_thread("pgtbl-rcu");
  worker_context_->tid.store(thread_id(), relaxed);
  while (stop_.load(acquire) == 0) {
    const u32 word = worker_word_.load(acquire);
    bool all_shut = false;
    if (run_leftovers(true, all_shut)) continue;
    // A queue that was opened after we looked has changed the word.
    park(worker_word_, word, all_shut ? forever_ns : config_.idle_ns);
  }
}

/// Takes what quiet (or all) threads left, waits and runs it.  False: there was nothing.
bool rcu_domain::run_leftovers(bool quiet_only, bool& all_shut) {
  rcu_reader& me = *worker_reader_;
  rcu_batch bag;
  {
    locked lock(*this);
    all_shut = shut_locked(quiet_only);
    bag = take_shut_locked(me);
    if (bag.first != nullptr) link_locked(me, *worker_context_);
  }
  if (bag.first == nullptr) return false;
  wait_gp(&me, bag.cookie,
          over(config_.soft_objects, config_.soft_bytes) ? rcu_gp_kind::expedited : rcu_gp_kind::normal,
          nullptr);
  run(me, bag);
  unlink(me);
  return true;
}

}  // namespace pgtbl::inline PGTBL_WORLD
