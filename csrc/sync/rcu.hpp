// rcu.hpp -- read-copy-update: readers that never wait and never write a shared line.
//
// Problem.  A page table that was taken out of its PMD may still be walked by threads that found it
// before.  It can be freed once they have all left; nobody may count them, because a shared count costs
// more than the walk.
//
// Guarantee.  synchronize() returns after every read section of the domain that began before the call
// has ended, with all that those sections did visible to the caller; a section that begins later sees
// all that the caller did before the call.  call() runs its callback after such a grace period; cookies
// (get_state, start_poll) tell whether one has passed.  Sections nest, and may not wait for a grace
// period of their own domain: that is a deadlock_error.
//
// Method.  Each thread has a reader with one word: the epoch in which its section began, and the nesting;
// zero outside.  A grace period advances the epoch, makes every running thread pass a full barrier
// (membarrier), and looks at each word once: who is outside, or announced the new epoch, is done with what
// was unlinked before.  One barrier and one look are enough:
//   entry   An announcement before the reader's barrier is visible to the look.  One after it belongs to a
//           section whose loads come after the barrier, and so see the unlink.
//   stale   A reader that loads an old epoch, is delayed, and announces it late is only waited for longer.
//   exit    The word is cleared by a release store, and the look acquires it: the section's loads are done.
// Every store to the word releases, the announcement too: the look may meet the announcement of the next
// section, and must then acquire the section before it, whose own store it never saw.
// Where membarrier is missing, readers fence for themselves; that is decided as a reader is attached.
//
// One state machine serves all.  gp_seq is odd while a grace period runs.  A blocking caller, a poller
// and a thread full of callbacks take the same steps (begin, scan, end) under the same lock, gp_lock; a
// cookie names the first value of gp_seq that proves a whole grace period since it was given.  A caller
// that finds another's half-done grace period finishes it, and then runs one of its own.
//
// Callbacks wait in the reader's queue.  The owner appends without a lock or a locked instruction, seals
// a batch every 64 callbacks, takes a step of the state machine every 16 batches, and runs its own expired
// batches, two for each that it seals.  Whoever else needs the queue (a worker thread that comes by when the owner has run
// nothing of it for 10 ms, rcu_barrier, the end of the thread) shuts it first: a flag, a membarrier, and
// a wait for the append in flight.  The next append takes the slow path and opens the queue again.
//
// Limits.  Above the soft limit of pending objects or bytes grace periods are expedited; above the hard
// limit call() waits, unless its thread is in a section or in a callback.
//
// Lock order: gp_lock, then lock.  Callbacks and the stall hook run without lock; nothing that waits for
// a reader holds lock.
//
// Cost.  A section: two loads and two plain stores, about 0.3 ns.  A grace period: one membarrier (0.4 us
// if no other thread runs, about 10 us and 4.5 us of the other's time if one does) and 8 ns a reader.
// call(): about 6 ns; with its callback and its share of the grace periods, 10 ns.
#pragma once
#include "base/context.hpp"
#include "base/guards.hpp"
#include "base/wait_watch.hpp"
#include "world/lock_word.hpp"
#include "world/rcu_spec.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class rcu_domain;

/// What waits for a grace period.  Two words, laid over a field that nobody reads any more.
struct rcu_head {
  rcu_head* next;
  void (*func)(context& self, rcu_head* head);
};

using rcu_callback = void (*)(context& self, rcu_head* head);

/// Callbacks that wait for the same grace period.
struct rcu_batch {
  rcu_head* first = nullptr;
  rcu_head* last = nullptr;
  u64 objects = 0, bytes = 0;
  u64 cookie = 0;

  void append(const rcu_batch& later);
};

/// A store that hands on what was done before it; the guard takes its order away.
template <class T>
void publish(atomic<T>& word, T value, Guard g) {
  if (guard(g)) {
    word.store(value, release);
  } else {
    word.store(value, relaxed);
  }
}

