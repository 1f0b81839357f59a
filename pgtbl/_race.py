"""The main job: collapsers race walkers, under the protocols of several kernels.

`race()` replays a recorded program (or a synthetic workload) in walker threads, while collapser threads keep
collapsing extents of a shared file that the same program and others map, and measures what the walkers feel.

How it measures:

* The load is fixed before the rounds: the closed-loop capacity of v6.4 with the collapsers idle is measured,
  and half of it is then offered, open loop, on one seeded Poisson schedule, to every era alike.
* A latency is counted from the moment at which an operation was due, not from when it got its turn.
* Rounds of the eras alternate, in an order that rotates; each has an idle part and a loaded part.
* Percentiles are exact. Ratios have a 95 % interval from a bootstrap over rounds, and are claimed only if that
  interval leaves 1 out and the computer was quiet enough.
* Gain means v6.4 divided by v6.6.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import _core, _stats
from ._checks import available_memory, names_of, size, whole
from ._fit import Fit
from ._interrupts import Interrupts
from ._machine import known_arch, module_of
from ._replay import plan_trace
from ._result import IDLE, LOADED, SPLIT, EraResult, Part, RaceResult
from ._stats import Noise, Ratio
from ._synthetic import SYNTHETIC, check_workload, plan_synthetic
from ._tally import Tally
from .errors import Interrupted, OutOfMemory
from .trace import Trace, load_trace
from .workload import SHARED_BASE, TOUCHES, Kind, Plan, gaps

__all__ = ["EraResult", "RaceResult", "race"]

DEFAULT_ERAS = ("v6.4", "v6.5", "v6.6")
DEFAULT_SECONDS = 30.0
DEFAULT_ROUNDS = 15
DEFAULT_COLLAPSE_RATE = 1000.0  # turns a second of each collapser
IDLE_SHARE = 0.3
KHUGEPAGED_EVERY = 8
CALIBRATIONS = 3
MAX_COLLAPSE_RATE = 1e6
MAX_THREADS = 48  # walkers and collapsers together: a machine has 64 CPUs
MIN_PART = 0.02  # seconds; shorter rounds say nothing

# The calls of a collapser (csrc/lab/collapser.hpp).
FIRST, INSTALL, BY_KHUGEPAGED, VISIT, COPY = range(5)

LADDER: tuple[tuple[str, dict[str, int]], ...] = (
    ("v6.4", {}),
    ("+ helpers may fail", {"map_may_fail": 1, "maplock_rechecks": 1}),
    ("+ RCU: maps and frees", {"map_opens_rcu": 1, "free_by_rcu": 1}),
    (
        "+ retract, no mmap_lock",
        {
            "retract_without_mmap_lock": 1,
            "retract_i_mmap_write": 0,
            "retract_others_on_madvise": 1,
            "retry_array": 0,
            "mremap_rechecks": 1,
        },
    ),
    ("+ collapse, mmap read", {"collapse_mmap_write": 0, "collapse_clears_ptes": 1}),
    (
        "+ file faults, VMA lock",
        {
            "file_faults_under_vma_lock": 1,
            # What the workloads of a race do not use.
            "uffd_under_vma_lock": 1,
            "uffd_poison": 1,
            "longterm_only_ram": 1,
            "adjust_pte": 1,
            "secondary_at_flush": 1,
        },
    ),
)
"""The way from v6.4 to v6.6 in steps, each a group of switches that are safe together."""


# ---- checking what was asked for -----------------------------------------------------------------------


@contextmanager
def room_for(memory: int, files: Sequence[int]) -> Iterator[None]:
    """Says of a MemoryError what there was no room for."""
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError:
        raise MemoryError(
            f"memory={memory}, and files of {sum(files)} bytes in all: this computer has {available_memory()} bytes "
            "left, and that was not enough"
        ) from None


def switch_names() -> dict[str, int]:
    """The switches of an era, with the highest value of each."""
    return {row["name"]: row["highest"] for row in _core.switches()}


def check_switches(switches: Mapping[str, int] | None) -> dict[str, int]:
    """The switches as given, if there are such; else ValueError, or TypeError."""
    known = switch_names()
    if switches is None:
        return {}
    if not isinstance(switches, Mapping):
        raise TypeError(f"switches={switches!r}: a mapping of names to values is needed")
    for name, value in switches.items():
        if name not in known:
            raise ValueError(f"unknown switch {name!r}: the switches are {', '.join(known)}")
        whole(f"switch {name}", value, 0, known[name])
    return {name: int(value) for name, value in switches.items()}


def loaded_trace(
    trace: str | os.PathLike[str] | Trace | None, *, faults_needed: bool = True
) -> Trace:
    """The trace, or the one of that path; TypeError where it is neither."""
    if isinstance(trace, Trace):
        return trace
    if trace is not None and not isinstance(trace, (str, os.PathLike)):
        raise TypeError(
            f"trace={trace!r}: the path of a trace, or what load_trace() gave, is needed"
        )
    return load_trace(trace, faults_needed=faults_needed)


def _eras(eras: Sequence[str]) -> list[str]:
    names = names_of("eras", eras, "an era")
    known = list(_core.switches()[0]["eras"])
    for name in names:
        if name not in known:
            raise ValueError(f"unknown era {name!r}: the eras are {', '.join(known)}")
    if not names:
        raise ValueError(f"eras is empty: the eras are {', '.join(known)}")
    if len(set(names)) != len(names):
        raise ValueError(f"eras={names!r}: each at most once")
    return names


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class Variant:
    """What runs in alternating rounds: an era's rules, on one architecture."""

    name: str
    era: str
    switches: dict[str, int]
    arch: str = "x86-64"


