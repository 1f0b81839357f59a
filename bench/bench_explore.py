"""How fast the explorer is: graphs and interleavings a second, beside relacy; litmus programs; the guard matrix.

    pytest bench/bench_explore.py --benchmark-enable

The rates are in ``extra_info``: a benchmark's time alone says little, because casts differ in length. They are a
second of processor time, so that neighbours on the machine spoil them less. relacy is compiled here from Debian's
headers (``apt-get install relacy-dev g++``); without them its comparison is skipped.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pgtbl import litmus
from pgtbl._explore import Verdict, check_guard, explore
from pgtbl.museum import KILLERS

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "tests" / "data" / "litmus.jsonl.gz"


def rate(cast: str, **options: Any) -> tuple[float, Verdict]:
    """Executions and blocked runs a second of processor time."""
    start = time.process_time()
    verdict = explore(cast, **options)
    return (verdict.executions + verdict.blocked) / (time.process_time() - start), verdict


@pytest.mark.parametrize("memory", ["sc", "tso", "ra", "rc11"])
@pytest.mark.parametrize(
    "cast",
    [
        "primer-wwwwc",
        "primer-wwwc-epochs",
        "rwsem-hand-off",
        "rwsem-three-writers",
        "rcu-two-sections-two-updaters",
        "fault-vs-retract",
    ],
)
def test_graphs_per_second(benchmark: Any, cast: str, memory: str) -> None:
    if memory == "ra" and (cast.startswith("rcu") or cast.endswith("epochs")):
        pytest.skip("release-acquire has no seq_cst fences, which grace periods stand on")
    rates = []

    def search() -> Verdict:
        found, verdict = rate(cast, memory=memory)
        rates.append(found)
        return verdict

    verdict = benchmark.pedantic(search, rounds=3, warmup_rounds=1)
    assert verdict.complete
    benchmark.extra_info["graphs_per_second"] = round(statistics.median(rates))
    benchmark.extra_info["executions"] = verdict.executions
    benchmark.extra_info["blocked"] = verdict.blocked / (verdict.executions + verdict.blocked)


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("cast", ["rcu-definition", "rwsem-read-write", "rwsem-hand-off"])
def test_interleavings_per_second(benchmark: Any, cast: str, memory: str) -> None:
    rates = []

    def search() -> None:
        rates.append(rate(cast, memory=memory, engine="random", executions=100_000)[0])

    benchmark.pedantic(search, rounds=3, warmup_rounds=1)
    benchmark.extra_info["interleavings_per_second"] = round(statistics.median(rates))


@pytest.fixture(scope="module")
def relacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None or not Path("/usr/include/relacy/relacy.hpp").exists():
        pytest.skip("relacy is not installed (Debian: apt-get install relacy-dev g++)")
    program = tmp_path_factory.mktemp("relacy") / "primer"
    source = HERE / "relacy" / "primer.cpp"
    # The snapshot that Debian has compiles as C++11, with warnings.
    subprocess.run([compiler, "-std=c++11", "-O3", "-w", source, "-o", program], check=True)
    return program


@pytest.mark.parametrize("cast", ["wc", "wwc"])
def test_interleavings_beside_relacy(benchmark: Any, relacy: Path, cast: str) -> None:
    """Random schedules of the same protocol, in turns: not slower than relacy."""
    executions = 500_000
    ours, theirs = [], []

    def turn() -> None:
        ours.append(rate(f"primer-{cast}", memory="sc", engine="random", executions=executions)[0])
        told = subprocess.run(
            [relacy, cast, str(executions)], capture_output=True, text=True, check=True
        )
        made, seconds = told.stdout.split()
        theirs.append(int(made) / float(seconds))

    benchmark.pedantic(turn, rounds=5)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    benchmark.extra_info["interleavings_per_second"] = round(statistics.median(ours))
    benchmark.extra_info["relacy_per_second"] = round(statistics.median(theirs))
    benchmark.extra_info["ratio"] = round(ratio, 3)
    assert ratio >= 1.0, f"{ratio:.2f} times as many interleavings a second as relacy"


def test_litmus(benchmark: Any) -> None:
    programs = [program for _, _, program in litmus.read_programs(GOLDEN)]
    benchmark.pedantic(lambda: [litmus.count(p) for p in programs], rounds=3, warmup_rounds=1)


def test_guard_matrix(benchmark: Any) -> None:
    rows = benchmark.pedantic(lambda: [check_guard(name, 30) for name in sorted(KILLERS)], rounds=1)
    assert all(row["caught"] for row in rows)
    benchmark.extra_info["guards"] = len(rows)
