// Grace periods of an RCU domain: one state machine for those who wait, poll, or are full of callbacks.
#include <string>

#include "base/errors.hpp"
#include "base/hooks.hpp"
#include "sync/rcu_internal.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
unsigned log2_bucket(u64 ns) {
  unsigned b = 0;
  while ((ns >>= 1) != 0 && b < rcu_stats::buckets - 1) ++b;
  return b;
}

/// A time that does not come: the wait has no end of its own.
constexpr u64 never = ~u64{0};
}  // namespace

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

/// Looks at every reader.  False: one is still in an older section, and now_ns() has come to `until` (0: no wait).
bool rcu_domain::scan(u64 until) {
  const memory_order order = guard(Guard::rcu_scan_acquire) ? acquire : relaxed;
  locked lock(*this);
  for (rcu_reader* r = readers_; r != nullptr; r = r->next_) {
    if (quiescent(r->word_.load(order))) continue;
    if (until == 0) return false;
    if (!wait_for(*r, lock, until)) return false;  // r stays in the list: unlink() waits for the pin
  }
  return true;
}

bool rcu_domain::wait_for(rcu_reader& reader, locked& lock, u64 until) {
  const memory_order order = guard(Guard::rcu_scan_acquire) ? acquire : relaxed;
  pinned_.store(&reader, relaxed);
  bool gone = false;
  lock.without([&] {
    // The same grace period may have waited for this reader before, on behalf of others who gave up.
    const u64 gp = gp_seq_.load(relaxed);
    if (stall_.reader != &reader || stall_.gp != gp) stall_ = {&reader, gp, 0, 0, config_.stall_ns};
    back_off wait(*this, gp_kind_);
    bool late = false;
    const u64 word = await_with(
        reader.word_, [&](u64 w) { return quiescent(w) || late; }, order,
        [&](u64 n) {
          wait(n);
          if (n < back_off::pauses) return;
          const u64 now = now_ns();
          late = now >= until;
          if (stall_.since == 0) stall_.since = now;
          stall_.waited = now - stall_.since;
          if (stall_.waited < stall_.report_at) return;
          stall_.report_at *= 2;
          report_stall(reader, stall_.waited);
        });
    if (stall_.waited >= config_.stall_ns) longest_stall_ns_.raise_to(stall_.waited);
    gone = quiescent(word);
  });
  pinned_.store(nullptr, release);
  return gone;
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

/// served: no need for it any more, somebody else's grace period served the cookie.
rcu_domain::turn rcu_domain::take_gp_lock(u64 cookie,
                                          [[maybe_unused]] rcu_gp_kind kind,
                                          [[maybe_unused]] wait_watch* p) {
  if (!guard(Guard::rcu_gp_lock)) return passed(cookie) ? turn::served : turn::mine;
#if defined(PGTBL_WORLD_MODEL)
  gp_lock_.take();
  if (!passed(cookie)) return turn::mine;
  gp_lock_.give();
  return turn::served;
#else
  back_off wait(*this, kind);
  for (u64 n = 0;; ++n) {
    if (passed(cookie)) return turn::served;
    if (gp_lock_.try_take()) return turn::mine;
    wait(n);
    if (n >= back_off::pauses && !wait_watch::lasts(p)) return turn::given_up;
  }
#endif
}

void rcu_domain::give_gp_lock() {
  if (guard(Guard::rcu_gp_lock)) gp_lock_.give();
}

/// False: p has given up before the cookie passed.  A grace period that has begun then stays for the next who
/// comes, as a poller's does.
bool rcu_domain::wait_gp(const rcu_reader* self, u64 cookie, rcu_gp_kind kind, wait_watch* p) {
  const bool hurry = kind == rcu_gp_kind::expedited;
  if (hurry) hurry_.fetch_add(1, relaxed);
  bool served = false;
  for (;;) {
    const turn t = take_gp_lock(cookie, kind, p);
    served = t == turn::served;
    if (t != turn::mine) break;
    const u64 until = p == nullptr ? never : p->ask_at;
    bool through = true;
    while (through && !passed(cookie)) {
      if (gp_epoch_ == 0) begin(self, kind);  // else a poller's: finished first, it began too early for us
      through = scan(until);
      if (through) end();
    }
    give_gp_lock();  // also for the question: who answers may want a grace period
    served = through;
    if (served || !wait_watch::lasts(p)) break;
  }
  if (hurry) hurry_.fetch_sub(1, relaxed);
  return served;
}

/// As far as it gets without waiting.
bool rcu_domain::step(const rcu_reader* self, u64 cookie, rcu_gp_kind kind) {
  if (guard(Guard::rcu_gp_lock) && !gp_lock_.try_take()) return passed(cookie);
  while (!passed(cookie)) {
    if (gp_epoch_ == 0) begin(self, kind);
    if (!scan(0)) break;
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

bool rcu_domain::synchronize(rcu_reader& self, wait_watch* p) {
  check_may_wait(self, "synchronize");
#if defined(PGTBL_WORLD_MODEL)
  if (rcu_reader::by_definition()) return synchronize_by_definition(self);
#endif
  return wait_gp(&self, get_state(), rcu_gp_kind::normal, p);
}

bool rcu_domain::synchronize_expedited(rcu_reader& self, wait_watch* p) {
  check_may_wait(self, "synchronize_expedited");
#if defined(PGTBL_WORLD_MODEL)
  if (rcu_reader::by_definition()) return synchronize_by_definition(self);
#endif
  return wait_gp(&self, get_state(), rcu_gp_kind::expedited, p);
}

#if defined(PGTBL_WORLD_MODEL)
bool rcu_domain::synchronize_by_definition(const rcu_reader& self) {
  for (rcu_reader* r = readers_; r != nullptr; r = r->next_)
    if (r != &self) r->spec_.wait_for_section();
  return true;
}

/// The caller's own callbacks, after a grace period: what a worker would do, without another actor.
bool rcu_domain::barrier_by_definition(rcu_reader& self) {
  rcu_head* h = self.first_;
  if (h == nullptr) return true;
  self.first_ = nullptr;
  self.last_ = nullptr;
  synchronize_by_definition(self);
  while (h != nullptr) {
    rcu_head* next = h->next;
    h->func(*self.owner_, h);
    h = next;
  }
  return true;
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
  while (newest < cookie && !poll_wanted_.compare_exchange_weak(newest, cookie, relaxed, relaxed)) {}
  step(&self, cookie, rcu_gp_kind::polled);
  return cookie;
}

bool rcu_domain::poll_state(u64 cookie) {
  check_ours();
  if (passed(cookie)) return true;
  return poll_wanted_.load(relaxed) >= cookie && step(nullptr, cookie, rcu_gp_kind::polled);
}

bool rcu_domain::cond_synchronize(rcu_reader& self, u64 cookie, wait_watch* p) {
  check_may_wait(self, "cond_synchronize");
  return passed(cookie) || wait_gp(&self, get_state(), rcu_gp_kind::normal, p);
}

bool rcu_domain::is_cookie(u64 cookie) const {
  return cookie >= 2 && cookie % 2 == 0 && cookie <= get_state();
}

}  // namespace pgtbl::inline PGTBL_WORLD
