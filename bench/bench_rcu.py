"""RCU beside liburcu-memb and beside nothing: the figures of docs/, as ratios within one run.

    pytest bench/bench_rcu.py           assert the bars, and store the figures in extra_info
    python bench/bench_rcu.py           print a table

Rounds alternate between the contenders; a figure is the median over the rounds, a ratio the median of the
rounds' ratios. Differences under 0.3 ns count as equal. Needs the module pgtbl_bench (-DPGTBL_BENCH=ON).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest

bench = pytest.importorskip("pgtbl_bench")
needs_liburcu = pytest.mark.skipif(not bench.has_liburcu, reason="built without liburcu")

Figures = dict[str, float]
NOISE_NS = 0.3


def rounds(measure: Callable[[], Figures], n: int) -> list[Figures]:
    measure()  # warms up caches and pools
    return [measure() for _ in range(n)]


def median(runs: list[Figures], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def ratio(runs: list[Figures], ours: str, theirs: str) -> float:
    return statistics.median(run[ours] / run[theirs] for run in runs)


def record(benchmark: Any, runs: list[Figures], **ratios: float) -> None:
    """Gives pytest-benchmark something to hold on to; what counts is in extra_info."""
    benchmark.extra_info.update({name: median(runs, name) for name in runs[0]})
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(lambda: None, rounds=1)


def read_section(n: int = 9) -> list[Figures]:
    return rounds(lambda: bench.rcu_read_section(10_000_000), n)


def grace_period(mode: str, n: int = 7) -> list[Figures]:
    return rounds(lambda: bench.rcu_grace_period(mode, 500), n)


def enqueue(n: int = 7) -> list[Figures]:
    return rounds(lambda: bench.rcu_enqueue(400), n)


def retire_page(reader_runs: bool, n: int = 5) -> list[Figures]:
    return rounds(lambda: bench.rcu_retire_page(300_000, reader_runs), n)


def test_read_section_beside_an_empty_loop(benchmark: Any) -> None:
    runs = read_section()
    r = ratio(runs, "pgtbl", "empty")
    record(benchmark, runs, ratio=r)
    assert r <= 2.5 or median(runs, "pgtbl") - 2.5 * median(runs, "empty") < NOISE_NS


@needs_liburcu
def test_read_section_beside_liburcu(benchmark: Any) -> None:
    runs = read_section()
    r = ratio(runs, "pgtbl", "liburcu")
    record(benchmark, runs, ratio=r)
    assert r <= 0.83


@needs_liburcu
@pytest.mark.parametrize("mode", ["idle", "running", "sections"])
def test_grace_period(benchmark: Any, mode: str) -> None:
    runs = grace_period(mode)
    r = median(runs, "pgtbl") / median(runs, "liburcu")
    record(benchmark, runs, ratio=r)
    assert r <= 0.6


@needs_liburcu
def test_enqueue(benchmark: Any) -> None:
    runs = enqueue()
    r = ratio(runs, "pgtbl", "liburcu")
    record(benchmark, runs, ratio=r)
    assert r <= 0.45


@needs_liburcu
@pytest.mark.parametrize("reader_runs", [False, True], ids=["alone", "beside-reader"])
def test_retire_page(benchmark: Any, reader_runs: bool) -> None:
    runs = retire_page(reader_runs)
    r = ratio(runs, "pgtbl", "liburcu")
    record(benchmark, runs, ratio=r)
    assert r <= 0.2
    assert max(run["pgtbl_held_mb"] for run in runs) <= 16


def test_backlog_under_a_stalled_reader(benchmark: Any) -> None:
    runs = rounds(lambda: bench.rcu_stalled_backlog(100_000), 2)
    record(benchmark, runs)
    assert max(run["pgtbl_peak"] for run in runs) <= 100_000 + 256


def main() -> None:
    table: list[tuple[str, list[Figures]]] = [
        ("read section, ns", read_section()),
        ("grace period, reader idle, us", grace_period("idle")),
        ("grace period, reader running, us", grace_period("running")),
        ("grace period, sections of 50 us, us", grace_period("sections")),
        ("enqueue, ns", enqueue()),
        ("retire a page, ns CPU", retire_page(False)),
        ("retire a page beside a reader, ns CPU", retire_page(True)),
        ("backlog, reader stalled 300 ms", rounds(lambda: bench.rcu_stalled_backlog(100_000), 2)),
    ]
    for name, runs in table:
        figures = ", ".join(f"{key} {median(runs, key):.4g}" for key in runs[0])
        of = ""
        if "liburcu" in runs[0]:
            of = f"; ratio {median(runs, 'pgtbl') / median(runs, 'liburcu'):.2f}"
        print(f"{name}: {figures}{of}")


if __name__ == "__main__":
    main()
