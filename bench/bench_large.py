"""Large programs beside small ones, and beside the running kernel: many VMAs, a GiB populated, a whole scenario.

    pytest bench/bench_large.py --benchmark-enable -s      figures in extra_info, printed beside their bars

The loops are in C++ (bench/native/large_bench.cpp). The scenario is the one of the recorded set that takes the laboratory the
median of all their times; both players are driven from Python, as `pgtbl compare --host` does it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rows import Rounds, Row, bench, compared, pair, record

import pgtbl
from pgtbl._compare.engine import HostPlayer, LaboratoryPlayer, Player, Skipped
from pgtbl._compare.scenario import Scenario, read_scenarios

ERAS = ("v6.6", "v6.18")
RECORDED = Path(__file__).parents[1] / "tests/data/scenarios.jsonl.gz"
MOST_VMAS = 100_000
MOST_SLOWER = 2.0  # a fault among so many VMAs, beside one among ten
SCENARIO_ROUNDS = 15


def among_vmas(era: str) -> Iterator[Row]:
    r = bench.mm_fault_among(rounds=15, count=MOST_VMAS, era=era)
    for kind, what in (("anon", "fresh anonymous page"), ("file", "store to a page in cache")):
        name = f"fault among {MOST_VMAS:,} VMAs, beside 10, {what}, {era}"
        yield compared(name, r, f"{kind}.many", f"{kind}.few", MOST_SLOWER)


def a_life(era: str) -> Iterator[Row]:
    r = bench.mm_life(rounds=5, era=era)
    calls = {
        "fork": "fork with 1 GiB populated",
        "exit": "exit of the child",
        "munmap": "munmap of 1 GiB populated",
    }
    for key, what in calls.items():
        ours, theirs = pair(r, f"{key}.simulated", f"{key}.real")
        beside = f"{ours:.1f} / {theirs:.1f} ms"
        yield Row(f"{what}, beside the kernel's, {era}", ours / theirs, "", beside)


# ---- a scenario ---------------------------------------------------------------------------------------


def seconds(player: Player, scenario: Scenario) -> float | None:
    """Of one play; None where the player cannot."""
    start = time.perf_counter()
    try:
        player.outcome(scenario)
    except Skipped:
        return None
    return time.perf_counter() - start


def median_scenario(player: Player) -> Scenario:
    """The one whose time is the median of all that the laboratory can play."""
    took = []
    for item in read_scenarios(RECORDED):
        if isinstance(item, Scenario) and (time_ := seconds(player, item)) is not None:
            took.append((time_, item.id, item))
    return sorted(took)[len(took) // 2][2]


def a_scenario() -> Iterator[Row]:
    laboratory = LaboratoryPlayer()
    scenario = median_scenario(laboratory)
    name = f"scenario {scenario.id}, {len(scenario.steps)} steps"
    rounds: Rounds = {"laboratory": [], "host": []}
    host = None if pgtbl.host.why_not() else HostPlayer()
    try:
        for _ in range(SCENARIO_ROUNDS):
            mine = seconds(laboratory, scenario)
            theirs = seconds(host, scenario) if host is not None else None
            rounds["laboratory"].append(1e3 * (mine or 0))
            if theirs is not None:
                rounds["host"].append(1e3 * theirs)
    finally:
        if host is not None:
            host.close()
    if len(rounds["host"]) < SCENARIO_ROUNDS:
        why = pgtbl.host.why_not() or "the kernel here cannot play it"
        yield Row(name, statistics.median(rounds["laboratory"]), "ms", f"alone: {why}")
        return
    ours, theirs = pair(rounds, "laboratory", "host")
    yield Row(f"{name}, beside the kernel", ours / theirs, "", f"{ours:.1f} / {theirs:.1f} ms")


# ---- pytest-benchmark -----------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("measure", [among_vmas, a_life], ids=lambda f: f.__name__)
def test_large(benchmark: Any, measure: Callable[[str], Iterator[Row]], era: str) -> None:
    """Faults among many VMAs; fork, exit and munmap with a GiB populated."""
    record(benchmark, lambda: measure(era))


def test_scenario(benchmark: Any) -> None:
    """The median scenario of the recorded set, on the laboratory and on the running kernel."""
    record(benchmark, a_scenario)
