"""What walkers do, as arrays of steps.

A *script* is a NumPy array of `STEP` records that a walker repeats for ever (csrc/lab/script.hpp has the
same layout). A `Plan` is everything that the rounds of a race have in common: scripts, files, address
spaces, and which extents are collapsed. Plans come from `pgtbl._synthetic` (made-up workloads) and from
`pgtbl._replay` (recorded programs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = 4096
EXTENT = 2 << 20
PAGES_PER_EXTENT = EXTENT // PAGE

STEP = np.dtype(
    [
        ("addr", "<u8"),
        ("length", "<u8"),
        ("offset", "<u8"),
        ("mm", "<u2"),
        ("file", "<u2"),
        ("op", "u1"),
        ("kind", "u1"),
        ("prot", "u1"),
        ("flags", "u1"),
    ]
)
"""One step of a script: 32 bytes, as the C++ side has them."""

Script = npt.NDArray[Any]

OFF_CLOCK = 1  # flag of a step: done while the schedule stands still
SHARED = 2  # flag of MAP_FILE: stores reach the file
NO_FILE = 0xFFFF
READ, WRITE, EXEC = 1, 2, 4


class Op(IntEnum):
    """What a step does."""

    TOUCH_READ = 0
    TOUCH_WRITE = 1
    TOUCH_EXEC = 2
    MAP_ANON = 3
    MAP_FILE = 4
    UNMAP = 5
    PROTECT = 6
    DONTNEED = 7
    POPULATE = 8
    MINCORE = 9
    MAP_UNMAP = 10
    POST = 11
    MEET = 12


class Kind(IntEnum):
    """Under which heading a step's latency is filed."""

    ANON = 0
    FILE = 1
    SAME_VMA = 2
    COLLAPSED = 3
    MMAP = 4
    MUNMAP = 5
    MPROTECT = 6
    BRK = 7
    MADVISE = 8
    POPULATE = 9
    MINCORE = 10
    MMAP_MUNMAP = 11


TOUCHES = frozenset({Kind.ANON, Kind.FILE, Kind.SAME_VMA, Kind.COLLAPSED})
"""Kinds whose steps count only where they took a page fault."""

# Where the laboratory puts what no trace knows. Traces that use these addresses are moved.
LAB_START = 0x3000_0000_0000
LAB_END = 0x4000_0000_0000
SHARED_BASE = LAB_START  # the shared file, in every program that maps it
PRIVATE_BASE = 0x3100_0000_0000  # 1 GiB for each walker: what its probes use
OWN_BASE = 0x3200_0000_0000  # 1 GiB for each walker: a file of its own
GIB = 1 << 30
TASK_SIZE = 1 << 47


class Steps:
    """Collects the steps of a script."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int, int, int, int, int, int]] = []

    def add(
        self,
        op: Op,
        kind: Kind,
        mm: int,
        addr: int,
        length: int = 0,
        *,
        offset: int = 0,
        file: int = NO_FILE,
        prot: int = 0,
        flags: int = 0,
    ) -> None:
        self.rows.append((addr, length, offset, mm, file, int(op), int(kind), prot, flags))

    def array(self) -> Script:
        return np.array(self.rows, dtype=STEP)


@dataclass
class Plan:
    """What all rounds of a race share."""

    name: str
    setup: Script
    walkers: list[Script]
    files: list[int]
    """Sizes of the files in bytes."""
    mms: int
    main_mm: int
    collapse_file: int
    collapse_mms: list[int]
    extents: list[list[int]]
    """Extents of the collapse file, a list for each collapser."""
    primary: tuple[Kind, ...]
    """The kinds that the headline figures are made of."""
    memory: int
    """Bytes of simulated memory that are enough."""
    what: str = ""
    notes: list[str] = field(default_factory=list)
    replaced: dict[str, int] = field(default_factory=dict)
    """How often something was replayed in the nearest form, by what it was."""


def zipf_pages(random: np.random.Generator, pages: int, draws: int, s: float) -> npt.NDArray[Any]:
    """Page numbers with probability proportional to rank**-s; which page has which rank is random."""
    weight = np.arange(1, pages + 1, dtype=float) ** -s
    rank = random.choice(pages, size=draws, p=weight / weight.sum())
    return random.permutation(pages)[rank]


def gaps(seed: int, count: int = 1 << 16) -> npt.NDArray[np.float32]:
    """The intervals of a Poisson schedule, in units of their mean: the same for every era and round."""
    values = np.random.default_rng([seed, 0x6A70]).exponential(size=count)
    scaled: npt.NDArray[np.float32] = (values / values.mean()).astype(np.float32)
    return scaled


@dataclass
class SharedFile:
    """The file whose extents are collapsed: the collapsers' extents first, then one for each walker."""

    index: int
    size: int
    collapsed: list[int]
    probes: list[int]

    @staticmethod
    def added(index: int, collapsers: int, walkers: int, extents_each: int) -> SharedFile:
        n = collapsers * extents_each
        return SharedFile(
            index, (n + walkers) * EXTENT, list(range(n)), list(range(n, n + walkers))
        )

    def dealt(self, collapsers: int) -> list[list[int]]:
        return [self.collapsed[k::collapsers] for k in range(collapsers)]


