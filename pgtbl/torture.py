"""The laboratory's other build: real threads, with run-time checks, removable guards, and pauses.

The classes are those of :mod:`pgtbl`, compiled a second time (``pgtbl._torture``): slower, and each lock, table
and read section is watched as it is used. What the two builds make does not mix.

To force a race, hold a thread still at a named point of a protocol::

    from pgtbl import torture

    with torture.Machine(era="v6.6") as machine:
        ...
        with torture.pause("rt_pml") as pause:   # armed
            thread.start()                       # MADV_COLLAPSE, in another thread
            pause.wait(timeout=5)                # it stands there
            mm.touch(address)                    # what the race needs
        thread.join()                            # leaving the block let it go on

The machines of the other architectures (``pgtbl.Machine(arch="s390")``) are checked builds already: ``arch=`` says in whose
a pause is, or a guard taken away.

To show that a line of the code is needed, take it away::

    with torture.without("pmd_recheck"):
        ...                                      # and the race must be seen

To give luck its chance, let many threads do everything at once (``pgtbl torture`` does it from the command line)::

    torture.stress(era="v6.4", arch="s390", seconds=10).complaints
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from pgtbl import _torture
from pgtbl._machine import module_of
from pgtbl._near import known
from pgtbl._stress import Stress, stress
from pgtbl._torture import (
    File,
    Khugepaged,
    Machine,
    Mm,
    MmapLock,
    RcuDomain,
    RwSem,
    SpinLock,
    Vma,
    arch_load,
    build_info,
    guards,
    points,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "File",
    "Khugepaged",
    "Machine",
    "Mm",
    "MmapLock",
    "RcuDomain",
    "RwSem",
    "SpinLock",
    "Stress",
    "Vma",
    "arch_load",
    "build_info",
    "guards",
    "guards_removed",
    "pause",
    "points",
    "release_all",
    "stress",
    "without",
]

guards_removed = _torture.guards_removed
release_all = _torture.points_release_all

_guards_lock = threading.Lock()
_guards_count: dict[tuple[str, str], int] = {}


class without:
    """Takes guards away for a block, in every machine of the process.

    names: as :func:`guards` lists them; an unknown one raises ValueError, which tells the nearest. arch: in the machines of
    which architecture. Blocks nest. No other thread may be
    inside of the laboratory as the block is entered or left.
    """

    def __init__(self, *names: str, arch: str = "x86-64") -> None:
        self._build = module_of(arch, checked=True)
        self._arch = arch
        allowed = [str(row["name"]) for row in guards()]
        for name in names:
            known(name, "guard", allowed)
        if not names:
            raise ValueError("without() needs the name of at least one guard")
        self.names = names

    def __enter__(self) -> Self:
        with _guards_lock:
            for name in self.names:
                key = (self._arch, name)
                _guards_count[key] = _guards_count.get(key, 0) + 1
                self._build.set_guard(name, False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _guards_lock:
            for name in self.names:
                key = (self._arch, name)
                _guards_count[key] -= 1
                if _guards_count[key] == 0:
                    self._build.set_guard(name, True)

    def __repr__(self) -> str:
        return f"without({', '.join(map(repr, self.names))})"


class pause:
    """Holds threads still at a named point of a protocol. Armed from the moment it is made.

    point: as :func:`points` lists them; an unknown one raises ValueError, which tells the nearest.
    arrivals: how many threads are to stop there.
    skip: how many may pass before.
    arch: on the machines of which architecture.

    Two pauses at one point at a time do not work. The end of a ``with`` block, or :meth:`release`, lets the
    threads go on; a machine can not be closed while one stands still.
    """

    def __init__(
        self, point: str, arrivals: int = 1, skip: int = 0, *, arch: str = "x86-64"
    ) -> None:
        self._build = module_of(arch, checked=True)
        self._build.point_arm(known(point, "point", points()), arrivals, skip)
        self.point = point

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until a thread stands there: True, or False when ``timeout`` seconds have passed."""
        waited: bool = self._build.point_wait(self.point, timeout)
        return waited

    @property
    def waiting(self) -> int:
        """How many threads stand there now."""
        count: int = self._build.point_waiting(self.point)
        return count

    def release(self) -> None:
        """Lets the threads go on, and disarms the point. Harmless if repeated."""
        self._build.point_release(self.point)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<pause at {self.point}, {self.waiting} waiting>"
