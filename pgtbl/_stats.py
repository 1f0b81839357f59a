"""Percentiles, ratios with their confidence intervals, and whether they support a claim.

A percentile is taken of each round, exactly, and the median of the rounds stands for them all: one bad moment of
a shared computer then spoils one round and not the figure. Rounds too short to tell a percentile (fewer than ten
samples beyond it) are pooled. The worst is the worst of all rounds.

A ratio's interval is a bootstrap over rounds: rounds are what varies from one moment of a shared computer to the
next, so rounds are drawn again (in pairs, one of each era, since they ran one after the other), not samples. The
pooled percentiles of a draw come from counts in bins of half a per cent, which makes thousands of draws cheap. Of few
rounds such an interval is too narrow, and is widened (`_widening`), but for the noise gate's control, which would only be
less strict. The worst has none at all: what is drawn again from
the rounds can never be worse than their worst, so that a bootstrap says nothing of how bad it could have been.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

from ._tally import Numbers, Rounds, Tally

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
LATENCY_KEYS = (*PERCENTILES, "max")
DRAWS = 600
CONFIDENCE = 0.95
BEYOND = 10  # samples beyond a percentile, for a round to tell it

_PER_E = 200.0  # bins in a factor of e: each is half a per cent wide
_BINS = 5000  # from 1 ns to 72 s
_MIDDLES = np.exp((np.arange(_BINS) + 0.5) / _PER_E)


def _told(rounds: Rounds, percent: float) -> bool:
    """Whether each round tells the percentile on its own."""
    return rounds.shortest * (100 - percent) / 100 >= BEYOND


def _each(rounds: Rounds, percent: float) -> Numbers:
    return np.array([r.percentile(percent) for r in rounds])


def summary(rounds: Sequence[Numbers | Tally]) -> dict[str, float | None]:
    """Percentiles in ns of samples that came in rounds; None where there is no sample."""
    rounds = Rounds.of(rounds)
    if not rounds.shortest:
        rounds = Rounds(r for r in rounds if len(r))
    if not rounds:
        return dict.fromkeys(LATENCY_KEYS)
    result: dict[str, float | None] = {}
    for key, percent in PERCENTILES.items():
        told = _told(rounds, percent)
        value = np.median(_each(rounds, percent)) if told else rounds.pooled.percentile(percent)
        result[key] = round(float(value), 1)
    result["max"] = max(r.max for r in rounds)
    return result


@dataclass(frozen=True)
class Ratio:
    """A quotient with its 95 % interval (of the worst: without); `claim` says whether it may be claimed, and `why` not."""

    ratio: float | None
    low: float | None
    high: float | None
    claim: bool
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON output."""
        return {
            "ratio": self.ratio,
            "low": self.low,
            "high": self.high,
            "claim": self.claim,
            "why": self.why,
        }


NOTHING = Ratio(None, None, None, False, "no data")
NO_INTERVAL = "the worst has no interval"
CONTROL = "a control"
_NARROW = (
    1.3  # an interval around 1 narrower than this says "no difference", a wider one "too noisy"
)
_EQUAL = 0.01
_MIN_ROUNDS = 4  # fewer say nothing of how rounds vary


def _digits(x: float) -> float:
    return float(f"{x:.5g}")


