// Large programs: faults among many VMAs, and fork, exit and munmap with a GiB populated, beside the running kernel's.
//
// As in mm_bench.cpp, contenders alternate round by round, and what is timed is this thread's CPU time.
#include <pybind11/stl.h>

#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <random>

#include "lab.hpp"

namespace py = pybind11;
using namespace pgtbl_bench;

namespace {

using pgtbl_bench::access;  // not <unistd.h>'s

// ---------------------------------------------------------------- faults among many VMAs

/// A program with `count` VMAs, of which ten, spread evenly over all, are touched: the working set is the same for any count.
/// The others have a page each.  Holes between them keep VMAs from merging.
class crowd {
 public:
  static constexpr u64 touched = 10, pages = 256;  // VMAs of the working set, and pages of each

  crowd(const std::string& rules, u64 count, bool anon) : l_(rules, 64ULL << 20) {
    mapping* const file = anon ? nullptr : l_.home.new_mapping(l_.self, touched * pages * page_size);
    if (file != nullptr) l_.files.push_back(file);
    va_t at = pmd_size;
    for (u64 i = 0; i < count; ++i) {
      const bool chosen = i % (count / touched) == 0 && where_.size() < touched * pages;
      mmap_args a;
      a.addr = at;
      a.fixed = true;
      a.shared = false;
      a.length = chosen ? pages * page_size : page_size;
      if (chosen) {
        a.file = file;
        a.shared = file != nullptr;
        a.offset = where_.size() * page_size;
        for (u64 k = 0; k < pages; ++k) where_.push_back(at + k * page_size);
        starts_.push_back(at);
      }
      sys_mmap(l_.self, l_.m, a);
      at += a.length + page_size;
    }
    std::shuffle(where_.begin(), where_.end(), std::mt19937_64(3));
    fault_ns();  // the file's pages come into the cache, the tables into being
  }

  /// ns a store to a page that is not mapped.
  double fault_ns() {
    for (const va_t at : starts_) sys_madvise(l_.self, l_.m, at, pages * page_size, madv_dontneed);
    const u64 before = l_.self.led.get(event::fault);
    const double ns = loop_ns(where_.size(), [&self = l_.self, &m = l_.m, at = where_.data()](u64 i) {
      mm_touch(self, m, at[i], access::write);
    });
    if (l_.self.led.get(event::fault) - before != where_.size()) throw value_error("a touch was no fault");
    return ns;
  }

 private:
  lab l_;
  std::vector<va_t> where_, starts_;
};

figures fault_among(u32 rounds, u64 count, const std::string& rules) {
  figures f;
  for (const bool anon : {true, false}) {
    crowd few(rules, 10, anon), many(rules, count, anon);
    const std::string kind = anon ? "anon" : "file";
    for (u32 r = 0; r < rounds; ++r) {
      f[kind + ".few"].push_back(few.fault_ns());
      f[kind + ".many"].push_back(many.fault_ns());
    }
  }
  return f;
}

// ---------------------------------------------------------------- fork, exit and munmap

double ms(double ns) { return 1e-6 * ns; }

void simulated_life(u64 bytes, const std::string& rules, figures& f) {
  // Two tables a page table page's reach, for parent and child.
  lab l(rules, bytes + bytes / 8 + (64ULL << 20));
  const va_t at = l.map_anon(bytes);
  for (u64 i = 0; i < bytes; i += page_size) mm_touch(l.self, l.m, at + i, access::write);
  mm* child = nullptr;
  f["fork.simulated"].push_back(ms(loop_ns(1, [&](u64) { child = sys_fork(l.self, l.m); })));
  f["exit.simulated"].push_back(ms(loop_ns(1, [&](u64) { l.home.close_mm(l.self, child); })));
  f["munmap.simulated"].push_back(ms(loop_ns(1, [&](u64) { sys_munmap(l.self, l.m, at, bytes); })));
}

/// fork and munmap as this thread sees them; the child's exit is its own time, as the kernel accounts for it.
void real_life(u64 bytes, figures& f) {
  auto* const at = static_cast<char*>(
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (at == MAP_FAILED) throw value_error("no mmap");
  madvise(at, bytes, MADV_NOHUGEPAGE);
  for (u64 i = 0; i < bytes; i += page_size) at[i] = 1;
  pid_t child = 0;
  f["fork.real"].push_back(ms(loop_ns(1, [&](u64) {
    child = fork();
    if (child == 0) _exit(0);
  })));
  rusage used{};
  double exit_ms = 0;
  if (child > 0 && wait4(child, nullptr, 0, &used) == child)
    exit_ms =
        1e3 * static_cast<double>(used.ru_stime.tv_sec) + 1e-3 * static_cast<double>(used.ru_stime.tv_usec);
  f["exit.real"].push_back(exit_ms);
  f["munmap.real"].push_back(ms(loop_ns(1, [&](u64) { munmap(at, bytes); })));
}

figures life(u32 rounds, u64 bytes, const std::string& rules) {
  figures f;
  for (u32 r = 0; r < rounds; ++r) {
    simulated_life(bytes, rules, f);
    real_life(bytes, f);
  }
  return f;
}

}  // namespace

void bind_bench_large(py::module_& m) {
  using namespace py::literals;
  m.def(
      "mm_fault_among",
      [](u32 rounds, u64 count, const std::string& era) {
        return without_gil([&] { return fault_among(rounds, count, era); });
      },
      "rounds"_a = 15, "count"_a = 100'000, "era"_a = "v6.6",
      "ns a fault in ten VMAs of 256 pages, which are all (few), or ten of `count` (many).");
  m.def(
      "mm_life",
      [](u32 rounds, u64 bytes, const std::string& era) {
        return without_gil([&] { return life(rounds, bytes, era); });
      },
      "rounds"_a = 5, "bytes"_a = 1ULL << 30, "era"_a = "v6.6",
      "ms of fork, of the child's exit, and of munmap, with `bytes` of anonymous memory populated in small "
      "pages.");
}
