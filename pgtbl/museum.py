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
        "B01",
        "GUP-fast returns a page that is not there any more",
        "gup_recheck sync_before_free",
        "pin-vs-anon-collapse",
        "v6.6",
        "sc",
        "Happened (commit 70cbc3cc78a9, found by Jann Horn): a collapse took the table away between GUP-fast's read of the "
        "entry and its reference; the entry in the detached table is as it was, and the PMD alone tells. Since then GUP-fast "
        "reads both again. The collapse has also sent an interrupt to all CPUs since commit 2ba99c5e0881 (B02), and either is "
        "enough here. The second look is needed on its own where an entry is cleared: pin-vs-dontneed.",
    ),
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
        "B14",
        "UFFDIO_MOVE compares an entry that is none with none, in a table that has left its PMD",
        "move_pmd_same",
        "uffd-move-vs-reclaim",
        "v6.14",
        "sc",
        "Happened: that the entry is still the same was first thought to be enough; where it is none, the PMD has to be "
        "compared, or the page moves into a table that MADV_DONTNEED has taken away.",
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
        "B23",
        "a table goes that holds the marker of a write-protected page",
        "retract_recheck_wp",
        "uffd-wp-vs-retract",
        "v6.6",
        "sc",
        "Found in review by Peter Xu: a page that is not mapped is protected by a marker in the table and nowhere else; "
        "whether the VMA is registered is looked at again under the lock that decides.",
    ),
    Exhibit(
        "B24",
        "UFFDIO_COPY puts a private page between the clearing of the entries and the removal of the table",
        "cpmt_early_pml",
        "uffd-copy-vs-collapse-pte-mapped",
        "v6.6",
        "sc",
        "Happened (commit a98460494b16, found by Jann Horn): the folio's lock keeps faults out, and UFFDIO_COPY into a private "
        "mapping does not ask for it. There the PMD's lock is held from before the first entry is cleared.",
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
        "B27",
        "UFFDIO_COPY asserts that the table it has just made sure of is there",
        "mfill_retry",
        "uffd-copy-vs-retract",
        "v6.6",
        "sc",
        "Happened (CVE-2024-46787 and its twin): retraction, or a huge page that came and went, may have taken the table since. "
        "The answer is EAGAIN, and no assertion.",
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
        "B33",
        "a device goes on by a page table that it was not told has gone",
        "retract_notifier",
        "walker-vs-retract",
        "v6.4",
        "sc",
        "Happened (commit f268f6cf875f): RCU is no concern of an IOMMU that walks the program's tables; the notifier range, and "
        "since 6.6 every flush, tells it to forget them.",
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
        "B36",
        "a walk of all tables, whatever they map, meets MADV_DONTNEED that frees one",
        "map_rcu",
        "walk-without-vma-vs-reclaim",
        "v6.17",
        "sc",
        "Debated for 6.14 and later: such a walk relied on mmap_lock for write to keep its tables, and a MADV_DONTNEED that "
        "holds the VMA's lock alone (6.17) does not ask for that. What still keeps the table is the RCU section of the map. "
        "Under 6.14, where MADV_DONTNEED holds mmap_lock, the same cast is exhausted without it.",
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
    Exhibit(
        "B51",
        "collapse_pte_mapped_thp refuses whatever has an anon_vma",
        "cpmt_anon_vma",
        "private-page-refuses-collapse",
        "v6.6",
        "sc",
        "Happened (commit ab0c3f1251b4): after B03 was mended, a mapping that had ever had a private page, a uprobe's for "
        "one, was never huge again. Its entries tell whether one is in the way.",
    ),
    Exhibit(
        "B52",
        "the ninth extent that is put off is forgotten",
        "",
        "cast:madvise_and_catch_up:small_pages:2:extents:put_off=1",
        "v6.4",
        "sc",
        "Until 6.5 MADV_COLLAPSE left other programs' tables to khugepaged, which remembered eight extents of each (in this "
        "cast, one, and it is the second that is forgotten; put-off-extents has room for both). Since 6.6 their tables are "
        "retracted at once, and nothing is remembered.",
        "v6.6",
    ),
    Exhibit(
        "B54",
        "a table leaves its PMD, and is not taken off the program's count",
        "detach_accounts",
        "map-vs-retract",
        "v6.6",
        "sc",
        "A rule of the series: mm_dec_nr_ptes when the table is detached, not when RCU frees it, which may be after the "
        "program has ended and complained of a count that is not 0.",
    ),
    Exhibit(
        "B55",
        "a file fault relies on a table that it did not bring",
        "fault_prealloc",
        "fault-vs-retract-nohuge",
        "v6.13",
        "sc",
        "Happened to 6.6-rc (found by syzbot): fault-around brings a table if it sees none, and a retraction between its two "
        "looks at the PMD made it map into nothing. Here fault-around makes its table where it needs one; without the guard it "
        "goes by whether there was one when it began, and to find none then is what would have been the access through null.",
    ),
    Exhibit(
        "B56",
        "a walk takes for a table what was one when it last looked",
        "map_validates",
        "split-vs-refault",
        "v6.6",
        "sc",
        "Happened to the generic page walker, with huge PUDs: it took the huge entry in its way apart, found something there "
        "afterwards, and went on as if that were a table; a fault had mapped the huge page again. The map helpers go by one "
        "value, and ask it whether it is a table.",
    ),
    Exhibit(
        "B57",
        "a batch of entries goes on beyond the end of its table",
        "folio_in_table",
        "fault-askew",
        "v6.18",
        "sc",
        "Happened: a large folio that lies across two tables is mapped page by page. It takes nobody else: one fault goes "
        "wrong by itself. Of the bug this is one half; the other, a batch that gives all its entries the rights of its first, "
        "cannot be shown here, where each entry is changed by its own value.",
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
    "retract_recheck_wp": ("uffd-wp-vs-retract", "v6.6", "sc"),
    "cpmt_early_pml": ("uffd-copy-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_uffd_wp": ("uffd-wp-vs-collapse-pte-mapped", "v6.6", "sc"),
    "file_missing": ("uffd-hole-vs-collapse-file", "v6.6", "sc"),
    "anon_uffd_hole": ("uffd-hole-vs-anon-collapse", "v6.6", "sc"),
    "anon_uffd_wp": ("uffd-wp-vs-anon-collapse", "v6.6", "sc"),
    "uffd_must_wait": ("uffd-wait-vs-copy", "v6.6", "sc"),
    "uffd_drop_lock": ("uffd-wait-vs-register", "v6.4", "sc"),
    "uffd_changing": ("uffd-fork-vs-copy", "v6.6", "sc"),
    "uffd_wp_flush": ("uffd-wp-sees-store", "v6.6", "sc"),
    "mfill_retry": ("uffd-copy-vs-retract", "v6.6", "sc"),
    "move_pmd_same": ("uffd-move-vs-reclaim", "v6.14", "sc"),
    "retract_notifier": ("walker-vs-retract", "v6.4", "sc"),
    "notifier_start": ("shadow-vs-dontneed", "v6.6", "sc"),
    "secondary_retry": ("shadow-vs-dontneed", "v6.6", "sc"),
    "secondary_flush": ("walker-vs-dontneed", "v6.6", "sc"),
    "gup_recheck": ("pin-vs-dontneed", "v6.6", "sc"),
    "gup_rcu": ("pin-vs-retract", "v6.6", "sc"),
    "gup_unshare": ("pin-to-read-vs-fork", "v6.6", "sc"),
    "fork_pinned_huge": ("pin-vs-fork-of-huge-page", "v6.6", "sc"),
    "file_thp_writers": ("writer-vs-collapse-file", "v6.6", "sc"),
    "file_thp_fence": ("writer-vs-collapse-file", "v6.6", "rc11"),
    "file_open_drops": ("open-vs-retract", "v6.6", "sc"),
    "file_thp_clean": ("dirty-file-vs-collapse-file", "v6.6", "sc"),
    "gup_fork_seq": ("pin-vs-fork", "v6.6", "sc"),
    "gup_fork_fence": ("pin-vs-fork", "v6.6", "rc11"),
    "irq_disable_release": ("irq-two-sections", "v6.6", "rc11"),
    "fork_pinned": ("pin-vs-fork", "v6.6", "sc"),
    "map_validates": ("split-vs-refault", "v6.6", "sc"),
    "cpmt_anon_vma": ("private-page-refuses-collapse", "v6.6", "sc"),
    "detach_accounts": ("map-vs-retract", "v6.6", "sc"),
    "fault_prealloc": ("fault-vs-retract-nohuge", "v6.13", "sc"),
    "folio_in_table": ("fault-askew", "v6.18", "sc"),
    "switch_fence": ("arrival-vs-dontneed", "v6.6", "rc11"),
    **_ARCH_KILLERS,
}

# Not exhausted in minutes; all others are, in each of their eras under every memory model, but for the one in between.
LARGE = (
    "fault-vs-collapse-pte-mapped",
    "truncate-vs-fault",
    "collapse-file-vs-load",
    "two-faults",
    "private-store-vs-collapse-pte-mapped",
    "private-store-aborts-collapse",
    "abort-vs-truncate-and-hardware",
    "madvise-vs-munmap",
    "rcu-worker-two-callers",
    "two-madvise-collapse",
    "collapse-file-vs-fault-in-hole",
    "fault-vs-reclaim",
    "open-vs-collapse-file",
)
EXHAUSTED_IN_MINUTES = ("truncate-vs-collapse-pte-mapped",)

# Release-acquire (`ra`) has no seq_cst fences: these stand on them, and fail rightly there. Grace periods that meet, readers
# without membarrier, who comes to a program that is being flushed, who pins beside fork, who opens a file beside collapse.
NEEDS_FENCES = frozenset(
    {
        "primer-wwwc-epochs",
        "rcu-two-updaters",
        "rcu-two-sections-two-updaters",
        "rcu-nesting-two-updaters",
        "rcu-expedited-and-normal",
        "rcu-two-cookies",
        "rcu-cookie-and-expedited",
        "rcu-poll-and-synchronize",
        "rcu-fences",
        "irq-fences",
        "arrival-vs-dontneed",
        "pin-vs-fork",
        "pin-to-read-vs-fork",
        "pin-vs-fork-of-huge-page",
        "open-vs-collapse-file",
        "writer-vs-collapse-file",
    }
)


def exhibit_of(bug: str) -> Exhibit:
    """The exhibit of that number; ValueError names the nearest that exist."""
    exhibits = {e.bug: e for e in EXHIBITS}
    return exhibits[known(bug.upper(), "bug of the museum", list(exhibits))]


def show(bug: str, seconds: float = 60.0) -> tuple[Verdict, Verdict, Exhibit]:
    """The counterexample without the guard, or in its era; and the same scenario exhausted with it, or in a later one."""
    e = exhibit_of(bug)
    broken = explore(e.scenario, without=e.guards, era=e.era, memory=e.memory, seconds=seconds)
    fixed = explore(e.scenario, era=e.mended or e.era, memory=e.memory, seconds=seconds)
    return broken, fixed, e
