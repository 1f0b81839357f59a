// guards.hpp -- every load-bearing line of a protocol, by name.
//
// guard(g) stands in the condition whose truth the line secures.  In the real world it is the
// constant true and vanishes; in the torture and model worlds it can be taken away at run time, and
// then a test must show the race that it was there to prevent.  One row per guard:
// name, the bug of docs/bugs that it prevents, the first era that has it, and one sentence.
#pragma once
#include <iterator>
#include <string_view>

#include "base/guards_arch.hpp"
#include "world/world.hpp"

#define PGTBL_GUARDS(X)                                                                                              \
  X(map_rcu, "B05", "v6.6", "pte_offset_map opens an RCU read section that lasts until the unmap")                   \
  X(map_rcu_first, "B05", "v6.6", "the read section is entered before the PMD is read, not after")                   \
  X(unmap_rcu, "B06", "v6.6", "unmapping a table leaves the read section that mapping it entered")                   \
  X(pmd_recheck, "B12", "v6.5", "pte_offset_map_lock reads the PMD again once it holds the table's lock")            \
  X(lock_from_pmdval, "B13", "v6.5", "the table's lock is found from the PMD value that found the table")            \
  X(table_published, "B12", "v6.4", "a new table's contents are visible before the PMD that points to it")           \
  X(install_under_pml, "B12", "v6.4", "a table is installed under the PMD lock, after looking again")                \
  X(free_deferred, "B08", "v6.6", "a detached table is freed after a grace period, not at once")                     \
  X(dtor_deferred, "B07", "v6.6", "a table's lock is destroyed in the RCU callback, not when it is detached")        \
  X(sync_before_free, "B02", "v6.4", "before 6.6, an IPI to all CPUs stands between detaching a table and its free") \
  X(retract_i_mmap, "B03", "v6.4", "retraction holds i_mmap_rwsem, so that munmap cannot free the upper tables")     \
  X(retract_range, "G-42", "v6.4", "retraction skips a VMA that does not cover the whole aligned extent")            \
  X(retract_ptl, "B12", "v6.6", "retraction holds the table's own lock while it clears the PMD")                     \
  X(retract_recheck_anon, "B22", "v6.4", "retraction looks at anon_vma again under the lock that decides")           \
  X(retract_flush, "B31", "v6.4", "clearing a PMD flushes the TLB of its range, cached upper levels included")       \
  X(retract_flush_psc, "B31", "v6.4", "that flush drops the paging-structure cache too, not leaf entries alone")     \
  X(cpmt_vma_first, "B10", "v6.6", "collapse_pte_mapped_thp finds the VMA before it looks at tables")                \
  X(cpmt_folio_lock, "B12", "v6.4", "collapse_pte_mapped_thp holds the folio lock, so that no fault refills")        \
  X(cpmt_verify, "B15", "v6.6", "the clearing pass tests again that each entry maps subpage i of the folio")         \
  X(cpmt_clear_ptes, "B34", "v6.6", "the clearing pass clears the entries whose rmap it removes")                    \
  X(cpmt_remove_ptl, "B12", "v6.6", "removing the emptied table holds the table's own lock")                         \
  X(cpmt_abort_flush, "B16", "v6.6", "an abort flushes the TLB for the entries that it had cleared")                 \
  X(cpmt_abort_account, "B16", "v6.6", "an abort corrects references and rss for the entries that it had cleared")   \
  X(file_flush_first, "B29", "v6.4", "collapse_file flushes the batched TLB before it copies")                       \
  X(file_refcount, "B30", "v6.4", "collapse_file gives up on a page with a reference that it cannot explain")        \
  X(file_hole_recheck, "B28", "v6.4", "holes are counted again and marked before the huge page is published")        \
  X(fault_folio_locked, "G-20", "v6.4", "a file fault holds the folio lock from the look-up until the PTE is set")   \
  X(fault_truncated, "G-20", "v6.4", "a file fault tests, under the folio lock, that the folio is still cached")     \
  X(vma_seq_recheck, "G-38", "v6.4", "a VMA-locked fault tests the sequence again after it took the lock")           \
  X(vma_start_write, "G-38", "v6.4", "a writer marks the VMA, and so waits for VMA-locked faults")                   \
  X(vma_rcu, "G-7", "v6.4", "a VMA is freed after a grace period: faults find it under RCU alone")                   \
  X(unlink_before_free, "G-6", "v6.4", "munmap takes a VMA off i_mmap before it frees tables")                       \
  X(zap_flush, "G-14", "v6.4", "zapped pages are released after the TLB flush, not before")                          \
  X(zap_batched, "G-14", "v6.4", "a zap does the flush that somebody's rmap walk put off, though its entry is gone") \
  X(rmap_recheck, "B12", "v6.4", "the rmap walk compares the entry under ptl before it clears it")                   \
  X(madvise_revalidate, "B11", "v6.4", "madvise looks the VMA up again after mmap_lock was dropped")                 \
  X(cow_recheck, "B15", "v6.4", "a write fault that copied a page compares the entry again before it sets the copy") \
  X(cow_flush, "G-14", "v6.4", "a copied page is cleared and flushed before the copy can be written")                \
  X(cow_shared, "G-13", "v6.4", "a store copies a private page unless nobody else has it")                          \
  X(fork_wrprotect, "G-13", "v6.4", "fork takes the right to write shared pages from the parent too")               \
  X(fork_flush, "G-13", "v6.4", "fork flushes the parent's TLB before its faults go on")                            \
  X(mprotect_flush, "G-14", "v6.4", "mprotect flushes before it gives the VMA up")                                  \
  X(zap_nested, "G-14", "v6.4", "a zap that met another flushes everything: entries that it found none may not be flushed yet") \
  X(walk_again, "B37", "v6.5", "a walk whose table has gone looks at the PMD again: the range is not at its end") \
  X(truncate_twice, "G-20", "v6.4", "truncate unmaps once more at its end, for private copies that were made meanwhile") \
  X(mremap_flush, "B32", "v6.4", "mremap flushes the old addresses before it gives up the locks")                    \
  X(mremap_recheck, "B35", "v6.6", "mremap looks at the PMD again under its locks before it moves the table whole") \
  X(split_invalidates, "G-15", "v6.4", "the split of a huge PMD flushes the huge translation before small ones can come") \
  X(split_freeze, "G-26", "v6.4", "a folio is split only with all of its references in hand")                       \
  X(anon_refcount, "B30", "v6.4", "anonymous collapse gives up on a page with a reference that it cannot explain")  \
  X(anon_mark_first, "B18", "v6.17", "anonymous collapse marks the VMA before it looks at the PMD for the last time") \
  X(retract_pmd_state, "B17", "v6.14", "retraction looks again, under pml, whether the PMD holds a table")           \
  X(cpmt_remove_same, "B17", "v6.13", "removing the emptied table compares the PMD under both locks")                \
  X(reclaim_rescan, "B19", "v6.14", "a zap that let the ptl go looks at every entry again before it frees the table") \
  X(reclaim_try_pml, "B20", "v6.14", "a zap that holds the ptl only tries the pml")                                  \
  X(gather_fallback_rcu, "B21", "v6.14", "a table that finds no batch waits for a grace period of its own")           \
  X(guard_anon_vma, "B26", "v6.17", "guard markers are announced by an anon_vma, which retraction looks at")         \
  X(retract_recheck_wp, "B23", "v6.4", "retraction looks at the userfaultfd's protection again under the lock that decides") \
  X(cpmt_early_pml, "B24", "v6.6", "where UFFDIO_COPY may put a private page in, the pml is held from the clearing of the entries to the removal of the table") \
  X(cpmt_uffd_wp, "G-17", "v6.4", "collapse_pte_mapped_thp leaves a mapping alone whose entries a userfaultfd may have protected") \
  X(file_missing, "B28", "v6.4", "collapse_file fills no hole that a userfaultfd of some mapping would report")      \
  X(anon_uffd_hole, "B28", "v6.4", "anonymous collapse fills no hole that a userfaultfd would report")               \
  X(anon_uffd_wp, "G-17", "v6.4", "anonymous collapse leaves an extent alone that has a write-protected entry")      \
  X(uffd_must_wait, "G-18", "v6.4", "a fault that stands in a userfaultfd's queue looks at the entry again before it sleeps") \
  X(uffd_drop_lock, "G-31", "v6.4", "a fault gives up its lock before it waits for a userfaultfd")                   \
  X(uffd_changing, "G-18", "v6.4", "a userfaultfd fills nothing while a change of the mapping has not been read")    \
  X(uffd_wp_flush, "G-17", "v6.4", "UFFDIO_WRITEPROTECT flushes before it returns")                                  \
  X(mfill_retry, "B27", "v6.5", "UFFDIO_COPY answers EAGAIN where the table that it saw has gone")                   \
  X(move_pmd_same, "B14", "v6.13", "UFFDIO_MOVE compares the destination's PMD again under its locks")               \
  X(retract_notifier, "B33", "v6.4", "retraction tells secondary MMUs, before 6.6 by its notifier range, of the table that goes") \
  X(notifier_start, "G-16", "v6.4", "the start of a notifier range makes secondary MMUs forget it")                  \
  X(switch_fence, "G-15", "v6.4", "a CPU that comes to a program fences between its bit in the mask and its first walk") \
  X(irq_disable_release, "G-15", "v6.4", "turning interrupts off is a release store, so that it hands on the section before it") \
  X(map_validates, "B56", "v6.5", "the map helpers look whether the PMD that they read holds a table")               \
  X(cpmt_anon_vma, "B51", "v6.4", "collapse_pte_mapped_thp looks at entries, and does not refuse a mapping for its anon_vma") \
  X(detach_accounts, "B54", "v6.4", "a table that leaves its PMD is taken off the program's page tables")            \
  X(fault_prealloc, "B55", "v6.6", "a file fault has a table at hand whenever it finds none, whatever it saw before") \
  X(folio_in_table, "B57", "v6.18", "a fault maps a large folio whole only where one table takes all of it")         \
  X(secondary_retry, "G-16", "v6.4", "a secondary MMU looks a page up again where a range that covers it was open meanwhile") \
  X(secondary_flush, "G-16", "v6.4", "secondary MMUs that walk the tables are told of flushes (before 6.6 of the ends of ranges)") \
  X(gup_recheck, "B01", "v6.4", "GUP-fast reads the entry and the PMD again once it has its reference")              \
  X(gup_rcu, "G-2", "v6.6", "GUP-fast's section is one of RCU too: on a machine that flushes by broadcast nothing else keeps the table") \
  X(gup_fork_fence, "G-13", "v6.4", "a pin is counted before GUP-fast's second look at fork, and fork begins before it looks for pins") \
  X(fork_pinned, "G-13", "v6.4", "fork copies a pinned page for the child at once, so that the parent never has to")  \
  X(gup_fork_seq, "G-13", "v6.4", "GUP-fast gives a pin back where fork took the right to write away meanwhile")     \
  X(gup_unshare, "G-13", "v6.4", "who pins a private page to read it first takes it from those who share it")        \
  X(fork_pinned_huge, "G-13", "v6.4", "fork takes a huge PMD apart whose page is pinned, and copies it page by page") \
  X(file_thp_writers, "G-48", "v6.4", "collapse_file counts the huge page of a regular file, and then looks whether somebody writes to the file") \
  X(file_thp_fence, "G-48", "v6.4", "a full fence stands between that count and that look, and between those of who opens it for writing") \
  X(file_open_drops, "G-48", "v6.4", "whoever opens a regular file for writing drops its huge pages")                \
  X(file_thp_clean, "G-12", "v6.4", "collapse_file leaves alone what has not been written back: a huge page never is") \
  X(rcu_gp_waits, "G-1", "v6.4", "a grace period waits until no reader of an older epoch is left")                   \
  X(rcu_updater_fence, "G-1", "v6.4", "a membarrier stands between the new epoch and the look at the readers")       \
  X(rcu_reader_fence, "G-1", "v6.4", "without membarrier, a reader fences between its announcement and its first load") \
  X(rcu_begin_fence, "G-1", "v6.4", "a grace period shows that it began before it shows the new epoch")              \
  X(rcu_announce_release, "G-1", "v6.4", "an announcement is a release store, so that it hands on the section before it") \
  X(rcu_reader_release, "G-1", "v6.4", "leaving a section is a release store: its loads are done before the free")   \
  X(rcu_scan_acquire, "G-1", "v6.4", "the look at a reader acquires the sections that it finds finished")            \
  X(rcu_gp_lock, "G-1", "v6.4", "begin, scan and end of a grace period are under one lock, polled or not")           \
  X(rcu_poll_after_full_gp, "G-1", "v6.4", "a cookie waits for a grace period that began after it was given out")    \
  X(rcu_state_fence, "G-1", "v6.4", "what was unlinked before a cookie was taken is visible before the grace period begins") \
  X(rcu_nesting, "G-1", "v6.4", "leaving an inner section does not end the outer one")                               \
  X(rcu_batch_waits, "G-1", "v6.4", "a batch of callbacks runs only once its cookie has passed")                     \
  X(rcu_steal_fence, "G-1", "v6.4", "a membarrier stands between shutting another thread's queue and looking into it") \
  X(rcu_barrier_runners, "G-1", "v6.4", "rcu_barrier waits for batches that other threads are still running")

