"""From a recorded trace to scripts for walkers.

Replay keeps the layout that was recorded: each process gets an address space of its own, mappings stand where
they stood, and each fault is a touch of its page. The walkers are threads of that program: each replays the
whole recording, the second and later ones moved by whole GiB, in the same address spaces. What cannot be
expressed is replayed in the nearest form, and counted (`Plan.replaced`).
"""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .trace import PROT, Event, Trace
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

__all__ = ["Area", "Space", "images_of", "page_down", "page_up", "plan_trace", "prot_bits"]

MOVED_BASE = LAB_END  # where regions go that must be moved ...
MOVED_END = 0x5400_0000_0000  # ... below where programs are loaded
LOWEST = 1 << 16  # nothing is mapped below: a fault there is a null pointer's
FORK_WINDOW = 16 * PAGE  # what is mapped around a fault that no recorded mapping explains


# ---- an address space, as far as replay needs to know it ---------------------------------------------


@dataclass(frozen=True)
class Area:
    """What is mapped in [start, end)."""

    start: int
    end: int
    prot: int
    file: int = NO_FILE
    offset: int = 0
    shared: bool = False

    def part(self, start: int, end: int) -> Area:
        moved = 0 if self.file == NO_FILE else start - self.start
        return Area(start, end, self.prot, self.file, self.offset + moved, self.shared)