@dataclass
class Order:
    """A race as it was asked for, checked."""

    variants: list[Variant]
    plan: Plan
    archs: list[str]  # empty: x86-64, its fast build
    fits: dict[str, Fit]
    walkers: int
    collapsers: int
    mms: int
    seconds: float
    rounds: int
    seed: int
    memory: int
    switches: dict[str, int]
    attribution: bool
    mode: str
    collapse_rate: float
    trace: Trace | None

    @property
    def part_seconds(self) -> float:
        """Measured seconds of one round of one era."""
        return self.seconds / (self.rounds * len(self.variants))


def make_order(
    *,
    eras: Sequence[str] = DEFAULT_ERAS,
    walkers: int = 1,
    collapsers: int = 1,
    mms: int = 2,
    seconds: float = DEFAULT_SECONDS,
    trace: str | os.PathLike[str] | Trace | None = None,
    workload: str | None = None,
    seed: int = 1,
    switches: Mapping[str, int] | None = None,
    rounds: int | None = None,
    memory: int | str | None = None,
    attribute: bool = False,
    collapse_rate: float = DEFAULT_COLLAPSE_RATE,
    mode: str = "collapse",
    arch: str | Sequence[str] | None = None,
) -> Order:
    """Checks the arguments of `race()` and makes the plan. ValueError and TypeError name what is wrong."""
    archs = _archs(arch)
    nothing_to_collapse = bool(archs) and not any(map(_has_thp, archs))
    by_default = workload is None and trace is None
    if workload is None:
        # Aliases: what there is to race where no table is ever taken away.
        workload = "aliases" if nothing_to_collapse and trace is None else "trace"
    try:
        check_workload(workload)
    except ValueError as error:
        raise ValueError(f"workload={error}") from None
    if trace is not None and workload != "trace":
        raise ValueError(
            f"trace and workload={workload!r}: a trace is replayed by workload 'trace' only"
        )
    walkers = whole("walkers", walkers, 1, MAX_THREADS)
    collapsers = whole("collapsers", collapsers, 1, MAX_THREADS)
    if walkers + collapsers > MAX_THREADS:
        raise ValueError(
            f"walkers={walkers} and collapsers={collapsers}: {MAX_THREADS} together at most"
        )
    mms = whole("mms", mms, 0, 256)
    if isinstance(collapse_rate, bool) or not isinstance(collapse_rate, (int, float)):
        raise TypeError(f"collapse_rate={collapse_rate!r}: a number is needed")
    if not 0 <= collapse_rate <= MAX_COLLAPSE_RATE:
        raise ValueError(
            f"collapse_rate={collapse_rate}: allowed are 0 (no pause) to {MAX_COLLAPSE_RATE:g} a second"
        )
    seed = whole("seed", seed, 0, (1 << 63) - 1)
    chosen = check_switches(switches)
    if attribute:
        if archs:
            raise ValueError("attribute and arch: the steps from v6.4 to v6.6 are raced on x86-64")
        variants: list[Variant] = []
        steps: dict[str, int] = {}
        for name, group in LADDER:
            steps |= group
            variants.append(Variant(name, "v6.4", {**steps, **chosen}))
    else:
        names = _eras(eras)
        variants = [Variant(name, name, chosen) for name in names]
        if archs:
            one = len(archs) == 1
            variants = [
                Variant(era if one else f"{a} {era}", era, chosen, a)
                for a in archs
                for era in names
            ]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"seconds={seconds!r}: a number is needed")
    lowest = MIN_PART * len(variants)
    if not lowest <= seconds <= 86_400:
        raise ValueError(f"seconds={seconds}: allowed are {lowest:g} to 86400")
    if rounds is None:
        fitting = int(seconds / (0.25 * len(variants)))
        rounds = max(1, min(DEFAULT_ROUNDS, fitting))
    rounds = whole("rounds", rounds, 1, int(seconds / lowest))
    loaded: Trace | None = None
    if workload == "trace":
        loaded = loaded_trace(trace)
        plan = plan_trace(loaded, walkers=walkers, collapsers=collapsers, mms=mms, seed=seed)
    else:
        plan = plan_synthetic(workload, walkers=walkers, collapsers=collapsers, mms=mms, seed=seed)
    if nothing_to_collapse:
        plan = replace(plan, notes=[*plan.notes, _no_collapse(archs, by_default, workload)])
    bytes_ = plan.memory if memory is None else size("memory", memory)
    # A round touches all of it before it begins: what is too much would not fail, but bring the computer down.
    if bytes_ > (left := available_memory()):
        raise ValueError(
            f"memory={bytes_ if memory is None else memory!r}: this computer has {left >> 20} MiB left; allowed are 16 MiB to that"
        )
    arrays = [plan.setup, *plan.walkers]
    fits = {a: Fit(a, arrays) for a in archs}
    for name, fit in fits.items():
        if (needed := fit.memory(bytes_)) > left:
            raise ValueError(
                f"memory={bytes_ if memory is None else memory!r}: that is {needed >> 20} MiB on {name}, whose pages are larger; "
                f"this computer has {left >> 20} MiB left"
            )
    return Order(
        variants,
        plan,
        archs,
        fits,
        walkers,
        collapsers,
        mms,
        float(seconds),
        rounds,
        seed,
        bytes_,
        chosen,
        attribute,
        mode,
        float(collapse_rate),
        loaded,
    )


