"""RCU tortured: green with every guard in place, and red without those that a stress test can miss.

A stress test that cannot find a planted bug proves nothing: each busted control takes one guard away and
must fail. Guards that order only the compiler, or weaker machines than this one, are the explorer's to kill.
"""

from __future__ import annotations

from typing import Any

import pytest

from pgtbl import _core, _torture

ALL_WAYS = ["synchronize", "expedited", "call", "polled", "conditional"]
# One reader and one updater that never sleep: the most updates a second, on two processors.
PAIR: dict[str, Any] = {"readers": 1, "updaters": 1, "fakes": 0, "visitors": 0}


def check_green(result: dict[str, Any]) -> None:
    assert result["errors"] == 0, result["first_error"]
    assert sum(result["ages"][2:]) == 0
    assert result["reads"] > 1000
    assert result["updates"] > 20
    rcu = result["rcu"]
    assert rcu["grace_periods"] > 20
    assert rcu["invoked"] <= rcu["queued"]


@pytest.mark.sanitize
@pytest.mark.stress
@pytest.mark.parametrize("delays", ["short", "long"])
@pytest.mark.parametrize("module", [_core, _torture], ids=["core", "torture"])
def test_all_kinds_mixed(module: Any, delays: str, seed: int) -> None:
    result = module.rcu_torture(1.5, delays=delays, seed=seed)
    check_green(result)
    assert min(result["updates_by_way"].values()) > 0
    assert result["cookies"] > 0
    assert result["barriers"] > 0
    assert result["rcu"]["readers_exited_inside"] > 0


@pytest.mark.sanitize
@pytest.mark.stress
@pytest.mark.parametrize("way", ALL_WAYS)
def test_each_kind_alone(way: str, seed: int) -> None:
    check_green(_core.rcu_torture(0.7, **PAIR, ways=[way], seed=seed))


@pytest.mark.stress
def test_short_sections_bring_many_updates(seed: int, sanitizer: str) -> None:
    """Below some 20,000 updates a second the missing fence is not found: the profile must reach it."""
    best = max(
        _core.rcu_torture(0.7, **PAIR, ways=["synchronize", "expedited"], seed=seed + i)["updates"]
        / 0.7
        for i in range(3)
    )
    assert best > (20_000 if not sanitizer else 100)


@pytest.mark.sanitize
@pytest.mark.stress
@pytest.mark.parametrize("delays", ["short", "long"])
def test_without_membarrier_readers_fence_for_themselves(delays: str, seed: int) -> None:
    result = _core.rcu_torture(1.0, delays=delays, membarrier=False, seed=seed)
    check_green(result)
    assert result["rcu"]["membarriers"] == 0


@pytest.mark.stress
def test_two_updaters_and_more_threads_than_processors(seed: int) -> None:
    check_green(_core.rcu_torture(1.5, readers=6, updaters=4, fakes=2, visitors=2, seed=seed))


def first_failure(without: str, seconds: float, **options: Any) -> dict[str, Any] | None:
    """The first failing run of a few: no scheduler is bound to show a race in the first."""
    for seed in range(1, 17):
        result = _torture.rcu_torture(seconds, seed=seed, without=[without], **options)
        if result["errors"]:
            return dict(result)
    return None


@pytest.mark.stress
@pytest.mark.parametrize(
    ("guard", "options"),
    [
        ("rcu_gp_waits", {"delays": "long"}),
        ("rcu_gp_waits", {"delays": "short"}),
        ("rcu_gp_lock", {}),
        ("rcu_poll_after_full_gp", {}),
        ("rcu_nesting", {}),
        ("rcu_batch_waits", {**PAIR, "ways": ["call"]}),
        ("rcu_barrier_runners", {"delays": "long", "ways": ["synchronize"], "fakes": 4}),
        # Found by short sections alone.
        ("rcu_updater_fence", {**PAIR, "ways": ["expedited"]}),
        ("rcu_reader_fence", {**PAIR, "ways": ["expedited"], "membarrier": False}),
    ],
)
def test_busted(guard: str, options: dict[str, Any], sanitizer: str) -> None:
    if sanitizer:
        pytest.skip("a planted race is a finding of its own under a sanitizer")
    failure = first_failure(guard, 3.0, **options)
    assert failure is not None, f"nothing noticed that {guard} was gone"
    assert failure["first_error"]


def test_the_same_runs_are_green_with_the_guards(seed: int) -> None:
    """The controls fail because of the guard, not because of how they run."""
    for options in (
        {**PAIR},
        {**PAIR, "membarrier": False},
        {"delays": "long", "ways": ["synchronize"], "fakes": 4},
    ):
        result = _torture.rcu_torture(0.7, seed=seed, **options)
        assert result["errors"] == 0, result["first_error"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"delays": "medium"}, "medium"),
        ({"ways": ["hope"]}, "hope"),
        ({"without": ["no_such_guard"]}, "no_such_guard"),
        ({"updaters": 0}, "updaters"),
        ({"readers": 1000}, "64"),
        ({"seconds": -1}, "-1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _core.rcu_torture(**options)


def test_guards_are_constants_in_the_core() -> None:
    with pytest.raises(ValueError, match="_torture"):
        _core.rcu_torture(0.1, without=["rcu_gp_waits"])
