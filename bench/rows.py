"""What the benchmarks of C++ loops share: figures beside their bars, and how they come out of rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
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

    @property
    def verdict(self) -> str:
        if self.bar is None:
            return ""
        good = self.value >= self.bar if self.at_least else self.value <= self.bar
        return "met" if good else "met: equal" if self.equal else "missed"

    @property
    def wanted(self) -> str:
        return "" if self.bar is None else f"{'>=' if self.at_least else '<='} {self.bar:g}"

    def __str__(self) -> str:
        value = "refused" if math.isnan(self.value) else f"{self.value:.3g}"
        parts = [f"{self.name}: {value} {self.unit}".rstrip()]
        parts += [f"({self.beside})"] if self.beside else []
        parts += [f"bar {self.wanted}: {self.verdict}"] if self.bar is not None else []
        return " ".join(parts)


def median(rounds: Rounds, name: str) -> float:
    return statistics.median(rounds[name])


def ratio(rounds: Rounds, ours: str, theirs: str) -> float:
    pairs = zip(rounds[ours], rounds[theirs], strict=True)
    return statistics.median(a / b for a, b in pairs)


def compared(name: str, rounds: Rounds, ours: str, theirs: str, bar: float) -> Row:
    """A ratio of nanoseconds against its bar."""
    a, b = median(rounds, ours), median(rounds, theirs)
    value = ratio(rounds, ours, theirs)
    return Row(name, value, "", f"{a:.2f} / {b:.2f} ns", bar, equal=a - bar * b < EQUAL_NS)


def record(benchmark: Any, measure: Callable[[], Iterator[Row]]) -> None:
    rows = benchmark.pedantic(lambda: list(measure()), rounds=1, iterations=1)
    print()
    for row in rows:
        print(row)
        benchmark.extra_info[row.name] = row.value
        if row.verdict:
            benchmark.extra_info[f"{row.name}: bar"] = f"{row.wanted}: {row.verdict}"
