// A domain and its readers: attaching, sections, leaving, and what is counted.  Grace periods are in rcu_gp.cpp,
// callbacks in rcu_callbacks.cpp.
#include "base/errors.hpp"
#include "sync/rcu_internal.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {
constexpr u64 objects_per_batch = 64, bytes_per_batch = 256ULL << 10;
u64 at_least_one(u64 a) { return a == 0 ? 1 : a; }
}  // namespace

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
