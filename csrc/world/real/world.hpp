// The real end of the seam: std::atomic, threads, futexes, membarrier.
#pragma once
#include <sched.h>

#include <atomic>
#include <thread>
#include <utility>

#include "world/geometry.hpp"
#include "world/real/pool.hpp"

#if defined(__SANITIZE_THREAD__)
#define PGTBL_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PGTBL_TSAN 1
#endif
#endif

namespace pgtbl::inline PGTBL_WORLD {

template <class T>
using atomic = std::atomic<T>;

/// Where a step of the program stands in its source: the model's traces say so, and here it is nothing.
struct where {
  static constexpr where current() { return {}; }
};
template <class T>
T load_at(const atomic<T>& a, memory_order o, where) {
  return a.load(o);
}
template <class T>
void store_at(atomic<T>& a, T v, memory_order o, where) {
  a.store(v, o);
}
template <class T>
T exchange_at(atomic<T>& a, T v, memory_order o, where) {
  return a.exchange(v, o);
}

/// Data that a lock protects: a plain value here, race-checked in the model.
template <class T>
class var {
 public:
  constexpr var() = default;
  constexpr var(T v) : v_(v) {}
  var(const var&) = delete;
  var& operator=(const var&) = delete;
  var& operator=(T v) {
    v_ = v;
    return *this;
  }
  operator T() const { return v_; }
  T get() const { return v_; }
  var& operator+=(T d) {
    v_ = static_cast<T>(v_ + d);
    return *this;
  }
  var& operator-=(T d) {
    v_ = static_cast<T>(v_ - d);
    return *this;
  }

 private:
  T v_{};
};

/// A statistic: one writer, any reader, no order.  Never an operation of the model.
class counter {
 public:
  void add(u64 d = 1) { v_.store(v_.load(relaxed) + d, relaxed); }
  void raise_to(u64 x) {
    if (x > v_.load(relaxed)) v_.store(x, relaxed);
  }
  u64 get() const { return v_.load(relaxed); }
  void set(u64 x) { v_.store(x, relaxed); }

 private:
  std::atomic<u64> v_{0};
};

/// A small field that somebody may read while it changes, and who then takes what comes: any value that it
/// has had lately.  Never an operation of the model.
template <class T>
class hint {
 public:
  operator T() const { return v_.load(relaxed); }
  hint& operator=(T x) {
    v_.store(x, relaxed);
    return *this;
  }

