"""Races of secondary MMUs and of GUP-fast, forced."""

from __future__ import annotations

import contextlib
from typing import Any

from forced import (
    A_WHILE,
    EXTENT,
    PAGE,
    PAGES,
    Lab,
    Lost,
    Race,
    anon,
    at,
    both_ways,
    collapse,
    every_page,
    expect,
)

from pgtbl import MADV_DONTNEED, torture
from pgtbl.errors import OutOfMemory, SegmentationFault

# ---- secondary MMUs -----------------------------------------------------------------------------


def device_has_the_table(lab: Lab) -> None:
    """B33: a device has walked b's table, which is empty by then, into its cache; the table goes; the device walks on."""
    shm = lab.shmem(EXTENT)
    b, a = lab.mm(), lab.mm()
    at_b, at_a = b.mmap(shm, prot="r").start, a.mmap(shm).start
    for page in range(PAGES):
        a.store(at_a + page * PAGE, 1000 + page)
    b.touch(every_page(at_b))
    device = b.secondary_mmu("walker")
    with torture.pause("rt_after_find") as pause:
        scan = lab.task(lab.machine.khugepaged.scan)
        at(pause)
        with contextlib.suppress(SegmentationFault):
            device.store(at_b, 1)
    scan.join()
    lab.machine.rcu.barrier()
    expect(device.load(at_b + 9 * PAGE), 1009, "page 9 in b")


def device_has_the_page(lab: Lab) -> None:
    for kind in ("shadow", "walker"):
        mm, start = anon(lab, fill=4)
        device = mm.secondary_mmu(kind)
        expect(device.load(start), 1000, "page 0")
        mm.madvise(start, PAGE, MADV_DONTNEED)
        expect(device.load(start), 0, "page 0 after MADV_DONTNEED")


def looked_up_before_it_went(lab: Lab) -> None:
    """A device has looked a page up; the page goes; the device fills its translation in."""
    mm, start = anon(lab, fill=4)
    device = mm.secondary_mmu()
    with torture.pause("sm_looked_up") as pause:
        load = lab.task(lambda: device.load(start))
        at(pause)
        mm.madvise(start, PAGE, MADV_DONTNEED)
    load.join()
    expect(device.load(start), 0, "page 0 after MADV_DONTNEED")


# ---- GUP-fast -----------------------------------------------------------------------------------


def must_have(mm: torture.Mm, addr: int, pin: Any, what: str) -> None:
    mm.touch(addr)
    if pin.frames != mm.pagemap(addr, PAGE)["pfn"].tolist():
        raise Lost(what)


def broadcast(lab: Lab) -> None:
    era = lab.machine.era
    lab.machine.close()
    lab.machine = torture.Machine(era=era, memory="96MiB", broadcast_flush=True)


def page_goes_under_a_pin(lab: Lab) -> None:
    """GUP-fast has read the entry; the page is dropped, and another comes there; then the reference is taken."""
    broadcast(lab)
    mm, start = anon(lab, fill=2)
    with torture.pause("gf_pte_read") as pause:
        pin = lab.task(lambda: mm.pin(start, write=True))
        at(pause)
        mm.madvise(start, PAGE, MADV_DONTNEED)
        mm.store(start + 9 * PAGE, 7)  # takes the frame
        mm.store(start, 8)
    must_have(mm, start, pin.join(), "a pin is of a page that is not there any more")


def table_goes_under_a_pin(lab: Lab) -> None:
    """B01: GUP-fast has its reference; an anonymous collapse has looked at the counts before, and copies the page."""
    broadcast(lab)
    mm, start = anon(lab)
    with torture.pause("gf_pte_read") as before:
        pin = lab.task(lambda: mm.pin(start, write=True))
        at(before)
        with torture.pause("ca_isolated") as isolated:
            collapser = lab.task(lambda: collapse(mm, start))
            at(isolated)
            with torture.pause("gf_pinned") as after:
                before.release()
                at(after)
                after.release()
                pin.done(0.25)
        collapser.join()
    must_have(mm, start, pin.join(), "B01: a pin is of a page that a collapse has replaced")


