#include "world/world.hpp"

#if !defined(PGTBL_WORLD_MODEL)
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <new>

namespace pgtbl::inline PGTBL_WORLD {

namespace {

long sys_membarrier(int cmd) { return syscall(SYS_membarrier, cmd, 0, 0); }

bool register_membarrier() {
#if defined(PGTBL_TSAN)
  return false;
#else
  const long have = sys_membarrier(MEMBARRIER_CMD_QUERY);
  return have > 0 && (have & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0 &&
         sys_membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
#endif
}

std::atomic<int> membarrier_state{-1};  // -1 not asked yet, 0 no, 1 yes

long futex(const atomic<u32>& word, int op, u32 value, const timespec* timeout) {
  static_assert(sizeof(atomic<u32>) == sizeof(u32));
  return syscall(SYS_futex, reinterpret_cast<const u32*>(&word), op | FUTEX_PRIVATE_FLAG, value, timeout,
                 nullptr, 0);
}

}  // namespace

bool membarrier_available() {
  int s = membarrier_state.load(relaxed);
  if (s < 0) {
    s = register_membarrier() ? 1 : 0;
    membarrier_state.store(s, relaxed);
  }
  return s == 1;
}

bool set_membarrier_enabled(bool on) {
  const bool before = membarrier_available();
  membarrier_state.store(on && register_membarrier() ? 1 : 0, relaxed);
  return before;
}

void membarrier() {
  // A failure after a successful registration does not happen; a full fence is the best answer left.
  if (!membarrier_available() || sys_membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0) fence(seq_cst);
}

void sleep_ns(u64 ns) {
  timespec t{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  nanosleep(&t, nullptr);
}

u64 now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000 + static_cast<u64>(t.tv_nsec);
}

u64 ticks_to_ns(u64 t) {
  // Two readings 5 ms apart give the rate to about one in ten thousand.
  static const double ns_per_tick = [] {
    const u64 n0 = now_ns(), t0 = ticks();
    while (now_ns() - n0 < 5'000'000) cpu_relax();
    const u64 n1 = now_ns(), t1 = ticks();
    return static_cast<double>(n1 - n0) / static_cast<double>(t1 - t0);
  }();
  return static_cast<u64>(static_cast<double>(t) * ns_per_tick);
}

void park(const atomic<u32>& word, u32 expected, u64 timeout_ns) {
  const timespec t{static_cast<time_t>(timeout_ns / 1'000'000'000),
                   static_cast<long>(timeout_ns % 1'000'000'000)};
  futex(word, FUTEX_WAIT, expected, &t);
}
void unpark_one(const atomic<u32>& word) { futex(word, FUTEX_WAKE, 1, nullptr); }
void unpark_all(const atomic<u32>& word) { futex(word, FUTEX_WAKE, INT_MAX, nullptr); }

u32 thread_id() { return static_cast<u32>(syscall(SYS_gettid)); }

void name_thread(const char* name) { prctl(PR_SET_NAME, name); }

void thread_name(u32 tid, char (&out)[16]) {
  char path[48];
  std::snprintf(path, sizeof path, "/proc/self/task/%u/comm", tid);
  ssize_t n = 0;
  if (const int fd = open(path, O_RDONLY | O_CLOEXEC); fd >= 0) {
    n = read(fd, out, sizeof out - 1);
    close(fd);
  }
  if (n <= 0) n = std::snprintf(out, sizeof out, "?");
  out[n] = 0;
  if (out[n - 1] == '\n') out[n - 1] = 0;
}

namespace {
std::atomic<u32> forks{0};
}  // namespace

u32 fork_generation() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, relaxed); });
  return registered == 0 ? forks.load(relaxed) : static_cast<u32>(getpid());
}

physical::physical(u64 frames) : frames_(frames) {
  void* p = mmap(nullptr, frames << page_shift, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<u8*>(p);
  // The laboratory's own huge pages would come and go inside the latencies that it measures.
  madvise(p, frames << page_shift, MADV_NOHUGEPAGE);
}

physical::~physical() { munmap(base_, frames_ << page_shift); }

void physical::clear_page(pfn_t pfn) { std::memset(bytes(pfn), 0, page_size); }
void physical::fill_table(pgtable_t t, u64 word) {
  const u64 first = static_cast<u64>(t) << pgtable_shift;
  for (u64 at = first; at < first + (u64{1} << pgtable_shift); at += sizeof word) store_word(0, at, word);
}
void physical::copy_page(pfn_t to, pfn_t from) { std::memcpy(bytes(to), bytes(from), page_size); }

void physical::fill_page(pfn_t pfn, u64 word) {
  for (u64 at = 0; at < page_size; at += 8) store_word(pfn, at, word);
}

void physical::load_bytes(pfn_t pfn, u64 offset, void* out, u64 n) {
  u8* to = static_cast<u8*>(out);
  const u8* from = bytes(pfn) + offset;
  while (n != 0) {
    if (n >= 8 && (reinterpret_cast<std::uintptr_t>(from) & 7) == 0) {
      const u64 w = __atomic_load_n(reinterpret_cast<const u64*>(from), __ATOMIC_RELAXED);
      std::memcpy(to, &w, 8);
      to += 8, from += 8, n -= 8;
    } else {
      *to++ = __atomic_load_n(from++, __ATOMIC_RELAXED);
      --n;
    }
  }
}

void physical::store_bytes(pfn_t pfn, u64 offset, const void* in, u64 n) {
  const u8* from = static_cast<const u8*>(in);
  u8* to = bytes(pfn) + offset;
  while (n != 0) {
    if (n >= 8 && (reinterpret_cast<std::uintptr_t>(to) & 7) == 0) {
      u64 w;
      std::memcpy(&w, from, 8);
      __atomic_store_n(reinterpret_cast<u64*>(to), w, __ATOMIC_RELAXED);
      to += 8, from += 8, n -= 8;
    } else {
      __atomic_store_n(to++, *from++, __ATOMIC_RELAXED);
      --n;
    }
  }
}

void physical::populate() {
#ifdef MADV_POPULATE_WRITE
  if (madvise(base_, frames_ << page_shift, MADV_POPULATE_WRITE) == 0) return;
#endif
  for (u64 f = 0; f < frames_; ++f) store_word(f, 0, load_word(f, 0));
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
