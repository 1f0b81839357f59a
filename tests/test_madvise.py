"""madvise, mlock, mincore, fallocate and the splitting of huge pages: errno, contents, and what stays mapped."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from forced import Task
from machines import machine_of

import pgtbl
from pgtbl import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_WIPEONFORK,
)

PAGE = pgtbl.PAGE_SIZE
EXTENT = pgtbl.PMD_SIZE
PAGES = EXTENT // PAGE
ERAS = ["v6.4", "v6.6", "v6.13", "v6.14", "v6.17", "v6.18"]


machine = machine_of(ERAS)


@pytest.fixture
def newest() -> Iterator[pgtbl.Machine]:
    with pgtbl.Machine(era="v6.18", memory="64MiB") as made:
        yield made
        made.check()


def fill(mm: pgtbl.Mm, area: pgtbl.Vma, pages: int = PAGES) -> None:
    for i in range(pages):
        mm.store(area.start + i * PAGE, 1000 + i)


def words(mm: pgtbl.Mm, area: pgtbl.Vma, pages: int = PAGES) -> list[int]:
    return [mm.load(area.start + i * PAGE) for i in range(pages)]


def code_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def test_errno(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    anon, shm = mm.mmap(length=EXTENT, shared=False), mm.mmap(machine.shmem(EXTENT))
    private = mm.mmap(machine.shmem(EXTENT), shared=False)
    locked = mm.mmap(length=4 * PAGE, shared=False, locked=True)
    readable = mm.mmap(length=PAGE, shared=False, prot="r")
    nothing = 1 << 40
    for where, advice, expected in (
        (shm.start, MADV_FREE, "EINVAL"),
        (private.start, MADV_FREE, "EINVAL"),
        (anon.start, MADV_FREE, None),
        (anon.start, MADV_REMOVE, "EINVAL"),
        (private.start, MADV_REMOVE, "EACCES"),
        (shm.start, MADV_REMOVE, None),
        (locked.start, MADV_DONTNEED, "EINVAL"),
        (locked.start, MADV_COLD, "EINVAL"),
        (locked.start, MADV_DONTNEED_LOCKED, None),
        (shm.start, MADV_WIPEONFORK, "EINVAL"),
        (anon.start, MADV_WIPEONFORK, None),
        (readable.start, MADV_POPULATE_WRITE, "EINVAL"),
        (readable.start, MADV_POPULATE_READ, None),
        (nothing, MADV_DONTNEED, "ENOMEM"),
        (nothing, MADV_POPULATE_READ, "ENOMEM"),
        (nothing, MADV_DONTFORK, "ENOMEM"),
        (anon.start + 1, MADV_DONTNEED, "EINVAL"),
        (anon.start, 99, "EINVAL"),
        (anon.start, MADV_NORMAL, None),
        (anon.start, MADV_PAGEOUT, None),
    ):
        assert code_of(lambda w=where, a=advice: mm.madvise(w, PAGE, a)) == expected, (
            hex(where),
            advice,
        )  # type: ignore[misc]
    mm.madvise(nothing, 0, MADV_DONTNEED)
    machine.check()


def test_flags_split_and_join_mappings(mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=16 * PAGE, shared=False)
    mm.madvise(area.start + 4 * PAGE, 4 * PAGE, MADV_RANDOM)
    assert [v.vm_flags for v in mm.vmas()] == ["rd wr ac", "rd wr rr ac", "rd wr ac"]
    mm.madvise(area.start + 4 * PAGE, 4 * PAGE, MADV_NORMAL)
    assert [(v.start, v.length) for v in mm.vmas()] == [(area.start, 16 * PAGE)]
    mm.mprotect(area.start + 4 * PAGE, 4 * PAGE, "r")
    mm.store(area.start, 1)  # the first has private pages, and still the three join
    mm.mprotect(area.start + 4 * PAGE, 4 * PAGE, "rw")
    assert [(v.start, v.length) for v in mm.vmas()] == [(area.start, 16 * PAGE)]


def test_neighbours_with_pages_of_their_own_stay_apart(
    machine: pgtbl.Machine, mm: pgtbl.Mm
) -> None:
    base = 1 << 40
    low = mm.mmap(length=2 * PAGE, shared=False, addr=base)
    high = mm.mmap(length=2 * PAGE, shared=False, addr=base + 4 * PAGE)
    mm.store(low.start, 1)
    mm.store(high.start, 1)
    mm.mmap(length=2 * PAGE, shared=False, addr=base + 2 * PAGE)
    assert [(v.start, v.length) for v in mm.vmas()] == [
        (base, 4 * PAGE),
        (base + 4 * PAGE, 2 * PAGE),
    ]
    machine.check()


def test_dontneed_takes_which_lock(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=2 * EXTENT, shared=False)
    fill(mm, area, 2 * PAGES)
    before = machine.ledger()
    tables = mm.pgtables_bytes
    mm.madvise(area.start, EXTENT, MADV_DONTNEED)
    taken = machine.ledger()["mmap_lock.read"] - before["mmap_lock.read"]
    assert taken == (0 if machine.switches["dontneed_under_vma_lock"] else 1)
    # From 6.14 on the emptied table goes too.
    assert (tables - mm.pgtables_bytes) // PAGE == machine.switches["reclaim_tables"]
    assert mm.rss["anon"] == PAGES
    assert words(mm, area, 3) == [0, 0, 0]
    tables = mm.pgtables_bytes
    mm.madvise(area.start + EXTENT, EXTENT - PAGE, MADV_DONTNEED)
    mm.madvise(area.end - PAGE, PAGE, MADV_DONTNEED)
    assert mm.pgtables_bytes == tables  # not of one piece: the table stays


def test_free_and_cold_keep_contents(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=EXTENT, shared=False)
    fill(mm, area)
    for advice in (MADV_FREE, MADV_COLD, MADV_PAGEOUT):
        mm.madvise(area.start, 100 * PAGE, advice)
        machine.check()
    assert words(mm, area) == list(range(1000, 1000 + PAGES))
    (row,) = mm.smaps()
    assert row["kib"]["LazyFree"] == 400
    mm.store(area.start, 1)
    (row,) = mm.smaps()
    assert row["kib"]["LazyFree"] == 396
    # A huge page of which a part is meant is split.
    mm.madvise(area, None, MADV_COLLAPSE)
    mm.madvise(area.start, 100 * PAGE, MADV_FREE)
    machine.check()
    assert set(mm.pagemap(area)["order"].tolist()) == {0}
    assert words(mm, area)[1:] == list(range(1001, 1000 + PAGES))


def lazily_freed(mm: pgtbl.Mm) -> int:
    """Pages that smaps says may be dropped."""
    return int(sum(row["kib"].get("LazyFree", 0) for row in mm.smaps())) // 4


def test_pages_are_marked_lazily_freed_in_batches(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=EXTENT, shared=False)
    fill(mm, area)
    mm.madvise(area.start, 40 * PAGE, MADV_FREE)
    assert lazily_freed(mm) == 31
    mm.madvise(area.start + 100 * PAGE, PAGE, MADV_COLD)
    assert lazily_freed(mm) == 40
    # What has gone meanwhile is not marked, whoever has its frame now.
    mm.madvise(area.start + 200 * PAGE, 5 * PAGE, MADV_FREE)
    mm.madvise(area.start + 200 * PAGE, 5 * PAGE, MADV_DONTNEED)
    for page in range(200, 205):
        mm.store(area.start + page * PAGE, 1)
    mm.madvise(area.start + 200 * PAGE, 5 * PAGE, MADV_COLD)
    assert lazily_freed(mm) == 40
    # A thread that ends leaves nothing undone.
    thread = threading.Thread(
        target=mm.madvise, args=(area.start + 300 * PAGE, 5 * PAGE, MADV_FREE)
    )
    thread.start()
    thread.join()
    deadline = time.monotonic() + 20
    while lazily_freed(mm) != 45 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lazily_freed(mm) == 45
    machine.check()


@pytest.mark.parametrize("drains", ["madvise", "khugepaged"])
def test_a_collapse_drains_the_batch_of_every_cpu(
    machine: pgtbl.Machine, mm: pgtbl.Mm, drains: str
) -> None:
    area = mm.mmap(length=2 * EXTENT, shared=False)
    fill(mm, area, 2 * PAGES)
    other = Task(lambda: mm.madvise(area.start + EXTENT, 5 * PAGE, MADV_FREE))
    other.join()
    mm.madvise(area.start, PAGE, MADV_COLD)  # drains its own CPU's
    assert lazily_freed(mm) == 0
    if drains == "madvise":
        mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
    else:
        machine.khugepaged.scan()
    assert lazily_freed(mm) == 5
    other.end()


def test_cold_leaves_a_pinned_huge_page_alone(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    """It cannot be split, and so is not unmapped for it."""
    for shared in (True, False):
        area = mm.mmap(machine.shmem(EXTENT)) if shared else mm.mmap(length=EXTENT, shared=False)
        fill(mm, area)
        mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
        mm.touch(area.start)
        with mm.pin(area.start + 7 * PAGE, 1):
            mm.madvise(area.start, PAGE, MADV_COLD)
            assert set(mm.pagemap(area)["huge"].tolist()) == {1}
        mm.madvise(area.start, PAGE, MADV_COLD)
        assert 1 not in mm.pagemap(area)["huge"].tolist()
    machine.check()


def test_split_of_an_anonymous_page_that_fork_shares(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    """Left alone: the other program did not ask for it."""
    area = mm.mmap(length=EXTENT, shared=False)
    fill(mm, area)
    mm.madvise(area, None, MADV_COLLAPSE)
    child = mm.fork()
    mm.madvise(area.start, 100 * PAGE, MADV_FREE)
    assert set(mm.pagemap(area)["order"].tolist()) == {9}
    machine.check()
    child.close()
    mm.madvise(area.start, 100 * PAGE, MADV_FREE)
    assert set(mm.pagemap(area)["order"].tolist()) == {0}


def test_punch_splits_a_huge_page(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    shm = machine.shmem(2 * EXTENT)
    area = mm.mmap(shm)
    fill(mm, area)
    mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
    shm.punch(10 * PAGE, PAGE)
    machine.check()
    found = [(int(r["index"]), int(r["order"])) for r in shm.pages()]
    assert [i for i, _ in found] == [i for i in range(PAGES) if i != 10]
    if machine.switches["split_in_halves"]:
        expected = {0: 3, 8: 1, 11: 0, 12: 2, 16: 4, 32: 5, 64: 6, 128: 7, 256: 8}
        assert {i: o for i, o in found if i in expected} == expected
    else:
        assert {o for _, o in found} == {0}
    assert words(mm, area) == [0 if i == 10 else 1000 + i for i in range(PAGES)]
    faults = machine.ledger()["fault"]
    child = machine.mm()
    again = child.mmap(shm)
    assert words(child, again) == words(mm, area)
    # A fault maps all of a large folio from 6.18 on, else sixteen pages around it.
    used = machine.ledger()["fault"] - faults
    assert used == (6 if machine.switches["fault_maps_folio"] else PAGES // 16)
    shm.truncate(100 * PAGE)
    machine.check()
    assert words(mm, area, 100) == [0 if i == 10 else 1000 + i for i in range(100)]
    with pytest.raises(pgtbl.BusError):
        mm.load(area.start + 100 * PAGE)
    shm.truncate(EXTENT)
    if machine.switches["collapse_large_folios"] or not machine.switches["split_in_halves"]:
        mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
        assert mm.pagemap((area.start, EXTENT))["huge"].all()
        assert words(mm, area, 101) == [*words(child, again, 100), 0]


def test_fallocate(newest: pgtbl.Machine) -> None:
    shm = newest.shmem(4 * PAGE)
    shm.allocate(2 * PAGE, 4 * PAGE)
    assert shm.size == 6 * PAGE
    assert [(int(r["index"]), int(r["uptodate"])) for r in shm.pages()] == [
        (i, 0) for i in range(2, 6)
    ]
    mm = newest.mm()
    area = mm.mmap(shm)
    assert mm.mincore(area).tolist() == [False] * 6  # set aside, and not read yet
    assert mm.load(area.start + 3 * PAGE) == 0
    assert mm.mincore(area).tolist() == [False, False, False, True, False, False]
    with pytest.raises(OSError, match="length 0"):
        shm.allocate(0, 0)
    newest.check()


def test_mlock(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=8 * PAGE, shared=False)
    mm.mlock(area.start + PAGE, 2 * PAGE)
    assert mm.pagemap(area)["write"].tolist() == [1, 1]  # private and writable: pages of its own
    assert [v.vm_flags for v in mm.vmas()] == ["rd wr ac", "rd wr lo ac", "rd wr ac"]
    mm.mlock(area.start + 4 * PAGE, PAGE, onfault=True)
    assert len(mm.pagemap(area)) == 2
    mm.munlock(area)
    assert [v.vm_flags for v in mm.vmas()] == ["rd wr ac"]
    assert code_of(lambda: mm.mlock(1 << 40, PAGE)) == "ENOMEM"
    none = mm.mmap(length=PAGE, shared=False, prot="none")
    assert code_of(lambda: mm.mlock(none)) == "ENOMEM"
    short = mm.mmap(machine.shmem(PAGE), length=2 * PAGE)
    assert code_of(lambda: mm.mlock(short)) == "ENOMEM"


def test_populate_at_mmap(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    assert len(mm.pagemap(mm.mmap(length=5 * PAGE, shared=False, populate=True))) == 5
    shm = mm.mmap(machine.shmem(5 * PAGE), populate=True)
    assert len(mm.pagemap(shm)) == 5
    beyond = mm.mmap(machine.shmem(2 * PAGE), length=4 * PAGE, populate=True)  # as far as it goes
    assert len(mm.pagemap(beyond)) == 2
    assert code_of(lambda: mm.madvise(beyond, None, MADV_POPULATE_READ)) == "EFAULT"


def test_guard_regions(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=EXTENT, shared=False)
    if not machine.switches["guard_regions"]:
        assert code_of(lambda: mm.madvise(area.start, PAGE, MADV_GUARD_INSTALL)) == "EINVAL"
        return
    fill(mm, area, 8)
    child_sees = mm.fork
    mm.madvise(area.start + PAGE, 2 * PAGE, MADV_GUARD_INSTALL)
    assert mm.pagemap(area)["guard"].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    child = child_sees()
    for one in (mm, child):
        for call in (one.load, lambda va, m=one: m.store(va, 1)):  # type: ignore[misc]
            with pytest.raises(pgtbl.SegmentationFault, match="guard"):
                call(area.start + PAGE)
        assert one.load(area.start + 3 * PAGE) == 1003
    mm.madvise(area, None, MADV_DONTNEED)  # does not take guards away
    machine.check()
    assert mm.pagemap(area)["guard"].tolist() == [1, 1]
    assert code_of(lambda: mm.madvise(area.start, 2 * PAGE, MADV_POPULATE_WRITE)) == "EFAULT"
    assert code_of(lambda: mm.madvise(area, None, MADV_COLLAPSE)) == "EINVAL"
    mm.madvise(area, None, MADV_GUARD_REMOVE)
    assert mm.load(area.start + PAGE) == 0
    assert [v.vm_flags for v in mm.vmas()] == ["rd wr gu ac"]
    shm = mm.mmap(machine.shmem(EXTENT))
    expected = None if machine.switches["guard_in_files"] else "EINVAL"
    assert code_of(lambda: mm.madvise(shm.start, PAGE, MADV_GUARD_INSTALL)) == expected


def test_a_guard_survives_collapse_of_the_file(newest: pgtbl.Machine) -> None:
    """G-17: retraction leaves the table of a mapping that has markers."""
    shm = newest.shmem(EXTENT)
    mm, other = newest.mm(), newest.mm()
    area, guarded = mm.mmap(shm), other.mmap(shm)
    fill(mm, area)
    other.madvise(guarded.start + 20 * PAGE, 4 * PAGE, MADV_GUARD_INSTALL)
    mm.madvise(area, None, MADV_COLLAPSE)
    newest.check()
    with pytest.raises(pgtbl.SegmentationFault, match="guard"):
        other.load(guarded.start + 21 * PAGE)
    assert other.load(guarded.start) == 1000


def test_huge_advice_and_dontneed_of_one_page(newest: pgtbl.Machine) -> None:
    mm = newest.mm()
    area = mm.mmap(length=EXTENT, shared=False)
    mm.madvise(area, None, MADV_HUGEPAGE)
    fill(mm, area)
    mm.madvise(area.start + 5 * PAGE, PAGE, MADV_DONTNEED)
    newest.check()
    rows = mm.pagemap(area)
    assert len(rows) == PAGES - 1
    assert not rows["huge"].any()
    assert set(rows["order"].tolist()) == {9}  # the folio is still whole
    assert words(mm, area) == [0 if i == 5 else 1000 + i for i in range(PAGES)]
