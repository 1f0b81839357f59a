"""The known bugs that the explorer can show, and which scenario catches the removal of which guard."""

from __future__ import annotations

from ._arch_museum import EXHIBITS as _ARCH_EXHIBITS
from ._arch_museum import KILLERS as _ARCH_KILLERS
from ._exhibit import Exhibit
from ._explore import Verdict, explore
from ._near import known

EXHIBITS = (
    *_ARCH_EXHIBITS,
    Exhibit(
        "B02",
        "a table is freed while a walk with interrupts off is still in it",
        "sync_before_free",
        "lockless-walk-vs-retract",
        "v6.4",
        "sc",
        "Happened (commit 2ba99c5e0881): a TLB flush does not interrupt a CPU that does not run the program, so an "
        "interrupt to all CPUs must stand between the removal of a table and its free. Since 6.6 RCU does that.",
    ),
    Exhibit(
        "B03",
        "a table leaves without i_mmap_rwsem, under a walk of the reverse map",
        "retract_i_mmap",
        "truncate-vs-collapse-pte-mapped",
        "v6.4",
        "sc",
        "Happened (commit 8d3c106e19e8): who holds i_mmap_rwsem for read takes entries above the last level for "
        "stable. Until 6.5 the collapser therefore takes it for write; since 6.6 the walker looks again.",
    ),
    Exhibit(
        "B04",
        "anon_vma is looked at before mmap_lock is taken, and not after",
        "retract_recheck_anon",
        "private-page-vs-retract",
        "v6.4",
        "sc",
        "Until 6.5: between the look and the lock a private page may come into the table that is then freed.",
    ),
    Exhibit(
        "B05",
        "the RCU section of a map is missing, or entered too late",
        "map_rcu",
        "map-vs-retract",
        "v6.6",
        "sc",
        "A rule of the first patch of the series: the section is entered before the PMD is read.",
    ),
    Exhibit(
        "B06",
        "a table is unmapped without leaving the section",
        "unmap_rcu",
        "map-vs-retract",
        "v6.6",
        "sc",
        "A rule of the series: grace periods would never end, and tables pile up.",
    ),
    Exhibit(
        "B07",
        "a table's lock is destroyed before the grace period",
        "dtor_deferred",
        "map-lock-vs-retract",
        "v6.6",
        "sc",
        "A rule of the eighth patch: late walkers still spin on the lock.",
    ),
    Exhibit(
        "B08",
        "a table is freed at once, under walkers that hold RCU",
        "free_deferred",
        "map-vs-retract",
        "v6.6",
        "sc",
        "What the series is named for; an IPI would not help, because RCU readers do not block it.",
    ),
    Exhibit(
        "B09",
        "khugepaged, an outsider, walks a program that ends",
        "retract_i_mmap",
        "exit-vs-retract",
        "v6.6",
        "sc",
        "A rule of the contract: a look whether the program is exiting is not enough, as it may end right after it. "
        "Its VMA stands in i_mmap until its tables go, and the semaphore keeps it there.",
    ),
    Exhibit(
        "B10",
        "collapse_pte_mapped_thp looks at tables before it has found the VMA",
        "cpmt_vma_first",
        "munmap-vs-collapse-pte-mapped",
        "v6.6",
        "sc",
        "Found in review of the tenth patch by Jann Horn: munmap frees tables under mmap_lock for read, after the "
        "VMA has left the tree.",
    ),
    Exhibit(
        "B11",
        "MADV_COLLAPSE goes on with a VMA that it found before it dropped mmap_lock",
        "madvise_revalidate",
        "madvise-two-extents-vs-munmap",
        "v6.6",
        "sc",
        "Happened to the first version of the tenth patch, found by syzbot: the loop believed the lock held.",
    ),
    Exhibit(
        "B12",
        "pte_offset_map_lock without a second look at the PMD",
        "pmd_recheck",
        "map-lock-vs-retract",
        "v6.6",
        "sc",
        "Since 6.5: between the read of the PMD and the lock a retraction may have emptied it.",
    ),
    Exhibit(
        "B13",
        "the table's lock is found by a second read of the PMD",
        "lock_from_pmdval",
        "map-lock-vs-retract",
        "v6.6",
        "sc",
        "Found in review of the third and fourth patches.",
    ),
    Exhibit(
        "B15",
        "the clearing pass trusts what the checking pass saw",
        "cpmt_verify",
        "write-fault-vs-collapse-pte-mapped",
        "v6.6",
        "sc",
        "A comment of the tenth patch says so: the lock was free in between, and a write fault may have put a "
        "private page where the page of the file was.",
    ),
    Exhibit(
        "B16",
        "an abort half-way leaves the accounts of what it had cleared",
        "cpmt_abort_account",
        "write-fault-vs-collapse-pte-mapped",
        "v6.6",
        "sc",
        "A rule of the tenth patch: references, rss and the TLB must be put right for the entries that are gone.",
    ),
    Exhibit(
        "B17",
        "retraction takes the lock of a table that MADV_DONTNEED has freed since",
        "retract_pmd_state",
        "retract-vs-reclaim",
        "v6.14",
        "sc",
        "Found in review of PT_RECLAIM (6.14) by Jann Horn: a PMD that held a table may be none by the time that its "
        "lock is held, and there is no table's lock to be found then. collapse_pte_mapped_thp compares it likewise.",
    ),
    Exhibit(
        "B18",
        "anonymous collapse looks at the PMD before it marks the VMA",
        "anon_mark_first",
        "anon-collapse-vs-dontneed",
        "v6.17",
        "sc",
        "Happened (commit 366a4532d96f): mmap_lock held for write no longer stops a MADV_DONTNEED that holds the VMA's "
        "lock alone and frees the emptied table; the collapse that gives up puts back what it found then, which is "
        "nothing, and the end of the program walks it.",
    ),
    Exhibit(
        "B19",
        "MADV_DONTNEED frees a table that a fault has filled again",
        "reclaim_rescan",
        "refill-vs-reclaim",
        "v6.14",
        "sc",
        "Happened (commit aa507d4fc1af): the zap lets the table's lock go where its batch is full, a fault fills an "
        "entry that it has passed, and the zap takes the table away without another look.",
    ),
    Exhibit(
        "B20",
        "a zap that holds the table's lock waits for the PMD's",
        "reclaim_try_pml",
        "retract-vs-reclaim",
        "v6.14",
        "sc",
        "A rule of PT_RECLAIM (6.14): everybody else takes the PMD's lock first, so the zap may only try it, and where "
        "it fails comes back with both in their order.",
    ),
    Exhibit(
        "B21",
        "a table that finds no batch is freed after an interrupt, under a reader that holds RCU",
        "gather_fallback_rcu",
        "map-vs-reclaim",
        "v6.14",
        "sc",
        "Found in review of 6.14: where no page is left for a batch, an interrupt to all CPUs had been enough, as "
        "munmap leaves nobody who may walk its tables. MADV_DONTNEED frees them under walkers, so each table waits "
        "for a grace period on its own head.",
    ),
    Exhibit(
        "B22",
        "UFFDIO_COPY puts a private page into a table that is being retracted",
        "retract_recheck_anon",
        "private-page-vs-retract",
        "v6.6",
        "sc",
        "Found in review of the ninth patch by Jann Horn: nothing but the table's own lock stands between the two, "
        "so anon_vma is looked at again under it.",
    ),
    Exhibit(
        "B26",
        "a guard region of a file is lost with the table that held it",
        "guard_anon_vma",
        "guard-vs-retract",
        "v6.17",
        "sc",
        "A guard stands in the page table and nowhere else. From 6.15 to 6.18 MADV_GUARD_INSTALL therefore gives a "
        "file's mapping an anon_vma, at which retraction looks under the table's lock; later releases look at a flag.",
    ),
    Exhibit(
        "B28",
        "a hole of the file is filled after it was counted",
        "file_hole_recheck",
        "collapse-file-vs-hole-filler",
        "v6.6",
        "sc",
        "Happened: holes are counted again, and marked, before the huge page is published.",
    ),
    Exhibit(
        "B29",
        "collapse_file copies before it flushes the batched TLB",
        "file_flush_first",
        "collapse-file-vs-store",
        "v6.6",
        "sc",
        "A comment of collapse_file says so: a store through a stale translation would be lost.",
    ),
    Exhibit(
        "B30",
        "a pinned page is collapsed",
        "file_refcount",
        "collapse-file-vs-pin",
        "v6.6",
        "sc",
        "A rule of collapse_file: a reference that it cannot explain may be a device's, which goes on writing.",
    ),
    Exhibit(
        "B31",
        "a removed table stays in the TLB or in the paging-structure cache",
        "retract_flush",
        "hardware-vs-retract",
        "v6.6",
        "sc",
        "The processor would go on reading entries from memory that is something else by now.",
    ),
    Exhibit(
        "B32",
        "mremap moves a page, and gives its locks up before it flushes the old address",
        "mremap_flush",
        "mremap-vs-punch-and-hardware",
        "v6.6",
        "sc",
        "Happened (commit eb66ae030829, found by Jann Horn): truncate, or a punched hole, finds the page at its "
        "new address, flushes that alone and frees it, while another CPU goes on by the old one.",
    ),
    Exhibit(
        "B34",
        "collapse_pte_mapped_thp removes the rmap of entries that it leaves valid",
        "cpmt_clear_ptes",
        "dontneed-vs-collapse-pte-mapped",
        "v6.6",
        "sc",
        "As 6.4 did under i_mmap_rwsem for write; the tenth patch clears them, or a truncate removes both again.",
    ),
    Exhibit(
        "B35",
        "mremap moves a table that retraction has taken: frame 0 becomes a page table",
        "mremap_recheck",
        "mremap-vs-retract",
        "v6.6",
        "sc",
        "Happened (CVE-2024-50066, commit 6fa1066fc5d0, found by Jann Horn): from 6.6 on retraction needs no mmap_lock, "
        "so that the PMD has to be looked at again under the locks with which its table is moved.",
    ),
    Exhibit(
        "B37",
        "a walk that reports what is mapped takes a table that has gone for the end of its range",
        "walk_again",
        "mincore-vs-collapse-pte-mapped",
        "v6.6",
        "sc",
        "A rule of 6.5, when the map helpers learnt to fail: the caller looks at the same PMD again, or pages that "
        "never moved are missing from its report.",
    ),
)

