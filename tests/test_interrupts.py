"""Ctrl-C and other signals while a call waits: the wait ends, leaves nothing behind, and everything stays usable."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest

import pgtbl

pytestmark = pytest.mark.thread_unsafe  # signal handlers run in the main thread


class Interrupted(Exception):
    """What the handler raises."""


@contextmanager
def handler(function: Callable[[], Any]) -> Iterator[Callable[[float], None]]:
    """A signal handler, and the way to have it run in the main thread after some seconds."""
    timers: list[threading.Timer] = []
    main = threading.get_ident()

    def send(seconds: float) -> None:
        timers.append(threading.Timer(seconds, lambda: signal.pthread_kill(main, signal.SIGUSR1)))
        timers[-1].start()

    before = signal.signal(signal.SIGUSR1, lambda *_: function())
    try:
        yield send
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for timer in timers:
            timer.join()
        signal.signal(signal.SIGUSR1, before)


def give_up() -> None:
    raise Interrupted


class Holder:
    """A thread that stays inside of a section until it is told to leave."""

    def __init__(self, section: AbstractContextManager[Any]) -> None:
        self.section = section
        self.inside, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        with self.section:
            self.inside.set()
            self.go.wait(60)

    def __enter__(self) -> Holder:  # noqa: PYI034
        self.thread.start()
        assert self.inside.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        self.go.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def interrupted_while_held(
    section: AbstractContextManager[Any],
    wait: Callable[[], Any],
    before: Callable[[], Any] = lambda: None,
) -> None:
    """wait() is ended by a signal, while the section that it waits for goes on."""
    with Holder(section) as holder, handler(give_up) as send:
        before()
        send(0.2)
        with pytest.raises(Interrupted):
            wait()
        assert holder.thread.is_alive()
        assert not holder.go.is_set()


def test_spinlock() -> None:
    lock = pgtbl.SpinLock()
    interrupted_while_held(lock, lock.acquire)
    assert not lock.locked
    with lock:
        assert lock.locked
    lock.close()


def waits_for(section: AbstractContextManager[Any]) -> Callable[[], None]:
    def wait() -> None:
        with section:
            pass

    return wait


@pytest.mark.parametrize("held", ["read", "write"])
def test_semaphore(held: str) -> None:
    semaphore = pgtbl.RwSem()
    for wanted in ("write",) if held == "read" else ("read", "write"):
        interrupted_while_held(getattr(semaphore, held)(), waits_for(getattr(semaphore, wanted)()))
        assert not semaphore.contended
        assert not semaphore.locked
        assert semaphore.try_write_lock()
        semaphore.write_unlock()
    semaphore.close()


def test_readers_behind_a_writer_that_gave_up_get_in() -> None:
    semaphore = pgtbl.RwSem()
    entered = threading.Event()

    def read() -> None:
        while not semaphore.contended:
            time.sleep(0.001)
        with semaphore.read():
            entered.set()

    reader = threading.Thread(target=read)
    with Holder(semaphore.read()), handler(give_up) as send:
        reader.start()
        send(0.2)
        with pytest.raises(Interrupted):
            semaphore.write_lock()
        assert entered.wait(30)  # while the holder, whom the writer waited for, is still inside
    reader.join()
    assert not semaphore.locked


@pytest.mark.parametrize("held", ["read", "write"])
def test_mmap_lock(held: str) -> None:
    with pgtbl.Machine(memory="16MiB") as machine:
        lock = machine.mm().mmap_lock
        wanted = lock.write if held == "read" else lock.read
        interrupted_while_held(getattr(lock, held)(), waits_for(wanted()))
        assert not lock.contended
        with lock.try_write() as got:
            assert got
        machine.check()


@pytest.mark.parametrize("expedited", [False, True])
@pytest.mark.parametrize("of_a_machine", [False, True])
def test_synchronize(of_a_machine: bool, expedited: bool) -> None:
    with pgtbl.Machine(memory="16MiB") as machine, pgtbl.RcuDomain() as domain:
        rcu = machine.rcu if of_a_machine else domain
        interrupted_while_held(rcu.read(), lambda: rcu.synchronize(expedited=expedited))
        rcu.synchronize()  # finishes the grace period that was left half done
        machine.check()


def test_cond_synchronize() -> None:
    with pgtbl.RcuDomain() as rcu:
        cookie = rcu.get_state()
        interrupted_while_held(rcu.read(), lambda: rcu.cond_synchronize(cookie))
        assert not rcu.poll(rcu.get_state())
        rcu.cond_synchronize(cookie)
        assert rcu.poll(cookie)


def test_barrier_leaves_its_callbacks_to_others() -> None:
    with pgtbl.RcuDomain() as rcu:
        tally = pgtbl.RcuTally()
        interrupted_while_held(rcu.read(), rcu.barrier, lambda: rcu.call(tally, repeat=1000))
        deadline = time.monotonic() + 30
        while tally.value != 1000:  # without anybody's doing
            assert time.monotonic() < deadline
            time.sleep(0.001)
        rcu.barrier()


@pytest.mark.parametrize("_", range(5))
def test_another_barrier_waits_for_what_was_given_back(_: int) -> None:
    many = 400_000  # so that the worker is still at them when the other barrier has done its own
    seen = []
    with pgtbl.RcuDomain(hard_objects=2 * many, hard_bytes="1GiB") as rcu:
        ours, theirs = pgtbl.RcuTally(), pgtbl.RcuTally()

        def other() -> None:
            time.sleep(0.05)  # the main thread has taken its callbacks by now
            rcu.call(theirs)
            rcu.barrier()
            seen.append((ours.value, theirs.value))

        def before() -> None:
            rcu.call(ours, repeat=many)
            thread.start()

        thread = threading.Thread(target=other)
        interrupted_while_held(rcu.read(), rcu.barrier, before)
        thread.join(30)
    assert seen == [(many, 1)]


def test_a_throttled_call_queues_what_it_says() -> None:
    with pgtbl.RcuDomain(hard_objects=1000, soft_objects=500) as rcu:
        tally = pgtbl.RcuTally()
        interrupted_while_held(rcu.read(), lambda: rcu.call(tally, repeat=100_000))
        rcu.barrier()
        stats = rcu.stats()
        assert 1000 <= tally.value < 100_000
        assert stats["queued"] == stats["invoked"] == tally.value
        ran = []
        interrupted_while_held(rcu.read(), lambda: rcu.call(lambda: ran.append(1), repeat=100_000))
        rcu.barrier()
        assert 0 < len(ran) < 100_000
        rcu.call(ran.clear)  # not refused, nor waiting
        rcu.barrier()
        assert not ran


def test_a_stall_is_told_while_it_lasts() -> None:
    with pgtbl.RcuDomain(stall_seconds=0.05) as rcu, Holder(rcu.read()) as holder:
        told = []

        def show(message: Any, category: Any, *_: Any) -> None:
            told.append((category, str(message)))
            holder.go.set()  # without this synchronize() would not return

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show  # type: ignore[assignment]
            rcu.synchronize()
        assert told[0][0] is pgtbl.RcuStallWarning
        assert "thread" in told[0][1]


def test_the_time_of_a_stall_runs_on_between_looks_for_signals() -> None:
    # 0.4 s is eight looks: a clock that each of them started anew would never come to it.
    with pgtbl.Machine(memory="16MiB") as machine, Holder(machine.rcu.read()) as holder:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            threading.Timer(1.5, holder.go.set).start()
            machine.rcu.synchronize()
        assert [w.category for w in told] == [pgtbl.RcuStallWarning]
        assert machine.rcu.stats()["longest_stall_seconds"] >= 1


def test_ctrl_c_in_a_callback_is_the_programs() -> None:
    with pgtbl.RcuDomain() as rcu:
        rcu.call(lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            [rcu.barrier(), time.sleep(30)]


@pytest.mark.parametrize("whole_machine", [True, False])
def test_a_handler_cannot_close_what_its_thread_is_inside_of(whole_machine: bool) -> None:
    for _ in range(50):
        with pgtbl.Machine(memory="16MiB") as machine:
            mm, other = machine.mm(), machine.mm()
            addresses = np.tile(
                mm.mmap(length="2MiB").addresses(), 50_000
            )  # some tenths of a second
            refused = []

            def close(
                machine: Any = machine, mm: Any = mm, other: Any = other, refused: Any = refused
            ) -> None:
                other.close()  # in this one nobody is
                try:
                    machine.close() if whole_machine else mm.close()
                except pgtbl.UsageError as why:
                    refused.append(str(why))

            try:
                with handler(close) as send:
                    send(0.02)
                    mm.touch(addresses)
            except pgtbl.ClosedError:
                continue  # the signal was too early: it came before the call
            if not refused:
                continue  # or too late
            assert "inside of mm.touch" in refused[0]
            assert mm.touch(addresses[:512]) == 0
            machine.check()
            return
    pytest.fail("no signal came in the midst of a call")


def test_a_handler_may_use_what_its_thread_waits_for() -> None:
    with pgtbl.RcuDomain() as rcu, Holder(rcu.read()) as holder:
        done = []

        def use() -> None:
            with pytest.raises(pgtbl.UsageError, match="inside of a call"):
                rcu.close()
            done.append(rcu.stats()["readers"])
            holder.go.set()
            rcu.synchronize()
            # Where the barrier that is under way has taken callbacks, a second could only wait for the first.
            with contextlib.suppress(pgtbl.DeadlockError):
                rcu.barrier()

        rcu.call(pgtbl.RcuTally())  # not over before the holder goes
        with handler(use) as send:
            send(0.1)
            rcu.barrier()
        assert done == [2]
