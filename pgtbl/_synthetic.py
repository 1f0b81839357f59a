"""The synthetic workloads: those made for the race, and the named ones of other people's benchmarks."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np

from ._named import NAMED
from .workload import (
    EXTENT,
    GIB,
    OFF_CLOCK,
    OWN_BASE,
    PAGE,
    PAGES_PER_EXTENT,
    READ,
    SHARED,
    SHARED_BASE,
    WRITE,
    Context,
    Kind,
    Op,
    Plan,
    Probes,
    SharedFile,
    Steps,
    Synthetic,
    extents_for,
    map_shared,
    memory_for,
    zipf_pages,
)

__all__ = ["SYNTHETIC", "check_workload", "plan_synthetic", "workload_names"]

_WRITTEN = 512  # pages of a walker's own file that it writes: a fault each
_READ_BLOCKS = 256  # blocks of 16 pages that it reads: a fault and 15 neighbours each


def _synthetic_pages(random: np.random.Generator, zipf: float | None) -> list[tuple[int, bool]]:
    """(page, whether it is written): the order in which a walker touches its range."""
    written, blocks = _WRITTEN, _READ_BLOCKS
    if zipf is None:
        pages = [(int(p), True) for p in range(written)]
        pages += [(written + 16 * int(b), False) for b in range(blocks)]
        return [pages[i] for i in random.permutation(len(pages))]
    draws = 2 * (written + blocks)
    chosen = zipf_pages(random, written + 16 * blocks, draws, zipf)
    return [(int(p), bool(p < written)) for p in chosen]


def _map_last_file(c: Context, base: int, length: int) -> None:
    c.setup.add(
        Op.MAP_FILE,
        Kind.MMAP,
        0,
        base,
        length,
        file=len(c.files) - 1,
        prot=READ | WRITE,
        flags=SHARED,
    )


def _own_range(zipf: float | None) -> Callable[[Context], None]:
    def build(c: Context) -> None:
        length = (_WRITTEN + 16 * _READ_BLOCKS) * PAGE
        for k in range(c.walkers):
            base = OWN_BASE + k * GIB
            c.files.append(length)
            _map_last_file(c, base, length)
            steps = Steps()
            for page, write in _synthetic_pages(c.random, zipf):
                op = Op.TOUCH_WRITE if write else Op.TOUCH_READ
                steps.add(op, Kind.FILE, 0, base + page * PAGE)
            steps.add(Op.DONTNEED, Kind.MADVISE, 0, base, length, flags=OFF_CLOCK)
            c.scripts.append(steps)
            c.pages += length // PAGE

    return build


def _anon_range(zipf: float | None) -> Callable[[Context], None]:
    def build(c: Context) -> None:
        for k in range(c.walkers):
            base = OWN_BASE + k * GIB
            c.setup.add(Op.MAP_ANON, Kind.MMAP, 0, base, 2 * EXTENT, prot=READ | WRITE)
            n = 2 * PAGES_PER_EXTENT
            order = c.random.permutation(n) if zipf is None else zipf_pages(c.random, n, n, zipf)
            steps = Steps()
            for page in order:
                steps.add(Op.TOUCH_WRITE, Kind.ANON, 0, base + int(page) * PAGE)
            steps.add(Op.DONTNEED, Kind.MADVISE, 0, base, 2 * EXTENT, flags=OFF_CLOCK)
            c.scripts.append(steps)
            c.pages += n

    return build


def _same_range(zipf: float | None, other_mm: bool) -> Callable[[Context], None]:
    def build(c: Context) -> None:
        mm = c.other_mm() if other_mm else 0
        for k in range(c.walkers):
            base = SHARED_BASE + c.shared.probes[k] * EXTENT
            n = PAGES_PER_EXTENT
            order = c.random.permutation(n) if zipf is None else zipf_pages(c.random, n, n, zipf)
            steps = Steps()
            for page in order:
                steps.add(Op.TOUCH_WRITE, Kind.SAME_VMA, mm, base + int(page) * PAGE)
            steps.add(Op.DONTNEED, Kind.MADVISE, mm, base, EXTENT, flags=OFF_CLOCK)
            c.scripts.append(steps)

    return build


_ALIASED = 64  # pages that are mapped twice, of each walker


def _aliases(c: Context) -> None:
    for k in range(c.walkers):
        length = EXTENT
        c.files.append(length)
        bases = [OWN_BASE + k * GIB + i * 2 * EXTENT for i in range(2)]
        for base in bases:
            _map_last_file(c, base, length)
        steps = Steps()
        for page in c.random.permutation(_ALIASED):
            for base in bases:
                steps.add(Op.TOUCH_WRITE, Kind.FILE, 0, base + int(page) * PAGE)
        for base in bases:
            steps.add(Op.DONTNEED, Kind.MADVISE, 0, base, length, flags=OFF_CLOCK)
        c.scripts.append(steps)
        c.pages += length // PAGE


def _lock_user(which: str) -> Callable[[Context], None]:
    def build(c: Context) -> None:
        for k in range(c.walkers):
            probes = Probes(k, 0, c.shared, c.random)
            probes.set_up(c.setup)
            steps = Steps()
            for _ in range(PAGES_PER_EXTENT):
                getattr(probes, which)(steps)
            probes.forget(steps)
            c.scripts.append(steps)
            c.pages += PAGES_PER_EXTENT

    return build


ZIPF_S = 1.1

SYNTHETIC: dict[str, Synthetic] = {
    "own-range": Synthetic(
        "each walker faults in a file and a VMA of its own, in the mm that is being collapsed",
        (Kind.FILE,),
        _own_range(None),
    ),
    "own-range-zipf": Synthetic(
        f"own-range, pages chosen by a Zipf law (s = {ZIPF_S})", (Kind.FILE,), _own_range(ZIPF_S)
    ),
    "own-range-anon": Synthetic(
        "each walker faults in anonymous memory of its own", (Kind.ANON,), _anon_range(None)
    ),
    "own-range-anon-zipf": Synthetic(
        f"own-range-anon, pages chosen by a Zipf law (s = {ZIPF_S})",
        (Kind.ANON,),
        _anon_range(ZIPF_S),
    ),
    "same-range": Synthetic(
        "walkers fault in the VMA that is being collapsed, in extents that are not",
        (Kind.SAME_VMA,),
        _same_range(None, False),
    ),
    "same-range-zipf": Synthetic(
        f"same-range, pages chosen by a Zipf law (s = {ZIPF_S})",
        (Kind.SAME_VMA,),
        _same_range(ZIPF_S, False),
    ),
    "other-mm": Synthetic(
        "walkers fault in another mm that maps the same file, in extents that are not collapsed",
        (Kind.SAME_VMA,),
        _same_range(None, True),
    ),
    "other-mm-zipf": Synthetic(
        f"other-mm, pages chosen by a Zipf law (s = {ZIPF_S})",
        (Kind.SAME_VMA,),
        _same_range(ZIPF_S, True),
    ),
    "aliases": Synthetic(
        "walkers fault in the same pages by two mappings of one mm (what adjust_pte is for, on arm)",
        (Kind.FILE,),
        _aliases,
    ),
    "populate": Synthetic(
        "walkers call MADV_POPULATE_WRITE on one page (mmap_lock for read)",
        (Kind.POPULATE,),
        _lock_user("populate"),
    ),
    "mincore": Synthetic(
        "walkers call mincore on one page (mmap_lock for read)",
        (Kind.MINCORE,),
        _lock_user("mincore"),
    ),
    "mmap-munmap": Synthetic(
        "walkers map and unmap one page (mmap_lock for write)",
        (Kind.MMAP_MUNMAP,),
        _lock_user("mmap_munmap"),
    ),
    **NAMED,
}


def workload_names() -> tuple[str, ...]:
    """The names that `race(workload=...)` takes."""
    return ("trace", *SYNTHETIC)


def check_workload(name: str) -> str:
    """The name, if there is such a workload; else ValueError, which names the nearest."""
    names = workload_names()
    if name in names:
        return name
    wanted = str(name).lower()
    near = [n for n in names if wanted and wanted in n]
    near += [n for n in difflib.get_close_matches(wanted, names, 4, 0.5) if n not in near]
    if near:
        raise ValueError(
            f"{name!r}: no such workload; nearest: {', '.join(near)} (pgtbl race --help lists all)"
        )
    raise ValueError(f"{name!r}: allowed are {', '.join(names)}")


def plan_synthetic(name: str, *, walkers: int, collapsers: int, mms: int, seed: int) -> Plan:
    """The plan of a synthetic workload. `mms`: other address spaces that map the file."""
    workload = SYNTHETIC[name]
    shared = SharedFile.added(0, collapsers, walkers, extents_for(collapsers))
    context = Context(walkers, shared, 1 + mms, np.random.default_rng([seed, 1]))
    map_shared(context.setup, shared, range(1 + mms))
    workload.build(context)
    return Plan(
        name=name,
        setup=context.setup.array(),
        walkers=[steps.array() for steps in context.scripts],
        files=context.files,
        mms=1 + mms,
        main_mm=0,
        collapse_file=0,
        collapse_mms=list(range(1 + mms)),
        extents=shared.dealt(collapsers),
        primary=workload.primary,
        memory=memory_for(shared, collapsers, 1 + mms, context.pages),
        what=workload.what,
    )
