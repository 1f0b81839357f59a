"""The locks beside what a program would use instead, as ratios within one run.

    pytest bench/bench_locks.py

Each C++ loop alternates the two sides, round by round; the ratio of a round is ours divided by theirs, and the median of the
rounds counts, of most attempts (rows.py). Figures go to extra_info.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from rows import EQUAL_NS, Row, bench, pair, record


def ptl_pair() -> Iterator[Row]:
    r = bench.spin_pair(rounds=15)
    ours, theirs = pair(r, *r)
    beside, equal = f"{ours:.2f} / {theirs:.2f} ns", ours - theirs < EQUAL_NS
    yield Row("ptl, beside pthread_spin", ours / theirs, "", beside, 1.05, equal=equal)


def ptl_oversubscribed() -> Iterator[Row]:
    r = bench.spin_contended(rounds=9, threads=8, locks=64, milliseconds=60)
    ours, theirs = pair(r, *r)
    name = "ptl, 8 threads, 64 locks, beside std::mutex"
    beside = f"{ours:.3g} / {theirs:.3g} sections a us"
    yield Row(name, ours / theirs, "", beside, 1.0, at_least=True)


def reading(threads: int, bar: float) -> Iterator[Row]:
    r = bench.read_pair(rounds=15, threads=threads)
    ours, theirs = pair(r, *r)
    name = f"mmap_lock for reading, threads: {threads}, beside std::shared_mutex"
    yield Row(name, ours / theirs, "", f"{ours:.2f} / {theirs:.2f} ns", bar)


# For the median round's p99. Measured were tens of microseconds (51; of single rounds beside other work 26 to 192), where
# the prototype had 1.35: as the writer leaves, all readers of the queue are let in, as the kernel's rwsem does it, and the next
# time it waits for each of them to get a processor.
WRITER_P99_NS = 100_000.0


def percentile(values: list[float], p: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]


def writer() -> Iterator[Row]:
    """The median round's p99; five threads on two processors lose theirs to others in some."""
    r = bench.writer_waits(rounds=9, readers=4, milliseconds=200)
    (ours, p50), (theirs, _) = (
        [statistics.median(percentile(waits, p) for waits in rounds) for p in (0.99, 0.5)]
        for rounds in r.values()
    )
    beside = f"p50 {p50 / 1e3:.3g} us, std::shared_mutex p99 {theirs / 1e6:.0f} ms"
    yield Row("writer among 4 looping readers, p99", ours / 1e3, "us", beside, WRITER_P99_NS / 1e3)
    name = "writer among 4 looping readers, p99, beside std::shared_mutex"
    yield Row(name, ours / theirs, "", beside, 1 / 50)


# ---- pytest-benchmark -------------------------------------------------------------------------------------


def test_ptl_pair(benchmark: Any) -> None:
    """An uncontended ptl, counted in the ledger, costs what pthread_spin costs."""
    record(benchmark, ptl_pair)


def test_ptl_oversubscribed(benchmark: Any) -> None:
    """Eight threads over 64 locks do at least as many sections as with std::mutex."""
    record(benchmark, ptl_oversubscribed)


def test_read_one_thread(benchmark: Any) -> None:
    """mmap_lock for reading: at most 0.9 times std::shared_mutex on one thread."""
    record(benchmark, lambda: reading(1, 0.9))


def test_read_two_threads(benchmark: Any) -> None:
    """On two threads at once, at most 0.5 times: one transfer of the line that both write for each half.

    It has to be two processors: where the two threads take turns on one, or a host has put two virtual
    processors on one core, no line travels, the ratio is that of one thread, and this fails.
    """
    record(benchmark, lambda: reading(2, 0.5), attempts=5)


def test_writer_among_readers(benchmark: Any) -> None:
    """A writer among four looping readers gets in within tens of microseconds; shared_mutex starves it."""
    record(benchmark, writer, attempts=1)
