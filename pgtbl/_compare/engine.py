"""Runs scenarios on the sides that are to be compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from .laboratory import Laboratory, Unsupported
from .language import Step
from .result import Comparison, Verdict
from .scenario import Problem, Scenario, dump_scenario
from .verdict import Difference, Level, compare_results

__all__ = [
    "HostPlayer",
    "LaboratoryPlayer",
    "Player",
    "RecordedPlayer",
    "compare_scenarios",
    "only",
]

Results = list[dict[str, Any]]


class Skipped(Exception):
    """A side has no outcome of a scenario, and why."""

    def __init__(self, why: str, step: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.step = step


class Player(ABC):
    """One side of a comparison: gives the outcome of a scenario, or raises Skipped."""

    name = "?"
    mechanism_unobserved = ""  # why locks and scans are not seen; "": they are
    repeatable = False  # whether another run may tell chance from cause

    @abstractmethod
    def outcome(self, scenario: Scenario) -> Results:
        """One result a step."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Gives back what it holds."""


class RecordedPlayer(Player):
    """What the file says."""

    name = "recorded"

    def outcome(self, scenario: Scenario) -> Results:
        if scenario.results is None:
            raise Skipped("no outcome is recorded")
        return scenario.results


class LaboratoryPlayer(Player):
    """The laboratory. Where it breaks, the failing step is a difference in core, not an end of the comparison."""

    name = "laboratory"

    def __init__(self, laboratory: Laboratory | None = None) -> None:
        self.laboratory = laboratory or Laboratory()

    def outcome(self, scenario: Scenario) -> Results:
        try:
            return self.laboratory.play(scenario.steps)
        except Unsupported as error:
            raise Skipped(f"the laboratory has no {error.what}", error.step) from None


class HostPlayer(Player):
    """The running kernel."""

    name = "this kernel"
    repeatable = True

    def __init__(self) -> None:
        from ..host import Host

        self.host = Host()
        self.mechanism_unobserved = self.host.why_untraced

    def outcome(self, scenario: Scenario) -> Results:
        from ..host import HostUnsupported

        try:
            return self.host.play(scenario.steps)
        except HostUnsupported as error:
            raise Skipped(f"this computer has no {error.what}", error.step) from None

    def close(self) -> None:
        self.host.close()


def compare_scenarios(
    scenarios: Iterable[Scenario | Problem],
    expected: Player,
    found: Player,
    outcomes: IO[str] | None = None,
    tell: Callable[[Verdict], None] | None = None,
    keep_outcomes: bool = False,
) -> Comparison:
    """Plays each scenario on both sides, and compares."""
    comparison = Comparison((expected.name, found.name))
    comparison.mechanism_unobserved = expected.mechanism_unobserved or found.mechanism_unobserved
    try:
        for item in scenarios:
            if isinstance(item, Problem):
                comparison.problems.append(item)
                continue
            verdict = _one(item, expected, found, outcomes)
            if not keep_outcomes:
                verdict.outcomes = {}
            comparison.verdicts.append(verdict)
            if tell is not None:
                tell(verdict)
    except KeyboardInterrupt:
        comparison.interrupted = True
    return comparison


def _one(scenario: Scenario, expected: Player, found: Player, outcomes: IO[str] | None) -> Verdict:
    verdict = Verdict(scenario.id, scenario.group, scenario.steps, description=scenario.description)
    try:
        mine = found.outcome(scenario)
        if outcomes is not None:
            outcomes.write(dump_scenario(scenario, mine, kernel=found.name, runs=1, agree=1) + "\n")
        theirs = expected.outcome(scenario)
    except Skipped as error:
        verdict.skipped, verdict.skipped_step = error.why, error.step
        return verdict
    except Exception as error:  # noqa: BLE001 (a defect of one side must not hide the other scenarios)
        verdict.differences.append(
            Difference(
                len(scenario.steps) - 1,
                scenario.steps[-1]["op"],
                Level.core,
                "the run itself",
                "an outcome",
                f"{type(error).__name__}: {error}",
            )
        )
        return verdict
    mechanism = not (expected.mechanism_unobserved or found.mechanism_unobserved)
    verdict.mechanism_observed = mechanism
    verdict.outcomes = {expected.name: theirs, found.name: mine}
    verdict.differences = _differences(scenario.steps, theirs, mine, mechanism)
    if verdict.differences:
        try:
            _settle(verdict, scenario, expected, found, mechanism)
        except Skipped as error:
            verdict.skipped, verdict.skipped_step = error.why, error.step
    return verdict


def _differences(
    steps: list[Step], theirs: Results, mine: Results, mechanism: bool
) -> list[Difference]:
    found = compare_results(steps, theirs, mine)
    return found if mechanism else [d for d in found if d.level is not Level.mechanism]


_RUNS = 5


def _settle(
    verdict: Verdict, scenario: Scenario, expected: Player, found: Player, mechanism: bool
) -> None:
    """A side that can be played again is, until two of its runs agree: reclaim and the like may have come between."""
    for player in (expected, found):
        if not player.repeatable:
            continue
        runs = [verdict.outcomes[player.name]]
        for _ in range(_RUNS - 1):
            again = player.outcome(scenario)
            agreeing = [r for r in runs if not _differences(scenario.steps, r, again, mechanism)]
            if agreeing:
                verdict.outcomes[player.name] = again
                break
            runs.append(again)
        else:
            raise Skipped(f"{player.name} answers differently each time")
    theirs, mine = verdict.outcomes[expected.name], verdict.outcomes[found.name]
    verdict.differences = _differences(scenario.steps, theirs, mine, mechanism)


def only(
    scenarios: Iterator[Scenario | Problem], prefixes: Iterable[str]
) -> Iterator[Scenario | Problem]:
    """The scenarios whose id begins with one of these, and every problem."""
    wanted = tuple(prefixes)
    for item in scenarios:
        if isinstance(item, Problem) or item.id.startswith(wanted):
            yield item
