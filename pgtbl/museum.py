"""The known bugs that the explorer can show, and which scenario catches the removal of which guard."""

from __future__ import annotations

from typing import NamedTuple

from ._explore import Verdict, explore


class Exhibit(NamedTuple):
    """One bug: what it was, and the guard that prevents it."""

    bug: str
    title: str
    guard: str
    history: str


EXHIBITS = (
    Exhibit(
        "B05",
        "the RCU section of a map is missing, or entered too late",
        "map_rcu",
        "A rule of the first patch of the series: the section is entered before the PMD is read.",
    ),
    Exhibit(
        "B06",
        "a table is unmapped without leaving the section",
        "unmap_rcu",
        "A rule of the series: grace periods would never end, and tables pile up.",
    ),
    Exhibit(
        "B07",
        "a table's lock is destroyed before the grace period",
        "dtor_deferred",
        "A rule of the eighth patch: late walkers still spin on the lock.",
    ),
    Exhibit(
        "B08",
        "a table is freed at once, under walkers that hold RCU",
        "free_deferred",
        "What the series is named for; an IPI would not help, because RCU readers do not block it.",
    ),
    Exhibit(
        "B12",
        "pte_offset_map_lock without a second look at the PMD",
        "pmd_recheck",
        "Since 6.5: between the read of the PMD and the lock a retraction may have emptied it.",
    ),
    Exhibit(
        "B13",
        "the table's lock is found by a second read of the PMD",
        "lock_from_pmdval",
        "Found in review of the third and fourth patches.",
    ),
    Exhibit(
        "B29",
        "collapse_file copies before it flushes the batched TLB",
        "file_flush_first",
        "A comment of collapse_file says so: a store through a stale translation would be lost.",
    ),
    Exhibit(
        "B31",
        "a removed table stays in the TLB or in the paging-structure cache",
        "retract_flush",
        "The processor would go on reading entries from memory that is something else by now.",
    ),
    Exhibit(
        "B34",
        "collapse_pte_mapped_thp removes the rmap of entries that it leaves valid",
        "cpmt_clear_ptes",
        "As 6.4 did under i_mmap_rwsem for write; the tenth patch clears them, or a truncate removes both again.",
    ),
)

# For each guard: the scenario, era and memory model that catch its removal.
KILLERS: dict[str, tuple[str, str, str]] = {
    "map_rcu": ("map-vs-retract", "v6.6", "sc"),
    "map_rcu_first": ("map-vs-retract", "v6.6", "sc"),
    "unmap_rcu": ("map-vs-retract", "v6.6", "sc"),
    "pmd_recheck": ("map-lock-vs-retract", "v6.6", "sc"),
    "lock_from_pmdval": ("map-lock-vs-retract", "v6.6", "sc"),
    "table_published": ("two-faults", "v6.6", "rc11"),
    "install_under_pml": ("two-faults", "v6.4", "sc"),
    "free_deferred": ("map-vs-retract", "v6.6", "sc"),
    "dtor_deferred": ("map-lock-vs-retract", "v6.6", "sc"),
    "sync_before_free": ("lockless-walk-vs-retract", "v6.4", "sc"),
    "retract_i_mmap": ("exit-vs-retract", "v6.6", "sc"),
    "retract_range": ("partial-vma-vs-retract", "v6.6", "sc"),
    "retract_ptl": ("map-lock-vs-retract", "v6.6", "sc"),
    "retract_recheck_anon": ("private-page-vs-retract", "v6.6", "sc"),
    "retract_flush": ("hardware-vs-collapse-pte-mapped", "v6.6", "sc"),
    "retract_flush_psc": ("hardware-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_vma_first": ("munmap-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_folio_lock": ("fault-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_verify": ("private-store-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_clear_ptes": ("dontneed-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_remove_ptl": ("map-lock-vs-collapse-pte-mapped", "v6.6", "sc"),
    "cpmt_abort_account": ("private-store-aborts-collapse", "v6.6", "sc"),
    "file_flush_first": ("collapse-file-vs-store", "v6.6", "sc"),
    "file_refcount": ("collapse-file-vs-pin", "v6.6", "sc"),
    "file_hole_recheck": ("collapse-file-vs-hole-filler", "v6.6", "sc"),
    "fault_folio_locked": ("fault-vs-retract", "v6.6", "sc"),
    "fault_truncated": ("collapse-file-vs-store", "v6.6", "sc"),
    "vma_seq_recheck": ("munmap-vs-fault", "v6.6", "sc"),
    "vma_start_write": ("munmap-vs-fault", "v6.6", "sc"),
    "vma_rcu": ("munmap-vs-fault", "v6.6", "sc"),
    "unlink_before_free": ("exit-vs-retract", "v6.6", "sc"),
    "zap_flush": ("dontneed-vs-hardware", "v6.6", "sc"),
    "rmap_recheck": ("rmap-vs-private-store", "v6.6", "sc"),
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
    "rcu_barrier_runners": ("rcu-barrier-runners", "v6.6", "sc"),
    "cpmt_abort_flush": ("abort-vs-truncate-and-hardware", "v6.6", "sc"),
    "rcu_steal_fence": ("rcu-call-barrier", "v6.6", "tso"),
}


def exhibit_of(bug: str) -> Exhibit:
    """The exhibit of that number; ValueError names those that exist."""
    for e in EXHIBITS:
        if e.bug == bug.upper():
            return e
    raise ValueError(f"the museum has no {bug!r}: it has {', '.join(e.bug for e in EXHIBITS)}")


def show(bug: str, seconds: float = 60.0) -> tuple[Verdict, Verdict, Exhibit]:
    """The counterexample without the guard, and the same scenario exhausted with it."""
    e = exhibit_of(bug)
    scenario, era, memory = KILLERS[e.guard]
    broken = explore(scenario, without=e.guard, era=era, memory=memory, seconds=seconds)
    fixed = explore(scenario, era=era, memory=memory, seconds=seconds)
    return broken, fixed, e
