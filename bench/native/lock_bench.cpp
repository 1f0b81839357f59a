// The locks against what a program would use instead: loops of nanoseconds, timed here because no timer of
// Python's sees them.  Every comparison alternates its sides, so that a noisy minute hits both.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "base/context.hpp"
#include "sync/rwsem.hpp"
#include "sync/spinlock.hpp"

namespace py = pybind11;
using namespace pgtbl;

namespace {

void work(u64 rounds) {
  u64 x = 1;
  for (u64 i = 0; i < rounds; ++i) {
    x = x * 6364136223846793005ULL + 1;
    asm volatile("" : "+r"(x));
  }
}
void keep() { asm volatile("" ::: "memory"); }

// Two threads that share a core do not meet: each gets one of those that we may use.
void pin(u32 i) {
  cpu_set_t may, one;
  CPU_ZERO(&one);
  if (sched_getaffinity(0, sizeof may, &may) != 0) return;
  u32 left = i % static_cast<u32>(CPU_COUNT(&may));
  for (int c = 0; c < CPU_SETSIZE; ++c)
    if (CPU_ISSET(c, &may) && left-- == 0) CPU_SET(c, &one);
  sched_setaffinity(0, sizeof one, &one);
}

// ---- what is compared: lock() and unlock(), or the read and write halves of both, with a thread's context

struct ptl {
  static constexpr const char* name = "ptl";
  spinlock l;
  hold lock(context& self) { return l.lock(self, lock_class::ptl); }
  void unlock(context& self, hold h) { l.unlock(self, lock_class::ptl, h); }
};
struct posix_spin {
  static constexpr const char* name = "pthread_spin";
  pthread_spinlock_t l;
  posix_spin() { pthread_spin_init(&l, PTHREAD_PROCESS_PRIVATE); }
  hold lock(context&) { return pthread_spin_lock(&l), hold{}; }
  void unlock(context&, hold) { pthread_spin_unlock(&l); }
};
struct std_mutex {
  static constexpr const char* name = "std::mutex";
  std::mutex l;
  hold lock(context&) { return l.lock(), hold{}; }
  void unlock(context&, hold) { l.unlock(); }
};
struct mmap_lock {
  static constexpr const char* name = "mmap_lock";
  rwsem l{lock_class::mmap_read, lock_class::mmap_write};
  hold lock(context& self) { return l.read_lock(self); }
  void unlock(context& self, hold h) { l.read_unlock(self, h); }
  hold write_lock(context& self) { return l.write_lock(self); }
  void write_unlock(context& self, hold h) { l.write_unlock(self, h); }
};
struct std_shared {
  static constexpr const char* name = "std::shared_mutex";
  std::shared_mutex l;
  hold lock(context&) { return l.lock_shared(), hold{}; }
  void unlock(context&, hold) { l.unlock_shared(); }
  hold write_lock(context&) { return l.lock(), hold{}; }
  void write_unlock(context&, hold) { l.unlock(); }
};

// ---- one measurement each

/// ns a pair, on `threads` threads that share one lock.
template <class L>
double pair_ns(u32 threads, u64 pairs) {
  struct alignas(128) shared {
    L l;
  };
  const auto s = std::make_unique<shared>();
  std::atomic<u32> ready{0};
  std::vector<double> ns(threads);
  std::vector<std::thread> all;
  for (u32 i = 0; i < threads; ++i)
    all.emplace_back([&, i] {
      pin(i);
      const auto self = std::make_unique<context>();
      ready.fetch_add(1);
      while (ready.load() < threads) cpu_relax();
      for (u64 k = 0; k < 1000; ++k) s->l.unlock(*self, s->l.lock(*self));
      const u64 start = now_ns();
      for (u64 k = 0; k < pairs; ++k) {
        const hold h = s->l.lock(*self);
        keep();
        s->l.unlock(*self, h);
      }
      ns[i] = static_cast<double>(now_ns() - start) / static_cast<double>(pairs);
    });
  for (auto& t : all) t.join();
  double sum = 0;
  for (const double x : ns) sum += x;
  return sum / threads;
}

/// Sections a microsecond of `threads` threads over `locks` locks, 50 ns inside and 50 ns outside.
template <class L>
double sections_per_us(u32 threads, u32 locks, u64 milliseconds) {
  struct alignas(128) padded {
    L l;
    alignas(64) u64 data[2] = {};
  };
  const auto cells = std::make_unique<padded[]>(locks);
  std::atomic<u32> ready{0};
  std::atomic<bool> stop{false};
  std::atomic<u64> total{0};
  std::vector<std::thread> all;
  for (u32 i = 0; i < threads; ++i)
    all.emplace_back([&, i] {
      const auto self = std::make_unique<context>();
      u64 n = 0, s = 88172645463325252ULL + i * 7919;
      ready.fetch_add(1);
      while (ready.load() < threads) std::this_thread::yield();
      while (!stop.load(std::memory_order_relaxed)) {
        s ^= s << 13, s ^= s >> 7, s ^= s << 17;
        padded& p = cells[s % locks];
        const hold h = p.l.lock(*self);
        ++p.data[0], ++p.data[1];
        work(50);
        p.l.unlock(*self, h);
        work(50);
        ++n;
      }
      total.fetch_add(n);
    });
  while (ready.load() < threads) sleep_ns(100'000);
  const u64 start = now_ns();
  sleep_ns(milliseconds * 1'000'000);
  stop.store(true);
  const u64 ns = now_ns() - start;
  for (auto& t : all) t.join();
  return static_cast<double>(total.load()) * 1e3 / static_cast<double>(ns);
}

/// What one writer waits among looping readers, in ns, entry by entry.  A lock that starves it ends the
/// measurement with the one entry that it got when the readers gave up.
template <class L>
std::vector<double> writer_waits(u32 readers, u64 milliseconds) {
  const auto l = std::make_unique<L>();
  std::atomic<bool> stop{false};
  const u64 end = now_ns() + milliseconds * 1'000'000;
  std::vector<std::thread> all;
  for (u32 i = 0; i < readers; ++i)
    all.emplace_back([&] {
      const auto self = std::make_unique<context>();
      for (u64 n = 1; !stop.load(std::memory_order_relaxed); ++n) {
        const hold h = l->lock(*self);
        work(1000);
        l->unlock(*self, h);
        if (n % 64 == 0 && now_ns() > end + milliseconds * 1'000'000) break;
      }
    });
  std::vector<double> waits;
  const auto self = std::make_unique<context>();
  sleep_ns(2'000'000);
  do {
    const u64 start = now_ns();
    const hold h = l->write_lock(*self);
    waits.push_back(static_cast<double>(now_ns() - start));
    work(200);
    l->write_unlock(*self, h);
    for (const u64 until = now_ns() + 20'000; now_ns() < until;) cpu_relax();
  } while (now_ns() < end);
  stop.store(true);
  for (auto& t : all) t.join();
  return waits;
}

/// While it lives the process has a second thread, so that glibc does not leave out its lock prefixes.
struct second_thread {
  std::atomic<bool> stop{false};
  std::thread t{[this] {
    while (!stop.load()) sleep_ns(1'000'000);
  }};
  ~second_thread() {
    stop.store(true);
    t.join();
  }
};

template <class Ours, class Theirs, class F>
py::dict alternate(u32 rounds, F measure) {
  using result = decltype(measure(static_cast<Ours*>(nullptr)));
  std::vector<result> ours, theirs;
  {
    const py::gil_scoped_release nogil;
    const second_thread other;
    ticks_to_ns(0);  // calibrates, once, outside of the measurement
    for (u32 i = 0; i < rounds; ++i) {
      ours.push_back(measure(static_cast<Ours*>(nullptr)));
      theirs.push_back(measure(static_cast<Theirs*>(nullptr)));
    }
  }
  py::dict d;
  d[Ours::name] = ours;
  d[Theirs::name] = theirs;
  return d;
}

template <class T>
using side = std::remove_pointer_t<T>;

}  // namespace

void bind_bench_locks(py::module_& m) {
  using namespace py::literals;
  m.def(
      "spin_pair",
      [](u32 rounds, u64 pairs) {
        return alternate<ptl, posix_spin>(rounds,
                                          [=](auto* l) { return pair_ns<side<decltype(l)>>(1, pairs); });
      },
      "rounds"_a = 9, "pairs"_a = 1'000'000, "ns a lock and unlock, uncontended: ptl and pthread_spin.");
  m.def(
      "spin_contended",
      [](u32 rounds, u32 threads, u32 locks, u64 milliseconds) {
        return alternate<ptl, std_mutex>(rounds, [=](auto* l) {
          return sections_per_us<side<decltype(l)>>(threads, locks, milliseconds);
        });
      },
      "rounds"_a = 9, "threads"_a = 8, "locks"_a = 64, "milliseconds"_a = 60,
      "Sections a microsecond, 50 ns inside and outside: ptl and std::mutex.");
  m.def(
      "read_pair",
      [](u32 rounds, u32 threads, u64 pairs) {
        return alternate<mmap_lock, std_shared>(
            rounds, [=](auto* l) { return pair_ns<side<decltype(l)>>(threads, pairs); });
      },
      "rounds"_a = 9, "threads"_a = 1, "pairs"_a = 1'000'000,
      "ns a read section: mmap_lock and std::shared_mutex.");
  m.def(
      "writer_waits",
      [](u32 rounds, u32 readers, u64 milliseconds) {
        return alternate<mmap_lock, std_shared>(
            rounds, [=](auto* l) { return writer_waits<side<decltype(l)>>(readers, milliseconds); });
      },
      "rounds"_a = 3, "readers"_a = 4, "milliseconds"_a = 200,
      "ns that a writer waits among looping readers, a list a round: mmap_lock and std::shared_mutex.");
}
