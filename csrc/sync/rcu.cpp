#include "sync/rcu.hpp"

#include <string>
#include <system_error>

#include "base/errors.hpp"
#include "base/hooks.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

constexpr u64 objects_per_batch = 64, bytes_per_batch = 256ULL << 10;
constexpr u32 batches_per_step = 16;        // a membarrier is dear where threads run: one for 1024 callbacks,
constexpr u64 bytes_per_step = 4ULL << 20;  // or for 4 MiB
// A grace period ends for all of them at once.  Who seals a batch pays for two: more, and one call() in a
// thousand would take as long as all the others; fewer, and the backlog would never shrink.
constexpr u32 batches_per_run = 2;
constexpr u64 forever_ns = 3600'000'000'000;

u64 least(u64 a, u64 b) { return a < b ? a : b; }
u64 at_least_one(u64 a) { return a == 0 ? 1 : a; }

unsigned log2_bucket(u64 ns) {
  unsigned b = 0;
  while ((ns >>= 1) != 0 && b < rcu_stats::buckets - 1) ++b;
  return b;
}

/// gp_seq only grows, and will not wrap around.
bool reached(u64 seq, u64 cookie) { return seq >= cookie; }

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

class rcu_domain::locked {
 public:
  explicit locked(const rcu_domain& d) : lock_(d.lock_) { take(); }
  locked(const locked&) = delete;
  locked& operator=(const locked&) = delete;
  ~locked() { lock_.give(); }

  template <class F>
  void without(F&& f) {
    lock_.give();
    f();
    take();
  }

 private:
  void take() {
    if (!lock_.take()) lock_.take_slow();
  }
  lock_word& lock_;
};

/// First pauses, then yields, then sleeps.  It yields for about 60 us (100 us in a hurry), longer than most
/// sections last, since the shortest sleep takes as long.
class rcu_domain::back_off {
 public:
  back_off(const rcu_domain& d, rcu_gp_kind kind) : domain_(d), expedited_(kind == rcu_gp_kind::expedited) {}

  void operator()(u64 n) {
    const bool hurry = expedited_ || domain_.hurry_.load(relaxed) != 0;
    if (n < pauses) {
      cpu_relax();
    } else if (n < pauses + (hurry ? 256 : 160)) {
      yield();
    } else {
      sleep_ns(hurry ? shortest_ns : sleep_ns_);
      sleep_ns_ = least(sleep_ns_ * 2, 1'000'000);
    }
  }
  static constexpr u64 pauses = 128;

 private:
  static constexpr u64 shortest_ns = 20'000;
  const rcu_domain& domain_;
  bool expedited_;
  u64 sleep_ns_ = shortest_ns;
};

// ---- readers ------------------------------------------------------------------------------------

void rcu_reader::lock_slow(u64 w) {
  if (w == detached) throw usage_error("read_lock: this thread is not attached to the RCU domain");
  if ((w & nest_mask) == max_nesting) throw usage_error("read_lock: sections nest at most 32767 deep");
  if ((w & nest_mask) != 0) {
    publish(word_, w + 1, Guard::rcu_announce_release);
    return;
  }
  publish(word_, epoch_->load(acquire) | fenced, Guard::rcu_announce_release);
  // The announcement before the section's loads, against the fence between epoch and scan in begin().
  if (guard(Guard::rcu_reader_fence)) fence(seq_cst);
}

void rcu_reader::unlock_slow(u64 w) {
  if (depth(w) == 0) {
    if (!guard(Guard::rcu_nesting)) return;
    throw usage_error("read_unlock: the thread is not in a read section of this RCU domain");
  }
  const bool outermost = depth(w) == 1 || !guard(Guard::rcu_nesting);
  publish(word_, outermost ? w & fenced : w - 1, Guard::rcu_reader_release);
}

// ---- the domain and its readers -----------------------------------------------------------------

rcu_domain::rcu_domain(const rcu_config& config)
    : worker_reader_(&own_reader_),
      worker_context_(&own_context_),
      config_(config),
      batch_objects_(
          at_least_one(least(objects_per_batch, least(config.soft_objects, config.hard_objects) / 4))),
      batch_bytes_(at_least_one(least(bytes_per_batch, least(config.soft_bytes, config.hard_bytes) / 4))),
      generation_(fork_generation()) {
  ticks_to_ns(0);  // its first call measures the clock for 5 ms: not inside a grace period
}