# For each guard: the scenario, era and memory model that catch its removal. The smallest cast that does, and the
# strongest memory model: sc before tso before rc11.
KILLERS: dict[str, tuple[str, str, str]] = {
    "cow_recheck": ("private-store-vs-collapse-pte-mapped", "v6.6", "sc"),
    "map_rcu": ("map-vs-retract", "v6.6", "sc"),
    "map_rcu_first": ("map-vs-retract", "v6.6", "sc"),
    "unmap_rcu": ("map-vs-retract", "v6.6", "sc"),
    "pmd_recheck": ("map-lock-vs-retract", "v6.6", "sc"),
    "lock_from_pmdval": ("map-lock-vs-retract", "v6.6", "sc"),
    "table_published": ("fault-vs-map", "v6.6", "rc11"),
    "install_under_pml": ("two-installs", "v6.6", "sc"),
    "free_deferred": ("map-vs-retract", "v6.6", "sc"),
    "dtor_deferred": ("map-lock-vs-retract", "v6.6", "sc"),
    "sync_before_free": ("lockless-walk-vs-retract", "v6.4", "sc"),
    "retract_i_mmap": ("exit-vs-retract", "v6.6", "sc"),
    "retract_range": ("partial-vma-vs-retract", "v6.6", "sc"),
    "retract_ptl": ("map-lock-vs-retract", "v6.6", "sc"),
    "retract_recheck_anon": ("private-page-vs-retract", "v6.6", "sc"),
    "retract_flush": ("hardware-vs-retract", "v6.6", "sc"),
    "retract_flush_psc": ("hardware-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_vma_first": ("munmap-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_folio_lock": ("fault-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_verify": ("write-fault-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_clear_ptes": ("dontneed-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_remove_ptl": ("map-lock-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_abort_flush": ("write-fault-aborts-collapse", "v6.6", "sc"),
    "cpmt_abort_account": ("write-fault-vs-collapse-pte-mapped", "v6.6", "sc"),
    "file_flush_first": ("collapse-file-vs-store", "v6.6", "sc"),
    "file_refcount": ("collapse-file-vs-pin", "v6.6", "sc"),
    "file_hole_recheck": ("collapse-file-vs-hole-filler", "v6.6", "sc"),
    "fault_folio_locked": ("fault-vs-retract", "v6.6", "sc"),
    "fault_truncated": ("collapse-file-vs-store", "v6.6", "sc"),
    "vma_seq_recheck": ("vma-lock", "v6.6", "sc"),
    "vma_start_write": ("vma-lock", "v6.6", "sc"),
    "vma_rcu": ("vma-lock-vs-munmap", "v6.6", "sc"),
    "unlink_before_free": ("exit-vs-retract", "v6.6", "sc"),
    "zap_flush": ("dontneed-vs-hardware", "v6.6", "sc"),
    "zap_batched": ("batched-rmap-vs-dontneed", "v6.6", "sc"),
    "rmap_recheck": ("rmap-vs-private-store", "v6.6", "sc"),
    "split_invalidates": ("huge-split-vs-hardware", "v6.6", "sc"),
    "split_freeze": ("punch-vs-pin", "v6.6", "sc"),
    "anon_refcount": ("anon-collapse-vs-pin", "v6.6", "sc"),
    "anon_mark_first": ("anon-collapse-vs-dontneed", "v6.17", "sc"),
    "reclaim_rescan": ("refill-vs-reclaim", "v6.14", "sc"),
    "guard_anon_vma": ("guard-vs-retract", "v6.17", "sc"),
    "retract_pmd_state": ("retract-vs-reclaim", "v6.14", "sc"),
    "cpmt_remove_same": ("collapse-pte-mapped-vs-reclaim", "v6.14", "sc"),
    "reclaim_try_pml": ("retract-vs-reclaim", "v6.14", "sc"),
    "madvise_revalidate": ("madvise-two-extents-vs-munmap", "v6.6", "sc"),
    "cow_flush": ("private-store-is-told", "v6.6", "sc"),
    "cow_shared": ("child-sees-store", "v6.6", "sc"),
    "fork_wrprotect": ("child-sees-store", "v6.6", "sc"),
    "fork_flush": ("child-sees-store", "v6.6", "sc"),
    "mprotect_flush": ("mprotect-sees-store", "v6.6", "sc"),
    "mremap_flush": ("mremap-vs-punch-and-hardware", "v6.6", "sc"),
    "mremap_recheck": ("mremap-vs-retract", "v6.6", "sc"),
    "zap_nested": ("two-dontneeds", "v6.6", "sc"),
    "walk_again": ("mincore-vs-collapse-pte-mapped", "v6.6", "sc"),
    "truncate_twice": ("truncate-vs-private-store", "v6.6", "sc"),
    "gather_fallback_rcu": ("map-vs-reclaim", "v6.14", "sc"),
    "rcu_gp_waits": ("rcu-synchronize", "v6.6", "sc"),
    "rcu_updater_fence": ("rcu-synchronize", "v6.6", "tso"),
    "rcu_reader_fence": ("rcu-fences", "v6.6", "tso"),
    "rcu_begin_fence": ("rcu-two-updaters", "v6.6", "rc11"),
    "rcu_announce_release": ("rcu-two-sections", "v6.6", "rc11"),
    "rcu_reader_release": ("rcu-synchronize", "v6.6", "rc11"),
    "rcu_scan_acquire": ("rcu-synchronize", "v6.6", "rc11"),
    "rcu_gp_lock": ("rcu-two-updaters", "v6.6", "sc"),
    "rcu_poll_after_full_gp": ("rcu-two-updaters", "v6.6", "sc"),
    "rcu_state_fence": ("rcu-two-updaters", "v6.6", "tso"),
    "rcu_nesting": ("rcu-nesting", "v6.6", "sc"),
    "rcu_batch_waits": ("rcu-call-batches", "v6.6", "sc"),
    "rcu_steal_fence": ("rcu-call-barrier", "v6.6", "tso"),
    "rcu_barrier_runners": ("rcu-worker-and-barrier", "v6.6", "sc"),
    **_ARCH_KILLERS,
}

NO_CAST = frozenset(
    {
        "anon_uffd_hole",
        "anon_uffd_wp",
        "cpmt_early_pml",
        "cpmt_uffd_wp",
        "file_missing",
        "file_open_drops",
        "file_thp_clean",
        "file_thp_fence",
        "file_thp_writers",
        "fork_pinned",
        "fork_pinned_huge",
        "gup_fork_seq",
        "gup_pmd_recheck",
        "gup_pte_recheck",
        "gup_unshare",
        "mfill_retry",
        "move_pmd_same",
        "notifier_start",
        "retract_notifier",
        "retract_recheck_wp",
        "secondary_flush",
        "secondary_retry",
        "uffd_changing",
        "uffd_drop_lock",
        "uffd_must_wait",
        "uffd_wp_flush",
    }
)
"""Guards that count as not caught: no verb of the explorer plays their actors (userfaultfd, secondary MMUs, GUP-fast) yet. Real threads
show them."""


def exhibit_of(bug: str) -> Exhibit:
    """The exhibit of that number; ValueError names the nearest that exist."""
    exhibits = {e.bug: e for e in EXHIBITS}
    return exhibits[known(bug.upper(), "bug of the museum", list(exhibits))]


def show(bug: str, seconds: float = 60.0) -> tuple[Verdict, Verdict, Exhibit]:
    """The counterexample without the guard, and the same scenario exhausted with it."""
    e = exhibit_of(bug)
    broken = explore(e.scenario, without=e.guard, era=e.era, memory=e.memory, seconds=seconds)
    fixed = explore(e.scenario, era=e.era, memory=e.memory, seconds=seconds)
    return broken, fixed, e
