"""Runs the benchmarks of the mm and prints the tables of docs/benchmarks.md.

python bench/report.py              all of them, some minutes
python bench/report.py walks rcu    some
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterable
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
        cells = [row.name, row.figure, row.beside, row.wanted, row.verdict]
        print(f"| {' | '.join(cells)} |", flush=True)


def tables() -> dict[str, Callable[[], Iterable[Row]]]:
    """The tables of the page, by the word that asks for each alone."""
    import bench_large as large
    import bench_mm as mm
    import bench_race
    import bench_rcu
    import bench_touch as touch

    return {
        "walks": lambda: chain(mm.walks(4), mm.walks(128), mm.walking_threads()),
        "vmas": mm.vma_checks,
        "faults": mm.faults,
        "touches": mm.touches,
        "python": lambda: chain(touch.scalar(), touch.arrays(), touch.threaded()),
        "collapser": lambda: chain.from_iterable(
            mm.beside_a_collapser(era, kind) for kind in mm.KINDS for era in mm.ERAS
        ),
        "race": lambda: bench_race.throughput("own-range", 15),
        "calls": mm.calls,
        "large": lambda: chain(
            chain.from_iterable(
                measure(era) for measure in (large.among_vmas, large.a_life) for era in large.ERAS
            ),
            large.a_scenario(),
        ),
        "rcu": bench_rcu.everything,
    }


def main() -> None:
    find_module()
    known = tables()
    chosen = sys.argv[1:] or list(known)
    for name in chosen:
        if name not in known:
            sys.exit(f"there is no table {name!r}; there are {', '.join(known)}")
    print(f"{processor()}, Linux {platform.release()}")
    for name in chosen:
        table(name, known[name]())


if __name__ == "__main__":
    main()
