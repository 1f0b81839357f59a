"""The race as a benchmark: what each era's walkers feel, workload by workload, and what was gained.

    pytest bench/bench_race.py --benchmark-autosave
    pytest bench/bench_race.py --benchmark-compare

So that a comparison of two commits compares what matters, the "time" of these benchmarks is not how long a call took:
it is the figure of each round that the name says (a p99 latency, a ratio), in "seconds". extra_info has the gain with its
interval, all percentiles, throughput and the ledger per collapse. Needs an installed pgtbl only.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from typing import Any

import pytest

from pgtbl import _stats
from pgtbl._race import Runner, closed_loop_rates, conclude, machine_facts, make_order
from pgtbl._result import LOADED, RaceResult
from pgtbl._synthetic import SYNTHETIC, workload_names

ERAS = ("v6.4", "v6.5", "v6.6")
OURS = [name for name in workload_names() if name not in SYNTHETIC or not SYNTHETIC[name].source]
SECONDS = float(os.environ.get("PGTBL_BENCH_SECONDS", "9"))  # of each workload
ROUNDS = 5


class Clock:
    """A timer that goes on by what was measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-12  # pytest-benchmark waits for a timer to move
        return self.now


CLOCK = Clock()
RESULTS: dict[str, RaceResult] = {}


def result_of(workload: str) -> RaceResult:
    """A race of all eras, once for each workload."""
    if workload not in RESULTS:
        order = make_order(eras=ERAS, workload=workload, seconds=SECONDS, rounds=ROUNDS)
        runner = Runner(order)
        runner.run()
        if runner.interrupted:
            raise KeyboardInterrupt
        RESULTS[workload] = conclude(runner, machine_facts())
    return RESULTS[workload]


def report(benchmark: Any, figures: list[float]) -> None:
    """Makes `figures` what the benchmark says that its rounds took."""
    each: Iterator[float] = iter(figures)

    def advance() -> None:
        CLOCK.now += next(each)

    benchmark.pedantic(advance, rounds=len(figures) if benchmark.enabled else 1, iterations=1)


@pytest.mark.benchmark(timer=CLOCK, group="race: p99 from the moment due, collapsers at work")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("workload", OURS)
def test_p99_under_load(benchmark: Any, workload: str, era: str) -> None:
    """What the walkers of an era feel."""
    result = result_of(workload)
    found = result.eras[era]
    p99 = [_stats.summary([part.of(found.primary)])["p99"] or 0.0 for part in found.loaded]
    report(benchmark, [ns / 1e9 for ns in p99])
    collapses = max(1, found.collapses)
    benchmark.extra_info.update(
        era=era,
        workload=workload,
        **{k: v for k, v in found.to_dict().items() if k not in ("ledger_walkers", "split")},
        per_collapse={k: v / collapses for k, v in found.ledger_collapse.items() if v},
        noise=result.noise.to_dict(),
    )
    assert found.faults > 0 < found.collapses


@pytest.mark.benchmark(timer=CLOCK, group="race: v6.6 / v6.4 of the p99 (less is better)")
@pytest.mark.parametrize("workload", OURS)
def test_gain(benchmark: Any, workload: str) -> None:
    """The share of v6.4's p99 that is left in v6.6, round by round: the gain's inverse, so that less is better."""
    result = result_of(workload)
    old, new = (result.eras[e] for e in ("v6.4", "v6.6"))
    left = [
        (_stats.summary([b.of(new.primary)])["p99"] or 0.0)
        / (_stats.summary([a.of(old.primary)])["p99"] or 1.0)
        for a, b in zip(old.loaded, new.loaded, strict=False)
    ]
    report(benchmark, left)
    benchmark.extra_info.update(
        workload=workload,
        gain={k: r.to_dict() for k, r in result.gain.items()},
        split={k: {p: r.to_dict() for p, r in v.items()} for k, v in result.split.items()},
        noise=result.noise.to_dict(),
    )


GOAL = 0.9


@pytest.mark.benchmark(
    timer=CLOCK, group="race: fault throughput beside collapsers / beside copying"
)
def test_throughput_beside_collapsers(benchmark: Any) -> None:
    """Closed loop: v6.6's walkers reach 0.9 of what they reach beside a thread that only copies; v6.4 beside it.

    The copying thread clears and copies 2 MiB over and over in frames of its own, and never touches the mm.
    """
    orders = {
        "v6.4": make_order(workload="own-range", seconds=6, rounds=1),
        "v6.6": make_order(workload="own-range", seconds=6, rounds=1),
        "copy": make_order(workload="own-range", seconds=6, rounds=1, mode="copy"),
    }
    rates: dict[str, list[float]] = {name: [] for name in orders}
    for _ in range(7 if benchmark.enabled else 1):
        for name, order in orders.items():
            raw = Runner(order).round("v6.6" if name == "copy" else name, {}, 0, 0, 0.35)
            rates[name].append(statistics.fmean(closed_loop_rates(raw, LOADED)))
    ratios = {
        era: statistics.median(a / b for a, b in zip(rates[era], rates["copy"], strict=True))
        for era in ("v6.4", "v6.6")
    }
    report(benchmark, [b / a for a, b in zip(rates["v6.6"], rates["copy"], strict=True)])
    benchmark.extra_info.update(
        steps_per_s={k: round(statistics.median(v)) for k, v in rates.items()},
        ratio=ratios,
        goal=GOAL,
    )
    print(
        f"\nbeside collapsers / beside copying: v6.6 {ratios['v6.6']:.3f}, v6.4 {ratios['v6.4']:.3f}"
    )
    assert not benchmark.enabled or ratios["v6.6"] >= GOAL
