"""Whole machines of every architecture: the same calls on other page tables, and what breaks when a guard is taken away."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from machines import together

import pgtbl
from pgtbl import torture
from pgtbl._checks import available_memory
from pgtbl._machine import arch_names, module_of

HERE = Path(__file__).parent
OTHERS = [name for name in arch_names() if name != "x86-64"]
WITH_THP = [name for name in OTHERS if name != "arm"]
# Of s390 both forms; of the others the series' own release.
CASES = [*((name, "v6.6") for name in OTHERS), ("s390", "v6.13")]


def small(arch: str) -> int:
    """Memory for a machine that does little."""
    return 32 * int(module_of(arch).PMD_SIZE)


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def machine(request: pytest.FixtureRequest) -> Iterator[pgtbl.Machine]:
    arch, era = request.param
    with pgtbl.Machine(arch=arch, era=era, memory=small(arch)) as made:
        yield made
        made.check()


def touch_all(mm: pgtbl.Mm, start: int, length: int, page: int) -> None:
    for at in range(start, start + length, page):
        mm.write(at, b"%x" % (at // page % 16))


def test_a_machine_is_what_its_architecture_is() -> None:
    rows = {}
    for row in pgtbl.architectures():
        rows.setdefault(row["name"], row)
    assert list(rows) == arch_names()
    for name, row in rows.items():
        with pgtbl.Machine(arch=name, memory=small(name)) as made:
            assert isinstance(made, pgtbl.Machine)
            assert (made.arch, made.page_size) == (name, row["page_size"])
            assert made.pmd_size == row["page_size"] * row["entries"]
            assert made.form == row["form"]
            assert (made.switches["anon_faults_under_vma_lock"] != 0) == row["vma_locks"]
            # A walk goes through as many levels as there are.
            mm = made.mm()
            area = mm.mmap(length=made.page_size, shared=False)
            mm.write(area.start, b"x")
            assert len(mm.walk(area.start)) == row["levels"]


def test_programs_share_fork_and_exit(machine: pgtbl.Machine) -> None:
    page, extent = machine.page_size, machine.pmd_size
    shm = machine.shmem(2 * extent)
    mm, other = machine.mm(), machine.mm()
    area, view = mm.mmap(shm), other.mmap(shm)
    mm.write(area.start + extent - 2, b"over")
    assert other.read(view.start + extent - 2, 4) == b"over"
    own = mm.mmap(length=2 * extent, shared=False)
    mm.write(own.start + extent - 2, b"mine")
    child = mm.fork()
    child.write(own.start + extent - 2, b"hers")
    assert mm.read(own.start + extent - 2, 4) == b"mine"
    machine.check()
    mm.munmap(own.start, own.end - own.start)
    shm.truncate(page)
    with pytest.raises(pgtbl.BusError):
        mm.read(area.start + extent, 1)
    assert mm.read(area.start, 1) == b"\0"
    machine.check()
    for program in (child, mm, other):
        program.close()
    machine.check()
    counts = machine.ledger()
    assert counts["table.pte.allocated"] == counts["table.pte.freed"] > 0
    assert counts["table.pte.pages_allocated"] == counts["table.pte.pages_freed"] > 0
    assert counts["table.pte.pending"] == 0


def test_a_part_of_a_table_moves_beside_another_under_one_lock(machine: pgtbl.Machine) -> None:
    # The tables of both may lie in one page, and share its lock.
    page, extent = machine.page_size, machine.pmd_size
    mm = machine.mm()
    area = mm.mmap(length=2 * extent, shared=False)
    touch_all(mm, area.start, 4 * page, page)
    to = mm.mmap(length=2 * extent, shared=False)
    want = mm.read(area.start, 4 * page)
    moved = mm.mremap(
        area.start, 4 * page, 4 * page, maymove=True, fixed=True, to=to.start + extent
    )
    assert mm.read(moved, 4 * page) == want


@pytest.mark.parametrize("arch", WITH_THP)
@pytest.mark.parametrize("era", ["v6.4", "v6.6", "v6.18"])
def test_collapse_retract_and_split(arch: str, era: str) -> None:
    with pgtbl.Machine(arch=arch, era=era, memory=small(arch)) as machine:
        page, extent = machine.page_size, machine.pmd_size
        shm = machine.shmem(2 * extent)
        mm, other = machine.mm(), machine.mm()
        area, view = mm.mmap(shm), other.mmap(shm)
        assert area.start % extent == view.start % extent == 0
        touch_all(mm, area.start, 2 * extent, page)
        for at in range(view.start, view.end, page):
            other.read(at, 1)
        want = mm.read(area.start, extent)
        before = machine.ledger()
        mm.madvise(area.start, extent, pgtbl.MADV_COLLAPSE)
        gone = machine.ledger() - before
        assert gone["table.pte.detached"] >= 1
        # Before 6.6 a table goes at once; from then on after a grace period.
        assert (gone["table.pte.deferred"] > 0) == (era != "v6.4")
        assert len(mm.walk(area.start)) < len(mm.walk(area.start + extent))
        assert mm.read(area.start, extent) == want
        assert other.read(view.start, extent) == want
        machine.check()
        shm.punch(page, page)  # the huge page is split, its PMDs go
        assert mm.read(area.start + page, 1) == b"\0"
        assert mm.read(area.start, 1) == want[:1]
        machine.check()
        own = mm.mmap(length=3 * extent, shared=False)
        first = -(-own.start // extent) * extent
        touch_all(mm, first, extent, page)
        want = mm.read(first, extent)
        mm.madvise(first, extent, pgtbl.MADV_COLLAPSE)
        machine.check()  # a table is deposited behind it
        mm.munmap(first + page, page)  # and taken to split it
        assert mm.read(first, page) == want[:page]
        machine.check()
        mm.close()
        machine.check()


def test_pages_are_pinned_while_tables_go() -> None:
    for arch in ("powerpc", "s390"):
        with pgtbl.Machine(arch=arch, memory=small(arch)) as machine:
            shm = machine.shmem(machine.pmd_size)
            mm = machine.mm()
            area = mm.mmap(shm)
            touch_all(mm, area.start, machine.pmd_size, machine.page_size)
            with mm.pin(area.start), pytest.raises(OSError, match="MADV_COLLAPSE"):
                mm.madvise(area.start, machine.pmd_size, pgtbl.MADV_COLLAPSE)
            mm.madvise(area.start, machine.pmd_size, pgtbl.MADV_COLLAPSE)
            machine.check()


# ---- tables in parts ---------------------------------------------------------------------------------


def two_in_a_page(machine: pgtbl.Machine) -> tuple[pgtbl.Mm, pgtbl.Vma]:
    """A program with two extents of a file mapped by tables that lie in one page."""
    extent, page = machine.pmd_size, machine.page_size
    shm = machine.shmem(2 * extent)
    mm = machine.mm()
    area = mm.mmap(shm)
    touch_all(mm, area.start, 2 * extent, page)
    tables = [mm.walk(at)[-1].table for at in (area.start, area.start + extent)]
    assert tables[0] == tables[1], "the tables lie in different pages"
    return mm, area


def test_a_page_waits_for_its_last_table() -> None:
    for arch in ("powerpc", "s390"):
        with pgtbl.Machine(arch=arch, memory=small(arch)) as machine:
            mm, area = two_in_a_page(machine)
            for i in range(2):
                before = machine.ledger()
                mm.madvise(area.start + i * machine.pmd_size, machine.pmd_size, pgtbl.MADV_COLLAPSE)
                assert (machine.ledger() - before)["table.pte.deferred"] == 1
                machine.check()
            gone = machine.ledger()
            if arch == "s390":  # both halves are gone: so is the page
                assert gone["table.pte.pages_freed"] == 1
                assert gone["table.pte.pending"] == 0
            else:  # fourteen fragments were never handed out: what was deferred waits with them
                assert gone["table.pte.pages_freed"] == 0
                assert gone["table.pte.pending"] == 2
            mm.close()
            machine.check()
            assert machine.ledger()["table.pte.pending"] == 0


def test_s390_has_one_table_a_page_later() -> None:
    with pgtbl.Machine(arch="s390", era="v6.13", memory=small("s390")) as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem(2 * machine.pmd_size))
        for at in (area.start, area.start + machine.pmd_size):
            mm.write(at, b"x")
        counts = machine.ledger()
        assert counts["table.pte.pages_allocated"] == counts["table.pte.allocated"] == 2


# ---- s390: tables with room for a guest's status -----------------------------------------------------


def pgste_program(machine: pgtbl.Machine, extents: int = 2) -> tuple[pgtbl.Mm, pgtbl.Vma]:
    mm = machine.mm(pgste=True)
    area = mm.mmap(machine.shmem(extents * machine.pmd_size))
    touch_all(mm, area.start, extents * machine.pmd_size, machine.page_size)
    return mm, area


@pytest.mark.parametrize("era", ["v6.4", "v6.6"])
def test_a_table_with_a_guests_status_has_a_page(era: str) -> None:
    with pgtbl.Machine(arch="s390", era=era, memory="32MiB") as machine:
        extent, page = machine.pmd_size, machine.page_size
        mm, area = pgste_program(machine)
        plain = machine.mm()
        view = plain.mmap(machine.shmem(2 * extent))
        touch_all(plain, view.start, 2 * extent, page)
        assert (mm.pgste, plain.pgste) == (True, False)
        counts = machine.ledger()
        assert counts["table.pte.allocated"] == 4
        assert (
            counts["table.pte.pages_allocated"] == 3
        )  # two halves of the plain program are one page
        child, sister = mm.fork(), plain.fork()
        assert (child.pgste, sister.pgste) == (True, False)  # inherited
        child.read(area.start, 2 * extent)
        machine.check()
        want = mm.read(area.start, extent)
        before = machine.ledger()
        mm.madvise(area.start, extent, pgtbl.MADV_COLLAPSE)  # the child's table is retracted
        gone = machine.ledger() - before
        assert gone["table.pte.detached"] == (1 if era == "v6.4" else 2)
        machine.check()
        assert child.read(area.start, extent) == mm.read(area.start, extent) == want
        child.munmap(area.start + extent, extent)
        plain.munmap(view.start, extent)
        machine.check()
        own = mm.mmap(length=2 * extent, shared=False)
        start = -(-own.start // extent) * extent
        touch_all(mm, start, extent, page)
        mm.madvise(start, extent, pgtbl.MADV_COLLAPSE)
        mm.munmap(start + page, page)  # split, by the table deposited
        machine.check()
        for program in (mm, child, plain, sister):
            program.close()
        machine.check()
        counts = machine.ledger()
        assert counts["table.pte.pages_freed"] == counts["table.pte.pages_allocated"]


def test_where_there_is_no_room_for_a_guests_status() -> None:
    for arch, era in (("s390", "v6.13"), ("powerpc", "v6.6"), ("x86-64", "v6.6")):
        with (
            pgtbl.Machine(arch=arch, era=era, memory=small(arch)) as machine,
            pytest.raises(ValueError, match=f"{arch} with '.*' has no PGSTE tables; s390 has"),
        ):
            machine.mm(pgste=True)


def unmap_pgste(machine: pgtbl.Machine) -> None:
    mm, area = pgste_program(machine)
    mm.munmap(area.start, area.end - area.start)


# ---- the levels above -------------------------------------------------------------------------------


def test_s390s_upper_tables_are_four_frames() -> None:
    with pgtbl.Machine(arch="s390", memory="32MiB", alloc="quarantine") as machine:
        mm = machine.mm()
        area = mm.mmap(length=machine.page_size, shared=False)
        mm.write(area.start, b"x")
        root, above, segments, _ = (step.table for step in mm.walk(area.start))
        assert root % 4 == above % 4 == segments % 4 == 0
        assert machine.ledger()["table.frames"] == 3 * 4 + 1
        assert mm.pgtables_bytes == 2 * 2048 * 8 + 256 * 8  # the root is not counted
        # A segment table reaches over 2 GiB.
        mm.mmap(length=machine.page_size, addr=(2 << 30) - (1 << 20), fixed=True, shared=False)
        mm.mmap(length=machine.page_size, addr=2 << 30, fixed=True, shared=False)
        tables = []
        for at in ((2 << 30) - (1 << 20), 2 << 30):
            mm.write(at, b"x")
            tables.append([step.table for step in mm.walk(at)])
        assert tables[0][1] == tables[1][1]
        assert tables[0][2] != tables[1][2]
        machine.check()
        mm.close()
        machine.check()
        assert machine.ledger()["table.frames"] == 0 < machine.ledger()["table.frames_max"]


def programs_without_end(machine: pgtbl.Machine, made: list[pgtbl.Mm]) -> None:
    while True:
        made.append(machine.mm())


def test_frames_in_a_row_run_out_and_come_back() -> None:
    with pgtbl.Machine(arch="s390", memory="16MiB") as machine:
        programs: list[pgtbl.Mm] = []
        with pytest.raises(pgtbl.OutOfMemory):
            programs_without_end(machine, programs)
        assert len(programs) > 800  # of 1,024 rows in all
        machine.check()
        for mm in programs:
            mm.close()
        collapse_any(machine)  # the rows have become an extent again
        machine.check()


def test_arms_programs_have_three_gigabytes() -> None:
    with pgtbl.Machine(arch="arm", memory="64MiB") as machine:
        mm = machine.mm()
        assert machine.ledger()["table.frames"] == 4  # 2,048 pairs
        top = (3 << 30) - machine.pmd_size
        mm.mmap(length=machine.page_size, addr=top, fixed=True, shared=False)
        mm.write(top, b"x")
        assert mm.read(top, 1) == b"x"
        machine.check()


PMD_REACH = 1 << 34  # of a PMD table of powerpc


def touch_reaches(mm: pgtbl.Mm, first: int, count: int, page: int) -> list[int]:
    """Maps a page in each reach of a PMD table; the frames in which those tables lie."""
    frames = []
    for i in range(first, first + count):
        mm.mmap(length=page, addr=i * PMD_REACH, fixed=True, shared=False)
        mm.write(i * PMD_REACH, b"x")
        frames.append(mm.walk(i * PMD_REACH)[-2].table)
    return frames


def test_powerpcs_pmd_tables_are_fragments() -> None:
    with pgtbl.Machine(arch="powerpc", memory=small("powerpc")) as machine:
        page = machine.page_size
        mm, other = machine.mm(), machine.mm()
        frames = touch_reaches(mm, 1, 5, page)
        assert len(set(frames[:4])) == 1
        assert frames[4] != frames[0]
        assert touch_reaches(other, 1, 1, page)[0] not in frames  # no two programs share one
        assert mm.pgtables_bytes == 8192 + 5 * (8192 + 2048)
        machine.check()
        before = machine.ledger()
        mm.munmap(PMD_REACH, 2 * PMD_REACH)  # two of four: the page stays
        machine.rcu.barrier()
        gone = machine.ledger() - before
        assert gone["table.upper.freed"] == 2
        touch_reaches(mm, 1, 1, page)  # no fragment is handed out twice
        machine.check()
        mm.munmap(PMD_REACH, 8 * PMD_REACH)
        machine.check()
        mm.close()
        other.close()
        machine.check()
        counts = machine.ledger()
        assert counts["table.upper.allocated"] == counts["table.upper.freed"]
        assert counts["table.frames"] == 0


def one_table_of_each_level_and_exit(machine: pgtbl.Machine) -> None:
    mm = machine.mm()
    touch_reaches(mm, 1, 2, machine.page_size)
    mm.close()


# ---- powerpc: what stands behind a huge PMD ----------------------------------------------------------


def huge_and_touched(machine: pgtbl.Machine) -> tuple[pgtbl.Mm, int]:
    """An anonymous extent that is huge, whose every page went through a hash fault."""
    extent, page = machine.pmd_size, machine.page_size
    mm = machine.mm()
    own = mm.mmap(length=3 * extent, shared=False)
    start = -(-own.start // extent) * extent
    touch_all(mm, start, extent, page)
    mm.madvise(start, extent, pgtbl.MADV_COLLAPSE)
    touch_all(mm, start, extent, page)
    return mm, start


def split_what_was_touched(machine: pgtbl.Machine) -> pgtbl.Mm:
    mm, start = huge_and_touched(machine)
    mm.munmap(start + machine.page_size, machine.page_size)
    return mm


def collapse_anonymous(machine: pgtbl.Machine) -> pgtbl.Mm:
    return huge_and_touched(machine)[0]


def hash_faults_beside_zaps(machine: pgtbl.Machine, seconds: float = 20, seed: int = 1) -> pgtbl.Mm:
    """Two threads touch a huge page and a third takes it away, until one is told of something or the time is over."""
    extent = machine.pmd_size
    mm = machine.mm()
    own = mm.mmap(length=3 * extent, shared=False)
    start = -(-own.start // extent) * extent
    mm.madvise(start, extent, pgtbl.MADV_HUGEPAGE)
    addresses = list(range(start, start + extent, machine.page_size))
    Random(seed).shuffle(addresses)
    complaints = together(
        *[lambda: mm.touch(addresses, True)] * 2,
        lambda: mm.madvise(start, extent, pgtbl.MADV_DONTNEED),
        seconds=seconds,
    )
    if complaints:
        raise pgtbl.InvariantError(complaints[0])
    return mm


def test_a_huge_page_leaves_once_no_hash_fault_sees_it(seed: int) -> None:
    with pgtbl.Machine(arch="powerpc", memory=small("powerpc")) as machine:
        mm = hash_faults_beside_zaps(machine, seconds=0.3, seed=seed)
        assert machine.ledger()["fault.anon.huge"] > 0
        machine.check()
        mm.close()


def test_hash_slots_leave_with_the_huge_page() -> None:
    with pgtbl.Machine(arch="powerpc", memory=small("powerpc")) as machine:
        extent = machine.pmd_size
        mm = split_what_was_touched(machine)
        machine.check()
        mm.close()
        mm, start = huge_and_touched(machine)
        child = mm.fork()
        child.read(start, extent)  # slots of its own
        to = mm.mmap(length=3 * extent, shared=False)
        there = -(-to.start // extent) * extent
        mm.mremap(start, extent, extent, maymove=True, fixed=True, to=there)
        mm.read(there, extent)
        machine.check()
        child.munmap(start, extent)
        mm.munmap(there, extent)
        machine.check()


# ---- what is not there -------------------------------------------------------------------------------


def test_arm_has_no_huge_pages_and_says_so() -> None:
    with pgtbl.Machine(arch="arm", memory="64MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem(machine.pmd_size))
        touch_all(mm, area.start, machine.pmd_size, machine.page_size)
        for call in (
            lambda: mm.madvise(area.start, machine.pmd_size, pgtbl.MADV_COLLAPSE),
            machine.khugepaged.scan,
        ):
            with pytest.raises(pgtbl.Unsupported, match="arm has no huge pages"):
                call()
        with pytest.raises(pgtbl.SegmentationFault):
            mm.read(3 << 30, 1)  # the kernel's gigabyte


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "s309"}, "unknown arch 's309'.*did you mean 's390'.*'x86-64', 'x86-pae', 'arm'"),
        ({"arch": "s390", "era": "v7"}, "unknown era 'v7'"),
        (
            {"arch": "s390", "era": "v6.13", "form": "two halves a page"},
            "two halves a page' in v6.13: s390 has 'two halves a page' in v6.4 v6.5 v6.6, 'one table a page' in v6.13",
        ),
        ({"arch": "arm", "form": "fragments"}, "arm has 'virtually tagged caches'"),
        ({"arch": "powerpc", "memory": "72MiB"}, "a multiple of 16MiB"),
        (
            {"arch": "s390", "era": "v6.14", "switches": {"reclaim_tables": 1}},
            "s390, form 'one table a page', has 0 in every era",
        ),
        (
            {"arch": "sparc64", "switches": {"anon_faults_under_vma_lock": 1}},
            "sparc64, form '.*', has 0",
        ),
        ({"arch": "powerpc", "switches": {"adjust_pte": 2}}, "adjust_pte=2: the caches of powerpc"),
        ({"switches": {"adjust_pte": 0}, "memory": "8MiB"}, "adjust_pte=0: the caches of x86-64"),
    ],
)
def test_what_cannot_be_names_what_is(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pgtbl.Machine(**arguments)
    with pytest.raises(TypeError, match="arch=5"):
        pgtbl.Machine(arch=5)  # type: ignore[arg-type]


# ---- what breaks without a guard ----------------------------------------------------------------------


@contextlib.contextmanager
def reader_inside(machine: pgtbl.Machine) -> Iterator[None]:
    """A thread in a read section: no grace period ends."""
    inside, leave = threading.Event(), threading.Event()

    def read() -> None:
        with machine.rcu.read():
            inside.set()
            leave.wait(20)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert inside.wait(20)
        yield
    finally:
        leave.set()
        reader.join()


def collapse_two(machine: pgtbl.Machine) -> pgtbl.Mm:
    mm, area = two_in_a_page(machine)
    with reader_inside(machine):  # the first still waits as the second comes
        for i in range(2):
            mm.madvise(area.start + i * machine.pmd_size, machine.pmd_size, pgtbl.MADV_COLLAPSE)
    return mm  # a program ends with its last reference


def collapse_one(machine: pgtbl.Machine) -> pgtbl.Mm:
    mm, area = two_in_a_page(machine)
    mm.madvise(area.start, machine.pmd_size, pgtbl.MADV_COLLAPSE)
    return mm


def one_table_and_exit(machine: pgtbl.Machine) -> None:
    mm = machine.mm()
    mm.write(mm.mmap(length=machine.page_size, shared=False).start, b"x")
    mm.close()


def zap_and_map_beside_a_reader(machine: pgtbl.Machine) -> None:
    extent = machine.pmd_size
    mm = machine.mm()
    area = mm.mmap(machine.shmem(4 * extent))
    mm.write(area.start, b"x")
    mm.write(area.start + extent, b"x")  # the second half
    with reader_inside(machine):
        mm.munmap(area.start, extent)  # its half is pending for as long as the reader is there
        mm.write(area.start + 2 * extent, b"x")


def collapse_any(machine: pgtbl.Machine) -> pgtbl.Mm:
    mm = machine.mm()
    area = mm.mmap(machine.shmem(machine.pmd_size))
    touch_all(mm, area.start, machine.pmd_size, machine.page_size)
    mm.madvise(area.start, machine.pmd_size, pgtbl.MADV_COLLAPSE)
    return mm


def two_mappings(machine: pgtbl.Machine) -> pgtbl.Mm:
    shm = machine.shmem(machine.pmd_size)
    mm = machine.mm()
    for _ in range(2):
        mm.write(mm.mmap(shm).start, b"x")
    return mm


def collapse_a_whole_page_beside_a_reader(machine: pgtbl.Machine) -> pgtbl.Mm:
    """Every fragment of a page is freed by deferral, while no grace period ends."""
    extent, fragments = machine.pmd_size, 16
    mm = machine.mm()
    area = mm.mmap(machine.shmem(fragments * extent))
    starts = range(area.start, area.end, extent)
    for start in starts:
        mm.write(start, b"x")
    assert len({mm.walk(start)[-1].table for start in starts}) == 1
    with reader_inside(machine):
        for start in starts:
            mm.madvise(start, extent, pgtbl.MADV_COLLAPSE)
    return mm


def free_one_half_at_once_beside_a_reader(machine: pgtbl.Machine) -> pgtbl.Mm:
    """One half of a page is freed by deferral, the other, its last, at once."""
    mm, area = two_in_a_page(machine)
    extent = machine.pmd_size
    with reader_inside(machine):
        mm.madvise(area.start, extent, pgtbl.MADV_COLLAPSE)
        with torture.without("free_deferred", arch=machine.arch):
            mm.madvise(area.start + extent, extent, pgtbl.MADV_COLLAPSE)
    return mm


def map_after_a_deferral_beside_a_reader(machine: pgtbl.Machine) -> pgtbl.Mm:
    """A half waits for its grace period, and the next table is wanted."""
    extent = machine.pmd_size
    mm = machine.mm()
    area = mm.mmap(machine.shmem(4 * extent))
    mm.write(area.start, b"x")
    mm.write(area.start + extent, b"x")  # the second half
    with reader_inside(machine):
        mm.madvise(area.start, extent, pgtbl.MADV_COLLAPSE)
        mm.write(area.start + 2 * extent, b"x")
    return mm


BROKEN = [
    ("s390", "s390_active_first", map_after_a_deferral_beside_a_reader, "A-18"),
    ("powerpc", "ppc_one_head", collapse_two, "A-10"),
    ("powerpc", "ppc_destroy_drops", one_table_and_exit, "A-11"),
    ("powerpc", "ppc_free_sees_active", collapse_a_whole_page_beside_a_reader, "A-13"),
    ("powerpc", "ppc_serialize", hash_faults_beside_zaps, "B50"),
    ("powerpc", "deposit_table", collapse_one, "G-28"),
    ("powerpc", "ppc_destroy_drops", one_table_of_each_level_and_exit, "PMD tables live"),
    ("powerpc", "ppc_slots_cleared", split_what_was_touched, "B50"),
    ("powerpc", "assert_none_exempt", collapse_anonymous, "B41"),
    ("s390", "s390_pgste_whole", unmap_pgste, "A-19"),
    ("s390", "s390_one_head", collapse_two, "A-17"),
    ("s390", "s390_active_first", collapse_one, "A-16"),
    ("s390", "s390_active_unlisted", collapse_one, "A-16"),
    ("s390", "s390_unlist", one_table_and_exit, "A-19"),
    ("s390", "s390_pending_busy", zap_and_map_beside_a_reader, "A-15"),
    ("sparc64", "sparc_handle_is_entries", collapse_any, "G-11"),
    ("arm", "arm_adjust_own", two_mappings, "A-9"),
    ("arm", "arm_split_only", two_mappings, "A-7"),
]
TEXT = """
import sys
sys.path.insert(0, {folder!r})
import test_arch_machines as t
from pgtbl import InvariantError, Machine, torture
arch, guard, play = {arch!r}, {guard!r}, t.{play}
machine = Machine(arch=arch, memory=t.small(arch))
try:
    with torture.without(guard, arch=arch):
        kept = play(machine)
        machine.check()
