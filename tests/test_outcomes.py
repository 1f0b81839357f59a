"""What a collapse must come to, exactly: locks, flushes, tables, contents, errno, era by era."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import pgtbl
from pgtbl import MADV_COLLAPSE, MADV_DONTNEED

PAGE = pgtbl.PAGE_SIZE
EXTENT = pgtbl.PMD_SIZE
PAGES = EXTENT // PAGE
ERAS = ["v6.4", "v6.5", "v6.6"]
OLD = ["v6.4", "v6.5"]


@contextlib.contextmanager
def new_machine(
    era: str = "v6.6", memory: str = "128MiB", **more: object
) -> Iterator[pgtbl.Machine]:
    """A machine that is clean at the end, with everything mapped and with everything closed."""
    with pgtbl.Machine(era=era, memory=memory, **more) as machine:  # type: ignore[arg-type]
        yield machine
        machine.check()


def pmd(mm: pgtbl.Mm, addr: int) -> str:
    """What the PMD of addr holds: "none", "table" or "huge"."""
    return next((level.kind for level in mm.walk(addr) if level.name == "pmd"), "none")


def fill(mm: pgtbl.Mm, area: pgtbl.Vma) -> None:
    mm.touch(area.addresses(), write=True)


def collapse(mm: pgtbl.Mm, area: pgtbl.Vma) -> None:
    mm.madvise(area.start, len(area), MADV_COLLAPSE)


def huge_pages(shm: pgtbl.File) -> list[int]:
    return [int(row["index"]) // PAGES for row in shm.pages() if row["huge"]]


@pytest.mark.parametrize("era", ["v6.4", "v6.5", "v6.6", "v6.17"])
def test_whose_lock_a_fault_takes(era: str) -> None:
    """Before 6.6 a fault of a file's memory does not so much as touch the VMA's lock (eras.md, E64)."""
    with new_machine(era) as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem(EXTENT))
        before = machine.ledger()
        fill(mm, area)
        d = machine.ledger() - before
        if era in OLD:
            assert (d["vma_lock.read"], d["mmap_lock.read"]) == (0, d["fault"])
        else:
            assert d["vma_lock.read"] > 0
        heap = mm.mmap(length=EXTENT, shared=False)
        mm.touch(heap.start, write=True)  # the first makes the anon_vma, under mmap_lock
        before = machine.ledger()
        fill(mm, heap)
        d = machine.ledger() - before
        assert (d["vma_lock.read"], d["mmap_lock.read"]) == (PAGES - 1, 0)


@pytest.mark.parametrize("era", ERAS)
def test_the_family_of_an_anon_vma_is_locked_out_before_6_6(era: str) -> None:
    """A private page elsewhere in the VMA: its family's lock is held for write around the clear of the PMD."""
    with new_machine(era) as machine:
        shm = machine.shmem(2 * EXTENT)
        other = machine.mm()
        whole = other.mmap(shm)
        fill(other, whole)
        mm = machine.mm()
        area = mm.mmap(shm, shared=False)
        mm.touch(area.addresses())
        mm.touch(area.start + EXTENT, write=True)
        other.madvise(whole.start, EXTENT, MADV_COLLAPSE)
        before = machine.ledger()
        mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
        d = machine.ledger() - before
        assert pmd(mm, area.start) == "huge"
        assert d["anon_vma.write"] == (1 if era in OLD else 0)


class Elsewhere:
    """A thread, and so a CPU, that does what it is told and stays."""

    def __init__(self) -> None:
        self.jobs: list = []
        self.wake = threading.Semaphore(0)
        self.idle = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while True:
            self.wake.acquire()
            job = self.jobs.pop(0)
            if job is None:
                return
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - handed to who waits
                self.error = error
            self.idle.release()

    def do(self, job: object, wait: bool = True) -> None:
        self.jobs.append(job)
        self.wake.release()
        if wait:
            self.done()

    def done(self) -> None:
        assert self.idle.acquire(timeout=30), "it did not finish"
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        self.jobs.append(None)
        self.wake.release()
        self.thread.join(30)


