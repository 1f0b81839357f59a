"""Hunts: the stress runs, with one guard taken away, and how long they need to find it.

What is planted may corrupt whatever it likes: each run is a process of its own, with a bound on its time.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._apart import Died, answer, apart
from ._stress import stress
from .errors import PgtblError

__all__ = ["HUNTS", "Hunt", "Report", "Run", "hunt", "run_once"]

_PAIR = {"readers": 1, "updaters": 1, "fakes": 0, "visitors": 0}


@dataclass(frozen=True)
class Hunt:
    """One guard, and the stress run that finds out that it is gone."""

    guard: str
    run: str  # "mm": pgtbl.torture.stress, or "rcu": pgtbl._torture.rcu_torture
    options: dict[str, Any] = field(default_factory=dict)


def _mm(guard: str, era: str = "v6.6", **options: Any) -> Hunt:
    return Hunt(guard, "mm", {"era": era, "jitter": 6, "extents": 1, **options})


def _rcu(guard: str, **options: Any) -> Hunt:
    return Hunt(guard, "rcu", options)


HUNTS: tuple[Hunt, ...] = (
    _mm("rmap_recheck"),
    _mm("fault_truncated"),
    _mm("install_under_pml"),
    _mm("retract_flush_psc", "v6.4", mms=1, mix={"reader": 2, "writer": 1, "collapser": 1}),
    _mm("retract_ptl"),
    _mm("file_hole_recheck"),
    _rcu("rcu_gp_waits"),
    _rcu("rcu_gp_lock"),
    _rcu("rcu_poll_after_full_gp"),
    _rcu("rcu_nesting"),
    _rcu("rcu_batch_waits", **_PAIR, ways=["call"]),
    _rcu("rcu_barrier_runners", delays="long", ways=["synchronize"], fakes=4),
    _rcu("rcu_updater_fence", **_PAIR, ways=["expedited"]),
    _rcu("rcu_reader_fence", **_PAIR, ways=["expedited"], membarrier=False),
)


@dataclass(frozen=True)
class Run:
    """What one run came to."""

    seed: int
    found: bool
    seconds: float  # until it was found, or of the whole run
    operations: int  # done by then, of all threads
    how: str  # the first complaint, or how the process ended


def _play(hunt: Hunt, seed: int, seconds: float) -> Run:
    if hunt.run == "mm":
        got = stress(without=[hunt.guard], seed=seed, seconds=seconds, **hunt.options)
        how = got.complaints[0] if got.complaints else ""
        return Run(seed, not got.clean, got.seconds, got.ops, how)
    from pgtbl import _torture, torture

    with torture.without(hunt.guard):
        raw = _torture.rcu_torture(seconds, seed=seed, **hunt.options)
    found = raw["errors"] > 0
    took = raw["first_error_seconds"] if found else seconds
    return Run(seed, found, took, raw["reads"] + raw["updates"], raw["first_error"] or "")


def run_once(hunt: Hunt, seed: int, seconds: float) -> Run:
    """One run, in a process of its own. One that dies of what was planted has found it; one that hangs has not."""
    order = {"hunt": vars(hunt), "seed": seed, "seconds": seconds}
    begin = time.monotonic()
    try:
        return Run(**apart(__name__, order, seconds))
    except Died as how:
        return Run(seed, not how.hung, time.monotonic() - begin, 0, str(how))
    except (RuntimeError, ValueError, TypeError, MemoryError, PgtblError) as why:
        raise RuntimeError(f"the hunt for {hunt.guard} could not run: {why}") from None


@dataclass(frozen=True)
class Report:
    """What the runs of a hunt came to."""

    hunt: Hunt
    runs: tuple[Run, ...]

    @property
    def found(self) -> list[Run]:
        """Those that found it, the fastest first."""
        return sorted((r for r in self.runs if r.found), key=lambda r: r.seconds)

    @property
    def median(self) -> float | None:
        """Seconds; None where fewer than half of the runs found it. One that did not counts as longer than all."""
        times = [r.seconds for r in self.found]
        times += [float("inf")] * (len(self.runs) - len(times))
        middle = statistics.median(times) if times else float("inf")
        return middle if middle < float("inf") else None

    @property
    def operations(self) -> float | None:
        """The median of the operations done until it was found."""
        counts = [r.operations for r in self.found if r.operations]
        return statistics.median(counts) if counts else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "guard": self.hunt.guard,
            "run": self.hunt.run,
            "options": self.hunt.options,
            "found": len(self.found),
            "runs": [vars(r) for r in self.runs],
            "median_seconds": self.median,
            "median_operations": self.operations,
        }


def hunt(which: Hunt, seeds: Iterable[int], seconds: float) -> Report:
    """One run for each seed, of at most ``seconds`` seconds each."""
    return Report(which, tuple(run_once(which, seed, seconds) for seed in seeds))


def _main(arguments: Sequence[str]) -> None:
    order = json.loads(arguments[0])
    answer(lambda: vars(_play(Hunt(**order["hunt"]), order["seed"], order["seconds"])))


if __name__ == "__main__":
    _main(sys.argv[1:])
