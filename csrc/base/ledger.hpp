// ledger.hpp -- what each CPU locked, waited for, flushed, freed and collapsed.
//
// Guarantee.  Every count is exact: an event adds one, in the block of the CPU that caused it, and a
// difference of two readings taken while nothing runs is the number of events between them.
// Method.  One block per CPU, written by that CPU alone; a reading sums the blocks.
// Cost.  One add to a line that no other CPU writes.  Waiting is timed on the slow path only; the
// time that a lock is held is sampled (every 64th acquisition, weighted) except for mmap_lock in
// write mode, which is rare and always timed.
#pragma once
#include <iterator>

#include "world/world.hpp"

// Lock classes: identifier, dotted name.  Each has .contended, .failed, .wait_ns and .held_ns.
#define PGTBL_LOCK_CLASSES(X)           \
  X(mmap_read, "mmap_lock.read")        \
  X(mmap_write, "mmap_lock.write")      \
  X(vma_read, "vma_lock.read")          \
  X(vma_write, "vma_lock.write")        \
  X(i_mmap_read, "i_mmap.read")         \
  X(i_mmap_write, "i_mmap.write")       \
  X(anon_vma_read, "anon_vma.read")     \
  X(anon_vma_write, "anon_vma.write")   \
  X(folio, "folio_lock")                \
  X(ptl, "ptl")                         \
  X(pml, "pml")                         \
  X(page_cache, "page_cache")           \
  X(allocator, "allocator")             \
  X(rcu, "rcu_lock")                    \
  X(other, "lock")                      \
  X(other_read, "rwsem.read")           \
  X(other_write, "rwsem.write")

// Events: identifier, dotted name, what one of it is.
#define PGTBL_EVENTS(X)                                                                                     \
  X(tlb_flush, "tlb.flush", "TLB flushes: one per call, whatever its range and however many CPUs it reaches") \
  X(tlb_flush_remote, "tlb.flush.remote", "TLB flushes that interrupted at least one other CPU")            \
  X(tlb_batched, "tlb.batched", "pages unmapped whose flush was put off to the end of a batch")             \
  X(tlb_hit, "tlb.hit", "translations found in the TLB (counted in checked builds only)")                   \
  X(tlb_fill, "tlb.fill", "translations put into the TLB by the hardware walker")                           \
  X(ipi, "ipi", "inter-processor interrupts sent: one per target CPU")                                      \
  X(ipi_broadcast, "ipi.broadcast", "calls that interrupt every CPU and wait (tlb_remove_table_sync_one)")  \
  X(pte_allocated, "table.pte.allocated", "PTE tables allocated")                                           \
  X(pte_detached, "table.pte.detached", "PTE tables taken out of a PMD while their mm lived")               \
  X(pte_deferred, "table.pte.deferred", "PTE tables handed to RCU (pte_free_defer)")                        \
  X(pte_freed, "table.pte.freed", "PTE tables given back to the allocator, at once or after RCU")           \
  X(pte_freed_now, "table.pte.freed_at_once", "of these, the ones that did not wait for a grace period")    \
  X(pte_page_allocated, "table.pte.pages_allocated", "pages taken for PTE tables: one or more tables in each")  \
  X(pte_page_freed, "table.pte.pages_freed", "pages of PTE tables given back to the allocator")             \
  X(upper_allocated, "table.upper.allocated", "PMD, PUD and PGD tables allocated")                          \
  X(upper_freed, "table.upper.freed", "PMD, PUD and PGD tables freed")                                      \
  X(map_failed, "pte_offset_map.null", "pte_offset_map calls that found no table")                          \
  X(map_retry, "pte_offset_map_lock.retry", "times pte_offset_map_lock found the PMD changed and looked again") \
  X(fault, "fault", "page faults handled")                                                                  \
  X(fault_retry, "fault.retry", "faults that had to start over (the table vanished, or the folio changed)") \
  X(fault_vma_lock, "fault.vma_lock", "faults served under the VMA lock alone")                             \
  X(fault_mmap_lock, "fault.mmap_lock", "faults served under mmap_lock")                                    \
  X(fault_anon, "fault.anon", "faults that gave anonymous memory")                                          \
  X(fault_zero, "fault.zero", "read faults that mapped the zero page (or the huge one)")                    \
  X(fault_cow, "fault.cow", "write faults that copied a page")                                              \
  X(fault_reuse, "fault.reuse", "write faults that found the page to be the program's alone")                \
  X(fault_anon_huge, "fault.anon.huge", "of fault.anon, those that gave a whole extent by its PMD")         \
  X(fault_file, "fault.file", "faults on file memory")                                                      \
  X(fault_around, "fault.around", "PTEs set by fault-around beyond the one that faulted")                   \
  X(fault_huge, "fault.huge", "faults that mapped a whole extent by its PMD")                               \
  X(fault_spurious, "fault.spurious", "faults that found the entry already good")                           \
  X(fault_segv, "fault.segv", "accesses refused with a segmentation fault")                                 \
  X(fault_bus, "fault.bus", "accesses refused with a bus error")                                            \
  X(fault_user, "fault.userfault", "faults that waited for a userfaultfd")                                  \
  X(collapse_succeeded, "collapse.succeeded", "extents that a collapse left mapped huge, or whose file page became huge; from v6.6 on khugepaged counts one that is huge already at every pass, as Linux does") \
  X(collapse_failed, "collapse.failed", "extents that a collapse gave up")                                  \
  X(collapse_file, "collapse.file", "collapse_file calls that published a huge page")                       \
  X(collapse_anon, "collapse.anon", "extents of anonymous memory that became huge")                         \
  X(collapse_pte_mapped, "collapse.pte_mapped", "collapse_pte_mapped_thp calls that succeeded")             \
  X(collapse_mmap_read, "collapse.mmap_lock.read", "mmap_lock read acquisitions by collapsers")             \
  X(collapse_mmap_write, "collapse.mmap_lock.write", "mmap_lock write acquisitions by collapsers")          \
  X(collapse_mmap_write_failed, "collapse.mmap_lock.write.failed", "mmap_lock write tries by collapsers that failed") \
  X(retract_done, "retract.done", "PTE tables that retraction took away")                                   \
  X(retract_put_off, "retract.put_off", "extents whose retraction was put off to a later scan (before v6.6)") \
  X(retract_forgotten, "retract.forgotten", "extents that the array of eight put-off addresses had no room for") \
  X(retract_skipped, "retract.skipped", "VMAs that retraction met and left alone as ineligible")            \
  X(retract_caught_up, "retract.caught_up", "put-off extents that a later scan treated")                    \
  X(khugepaged_scans, "khugepaged.scans", "mms visited by khugepaged")                                      \
  X(pmd_split, "pmd.split", "huge PMDs taken apart: anonymous ones into PTEs, those of files into nothing") \
  X(folio_split, "folio.split", "huge (or large) folios split into smaller ones")                           \
  X(fork, "fork", "address spaces copied by fork")                                                          \
  X(pte_copied, "fork.pte", "entries that fork copied")                                                     \
  X(pte_moved, "mremap.pte", "entries that mremap moved one by one")                                        \
  X(table_moved, "mremap.table", "PTE tables that mremap moved whole")                                      \
  X(pte_reclaimed, "table.pte.reclaimed", "PTE tables that MADV_DONTNEED emptied and freed (PT_RECLAIM)")   \
  X(table_batches, "table.batch", "batches of tables that munmap and exit handed to RCU (mmu_gather)")      \
  X(frames_allocated, "frame.allocated", "frames allocated (a huge page counts all of its frames)")         \
  X(frames_freed, "frame.freed", "frames freed")                                                            \
  X(pages_zapped, "zap.pages", "PTEs and PMDs cleared by munmap, DONTNEED, truncate and exit")              \
  X(rmap_unmapped, "rmap.unmapped", "PTEs and PMDs cleared by rmap walks (try_to_unmap)")                   \
  X(readers_exited_inside, "rcu.exited_inside", "threads that ended inside a read section")