def _widening(rounds: int) -> float:
    """By how much a bootstrap over so few rounds is too narrow, on a logarithmic scale.

    Draws spread by sqrt((n - 1) / n) of what rounds do, and their quantiles are a normal law's where Student's with
    n - 1 degrees of freedom is due (its quantile by the series of Cornish and Fisher, to 1 % for three).
    """
    n, z = rounds - 1, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    if n < 1:
        return 1.0
    student = (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
    return student / z * math.sqrt(rounds / n)


def judge(ratio: float, draws: Numbers, rounds: int, noisy: str, *, widened: bool = True) -> Ratio:
    """The verdict on a ratio, given its bootstrap draws."""
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(ratio) or len(draws) == 0:
        return NOTHING
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = (float(x) for x in np.percentile(draws, [tail, 100 - tail]))
    low, high = min(low, ratio), max(high, ratio)
    if ratio > 0 and widened:
        wider = _widening(rounds)
        low, high = ratio * (low / ratio) ** wider, ratio * (high / ratio) ** wider
    numbers = _digits(ratio), _digits(low), _digits(high)
    if rounds < _MIN_ROUNDS:
        return Ratio(*numbers, False, "too few rounds")
    if noisy:
        return Ratio(*numbers, False, "too noisy")
    if low > 1 - _EQUAL and high < 1 + _EQUAL:
        return Ratio(
            *numbers, False, "no difference"
        )  # whatever it is, nobody would call it a gain
    if low <= 1 <= high:
        return Ratio(*numbers, False, "no difference" if high / low < _NARROW else "too noisy")
    return Ratio(*numbers, True)


@lru_cache(maxsize=4)
def _draw(rounds: int, seed: int) -> Numbers:
    """How often each round occurs in each draw."""
    random = np.random.default_rng([seed, rounds])
    return random.multinomial(rounds, np.full(rounds, 1 / rounds), size=DRAWS)


def _counts(rounds: Rounds) -> Numbers:
    """How many samples of each round fall into each bin."""

    def one(tally: Tally) -> Numbers:
        bins = np.log(np.maximum(tally.values, 1).astype(np.float32)) * np.float32(_PER_E)
        return np.bincount(
            np.minimum(bins.astype(np.intp), _BINS - 1), tally.counts, minlength=_BINS
        )

    return np.stack([one(r) for r in rounds]).astype(np.float32)


@dataclass(frozen=True)
class _Pooled:
    """For each draw, how many samples lie below the upper edge of each bin that is in use."""

    below: Numbers
    middles: Numbers

    @staticmethod
    def of(weights: Numbers, rounds: Rounds, lowest: float) -> _Pooled:
        """`lowest`: the lowest percentile that will be asked for."""
        counts = _counts(rounds)
        # That of a mixture is never below the lowest of its parts: what is below counts, but needs no bins.
        floor = min(r.at(max(0, math.ceil(len(r) * lowest / 100) - 1)) for r in rounds)
        first = max(0, int(np.log(max(float(floor), 1.0)) * _PER_E) - 1)
        counts[:, first] += counts[:, :first].sum(axis=1)
        counts[:, :first] = 0
        used = np.flatnonzero(counts.any(axis=0))
        # In float32 counts are whole up to 16 million, and beyond that a rounding is far less than a bin. Not with @: the
        # threads of a BLAS wait for each other longer than this takes, where processors are shared.
        drawn = np.einsum("dr,rb->db", weights.astype(np.float32), counts[:, used])
        below = np.cumsum(drawn, axis=1, dtype=np.float64)
        return _Pooled(below, _MIDDLES[used])

    def quantiles(self, percent: float) -> Numbers:
        reached = self.below >= self.below[:, -1:] * percent / 100
        found: Numbers = self.middles[np.argmax(reached, axis=1)]
        return found


def latency_ratios(
    a: Sequence[Numbers | Tally],
    b: Sequence[Numbers | Tally],
    seed: int,
    noisy: dict[str, str],
    *,
    widened: bool = True,
) -> dict[str, Ratio]:
    """Percentiles of a divided by those of b, each a list of rounds. `noisy`: key -> why no claim. `widened`: intervals
    for claims, which few rounds make wider."""
    rounds = min(len(a), len(b))
    a, b = Rounds.of(a)[:rounds], Rounds.of(b)[:rounds]
    if not a.shortest or not b.shortest:
        return dict.fromkeys(LATENCY_KEYS, NOTHING)
    of_a, of_b = summary(a), summary(b)
    weights = _draw(rounds, seed)
    drawn_a, drawn_b = _drawn(a, weights), _drawn(b, weights)
    result = {}
    for key in LATENCY_KEYS:
        above, below = of_a[key], of_b[key]
        if not above or not below:
            result[key] = NOTHING
        elif key == "max":
            result[key] = Ratio(_digits(above / below), None, None, False, NO_INTERVAL)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                draws = drawn_a[key] / drawn_b[key]
            result[key] = judge(above / below, draws, rounds, noisy.get(key, ""), widened=widened)
    return result


def as_control(ratios: dict[str, Ratio]) -> dict[str, Ratio]:
    """The same of what should be alike: a difference is noise, or a price, and never claimed."""
    return {k: replace(r, claim=False, why=CONTROL) if r.claim else r for k, r in ratios.items()}


def _drawn(rounds: Rounds, weights: Numbers) -> dict[str, Numbers]:
    """The percentiles that each draw of rounds would have given."""
    untold = [percent for percent in PERCENTILES.values() if not _told(rounds, percent)]
    pooled = _Pooled.of(weights, rounds, min(untold)) if untold else None
    return {
        key: pooled.quantiles(percent)
        if pooled is not None and percent in untold
        else _medians(_each(rounds, percent), weights)
        for key, percent in PERCENTILES.items()
    }


def _medians(figures: Numbers, weights: Numbers) -> Numbers:
    """Of each draw the median of the rounds' figures, each as often as its weight says."""
    order = np.argsort(figures)
    upto = np.cumsum(weights[:, order], axis=1)
    n = len(figures)
    middle = [figures[order[np.argmax(upto > rank, axis=1)]] for rank in ((n - 1) // 2, n // 2)]
    medians: Numbers = (middle[0] + middle[1]) / 2
    return medians


def rate_ratio(a: Sequence[float], b: Sequence[float], seed: int, noisy: str = "") -> Ratio:
    """Sum of a divided by sum of b, each a list of rounds."""
    rounds = min(len(a), len(b))
    if rounds == 0 or sum(b[:rounds]) == 0:
        return NOTHING
    weights = _draw(rounds, seed).astype(float)
    x, y = np.array(a[:rounds], dtype=float), np.array(b[:rounds], dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (weights @ x) / (weights @ y)
    return judge(float(x.sum() / y.sum()), draws, rounds, noisy)


# ---- how noisy the computer was ------------------------------------------------------------------------


@dataclass
class Noise:
    """What the operating system did to the walkers, and what follows for claims."""

    stolen_idle: float
    """Share of the walkers' time, collapsers idle, in which they were not running."""
    involuntary_per_s: float
    """Involuntary context switches of a walker per second, over both windows."""
    minor_faults: int
    """Real page faults of the walkers in the measured windows."""
    idle_p99_spread: float
    """By what factor the idle p99 of the two eras compared differ."""
    crowded: bool
    """More threads than processors: they preempt each other."""
    reasons: list[str]
    """Why nothing is claimed; empty where claims are allowed."""
    tail_reasons: list[str]
    """Why nothing is claimed of p99.9."""

    @property
    def noisy(self) -> bool:
        """Whether no gain is claimed at all."""
        return bool(self.reasons)

    def verdicts(self) -> dict[str, str]:
        """For each latency key, why it is not claimed; an empty text where it may be."""
        everywhere = "; ".join(self.reasons)
        tail = "; ".join(self.reasons + self.tail_reasons)
        return {k: tail if k in ("p999", "max") else everywhere for k in LATENCY_KEYS}

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON output."""
        return {
            "noisy": self.noisy,
            "reasons": self.reasons,
            "tail_reasons": self.tail_reasons,
            "stolen_idle": round(self.stolen_idle, 5),
            "involuntary_per_s": round(self.involuntary_per_s, 2),
            "minor_faults": self.minor_faults,
            "idle_p99_spread": round(self.idle_p99_spread, 3),
            "crowded": self.crowded,
        }


STOLEN_ALL = 0.10
STOLEN_TAIL = 0.05
SPREAD = 1.5
SATURATED_NS = 1_000_000  # half of all operations later than this: a queue that only grows


def judge_noise(
    *,
    stolen_idle: float,
    involuntary_per_s: float,
    minor_faults: int,
    idle_p99: Ratio,
    crowded: bool,
    loaded_p50: Sequence[float] = (),
) -> Noise:
    """The noise gate: when the computer was too busy with other things to support a claim.

    `idle_p99` is the control: the ratio of the eras that are compared while the collapsers sleep. The eras then do
    the same work. Where even so its interval leaves 1 out, by more than the eras' code can explain, the rounds of
    one era had a better computer than those of the other.
    """
    ratio = idle_p99.ratio or 1.0
    spread = max(ratio, 1 / ratio)
    differs = (idle_p99.low or 0) > 1 or (idle_p99.high or np.inf) < 1
    reasons, tail = [], []
    if stolen_idle > STOLEN_ALL:
        reasons.append(f"other programs took {stolen_idle:.0%} of the walkers' processor time")
    elif stolen_idle > STOLEN_TAIL:
        tail.append(f"other programs took {stolen_idle:.1%} of the walkers' processor time")
    if differs and spread > SPREAD:
        reasons.append(
            f"the idle p99 of the eras, which should be alike, differ by a factor of {spread:.1f}"
        )
    if loaded_p50 and min(loaded_p50) > SATURATED_NS:
        reasons.append(
            "no era kept up with the schedule under load, and the latencies are those of a growing queue"
        )
    if crowded:
        tail.append("there are more threads than processors, and they preempt each other")
    return Noise(stolen_idle, involuntary_per_s, minor_faults, spread, crowded, reasons, tail)
