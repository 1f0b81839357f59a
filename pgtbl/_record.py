"""`pgtbl record`: a trace of a program that runs here, by strace, and by the page-fault tracepoints where tracefs is mounted."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .host._faults import FaultTracing

__all__ = ["RecordError", "parse_strace", "record"]

_CALLS = (
    "mmap,munmap,mprotect,madvise,brk,mremap,mlock,mlock2,munlock,fallocate,ftruncate,memfd_create,"
    "shmat,shmdt,mbind,fork,vfork,clone,clone3,execve,execveat,exit,exit_group"
)
_LINE = re.compile(r"^(\d+)\s+(\d+)\.(\d+)\s+(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\)\s*=\s*(0x[0-9a-f]+|-?\d+|\?)(?:\s+(E[A-Z0-9]+))?.*$", re.DOTALL)
_UNFINISHED = re.compile(r"^(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
_GONE = re.compile(r"^\+\+\+ (exited|killed)")


class RecordError(RuntimeError):
    """A program cannot be recorded: says what is missing, or what went wrong."""


def record(
    command: Sequence[str],
    path: str | os.PathLike[str],
    *,
    name: str = "",
) -> dict[str, Any]:
    """Runs a command under strace, and writes the trace of its memory calls and page faults.

    Page faults are recorded where tracefs is mounted and may be used (root); without them the trace has the calls alone,
    and is good for `replay`, not for `race`. Returns the head of the trace. RecordError where strace is missing (it says
    what to install), or cannot trace; OSError where the command or the file cannot be opened.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise RecordError(
            "strace is needed: install the package `strace` (apt install strace, dnf install strace, apk add strace)"
        )
    if not command:
        raise RecordError("a command is needed, such as: pgtbl record -o t.jsonl.gz -- ls -l")
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(2, "there is no such command", command[0])
    faults = FaultTracing()
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "strace"
            options = ["-f", "-ttt", "-y", "-X", "verbose", "-e", f"trace={_CALLS}", "-o", str(log)]
            started = time.time()
            code = _run([strace, *options, "--", *command], faults)
            wall = time.time() - started
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    finally:
        faults.close()
    if not lines:
        raise RecordError(
            f"strace traced nothing (it ended with status {code}): may it trace here?"
        )
    events = _merged(list(parse_strace(lines)), faults)
    head = {
        "trace": name or Path(command[0]).name,
        "cmd": " ".join(command),
        "kernel": platform.release(),
        "wall_s": round(wall, 3),
        "rc": code,
        "lost": faults.lost,
    }
    _write(path, head, events)
    return {
        **head,
        "events": len(events),
        "faults": sum(e["op"] == "fault" for e in events),
        "why_no_faults": faults.why,
    }


# Waits for a byte, so that tracing is on before strace begins; then becomes strace.
_START = "import os, sys; os.read(int(sys.argv[1]), 1); os.execv(sys.argv[2], sys.argv[2:])"


def _run(arguments: list[str], faults: FaultTracing) -> int:
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", _START, str(reading), *arguments], pass_fds=[reading]
        )
        faults.follow(child.pid)
        with faults.reading():
            os.write(writing, b".")
            return child.wait()
    finally:
        os.close(reading)
        os.close(writing)


def _write(
    path: str | os.PathLike[str], head: dict[str, Any], events: list[dict[str, Any]]
) -> None:
    def lines() -> Iterator[str]:
        for row in (head, *events):
            yield json.dumps(row, separators=(",", ":")) + "\n"

    if os.fspath(path).endswith(".gz"):
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(lines())
    else:
        with Path(path).open("w", encoding="utf-8") as file:
            file.writelines(lines())


# ---- strace's lines ----------------------------------------------------------------------------------