# ---- running -----------------------------------------------------------------------------------------

Progress = Callable[[str, float], None]
"""Told what happens, and how many seconds of measuring are done."""


def _silent(_what: str, _done: float) -> None:
    pass


class Runner:
    """Runs the rounds of an order."""

    def __init__(
        self, order: Order, progress: Progress = _silent, interrupts: Interrupts | None = None
    ) -> None:
        self.order = order
        self.progress = progress
        self.interrupts = interrupts or Interrupts()
        self.gaps = gaps(order.seed)
        self.interrupted = False
        self.capacities: dict[str, float] = {}  # steps a second of one walker
        self.plans = {arch: _fitted(order.plan, fit) for arch, fit in order.fits.items()}
        self.done = 0.0
        self.eras = {
            v.name: EraResult(
                v.name,
                _switches_of(v.era, v.switches),
                order.plan.primary,
                arch=v.arch,
                tables_per_page=_tables_per_page(v.arch, v.era),
            )
            for v in order.variants
        }

    @property
    def capacity(self) -> float:
        """Steps a second of one walker, of the first architecture."""
        return next(iter(self.capacities.values()), 0.0)

    def round(
        self,
        era: str,
        switches: Mapping[str, int],
        rate: float,
        idle: float,
        loaded: float,
        arch: str = "x86-64",
    ) -> dict[str, Any]:
        """One call into C++. `rate`: steps a second of each walker, 0 for a closed loop."""
        order = self.order
        plan, fit = self.plans.get(arch, order.plan), order.fits.get(arch)
        module = module_of(arch, checked=True) if fit else _core
        span = idle + loaded
        room = int(rate * span * 1.4) + 20_000 if rate else int(span * 8e6) + 20_000
        raw: dict[str, Any]
        memory = fit.memory(order.memory) if fit else order.memory
        with room_for(memory, plan.files), self.interrupts.waiting():
            raw = module.race_round(
                era=era,
                switches=list(switches.items()),
                memory=memory,
                files=plan.files,
                mms=plan.mms,
                setup=plan.setup,
                walkers=plan.walkers,
                rates=[rate] * len(plan.walkers),
                gaps=self.gaps.tolist(),
                idle_ns=int(idle * 1e9),
                loaded_ns=int(loaded * 1e9),
                max_samples=min(room, 8_000_000),
                processors=processors(),
                mode=order.mode,
                collapse_file=plan.collapse_file,
                collapse_base=fit.address(SHARED_BASE) if fit else SHARED_BASE,
                collapse_mms=plan.collapse_mms,
                collapsers=plan.extents if loaded else [],
                khugepaged_every=KHUGEPAGED_EVERY,
                collapse_rate=order.collapse_rate,
            )
        self.interrupted = self.interrupted or raw["interrupted"]
        return raw

    def calibrate(self) -> None:
        """Measures what a walker of v6.4 can do, collapsers idle, without a schedule."""
        order = self.order
        length = min(0.4, max(0.05, order.seconds / 30))
        for arch in order.archs or ["x86-64"]:
            on = f" on {arch}" if order.archs else ""
            found = []
            for i in range(CALIBRATIONS):
                self.progress(f"capacity of v6.4{on}, {i + 1} of {CALIBRATIONS}", 0)
                raw = self.round("v6.4", order.switches, 0, length, 0, arch)
                if self.interrupted:
                    return
                found.append(statistics.fmean(closed_loop_rates(raw)))
            self.capacities[arch] = statistics.median(found)

    def run(self) -> None:
        """Calibrates, and runs all rounds; an interrupt ends it, and what is done is kept."""
        try:
            self._run()
        except KeyboardInterrupt:
            self.interrupted = True

    def _run(self) -> None:
        order = self.order
        self.calibrate()
        idle = order.part_seconds * IDLE_SHARE
        for r in range(order.rounds):
            shift = r % len(order.variants)
            for v in order.variants[shift:] + order.variants[:shift]:
                if self.interrupted:
                    return
                self.progress(f"round {r + 1} of {order.rounds}, {v.name}", self.done)
                rate, loaded = self.capacities[v.arch] / 2, order.part_seconds - idle
                raw = self.round(v.era, v.switches, rate, idle, loaded, v.arch)
                self.note(self.eras[v.name], raw)
                self.done += order.part_seconds
        self.progress("done", self.done)

    def note(self, era: EraResult, raw: dict[str, Any]) -> None:
        """Adds a round to what is known of its era."""
        if raw["interrupted"] and raw["loaded_ns"] < 5e7:
            return  # nothing to speak of was measured
        idle, loaded = (_part(raw, window, era.primary) for window in (IDLE, LOADED))
        calls = raw["collapses"]
        made, good = np.isin(calls["call"], (FIRST, BY_KHUGEPAGED)), calls["error"] == 0
        era.idle.append(idle)
        era.loaded.append(loaded)
        era.collapse_ns.append(calls["latency_ns"][made & good])
        era.install_ns.append(calls["latency_ns"][(calls["call"] == INSTALL) & good])
        era.errors.update(calls["error"][~good & (calls["call"] != VISIT)].tolist())
        era.turns.append(calls["turns"])
        for total, name in (
            (era.ledger, "ledger"),
            (era.ledger_collapse, "ledger_collapse"),
            (era.ledger_walkers, "ledger_walkers"),
        ):
            _add_ledger(total, raw[name])
        era.pending_max = max(era.pending_max, raw["pending_max"])
        if (frames := raw["table_frames_max"]) is not None:
            era.table_frames_max = max(era.table_frames_max or 0, frames)
        for walker in raw["walkers"]:
            era.refused += walker["refused"]
            era.unserved += walker["unserved"]
            era.dropped += walker["dropped"]
            era.usage.append({"idle": walker["windows"][IDLE], "loaded": walker["windows"][LOADED]})