rcu_domain::~rcu_domain() {
  if (!is_ours()) return;
  if (worker_ != nullptr) {
    stop_.store(1, release);
    kick();
    worker_->join();
    destroy(worker_);
  }
  bool all_shut = false;
  while (run_leftovers(false, all_shut)) {}
  while (readers_ != nullptr) unlink(*readers_);
}

void rcu_domain::check_ours() const {
  if (!is_ours())
    throw closed_error("this RCU domain belongs to the parent process: a forked child makes its own");
}

void rcu_domain::set_worker(rcu_reader& reader, context& owner) {
  worker_reader_ = &reader;
  worker_context_ = &owner;
}

void rcu_domain::attach(rcu_reader& reader, context& owner) {
  check_ours();
  if (reader.attached()) throw usage_error("attach: this reader is attached to an RCU domain already");
  locked lock(*this);
  link_locked(reader, owner);
  attached_.add();
}

void rcu_domain::link_locked(rcu_reader& reader, context& owner) {
  reader.domain_ = this;
  reader.owner_ = &owner;
  reader.epoch_ = &epoch_;
  reader.fences_ = !membarrier_available();
  reader.in_callback_ = false;
  reader.batches_since_step_ = 0;
  reader.bytes_since_step_ = 0;
  reader.prev_ = nullptr;
  reader.next_ = readers_;
  if (readers_ != nullptr) readers_->prev_ = &reader;
  readers_ = &reader;
  reader.word_.store(reader.fences_ ? rcu_reader::fenced : 0, release);
}

void rcu_domain::detach(rcu_reader& reader) {
  if (!is_ours()) {  // the parent's lists and locks are nobody's here
    reader.domain_ = nullptr;
    reader.word_.store(rcu_reader::detached, relaxed);
    return;
  }
  if (reader.domain_ != this) throw usage_error("detach: this reader is not attached to this RCU domain");
  const bool inside = reader.in_section();
  unlink(reader);
  locked lock(*this);
  detached_.add();
  if (!inside) return;
  exited_inside_.add();
  reader.owner_->led.add(event::readers_exited_inside);
}

void rcu_domain::unlink(rcu_reader& reader) {
  reader.word_.store(0, release);  // whatever section there was, its loads are done
  locked lock(*this);
  // A scan that waits for this reader looks at its word without lock: it must have turned away.
  while (pinned_.load(relaxed) == &reader)
    lock.without([&] { await(pinned_, [&](rcu_reader* p) { return p != &reader; }, acquire); });
  seal_locked(reader);
  for (u32 i = 0; i < reader.sealed_n_; ++i) orphans_.append(reader.sealed_[i]);
  reader.sealed_n_ = 0;
  reader.shut_.store(1, relaxed);
  gone_objects_ += reader.queued_.get();
  gone_bytes_ += reader.queued_bytes_.get();
  for (counter* c : {&reader.queued_, &reader.queued_bytes_, &reader.sealed_objects_, &reader.sealed_bytes_})
    c->set(0);
  (reader.prev_ != nullptr ? reader.prev_->next_ : readers_) = reader.next_;
  if (reader.next_ != nullptr) reader.next_->prev_ = reader.prev_;
  reader.domain_ = nullptr;
  reader.word_.store(rcu_reader::detached, relaxed);
}

// ---- grace periods ------------------------------------------------------------------------------

bool rcu_domain::passed(u64 cookie) const { return reached(gp_seq_.load(acquire), cookie); }

bool rcu_domain::others_attached(const rcu_reader* self) const {
  locked lock(*this);
  return readers_ != nullptr && (readers_ != self || self->next_ != nullptr);
}

void rcu_domain::heavy_fence() {
  const u64 t = ticks();
  membarrier();
  if (!membarrier_available()) return;  // it was a plain fence
  membarriers_.fetch_add(1, relaxed);
  membarrier_ticks_.fetch_add(ticks() - t, relaxed);
}

void rcu_domain::begin(const rcu_reader* self, rcu_gp_kind kind) {
  gp_kind_ = kind;
  gp_began_ = ticks();
  gp_seq_.store(gp_seq_.load(relaxed) + 1, release);
  // gp_seq before epoch, against the fence between unlink and gp_seq in get_state(): whoever got a cookie
  // that this grace period serves has unlinked before the fence, so a reader that loads the new epoch,
  // which the scan lets pass, sees the unlink.
  if (guard(Guard::rcu_begin_fence)) fence(seq_cst);
  gp_epoch_ = epoch_.fetch_add(rcu_reader::epoch_one, acq_rel) + rcu_reader::epoch_one;
  // The unlinks before the looks at the readers' words, against announcement before loads in read_lock().
  // Nobody to tell if the caller is the only reader: who attaches later synchronizes through lock_.
  if (guard(Guard::rcu_updater_fence) && others_attached(self)) heavy_fence();
}

