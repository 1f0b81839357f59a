"""mremap: growing, shrinking and moving, what moves whole, and what is refused."""

from __future__ import annotations

import contextlib
import errno
import random

import pytest
from machines import machine_of

import pgtbl
from pgtbl import MADV_COLLAPSE

PAGE = pgtbl.PAGE_SIZE
EXTENT = pgtbl.PMD_SIZE
PAGES = EXTENT // PAGE
ERAS = ["v6.4", "v6.6", "v6.13", "v6.18"]
FAR = 1 << 40


machine = machine_of(ERAS)


def fill(mm: pgtbl.Mm, start: int, pages: int) -> None:
    for i in range(pages):
        mm.store(start + i * PAGE, 1000 + i)


def words(mm: pgtbl.Mm, start: int, pages: int) -> list[int]:
    return [mm.load(start + i * PAGE) for i in range(pages)]


def refused(code: int, mm: pgtbl.Mm, *args: object, **named: object) -> None:
    with pytest.raises(OSError, match="mremap") as error:
        mm.mremap(*args, **named)  # type: ignore[arg-type]
    assert error.value.errno == code


def test_grows_and_shrinks_in_place(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=4 * PAGE, shared=False, addr=FAR)
    fill(mm, area.start, 4)
    assert mm.mremap(area.start, 4 * PAGE, 8 * PAGE) == area.start
    assert words(mm, area.start, 8) == [1000, 1001, 1002, 1003, 0, 0, 0, 0]
    before = machine.ledger()
    assert mm.mremap(area.start, 8 * PAGE, 2 * PAGE) == area.start
    after = machine.ledger()
    # A write section that becomes one for reading counts as one of each.
    assert after["mmap_lock.write"] - before["mmap_lock.write"] == 1
    assert after["mmap_lock.read"] - before["mmap_lock.read"] == 1
    assert [(v.start, v.length) for v in mm.vmas()] == [(area.start, 2 * PAGE)]
    with pytest.raises(pgtbl.SegmentationFault):
        mm.load(area.start + 2 * PAGE)


def test_no_room_behind(mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=2 * PAGE, shared=False, addr=FAR)
    mm.mmap(length=PAGE, shared=False, addr=FAR + 2 * PAGE, prot="r")
    mm.store(area.start, 5)
    refused(errno.ENOMEM, mm, area.start, 2 * PAGE, 3 * PAGE)
    moved = mm.mremap(area.start, 2 * PAGE, 3 * PAGE, maymove=True)
    assert moved != area.start
    assert words(mm, moved, 3) == [5, 0, 0]
    with pytest.raises(pgtbl.SegmentationFault):
        mm.load(area.start)


@pytest.mark.parametrize("kind", ["anon", "huge", "file", "private"])
@pytest.mark.parametrize("shift", [0, 1])
def test_moves_everything(machine: pgtbl.Machine, mm: pgtbl.Mm, kind: str, shift: int) -> None:
    shm = machine.shmem(2 * EXTENT)
    if kind in ("anon", "huge"):
        area = mm.mmap(length=2 * EXTENT, shared=False, addr=FAR)
    else:
        area = mm.mmap(shm, shared=kind == "file", addr=FAR)
    fill(mm, area.start, 2 * PAGES)
    if kind == "huge":
        mm.madvise(area, None, MADV_COLLAPSE)
    before = machine.ledger()
    to = 2 * FAR + shift * PAGE
    assert mm.mremap(area.start, 2 * EXTENT, 2 * EXTENT, True, True, to=to) == to
    moved = {
        n: machine.ledger()[n] - before[n] for n in ("mremap.table", "mremap.pte", "pmd.split")
    }
    if shift:
        assert moved == {
            "mremap.table": 0,
            "mremap.pte": 2 * PAGES,
            "pmd.split": 2 if kind == "huge" else 0,
        }
    else:
        assert moved == {
            "mremap.table": 0 if kind == "huge" else 2,
            "mremap.pte": 0,
            "pmd.split": 0,
        }
    machine.check()
    assert mm.pagemap((area.start, 2 * EXTENT)).size == 0
    assert words(mm, to, 2 * PAGES) == [1000 + i for i in range(2 * PAGES)]
    (vma,) = mm.vmas()
    assert (vma.start, vma.length, vma.offset) == (to, 2 * EXTENT, 0)


