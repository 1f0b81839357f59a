"""`pgtbl.replay()`: a recorded program, with its threads and processes, under the rules of several kernels.

Unlike a race, it runs once through and as fast as it can: no schedule, no claim of a gain. What it gives is what the
program felt (latencies of each kind of step), what was locked, and whether the address spaces came out as recorded.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._checks import size, whole
from ._fit import Fit
from ._interrupts import Interrupts
from ._intervals import Interval, final_spaces, merged
from ._machine import known_arch, module_of
from ._program import KINDS, Program, compile_trace
from ._race import _add_ledger, _eras, check_switches, loaded_trace, room_for
from ._stats import summary
from .errors import Interrupted
from .trace import Trace

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["EraReplay", "ReplayResult", "replay"]

MAX_COLLAPSERS = 16
MOST_MEMORY = 6 << 30
Progress = Callable[[str, float], None]


def _silent(_what: str, _done: float) -> None:
    pass


@dataclass
class EraReplay:
    """What the rounds of one era gave."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    steps: int = 0  # of one round
    refused: int = 0
    own_ns: dict[int, list[npt.NDArray[Any]]] = field(default_factory=dict)
    ledger: Counter[str] = field(default_factory=Counter)
    passes_ns: list[npt.NDArray[Any]] = field(default_factory=list)
    collapsed: int = 0
    spaces: int = 0
    wrong: list[str] = field(default_factory=list)

    def latencies(self, kind: str) -> npt.NDArray[Any]:
        """How long each step of a kind took, in ns; KeyError for unknown kinds."""
        if kind not in KINDS:
            raise KeyError(f"unknown kind {kind!r}: the kinds are {', '.join(KINDS)}")
        parts = self.own_ns.get(KINDS.index(kind))
        return np.concatenate(parts) if parts else np.array([], np.uint32)

    @property
    def steps_per_s(self) -> float:
        """Steps per second, of the fastest round."""
        return self.steps / min(self.wall_s) if self.wall_s else 0.0


