"""Benchmarks of others as workloads of the race: will-it-scale, mapbench, and the set of CortenMM.

Each does what its original does, as a script that walkers repeat: addresses are fixed (a race is repeatable), files are shared memory,
regions of 128 MiB are 4 or 8 MiB. What prepares an operation, or takes back what it did, is off the clock: it takes
its locks all the same. All walkers are threads of one address space, in which the collapsers collapse beside them.
"""

from __future__ import annotations

from collections.abc import Callable

from .workload import (
    EXTENT,
    GIB,
    NO_FILE,
    OFF_CLOCK,
    OWN_BASE,
    PAGE,
    PAGES_PER_EXTENT,
    READ,
    SHARED,
    WRITE,
    Context,
    Kind,
    Op,
    Steps,
    Synthetic,
)

__all__ = ["NAMED"]

Build = Callable[[Context], None]

_FAULTED = 2048  # pages that page_fault* touches between mmap and munmap; 32,768 in the original
_FLUSHED = 1024  # pages that tlb_flush1 and 3 go through; 32,768 in the original
_UNTOUCHED = 128 << 20  # bytes that mmap1 and 2 map


def _base(walker: int) -> int:
    return OWN_BASE + walker * GIB


def _map(steps: Steps, addr: int, pages: int, file: int = NO_FILE, flags: int = 0) -> None:
    """mmap of a file, or of anonymous memory; off the clock."""
    op = Op.MAP_ANON if file == NO_FILE else Op.MAP_FILE
    steps.add(
        op, Kind.MMAP, 0, addr, pages * PAGE, file=file, prot=READ | WRITE, flags=flags | OFF_CLOCK
    )


def _unmap(steps: Steps, addr: int, pages: int) -> None:
    steps.add(Op.UNMAP, Kind.MUNMAP, 0, addr, pages * PAGE, flags=OFF_CLOCK)


def _own_file(c: Context, length: int, cached: int = 0) -> int:
    """A file of one walker; `cached`: pages of it that the walker brings in."""
    c.files.append(length)
    c.pages += cached
    return len(c.files) - 1


# ---- will-it-scale -----------------------------------------------------------------------------------


def _page_fault(of_file: bool, flags: int = 0) -> Build:
    def build(c: Context) -> None:
        for k in range(c.walkers):
            steps, base = Steps(), _base(k)
            file = _own_file(c, _FAULTED * PAGE, _FAULTED) if of_file else NO_FILE
            _map(steps, base, _FAULTED, file, flags)
            kind = Kind.FILE if of_file else Kind.ANON
            for page in range(_FAULTED):
                steps.add(Op.TOUCH_WRITE, kind, 0, base + page * PAGE)
            _unmap(steps, base, _FAULTED)
            c.scripts.append(steps)
            c.pages += _FAULTED

    return build


def _mmap(of_file: bool) -> Build:
    def build(c: Context) -> None:
        for k in range(c.walkers):
            steps = Steps()
            file = _own_file(c, _UNTOUCHED) if of_file else NO_FILE
            prot = READ | WRITE
            steps.add(Op.MAP_UNMAP, Kind.MMAP_MUNMAP, 0, _base(k), _UNTOUCHED, file=file, prot=prot)
            c.scripts.append(steps)

    return build


def _tlb_flush(pages: int, of_file: bool, flags: int = 0) -> Build:
    def build(c: Context) -> None:
        for k in range(c.walkers):
            steps, base = Steps(), _base(k)
            file = _own_file(c, pages * PAGE, pages) if of_file else NO_FILE
            _map(steps, base, pages, file, flags)
            kind = Kind.FILE if of_file else Kind.ANON
            for at in range(base, base + pages * PAGE, PAGE):
                steps.add(Op.TOUCH_WRITE, kind, 0, at)
                steps.add(Op.DONTNEED, Kind.MADVISE, 0, at, PAGE)
                steps.add(Op.TOUCH_READ, kind, 0, at)
            _unmap(steps, base, pages)
            c.scripts.append(steps)
            c.pages += pages

    return build


# ---- mapbench ----------------------------------------------------------------------------------------

_APART = 1 << 20  # bytes from one region of mapbench to the next
_ROUNDS = 64  # regions that a walker goes through; more than walkers can be behind each other
_PART = 16  # pages of the table that each walker maps, in the global pattern


def _timed_map(steps: Steps, addr: int, pages: int) -> None:
    steps.add(Op.MAP_ANON, Kind.MMAP, 0, addr, pages * PAGE, prot=READ | WRITE)


