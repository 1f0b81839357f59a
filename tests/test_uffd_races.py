"""Races of userfaultfd, forced: against retraction and collapse, and against who waits."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

from forced import (
    A_WHILE,
    EXTENT,
    PAGE,
    PATIENCE,
    Lab,
    Lost,
    Race,
    SmallOfHuge,
    Task,
    Two,
    anon,
    at,
    both_ways,
    collapse,
    expect,
    outcome,
)

from pgtbl import MADV_DONTNEED, torture
from pgtbl.errors import BusError


def raising(lab: Lab, mm: torture.Mm, start: int, mode: str, length: int = EXTENT) -> Any:
    """A userfaultfd whose faults raise."""
    lab.kept.append(mm.userfaultfd(["SIGBUS"]))
    lab.kept[-1].register(start, length, [mode])
    return lab.kept[-1]


def must_be_reported(access: Callable[[], object], what: str) -> None:
    try:
        access()
    except BusError:
        return
    raise Lost(what)


def again(call: Callable[[], object]) -> int:
    """0, or the errno."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


# ---- retraction and collapse --------------------------------------------------------------------


def protected_while_retracted(lab: Lab) -> None:
    """B23: b's range is registered, and a page that is not mapped protected, after retraction has looked."""
    s = Two(lab)
    old = lab.machine.era in ("v6.4", "v6.5")
    with torture.pause("rt_after_find" if old else "rt_after_uffd_check") as pause:
        collapser = lab.task(lambda: collapse(s.a, s.at_a))
        at(pause)
        uffd = raising(lab, s.b, s.at_b, "wp")
        uffd.writeprotect(s.at_b, PAGE)
    assert collapser.join() == 0
    must_be_reported(
        lambda: s.b.store(s.at_b, 1), "G-17: a store to a protected page is not reported"
    )


def filled_while_collapsed(lab: Lab) -> None:
    """B24: UFFDIO_COPY puts a private page into a table that collapse_pte_mapped_thp has just emptied."""
    s = SmallOfHuge(lab, shared=False)
    s.mm.madvise(s.at + 5 * PAGE, PAGE, MADV_DONTNEED)
    uffd = raising(lab, s.mm, s.at, "missing")
    copied: list[int] = []

    def copy() -> None:
        copied.append(again(lambda: uffd.copy(s.at + 5 * PAGE, b"\x07" + bytes(PAGE - 1))))

    with torture.pause("cp_ptl_dropped") as pause:
        collapser = lab.task(lambda: collapse(s.mm, s.at))
        if pause.wait(A_WHILE):
            copy()
    collapser.join()
    if not copied:
        copy()
    assert copied[0] in (0, errno.EEXIST, errno.EAGAIN)
    if copied[0] == 0:
        expect(s.mm.load(s.at + 5 * PAGE), 7, "the page that was put in")


def collapse_of_protected_entries(lab: Lab) -> None:
    s = SmallOfHuge(lab)
    raising(lab, s.mm, s.at, "wp").writeprotect(s.at + 3 * PAGE, PAGE)
    collapse(s.mm, s.at)
    must_be_reported(
        lambda: s.mm.store(s.at + 3 * PAGE, 1), "G-17: a store to a protected page is not reported"
    )


def collapse_of_reported_holes(lab: Lab) -> None:
    """B28: b is to hear of each hole that it touches; a collapses the file."""
    s = Two(lab, fill=100)
    raising(lab, s.b, s.at_b, "missing")
    collapse(s.a, s.at_a)
    must_be_reported(
        lambda: s.b.touch(s.at_b + 200 * PAGE), "G-18: a hole was filled, and nobody told"
    )


def anonymous_collapse_of_reported_holes(lab: Lab) -> None:
    mm, start = anon(lab, fill=100)
    raising(lab, mm, start, "missing")
    collapse(mm, start)
    must_be_reported(
        lambda: mm.touch(start + 200 * PAGE), "G-18: a hole was filled, and nobody told"
    )


