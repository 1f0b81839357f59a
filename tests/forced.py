"""Races, forced: threads held still at named points, and what was seen of it. For test_*races.py."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from pgtbl import MADV_COLLAPSE, MADV_DONTNEED, torture
from pgtbl.errors import DeadlockError, InvariantError, UsageError

PAGE = 4096
PAGES = 512
EXTENT = PAGE * PAGES
PATIENCE = 20
# What cannot happen while somebody is in the way is given this long to happen, in seconds.
A_WHILE = 0.25


class Lost(Exception):
    """The outcome is wrong."""


class Task:
    """A call in a thread of its own, and so on a CPU of its own, which it keeps: more can follow there."""

    def __init__(self, call: Callable[[], Any] | None = None) -> None:
        self.calls: list[Callable[[], Any] | None] = []
        self.wake, self.idle = threading.Semaphore(0), threading.Event()
        self.error: BaseException | None = None
        self.result: Any = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.idle.set()
        if call is not None:
            self.start(call)

    def _run(self) -> None:
        while True:
            self.wake.acquire()
            call = self.calls.pop(0)
            if call is None:
                return
            try:
                self.result = call()
            except BaseException as error:  # noqa: BLE001 - handed to who waits
                self.error = self.error or error
            del call
            self.idle.set()

    def start(self, call: Callable[[], Any]) -> Task:
        self.idle.clear()
        self.calls.append(call)
        self.wake.release()
        return self

    def do(self, call: Callable[[], Any]) -> Any:
        self.start(call)
        return self.join()

    def done(self, timeout: float) -> bool:
        return self.idle.wait(timeout)

    def join(self) -> Any:
        assert self.done(PATIENCE), "a thread does not come back"
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.result

    def end(self) -> None:
        self.calls.append(None)
        self.wake.release()
        self.thread.join(PATIENCE)


class Lab:
    """A machine, and the threads of one race."""

    def __init__(self, era: str) -> None:
        self.machine = torture.Machine(era=era, memory="96MiB")
        self.tasks: list[Task] = []
        self.kept: list[Any] = []  # what Python forgets it closes

    def mm(self) -> torture.Mm:
        self.kept.append(self.machine.mm())
        return self.kept[-1]

    def shmem(self, size: int) -> torture.File:
        self.kept.append(self.machine.shmem(size))
        return self.kept[-1]

    def task(self, call: Callable[[], Any] | None = None) -> Task:
        self.tasks.append(Task(call))
        return self.tasks[-1]

    def count(self, name: str) -> int:
        return self.machine.ledger()[name]

    def until(self, name: str, more: int, seconds: float = A_WHILE) -> bool:
        """Waits until the ledger's row reaches a value."""
        end = time.monotonic() + seconds
        while self.count(name) < more:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True


def at(pause: torture.pause) -> None:
    assert pause.wait(PATIENCE), f"nobody comes to {pause.point}"


def pmd(mm: torture.Mm, addr: int) -> str:
    return next((level.kind for level in mm.walk(addr) if level.name == "pmd"), "none")


def every_page(start: int, n: int = PAGES) -> np.ndarray:
    return np.arange(n, dtype=np.uint64) * PAGE + start


def collapse(mm: torture.Mm, start: int, n: int = 1) -> int:
    """MADV_COLLAPSE; returns 0 or its errno."""
    try:
        mm.madvise(start, n * EXTENT, MADV_COLLAPSE)
    except OSError as error:
        return error.errno or -1
    return 0


def expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise Lost(f"{what}: found {found}, expected {wanted}")


class Two:
    """One file of one extent in two programs: b maps it first, so that retraction meets it first."""

    def __init__(self, lab: Lab, *, shared: bool = True, fill: int = PAGES) -> None:
        self.shm = lab.shmem(EXTENT)
        self.b, self.a = lab.mm(), lab.mm()
        self.at_b = self.b.mmap(self.shm, shared=shared).start
        self.at_a = self.a.mmap(self.shm).start
        for page in range(fill):
            self.a.store(self.at_a + page * PAGE, 1000 + page)
        self.b.touch(every_page(self.at_b, fill))


