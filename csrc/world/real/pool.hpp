// pool.hpp -- memory for small objects that every other system call makes and gives back.
//
// Problem.  An mmap() replaces a few nodes of the VMA tree, and RCU gives the old ones back by the hundred.
// malloc() serves that well on average; but for over-aligned objects it cuts and joins chunks, and now and
// then one call tidies up for thousands: 25 us in a call of 600 ns.  A tail that the allocator makes is
// not what anybody comes here to measure.
// Guarantee.  Taking and giving back cost the same every time while a thread's magazine has room; what a
// thread holds is bounded, and freed as it ends.
// Method.  A magazine of free objects per type and thread; malloc() behind it.  Under AddressSanitizer there
// is none: memory that is handed on at once would hide a use after free.
// Cost.  A dozen instructions; at most 2048 objects of a type a thread.
#pragma once
#include <cstddef>
#include <new>
#include <utility>

#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// A base that gives T's operator new a magazine.
template <class T>
class pooled {
 public:
#if !defined(__SANITIZE_ADDRESS__)
  static void* operator new(std::size_t bytes) {
    magazine& m = of_this_thread;
    if (m.n == 0) return from_malloc(bytes);
    --m.n;
    return std::exchange(m.first, m.first->next);
  }
  static void operator delete(void* p) {
    magazine& m = of_this_thread;
    if (m.n == capacity) return to_malloc(p);
    ++m.n;
    m.first = ::new (p) link{m.first};
  }
  static void* operator new(std::size_t bytes, std::align_val_t) { return operator new(bytes); }
  static void operator delete(void* p, std::align_val_t) { operator delete(p); }

 private:
  static constexpr u32 capacity = 2048;
  struct link {
    link* next;
  };
  // Two words: a module that is loaded late has little static thread-local storage to spend.
  struct magazine {
    link* first = nullptr;
    u32 n = 0;
    ~magazine() {
      while (first != nullptr) to_malloc(std::exchange(first, first->next));
      n = capacity;  // what is given back from now on, by other objects that end with the thread
    }
  };
  static void* from_malloc(std::size_t bytes) { return ::operator new(bytes, std::align_val_t{alignof(T)}); }
  static void to_malloc(void* p) { ::operator delete(p, std::align_val_t{alignof(T)}); }
  static inline thread_local magazine of_this_thread;
#endif
};

}  // namespace pgtbl::inline PGTBL_WORLD
