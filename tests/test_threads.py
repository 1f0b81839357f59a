"""Threads of Python on one machine: CPUs, closing under their feet, forks, pauses."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pgtbl

PAGE = pgtbl.PAGE_SIZE


def run_threads(*functions: Callable[[], Any], timeout: float = 60) -> list[Any]:
    """What each function returned; raises what the first of them raised."""
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(i: int, function: Callable[[], Any]) -> None:
        try:
            results[i] = function()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def in_thread(function: Callable[[], Any]) -> Any:
    return run_threads(function)[0]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 seconds"
        time.sleep(0.005)


def test_threads_share_a_program() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("16MiB"))

        def work(seed: int) -> int:
            addresses = np.random.default_rng(seed).permutation(area.addresses())
            faults = sum(mm.touch(addresses, write=True) for _ in range(3))
            for address in addresses[:200].tolist():
                mm.store(address + 8 * seed, seed)
            return faults

        run_threads(*(lambda s=s: work(s) for s in range(8)))
        assert mm.rss["shmem"] == 4096
        machine.check()


@pytest.mark.parametrize("era", pgtbl.eras())
def test_collapse_beside_walkers(era: str) -> None:
    with pgtbl.Machine(era=era, memory="64MiB") as machine:
        mm, other = machine.mm(), machine.mm()
        shm = machine.shmem("8MiB")
        area, second = mm.mmap(shm), other.mmap(shm)
        stop = threading.Event()

        def walk(m: pgtbl.Mm, where: pgtbl.Vma) -> None:
            while not stop.is_set():
                m.touch(where.addresses(), write=True)

        def collapse() -> None:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                for address in area.addresses("2MiB").tolist():
                    with contextlib.suppress(OSError):
                        mm.madvise(address, "2MiB", pgtbl.MADV_COLLAPSE)
                shm.punch("2MiB", "1MiB")
            stop.set()

        run_threads(lambda: walk(mm, area), lambda: walk(other, second), collapse)
        assert machine.ledger()["collapse.succeeded"] > 0
        machine.check()


def test_more_threads_than_cpus() -> None:
    with pgtbl.Machine(memory="8MiB", cpus=2) as machine:
        mm = machine.mm()
        inside, leave = threading.Event(), threading.Event()

        def occupy() -> None:
            mm.vmas()
            inside.set()
            leave.wait(30)

        thread = threading.Thread(target=occupy)
        thread.start()
        inside.wait(30)
        with pytest.raises(pgtbl.UsageError, match="2 CPUs"):
            in_thread(mm.vmas)
        leave.set()
        thread.join()
        for _ in range(10):
            in_thread(mm.vmas)
        machine.check()


def test_a_thread_that_ends_gives_everything_back() -> None:
    with pgtbl.Machine(memory="16MiB", cpus=3) as machine:
        mm = machine.mm()
        sections = []

        def leave_locked() -> None:
            section = mm.mmap_lock.write()
            section.__enter__()
            sections.append(section)

        in_thread(leave_locked)
        until(lambda: not mm.mmap_lock.locked)
        with pytest.raises(pgtbl.UsageError, match="does not hold"):
            sections[0].__exit__(None, None, None)
        mm.mmap(length=PAGE)

        in_thread(lambda: machine.rcu.read_lock())
        machine.rcu.synchronize()
        until(lambda: machine.rcu.stats()["readers_exited_inside"] == 1)
        assert machine.ledger()["rcu.exited_inside"] == 1
        machine.check()


def test_a_lock_is_left_by_its_own_thread() -> None:
    with pgtbl.Machine(memory="8MiB") as machine:
        mm = machine.mm()
        section = mm.mmap_lock.read()
        with section, pytest.raises(pgtbl.UsageError, match="does not hold"):
            in_thread(lambda: section.__exit__(None, None, None))
        assert not mm.mmap_lock.locked


def test_held_mmap_lock_keeps_others_out_but_not_for_good() -> None:
    with pgtbl.Machine(memory="16MiB") as machine:
        mm = machine.mm()
        mapped = threading.Event()

        def map_something() -> None:
            mm.mmap(length=PAGE)
            mapped.set()

        thread = threading.Thread(target=map_something)
        with mm.mmap_lock.read():
            thread.start()
            assert not mapped.wait(0.1)
            assert in_thread(lambda: mm.mmap_lock.try_write().__enter__()) is False
        thread.join(30)
        assert mapped.is_set()
        assert machine.ledger()["mmap_lock.write.contended"] == 1


def test_close_waits_for_calls_and_then_gives_up() -> None:
    machine = pgtbl.Machine(memory="16MiB")
    mm = machine.mm()
    other = machine.mm()
    thread = threading.Thread(target=lambda: mm.mmap(length=PAGE))
    section = mm.mmap_lock.write()
    holding, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with section:
            holding.set()
            let_go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait(30)
    thread.start()
    while not mm.mmap_lock.contended:
        time.sleep(0.001)
    with pytest.raises(pgtbl.UsageError, match=r"mmap_lock|mm\.mmap"):
        machine.close(timeout=0.05)
    with pytest.raises(pgtbl.UsageError, match=r"thread \d+ in mm\.mmap"):
        machine.check(timeout=0.05)
    other.vmas()  # still open
    other.close()
    let_go.set()
    thread.join(30)
    holder.join(30)
    machine.check()
    machine.close()


def test_close_under_the_feet_of_threads() -> None:
    for _ in range(10):
        machine = pgtbl.Machine(memory="32MiB")
        mm, shm = machine.mm(), machine.shmem("4MiB")
        area = mm.mmap(shm)
        started = threading.Barrier(4)

        def work(use: Callable[[], Any], started: threading.Barrier = started) -> str:
            started.wait(30)
            try:
                while True:
                    use()
            except pgtbl.ClosedError:
                return "closed"

        def close(machine: pgtbl.Machine = machine, started: threading.Barrier = started) -> str:
            started.wait(30)
            time.sleep(0.01)
            machine.close()
            return "closed"

        addresses = area.addresses()
        results = run_threads(
            lambda mm=mm, a=addresses: work(lambda: mm.touch(a, write=True)),
            lambda mm=mm, a=area: work(lambda: mm.load(a.start)),
            lambda m=machine, s=shm: work(lambda: (m.mm().mmap(s), s.punch(0, PAGE), m.ledger())),
            close,
        )
        assert results == ["closed"] * 4


def test_close_of_an_mm_under_the_feet_of_threads() -> None:
    with pgtbl.Machine(memory="32MiB") as machine:
        for _ in range(20):
            mm = machine.mm()
            area = mm.mmap(length="2MiB", shared=False)
            started = threading.Barrier(3)

            def work(
                mm: pgtbl.Mm = mm, area: pgtbl.Vma = area, started: threading.Barrier = started
            ) -> str:
                started.wait(30)
                try:
                    while True:
                        mm.touch(area.addresses(), write=True)
                        mm.madvise(area.start, "2MiB", pgtbl.MADV_DONTNEED)
                except pgtbl.ClosedError as error:
                    return str(error)

            def close(mm: pgtbl.Mm = mm, started: threading.Barrier = started) -> str:
                started.wait(30)
                mm.close()
                return "program has ended"

            for text in run_threads(work, work, close):
                assert "program has ended" in text
        machine.check()


def test_check_while_threads_run() -> None:
    with pgtbl.Machine(memory="32MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("4MiB"))
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                mm.touch(area.addresses(), write=True)
                mm.madvise(area.start, "4MiB", pgtbl.MADV_DONTNEED)

        def check() -> None:
            for _ in range(20):
                machine.check()
            stop.set()

        run_threads(work, work, check)


def test_objects_die_in_any_thread() -> None:
    with pgtbl.Machine(memory="32MiB", cpus=4) as machine:

        def work() -> None:
            for _ in range(50):
                mm = machine.mm()
                mm.touch(mm.mmap(machine.shmem("1MiB")).addresses(), write=True)

        run_threads(work, work, work)
        machine.check()


def test_fork(tmp_path: Path) -> None:
    code = """
        import gc, os, sys, threading
        import pgtbl
        machine = pgtbl.Machine(memory="16MiB")
        mm = machine.mm()
        area = mm.mmap(machine.shmem("2MiB"))
        mm.touch(area.addresses(), write=True)
        machine.khugepaged.start(0.001)
        rcu = machine.rcu
        pid = os.fork()
        if pid == 0:
            failed = 0
            for use in (lambda: mm.touch(area.start), lambda: mm.touch(area.addresses()), lambda: machine.mm(), mm.vmas,
                        machine.ledger, machine.check, lambda: rcu.synchronize(), lambda: machine.era,
                        lambda: machine.khugepaged.stop()):
                try:
                    use()
                except pgtbl.ClosedError as error:
                    if "fork" not in str(error):
                        failed += 1
                else:
                    failed += 1
            machine.close()
            mm.close()
            repr(machine)
            with pgtbl.Machine(memory="16MiB") as own:
                mine = own.mm()
                mine.touch(mine.mmap(length="1MiB").addresses(), write=True)
                own.rcu.synchronize()
                own.check()
                thread = threading.Thread(target=mine.vmas)
                thread.start()
                thread.join()
            del machine, mm, area, rcu
            gc.collect()
            sys.exit(failed)
        assert os.waitpid(pid, 0)[1] == 0, "the child failed"
        mm.touch(area.start)
        machine.check()
        machine.close()
        print("fine")
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout.strip()) == (0, "fine"), result.stderr


