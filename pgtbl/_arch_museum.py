"""The museum's wing of architectures: bugs of their page tables, and what catches the removal of each guard."""

from __future__ import annotations

from ._exhibit import Exhibit

EXHIBITS = (
    Exhibit(
        "B39",
        "powerpc: two fragments of a page queue one rcu_head",
        "ppc_one_head",
        "powerpc-two-defers",
        "v6.6",
        "sc",
        "The first version of the fifth patch would have: the page has one head, and each deferral queued it. Since "
        "the third version a deferral marks the page, and drops the fragment's reference.",
    ),
    Exhibit(
        "B40",
        "powerpc: the page is marked Active after the reference is gone",
        "ppc_active_first",
        "powerpc-two-defers",
        "v6.6",
        "sc",
        "A rule of the fifth patch: the reference may be the last, and then the page is freed at once, under walkers.",
    ),
    Exhibit(
        "B41",
        "powerpc: an assertion stops the kernel in anonymous collapse",
        "assert_none_exempt",
        "powerpc-collapse-vs-lock",
        "v6.6",
        "sc",
        "Happened to the fourth patch as it was posted, found by Aneesh Kumar: anonymous collapse empties the PMD "
        "before it clears the entries, so a PMD that is none must pass.",
    ),
    Exhibit(
        "B42",
        "s390: a page is on its mm's list while its head is queued",
        "s390_one_head",
        "s390-two-defers",
        "v6.6",
        "sc",
        "The first version of the seventh patch: list node and rcu_head are the same two words, and each of the two "
        "halves of a page wants the head.",
    ),
    Exhibit(
        "B43",
        "s390: a half that is pending removal is handed out",
        "s390_pending_busy",
        "s390-gather-vs-alloc",
        "v6.6",
        "sc",
        "A comment of the allocator says so: the batch would free a half that lives.",
    ),
    Exhibit(
        "B44",
        "s390: two halves are freed at once, and both free the page",
        "s390_two_steps",
        "s390-two-frees",
        "v6.6",
        "sc",
        "Happened (commit c2c224932fd0 speaks of it): a half goes from allocated to pending to free, so that one of the two "
        "finds that nothing is left.",
    ),
    Exhibit(
        "B45",
        "s390: a page that is of no use stands at the head of the list",
        "s390_active_unlisted",
        "s390-two-pages",
        "v6.6",
        "sc",
        "The second version of the seventh patch: only the head is looked at, so what stands behind it is never "
        "handed out, and memory grows.",
    ),
    Exhibit(
        "B46",
        "s390: the RCU callback looks at a program that is gone",
        "s390_callback_no_mm",
        "s390-defer-vs-exit",
        "v6.6",
        "sc",
        "The first version of the seventh patch kept the mm alive for its callback and gave it back from another thread; the "
        "second had one global lock. The third needs neither.",
    ),
    Exhibit(
        "B47",
        "s390: a warning about programs with guests, which is wrong",
        "s390_pgste_allowed",
        "s390-guests",
        "v6.6",
        "sc",
        "Happened (commit 5647f61ad917): KVM may be switched on between khugepaged's look at the VMA and the "
        "deferral, and nothing is wrong with that.",
    ),
    Exhibit(
        "B48",
        "x86-pae: a PMD is read whose halves are of two values",
        "pae_sync",
        "pae-rmap-vs-refill",
        "v6.6",
        "sc",
        "What the second patch prevents: the same low half comes back between two looks at it, and the high half is "
        "another's.",
    ),
    Exhibit(
        "B49",
        "arm: adjust_pte takes a lock twice",
        "arm_by_address",
        "arm-split-migration",
        "v6.6",
        "sc",
        "Happened three times: with one lock for all (2010), with an alias in the same table, and, since 6.13, with a "
        "caller that is no fault (fixed in 2025).",
    ),
    Exhibit(
        "B50",
        "powerpc: a huge PMD without a deposited table",
        "deposit_table",
        "powerpc-huge-vs-zap",
        "v6.6",
        "sc",
        "A rule of hash MMUs: a table stands ready behind every huge PMD, of files too; a zap withdraws it.",
    ),
)

KILLERS: dict[str, tuple[str, str, str]] = {
    guard: (scenario, "v6.6", "sc")
    for guard, scenario in {
        "pae_low_again": "pae-gup-vs-refill",
        "pae_high_first": "pae-rmap-vs-install",
        "pae_low_off_first": "pae-gup-vs-refill",
        "pae_irq_off": "pae-rmap-vs-retract-vs-install",
        "pae_sync": "pae-rmap-vs-retract-vs-install",
        "pae_sync_all": "pae-rmap-vs-retract-vs-install",
        "ppc_cache_lock": "powerpc-two-allocs",
        "ppc_cache_recheck": "powerpc-two-allocs",
        "ppc_one_head": "powerpc-two-defers",
        "ppc_active_first": "powerpc-two-defers",
        "ppc_free_sees_active": "powerpc-defer-vs-free",
        "ppc_destroy_drops": "powerpc-defer-vs-walk-vs-exit",
        "assert_none_exempt": "powerpc-collapse-vs-lock",
        "deposit_table": "powerpc-huge-vs-zap",
        "deposit_fresh": "powerpc-huge-vs-zap",
        "ppc_slots_cleared": "powerpc-hash-vs-zap",
        "ppc_serialize": "powerpc-hash-vs-zap",
        "sparc_handle_is_entries": "sparc64-defer-vs-walk",
        "s390_pending_busy": "s390-gather-vs-alloc",
        "s390_two_steps": "s390-two-frees",
        "s390_unlist": "s390-one-half-defer-vs-alloc",
        "s390_one_head": "s390-two-defers",
        "s390_active_first": "s390-defer-vs-alloc",
        "s390_active_unlisted": "s390-two-pages",
        "s390_callback_no_mm": "s390-defer-vs-exit",
        "s390_pgste_allowed": "s390-guests",
        "s390_pgste_whole": "s390-pgste-gather",
        "arm_split_only": "arm-second-mapping",
        "arm_same_table": "arm-split-same-table",
        "arm_by_address": "arm-split-migration",
        "arm_one_read": "arm-split-vs-retract",
        "arm_flush_line": "arm-second-mapping",
        "arm_adjust_own": "arm-second-mapping",
    }.items()
}
"""For each guard of csrc/arch: the scenario, era and memory model that catch its removal."""