/// The reader is outside of sections, or in one that began after the epoch advanced.
bool rcu_domain::quiescent(u64 word) const {
  return (word & rcu_reader::nest_mask) == 0 || word == rcu_reader::detached ||
         (word & ~rcu_reader::low_bits) >= (gp_epoch_ & ~rcu_reader::low_bits) || !guard(Guard::rcu_gp_waits);
}

/// Looks at every reader.  False: one is still in an older section (and wait was false).
bool rcu_domain::scan(bool wait) {
  const memory_order order = guard(Guard::rcu_scan_acquire) ? acquire : relaxed;
  locked lock(*this);
  for (rcu_reader* r = readers_; r != nullptr; r = r->next_) {
    if (quiescent(r->word_.load(order))) continue;
    if (!wait) return false;
    wait_for(*r, lock);  // r stays in the list: unlink() waits for the pin
  }
  return true;
}

void rcu_domain::wait_for(rcu_reader& reader, locked& lock) {
  const memory_order order = guard(Guard::rcu_scan_acquire) ? acquire : relaxed;
  pinned_.store(&reader, relaxed);
  lock.without([&] {
    back_off wait(*this, gp_kind_);
    u64 start = 0, waited = 0, report_at = config_.stall_ns;
    await_with(
        reader.word_, [&](u64 w) { return quiescent(w); }, order,
        [&](u64 n) {
          wait(n);
          if (n < back_off::pauses) return;
          const u64 now = now_ns();
          if (start == 0) start = now;
          waited = now - start;
          if (waited < report_at) return;
          report_at *= 2;
          report_stall(reader, waited);
        });
    if (waited >= config_.stall_ns) longest_stall_ns_.raise_to(waited);
  });
  pinned_.store(nullptr, release);
}

void rcu_domain::report_stall(const rcu_reader& reader, u64 waited_ns) {
  const u64 w = reader.word_.load(relaxed);
  if (quiescent(w)) return;  // it left just now
  stalls_.add();
  longest_stall_ns_.raise_to(waited_ns);
  const rcu_stall_hook* hook = stall_hook_.load(acquire);
  if (hook == nullptr) return;
  rcu_stall s{};
  s.tid = reader.owner_->tid.load(relaxed);
  thread_name(s.tid, s.name);
  s.nesting = rcu_reader::depth(w);
  s.epoch_age = (epoch_.load(relaxed) - w) / rcu_reader::epoch_one;
  s.waited_ns = waited_ns;
  const rcu_stats now = stats();
  s.objects = now.pending;
  s.bytes = now.pending_bytes;
  hook->func(hook->arg, s);
}

void rcu_domain::end() {
  const unsigned kind = static_cast<unsigned>(gp_kind_);
  gp_by_kind_[kind].add();
  latency_[kind][log2_bucket(ticks_to_ns(ticks() - gp_began_))].add();
  gp_epoch_ = 0;
  // All sections that scan() acquired, before the cookies that pass here: pairs with passed().
  gp_seq_.store(gp_seq_.load(relaxed) + 1, release);
}

/// False: no need for it any more, somebody else's grace period served the cookie.
bool rcu_domain::take_gp_lock(u64 cookie, [[maybe_unused]] rcu_gp_kind kind) {
  if (!guard(Guard::rcu_gp_lock)) return !passed(cookie);
#if defined(PGTBL_WORLD_MODEL)
  gp_lock_.take();
  if (!passed(cookie)) return true;
  gp_lock_.give();
  return false;
#else
  back_off wait(*this, kind);
  for (u64 n = 0;; ++n) {
    if (passed(cookie)) return false;
    if (gp_lock_.try_take()) return true;
    wait(n);
  }
#endif
}

void rcu_domain::give_gp_lock() {
  if (guard(Guard::rcu_gp_lock)) gp_lock_.give();
}