def extents_for(collapsers: int) -> int:
    """How many extents a collapser owns: together more than the eight addresses that v6.4 remembers."""
    return max(2, 12 // max(1, collapsers))


def map_shared(steps: Steps, shared: SharedFile, mms: Sequence[int]) -> None:
    for mm in mms:
        steps.add(
            Op.MAP_FILE,
            Kind.MMAP,
            mm,
            SHARED_BASE,
            shared.size,
            file=shared.index,
            prot=READ | WRITE,
            flags=SHARED,
        )


class Probes:
    """Operations beside a walker's own: what else the series changes, a few of each."""

    def __init__(
        self, walker: int, mm: int, shared: SharedFile, random: np.random.Generator
    ) -> None:
        self.mm = mm
        self.base = PRIVATE_BASE + walker * GIB
        self.extent = SHARED_BASE + shared.probes[walker] * EXTENT
        self.order = random.permutation(PAGES_PER_EXTENT)
        self.same = 0
        self.populated = 0

    def set_up(self, steps: Steps) -> None:
        steps.add(Op.MAP_ANON, Kind.MMAP, self.mm, self.base, EXTENT, prot=READ | WRITE)

    def same_vma(self, steps: Steps) -> None:
        page = int(self.order[self.same % PAGES_PER_EXTENT])
        steps.add(Op.TOUCH_WRITE, Kind.SAME_VMA, self.mm, self.extent + page * PAGE)
        self.same += 1
        if self.same % PAGES_PER_EXTENT == 0:
            self.forget_same(steps)

    def populate(self, steps: Steps) -> None:
        page = int(self.order[self.populated % PAGES_PER_EXTENT])
        steps.add(Op.POPULATE, Kind.POPULATE, self.mm, self.base + page * PAGE, PAGE)
        self.populated += 1
        if self.populated % PAGES_PER_EXTENT == 0:
            self.forget_populated(steps)

    def mincore(self, steps: Steps) -> None:
        steps.add(Op.MINCORE, Kind.MINCORE, self.mm, self.base, PAGE)

    def mmap_munmap(self, steps: Steps) -> None:
        at = self.base + 64 * EXTENT
        steps.add(Op.MAP_UNMAP, Kind.MMAP_MUNMAP, self.mm, at, PAGE, prot=READ | WRITE)

    def forget_same(self, steps: Steps) -> None:
        steps.add(Op.DONTNEED, Kind.MADVISE, self.mm, self.extent, EXTENT, flags=OFF_CLOCK)

    def forget_populated(self, steps: Steps) -> None:
        steps.add(Op.DONTNEED, Kind.MADVISE, self.mm, self.base, EXTENT, flags=OFF_CLOCK)

    def forget(self, steps: Steps) -> None:
        """What a script does before it starts over."""
        if self.same % PAGES_PER_EXTENT:
            self.forget_same(steps)
        if self.populated % PAGES_PER_EXTENT:
            self.forget_populated(steps)
        self.same = self.populated = 0


def memory_for(shared: SharedFile, collapsers: int, mms: int, pages: int) -> int:
    """Bytes of simulated memory for a plan that touches `pages` pages of its own."""
    # A collapse holds an extent twice; what it freed may wait for RCU, or stand broken into single pages.
    collapse = (shared.size // EXTENT + 3 * collapsers + 4) * EXTENT
    tables = mms * (shared.size // EXTENT + 16) * PAGE * 2
    own = pages * PAGE * 5 // 4
    return -(-(collapse + tables + own + (24 << 20)) // (8 << 20)) * (8 << 20)


# ---- synthetic workloads ---------------------------------------------------------------------------


class Context:
    """What the builders of synthetic workloads fill."""

    def __init__(
        self, walkers: int, shared: SharedFile, mms: int, random: np.random.Generator
    ) -> None:
        self.walkers = walkers
        self.shared = shared
        self.mms = mms
        self.random = random
        self.setup = Steps()
        self.files = [shared.size]
        self.scripts: list[Steps] = []
        self.pages = 0

    def other_mm(self) -> int:
        if self.mms < 2:
            raise ValueError(
                "workload 'other-mm' needs another address space that maps the file: mms must be 1 or more"
            )
        return 1


@dataclass(frozen=True)
class Synthetic:
    """A workload that is made up. source: whose benchmark it follows, where it is somebody's."""

    what: str
    primary: tuple[Kind, ...]
    build: Callable[[Context], None]
    source: str = ""