def _timed_unmap(steps: Steps, addr: int, pages: int) -> None:
    steps.add(Op.UNMAP, Kind.MUNMAP, 0, addr, pages * PAGE)


def _local(c: Context) -> None:
    for k in range(c.walkers):
        steps = Steps()
        _timed_map(steps, _base(k), 1)
        steps.add(Op.TOUCH_WRITE, Kind.ANON, 0, _base(k))
        _timed_unmap(steps, _base(k), 1)
        c.scripts.append(steps)
        c.pages += 1


def _pipeline(c: Context) -> None:
    for k in range(c.walkers):
        steps, next_one = Steps(), (k + 1) % c.walkers
        for r in range(_ROUNDS):
            mine, other = _base(k) + r * _APART, _base(next_one) + r * _APART
            _timed_map(steps, mine, 1)
            steps.add(Op.TOUCH_WRITE, Kind.ANON, 0, mine)
            steps.add(Op.POST, Kind.MMAP, 0, k, flags=OFF_CLOCK)
            steps.add(Op.MEET, Kind.MMAP, 0, next_one, 1, flags=OFF_CLOCK)
            steps.add(Op.TOUCH_WRITE, Kind.ANON, 0, other)
            _timed_unmap(steps, other, 1)
        c.scripts.append(steps)
        c.pages += _ROUNDS