def _archs(arch: str | Sequence[str] | None) -> list[str]:
    if arch is None:
        return []
    names = names_of("arch", arch, "an architecture")
    for name in names:
        known_arch(name)
    if len(set(names)) != len(names):
        raise ValueError(f"arch={names!r}: each at most once")
    return names


def _tables_per_page(arch: str, era: str) -> int:
    return next(
        int(row["tables_per_page"])
        for row in _core.architectures()
        if row["name"] == arch and era in row["eras"]
    )


def _has_thp(arch: str) -> bool:
    return any(row["thp"] for row in _core.architectures() if row["name"] == arch)


def _no_collapse(archs: Sequence[str], by_default: bool, workload: str) -> str:
    """Why the collapsers have nothing to do, and what is raced."""
    text = f"on {' and '.join(archs)} there are no huge pages, so nothing is collapsed and the collapsers stand still"
    if workload == "aliases":
        text += (
            ": each fault on a page that the program maps a second time looks for the other mapping and makes both "
            "uncached (adjust_pte), under the one lock that all faults of the program take"
        )
    if by_default:
        text += f"; workload {workload} was chosen for that, --workload runs another"
    return text


def _fitted(plan: Plan, fit: Fit) -> Plan:
    each = fit.extents_each
    thp = _has_thp(fit.arch)
    return replace(
        plan,
        setup=fit.steps(plan.setup),
        walkers=[fit.steps(w) for w in plan.walkers],
        files=[fit.size(n) for n in plan.files],
        # The first of those that an extent has become; none where there is nothing to collapse.
        extents=[[e * each for e in mine] for mine in plan.extents] if thp else [],
    )


