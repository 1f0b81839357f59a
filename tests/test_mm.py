"""Mm, File and Vma: the system calls and accesses of a simulated program, by hand."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import numpy as np
import pytest

import pgtbl

PAGE = pgtbl.PAGE_SIZE
EXTENT = pgtbl.PMD_SIZE


@pytest.fixture
def machine() -> Iterator[pgtbl.Machine]:
    with pgtbl.Machine(memory="128MiB") as made:
        yield made
        made.check()


@pytest.fixture
def mm(machine: pgtbl.Machine) -> pgtbl.Mm:
    return machine.mm()


def test_vma_describes_what_was_mapped(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    shm = machine.shmem("8MiB")
    area = mm.mmap(shm)
    assert area.end - area.start == len(area) == area.length == 8 << 20
    assert area.start % EXTENT == 0
    assert (area.prot, area.shared, area.file, area.offset) == ("rw", True, shm, 0)
    assert area.flags == pgtbl.VM_READ | pgtbl.VM_WRITE | pgtbl.VM_SHARED
    assert area.start in area
    assert area.end not in area
    assert mm.vmas() == [area]
    assert hash(mm.vmas()[0]) == hash(area)
    assert area.addresses().tolist() == list(range(area.start, area.end, PAGE))
    assert len(area.addresses("2MiB")) == 4
    rest = mm.mmap(shm, offset="6MiB", prot="r")
    assert (len(rest), rest.offset, rest.prot) == (2 << 20, 6 << 20, "r")


def test_bytes_reach_the_file_and_other_mappings(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    shm = machine.shmem("4MiB")
    area, other = mm.mmap(shm), machine.mm().mmap(shm)
    text = bytes(range(256)) * 40
    mm.write(area.start + 100, text)
    assert mm.read(area.start + 100, len(text)) == text
    assert shm.read(100, len(text)) == text
    assert other.file is shm
    shm.write(EXTENT, b"from outside")
    assert mm.read(area.start + EXTENT, 12) == b"from outside"
    assert mm.read(area.start + 3 * (1 << 20), 8) == bytes(8)
    assert mm.read(area.start, 0) == b""
    mm.write(area.start, memoryview(np.arange(4, dtype="<u8")))
    assert mm.load(area.start + 24) == 3
    mm.store(area.start + 24, 2**64 - 1)
    assert mm.load(area.start + 24) == 2**64 - 1


def test_touch_counts_faults(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="1MiB", shared=False)
    assert mm.touch(area.start) == 1
    assert mm.touch(area.start) == 0
    assert mm.touch(area.start, write=True) <= 1
    assert mm.touch(area.start, True) == 0
    assert mm.touch(addresses=area.start, write=False) == 0
    assert mm.touch(np.uint64(area.start)) == 0
    before = machine.ledger()
    faults = mm.touch(area.addresses(), write=True)
    assert faults == (machine.ledger() - before)["fault"] >= 255
    assert mm.touch(area.addresses(), write=True) == 0
    assert mm.touch(area.addresses().reshape(16, 16)) == 0
    assert mm.touch(area.addresses()[::-3].astype(np.int64)) == 0
    assert mm.touch([area.start, area.start + PAGE]) == 0
    assert mm.touch([]) == 0
    assert mm.rss["anon"] == 256


def test_collapse_counts_locks_and_flushes(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    n = 3
    area = mm.mmap(machine.shmem(n * EXTENT))
    mm.touch(area.addresses(), write=True)
    before = machine.ledger()
    mm.madvise(area.start, n * EXTENT, pgtbl.MADV_COLLAPSE)
    done = machine.ledger() - before
    assert done["mmap_lock.write"] == 0
    assert done["mmap_lock.read"] == 2 * n + 1
    assert done["tlb.flush"] == 513 * n
    assert done["collapse.succeeded"] == n
    rows = mm.pagemap(area)
    assert len(rows) == n * 512
    assert set(rows["huge"]) == set(rows["mapcount"]) == {1}
    assert [level.kind for level in mm.walk(area.start)] == ["table", "table", "huge"]


def test_pagemap_and_walk(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(machine.shmem("4MiB"))
    assert len(mm.pagemap(area)) == 0
    assert mm.walk(area.start)[-1].kind == "none"
    mm.store(area.start + 5 * PAGE, 1)
    rows = mm.pagemap(area)
    row = rows[rows["va"] == area.start + 5 * PAGE][0]
    assert (row["index"], row["write"], row["dirty"], row["order"], row["anon"]) == (5, 1, 1, 0, 0)
    assert (
        mm.pagemap((area.start, "2MiB")).tolist()
        == mm.pagemap(area.start, EXTENT).tolist()
        == rows.tolist()
    )
    levels = mm.walk(area.start + 5 * PAGE)
    assert [level.name for level in levels] == ["pgd", "pud", "pmd", "pte"]
    assert [level.kind for level in levels] == ["table"] * 3 + ["page"]
    assert levels[-1].pfn == row["pfn"]
    assert levels[0].pfn == levels[1].table
    assert "d" in levels[-1].flags
    assert "pte page" in repr(levels[-1])


def test_pages_of_a_file(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    shm = machine.shmem("6MiB")
    area = mm.mmap(shm)
    assert len(shm.pages()) == 0
    shm.write("4MiB", b"x")
    mm.touch(area.addresses()[:512], write=True)
    mm.madvise(area.start, EXTENT, pgtbl.MADV_COLLAPSE)
    rows = shm.pages()
    assert rows["index"].tolist() == [0, 1024]
    assert rows["order"].tolist() == [9, 0]
    shm.punch("4MiB", PAGE)
    assert shm.pages()["index"].tolist() == [0]
    assert shm.read("4MiB", 1) == b"\0"


def test_truncate_takes_pages_away(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    shm = machine.shmem("4MiB")
    area = mm.mmap(shm)
    mm.touch(area.addresses(), write=True)
    shm.truncate("2MiB")
    assert shm.size == 2 << 20
    mm.touch(area.start)
    with pytest.raises(pgtbl.BusError):
        mm.touch(area.start + EXTENT)
    with pytest.raises(ValueError, match="end of the file"):
        shm.read("2MiB", 1)
    shm.truncate("4MiB")
    assert mm.read(area.start + EXTENT, 8) == bytes(8)


def test_munmap_and_fixed(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="8MiB", shared=False)
    mm.touch(area.addresses(), write=True)
    mm.munmap(area.start + EXTENT, "2MiB")
    assert [(v.start, v.end) for v in mm.vmas()] == [
        (area.start, area.start + EXTENT),
        (area.start + 2 * EXTENT, area.end),
    ]
    with pytest.raises(pgtbl.SegmentationFault):
        mm.touch(area.start + EXTENT)
    back = mm.mmap(machine.shmem("2MiB"), addr=area.start + EXTENT, fixed=True)
    assert back.start == area.start + EXTENT
    over = mm.mmap(length="2MiB", addr=area.start, shared=False, fixed=True)
    assert over.start == area.start
    assert mm.load(area.start) == 0
    for vma in mm.vmas():
        mm.munmap(vma)
    assert mm.vmas() == []
    assert sum(mm.rss.values()) == 0
    machine.check()


def test_mprotect(mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="1MiB", shared=False)
    mm.store(area.start, 7)
    mm.mprotect(area.start, PAGE, "r")
    assert mm.load(area.start) == 7
    with pytest.raises(pgtbl.SegmentationFault):
        mm.store(area.start, 8)
    assert [v.prot for v in mm.vmas()] == ["r", "rw"]
    mm.mprotect(area.start, PAGE, "none")
    with pytest.raises(pgtbl.SegmentationFault):
        mm.load(area.start)
    mm.mprotect(area, None, "rw")
    mm.store(area.start, 8)
    assert len(mm.vmas()) == 1


def test_brk(mm: pgtbl.Mm) -> None:
    start = mm.brk()
    assert mm.brk(start + 10 * PAGE) == start + 10 * PAGE
    mm.store(start + 9 * PAGE, 1)
    assert mm.brk(start + PAGE) == start + PAGE
    with pytest.raises(pgtbl.SegmentationFault):
        mm.load(start + 9 * PAGE)
    assert mm.brk(1) == start + PAGE


def test_madvise_and_mincore(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="1MiB", shared=False)
    assert not mm.mincore(area).any()
    mm.madvise(area.start, 4 * PAGE, pgtbl.MADV_POPULATE_WRITE)
    resident = mm.mincore(area.start, "1MiB")
    assert resident.dtype == bool
    assert resident.tolist() == [True] * 4 + [False] * 252
    mm.madvise(area.start, "1MiB", pgtbl.MADV_DONTNEED)
    assert not mm.mincore(area).any()
    assert mm.rss["anon"] == 0


def test_shared_anonymous_memory_is_shmem(mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="2MiB")
    assert (area.shared, area.file) == (True, None)
    mm.touch(area.addresses(), write=True)
    assert mm.rss == {"file": 0, "anon": 0, "shmem": 512}
    mm.madvise(area.start, EXTENT, pgtbl.MADV_COLLAPSE)
    assert mm.walk(area.start)[-1].kind == "huge"


def test_a_closed_file_lives_on_in_its_mappings(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    shm = machine.shmem("2MiB")
    area = mm.mmap(shm)
    mm.write(area.start, b"still here")
    shm.close()
    assert mm.read(area.start, 10) == b"still here"
    assert mm.vmas()[0].file is None
    with pytest.raises(pgtbl.ClosedError):
        mm.mmap(shm)


def test_the_end_of_a_program(machine: pgtbl.Machine) -> None:
    shm = machine.shmem("4MiB")
    with machine.mm() as mm:
        mm.touch(mm.mmap(shm).addresses(), write=True)
        assert mm.pgtables_bytes > 0
    assert mm.closed
    with pytest.raises(pgtbl.ClosedError, match="program has ended"):
        mm.vmas()
    assert shm.pages()["mapcount"].sum() == 0
    assert len(shm.pages()) == 1024


def test_memory_runs_out_and_comes_back(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="256MiB", shared=False)
    with pytest.raises(pgtbl.OutOfMemory):
        mm.touch(area.addresses(), write=True)
    with pytest.raises(MemoryError):
        mm.touch(area.end - PAGE, write=True)
    machine.check()
    mm.munmap(area)
    small = mm.mmap(length="16MiB", shared=False)
    mm.touch(small.addresses(), write=True)


def test_mmap_lock_sections(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    lock = mm.mmap_lock
    before = machine.ledger()
    with lock.read():
        assert (lock.locked, lock.write_locked, lock.readers) == (True, False, 1)
    with lock.write():
        assert lock.write_locked
    with lock.try_write() as got:
        assert got
    done = machine.ledger() - before
    assert (done["mmap_lock.read"], done["mmap_lock.write"]) == (1, 2)
    assert not lock.locked


def test_own_mmap_lock_would_be_waited_for(mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="1MiB", shared=False)
    mm.store(area.start, 1)
    uffd, device = mm.userfaultfd(["SIGBUS"]), mm.secondary_mmu()
    with mm.mmap_lock.write():
        assert mm.load(area.start) == 1  # no fault, no lock
        with pytest.raises(pgtbl.DeadlockError, match=r"mmap_lock\.write"):
            mm.load(area.start + PAGE)
        for use in (
            lambda: mm.mmap(length=PAGE),
            lambda: mm.vmas(),
            lambda: mm.mmap_lock.try_read().__enter__(),
            lambda: mm.pin(area.start),
            lambda: mm.sweep(area.start, 4),
            lambda: mm.snapshot(area),
            lambda: mm.userfaultfd(),
            lambda: uffd.zeropage(area.start, PAGE),
            lambda: mm.secondary_mmu(),
            lambda: device.load(area.start),
        ):
            with pytest.raises(pgtbl.DeadlockError):
                use()


def test_errno_of_failed_collapses(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(machine.shmem("4MiB"))
    with pytest.raises(OSError, match=r".") as nothing:
        mm.madvise(area.start, EXTENT, pgtbl.MADV_COLLAPSE)
    assert nothing.value.errno in {errno.EINVAL, errno.ENOMEM, errno.EAGAIN}
    assert nothing.value.strerror