@dataclass
class ReplayResult:
    """What a replay gave, by era."""

    trace: str
    what: str
    eras: dict[str, EraReplay]
    collapsers: int
    rounds: int
    memory: int
    replaced: dict[str, int]
    arch: str = "x86-64"
    interrupted: bool = False

    @property
    def as_recorded(self) -> bool:
        """Whether every address space had, in each round, the mappings of the interval model."""
        return not any(era.wrong for era in self.eras.values())

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single latencies."""
        return {
            "trace": self.trace,
            "what": self.what,
            "arch": self.arch,
            "collapsers": self.collapsers,
            "rounds": self.rounds,
            "memory": self.memory,
            "replaced": self.replaced,
            "interrupted": self.interrupted,
            "as_recorded": self.as_recorded,
            "eras": {
                name: {
                    "wall_s": era.wall_s,
                    "steps": era.steps,
                    "steps_per_s": era.steps_per_s,
                    "refused": era.refused,
                    "collapsed": era.collapsed,
                    "spaces": era.spaces,
                    "wrong": era.wrong,
                    "ns": {
                        kind: {"count": len(era.latencies(kind)), **summary([era.latencies(kind)])}
                        for kind in KINDS
                        if len(era.latencies(kind))
                    },
                    "ledger": dict(era.ledger),
                }
                for name, era in self.eras.items()
            },
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """to_dict() as JSON; written to a file where one is named."""
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def __str__(self) -> str:
        from .report import render

        return render(*report(self))

    def _repr_html_(self) -> str:
        from .report import render_html

        return render_html(*report(self))


# ---- running -----------------------------------------------------------------------------------------


def replay(
    trace: str | os.PathLike[str] | Trace | None = None,
    eras: Sequence[str] = ("v6.4", "v6.6"),
    *,
    collapsers: int = 1,
    rounds: int = 3,
    switches: Mapping[str, int] | None = None,
    max_ptes_none: int | None = None,
    memory: int | str | None = None,
    arch: str = "x86-64",
    progress: Progress = _silent,
) -> ReplayResult:
    """Plays a recorded program: each of its threads by a thread, each process in an address space of its own.

    What the recording did in an order that matters keeps that order: a call that changes an address space waits for what
    was before it there, and page faults for the last such call. Collapsers scan all of the program's memory meanwhile, as
    khugepaged does. At the end each address space is held against an independent model of the listed calls.

    Args:
        trace: path of a trace, or one that was loaded; None: the one that ships with the package.
        eras: releases whose rules are followed, one after the other in each round.
        collapsers: threads that collapse what they find (0: none).
        rounds: how often each era runs.
        switches: overrides of single switches of every era.
        max_ptes_none: how many of an extent's pages may be missing for a collapser to take it; None: all but one.
        memory: simulated memory in bytes or as "256MiB"; None: enough.
        arch: on whose page tables. The trace's addresses, which are x86-64's, are fitted to it: the same calls, on pages of
            its size. Where there are no huge pages (arm), `collapsers` must be 0.

    Raises ValueError and TypeError for arguments that are not allowed (`TraceError` for a broken trace), OSError,
    `OutOfMemory`, `InvariantError` where the machine is not in order at the end. Ctrl-C raises `Interrupted`, a
    KeyboardInterrupt, whose `result` is the ReplayResult of the rounds that were done.
    """
    names = _eras(eras)
    chosen = check_switches(switches)
    whole("collapsers", collapsers, 0, MAX_COLLAPSERS)
    whole("rounds", rounds, 1, 1000)
    module = module_of(known_arch(arch))
    pages = module.PMD_SIZE // module.PAGE_SIZE
    none = (
        pages - 1 if max_ptes_none is None else whole("max_ptes_none", max_ptes_none, 0, pages - 1)
    )
    if (
        collapsers
        and not {row["name"]: row["thp"] for row in module_of("x86-64").architectures()}[arch]
    ):
        raise ValueError(f"collapsers={collapsers}: {arch} has no huge pages; 0 is allowed")
    loaded = loaded_trace(trace, faults_needed=False)
    program = compile_trace(loaded)
    fit = Fit(arch, program.threads)
    bytes_ = (
        min(program.memory(collapsers), MOST_MEMORY) if memory is None else size("memory", memory)
    )
    if memory is None and arch != "x86-64":
        bytes_ = fit.memory(bytes_)
    expected = list(final_spaces(loaded.events))
    result = ReplayResult(
        loaded.name,
        program.what,
        {name: EraReplay(name) for name in names},
        collapsers,
        rounds,
        bytes_,
        dict(program.replaced),
        arch,
    )
    threads = program.threads if arch == "x86-64" else [fit.steps(t) for t in program.threads]
    with Interrupts() as interrupts:
        try:
            for r in range(rounds):
                for name in names:
                    progress(f"round {r + 1} of {rounds}, {name}", 0)
                    with room_for(bytes_, program.files), interrupts.waiting():
                        raw = module.replay_program(
                            era=name,
                            switches=list(chosen.items()),
                            memory=bytes_,
                            files=[fit.size(n) for n in program.files],
                            spaces=len(program.space_pids),
                            threads=threads,
                            collapsers=collapsers,
                            max_ptes_none=none,
                        )
                    if raw["interrupted"]:
                        raise KeyboardInterrupt
                    _note(result.eras[name], raw, program, expected, fit)
        except KeyboardInterrupt:
            result.interrupted = True
        result.interrupted = result.interrupted or interrupts.seen
        if result.interrupted:
            raise Interrupted(result, min(len(era.wall_s) for era in result.eras.values()))
    return result


def _note(
    era: EraReplay,
    raw: Mapping[str, Any],
    program: Program,
    expected: list[tuple[int, list[Interval]]],
    fit: Fit,
) -> None:
    era.wall_s.append(raw["wall_ns"] / 1e9)
    era.steps = len(raw["kind"])
    era.refused += int(raw["refused"].sum())
    for kind in np.unique(raw["kind"]).tolist():
        # A touch counts where it took a fault: else the hardware did it alone.
        chosen = (raw["kind"] == kind) & ((raw["faults"] > 0) | (kind > 1))
        era.own_ns.setdefault(kind, []).append(raw["own_ns"][chosen])
    _add_ledger(era.ledger, raw["ledger"])
    era.passes_ns.append(raw["passes_ns"])
    era.collapsed += raw["collapsed"]
    era.spaces = len(expected)
    era.wrong += wrong_spaces([_unfitted(row, fit) for row in raw["areas"]], program, expected)


# ---- whether the address spaces came out as recorded --------------------------------------------------

_VM_SHARED = 8


def _unfitted(row: tuple[Any, ...], fit: Fit) -> tuple[Any, ...]:
    space, start, end, flags, offset, file = row
    first = fit.back(start)
    return space, first, first + (end - start) // fit.scale, flags, offset // fit.scale, file


def wrong_spaces(
    areas: list[tuple[Any, ...]], program: Program, expected: list[tuple[int, list[Interval]]]
) -> list[str]:
    """What differs from the model, a line for each space that does."""
    found: dict[int, list[Interval]] = {i: [] for i in range(len(program.space_pids))}
    for space, start, end, flags, offset, file in areas:
        prot = frozenset(c for c, bit in (("r", 1), ("w", 2), ("x", 4)) if flags & bit)
        backing = None if file is None else program.file_keys[file]
        shared = bool(flags & _VM_SHARED)
        found[space].append(Interval(start, end, prot, shared, backing, offset if backing else 0))
    by_pid: dict[int, list[int]] = {}
    for space, pid in enumerate(program.space_pids):
        by_pid.setdefault(pid, []).append(space)
    lines = []
    for pid, model in expected:
        spaces = by_pid.get(pid, [])
        if not spaces:
            if model:
                lines.append(f"process {pid}: its address space is missing")
            continue
        space = spaces.pop(0)
        mine = merged(x for listed in model for x in _clipped(found[space], listed))
        if mine != model:
            lines.append(f"process {pid}: {_first_difference(model, mine)}")
    return lines


def _clipped(intervals: list[Interval], to: Interval) -> list[Interval]:
    return [x.cut(to.start, to.end) for x in intervals if x.start < to.end and x.end > to.start]


def _first_difference(model: list[Interval], mine: list[Interval]) -> str:
    def show(x: Interval | None) -> str:
        if x is None:
            return "nothing"
        prot = "".join(c if c in x.prot else "-" for c in "rwx") + ("s" if x.shared else "p")
        place = "" if x.backing is None else f" {x.backing[1]} at {x.offset:#x}"
        return f"{x.start:#x}-{x.end:#x} {prot}{place}"

    for i in range(max(len(model), len(mine))):
        a = model[i] if i < len(model) else None
        b = mine[i] if i < len(mine) else None
        if a != b:
            return f"the model has {show(a)}, the replay {show(b)}"
    return "nothing differs"


# ---- the report --------------------------------------------------------------------------------------

_LOCKS = (
    ("mmap_lock, read", "mmap_lock.read"),
    ("mmap_lock, write", "mmap_lock.write"),
    ("  contended", "mmap_lock.write.contended"),
    ("VMA locks, read", "vma_lock.read"),
    ("i_mmap, read", "i_mmap.read"),
    ("i_mmap, write", "i_mmap.write"),
    ("folio lock", "folio_lock"),
    ("ptl", "ptl"),
    ("pml", "pml"),
)
_EVENTS = (
    ("faults", "fault"),
    ("  under the VMA lock alone", "fault.vma_lock"),
    ("  started over", "fault.retry"),
    ("PTE tables allocated", "table.pte.allocated"),
    ("  taken away while the mm lived", "table.pte.detached"),
    ("TLB flushes", "tlb.flush"),
    ("IPIs", "ipi"),
    ("extents collapsed", "collapse.succeeded"),
)


def report(result: ReplayResult) -> list[Any]:
    """Tables and lines to print."""
    return [_latency_table(result), "", _count_table(result), "", *_notes(result)]


def _columns(result: ReplayResult, *heads: str) -> Table:
    from .report import plain_table

    table = plain_table()
    for head in heads:
        table.add_column(head, no_wrap=True)
    for name in result.eras:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _latency_table(result: ReplayResult) -> Table:
    from .report import amount, duration

    table = _columns(result, "step", "")
    table.add_row(
        "steps/s, fastest round", "", *(amount(e.steps_per_s) for e in result.eras.values())
    )
    table.add_section()
    for kind in KINDS:
        values = [era.latencies(kind) for era in result.eras.values()]
        if not any(map(len, values)):
            continue
        count = max(map(len, values)) // max(1, result.rounds)
        sums = [summary([v]) for v in values]
        for i, key in enumerate(("p50", "p99", "max")):
            name = f"{kind} ({count:,})" if i == 0 else ""
            table.add_row(name, key, *(duration(s[key]) for s in sums))
    return table


def _count_table(result: ReplayResult) -> Table:
    from .report import amount

    table = _columns(result, "counted, all rounds")
    for rows in (_LOCKS, _EVENTS):
        for what, name in rows:
            values = [era.ledger.get(name, 0) for era in result.eras.values()]
            if any(values):
                table.add_row(what, *map(amount, values))
        table.add_section()
    return table


def _notes(result: ReplayResult) -> list[str]:
    lines = []
    if result.interrupted:
        lines.append("INTERRUPTED: these are the rounds that were done.")
    lines.append(
        f"{result.trace}: {result.what}; {result.collapsers} collapser(s), {result.rounds} round(s), "
        f"{result.memory >> 20} MiB."
    )
    if result.replaced:
        each = "; ".join(f"{what}: {n}" for what, n in sorted(result.replaced.items()))
        lines.append(f"Replayed in the nearest form, each round: {each}.")
    refused = sum(era.refused for era in result.eras.values())
    if refused:
        lines.append(f"{refused:,} steps were refused by the simulated kernel.")
    wrong = [f"{era.name}: {line}" for era in result.eras.values() for line in era.wrong]
    if wrong:
        lines += [f"NOT AS RECORDED: {line}" for line in wrong[:10]]
    elif any(era.wall_s for era in result.eras.values()):
        spaces = max(era.spaces for era in result.eras.values())
        lines.append(
            f"All {spaces} address spaces ended with the mappings of the interval model, in every round."
        )
    return lines
