"""What is mapped after a recording, by the calls that it lists alone: an interval model of address spaces.

It shares nothing with the replay but the events, so that the two can be held against each other. A space is a list of
disjoint intervals; each call cuts out what it changes, and puts in what it makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .trace import Event

__all__ = ["Interval", "final_spaces", "merged"]

_PAGE = 4096


@dataclass(frozen=True)
class Interval:
    """[start, end) with one meaning. backing: (what, name) of a file, or None; offset: of start in it."""

    start: int
    end: int
    prot: frozenset[str]
    shared: bool
    backing: tuple[str, str] | None
    offset: int

    def cut(self, start: int, end: int) -> Interval:
        """The part within [start, end)."""
        low, high = max(self.start, start), min(self.end, end)
        offset = self.offset + low - self.start if self.backing is not None else 0
        return replace(self, start=low, end=high, offset=offset)

    def continues(self, other: Interval) -> bool:
        """Whether it could be one interval with `other`, which ends where it begins."""
        if (other.end, other.prot, other.shared, other.backing) != (
            self.start,
            self.prot,
            self.shared,
            self.backing,
        ):
            return False
        return self.backing is None or other.offset + other.end - other.start == self.offset


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """In order, neighbours that mean the same joined."""
    joined: list[Interval] = []
    for interval in sorted(intervals, key=lambda x: x.start):
        if joined and interval.continues(joined[-1]):
            joined[-1] = replace(joined[-1], end=interval.end)
        else:
            joined.append(interval)
    return joined


class _Model:
    def __init__(self, intervals: Iterable[Interval] = (), brk: int | None = None) -> None:
        self.intervals = list(intervals)
        self.brk = brk

    def take(self, start: int, end: int) -> list[Interval]:
        """Cuts [start, end) out; returns what was there."""
        inside = [x.cut(start, end) for x in self.intervals if x.start < end and x.end > start]
        left: list[Interval] = []
        for x in self.intervals:
            for low, high in ((x.start, min(x.end, start)), (max(x.start, end), x.end)):
                if low < high:
                    left.append(x.cut(low, high))
        self.intervals = left
        return inside

    def put(self, interval: Interval) -> None:
        self.take(interval.start, interval.end)
        self.intervals.append(interval)


def _pages(event: Event, length: str = "len") -> tuple[int, int]:
    start, n = event.data["addr"], event.data[length]
    return start - start % _PAGE, -(-(start + n) // _PAGE) * _PAGE


def _backing(event: Event) -> tuple[tuple[str, str] | None, int]:
    data: dict[str, Any] = event.data
    if "fd" in data and "anonymous" not in data["flags"]:
        return (str(data["fd"]), str(data.get("path", ""))), data["off"] - data["off"] % _PAGE
    if "shared" in data["flags"]:
        return ("shared anonymous", f"line {event.line}"), 0
    return None, 0


def final_spaces(events: Iterable[Event]) -> Iterator[tuple[int, list[Interval]]]:
    """Each address space as it ends, by an exec or at the end: (pid, its intervals, merged)."""
    models: dict[int, _Model] = {}
    lent: set[int] = set()
    for event in events:
        if "errno" in event.data:
            continue
        pid = event.pid
        if event.op == "exec":
            if pid in models and pid not in lent:
                yield pid, merged(models[pid].intervals)
            lent.discard(pid)
            models[pid] = _Model()
        elif event.op == "vfork":
            models[event.data["child"]] = models.setdefault(pid, _Model())
            lent.add(event.data["child"])
        elif event.op == "fork":
            parent = models.setdefault(pid, _Model())
            models[event.data["child"]] = _Model(parent.intervals, parent.brk)
        else:
            _apply(models.setdefault(pid, _Model()), event)
    for pid, model in models.items():
        if pid not in lent:
            yield pid, merged(model.intervals)


def _apply(model: _Model, event: Event) -> None:
    data = event.data
    if event.op == "mmap":
        start, end = data["ret"], data["ret"] + -(-data["len"] // _PAGE) * _PAGE
        backing, offset = _backing(event)
        shared = "shared" in data["flags"]
        model.put(Interval(start, end, frozenset(data["prot"]), shared, backing, offset))
    elif event.op == "munmap":
        model.take(*_pages(event))
    elif event.op == "mprotect":
        for x in model.take(*_pages(event)):
            model.intervals.append(replace(x, prot=frozenset(data["prot"])))
    elif event.op == "brk":
        top = -(-data["ret"] // _PAGE) * _PAGE
        if model.brk is not None and top > model.brk:
            model.put(Interval(model.brk, top, frozenset("rw"), False, None, 0))
        elif model.brk is not None and top < model.brk:
            model.take(top, model.brk)
        model.brk = top
    elif event.op == "mremap":
        start, end = _pages(event)
        moved = model.take(start, end)
        if not moved:
            return
        to, new = data["ret"], -(-data["new_len"] // _PAGE) * _PAGE
        first = moved[0]
        model.put(replace(first, start=to, end=to + new))
