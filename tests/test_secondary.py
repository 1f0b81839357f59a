"""Secondary MMUs: devices that remember translations, and the notifiers that make them forget."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from machines import machine_of

import pgtbl

PAGE = 4096
EXTENT = 2 << 20
KINDS = ("shadow", "walker")

machine = machine_of(["v6.4", "v6.6", "v6.18"])


def anon(mm: Any, pages: int = 512, **named: Any) -> Any:
    return mm.mmap(length=pages * PAGE, shared=False, **named)


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_sees_what_the_program_sees(machine: Any, mm: Any, kind: str) -> None:
    area, shared = anon(mm), mm.mmap(machine.shmem(EXTENT))
    with mm.secondary_mmu(kind) as device:
        assert device.kind == kind
        for at in (area.start, shared.start):
            mm.store(at, 5)
            assert device.load(at) == 5
            device.store(at + 8, 6)
            assert mm.load(at + 8) == 6
            device.store(at + PAGE, 7)  # by a fault of its own
            assert mm.load(at + PAGE) == 7
            assert device.frame(at) == mm.pagemap(at, PAGE)["pfn"][0]
        assert device.accesses == 6
        assert device.translations == 4
        machine.check()
    with pytest.raises(pgtbl.ClosedError):
        device.load(area.start)
    device.close()


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "munmap": lambda mm, area: mm.munmap(area.start, PAGE),
    "dontneed": lambda mm, area: mm.madvise(area.start, PAGE, pgtbl.MADV_DONTNEED),
    "mprotect": lambda mm, area: mm.mprotect(area.start, PAGE, "r"),
    "fork": lambda mm, _area: mm.fork().close(),
    "mremap": lambda mm, area: mm.mremap(
        area.start, PAGE, PAGE, maymove=True, fixed=True, to=64 * EXTENT
    ),
    "collapse": lambda mm, area: mm.madvise(area.start, EXTENT, pgtbl.MADV_COLLAPSE),
    "mmap over it": lambda mm, area: anon(mm, 1, addr=area.start, fixed=True),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_is_forgotten(machine: Any, mm: Any, kind: str, what: str) -> None:
    area = anon(mm, addr=EXTENT, fixed=True)
    mm.sweep(area.start, 512, "fill", value=5)
    device = mm.secondary_mmu(kind)
    device.store(area.start, 1)
    device.load(area.start + 9 * PAGE)
    CHANGES[what](mm, area)
    assert device.frame(area.start) is None
    machine.check()
    if what in ("fork", "collapse", "mprotect"):
        assert device.load(area.start) == 1
        machine.check()


@pytest.mark.parametrize("kind", KINDS)
def test_what_happens_to_a_file_is_told_too(machine: Any, mm: Any, kind: str) -> None:
    file, other = machine.shmem(EXTENT), machine.mm()
    here, there = mm.mmap(file), other.mmap(file)
    mm.sweep(here.start, 512, "fill", value=5)
    other.touch(there.addresses())
    device = other.secondary_mmu(kind)
    devices_page = there.start + 3 * PAGE
    device.load(devices_page)
    mm.madvise(here.start, EXTENT, pgtbl.MADV_COLLAPSE)
    machine.check()
    assert device.load(devices_page) == 5
    file.truncate(PAGE)
    assert device.frame(devices_page) is None
    with pytest.raises((pgtbl.BusError, OSError), match="address"):
        device.load(devices_page)
    machine.check()


def test_a_device_reads_a_private_copy(machine: Any, mm: Any) -> None:
    area = anon(mm)
    mm.store(area.start, 5)
    device = mm.secondary_mmu()
    child = mm.fork()
    assert device.load(area.start) == 5
    mm.store(area.start, 6)  # copied: the device's page is the child's alone
    assert device.load(area.start) == 6
    assert child.load(area.start) == 5


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_devices_at_work(machine: Any, mm: Any, kind: str, write: bool, seed: int) -> None:
    """Two devices work while their memory is collapsed, taken apart, dropped and copied under them."""
    file = machine.shmem(2 * EXTENT)
    area, shared = anon(mm), mm.mmap(file)
    devices = [mm.secondary_mmu(kind) for _ in range(2)]
    devices[0].start(area, write=write, seed=seed)
    devices[1].start(shared, write=write, seed=seed)
    rounds = np.random.default_rng(seed)
    for _ in range(40):
        page = int(rounds.integers(0, 512)) * PAGE
        mm.store(area.start + page, 1)
        mm.store(shared.start + page, 2)
        match int(rounds.integers(0, 6)):
            case 0:
                for start in (area.start, shared.start):
                    try:
                        mm.madvise(start, EXTENT, pgtbl.MADV_COLLAPSE)
                    except OSError as error:
                        if error.errno not in (errno.EAGAIN, errno.EINVAL, errno.EBUSY):
                            raise
            case 1:
                mm.madvise(area.start + page, PAGE, pgtbl.MADV_DONTNEED)
                mm.madvise(shared.start, EXTENT, pgtbl.MADV_DONTNEED)
            case 2:
                mm.fork().close()
            case 3:
                file.punch(page, PAGE)
            case 4:
                mm.mprotect(area.start + page, PAGE, "r")
                mm.mprotect(area.start + page, PAGE, "rw")
            case _:
                machine.rcu.barrier()
    for device in devices:
        assert device.running
        device.stop()
        device.stop()
        assert not device.running
        assert device.accesses > 0


def test_bad_input() -> None:
    with pgtbl.Machine(memory="64MiB", cpus=1) as machine:
        mm = machine.mm()
        area = anon(mm)
        with pytest.raises(ValueError, match="'shadow' and 'walker'"):
            mm.secondary_mmu("gpu")
        device = mm.secondary_mmu()
        with pytest.raises(ValueError, match="multiple of 8"):
            device.load(area.start + 1)
        with pytest.raises(pgtbl.SegmentationFault):
            device.load(1 << 62)
        with pytest.raises(OSError, match="cannot be read"):
            device.load(3 * EXTENT)
        with pytest.raises(ValueError, match="whole pages"):
            device.start(area.start + 1, PAGE)
        with pytest.raises(pgtbl.UsageError, match="cpus"):
            device.start(area)
        with mm.mmap_lock.read(), pytest.raises(pgtbl.DeadlockError):
            device.load(area.start)
        assert "SecondaryMmu of mm" in repr(device)
        mm.close()
        with pytest.raises(pgtbl.ClosedError):
            device.load(area.start)
        assert not device.running
        device.close()


def test_a_device_ends_with_its_machine() -> None:
    machine = pgtbl.Machine(memory="64MiB")
    mm = machine.mm()
    area = anon(mm)
    uffd = mm.userfaultfd()
    uffd.register(area, None, ["missing"])
    device = mm.secondary_mmu("walker")
    device.start(area)  # its first fault sleeps
    machine.close()
    assert not device.running


# ---- pins ---------------------------------------------------------------------------------------


def test_a_pinned_page_stays_the_parents(machine: Any, mm: Any) -> None:
    area = anon(mm)
    mm.store(area.start, 5)
    mm.store(area.start + PAGE, 6)
    with mm.pin(area.start, kind="pin") as pinned, mm.pin(area.start + PAGE, kind="get") as got:
        frames = [*pinned.frames, *got.frames]
        child = mm.fork()
        mm.store(area.start, 7)
        mm.store(area.start + PAGE, 8)
        now = mm.pagemap(area)["pfn"].tolist()
        assert now[0] == frames[0]  # whoever works on it sees the store
        assert now[1] != frames[1]  # a reference alone does not keep it
        assert (child.load(area.start), child.load(area.start + PAGE)) == (5, 6)
        machine.check()
    assert pinned.frames == []
    child.close()


def test_a_pin_for_writing_gets_the_programs_own_page(machine: Any, mm: Any) -> None:
    area = anon(mm)
    with mm.pin(area.start, write=True, kind="pin") as pin:
        assert pin.frames == mm.pagemap(area)["pfn"].tolist()
        mm.store(area.start, 5)
        assert pin.frames == mm.pagemap(area)["pfn"].tolist()
    readonly = mm.mmap(length=PAGE, prot="r", shared=False)
    with pytest.raises(OSError, match="cannot be read"):
        mm.pin(readonly.start, write=True)
    with pytest.raises(ValueError, match="'get', 'pin' and 'longterm'"):
        mm.pin(area.start, kind="hold")
