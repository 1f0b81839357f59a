"""Races, forced: threads held still at named points, with each guard in place and taken away.

With the guard the race must end well. Without it, it must be seen: by a hook as it happens, by the check of the
machine afterwards, or by what the memory then holds.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from forced import (
    A_WHILE,
    EXTENT,
    PAGE,
    PAGES,
    PATIENCE,
    Lab,
    Lost,
    Race,
    SmallOfHuge,
    Two,
    at,
    both_ways,
    collapse,
    every_page,
    expect,
    pmd,
)

from pgtbl import MADV_DONTNEED, torture
from pgtbl._arch_museum import KILLERS as ARCH_KILLERS
from pgtbl.errors import SegmentationFault

# ---- the map helpers ----------------------------------------------------------------------------


def zap_meets_retraction(lab: Lab, point: str = "maplock_before_lock", freed: bool = False) -> None:
    """A zap has found b's table; a collapse retracts it; the zap goes on."""
    s = Two(lab)
    with torture.pause(point) as pause:
        zap = lab.task(lambda: s.b.madvise(s.at_b, EXTENT, MADV_DONTNEED))
        at(pause)
        before = lab.count("table.pte.freed")
        assert collapse(s.a, s.at_a) == 0
        if freed:
            lab.until("table.pte.freed", before + 2)
    zap.join()
    expect(s.b.load(s.at_b + 3 * PAGE), 1003, "page 3 in b")


def zap_meets_retraction_and_grace_period(lab: Lab) -> None:
    zap_meets_retraction(lab, freed=True)


def zap_before_its_section(lab: Lab) -> None:
    zap_meets_retraction(lab, "map_pmd_read", freed=True)


def fault_meets_removal(lab: Lab) -> None:
    """A fault has found the table of a small mapping of a huge page; the table goes; the fault goes on."""
    s = SmallOfHuge(lab)
    s.mm.madvise(s.at + 5 * PAGE, PAGE, MADV_DONTNEED)
    with torture.pause("maplock_before_lock") as pause:
        fault = lab.task(lambda: s.mm.store(s.at + 5 * PAGE, 7))
        at(pause)
        remover = lab.task(lambda: collapse(s.mm, s.at))
        remover.done(A_WHILE)
    fault.join()
    remover.join()
    expect(s.mm.load(s.at + 5 * PAGE), 7, "what the fault stored")
    expect(int(np.frombuffer(s.shm.read(5 * PAGE, 8), "<u8")[0]), 7, "what the file has")


def zap_before_its_read(lab: Lab) -> None:
    zap_meets_retraction(lab, "map_rcu_entered")


def private_page_came_and_went(lab: Lab) -> None:
    """B51: a uprobe, say, has put a private page into one entry, and taken it away again."""
    s = SmallOfHuge(lab, shared=False)
    s.mm.store(s.at + 5 * PAGE, 7)
    s.mm.madvise(s.at + 5 * PAGE, PAGE, MADV_DONTNEED)
    expect(collapse(s.mm, s.at), 0, "errno of MADV_COLLAPSE")