def _global(c: Context) -> None:
    everybody = 0  # the meeting point

    def barrier(steps: Steps) -> None:
        steps.add(Op.POST, Kind.MMAP, 0, everybody, flags=OFF_CLOCK)
        steps.add(Op.MEET, Kind.MMAP, 0, everybody, c.walkers, flags=OFF_CLOCK)

    for k in range(c.walkers):
        steps, part = Steps(), OWN_BASE + k * _PART * PAGE
        for _ in range(_ROUNDS // 8):
            _timed_map(steps, part, _PART)  # over the last round's
            barrier(steps)
            drawn = c.random.integers(c.walkers * _PART, size=c.walkers * _PART)
            for page in dict.fromkeys(drawn.tolist()):
                steps.add(Op.TOUCH_WRITE, Kind.ANON, 0, OWN_BASE + page * PAGE)
            barrier(steps)
        c.scripts.append(steps)
        c.pages += 2 * _PART


# ---- CortenMM ----------------------------------------------------------------------------------------

_MMAP_PAGES = 4  # of each mmap that nothing is touched in


def _dealt(c: Context, pages: int, high: bool) -> list[list[int]]:
    """For each walker the places of its requests of `pages` pages: one extent's worth.

    Low contention: an extent (so a table) of its own, from front to back. High: all walkers' requests are drawn at random from the same
    extents, so that neighbours in a table, and in a VMA, belong to others.
    """
    each = PAGES_PER_EXTENT // pages
    if not high:
        return [[_base(k) + i * pages * PAGE for i in range(each)] for k in range(c.walkers)]
    order = c.random.permutation(c.walkers * each).reshape(c.walkers, each)
    return [[OWN_BASE + i * pages * PAGE for i in row] for row in order.tolist()]


def _maps(fault: bool) -> Callable[[bool], Build]:
    """mmap and mmap_pf: what is measured makes the mapping."""
    pages = 1 if fault else _MMAP_PAGES

    def contended(high: bool) -> Build:
        def build(c: Context) -> None:
            for places in _dealt(c, pages, high):
                steps = Steps()
                for at in places:
                    _timed_map(steps, at, pages)
                    if fault:
                        steps.add(Op.TOUCH_WRITE, Kind.ANON, 0, at)
                for at in places:
                    _unmap(steps, at, pages)
                c.scripts.append(steps)
                c.pages += PAGES_PER_EXTENT

        return build

    return contended


def _unmaps(fault: bool) -> Callable[[bool], Build]:
    """munmap and munmap_virt: page by page, of what was mapped, and touched, before."""

    def contended(high: bool) -> Build:
        def build(c: Context) -> None:
            for places in _dealt(c, 1, high):
                steps = Steps()
                for at in places:
                    _map(steps, at, 1)
                    if fault:
                        steps.add(Op.TOUCH_WRITE, Kind.ANON, 0, at, flags=OFF_CLOCK)
                for at in places:
                    _timed_unmap(steps, at, 1)
                c.scripts.append(steps)
                c.pages += PAGES_PER_EXTENT

        return build

    return contended


def _faults(high: bool) -> Build:
    """pf: the mapping is there, and one for all walkers where they contend."""

    def build(c: Context) -> None:
        length = c.walkers * EXTENT if high else EXTENT
        starts = [OWN_BASE] if high else [_base(k) for k in range(c.walkers)]
        for start in starts:
            c.setup.add(Op.MAP_ANON, Kind.MMAP, 0, start, length, prot=READ | WRITE)
        for k, places in enumerate(_dealt(c, 1, high)):
            steps = Steps()
            for at in places:
                steps.add(Op.TOUCH_WRITE, Kind.ANON, 0, at)
            start = starts[0 if high else k]
            steps.add(Op.DONTNEED, Kind.MADVISE, 0, start, length, flags=OFF_CLOCK)
            c.scripts.append(steps)
            c.pages += PAGES_PER_EXTENT

    return build


# ---- the table ---------------------------------------------------------------------------------------

_SCALE, _MAPBENCH, _CORTEN = "will-it-scale", "mapbench, RadixVM", "CortenMM"
_CALLS = (Kind.MMAP, Kind.ANON, Kind.MUNMAP)

_CORTEN_SET: dict[str, tuple[str, tuple[Kind, ...], Callable[[bool], Build]]] = {
    "mmap": (f"map {_MMAP_PAGES} pages at a time, untouched", (Kind.MMAP,), _maps(False)),
    "mmap_pf": ("map a page and write to it", (Kind.MMAP, Kind.ANON), _maps(True)),
    "munmap": ("unmap a page that was written to", (Kind.MUNMAP,), _unmaps(True)),
    "munmap_virt": ("unmap a page that was never touched", (Kind.MUNMAP,), _unmaps(False)),
    "pf": ("write to the pages of a mapping that is there", (Kind.ANON,), _faults),
}
_WHERE = {
    "low": "each in an extent of its own",
    "high": "pages of all walkers mixed at random in the same extents",
}

NAMED: dict[str, Synthetic] = {
    "page_fault1": Synthetic(
        "map anonymous memory, write to each page, unmap", (Kind.ANON,), _page_fault(False), _SCALE
    ),
    "page_fault2": Synthetic(
        "page_fault1 of a file mapped privately: each fault copies",
        (Kind.FILE,),
        _page_fault(True),
        _SCALE,
    ),
    "page_fault3": Synthetic(
        "page_fault1 of a file mapped shared", (Kind.FILE,), _page_fault(True, SHARED), _SCALE
    ),
    "mmap1": Synthetic(
        "map and unmap 128 MiB of anonymous memory, untouched",
        (Kind.MMAP_MUNMAP,),
        _mmap(False),
        _SCALE,
    ),
    "mmap2": Synthetic(
        "map and unmap 128 MiB of a file, untouched", (Kind.MMAP_MUNMAP,), _mmap(True), _SCALE
    ),
    "tlb_flush1": Synthetic(
        "write to a page of a file mapped privately, drop it by MADV_DONTNEED, read it again",
        (Kind.MADVISE,),
        _tlb_flush(_FLUSHED, True),
        _SCALE,
    ),
    "tlb_flush2": Synthetic(
        "tlb_flush1 of 1 MiB of anonymous memory", (Kind.MADVISE,), _tlb_flush(256, False), _SCALE
    ),
    "tlb_flush3": Synthetic(
        "tlb_flush1 of a file mapped shared",
        (Kind.MADVISE,),
        _tlb_flush(_FLUSHED, True, SHARED),
        _SCALE,
    ),
    "mapbench-local": Synthetic(
        "map a page, write to it, unmap it: each walker its own", _CALLS, _local, _MAPBENCH
    ),
    "mapbench-pipeline": Synthetic(
        "map a page and write to it; the walker before writes to it, too, and unmaps it",
        _CALLS,
        _pipeline,
        _MAPBENCH,
    ),
    "mapbench-global": Synthetic(
        f"each walker maps {_PART} pages of one table; all write to all of it, at random",
        (Kind.ANON,),
        _global,
        _MAPBENCH,
    ),
    **{
        f"cortenmm-{name}-{level}": Synthetic(
            f"{what}, {where}", kinds, build(level == "high"), _CORTEN
        )
        for name, (what, kinds, build) in _CORTEN_SET.items()
        for level, where in _WHERE.items()
    },
}
"""By name: what `pgtbl race --workload NAME` runs."""