@pytest.fixture
def cpus() -> Iterator[list[Elsewhere]]:
    made = [Elsewhere() for _ in range(3)]
    yield made
    for cpu in made:
        cpu.end()


# ---- locks, flushes, tables -------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_v6_6_takes_2n_plus_1_read_locks_and_513_flushes_an_extent(n: int) -> None:
    with new_machine() as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem(n * EXTENT))
        fill(mm, area)
        before = machine.ledger()
        collapse(mm, area)
        machine.rcu.barrier()
        d = machine.ledger() - before
        assert d["mmap_lock.write"] == d["mmap_lock.write.failed"] == 0
        assert d["collapse.mmap_lock.write"] == d["collapse.mmap_lock.write.failed"] == 0
        assert d["mmap_lock.read"] == d["collapse.mmap_lock.read"] == 2 * n + 1
        assert d["tlb.flush"] == 513 * n
        assert d["ipi"] == d["ipi.broadcast"] == d["tlb.batched"] == 0
        assert d["i_mmap.write"] == 0
        assert d["i_mmap.read"] == (PAGES + 1) * n  # an rmap walk for each page, and the retraction
        assert d["vma_lock.write"] == 0
        assert d["table.pte.detached"] == d["table.pte.deferred"] == d["table.pte.freed"] == n
        assert d["table.pte.freed_at_once"] == 0
        assert d["retract.done"] == d["collapse.succeeded"] == d["collapse.file"] == n
        assert d["retract.put_off"] == d["retract.forgotten"] == d["collapse.failed"] == 0
        assert d["rmap.unmapped"] == PAGES * n
        assert [pmd(mm, a) for a in area.addresses("2MiB")] == ["huge"] * n


@pytest.mark.parametrize("era", OLD)
@pytest.mark.parametrize("n", [1, 3])
def test_v6_4_takes_a_write_lock_an_extent(era: str, n: int) -> None:
    # The retraction's try succeeds, since the caller has dropped mmap_lock, and installs the PMD at once: one
    # look-up of the VMA an extent, and one section to end with, for read; one for write an extent.
    with new_machine(era) as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem(n * EXTENT))
        fill(mm, area)
        before = machine.ledger()
        collapse(mm, area)
        d = machine.ledger() - before
        assert d["mmap_lock.write"] == d["collapse.mmap_lock.write"] == n
        assert d["mmap_lock.read"] == d["collapse.mmap_lock.read"] == n + 1
        assert d["mmap_lock.write.failed"] == 0
        assert d["vma_lock.write"] == n  # the mark: only tried
        assert d["i_mmap.write"] == n
        assert d["tlb.flush"] == 513 * n
        assert d["ipi.broadcast"] == n
        assert d["table.pte.detached"] == d["table.pte.freed_at_once"] == d["table.pte.freed"] == n
        assert d["table.pte.deferred"] == 0
        assert [pmd(mm, a) for a in area.addresses("2MiB")] == ["huge"] * n


@pytest.mark.parametrize(
    ("era", "reads", "writes"), [("v6.4", 2, 1), ("v6.5", 2, 1), ("v6.6", 3, 0)]
)
def test_an_extent_that_is_huge_in_the_file_already(era: str, reads: int, writes: int) -> None:
    with new_machine(era) as machine:
        shm = machine.shmem(EXTENT)
        first, second = machine.mm(), machine.mm()
        a = first.mmap(shm)
        fill(first, a)
        collapse(first, a)
        b = second.mmap(shm)
        with pytest.raises(OSError, match="MADV_COLLAPSE") as info:
            collapse(
                second, b
            )  # no PMD page yet: "PMD null", which nobody allocates for it before 6.19
        assert info.value.errno == errno.EINVAL
        second.touch(second.mmap(length=PAGE).start, write=True)
        before = machine.ledger()
        collapse(second, b)
        d = machine.ledger() - before
        assert (d["collapse.mmap_lock.read"], d["collapse.mmap_lock.write"]) == (reads, writes)
        assert d["collapse.file"] == 0
        assert pmd(second, b.start) == "huge"
        # Once more: already mapped huge, found before the folio is touched (G-43).
        before = machine.ledger()
        collapse(second, b)
        d = machine.ledger() - before
        assert d["collapse.succeeded"] == 1
        assert d["folio_lock"] == d["tlb.flush"] == d["table.pte.detached"] == 0


