"""The race as a benchmark: what each era's walkers feel, workload by workload, and what was gained.

    pytest bench/bench_race.py --benchmark-autosave
    pytest bench/bench_race.py --benchmark-compare

So that a comparison of two commits compares what matters, the "time" of these benchmarks is not how long a call took:
it is the figure of each round that the name says (a p99 latency, a ratio), in "seconds". extra_info has the gain with its
interval, all percentiles, throughput and the ledger per collapse.

All workloads under all eras take about six minutes. $PGTBL_BENCH_WORKLOADS and $PGTBL_BENCH_ERAS name some of them instead,
$PGTBL_BENCH_SECONDS gives each era of a workload more or less than a second (those of other people's benchmarks: 0.4 of that),
but never less than half a second: in shorter rounds, beside other work, a thread may never have got a processor. An era whose
collapsers, or walkers, had none all the same is skipped, with that reason; what they had time for and did not do is a failure.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator
from typing import Any

import pytest
from rows import Row, record

from pgtbl import _core, _stats
from pgtbl._race import (
    DEFAULT_COLLAPSE_RATE,
    Runner,
    closed_loop_rates,
    conclude,
    machine_facts,
    make_order,
)
from pgtbl._result import LOADED, EraResult, RaceResult
from pgtbl._synthetic import SYNTHETIC, workload_names

ERAS = os.environ.get("PGTBL_BENCH_ERAS", " ".join(_core.switches()[0]["eras"])).split()
WORKLOADS = os.environ.get("PGTBL_BENCH_WORKLOADS", " ".join(workload_names())).split()
SECONDS = float(os.environ.get("PGTBL_BENCH_SECONDS", "1"))  # of each era
OF_OTHERS = 0.4  # of that time for the workloads of other people's benchmarks
ROUNDS = 5
SHORTEST = 0.1  # seconds of a round of an era
STARVED = 0.01  # of the time that a walker was to have: with less of a processor it says nothing


class Clock:
    """A timer that goes on by what was measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-12  # pytest-benchmark waits for a timer to move
        return self.now


CLOCK = Clock()


@pytest.fixture(scope="module", params=WORKLOADS)
def result(request: pytest.FixtureRequest) -> RaceResult:
    """A race of all eras, once for each workload."""
    workload = request.param
    source = SYNTHETIC[workload].source if workload in SYNTHETIC else ""
    seconds = len(ERAS) * max(SHORTEST * ROUNDS, SECONDS * (OF_OTHERS if source else 1))
    order = make_order(eras=ERAS, workload=workload, seconds=seconds, rounds=ROUNDS)
    runner = Runner(order)
    runner.run()
    if runner.interrupted:
        raise KeyboardInterrupt
    return conclude(runner, machine_facts())


def report(benchmark: Any, figures: list[float]) -> None:
    """Makes `figures` what the benchmark says that its rounds took."""
    each: Iterator[float] = iter(figures)

    def advance() -> None:
        CLOCK.now += next(each)

    benchmark.pedantic(advance, rounds=len(figures) if benchmark.enabled else 1, iterations=1)


def p99_ns(era: EraResult) -> list[float | None]:
    """Of each round; None where a busy computer left no sample in it."""
    return [_stats.summary([tally])["p99"] for tally in era.rounds_of(LOADED)]


def skip_where_starved(era: EraResult) -> None:
    """Nothing is to be said of an era whose collapsers never had a turn, or whose walkers hardly had a processor."""
    if not sum(era.turns):
        pytest.skip(
            f"{era.name}: no collapser got a turn in {era.seconds:.2g} s; $PGTBL_BENCH_SECONDS"
        )
    usage = [u["loaded"]["usage"] for u in era.usage]
    had = sum(u["cpu_ns"] for u in usage) / max(1, sum(u["wall_ns"] for u in usage))
    if had < STARVED:
        pytest.skip(f"{era.name}: the walkers had {had:.1%} of a processor; $PGTBL_BENCH_SECONDS")


