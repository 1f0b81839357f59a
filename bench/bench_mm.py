"""The mm beside what bounds it: the figures of docs/benchmarks.md, as ratios within one run.

    pytest bench/bench_mm.py --benchmark-enable -s      figures in extra_info, printed beside their bars
    python bench/report.py                              the same as tables

Needs the module pgtbl_bench (-DPGTBL_BENCH=ON).  The C++ loops alternate their contenders round by round; a
figure is the median over the rounds, a ratio the median of the rounds' ratios, printed with both figures of that
round.  Differences under 0.3 ns count as equal.  What most of three attempts miss fails (of five where two
processors must be free).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any

import pytest
from rows import EQUAL_NS, Rounds, Row, bench, compared, median, pair, record

# ---- one function for each group of bars -----------------------------------------------------------------


def walks(tables: int = 4) -> Iterator[Row]:
    r = bench.mm_walk(rounds=21, n=500_000, tables=tables)
    where = f"{tables} tables"
    yield compared(f"walk, dependent, {where}", r, "dependent.mapped", "dependent.bare", 1.05)
    yield compared(f"walk, independent, {where}", r, "independent.mapped", "independent.bare", 1.3)
    yield compared(f"64 walks in a section, {where}", r, "batch.section", "batch.bare", 1.05)
    for kind in ("dependent", "independent"):
        name = f"walk, {kind}, {where}, beside a walk without atomics"
        yield compared(name, r, f"{kind}.mapped", f"{kind}.racy")
    name = f"64 walks in a section, a nested section each, {where}"
    yield compared(name, r, "batch.mapped", "batch.bare")


def walking_threads() -> Iterator[Row]:
    r = bench.mm_walk_threads(rounds=15, n=500_000, threads=2)
    both, one = pair(r, "all", "one")
    beside = f"{both:.0f} / {one:.0f} walks a us of CPU time"
    yield Row("two threads walk, beside one", both / one, "", beside, 1.9, at_least=True)


def vma_checks() -> Iterator[Row]:
    r = bench.mm_vma_check(rounds=15)
    for name, what in (("checked", "check of a VMA at hand"), ("seqcount", "seqcount alone")):
        cost = statistics.median(a - b for a, b in zip(r[name], r["section"], strict=True))
        beside = f"section {median(r, 'section'):.2f} ns"
        yield Row(
            f"{what}, above the section", cost, "ns", beside, 1.1, equal=cost - 1.1 < EQUAL_NS
        )
    for count in (10, 1_000, 100_000):
        r = bench.mm_vma_lookup(rounds=9, count=count)
        yield Row(f"look-up among {count:,} VMAs", median(r, "tree"), "ns")
        yield Row(f"lock_vma_under_rcu among {count:,} VMAs", median(r, "locked"), "ns")


def faults(era: str = "v6.6") -> Iterator[Row]:
    r = bench.mm_fault(rounds=15, era=era)
    kinds = {
        "anon_write": "fault, fresh anonymous page",
        "file_write": "fault, store to a page in cache",
        "file_read": "touched page, loads, 16 a fault",
    }
    for key, name in kinds.items():
        ours, theirs = pair(r, f"{key}.simulated", f"{key}.real")
        beside = f"{ours:.0f} / {theirs:.0f} ns"
        yield Row(f"{name}, beside the kernel's", ours / theirs, "", beside, 0.5)


def touches() -> Iterator[Row]:
    r = bench.mm_touch(rounds=15)
    for kind, name in (("read", "loads"), ("write", "stores")):
        yield Row(
            f"{name} at random, 512 pages",
            median(r, f"{kind}.512"),
            "million/s",
            "all in the TLB",
            20,
            True,
        )
        yield Row(
            f"{name} at random, 4,096 pages",
            median(r, f"{kind}.4096"),
            "million/s",
            "most walk",
            20,
            True,
        )
        # Beyond the reach of the machine's own TLB, whose walks are then most of it.
        yield Row(
            f"{name} at random, 16,384 pages",
            median(r, f"{kind}.16384"),
            "million/s",
            "real walks too",
        )


def calls(era: str = "v6.6") -> Iterator[Row]:
    r = bench.mm_calls(rounds=15, era=era)
    names = {
        "mmap_munmap": "mmap + munmap, 1 MiB untouched",
        "mmap_touch16_munmap": "mmap + 16 faults + munmap",
        "collapse": "MADV_COLLAPSE of 2 MiB of shared memory, all mapped",
    }
    for key, name in names.items():
        real = [us for us in r[f"{key}.real"] if not math.isnan(us)]
        beside = f"the kernel's {statistics.median(real):.3g} us" if real else "the kernel refused"
        yield Row(name, median(r, f"{key}.simulated"), "us", beside)


def quiet(r: Rounds) -> Rounds:
    """The third of the rounds in which the collapser was fastest: it had its core to itself."""
    measured = [
        i for i in range(len(r["collapse_us"])) if not any(math.isnan(v[i]) for v in r.values())
    ]
    best = sorted(measured, key=lambda i: r["collapse_us"][i])[: max(1, len(measured) // 3)]
    return {name: [values[i] for i in best] for name, values in r.items()}


def beside_a_collapser(era: str, kind: str) -> Iterator[Row]:
    r = quiet(bench.mm_collapse_beside(rounds=45, era=era, kind=kind))
    collapser, copier = pair(r, "collapser", "copier")
    yield Row(
        f"{kind.replace('_', ' ')} faults beside a collapser, beside a copier, {era}",
        collapser / copier,
        "",
        f"{collapser:.3g} / {copier:.3g} faults a us, {median(r, 'collapse_us'):.0f} us a collapse",
        0.9 if era == "v6.6" else None,
        at_least=True,
    )


KINDS = ("file_write", "file_read", "anon_write")
ERAS = ("v6.6", "v6.4")


# ---- pytest-benchmark -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tables", [4, 128])
def test_walk(benchmark: Any, tables: int) -> None:
    """pte_offset_map with a section each, beside four loads by hand: tables in L1, in L2."""
    record(benchmark, lambda: walks(tables))


def test_two_threads_walk(benchmark: Any) -> None:
    record(benchmark, walking_threads, attempts=5)


def test_vma(benchmark: Any) -> None:
    """The check of a VMA at hand; the tree beside it."""
    record(benchmark, vma_checks)


@pytest.mark.parametrize("era", ERAS)
def test_fault(benchmark: Any, era: str) -> None:
    """A simulated minor fault beside a real one."""
    record(benchmark, lambda: faults(era))


def test_touch(benchmark: Any) -> None:
    """Touches of mapped pages in one C++ loop."""
    record(benchmark, touches)


@pytest.mark.parametrize("era", ERAS)
def test_calls(benchmark: Any, era: str) -> None:
    """For information: mmap, munmap, MADV_COLLAPSE."""
    record(benchmark, lambda: calls(era))


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("kind", KINDS)
def test_faults_beside_a_collapser(benchmark: Any, era: str, kind: str) -> None:
    record(benchmark, lambda: beside_a_collapser(era, kind), attempts=5)