except InvariantError as error:
    print(error, flush=True)
import os
os._exit(0)
"""


@pytest.mark.parametrize(
    ("arch", "guard", "play", "found"), BROKEN, ids=[f"{b[1]}-{b[3]}" for b in BROKEN]
)
def test_check_finds_what_a_guard_prevents(arch: str, guard: str, play: Any, found: str) -> None:
    """In a process of its own: what is broken is broken."""
    code = TEXT.format(folder=str(HERE), arch=arch, guard=guard, play=play.__name__)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert found in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("play", [collapse_two, one_table_and_exit, zap_and_map_beside_a_reader])
@pytest.mark.parametrize("arch", ["powerpc", "s390"])
def test_with_every_guard_there_is_nothing_to_find(arch: str, play: Any) -> None:
    with pgtbl.Machine(arch=arch, memory=small(arch)) as machine:
        kept = play(machine)
        machine.check()
        del kept


@pytest.mark.parametrize(
    ("arch", "play"),
    [
        ("powerpc", collapse_a_whole_page_beside_a_reader),
        ("s390", free_one_half_at_once_beside_a_reader),  # which alone would let the page go
    ],
)
def test_a_page_with_a_deferred_table_waits_for_the_grace_period(arch: str, play: Any) -> None:
    with pgtbl.Machine(arch=arch, memory=small(arch)) as machine:
        kept = play(machine)
        machine.check()
        del kept


# ---- many threads -------------------------------------------------------------------------------------


@pytest.mark.sanitize
@pytest.mark.parametrize(("arch", "era"), CASES, ids=["-".join(c) for c in CASES])
def test_stress(arch: str, era: str, seed: int, sanitizer: str) -> None:
    if sanitizer and arch != "s390":
        pytest.skip("a build under a sanitizer has s390 alone")
    run = module_of(arch).stress(era=era, seed=seed, seconds=0.3)
    assert run["clean"], run


def test_halves_are_read_beside_those_who_write_them(seed: int) -> None:
    run = module_of("x86-pae").stress(seed=seed, seconds=0.3, jitter=6)
    assert run["clean"], run


# ---- race and replay ----------------------------------------------------------------------------------


def test_race_side_by_side() -> None:
    result = pgtbl.race(
        ["v6.6"], arch=["s390", "x86-64"], workload="aliases", seconds=0.4, rounds=1, mms=1
    )
    assert list(result.eras) == ["s390 v6.6", "x86-64 v6.6"]
    assert result.between is None
    printed = str(result)
    assert "pages/table" in printed
    assert "MiB on s390" in printed
    # A table for each architecture: no cell is cut short.
    assert printed.count("Throughput") == 2
    assert "…" not in printed
    for name, told in json.loads(result.to_json())["eras"].items():
        assert f"{told['arch']} v6.6" == name
        row = told["tables"]
        # What there is at once, not all that ever was; with the tables above it is more than the programs' PTE tables.
        assert row["memory"] % 4096 == 0 < row["memory"]
        assert told["ledger"]["table.frames_max"] * 4096 == row["memory"]
        assert row["tables_per_page"] == (2 if told["arch"] == "s390" else 1)
        if told["arch"] == "x86-64" and row["allocated"]:
            assert row["pages_per_table"] == 1


@pytest.mark.parametrize("arch", ["arm", "x86-pae", "powerpc", "sparc64"])
def test_race_on(arch: str) -> None:
    result = pgtbl.race(["v6.6"], arch=arch, workload="aliases", seconds=0.2, rounds=1, mms=0)
    assert result.eras["v6.6"].faults > 0


@pytest.mark.parametrize("arch", [*WITH_THP, "arm"])
def test_replay_on(arch: str) -> None:
    result = pgtbl.replay(eras=["v6.6"], arch=arch, rounds=1, collapsers=0 if arch == "arm" else 1)
    assert result.as_recorded, result.eras["v6.6"].wrong
    assert result.eras["v6.6"].steps > 0


def test_bad_input_of_race_and_replay() -> None:
    with pytest.raises(ValueError, match="unknown arch 'mips'"):
        pgtbl.race(arch="mips")
    with pytest.raises(ValueError, match="each at most once"):
        pgtbl.race(arch=["arm", "arm"])
    with pytest.raises(ValueError, match="attribute and arch"):
        pgtbl.race(arch="s390", attribute=True)
    eighth = available_memory() // 8
    with pytest.raises(ValueError, match="on powerpc, whose pages are larger"):
        pgtbl.race(arch="powerpc", memory=eighth)
    with pytest.raises(ValueError, match="arm has no huge pages; 0 is allowed"):
        pgtbl.replay(arch="arm")
    with pytest.raises(ValueError, match="max_ptes_none=300: allowed are 0 to 255"):
        pgtbl.replay(arch="s390", max_ptes_none=300)