 private:
  std::atomic<T> v_{};
};

inline void compiler_barrier() { std::atomic_signal_fence(std::memory_order_seq_cst); }

#if defined(PGTBL_TSAN)
// ThreadSanitizer does not know fences, but it knows read-modify-writes of one location.
inline std::atomic<u32> fence_shim{0};
inline void fence(memory_order) { fence_shim.fetch_add(0, std::memory_order_seq_cst); }
#else
inline void fence(memory_order o) { std::atomic_thread_fence(o); }
#endif

/// Whether membarrier() reaches the other threads of the process.  Asked once, at the first call
/// (and false under ThreadSanitizer, which does not know it); readers then need a fence of their own.
bool membarrier_available();
/// Every running thread of the process passes a full barrier before this returns.  The heavy half of
/// an asymmetric fence: the light half is compiler_barrier().  Falls back to a full fence of the
/// caller, which is right only if the light half asked membarrier_available().
void membarrier();
/// Forces the fallback (tests); returns what was in force.
bool set_membarrier_enabled(bool on);

inline void cpu_relax() { __builtin_ia32_pause(); }
inline void yield() { sched_yield(); }
void sleep_ns(u64 ns);
u64 now_ns();  // CLOCK_MONOTONIC
inline u64 ticks() { return __builtin_ia32_rdtsc(); }
u64 ticks_to_ns(u64 t);

/// Spins until pred(value) holds; backs off from pauses to yields to short sleeps, so that it behaves
/// with more threads than cores.  Returns the value that satisfied pred.
template <class T, class P>
T await(const atomic<T>& a, P pred, memory_order o) {
  for (unsigned n = 0;; ++n) {
    T v = a.load(o);
    if (pred(v)) return v;
    if (n < 128) {
      cpu_relax();
    } else if (n < 192) {
      yield();
    } else {
      sleep_ns(20'000);
    }
  }
}

/// As await(), with the caller's own back-off between two looks: pause(n) after the n-th.  For waits
/// that are expected to be long, or that watch the clock.
template <class T, class P, class S>
T await_with(const atomic<T>& a, P pred, memory_order o, S pause) {
  for (u64 n = 0;; ++n) {
    T v = a.load(o);
    if (pred(v)) return v;
    pause(n);
  }
}

/// Sleeps while word == expected, until woken or for at most timeout_ns.  Spurious returns happen.
void park(const atomic<u32>& word, u32 expected, u64 timeout_ns);
void unpark_one(const atomic<u32>& word);
void unpark_all(const atomic<u32>& word);

u32 thread_id();  // the kernel's tid
/// Names the calling thread, as ps and /proc show it (15 characters).
void name_thread(const char* name);
/// What the thread of this process with that tid is called; "?" if it is gone.
void thread_name(u32 tid, char (&out)[16]);
/// How many forks lie between the first process and this one.  What was made under another number
/// belongs to a parent: its threads are not here, and its locks may be held by nobody, for ever.
u32 fork_generation();

/// A thread that must be joined.
class thread {
 public:
  thread() = default;
  template <class F>
  explicit thread(F&& f) : t_(std::forward<F>(f)) {}
  void join() {
    if (t_.joinable()) t_.join();
  }
  bool joinable() const { return t_.joinable(); }

 private:
  std::thread t_;
};

template <class T, class... A>
T* make(A&&... a) {
  return new T(std::forward<A>(a)...);
}
template <class T>
void destroy(T* p) {
  delete p;
}
/// n default-constructed objects in one block; zero-initialised where T is trivial.
template <class T>
T* make_array(std::size_t n) {
  return new T[n]();
}
template <class T>
void destroy_array(T* p, std::size_t) {
  delete[] p;
}

#if defined(PGTBL_ARCH_X86_PAE)
class entry_word;  // two halves: arch/x86_pae.hpp
#else
/// An entry of a page table in memory.
using entry_word = atomic<u64>;
#endif

/// The bytes of simulated physical memory: one reserved region, a frame's place is its number.
/// Real pages appear as they are first touched (or all at once: populate).
class physical {
 public:
  explicit physical(u64 frames);
  ~physical();
  physical(const physical&) = delete;
  physical& operator=(const physical&) = delete;

  u64 frames() const { return frames_; }
  /// The entries of a table.
  entry_word* entries(pgtable_t t) {
    return reinterpret_cast<entry_word*>(base_ + (static_cast<u64>(t) << pgtable_shift));
  }
  /// One of them.  Summed so that the index, which a walker knows from the start, is added before the table,
  /// which it has to wait for; as pointers the compiler would add the base last, a cycle a level.
  entry_word& entry(pgtable_t t, u64 index) {
    const auto base = reinterpret_cast<std::uintptr_t>(base_);
    return *reinterpret_cast<entry_word*>((base + index * sizeof(u64)) +
                                          (static_cast<u64>(t) << pgtable_shift));
  }
  u8* bytes(pfn_t pfn) { return base_ + (pfn << page_shift); }

  void clear_page(pfn_t pfn);
  void copy_page(pfn_t to, pfn_t from);
  void fill_page(pfn_t pfn, u64 word);
  /// Every word of the memory that a PTE table has.
  void fill_table(pgtable_t t, u64 word);
  u64 load_word(pfn_t pfn, u64 offset) {
    return __atomic_load_n(reinterpret_cast<u64*>(bytes(pfn) + offset), __ATOMIC_RELAXED);
  }
  void store_word(pfn_t pfn, u64 offset, u64 v) {
    __atomic_store_n(reinterpret_cast<u64*>(bytes(pfn) + offset), v, __ATOMIC_RELAXED);
  }
  void touch_word(pfn_t pfn, u64 offset) {
    __atomic_fetch_add(reinterpret_cast<u64*>(bytes(pfn) + offset), 0, __ATOMIC_RELAXED);
  }
  /// Copies within one page, by what a simulated program may do concurrently: untorn bytes.
  void load_bytes(pfn_t pfn, u64 offset, void* out, u64 n);
  void store_bytes(pfn_t pfn, u64 offset, const void* in, u64 n);
  void populate();  // touch every real page now, so that no later access takes a real fault

 private:
  u8* base_;
  u64 frames_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
#if defined(PGTBL_ARCH_X86_PAE)
#include "world/real/split_word.hpp"
#endif
