"""Runs the benchmarks of the mm and prints the tables of docs/benchmarks.md.

python bench/report.py
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import bench_mm
from bench_mm import Row


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def table(title: str, rows: Iterable[Row]) -> None:
    print(f"\n### {title}\n")
    print("| what | figure | behind it | bar | |")
    print("|---|---|---|---|---|")
    for row in rows:
        figure = f"{row.value:.3g} {row.unit}".rstrip()
        print(
            f"| {row.name} | {figure} | {row.beside} | {row.wanted} | {row.verdict} |", flush=True
        )


def main() -> None:
    print(f"{processor()}, Linux {platform.release()}")
    table("Walks", chain(bench_mm.walks(4), bench_mm.walks(128), bench_mm.walking_threads()))
    table("VMAs", bench_mm.vma_checks())
    table("Faults", bench_mm.faults())
    table("Touches of mapped pages, one thread, one C++ loop", bench_mm.touches())
    beside = (
        bench_mm.beside_a_collapser(era, kind) for kind in bench_mm.KINDS for era in bench_mm.ERAS
    )
    table("Walkers beside a collapser", chain.from_iterable(beside))
    table("Calls, for information", bench_mm.calls())


if __name__ == "__main__":
    main()
