"""The known bugs that the explorer can show, and which scenario catches the removal of which guard."""

from __future__ import annotations

from typing import NamedTuple

from .explore import Verdict, explore


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
KILLERS: dict[str, tuple[str, str, str]] = {}


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