class Space:
    """The areas of an address space, in order, none overlapping."""

    def __init__(self) -> None:
        self.areas: list[Area] = []
        self.starts: list[int] = []

    def find(self, addr: int) -> Area | None:
        i = bisect.bisect_right(self.starts, addr) - 1
        return self.areas[i] if i >= 0 and addr < self.areas[i].end else None

    def inside(self, start: int, end: int) -> list[Area]:
        """The parts of areas that lie in [start, end)."""
        i = max(0, bisect.bisect_right(self.starts, start) - 1)
        found = []
        while i < len(self.areas) and self.areas[i].start < end:
            area = self.areas[i]
            if area.end > start:
                found.append(area.part(max(area.start, start), min(area.end, end)))
            i += 1
        return found

    def holes(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where nothing is mapped in [start, end)."""
        found, at = [], start
        for area in self.inside(start, end):
            if area.start > at:
                found.append((at, area.start))
            at = area.end
        if at < end:
            found.append((at, end))
        return found

    def clear(self, start: int, end: int) -> None:
        i = max(0, bisect.bisect_right(self.starts, start) - 1)
        j, kept = i, []
        while j < len(self.areas) and self.areas[j].start < end:
            area = self.areas[j]
            if area.start < start:
                kept.append(area.part(area.start, min(area.end, start)))
            if area.end > end:
                kept.append(area.part(max(area.start, end), area.end))
            j += 1
        self.areas[i:j] = kept
        self.starts[i:j] = [area.start for area in kept]

    def put(self, area: Area) -> None:
        self.clear(area.start, area.end)
        i = bisect.bisect_left(self.starts, area.start)
        self.areas.insert(i, area)
        self.starts.insert(i, area.start)

    def runs(self) -> list[tuple[int, int]]:
        """What is mapped, neighbours joined."""
        joined: list[tuple[int, int]] = []
        for area in self.areas:
            if joined and joined[-1][1] == area.start:
                joined[-1] = (joined[-1][0], area.end)
            else:
                joined.append((area.start, area.end))
        return joined


def page_up(x: int) -> int:
    return -(-x // PAGE) * PAGE


def page_down(x: int) -> int:
    return x // PAGE * PAGE


def prot_bits(text: str) -> int:
    return sum(PROT[letter] for letter in set(text))


# ---- what exec mapped --------------------------------------------------------------------------------

_JOIN = 64 * PAGE  # faults of an image at most this far apart belong to one mapping


def images_of(events: list[Event]) -> dict[tuple[int, int], list[Area]]:
    """For each exec (pid, index of its event): the mappings that its faults outside of listed ones imply."""
    epoch: dict[int, int] = {}
    touched: dict[tuple[int, int], dict[int, set[str]]] = {}
    listed: dict[tuple[int, int], list[tuple[int, int]]] = {}
    brk: dict[tuple[int, int], int] = {}
    for i, event in enumerate(events):
        data = event.data
        if event.op == "exec" and "errno" not in data:
            epoch[event.pid] = i
        key = (event.pid, epoch.get(event.pid, -1))
        if key[1] < 0 or "errno" in data:
            continue
        if event.op == "fault" and data.get("img") and data["addr"] >= LOWEST:
            touched.setdefault(key, {}).setdefault(page_down(data["addr"]), set()).add(data["acc"])
        elif event.op == "mmap":
            listed.setdefault(key, []).append((data["ret"], data["ret"] + page_up(data["len"])))
        elif event.op == "mremap":
            listed.setdefault(key, []).append((data["ret"], data["ret"] + page_up(data["new_len"])))
        elif event.op == "brk":
            start = brk.setdefault(key, data["ret"])
            listed.setdefault(key, []).append((start, max(start, data["ret"])))
    return {key: _clusters(pages, listed.get(key, [])) for key, pages in touched.items()}


def _clusters(pages: dict[int, set[str]], listed: list[tuple[int, int]]) -> list[Area]:
    areas: list[Area] = []
    start = end = -1
    kinds: set[str] = set()

    def close() -> None:
        if start >= 0:
            prot = sum(PROT[k] for k in kinds | {"r"})
            # Memory that was only ever written is a stack or .bss; the rest came from the program's file.
            areas.append(Area(start, end, prot, NO_FILE if kinds == {"w"} else -1))

    for page in sorted(pages):
        blocked = any(a < page + PAGE and b > end for a, b in listed) if start >= 0 else False
        if start >= 0 and page - end <= _JOIN and not blocked:
            end = page + PAGE
            kinds |= pages[page]
            continue
        close()
        start, end, kinds = page, page + PAGE, set(pages[page])
    close()
    return areas


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


class _Compiler:
    """Walks through the events once and writes down steps."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.steps = Steps()
        self.spaces: list[Space] = []
        self.space_of: dict[int, int] = {}
        self.borrowed: set[int] = set()  # pids that run in their parent's space until they exec
        self.brk: dict[int, int] = {}
        self.files: dict[tuple[str, str], int] = {}
        self.file_bytes: list[int] = []
        self.shared_written: set[int] = set()
        self.replaced: Counter[str] = Counter()
        self.faults_of: Counter[int] = Counter()
        self.own: set[tuple[int, int]] = set()
        self.file_pages: dict[int, set[int]] = {}
        self.touched: Counter[tuple[int, int]] = Counter()
        self.images = images_of(trace.events)

    # -- objects

    def space(self, pid: int) -> int:
        if pid not in self.space_of:
            self.space_of[pid] = self.new_space()
        return self.space_of[pid]

    def new_space(self) -> int:
        self.spaces.append(Space())
        return len(self.spaces) - 1

    def file(self, kind: str, name: str, end: int) -> int:
        index = self.files.setdefault((kind, name), len(self.file_bytes))
        if index == len(self.file_bytes):
            self.file_bytes.append(0)
        self.file_bytes[index] = max(self.file_bytes[index], page_up(end))
        return index

    # -- steps

    def map(self, mm: int, area: Area, kind: Kind, flags: int = 0) -> None:
        self.spaces[mm].put(area)
        op = Op.MAP_ANON if area.file == NO_FILE else Op.MAP_FILE
        self.steps.add(
            op,
            kind,
            mm,
            area.start,
            area.end - area.start,
            offset=area.offset,
            file=area.file,
            prot=area.prot,
            flags=flags | (SHARED if area.shared else 0),
        )

    def unmap(self, mm: int, start: int, end: int, kind: Kind, flags: int = 0) -> None:
        self.spaces[mm].clear(start, end)
        self.steps.add(Op.UNMAP, kind, mm, start, end - start, flags=flags)

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
        for i, event in enumerate(self.trace.events):
            if "errno" in event.data:
                self.replaced["calls that failed when recorded, left out"] += 1
                continue
            handler = getattr(self, f"do_{event.op}", None)
            if handler is None:
                self.replaced[f"{event.op}, left out"] += 1
            elif event.op == "exec":
                self.do_exec(event, i)
            else:
                handler(event)
        for mm in range(len(self.spaces)):
            self.tear_down(mm)
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
        for n, image in enumerate(self.images.get((event.pid, index), [])):
            if image.file == -1:
                name = f"{event.data.get('path', '?')} #{n}"
                file = self.file("image", name, image.end - image.start)
                image = Area(image.start, image.end, image.prot, file)
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

    def do_vfork(self, event: Event) -> None:
        child = event.data["child"]
        self.space_of[child] = self.space(event.pid)
        self.borrowed.add(child)

    def do_thread(self, event: Event) -> None:
        pass  # all threads of a process are replayed in the order recorded

    def do_exit(self, event: Event) -> None:
        if event.thread or event.pid not in self.space_of:
            return
        if event.pid not in self.borrowed:
            self.tear_down(self.space_of[event.pid])
        self.borrowed.discard(event.pid)

    def do_mmap(self, event: Event) -> None:
        data, flags = event.data, set(event.data["flags"])
        mm = self.space(event.pid)
        start, end = data["ret"], data["ret"] + page_up(data["len"])
        prot, shared = prot_bits(data["prot"]), "shared" in flags
        if "fd" in data and "anonymous" not in flags:
            offset = page_down(data["off"])
            file = self.file(str(data["fd"]), str(data.get("path", "")), offset + end - start)
        elif shared:
            offset, file = 0, self.file("shared anonymous", f"line {event.line}", end - start)
        else:
            offset, file = 0, NO_FILE
        if shared and prot & WRITE:
            self.shared_written.add(file)
        self.map(mm, Area(start, end, prot, file, offset, shared), Kind.MMAP)

    def do_munmap(self, event: Event) -> None:
        start = page_down(event.data["addr"])
        end = page_up(event.data["addr"] + event.data["len"])
        if end > start:
            self.unmap(self.space(event.pid), start, end, Kind.MUNMAP)

    def do_mprotect(self, event: Event) -> None:
        mm, prot = self.space(event.pid), prot_bits(event.data["prot"])
        start = page_down(event.data["addr"])
        end = page_up(event.data["addr"] + event.data["len"])
        if end <= start:
            return
        if self.spaces[mm].holes(start, end):
            self.replaced["mprotect of memory that exec mapped: that is mapped first"] += 1
            self.fill(mm, start, end, READ | WRITE)
        self.steps.add(Op.PROTECT, Kind.MPROTECT, mm, start, end - start, prot=prot)
        for part in self.spaces[mm].inside(start, end):
            self.spaces[mm].put(
                Area(part.start, part.end, prot, part.file, part.offset, part.shared)
            )
            if part.shared and prot & WRITE:
                self.shared_written.add(part.file)

    def do_brk(self, event: Event) -> None:
        mm, top = self.space(event.pid), page_up(event.data["ret"])
        before = self.brk.get(mm)
        self.brk[mm] = top
        if before is None or top == before:
            return
        if top > before:
            self.map(mm, Area(before, top, READ | WRITE), Kind.BRK)
        else:
            self.unmap(mm, top, before, Kind.BRK)

    def do_madvise(self, event: Event) -> None:
        advice = event.data["advice"].upper()
        mm = self.space(event.pid)
        start = page_down(event.data["addr"])
        end = page_up(event.data["addr"] + event.data["len"])
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
        space = self.spaces[mm]
        if page < LOWEST:
            self.replaced["faults of a null pointer, left out"] += 1
            return
        area = space.find(page)
        if area is None:
            window = page // FORK_WINDOW * FORK_WINDOW
            self.fill(mm, window, window + FORK_WINDOW, READ | WRITE | EXEC)
            self.replaced["faults outside of every known mapping: anonymous memory put there"] += 1
            area = space.find(page)
            assert area is not None
        if not area.prot or (access & (WRITE | EXEC)) & ~area.prot:
            self.replaced["faults that the mapping does not allow, left out"] += 1
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
            f"walkers={k + 1}: this trace spans {len(needed)} GiB; no room to move it {k} times"
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
    order = sorted(range(whole), key=lambda e: (-compiled.touched[index, e], e))
    top = -(-compiled.files[index] * PAGE // EXTENT)
    missing = max(0, collapsers - whole)  # each collapser needs an extent of its own
    collapsed = order[: collapsers * each] + list(range(top, top + missing))
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