void rcu_domain::wait_gp(const rcu_reader* self, u64 cookie, rcu_gp_kind kind) {
  const bool hurry = kind == rcu_gp_kind::expedited;
  if (hurry) hurry_.fetch_add(1, relaxed);
  if (take_gp_lock(cookie, kind)) {
    while (!passed(cookie)) {
      if (gp_epoch_ == 0) begin(self, kind);  // else a poller's: finished first, it began too early for us
      scan(true);
      end();
    }
    give_gp_lock();
  }
  if (hurry) hurry_.fetch_sub(1, relaxed);
}

/// As far as it gets without waiting.
bool rcu_domain::step(const rcu_reader* self, u64 cookie, rcu_gp_kind kind) {
  if (guard(Guard::rcu_gp_lock) && !gp_lock_.try_take()) return passed(cookie);
  while (!passed(cookie)) {
    if (gp_epoch_ == 0) begin(self, kind);
    if (!scan(false)) break;
    end();
  }
  give_gp_lock();
  return passed(cookie);
}

void rcu_domain::check_may_wait(const rcu_reader& self, const char* what) const {
  check_ours();
  if (self.domain_ != this)
    throw usage_error(std::string(what) + ": this thread is not attached to this RCU domain");
  if (self.in_section())
    throw deadlock_error(std::string(what) +
                         " inside a read section of the same RCU domain waits for itself: leave the " +
                         std::to_string(self.nesting()) + " nested section(s) first");
  if (self.in_callback_)
    throw deadlock_error(std::string(what) + " inside an RCU callback: callbacks must not wait");
  might_sleep(self.owner(), what);
}

void rcu_domain::synchronize(rcu_reader& self) {
  check_may_wait(self, "synchronize");
#if defined(PGTBL_WORLD_MODEL)
  if (rcu_reader::by_definition()) return synchronize_by_definition(self);
#endif
  wait_gp(&self, get_state(), rcu_gp_kind::normal);
}

void rcu_domain::synchronize_expedited(rcu_reader& self) {
  check_may_wait(self, "synchronize_expedited");
#if defined(PGTBL_WORLD_MODEL)
  if (rcu_reader::by_definition()) return synchronize_by_definition(self);
#endif
  wait_gp(&self, get_state(), rcu_gp_kind::expedited);
}

#if defined(PGTBL_WORLD_MODEL)
void rcu_domain::synchronize_by_definition(const rcu_reader& self) {
  for (rcu_reader* r = readers_; r != nullptr; r = r->next_)
    if (r != &self) r->spec_.wait_for_section();
}

/// The caller's own callbacks, after a grace period: what a worker would do, without another actor.
void rcu_domain::barrier_by_definition(rcu_reader& self) {
  rcu_head* h = self.first_;
  if (h == nullptr) return;
  self.first_ = nullptr;
  self.last_ = nullptr;
  synchronize_by_definition(self);
  while (h != nullptr) {
    rcu_head* next = h->next;
    h->func(*self.owner_, h);
    h = next;
  }
}
#endif

u64 rcu_domain::get_state() const {
  // The caller's unlinks before the look at gp_seq, against gp_seq before epoch in begin().
  if (guard(Guard::rcu_state_fence)) fence(seq_cst);
  const u64 seq = gp_seq_.load(acquire);
  // While one runs (odd) it may have begun before the caller's unlink: only the one after it will do.
  return (seq + (guard(Guard::rcu_poll_after_full_gp) ? 3 : 2)) & ~u64{1};
}

u64 rcu_domain::start_poll(rcu_reader& self) {
  check_ours();
  const u64 cookie = get_state();
  u64 newest = poll_wanted_.load(relaxed);
  while (!reached(newest, cookie) && !poll_wanted_.compare_exchange_weak(newest, cookie, relaxed, relaxed)) {}
  step(&self, cookie, rcu_gp_kind::polled);
  return cookie;
}

bool rcu_domain::poll_state(u64 cookie) {
  check_ours();
  if (passed(cookie)) return true;
  return reached(poll_wanted_.load(relaxed), cookie) && step(nullptr, cookie, rcu_gp_kind::polled);
}

void rcu_domain::cond_synchronize(rcu_reader& self, u64 cookie) {
  check_may_wait(self, "cond_synchronize");
  if (!passed(cookie)) wait_gp(&self, get_state(), rcu_gp_kind::normal);
}

bool rcu_domain::is_cookie(u64 cookie) const {
  return cookie >= 2 && cookie % 2 == 0 && cookie <= get_state();
}

// ---- callbacks ----------------------------------------------------------------------------------

void rcu_domain::call(rcu_reader& self, rcu_head* head, rcu_callback func, u64 bytes) {
  if (enqueue(self, head, func, bytes)) [[unlikely]]
    flush(self, may::run);
}

