// mm.hpp -- an address space, its locks and its counters.
//
// Lock order, outermost first.  "A > B": A may be held while B is waited for.
//
//   mmap_lock (read | write)
//     > folio lock
//        > VMA write mark (waits for VMA readers; 6.4's collapse takes it here)
//           > i_mmap_rwsem (read | write)
//              > anon_vma lock (read | write; the root's)
//                 > notifier start ... end (may sleep: so never inside a spinlock)
//                    > pml (the lock of the PMD page)
//                       > ptl (the lock of the PTE page)
//                          > xa_lock of a page cache, the allocator's lock
//   the VMA read lock stands beside mmap_lock read: a fault takes one or the other.
//   fork holds two mmap_locks for write, the parent's first; two pmls (a huge PMD that moves) and two ptls
//   (fork, mremap: source and destination) nest.
//
// The fault path holds mmap_lock and then waits for the folio lock; collapse holds the folio lock first.
// So a collapser that holds a folio lock may only try mmap_lock: the inversion that 6.6 removed.
//
// What covers the tables above the PTE level: mmap_lock or the VMA lock (faults, madvise); i_mmap_rwsem
// (rmap walks, truncate, retraction: free_pgtables unlinks a VMA from i_mmap before it frees its tables);
// interrupts off and the TLB flush that waits for it (the hardware walker).
#pragma once
#include "mm/vma.hpp"
#include "mm/vma_tree.hpp"
#include "pgtable/walk.hpp"
#include "sync/seqcount.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class secondary_mmu;

enum class rss_kind : u8 { file, anon, shmem };
inline constexpr unsigned rss_kinds = 3;

/// Pages of each kind that a mm has mapped.  Each CPU counts in a line of its own, as with the kernel's
/// per-CPU counters: a collapse that unmaps 512 pages would else take the line from every fault beside it.
/// Exact once nothing runs; a slot may be negative, its pages mapped by one CPU and unmapped by another.
class rss_counters {
 public:
  void add(cpu& self, rss_kind k, i64 pages) { of(slots_[self.id], k).add(static_cast<u64>(pages)); }
  i64 get(rss_kind k) const {
    u64 n = 0;
    for (const slot& s : slots_) n += s.pages[static_cast<unsigned>(k)].get();
    return static_cast<i64>(n);
  }

 private:
  struct alignas(64) slot {
    counter pages[rss_kinds];
  };
  static counter& of(slot& s, rss_kind k) { return s.pages[static_cast<unsigned>(k)]; }
  slot slots_[max_contexts];
};

/// khugepaged's memory of extents whose retraction was put off, before 6.6.  Eight and no more (or what
/// machine_config says): the ninth is dropped in silence (B52).
struct put_off_array {
  static constexpr u32 capacity = 8;
  var<u32> n{0};      // protected by lock
  va_t at[capacity];  // protected by lock
  spinlock lock;
};

/// What a program asked of PR_SET_THP_DISABLE: huge pages nowhere, or only where it advised them.
enum class thp_disabled : u8 { no, all, all_but_advised };

struct mm : mm_tables {
  mm(machine& m, u32 number, rcu_domain& rcu);

  machine& home;
  atomic<u32> users{1};                        // mm_users; 0: exiting
  atomic<thp_disabled> thp{thp_disabled::no};  // by PR_SET_THP_DISABLE; changes under mmap_lock write
  rwsem mmap_lock{lock_class::mmap_read, lock_class::mmap_write};
  atomic<u32> lock_seq{0};  // mm_lock_seq: a VMA whose lock_seq equals it is write-locked
  vma_tree vmas;
  rss_counters rss;
  atomic<u32> notifiers_open{0};  // notifier ranges between start and end (G-40)
  atomic<u64> notifier_starts{0};
  var<va_t> brk_start{0}, brk_end{0};  // protected by mmap_lock
  put_off_array put_off;
  seqcount write_protect_seq;  // odd while fork takes the right to write away; GUP-fast looks at it
  atomic<u32> map_count{0};
  atomic<secondary_mmu*> secondaries{nullptr};  // registered, newest first; they live as long as the mm
  userfaultfd* uffds = nullptr;                 // all that were made; protected by mmap_lock (write)

  bool exiting() const { return users.load(acquire) == 0; }
  /// Whether its tables have room for a guest's status (s390).
  bool pgste() const {
#if defined(PGTBL_ARCH_TABLES)
    return context.alloc_pgste != 0;
#else
    return false;
#endif
  }
};

// ---------------------------------------------------------------- mmap_lock