@pytest.mark.parametrize("mapped", [1, 100, 511])
def test_a_flush_for_each_page_that_is_mapped(mapped: int) -> None:
    with new_machine() as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem(EXTENT))
        mm.touch(area.addresses()[:mapped], write=True)
        before = machine.ledger()
        collapse(mm, area)
        d = machine.ledger() - before
        assert d["tlb.flush"] == mapped + 1
        assert mm.read(area.start + mapped * PAGE, 8) == bytes(8) if mapped < PAGES else True


@pytest.mark.parametrize("programs", [1, 3])
def test_with_another_cpu_in_the_mask_flushes_are_batched(
    programs: int, cpus: list[Elsewhere]
) -> None:
    # One flush for each mm at the end of the batch, and one for each PMD that goes.
    with new_machine() as machine:
        shm = machine.shmem(EXTENT)
        mms = [machine.mm() for _ in range(programs)]
        areas = [mm.mmap(shm) for mm in mms]
        for mm, area, cpu in zip(mms, areas, cpus, strict=False):
            cpu.do(lambda mm=mm, area=area: fill(mm, area))
        before = machine.ledger()
        collapse(mms[0], areas[0])
        d = machine.ledger() - before
        assert d["tlb.batched"] == PAGES * programs
        assert d["tlb.flush"] == d["tlb.flush.remote"] == d["ipi"] == 2 * programs
        assert d["retract.done"] == programs


def test_broadcast_flushes_send_no_interrupts(cpus: list[Elsewhere]) -> None:
    with new_machine(broadcast_flush=True) as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem(EXTENT))
        cpus[0].do(lambda: fill(mm, area))
        before = machine.ledger()
        collapse(mm, area)
        d = machine.ledger() - before
        assert (d["tlb.flush"], d["ipi"]) == (2, 0)


@pytest.mark.parametrize("era", ERAS)
def test_32_extents_mapped_twice(era: str) -> None:
    with new_machine(era, memory="256MiB") as machine:
        mm = machine.mm()
        shm = machine.shmem("64MiB")
        first, second = mm.mmap(shm), mm.mmap(shm)
        fill(mm, first)
        fill(mm, second)
        before = machine.ledger()
        collapse(mm, first)
        machine.rcu.barrier()
        d = machine.ledger() - before
        assert [pmd(mm, a) for a in first.addresses("2MiB")] == ["huge"] * 32
        if era in OLD:
            # MADV_COLLAPSE leaves other mappings alone: eight are remembered, the others forgotten (B52).
            assert d["table.pte.freed"] == 32
            assert (d["retract.put_off"], d["retract.forgotten"]) == (8, 24)
            assert [pmd(mm, a) for a in second.addresses("2MiB")] == ["table"] * 32
            return
        assert d["table.pte.detached"] == d["table.pte.deferred"] == d["table.pte.freed"] == 64
        assert d["table.pte.pending"] == 0
        assert [pmd(mm, a) for a in second.addresses("2MiB")] == ["none"] * 32
        before = machine.ledger()
        assert mm.touch(second.addresses("2MiB")) == 32
        d = machine.ledger() - before
        assert (d["fault"], d["fault.huge"], d["table.pte.allocated"]) == (32, 32, 0)
        assert [pmd(mm, a) for a in second.addresses("2MiB")] == ["huge"] * 32


# ---- who is eligible (G-42) ---------------------------------------------------------------------


