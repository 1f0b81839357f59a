"""The walk through a recorded trace: what each process has mapped as each event comes.

Two compilers write down steps as they walk: `_replay` (a walker's script for the race) and `_program` (each thread's
own part). What an event means is here; how a step is written is theirs. What cannot be expressed is replayed in the nearest
form, and counted (`TraceWalk.replaced`).
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from .trace import PROT, Event, Trace
from .workload import EXEC, NO_FILE, PAGE, READ, WRITE

__all__ = ["Area", "Space", "TraceWalk", "page_down", "page_up", "prot_bits", "range_of"]

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


# ---- the walk ----------------------------------------------------------------------------------------


class TraceWalk(ABC):
    """Goes through the events once. A subclass has `do_<event>` for each event that it can express."""

    MMAP: ClassVar[int]
    MUNMAP: ClassVar[int]
    BRK: ClassVar[int]
    """Under which kind the subclass files the steps of these calls."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.spaces: list[Space] = []
        self.space_of: dict[int, int] = {}
        self.borrowed: set[int] = set()  # pids that run in their parent's space until they exec
        self.brk: dict[int, int] = {}
        self.files: dict[tuple[str, str], int] = {}
        self.file_bytes: list[int] = []
        self.replaced: Counter[str] = Counter()
        self.images = images_of(trace.events)

    # ---- what a subclass writes down

    @abstractmethod
    def space(self, pid: int) -> int:
        """The number of a process's address space; a process that was not seen before gets one."""

    @abstractmethod
    def map(self, space: int, area: Area, kind: int, flags: int = 0) -> None:
        """Something is mapped."""

    @abstractmethod
    def unmap(self, space: int, start: int, end: int, kind: int, flags: int = 0) -> None:
        """Nothing is mapped there any more."""

    @abstractmethod
    def fill(self, space: int, start: int, end: int, prot: int) -> None:
        """Maps what is not mapped in the range, though nothing recorded asked for it."""

    @abstractmethod
    def do_exec(self, event: Event, index: int) -> None:
        """A new program; `index`: of the event, for `images_at`."""

    def before(self, event: Event) -> None:  # noqa: B027 (most have nothing to note)
        """Called before each event."""

    # ---- what they share

    def walk(self) -> None:
        """Goes through the events."""
        for i, event in enumerate(self.trace.events):
            self.before(event)
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

    def file(self, kind: str, name: str, end: int) -> int:
        """The number of a file, which is at least `end` bytes long."""
        index = self.files.setdefault((kind, name), len(self.file_bytes))
        if index == len(self.file_bytes):
            self.file_bytes.append(0)
        self.file_bytes[index] = max(self.file_bytes[index], page_up(end))
        return index

    def images_at(self, event: Event, index: int) -> Iterator[Area]:
        """What an exec mapped by itself, as far as faults tell."""
        for n, image in enumerate(self.images.get((event.pid, index), [])):
            if image.file == -1:
                name = f"{event.data.get('path', '?')} #{n}"
                file = self.file("image", name, image.end - image.start)
                yield Area(image.start, image.end, image.prot, file)
            else:
                yield image

    def area_of(self, event: Event) -> Area:
        """What an mmap maps."""
        data, flags = event.data, set(event.data["flags"])
        start, end = data["ret"], data["ret"] + page_up(data["len"])
        offset, file, shared = 0, NO_FILE, "shared" in flags
        if "fd" in data and "anonymous" not in flags:
            offset = page_down(data["off"])
            file = self.file(str(data["fd"]), str(data.get("path", "")), offset + end - start)
        elif shared:
            file = self.file("shared anonymous", f"line {event.line}", end - start)
        return Area(start, end, prot_bits(data["prot"]), file, offset, shared)

    def protect(self, space: int, start: int, end: int, prot: int) -> list[Area]:
        """Notes an mprotect; memory that only exec can have mapped is mapped first. The areas before it."""
        if self.spaces[space].holes(start, end):
            self.replaced["mprotect of memory that exec mapped: that is mapped first"] += 1
            self.fill(space, start, end, READ | WRITE)
        before = self.spaces[space].inside(start, end)
        for part in before:
            self.spaces[space].put(
                Area(part.start, part.end, prot, part.file, part.offset, part.shared)
            )
        return before

    def faulting_area(self, event: Event, space: int) -> Area | None:
        """Where a fault lands; None where it is left out."""
        page, access = page_down(event.data["addr"]), PROT[event.data["acc"]]
        if page < LOWEST:
            self.replaced["faults of a null pointer, left out"] += 1
            return None
        area = self.spaces[space].find(page)
        if area is None:
            window = page // FORK_WINDOW * FORK_WINDOW
            self.fill(space, window, window + FORK_WINDOW, READ | WRITE | EXEC)
            self.replaced["faults outside of every known mapping: anonymous memory put there"] += 1
            area = self.spaces[space].find(page)
            assert area is not None
        if not area.prot or (access & (WRITE | EXEC)) & ~area.prot:
            self.replaced["faults that the mapping does not allow, left out"] += 1
            return None
        return area

    def do_vfork(self, event: Event) -> None:
        child = event.data["child"]
        self.space_of[child] = self.space(event.pid)
        self.borrowed.add(child)

    def do_thread(self, _event: Event) -> None:  # noqa: B027
        """Nothing: its own steps say when it runs."""

    def do_munmap(self, event: Event) -> None:
        start, end = range_of(event)
        if end > start:
            self.unmap(self.space(event.pid), start, end, self.MUNMAP)

    def do_brk(self, event: Event) -> None:
        space, top = self.space(event.pid), page_up(event.data["ret"])
        before = self.brk.get(space)
        self.brk[space] = top
        if before is None or top == before:
            return
        if top > before:
            self.map(space, Area(before, top, READ | WRITE), self.BRK)
        else:
            self.unmap(space, top, before, self.BRK)


def range_of(event: Event) -> tuple[int, int]:
    """The pages of a call's range."""
    return page_down(event.data["addr"]), page_up(event.data["addr"] + event.data["len"])
