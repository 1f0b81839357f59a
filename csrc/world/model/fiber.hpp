// fiber.hpp -- stacks that are switched by hand: what an actor of the model world runs on.
//
// Problem.  An explorer stops and resumes each actor thousands of times a millisecond, and starts it
// afresh for each execution.  A thread takes microseconds for that, swapcontext() 250 ns, because it saves
// the signal mask by a system call.
// Method.  A switch saves what the calling convention says a function must keep, on the stack that is
// left, and takes it from the stack that is entered: x86-64 and AArch64 by hand, elsewhere ucontext.  An abandoned
// fiber is never unwound: its stack is simply used again.  Sanitizers are told of each switch.
// Cost.  About 4 ns a switch, 8 ns a start.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define PGTBL_FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PGTBL_FIBER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define PGTBL_FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PGTBL_FIBER_TSAN 1
#endif
#endif
#if !defined(PGTBL_FIBER_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define PGTBL_FIBER_UCONTEXT 1
#endif

#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Address space of this process, zeroed where it is first touched.
class reserved_memory {
 public:
  explicit reserved_memory(std::size_t bytes);
  ~reserved_memory();
  reserved_memory(const reserved_memory&) = delete;
  reserved_memory& operator=(const reserved_memory&) = delete;
  char* begin() const { return begin_; }
  std::size_t size() const { return bytes_; }

 private:
  char* begin_;
  std::size_t bytes_;
};

/// Stacks for a fixed number of fibers, and the stack of the thread that drives them.  One thread uses it.
class fiber_set {
 public:
  using entry = void (*)(void* ctx, u32 fiber);  // must not return

  fiber_set(u32 count, std::size_t stack_bytes, entry run, void* ctx);
  ~fiber_set();
  fiber_set(const fiber_set&) = delete;
  fiber_set& operator=(const fiber_set&) = delete;

  /// The fiber begins at its entry when it is next resumed, whatever it did before.
  void restart(u32 fiber);
  /// From the driver into the fiber, until it suspends.
  void resume(u32 fiber);
  /// From the fiber back to the driver.
  void suspend(u32 fiber);

 private:
  struct context;
  static void start();
  [[noreturn]] void begin();

  context* contexts_;  // [0]: the driver's; fiber f's is [f + 1]
  std::size_t page_, stack_bytes_;
  reserved_memory stacks_;
  u32 count_, entering_ = 0;
  entry run_;
  void* ctx_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
