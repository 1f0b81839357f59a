"""The stress run of the mm: nothing gets lost, era by era (test_torture.py plants bugs)."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from pgtbl import _core, _torture

ERAS = ["v6.4", "v6.5", "v6.6"]


def run(module: Any, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = module.stress(**options)
    complaints = [*result["lost"], *result["breaches"], *result["errors"]]
    assert result["clean"] == (not complaints)
    assert result["clean"], f"{options}:\n" + "\n".join(complaints)
    return result


@pytest.mark.sanitize
@pytest.mark.parametrize("era", ERAS)
def test_small(era: str, seed: int) -> None:
    result = run(_core, era=era, seed=seed, seconds=1.0, extents=1)
    done = result["done"]
    assert result["ops"] == sum(done.values())
    for kind in ("store", "load", "file_read", "collapse", "map", "truncate", "program"):
        assert done[kind] > 0, kind


@pytest.mark.stress
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("alloc", ["reuse", "quarantine"])
def test_real(era: str, alloc: str, seed: int) -> None:
    result = run(_core, era=era, alloc=alloc, seed=seed, seconds=2.0)
    assert result["done"]["collapsed"] > 0


@pytest.mark.sanitize
@pytest.mark.stress
@pytest.mark.parametrize("era", ERAS)
def test_torture_with_jitter(era: str, seed: int) -> None:
    run(_torture, era=era, seed=seed, seconds=2.0, jitter=8, extents=1)


@pytest.mark.stress
@pytest.mark.parametrize(
    "options", [{"broadcast_flush": True}, {"switches": {"file_faults_under_vma_lock": 2}}]
)
def test_variants(options: dict[str, Any], seed: int) -> None:
    run(_torture, seed=seed, seconds=1.5, jitter=8, **options)


@pytest.mark.stress
def test_little_memory(seed: int) -> None:
    run(_torture, seed=seed, seconds=1.5, memory="40MiB", mms=4)


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("era", ERAS)
def test_a_hundred_million_operations(era: str, seed: int) -> None:
    # Over a handful of seeds each: 10^8 in all eras together would do, this is each.
    total, round_seed = 0, seed
    while total < 100_000_000:
        total += run(_core, era=era, seed=round_seed, seconds=20.0, ops=25_000_000)["ops"]
        round_seed += 1


def test_seconds_and_operations_bound_it() -> None:
    result = run(_core, seconds=30, ops=10_000, mix={"writer": 1, "collapser": 1})
    assert result["ops"] >= 10_000
    assert result["seconds"] < 20


@pytest.mark.parametrize("module", [_core, _torture])
def test_bad_options(module: Any) -> None:
    with pytest.raises(ValueError, match="unknown role 'painter'"):
        module.stress(mix={"painter": 1})
    with pytest.raises(ValueError, match="0 threads"):
        module.stress(mix={"writer": 0})
    with pytest.raises(ValueError, match="unknown era"):
        module.stress(era="v1.0")
    with pytest.raises(ValueError, match="32MiB"):
        module.stress(memory="2MiB")
    with pytest.raises(ValueError, match="mms 0"):
        module.stress(mms=0)
    with pytest.raises(ValueError, match="truncator"):
        module.stress(mix={"truncator": 2})
    with pytest.raises(ValueError, match="safe together"):
        module.stress(switches={"map_opens_rcu": 0})


def test_ctrl_c_ends_it() -> None:
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    result = run(_core, seconds=60)
    timer.join()
    assert result["interrupted"]
    assert 0 < result["seconds"] < 30