namespace pgtbl::inline PGTBL_WORLD {

enum class Guard : u8 {
#define X(name, bug, era, why) name,
  PGTBL_GUARDS(X) PGTBL_ARCH_GUARDS(X)
#undef X
};

struct guard_row {
  const char* name;
  const char* bug;
  const char* era;
  const char* why;
};
inline constexpr guard_row guard_table[] = {
#define X(name, bug, era, why) {#name, bug, era, why},
    PGTBL_GUARDS(X) PGTBL_ARCH_GUARDS(X)
#undef X
};
inline constexpr unsigned guard_count = std::size(guard_table);

/// The guard's number; guard_count where there is none of that name.
constexpr unsigned guard_named(std::string_view name) {
  unsigned g = 0;
  while (g < guard_count && name != guard_table[g].name) ++g;
  return g;
}

/// A set of guards.
struct guard_mask {
  static constexpr unsigned size = (guard_count + 63) / 64;
  u64 words[size] = {};
  bool test(unsigned g) const { return (words[g / 64] >> g % 64 & 1) != 0; }
  void set(unsigned g, bool on = true) {
    const u64 bit = 1ULL << g % 64;
    words[g / 64] = on ? words[g / 64] | bit : words[g / 64] & ~bit;
  }
  friend guard_mask operator|(guard_mask a, const guard_mask& b) {
    for (unsigned i = 0; i < size; ++i) a.words[i] |= b.words[i];
    return a;
  }
};

#if defined(PGTBL_WORLD_REAL)
constexpr bool guard(Guard) { return true; }
#else
// One mask for the process: it is set before the threads of a test start.
class removed_guards {
 public:
  guard_mask get() const {
    guard_mask m;
    for (unsigned i = 0; i < guard_mask::size; ++i) m.words[i] = words_[i].get();
    return m;
  }
  void set(const guard_mask& m) {
    for (unsigned i = 0; i < guard_mask::size; ++i) words_[i].set(m.words[i]);
  }
  bool test(unsigned g) const { return (words_[g / 64].get() >> g % 64 & 1) != 0; }

 private:
  counter words_[guard_mask::size];
};
inline removed_guards guards_removed;
inline bool guard(Guard g) { return !guards_removed.test(static_cast<unsigned>(g)); }
#endif

}  // namespace pgtbl::inline PGTBL_WORLD