def closed_loop_rates(raw: Mapping[str, Any], window: int = IDLE) -> list[float]:
    """Steps a second of each walker of a round, over the time that its schedule did not stand still."""
    length = raw["idle_ns"] if window == IDLE else raw["loaded_ns"]
    return [
        w["steps"] / max(1, length - w["off_clock_ns"] - w["stolen_ns"]) * 1e9
        for w in (walker["windows"][window] for walker in raw["walkers"])
    ]


def _switches_of(era: str, overrides: Mapping[str, int]) -> dict[str, int]:
    return {row["name"]: overrides.get(row["name"], row["eras"][era]) for row in _core.switches()}


def _add_ledger(total: Counter[str], counts: Mapping[str, int]) -> None:
    for name, value in counts.items():
        level = name.endswith(("_max", ".pending", ".frames"))
        total[name] = max(total[name], value) if level else total[name] + value


def _part(raw: Mapping[str, Any], window: int, primary: Sequence[Kind]) -> Part:
    samples = raw["samples"]
    here = samples["window"] == window
    kinds, due, latencies, owns, faults = (
        samples[k][here] for k in ("kind", "due_ns", "latency_ns", "own_ns", "faults")
    )
    length = raw["idle_ns"] if window == IDLE else raw["loaded_ns"]
    in_time = due + latencies <= length
    still = [w["windows"][window] for w in raw["walkers"]]
    stood = statistics.fmean(w["off_clock_ns"] + w["stolen_ns"] for w in still)
    part = Part(length / 1e9, {}, on_clock=max(0.0, length - stood) / 1e9)
    for kind in np.unique(kinds).tolist():
        chosen = kinds == kind
        if kind in TOUCHES:
            chosen &= faults > 0
        part.by_kind[kind] = Tally.of(latencies[chosen])
        part.completed[kind] = int(in_time[chosen].sum())
        if window == LOADED:
            part.own[kind] = Tally.of(owns[chosen])
    part.settle(primary)
    return part


# ---- conclusions ---------------------------------------------------------------------------------------


def _idle_p99(a: EraResult, b: EraResult, seed: int) -> Ratio:
    """The control of the noise gate: of what the rounds showed, not widened for how few they are. A wider interval keeps
    one from claiming too much; here it would keep one from seeing that the computer was busy."""
    return _stats.latency_ratios(a.rounds_of(IDLE), b.rounds_of(IDLE), seed, {}, widened=False)[
        "p99"
    ]


def _noise(eras: Sequence[EraResult], control: Ratio, threads: int) -> Noise:
    idle = [u["idle"]["usage"] for era in eras for u in era.usage]
    both = [u[w]["usage"] for era in eras for u in era.usage for w in ("idle", "loaded")]
    wall = sum(u["wall_ns"] for u in idle)
    return _stats.judge_noise(
        stolen_idle=max(0.0, 1 - sum(u["cpu_ns"] for u in idle) / wall) if wall else 0.0,
        involuntary_per_s=sum(u["involuntary"] for u in both)
        / max(1e-9, sum(u["wall_ns"] for u in both) / 1e9),
        minor_faults=sum(u["minor_faults"] for u in both),
        idle_p99=control,
        loaded_p50=[p for p in (era.summary(LOADED)["p50"] for era in eras) if p],
        crowded=threads > processors(),
    )


