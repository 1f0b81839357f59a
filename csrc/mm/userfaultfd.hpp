// userfaultfd.hpp -- faults on registered ranges are handed to somebody in user space, and wait for him.
//
// Modes.  missing: nothing is there (no page in the file, for a file).  minor: the file has the page, the table does not.
// wp: a store to an entry that was write-protected on purpose.
//
// Guarantee.  A fault that is reported holds no lock while it sleeps, and does not sleep for ever by a race: who
// resolves it either finds it in the queue, and wakes it, or has changed the entry before it looked.  Nobody fills a
// range with pages for what it was, while a change of it (fork, mremap, DONTNEED, munmap) has not been told.
//
// Method.  A range belongs to a userfaultfd by its VMA: pointer and flags change under mmap_lock for write.  A fault
// queues, looks at the entry once more, gives up its lock, sleeps until a wake-up of its address, and starts over; with
// UFFD_FEATURE_SIGBUS it raises a bus error instead.  A call that changes a range queues an event, and waits until it
// was read.  Write protection is a bit of the entry (or of an anonymous huge PMD), which takes the right to write away.
// For a file it outlives the entry: what clears one that had the bit leaves a marker, and the next fault gives the bit
// back.  So a table of such a VMA is never without meaning, even if it maps nothing: retraction leaves it alone (G-17).
//
// Lock order.  mmap_lock (write) for registering; mmap_lock (read) > map_changing > folio lock > ... > ptl for the
// other calls.  The queue's lock comes last.
#pragma once
#include <optional>
#include <vector>

#include "mm/mm.hpp"
#include "pgtable/mmu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Bits of the features as UFFDIO_API has them.
enum : u64 {
  uffd_feature_event_fork = 1ULL << 1,
  uffd_feature_event_remap = 1ULL << 2,
  uffd_feature_event_remove = 1ULL << 3,
  uffd_feature_event_unmap = 1ULL << 6,
  uffd_feature_sigbus = 1ULL << 7,
  uffd_feature_thread_id = 1ULL << 8,
  uffd_feature_exact_address = 1ULL << 11,
  uffd_feature_wp_unpopulated = 1ULL << 13,
  uffd_feature_poison = 1ULL << 14,
  uffd_feature_wp_async = 1ULL << 15,
  uffd_feature_move = 1ULL << 16,
};
inline constexpr u64 uffd_known_features = (1ULL << 17) - 1;

enum class uffd_event : u8 { pagefault, fork, remap, remove, unmap };
enum class uffd_reason : u8 { missing, minor, wp };

/// What a userfaultfd tells.
struct uffd_message {
  uffd_event event = uffd_event::pagefault;
  uffd_reason reason = uffd_reason::missing;  // pagefault
  bool write = false;                         // pagefault
  u32 tid = 0;                                // pagefault, with THREAD_ID: whose
  va_t start = 0;                             // the address; where the range was; its start
  va_t to = 0;                                // remap: where it is
  va_t end = 0;                               // remove, unmap; of a remap: where the range ended
  userfaultfd* child = nullptr;               // fork: the child's
};

/// One that waits: a fault for its address to be resolved, or a call for its event to be read.
struct uffd_waiter {
  static constexpr u32 waiting = 0, woken = 1;
  uffd_waiter(userfaultfd& f, const uffd_message& m) : of(f), what(m) {}
  userfaultfd& of;
  const uffd_message what;
  atomic<u32> state{waiting};
  // Protected by of.lock.
  uffd_waiter* next = nullptr;
  bool queued = false;
  bool read = false;  // a fault that somebody knows of
};

/// One userfaultfd of an address space.  Lives as long as that does.
struct userfaultfd {
  userfaultfd(mm& m, u64 f) : owner(m), features(f) {}
  mm& owner;
  const u64 features;
  userfaultfd* next = nullptr;  // of the same mm; protected by mmap_lock (write)

  spinlock lock;
  uffd_waiter* faults = nullptr;  // oldest first; protected by lock
  uffd_waiter* events = nullptr;  // not read yet, oldest first; protected by lock
  atomic<u32> released{0};        // closed: nobody waits any more; set under lock
  atomic<u32> arrivals{0};        // goes up with each message, and at the end: readers sleep on it

  // Events queued and not yet read: nothing is filled meanwhile.  Goes up under map_changing for write, so that no fill is
  // under way that began before; fills hold it for read.
  atomic<u32> mmap_changing{0};
  rwsem map_changing{lock_class::other_read, lock_class::other_write};

  class uffd_server* server = nullptr;  // made and asked by its user alone; ended with the mm
};

userfaultfd* new_userfaultfd(cpu& self, mm& m, u64 features);
/// The child's, with the features of its parent's.  Under the child's mmap_lock for write.
userfaultfd* dup_userfaultfd(mm& child, const userfaultfd& parent);
void free_userfaultfds(mm& m);
/// Their threads end.  The program has ended, or is about to: nobody is inside of a call.
void stop_uffd_servers(mm& m);