def fork_of_a_pinned_page(lab: Lab) -> None:
    mm, start = anon(lab, fill=2)
    pin = mm.pin(start, kind="pin")
    lab.kept.append(mm.fork())
    mm.store(start, 7)
    must_have(
        mm, start, pin, "G-13: a store of the parent's does not reach the page that it pinned"
    )
    expect(lab.kept[-1].load(start), 1000, "the child's page 0")


def fork_beside_a_pin(lab: Lab, mm: torture.Mm | None = None) -> None:
    """fork has found a page not pinned, and is about to share it; then somebody pins it."""
    mm = mm or lab.mm()
    start = mm.mmap(length=EXTENT, shared=False).start
    mm.store(start, 1000)
    with torture.pause("fk_pins_seen") as pause:
        fork = lab.task(mm.fork)
        at(pause)
        pin = lab.task(lambda: mm.pin(start, write=True, kind="pin"))
        pin.done(A_WHILE)
    lab.kept.append(fork.join())
    pinned = pin.join()
    mm.store(start, 7)
    must_have(mm, start, pinned, "G-13: a page was pinned while fork shared it")
    expect(lab.kept[-1].load(start), 1000, "the child's page 0")


def fork_beside_a_pin_after_one_that_failed(lab: Lab) -> None:
    """The same, when an earlier fork has found no frame for the child's tables in the middle of its copying."""
    mm, start = anon(lab, extents=64, fill=0)
    for i in range(64):
        mm.store(start + i * EXTENT, 1)
    hog = lab.shmem("96MiB")
    with contextlib.suppress(OutOfMemory):
        hog.write(0, bytes(96 << 20))
    hog.punch(0, 12 * PAGE)
    try:
        mm.fork()
    except OutOfMemory:
        pass
    else:
        raise AssertionError("the fork was to fail")
    hog.truncate(0)
    mm.munmap(start, 64 * EXTENT)
    fork_beside_a_pin(lab, mm)


def fork_of_a_pinned_huge_page(lab: Lab) -> None:
    mm, start = anon(lab, fill=1)
    assert collapse(mm, start) == 0
    pin = mm.pin(start + 7 * PAGE, kind="pin")
    lab.kept.append(mm.fork())
    mm.store(start + 7 * PAGE, 7)
    must_have(
        mm,
        start + 7 * PAGE,
        pin,
        "G-13: a store of the parent's does not reach the huge page that it pinned",
    )
    expect(lab.kept[-1].load(start + 7 * PAGE), 0, "the child's page 7")
    expect(lab.kept[-1].load(start), 1000, "the child's page 0")


def pin_of_a_shared_page(lab: Lab) -> None:
    """A page is pinned to be read which a child shares; then the program stores to it."""
    mm, start = anon(lab, fill=2)
    lab.kept.append(mm.fork())
    pin = mm.pin(start, kind="pin")
    mm.store(start, 7)
    must_have(
        mm,
        start,
        pin,
        "G-13: a store of the parent's does not reach the page that it pinned to read",
    )
    expect(lab.kept[-1].load(start), 1000, "the child's page 0")


SECONDARY_RACES = [
    Race("retract_notifier", device_has_the_table, "G-16", era="v6.4"),
    Race("secondary_flush", device_has_the_table, "G-16"),
    Race("secondary_flush", device_has_the_table, "G-16", era="v6.5"),
    Race("notifier_start", device_has_the_page, "G-16"),
    Race("secondary_flush", device_has_the_page, "G-16", era="v6.18"),
    Race("secondary_retry", looked_up_before_it_went, "G-16"),
    Race("gup_recheck", page_goes_under_a_pin, "not there any more|G-2"),
    Race(
        "gup_recheck",
        table_goes_under_a_pin,
        "B01|G-2",
        beside=("sync_before_free",),
    ),
    Race("fork_pinned", fork_of_a_pinned_page, "G-13"),
    Race("fork_pinned_huge", fork_of_a_pinned_huge_page, "G-13"),
    Race("gup_fork_seq", fork_beside_a_pin, "G-13"),
    Race("gup_fork_seq", fork_beside_a_pin_after_one_that_failed, "G-13", era="v6.18"),
    Race("gup_unshare", pin_of_a_shared_page, "G-13"),
]


test_with_the_guard_the_race_ends_well, test_without_the_guard_the_race_is_seen = both_ways(
    SECONDARY_RACES
)
