"""Races of the rest of the mm, forced: copy on write, fork, mremap, splits, reclaim of tables."""

from __future__ import annotations

import contextlib
import errno

import numpy as np
from forced import (
    A_WHILE,
    EXTENT,
    PAGE,
    PAGES,
    Lab,
    Lost,
    Race,
    SmallOfHuge,
    Two,
    anon,
    at,
    both_ways,
    collapse,
    every_page,
    expect,
    outcome,
)

from pgtbl import (
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_GUARD_INSTALL,
    MADV_RANDOM,
    torture,
)
from pgtbl.errors import BusError, SegmentationFault


def fork(lab: Lab, mm: torture.Mm) -> torture.Mm:
    lab.kept.append(mm.fork())
    return lab.kept[-1]


def must_die(call: object, what: str) -> None:
    try:
        call()  # type: ignore[operator]
    except SegmentationFault:
        return
    raise Lost(what)


# ---- copy on write ------------------------------------------------------------------------------


def two_copies_of_one_page(lab: Lab) -> None:
    """Two threads of a program store to a page that fork shares; the first has copied it as the second is done."""
    mm, start = anon(lab, fill=2)
    child = fork(lab, mm)
    with torture.pause("cow_copied") as pause:
        slow = lab.task(lambda: mm.store(start, 1))
        at(pause)
        mm.store(start + 8, 2)
    slow.join()
    expect(mm.load(start + 8), 2, "what the faster stored")
    expect(mm.load(start), 1, "what the slower stored")
    expect(child.load(start), 1000, "what the child has")


def copied_beside_a_reader(lab: Lab) -> None:
    mm, start = anon(lab, fill=1)
    fork(lab, mm)
    reader = lab.task()
    expect(reader.do(lambda: mm.load(start)), 1000, "before the copy")
    mm.store(start, 7)
    expect(reader.do(lambda: mm.load(start)), 7, "another thread of the program, after the store")


def child_stores(lab: Lab) -> None:
    mm, start = anon(lab, fill=1)
    fork(lab, mm).store(start, 7)
    expect(mm.load(start), 1000, "what the parent has")


def parent_stores(lab: Lab) -> None:
    mm, start = anon(lab, fill=1)
    child = fork(lab, mm)
    mm.store(start, 7)
    expect(child.load(start), 1000, "what the child has")


def parents_other_thread_stores(lab: Lab) -> None:
    mm, start = anon(lab, fill=1)
    other = lab.task()
    other.do(lambda: mm.store(start, 5))
    child = fork(lab, mm)
    other.do(lambda: mm.store(start, 7))
    expect(child.load(start), 5, "what the child has")


# ---- mprotect, mremap, splits -------------------------------------------------------------------


def store_after_mprotect(lab: Lab) -> None:
    mm, start = anon(lab, fill=1)
    other = lab.task()
    other.do(lambda: mm.store(start, 5))
    mm.mprotect(start, PAGE, "r")
    must_die(lambda: other.do(lambda: mm.store(start, 6)), "a store by a right that was taken away")


def store_after_mremap(lab: Lab) -> None:
    mm, start = anon(lab, fill=1)
    other = lab.task()
    other.do(lambda: mm.store(start, 5))
    mm.mremap(start, PAGE, PAGE, True, True, to=1 << 40)
    must_die(lambda: other.do(lambda: mm.load(start)), "a load from where the page was moved from")


def moved_while_retracted(lab: Lab) -> None:
    """mremap has decided to move b's table whole; a collapse retracts it (CVE-2024-50066)."""
    s = Two(lab)
    with torture.pause("mr_pmd_read") as pause:
        mover = lab.task(lambda: s.b.mremap(s.at_b, EXTENT, EXTENT, True, True, to=1 << 40))
        at(pause)
        assert collapse(s.a, s.at_a) == 0
    mover.join()
    lab.machine.check()
    expect(s.b.load((1 << 40) + 3 * PAGE), 1003, "page 3 at its new place")


def split_beside_a_huge_translation(lab: Lab) -> None:
    mm, start = anon(lab)
    assert collapse(mm, start) == 0
    other = lab.task()
    other.do(lambda: mm.touch(start, write=True))
    mm.madvise(start, PAGE, MADV_RANDOM)  # the VMA is cut, and with it the PMD
    lab.machine.check()


def split_beside_a_copy(lab: Lab) -> None:
    """A write fault has a reference to the huge page that a punch wants to split."""
    s = SmallOfHuge(lab)
    private = s.mm.mmap(s.shm, shared=False).start
    s.mm.mprotect(private, PAGE, "r")  # small entries
    s.mm.touch(every_page(private))
    s.mm.mprotect(private, PAGE, "rw")
    with torture.pause("cow_copied") as pause:
        writer = lab.task(lambda: s.mm.store(private + 9 * PAGE, 7))
        at(pause)
        s.shm.punch(5 * PAGE, PAGE)
    writer.join()
    expect(s.mm.load(private + 9 * PAGE), 7, "what was stored")
    expect(int(np.frombuffer(s.shm.read(5 * PAGE, 8), "<u8")[0]), 0, "the hole")


