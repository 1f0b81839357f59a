"""What tests of the explorer ask for: each case explored once, by two processes that are ahead of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, NamedTuple

import pytest

from pgtbl._explore import Verdict, explore, scenarios
from pgtbl.museum import KILLERS, exhibit_of

ERAS: dict[str, list[str]] = {row["name"]: row["eras"] for row in scenarios()}


class Case(NamedTuple):
    """One exploration."""

    scenario: str
    era: str
    memory: str
    without: tuple[str, ...] = ()
    seconds: float = 60


def case(scenario: str, memory: str, era: str | None = None, without: tuple[str, ...] = ()) -> Case:
    return Case(scenario, era or ERAS[scenario][0], memory, without)


def in_every_era(scenario: str, memory: str, seconds: float = 60) -> list[Case]:
    return [Case(scenario, era, memory, (), seconds) for era in ERAS[scenario]]


def without_guard(guard: str) -> Case:
    """The cast that shows a guard to be needed."""
    scenario, era, memory = KILLERS[guard]
    return case(scenario, memory, era, (guard,))


def of_exhibit(bug: str) -> tuple[Case, Case]:
    """The counterexample, and what mends it."""
    e = exhibit_of(bug)
    return (
        case(e.scenario, e.memory, e.era, e.guards),
        case(e.scenario, e.memory, e.mended or e.era),
    )


def _explore(wanted: Case) -> Verdict:
    return explore(
        wanted.scenario,
        era=wanted.era,
        memory=wanted.memory,
        without=wanted.without,
        seconds=wanted.seconds,
    )


class Explorations:
    """Verdicts, as the processes have them."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool = self._make_pool()
        self._found: dict[Case, Future[Verdict]] = {}

    def _make_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._processes, mp_context=get_context("spawn"))

    def begin(self, wanted: Case) -> Future[Verdict]:
        if wanted not in self._found:
            self._found[wanted] = self._pool.submit(_explore, wanted)
        return self._found[wanted]

    def __call__(self, wanted: Case) -> Verdict:
        try:
            return self.begin(wanted).result()
        except BrokenProcessPool:
            # A process died, in whichever case.  What is still open begins again, with the one asked for alone.
            self._pool = self._make_pool()
            self._found = {c: f for c, f in self._found.items() if f.done() and not f.exception()}
            try:
                return self.begin(wanted).result()
            except BrokenProcessPool:
                self._pool = self._make_pool()
                pytest.fail(f"the explorer's process died of {wanted}")

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        for process in list(self._pool._processes.values()):
            process.terminate()
        self._pool.shutdown(cancel_futures=True)


def wanted_by(items: Iterable[pytest.Item]) -> Iterable[Case]:
    """The cases of tests that say so by the mark `explores`, in the order of the tests."""
    for item in items:
        mark = item.get_closest_marker("explores")
        if mark is None or any(m.name == "skip" for m in item.iter_markers()):
            continue
        cases: Callable[..., Iterable[Case]] = mark.kwargs["by"]
        parameters: dict[str, Any] = item.callspec.params  # type: ignore[attr-defined]
        yield from cases(**parameters)