@pytest.mark.parametrize("how", ["left open", "in a thread", "daemon thread inside", "in a cycle"])
def test_the_interpreter_ends(tmp_path: Path, how: str) -> None:
    code = f"""
        import threading, time, pgtbl
        machine = pgtbl.Machine(memory="16MiB")
        mm = machine.mm()
        area = mm.mmap(machine.shmem("2MiB"))
        machine.khugepaged.start(0.001)
        how = {how!r}
        if how == "in a thread":
            t = threading.Thread(target=lambda: mm.touch(area.addresses()))
            t.start(); t.join()
        if how == "daemon thread inside":
            def loop():
                while True:
                    mm.touch(area.addresses(), write=True)
            threading.Thread(target=loop, daemon=True).start()
            time.sleep(0.05)
        if how == "in a cycle":
            cycle = [machine, mm]; cycle.append(cycle); del machine, mm
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


def test_a_touch_for_writing_loses_no_store() -> None:
    # The calls of one thread fall between those of the other only where there is no GIL.
    with pgtbl.Machine(memory="16MiB") as machine:
        mm = machine.mm()
        address = mm.mmap(length="2MiB").start
        done = threading.Event()

        def store() -> None:
            for word in range(1, 100_000):
                mm.store(address, word)
                assert mm.load(address) == word
            done.set()

        def touch() -> None:
            while not done.is_set():
                for _ in range(100):
                    mm.touch(address, write=True)

        try:
            run_threads(store, touch)
        finally:
            done.set()


def test_what_may_sleep_is_refused_inside_of_a_read_section() -> None:
    # Whoever holds a lock that these want may be waiting for the section to end.
    with pgtbl.Machine(memory="32MiB") as machine:
        mm, shm = machine.mm(), machine.shmem("4MiB")
        area = mm.mmap(shm)
        mm.touch(area.start, write=True)
        with machine.rcu.read():
            for use in (
                lambda: mm.touch(area.end - 1), lambda: mm.touch([area.end - 1]), lambda: mm.read(area.end - 8, 8),
                lambda: mm.write(area.end - 8, b"12345678"), lambda: mm.mmap(length=4096), lambda: mm.munmap(area),
                lambda: mm.madvise(area, None, pgtbl.MADV_COLLAPSE), lambda: mm.vmas(), lambda: mm.walk(area.start),
                lambda: mm.mmap_lock.read().__enter__(), lambda: shm.write(0, b"1"), lambda: shm.truncate(0),
                lambda: machine.khugepaged.scan(), mm.close,
            ):  # fmt: skip
                with pytest.raises(pgtbl.DeadlockError, match="section"):
                    use()
            assert mm.rss["shmem"] == 1  # what only looks is allowed
            assert machine.ledger()["fault"] >= 1
            with mm.mmap_lock.try_read() as got:
                assert got
        assert mm.touch(area.end - 1) == 1
        machine.check()


def test_ctrl_c_stops_a_long_touch(tmp_path: Path) -> None:
    code = """
        import numpy as np, pgtbl
        machine = pgtbl.Machine(memory="16MiB")
        mm = machine.mm()
        area = mm.mmap(length="2MiB", shared=False)
        addresses = np.resize(area.addresses(), 10_000_000)
        print("ready", flush=True)
        try:
            while True:
                mm.touch(addresses)
        except KeyboardInterrupt:
            machine.check()
            print("stopped", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    try:
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert out == "stopped\n"
    assert time.monotonic() - begin < 5


def test_pauses_hold_a_thread() -> None:
    from pgtbl import torture

    with torture.Machine(memory="32MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("4MiB"))
        mm.touch(area.addresses(), write=True)
        thread = threading.Thread(
            target=lambda: mm.madvise(area.start, "2MiB", pgtbl.MADV_COLLAPSE)
        )
        with torture.pause("cf_published") as pause:
            thread.start()
            assert pause.wait(timeout=30)
            assert pause.waiting == 1
            assert mm.touch(area.start + (2 << 20)) == 0
            with pytest.raises(pgtbl.UsageError, match=r"mm\.madvise"):
                machine.close(timeout=0.05)
            with pytest.raises(pgtbl.UsageError, match=r"mm\.madvise"):
                machine.check(timeout=0.05)
        thread.join(30)
        assert not thread.is_alive()
        assert mm.walk(area.start)[-1].kind == "huge"
        machine.check()
    with torture.pause("rt_pml") as pause:
        assert not pause.wait(timeout=0.01)
        assert pause.waiting == 0


def test_guards_are_taken_away_for_a_block() -> None:
    from pgtbl import torture

    assert torture.guards_removed() == []
    with torture.without("pmd_recheck", "zap_flush"):
        assert torture.guards_removed() == ["pmd_recheck", "zap_flush"]
        with torture.without("zap_flush"):
            pass
        assert torture.guards_removed() == ["pmd_recheck", "zap_flush"]
    assert torture.guards_removed() == []


def test_torture_raises_the_builds_shared_exceptions() -> None:
    from pgtbl import torture

    with torture.Machine(memory="8MiB") as machine, pytest.raises(pgtbl.SegmentationFault):
        machine.mm().touch(4096)


def test_a_breach_is_raised_by_the_next_call() -> None:
    from pgtbl import torture

    with torture.Machine(memory="16MiB") as machine:
        one, two = machine.mm(), machine.mm()
        with one.mmap_lock.write(), pytest.raises(pgtbl.InvariantError, match="G-31") as breach:
            two.vmas()  # waits for one mmap_lock while it holds another
        assert isinstance(breach.value, AssertionError)
        two.vmas()  # raised once
        machine.check()


@contextlib.contextmanager
def a_small_page() -> Iterator[tuple[pgtbl.Machine, pgtbl.Mm, pgtbl.Vma]]:
    """A machine of the checked build, and an area whose first page is mapped."""
    from pgtbl import torture

    with torture.Machine(memory="16MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("2MiB"))
        mm.touch(area.start)
        yield machine, mm, area


@pytest.mark.parametrize(
    ("invariant", "text"),
    [
        ("G-1", "which CPU 0 has mapped"),
        ("G-2", "which the hardware walker of CPU 1 is reading"),
        ("G-33", "without the lock of its table"),
    ],
)
def test_what_hooks_watch_is_seen_as_it_happens(invariant: str, text: str) -> None:
    from pgtbl import _torture

    with a_small_page() as (machine, mm, area):
        worker = threading.Thread(target=lambda: mm.touch(area.start))  # the machine has two CPUs
        worker.start()
        worker.join()
        _torture.plant(mm, invariant, area.start)
        with pytest.raises(pgtbl.InvariantError, match=rf"^{invariant}: .*{text}"):
            mm.vmas()
        machine.check()


@pytest.mark.parametrize(
    ("invariant", "text"),
    [
        ("G-5", "is the table of 2 slots"),
        ("G-39", "folio .* is locked"),
        ("G-40", "has 1 notifier ranges open"),
    ],
)
def test_what_stays_broken_is_found_by_a_check(invariant: str, text: str) -> None:
    from pgtbl import _torture

    with a_small_page() as (machine, mm, area):
        machine.check()
        _torture.plant(mm, invariant, area.start)
        with pytest.raises(pgtbl.InvariantError, match=rf"(?m)^{invariant}: .*{text}"):
            machine.check()
        _torture.plant(mm, invariant, area.start, undo=True)
        machine.check()
        with pytest.raises(ValueError, match="no way to break 'G-99'"):
            _torture.plant(mm, "G-99", area.start)
        with pytest.raises(ValueError, match="is not mapped by a small page"):
            _torture.plant(mm, "G-5", area.start + PAGE)


@pytest.mark.parametrize("what", ["a page", "no frame"])
def test_a_pmd_that_was_not_stored_whole_is_seen(what: str) -> None:
    from pgtbl import _torture

    with a_small_page() as (machine, mm, area):
        page = int(mm.pagemap(area)["pfn"][0]) if what == "a page" else 0xFFFFF
        was = mm.walk(area.start)[2].entry
        assert _torture.tear_pmd(mm, area.start, page << 12 | was & 0xFFF) == was
        try:
            with pytest.raises(pgtbl.InvariantError, match=r"G-9: .*never stored whole"):
                mm.walk(area.start)
        finally:
            _torture.tear_pmd(mm, area.start, was & 0xFFFFFFFF)
        mm.walk(area.start)
        machine.check()


@pytest.mark.parametrize("many", [False, True])
def test_a_fault_that_waits_for_mmap_lock_ends_with_ctrl_c(many: bool) -> None:
    wait_and_interrupt(lambda mm, area: mm.touch(area.addresses() if many else area.start), False)


@pytest.mark.parametrize(
    "use",
    [
        lambda mm, area: mm.mmap(length=PAGE),
        lambda mm, area: mm.munmap(area),
        lambda mm, area: mm.madvise(area, None, pgtbl.MADV_DONTNEED),
        lambda mm, area: mm.madvise(area, None, pgtbl.MADV_COLLAPSE),
        lambda mm, area: mm.fork(),
    ],
    ids=["mmap", "munmap", "dontneed", "collapse", "fork"],
)
def test_a_wait_for_mmap_lock_ends_with_ctrl_c(use: Any) -> None:
    wait_and_interrupt(use, True)


def wait_and_interrupt(use: Any, mapped: bool) -> None:
    """Ctrl-C, while another thread has mmap_lock; later the same call succeeds."""
    with pgtbl.Machine(era="v6.4", memory="16MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("2MiB"))
        if mapped:
            mm.touch(area.addresses(), write=True)
        release, holding = threading.Event(), threading.Event()
        ended_in_time: list[bool] = []

        def hold() -> None:
            with mm.mmap_lock.write():
                holding.set()
                ended_in_time.append(release.wait(20))

        holder = threading.Thread(target=hold)
        holder.start()
        assert holding.wait(60)
        interrupt = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            use(mm, area)
        interrupt.join()
        release.set()
        holder.join()
        assert ended_in_time == [True], "the wait went on until the lock was free"
        machine.check()
        use(mm, area)


def test_a_later_wait_of_a_call_goes_on_and_leaves_nothing() -> None:
    """Ctrl-C in the midst of an anonymous collapse, which waits for a reader: it ends, and then the signal is seen."""
    with pgtbl.Machine(memory="32MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(length="2MiB", shared=False)
        mm.touch(area.addresses(), write=True)
        holding = threading.Event()

        def hold() -> None:
            with mm.mmap_lock.read():
                holding.set()
                time.sleep(0.4)

        def collapse_and_wait() -> None:
            mm.madvise(area, None, pgtbl.MADV_COLLAPSE)
            time.sleep(5)

        holder = threading.Thread(target=hold)
        holder.start()
        assert holding.wait(60)
        interrupt = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            collapse_and_wait()
        interrupt.join()
        holder.join()
        machine.check()


def test_who_has_waited_for_mmap_lock_is_inside_of_a_call_again() -> None:
    """A wait that asks for signals does not make check() overlook the call: it must not look at what changes."""
    from pgtbl import torture

    with torture.Machine(memory="32MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(machine.shmem("2MiB"))
        mm.touch(area.addresses(), write=True)
        holding = threading.Event()
        refused: list[BaseException | None] = []

        def hold() -> None:
            with mm.mmap_lock.write():
                holding.set()
                time.sleep(0.2)

        def look(pause: torture.pause) -> None:
            try:
                assert pause.wait(30)
                machine.check(timeout=0.1)
                refused.append(None)
            except (pgtbl.PgtblError, AssertionError) as error:
                refused.append(error)
            finally:
                pause.release()

        holder = threading.Thread(target=hold)
        holder.start()
        assert holding.wait(60)
        mm.mmap(length=PAGE)  # waits, and is asked meanwhile
        holder.join()
        with torture.pause("rt_pml") as pause:
            looker = threading.Thread(target=look, args=[pause])
            looker.start()
            mm.madvise(area, None, pgtbl.MADV_COLLAPSE)
            looker.join()
        assert isinstance(refused[0], pgtbl.UsageError), refused
        machine.check()


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs",
)
def test_the_gil_is_not_held_while_waiting() -> None:
    with pgtbl.Machine(memory="8MiB") as machine:
        mm = machine.mm()
        release = threading.Event()
        holding = threading.Event()

        def hold() -> None:
            with mm.mmap_lock.write():
                holding.set()
                release.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        holding.wait(30)
        waiters = [
            threading.Thread(target=use) for use in (mm.vmas, lambda: mm.mmap(length=PAGE), mm.brk)
        ]
        for waiter in waiters:
            waiter.start()
        time.sleep(0.05)
        release.set()  # only possible as the waiters let the interpreter go
        for thread in (holder, *waiters):
            thread.join(30)
            assert not thread.is_alive()