/// One thread's place in one domain.  Everything here but nesting() is for the thread that has it.
class alignas(128) rcu_reader {
 public:
  rcu_reader() = default;
  rcu_reader(const rcu_reader&) = delete;
  rcu_reader& operator=(const rcu_reader&) = delete;

  void read_lock() {
#if defined(PGTBL_WORLD_MODEL)
    if (by_definition()) return spec_.enter();
#endif
    const u64 w = word_.load(relaxed);
    if (w == 0) [[likely]] {
      publish(word_, epoch_->load(acquire), Guard::rcu_announce_release);
    } else if ((w & low_bits) < nest_mask) {
      publish(word_, w + 1, Guard::rcu_announce_release);
    } else {
      lock_slow(w);
    }
    // The announcement before the section's loads: the membarrier of rcu_domain::begin() makes it hold
    // for the processor, this makes it hold for the compiler.
    compiler_barrier();
  }

  void read_unlock() {
#if defined(PGTBL_WORLD_MODEL)
    if (by_definition()) return spec_.leave();
#endif
    compiler_barrier();
    const u64 w = word_.load(relaxed);
    if ((w & low_bits) == 1) [[likely]] {
      publish(word_, u64{0}, Guard::rcu_reader_release);  // the section's loads before rcu_domain::scan()
    } else if ((w & low_bits) - 2 < nest_mask - 1 && guard(Guard::rcu_nesting)) {
      publish(word_, w - 1, Guard::rcu_reader_release);
    } else {
      unlock_slow(w);
    }
  }

  bool in_section() const { return nesting() != 0; }
  u32 nesting() const {
#if defined(PGTBL_WORLD_MODEL)
    if (by_definition()) return spec_.nesting();
#endif
    return depth(word_.load(relaxed));
  }
  bool attached() const { return domain_ != nullptr; }
  rcu_domain* domain() const { return domain_; }
  context& owner() const { return *owner_; }

  static constexpr u32 max_nesting = 0x7fff;

 private:
  friend class rcu_domain;

  // The word: epoch << 16 | fenced << 15 | nesting.  Zero, or `fenced` alone: outside of sections.
  static constexpr u64 nest_mask = 0x7fff;
  static constexpr u64 fenced = 0x8000;  // this reader fences for itself: there is no membarrier
  static constexpr u64 low_bits = nest_mask | fenced;
  static constexpr u64 detached = low_bits;
  static constexpr u64 epoch_one = low_bits + 1;
  static constexpr u32 max_batches = 48;  // three times what waits for one grace period

  static u32 depth(u64 w) { return w == detached ? 0 : static_cast<u32>(w & nest_mask); }
  void lock_slow(u64 w);
  void unlock_slow(u64 w);

  // The queue's owner may append while it is not shut; rcu_domain::shut_locked() is the other side.
  bool enter_queue() {
    busy_.store(1, relaxed);
    if (fences_) {
      fence(seq_cst);
    } else {
      compiler_barrier();  // busy_ before shut_; the membarrier of shut_locked() is the other half
    }
    if (shut_.load(acquire) == 0) [[likely]]
      return true;
    busy_.store(0, release);
    return false;
  }
  void leave_queue() { busy_.store(0, release); }
  void append(rcu_head* head, u64 bytes) {
    if (first_ == nullptr) {
      first_ = head;
    } else {
      last_->next = head;
    }
    last_ = head;
    queued_.add(1);
    queued_bytes_.add(bytes);
  }
  u64 open_objects() const { return queued_.get() - sealed_objects_.get(); }
  u64 open_bytes() const { return queued_bytes_.get() - sealed_bytes_.get(); }

#if defined(PGTBL_WORLD_MODEL)
  // In the model, an engine that explores something else than RCU takes it by its definition.
  static bool by_definition() { return engine::current().abstract_rcu(); }
  rcu_spec spec_;
#endif
  // The line that sections write and grace periods read: nothing else on it changes from section to section.
  atomic<u64> word_{detached};
  const atomic<u64>* epoch_ = nullptr;  // the domain's; stable while attached
  rcu_domain* domain_ = nullptr;        // stable while attached
  context* owner_ = nullptr;            // stable while attached
  bool fences_ = false;                 // stable while attached
  bool in_callback_ = false;            // the owner's
  u32 batches_since_step_ = 0;          // the owner's
  u64 bytes_since_step_ = 0;            // the owner's

