// The mm beside what bounds it: walks beside plain loads of the same tables, simulated faults beside the
// kernel's own, walkers beside a collapser and beside a thread that only copies.
//
// Each function alternates its contenders round by round and returns a list of figures for each; the caller
// takes medians and medians of ratios, so that a machine that changes speed changes both.  What runs on one
// thread is timed by that thread's CPU clock, which preemption does not move; what waits for others by the
// wall clock, in batches, of which those are left out in which the thread lost its core to another program.
#include <pybind11/stl.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <thread>

#include "khugepaged/madvise.hpp"
#include "lab.hpp"
#include "sync/seqcount.hpp"

namespace py = pybind11;
using namespace pgtbl;
using namespace pgtbl_bench;

namespace {

using pgtbl_bench::access;  // not <unistd.h>'s

/// How often this thread has lost its core to another.
long preemptions() {
  rusage r;
  getrusage(RUSAGE_THREAD, &r);
  return r.ru_nivcsw;
}

/// Two threads that share a core do not meet: each gets one of those that we may use.
void pin(u32 i) {
  cpu_set_t may, one;
  CPU_ZERO(&one);
  if (sched_getaffinity(0, sizeof may, &may) != 0) return;
  u32 left = i % static_cast<u32>(CPU_COUNT(&may));
  for (int c = 0; c < CPU_SETSIZE; ++c)
    if (CPU_ISSET(c, &may) && left-- == 0) CPU_SET(c, &one);
  sched_setaffinity(0, sizeof one, &one);
}

// ---------------------------------------------------------------- walks

/// The limit: four loads, each entry decoded, and a look whether it leads on.  No section, no handle, no look at
/// what kind of entry the PMD is.  Load is how a word is read: as C++ must while others write to it (on x86 a
/// plain load), or as if the tables never changed, which lets the compiler fold one addition more.
template <class Load>
inline u64 bare_walk(cpu& self, const mm_tables& t, va_t va, Load load) {
  const u8* base = self.ram->phys.bytes(0);
  const auto entry = [=](u64 table, unsigned shift) {
    return load(reinterpret_cast<const u64*>(base + index_at(va, shift) * 8 + table));
  };
  const u64 pgd = load(reinterpret_cast<const u64*>(t.pgd) + index_at(va, pgd_shift));
  if ((pgd & bit_present) == 0) return 0;
  const u64 pud = entry(pgd & pfn_field, pud_shift);
  if ((pud & bit_present) == 0) return 0;
  const u64 pmd = entry(pud & pfn_field, pmd_shift);
  if ((pmd & bit_present) == 0) return 0;
  return entry(pmd & pfn_field, page_shift);
}
inline u64 relaxed_load(const u64* p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
inline u64 racy_load(const u64* p) { return *p; }

/// The same through the helpers: a section of its own, a PMD that is looked at, a handle that unmaps.
inline u64 mapped_walk(cpu& self, const mm_tables& t, va_t va) {
  const pmd_ref pmdp = pmd_offset(self, t, va);
  if (!pmdp) return 0;
  auto map = pte_offset_map(self, pmdp, va);
  return map ? map->get().v : 0;
}

/// Addresses to walk to, in an order that no predictor knows: `tables` PTE tables, 2,048 pages in all.
struct walked {
  static constexpr u64 count = 2048;

  walked(lab& l, u64 tables) : at(count) {
    const u64 stride = tables * pmd_size / count;
    const va_t start = l.map_anon(tables * pmd_size);
    for (u64 i = 0; i < count; ++i) at[i] = start + i * stride;
    for (const va_t va : at) mm_touch(l.self, l.m, va, access::write);
    std::shuffle(at.begin(), at.end(), std::mt19937_64(1));
  }
  va_t operator[](u64 i) const { return at[i & (count - 1)]; }
  std::vector<va_t> at;
};

/// ns a walk; dependent: where it goes depends on what the walk before found.  A function for each walk, and
/// nothing in it but the loop, so that no contender is short of registers.
template <bool dependent, class Walk>
[[gnu::noinline]] double walk_ns(const va_t* at, u64 n, Walk walk) {
  u64 zero = 0;
  asm volatile("" : "+r"(zero));  // the compiler must not know
  u64 found = 0;
  const u64 start = thread_ns();
  for (u64 i = 0; i < n; ++i) {
    const va_t va = at[i & (walked::count - 1)];
    found = dependent ? walk(va + (found & zero)) : found + walk(va);
    keep();
  }
  asm volatile("" ::"r"(found));
  return per(thread_ns() - start, n);
}

template <bool dependent>
void walk_round(lab& l, const walked& where, u64 n, const std::string& kind, figures& f) {
  cpu& self = l.self;
  const mm_tables& t = l.m;
  const va_t* at = where.at.data();
  f[kind + ".bare"].push_back(
      walk_ns<dependent>(at, n, [&](va_t va) { return bare_walk(self, t, va, relaxed_load); }));
  f[kind + ".mapped"].push_back(walk_ns<dependent>(at, n, [&](va_t va) { return mapped_walk(self, t, va); }));
  f[kind + ".racy"].push_back(
      walk_ns<dependent>(at, n, [&](va_t va) { return bare_walk(self, t, va, racy_load); }));
}

struct no_section {
  explicit no_section(rcu_reader&) {}
};

/// 64 walks in one section: as a lockless walker does, and with pte_offset_map's own sections inside of it.
template <class Section, class Walk>
[[gnu::noinline]] double batch_ns(rcu_reader& reader, const va_t* at, u64 n, Walk walk) {
  u64 found = 0;
  const u64 start = thread_ns();
  for (u64 i = 0; i < n; i += 64) {
    [[maybe_unused]] const Section section(reader);
    for (u64 k = i; k < i + 64; ++k) {
      found += walk(at[k & (walked::count - 1)]);
      keep();
    }
  }
  asm volatile("" ::"r"(found));
  return per(thread_ns() - start, n);
}

void batch_round(lab& l, const walked& where, u64 n, figures& f) {
  cpu& self = l.self;
  const mm_tables& t = l.m;
  const va_t* at = where.at.data();
  const auto bare = [&](va_t va) { return bare_walk(self, t, va, relaxed_load); };
  const auto mapped = [&](va_t va) { return mapped_walk(self, t, va); };
  f["batch.bare"].push_back(batch_ns<no_section>(self.rcu, at, n, bare));
  f["batch.section"].push_back(batch_ns<rcu_section>(self.rcu, at, n, bare));
  f["batch.mapped"].push_back(batch_ns<rcu_section>(self.rcu, at, n, mapped));
}

figures walk(u32 rounds, u64 n, u64 tables) {
  lab l;
  const walked where(l, tables);
  figures f;
  for (u32 r = 0; r < rounds; ++r) {
    walk_round<true>(l, where, n, "dependent", f);
    walk_round<false>(l, where, n, "independent", f);
    batch_round(l, where, n, f);
  }
  return f;
}

/// Walks a microsecond of CPU time, summed over the threads, with sections each.
double walkers_per_us(lab& l, const walked& where, u32 threads, u64 n) {
  std::atomic<u32> ready{0};
  std::vector<double> rate(threads);
  std::vector<std::thread> all;
  for (u32 i = 0; i < threads; ++i)
    all.emplace_back([&, i] {
      pin(i);
      cpu& self = *l.home.cpu_get();
      ready.fetch_add(1);
      while (ready.load() < threads) cpu_relax();
      rate[i] = 1e3 / walk_ns<false>(where.at.data(), n,
                                     [&self, &m = l.m](va_t va) { return mapped_walk(self, m, va); });
      l.home.cpu_put(&self);
    });
  for (auto& t : all) t.join();
  double sum = 0;
  for (const double x : rate) sum += x;
  return sum;
}

figures walk_threads(u32 rounds, u64 n, u32 threads) {
  lab l;
  const walked where(l, 4);
  figures f;
  for (u32 r = 0; r < rounds; ++r) {
    f["one"].push_back(walkers_per_us(l, where, 1, n));
    f["all"].push_back(walkers_per_us(l, where, threads, n));
  }
  return f;
}

// ---------------------------------------------------------------- VMAs

/// What a fault asks of a VMA that it has at hand, without taking its lock: is it whole, is it still in the
/// tree, does it reach here; and afterwards, whether a writer came meanwhile.
inline bool vma_unchanged(const mm& m, const vma& v, va_t va) {
  const u32 seq = v.lock_seq.load(acquire);
  if (seq == m.lock_seq.load(acquire) || v.detached.load(acquire) != 0 || !v.contains(va)) return false;
  fence(acquire);
  return v.lock_seq.load(relaxed) == seq;
}

figures vma_check(u32 rounds, u64 n) {
  lab l;
  const mm& m = l.m;
  const va_t at = l.map_anon(1 << 20);
  const vma& v = *m.vmas.find(at);
  rcu_reader& reader = l.self.rcu;
  const seqcount seq;
  figures f;
  for (u32 k = 0; k < rounds; ++k) {
    f["section"].push_back(loop_ns(n, [&reader](u64) {
      const rcu_section s(reader);
      keep();
    }));
    f["checked"].push_back(loop_ns(n, [&reader, &m, &v, at](u64) {
      const rcu_section s(reader);
      if (!vma_unchanged(m, v, at)) throw value_error("the VMA changed under the benchmark");
      keep();
    }));
    f["seqcount"].push_back(loop_ns(n, [&reader, &seq](u64) {
      const rcu_section s(reader);
      const u32 begun = read_seqcount_begin(seq);
      keep();
      if (read_seqcount_retry(seq, begun)) throw value_error("the count changed under the benchmark");
    }));
  }
  return f;
}

/// ns a look-up among `count` VMAs: the section, the tree, the VMA's read lock too.
figures vma_lookup(u32 rounds, u64 n, u64 count) {
  lab l;
  // Every second page is mapped, so that no two VMAs merge.
  const va_t start = pmd_size;
  for (u64 i = 0; i < count; ++i) {
    mmap_args a;
    a.length = page_size;
    a.addr = start + 2 * i * page_size;
    a.fixed = true;
    a.shared = false;
    sys_mmap(l.self, l.m, a);
  }
  std::vector<va_t> at(4096);
  std::mt19937_64 random(count);
  for (va_t& va : at) va = start + 2 * (random() % count) * page_size;
  const va_t* where = at.data();
  figures f;
  u64 found = 0;
  for (u32 k = 0; k < rounds; ++k) {
    f["section"].push_back(loop_ns(n, [&](u64) {
      const rcu_section s(l.self.rcu);
      keep();
    }));
    f["tree"].push_back(loop_ns(n, [&](u64 i) {
      const rcu_section s(l.self.rcu);
      found += l.m.vmas.find(where[i & 4095]) != nullptr;
    }));
    f["locked"].push_back(
        loop_ns(n, [&](u64 i) { found += lock_vma_under_rcu(l.self, l.m, where[i & 4095]).has_value(); }));
  }
  if (found != 2 * n * rounds) throw value_error("a look-up missed its VMA");
  return f;
}

// ---------------------------------------------------------------- faults, beside the kernel's

/// ns a touched page: all of the area is forgotten, then touched page by page.
double real_touch_ns(real_area& a, u64 pages, bool write) {
  a.forget();
  return loop_ns(pages, [&](u64 i) {
    volatile char* p = a.at() + i * page_size;
    if (write)
      *p = 1;
    else
      (void)*p;
  });
}
double simulated_touch_ns(lab& l, va_t start, u64 pages, access a) {
  sys_madvise(l.self, l.m, start, pages * page_size, madv_dontneed);
  return loop_ns(pages, [&](u64 i) { mm_touch(l.self, l.m, start + i * page_size, a); });
}

/// Per page: stores to fresh anonymous memory; stores to, and loads of, pages in cache.  A load maps 16 pages
/// at a time, here as in the kernel.
figures fault(u32 rounds, u64 pages, const std::string& rules) {
  lab l(rules);
  const va_t anon = l.map_anon(pages * page_size), file = l.map_file(pages * page_size);
  for (u64 i = 0; i < pages; ++i) {
    mm_touch(l.self, l.m, anon + i * page_size, access::write);
    mm_touch(l.self, l.m, file + i * page_size, access::write);
  }
  real_area real_anon(pages * page_size, false), real_file(pages * page_size, true);
  figures f;
  for (u32 r = 0; r < rounds; ++r) {
    f["anon_write.simulated"].push_back(simulated_touch_ns(l, anon, pages, access::write));
    f["anon_write.real"].push_back(real_touch_ns(real_anon, pages, true));
    f["file_write.simulated"].push_back(simulated_touch_ns(l, file, pages, access::write));
    f["file_write.real"].push_back(real_touch_ns(real_file, pages, true));
    f["file_read.simulated"].push_back(simulated_touch_ns(l, file, pages, access::read));
    f["file_read.real"].push_back(real_touch_ns(real_file, pages, false));
  }
  return f;
}

/// Millions of touches a second of CPU time, in one loop over an array of addresses, at random among so many
/// pages: all in the simulated TLB; most left to the simulated walk; most left to the real machine's walk too.
figures touch(u32 rounds, u64 n) {
  lab l;
  constexpr u64 most = 16384;
  const va_t start = l.map_anon(most * page_size);
  for (u64 i = 0; i < most; ++i) mm_touch(l.self, l.m, start + i * page_size, access::write);
  std::mt19937_64 random(7);
  std::vector<va_t> at(n);
  const auto rate = [&](access a) {
    return 1e3 / loop_ns(n, [&self = l.self, &m = l.m, where = at.data(), a](u64 i) {
             mm_touch(self, m, where[i], a);
           });
  };
  figures f;
  for (const u64 pages : {u64{512}, u64{4096}, most}) {
    for (va_t& va : at) va = start + random() % pages * page_size;
    rate(access::write);  // warms up
    for (u32 r = 0; r < rounds; ++r) {
      f["read." + std::to_string(pages)].push_back(rate(access::read));
      f["write." + std::to_string(pages)].push_back(rate(access::write));
    }
  }
  return f;
}

// ---------------------------------------------------------------- calls, beside the kernel's

constexpr double unmeasured = std::numeric_limits<double>::quiet_NaN();  // or refused by the kernel

/// us of one MADV_COLLAPSE of a fully mapped extent of shared memory.
double simulated_collapse_us(lab& l, va_t at, mapping& f, u64 index) {
  file_punch(l.self, f, index * pmd_size, pmd_size);
  for (u64 i = 0; i < pages_per_huge; ++i) mm_touch(l.self, l.m, at + i * page_size, access::write);
  return 1e-3 * loop_ns(1, [&](u64) { sys_madvise(l.self, l.m, at, pmd_size, madv_collapse); });
}
double real_collapse_us(real_area& a) {
  if (fallocate(a.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, pmd_size) != 0) return unmeasured;
  for (u64 i = 0; i < pages_per_huge; ++i) a.at()[i * page_size] = 1;
  int failed = 0;
  const double ns = loop_ns(1, [&](u64) { failed = madvise(a.at(), pmd_size, madv_collapse); });
  return failed == 0 ? 1e-3 * ns : unmeasured;
}

double simulated_mmap_us(lab& l, u64 touched) {
  return 1e-3 * loop_ns(64, [&](u64) {
           const va_t at = l.map_anon(1 << 20);
           for (u64 i = 0; i < touched; ++i) mm_touch(l.self, l.m, at + i * page_size, access::write);
           sys_munmap(l.self, l.m, at, 1 << 20);
         });
}
double real_mmap_us(u64 touched) {
  return 1e-3 * loop_ns(64, [&](u64) {
           auto* at = static_cast<volatile char*>(
               mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
           for (u64 i = 0; i < touched; ++i) at[i * page_size] = 1;
           munmap(const_cast<char*>(at), 1 << 20);
         });
}

/// us a call; NaN where the kernel refused.
figures calls(u32 rounds, const std::string& rules) {
  lab l(rules);
  const va_t at = l.map_file(pmd_size);
  real_area real(pmd_size, true);
  figures f;
  for (u32 r = 0; r < rounds; ++r) {
    f["mmap_munmap.simulated"].push_back(simulated_mmap_us(l, 0));
    f["mmap_munmap.real"].push_back(real_mmap_us(0));
    f["mmap_touch16_munmap.simulated"].push_back(simulated_mmap_us(l, 16));
    f["mmap_touch16_munmap.real"].push_back(real_mmap_us(16));
    f["collapse.simulated"].push_back(simulated_collapse_us(l, at, *l.files[0], 0));
    f["collapse.real"].push_back(real_collapse_us(real));
  }
  return f;
}

// ---------------------------------------------------------------- walkers beside a collapser

/// What a walker did while it was measured.
struct walker_count {
  u64 faults = 0, ns = 0;
  double per_us() const {
    return ns == 0 ? unmeasured : 1e3 * static_cast<double>(faults) / static_cast<double>(ns);
  }
};

/// A program with one area that a walker keeps faulting, and another whose extents are collapsed.
struct beside {
  static constexpr u64 extents = 24, walked_bytes = 32ULL << 20;

  beside(const std::string& rules, bool anon, access a)
      : l(rules, 256ULL << 20),
        how(a),
        range(anon ? l.map_anon(walked_bytes) : l.map_file(walked_bytes)),
        victim(l.map_file(extents * pmd_size)) {
    for (va_t va = range; va < range + walked_bytes; va += page_size)
      mm_touch(l.self, l.m, va, access::write);
  }

  /// Every extent small, and fully mapped: what a collapse finds.
  void prepare() {
    file_punch(l.self, *l.files.back(), 0, extents * pmd_size);
    for (va_t va = victim; va < victim + extents * pmd_size; va += page_size)
      mm_touch(l.self, l.m, va, access::write);
  }
  void collapse_all(cpu& self) { sys_madvise(self, l.m, victim, extents * pmd_size, madv_collapse); }

  /// Touches its area over and over until told to stop; what it counts is the time of the touches alone.
  walker_count walk(cpu& self, const std::atomic<bool>& stop) {
    constexpr va_t batch = 64 * page_size;
    walker_count c;
    va_t at = range + walked_bytes;
    long preempted = preemptions();
    while (!stop.load(std::memory_order_relaxed)) {
      if (at == range + walked_bytes) {
        sys_madvise(self, l.m, range, walked_bytes, madv_dontneed);
        at = range;
      }
      const u64 start = now_ns();
      u32 faults = 0;
      for (const va_t end = at + batch; at < end; at += page_size) faults += mm_touch(self, l.m, at, how);
      const u64 ns = now_ns() - start;
      if (const long now = preemptions(); now != preempted) {
        preempted = now;
        continue;
      }
      c.ns += ns;
      c.faults += faults;
    }
    return c;
  }

  lab l;
  const access how;
  const va_t range, victim;
};

/// Runs other(self) on a core beside a walker; returns what the walker did meanwhile.
walker_count walk_beside(beside& b, const std::function<void(cpu&)>& other) {
  std::atomic<u32> ready{0};
  std::atomic<bool> stop{false};
  walker_count count;
  std::thread walker([&] {
    pin(0);
    cpu& self = *b.l.home.cpu_get();
    sys_madvise(self, b.l.m, b.range, beside::walked_bytes, madv_dontneed);
    ready.fetch_add(1);
    while (ready.load() < 2) cpu_relax();
    count = b.walk(self, stop);
    b.l.home.cpu_put(&self);
  });
  std::thread partner([&] {
    pin(1);
    cpu& self = *b.l.home.cpu_get();
    ready.fetch_add(1);
    while (ready.load() < 2) cpu_relax();
    other(self);
    stop.store(true);
    b.l.home.cpu_put(&self);
  });
  walker.join();
  partner.join();
  return count;
}

/// Copies what a collapse of all copies, page by page from and to as much memory, spread over the same time;
/// spins in between.
void copy_at_rate(std::vector<u8>& buffer, u64 duration_ns) {
  const u64 start = now_ns();
  for (u64 i = 0; i < beside::extents; ++i) {
    u8* from = &buffer[2 * i * pmd_size];
    for (u64 at = 0; at < pmd_size; at += page_size) std::memcpy(from + pmd_size + at, from + at, page_size);
    keep();
    while (now_ns() - start < (i + 1) * duration_ns / beside::extents) cpu_relax();
  }
}

/// Faults a microsecond of a walker: alone, beside a collapser, and beside a thread that copies as much in the
/// same time; the collapser's own us an extent too.  Extents are prepared before each, as this empties caches.
figures collapse_beside(u32 rounds, const std::string& rules, const std::string& kind) {
  beside b(rules, kind == "anon_write", kind == "file_read" ? access::read : access::write);
  std::vector<u8> buffer(2 * beside::extents * pmd_size, 1);
  figures f;
  for (u32 r = 0; r < rounds; ++r) {
    u64 took = 0;
    const auto measure = [&](const char* name, const std::function<void(cpu&)>& other) {
      b.prepare();
      f[name].push_back(walk_beside(b, other).per_us());
    };
    measure("collapser", [&](cpu& self) {
      const u64 start = now_ns();
      b.collapse_all(self);
      took = now_ns() - start;
    });
    f["collapse_us"].push_back(1e-3 * per(took, beside::extents));
    measure("copier", [&](cpu&) { copy_at_rate(buffer, took); });
    measure("alone", [&](cpu&) { sleep_ns(took); });
  }
  return f;
}

}  // namespace

void bind_bench_mm(py::module_& m) {
  using namespace py::literals;
  m.def(
      "mm_walk",
      [](u32 rounds, u64 n, u64 tables) { return without_gil([&] { return walk(rounds, n, tables); }); },
      "rounds"_a = 9, "n"_a = 1'000'000, "tables"_a = 4,
      "ns a walk of four levels, bare and through pte_offset_map: dependent, independent, 64 in a section.");
  m.def(
      "mm_walk_threads",
      [](u32 rounds, u64 n, u32 threads) {
        return without_gil([&] { return walk_threads(rounds, n, threads); });
      },
      "rounds"_a = 9, "n"_a = 1'000'000, "threads"_a = 2,
      "Walks a microsecond, with a section each: of one thread, of all together.");
  m.def(
      "mm_vma_check", [](u32 rounds, u64 n) { return without_gil([&] { return vma_check(rounds, n); }); },
      "rounds"_a = 9, "n"_a = 1'000'000,
      "ns a read section, empty; with the check of a VMA at hand; with a seqcount's begin and retry.");
  m.def(
      "mm_vma_lookup",
      [](u32 rounds, u64 n, u64 count) { return without_gil([&] { return vma_lookup(rounds, n, count); }); },
      "rounds"_a = 9, "n"_a = 200'000, "count"_a = 1000,
      "ns: a read section, one with a look-up among `count` VMAs, lock_vma_under_rcu and its unlock.");
  m.def(
      "mm_fault",
      [](u32 rounds, u64 pages, const std::string& era) {
        return without_gil([&] { return fault(rounds, pages, era); });
      },
      "rounds"_a = 9, "pages"_a = 2048, "era"_a = "v6.6",
      "ns a page touched for the first time, simulated and by the running kernel.");
  m.def(
      "mm_touch", [](u32 rounds, u64 n) { return without_gil([&] { return touch(rounds, n); }); },
      "rounds"_a = 9, "n"_a = 1'000'000, "Millions of touches of mapped pages a second, one C++ call.");
  m.def(
      "mm_calls",
      [](u32 rounds, const std::string& era) { return without_gil([&] { return calls(rounds, era); }); },
      "rounds"_a = 15, "era"_a = "v6.6",
      "us of mmap + munmap of 1 MiB (untouched; 16 pages touched) and of MADV_COLLAPSE of 2 MiB, simulated "
      "and "
      "by the running kernel (NaN: refused).");
  m.def(
      "mm_collapse_beside",
      [](u32 rounds, const std::string& era, const std::string& kind) {
        return without_gil([&] { return collapse_beside(rounds, era, kind); });
      },
      "rounds"_a = 15, "era"_a = "v6.6", "kind"_a = "file_write",
      "Faults a microsecond of one walker (file_write, file_read, anon_write): beside a collapser of other "
      "extents of its mm, beside a thread that copies as much in the same time, and alone.");
}
