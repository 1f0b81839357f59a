"""The page faults of a program, by the kernel's tracepoints."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

from ._tracing import TraceInstance

__all__ = ["FaultTracing"]

_EVENTS = (
    "events/exceptions/page_fault_user/enable",
    "events/exceptions/page_fault_kernel/enable",
)
_LINE = re.compile(
    r"-(\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): page_fault_(user|kernel): "
    r"address=(\S+) ip=\S+ error_code=(\S+)"
)
_LOST = re.compile(r"\[LOST (\d+) EVENTS\]")
_PRESENT, _WRITE, _FETCH = 1, 2, 16  # bits of the processor's error code
_TASK_SIZE = 1 << 47
_LOOK_EVERY = 0.05  # seconds


class FaultTracing:
    """Notes the faults of a process and of those that it forks. Where it cannot, `why` says why."""

    def __init__(self) -> None:
        self._instance = TraceInstance(_EVENTS, {"trace_clock": "mono", "buffer_size_kb": "16384"})
        self._parts: list[str] = []
        self.lost = 0

    @property
    def why(self) -> str:
        """Why no faults are noted; "" where they are."""
        return self._instance.why

    def follow(self, pid: int) -> None:
        """Notes the faults of that process from now on, and of those that it forks."""
        self._instance.follow(pid)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """While the program runs: reads what the kernel notes, so that its buffer does not overflow."""
        done = threading.Event()

        def read() -> None:
            while not done.wait(_LOOK_EVERY):
                self._parts.append(self._instance.drain())

        reader = threading.Thread(target=read, daemon=True)
        if self._instance.available:
            reader.start()
        try:
            yield
        finally:
            done.set()
            if self._instance.available:
                reader.join()
                self._parts.append(self._instance.drain())

    def events(self) -> Iterator[dict[str, Any]]:
        """The faults, with "task" and "at" (seconds since the epoch)."""
        to_epoch = time.time() - time.monotonic()
        for line in "".join(self._parts).splitlines():
            match = _LINE.search(line)
            if match is None:
                lost = _LOST.search(line)
                self.lost += int(lost[1]) if lost is not None else 0
                continue
            address, code = int(match[4], 16), int(match[5], 16)
            if address >= _TASK_SIZE:
                continue
            access = "x" if code & _FETCH else "w" if code & _WRITE else "r"
            event: dict[str, Any] = {"op": "fault", "addr": address - address % 4096, "acc": access}
            if code & _PRESENT:
                event["prot"] = 1
            if match[3] == "kernel":
                event["k"] = 1
            yield {"at": float(match[2]) + to_epoch, "task": int(match[1]), **event}

    def close(self) -> None:
        """Gives back what it holds."""
        self._instance.close()
