"""RCU beside liburcu-memb and beside nothing: the figures of docs/, as ratios within one run.

    pytest bench/bench_rcu.py -s        assert the bars, store the figures in extra_info, and print them
    python bench/report.py              the same as a table

Rounds alternate between the contenders; a ratio is the median of the rounds' ratios. Differences under 0.3 ns count as
equal. What is held, in MB or in callbacks, is a limit and no timing: one attempt that breaks it fails.
Needs the module pgtbl_bench (-DPGTBL_BENCH=ON).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rows import Rounds, Row, bench, compared, median, pair, record

needs_liburcu = pytest.mark.skipif(not bench.has_liburcu, reason="built without liburcu")

MODES = {"idle": "idle", "running": "running", "sections": "in 50 us sections"}
LIMIT = 100_000
BATCH = 256  # that the limit may be exceeded by


def rounds(measure: Callable[[], dict[str, float]], n: int) -> Rounds:
    measure()  # warms up caches and pools
    runs = [measure() for _ in range(n)]
    return {name: [run[name] for run in runs] for name in runs[0]}


def beside_liburcu(name: str, r: Rounds, unit: str, bar: float) -> Row:
    ours, theirs = pair(r, "pgtbl", "liburcu")
    return Row(name, ours / theirs, "", f"{ours:.3g} / {theirs:.3g} {unit}", bar)


def read_section() -> Iterator[Row]:
    r = rounds(lambda: bench.rcu_read_section(10_000_000), 9)
    if bench.has_liburcu:
        yield compared("read section, beside liburcu-memb", r, "pgtbl", "liburcu", 0.83)
    yield compared("read section, beside an empty loop", r, "pgtbl", "empty", 2.5)


def grace_period(mode: str) -> Iterator[Row]:
    r = rounds(lambda: bench.rcu_grace_period(mode, 500), 7)
    yield beside_liburcu(f"grace period, reader {MODES[mode]}", r, "us", 0.6)


def enqueue() -> Iterator[Row]:
    r = rounds(lambda: bench.rcu_enqueue(400), 7)
    yield beside_liburcu("enqueue a callback", r, "ns", 0.45)


def retire_page(reader_runs: bool) -> Iterator[Row]:
    r = rounds(lambda: bench.rcu_retire_page(300_000, reader_runs), 5)
    where = ", beside a reader" if reader_runs else ""
    yield beside_liburcu(f"retire a page of 4 KiB{where}", r, "ns of CPU", 0.2)
    held, theirs = max(r["pgtbl_held_mb"]), median(r, "liburcu_held_mb")
    yield Row(f"held meanwhile{where}", held, "MB", f"liburcu {theirs:.0f} MB", 16, exact=True)


def stalled_reader() -> Iterator[Row]:
    r = rounds(lambda: bench.rcu_stalled_backlog(LIMIT), 2)
    name = f"pending under a reader stalled for 300 ms, limit {LIMIT:,}"
    yield Row(name, max(r["pgtbl_peak"]), "", "", LIMIT + BATCH, exact=True)


def everything() -> Iterator[Row]:
    yield from read_section()
    if bench.has_liburcu:
        for mode in MODES:
            yield from grace_period(mode)
        yield from enqueue()
        for reader_runs in (False, True):
            yield from retire_page(reader_runs)
    yield from stalled_reader()


# ---- pytest-benchmark -------------------------------------------------------------------------------------


def test_read_section(benchmark: Any) -> None:
    record(benchmark, read_section)


@needs_liburcu
@pytest.mark.parametrize("mode", MODES)
def test_grace_period(benchmark: Any, mode: str) -> None:
    record(benchmark, lambda: grace_period(mode), attempts=5)


@needs_liburcu
def test_enqueue(benchmark: Any) -> None:
    record(benchmark, enqueue)


@needs_liburcu
@pytest.mark.parametrize("reader_runs", [False, True], ids=["alone", "beside-reader"])
def test_retire_page(benchmark: Any, reader_runs: bool) -> None:
    record(benchmark, lambda: retire_page(reader_runs))


def test_backlog_under_a_stalled_reader(benchmark: Any) -> None:
    record(benchmark, stalled_reader, attempts=1)
