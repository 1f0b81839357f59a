// RCU beside liburcu-memb (its readers inlined) and beside nothing at all.
//
// Each function runs one round of each contender, in turn, and returns one figure for each; the caller
// alternates rounds and takes medians of ratios, so that a machine that changes speed changes both.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "sync/rcu.hpp"

#if defined(PGTBL_HAVE_URCU)
#define _LGPL_SOURCE  // the readers inline
// liburcu's thread-local reader is aligned to 128 bytes.  Used as initial-exec it keeps a module from being
// loaded ("cannot allocate memory in static TLS block"); used as global-dynamic it costs a call for every
// access, which no program pays that is linked with liburcu.  So the inlined readers get its address from a
// pointer that this module keeps: one load more than at their best.
#include <urcu/tls-compat.h>
struct urcu_reader;
constinit thread_local urcu_reader* their_urcu_memb_reader = nullptr;
#pragma push_macro("URCU_TLS")
#undef URCU_TLS
#define URCU_TLS(name) (*their_##name)
#include <urcu/urcu-memb.h>
#pragma pop_macro("URCU_TLS")
extern __thread urcu_reader urcu_memb_reader __attribute__((tls_model("global-dynamic")));
#endif

namespace py = pybind11;
using namespace pgtbl;

namespace {

using our_head = pgtbl::rcu_head;
#if defined(PGTBL_HAVE_URCU)
using their_head = ::rcu_head;
#endif

using figures = std::map<std::string, double>;

u64 clock_ns(clockid_t id) {
  timespec t;
  clock_gettime(id, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000 + static_cast<u64>(t.tv_nsec);
}
u64 thread_ns() { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }
u64 process_ns() { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

double per(u64 ns, u64 n) { return static_cast<double>(ns) / static_cast<double>(n); }

/// Keeps the calling thread on one of the processors that the process may use, so that a thread that is to
/// run beside another really does.
class pinned {
 public:
  explicit pinned(int which) {
    pthread_getaffinity_np(pthread_self(), sizeof before_, &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int c = 0; c < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++c)
      if (CPU_ISSET(c, &allowed()) && which-- == 0) CPU_SET(c, &one);
    if (CPU_COUNT(&one) == 1) pthread_setaffinity_np(pthread_self(), sizeof one, &one);
  }
  pinned(const pinned&) = delete;
  pinned& operator=(const pinned&) = delete;
  ~pinned() { pthread_setaffinity_np(pthread_self(), sizeof before_, &before_); }

 private:
  /// Of the process, before anybody was pinned.
  static const cpu_set_t& allowed() {
    static const cpu_set_t set = [] {
      cpu_set_t s;
      pthread_getaffinity_np(pthread_self(), sizeof s, &s);
      return s;
    }();
    return set;
  }
  cpu_set_t before_;
};

/// This thread's place in both.
struct place {
  explicit place(rcu_domain& d) : domain(d) {
    ctx.tid.store(thread_id(), relaxed);
    domain.attach(reader, ctx);
#if defined(PGTBL_HAVE_URCU)
    urcu_memb_register_thread();
    their_urcu_memb_reader = &urcu_memb_reader;
#endif
  }
  place(const place&) = delete;
  place& operator=(const place&) = delete;
  ~place() {
#if defined(PGTBL_HAVE_URCU)
    urcu_memb_unregister_thread();
#endif
    domain.detach(reader);
  }
  rcu_domain& domain;
  context ctx;
  rcu_reader reader;
};

template <class F>
double loop_ns(u64 n, F&& f) {
  const u64 start = thread_ns();
  for (u64 i = 0; i < n; ++i) {
    f();
    asm volatile("" ::: "memory");
  }
  return per(thread_ns() - start, n);
}

// ---- read sections ------------------------------------------------------------------------------

figures read_section(u64 n) {
  const pinned here(0);
  rcu_domain domain;
  place me(domain);
  rcu_reader& r = me.reader;
  figures f;
  f["empty"] = loop_ns(n, [] {});
  f["pgtbl"] = loop_ns(n, [&] {
    r.read_lock();
    asm volatile("" ::: "memory");
    r.read_unlock();
  });
#if defined(PGTBL_HAVE_URCU)
  f["liburcu"] = loop_ns(n, [] {
    urcu_memb_read_lock();
    asm volatile("" ::: "memory");
    urcu_memb_read_unlock();
  });
#endif
  const rcu_section outer(r);
  f["pgtbl_nested"] = loop_ns(n, [&] {
    r.read_lock();
    asm volatile("" ::: "memory");
    r.read_unlock();
  });
  return f;
}

// ---- grace periods ------------------------------------------------------------------------------

void spin_ns(u64 ns) {
  if (ns == 0) return;
  const u64 until = now_ns() + ns;
  while (now_ns() < until) cpu_relax();
}

/// Runs body in a thread with a place of its own, until the scope ends.
class companion {
 public:
  template <class F>
  companion(rcu_domain& d, F body)
      : thread_([this, &d, body] {
          const pinned here(1);
          place p(d);
          ready_.store(true);
          while (!stop_.load(std::memory_order_relaxed)) body(p);
        }) {
    while (!ready_.load()) std::this_thread::yield();
  }
  companion(const companion&) = delete;
  companion& operator=(const companion&) = delete;
  ~companion() {
    stop_.store(true);
    thread_.join();
  }

 private:
  std::atomic<bool> ready_{false}, stop_{false};
  std::thread thread_;
};

/// Pauses of up to 100 us in between: each call meets the reader's sections at another place.
template <class F>
double median_us(u64 n, F&& f) {
  std::vector<u64> samples(n);
  u64 dice = 1;
  for (u64& s : samples) {
    dice = dice * 6364136223846793005 + 1442695040888963407;
    spin_ns((dice >> 33) % 100'000);
    const u64 start = now_ns();
    f();
    s = now_ns() - start;
  }
  std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(n / 2), samples.end());
  return static_cast<double>(samples[n / 2]) * 1e-3;
}

/// mode: "idle" (a reader that sleeps), "running" (one in short sections), "sections" (one in 50 us sections).
/// The reader of each contender uses that contender's sections alone.
figures grace_period(const std::string& mode, u64 n) {
  const pinned here(0);
  rcu_domain domain;
  place me(domain);
  const u64 inside = mode == "sections" ? 50'000 : 0;
  const bool idle = mode == "idle";
  figures f;
  {
    companion reader(domain, [=](place& p) {
      if (idle) return sleep_ns(100'000'000);
      p.reader.read_lock();
      spin_ns(inside);
      p.reader.read_unlock();
    });
    f["pgtbl"] = median_us(n, [&] { domain.synchronize_expedited(me.reader); });
    f["pgtbl_normal"] = median_us(n, [&] { domain.synchronize(me.reader); });
  }
#if defined(PGTBL_HAVE_URCU)
  {
    companion reader(domain, [=](place&) {
      if (idle) return sleep_ns(100'000'000);
      urcu_memb_read_lock();
      spin_ns(inside);
      urcu_memb_read_unlock();
    });
    f["liburcu"] = median_us(n, [] { urcu_memb_synchronize_rcu(); });
  }
#endif
  return f;
}

// ---- callbacks ----------------------------------------------------------------------------------

void nothing(context&, our_head*) {}

/// Queueing alone, in bursts of less than a batch, between which the queue is emptied untimed.
figures enqueue(u64 bursts) {
  const pinned here(0);
  constexpr u64 burst = 240;
  rcu_domain domain;
  place me(domain);
  figures f;
  std::vector<our_head> heads(burst);
  u64 total = 0;
  for (u64 b = 0; b < bursts; ++b) {
    domain.call(me.reader, &heads[0], nothing, 0);  // opens the queue that the barrier shut
    const u64 start = thread_ns();
    for (u64 i = 1; i < burst; ++i) domain.call(me.reader, &heads[i], nothing, 0);
    total += thread_ns() - start;
    domain.barrier(me.reader);
  }
  f["pgtbl"] = per(total, bursts * (burst - 1));
#if defined(PGTBL_HAVE_URCU)
  std::vector<their_head> theirs(burst * bursts);
  const auto none = [](their_head*) {};
  urcu_memb_call_rcu(&theirs[0], none);  // makes the thread
  urcu_memb_barrier();
  total = 0;
  for (u64 b = 0; b < bursts; ++b) {
    const u64 start = thread_ns();
    for (u64 i = 1; i < burst; ++i) urcu_memb_call_rcu(&theirs[b * burst + i], none);
    total += thread_ns() - start;
  }
  f["liburcu"] = per(total, bursts * (burst - 1));
  urcu_memb_barrier();
#endif
  return f;
}

constexpr u64 page = 4096;

/// Pages of 4 KiB: a list of the owner's, and one that callbacks in other threads push to.
template <class Head>
struct page_pool {
  struct block {
    Head head;
    block* next;
    page_pool* home;
    char bytes[page - sizeof(Head) - 2 * sizeof(void*)];
  };
  static_assert(sizeof(block) == page);

  block* get() {
    if (mine == nullptr) mine = returned.exchange(nullptr, std::memory_order_acquire);
    if (mine == nullptr) mine = fresh();
    block* b = mine;
    mine = b->next;
    return b;
  }
  void put(block* b) {
    if (owner == std::this_thread::get_id()) {  // ours mostly comes back in the thread that retired it
      b->next = mine;
      mine = b;
      return;
    }
    b->next = returned.load(std::memory_order_relaxed);
    while (
        !returned.compare_exchange_weak(b->next, b, std::memory_order_release, std::memory_order_relaxed)) {}
  }
  block* fresh() {
    constexpr u64 n = 64;
    slabs.emplace_back(static_cast<char*>(std::aligned_alloc(page, n * page)), std::free);
    block* first = nullptr;
    for (u64 i = n; i-- > 0;) {
      auto* b = new (slabs.back().get() + i * page) block;
      b->home = this;
      b->next = first;
      first = b;
    }
    return first;
  }
  double held_mb() const { return static_cast<double>(slabs.size() * 64 * page) * 1e-6; }

  std::thread::id owner = std::this_thread::get_id();
  block* mine = nullptr;
  std::atomic<block*> returned{nullptr};
  std::vector<std::unique_ptr<char, decltype(&std::free)>> slabs;
};

/// CPU time of the whole process for one page taken from a pool, written to, and retired; and what the pool grew to.
figures retire_page(u64 n, bool reader_runs) {
  const pinned here(0);
  figures f;
  rcu_domain domain;
  place me(domain);
  std::unique_ptr<companion> reader;
  const auto tiny = [](place& p) {
    p.reader.read_lock();
    p.reader.read_unlock();
  };
  {
    using pool_t = page_pool<our_head>;
    static pool_t pool;  // kept: its first touches are the warm-up's
    pool.owner = std::this_thread::get_id();
    if (reader_runs) reader = std::make_unique<companion>(domain, tiny);
    const u64 start = reader_runs ? thread_ns() : process_ns();
    for (u64 i = 0; i < n; ++i) {
      pool_t::block* b = pool.get();
      b->bytes[0] = 1;
      domain.call(
          me.reader, &b->head,
          [](context&, our_head* h) {
            auto* p = reinterpret_cast<pool_t::block*>(h);
            p->home->put(p);
          },
          page);
    }
    f["pgtbl"] = per((reader_runs ? thread_ns() : process_ns()) - start, n);
    domain.barrier(me.reader);
    f["pgtbl_held_mb"] = pool.held_mb();
    reader.reset();
  }
#if defined(PGTBL_HAVE_URCU)
  {
    using pool_t = page_pool<their_head>;
    static pool_t pool;  // kept: its first touches are the warm-up's
    pool.owner = std::this_thread::get_id();
    if (reader_runs)
      reader = std::make_unique<companion>(domain, [](place&) {
        urcu_memb_read_lock();
        urcu_memb_read_unlock();
      });
    const u64 start = reader_runs ? thread_ns() : process_ns();
    for (u64 i = 0; i < n; ++i) {
      pool_t::block* b = pool.get();
      b->bytes[0] = 1;
      urcu_memb_call_rcu(&b->head, [](their_head* h) {
        auto* p = reinterpret_cast<pool_t::block*>(h);
        p->home->put(p);
      });
    }
    f["liburcu"] = per((reader_runs ? thread_ns() : process_ns()) - start, n);
    urcu_memb_barrier();
    f["liburcu_held_mb"] = pool.held_mb();
    reader.reset();
  }
#endif
  return f;
}

/// Peak of pending callbacks while a reader stays in its section for 300 ms and an updater retires at full speed.
figures stalled_backlog(u64 hard_limit) {
  struct node {
    our_head head;
    char rest[48];
  };
  rcu_config config;
  config.hard_objects = hard_limit;
  config.soft_objects = hard_limit / 4;
  config.hard_bytes = config.soft_bytes = ~u64{0};
  rcu_domain domain(config);
  place me(domain);
  std::atomic<int> state{0};
  std::thread stalled([&] {
    place p(domain);
    p.reader.read_lock();
    state.store(1);
    sleep_ns(300'000'000);
    p.reader.read_unlock();
    state.store(2);
  });
  while (state.load() == 0) std::this_thread::yield();
  u64 n = 0;
  for (; state.load(std::memory_order_relaxed) == 1; ++n)
    domain.call(
        me.reader, &(new node)->head, [](context&, our_head* h) { delete reinterpret_cast<node*>(h); },
        sizeof(node));
  stalled.join();
  domain.barrier(me.reader);
  figures f;
  f["pgtbl_peak"] = static_cast<double>(domain.stats().pending_max);
  f["limit"] = static_cast<double>(hard_limit);
  f["retired"] = static_cast<double>(n);
  return f;
}

template <class F>
auto without_gil(F&& f) {
  const py::gil_scoped_release nogil;
  return f();
}

}  // namespace

void bind_bench_rcu(py::module_& m) {
#if defined(PGTBL_HAVE_URCU)
  m.attr("has_liburcu") = true;
#else
  m.attr("has_liburcu") = false;
#endif
  m.def(
      "rcu_read_section", [](u64 n) { return without_gil([&] { return read_section(n); }); }, py::arg("n"),
      "ns per section: empty loop, pgtbl, pgtbl nested, liburcu-memb.");
  m.def(
      "rcu_grace_period",
      [](const std::string& mode, u64 n) { return without_gil([&] { return grace_period(mode, n); }); },
      py::arg("mode"), py::arg("n"),
      "Median us of n grace periods beside a reader that is idle, running, or in 50 us sections.");
  m.def(
      "rcu_enqueue", [](u64 bursts) { return without_gil([&] { return enqueue(bursts); }); },
      py::arg("bursts"), "ns per callback queued.");
  m.def(
      "rcu_retire_page", [](u64 n, bool r) { return without_gil([&] { return retire_page(n, r); }); },
      py::arg("n"), py::arg("reader_runs"), "ns of CPU per page of 4 KiB retired, and MB held.");
  m.def(
      "rcu_stalled_backlog", [](u64 limit) { return without_gil([&] { return stalled_backlog(limit); }); },
      py::arg("limit"), "Peak of pending callbacks under a reader stalled for 300 ms.");
}
