// hooks.hpp -- what checked builds watch at every lock, as it happens.
//
// Problem.  Two locks taken in opposite orders deadlock only on the day that both threads are between
// them.  The order is wrong on every day.
// Guarantee.  In checked builds, and in the model, each wait for a lock is compared with the locks that the thread holds,
// and reported as G-31 if the lock order forbids it, whether or not anybody else is there; each
// operation that may sleep is reported as G-32 under a spinlock.  Elsewhere nothing of this is compiled.
// Method.  A context lists the locks that it holds.  Each class has a rank (may_wait in hooks.cpp);
// a thread may wait only for ranks above those that it holds.  A try that cannot wait is free to break
// the order (a collapser that holds a folio lock may try mmap_lock), but what is taken after it is
// compared with it.
//
//   mmap_lock > vma_lock.read > folio_lock > vma_lock.write > i_mmap > anon_vma > pml > ptl
//             > page_cache > rcu_lock > allocator
//
// vma_lock.write stands below the folio lock because collapse_pte_mapped_thp of v6.4 and v6.5 marks a
// VMA while it holds the folio; the mark is never held while another of these locks is waited for.  It is
// not allowed beside vma_lock.read.  Two ptls may nest (mremap, fork), two pmls (a moved huge PMD), and
// two mmap_locks in write mode (fork); folios nest only by trying.  The classes "lock" and "rwsem.*",
// the user's own, have no rank: only taking the same one twice is reported.
#pragma once
#include "base/context.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace checked {
void locking(context& self, const void* lock, lock_class c);
void locked(context& self, const void* lock, lock_class c);
void unlocked(context& self, const void* lock);
void sleeping(context& self, const char* what);
void sleeping_irqs_off(context& self, const char* what);
bool holds(const context& self, const void* lock);
bool holds_class(const context& self, lock_class c);
}  // namespace checked

/// The model watches them too: its traces say who holds what.
#if defined(PGTBL_WORLD_MODEL)
inline constexpr bool watches_locks = true;
#else
inline constexpr bool watches_locks = checked_build;
#endif

/// Before a thread waits for a lock.  Not called for a try.
inline void note_locking([[maybe_unused]] context& self,
                         [[maybe_unused]] const void* lock,
                         [[maybe_unused]] lock_class c) {
  if constexpr (watches_locks) checked::locking(self, lock, c);
}

/// Once it has the lock, waited for or tried.
inline void note_locked([[maybe_unused]] context& self,
                        [[maybe_unused]] const void* lock,
                        [[maybe_unused]] lock_class c) {
  if constexpr (watches_locks) checked::locked(self, lock, c);
}

/// Before it gives the lock back.
inline void note_unlocked([[maybe_unused]] context& self, [[maybe_unused]] const void* lock) {
  if constexpr (watches_locks) checked::unlocked(self, lock);
}

/// At the start of everything that may sleep (G-32): waiting for a sleeping lock, allocation, a notifier.
inline void might_sleep([[maybe_unused]] context& self,
                        [[maybe_unused]] const char* what = "a sleeping operation") {
  if constexpr (watches_locks) checked::sleeping(self, what);
}

/// Whether self holds this lock, or one of this class.  Checked builds only: elsewhere nobody knows.
inline bool holds(const context& self, const void* lock) { return checked::holds(self, lock); }
inline bool holds_class(const context& self, lock_class c) { return checked::holds_class(self, c); }

}  // namespace pgtbl::inline PGTBL_WORLD