void rcu_domain::call_atomic(rcu_reader& self, rcu_head* head, rcu_callback func, u64 bytes) {
  if (enqueue(self, head, func, bytes)) [[unlikely]]
    flush(self, may::not_wait);
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

void rcu_domain::flush(rcu_reader& self, may how) {
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
  if (over(config_.hard_objects, config_.hard_bytes)) throttle(self);
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

void rcu_domain::throttle(rcu_reader& self) {
  might_sleep(self.owner(), "call_rcu above the hard limit");
  hard_throttles_.fetch_add(1, relaxed);
  const u64 start = now_ns();
  while (over(config_.hard_objects, config_.hard_bytes)) {
    wait_gp(&self, get_state(), rcu_gp_kind::expedited);
    run_expired(self, rcu_reader::max_batches);
    if (!over(config_.hard_objects, config_.hard_bytes)) break;
    kick();  // what is left is others'
    sleep_ns(100'000);
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
  runner.run_ticket_ = ++tickets_;
  return bag;
}

void rcu_domain::barrier(rcu_reader& self) {
  check_may_wait(self, "barrier");
#if defined(PGTBL_WORLD_MODEL)
  if (rcu_reader::by_definition()) return barrier_by_definition(self);
#endif
  rcu_batch bag;
  u64 ticket = 0;
  {
    locked lock(*this);
    shut_locked(false);
    bag = take_shut_locked(self);
    ticket = self.run_ticket_;
  }
  if (bag.first != nullptr) wait_gp(&self, bag.cookie, rcu_gp_kind::normal);
  run(self, bag);
  if (guard(Guard::rcu_barrier_runners)) wait_for_runners(ticket);
}

/// Batches that others had taken before ticket was drawn may still be waiting or running.
void rcu_domain::wait_for_runners(u64 ticket) {
  for (;;) {
    const u64 runs = runs_.load(acquire);
    {
      locked lock(*this);
      if (!runner_before_locked(ticket)) return;
    }
    back_off wait(*this, rcu_gp_kind::normal);
    await_with(runs_, [runs](u64 now) { return now != runs; }, acquire, wait);
  }
}

bool rcu_domain::runner_before_locked(u64 ticket) const {
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
          over(config_.soft_objects, config_.soft_bytes) ? rcu_gp_kind::expedited : rcu_gp_kind::normal);
  run(me, bag);
  unlink(me);
  return true;
}

// ---- statistics ---------------------------------------------------------------------------------

rcu_stats rcu_domain::stats() const {
  rcu_stats s;
  for (unsigned k = 0; k < rcu_gp_kinds; ++k) {
    s.by_kind[k] = gp_by_kind_[k].get();
    s.grace_periods += s.by_kind[k];
    for (unsigned b = 0; b < rcu_stats::buckets; ++b) s.latency_ns[k][b] = latency_[k][b].get();
  }
  s.membarriers = membarriers_.load(relaxed);
  s.membarrier_ns = ticks_to_ns(membarrier_ticks_.load(relaxed));
  s.soft_throttles = soft_throttles_.load(relaxed);
  s.hard_throttles = hard_throttles_.load(relaxed);
  s.throttled_ns = throttled_ns_.load(relaxed);
  s.stalls = stalls_.get();
  s.longest_stall_ns = longest_stall_ns_.get();
  s.membarrier = membarrier_available();
  locked lock(*this);
  s.queued = gone_objects_;
  s.queued_bytes = gone_bytes_;
  s.pending = pending_.load(relaxed);
  s.pending_bytes = pending_bytes_.load(relaxed);
  for (const rcu_reader* r = readers_; r != nullptr; r = r->next_) {
    s.queued += r->queued_.get();
    s.queued_bytes += r->queued_bytes_.get();
    s.pending += r->open_objects();
    s.pending_bytes += r->open_bytes();
  }
  s.invoked = invoked_.load(relaxed);
  s.pending_max = pending_max_.get() > s.pending ? pending_max_.get() : s.pending;
  s.pending_bytes_max =
      pending_bytes_max_.get() > s.pending_bytes ? pending_bytes_max_.get() : s.pending_bytes;
  s.readers_detached = detached_.get();
  s.readers = attached_.get() - s.readers_detached;
  s.readers_exited_inside = exited_inside_.get();
  return s;
}

}  // namespace pgtbl::inline PGTBL_WORLD