class Mixed:
    """One file of one extent, mapped in every way; all tables are there."""

    def __init__(self, machine: pgtbl.Machine) -> None:
        self.shm = machine.shmem(2 * EXTENT)
        self.caller, self.other, self.busy, self.clean_private = (machine.mm() for _ in range(4))
        self.misaligned, self.short, self.private = (machine.mm() for _ in range(3))
        where = 1 << 40
        self.at = {
            self.caller: self.caller.mmap(self.shm, length=EXTENT).start,
            self.other: self.other.mmap(self.shm, length=EXTENT).start,
            self.busy: self.busy.mmap(self.shm, length=EXTENT).start,
            self.clean_private: self.clean_private.mmap(
                self.shm, length=EXTENT, shared=False
            ).start,
            self.misaligned: self.misaligned.mmap(
                self.shm, length=2 * EXTENT, addr=where + PAGE, fixed=True
            ).start,
            self.short: self.short.mmap(
                self.shm, length=EXTENT - PAGE, addr=where, fixed=True
            ).start,
            self.private: self.private.mmap(self.shm, length=EXTENT, shared=False).start,
        }
        self.caller.touch(
            np.arange(PAGES, dtype=np.uint64) * PAGE + self.at[self.caller], write=True
        )
        for mm, at in self.at.items():
            mm.touch(np.arange(PAGES - 1, dtype=np.uint64) * PAGE + at)
        self.private.write(self.at[self.private] + 5 * PAGE, b"mine")
        assert set(self.kinds().values()) == {"table"}

    def kinds(self) -> dict[pgtbl.Mm, str]:
        return {mm: pmd(mm, at) for mm, at in self.at.items()}

    def check(self, busy: str, others: str = "none", caller: str = "huge") -> None:
        assert self.kinds() == {
            self.caller: caller,
            self.other: others,
            self.busy: busy,
            self.clean_private: others,
            self.misaligned: "table",
            self.short: "table",
            self.private: "table",
        }
        assert self.private.read(self.at[self.private] + 5 * PAGE, 4) == b"mine"


@contextlib.contextmanager
def held(mm: pgtbl.Mm, mode: str | None) -> Iterator[None]:
    """Another thread has the mm's mmap_lock, for ever as far as the block can see."""
    if mode is None:
        yield
        return
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with mm.mmap_lock.write() if mode == "write" else mm.mmap_lock.read():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert inside.wait(10)
    try:
        yield
    finally:
        leave.set()
        thread.join(10)


@pytest.mark.parametrize("mode", [None, "read", "write"])
def test_v6_6_retracts_every_eligible_mapping(mode: str | None) -> None:
    with new_machine() as machine:
        mixed = Mixed(machine)
        with held(mixed.busy, mode):
            before = machine.ledger()
            mixed.caller.madvise(mixed.at[mixed.caller], EXTENT, MADV_COLLAPSE)
            d = machine.ledger() - before
        mixed.check(busy="none")
        assert d["retract.done"] == 4
        assert d["retract.skipped"] == 3
        assert d["retract.put_off"] == 0


@pytest.mark.parametrize("era", OLD)
@pytest.mark.parametrize("mode", [None, "read", "write"])
def test_v6_4_puts_off_what_is_busy(era: str, mode: str | None) -> None:
    with new_machine(era) as machine:
        mixed = Mixed(machine)
        with held(mixed.busy, mode):
            before = machine.ledger()
            mixed.caller.madvise(mixed.at[mixed.caller], EXTENT, MADV_COLLAPSE)
            d = machine.ledger() - before
        # MADV_COLLAPSE treats its own mapping; the other eligible ones are only remembered.
        mixed.check(busy="table", others="table")
        assert (d["retract.done"], d["retract.put_off"]) == (1, 3)
        machine.khugepaged.scan()
        mixed.check(busy="none")
        d = machine.ledger() - before
        assert d["retract.caught_up"] >= 3


