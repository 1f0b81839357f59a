"""From a recorded trace to a program: what each recorded thread does, and what it has to wait for.

Each thread of the recording becomes one of the replay, each address space (a process, from one exec to the next) a mm of its
own. A step that changes an address space stays in its place among all steps of that space; touches stay behind the change before
them. What cannot be expressed is replayed in the nearest form, and counted (`Program.replaced`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._compare.language import ADVICE
from ._walk import Area, Space, TraceWalk, page_down, page_up, prot_bits, range_of
from .trace import PROT, Event, Trace
from .workload import EXEC, EXTENT, NO_FILE, PAGE, READ, WRITE

__all__ = ["KINDS", "Program", "compile_trace"]

STEP = np.dtype(
    [
        ("addr", "<u8"),
        ("length", "<u8"),
        ("offset", "<u8"),
        ("to", "<u8"),
        ("changes", "<u4"),
        ("steps", "<u4"),
        ("space", "<u2"),
        ("other", "<u2"),
        ("file", "<u2"),
        ("advice", "<u2"),
        ("op", "u1"),
        ("kind", "u1"),
        ("prot", "u1"),
        ("flags", "u1"),
        ("spare", "<u4"),
    ]
)
"""One step: 56 bytes, as csrc/lab/replay.hpp has them."""

SHARED, NORESERVE, UNASKED = 1, 2, 4
MOST_SPACES = 4000


class Op(IntEnum):
    """What a step does."""

    TOUCH_READ = 0
    TOUCH_WRITE = 1
    TOUCH_EXEC = 2
    BEGIN = 3
    FORK = 4
    END = 5
    MAP_ANON = 6
    MAP_FILE = 7
    UNMAP = 8
    PROTECT = 9
    REMAP = 10
    ADVISE = 11


KINDS = (
    "fault, anonymous",
    "fault, file",
    "mmap",
    "munmap",
    "mprotect",
    "brk",
    "madvise",
    "mremap",
    "fork",
    "exec",
    "exit",
)
"""Headings under which steps are reported, by number."""
_ANON, _FILE, _MMAP, _MUNMAP, _MPROTECT, _BRK, _MADVISE, _MREMAP, _FORK, _EXEC, _EXIT = range(11)

Lane = tuple[int, int]  # pid, tid (0: the first thread)


@dataclass
class Program:
    """What a replay performs."""

    name: str
    what: str
    threads: list[npt.NDArray[Any]]
    lanes: list[Lane]
    files: list[int]  # bytes
    file_keys: list[tuple[str, str]]
    space_pids: list[int]  # whose each space is
    pages: int  # that the program touches, at most
    tables: int
    extents: int  # that could be collapsed
    replaced: Counter[str] = field(default_factory=Counter)

    def memory(self, collapsers: int) -> int:
        """Bytes of simulated memory that are enough."""
        pages = (self.pages + self.tables) * 3 // 2
        if collapsers:
            pages += (self.extents + 4 * collapsers) * (EXTENT // PAGE)
        bytes_ = pages * PAGE + (32 << 20)
        return -(-bytes_ // EXTENT) * EXTENT


class _Compiler(TraceWalk):
    """Walks through the events once, and gives each thread its steps."""

    MMAP, MUNMAP, BRK = _MMAP, _MUNMAP, _BRK

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.lanes: dict[Lane, list[tuple[int, ...]]] = {}
        self.lane: Lane = (0, 0)
        self.space_pids: list[int] = []
        self.changes: list[int] = []
        self.steps: list[int] = []
        self.touched: set[tuple[int, int]] = set()
        self.file_pages: set[tuple[int, int]] = set()

    # ---- steps

    def add(
        self,
        op: Op,
        kind: int,
        space: int,
        addr: int = 0,
        length: int = 0,
        *,
        offset: int = 0,
        to: int = 0,
        file: int = NO_FILE,
        other: int = 0,
        advice: int = 0,
        prot: int = 0,
        flags: int = 0,
        lane: Lane | None = None,
    ) -> None:
        touch = op <= Op.TOUCH_EXEC
        behind = 0 if touch else self.steps[space]
        row = (addr, length, offset, to, self.changes[space], behind, space, other, file, advice)
        self.lanes.setdefault(lane or self.lane, []).append((*row, int(op), kind, prot, flags, 0))
        self.steps[space] += 1
        if not touch:
            self.changes[space] += 1
        if op is Op.FORK:
            self.changes[other] += 1

    def new_space(self, pid: int) -> int:
        self.spaces.append(Space())
        self.space_pids.append(pid)
        self.changes.append(0)
        self.steps.append(0)
        if len(self.spaces) > MOST_SPACES:
            raise ValueError(f"the trace has more than {MOST_SPACES} address spaces")
        return len(self.spaces) - 1

    def begin(self, pid: int, kind: int = _EXEC) -> int:
        space = self.space_of[pid] = self.new_space(pid)
        self.add(Op.BEGIN, kind, space)
        return space

    def space(self, pid: int) -> int:
        return self.space_of[pid] if pid in self.space_of else self.begin(pid)

    def map(self, space: int, area: Area, kind: int, flags: int = 0) -> None:
        self.spaces[space].put(area)
        self.add(
            Op.MAP_ANON if area.file == NO_FILE else Op.MAP_FILE,
            kind,
            space,
            area.start,
            area.end - area.start,
            offset=area.offset,
            file=area.file,
            prot=area.prot,
            flags=flags | (SHARED if area.shared else 0),
        )

    def unmap(self, space: int, start: int, end: int, kind: int, flags: int = 0) -> None:
        self.spaces[space].clear(start, end)
        self.add(Op.UNMAP, kind, space, start, end - start, flags=flags)

    def fill(self, space: int, start: int, end: int, prot: int) -> None:
        """Maps what is not mapped in the range, though nothing recorded asked for it."""
        for a, b in self.spaces[space].holes(start, end):
            self.map(space, Area(a, b, prot), _MMAP, UNASKED)

    # ---- events

    def before(self, event: Event) -> None:
        self.lane = (event.pid, int(event.data.get("tid", 0)))

    def run(self) -> Program:
        self.walk()
        for pid, space in self.space_of.items():
            if pid not in self.borrowed:
                self.add(Op.END, _EXIT, space, lane=(pid, 0))
        lanes = [lane for lane, rows in self.lanes.items() if rows]
        faults = self.trace.faults
        what = f"{self.trace.command!r}: {len(self.spaces)} address spaces, {len(lanes)} threads, {faults} faults"
        return Program(
            self.trace.name,
            what,
            [np.array(self.lanes[lane], dtype=STEP) for lane in lanes],
            lanes,
            self.file_bytes,
            list(self.files),
            self.space_pids,
            len(self.touched) + len(self.file_pages),
            3 * len({(space, page * PAGE // EXTENT) for space, page in self.touched}),
            len({(space, page * PAGE // EXTENT) for space, page in self.touched}),
            self.replaced,
        )

    def do_exec(self, event: Event, index: int) -> None:
        pid = event.pid
        if pid in self.borrowed:
            self.borrowed.discard(pid)
        elif pid in self.space_of:
            self.add(Op.END, _EXEC, self.space_of[pid])
        space = self.begin(pid)
        for image in self.images_at(event, index):
            self.map(space, image, _MMAP, UNASKED)

    def do_fork(self, event: Event) -> None:
        parent, child_pid = self.space(event.pid), event.data["child"]
        child = self.new_space(child_pid)
        self.add(Op.FORK, _FORK, parent, other=child)
        for area in self.spaces[parent].areas:
            self.spaces[child].put(area)
        self.space_of[child_pid] = child
        if parent in self.brk:
            self.brk[child] = self.brk[parent]

    def do_exit(self, _event: Event) -> None:
        pass  # a space ends when its last thread has done its last step

    def do_mmap(self, event: Event) -> None:
        space = self.space(event.pid)
        noreserve = "noreserve" in event.data["flags"]
        self.map(space, self.area_of(event), _MMAP, NORESERVE if noreserve else 0)

    def do_mprotect(self, event: Event) -> None:
        space, prot = self.space(event.pid), prot_bits(event.data["prot"])
        start, end = range_of(event)
        if end > start:
            self.protect(space, start, end, prot)
            self.add(Op.PROTECT, _MPROTECT, space, start, end - start, prot=prot)

    def do_madvise(self, event: Event) -> None:
        name = event.data["advice"].upper()
        space = self.space(event.pid)
        start, end = range_of(event)
        if name not in ADVICE or not hasattr(_core, f"MADV_{name}") or end <= start:
            self.replaced[f"madvise {name}, left out"] += 1
            return
        self.add(Op.ADVISE, _MADVISE, space, start, end - start, advice=ADVICE[name])

    def do_mremap(self, event: Event) -> None:
        data, space = event.data, self.space(event.pid)
        start, length = page_down(data["addr"]), page_up(data["len"])
        to, new_length = data["ret"], page_up(data["new_len"])
        area = self.spaces[space].find(start)
        if area is None or length == 0:
            self.replaced["mremap of memory that is not known, left out"] += 1
            return
        if area.file != NO_FILE:
            end = area.part(start, area.end).offset + new_length
            self.file_bytes[area.file] = max(self.file_bytes[area.file], end)
        self.add(Op.REMAP, _MREMAP, space, start, length, offset=new_length, to=to)
        moved = area.part(start, min(area.end, start + length))
        self.spaces[space].clear(start, start + length)
        self.spaces[space].put(
            Area(to, to + new_length, moved.prot, moved.file, moved.offset, moved.shared)
        )

    def do_fault(self, event: Event) -> None:
        data, space = event.data, self.space(event.pid)
        page, access = page_down(data["addr"]), PROT[data["acc"]]
        area = self.faulting_area(event, space)
        if area is None:
            return
        if area.file == NO_FILE or (access == WRITE and not area.shared):
            self.touched.add((space, page // PAGE))
        if area.file != NO_FILE:
            self.touched.add((space, page // PAGE))
            self.file_pages.add((area.file, area.part(page, area.end).offset // PAGE))
        op = {READ: Op.TOUCH_READ, WRITE: Op.TOUCH_WRITE, EXEC: Op.TOUCH_EXEC}[access]
        self.add(op, _ANON if area.file == NO_FILE else _FILE, space, page)


def compile_trace(trace: Trace) -> Program:
    """The program of a trace."""
    return _Compiler(trace).run()