  alignas(64) atomic<u32> busy_{0};  // an append is in flight
  atomic<u32> shut_{1};              // the queue is empty, and belongs to the holder of lock
  var<rcu_head*> first_{nullptr};    // the open batch: the owner's; once shut, protected by lock
  rcu_head* last_ = nullptr;
  counter queued_, queued_bytes_;          // ever appended
  counter sealed_objects_, sealed_bytes_;  // of these, sealed or taken away; written under lock

  alignas(64) rcu_batch sealed_[max_batches];  // oldest first; protected by lock
  u32 sealed_n_ = 0;                           // protected by lock
  u32 drains_ = 0, drains_at_tick_ = 0;        // protected by lock; the worker sees from them who was quiet
  u64 run_ticket_ = 0;          // not 0: it runs the batches taken under this number; protected by lock
  rcu_reader* next_ = nullptr;  // the domain's readers; protected by lock
  rcu_reader* prev_ = nullptr;
};

enum class rcu_gp_kind : u8 { normal, expedited, polled };
inline constexpr unsigned rcu_gp_kinds = 3;

/// A reader that has kept a grace period waiting for too long.
struct rcu_stall {
  u32 tid;
  char name[16];  // of the thread
  u32 nesting;
  u64 epoch_age;       // grace periods that began since its section began
  u64 waited_ns;       // so far
  u64 objects, bytes;  // pending callbacks
};

/// Is told of stalls, without any lock held; must not wait for the domain.
struct rcu_stall_hook {
  void (*func)(void* arg, const rcu_stall& stall);
  void* arg;
};

struct rcu_config {
  u64 soft_objects = 16'384;   // above: grace periods are expedited
  u64 hard_objects = 131'072;  // above: call() waits
  u64 soft_bytes = 8ULL << 20;
  u64 hard_bytes = 12ULL << 20;
  u64 stall_ns = 1'000'000'000;  // first report; the next after twice as long, and so on
  u64 idle_ns = 10'000'000;      // the worker takes callbacks whose thread was quiet for this long
};

struct rcu_stats {
  static constexpr unsigned buckets = 40;  // bucket b: 2^b <= ns < 2^(b+1)

  u64 grace_periods = 0;
  u64 by_kind[rcu_gp_kinds] = {};
  u64 latency_ns[rcu_gp_kinds][buckets] = {};  // from begin to end of a grace period
  u64 membarriers = 0, membarrier_ns = 0;
  u64 queued = 0, queued_bytes = 0, invoked = 0;
  u64 pending = 0, pending_bytes = 0;          // now
  u64 pending_max = 0, pending_bytes_max = 0;  // to within an open batch of each thread
  u64 soft_throttles = 0, hard_throttles = 0, throttled_ns = 0;
  u64 stalls = 0, longest_stall_ns = 0;
  u64 readers = 0, readers_detached = 0, readers_exited_inside = 0;
  bool membarrier = false;
};

/// A set of readers, and the grace periods among them.
class rcu_domain {
 public:
  explicit rcu_domain(const rcu_config& config = {});
  /// Joins the worker, waits a grace period and runs what is left.  Readers that are still attached are
  /// detached.  In a forked child: forgets everything, and neither waits nor runs.
  ~rcu_domain();
  rcu_domain(const rcu_domain&) = delete;
  rcu_domain& operator=(const rcu_domain&) = delete;

  /// Gives the reader to the thread of `owner`, which must outlive it.  Owner: the context that callbacks
  /// run by this thread get.
  void attach(rcu_reader& reader, context& owner);
  /// The thread is gone, or gives the reader back; its callbacks are left to others.  A section that it
  /// was in ends here, and is counted.
  void detach(rcu_reader& reader);
  /// Which context and (detached) reader the worker thread has while it runs callbacks; they must outlive
  /// the domain.  To be said before the first call(); without it the domain uses its own.
  void set_worker(rcu_reader& reader, context& owner);