@pytest.mark.parametrize("era", OLD)
@pytest.mark.parametrize("mode", ["read", "write"])
def test_v6_4_khugepaged_tries_mmap_lock(era: str, mode: str) -> None:
    with new_machine(era) as machine:
        mixed = Mixed(machine)
        with held(mixed.busy, mode):
            before = machine.ledger()
            machine.khugepaged.scan()
            d = machine.ledger() - before
            assert d["mmap_lock.write.failed"] >= 1
            assert d["retract.done"] == 3
            # As long as the lock is held no round helps.
            machine.khugepaged.scan()
        mixed.check(busy="table", caller="none")
        machine.khugepaged.scan()
        mixed.check(busy="none", caller="none")
        assert (machine.ledger() - before)["retract.forgotten"] == 0


@pytest.mark.parametrize("mode", [None, "read", "write"])
def test_v6_6_khugepaged_retracts_all_at_once(mode: str | None) -> None:
    with new_machine() as machine:
        mixed = Mixed(machine)
        with held(mixed.busy, mode):
            machine.khugepaged.scan()
        mixed.check(busy="none", caller="none")


def test_the_ninth_put_off_extent_is_forgotten() -> None:
    with new_machine("v6.4") as machine:
        mm = machine.mm()
        shm = machine.shmem(9 * EXTENT)
        first, second = mm.mmap(shm), mm.mmap(shm)
        fill(mm, first)
        fill(mm, second)
        before = machine.ledger()
        collapse(mm, first)
        d = machine.ledger() - before
        assert (d["retract.put_off"], d["retract.forgotten"]) == (8, 1)
        # The next visit treats the eight, and then finds the ninth for itself: a visit later it is done.
        before = machine.ledger()
        machine.khugepaged.scan()
        assert (machine.ledger() - before)["retract.caught_up"] == 8
        kinds = [pmd(mm, a) for a in second.addresses("2MiB")]
        assert kinds == ["none"] * 8 + ["table"] or kinds == ["table"] + ["none"] * 8
        for _ in range(3):
            machine.khugepaged.scan()
        assert {pmd(mm, a) for a in second.addresses("2MiB")} == {"none"}


@pytest.mark.parametrize("era", ERAS)
def test_khugepaged_collapses_everything_once_nobody_interferes(era: str) -> None:
    # G-47: bounded passes.
    with new_machine(era, memory="256MiB") as machine:
        shm = machine.shmem(10 * EXTENT)
        mms = [machine.mm() for _ in range(3)]
        areas = [mm.mmap(shm) for mm in mms]
        for mm, area in zip(mms, areas, strict=True):
            fill(mm, area)
        for _ in range(6):
            machine.khugepaged.scan()
        assert huge_pages(shm) == list(range(10))
        for mm, area in zip(mms, areas, strict=True):
            assert {pmd(mm, a) for a in area.addresses("2MiB")} <= {"none", "huge"}
            mm.touch(area.addresses("2MiB"))
            assert {pmd(mm, a) for a in area.addresses("2MiB")} == {"huge"}


def test_khugepaged_heals_what_mprotect_took_apart() -> None:
    with new_machine() as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem(EXTENT))
        fill(mm, area)
        collapse(mm, area)
        mm.mprotect(area.start, PAGE, "r")
        mm.touch(area.addresses())
        mm.mprotect(area.start, PAGE, "rw")
        mm.touch(area.addresses(), write=True)
        assert (len(mm.vmas()), pmd(mm, area.start)) == (1, "table")
        before = machine.ledger()
        machine.khugepaged.scan()
        d = machine.ledger() - before
        assert d["mmap_lock.write"] == 0
        assert pmd(mm, area.start) == "none"
        mm.touch(area.start)
        assert pmd(mm, area.start) == "huge"


