"""What the kernel's tracepoints say of one process: mmap_lock acquisitions, and what its collapses found."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

__all__ = ["TraceInstance", "Tracing"]

_MOUNTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_EVENTS = ("events/huge_memory/enable", "events/mmap_lock/mmap_lock_acquire_returned/enable")
# "task-PID [cpu] flags time: event: field=value, ..."
_LINE = re.compile(r"-(\d+)\s+\[\d+\]\s+\S+\s+[\d.]+: (\w+): (.*)")
_FIELD = re.compile(r"(\w+)=([^\s,]*)")

# Tracepoint -> what a result calls it, the field with the result, and the fields with numbers.
_SCANS = {
    "mm_khugepaged_scan_file": ("scan_file", "result", ("present", "swap")),
    "mm_khugepaged_collapse_file": ("collapse_file", "result", ()),
    "mm_khugepaged_scan_pmd": ("scan_pmd", "status", ("none_or_zero", "unmapped")),
    "mm_collapse_huge_page": ("collapse_anon", "status", ("isolated",)),
    "mm_collapse_huge_page_isolate": ("isolate", "status", ("none_or_zero",)),
    "mm_collapse_huge_page_swapin": ("swapin", "", ()),
}


class TraceInstance:
    """An instance of tracefs of our own. `available` is False, with the reason in `why`, where there is none."""

    def __init__(self, events: tuple[str, ...], options: dict[str, str] | None = None) -> None:
        self.why = "tracefs is not mounted on /sys/kernel/tracing"
        self._events = events
        self._folder: Path | None = None
        self._pipe = -1
        self._on = False
        for mount in _MOUNTS:
            if (Path(mount) / "instances").is_dir():
                name = f"pgtbl.{os.getpid()}.{id(self):x}"
                self._make(Path(mount) / "instances" / name, options or {})
                return

    @property
    def available(self) -> bool:
        """Whether anything can be traced."""
        return self._folder is not None

    def _make(self, folder: Path, options: dict[str, str]) -> None:
        try:
            folder.mkdir()
            self._folder = folder
            self._write("options/event-fork", "1")
            self._write("set_event_pid", "")
            for name, value in options.items():
                self._write(name, value)
            for event in self._events:
                if not (folder / event).exists():
                    raise OSError(f"the kernel has no {event}")
            self._pipe = os.open(folder / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
            self.why = ""
        except OSError as error:
            self.why = f"tracefs cannot be used: {error}"
            self.close()

    def _write(self, name: str, text: str, append: bool = False) -> None:
        assert self._folder is not None
        # Not open(..., "a"), which seeks to the end: these files cannot.
        how = os.O_APPEND if append else os.O_TRUNC
        file = os.open(self._folder / name, os.O_WRONLY | how)
        try:
            if text:
                os.write(file, text.encode())
        finally:
            os.close(file)

    def follow(self, pid: int) -> None:
        """Traces that process, and those that it forks."""
        if self._folder is None:
            return
        self._write("set_event_pid", f"{pid}\n", append=True)
        if not self._on:
            for event in self._events:
                self._write(event, "1")
            self._on = True

    def forget_all(self) -> None:
        """Traces nobody any more."""
        if self._folder is None:
            return
        if self._on:
            for event in self._events:
                self._write(event, "0")
            self._on = False
        self._write("set_event_pid", "")
        self.drain()

    def drain(self) -> str:
        """What was traced since; it is gone then."""
        if self._pipe < 0:
            return ""
        parts = []
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._pipe, 1 << 16):
                parts.append(part)
        return b"".join(parts).decode(errors="replace")

    def close(self) -> None:
        """Takes the instance away."""
        if self._pipe >= 0:
            with contextlib.suppress(OSError):
                self.forget_all()
            os.close(self._pipe)
            self._pipe = -1
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            self._folder = None


class Tracing(TraceInstance):
    """mmap_lock acquisitions and collapse scans of the processes that are followed."""

    def __init__(self) -> None:
        super().__init__(_EVENTS)

    def take(self, pid: int) -> tuple[list[int], list[list[Any]]]:
        """mmap_lock acquisitions [read, write] of the process since drain(), and its scans."""
        locks, scans = [0, 0], []
        for line in self.drain().splitlines():
            match = _LINE.search(line)
            if match is None or int(match[1]) != pid:
                continue
            fields = dict(_FIELD.findall(match[3]))
            if match[2] == "mmap_lock_acquire_returned":
                locks[fields.get("write") == "true"] += fields.get("success", "true") == "true"
            elif match[2] in _SCANS:
                name, result, numbers = _SCANS[match[2]]
                scans.append(
                    [
                        name,
                        *([fields[result]] if result else []),
                        *(int(fields[n]) for n in numbers),
                    ]
                )
        return locks, scans