def huge_page_across_two_tables(lab: Lab) -> None:
    """B57: b maps the file half an extent off."""
    s = Two(lab)
    assert collapse(s.a, s.at_a) == 0
    s.b.munmap(s.at_b, EXTENT)
    askew = s.b.mmap(s.shm, addr=64 * EXTENT + EXTENT // 2, fixed=True).start
    expect(s.b.load(askew + 3 * PAGE), 1003, "page 3 in b")


def plain_use(lab: Lab) -> None:
    def use() -> None:
        s = Two(lab)
        s.b.mincore(s.at_b, EXTENT)
        s.b.madvise(s.at_b, EXTENT, MADV_DONTNEED)

    lab.task(use).join()
    lab.machine.check()  # while that thread is still there


# ---- retraction ---------------------------------------------------------------------------------


def plain_collapse(lab: Lab) -> None:
    s = Two(lab)
    assert collapse(s.a, s.at_a) == 0
    expect(s.b.load(s.at_b + 3 * PAGE), 1003, "page 3 in b")


def anon_vma_appears(lab: Lab) -> None:
    """b gets a private page in another extent after retraction has looked at anon_vma: it keeps its table."""
    shm = lab.shmem(2 * EXTENT)
    b, a = lab.mm(), lab.mm()
    at_b, at_a = b.mmap(shm, shared=False).start, a.mmap(shm).start
    a.touch(every_page(at_a), write=True)
    b.touch(every_page(at_b))
    with torture.pause("rt_after_anon_check") as pause:
        collapser = lab.task(lambda: collapse(a, at_a))
        at(pause)
        b.store(at_b + EXTENT, 1)
    assert collapser.join() == 0
    if pmd(b, at_b) != "table":
        raise Lost("G-42: a mapping with private pages has lost its table")


def anon_vma_appears_in_6_4(lab: Lab) -> None:
    shm = lab.shmem(2 * EXTENT)
    a, b = lab.mm(), lab.mm()
    at_b, at_a = b.mmap(shm, shared=False).start, a.mmap(shm).start
    a.touch(every_page(at_a), write=True)
    b.touch(every_page(at_b))
    with torture.pause("rt_after_find") as pause:
        collapser = lab.task(lab.machine.khugepaged.scan)
        at(pause)
        b.store(at_b + EXTENT, 1)
    collapser.join()
    if pmd(b, at_b) != "table":
        raise Lost("G-42: a mapping with private pages has lost its table")


def cached_table(lab: Lab) -> None:
    """Another CPU has b's table in its paging-structure cache; the table goes; the CPU walks on."""
    s = Two(lab)
    cpu = lab.task()
    cpu.do(lambda: s.b.touch(s.at_b))
    assert collapse(s.a, s.at_a) == 0
    lab.machine.rcu.barrier()
    expect(cpu.do(lambda: s.b.load(s.at_b + 9 * PAGE)), 1009, "page 9 in b")


def cached_table_of_the_caller(lab: Lab) -> None:
    """The same where the protocol of 6.4 frees at once: only the caller's table goes."""
    s = Two(lab)
    cpu = lab.task()
    cpu.do(lambda: s.a.touch(s.at_a))
    assert collapse(s.a, s.at_a) == 0
    s.a.madvise(s.at_a, EXTENT, MADV_DONTNEED)
    expect(cpu.do(lambda: s.a.load(s.at_a + 9 * PAGE)), 1009, "page 9 in a")


def misaligned_neighbour(lab: Lab) -> None:
    """b maps the file shifted by a page: its tables hold parts of two extents, and stay."""
    shm = lab.shmem(2 * EXTENT)
    a, b = lab.mm(), lab.mm()
    at_a = a.mmap(shm).start
    at_b = b.mmap(shm, offset=PAGE, length=EXTENT, addr=1 << 40, fixed=True).start
    a.touch(every_page(at_a, 2 * PAGES), write=True)
    b.touch(every_page(at_b))
    assert collapse(a, at_a + EXTENT) == 0
    expect(b.touch(every_page(at_b, PAGES - 1)), 0, "faults on b's other pages")


def unmapped_while_retracted(lab: Lab) -> None:
    """Retraction stands in b's tables while b unmaps them."""
    s = Two(lab)
    before = lab.count("table.upper.freed")
    with torture.pause("fp_slot_found") as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        unmapper = lab.task(lambda: s.b.munmap(s.at_b, EXTENT))
        lab.until("table.upper.freed", before + 1)
    assert collapser.join() == 0
    unmapper.join()


# ---- collapse_pte_mapped_thp --------------------------------------------------------------------


def unmapped_while_collapsed(lab: Lab) -> None:
    """munmap is freeing tables, with mmap_lock for read, as collapse_pte_mapped_thp comes to them."""
    s = Two(lab)
    with torture.pause("cf_unlocked") as unlocked:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(unlocked)
        with torture.pause("mu_downgraded") as downgraded:
            unmapper = lab.task(lambda: s.a.munmap(s.at_a, EXTENT))
            at(downgraded)
            with torture.pause("fp_slot_found") as found:
                unlocked.release()
                found.wait(A_WHILE)
                downgraded.release()
                unmapper.join()
    assert collapser.join() != 0


def fault_while_emptied(lab: Lab) -> None:
    """A fault wants a page of the table that was emptied and is about to be removed."""
    s = SmallOfHuge(lab)
    with torture.pause("cp_ptl_dropped") as pause:
        collapser = lab.task(lambda: collapse(s.mm, s.at))
        at(pause)
        fault = lab.task(lambda: s.mm.load(s.at + 5 * PAGE))
        fault.done(A_WHILE)
    assert collapser.join() == 0
    fault.join()


def private_write_in_the_gap(lab: Lab, page: int = 100) -> None:
    """A store copies a page between the two passes over the entries: the collapse gives up (G-44)."""
    s = SmallOfHuge(lab, shared=False)
    cpu = lab.task()
    cpu.do(lambda: s.mm.load(s.at + 3 * PAGE))
    with torture.pause("cp_notified") as pause:
        collapser = lab.task(lambda: collapse(s.mm, s.at))
        at(pause)
        s.mm.store(s.at + page * PAGE, 7)
    result = collapser.join()
    expect(s.mm.load(s.at + page * PAGE), 7, "the private page")
    expect(s.mm.rss["anon"], 1, "private pages")
    if result == 0:
        raise Lost("the collapse succeeded over a private page")
    expect(cpu.do(lambda: s.mm.load(s.at + 4 * PAGE)), 1000 + 4 * PAGE // 8, "page 4")


def private_write_seen_by_a_tlb(lab: Lab) -> None:
    """The same; another CPU has used an entry that the collapse cleared before it gave up."""
    s = SmallOfHuge(lab, shared=False)
    cpu = lab.task()
    cpu.do(lambda: s.mm.load(s.at + 3 * PAGE))
    with torture.pause("cp_notified") as pause:
        collapser = lab.task(lambda: collapse(s.mm, s.at))
        at(pause)
        s.mm.store(s.at + 100 * PAGE, 7)
        cpu.do(lambda: s.mm.load(s.at + 200 * PAGE))  # takes up the flush of that store
    assert collapser.join() != 0


def zap_after_the_pass(lab: Lab) -> None:
    """MADV_DONTNEED comes between the clearing pass and the removal of the table."""
    s = SmallOfHuge(lab)
    with torture.pause("cp_ptl_dropped") as pause:
        collapser = lab.task(lambda: collapse(s.mm, s.at))
        at(pause)
        s.mm.madvise(s.at + 5 * PAGE, PAGE, MADV_DONTNEED)
    assert collapser.join() == 0


def collapse_of_small_entries(lab: Lab) -> None:
    s = SmallOfHuge(lab)
    assert collapse(s.mm, s.at) == 0
    assert pmd(s.mm, s.at) == "huge"


# ---- collapse_file ------------------------------------------------------------------------------


def store_after_the_copy(lab: Lab) -> None:
    """A CPU with a writable translation stores to a page that was just copied."""
    s = Two(lab)
    cpu = lab.task()
    cpu.do(lambda: s.b.store(s.at_b + 7 * PAGE, 1))
    with torture.pause("cf_copied_i", skip=7) as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        cpu.start(lambda: s.b.store(s.at_b + 7 * PAGE, 2))
        cpu.done(A_WHILE)
    assert collapser.join() == 0
    cpu.join()
    expect(s.a.load(s.at_a + 7 * PAGE), 2, "G-12: what was stored in page 7")


def reference_held(lab: Lab) -> None:
    """A fault has a reference to a page, and no lock, as the page is collapsed."""
    s = Two(lab)
    s.b.madvise(s.at_b, EXTENT, MADV_DONTNEED)
    with torture.pause("cf_folio_locked_i") as first:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(first)  # past its cheap look at the references
        with torture.pause("ft_folio_locked") as pause:
            fault = lab.task(lambda: s.b.store(s.at_b + 7 * PAGE, 2))
            at(pause)
            first.release()
            collapser.join()
    fault.join()
    expect(s.a.load(s.at_a + 7 * PAGE), 2, "G-12: what was stored in page 7")


def hole_is_filled(lab: Lab) -> None:
    """A hole is filled after it was counted as one."""
    s = Two(lab, fill=1)
    with torture.pause("cf_copied_i", skip=PAGES - 1) as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        s.b.store(s.at_b + 9 * PAGE, 77)
    collapser.join()
    expect(s.a.load(s.at_a + 9 * PAGE), 77, "G-19: what was stored in the hole")


def punched_under_a_fault(lab: Lab) -> None:
    """A fault is about to map the page that is being punched."""
    s = Two(lab)
    s.b.madvise(s.at_b, EXTENT, MADV_DONTNEED)
    with torture.pause("ft_before_maplock") as pause:
        fault = lab.task(lambda: s.b.store(s.at_b + 7 * PAGE, 2))
        at(pause)
        punch = lab.task(lambda: s.shm.punch(7 * PAGE, PAGE))
        punch.done(A_WHILE)
    fault.join()
    punch.join()


def fault_waits_for_a_collapse(lab: Lab) -> None:
    """A fault has found the small page, and waits for its lock while the page is replaced."""
    s = Two(lab)
    s.b.madvise(s.at_b, EXTENT, MADV_DONTNEED)
    with torture.pause("cf_copied_i", skip=100) as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        fault = lab.task(lambda: s.b.store(s.at_b + 7 * PAGE, 2))
        assert not fault.done(A_WHILE)
    assert collapser.join() == 0
    fault.join()
    expect(s.a.load(s.at_a + 7 * PAGE), 2, "G-12: what was stored in page 7")


def part_of_a_page_is_zeroed(lab: Lab) -> None:
    """Part of a page is punched after the page was copied."""
    s = Two(lab)
    with torture.pause("cf_copied_i", skip=PAGES - 1) as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        punch = lab.task(lambda: s.shm.punch(7 * PAGE, 100))
        assert not punch.done(A_WHILE)
    # Whoever of the two gets the huge page's lock first: the punch takes it apart before it is mapped (EINVAL), or after.
    assert collapser.join() in (0, errno.EINVAL)
    punch.join()
    expect(s.a.load(s.at_a + 7 * PAGE), 0, "the punched bytes")


# ---- VMAs, zap, rmap ----------------------------------------------------------------------------


def fault_while_the_vma_is_written(lab: Lab) -> None:
    """A VMA-locked fault has looked at the mark, not yet taken the lock; then a writer marks the VMA."""
    mm = lab.mm()
    area = mm.mmap(length=EXTENT // 2, shared=False)
    mm.store(area.start, 1)
    with torture.pause("vl_before_lock") as reader:
        fault = lab.task(lambda: mm.store(area.start + 5 * PAGE, 2))
        at(reader)
        with torture.pause("maplock_before_lock") as writer:
            protect = lab.task(lambda: mm.mprotect(area.start, len(area), "rwx"))
            at(writer)
            reader.release()
            fault.done(A_WHILE)
    protect.join()
    fault.join()
    expect(mm.load(area.start + 5 * PAGE), 2, "what the fault stored")


def unmapped_under_a_fault(lab: Lab) -> None:
    """A fault under the VMA's lock has begun; the VMA is unmapped."""
    mm = lab.mm()
    area = mm.mmap(lab.machine.shmem(EXTENT // 2))
    mm.touch(area.addresses(), write=True)
    mm.madvise(area, None, MADV_DONTNEED)

    def load() -> None:
        with contextlib.suppress(SegmentationFault):
            mm.load(area.start + 5 * PAGE)  # pages in cache: mapped under the VMA's lock

    with torture.pause("ft_orig_read") as pause:
        fault = lab.task(load)
        at(pause)
        unmap = lab.task(lambda: mm.munmap(area.start, len(area)))
        unmap.done(A_WHILE)
    fault.join()
    unmap.join()


def vma_is_freed_under_a_look_up(lab: Lab) -> None:
    """A fault has found the VMA under RCU, and has no lock of it yet; the VMA is unmapped."""
    mm = lab.mm()
    area = mm.mmap(length=EXTENT // 2, shared=False)
    mm.store(area.start, 1)

    def store() -> None:
        with contextlib.suppress(SegmentationFault):
            mm.store(area.start + 5 * PAGE, 2)

    with torture.pause("vl_found") as pause:
        fault = lab.task(store)
        at(pause)
        mm.munmap(area.start, len(area))
    fault.join()


def load_before_the_flush(lab: Lab) -> None:
    """A page was zapped, and its flush is still to come; a CPU uses its old translation."""
    mm = lab.mm()
    area = mm.mmap(length=EXTENT // 2, shared=False)
    mm.store(area.start, 5)
    cpu = lab.task()
    cpu.do(lambda: mm.load(area.start))
    with torture.pause("zp_before_flush") as pause:
        zap = lab.task(lambda: mm.madvise(area.start, PAGE, MADV_DONTNEED))
        at(pause)
        cpu.do(lambda: mm.load(area.start))
    zap.join()


def mapped_anew_before_the_batch_is_flushed(lab: Lab) -> None:
    """collapse_file has unmapped b's pages and not flushed yet; b maps something else there."""
    s = Two(lab)
    cpu = lab.task()
    there = s.at_b + 3 * PAGE
    expect(cpu.do(lambda: s.b.load(there)), 1003, "page 3 in b")
    with torture.pause("cf_before_flush") as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        s.b.mmap(length=PAGE, addr=there, fixed=True, shared=False)
        expect(cpu.do(lambda: s.b.load(there)), 0, "G-14: memory that was mapped anew")
    assert collapser.join() == 0


def private_page_beside(lab: Lab) -> None:
    """b has a private copy where the file's page is unmapped."""
    s = Two(lab, shared=False)
    s.b.store(s.at_b + 3 * PAGE, 7)
    collapse(s.a, s.at_a)
    expect(s.b.load(s.at_b + 3 * PAGE), 7, "G-13: b's private page")


def unmapped_between_two_extents(lab: Lab) -> None:
    """munmap gets mmap_lock between two extents of one MADV_COLLAPSE."""
    mm = lab.mm()
    start = mm.mmap(lab.shmem(2 * EXTENT)).start
    mm.touch(every_page(start, 2 * PAGES), write=True)
    with torture.pause("cp_before_install") as pause:
        collapser = lab.task(lambda: collapse(mm, start, 2))
        at(pause)
        unmap = lab.task(lambda: mm.munmap(start, 2 * EXTENT))
        end = time.monotonic() + PATIENCE
        while not mm.mmap_lock.contended and time.monotonic() < end:
            time.sleep(0.002)
    assert collapser.join() != 0
    unmap.join()


# ---- the table ----------------------------------------------------------------------------------


ACCOUNTS = "G-2[0456]"
RACES = [
    Race("map_rcu", zap_meets_retraction_and_grace_period, "G-1:"),
    Race("map_rcu_first", zap_before_its_section, "G-1:|G-3:"),
    Race("unmap_rcu", plain_use, "inside of a read section"),
    # Nothing but a fault fills an empty entry, and faults hold the folio lock, until userfaultfd comes, which
    # does not: so does this fault not, in both runs.
    Race("pmd_recheck", fault_meets_removal, "G-33", beside=("fault_folio_locked",)),
    Race("lock_from_pmdval", zap_meets_retraction, "G-3:"),
    Race("install_under_pml", plain_use, "G-34"),
    Race("free_deferred", zap_meets_retraction, "G-1:"),
    Race("dtor_deferred", zap_meets_retraction, "G-3:"),
    Race("retract_i_mmap", plain_collapse, "G-6:"),
    Race("retract_i_mmap", plain_collapse, "G-6:", era="v6.4"),
    Race("retract_range", misaligned_neighbour, ACCOUNTS),
    Race("retract_ptl", plain_collapse, "G-35"),
    Race("retract_recheck_anon", anon_vma_appears, "G-42"),
    Race("retract_recheck_anon", anon_vma_appears_in_6_4, "G-42", era="v6.4"),
    Race("retract_flush", cached_table, "G-14"),
    Race("retract_flush", cached_table_of_the_caller, "G-14", era="v6.4"),
    Race("retract_flush_psc", cached_table, "G-14"),
    Race("retract_flush_psc", cached_table_of_the_caller, "G-14", era="v6.5"),
    Race("map_validates", zap_before_its_read, "G-9"),
    Race("detach_accounts", zap_meets_retraction, "G-23"),
    Race("cpmt_anon_vma", private_page_came_and_went, "errno of MADV_COLLAPSE"),
    Race("folio_in_table", huge_page_across_two_tables, "G-20", era="v6.18"),
    Race("cpmt_vma_first", unmapped_while_collapsed, "G-6:"),
    Race("cpmt_folio_lock", fault_while_emptied, ACCOUNTS),
    Race("cpmt_verify", private_write_in_the_gap, f"{ACCOUNTS}|private page"),
    Race("cpmt_clear_ptes", zap_after_the_pass, "G-2[56]"),
    Race("cpmt_remove_ptl", collapse_of_small_entries, "G-35"),
    Race("cpmt_abort_flush", private_write_seen_by_a_tlb, "G-14"),
    Race("cpmt_abort_account", private_write_in_the_gap, "G-2[46]"),
    Race("file_flush_first", store_after_the_copy, "G-12"),
    # A pin, until get_user_pages comes: a fault that has its reference without the lock, and does not look again.
    Race(
        "file_refcount",
        reference_held,
        "G-12|G-20",
        beside=("fault_folio_locked", "fault_truncated"),
    ),
    Race("file_hole_recheck", hole_is_filled, "G-19|G-20"),
    Race("fault_folio_locked", punched_under_a_fault, "G-20"),
    Race("fault_truncated", fault_waits_for_a_collapse, "G-12|G-20"),
    Race("vma_seq_recheck", fault_while_the_vma_is_written, "G-38"),
    Race("vma_start_write", unmapped_under_a_fault, "G-[0-9]+:"),
    Race("vma_rcu", vma_is_freed_under_a_look_up, "G-7:"),
    Race("unlink_before_free", unmapped_while_retracted, "G-6:"),
    Race("zap_flush", load_before_the_flush, "G-14"),
    Race("zap_batched", mapped_anew_before_the_batch_is_flushed, "G-14"),
    Race("rmap_recheck", private_page_beside, "G-13"),
    Race("madvise_revalidate", unmapped_between_two_extents, "G-7:"),
]

# Nothing here catches these yet. The reason stands beside each; a later issue that removes the reason moves the
# row up into RACES.
UNSEEN = {
    "split_freeze": "without it the page's references end too early, and a look-up waits for ever for a page that is "
    "gone: nothing that a test can end (tests/test_mm_races.py has the race with the guard)",
    "mremap_recheck": "without it mremap moves a PMD that is none, and looks for its table for ever "
    "(tests/test_mm_races.py has the race with the guard)",
    "table_published": "x86-64 keeps the order of stores, and the compiler that of these two: the explorer shows it, "
    "under rc11 alone",
    **dict.fromkeys(
        ("switch_fence", "irq_disable_release", "gup_fork_fence", "file_thp_fence"),
        "x86-64 has these orders for nothing: the explorer shows them, under rc11 alone",
    ),
    "gup_rcu": "what GUP-fast reads of a table that is freed is not told from what it should read: the explorer shows it",
    "fault_prealloc": "no named point lies between the two looks at the PMD: the explorer shows it",
    "sync_before_free": "the TLB flush waits for the hardware walker, and GUP-fast looks at the PMD again "
    "(tests/test_secondary_races.py takes both away): the explorer has an actor that does not",
}


test_with_the_guard_the_race_ends_well, test_without_the_guard_the_race_is_seen = both_ways(RACES)


def test_every_guard_is_shown_or_named_with_the_reason() -> None:
    known = {str(row["name"]) for row in torture.guards()}
    of_rcu = {name for name in known if name.startswith("rcu_")}  # tests/test_rcu_torture.py
    of_arch = set(ARCH_KILLERS)  # tests/test_arch.py
    from test_mm_races import MM_RACES
    from test_regular_files import FILE_RACES
    from test_secondary_races import SECONDARY_RACES
    from test_uffd_races import UFFD_RACES

    shown = {race.guard for race in (*RACES, *MM_RACES, *UFFD_RACES, *SECONDARY_RACES, *FILE_RACES)}
    assert known - of_rcu - of_arch - shown == set(UNSEEN)
    assert shown.isdisjoint(UNSEEN)


# ---- races of the same kind, without a guard of their own ---------------------------------------


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(getattr(request, "param", "v6.6"))
    try:
        yield made
        torture.release_all()
        for task in made.tasks:
            task.end()
        made.machine.check()
        made.kept.clear()
        made.machine.check()
    finally:
        torture.release_all()
        made.machine.close(5)


@pytest.mark.parametrize("lab", ["v6.4", "v6.6"], indirect=True)
def test_a_collapse_does_not_lose_the_zeroes_of_a_punched_part(lab: Lab) -> None:
    part_of_a_page_is_zeroed(lab)


@pytest.mark.parametrize("page", [0, 1, 255, 511])
def test_an_abort_leaves_everything_consistent(lab: Lab, page: int) -> None:
    # G-44: after the first `page` entries were cleared.
    private_write_in_the_gap(lab, page)


def test_khugepaged_lets_a_program_go_that_has_just_ended(lab: Lab) -> None:
    """It has found the mm in its list as the last reference is given back: it must not take one again."""
    mm = lab.machine.mm()
    before = lab.count("table.upper.freed")
    with torture.pause("kh_mm_found") as pause:
        scanner = lab.task(lab.machine.khugepaged.scan)
        at(pause)
        closer = lab.task(mm.close)
        assert lab.until("table.upper.freed", before + 1), "the mm is not being released"
    assert scanner.join() == 0
    closer.join()
    assert lab.count("table.upper.freed") == before + 1
    lab.machine.check()


@pytest.mark.parametrize("lab", ["v6.4", "v6.5", "v6.6"], indirect=True)
def test_a_failed_collapse_changes_nothing(lab: Lab) -> None:
    # G-45: it meets a locked page at the end.
    s = Two(lab)
    s.b.madvise(s.at_b, EXTENT, MADV_DONTNEED)
    before, data = s.shm.pages(), s.shm.read(0, EXTENT)
    with torture.pause("ft_folio_locked") as pause:
        fault = lab.task(lambda: s.b.store(s.at_b + 511 * PAGE + 8, 0))
        at(pause)
        assert collapse(s.a, s.at_a) == 11  # EAGAIN
    fault.join()
    assert s.shm.read(0, EXTENT) == data
    after = s.shm.pages()
    for field in ("index", "pfn", "order", "huge", "uptodate"):
        assert (after[field] == before[field]).all()
    assert collapse(s.a, s.at_a) == 0


@pytest.mark.parametrize("lab", ["v6.4", "v6.6"], indirect=True)
def test_an_extent_that_is_punched_empty_is_not_collapsed(lab: Lab) -> None:
    """Between the look and the locks: then nothing would keep the cache's node of the extent either."""
    mm, shm = lab.mm(), lab.shmem(EXTENT)
    start = mm.mmap(shm).start
    mm.store(start + 511 * PAGE, 1)
    with torture.pause("cf_page_seen") as pause:
        task = lab.task(lambda: collapse(mm, start))
        at(pause)
        shm.punch(0, EXTENT)
    assert task.join() == errno.EINVAL
    assert len(shm.pages()) == 0
    mm.store(start, 1)
    assert collapse(mm, start) == 0


# ---- who waits for whom (G-37) ------------------------------------------------------------------

ON_THE_WAY = [
    "cf_page_seen",
    "cf_folio_locked_i",
    "cf_unmapped_i",
    "cf_before_flush",
    "cf_copied_i",
    "cf_holes_marked",
    "cf_published",
    "cf_retracted",
    "cf_unlocked",
    "rt_vma",
    "rt_after_anon_check",
    "rt_after_find",
    "rt_notified",
    "rt_pml",
    "rt_ptl",
    "rt_cleared_before_flush",
    "rt_flushed",
    "rt_unlocked",
    "rt_before_defer",
    "cp_vma_ok",
    "cp_folio_locked",
    "cp_before_install",
]
ON_THE_WAY_OF_SMALL_ENTRIES = [
    "cp_vma_ok",
    "cp_folio_locked",
    "cp_checked",
    "cp_notified",
    "cp_before_clear",
    "cp_cleared_i",
    "cp_ptl_dropped",
    "cp_refs_dropped",
    "cp_before_remove",
    "cp_removed",
    "cp_before_install",
]


class Neighbour:
    """A second extent of the same mm, in the same VMA and in one of its own, whose tables and pages exist."""

    def __init__(self, lab: Lab, mm: torture.Mm) -> None:
        shm = lab.shmem(EXTENT)
        area, anon = mm.mmap(shm), mm.mmap(length=EXTENT, shared=False)
        self.mm = mm
        self.file, self.anon = area.start, anon.start
        mm.touch(every_page(self.file), write=True)
        mm.touch(every_page(self.anon)[:8], write=True)
        mm.madvise(self.file + 64 * PAGE, 64 * PAGE, MADV_DONTNEED)

    def fault(self) -> int:
        return int(self.mm.touch(every_page(self.file)[64:128:16], write=True))

    def anon_fault(self) -> int:
        return int(self.mm.touch(every_page(self.anon)[16:24], write=True))


def other_extent(
    lab: Lab, small_entries: bool
) -> tuple[Callable[[], int], Neighbour, torture.Mm, int]:
    if small_entries:
        s = SmallOfHuge(lab)
        return lambda: collapse(s.mm, s.at), Neighbour(lab, s.mm), s.mm, s.at
    shm = lab.shmem(2 * EXTENT)
    mm = lab.mm()
    start = mm.mmap(shm).start
    mm.touch(every_page(start)[1:], write=True)  # with a hole
    mm.touch(every_page(start + EXTENT), write=True)
    return lambda: collapse(mm, start), Neighbour(lab, mm), mm, start


@pytest.mark.parametrize(
    ("point", "small_entries"),
    [(p, False) for p in ON_THE_WAY] + [(p, True) for p in ON_THE_WAY_OF_SMALL_ENTRIES],
)
def test_v6_6_lets_faults_in_other_extents_pass(lab: Lab, point: str, small_entries: bool) -> None:
    work, neighbour, mm, start = other_extent(lab, small_entries)
    if not small_entries:
        mm.madvise(start + EXTENT, EXTENT // 2, MADV_DONTNEED)
    with torture.pause(point) as pause:
        collapser = lab.task(work)
        at(pause)
        assert lab.task(neighbour.fault).join() == 4
        assert lab.task(neighbour.anon_fault).join() == 8
        if not small_entries:  # in the very VMA that is being collapsed
            assert lab.task(lambda: mm.touch(start + EXTENT, write=True)).join() == 1
        assert pause.waiting == 1
    assert collapser.join() == 0


@pytest.mark.parametrize("lab", ["v6.4", "v6.5"], indirect=True)
@pytest.mark.parametrize("small_entries", [False, True])
def test_v6_4_lets_file_faults_wait_for_mmap_lock(lab: Lab, small_entries: bool) -> None:
    work, neighbour, _, _ = other_extent(lab, small_entries)
    with torture.pause("mv_write_locked") as pause:
        collapser = lab.task(work)
        at(pause)
        fault = lab.task(neighbour.fault)
        assert not fault.done(A_WHILE)
        # Anonymous memory has the VMA lock, and only the collapsed VMA is marked.
        assert lab.task(neighbour.anon_fault).join() == 8
        assert not fault.done(0)
    assert fault.join() == 4
    assert collapser.join() == 0
    assert lab.count("mmap_lock.read.contended") >= 1


@pytest.mark.parametrize("lab", ["v6.4", "v6.5"], indirect=True)
def test_v6_4_copies_without_mmap_lock(lab: Lab) -> None:
    work, neighbour, _, _ = other_extent(lab, False)
    with torture.pause("cf_copied_i") as pause:
        collapser = lab.task(work)
        at(pause)
        assert lab.task(neighbour.fault).join() == 4
    assert collapser.join() == 0


def test_v6_6_holds_no_mmap_lock_while_it_copies_and_retracts(lab: Lab) -> None:
    work, _, mm, _ = other_extent(lab, False)
    for point in ("cf_copied_i", "rt_ptl", "cf_unlocked"):
        with torture.pause(point) as pause:
            collapser = lab.task(work)
            at(pause)
            assert not mm.mmap_lock.locked
        collapser.join()
        mm.munmap(mm.vmas()[0].start, EXTENT)
        work, _, mm, _ = other_extent(lab, False)


def test_same_extent_waits_for_the_folio_lock_only(lab: Lab) -> None:
    s = SmallOfHuge(lab)
    with torture.pause("cp_ptl_dropped") as pause:
        collapser = lab.task(lambda: collapse(s.mm, s.at))
        at(pause)
        fault = lab.task(lambda: s.mm.load(s.at + 5 * PAGE))
        assert not fault.done(A_WHILE)
    assert collapser.join() == 0
    assert fault.join() == 1000 + 5 * PAGE // 8
    assert lab.count("folio_lock.contended") >= 1