# ---- results, errno, contents -------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_success_means_huge(era: str) -> None:
    # G-41, in all three states that a mapping can be in.
    with new_machine(era) as machine:
        shm = machine.shmem(EXTENT)
        shm.write(0, bytes(range(256)) * (EXTENT // 256))
        mm = machine.mm()
        mm.touch(mm.mmap(length=PAGE).start, write=True)  # so that there is a PMD page
        for state in ("none", "table", "huge"):
            area = mm.mmap(shm)
            if state != "none":
                mm.touch(area.addresses())
            collapse(mm, area)
            assert pmd(mm, area.start) == "huge"
            assert mm.read(area.start, EXTENT) == shm.read(0, EXTENT)
        assert shm.read(0, EXTENT) == bytes(range(256)) * (EXTENT // 256)


@pytest.mark.parametrize("era", ERAS)
def test_errno(era: str) -> None:
    with new_machine(era) as machine:
        mm = machine.mm()
        shm = machine.shmem(4 * EXTENT)
        area = mm.mmap(shm)

        def fails(addr: int, length: int) -> int:
            with pytest.raises(OSError, match=r"MADV_COLLAPSE|multiple") as info:
                mm.madvise(addr, length, MADV_COLLAPSE)
            assert info.value.errno is not None
            return info.value.errno

        assert (
            fails(area.start, EXTENT) == errno.EINVAL
        )  # no page of the extent is cached (truncated)
        assert fails(area.start + 1, EXTENT) == errno.EINVAL
        fill(mm, area)
        # A range without a whole extent: nothing to do if it touches a border, an error if not even that.
        mm.madvise(area.start + EXTENT - PAGE, 2 * PAGE, MADV_COLLAPSE)
        assert fails(area.start + PAGE, PAGE) == errno.EINVAL
        private = mm.mmap(length=EXTENT, shared=False)
        mm.touch(private.addresses())  # zero pages alone: no anon_vma, and nothing to collapse
        assert fails(private.start, EXTENT) == errno.EINVAL
        odd = mm.mmap(shm, offset=PAGE, length=2 * EXTENT)
        assert fails(pgtbl.PMD_SIZE * -(-odd.start // EXTENT), EXTENT) == errno.EINVAL  # misaligned
        assert fails(1 << 45, EXTENT) == errno.ENOMEM  # nothing is mapped
        mm.munmap(area.start + EXTENT, EXTENT)
        assert (
            fails(area.start, 3 * EXTENT) == errno.ENOMEM
        )  # a hole: the rest is collapsed all the same
        assert [pmd(mm, area.start + i * EXTENT) for i in (0, 2)] == ["huge", "huge"]
        mm.munmap(area.start, EXTENT)


@pytest.mark.parametrize("era", ERAS)
def test_no_huge_page_is_left(era: str) -> None:
    with new_machine(era, memory="16MiB") as machine:
        mm = machine.mm()
        shm = machine.shmem(7 * EXTENT)
        area = mm.mmap(shm)
        fill(mm, area)
        text = shm.read(0, 4096)
        with pytest.raises(OSError, match="MADV_COLLAPSE") as info:
            collapse(mm, area)
        assert info.value.errno == errno.ENOMEM
        assert shm.read(0, 4096) == text
        assert huge_pages(shm) == []
        shm.truncate(EXTENT)
        mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
        assert huge_pages(shm) == [0]


def test_a_missing_extent_stops_the_rest() -> None:
    # Truncated is not one of the failures after which the next extent is tried.
    with new_machine() as machine:
        mm = machine.mm()
        shm = machine.shmem(3 * EXTENT)
        area = mm.mmap(shm)
        fill(mm, area)
        shm.punch(EXTENT, EXTENT)
        with pytest.raises(OSError, match="MADV_COLLAPSE") as info:
            collapse(mm, area)
        assert info.value.errno == errno.EINVAL
        assert huge_pages(shm) == [0]
        assert pmd(mm, area.start + 2 * EXTENT) == "table"


@pytest.mark.parametrize("era", ERAS)
def test_a_private_copy_prevents_the_collapse_and_survives(era: str) -> None:
    with new_machine(era) as machine:
        mm = machine.mm()
        shm = machine.shmem(EXTENT)
        shm.write(0, b"of the file" * 1000)
        private = mm.mmap(shm, shared=False)
        mm.touch(private.addresses())
        mm.write(private.start + 7 * PAGE, b"my own copy")
        rss = mm.rss
        with pytest.raises(OSError, match="MADV_COLLAPSE") as info:
            collapse(mm, private)
        assert info.value.errno == errno.EINVAL
        # The file's page became huge; the mapping stays small, with the copy in it (G-13).
        assert huge_pages(shm) == [0]
        assert pmd(mm, private.start) == "table"
        assert mm.rss["anon"] == rss["anon"] == 1
        mm.touch(private.addresses())
        assert mm.read(private.start + 7 * PAGE, 11) == b"my own copy"
        assert mm.read(private.start, 11) == b"of the file"
        # Punching the file leaves the copy, too; truncating it does not.
        shm.punch(0, EXTENT)
        assert mm.read(private.start + 7 * PAGE, 11) == b"my own copy"
        assert mm.read(private.start, 11) == bytes(11)
        shm.truncate(0)
        with pytest.raises(pgtbl.BusError):
            mm.read(private.start + 7 * PAGE, 11)
        assert mm.rss["anon"] == 0


@pytest.mark.parametrize("era", ERAS)
def test_a_write_to_a_huge_private_mapping_takes_it_apart(era: str) -> None:
    with new_machine(era) as machine:
        mm = machine.mm()
        shm = machine.shmem(EXTENT)
        shm.write(0, bytes(range(256)) * (EXTENT // 256))
        private = mm.mmap(shm, shared=False)
        mm.touch(private.start)
        collapse(mm, private)
        assert pmd(mm, private.start) == "huge"
        mm.write(private.start + 9 * PAGE, b"mine")
        assert pmd(mm, private.start) == "table"
        assert shm.read(9 * PAGE, 4) == bytes([0, 1, 2, 3])
        assert mm.read(private.start + 9 * PAGE, 8) == b"mine" + bytes([4, 5, 6, 7])
        assert mm.read(private.start + 10 * PAGE, 4) == bytes([0, 1, 2, 3])


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("huge", [False, True])
def test_truncate_and_punch(era: str, huge: bool) -> None:
    with new_machine(era) as machine:
        mm = machine.mm()
        shm = machine.shmem(2 * EXTENT)
        area = mm.mmap(shm)
        data = np.arange(2 * EXTENT // 8, dtype="<u8").tobytes()
        mm.write(area.start, data)
        if huge:
            collapse(mm, area)
        # One page, from the middle: a huge page falls apart, and everything else stays.
        shm.punch(3 * PAGE, PAGE)
        expected = data[: 3 * PAGE] + bytes(PAGE) + data[4 * PAGE :]
        assert mm.read(area.start, 2 * EXTENT) == expected
        assert huge_pages(shm) == ([1] if huge else [])
        # Part of a page is zeroed in place.
        shm.punch(EXTENT + 100, 200)
        expected = expected[: EXTENT + 100] + bytes(200) + expected[EXTENT + 300 :]
        assert shm.read(0, 2 * EXTENT) == mm.read(area.start, 2 * EXTENT) == expected
        # Behind the end there is nothing; the rest of the last page is zeroes, also after growing again.
        end = EXTENT + 5 * PAGE + 40
        shm.truncate(end)
        assert mm.read(area.start, end) == expected[:end]
        assert mm.read(area.start + end, PAGE - 40) == bytes(PAGE - 40)
        with pytest.raises(pgtbl.BusError):
            mm.touch(area.start + EXTENT + 6 * PAGE)
        shm.truncate(2 * EXTENT)
        assert shm.read(end, EXTENT - 5 * PAGE - 40) == bytes(EXTENT - 5 * PAGE - 40)
        assert mm.read(area.start, 2 * EXTENT) == expected[:end] + bytes(2 * EXTENT - end)
        machine.check()


@pytest.mark.parametrize("era", ERAS)
def test_bus_error_beyond_the_end(era: str) -> None:
    with new_machine(era) as machine:
        mm = machine.mm()
        shm = machine.shmem(EXTENT + 3 * PAGE)
        area = mm.mmap(shm, length=2 * EXTENT)
        fill_to = area.addresses()[: PAGES + 3]
        mm.touch(fill_to, write=True)
        for page in (PAGES + 3, 2 * PAGES - 1):
            for write in (False, True):
                with pytest.raises(pgtbl.BusError):
                    mm.touch(area.start + page * PAGE, write=write)
        assert machine.ledger()["fault.bus"] == 4
        assert len(shm.pages()) == PAGES + 3
        mm.madvise(area.start, EXTENT, MADV_COLLAPSE)
        shm.truncate(0)
        with pytest.raises(pgtbl.BusError):
            mm.touch(area.start)


@pytest.mark.parametrize("era", ERAS)
def test_holes_become_zeroes(era: str) -> None:
    with new_machine(era) as machine:
        mm = machine.mm()
        shm = machine.shmem(EXTENT)
        area = mm.mmap(shm)
        for page in (0, 17, 511):
            mm.write(area.start + page * PAGE, b"data")
        collapse(mm, area)
        data = np.frombuffer(shm.read(0, EXTENT), dtype=np.uint8).reshape(PAGES, PAGE)
        assert np.flatnonzero(data.any(axis=1)).tolist() == [0, 17, 511]
        row = shm.pages()[0]
        assert (row["huge"], row["refcount"], row["mapcount"]) == (1, PAGES + 1, 1)


@pytest.mark.parametrize("era", ERAS)
def test_the_limit_on_holes_is_khugepageds(era: str) -> None:
    with new_machine(era) as machine:
        mm = machine.mm()
        shm = machine.shmem(EXTENT)
        area = mm.mmap(shm)
        mm.touch(area.addresses()[:100], write=True)
        machine.khugepaged.max_ptes_none = PAGES - 101
        machine.khugepaged.scan()
        assert huge_pages(shm) == []
        machine.khugepaged.max_ptes_none = PAGES - 100
        machine.khugepaged.scan()
        assert huge_pages(shm) == [0]


@pytest.mark.parametrize("era", ERAS)
def test_dontneed_of_a_huge_mapping_loses_nothing(era: str) -> None:
    with new_machine(era) as machine:
        mm = machine.mm()
        shm = machine.shmem(EXTENT)
        area = mm.mmap(shm)
        mm.write(area.start + 12345, b"here")
        collapse(mm, area)
        mm.madvise(area.start + 5 * PAGE, PAGE, MADV_DONTNEED)
        assert pmd(mm, area.start) == "none"
        assert mm.read(area.start + 12345, 4) == b"here"
        assert pmd(mm, area.start) == "huge"


def test_accounting_of_a_collapse() -> None:
    # A4: references, map counts and rss of 512 PTEs against one PMD, and page-table bytes.
    with new_machine() as machine:
        mm = machine.mm()
        shm = machine.shmem(EXTENT)
        area = mm.mmap(shm)
        fill(mm, area)
        assert mm.rss == {"file": 0, "anon": 0, "shmem": PAGES}
        assert {(int(r["refcount"]), int(r["mapcount"])) for r in shm.pages()} == {(2, 1)}
        tables = machine.ledger()["table.pte.allocated"]
        collapse(mm, area)
        assert mm.rss == {"file": 0, "anon": 0, "shmem": PAGES}
        assert [(int(r["refcount"]), int(r["mapcount"])) for r in shm.pages()] == [(PAGES + 1, 1)]
        assert machine.ledger()["table.pte.allocated"] == tables
        rows = mm.pagemap(area)
        assert len(rows) == PAGES
        assert rows["huge"].all()
        assert len(np.unique(rows["pfn"])) == PAGES
