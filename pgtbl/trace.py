"""Recorded traces of real programs, and reading them.

A trace is a gzipped (or plain) file of JSON lines: first a line that says what was recorded, then one event a
line, in the order in which they happened: the system calls that change an address space, and the page faults.
Times in it are order, not speed. What replay makes of it is in `pgtbl._replay`.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from .workload import EXEC, PAGE, READ, TASK_SIZE, WRITE

__all__ = ["Event", "Trace", "TraceError", "load_trace"]

SHIPPED = "sqlite"


class TraceError(ValueError):
    """A trace cannot be read: the text names the file, the line and the field."""

    def __init__(self, path: str, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}")
        self.path = path
        self.line = line


@dataclass(frozen=True)
class Event:
    """One line of a trace, checked."""

    line: int
    op: str
    pid: int
    thread: bool
    data: dict[str, Any]


@dataclass
class Trace:
    """A trace in memory."""

    name: str
    path: str
    command: str
    kernel: str
    events: list[Event] = field(repr=False)

    @property
    def faults(self) -> int:
        """Page faults that were recorded."""
        return sum(event.op == "fault" for event in self.events)

    @property
    def processes(self) -> int:
        """Processes that were recorded."""
        return len({event.pid for event in self.events})


# ---- reading ---------------------------------------------------------------------------------------

PROT = {"r": READ, "w": WRITE, "x": EXEC}
_INTEGERS = {
    "fault": ("addr",),
    "mmap": ("len", "ret"),
    "munmap": ("addr", "len"),
    "mprotect": ("addr", "len"),
    "madvise": ("addr", "len"),
    "brk": ("addr", "ret"),
    "mremap": ("addr", "len", "new_len", "ret"),
    "fork": ("child",),
    "vfork": ("child",),
}
_BELOW = 1 << 31  # process and thread numbers
_LIMIT = {"ret": TASK_SIZE, "child": _BELOW} | dict.fromkeys(("addr", "len", "new_len"), TASK_SIZE)
_RANGES = {
    "mmap": (("ret", "len"),),
    "munmap": (("addr", "len"),),
    "mprotect": (("addr", "len"),),
    "madvise": (("addr", "len"),),
    "mremap": (("addr", "len"), ("ret", "new_len")),
}
"""What lies in the address space as a whole: each field may be allowed, and their sum not."""


class _Reader:
    def __init__(self, path: str) -> None:
        self.path = path
        self.line = 0

    def fail(self, why: str) -> TraceError:
        return TraceError(self.path, self.line, why)

    def lines(self, file: Any) -> Iterator[dict[str, Any]]:
        try:
            for raw in file:
                self.line += 1
                try:
                    value = json.loads(raw)
                except ValueError as error:
                    raise self.fail(f"this is not JSON ({error})") from None
                except RecursionError:
                    raise self.fail(
                        f"an event is not nested, this begins with {raw.strip()[:40]!r}"
                    ) from None
                if "\\u" in raw:
                    self.printable(value)
                if not isinstance(value, dict):
                    raise self.fail(f"a JSON object is needed, this is {raw.strip()[:40]!r}")
                yield value
        except EOFError:
            self.line += 1
            raise self.fail("the file ends in the middle (truncated gzip data)") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            self.line += 1
            raise self.fail(f"broken gzip data ({error})") from None
        except UnicodeDecodeError as error:
            self.line += 1
            raise self.fail(f"this is not text ({error.reason})") from None

    def printable(self, value: Any) -> None:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise self.fail(f"half of a character ({error.reason})") from None

    def integer(self, data: dict[str, Any], name: str, op: str, low: int, high: int) -> int:
        value = data.get(name)
        if value is None:
            raise self.fail(f'"{op}" has no field "{name}"')
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(f'field "{name}" is {value!r}: an integer is needed')
        if not low <= value < high:
            raise self.fail(f'field "{name}" is {value}: allowed are {low} to {high - 1}')
        return value

    def event(self, data: dict[str, Any]) -> Event:
        op = data.get("op")
        if not isinstance(op, str):
            raise self.fail(f'field "op" is {op!r}: the name of an event is needed')
        pid = self.integer(data, "pid", op, 0, _BELOW)
        if "tid" in data:
            self.integer(data, "tid", op, 0, _BELOW)
        failed = "errno" in data
        if not failed:
            for name in _INTEGERS.get(op, ()):
                self.integer(data, name, op, 0, _LIMIT[name])
            self.special(op, data)
            for at, length in _RANGES.get(op, ()):
                self.inside(data, at, length)
        return Event(self.line, op, pid, "tid" in data, data)

    def inside(self, data: dict[str, Any], at: str, length: str) -> None:
        end = data[at] + data[length]
        if end > TASK_SIZE:
            raise self.fail(
                f'fields "{at}" {data[at]} and "{length}" {data[length]}: the range ends at {end}, '
                f"and the address space at {TASK_SIZE}"
            )

    def special(self, op: str, data: dict[str, Any]) -> None:
        if op == "fault":
            access = data.get("acc")
            if not isinstance(access, str) or access not in PROT:
                raise self.fail(f'field "acc" is {access!r}: allowed are r, w and x')
        elif op in ("mmap", "mprotect"):
            prot = data.get("prot")
            if not isinstance(prot, str) or set(prot) - set(PROT):
                raise self.fail(f'field "prot" is {prot!r}: allowed are the letters r, w and x')
            if op == "mmap":
                flags = data.get("flags")
                if not isinstance(flags, list) or not all(isinstance(f, str) for f in flags):
                    raise self.fail(f'field "flags" is {flags!r}: a list of names is needed')
                self.mapping(data, "len")
                if "fd" in data:
                    self.integer(data, "off", op, 0, 1 << 62)
        elif op == "mremap":
            self.mapping(data, "new_len")
        elif op == "madvise" and not isinstance(data.get("advice"), str):
            raise self.fail(f'field "advice" is {data.get("advice")!r}: a name is needed')

    def mapping(self, data: dict[str, Any], length: str) -> None:
        if data[length] == 0:
            raise self.fail(f'field "{length}" is 0: a mapping has one page at least')
        if data["ret"] % PAGE:
            raise self.fail(f'field "ret" is {data["ret"]}: not the address of a page')


def load_trace(path: str | os.PathLike[str] | None = None, *, faults_needed: bool = True) -> Trace:
    """Reads a trace; None: the one that ships with the package. faults_needed: refuse one without page faults.

    Raises `TraceError` (a ValueError) where the file is broken or truncated, with file, line and field;
    OSError where it cannot be opened.
    """
    if path is None:
        with resources.as_file(
            resources.files("pgtbl") / "data" / f"{SHIPPED}.jsonl.gz"
        ) as shipped:
            return load_trace(shipped, faults_needed=faults_needed)
    name = os.fspath(path)
    reader = _Reader(name)
    with Path(name).open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    with (
        gzip.open(name, "rt", encoding="utf-8")
        if zipped
        else Path(name).open(encoding="utf-8") as file
    ):
        lines = reader.lines(file)
        head = next(lines, None)
        if head is None:
            reader.line = 1
            raise reader.fail("the file is empty")
        if not isinstance(head.get("trace"), str):
            raise reader.fail('the first line of a trace has a field "trace" with its name')
        events = [reader.event(data) for data in lines]
    if faults_needed and not any(event.op == "fault" for event in events):
        raise reader.fail("the trace has no page fault")
    return Trace(head["trace"], name, str(head.get("cmd", "")), str(head.get("kernel", "")), events)
