"""Machine: what it is made of, its ledger, its checks, its end."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

import pgtbl


def test_defaults() -> None:
    with pgtbl.Machine() as machine:
        assert machine.era == "v6.6"
        assert machine.arch == "x86-64"
        assert machine.memory == 256 << 20
        assert machine.cpus == 64
        assert machine.alloc == "reuse"
        assert not machine.broadcast_flush
        assert not machine.closed
        assert machine.check() is None
    assert machine.closed
    assert "closed" in repr(machine)


@pytest.mark.parametrize("era", pgtbl.eras())
@pytest.mark.parametrize("alloc", ["reuse", "quarantine"])
def test_every_era(era: str, alloc: str) -> None:
    with pgtbl.Machine(era=era, memory="32MiB", alloc=alloc) as machine:
        assert machine.switches == {row["name"]: row["eras"][era] for row in pgtbl.switches()}
        mm = machine.mm()
        area = mm.mmap(machine.shmem("4MiB"))
        mm.touch(area.addresses(), write=True)
        mm.madvise(area.start, "2MiB", pgtbl.MADV_COLLAPSE)
        assert machine.ledger()["collapse.succeeded"] == 1
        machine.check()


def test_one_switch_can_be_overridden() -> None:
    with pgtbl.Machine(
        era="v6.6", switches={"file_faults_under_vma_lock": 0}, memory="8MiB"
    ) as machine:
        assert machine.switches["file_faults_under_vma_lock"] == 0
        assert machine.switches["map_opens_rcu"] == 1


def test_tables_of_the_module() -> None:
    assert pgtbl.eras() == ["v6.4", "v6.5", "v6.6", "v6.13", "v6.14", "v6.17", "v6.18"]
    for row in pgtbl.switches():
        assert set(row["eras"]) == set(pgtbl.eras())
        assert all(0 <= value <= row["highest"] for value in row["eras"].values())
        assert row["doc"]
    assert "pmd_recheck" in {row["name"] for row in pgtbl.guards()}
    assert pgtbl.build_info()["world"] == "real"


def test_ledger_is_a_mapping_of_documented_names() -> None:
    with pgtbl.Machine(memory="32MiB") as machine:
        ledger = machine.ledger()
        assert isinstance(ledger, Mapping)
        assert set(ledger) == set(pgtbl.ledger_names())
        assert all(isinstance(value, int) for value in ledger.values())
        for lock in ("mmap_lock.read", "mmap_lock.write", "vma_lock.read", "i_mmap.read", "i_mmap.write",
                     "folio_lock", "ptl", "pml"):  # fmt: skip
            for row in (
                lock,
                lock + ".contended",
                lock + ".failed",
                lock + ".wait_ns",
                lock + ".held_ns",
            ):
                assert row in ledger
        for row in ("tlb.flush", "ipi", "table.pte.allocated", "table.pte.detached", "table.pte.deferred",
                    "table.pte.freed", "table.pte.pending_max", "rcu.grace_periods", "fault", "fault.retry",
                    "collapse.succeeded", "retract.done", "retract.put_off", "collapse.mmap_lock.read",
                    "collapse.mmap_lock.write"):  # fmt: skip
            assert row in ledger
        with pytest.raises(KeyError, match=r"tlb\.flush"):
            ledger["tlb.flsh"]


def test_ledgers_subtract_and_add() -> None:
    with pgtbl.Machine(memory="32MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("2MiB"))
        before = machine.ledger()
        assert mm.touch(area.start) == 1
        done = machine.ledger() - before
        assert done["fault"] == 1
        assert done["table.pte.allocated"] == 1
        assert "fault" in repr(done)
        assert done + before == machine.ledger()
        assert done.select("fault")["fault"] == 1
        assert "ptl" not in done.select("fault")
        assert done.nonzero()["fault"] == 1
        assert done.to_dict()["fault"] == 1
        assert pickle.loads(pickle.dumps(done)) == done
        with pytest.raises(TypeError):
            done - 1  # type: ignore[operator]


def test_objects_keep_their_machine() -> None:
    machine = pgtbl.Machine(memory="32MiB")
    mm = machine.mm()
    rcu = machine.rcu
    assert mm.machine is machine
    del machine
    gc.collect()
    area = mm.mmap(mm.machine.shmem("2MiB"))
    mm.write(area.start, b"kept")
    assert mm.read(area.start, 4) == b"kept"
    rcu.synchronize()
    mm.machine.check()


def test_dropped_objects_are_closed() -> None:
    with pgtbl.Machine(memory="32MiB") as machine:
        free = machine.free_memory
        for _ in range(50):
            mm = machine.mm()
            mm.touch(mm.mmap(machine.shmem("2MiB")).addresses(), write=True)
        del mm
        gc.collect()
        machine.check()  # which waits for the tables that RCU still has
        assert machine.free_memory == free


def test_a_closed_machine_is_not_entered_again() -> None:
    machine = pgtbl.Machine(memory="8MiB")
    machine.close()
    with pytest.raises(pgtbl.ClosedError), machine:
        pass
    with pytest.raises(pgtbl.ClosedError):
        _ = machine.khugepaged


def test_everything_is_closed_with_the_machine() -> None:
    machine = pgtbl.Machine(memory="32MiB")
    mm, shm = machine.mm(), machine.shmem("2MiB")
    area = mm.mmap(shm)
    mm.touch(area.addresses())
    khugepaged, rcu, lock, section = (
        machine.khugepaged,
        machine.rcu,
        mm.mmap_lock,
        machine.rcu.read(),
    )
    machine.close()
    machine.close()
    uses: list[Any] = [
        lambda: machine.mm(), lambda: machine.shmem(4096), lambda: machine.ledger(), lambda: machine.check(),
        lambda: machine.rcu, lambda: machine.era, lambda: machine.switches, lambda: machine.free_memory,
        lambda: mm.mmap(shm), lambda: mm.mmap(length=4096), lambda: mm.munmap(area), lambda: mm.touch(area.start),
        lambda: mm.touch(area.addresses()), lambda: mm.load(area.start), lambda: mm.store(area.start, 1),
        lambda: mm.read(area.start, 1), lambda: mm.write(area.start, b"x"), lambda: mm.pagemap(area),
        lambda: mm.walk(area.start), lambda: mm.vmas(), lambda: mm.rss, lambda: mm.pgtables_bytes,
        lambda: mm.brk(), lambda: mm.mprotect(area.start, 4096, "r"), lambda: mm.mincore(area),
        lambda: mm.madvise(area.start, 4096, pgtbl.MADV_DONTNEED), lambda: lock.read().__enter__(),
        lambda: lock.locked, lambda: shm.size, lambda: shm.read(0, 1), lambda: shm.write(0, b"x"),
        lambda: shm.truncate(0), lambda: shm.punch(0, 4096), lambda: shm.pages(), lambda: khugepaged.scan(),
        lambda: khugepaged.start(), lambda: khugepaged.stop(), lambda: rcu.synchronize(), lambda: rcu.read_lock(),
        lambda: section.__enter__(),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(pgtbl.ClosedError):
            use()
    mm.close()
    shm.close()
    assert mm.closed
    assert shm.closed
    assert area.length == 2 << 20  # a description stays one
    for thing in (machine, mm, shm, area, khugepaged, rcu):
        assert repr(thing)


def test_close_refuses_while_python_holds_a_lock() -> None:
    machine = pgtbl.Machine(memory="8MiB")
    mm = machine.mm()
    with mm.mmap_lock.read():
        with pytest.raises(pgtbl.UsageError, match="mmap_lock of mm"):
            machine.close()
        with pytest.raises(pgtbl.UsageError, match="mmap_lock of mm"):
            mm.close()
    with machine.rcu.read():
        with pytest.raises(pgtbl.UsageError, match="read section"):
            machine.close()
        with pytest.raises(pgtbl.UsageError, match="read section"):
            machine.check()
    assert not machine.closed
    machine.check()
    machine.close()


def test_khugepaged_by_hand() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("8MiB"))
        mm.touch(area.addresses())
        assert machine.khugepaged.scan() == 4
        assert set(area.file.pages()["order"]) == {9}
        assert len(mm.pagemap(area)) == 0  # retracted: each is mapped huge at its next touch
        assert mm.touch(area.addresses()) == 4
        assert set(mm.pagemap(area)["huge"]) == {1}
        machine.check()


@pytest.mark.parametrize("era", pgtbl.eras())
def test_khugepaged_says_what_it_changed(era: str) -> None:
    with pgtbl.Machine(era=era, memory="64MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("8MiB"))
        mm.touch(area.addresses())
        assert machine.khugepaged.scan() == 4
        for _ in range(
            2
        ):  # nothing is left to do, neither where the PMD is none nor where it is huge
            before = machine.ledger()
            assert machine.khugepaged.scan() == 0
            counted = (machine.ledger() - before)["collapse.succeeded"]
            assert counted == (
                0 if era in ("v6.4", "v6.5") else 4
            )  # as Linux counts: see ledger_names()
            mm.touch(area.addresses())
        assert set(mm.pagemap(area)["huge"]) == {1}
        machine.check()


@pytest.mark.parametrize("shared", [True, False])
def test_khugepaged_leaves_what_is_advised_against(shared: bool) -> None:
    with pgtbl.Machine(memory="64MiB", thp="always") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("4MiB")) if shared else mm.mmap(length="4MiB", shared=False)
        mm.madvise(area.start, "2MiB", pgtbl.MADV_NOHUGEPAGE)
        for address in area.addresses()[:512]:
            mm.store(address, 1)
        assert machine.khugepaged.scan() == 0
        mm.madvise(area.start, "2MiB", pgtbl.MADV_HUGEPAGE)
        assert machine.khugepaged.scan() == 1
        machine.check()


def test_khugepaged_needs_a_cpu() -> None:
    with pgtbl.Machine(memory="16MiB", cpus=1) as machine:
        machine.mm()  # this thread has the only one
        with pytest.raises(pgtbl.UsageError, match=r"all 1 CPUs .* khugepaged"):
            machine.khugepaged.start()
        assert not machine.khugepaged.running
        machine.khugepaged.stop()
        machine.check()
    with pgtbl.Machine(memory="16MiB", cpus=2) as machine:
        machine.mm()
        machine.khugepaged.start()
        machine.check()  # stops it meanwhile, and starts it again
        assert machine.khugepaged.running


def test_khugepaged_thread() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("8MiB"))
        mm.touch(area.addresses())
        daemon = machine.khugepaged
        daemon.pages_to_scan = 512
        daemon.max_ptes_none = 0
        assert (daemon.pages_to_scan, daemon.max_ptes_none) == (512, 0)
        daemon.start(0.001)
        assert daemon.running
        for _ in range(2000):
            if machine.ledger()["collapse.file"] == 4:
                break
            machine.rcu.synchronize()
        machine.check()  # stops it meanwhile
        assert daemon.running
        daemon.start(0.002)
        daemon.stop()
        daemon.stop()
        assert not daemon.running
        assert machine.ledger()["collapse.file"] == 4
        daemon.start(0.001)  # and the machine's end stops it


def test_two_machines_are_apart() -> None:
    with pgtbl.Machine(memory="8MiB") as one, pgtbl.Machine(memory="8MiB") as two:
        a, b = one.mm(), two.mm()
        area = a.mmap(one.shmem("2MiB"))
        for _ in range(3):
            a.touch(area.start)
            with pytest.raises(pgtbl.SegmentationFault):
                b.touch(area.start)
        one.check()
        two.check()


def test_many_machines() -> None:
    for _ in range(40):
        with pgtbl.Machine(memory="8MiB") as machine:
            mm = machine.mm()
            mm.touch(mm.mmap(length="1MiB", shared=False).addresses(), write=True)