def collapse_of_a_page_in_use(lab: Lab) -> None:
    """The parent is copying a page, by a reference of its own, as the child collapses the extent."""
    mm, start = anon(lab)
    child = fork(lab, mm)
    with torture.pause("cow_copied") as pause:
        writer = lab.task(lambda: mm.store(start, 7))
        at(pause)
        expect(collapse(child, start), errno.EAGAIN, "the collapse's errno")
    writer.join()
    expect(child.load(start), 1000, "what the child has")


# ---- tables that MADV_DONTNEED frees ------------------------------------------------------------


def drop(mm: torture.Mm, start: int) -> None:
    mm.madvise(start, EXTENT, MADV_DONTNEED)


def collapse_beside_reclaim(lab: Lab) -> None:
    """Anonymous collapse has seen the table as MADV_DONTNEED frees it, under the VMA lock (B18)."""
    mm, start = anon(lab)
    with torture.pause("ca_pmd_checked") as pause:
        collapser = lab.task(lambda: collapse(mm, start))
        at(pause)
        zapper = lab.task(lambda: drop(mm, start))
        zapper.done(A_WHILE)
    collapser.join()
    zapper.join()
    expect(mm.load(start), 0, "the dropped page")


def retraction_beside_reclaim(lab: Lab) -> None:
    s = Two(lab)
    with torture.pause("rt_notified") as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        drop(s.b, s.at_b)
        lab.machine.rcu.barrier()
    assert collapser.join() == 0
    expect(s.b.load(s.at_b + 3 * PAGE), 1003, "page 3 in b")


def removal_beside_reclaim(lab: Lab) -> None:
    s = SmallOfHuge(lab)
    with torture.pause("cp_before_remove") as pause:
        collapser = lab.task(lambda: collapse(s.mm, s.at))
        at(pause)
        drop(s.mm, s.at)
        lab.machine.rcu.barrier()
    collapser.join()
    s.mm.load(s.at)


def refilled_behind_the_zap(lab: Lab) -> None:
    """The zap lets the lock go in the midst of an extent; a fault fills an entry that it has passed (B19)."""
    mm, start = anon(lab, extents=2, fill=2 * PAGES)
    mm.madvise(
        start, 200 * PAGE, MADV_DONTNEED
    )  # so that the gather is full within the second extent
    with torture.pause("zp_ptl_dropped") as pause:
        zapper = lab.task(lambda: mm.madvise(start, 2 * EXTENT, MADV_DONTNEED))
        at(pause)
        mm.store(start + EXTENT, 7)
    zapper.join()
    expect(mm.load(start + EXTENT), 7, "what was stored behind the zap")


def plain_reclaim(lab: Lab) -> None:
    mm, start = anon(lab)
    lab.task(lambda: drop(mm, start)).join()
    expect(lab.count("table.pte.reclaimed"), 1, "tables reclaimed")


def walker_beside_reclaim(lab: Lab) -> None:
    """mincore has read the PMD, in its read section, as the table is freed (B21)."""
    mm, start = anon(lab)
    with torture.pause("map_pmd_read") as pause:
        walker = lab.task(lambda: int(mm.mincore(start, EXTENT).sum()))
        at(pause)
        zapper = lab.task(lambda: drop(mm, start))
        zapper.done(A_WHILE)
    expect(walker.join(), 0, "pages that mincore saw in the emptied table")
    zapper.join()


def huge_before_the_zap(lab: Lab) -> None:
    """A zap has seen a table; retraction takes it, and a fault maps the extent huge: that is to be zapped too (B38)."""
    s = Two(lab)
    with torture.pause("map_rcu_entered") as pause:
        zapper = lab.task(lambda: drop(s.b, s.at_b))
        at(pause)
        assert collapse(s.a, s.at_a) == 0
        s.b.load(s.at_b)
    zapper.join()
    expect(len(s.b.pagemap((s.at_b, EXTENT))), 0, "pages mapped after MADV_DONTNEED")


def counted_while_retracted(lab: Lab) -> None:
    """mincore has seen a table; retraction takes it. The pages stay where they are (B37)."""
    s = Two(lab)
    with torture.pause("map_rcu_entered") as pause:
        counter = lab.task(lambda: int(s.b.mincore(s.at_b, EXTENT).sum()))
        at(pause)
        assert collapse(s.a, s.at_a) == 0
    expect(counter.join(), PAGES, "pages in core")


def snapshot_while_retracted(lab: Lab) -> None:
    """The same of a snapshot, and the extent is mapped huge by the time that it looks again."""
    s = Two(lab)
    with torture.pause("map_rcu_entered") as pause:
        counter = lab.task(lambda: len(s.b.snapshot(s.at_b, EXTENT)))
        at(pause)
        assert collapse(s.a, s.at_a) == 0
        s.b.touch(s.at_b)
    expect(counter.join(), PAGES, "pages in the snapshot")


