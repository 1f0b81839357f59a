"""How fast the explorer is: graphs and interleavings a second, litmus programs, the guard matrix.

    pytest bench/bench_explore.py --benchmark-enable

The rates are in ``extra_info``: a benchmark's time alone says little, because casts differ in length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgtbl import litmus
from pgtbl._explore import check_guard, explore
from pgtbl.museum import KILLERS

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "data" / "litmus.jsonl.gz"


@pytest.mark.parametrize("memory", ["sc", "tso", "rc11"])
@pytest.mark.parametrize(
    "name", ["rwsem-hand-off", "rwsem-three-writers", "rcu-two-sections-two-updaters"]
)
def test_graphs_per_second(benchmark: Any, name: str, memory: str) -> None:
    verdict = benchmark.pedantic(lambda: explore(name, memory=memory), rounds=3, warmup_rounds=1)
    assert verdict.complete
    benchmark.extra_info["graphs_per_second"] = round(verdict.executions / verdict.seconds)
    benchmark.extra_info["blocked"] = verdict.blocked / verdict.executions


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("name", ["rcu-definition", "rwsem-read-write", "rwsem-hand-off"])
def test_interleavings_per_second(benchmark: Any, name: str, memory: str) -> None:
    def search() -> Any:
        return explore(name, memory=memory, engine="random", executions=100_000)

    verdict = benchmark.pedantic(search, rounds=3, warmup_rounds=1)
    benchmark.extra_info["interleavings_per_second"] = round(verdict.executions / verdict.seconds)


def test_litmus(benchmark: Any) -> None:
    programs = [program for _, _, program in litmus.read_programs(GOLDEN)]
    benchmark.pedantic(lambda: [litmus.count(p) for p in programs], rounds=3, warmup_rounds=1)


def test_guard_matrix(benchmark: Any) -> None:
    rows = benchmark.pedantic(lambda: [check_guard(name, 30) for name in sorted(KILLERS)], rounds=1)
    assert all(row["caught"] for row in rows)
    benchmark.extra_info["guards"] = len(rows)
