"""What a program makes final: mseal, seals of shared memory, PR_SET_THP_DISABLE; and msync."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from machines import machine_of

import pgtbl
from pgtbl import MADV_COLD, MADV_COLLAPSE, MADV_DONTFORK, MADV_DONTNEED, MADV_FREE

PAGE, EXTENT = pgtbl.PAGE_SIZE, pgtbl.PMD_SIZE
machine = machine_of(("v6.4", "v6.18"))


def errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def test_what_is_sealed_stays_as_it_is() -> None:
    with pgtbl.Machine(era="v6.18", memory="32MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(length=8 * PAGE, shared=False)
        start = area.start
        mm.store(start, 7)
        mm.mseal(start + PAGE, 2 * PAGE)
        assert [row["flags"].split()[-1] == "sl" for row in mm.smaps()] == [False, True, False]
        mm.mseal(start + PAGE, PAGE)  # again: nothing to do
        for call in (
            lambda: mm.munmap(start, 8 * PAGE),
            lambda: mm.mmap(length=8 * PAGE, shared=False, addr=start, fixed=True),
            lambda: mm.mprotect(start + 2 * PAGE, PAGE, "r"),
            lambda: mm.mremap(start + PAGE, 2 * PAGE, PAGE),
            lambda: mm.mremap(start, PAGE, PAGE, to=start + PAGE, fixed=True, maymove=True),
        ):
            assert errno_of(call) == errno.EPERM
        assert mm.load(start) == 7
        # Up to the sealed one mprotect does what it is asked for.
        assert errno_of(lambda: mm.mprotect(start, 2 * PAGE, "r")) == errno.EPERM
        assert [vma.prot for vma in mm.vmas()] == ["r", "rw", "rw"]
        # Who could store zeroes may as well discard; else not.
        mm.madvise(start + PAGE, PAGE, MADV_DONTNEED)
        fixed = mm.mmap(length=PAGE, shared=False)
        mm.mprotect(fixed, None, "r")
        mm.mseal(fixed)
        for advice in (MADV_DONTNEED, MADV_FREE, MADV_DONTFORK):
            assert errno_of(lambda a=advice: mm.madvise(fixed, None, a)) == errno.EPERM
        mm.madvise(fixed, None, MADV_COLD)
        assert errno_of(lambda: mm.mseal(start, 9 * PAGE)) == errno.ENOMEM
        child = mm.fork()
        assert errno_of(lambda: child.munmap(fixed)) == errno.EPERM
        mm.close()
        machine.check()
    with pgtbl.Machine(era="v6.6", memory="32MiB") as machine:
        mm = machine.mm()
        assert errno_of(lambda: mm.mseal(mm.mmap(length=PAGE, shared=False))) == errno.ENOSYS


def test_a_program_without_huge_pages() -> None:
    with pgtbl.Machine(era="v6.18", memory="64MiB", thp="always") as machine:
        mm = machine.mm()
        mm.thp_disable()
        area = mm.mmap(length="4MiB", shared=False)
        mm.store(area.start, 1)
        assert mm.fork().pgtables_bytes == mm.pgtables_bytes
        assert errno_of(lambda: mm.madvise(area.start, EXTENT, MADV_COLLAPSE)) == errno.EINVAL
        assert machine.khugepaged.scan() == 0
        mm.thp_disable(True, 2)
        mm.store(area.start + EXTENT, 1)
        assert mm.smaps()[0]["kib"].get("AnonHugePages") is None
        mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
        assert mm.smaps()[0]["kib"]["AnonHugePages"] == 2048
        mm.thp_disable(False)
        assert machine.khugepaged.scan() == 1
        assert errno_of(lambda: mm.thp_disable(True, 1)) == errno.EINVAL
    with pgtbl.Machine(era="v6.17", memory="32MiB") as machine:
        mm = machine.mm()
        assert errno_of(lambda: mm.thp_disable(True, 2)) == errno.EINVAL


def test_seals_of_shared_memory(machine: pgtbl.Machine) -> None:
    file = machine.shmem(4 * PAGE)
    mm = machine.mm()
    area = mm.mmap(file)
    assert errno_of(lambda: file.seal(["WRITE"])) == errno.EBUSY
    file.seal(["GROW", "FUTURE_WRITE"])
    mm.store(area.start, 5)  # was mapped before
    for call in (
        lambda: file.write(0, b"x"),
        lambda: file.truncate(5 * PAGE),
        lambda: file.allocate(0, 5 * PAGE),
        lambda: file.punch(0, PAGE),
        lambda: mm.mmap(file),
    ):
        assert errno_of(call) == errno.EPERM
    mm.munmap(area)
    reader = mm.mmap(file, prot="r")
    assert errno_of(lambda: mm.mprotect(reader, None, "rw")) == errno.EACCES
    pin = mm.pin(reader.start)
    assert errno_of(lambda: file.seal(["WRITE"])) == errno.EBUSY
    pin.close()
    file.seal(["WRITE", "SEAL"])
    assert errno_of(lambda: file.seal(["SHRINK"])) == errno.EPERM
    with pytest.raises(ValueError, match="seal 'X'"):
        file.seal(["X"])
    file.truncate(PAGE)
    mm.mmap(file, shared=False)
    assert mm.load(reader.start) == 5


def test_msync_writes_back(machine: pgtbl.Machine) -> None:
    file = machine.file(4 * PAGE)
    mm = machine.mm()
    area = mm.mmap(file)
    mm.store(area.start, 5)
    mm.msync(area)
    assert file.pages()["dirty"].tolist() == [0]
    assert errno_of(lambda: mm.msync(area.start, 5 * PAGE)) == errno.ENOMEM
    assert errno_of(lambda: mm.msync(area.start + 1, PAGE)) == errno.EINVAL
