"""Anonymous memory: the zero page, copy on write, fork, huge pages by fault and by collapse."""

from __future__ import annotations

import contextlib
import random
import threading

import numpy as np
import pytest
from machines import machine_of

import pgtbl
from pgtbl import (
    MADV_COLLAPSE,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_WIPEONFORK,
)

PAGE = pgtbl.PAGE_SIZE
EXTENT = pgtbl.PMD_SIZE
PAGES = EXTENT // PAGE
ERAS = ["v6.4", "v6.5", "v6.6", "v6.13", "v6.14", "v6.17", "v6.18"]


machine = machine_of(ERAS)


def anon(mm: pgtbl.Mm, extents: int = 2) -> pgtbl.Vma:
    return mm.mmap(length=extents * EXTENT, shared=False)


def fill(mm: pgtbl.Mm, area: pgtbl.Vma, pages: int = PAGES, start: int = 1000) -> None:
    for i in range(pages):
        mm.store(area.start + i * PAGE, start + i)


def words(mm: pgtbl.Mm, area: pgtbl.Vma, pages: int = PAGES) -> list[int]:
    return [mm.load(area.start + i * PAGE) for i in range(pages)]


def delta(machine: pgtbl.Machine, name: str, before: pgtbl.Ledger) -> int:
    return machine.ledger()[name] - before[name]