  /// False, here and below: p gave up; without one they wait for as long as it takes.
  bool synchronize(rcu_reader& self, wait_watch* p = nullptr);
  bool synchronize_expedited(rcu_reader& self, wait_watch* p = nullptr);

  /// Runs func(context, head) after a grace period: in this thread, at a later call(), or in the worker.
  /// Callbacks run outside of sections and without locks; they may call(), but must neither block nor throw.
  /// Outside of sections and callbacks call() itself may run expired callbacks, and waits above the hard
  /// limit (or until p gives up, the callback queued all the same): the caller then holds no spinlock.
  void call(rcu_reader& self, rcu_head* head, rcu_callback func, u64 bytes, wait_watch* p = nullptr);
  /// The same for a caller that holds a spinlock: neither runs callbacks nor waits.
  void call_atomic(rcu_reader& self, rcu_head* head, rcu_callback func, u64 bytes);
  /// Waits until every callback that was queued before has run.  Not inside of itself (what p asks).
  bool barrier(rcu_reader& self, wait_watch* p = nullptr);

  /// A cookie that passes once a whole grace period lies behind now.  Starts none.
  u64 get_state() const;
  /// The same, and sees to it that poll_state() gets there without anybody else's grace period.
  u64 start_poll(rcu_reader& self);
  bool poll_state(u64 cookie);
  bool cond_synchronize(rcu_reader& self, u64 cookie, wait_watch* p = nullptr);
  /// Whether get_state() can have given this out.
  bool is_cookie(u64 cookie) const;

  rcu_stats stats() const;
  /// Who is told of stalls; null: nobody.  The hook outlives the domain.
  void set_stall_hook(const rcu_stall_hook* hook) { stall_hook_.store(hook, release); }
  /// False in a forked child: the domain is the parent's.
  bool is_ours() const { return generation_ == fork_generation(); }
  /// closed_error in a forked child.
  void check_ours() const;

 private:
  class locked;  // holds lock_ for a scope
  class back_off;
  enum class may : u8 { run, not_wait };
  enum class turn : u8 { mine, served, given_up };

  // The state machine; all but passed() under gp_lock_.
  bool passed(u64 cookie) const;
  void begin(const rcu_reader* self, rcu_gp_kind kind);
  bool scan(u64 until);
  void end();
  bool wait_gp(const rcu_reader* self, u64 cookie, rcu_gp_kind kind, wait_watch* p);
  bool step(const rcu_reader* self, u64 cookie, rcu_gp_kind kind);
  turn take_gp_lock(u64 cookie, rcu_gp_kind kind, wait_watch* p);
  void give_gp_lock();

  bool quiescent(u64 word) const;
  bool wait_for(rcu_reader& reader, locked& lock, u64 until);
  void report_stall(const rcu_reader& reader, u64 waited_ns);
  bool others_attached(const rcu_reader* self) const;
#if defined(PGTBL_WORLD_MODEL)
  bool synchronize_by_definition(const rcu_reader& self);
  bool barrier_by_definition(rcu_reader& self);
#endif
  void heavy_fence();
  void check_may_wait(const rcu_reader& self, const char* what) const;