def _gain(a: EraResult, b: EraResult, seed: int, noise: Noise) -> dict[str, Ratio]:
    verdicts = noise.verdicts()
    everywhere = "; ".join(noise.reasons)
    gain = _stats.latency_ratios(a.rounds_of(LOADED), b.rounds_of(LOADED), seed, verdicts)
    for name, x, y in (
        ("faults_per_s", _rates(a), _rates(b)),
        ("collapses_per_s", _collapse_rates(a), _collapse_rates(b)),
    ):
        gain[name] = _stats.rate_ratio(y, x, seed, everywhere)  # more is better: second / first
    idle = _stats.as_control(
        _stats.latency_ratios(a.rounds_of(IDLE), b.rounds_of(IDLE), seed, verdicts)
    )
    gain |= {f"idle_{key}": ratio for key, ratio in idle.items()}
    for name, old, new in (
        ("collapse", a.collapse_ns, b.collapse_ns),
        ("install", a.install_ns, b.install_ns),
    ):
        ratios = _stats.latency_ratios(old, new, seed, verdicts)
        gain |= {f"{name}_{key}": ratios[key] for key in ("p50", "p99")}
    return gain


def _rates(era: EraResult) -> list[float]:
    return [p.rate(era.primary) for p in era.loaded]


def _collapse_rates(era: EraResult) -> list[float]:
    return [len(c) / p.seconds for c, p in zip(era.collapse_ns, era.loaded, strict=True)]


def _split(a: EraResult, b: EraResult, seed: int, noise: Noise) -> dict[str, dict[str, Ratio]]:
    verdicts = noise.verdicts()
    split = {}
    for name, kinds in SPLIT.items():
        x, y = (era.rounds_of(LOADED, kinds, own=True) for era in (a, b))
        if any(map(len, x)) and any(map(len, y)):
            split[name] = _stats.latency_ratios(x, y, seed, verdicts)
    return split


def machine_facts() -> dict[str, Any]:
    """The computer that this runs on."""
    model = ""
    try:
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "processor": model or platform.machine(),
        "processors": processors(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": [round(x, 2) for x in os.getloadavg()],
    }


def _pair(names: Sequence[str]) -> tuple[str, str] | None:
    if len(names) < 2:
        return None
    if "v6.4" in names and "v6.6" in names:
        return "v6.4", "v6.6"
    return names[0], names[-1]


def conclude(runner: Runner, facts: dict[str, Any]) -> RaceResult:
    """The result of what was run."""
    order, plan = runner.order, runner.order.plan
    measured = {name: era for name, era in runner.eras.items() if era.loaded}
    # What two architectures take says something of how they are simulated, and no more: no gain is made of it.
    between = None if len(order.archs) > 1 else _pair(list(measured))
    a, b = (measured[name] for name in between) if between else (None, None)
    control = _idle_p99(a, b, order.seed) if a and b else _stats.NOTHING
    noise = _noise(list(measured.values()), control, order.walkers + order.collapsers)
    gain: dict[str, Ratio] = {}
    split: dict[str, dict[str, Ratio]] = {}
    if a and b:
        gain, split = _gain(a, b, order.seed, noise), _split(a, b, order.seed, noise)
    workload = {
        "name": plan.name,
        "what": plan.what,
        "trace": order.trace.name if order.trace else None,
        "trace_file": order.trace.path if order.trace else None,
        "walkers": order.walkers,
        "collapsers": order.collapsers,
        "collapse_rate": order.collapse_rate,
        "mms": order.mms,
        "seconds": order.seconds,
        "rounds": order.rounds,
        "seed": order.seed,
        "memory": order.memory,
        "memory_of": {arch: fit.memory(order.memory) for arch, fit in order.fits.items()},
        "switches": order.switches,
        "arch": order.archs or ["x86-64"],
        "capacity_per_s": round(runner.capacity * order.walkers, 1),
        "capacity_of": {
            arch: round(each * order.walkers, 1) for arch, each in runner.capacities.items()
        },
        "offered_per_s": round(runner.capacity * order.walkers / 2, 1),
        "primary": [kind.name.lower() for kind in plan.primary],
        "replaced": plan.replaced,
        "notes": plan.notes,
    }
    return RaceResult(
        measured,
        gain,
        split,
        between,
        noise,
        facts,
        workload,
        plan,
        rounds=min((len(era.loaded) for era in measured.values()), default=0),
        interrupted=runner.interrupted,
        attribution=order.attribution,
    )


