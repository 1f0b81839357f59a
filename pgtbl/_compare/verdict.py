"""Two outcomes held against each other, field by field.

core: return values, errno, faults, mappings, page identity, contents, page tables. detail: core, and folio order,
map counts, fault counts, smaps. mechanism: detail, and how often mmap_lock was taken for write, and what the collapse
scans found, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from .language import Step
from .runs import expand_data, expand_pages

__all__ = ["Difference", "Level", "compare_results"]

Result = dict[str, Any]
_MISSING = "(absent)"
_SHOWN_PAGES = 2


class Level(IntEnum):
    """What a difference touches; each level includes those above it."""

    core = 0
    detail = 1
    mechanism = 2


@dataclass(frozen=True)
class Difference:
    """One field of one step in which two outcomes differ."""

    step: int
    op: str
    level: Level
    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return (
            f"step {self.step} {self.op}, {self.field} ({self.level.name}): "
            f"{_short(self.expected)} against {_short(self.found)}"
        )


def _short(value: Any, most: int = 100) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


Found = Iterator[tuple[Level, str, Any, Any]]


def compare_results(
    steps: list[Step], expected: list[Result], found: list[Result]
) -> list[Difference]:
    """Every difference, by step. Lists of other lengths, and keys that one side has alone, are differences."""
    differences = []
    for i, step in enumerate(steps):
        a = expected[i] if i < len(expected) else None
        b = found[i] if i < len(found) else None
        if a is not None and a == b:
            continue
        if a is None or b is None:
            differences.append(
                Difference(i, step["op"], Level.core, "result", a or _MISSING, b or _MISSING)
            )
            continue
        for level, field, x, y in _compare(step["op"], a, b):
            differences.append(Difference(i, step["op"], level, field, x, y))
    return differences


def _compare(op: str, a: Result, b: Result) -> Found:
    if "err" in a or "err" in b:
        yield from _plain(Level.core, "", a, b)
    elif op == "snap":
        yield from _snaps(a, b)
    elif op == "filecache":
        yield from _caches(a, b)
    else:
        yield from _calls(a, b)


def _plain(level: Level, prefix: str, a: Result, b: Result) -> Found:
    for key in sorted({*a, *b}):
        x, y = a.get(key, _MISSING), b.get(key, _MISSING)
        if x != y:
            yield level, prefix + key, x, y


_NOT_CORE = ("minflt", "lk", "scan", "retries")


def _calls(a: Result, b: Result) -> Found:
    yield from _plain(
        Level.core,
        "",
        {k: v for k, v in a.items() if k not in _NOT_CORE},
        {k: v for k, v in b.items() if k not in _NOT_CORE},
    )
    x, y = a.get("minflt", _MISSING), b.get("minflt", _MISSING)
    if x != y:
        yield Level.detail, "minflt", x, y
    writes_a, writes_b = (r.get("lk", [0, 0])[1] for r in (a, b))
    if writes_a != writes_b:
        yield Level.mechanism, "mmap_lock writes", writes_a, writes_b
    scan_a, scan_b = (r.get("scan", []) for r in (a, b))
    if scan_a != scan_b:
        yield Level.mechanism, "scan", scan_a, scan_b


# ---- folios in the page cache ------------------------------------------------------------------------


def _caches(a: Result, b: Result) -> Found:
    for name in sorted({*a, *b}):
        if name not in a or name not in b:
            yield Level.core, name, a.get(name, _MISSING), b.get(name, _MISSING)
            continue
        orders = [
            {pg + i: order for pg, n, order in side[name] for i in range(n)} for side in (a, b)
        ]
        if orders[0] == orders[1]:
            continue
        huge = [sorted(p for p, order in side.items() if order == 9) for side in orders]
        level = Level.core if huge[0] != huge[1] else Level.detail
        yield level, f"{name} folio order", *_first_pages(*orders)


# ---- snapshots ---------------------------------------------------------------------------------------


def _snaps(a: Result, b: Result) -> Found:
    procs_a, procs_b = a.get("procs", {}), b.get("procs", {})
    if list(procs_a) != list(procs_b):
        yield Level.core, "procs", list(procs_a), list(procs_b)
    labels: tuple[dict[int, int], dict[int, int]] = {}, {}
    for name in procs_a:
        if name in procs_b:
            yield from _processes(name, procs_a[name], procs_b[name], labels)
    files_a, files_b = a.get("files", {}), b.get("files", {})
    if sorted(files_a) != sorted(files_b):
        yield Level.core, "files", sorted(files_a), sorted(files_b)
    for name in files_a:
        if name in files_b:
            yield from _files(name, files_a[name], files_b[name])
    yield from _plain(Level.core, "", _without(a, "procs", "files"), _without(b, "procs", "files"))


def _without(x: Result, *keys: str) -> Result:
    return {k: v for k, v in x.items() if k not in keys}


def _processes(
    name: str, a: Result, b: Result, labels: tuple[dict[int, int], dict[int, int]]
) -> Found:
    pages = [expand_pages(side["pages"]) for side in (a, b)]
    # Labels say which pages are the same; their numbers mean nothing: numbered anew on both sides.
    same = [
        {
            pg: (kind, None if label is None else known.setdefault(label, len(known)))
            for pg, (kind, _order, label, _mapcount) in sorted(side.items())
        }
        for side, known in zip(pages, labels, strict=True)
    ]
    if same[0] != same[1]:
        yield Level.core, f"{name} pages", *_first_pages(*same)
    shape = [{pg: (page[1], page[3]) for pg, page in side.items()} for side in pages]
    if shape[0] != shape[1]:
        common = shape[0].keys() & shape[1].keys()
        left, right = ({pg: side[pg] for pg in sorted(common)} for side in shape)
        if left != right:
            yield Level.detail, f"{name} order and mapcount", *_first_pages(left, right)
    contents = [expand_data(side["data"]) for side in (a, b)]
    if contents[0] != contents[1]:
        yield Level.core, f"{name} data", *_first_pages(*contents)
    yield from _vmas(name, a["vmas"], b["vmas"])
    rest = "pages", "data", "vmas", "rss_shmem"
    yield from _plain(Level.core, f"{name} ", _without(a, *rest), _without(b, *rest))
    x, y = a.get("rss_shmem", _MISSING), b.get("rss_shmem", _MISSING)
    if x != y:
        yield Level.detail, f"{name} rss_shmem", x, y


def _vmas(name: str, a: list[Result], b: list[Result]) -> Found:
    core = [[_without(vma, "sm", "flags") for vma in side] for side in (a, b)]
    if core[0] != core[1]:
        yield Level.core, f"{name} vmas", *_first_items(*core)
        return
    for x, y in zip(a, b, strict=True):
        place = f"{name} vma {x['pg']}"
        if x.get("flags", _MISSING) != y.get("flags", _MISSING):
            yield (
                Level.detail,
                f"{place} flags",
                x.get("flags", _MISSING),
                y.get("flags", _MISSING),
            )
        if "sm" not in x or "sm" not in y:
            if ("sm" in x) != ("sm" in y):
                yield Level.detail, f"{place} smaps", x.get("sm", _MISSING), y.get("sm", _MISSING)
            continue
        yield from _plain(Level.detail, f"{place} smaps ", x["sm"], y["sm"])


def _files(name: str, a: Result, b: Result) -> Found:
    contents = [expand_data(side["data"]) for side in (a, b)]
    if contents[0] != contents[1]:
        yield Level.core, f"{name} data", *_first_pages(*contents)
    present = [{pg + i for pg, n in side.get("present", []) for i in range(n)} for side in (a, b)]
    if present[0] != present[1] or ("present" in a) != ("present" in b):
        yield Level.core, f"{name} present", a.get("present", _MISSING), b.get("present", _MISSING)
    rest = "data", "present"
    yield from _plain(Level.core, f"{name} ", _without(a, *rest), _without(b, *rest))


def _first_pages(a: dict[int, Any], b: dict[int, Any]) -> tuple[Any, Any]:
    """The first pages at which the two differ."""
    different = [pg for pg in sorted({*a, *b}) if a.get(pg) != b.get(pg)]
    first = different[:_SHOWN_PAGES]
    left: dict[Any, Any] = {pg: a.get(pg) for pg in first}
    right: dict[Any, Any] = {pg: b.get(pg) for pg in first}
    if len(different) > _SHOWN_PAGES:
        left["pages that differ"] = right["pages that differ"] = len(different)
    return left, right


def _first_items(a: list[Any], b: list[Any]) -> tuple[Any, Any]:
    if len(a) != len(b):
        return [f"{len(a)} in all", *[x for x in a if x not in b][:2]], [
            f"{len(b)} in all",
            *[x for x in b if x not in a][:2],
        ]
    for x, y in zip(a, b, strict=True):
        if x != y:
            return x, y
    return a, b
