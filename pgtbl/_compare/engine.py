"""Runs scenarios on the sides that are to be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from .laboratory import Laboratory, Unsupported
from .result import Comparison, Verdict
from .scenario import Problem, Scenario, dump_scenario
from .verdict import Difference, Level, compare_results

__all__ = ["Player", "RecordedPlayer", "compare_scenarios"]

Results = list[dict[str, Any]]


class Skipped(Exception):
    """A side has no outcome of a scenario, and why."""

    def __init__(self, why: str, step: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.step = step


class Player:
    """One side of a comparison: gives the outcome of a scenario, or raises Skipped."""

    name = "?"

    def outcome(self, scenario: Scenario) -> Results:
        """One result a step."""
        raise NotImplementedError

    def close(self) -> None:
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


def compare_scenarios(
    scenarios: Iterable[Scenario | Problem],
    expected: Player,
    found: Player,
    outcomes: IO[str] | None = None,
    tell: Callable[[Verdict], None] | None = None,
    kernel: str = "",
) -> Comparison:
    """Plays each scenario on both sides, and compares."""
    comparison = Comparison((expected.name, found.name))
    try:
        for item in scenarios:
            if isinstance(item, Problem):
                comparison.problems.append(item)
                continue
            verdict = _one(item, expected, found, outcomes)
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
    verdict.differences = compare_results(scenario.steps, theirs, mine)
    return verdict


def only(
    scenarios: Iterator[Scenario | Problem], prefixes: Iterable[str]
) -> Iterator[Scenario | Problem]:
    """The scenarios whose id begins with one of these, and every problem."""
    wanted = tuple(prefixes)
    for item in scenarios:
        if isinstance(item, Problem) or item.id.startswith(wanted):
            yield item