def run_order(order: Order, progress: Progress = _silent) -> RaceResult:
    """Runs a race; after an interrupt, the result of what was done."""
    facts = machine_facts()
    started = time.monotonic()
    with Interrupts() as interrupts:
        runner = Runner(order, progress, interrupts)
        runner.run()
        result = conclude(runner, facts)
        result.interrupted = runner.interrupted or interrupts.seen
    result.workload["took_s"] = round(time.monotonic() - started, 1)
    return result


def race(
    eras: Sequence[str] = DEFAULT_ERAS,
    *,
    walkers: int = 1,
    collapsers: int = 1,
    mms: int = 2,
    seconds: float = DEFAULT_SECONDS,
    trace: str | os.PathLike[str] | Trace | None = None,
    workload: str | None = None,
    seed: int = 1,
    switches: Mapping[str, int] | None = None,
    rounds: int | None = None,
    memory: int | str | None = None,
    attribute: bool = False,
    collapse_rate: float = DEFAULT_COLLAPSE_RATE,
    arch: str | Sequence[str] | None = None,
    progress: bool = False,
) -> RaceResult:
    """Races collapsers against walkers, under several kernels' rules.

    Args:
        eras: names of releases ("v6.4", "v6.5", "v6.6"), run in alternating rounds.
        walkers: threads that replay the workload.
        collapsers: threads that keep collapsing 2 MiB extents of a shared file.
        mms: other address spaces that map the file, besides the walkers'.
        seconds: measured time in all, over all eras and rounds.
        trace: path of a recorded trace; None: the one that ships with the package.
        workload: "trace", or a synthetic one (`pgtbl race --help` lists them); None: "trace", and "aliases" where the
            architecture has no huge pages (arm).
        seed: of the schedule and of the synthetic workloads.
        switches: overrides of single switches of every era, by name (docs/switches).
        rounds: of each era; None: 15, fewer where `seconds` is short.
        memory: simulated memory in bytes or as "256MiB" (B, KiB, MiB, GiB, TiB); None: enough. With `arch` it is that of an
            x86-64 machine, and is multiplied as the program is: by 16 on powerpc, by 4 on sparc64, whose pages are larger.
        attribute: instead of `eras`, run v6.4 with the switches of v6.6 turned on group by group.
        collapse_rate: extents that each collapser turns over a second at most, in every era alike; 0: no pause.
        arch: an architecture or several, which are raced side by side in their checked builds (`RaceResult.matrix`);
            None: x86-64. Where there are no huge pages (arm), walkers race each other.
        progress: show a progress bar on stderr.

    Raises ValueError and TypeError for arguments that are not allowed (`TraceError`, a ValueError, for a
    broken trace), OSError for a trace that cannot be opened, `OutOfMemory` where `memory` is too small. Ctrl-C raises
    `Interrupted`, a KeyboardInterrupt, whose `result` is the RaceResult of the rounds that were done.
    """
    order = make_order(
        eras=eras,
        walkers=walkers,
        collapsers=collapsers,
        mms=mms,
        seconds=seconds,
        trace=trace,
        workload=workload,
        seed=seed,
        switches=switches,
        rounds=rounds,
        memory=memory,
        attribute=attribute,
        collapse_rate=collapse_rate,
        arch=arch,
    )
    # Around the bar, too: a Ctrl-C while it closes must not cost the result.
    with Interrupts() as interrupts:
        if progress:
            from .report import progress_bar

            with progress_bar(order.seconds) as tell:
                result = run_order(order, tell)
        else:
            result = run_order(order)
        result.interrupted = result.interrupted or interrupts.seen
        if result.interrupted:
            raise Interrupted(result, result.rounds)
    return result


def workload_table() -> dict[str, str]:
    """The workloads by name, each with a sentence."""
    table = {"trace": "replay of a recorded program (--trace FILE; sqlite ships with the package)"}
    return table | {
        name: f"{w.what} ({w.source})" if w.source else w.what for name, w in SYNTHETIC.items()
    }