class [[nodiscard]] mmap_read_guard {
 public:
  mmap_read_guard(cpu& self, mm& m, where at = where::current());
  ~mmap_read_guard() { unlock(); }
  mmap_read_guard(const mmap_read_guard&) = delete;
  mmap_read_guard& operator=(const mmap_read_guard&) = delete;
  void unlock();

 private:
  cpu& self_;
  mm* mm_;
  hold hold_;
};

/// mmap_lock for write.  Giving it up (or downgrading) ends the write marks of all VMAs.
class [[nodiscard]] mmap_write_guard {
 public:
  mmap_write_guard(cpu& self, mm& m, where at = where::current());
  /// mmap_write_trylock: whether it has the lock is `held()`.
  struct try_it {};
  mmap_write_guard(cpu& self, mm& m, try_it);
  ~mmap_write_guard() { unlock(); }
  mmap_write_guard(const mmap_write_guard&) = delete;
  mmap_write_guard& operator=(const mmap_write_guard&) = delete;
  bool held() const { return mm_ != nullptr; }
  void unlock();
  /// From write to read, without a moment in between in which a writer could enter.
  void downgrade();

 private:
  cpu& self_;
  mm* mm_;
  hold hold_;
  bool read_ = false;
};

// ---------------------------------------------------------------- per-VMA locks

/// A VMA read lock, held from lock_vma_under_rcu() to the end of the fault.
class [[nodiscard]] vma_read_guard {
 public:
  vma_read_guard(cpu& self, vma* v, hold h) : self_(&self), vma_(v), hold_(h) {}
  vma_read_guard(vma_read_guard&& o) noexcept
      : self_(o.self_), vma_(std::exchange(o.vma_, nullptr)), hold_(o.hold_) {}
  vma_read_guard& operator=(vma_read_guard&&) = delete;
  ~vma_read_guard() {
    if (vma_ != nullptr) vma_->lock.read_unlock(*self_, hold_);
  }
  vma& operator*() const { return *vma_; }
  vma* operator->() const { return vma_; }

 private:
  cpu* self_;
  vma* vma_;
  hold hold_;
};

/// Kinds of VMAs, or-ed.
enum : u32 { vmas_anon = 1, vmas_file = 2, vmas_all = vmas_anon | vmas_file };

/// The VMA at va, read-locked, without mmap_lock.  Nothing if there is none, if it is of no such kind (then its lock was not
/// touched), or if a writer has it: the caller falls back to mmap_lock.
std::optional<vma_read_guard> lock_vma_under_rcu(cpu& self, mm& m, va_t va, u32 kinds = vmas_all);

/// The same for who holds mmap_lock in any mode, and has just found the VMA: nobody can be writing it.
vma_read_guard vma_start_read_locked(cpu& self, vma& v);

/// Marks the VMA as being written until mmap_lock is given up: waits for its readers.  Under mmap_lock write.
void vma_start_write(cpu& self, vma& v);
/// The same without waiting: false if a reader is inside (6.4's retraction).
bool vma_try_start_write(cpu& self, vma& v);
/// A VMA that is about to enter the tree: faults find it only after mmap_lock is given up.
void mark_new_vma(mm& m, vma& v);
/// Ends every write mark of the mm.
void vma_end_write_all(mm& m);

/// Frees a VMA that is out of the tree, after a grace period: faults may be looking at it under RCU.
void vma_free(cpu& self, vma* v);
/// G-7, in checked builds: the pointer still leads to a VMA.
void assert_vma_alive(cpu& self, const vma& v);
/// The same for who has mmap_lock, and found it in the tree under this very section.
void assert_vma_attached(cpu& self, const vma& v);

// ---------------------------------------------------------------- notifiers

/// mmu_notifier_invalidate_range_start ... end.  May sleep: never under a spinlock.  Around everything that takes entries or
/// rights away, so that secondary MMUs use neither meanwhile.
class [[nodiscard]] notifier_range {
 public:
  notifier_range(cpu& self, mm& m, va_t start, va_t end);
  ~notifier_range() { done(); }
  notifier_range(const notifier_range&) = delete;
  notifier_range& operator=(const notifier_range&) = delete;
  void done();

 private:
  cpu& self_;
  mm* mm_;
  const va_t start_, end_;
  secondary_mmu* told_;
};

/// Before 6.6: what a flush is to be told of that cannot wait for the end of its range, as pages are freed before
/// (mmu_notifier_invalidate_range).
void invalidate_secondary(cpu& self, mm& m, va_t start, va_t end);

}  // namespace pgtbl::inline PGTBL_WORLD