// ---------------------------------------------------------------- the ioctls (userfaultfd.cpp, uffd_fill.cpp, uffd_move.cpp)

/// Each throws os_error with the ioctl's errno.  modes: of vm_uffd_missing, vm_uffd_wp, vm_uffd_minor.  What resolves
/// faults wakes those of its range, unless told not to.
void uffd_register(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, u64 modes);
void uffd_unregister(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length);
void uffd_writeprotect(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool on, bool wake = true);
/// Puts pages where nothing is mapped: of `source`, as many whole pages as length says; zeros; what the file has; or
/// markers at which an access dies.
void uffd_copy(
    cpu& self, mm& m, userfaultfd& u, va_t start, const void* source, u64 length, bool wp, bool wake = true);
void uffd_zeropage(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool wake = true);
void uffd_continue(
    cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool wp = false, bool wake = true);
void uffd_poison(cpu& self, mm& m, userfaultfd& u, va_t start, u64 length, bool wake = true);
/// Pages of private memory go from one address to another, without a copy.
void uffd_move(cpu& self, mm& m, userfaultfd& u, va_t to, va_t from, u64 length, bool allow_holes, bool wake);
/// Every range is given up, and nobody waits any more.
void uffd_release(cpu& self, mm& m, userfaultfd& u);

// ---------------------------------------------------------------- waiting (uffd_wait.cpp)

/// A fault of the VMA at va is to be handled by its userfaultfd: queues it.  Null: it was resolved meanwhile, or the
/// userfaultfd is closed; the access is repeated.  The caller holds the fault's lock, and then, without it, calls
/// uffd_wait().  Throws bus_error with SIGBUS.
uffd_waiter* uffd_report(cpu& self, vma& v, va_t va, access a, uffd_reason reason);
/// Sleeps until it is woken.  Consumes it.  Throws interrupted where its caller does not want it any more.
void uffd_wait(cpu& self, uffd_waiter* w);
/// Wakes the faults of [start, start + length) (UFFDIO_WAKE).
void uffd_wake(cpu& self, userfaultfd& u, va_t start, u64 length);

/// The next message, if there is one: faults before events.  An event that was read lets its call go on.
std::optional<uffd_message> uffd_read(cpu& self, userfaultfd& u);
/// Sleeps until something may have arrived since arrivals was `seen`, for at most `ns`.
void uffd_await(const userfaultfd& u, u32 seen, u64 ns);
/// How many faults sleep, read or not.
u32 uffd_sleepers(cpu& self, userfaultfd& u);

/// Events of one call.  Noted under mmap_lock; told, one after the other, when no lock is held.
class uffd_events {
 public:
  uffd_events() = default;
  uffd_events(const uffd_events&) = delete;
  uffd_events& operator=(const uffd_events&) = delete;
  /// What was noted and not told (the call failed) counts no more.
  ~uffd_events();

  void fork(cpu& self, userfaultfd& parent, userfaultfd& child);
  void remap(cpu& self, userfaultfd& u, va_t from, va_t to, u64 length);
  /// MADV_DONTNEED and its kin: before anything is zapped.
  void remove(cpu& self, userfaultfd& u, va_t start, va_t end);
  /// Once for each userfaultfd that has VMAs of the range.
  void unmap(cpu& self, userfaultfd& u, va_t start, va_t end);
  /// The child's userfaultfd of this parent's, if one was noted.
  userfaultfd* child_of(const userfaultfd& parent) const;
  bool any() const { return !noted_.empty(); }

  /// Waits until each was read, or its userfaultfd is closed.  Throws interrupted.
  void tell(cpu& self);

 private:
  struct note {
    userfaultfd* of;
    uffd_message what;
  };
  void add(cpu& self, userfaultfd& u, const uffd_message& what);
  std::vector<note> noted_;
};

/// Whether protecting a page that is not there leaves a marker.
inline bool uffd_uses_markers(const vma& v) {
  return v.is(vm_uffd_wp) && (!v.is_anon() || (v.uffd->features & uffd_feature_wp_unpopulated) != 0);
}
inline bool uffd_has(const vma& v, u64 feature) {
  return v.uffd != nullptr && (v.uffd->features & feature) != 0;
}
inline bool uffd_wp_async(const vma& v) { return uffd_has(v, uffd_feature_wp_async); }

// ---------------------------------------------------------------- for the files that make it up

/// Throws EINVAL where the range is not of whole pages of the program's.
void check_uffd_range(va_t start, u64 length);
/// The end of uffd_release(): no VMA knows it any more.
void uffd_let_all_go(cpu& self, userfaultfd& u);
/// map_changing for read.  Throws EAGAIN while an event has not been read.
class [[nodiscard]] uffd_filling {
 public:
  uffd_filling(cpu& self, userfaultfd& u);
  ~uffd_filling() { of_.map_changing.read_unlock(self_, hold_); }
  uffd_filling(const uffd_filling&) = delete;
  uffd_filling& operator=(const uffd_filling&) = delete;

 private:
  cpu& self_;
  userfaultfd& of_;
  hold hold_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
