"""From a recorded trace to scripts for walkers.

Replay keeps the layout that was recorded: each process gets an address space of its own, mappings stand where
they stood, and each fault is a touch of its page. The walkers are threads of that program: each replays the
whole recording, the second and later ones moved by whole GiB, in the same address spaces. What cannot be
expressed is replayed in the nearest form, and counted (`Plan.replaced`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._walk import Area, Space, TraceWalk, page_down, page_up, prot_bits, range_of
from .trace import PROT, Event, Trace, TraceError
from .workload import (
    EXEC,
    EXTENT,
    GIB,
    LAB_END,
    LAB_START,
    NO_FILE,
    OFF_CLOCK,
    PAGE,
    READ,
    SHARED,
    STEP,
    TASK_SIZE,
    WRITE,
    Kind,
    Op,
    Plan,
    Probes,
    Script,
    SharedFile,
    Steps,
    extents_for,
    map_shared,
    memory_for,
)

__all__ = ["plan_trace"]

MOVED_BASE = LAB_END  # where regions go that must be moved ...
MOVED_END = 0x5400_0000_0000  # ... below where programs are loaded


# ---- compiling ---------------------------------------------------------------------------------------


@dataclass
class Compiled:
    """A trace as the script of one walker, where it was recorded."""

    steps: list[tuple[Any, ...]]
    files: list[int]  # sizes in pages
    file_names: list[str]
    shared_written: list[int]  # files that are mapped shared and writable
    mms: int
    main_mm: int
    own_pages: int  # of anonymous memory and private copies
    file_pages: dict[int, set[int]]
    touched: Counter[tuple[int, int]]  # (file, extent) -> touches through shared mappings
    replaced: Counter[str]


class _Compiler(TraceWalk):
    """Walks through the events once and writes down steps."""

    MMAP, MUNMAP, BRK = Kind.MMAP, Kind.MUNMAP, Kind.BRK

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.steps = Steps()
        self.shared_written: set[int] = set()
        self.faults_of: Counter[int] = Counter()
        self.own: set[tuple[int, int]] = set()
        self.file_pages: dict[int, set[int]] = {}
        self.touched: Counter[tuple[int, int]] = Counter()

    # -- objects

    def space(self, pid: int) -> int:
        if pid not in self.space_of:
            self.space_of[pid] = self.new_space()
        return self.space_of[pid]

    def new_space(self) -> int:
        self.spaces.append(Space())
        return len(self.spaces) - 1

    # -- steps

    def map(self, mm: int, area: Area, kind: int, flags: int = 0) -> None:
        self.spaces[mm].put(area)
        op = Op.MAP_ANON if area.file == NO_FILE else Op.MAP_FILE
        self.steps.add(
            op,
            Kind(kind),
            mm,
            area.start,
            area.end - area.start,
            offset=area.offset,
            file=area.file,
            prot=area.prot,
            flags=flags | (SHARED if area.shared else 0),
        )

    def unmap(self, mm: int, start: int, end: int, kind: int, flags: int = 0) -> None:
        self.spaces[mm].clear(start, end)
        self.steps.add(Op.UNMAP, Kind(kind), mm, start, end - start, flags=flags)

    def tear_down(self, mm: int) -> None:
        for start, end in self.spaces[mm].runs():
            self.unmap(mm, start, end, Kind.MUNMAP, OFF_CLOCK)
        self.brk.pop(mm, None)

    def fill(self, mm: int, start: int, end: int, prot: int) -> None:
        """Maps what is not mapped in the range, without being asked: between two steps."""
        for a, b in self.spaces[mm].holes(start, end):
            self.map(mm, Area(a, b, prot), Kind.MMAP, OFF_CLOCK)

    # -- events

    def run(self) -> Compiled:
        self.walk()
        for mm in range(len(self.spaces)):
            self.tear_down(mm)
        if not self.faults_of:
            raise TraceError(
                self.trace.path, self.trace.events[-1].line, "no page fault of it can be replayed"
            )
        main = self.faults_of.most_common(1)[0][0]
        return Compiled(
            self.steps.rows,
            [size // PAGE for size in self.file_bytes],
            [name for _, name in self.files],
            sorted(self.shared_written),
            len(self.spaces),
            main,
            len(self.own),
            self.file_pages,
            self.touched,
            self.replaced,
        )

    def do_exec(self, event: Event, index: int) -> None:
        if event.pid in self.borrowed or event.pid not in self.space_of:
            self.borrowed.discard(event.pid)
            self.space_of[event.pid] = self.new_space()
        mm = self.space_of[event.pid]
        self.tear_down(mm)
        for image in self.images_at(event, index):
            self.map(mm, image, Kind.MMAP, OFF_CLOCK)

    def do_fork(self, event: Event) -> None:
        child = self.new_space()
        self.space_of[event.data["child"]] = child
        parent = self.space(event.pid)
        for area in list(self.spaces[parent].areas):
            self.map(child, area, Kind.MMAP, OFF_CLOCK)
        if parent in self.brk:
            self.brk[child] = self.brk[parent]
        self.replaced["fork: the child maps the same, but its private pages start empty"] += 1

    def do_exit(self, event: Event) -> None:
        if event.thread or event.pid not in self.space_of:
            return
        if event.pid not in self.borrowed:
            self.tear_down(self.space_of[event.pid])
        self.borrowed.discard(event.pid)

    def do_mmap(self, event: Event) -> None:
        mm, area = self.space(event.pid), self.area_of(event)
        if area.shared and area.prot & WRITE:
            self.shared_written.add(area.file)
        self.map(mm, area, Kind.MMAP)

    def do_mprotect(self, event: Event) -> None:
        mm, prot = self.space(event.pid), prot_bits(event.data["prot"])
        start, end = range_of(event)
        if end <= start:
            return
        for part in self.protect(mm, start, end, prot):
            if part.shared and prot & WRITE:
                self.shared_written.add(part.file)
        self.steps.add(Op.PROTECT, Kind.MPROTECT, mm, start, end - start, prot=prot)

    def do_madvise(self, event: Event) -> None:
        advice = event.data["advice"].upper()
        mm = self.space(event.pid)
        start, end = range_of(event)
        if advice not in ("DONTNEED", "FREE") or end <= start:
            self.replaced[f"madvise {advice}, left out"] += 1
            return
        if advice == "FREE":
            self.replaced["madvise FREE, as DONTNEED"] += 1
        for part in self.spaces[mm].inside(start, end):
            self.steps.add(Op.DONTNEED, Kind.MADVISE, mm, part.start, part.end - part.start)

    def do_mremap(self, event: Event) -> None:
        data, mm = event.data, self.space(event.pid)
        start, end = page_down(data["addr"]), page_up(data["addr"] + data["len"])
        area = self.spaces[mm].find(start)
        if area is None:
            self.replaced["mremap of memory that is not known, left out"] += 1
            return
        self.replaced["mremap, as munmap and mmap"] += 1
        new_start, new_end = data["ret"], data["ret"] + page_up(data["new_len"])
        offset = area.part(start, area.end).offset
        if area.file != NO_FILE:
            size = offset + new_end - new_start
            self.file_bytes[area.file] = max(self.file_bytes[area.file], size)
        moved = Area(new_start, new_end, area.prot, area.file, offset, area.shared)
        if new_start == start and new_end >= end:
            if new_end > end:
                self.map(mm, moved.part(end, new_end), Kind.MMAP)
            return
        if new_start == start:
            self.unmap(mm, new_end, end, Kind.MUNMAP)
            return
        if end > start:
            self.unmap(mm, start, end, Kind.MUNMAP)
        self.map(mm, moved, Kind.MMAP)

    def do_fault(self, event: Event) -> None:
        data, mm = event.data, self.space(event.pid)
        page, access = page_down(data["addr"]), PROT[data["acc"]]
        area = self.faulting_area(event, mm)
        if area is None:
            return
        if data.get("prot"):
            self.replaced["faults on a present page (copy on write): a write, which may hit"] += 1
        self.faults_of[mm] += 1
        kind = Kind.ANON if area.file == NO_FILE else Kind.FILE
        offset = area.part(page, area.end).offset
        if area.file == NO_FILE or (access == WRITE and not area.shared):
            self.own.add((mm, page))
        if area.file != NO_FILE:
            self.file_pages.setdefault(area.file, set()).add(offset // PAGE)
            if area.shared:
                self.touched[area.file, offset // EXTENT] += 1
        op = {READ: Op.TOUCH_READ, WRITE: Op.TOUCH_WRITE, EXEC: Op.TOUCH_EXEC}[access]
        # length is not used by a touch: it carries the place in the file until the plan is made.
        self.steps.add(
            op, kind, mm, page, 0, offset=offset, file=area.file if area.shared else NO_FILE
        )


# ---- from a compiled trace to a plan -------------------------------------------------------------------

_SAME_EVERY = 8  # a fault in the VMA being collapsed after so many steps of the trace
_USER_EVERY = 32  # and a user of mmap_lock of each sort


def _moved(script: Script, k: int) -> Script:
    """The script with its regions where walker k has them: whole GiB are moved, and stay in order."""
    timed = script.copy()
    addr = script["addr"].astype(np.int64)
    length = np.maximum(script["length"].astype(np.int64), 1)
    first, last = addr // GIB, (addr + length - 1) // GIB
    used = np.zeros(TASK_SIZE // GIB + 1, dtype=np.int64)
    np.add.at(used, first, 1)
    np.add.at(used, last + 1, -1)
    needed = np.flatnonzero(np.cumsum(used)[:-1] > 0)
    lab = (needed >= LAB_START // GIB) & (needed < LAB_END // GIB)
    if k == 0 and not lab.any():
        return timed
    if k == 0:
        place = dict(zip(needed.tolist(), needed.tolist(), strict=True))
    base = MOVED_BASE // GIB + k * (len(needed) + 1)
    if base + len(needed) > MOVED_END // GIB:
        raise ValueError(
            f"walkers={k + 1}: this trace spans {len(needed)} GiB, and there is no room to move that for each"
        )
    targets = {int(g): base + i for i, g in enumerate(needed)}
    if k == 0:
        targets = {
            g: targets[g] if LAB_START // GIB <= g < LAB_END // GIB else p for g, p in place.items()
        }
    shift = np.array([targets[int(g)] - int(g) for g in first], dtype=np.int64)
    timed["addr"] = (addr + shift * GIB).astype(np.uint64)
    return timed


def _trace_file(compiled: Compiled) -> int | None:
    """The recorded file whose extents can be collapsed: shared, written, the largest."""
    fit = [f for f in compiled.shared_written if compiled.files[f] * PAGE >= EXTENT]
    return max(fit, key=lambda f: compiled.files[f]) if fit else None


def _shared_file(compiled: Compiled, collapsers: int, walkers: int) -> SharedFile:
    each = extents_for(collapsers)
    index = _trace_file(compiled)
    if index is None:
        return SharedFile.added(len(compiled.files), collapsers, walkers, each)
    whole = compiled.files[index] * PAGE // EXTENT
    wanted = collapsers * each
    touched = {e for file, e in compiled.touched if file == index and e < whole}
    # The most touched ones, and the first of the others: a file may be as large as the address space.
    known = touched | set(range(min(whole, wanted + len(touched))))
    order = sorted(known, key=lambda e: (-compiled.touched[index, e], e))
    top = -(-compiled.files[index] * PAGE // EXTENT)
    missing = max(0, collapsers - whole)  # each collapser needs an extent of its own
    collapsed = order[:wanted] + list(range(top, top + missing))
    probes = list(range(top + missing, top + missing + walkers))
    return SharedFile(index, (top + missing + walkers) * EXTENT, sorted(collapsed), probes)


def _mark_collapsed(script: Script, shared: SharedFile) -> None:
    """Touches of extents that are being collapsed do not count as throughput."""
    touch = script["op"] <= int(Op.TOUCH_EXEC)
    inside = np.isin(script["offset"] // EXTENT, np.array(shared.collapsed, dtype=np.uint64))
    script["kind"][touch & (script["file"] == shared.index) & inside] = int(Kind.COLLAPSED)


def _with_probes(script: Script, probes: Probes) -> Script:
    """The script with a probe now and then, and at its end what makes the next time like the first."""
    out = Steps()
    pieces: list[npt.NDArray[Any]] = []
    start = 0

    def take(end: int) -> None:
        nonlocal start
        pieces.append(script[start:end])
        pieces.append(out.array())
        out.rows.clear()
        start = end

    for timed, i in enumerate(np.flatnonzero((script["flags"] & OFF_CLOCK) == 0), 1):
        if timed % _SAME_EVERY == 0:
            probes.same_vma(out)
        for at, probe in ((5, probes.populate), (13, probes.mincore), (21, probes.mmap_munmap)):
            if timed % _USER_EVERY == at:
                probe(out)
        if out.rows:
            take(int(i) + 1)
    probes.forget(out)
    take(len(script))
    return np.concatenate(pieces)


def plan_trace(trace: Trace, *, walkers: int, collapsers: int, mms: int, seed: int) -> Plan:
    """The plan that replays a trace. `mms`: other address spaces that map the shared file."""
    compiled = _Compiler(trace).run()
    shared = _shared_file(compiled, collapsers, walkers)
    added = shared.index == len(compiled.files)
    script = np.array(compiled.steps, dtype=STEP)
    _mark_collapsed(script, shared)
    touch = script["op"] <= int(Op.TOUCH_EXEC)
    script["offset"][touch] = 0
    script["file"][touch] = NO_FILE

    total = compiled.mms + mms
    if total > 4000:
        raise ValueError(
            f"mms={mms}: the trace has {compiled.mms} processes, and 4000 are allowed in all"
        )
    collapse_mms = [compiled.main_mm, *range(compiled.mms, total)]
    setup = Steps()
    map_shared(setup, shared, collapse_mms)
    random = np.random.default_rng([seed, 2])
    scripts = []
    for k in range(walkers):
        probes = Probes(k, compiled.main_mm, shared, random)
        probes.set_up(setup)
        scripts.append(_with_probes(_moved(script, k), probes))
    files = [size * PAGE for size in compiled.files]
    if added:
        files.append(shared.size)
    else:
        files[shared.index] = shared.size
    pages = sum(len(p) for f, p in compiled.file_pages.items() if f != shared.index)
    pages += walkers * (compiled.own_pages + 2 * EXTENT // PAGE)
    what = f"{trace.name}: {trace.command!r}, {trace.processes} processes, {trace.faults} faults recorded"
    notes = []
    if added:
        notes.append("the trace maps no shared file of 2 MiB or more: one was added")
    else:
        notes.append(f"collapsed file: {compiled.file_names[shared.index]!r} of the trace")
    return Plan(
        name="trace",
        setup=setup.array(),
        walkers=scripts,
        files=files,
        mms=total,
        main_mm=compiled.main_mm,
        collapse_file=shared.index,
        collapse_mms=collapse_mms,
        extents=shared.dealt(collapsers),
        primary=(Kind.ANON, Kind.FILE),
        memory=memory_for(shared, collapsers, total, pages) + _tables(script, walkers),
        what=what,
        notes=notes,
        replaced=dict(compiled.replaced),
    )


def _tables(script: Script, walkers: int) -> int:
    """Bytes of page tables that a script's touches need at most."""
    touch = script["op"] <= int(Op.TOUCH_EXEC)
    extent = script["addr"][touch] // np.uint64(EXTENT)
    places = np.unique(np.stack([script["mm"][touch].astype(np.uint64), extent]), axis=1)
    return int(places.shape[1]) * walkers * PAGE * 3