def anonymous_collapse_of_protected_entries(lab: Lab) -> None:
    mm, start = anon(lab)
    raising(lab, mm, start, "wp").writeprotect(start + 3 * PAGE, PAGE)
    collapse(mm, start)
    must_be_reported(
        lambda: mm.store(start + 3 * PAGE, 1), "G-17: a store to a protected page is not reported"
    )


def filled_while_retracted(lab: Lab) -> None:
    """B27: the ioctl has made sure of b's table; it is retracted."""
    # Of those that fill, it is UFFDIO_POISON that holds no page of the file meanwhile; a private mapping has its anon_vma first.
    s = Two(lab)
    s.b.madvise(s.at_b + 5 * PAGE, PAGE, MADV_DONTNEED)
    uffd = raising(lab, s.b, s.at_b, "minor")
    with torture.pause("uf_pmd_checked") as pause:
        filler = lab.task(lambda: again(lambda: uffd.poison(s.at_b + 5 * PAGE, PAGE)))
        at(pause)
        assert collapse(s.a, s.at_a) == 0
    expect(filler.join(), errno.EAGAIN, "errno of UFFDIO_POISON")


def moved_beside_reclaim(lab: Lab) -> None:
    """B14: UFFDIO_MOVE has mapped the destination's empty table; MADV_DONTNEED frees it."""
    mm, start = anon(lab, fill=1)
    target = mm.mmap(length=EXTENT, shared=False, addr=64 * EXTENT, fixed=True).start
    uffd = raising(lab, mm, target, "missing")
    with torture.pause("uf_move_mapped") as pause:
        mover = lab.task(lambda: again(lambda: uffd.move(target, start, PAGE)))
        at(pause)
        mm.madvise(target, EXTENT, MADV_DONTNEED)
    number = mover.join()
    expect(mm.load(start if number else target), 1000, "the page that was to move")
    expect(number, errno.EAGAIN, "errno of UFFDIO_MOVE")


# ---- who waits ----------------------------------------------------------------------------------


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def waiting_fault(lab: Lab, mm: torture.Mm, addr: int) -> Task:
    before = lab.count("fault.userfault")
    fault = lab.task(lambda: mm.touch(addr))
    until(lambda: lab.count("fault.userfault") > before, "the fault does not sleep")
    return fault


def resolved_before_it_queues(lab: Lab) -> None:
    """The page is put in, and who waits woken, after the fault has found nothing and before it queues."""
    mm, start = anon(lab, fill=0)
    uffd = mm.userfaultfd()
    lab.kept.append(uffd)
    uffd.register(start, EXTENT, ["missing"])
    before = lab.count("fault.userfault")
    with torture.pause("uf_reported") as pause:
        fault = lab.task(lambda: mm.touch(start))
        at(pause)
        uffd.zeropage(start, PAGE)
    until(
        lambda: fault.done(0) or lab.count("fault.userfault") > before,
        "the fault neither ends nor sleeps",
    )
    if not fault.done(0):
        uffd.wake(start, PAGE)
        fault.join()
        raise Lost("G-18: a fault sleeps for a page that is there")


def locked_while_it_sleeps(lab: Lab) -> None:
    mm, start = anon(lab, fill=0)
    uffd = mm.userfaultfd()
    lab.kept.append(uffd)
    uffd.register(start, EXTENT, ["missing"])
    fault = waiting_fault(lab, mm, start)
    with mm.mmap_lock.try_write() as got:
        pass
    uffd.wake(start, EXTENT)
    until(lambda: uffd.waiting == 1, "the fault does not come again")
    if not got:
        # It holds mmap_lock for read; so can who puts the page in.
        uffd.zeropage(start, PAGE)
        fault.join()
        raise Lost("a fault holds mmap_lock while it sleeps")
    uffd.close()
    fault.join()


