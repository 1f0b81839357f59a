"""Samples in whole nanoseconds, each value once with how often it came: nothing is lost but their order.

A clock ticks in steps, and most operations take about as long as others, so that a million latencies are some thousand
values. A race keeps its rounds in this form, which costs a fraction of the memory, and whose percentiles cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

__all__ = ["NO_SAMPLES", "Rounds", "Tally"]

_SMALL = (
    1 << 16
)  # values below are counted in a table, the others sorted; arrays of fewer are sorted whole

Numbers = npt.NDArray[Any]


class Tally:
    """The distinct values of some samples, in order, and how often each came."""

    __slots__ = ("_known", "_len", "counts", "values")

    def __init__(self, values: Numbers, counts: Numbers) -> None:
        self._len = int(counts.sum())
        self.values = values
        self.counts = counts.astype(np.uint32 if self._len < 1 << 32 else np.int64)
        self._known: dict[float, float] = {}

    @staticmethod
    def of(samples: Numbers | Tally) -> Tally:
        """The tally of an array of numbers; of a tally, itself."""
        if isinstance(samples, Tally):
            return samples
        if samples.dtype.kind != "u" or len(samples) < _SMALL:
            return Tally(*np.unique(samples, return_counts=True))
        small = samples < _SMALL
        return _joined(
            np.bincount(samples[small].astype(np.intp), minlength=_SMALL),
            *np.unique(samples[~small], return_counts=True),
            samples.dtype,
        )

    @staticmethod
    def merged(tallies: Iterable[Tally]) -> Tally:
        """All samples of several."""
        parts = [t for t in tallies if len(t)]
        if len(parts) < 2:
            return parts[0] if parts else NO_SAMPLES
        values = np.concatenate([t.values for t in parts])
        counts = np.concatenate([t.counts for t in parts])
        if values.dtype.kind != "u" or len(values) < _SMALL:
            return _summed(values, counts)
        small = values < _SMALL
        table = np.bincount(values[small].astype(np.intp), counts[small], minlength=_SMALL)
        large = _summed(values[~small], counts[~small])
        return _joined(table, large.values, large.counts, values.dtype)

    def __len__(self) -> int:
        return self._len

    @property
    def max(self) -> float:
        """The largest sample."""
        return float(self.values[-1])

    def at(self, ranks: Numbers | int) -> Any:
        """The samples of these ranks (0: the smallest), or of this one."""
        upto = np.cumsum(self.counts)  # how many samples are not above each value
        return self.values[np.searchsorted(upto, ranks, side="right")]

    def percentile(self, percent: float) -> float:
        """What np.percentile says of the samples."""
        if percent not in self._known:
            place = (len(self) - 1) * percent / 100
            low = int(place)
            a, b = self.at(np.array([low, min(low + 1, len(self) - 1)])).astype(float)
            self._known[percent] = float(a + (b - a) * (place - low))
        return self._known[percent]

    def samples(self) -> Numbers:
        """All samples, in order of size."""
        return np.repeat(self.values, self.counts.astype(np.int64))


def _summed(values: Numbers, counts: Numbers) -> Tally:
    distinct, place = np.unique(values, return_inverse=True)
    return Tally(distinct, np.bincount(place, counts, minlength=len(distinct)))


def _joined(table: Numbers, large: Numbers, counts: Numbers, dtype: Any) -> Tally:
    """A table of small values, and the large ones behind."""
    small = np.flatnonzero(table)
    return Tally(
        np.concatenate([small.astype(dtype), large]), np.concatenate([table[small], counts])
    )


NO_SAMPLES = Tally(np.empty(0, np.uint32), np.empty(0, np.int64))


class Rounds(Sequence[Tally]):
    """The tallies of rounds, and all of them as one, which is made once."""

    def __init__(self, rounds: Iterable[Numbers | Tally]) -> None:
        self._rounds = [Tally.of(r) for r in rounds]
        self._pooled: Tally | None = None
        self.shortest = min(map(len, self._rounds), default=0)
        """How many samples the round with the fewest has."""

    @staticmethod
    def of(rounds: Sequence[Numbers | Tally]) -> Rounds:
        """The rounds as they are, or of these."""
        return rounds if isinstance(rounds, Rounds) else Rounds(rounds)

    @overload
    def __getitem__(self, index: int) -> Tally: ...
    @overload
    def __getitem__(self, index: slice) -> Rounds: ...
    def __getitem__(self, index: int | slice) -> Tally | Rounds:
        if isinstance(index, int):
            return self._rounds[index]
        return self if index == slice(len(self)) else Rounds(self._rounds[index])

    def __len__(self) -> int:
        return len(self._rounds)

    def __iter__(self) -> Iterator[Tally]:
        return iter(self._rounds)

    @property
    def pooled(self) -> Tally:
        """The samples of all rounds."""
        if self._pooled is None:
            self._pooled = Tally.merged(self._rounds)
        return self._pooled
