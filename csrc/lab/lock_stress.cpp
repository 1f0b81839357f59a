#include "lab/lock_stress.hpp"

#include <algorithm>
#include <memory>

#include "base/breach.hpp"
#include "sync/rwsem.hpp"
#include "sync/spinlock.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

struct random_stream {
  u64 s;
  u64 next() {
    s ^= s << 13;
    s ^= s >> 7;
    return s ^= s << 17;
  }
  bool percent(u32 p) { return p != 0 && next() % 100 < p; }
};

void work(u64 rounds) {
  volatile u64 x = 1;  // a load and a store a round: about a nanosecond
  for (u64 i = 0; i < rounds; ++i) x = x + i;
}

struct pair_of_words {
  u64 a = 0, b = 0;
  // Volatile: each access is made, and in this order, whatever the compiler thinks of a lock.
  bool write(u64 rounds) {
    volatile u64 &x = a, &y = b;
    const bool whole = x == y;
    x = x + 1;
    work(rounds);
    y = y + 1;
    return whole && x == y;
  }
  bool read(u64 rounds) const {
    const volatile u64 &x = a, &y = b;
    const u64 before = x;
    work(rounds);
    return y == before && x == before;
  }
};

struct alignas(128) lock_worker {
  context self;
  breach_log log;
  thread runner;
  u64 reads = 0, writes = 0, failed = 0, torn = 0;
};

// Runs body(lock_worker, random) in each thread until the time is over.
template <class F>
lock_stress_result run(const lock_stress_options& o, lock_class read, lock_class write, F body) {
  std::vector<std::unique_ptr<lock_worker>> workers;
  atomic<u32> ready{0};
  atomic<bool> stop{false};
  for (u32 i = 0; i < o.threads; ++i) workers.push_back(std::make_unique<lock_worker>());
  for (u32 i = 0; i < o.threads; ++i) {
    lock_worker& w = *workers[i];
    w.self.id = i;
    w.self.breaches = &w.log;
    w.runner = thread([&w, &ready, &stop, &o, &body, i] {
      w.self.tid.store(thread_id(), relaxed);
      random_stream r{o.seed * 0x9e3779b97f4a7c15ULL + i * 88172645463325252ULL + 1};
      ready.fetch_add(1, acq_rel);
      await(ready, [&o](u32 n) { return n > o.threads; }, acquire);
      while (!stop.load(relaxed)) body(w, r);
    });
  }
  await(ready, [&o](u32 n) { return n == o.threads; }, acquire);
  const u64 start = now_ns();
  ready.fetch_add(1, acq_rel);
  sleep_ns(o.milliseconds * 1'000'000);
  stop.store(true, relaxed);
  lock_stress_result all;
  all.nanoseconds = now_ns() - start;
  all.least = ~0ULL;
  for (auto& w : workers) {
    w->runner.join();
    const u64 done = w->reads + w->writes;
    all.reads += w->reads;
    all.writes += w->writes;
    all.failed_tries += w->failed;
    all.torn += w->torn;
    all.least = std::min(all.least, done);
    all.most = std::max(all.most, done);
    all.breaches += w->log.count.load(acquire);
    lock_counts& r = w->self.led.of(read);
    lock_counts& x = w->self.led.of(write);
    all.acquired_write += x.acquired.get();
    all.failed += x.failed.get();
    all.contended += x.contended.get();
    all.wait_ns += x.wait_ns.get();
    if (read == write) continue;
    all.acquired_read += r.acquired.get();
    all.failed += r.failed.get();
    all.contended += r.contended.get();
    all.wait_ns += r.wait_ns.get();
  }
  return all;
}

}  // namespace

