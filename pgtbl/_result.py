"""What a race found out: the samples of its rounds, era by era, and what follows from them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _stats
from ._stats import Noise, Ratio
from ._tally import Rounds, Tally
from .workload import Kind, Plan

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["IDLE", "LOADED", "SPLIT", "EraResult", "Part", "RaceResult"]

SCHEMA = 1  # of the JSON output

IDLE, LOADED = 0, 1  # the windows of a round

SPLIT: dict[str, tuple[Kind, ...]] = {
    "anonymous fault, other VMA": (Kind.ANON,),
    "file fault, other VMA": (Kind.FILE,),
    "fault in the VMA collapsed, other extent": (Kind.SAME_VMA,),
    "fault in an extent being collapsed": (Kind.COLLAPSED,),
    "mmap, munmap, mprotect, brk": (Kind.MMAP, Kind.MUNMAP, Kind.MPROTECT, Kind.BRK),
    "madvise": (Kind.MADVISE,),
    "populate one page": (Kind.POPULATE,),
    "mincore": (Kind.MINCORE,),
    "mmap and munmap, untouched": (Kind.MMAP_MUNMAP,),
}
"""What the split tells apart, and the kinds of steps that belong to it."""


@dataclass
class Part:
    """The samples of one window of one round, by kind of step."""

    seconds: float
    by_kind: dict[int, Tally]
    """Latencies in ns: of all steps of the kind; of touches, those that took a fault."""
    own: dict[int, Tally] = field(default_factory=dict)
    """Of the loaded window, the same steps from when each began: without the wait for its turn."""

    completed: dict[int, int] = field(default_factory=dict)
    """How many of these steps were done by the end of the window."""
    on_clock: float = 0.0
    """Seconds of the window in which the schedule did not stand still, of a walker on average."""
    _merged: dict[tuple[bool, tuple[Kind, ...]], Tally] = field(default_factory=dict, repr=False)

    def count(self, kinds: Sequence[Kind]) -> int:
        """How many samples `of` has."""
        return sum(len(self.by_kind.get(k, ())) for k in kinds)

    def rate(self, kinds: Sequence[Kind]) -> float:
        """Steps done in the window per second on the clock."""
        done = sum(self.completed.get(k, 0) for k in kinds)
        return done / self.on_clock if self.on_clock > 0 else 0.0

    def of(self, kinds: Sequence[Kind]) -> Tally:
        """The latencies of several kinds together, in ns."""
        return self._of(False, self.by_kind, kinds)

    def own_of(self, kinds: Sequence[Kind]) -> Tally:
        """What several kinds took from when they began, in ns."""
        return self._of(True, self.own, kinds)

    def _of(self, own: bool, tallies: dict[int, Tally], kinds: Sequence[Kind]) -> Tally:
        key = own, tuple(kinds)
        if key not in self._merged:
            self._merged[key] = Tally.merged(tallies[k] for k in kinds if k in tallies)
        return self._merged[key]

    def settle(self, primary: Sequence[Kind]) -> None:
        """Computes what a result is made of, so that the end of a long race takes no longer than that of a short one."""
        for kinds in (primary, *SPLIT.values()):
            for tally in (self.of(kinds), self.own_of(kinds)):
                if len(tally):
                    for percent in _stats.PERCENTILES.values():
                        tally.percentile(percent)


@dataclass
class EraResult:
    """What one era did, over all of its rounds."""

    name: str
    switches: dict[str, int]
    primary: tuple[Kind, ...]
    idle: list[Part] = field(default_factory=list)
    loaded: list[Part] = field(default_factory=list)
    collapse_ns: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    """Latencies of the collapses that made a huge page, a round each, in ns."""
    install_ns: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    """Latencies of MADV_COLLAPSE of an extent whose page is huge already, in ns."""
    errors: Counter[int] = field(default_factory=Counter)
    """Collapses that failed, by errno."""
    turns: list[int] = field(default_factory=list)
    ledger: Counter[str] = field(default_factory=Counter)
    """Totals of the loaded parts, every CPU."""
    ledger_collapse: Counter[str] = field(default_factory=Counter)
    """What the collapsers' timed calls alone did."""
    ledger_walkers: Counter[str] = field(default_factory=Counter)
    """What the walkers alone did."""
    pending_max: int = 0
    table_frames_max: int | None = None
    """Frames that held page tables at most; None where it was not counted (x86-64's fast build)."""
    refused: int = 0
    unserved: int = 0
    dropped: int = 0
    usage: list[dict[str, Any]] = field(default_factory=list, repr=False)
    arch: str = "x86-64"
    tables_per_page: int = 1
    """PTE tables that a page can hold, on this architecture in this era."""
    _rounds: dict[Any, Rounds] = field(default_factory=dict, repr=False)
    _known: dict[Any, dict[str, float | None]] = field(default_factory=dict, repr=False)

    def tables(self) -> dict[str, float | None]:
        """The row of the arch matrix: what this era's page tables held on to, over its loaded parts.

        Counts of PTE tables: allocated, freed, deferred (of these, handed to RCU one by one), pending_max (waiting for a
        grace period, at most). Of their pages: pages_allocated, pages_freed, and pages_per_table, taken for each table
        (1 / tables_per_page would be the least). memory: of the frames that held page tables of any level, at most, in
        bytes; None where it was not counted, which is the fast build of x86-64 (a race without ``arch``). grace_periods.
        """
        from ._machine import module_of

        count = self.ledger
        frames = self.table_frames_max
        made = count["table.pte.allocated"]
        return {
            "allocated": made,
            "freed": count["table.pte.freed"],
            "deferred": count["table.pte.deferred"],
            "pending_max": self.pending_max,
            "pages_allocated": count["table.pte.pages_allocated"],
            "pages_freed": count["table.pte.pages_freed"],
            "pages_per_table": round(count["table.pte.pages_allocated"] / made, 4) if made else 0.0,
            "tables_per_page": self.tables_per_page,
            "memory": None if frames is None else frames * module_of(self.arch).PAGE_SIZE,
            "grace_periods": count["rcu.grace_periods"],
        }

    @property
    def seconds(self) -> float:
        """Length of the loaded parts."""
        return sum(part.seconds for part in self.loaded)

    @property
    def faults(self) -> int:
        """Faults (of workloads without faults: calls) done in the loaded parts, in ranges not being collapsed."""
        return sum(part.completed.get(k, 0) for part in self.loaded for k in self.primary)

    @property
    def faults_per_s(self) -> float:
        """`faults` a second, of the time in which the schedule did not stand still."""
        seconds = sum(part.on_clock for part in self.loaded)
        return self.faults / seconds if seconds > 0 else 0.0

    @property
    def collapses(self) -> int:
        """Extents made huge in the loaded parts."""
        return sum(len(x) for x in self.collapse_ns)

    @property
    def collapses_per_s(self) -> float:
        """`collapses` a second."""
        return self.collapses / self.seconds if self.seconds else 0.0

    def latencies(self, window: int, kinds: Sequence[Kind] | None = None) -> npt.NDArray[np.uint32]:
        """All latencies of a window (0 idle, 1 loaded) in ns, in order of size."""
        return self.rounds_of(window, kinds).pooled.samples()

    def rounds_of(
        self, window: int, kinds: Sequence[Kind] | None = None, own: bool = False
    ) -> Rounds:
        """The latencies of a window, round by round; own: from when each step began."""
        parts = self.idle if window == IDLE else self.loaded
        chosen = tuple(kinds or self.primary)
        key = (window, chosen, own)
        known = self._rounds.get(key)
        if known is None or len(known) != len(parts):
            known = Rounds(part.own_of(chosen) if own else part.of(chosen) for part in parts)
            self._rounds[key] = known
        return known

    def summary(self, window: int, kinds: Sequence[Kind] | None = None) -> dict[str, float | None]:
        """Percentiles of a window in ns (`_stats`); computed once, when all rounds are there."""
        return self._summary(window, kinds, False)

    def own_summary(self, kinds: Sequence[Kind]) -> dict[str, float | None]:
        """Percentiles of what steps took under load from when they began, in ns."""
        return self._summary(LOADED, kinds, True)

    def _summary(
        self, window: int, kinds: Sequence[Kind] | None, own: bool
    ) -> dict[str, float | None]:
        rounds = self.rounds_of(window, kinds, own)
        key = (window, tuple(kinds or self.primary), own, len(rounds))
        if key not in self._known:
            self._known[key] = _stats.summary(rounds)
        return self._known[key]

    def count(self, window: int, kinds: Sequence[Kind]) -> int:
        """Samples of some kinds in a window."""
        parts = self.idle if window == IDLE else self.loaded
        return sum(part.count(kinds) for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON output."""
        split = {
            name: {
                "count": count,
                "own_ns": self.own_summary(kinds),
                "ns": self.summary(LOADED, kinds),
                "ns_idle": self.summary(IDLE, kinds),
            }
            for name, kinds in SPLIT.items()
            if (count := self.count(LOADED, kinds))
        }
        return {
            "faults": self.faults,
            "faults_per_s": round(self.faults_per_s, 2),
            "collapses": self.collapses,
            "collapses_per_s": round(self.collapses_per_s, 2),
            "fault_ns": self.summary(LOADED),
            "fault_ns_idle": self.summary(IDLE),
            "ledger": dict(sorted(self.ledger.items())),
            "switches": self.switches,
            "seconds": round(self.seconds, 4),
            "rounds": len(self.loaded),
            "split": split,
            "collapse_ns": _stats.summary(self.collapse_ns),
            "install_ns": _stats.summary(self.install_ns),
            "collapse_errors": {os.strerror(e): n for e, n in sorted(self.errors.items())},
            "ledger_collapse": dict(sorted(self.ledger_collapse.items())),
            "ledger_walkers": dict(sorted(self.ledger_walkers.items())),
            "refused": self.refused,
            "unserved": self.unserved,
            "arch": self.arch,
            "tables": self.tables(),
        }


@dataclass
class RaceResult:
    """What `race()` found out. `str()` prints the table."""

    eras: dict[str, EraResult]
    gain: dict[str, Ratio]
    """v6.4 divided by v6.6 (the first era by the last, where one is missing), by figure."""
    split: dict[str, dict[str, Ratio]]
    """The same for each kind of operation, of what it took from when it began."""
    between: tuple[str, str] | None
    """The two eras that `gain` compares."""
    noise: Noise
    machine: dict[str, Any]
    workload: dict[str, Any]
    plan: Plan = field(repr=False)
    rounds: int = 0
    interrupted: bool = False
    attribution: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Everything but the raw samples, as JSON has it."""
        from . import __version__

        return {
            "version": __version__,
            "schema": SCHEMA,
            "machine": self.machine,
            "workload": self.workload,
            "eras": {name: era.to_dict() for name, era in self.eras.items()},
            "gain": {key: ratio.to_dict() for key, ratio in self.gain.items()},
            "gain_of": {
                "between": list(self.between) if self.between else None,
                "latencies": "first / second",
                "rates": "second / first",
            },
            "split": {k: {p: r.to_dict() for p, r in v.items()} for k, v in self.split.items()},
            "noise": self.noise.to_dict(),
            "rounds": self.rounds,
            "interrupted": self.interrupted,
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as JSON text; written to `path`, too, if that is given."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each era and kind of operation: counts, percentiles in ns.

        `p99_ns`: under load, from the moment due; `p99_own_ns`: from when it began; `p99_ns_idle`: idle, from due.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError(
                "to_pandas() needs pandas, which is not installed: pip install 'pgtbl[pandas]'"
            ) from None
        rows = []
        for name, era in self.eras.items():
            for what, entry in era.to_dict()["split"].items():
                row = {"era": name, "operation": what, "count": entry["count"]}
                row |= {f"{k}_ns": v for k, v in entry["ns"].items()}
                row |= {f"{k}_own_ns": v for k, v in entry["own_ns"].items()}
                row |= {f"{k}_ns_idle": v for k, v in entry["ns_idle"].items()}
                rows.append(row)
        return pandas.DataFrame(rows).set_index(["era", "operation"])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A matplotlib figure: latency distributions, and the ledger side by side.

        `path`: also written there, as PNG, SVG or PDF by its suffix.
        """
        from .plot import race_figure, save

        figure = race_figure(self)
        if path is not None:
            save(figure, path)
        return figure

    def __str__(self) -> str:
        from .report import to_text

        return to_text(self)

    def __repr__(self) -> str:
        figures = ", ".join(f"{n}: {e.faults_per_s:.0f} faults/s" for n, e in self.eras.items())
        return f"<RaceResult {self.workload.get('name')!r}, {self.rounds} rounds: {figures}>"

    def _repr_html_(self) -> str:
        from .report import to_html

        return to_html(self)