def test_old_addresses_are_flushed(mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=PAGE, shared=False, addr=FAR)
    mm.store(area.start, 1)
    mm.mremap(area.start, PAGE, PAGE, True, True, to=2 * FAR)
    with pytest.raises(pgtbl.SegmentationFault):
        mm.store(area.start, 2)
    assert mm.load(2 * FAR) == 1


def test_dontunmap_leaves_an_empty_mapping(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=4 * PAGE, shared=False, addr=FAR)
    fill(mm, area.start, 4)
    moved = mm.mremap(area.start, 4 * PAGE, 4 * PAGE, maymove=True, dontunmap=True)
    assert words(mm, moved, 4) == [1000, 1001, 1002, 1003]
    assert words(mm, area.start, 4) == [0] * 4
    mm.store(area.start, 9)
    machine.check()
    refused(errno.EINVAL, mm, area.start, 4 * PAGE, 8 * PAGE, maymove=True, dontunmap=True)


def test_a_second_mapping_of_shared_memory(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(machine.shmem(EXTENT), addr=FAR)
    fill(mm, area.start, 3)
    second = mm.mremap(area.start, 0, EXTENT, maymove=True)
    assert words(mm, second, 3) == [1000, 1001, 1002]
    mm.store(second, 4)
    assert mm.load(area.start) == 4
    private = mm.mmap(length=PAGE, shared=False)
    refused(errno.EINVAL, mm, private.start, 0, PAGE, maymove=True)


def test_locked_memory_grows_locked(mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=2 * PAGE, shared=False, addr=FAR, locked=True)
    assert len(mm.pagemap(area)) == 2
    mm.mremap(area.start, 2 * PAGE, 5 * PAGE)
    assert len(mm.pagemap((area.start, 5 * PAGE))) == 5


def test_errors(machine: pgtbl.Machine, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length=8 * PAGE, shared=False, addr=FAR)
    for args in (
        (FAR + 1, PAGE, PAGE),
        (FAR, PAGE, 0),
        (FAR, PAGE, 1 << 60),
    ):
        refused(errno.EINVAL, mm, *args)
    refused(errno.EINVAL, mm, FAR, PAGE, PAGE, fixed=True, to=2 * FAR)
    refused(errno.EINVAL, mm, FAR, PAGE, PAGE, True, True, to=2 * FAR + 1)
    refused(errno.EINVAL, mm, FAR, 4 * PAGE, 4 * PAGE, True, True, to=FAR + 2 * PAGE)
    refused(errno.EFAULT, mm, 3 * FAR, PAGE, 2 * PAGE)
    mm.mprotect(FAR + 4 * PAGE, PAGE, "r")
    refused(errno.EFAULT, mm, FAR, 8 * PAGE, 9 * PAGE, maymove=True)
    if machine.switches["mremap_many"]:
        fill(mm, FAR, 4)
        assert mm.mremap(FAR, 8 * PAGE, 8 * PAGE, True, True, to=2 * FAR) == 2 * FAR
        assert words(mm, 2 * FAR, 4) == [1000, 1001, 1002, 1003]
        assert [v.prot for v in mm.vmas()] == ["rw", "r", "rw"]
    else:
        refused(errno.EFAULT, mm, FAR, 8 * PAGE, 8 * PAGE, True, True, to=2 * FAR)
    with pytest.raises(ValueError, match="fixed=True needs"):
        mm.mremap(FAR, PAGE, PAGE, True, True)
    assert area.start == FAR


@pytest.mark.parametrize("seed", range(4))
def test_random_moves_keep_contents(machine: pgtbl.Machine, mm: pgtbl.Mm, seed: int) -> None:
    rng = random.Random(seed)
    where, values = FAR, {}
    size = 3 * PAGES
    mm.mmap(length=size * PAGE, shared=False, addr=where)
    for step in range(25):
        for _ in range(40):
            page = rng.randrange(size)
            values[page] = step * 1000 + page + 1
            mm.store(where + page * PAGE, values[page])
        if rng.random() < 0.3:
            with contextlib.suppress(OSError):
                mm.madvise(where, size * PAGE, MADV_COLLAPSE)
        if rng.random() < 0.3:
            mm.fork().close()
        to = FAR * (2 + step % 7) + rng.choice([0, 0, 0, 1, 5, 256]) * PAGE
        if abs(to - where) < size * PAGE:
            continue
        where = mm.mremap(where, size * PAGE, size * PAGE, True, True, to=to)
        machine.check()
        assert all(mm.load(where + p * PAGE) == values.get(p, 0) for p in range(0, size, 7))
    assert words(mm, where, size) == [values.get(p, 0) for p in range(size)]
