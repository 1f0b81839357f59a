"""Recorded and made-up programs on machines of other sizes: plans are written for x86-64, and fitted to an architecture.

Where addresses are of 64 bits, all of them, and all lengths, are multiplied: by as much as makes a page of x86-64 a whole
number of pages, and its extent of 512 pages a whole number of extents. So what lay in one page still does, and what
was aligned still is. Where addresses are of 32 bits, page and extent are those of x86-64, and the parts of the address space
that are used are moved together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ._machine import module_of
from .workload import EXTENT, PAGE

__all__ = ["Fit"]

_CHUNK = 2 * EXTENT  # what is moved, moves in such parts, so that neighbours stay neighbours


class Fit:
    """How the addresses of a plan become an architecture's.

    ``steps``: arrays with fields addr and length (and to), all that will ever be asked for. ValueError where the program
    needs more address space than there is.
    """

    def __init__(self, arch: str, steps: Iterable[npt.NDArray[Any]]) -> None:
        module = module_of(arch)
        self.arch = arch
        self.page: int = module.PAGE_SIZE
        self.extent: int = module.PMD_SIZE
        self.scale = max(self.page, self.extent * PAGE // EXTENT) // PAGE
        self.moved: npt.NDArray[np.uint64] | None = None
        limit: int = module.TASK_SIZE
        rows = list(steps)
        top = max((int(self._ends(s).max()) for s in rows if len(s)), default=0)
        if top * self.scale <= limit:
            return
        if self.scale != 1:
            raise ValueError(f"the program uses addresses up to {top:#x}, more than {arch} has")
        used = np.unique(np.concatenate([self._chunks(s) for s in rows if len(s)]))
        # What was not next to each other stays apart, by one chunk.
        gaps = np.concatenate([[1], (np.diff(used) > 1).astype(np.uint64)]).cumsum()
        self.moved = used
        self._to = (np.arange(len(used), dtype=np.uint64) + gaps.astype(np.uint64)) * np.uint64(
            _CHUNK
        )
        needed = int(self._to[-1]) + 2 * _CHUNK
        if needed > limit:
            raise ValueError(
                f"the program uses {needed >> 20} MiB of addresses, and {arch} has {limit >> 20} MiB"
            )

    @property
    def extents_each(self) -> int:
        """How many extents of the architecture one of x86-64 becomes."""
        return int(EXTENT * self.scale // self.extent)

    @staticmethod
    def _ends(steps: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        ends = steps["addr"] + np.maximum(steps["length"], 1)
        if "to" in (steps.dtype.names or ()):
            ends = np.maximum(ends, steps["to"])
        found: npt.NDArray[np.uint64] = ends.astype(np.uint64)
        return found

    @staticmethod
    def _chunks(steps: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        pairs = [(steps["addr"], np.maximum(steps["length"], 1))]
        if "to" in (steps.dtype.names or ()):
            pairs.append((steps["to"], np.maximum(steps["length"], 1)))
        found = []
        for start, length in pairs:
            first, last = start // _CHUNK, (start + length - 1) // _CHUNK
            for a, b in {(int(x), int(y)) for x, y in zip(first, last, strict=True)}:
                if b - a > 1 << 16:
                    raise ValueError(f"one mapping of {(b - a) * _CHUNK >> 30} GiB")
                found.append(np.arange(a, b + 1, dtype=np.uint64))
        return np.concatenate(found)

    def addresses(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Where these addresses lie on the architecture; 0, which says none, stays."""
        if self.moved is None:
            return values * np.uint64(self.scale)
        at = np.searchsorted(self.moved, values // np.uint64(_CHUNK))
        at = np.minimum(at, len(self.moved) - 1)
        there: npt.NDArray[np.uint64] = self._to[at] + values % np.uint64(_CHUNK)
        return np.where(values == 0, np.uint64(0), there)

    def address(self, value: int) -> int:
        """The same of one address."""
        return int(self.addresses(np.array([value], dtype=np.uint64))[0])

    def back(self, value: int) -> int:
        """The address of the plan that became this one."""
        if self.moved is None:
            return int(value // self.scale)
        at = max(0, int(np.searchsorted(self._to, np.uint64(value), side="right")) - 1)
        return int(self.moved[at]) * _CHUNK + value - int(self._to[at])

    def steps(self, steps: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The steps, for this architecture."""
        fitted = steps.copy()
        fitted["addr"] = self.addresses(steps["addr"])
        for name in ("length", "offset"):
            fitted[name] = steps[name] * np.uint64(self.scale)
        if "to" in (steps.dtype.names or ()):
            fitted["to"] = self.addresses(steps["to"])
        return fitted

    def size(self, length: int) -> int:
        """A length or a size in bytes."""
        return int(length * self.scale)

    def memory(self, length: int) -> int:
        """Simulated memory that is enough where `length` was: of whole extents."""
        n = max(self.size(length), 32 * self.extent)
        return -(-n // self.extent) * self.extent
