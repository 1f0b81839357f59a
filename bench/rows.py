"""What the benchmarks of C++ loops share: figures beside their bars, and how they come out of rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

bench = pytest.importorskip("pgtbl_bench")

Rounds = dict[str, list[float]]
EQUAL_NS = 0.3


@dataclass(frozen=True)
class Row:
    """One figure, and what it should be: at most (or at least) the bar; None has no bar."""

    name: str
    value: float
    unit: str
    beside: str = ""
    bar: float | None = None
    at_least: bool = False
    equal: bool = False  # the difference behind a ratio is below what counts
    exact: bool = False  # no timing but a limit: one attempt that breaks it is enough

    @property
    def verdict(self) -> str:
        if self.bar is None:
            return ""
        good = self.value >= self.bar if self.at_least else self.value <= self.bar
        return "met" if good else "met: equal" if self.equal else "missed"

    @property
    def missed(self) -> bool:
        return self.verdict == "missed"

    @property
    def wanted(self) -> str:
        return "" if self.bar is None else f"{'>=' if self.at_least else '<='} {self.bar:g}"

    @property
    def figure(self) -> str:
        if math.isnan(self.value):
            return "refused"
        digits = ",.0f" if abs(self.value) >= 1000 else ".3g"
        return f"{self.value:{digits}} {self.unit}".rstrip()

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.figure}"]
        parts += [f"({self.beside})"] if self.beside else []
        parts += [f"bar {self.wanted}: {self.verdict}"] if self.bar is not None else []
        return " ".join(parts)


def median(rounds: Rounds, name: str) -> float:
    return statistics.median(rounds[name])


def pair(rounds: Rounds, ours: str, theirs: str) -> tuple[float, float]:
    """Both figures of the round whose ratio is the median: that is the ratio which counts. The quotient of two medians is
    another number, as a computer that changes its speed has one median in one round, the other in another."""
    pairs = sorted(
        zip(rounds[ours], rounds[theirs], strict=True), key=lambda figures: figures[0] / figures[1]
    )
    return pairs[(len(pairs) - 1) // 2]


def compared(name: str, rounds: Rounds, ours: str, theirs: str, bar: float | None = None) -> Row:
    """A ratio of nanoseconds against its bar."""
    a, b = pair(rounds, ours, theirs)
    equal = bar is not None and a - bar * b < EQUAL_NS
    return Row(name, a / b, "", f"{a:.2f} / {b:.2f} ns", bar, equal=equal)


def middle(rows: list[Row]) -> Row:
    """Of the same row of several attempts the middle one, from the best to the worst; of a limit the worst."""
    worst_last = sorted(
        rows, key=lambda row: (row.missed, -row.value if row.at_least else row.value)
    )
    return worst_last[-1 if rows[0].exact else len(rows) // 2]


def settled(rows: list[Row], attempts: int) -> bool:
    """Whether more attempts could not change the verdict."""
    missed = sum(row.missed for row in rows)
    return rows[0].bar is None or rows[0].exact or 2 * max(missed, len(rows) - missed) > attempts


def attempted(measure: Callable[[], Iterable[Row]], attempts: int) -> list[Row]:
    """What most of so many attempts say. Others on the computer spoil a ratio for the better, too, where they meet its
    denominator: so no attempt is chosen for its result. It ends early only where the rest could not change a verdict."""
    made: dict[str, list[Row]] = {}
    for _ in range(attempts):
        for row in measure():
            made.setdefault(row.name, []).append(row)
        if all(settled(rows, attempts) for rows in made.values()):
            break
    return [middle(rows) for rows in made.values()]


def record(benchmark: Any, measure: Callable[[], Iterable[Row]], attempts: int = 3) -> None:
    """Stores and prints the rows, and asserts their bars."""
    rows: list[Row] = benchmark.pedantic(attempted, (measure, attempts), rounds=1, iterations=1)
    print()
    for row in rows:
        print(row)
        benchmark.extra_info[row.name] = row.value
        if row.verdict:
            benchmark.extra_info[f"{row.name}: bar"] = f"{row.wanted}: {row.verdict}"
    missed = [str(row) for row in rows if row.missed]
    assert not missed, "\n".join(missed)