def dropped_by_two(lab: Lab) -> None:
    """One has cleared the entry and not flushed yet; the other finds it none, and is done."""
    mm, start = anon(lab, fill=1)
    with torture.pause("zp_before_flush") as pause:
        first = lab.task(lambda: mm.madvise(start, PAGE, MADV_DONTNEED))
        at(pause)
        mm.madvise(start, PAGE, MADV_DONTNEED)
        expect(mm.load(start), 0, "what was dropped")
    first.join()


def stored_while_truncated(lab: Lab) -> None:
    """A store has its page locked, to copy it; truncate has been at the entry already."""
    shm = lab.shmem(EXTENT)
    mm = lab.mm()
    start = mm.mmap(shm, shared=False).start

    def store() -> None:
        with contextlib.suppress(BusError):
            mm.store(start, 7)

    with torture.pause("maplock_before_lock") as pause:
        writer = lab.task(store)
        at(pause)
        cutter = lab.task(lambda: shm.truncate(0))
        cutter.done(A_WHILE)
    writer.join()
    cutter.join()


def guard_before_the_recheck(lab: Lab) -> None:
    """Retraction has seen no anon_vma; a guard is put into the table (B26)."""
    s = Two(lab)
    lab.task(lambda: drop(s.a, s.at_a)).join()
    s.a.touch(every_page(s.at_a))
    with torture.pause("rt_after_anon_check") as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        s.b.madvise(s.at_b + 5 * PAGE, PAGE, MADV_GUARD_INSTALL)
    assert collapser.join() == 0
    must_die(lambda: s.b.load(s.at_b + 5 * PAGE), "G-17: a guard was lost")


MM_RACES = [
    Race("cow_recheck", two_copies_of_one_page, "faster stored|G-2"),
    Race("cow_flush", copied_beside_a_reader, "after the store|G-14"),
    Race("cow_shared", child_stores, "parent has|G-13"),
    Race("fork_wrprotect", parent_stores, "child has|G-13"),
    Race("fork_flush", parents_other_thread_stores, "child has|G-14"),
    Race("mprotect_flush", store_after_mprotect, "taken away|G-14"),
    Race("mremap_flush", store_after_mremap, "moved from|G-14"),
    Race("split_invalidates", split_beside_a_huge_translation, "G-14"),
    Race("anon_refcount", collapse_of_a_page_in_use, "errno", era="v6.18"),
    Race("anon_mark_first", collapse_beside_reclaim, "G-4", era="v6.17"),
    Race("retract_pmd_state", retraction_beside_reclaim, "G-", era="v6.14"),
    Race("cpmt_remove_same", removal_beside_reclaim, "G-", era="v6.14"),
    Race("reclaim_rescan", refilled_behind_the_zap, "behind the zap|G-", era="v6.14"),
    Race("reclaim_try_pml", plain_reclaim, "G-31", era="v6.14"),
    Race("gather_fallback_rcu", walker_beside_reclaim, "mincore saw|G-1", era="v6.14"),
    Race("walk_again", counted_while_retracted, "in core"),
    Race("walk_again", snapshot_while_retracted, "in the snapshot", era="v6.18"),
    Race("zap_nested", dropped_by_two, "dropped|G-14"),
    Race("truncate_twice", stored_while_truncated, "G-20"),
    Race("guard_anon_vma", guard_before_the_recheck, "G-17", era="v6.17"),
]


test_with_the_guard_the_race_ends_well, test_without_the_guard_the_race_is_seen = both_ways(
    MM_RACES
)


def test_a_page_in_use_is_not_split() -> None:
    assert outcome(Race("split_freeze", split_beside_a_copy, "")) == ""


def test_what_turns_huge_under_a_zap_goes_too() -> None:
    assert outcome(Race("zap_flush", huge_before_the_zap, "")) == ""


def test_a_table_that_was_retracted_is_not_moved() -> None:
    assert outcome(Race("mremap_recheck", moved_while_retracted, "")) == ""


def test_a_collapse_and_a_fork_of_the_same_extent() -> None:
    """fork waits for the collapse, and copies what it left."""
    lab = Lab("v6.18")
    mm, start = anon(lab)
    with torture.pause("ca_isolated") as pause:
        collapser = lab.task(lambda: mm.madvise(start, EXTENT, MADV_COLLAPSE))
        at(pause)
        forker = lab.task(lambda: mm.fork())
        assert not forker.done(A_WHILE)
    collapser.join()
    child = forker.join()
    assert child.pagemap((start, EXTENT))["huge"].all()
    child.store(start, 1)
    assert mm.load(start) == 1000
    lab.machine.check()
    for task in lab.tasks:
        task.end()
    child.close()
    lab.machine.close(5)