def test_loads_share_the_zero_page(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = anon(mm)
    free = machine.free_memory
    assert words(mm, area, 8) == [0] * 8
    rows = mm.pagemap(area)
    assert rows["zero"].tolist() == [1] * 8
    assert len(set(rows["pfn"].tolist())) == 1
    assert not rows["write"].any()
    assert mm.rss["anon"] == 0
    assert free - machine.free_memory < 8 * PAGE + 3 * PAGE  # page tables alone
    machine.check()
    mm.store(area.start, 5)
    assert mm.rss["anon"] == 1
    assert words(mm, area, 2) == [5, 0]
    assert mm.pagemap(area)["zero"].tolist() == [0] + [1] * 7


def test_fork_copies_on_write(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = anon(mm)
    fill(mm, area, 8)
    before = machine.ledger()
    child = mm.fork()
    assert delta(machine, "frame.allocated", before) < 8  # tables, no pages
    assert delta(machine, "mmap_lock.write", before) == 2
    machine.check()
    shared = mm.pagemap(area)
    assert shared["mapcount"].tolist() == [2] * 8
    assert not shared["write"].any()
    child.store(area.start, 1)
    mm.store(area.start + PAGE, 2)
    machine.check()
    assert words(mm, area, 3) == [1000, 2, 1002]
    assert words(child, area, 3) == [1, 1001, 1002]
    # Whoever is left alone with a page writes it in place.
    child.close()
    before = machine.ledger()
    mm.store(area.start + 5 * PAGE, 3)
    assert delta(machine, "fault.reuse", before) == 1
    assert delta(machine, "fault.cow", before) == 0
    assert mm.rss["anon"] == 8


def test_fork_leaves_files_to_faults_and_copies_private_pages(
    machine: pgtbl.Machine, mm: pgtbl.Mm
) -> None:
    shm = machine.shmem(EXTENT)
    shm.write(0, b"file")
    shared, private = mm.mmap(shm), mm.mmap(shm, shared=False)
    untouched = mm.mmap(shm, shared=False)
    mm.load(shared.start)
    mm.load(untouched.start)
    mm.write(private.start + PAGE, b"mine")
    child = mm.fork()
    assert len(child.pagemap(shared)) == len(child.pagemap(untouched)) == 0
    assert child.pagemap(private)["anon"].tolist() == [1]
    child.write(private.start + PAGE, b"hers")
    child.write(shared.start, b"both")
    assert mm.read(private.start + PAGE, 4) == b"mine"
    assert mm.read(shared.start, 4) == shm.read(0, 4) == b"both"
    assert shm.read(PAGE, 4) == bytes(4)


def test_what_fork_leaves_out(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    left, wiped, kept = anon(mm, 1), anon(mm, 1), anon(mm, 1)
    for area in (left, wiped, kept):
        mm.store(area.start, 7)
    mm.madvise(left, None, MADV_DONTFORK)
    mm.madvise(wiped, None, MADV_WIPEONFORK)
    mm.mlock(kept)
    child = mm.fork()
    with pytest.raises(pgtbl.SegmentationFault):
        child.load(left.start)
    assert (child.load(wiped.start), child.load(kept.start)) == (0, 7)
    assert [v.vm_flags for v in child.vmas() if v.start == kept.start] == ["rd wr ac"]
    assert [v.vm_flags for v in mm.vmas() if v.start == kept.start] == ["rd wr lo ac"]
    machine.check()


def test_children_of_children(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = anon(mm, 1)
    fill(mm, area, 4)
    line = [mm]
    for depth in range(6):
        line.append(line[-1].fork())
        line[-1].store(area.start, depth)
        if depth % 2:
            line[-2].close()
        machine.check()
    assert [m.load(area.start) for m in line if not m.closed] == [1000, 1, 3, 5]
    assert all(words(m, area, 4)[1:] == [1001, 1002, 1003] for m in line if not m.closed)


@pytest.mark.parametrize("thp", ["never", "madvise", "always"])
@pytest.mark.parametrize("advice", [None, MADV_HUGEPAGE, MADV_NOHUGEPAGE])
def test_huge_pages_by_fault(thp: str, advice: int | None) -> None:
    with pgtbl.Machine(thp=thp, memory="64MiB") as machine:
        mm = machine.mm()
        area = anon(mm)
        if advice is not None:
            mm.madvise(area, None, advice)
        huge = (thp == "always" and advice != MADV_NOHUGEPAGE) or (
            thp == "madvise" and advice == MADV_HUGEPAGE
        )
        assert machine.thp == thp
        mm.store(area.start + 5 * PAGE, 1)
        rows = mm.pagemap(area)
        assert len(rows) == (PAGES if huge else 1)
        assert rows["huge"].all() == huge
        assert [r["kib"].get("THPeligible", 0) for r in mm.smaps()] == [int(huge)]
        machine.check()


def test_huge_zero_page(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = anon(mm)
    mm.madvise(area, None, MADV_HUGEPAGE)
    assert mm.load(area.start + 3 * PAGE) == 0
    rows = mm.pagemap(area)
    assert len(rows) == PAGES
    assert rows["zero"].all()
    assert rows["huge"].all()
    assert mm.rss["anon"] == 0
    machine.check()
    child = mm.fork()
    mm.store(area.start + 3 * PAGE, 9)
    machine.check()
    # From v6.13 a huge page takes its place; before, the PMD is split and a small one is copied.
    assert mm.rss["anon"] == (PAGES if machine.switches["huge_zero_wp"] else 1)
    assert words(mm, area, 5) == [0, 0, 0, 9, 0]
    assert words(child, area, 5) == [0] * 5


def test_a_huge_pmd_is_split_where_a_part_changes(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    for what in ("mprotect", "munmap", "dontneed", "mremap", "fork"):
        area = anon(mm, 1)
        fill(mm, area)
        mm.madvise(area, None, MADV_COLLAPSE)
        assert mm.pagemap(area)["huge"].all(), what
        before = machine.ledger()
        at, expected = area.start + 10 * PAGE, [1000 + i for i in range(PAGES)]
        if what == "mprotect":
            mm.mprotect(at, PAGE, "r")
        elif what == "munmap":
            mm.munmap(at, PAGE)
        elif what == "dontneed":
            mm.madvise(at, PAGE, MADV_DONTNEED)
            expected[10] = 0
        elif what == "mremap":
            assert (
                mm.mremap(at, PAGE, PAGE, True, True, to=area.start - EXTENT) == area.start - EXTENT
            )
            assert mm.load(area.start - EXTENT) == 1010
        else:
            child = mm.fork()
            child.store(at, 5)
            assert mm.pagemap(area)["huge"].all()
        assert delta(machine, "pmd.split", before) == 1, what
        machine.check()
        gone = what in ("munmap", "mremap")
        assert all(
            (mm.load(area.start + i * PAGE) == expected[i])
            for i in range(PAGES)
            if not (gone and i == 10)
        ), what
        if what == "fork":
            assert words(child, area)[9:12] == [1009, 5, 1011]
            child.close()
        mm.munmap(area)
        machine.check()


def test_anonymous_collapse(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = anon(mm)
    fill(mm, area, 100)
    mm.load(area.start + 200 * PAGE)  # a zero page, and holes
    child = mm.fork()
    child.store(area.start, 1)
    mm.store(area.start + 50 * PAGE, 1050)  # before v6.18 one entry must be writable
    tables = mm.pgtables_bytes
    before = machine.ledger()
    mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
    assert delta(machine, "mmap_lock.write", before) == 1
    assert delta(machine, "mmap_lock.read", before) == 3
    assert delta(machine, "collapse.anon", before) == 1
    assert mm.pgtables_bytes == tables  # deposited behind the PMD
    machine.check()
    assert mm.pagemap(area)["huge"].all()
    assert mm.rss["anon"] == PAGES
    assert words(mm, area) == [1000 + i if i < 100 else 0 for i in range(PAGES)]
    assert words(child, area, 100) == [1, *range(1001, 1100)]
    assert child.pagemap(area)["order"].max() == 0
    mm.madvise(area.start, EXTENT, MADV_COLLAPSE)  # once more: nothing to do
    machine.check()


def test_what_anonymous_collapse_refuses(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    untouched, short, refused = (
        anon(mm, 1),
        mm.mmap(length=EXTENT - PAGE, shared=False, addr=1 << 40),
        anon(mm, 1),
    )
    for area, advice in ((untouched, None), (short, None), (refused, MADV_NOHUGEPAGE)):
        if area is not untouched:
            mm.store(area.start, 1)
        if advice is not None:
            mm.madvise(area, None, advice)
        with pytest.raises(OSError, match="MADV_COLLAPSE") as error:
            mm.madvise(pgtbl_extent(area), EXTENT, MADV_COLLAPSE)
        assert error.value.errno == 22
    machine.check()


def pgtbl_extent(area: pgtbl.Vma) -> int:
    return area.start & ~(EXTENT - 1)


@pytest.mark.parametrize("limit", ["none", "shared"])
def test_khugepaged_limits_of_anonymous_memory(limit: str) -> None:
    with pgtbl.Machine(memory="64MiB", thp="always", era="v6.18") as machine:
        mm = machine.mm()
        area = anon(mm, 1)
        mm.madvise(area, None, MADV_NOHUGEPAGE)  # or the first store gave a huge page
        fill(mm, area, 300)
        child = mm.fork() if limit == "shared" else None
        mm.madvise(area, None, MADV_HUGEPAGE)
        daemon = machine.khugepaged
        if limit == "none":
            daemon.max_ptes_none = 211
            assert daemon.scan() == 0
            daemon.max_ptes_none = 212
        else:
            daemon.max_ptes_shared = 299
            assert daemon.scan() == 0
            daemon.max_ptes_shared = 300
        assert daemon.scan() == 1
        assert mm.pagemap(area)["huge"].all()
        assert words(mm, area, 301) == [*range(1000, 1300), 0]
        machine.check()
        if child is not None:
            assert words(child, area, 300) == list(range(1000, 1300))


def test_private_file_pages_and_collapse(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    """G-13: what a private mapping has of its own, no collapse of the file replaces."""
    shm = machine.shmem(EXTENT)
    for i in range(PAGES):
        shm.write(i * PAGE, i.to_bytes(8, "little"))
    private, shared = mm.mmap(shm, shared=False), mm.mmap(shm)
    assert words(mm, private)[:3] == [0, 1, 2]
    mm.store(private.start + 7 * PAGE, 77)
    words(mm, shared)
    mm.madvise(shared, None, MADV_COLLAPSE)
    machine.check()
    assert mm.pagemap(shared)["huge"].all()
    assert words(mm, private) == [77 if i == 7 else i for i in range(PAGES)]
    mm.store(shared.start + 8 * PAGE, 88)
    assert mm.load(private.start + 8 * PAGE) == 88
    assert mm.load(private.start + 7 * PAGE) == 77


@pytest.mark.parametrize("era", ["v6.4", "v6.6", "v6.18"])
def test_nobody_sees_anothers_store(era: str) -> None:
    """Parents and children, several threads each, store and collapse; each program finds its own numbers alone."""
    rounds, threads = 12, 3
    with pgtbl.Machine(era=era, memory="128MiB") as machine:
        errors: list[str] = []

        def play(mm: pgtbl.Mm, area: pgtbl.Vma, mark: int, seed: int, lane: int) -> None:
            rng = random.Random(seed)
            mine = {}
            for _ in range(150):
                page = rng.randrange(lane, PAGES, threads)
                if rng.random() < 0.6:
                    mine[page] = mark * 1_000_000 + rng.randrange(1000)
                    mm.store(area.start + page * PAGE, mine[page])
                elif rng.random() < 0.05:
                    with contextlib.suppress(OSError):
                        mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
                else:
                    got = mm.load(area.start + page * PAGE)
                    want = mine.get(page, 1_000_000 + page)
                    if got != want:
                        errors.append(f"{era}, program {mark}, page {page}: {got}, not {want}")

        for r in range(rounds):
            parent = machine.mm()
            area = anon(parent, 1)
            for i in range(PAGES):
                parent.store(area.start + i * PAGE, 1_000_000 + i)
            if r % 2:
                parent.madvise(area, None, MADV_COLLAPSE)
            programs = [parent, parent.fork()]
            programs.append(programs[1].fork())
            team = [
                threading.Thread(target=play, args=(m, area, 10 + p, 100 * r + 10 * p + t, t))
                for p, m in enumerate(programs)
                for t in range(threads)
            ]
            for t in team:
                t.start()
            for t in team:
                t.join(60)
            assert not errors, errors[:3]
            machine.check()
            for m in programs:
                m.close()
        machine.check()


def test_smaps(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = anon(mm, 1)
    fill(mm, area, 10)
    child = mm.fork()
    child.store(area.start, 1)
    (row,) = (r for r in mm.smaps() if r["start"] == area.start)
    assert row["flags"] == "rd wr ac"
    assert row["kib"] == {
        "Rss": 40,
        "Pss": 4 + 9 * 2,
        "Shared_Dirty": 36,
        "Private_Dirty": 4,
        "Anonymous": 40,
    }
    child.close()
    mm.store(area.start, 1)
    mm.madvise(area, None, MADV_COLLAPSE)
    (row,) = (r for r in mm.smaps() if r["start"] == area.start)
    assert row["kib"] == dict.fromkeys(
        ("Rss", "Pss", "Private_Dirty", "Anonymous", "AnonHugePages"), 2048
    )


def test_faults_of_many_threads_on_fresh_memory(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    """Each page comes once, whoever is first; zero pages and anon_vma are made by all at the same time."""
    area = anon(mm, 2)
    addresses = np.arange(area.start, area.end, PAGE, dtype=np.uint64)

    def go(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(addresses)
        mm.touch(order[: len(order) // 2])
        mm.touch(order, write=True)

    team = [threading.Thread(target=go, args=(seed,)) for seed in range(4)]
    for t in team:
        t.start()
    for t in team:
        t.join(60)
    assert mm.rss["anon"] == 2 * PAGES
    machine.check()