namespace pgtbl::inline PGTBL_WORLD {

enum class lock_class : u8 {
#define X(id, name) id,
  PGTBL_LOCK_CLASSES(X)
#undef X
};
inline constexpr const char* lock_class_names[] = {
#define X(id, name) name,
    PGTBL_LOCK_CLASSES(X)
#undef X
};
inline constexpr unsigned lock_class_count = std::size(lock_class_names);

enum class event : u8 {
#define X(id, name, doc) id,
  PGTBL_EVENTS(X)
#undef X
};
struct event_row {
  const char* name;
  const char* doc;
};
inline constexpr event_row event_table[] = {
#define X(id, name, doc) {name, doc},
    PGTBL_EVENTS(X)
#undef X
};
inline constexpr unsigned event_count = std::size(event_table);

struct lock_counts {
  counter acquired, contended, failed, wait_ns, held_ns;
};

/// One CPU's block.  Written by that CPU alone.
struct alignas(128) ledger {
  static constexpr u64 sample_every = 64;

  lock_counts locks[lock_class_count];
  counter events[event_count];
  u64 sample = 0;  // counts acquisitions, to pick the one whose hold is timed

  lock_counts& of(lock_class c) { return locks[static_cast<unsigned>(c)]; }
  void add(event e, u64 n = 1) { events[static_cast<unsigned>(e)].add(n); }
  u64 get(event e) const { return events[static_cast<unsigned>(e)].get(); }

  /// Called by every lock as it is acquired.  Returns the token for released(): the time stamp of a
  /// sampled hold, or 0.
  u64 acquired(lock_class c) {
    of(c).acquired.add();
    if (c == lock_class::mmap_write) return ticks() | 1;
    if (++sample % sample_every != 0) return 0;
    return ticks() | 1;
  }
  /// Called by every lock just before it is given up, with acquired()'s token.
  void released(lock_class c, u64 token) {
    if (token == 0) return;
    const u64 held = ticks_to_ns(ticks() - token);
    of(c).held_ns.add(c == lock_class::mmap_write ? held : held * sample_every);
  }
  void waited(lock_class c, u64 ns) {
    of(c).contended.add();
    of(c).wait_ns.add(ns);
  }
};

}  // namespace pgtbl::inline PGTBL_WORLD
