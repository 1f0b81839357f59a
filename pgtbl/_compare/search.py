"""Random scenarios on both sides, and the smallest script of each difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .engine import Player, compare_scenarios
from .generate import random_scenarios
from .language import Step
from .result import Comparison, Verdict
from .scenario import Scenario
from .shrink import shrink_steps
from .verdict import Difference

__all__ = ["Finding", "Search", "search"]


@dataclass
class Finding:
    """A random scenario in which the sides differ, and the smallest script that shows it."""

    verdict: Verdict
    smallest: Scenario
    differences: list[Difference]


@dataclass
class Search:
    """What a random comparison found."""

    comparison: Comparison
    findings: list[Finding] = field(default_factory=list)


def worst(differences: list[Difference]) -> Difference:
    """The one that says most: of the lowest level, the first."""
    return min(differences, key=lambda d: (d.level, d.step))


def search(
    count: int,
    seed: int,
    expected: Player,
    found: Player,
    tell: Callable[[Verdict], None] | None = None,
    most_tries: int = 200,
) -> Search:
    """Plays `count` random scenarios, and shrinks each that differs."""
    result = Search(compare_scenarios(random_scenarios(count, seed), expected, found, tell=tell))
    for verdict in result.comparison.verdicts:
        if verdict.differences:
            result.findings.append(shrink(verdict, expected, found, most_tries))
    return result


def shrink(verdict: Verdict, expected: Player, found: Player, most_tries: int = 200) -> Finding:
    """The smallest script with a difference of the same level in the same kind of operation."""
    goal = worst(verdict.differences)
    kept = verdict.differences

    def play(steps: list[Step]) -> list[Difference]:
        scenario = Scenario(verdict.id, steps)
        (again,) = compare_scenarios([scenario], expected, found).verdicts
        return again.differences

    def shows(steps: list[Step]) -> bool:
        nonlocal kept
        differences = play(steps)
        if not any(d.level == goal.level and d.op == goal.op for d in differences):
            return False
        kept = differences
        return True

    # What comes after the difference cannot be its cause.
    until = verdict.steps[: goal.step + 1]
    start = until if shows(until) else verdict.steps
    smallest = shrink_steps(start, shows, most_tries)
    text = f"shrunk from {verdict.id}: {goal.op}, {goal.field}"
    return Finding(verdict, Scenario(f"found.{verdict.id}", smallest, text), kept)