  // Callbacks.  "_locked": under lock_.
  bool enqueue(rcu_reader& self, rcu_head* head, rcu_callback func, u64 bytes);
  void enqueue_shut(rcu_reader& self, rcu_head* head, u64 bytes);
  void flush(rcu_reader& self, may how, wait_watch* p);
  void seal_locked(rcu_reader& reader);
  void file_locked(rcu_reader& reader, const rcu_batch& batch);
  rcu_batch open_batch_locked(rcu_reader& reader);
  void run_expired(rcu_reader& self, u32 at_most);
  void run(rcu_reader& self, const rcu_batch& bag);
  void throttle(rcu_reader& self, wait_watch* p);
  bool over(u64 objects, u64 bytes) const;
  bool shut_locked(bool quiet_only);
  rcu_batch take_shut_locked(rcu_reader& runner);
  void give_back(rcu_reader& runner, const rcu_batch& bag);
  bool wait_for_runners(u64 ticket, wait_watch* p);
  bool runner_before_locked(u64 ticket) const;
  void link_locked(rcu_reader& reader, context& owner);
  void unlink(rcu_reader& reader);

  // The worker.
  void ensure_worker();
  void kick();
  void work();
  bool run_leftovers(bool quiet_only, bool& all_shut);

  // Read by every reader, written once a grace period.
  alignas(128) atomic<u64> epoch_{rcu_reader::epoch_one | 1};  // in the form of a reader's word, nesting 1

  alignas(128) atomic<u64> gp_seq_{0};   // odd: a grace period runs; written under gp_lock_
  atomic<u64> poll_wanted_{0};           // the newest cookie that start_poll() gave out
  atomic<u32> hurry_{0};                 // expedited callers that wait
  atomic<rcu_reader*> pinned_{nullptr};  // the reader that a scan waits for; written under lock_

  alignas(128) lock_word gp_lock_;
  var<u64> gp_epoch_{0};  // epoch of the grace period that runs, or 0; protected by gp_lock_
  var<u64> gp_began_{0};  // in ticks; protected by gp_lock_
  rcu_gp_kind gp_kind_ = rcu_gp_kind::normal;  // protected by gp_lock_
  struct {
    const rcu_reader* reader;  // whom grace period gp waits, or has waited, for
    u64 gp, since, waited, report_at;
  } stall_{};  // protected by gp_lock_

  alignas(128) mutable lock_word lock_;
  rcu_reader* readers_ = nullptr;  // protected by lock_
  rcu_batch orphans_;              // of readers that were detached, and given back; protected by lock_
  u64 orphans_ticket_ = 0;         // not 0: under which a barrier had taken some; protected by lock_
  u64 tickets_ = 0;                // protected by lock_
  u64 gone_objects_ = 0, gone_bytes_ = 0;  // queued by readers that were detached; protected by lock_
  bool worker_started_ = false;            // protected by lock_

  atomic<u64> pending_{0}, pending_bytes_{0};  // sealed and not yet run
  atomic<u64> invoked_{0};
  atomic<u64> runs_{0};         // batches run; changes when a run_ticket_ is given back
  atomic<u32> worker_word_{0};  // changes when there may be work
  atomic<u32> stop_{0};
  thread* worker_ = nullptr;  // by pointer: a forked child cannot join it, and leaves it alone
  rcu_reader* worker_reader_;
  context* worker_context_;
  rcu_reader own_reader_;
  context own_context_;

  atomic<const rcu_stall_hook*> stall_hook_{nullptr};
  const rcu_config config_;
  const u64 batch_objects_, batch_bytes_;  // when a batch is sealed
  const u32 generation_;

  // Statistics: written under gp_lock_ (first line) or lock_, except the atomics.
  counter gp_by_kind_[rcu_gp_kinds], latency_[rcu_gp_kinds][rcu_stats::buckets];
  counter stalls_, longest_stall_ns_;
  counter pending_max_, pending_bytes_max_;
  counter attached_, detached_, exited_inside_;
  atomic<u64> membarriers_{0}, membarrier_ticks_{0};
  atomic<u64> soft_throttles_{0}, hard_throttles_{0}, throttled_ns_{0};
};

/// A read section for a scope.
class [[nodiscard]] rcu_section {
 public:
  explicit rcu_section(rcu_reader& self) : self_(self) { self_.read_lock(); }
  rcu_section(const rcu_section&) = delete;
  rcu_section& operator=(const rcu_section&) = delete;
  ~rcu_section() { self_.read_unlock(); }

 private:
  rcu_reader& self_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
