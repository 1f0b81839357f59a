"""userfaultfd in the mode in which a fault raises, and references to pages."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pgtbl

PAGE = 4096
EXTENT = 2 << 20


@pytest.fixture(params=["v6.4", "v6.6", "v6.18"])
def machine(request: pytest.FixtureRequest) -> Iterator[Any]:
    with pgtbl.Machine(era=request.param, memory="64MiB") as it:
        yield it
        it.check()


def fails(number: int) -> Any:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def anon(mm: Any, pages: int = 512) -> Any:
    return mm.mmap(length=pages * PAGE, prot="rw", shared=False)


# ---- missing -----------------------------------------------------------------------------------------


def test_a_missing_page_is_reported_and_can_be_put_in(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm)
    mm.touch(area.start, write=True)
    with mm.userfaultfd(["SIGBUS"]) as uffd:
        uffd.register(area, None, ["missing"])
        mm.touch(area.start, write=True)  # it is there
        for write in (False, True):
            with pytest.raises(pgtbl.BusError):
                mm.touch(area.start + PAGE, write=write)
        uffd.copy(area.start + PAGE, np.full(512, 7, np.uint64))
        assert mm.load(area.start + PAGE + 8) == 7
        mm.store(area.start + PAGE, 8)
        with fails(errno.EEXIST):
            uffd.copy(area.start + PAGE, bytes(PAGE))
        uffd.zeropage(area.start + 2 * PAGE, 2 * PAGE)
        assert mm.load(area.start + 3 * PAGE) == 0
        mm.store(area.start + 3 * PAGE, 9)
        assert mm.load(area.start + 2 * PAGE) == 0
    mm.touch(area.start + 9 * PAGE)  # closed: served again


@pytest.mark.parametrize("era", ["v6.6", "v6.13", "v6.18"])
def test_what_fills_takes_the_vmas_lock_since_6_9(era: str) -> None:
    with pgtbl.Machine(era=era, memory="16MiB") as machine:
        mm = machine.mm()
        area = anon(mm, 8)
        uffd = mm.userfaultfd()
        uffd.register(area, None, ["missing"])
        uffd.copy(area.start, bytes(PAGE))  # the first one has the anon_vma made
        before = machine.ledger()
        uffd.copy(area.start + PAGE, bytes(PAGE))
        uffd.zeropage(area.start + 2 * PAGE, PAGE)
        took = machine.ledger() - before
        assert took["mmap_lock.read"] == (2 if era == "v6.6" else 0)
        mm.mprotect(area.start + 4 * PAGE, PAGE, "r")
        with fails(errno.ENOENT):
            uffd.copy(area.start + 3 * PAGE, bytes(2 * PAGE))
        assert mm.rss["anon"] == 2
        machine.check()


def test_a_hole_of_a_file_is_missing_and_a_cached_page_is_not(machine: Any) -> None:
    mm, file = machine.mm(), machine.shmem(EXTENT)
    area = mm.mmap(file)
    file.write(0, b"x" * PAGE)
    uffd = mm.userfaultfd(["SIGBUS"])
    uffd.register(area, None, ["missing"])
    assert mm.read(area.start, 1) == b"x"
    with pytest.raises(pgtbl.BusError):
        mm.touch(area.start + 20 * PAGE)
    uffd.copy(area.start + 20 * PAGE, b"y" * PAGE)
    assert file.read(20 * PAGE, 2) == b"yy"
    with fails(errno.EEXIST):
        uffd.copy(area.start, b"z" * PAGE)
    uffd.unregister(area)
    mm.touch(area.start + 30 * PAGE)


# ---- minor -------------------------------------------------------------------------------------------


def test_a_minor_fault_waits_for_continue(machine: Any) -> None:
    mm, file = machine.mm(), machine.shmem(EXTENT)
    area = mm.mmap(file)
    file.write(0, b"x" * 2 * PAGE)
    uffd = mm.userfaultfd(["SIGBUS"])
    uffd.register(area, None, ["minor"])
    with pytest.raises(pgtbl.BusError):
        mm.touch(area.start)
    uffd.continue_(area.start, 2 * PAGE)
    assert mm.read(area.start + PAGE, 1) == b"x"
    mm.touch(area.start + 2 * PAGE)  # missing, which nobody asked for
    with fails(errno.EFAULT):
        uffd.continue_(area.start + 9 * PAGE, PAGE)
    with fails(errno.EEXIST):
        uffd.continue_(area.start, PAGE)


# ---- write protection --------------------------------------------------------------------------------


def test_a_protected_page_is_not_written_until_it_is_allowed(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm)
    mm.sweep(area.start, 8, "fill", value=5)
    uffd = mm.userfaultfd(["SIGBUS"])
    uffd.register(area, None, ["wp"])
    mm.store(area.start, 6)  # registered alone protects nothing
    uffd.writeprotect(area.start, 4 * PAGE)
    got = mm.sweep(area.start, 8, "write", value=7)
    assert (got["ok"], got["bus"], got["first"]) == (4, 4, 0)
    assert mm.load(area.start) == 6
    assert mm.snapshot(area)["uffd_wp"].tolist() == [1] * 4 + [0] * 4
    uffd.writeprotect(area.start, PAGE, on=False)
    mm.store(area.start, 8)
    with pytest.raises(pgtbl.BusError):
        mm.store(area.start + PAGE, 8)
    uffd.close()
    mm.store(area.start + PAGE, 8)


def test_mprotect_does_not_give_back_what_was_protected(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm)
    mm.sweep(area.start, 2, "fill", value=5)
    uffd = mm.userfaultfd(["SIGBUS"])
    uffd.register(area, None, ["wp"])
    uffd.writeprotect(area.start, PAGE)
    mm.mprotect(area.start, area.length, "r")
    mm.mprotect(area.start, area.length, "rw")
    with pytest.raises(pgtbl.BusError):
        mm.store(area.start, 1)
    mm.store(area.start + PAGE, 1)


def test_protection_of_a_file_outlives_the_page(machine: Any) -> None:
    mm, file = machine.mm(), machine.shmem(EXTENT)
    area = mm.mmap(file)
    mm.sweep(area.start, 4, "fill", value=5)
    uffd = mm.userfaultfd(["SIGBUS"])
    uffd.register(area, None, ["wp"])
    uffd.writeprotect(area.start, 2 * PAGE)  # two that are there
    uffd.writeprotect(area.start + 100 * PAGE, PAGE)  # and one that is not
    mm.madvise(area.start, 2 * PAGE, pgtbl.MADV_DONTNEED)
    rows = mm.snapshot(area.start, 2 * PAGE)
    assert [chr(k) for k in rows["kind"]] == ["s", "s"]
    assert mm.load(area.start) == 5  # a load brings the page, protected
    for page in (0, 1, 100):
        with pytest.raises(pgtbl.BusError):
            mm.store(area.start + page * PAGE, 1)
    uffd.writeprotect(area.start, area.length, on=False)
    for page in (0, 1, 100):
        mm.store(area.start + page * PAGE, 1)


def test_a_table_with_markers_is_not_retracted() -> None:
    with pgtbl.Machine(era="v6.18", memory="64MiB") as machine:
        file = machine.shmem(EXTENT)
        mms = [machine.mm() for _ in range(2)]
        for mm in mms:
            mm.mmap(file, addr=EXTENT, fixed=True)
            mm.sweep(EXTENT, 512, "write")
        uffd = mms[1].userfaultfd(["SIGBUS"])
        uffd.register(EXTENT, EXTENT, ["wp"])
        uffd.writeprotect(EXTENT, PAGE)
        mms[0].madvise(EXTENT, EXTENT, pgtbl.MADV_COLLAPSE)
        with pytest.raises(pgtbl.BusError):
            mms[1].store(EXTENT, 1)
        mms[1].store(EXTENT + PAGE, 1)
        with fails(errno.EINVAL):
            mms[1].madvise(EXTENT, EXTENT, pgtbl.MADV_COLLAPSE)
        machine.check()


def test_a_collapse_does_not_hide_missing_pages() -> None:
    with pgtbl.Machine(era="v6.18", memory="64MiB") as machine:
        file, mm = machine.shmem(EXTENT), machine.mm()
        area = mm.mmap(file, addr=EXTENT, fixed=True)
        mm.sweep(area.start, 100, "write")
        uffd = mm.userfaultfd(["SIGBUS"])
        uffd.register(area, None, ["missing"])
        with fails(errno.EBUSY):
            mm.madvise(area, None, pgtbl.MADV_COLLAPSE)
        with pytest.raises(pgtbl.BusError):
            mm.touch(area.start + 200 * PAGE)
        uffd.unregister(area)
        mm.madvise(area, None, pgtbl.MADV_COLLAPSE)


def test_a_child_and_a_moved_mapping_are_not_registered() -> None:
    with pgtbl.Machine(era="v6.18", memory="64MiB") as machine:
        mm = machine.mm()
        area = anon(mm)
        mm.sweep(area.start, 4, "fill", value=5)
        uffd = mm.userfaultfd(["SIGBUS"])
        uffd.register(area, None, ["wp", "missing"])
        uffd.writeprotect(area.start, 4 * PAGE)
        child = mm.fork()
        child.store(area.start, 6)
        child.touch(area.start + 50 * PAGE)
        with pytest.raises(pgtbl.BusError):
            mm.store(area.start, 6)
        at = mm.mremap(
            area.start, area.length, area.length, maymove=True, fixed=True, to=64 * EXTENT
        )
        mm.store(at, 7)
        mm.touch(at + 50 * PAGE)
        machine.check()


# ---- registering -------------------------------------------------------------------------------------


def test_what_cannot_be_registered(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm)
    one, other = mm.userfaultfd(["SIGBUS"]), mm.userfaultfd(["SIGBUS"])
    with fails(errno.EINVAL):
        one.register(area.start + 1, PAGE, ["wp"])
    with fails(errno.EINVAL):
        one.register(area.start, 100, ["wp"])
    with fails(errno.EINVAL):
        one.register(area.start, PAGE, [])
    with fails(errno.EINVAL):
        one.register(area.start, PAGE, ["minor"])  # anonymous memory
    with fails(errno.EINVAL):
        one.register(EXTENT, PAGE, ["wp"])  # nothing there
    with fails(errno.ENOENT):
        one.writeprotect(area.start, PAGE)
    with fails(errno.ENOENT):
        one.copy(area.start, bytes(PAGE))
    one.register(area.start, 4 * PAGE, ["wp"])
    with fails(errno.EBUSY):
        other.register(area, None, ["missing"])
    with pytest.raises(ValueError, match="missing"):
        one.register(area, None, ["write"])
    with pytest.raises(ValueError, match="the features are"):
        mm.userfaultfd(features=["SIGBUS", "TELEPATHY"])
    one.close()
    one.close()
    with pytest.raises(pgtbl.ClosedError):
        one.register(area, None, ["wp"])
    other.register(area, None, ["missing"])


def test_a_registered_range_is_a_mapping_of_its_own(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm)
    uffd = mm.userfaultfd(["SIGBUS"])
    uffd.register(area.start + PAGE, PAGE, ["wp"])
    assert [v.length // PAGE for v in mm.vmas()] == [1, 1, 510]
    uffd.unregister(area.start + PAGE, PAGE)
    assert [v.length // PAGE for v in mm.vmas()] == [512]


# ---- pins --------------------------------------------------------------------------------------------


def test_a_pinned_page_is_not_collapsed(machine: Any) -> None:
    mm, file = machine.mm(), machine.shmem(EXTENT)
    area = mm.mmap(file, addr=EXTENT, fixed=True)
    mm.sweep(area.start, 512, "write")
    with mm.pin(area.start + 7 * PAGE, 2) as pin:
        assert pin.pages == 2
        with fails(errno.EAGAIN):
            mm.madvise(area, None, pgtbl.MADV_COLLAPSE)
        machine.check()
    mm.madvise(area, None, pgtbl.MADV_COLLAPSE)


def test_a_pinned_page_outlives_its_mapping(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm)
    mm.sweep(area.start, 4, "fill", value=5)
    free = machine.free_memory
    pin = mm.pin(area.start, 4)
    mm.munmap(area)
    machine.check()
    assert machine.free_memory < free + 5 * PAGE
    pin.close()
    pin.close()
    assert pin.closed


def test_a_pin_faults_pages_in_and_stops_where_it_cannot(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm, 4)
    with mm.pin(area.start, 8) as pin:
        assert pin.pages == 4
    assert len(mm.snapshot(area)) == 4
    with fails(errno.EFAULT):
        mm.pin(EXTENT, 1)
    with pytest.raises(ValueError, match="pages"):
        mm.pin(area.start, 0)


def test_a_pin_may_be_kept_beyond_its_machine() -> None:
    machine = pgtbl.Machine(memory="64MiB")
    mm = machine.mm()
    pin = mm.pin(anon(mm, 4).start, 4)
    machine.close()
    pin.close()
    del pin