lock_stress_result stress_spinlocks(const lock_stress_options& o) {
  struct alignas(128) cell {
    spinlock lock;
    pair_of_words words;
  };
  const auto cells = std::make_unique<cell[]>(o.locks);
  constexpr lock_class c = lock_class::other;
  auto all = run(o, c, c, [&](lock_worker& w, random_stream& r) {
    cell& x = cells[o.locks == 1 ? 0 : r.next() % o.locks];
    hold h;
    if (r.percent(o.try_percent)) {
      const auto t = x.lock.try_lock(w.self, c);
      if (!t) {
        ++w.failed;
        return;
      }
      h = *t;
    } else {
      h = x.lock.lock(w.self, c);
    }
    if (!x.words.write(o.inside)) ++w.torn;
    x.lock.unlock(w.self, c, h);
    ++w.writes;
    work(o.outside);
  });
  u64 counted = 0;
  for (u32 i = 0; i < o.locks; ++i) counted += cells[i].words.a;
  all.lost = all.writes - counted;
  return all;
}

lock_stress_result stress_rwsems(const lock_stress_options& o) {
  struct alignas(128) cell {
    rwsem sem{lock_class::other_read, lock_class::other_write};
    pair_of_words words;
  };
  const auto cells = std::make_unique<cell[]>(o.locks);
  auto all = run(o, lock_class::other_read, lock_class::other_write, [&](lock_worker& w, random_stream& r) {
    cell& x = cells[o.locks == 1 ? 0 : r.next() % o.locks];
    const bool tries = r.percent(o.try_percent);
    std::optional<hold> h;
    if (r.percent(o.write_percent)) {
      h = tries ? x.sem.try_write_lock(w.self) : x.sem.write_lock(w.self);
      if (!h) {
        ++w.failed;
        return;
      }
      if (!x.words.write(o.inside)) ++w.torn;
      ++w.writes;
      if (!r.percent(o.downgrade_percent)) {
        x.sem.write_unlock(w.self, *h);
        work(o.outside);
        return;
      }
      h = x.sem.downgrade(w.self, *h);
    } else {
      h = tries ? x.sem.try_read_lock(w.self) : x.sem.read_lock(w.self);
      if (!h) {
        ++w.failed;
        return;
      }
      ++w.reads;
    }
    if (!x.words.read(o.inside)) ++w.torn;
    x.sem.read_unlock(w.self, *h);
    work(o.outside);
  });
  u64 counted = 0;
  for (u32 i = 0; i < o.locks; ++i) counted += cells[i].words.a;
  all.lost = all.writes - counted;
  return all;
}

writer_wait writer_among_readers(u32 readers, u64 milliseconds, u64 section_ns, u64 pause_ns) {
  rwsem sem{lock_class::other_read, lock_class::other_write};
  std::vector<std::unique_ptr<lock_worker>> workers;
  atomic<bool> stop{false};
  for (u32 i = 0; i < readers; ++i) workers.push_back(std::make_unique<lock_worker>());
  const u64 end = now_ns() + milliseconds * 1'000'000;
  for (auto& w : workers)
    w->runner = thread([&sem, &stop, w = w.get(), section_ns, end, milliseconds] {
      while (!stop.load(relaxed)) {
        const hold h = sem.read_lock(w->self);
        work(section_ns);
        sem.read_unlock(w->self, h);
        // A semaphore that starves the writer must not hang the test that shows it.
        if ((++w->reads & 63) == 0 && now_ns() > end + milliseconds * 1'000'000) break;
      }
    });
  writer_wait out;
  const auto self = std::make_unique<context>();
  do {  // once at least, however late we are
    const u64 start = now_ns();
    const hold h = sem.write_lock(*self);
    out.wait_ns.push_back(now_ns() - start);
    work(200);
    sem.write_unlock(*self, h);
    for (const u64 until = now_ns() + pause_ns; now_ns() < until;) cpu_relax();
  } while (now_ns() < end);
  stop.store(true, relaxed);
  for (auto& w : workers) {
    w->runner.join();
    out.reads += w->reads;
  }
  return out;
}

}  // namespace pgtbl::inline PGTBL_WORLD
