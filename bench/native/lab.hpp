// lab.hpp -- what the loops that drive whole machines share: clocks, a machine with one program, a real mapping.
#pragma once
#include <pybind11/pybind11.h>

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "mm/access.hpp"
#include "mm/machine.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl_bench {

using namespace pgtbl;
using pgtbl::access;  // not <unistd.h>'s
using figures = std::map<std::string, std::vector<double>>;

// ---------------------------------------------------------------- clocks and threads

inline u64 clock_ns(clockid_t id) {
  timespec t;
  clock_gettime(id, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000 + static_cast<u64>(t.tv_nsec);
}
inline u64 thread_ns() { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }
inline double per(u64 ns, u64 n) { return static_cast<double>(ns) / static_cast<double>(n); }
inline void keep() { asm volatile("" ::: "memory"); }

/// ns a call of f(i), by the thread's CPU clock.  A function of its own with a copy of its own of what f holds,
/// so that no loop is short of registers.
template <class F>
[[gnu::noinline]] double loop_ns(u64 n, const F& f) {
  F body = f;
  const u64 start = thread_ns();
  for (u64 i = 0; i < n; ++i) body(i);
  return per(thread_ns() - start, n);
}

// ---------------------------------------------------------------- a machine with one program

inline machine_config config_of(const std::string& rules, u64 bytes) {
  machine_config c;
  c.rules = era_named(rules);
  c.memory_bytes = bytes;
  return c;
}

struct lab {
  explicit lab(const std::string& rules = "v6.6", u64 bytes = 256ULL << 20)
      : home(config_of(rules, bytes)), self(*home.cpu_get()), m(*home.new_mm(self)) {
    home.ram.phys.populate();  // a real fault in a simulated one would be timed with it
  }
  ~lab() {
    for (mapping* f : files) mapping_put(self, *f);
    home.close_mm(self, &m);
    home.cpu_put(&self);
  }
  lab(const lab&) = delete;
  lab& operator=(const lab&) = delete;

  va_t map_anon(u64 bytes) {
    mmap_args a;
    a.length = bytes;
    a.shared = false;
    return sys_mmap(self, m, a);
  }
  va_t map_file(u64 bytes, bool shared = true) {
    files.push_back(home.new_mapping(self, bytes));
    mmap_args a;
    a.file = files.back();
    a.length = bytes;
    a.shared = shared;
    return sys_mmap(self, m, a);
  }

  machine home;
  cpu& self;
  mm& m;
  std::vector<mapping*> files;
};

// ---------------------------------------------------------------- the running kernel

/// A real mapping of this process: of a memfd whose pages are in cache, or of fresh anonymous memory.
class real_area {
 public:
  real_area(u64 bytes, bool file) : bytes_(bytes), fd_(file ? memfd_create("pgtbl_bench", MFD_CLOEXEC) : -1) {
    if (file && ftruncate(fd_, static_cast<off_t>(bytes)) != 0) throw value_error("no memfd");
    // Aligned to the extent, as the laboratory's own mmap does it.
    reserved_ = static_cast<char*>(
        mmap(nullptr, bytes + pmd_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    at_ = reserved_ + (pmd_size - reinterpret_cast<std::uintptr_t>(reserved_) % pmd_size) % pmd_size;
    const int kind = file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    if (mmap(at_, bytes, PROT_READ | PROT_WRITE, kind | MAP_FIXED, fd_, 0) == MAP_FAILED)
      throw value_error("no mmap");
    if (!file) madvise(at_, bytes, MADV_NOHUGEPAGE);
    std::memset(at_, 1, bytes);
  }
  ~real_area() {
    munmap(reserved_, bytes_ + pmd_size);
    if (fd_ >= 0) close(fd_);
  }
  real_area(const real_area&) = delete;
  real_area& operator=(const real_area&) = delete;

  void forget() { madvise(at_, bytes_, MADV_DONTNEED); }
  char* at() { return at_; }
  int fd() const { return fd_; }

 private:
  u64 bytes_;
  int fd_;
  char* reserved_;
  char* at_;
};

template <class F>
auto without_gil(F&& f) {
  const pybind11::gil_scoped_release nogil;
  ticks_to_ns(0);  // calibrates, once, outside of every measurement
  return f();
}

}  // namespace pgtbl_bench
