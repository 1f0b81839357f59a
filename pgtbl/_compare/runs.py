"""Snapshots as runs of pages, and back: the form in which they are recorded.

A run of pages is [page, count, class, order, label, mapcount] (labels ascend by one), a run of contents
[page, count, first word, its step, other words, their step] with steps of 0 or 1.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "data_runs",
    "expand_data",
    "expand_pages",
    "number_labels",
    "page_runs",
    "pages_from",
    "runs_of",
]

Run = list[Any]
Numbers = npt.NDArray[Any]


def _starts(broken: Numbers, count: int) -> list[int]:
    """Where runs begin, and the end behind the last; broken[i]: item i + 1 does not continue item i."""
    if count == 0:
        return [0]
    return [0, *(np.flatnonzero(broken) + 1).tolist(), count]


def runs_of(pages: Numbers) -> list[list[int]]:
    """Ascending page numbers as runs [page, count]."""
    starts = _starts(np.diff(pages) != 1, len(pages))
    return [[int(pages[a]), b - a] for a, b in pairwise(starts)]


def page_runs(
    pages: Numbers, kinds: Numbers, orders: Numbers, labels: Numbers, mapcounts: Numbers
) -> list[Run]:
    """Runs that are maximal for class, order, mapcount and consecutive label (-1: no label)."""
    broken = (
        (np.diff(pages) != 1)
        | (kinds[1:] != kinds[:-1])
        | (np.diff(orders) != 0)
        | (np.diff(mapcounts) != 0)
    )
    both_none = (labels[1:] < 0) & (labels[:-1] < 0)
    broken |= ~both_none & (np.diff(labels) != 1)
    starts = _starts(broken, len(pages))
    return [
        [
            int(pages[a]),
            b - a,
            str(kinds[a]),
            int(orders[a]),
            int(labels[a]) if labels[a] >= 0 else None,
            int(mapcounts[a]),
        ]
        for a, b in pairwise(starts)
    ]


def number_labels(frames: list[Numbers]) -> list[Numbers]:
    """The frames of each process, numbered by first appearance over all of them."""
    if not frames:
        return []
    joined = np.concatenate(frames)
    _, first, inverse = np.unique(joined, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return list(np.split(rank[inverse], np.cumsum([len(f) for f in frames])[:-1]))


def data_runs(pages: Numbers, first: Numbers, rest: Numbers, mixed: Numbers) -> list[Run]:
    """Runs of contents; the words are uint64, `mixed` says where the other words differ."""
    n = len(pages)
    if n == 0:
        return []
    d0 = first[1:] - first[:-1]  # wraps: what is not 0 or 1 ends a run
    d1 = np.where(mixed[1:] & mixed[:-1], np.uint64(0), rest[1:] - rest[:-1])
    joined = (np.diff(pages) == 1) & (d0 <= 1) & (d1 <= 1) & (mixed[1:] == mixed[:-1])
    step = np.where(joined, d0.astype(np.int64) * 2 + d1.astype(np.int64), -1)
    # Where the step changes, or there is none, a run may end.
    changes = [0, *(np.flatnonzero(np.diff(step)) + 1).tolist(), n - 1] if n > 1 else [0]
    runs: list[Run] = []
    at = 0
    for a, b in pairwise(changes):
        # Items a .. b are apart by step[a].
        if step[a] < 0:
            for i in range(max(a, at), b):
                runs.append(_data_run(pages, first, rest, mixed, i, i + 1, -1))
                at = i + 1
        elif at <= b:
            runs.append(_data_run(pages, first, rest, mixed, at, b + 1, int(step[a])))
            at = b + 1
    if at < n:
        runs.append(_data_run(pages, first, rest, mixed, at, n, -1))
    return runs


def _data_run(
    pages: Numbers, first: Numbers, rest: Numbers, mixed: Numbers, a: int, b: int, step: int
) -> Run:
    d0, d1 = (0, 0) if b - a == 1 else divmod(step, 2)
    return [int(pages[a]), b - a, int(first[a]), d0, "mixed" if mixed[a] else int(rest[a]), d1]


def pages_from(snapshot: Numbers, base: int) -> tuple[Numbers, Numbers]:
    """Page numbers and classes of a snapshot of the laboratory."""
    pages = ((snapshot["va"] - np.uint64(base)) >> np.uint64(12)).astype(np.int64)
    kinds = np.char.mod("%c", snapshot["kind"].astype(np.uint32)) if len(snapshot) else _NO_TEXT
    kinds = np.char.add(kinds, np.where(snapshot["huge"] != 0, "h", ""))
    kinds = np.char.add(kinds, np.where(snapshot["uffd_wp"] != 0, "w", ""))
    return pages, kinds


_NO_TEXT = np.array([], dtype="<U1")


def expand_pages(runs: list[Run]) -> dict[int, tuple[str, Any, int | None, Any]]:
    """page -> (class, order, label, mapcount)."""
    return {
        pg + i: (kind, order, None if label is None else label + i, mapcount)
        for pg, n, kind, order, label, mapcount in runs
        for i in range(n)
    }


def expand_data(runs: list[Run]) -> dict[int, tuple[Any, Any]]:
    """page -> (first word, other words)."""
    return {
        pg + i: (
            w0 + i * d0 if isinstance(w0, int) else w0,
            rest + i * d1 if isinstance(rest, int) else rest,
        )
        for pg, n, w0, d0, rest, d1 in runs
        for i in range(n)
    }