class SmallOfHuge:
    """An extent that is huge in the file and mapped by 512 PTEs."""

    def __init__(self, lab: Lab, *, shared: bool = True) -> None:
        self.shm = lab.shmem(EXTENT)
        self.shm.write(0, np.arange(1000, 1000 + EXTENT // 8, dtype="<u8").tobytes())
        self.mm = lab.mm()
        self.at = self.mm.mmap(self.shm, shared=shared).start
        self.mm.touch(self.at)
        assert collapse(self.mm, self.at) == 0
        if shared:
            # mprotect of a part takes the PMD apart; undone, the PTEs stay.
            self.mm.mprotect(self.at, PAGE, "r")
            self.mm.touch(every_page(self.at))
            self.mm.mprotect(self.at, PAGE, "rw")
        else:
            # A store takes it apart, too; the copy goes again.
            self.mm.store(self.at, 1)
            self.mm.madvise(self.at, PAGE, MADV_DONTNEED)
        self.mm.touch(every_page(self.at))
        assert pmd(self.mm, self.at) == "table"
        assert self.shm.pages()["huge"].tolist() == [1]


def anon(lab: Lab, *, extents: int = 1, fill: int = PAGES) -> tuple[torture.Mm, int]:
    """A program, and where its anonymous memory starts; page k has 1000 + k."""
    mm = lab.mm()
    start = mm.mmap(length=extents * EXTENT, shared=False).start
    for page in range(fill):
        mm.store(start + page * PAGE, 1000 + page)
    return mm, start


class Race(NamedTuple):
    guard: str
    run: Callable[[Lab], None]
    seen: str  # how it shows without the guard
    era: str = "v6.6"
    beside: tuple[str, ...] = ()  # guards that are off in both runs, to open the way to this one


def once_threads_are_gone(call: Callable[[], Any]) -> None:
    """A thread that a race left inside of a read section leaves it as it ends, a moment after its join."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            call()
            return
        except UsageError as error:
            if "inside of a read section" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.005)


def outcome(race: Race, *without: str) -> str:
    """What was seen to be wrong; "" where all ended well."""
    with contextlib.ExitStack() as stack:
        if without:
            stack.enter_context(torture.without(*without))
        lab = Lab(race.era)
        stack.callback(once_threads_are_gone, lambda: lab.machine.close(5))
        stack.callback(torture.release_all)
        found: list[str] = []
        try:
            race.run(lab)
        except (Lost, InvariantError) as error:
            found.append(str(error))
        except (AssertionError, UsageError, DeadlockError) as error:
            if race.guard not in without:
                raise
            found.append(str(error))
        torture.release_all()
        for task in lab.tasks:
            task.done(PATIENCE)
            if task.error is not None:
                if race.guard not in without:
                    raise task.error
                found.append(f"{task.error!r}")
            task.end()
        try:
            once_threads_are_gone(lab.machine.check)
            if not found:
                lab.kept.clear()  # and once more with everything closed
                lab.machine.check()
        except InvariantError as error:
            found.append(str(error))
        return "\n".join(found)


def name_of(race: Race) -> str:
    return f"{race.guard}-{race.era}"


def both_ways(races: Sequence[Race]) -> tuple[Callable[..., None], Callable[..., None]]:
    """The two tests of a table of races: each with its guard in place, and with the guard taken away."""

    @pytest.mark.parametrize("race", races, ids=name_of)
    def ends_well(race: Race) -> None:
        assert outcome(race, *race.beside) == ""

    @pytest.mark.parametrize("race", races, ids=name_of)
    def is_seen(race: Race) -> None:
        found = outcome(race, race.guard, *race.beside)
        assert re.search(race.seen, found), found or "nothing was seen"

    return ends_well, is_seen