def parse_strace(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Events of strace's output (-f -ttt -y), in order; "task" is the thread, "at" seconds since the epoch."""
    pending: dict[int, tuple[float, str]] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        task, at, text = int(match[1]), float(f"{match[2]}.{match[3]}"), match[4]
        if _GONE.match(text):
            yield {"at": at, "task": task, "op": "exit"}
            continue
        unfinished = _UNFINISHED.match(text)
        if unfinished is not None:
            # The event happens as it begins; what it gave is known later.
            pending[task] = (at, f"{unfinished[1]}({unfinished[2]}")
            continue
        resumed = _RESUMED.match(text)
        if resumed is not None:
            begun = pending.pop(task, None)
            if begun is None:
                continue
            at, text = begun[0], begun[1] + resumed[2]
        call = _CALL.match(text)
        if call is None or call[3] == "?":
            continue
        event = _event(call[1], _arguments(call[2]), int(call[3], 0), call[4])
        if event is not None:
            yield {"at": at, "task": task, **event}


def _arguments(text: str) -> list[str]:
    """Splits at the commas that stand outside of brackets, quotes and file names."""
    parts, depth, start, quoted = [], 0, 0, False
    for i, c in enumerate(text):
        if c == '"' and text[i - 1 : i] != "\\":
            quoted = not quoted
        if quoted:
            continue
        if c in "([{<":
            depth += 1
        elif c in ")]}" or (c == ">" and depth):
            depth -= 1
        elif c == "," and depth <= 0:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return parts


def _number(text: str) -> int:
    text = text.split("/*")[0].strip()
    return 0 if text == "NULL" else int(text, 0)


def _letters(text: str) -> str:
    return "".join(
        c for c, flag in (("r", "READ"), ("w", "WRITE"), ("x", "EXEC")) if f"PROT_{flag}" in text
    )


def _names(text: str, prefix: str) -> list[str]:
    words = re.findall(r"[A-Z_0-9]+", text)
    return [w.removeprefix(prefix).lower() for w in words if w.startswith(prefix)]


def _event(call: str, a: list[str], ret: int, failed: str | None) -> dict[str, Any] | None:
    maker = _MAKERS.get(call)
    if maker is None:
        return None
    try:
        event = maker(a, ret)
    except (ValueError, IndexError):
        return {"op": call, "args": a, "ret": ret}
    if event is not None and failed:
        event["errno"] = failed
    return event


def _mmap(a: list[str], ret: int) -> dict[str, Any]:
    event: dict[str, Any] = {
        "op": "mmap",
        "addr": _number(a[0]),
        "len": _number(a[1]),
        "prot": _letters(a[2]),
        "flags": _names(a[3], "MAP_"),
        "ret": ret,
    }
    backing = re.match(r"^(\d+)<(.*)>$", a[4], re.DOTALL)
    if backing is not None:
        kind = "file"
        if backing[2].startswith("/memfd:"):
            kind = "memfd"
        elif backing[2].startswith("/dev/shm/"):
            kind = "shmem"
        elif backing[2].startswith("/dev/"):
            kind = "dev"
        event.update(fd=kind, path=backing[2], off=_number(a[5]))
    return event


def _plain(op: str, *fields: str) -> Callable[[list[str], int], dict[str, Any]]:
    def make(a: list[str], ret: int) -> dict[str, Any]:
        return {"op": op, **{f: _number(x) for f, x in zip(fields, a, strict=False)}, "ret": ret}

    return make


def _mprotect(a: list[str], ret: int) -> dict[str, Any]:
    return {
        "op": "mprotect",
        "addr": _number(a[0]),
        "len": _number(a[1]),
        "prot": _letters(a[2]),
        "ret": ret,
    }


def _madvise(a: list[str], ret: int) -> dict[str, Any]:
    (advice,) = _names(a[2], "MADV_") or [a[2]]
    return {
        "op": "madvise",
        "addr": _number(a[0]),
        "len": _number(a[1]),
        "advice": advice.upper(),
        "ret": ret,
    }


def _mremap(a: list[str], ret: int) -> dict[str, Any]:
    return {
        "op": "mremap",
        "addr": _number(a[0]),
        "len": _number(a[1]),
        "new_len": _number(a[2]),
        "flags": _names(a[3], "MREMAP_"),
        "ret": ret,
    }


def _clone(a: list[str], ret: int) -> dict[str, Any]:
    flags = " ".join(a)
    op = "thread" if "CLONE_THREAD" in flags else "vfork" if "CLONE_VFORK" in flags else "fork"
    return {"op": op, "child": ret}


def _exec(a: list[str], ret: int) -> dict[str, Any]:
    return {"op": "exec", "path": a[0].strip('"'), "ret": ret}


_MAKERS: dict[str, Callable[[list[str], int], dict[str, Any] | None]] = {
    "mmap": _mmap,
    "munmap": _plain("munmap", "addr", "len"),
    "mprotect": _mprotect,
    "madvise": _madvise,
    "brk": _plain("brk", "addr"),
    "mremap": _mremap,
    "mlock": _plain("mlock", "addr", "len"),
    "mlock2": _plain("mlock", "addr", "len"),
    "munlock": _plain("munlock", "addr", "len"),
    "ftruncate": lambda a, ret: {"op": "ftruncate", "len": _number(a[1]), "ret": ret},
    "fallocate": lambda a, ret: {
        "op": "fallocate",
        "off": _number(a[2]),
        "len": _number(a[3]),
        "ret": ret,
    },
    "memfd_create": lambda _a, ret: {"op": "memfd_create", "ret": ret},
    "fork": lambda _a, ret: {"op": "fork", "child": ret},
    "vfork": lambda _a, ret: {"op": "vfork", "child": ret},
    "clone": _clone,
    "clone3": _clone,
    "execve": _exec,
    "execveat": lambda a, ret: _exec(a[1:], ret),
    "shmat": lambda a, ret: {"op": "shmat", "args": a, "ret": ret},
    "shmdt": lambda a, ret: {"op": "shmdt", "args": a, "ret": ret},
    "mbind": lambda a, ret: {"op": "mbind", "args": a, "ret": ret},
}


# ---- processes and threads ---------------------------------------------------------------------------


class _Numbers:
    """Tasks of the kernel, as processes and threads numbered by first appearance."""

    def __init__(self) -> None:
        self.process_of: dict[int, int] = {}  # task -> the first task of its process
        self.pids: dict[int, int] = {}
        self.tids: dict[int, dict[int, int]] = {}

    def of(self, task: int) -> dict[str, int]:
        process = self.process_of.setdefault(task, task)
        pid = self.pids.setdefault(process, len(self.pids) + 1)
        threads = self.tids.setdefault(process, {process: 1})
        tid = threads.setdefault(task, len(threads) + 1)
        return {"pid": pid} if tid == 1 else {"pid": pid, "tid": tid}

    def child(self, parent: int, task: int, thread: bool) -> int:
        if thread:
            self.process_of[task] = self.process_of.get(parent, parent)
            return self.of(task).get("tid", 1)
        return self.of(task)["pid"]


def _merged(calls: list[dict[str, Any]], faults: FaultTracing) -> list[dict[str, Any]]:
    """Calls and faults by time, with small numbers instead of the kernel's, from the command's own exec on."""
    numbers = _Numbers()
    events = sorted([*calls, *faults.events()], key=lambda e: e["at"])
    while events and events[0]["op"] != "exec":
        events.pop(0)
    known = {events[0]["task"]} if events else set()
    begin = events[0]["at"] if events else 0.0
    found = []
    for event in events:
        task, at = event.pop("task"), event.pop("at")
        if task not in known:
            continue
        row: dict[str, Any] = {"us": int((at - begin) * 1e6), **numbers.of(task)}
        if event["op"] in ("fork", "vfork", "thread") and "errno" not in event:
            known.add(event["child"])
            event["child"] = numbers.child(task, event["child"], event["op"] == "thread")
        found.append({**row, **event})
    _mark_images(found)
    return found


def _mark_images(events: list[dict[str, Any]]) -> None:
    """Faults outside of every mapping that a call made are of what exec mapped."""
    from ._intervals import _apply, _Model
    from .trace import Event

    models: dict[int, Any] = {}
    for i, row in enumerate(events):
        pid = row["pid"]
        if row["op"] == "fault":
            inside = any(
                x.start <= row["addr"] < x.end for x in models.setdefault(pid, _Model()).intervals
            )
            if not inside:
                row["img"] = 1
        elif "errno" in row:
            continue
        elif row["op"] == "exec":
            models[pid] = _Model()
        elif row["op"] in ("fork", "vfork"):
            parent = models.setdefault(pid, _Model())
            models[row["child"]] = (
                parent if row["op"] == "vfork" else _Model(parent.intervals, parent.brk)
            )
        else:
            _apply(models.setdefault(pid, _Model()), Event(i, row["op"], pid, "tid" in row, row))
