"""Runs the benchmarks of the mm and prints the tables of docs/benchmarks.md.

python bench/report.py
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import conftest

if TYPE_CHECKING:
    from rows import Row


def find_module() -> None:
    """Builds pgtbl_bench, as pytest does here, unless PYTHONPATH leads to one."""
    if importlib.util.find_spec("pgtbl_bench") is not None:
        return
    if (reason := conftest.build_bench_module()) is not None:
        sys.exit(f"pgtbl_bench could not be built: {reason}")
    library = conftest.preload()
    if library not in os.environ.get("LD_PRELOAD", ""):
        os.environ["LD_PRELOAD"] = f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()
        os.execv(sys.executable, sys.orig_argv)
    sys.path.insert(0, str(conftest.BUILD))


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
    find_module()
    import bench_large
    import bench_mm

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
    large = (
        f(era) for f in (bench_large.among_vmas, bench_large.a_life) for era in bench_large.ERAS
    )
    table("Large programs", chain(chain.from_iterable(large), bench_large.a_scenario()))


if __name__ == "__main__":
    main()
