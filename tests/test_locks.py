"""SpinLock and RwSem: exclusion, queueing as in the kernel's rwsem, misuse, and the lock-order hooks."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pgtbl import _core, _torture
from pgtbl.errors import ClosedError, UsageError

SpinLock = _core.SpinLock
RwSem = _core.RwSem


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.001)


class Background:
    """Runs a function in a thread; join() raises what it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.error: Exception | None = None
        self.result: Any = None
        self.function = function
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        try:
            self.result = self.function()
        except Exception as error:  # noqa: BLE001 - join() raises it again
            self.error = error

    @property
    def done(self) -> bool:
        return not self.thread.is_alive()

    def join(self, seconds: float = 20) -> Any:
        self.thread.join(seconds)
        assert self.done, "the thread does not come back"
        if self.error is not None:
            raise self.error
        return self.result


class Holder:
    """A thread that enters a section, and stays inside until it is told to leave."""

    def __init__(self, section: AbstractContextManager[Any]) -> None:
        self.inside = threading.Event()
        self.leave = threading.Event()
        self.section = section
        self.background = Background(self.run)

    def run(self) -> None:
        with self.section:
            self.inside.set()
            self.leave.wait(30)

    def wait(self) -> Holder:
        assert self.inside.wait(20)
        return self

    def end(self) -> None:
        self.leave.set()
        self.background.join()


# ---- exclusion, in C++ threads -------------------------------------------------------------------


@pytest.mark.sanitize
@pytest.mark.parametrize("module", [_core, _torture], ids=["real", "torture"])
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("locks", [1, 64])
def test_spinlocks_exclude(module: Any, threads: int, locks: int, seed: int) -> None:
    # More threads than cores must get on, too: whoever holds the lock may not be running.
    done = module.lock_stress(
        "spin", threads=threads, locks=locks, milliseconds=80, try_percent=20, seed=seed
    )
    assert done["torn"] == 0
    assert done["lost"] == 0
    assert done["writes"] > 100
    assert done["acquired_write"] == done["writes"]
    assert done["failed"] == done["failed_tries"]
    assert done["breaches"] == 0
    assert done["wait_ns"] == 0 or done["contended"] > 0


@pytest.mark.sanitize
@pytest.mark.parametrize("module", [_core, _torture], ids=["real", "torture"])
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("write_percent", [1, 30, 100])
def test_semaphores_exclude(module: Any, threads: int, write_percent: int, seed: int) -> None:
    done = module.lock_stress(
        "rwsem",
        threads=threads,
        milliseconds=80,
        inside=20,
        outside=20,
        write_percent=write_percent,
        try_percent=10,
        seed=seed,
    )
    assert done["torn"] == 0
    assert done["lost"] == 0
    assert done["reads"] + done["writes"] > 0  # how many is up to the machine
    assert done["acquired_write"] == done["writes"]
    assert done["acquired_read"] == done["reads"]
    assert done["failed"] == done["failed_tries"]
    assert done["breaches"] == 0


@pytest.mark.sanitize
def test_downgrades_exclude_writers(seed: int) -> None:
    done = _core.lock_stress(
        "rwsem", threads=4, milliseconds=150, write_percent=40, downgrade_percent=100, seed=seed
    )
    assert done["torn"] == 0
    assert done["lost"] == 0
    assert done["writes"] > 50
    # As the kernel's tracepoint has it: a downgrade is a read acquisition.
    assert done["acquired_read"] == done["reads"] + done["writes"]


@pytest.mark.stress
def test_no_semaphore_thread_starves(seed: int) -> None:
    done = _core.lock_stress("rwsem", threads=4, milliseconds=1000, write_percent=30, seed=seed)
    assert done["least"] > 0