def filled_before_the_event_is_read(lab: Lab) -> None:
    """MADV_DONTNEED waits for its event to be read; a page that is put in meanwhile would go with the rest."""
    mm, start = anon(lab, fill=4)
    uffd = mm.userfaultfd(["EVENT_REMOVE", "SIGBUS"])
    lab.kept.append(uffd)
    uffd.register(start, EXTENT, ["missing"])
    with torture.pause("uf_event") as pause:
        zap = lab.task(lambda: mm.madvise(start, EXTENT, MADV_DONTNEED))
        at(pause)
        number = again(lambda: uffd.zeropage(start + 9 * PAGE, PAGE))
        uffd.read()
    zap.join()
    if number == 0:
        try:
            mm.touch(start + 9 * PAGE)
        except BusError:
            raise Lost("G-18: a page that was put in has gone") from None
    expect(number, errno.EAGAIN, "errno of UFFDIO_ZEROPAGE")


def stored_after_it_was_protected(lab: Lab) -> None:
    """Another CPU has the page in its TLB, and may write it by that."""
    mm, start = anon(lab, fill=1)
    uffd = raising(lab, mm, start, "wp")
    cpu = lab.task()
    cpu.do(lambda: mm.store(start, 1))
    uffd.writeprotect(start, PAGE)
    must_be_reported(
        lambda: cpu.do(lambda: mm.store(start, 2)),
        "G-17: a store to a protected page is not reported",
    )


UFFD_RACES = [
    Race("retract_recheck_wp", protected_while_retracted, "G-17"),
    Race("retract_recheck_wp", protected_while_retracted, "G-17", era="v6.18"),
    Race("cpmt_early_pml", filled_while_collapsed, "put in|G-2"),
    Race("cpmt_uffd_wp", collapse_of_protected_entries, "G-17", era="v6.4"),
    Race("cpmt_uffd_wp", collapse_of_protected_entries, "G-17"),
    Race("file_missing", collapse_of_reported_holes, "G-18"),
    Race("anon_uffd_hole", anonymous_collapse_of_reported_holes, "G-18"),
    Race("anon_uffd_wp", anonymous_collapse_of_protected_entries, "G-17"),
    Race("mfill_retry", filled_while_retracted, "B27"),
    Race("move_pmd_same", moved_beside_reclaim, "G-", era="v6.14"),
    Race("uffd_must_wait", resolved_before_it_queues, "G-18"),
    Race("uffd_drop_lock", locked_while_it_sleeps, "while it sleeps", era="v6.4"),
    Race("uffd_changing", filled_before_the_event_is_read, "G-18|errno"),
    Race("uffd_wp_flush", stored_after_it_was_protected, "G-17|G-14"),
]


test_with_the_guard_the_race_ends_well, test_without_the_guard_the_race_is_seen = both_ways(
    UFFD_RACES
)


def test_a_private_page_that_comes_before_the_clearing_stops_the_collapse() -> None:
    """The other order of B24: the collapse meets the page, and leaves everything as it is."""

    def body(lab: Lab) -> None:
        s = SmallOfHuge(lab, shared=False)
        s.mm.madvise(s.at + 5 * PAGE, PAGE, MADV_DONTNEED)
        uffd = raising(lab, s.mm, s.at, "missing")
        with torture.pause("cp_before_clear") as pause:
            collapser = lab.task(lambda: collapse(s.mm, s.at))
            at(pause)
            uffd.copy(s.at + 5 * PAGE, b"\x07" + bytes(PAGE - 1))
        expect(collapser.join(), errno.EINVAL, "errno of MADV_COLLAPSE")
        expect(s.mm.load(s.at + 5 * PAGE), 7, "the page that was put in")
        expect(s.mm.load(s.at + 6 * PAGE), 1000 + 6 * 512, "its neighbour")

    assert outcome(Race("cpmt_early_pml", body, "")) == ""
