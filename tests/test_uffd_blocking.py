"""userfaultfd with faults that wait: for a thread that resolves them, for a close, for Ctrl-C; and the events."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pgtbl

PAGE = 4096
EXTENT = 2 << 20
PATIENCE = 20
A_WHILE = 0.15
EVENTS = ("EVENT_FORK", "EVENT_REMAP", "EVENT_REMOVE", "EVENT_UNMAP")


@pytest.fixture(params=["v6.4", "v6.6", "v6.18"])
def machine(request: pytest.FixtureRequest) -> Iterator[pgtbl.Machine]:
    with pgtbl.Machine(era=request.param, memory="64MiB") as it:
        yield it
        it.check()


@pytest.fixture
def newest() -> Iterator[pgtbl.Machine]:
    with pgtbl.Machine(era="v6.18", memory="64MiB") as it:
        yield it
        it.check()


class Call:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call, self.result, self.error = call, None, None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:  # noqa: BLE001 - handed to who waits
            self.error = error

    def done(self, timeout: float = PATIENCE) -> bool:
        self.thread.join(timeout)
        return not self.thread.is_alive()

    def join(self) -> Any:
        assert self.done(), "the thread does not come back"
        if self.error is not None:
            raise self.error
        return self.result


def sleeps(uffd: Any, n: int = 1) -> None:
    end = time.monotonic() + PATIENCE
    while uffd.waiting != n:
        assert time.monotonic() < end, f"{uffd.waiting} faults wait, not {n}"
        time.sleep(0.002)


def read(uffd: Any) -> Any:
    message = uffd.read(PATIENCE)
    assert message is not None, "nothing was told"
    return message


def fails(number: int) -> Any:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def anon(mm: Any, pages: int = 512, at: int | None = None) -> Any:
    named = {} if at is None else {"addr": at, "fixed": True}
    return mm.mmap(length=pages * PAGE, prot="rw", shared=False, **named)


# ---- faults that wait ---------------------------------------------------------------------------


@pytest.mark.parametrize("write", [False, True])
def test_a_missing_page_is_waited_for(machine: Any, write: bool) -> None:
    mm = machine.mm()
    area = anon(mm)
    before = machine.ledger()["fault.userfault"]
    with mm.userfaultfd() as uffd:
        uffd.register(area, None, ["missing"])
        at = area.start + 3 * PAGE
        fault = Call(lambda: mm.touch(at + 16, write=write))
        message = read(uffd)
        assert isinstance(message, pgtbl.UffdPagefault)
        assert (message.address, message.kind, message.write) == (at, "missing", write)
        assert message.thread_id == 0
        assert not fault.done(A_WHILE)
        uffd.copy(at, np.full(512, 7, np.uint64))
        fault.join()
        assert mm.load(at + 8) == 7
        assert uffd.read(0) is None
    assert machine.ledger()["fault.userfault"] == before + 1


def test_a_minor_fault_waits_for_continue(machine: Any) -> None:
    mm, file = machine.mm(), machine.shmem(EXTENT)
    area = mm.mmap(file)
    file.write(0, b"x" * PAGE)
    uffd = mm.userfaultfd(["EXACT_ADDRESS", "THREAD_ID"])
    uffd.register(area, None, ["minor"])
    tids: list[int] = []
    fault = Call(lambda: (tids.append(threading.get_native_id()), mm.read(area.start + 5, 1)))
    message = read(uffd)
    assert (message.address, message.kind) == (area.start + 5, "minor")
    assert message.thread_id == tids[0]
    uffd.continue_(area.start, PAGE)
    assert fault.join()[1] == b"x"


def test_a_store_to_a_protected_page_waits(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm)
    mm.sweep(area.start, 2, "fill", value=5)
    uffd = mm.userfaultfd()
    uffd.register(area, None, ["wp"])
    uffd.writeprotect(area)
    store = Call(lambda: mm.store(area.start + PAGE, 6))
    message = read(uffd)
    assert (message.address, message.kind, message.write) == (area.start + PAGE, "wp", True)
    assert mm.load(area.start + PAGE) == 5
    uffd.writeprotect(area.start + PAGE, PAGE, on=False)
    store.join()
    assert mm.load(area.start + PAGE) == 6


def test_a_fault_sleeps_without_any_lock(machine: Any) -> None:
    mm, file = machine.mm(), machine.shmem(EXTENT)
    uffd = mm.userfaultfd()
    sleepers = []
    for area in (anon(mm), mm.mmap(file)):
        uffd.register(area, None, ["missing"])
        sleepers.append(Call(lambda at=area.start: mm.touch(at, write=True)))
    sleeps(uffd, 2)
    with mm.mmap_lock.try_write() as got:
        assert got
    other = anon(mm, 4)  # mmap_lock for write, VMAs marked
    mm.mprotect(other.start, other.length, "r")
    for vma in mm.vmas():
        if vma.length == EXTENT:
            uffd.unregister(vma)
    for sleeper in sleepers:
        sleeper.join()


def test_wake_lets_a_fault_try_again(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm)
    uffd = mm.userfaultfd()
    uffd.register(area, None, ["missing"])
    fault = Call(lambda: mm.touch(area.start))
    read(uffd)
    uffd.zeropage(area.start, PAGE, wake=False)
    assert not fault.done(A_WHILE)
    uffd.wake(area.start + PAGE, PAGE)  # another one's
    assert not fault.done(A_WHILE)
    uffd.wake(area)
    fault.join()
    again = Call(lambda: mm.touch(area.start + PAGE))
    read(uffd)
    uffd.wake(area)  # and nothing is there
    assert read(uffd).address == area.start + PAGE
    uffd.zeropage(area.start + PAGE, PAGE)
    again.join()


def test_close_and_unregister_serve_who_waits(machine: Any) -> None:
    mm = machine.mm()
    areas = [anon(mm, 4), mm.mmap(machine.shmem(EXTENT))]
    uffd = mm.userfaultfd()
    for area in areas:
        uffd.register(area, None, ["missing"])
    faults = [Call(lambda at=area.start: mm.touch(at)) for area in areas]
    sleeps(uffd, 2)
    uffd.unregister(areas[0])
    faults[0].join()
    assert not faults[1].done(A_WHILE)
    uffd.close()
    faults[1].join()


def test_a_userfaultfd_that_nobody_has_is_closed() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        mm = machine.mm()
        area = anon(mm)
        uffd = mm.userfaultfd()
        uffd.register(area, None, ["missing"])
        fault = Call(lambda: mm.touch(area.start))
        sleeps(uffd)
        del uffd
        fault.join()


@pytest.mark.parametrize("what", ["mm", "machine"])
def test_close_ends_a_wait(what: str) -> None:
    machine = pgtbl.Machine(memory="64MiB")
    mm = machine.mm()
    area = anon(mm)
    uffd = mm.userfaultfd()
    uffd.register(area, None, ["missing"])
    waits = [
        Call(lambda: mm.touch(area.start)),
        Call(lambda: mm.madvise(area.start + PAGE, PAGE, pgtbl.MADV_POPULATE_READ)),
        Call(lambda: mm.pin(area.start + 2 * PAGE)),
    ]
    sleeps(uffd, 3)
    waits.append(Call(lambda: [uffd.read() for _ in range(9)]))
    (mm if what == "mm" else machine).close()
    for wait in waits:
        with pytest.raises(pgtbl.ClosedError):
            wait.join()
    assert uffd.closed
    uffd.close()
    with pytest.raises(pgtbl.ClosedError):
        uffd.read(0)
    machine.close()


def test_check_is_not_kept_by_a_reader(machine: Any) -> None:
    uffd = machine.mm().userfaultfd()
    reader = Call(lambda: list(uffd))
    assert not reader.done(A_WHILE)
    machine.check()
    uffd.close()
    assert reader.join() == []


def test_read_gives_up() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        uffd = machine.mm().userfaultfd()
        assert uffd.read(0) is None
        before = time.monotonic()
        assert uffd.read(timeout=0.1) is None
        assert time.monotonic() >= before + 0.1
        with pytest.raises(ValueError, match="timeout"):
            uffd.read(-1)
        reader = Call(uffd.read)
        uffd.close()
        with pytest.raises(pgtbl.ClosedError):
            reader.join()


class Rang(Exception):
    pass


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


WAITS: dict[str, Callable[[Any, Any, int], Any]] = {
    "touch": lambda mm, _uffd, at: mm.touch(at),
    "touch many": lambda mm, _uffd, at: mm.touch(np.array([at, at + PAGE])),
    "read bytes": lambda mm, _uffd, at: mm.read(at, 1),
    "sweep": lambda mm, _uffd, at: mm.sweep(at, 1, "read"),
    "pin": lambda mm, _uffd, at: mm.pin(at),
    "populate": lambda mm, _uffd, at: mm.madvise(at, PAGE, pgtbl.MADV_POPULATE_WRITE),
    "mlock": lambda mm, _uffd, at: mm.mlock(at, PAGE),
    "read": lambda _mm, uffd, _at: uffd.read(),
    "munmap": lambda mm, _uffd, at: mm.munmap(at, PAGE),
    "fork": lambda mm, _uffd, _at: mm.fork(),
    "mremap": lambda mm, _uffd, at: mm.mremap(
        at, PAGE, PAGE, maymove=True, fixed=True, to=64 * EXTENT
    ),
    "dontneed": lambda mm, _uffd, at: mm.madvise(at, PAGE, pgtbl.MADV_DONTNEED),
}


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(),
    reason="signals are the main thread's",
)
@pytest.mark.parametrize("wait", WAITS)
def test_a_signal_ends_a_wait(newest: Any, wait: str) -> None:
    mm = newest.mm()
    area = anon(mm)
    uffd = mm.userfaultfd(EVENTS)
    uffd.register(area, None, ["missing"])
    with pytest.raises(Rang), alarm(0.05):
        WAITS[wait](mm, uffd, area.start)
    assert uffd.waiting == 0
    # Nothing is left behind: the next fault is told, and served.
    here = area.start + 9 * PAGE
    fault = Call(lambda: mm.touch(here))
    assert read(uffd).address == here
    uffd.zeropage(here, PAGE)
    fault.join()


def test_a_fault_on_bad_ground_does_not_wait(machine: Any) -> None:
    mm = machine.mm()
    area = mm.mmap(length=4 * PAGE, prot="r", shared=False)
    uffd = mm.userfaultfd()
    uffd.register(area, None, ["missing"])
    with pytest.raises(pgtbl.SegmentationFault):
        mm.touch(area.start, write=True)
    file = machine.shmem(PAGE)
    beyond = mm.mmap(file, length=2 * PAGE)
    uffd.register(beyond, None, ["missing"])
    with pytest.raises(pgtbl.BusError):
        mm.touch(beyond.start + PAGE)


# ---- POISON, MOVE -------------------------------------------------------------------------------


def test_poison() -> None:
    with pgtbl.Machine(era="v6.6", memory="64MiB") as machine:
        mm = machine.mm()
        area = anon(mm)
        mm.store(area.end - PAGE, 1)  # without a private page fork copies nothing
        uffd = mm.userfaultfd(["POISON"])
        uffd.register(area, None, ["missing"])
        fault = Call(lambda: mm.touch(area.start))
        read(uffd)
        uffd.poison(area.start, PAGE)
        with pytest.raises(pgtbl.BusError, match="poison"):
            fault.join()
        child = mm.fork()
        for one in (mm, child):
            with pytest.raises(pgtbl.BusError, match="poison"):
                one.store(area.start, 1)
        with fails(errno.EEXIST):
            uffd.zeropage(area.start, PAGE)
        mm.madvise(area.start, PAGE, pgtbl.MADV_DONTNEED)
        uffd.zeropage(area.start, PAGE)
        with fails(errno.EEXIST):
            uffd.poison(area.start, PAGE)
        machine.check()
    with pgtbl.Machine(era="v6.5", memory="64MiB") as machine:
        mm = machine.mm()
        uffd, area = mm.userfaultfd(), anon(mm)
        uffd.register(area, None, ["missing"])
        with fails(errno.EINVAL):
            uffd.poison(area)
        with fails(errno.EINVAL):
            mm.userfaultfd(["POISON"])


def test_move(newest: Any) -> None:
    mm = newest.mm()
    source, target = anon(mm, 512, EXTENT), anon(mm, 512, 8 * EXTENT)
    for page in range(4):
        mm.store(source.start + page * PAGE, 100 + page)
    uffd = mm.userfaultfd()
    uffd.register(target, None, ["missing"])
    frames = mm.pagemap(source)["pfn"].tolist()
    fault = Call(lambda: mm.load(target.start))
    read(uffd)
    uffd.move(target.start, source.start, 2 * PAGE)
    assert fault.join() == 100
    assert mm.pagemap(target)["pfn"].tolist() == frames[:2]
    assert mm.pagemap(source)["pfn"].tolist() == frames[2:]
    mm.store(target.start, 1)
    assert mm.load(source.start) == 0
    mm.touch(source.start + 4 * PAGE)  # the zero page
    mm.store(target.start + PAGE, 2)
    with fails(errno.EEXIST):
        uffd.move(target.start, source.start + 2 * PAGE, PAGE)
    with fails(errno.ENOENT):
        uffd.move(target.start + 9 * PAGE, source.start + 9 * PAGE, PAGE)
    uffd.move(target.start + 3 * PAGE, source.start + 3 * PAGE, 9 * PAGE, allow_holes=True)
    assert mm.load(target.start + 3 * PAGE) == 103
    mm.store(target.start + 4 * PAGE, 3)
    child = mm.fork()
    with fails(errno.EBUSY):
        uffd.move(target.start + 20 * PAGE, source.start + 2 * PAGE, PAGE)
    child.close()
    mm.store(source.start + 2 * PAGE, 5)  # the program's alone again
    with mm.pin(source.start + 2 * PAGE, kind="pin"), fails(errno.EBUSY):
        uffd.move(target.start + 20 * PAGE, source.start + 2 * PAGE, PAGE)
    uffd.move(target.start + 20 * PAGE, source.start + 2 * PAGE, PAGE)
    assert mm.load(target.start + 20 * PAGE) == 5
    # The rmap knows the page by its new place.
    mm.madvise(target.start, EXTENT, pgtbl.MADV_COLD)
    newest.check()


def test_move_of_huge_pages() -> None:
    with pgtbl.Machine(era="v6.18", memory="96MiB", thp="always") as machine:
        mm = machine.mm()
        source = anon(mm, 1024, 2 * EXTENT)
        target = mm.mmap(length=2 * EXTENT, shared=False, addr=16 * EXTENT, fixed=True)
        for page in range(0, 1024, 64):
            mm.store(source.start + page * PAGE, 1 + page)
        uffd = mm.userfaultfd()
        uffd.register(target, None, ["missing"])
        uffd.move(target.start, source.start, EXTENT)
        uffd.move(
            target.start + EXTENT, source.start + EXTENT, 100 * PAGE
        )  # of one that is split for it
        assert mm.pagemap(target)["huge"].sum() == 512
        for page in range(0, 612, 64):
            assert mm.load(target.start + page * PAGE) == 1 + page
        assert mm.load(source.start + EXTENT + 128 * PAGE) == 1 + 512 + 128
        assert mm.rss["anon"] == 512 + 8  # pages of zeroes that a split leaves are given up
        machine.check()


def test_what_cannot_be_moved(newest: Any) -> None:
    mm = newest.mm()
    source, target = anon(mm), anon(mm)
    shared = mm.mmap(newest.shmem(EXTENT))
    uffd = mm.userfaultfd()
    with fails(errno.EINVAL):
        uffd.move(target.start, source.start, PAGE)  # not registered
    uffd.register(target, None, ["missing"])
    for to, start, n in (
        (target.start, shared.start, PAGE),
        (target.start, target.start, PAGE),
        (target.start + 1, source.start, PAGE),
        (target.start, source.start, 0),
        (target.end - PAGE, source.start, 2 * PAGE),
    ):
        with fails(errno.EINVAL):
            uffd.move(to, start, n)
    with fails(errno.ENOENT):
        uffd.move(target.start, 3 * EXTENT, PAGE)
    with pgtbl.Machine(era="v6.6", memory="64MiB") as older:
        other = older.mm()
        uffd, area = other.userfaultfd(), anon(other)
        uffd.register(area, None, ["missing"])
        with fails(errno.EINVAL):
            uffd.move(area.start, area.start + PAGE, PAGE)


# ---- events -------------------------------------------------------------------------------------


def test_fork_is_told_and_the_child_has_its_own(machine: Any) -> None:
    mm = machine.mm()
    area, shared = anon(mm), mm.mmap(machine.shmem(EXTENT))
    mm.store(area.start, 5)
    mm.store(shared.start, 6)
    uffd = mm.userfaultfd(["EVENT_FORK"])
    uffd.register(area, None, ["missing", "wp"])
    uffd.register(shared, None, ["wp"])
    uffd.writeprotect(area.start, PAGE)
    uffd.writeprotect(shared.start, PAGE)
    uffd.writeprotect(shared.start + 9 * PAGE, PAGE)
    fork = Call(mm.fork)
    message = read(uffd)
    assert isinstance(message, pgtbl.UffdFork)
    child = fork.join()
    theirs = message.uffd
    assert theirs.mm is child
    assert theirs.features == uffd.features
    for at in (area.start, shared.start, shared.start + 9 * PAGE):
        store = Call(lambda at=at: child.store(at, 7))
        said = read(theirs)
        assert (said.address, said.kind) == (at, "wp")
        theirs.writeprotect(at, PAGE, on=False)
        store.join()
    assert mm.load(area.start) == 5
    missing = Call(lambda: child.touch(area.start + 9 * PAGE))
    assert read(theirs).kind == "missing"
    theirs.close()
    missing.join()
    assert uffd.read(0) is None


def test_a_fork_that_is_not_followed_is_not_told(newest: Any) -> None:
    mm = newest.mm()
    area = anon(mm)
    uffd = mm.userfaultfd()
    uffd.register(area, None, ["missing"])
    child = mm.fork()
    child.touch(area.start)
    assert uffd.read(0) is None


def test_remap_is_told(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm, 8)
    mm.store(area.start, 5)
    uffd = mm.userfaultfd(["EVENT_REMAP"])
    uffd.register(area, None, ["missing", "wp"])
    uffd.writeprotect(area.start, PAGE)
    to = 64 * EXTENT
    move = Call(lambda: mm.mremap(area.start, 8 * PAGE, 8 * PAGE, maymove=True, fixed=True, to=to))
    match read(uffd):
        case pgtbl.UffdRemap(old, new, length):
            assert (old, new, length) == (area.start, to, 8 * PAGE)
        case other:
            pytest.fail(f"{other}")
    assert move.join() == to
    store = Call(lambda: mm.store(to, 6))
    assert read(uffd).kind == "wp"
    uffd.writeprotect(to, PAGE, on=False)
    store.join()
    fault = Call(lambda: mm.touch(to + PAGE))
    assert read(uffd).address == to + PAGE
    uffd.zeropage(to + PAGE, PAGE)
    fault.join()


@pytest.mark.parametrize("advice", ["MADV_DONTNEED", "MADV_FREE", "MADV_REMOVE"])
def test_remove_is_told_before_it_happens(machine: Any, advice: str) -> None:
    mm = machine.mm()
    area = mm.mmap(machine.shmem(EXTENT)) if advice == "MADV_REMOVE" else anon(mm)
    mm.store(area.start, 5)
    uffd = mm.userfaultfd(["EVENT_REMOVE"])
    uffd.register(area, None, ["missing"])
    call = Call(lambda: mm.madvise(area.start, 2 * PAGE, getattr(pgtbl, advice)))
    assert not call.done(A_WHILE)
    assert mm.load(area.start) == 5
    with fails(errno.EAGAIN):
        uffd.zeropage(area.start + PAGE, PAGE)
    message = read(uffd)
    assert isinstance(message, pgtbl.UffdRemove)
    assert (message.start, message.end) == (area.start, area.start + 2 * PAGE)
    call.join()
    if advice != "MADV_FREE":
        fault = Call(lambda: mm.load(area.start))
        assert read(uffd).kind == "missing"
        uffd.zeropage(area.start, PAGE)
        assert fault.join() == 0


def test_unmap_is_told_once_a_range(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm, 16)
    uffd = mm.userfaultfd(["EVENT_UNMAP"])
    uffd.register(area, None, ["missing"])
    mm.mprotect(area.start, 4 * PAGE, "r")  # two mappings
    call = Call(lambda: mm.munmap(area.start, 8 * PAGE))
    message = read(uffd)
    assert isinstance(message, pgtbl.UffdUnmap)
    assert (message.start, message.end) == (area.start, area.start + 8 * PAGE)
    call.join()
    overlay = Call(lambda: anon(mm, 4, area.start + 8 * PAGE))
    assert isinstance(read(uffd), pgtbl.UffdUnmap)
    overlay.join()
    assert uffd.read(0) is None


def test_close_ends_the_wait_for_an_event(newest: Any) -> None:
    mm = newest.mm()
    area = anon(mm, 16)
    uffd = mm.userfaultfd(EVENTS)
    uffd.register(area, None, ["missing"])
    fork = Call(mm.fork)
    assert not fork.done(A_WHILE)
    uffd.close()
    child = fork.join()
    child.touch(area.start)  # nobody could serve it
    mm.munmap(area)


# ---- handlers -----------------------------------------------------------------------------------


def test_a_pager_in_python(machine: Any) -> None:
    mm = machine.mm()
    area = anon(mm, 64)
    stored = {page: np.full(512, 1000 + page, np.uint64) for page in range(64)}
    uffd = mm.userfaultfd(EVENTS)
    uffd.register(area, None, ["missing"])

    def pager() -> int:
        served = 0
        for message in uffd:
            if not isinstance(message, pgtbl.UffdPagefault):
                continue
            with contextlib.suppress(OSError):  # two threads, one page
                uffd.copy(message.address, stored[(message.address - area.start) // PAGE])
                served += 1
            with contextlib.suppress(pgtbl.ClosedError):  # every reader had its page already
                uffd.wake(message.address, PAGE)
        return served

    serving = Call(pager)
    order = np.random.default_rng(1).permutation(64)
    readers = [
        Call(lambda step=step: [mm.load(area.start + int(p) * PAGE) for p in order[::step]])
        for step in (1, -1, 1)
    ]
    for reader, step in zip(readers, (1, -1, 1), strict=True):
        assert reader.join() == [1000 + int(p) for p in order[::step]]
    uffd.close()
    assert serving.join() == 64


def test_the_server_of_the_laboratory(machine: Any) -> None:
    mm, file = machine.mm(), machine.shmem(EXTENT)
    area, shared = anon(mm), mm.mmap(file)
    file.write(0, b"y" * 4 * PAGE)
    uffd = mm.userfaultfd(["EVENT_REMOVE"])
    uffd.register(area, None, ["missing", "wp"])
    uffd.register(shared, None, ["minor", "missing"])
    with uffd.serve(word=9) as server:
        assert server.running
        mm.touch(area.addresses())
        assert mm.load(area.start + 7 * PAGE + 8) == 9
        assert mm.read(shared.start, 1) == b"y"
        assert mm.load(shared.start + 9 * PAGE) == 9
        uffd.writeprotect(area)
        mm.store(area.start, 1)
        mm.madvise(area.start, PAGE, pgtbl.MADV_DONTNEED)
        assert mm.load(area.start) == 9
        assert server.served >= 512 + 2 + 1 + 1
        with pytest.raises(pgtbl.UsageError, match="already"):
            uffd.serve()
    assert not server.running
    fault = Call(lambda: mm.touch(shared.start + 20 * PAGE))
    sleeps(uffd)
    with uffd.serve():
        fault.join()
    with pytest.raises(ValueError, match="word"):
        uffd.serve(-1)
    followed = mm.userfaultfd(["EVENT_FORK"])
    with pytest.raises(pgtbl.UsageError, match="EVENT_FORK"):
        followed.serve()


def test_a_server_needs_a_cpu_and_ends_with_its_machine() -> None:
    with pgtbl.Machine(memory="64MiB", cpus=1) as machine:
        mm = machine.mm()
        uffd = mm.userfaultfd()
        with pytest.raises(pgtbl.UsageError, match="cpus"):
            uffd.serve()
    machine = pgtbl.Machine(memory="64MiB")
    mm = machine.mm()
    uffd = mm.userfaultfd()
    server = uffd.serve()
    before = threading.active_count()
    machine.close()
    assert not server.running
    server.stop()
    assert threading.active_count() == before


def test_words_of_the_objects(newest: Any) -> None:
    mm = newest.mm()
    uffd = mm.userfaultfd(["EVENT_REMAP"])
    assert "Userfaultfd of mm" in repr(uffd)
    assert uffd.mm is mm
    area = anon(mm)
    uffd.register(area, None, ["missing"])
    fault = Call(lambda: mm.touch(area.start))
    message = read(uffd)
    assert repr(message) == f"<pgtbl.UffdPagefault missing read at {area.start}>"
    match message:
        case pgtbl.UffdPagefault(address, kind, write):
            assert (address, kind, write) == (area.start, "missing", False)
    assert isinstance(message, pgtbl.UffdMessage)
    uffd.close()
    fault.join()
    assert repr(uffd).endswith("closed>")
    with pytest.raises(pgtbl.ClosedError):
        uffd.waiting  # noqa: B018