@pytest.mark.sanitize
def test_a_writer_gets_in_among_readers() -> None:
    # std::shared_mutex does not let it in until the readers stop.
    out = _core.lock_starve(readers=4, milliseconds=600)
    assert len(out["wait_ns"]) >= 3
    assert out["reads"] > 1000


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "mutex"}, "'mutex' is unknown: 'spin' and 'rwsem'"),
        ({"kind": "spin", "threads": 0}, "threads 0 is out of range: 1 to 256"),
        ({"kind": "spin", "locks": 0}, "locks 0"),
        ({"kind": "rwsem", "write_percent": 101}, "write_percent 101"),
        ({"kind": "rwsem", "milliseconds": 0}, "milliseconds 0"),
    ],
)
def test_stress_refuses(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _core.lock_stress(**arguments)


# ---- SpinLock ------------------------------------------------------------------------------------


def test_spinlock_basics() -> None:
    lock = SpinLock()
    assert not lock.locked
    assert lock.acquire() is True
    assert lock.locked
    lock.release()
    with lock as same:
        assert same is lock
        assert lock.locked
    assert not lock.locked
    stats = lock.stats()
    assert set(stats) == {"lock", "lock.contended", "lock.failed", "lock.wait_ns", "lock.held_ns"}
    assert stats["lock"] == 2
    assert stats["lock.contended"] == stats["lock.failed"] == stats["lock.wait_ns"] == 0
    assert stats["lock.held_ns"] > 0


def test_spinlock_waits_and_counts() -> None:
    lock = SpinLock()
    holder = Holder(lock).wait()
    assert lock.acquire(blocking=False) is False
    waiter = Background(lock.acquire)
    time.sleep(0.05)
    assert not waiter.done
    holder.end()
    assert waiter.join() is True
    stats = lock.stats()
    assert stats["lock"] == 2
    assert stats["lock.failed"] == 1
    assert stats["lock.contended"] == 1
    assert stats["lock.wait_ns"] > 10_000_000


@pytest.mark.sanitize
def test_spinlock_protects_python_data() -> None:
    lock = SpinLock()
    total = [0]

    def count() -> None:
        for _ in range(2000):
            with lock:
                total[0] += 1

    threads = [Background(count) for _ in range(8)]
    for thread in threads:
        thread.join(60)
    assert total == [16000]
    assert lock.stats()["lock"] == 16000


def test_spinlock_misuse() -> None:
    lock = SpinLock()
    with pytest.raises(
        UsageError, match="cannot release this SpinLock: this thread does not hold it"
    ):
        lock.release()
    with lock, pytest.raises(UsageError, match="this thread holds the SpinLock already"):
        lock.acquire()
    with lock, pytest.raises(UsageError, match="already"):
        lock.acquire(blocking=False)
    holder = Holder(lock).wait()
    with pytest.raises(UsageError, match=r"cannot release this SpinLock: thread \d+ holds it"):
        lock.release()
    with pytest.raises(UsageError, match=r"cannot close this SpinLock: thread \d+ holds it"):
        lock.close()
    holder.end()
    with pytest.raises(TypeError):
        lock.acquire(1, 2, 3)
    assert not lock.locked


def test_spinlock_released_when_its_section_raises() -> None:
    lock = SpinLock()
    with pytest.raises(ZeroDivisionError), lock:
        _ = 1 / 0
    assert not lock.locked


# ---- RwSem ---------------------------------------------------------------------------------------


def test_semaphore_basics() -> None:
    sem = RwSem()
    with sem.read():
        assert sem.readers == 1
        assert sem.locked
        assert not sem.write_locked
        assert sem.owner is None
    with sem.write():
        assert sem.write_locked
        assert sem.readers == 0
        assert sem.owner == threading.get_native_id()
    assert not sem.locked
    assert sem.owner is None
    assert sem.try_read_lock()
    sem.read_unlock()
    assert sem.try_write_lock()
    sem.write_unlock()
    sem.read_lock()
    sem.read_unlock()
    sem.write_lock()
    sem.write_unlock()
    stats = sem.stats()
    assert stats["rwsem.read"] == 3
    assert stats["rwsem.write"] == 3
    assert stats["rwsem.write.held_ns"] > 0


def test_readers_are_together_writers_alone() -> None:
    sem = RwSem()
    first = Holder(sem.read()).wait()
    second = Holder(sem.read()).wait()
    assert sem.readers == 2
    assert not sem.try_write_lock()
    first.end()
    second.end()
    writer = Holder(sem.write()).wait()
    assert not sem.try_read_lock()
    assert not sem.try_write_lock()
    writer.end()
    assert sem.stats()["rwsem.read.failed"] == 1
    assert sem.stats()["rwsem.write.failed"] == 2


def test_new_readers_queue_behind_a_waiting_writer() -> None:
    sem = RwSem()
    reader = Holder(sem.read()).wait()
    writer = Holder(sem.write())
    wait_until(lambda: sem.contended)
    assert not sem.try_read_lock(), "a try passed the waiting writer"
    late = Holder(sem.read())
    time.sleep(0.1)
    assert not late.inside.is_set(), "a new reader passed the waiting writer"
    assert not writer.inside.is_set()
    reader.end()
    writer.wait()
    assert not late.inside.is_set()
    writer.end()
    late.wait().end()
    assert not sem.locked
    assert not sem.contended


def test_a_write_try_fails_while_somebody_queues() -> None:
    sem = RwSem()
    writer = Holder(sem.write()).wait()
    waiting = Holder(sem.write())
    wait_until(lambda: sem.contended)
    assert not sem.try_write_lock()
    writer.end()
    waiting.wait().end()


def test_waiting_readers_enter_together() -> None:
    sem = RwSem()
    writer = Holder(sem.write()).wait()
    readers = [Holder(sem.read()) for _ in range(4)]
    wait_until(lambda: sem.contended)
    time.sleep(0.1)
    assert not any(reader.inside.is_set() for reader in readers)
    writer.end()
    for reader in readers:  # each stays inside until all are
        reader.wait()
    assert sem.readers == 4
    for reader in readers:
        reader.end()


def test_readers_behind_a_reader_enter_past_a_writer() -> None:
    """The phase is the readers': when the first of the queue reads, all queued readers enter."""
    sem = RwSem()
    writer = Holder(sem.write()).wait()
    first = Holder(sem.read())
    wait_until(lambda: sem.contended)
    time.sleep(0.1)
    second_writer = Holder(sem.write())
    time.sleep(0.1)
    last = Holder(sem.read())
    time.sleep(0.1)
    writer.end()
    first.wait()
    last.wait()
    assert not second_writer.inside.is_set()
    first.end()
    last.end()
    second_writer.wait().end()


def test_downgrade_lets_waiting_readers_in_and_keeps_writers_out() -> None:
    sem = RwSem()
    sem.write_lock()
    reader = Holder(sem.read())
    wait_until(lambda: sem.contended)
    sem.downgrade()
    reader.wait()
    assert sem.readers == 2
    assert Background(sem.try_write_lock).join() is False
    sem.read_unlock()
    reader.end()
    assert sem.stats()["rwsem.read"] == 2
    with pytest.raises(UsageError, match="cannot downgrade this RwSem"):
        sem.downgrade()


def test_semaphore_misuse() -> None:
    sem = RwSem()
    with pytest.raises(
        UsageError, match="cannot release this RwSem for reading: this thread does not hold it"
    ):
        sem.read_unlock()
    with sem.read():
        with pytest.raises(UsageError, match="holds it for reading"):
            sem.write_unlock()
        with pytest.raises(UsageError, match=r"already \(for reading\)"):
            sem.read_lock()
        with pytest.raises(UsageError, match="already"):
            sem.write_lock()
        with pytest.raises(UsageError, match="downgrade"):
            sem.downgrade()
        with pytest.raises(UsageError, match="1 threads hold it for reading"):
            sem.close()
    with sem.write():
        with pytest.raises(UsageError, match="holds it for writing"):
            sem.read_unlock()
        with pytest.raises(UsageError, match="already"):
            sem.try_read_lock()
    writer = Holder(sem.write()).wait()
    with pytest.raises(UsageError, match=r"thread \d+ holds it"):
        sem.read_unlock()
    with pytest.raises(UsageError, match=r"thread \d+ holds it for writing"):
        sem.close()
    writer.end()
    assert not sem.locked


# ---- the end of locks, threads and processes -----------------------------------------------------


def test_closed() -> None:
    lock, sem = SpinLock(), RwSem()
    for thing in (lock, sem):
        thing.close()
        thing.close()
        assert thing.closed
    for call in (lock.acquire, lock.release, sem.read_lock, sem.try_write_lock, sem.write_unlock):
        with pytest.raises(ClosedError, match="is closed"):
            call()
    with pytest.raises(ClosedError), sem.read():
        pass
    assert lock.stats()["lock"] == 0
    assert not sem.locked


@pytest.mark.sanitize
def test_holder_ended() -> None:
    lock, sem, shared = SpinLock(), RwSem(), RwSem()

    def end_inside() -> None:
        lock.acquire()
        sem.write_lock()
        shared.read_lock()

    threading.Thread(target=end_inside).start()
    wait_until(lambda: not lock.locked and not sem.locked and not shared.locked)
    with pytest.raises(
        UsageError, match=r"SpinLock was held by thread \d+, which ended without releasing it"
    ):
        lock.acquire()
    with pytest.raises(UsageError, match="RwSem was held by thread"):
        sem.read_lock()
    with shared.write():  # a reader changes nothing
        pass


def test_waiter_of_an_ended_holder_is_told() -> None:
    sem = RwSem()
    go = threading.Event()

    def end_inside() -> None:
        sem.write_lock()
        go.wait(20)

    thread = threading.Thread(target=end_inside)
    thread.start()
    wait_until(lambda: sem.write_locked)
    waiter = Background(sem.read_lock)
    wait_until(lambda: sem.contended)
    go.set()
    with pytest.raises(UsageError, match="ended without releasing"):
        waiter.join()


def test_lock_collected_while_held() -> None:
    def hold_and_forget() -> None:
        for _ in range(100):
            SpinLock().acquire()
            RwSem().write_lock()
            RwSem().read_lock()

    Background(hold_and_forget).join()
    gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_cannot_use_its_parents_locks() -> None:
    lock, sem = SpinLock(), RwSem()
    holder = Holder(sem.read()).wait()
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            try:
                sem.write_lock()
            except ClosedError:
                code = 2
            try:
                lock.release()
            except ClosedError:
                code += 1
            with SpinLock(), RwSem().write():
                code += 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 4
    lock.release()
    holder.end()


# ---- the lock order (G-31, G-32, G-36) and dead locks (G-3), as checked builds see them -----------------


def lock(*names: str) -> list[tuple[str, str, int]]:
    return [("lock", name, i) for i, name in enumerate(names)]


GOOD = {
    "a fault": lock("mmap_lock.read", "folio_lock", "ptl"),
    "a fault under the VMA lock": lock("vma_lock.read", "folio_lock", "ptl"),
    "marking a VMA": lock("mmap_lock.write", "vma_lock.write"),
    "sleeping once a table is unmapped": [
        ("map", "", 0),
        ("lock", "ptl", 0),
        ("unlock", "ptl", 0),
        ("unmap", "", 0),
        ("sleep", "a folio", 0),
    ],
    "retraction": lock("folio_lock", "i_mmap.read", "pml", "ptl"),
    "collapse_pte_mapped_thp of v6.4": lock(
        "mmap_lock.write", "folio_lock", "vma_lock.write", "i_mmap.write", "pml"
    ),
    "a collapser that tries mmap_lock": [("lock", "folio_lock", 0), ("try", "mmap_lock.write", 0)],
    "two tables of mremap": lock("mmap_lock.write", "ptl", "ptl"),
    "nested under pml": lock("pml", "ptl", "ptl"),
    "pml tried under ptl": [("lock", "ptl", 0), ("try", "pml", 0)],
    "the page cache under ptl": lock("ptl", "page_cache", "allocator"),
    "fork": lock("mmap_lock.write", "mmap_lock.write"),
    "one's own locks in any order": [
        *lock("lock", "rwsem.write", "lock"),
        ("lock", "rwsem.read", 7),
    ],
    "small pages of an extent": [
        *[("try", "folio_lock", i) for i in range(512)],
        ("lock", "ptl", 0),
        ("unlock", "ptl", 0),
        *[("unlock", "folio_lock", i) for i in range(512)],
        ("sleep", "after all", 0),
        *lock("mmap_lock.read"),
    ],
    "sleeping under sleeping locks": [
        *lock("mmap_lock.read", "folio_lock"),
        ("sleep", "a notifier", 0),
    ],
}
BAD = {
    "inverted": (lock("ptl", "pml"), "G-31", "waits for pml while it holds ptl"),
    "mmap_lock under a folio": (
        lock("folio_lock", "mmap_lock.read"),
        "G-36",
        "waits for mmap_lock.read",
    ),
    "mmap_lock for write under a folio": (
        lock("folio_lock", "mmap_lock.write"),
        "G-36",
        "waits for mmap_lock.write",
    ),
    "a VMA's mark under a folio": (
        lock("mmap_lock.write", "folio_lock", "vma_lock.write"),
        "G-36",
        "waits for vma_lock.write",
    ),
    "folio under i_mmap": (lock("i_mmap.read", "folio_lock"), "G-31", "folio_lock"),
    "a third ptl": (lock("pml", "ptl", "ptl", "ptl"), "G-31", "waits for ptl"),
    "the same twice": ([("lock", "ptl", 3), ("lock", "ptl", 3)], "G-31", "that it holds already"),
    "one's own twice": ([("lock", "rwsem.read", 3), ("lock", "rwsem.read", 3)], "G-31", "already"),
    "the other mode": (lock("mmap_lock.read", "mmap_lock.write"), "G-31", "mmap_lock.write"),
    "marking under its own read lock": (
        lock("vma_lock.read", "vma_lock.write"),
        "G-31",
        "vma_lock.write",
    ),
    "waiting after a try": (
        [("lock", "folio_lock", 0), ("try", "mmap_lock.write", 0), ("lock", "vma_lock.read", 0)],
        "G-31",
        "vma_lock.read",
    ),
    "a folio waited for beside another": (
        lock("folio_lock", "folio_lock"),
        "G-31",
        "only by trying",
    ),
    "not held": ([("unlock", "ptl", 0)], "G-31", "does not hold"),
    "sleeping under ptl": (
        [*lock("pml", "ptl"), ("sleep", "a notifier", 0)],
        "G-32",
        "may sleep (a notifier)",
    ),
    "sleeping with a page table mapped": (
        [("map", "", 0), ("sleep", "a folio", 0), ("unmap", "", 0)],
        "G-32",
        "page table mapped",
    ),
    "ptl forgotten behind 600 folios": (
        [
            *[("try", "folio_lock", i) for i in range(600)],
            ("lock", "ptl", 0),
            ("sleep", "copying", 0),
        ],
        "G-32",
        "ptl",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_lock_order_allows(name: str) -> None:
    assert _torture.lock_order(GOOD[name], marks_under_folio=name.endswith("of v6.4")) == []


@pytest.mark.parametrize("name", BAD)
def test_lock_order_catches(name: str) -> None:
    steps, invariant, text = BAD[name]
    breaches = _torture.lock_order(steps)
    assert len(breaches) == 1
    assert breaches[0].startswith(invariant + ": ")
    assert text in breaches[0]


def test_lock_order_is_checked_in_the_torture_build_only() -> None:
    assert not hasattr(_core, "lock_order")


def test_a_destroyed_lock_is_seen() -> None:
    held, used = _torture.dead_lock()
    assert held.startswith("G-3: a ptl was destroyed while")
    assert "held it" in held
    assert used.startswith("G-3: a ptl was destroyed while")
    assert "came to it" in used