@pytest.mark.benchmark(timer=CLOCK, group="race: p99 from the moment due, collapsers at work")
@pytest.mark.parametrize("era", ERAS)
def test_p99_under_load(benchmark: Any, result: RaceResult, era: str) -> None:
    """What the walkers of an era feel."""
    found = result.eras[era]
    skip_where_starved(found)
    assert found.faults > 0 < found.collapses
    report(benchmark, [ns / 1e9 for ns in p99_ns(found) if ns])
    collapses = max(1, found.collapses)
    benchmark.extra_info.update(
        era=era,
        workload=result.workload["name"],
        **{k: v for k, v in found.to_dict().items() if k not in ("ledger_walkers", "split")},
        per_collapse={k: v / collapses for k, v in found.ledger_collapse.items() if v},
        noise=result.noise.to_dict(),
    )


@pytest.mark.benchmark(timer=CLOCK, group="race: v6.6 / v6.4 of the p99 (less is better)")
@pytest.mark.skipif(not {"v6.4", "v6.6"} <= set(ERAS), reason="gain means v6.4 / v6.6")
def test_gain(benchmark: Any, result: RaceResult) -> None:
    """The share of v6.4's p99 that is left in v6.6, round by round: the gain's inverse, so that less is better."""
    old, new = (result.eras[e] for e in ("v6.4", "v6.6"))
    skip_where_starved(old)
    skip_where_starved(new)
    left = [b / a for a, b in zip(p99_ns(old), p99_ns(new), strict=True) if a and b]
    assert left, "no round has samples of both"
    report(benchmark, left)
    benchmark.extra_info.update(
        workload=result.workload["name"],
        gain={k: r.to_dict() for k, r in result.gain.items()},
        split={k: {p: r.to_dict() for p, r in v.items()} for k, v in result.split.items()},
        noise=result.noise.to_dict(),
    )


# ---- closed loop -------------------------------------------------------------------------------------------

GOAL = 0.9
PART = 0.35  # seconds


def beside(workload: str, era: str, mode: str, rate: float) -> tuple[float, float]:
    """Steps a second of the walkers beside collapsers, or copiers, of that pace; extents a second of these."""
    order = make_order(workload=workload, seconds=6, rounds=1, mode=mode, collapse_rate=rate)
    raw = Runner(order).round(era, {}, 0, 0, PART)
    if raw["interrupted"]:
        raise KeyboardInterrupt
    extents = raw["collapses"]["turns"] / raw["loaded_ns"] * 1e9
    return statistics.fmean(closed_loop_rates(raw, LOADED)), extents


def throughput(workload: str, rounds: int) -> Iterator[Row]:
    """Each era beside a control of its own, which copies as many extents in the same time as its collapser did.

    A round in which the collapser did none has no control: pace 0 would mean one without a pause.
    """
    pairs: dict[str, list[tuple[float, float, float, float]]] = {"v6.4": [], "v6.6": []}
    for _ in range(rounds):
        for era, found in pairs.items():
            steps, collapsed = beside(workload, era, "collapse", DEFAULT_COLLAPSE_RATE)
            if not collapsed:
                continue
            alike, copied = beside(workload, era, "copy", collapsed)
            found.append((steps, alike, collapsed, copied))
    for era, found in pairs.items():
        name = f"{workload}, walkers beside collapsers, beside copiers, {era}"
        goal = GOAL if era == "v6.6" else None
        if not found:
            why = f"no collapser got a turn in {rounds} rounds of {PART} s"
            yield Row(name, math.nan, "", why, goal, at_least=True)
            continue
        steps, alike, collapsed, copied = sorted(found, key=lambda f: f[0] / f[1])[len(found) // 2]
        figures = f"{steps / 1e6:.3g} / {alike / 1e6:.3g} steps a us"
        yield Row(
            name,
            steps / alike,
            "",
            f"{figures}, {collapsed:.0f} / {copied:.0f} extents a second",
            goal,
            at_least=True,
        )


@pytest.mark.benchmark(group="race: closed loop")
def test_throughput_beside_collapsers(benchmark: Any) -> None:
    """v6.6's walkers reach 0.9 of what they reach beside a thread that only copies; v6.4 beside it.

    The copying thread clears and copies extents in frames of its own, as many in the same time as the collapser turned
    over, out of as much memory, and never touches the mm.
    """
    record(benchmark, lambda: throughput("own-range", 7 if benchmark.enabled else 1), attempts=5)
