"""The figure of a race: how long operations took, and what the collapsers locked, flushed and freed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from ._result import IDLE, LOADED, RaceResult
from ._tally import Tally
from .report import operation_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that people with colour-blindness tell apart (Okabe and Ito).
COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#000000")

LEDGER = (
    ("mmap_lock\nread", ("mmap_lock.read",)),
    ("mmap_lock\nwrite", ("mmap_lock.write",)),
    ("write tries\nfailed", ("mmap_lock.write.failed",)),
    ("VMA\nlocks", ("vma_lock.read", "vma_lock.write")),
    ("i_mmap\nwrite", ("i_mmap.write",)),
    ("i_mmap\nread", ("i_mmap.read",)),
    ("ptl", ("ptl",)),
    ("pml", ("pml",)),
    ("TLB\nflushes", ("tlb.flush",)),
    ("IPIs", ("ipi",)),
    ("tables freed\nat once", ("table.pte.freed_at_once",)),
    ("tables\nto RCU", ("table.pte.deferred",)),
)


def _survival(ns: Tally) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Latency and the share of operations that took longer, thinned to what a line can show."""
    n = len(ns)
    # Ranks from the longest, evenly on the log axis: the tail keeps every sample.
    rank = np.unique(np.geomspace(1, n, 1500).astype(int))[::-1]
    return ns.at(n - rank), rank / n


def _distributions(axes: Axes, result: RaceResult) -> None:
    for colour, (name, era) in zip(COLOURS, result.eras.items(), strict=False):
        for window, style in ((LOADED, "-"), (IDLE, "--")):
            ns = era.rounds_of(window).pooled
            if len(ns) == 0:
                continue
            label = name if window == LOADED else f"{name}, collapsers idle"
            x, y = _survival(ns)
            width = 1.8 if window == LOADED else 1.0
            axes.plot(x / 1e3, y, style, color=colour, label=label, linewidth=width)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("latency from the moment due (us)")
    axes.set_ylabel(f"share of {operation_name(result)}s that took longer")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    for share, text in ((0.5, "p50"), (0.1, "p90"), (0.01, "p99"), (0.001, "p99.9")):
        axes.axhline(share, color="#999999", linewidth=0.5, linestyle=":")
        axes.annotate(
            text,
            (1, share),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color="#666666",
        )
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    axes.set_title("Latency under load and idle", fontsize=10, loc="left")


def _ledger(axes: Axes, result: RaceResult) -> None:
    rows = [
        (label, names)
        for label, names in LEDGER
        if any(sum(era.ledger_collapse[n] for n in names) for era in result.eras.values())
    ]
    height = 0.8 / max(1, len(result.eras))
    for i, (colour, (name, era)) in enumerate(zip(COLOURS, result.eras.items(), strict=False)):
        per = [
            sum(era.ledger_collapse[n] for n in names) / max(1, era.collapses) for _, names in rows
        ]
        place = np.arange(len(rows)) + (i - (len(result.eras) - 1) / 2) * height
        axes.barh(place, per, height * 0.92, color=colour, label=name)
        for y, value in zip(place, per, strict=True):
            text = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
            axes.annotate(
                text,
                (value, y),
                xytext=(2, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
            )
    axes.set_yticks(np.arange(len(rows)), [label for label, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xlim(0, axes.get_xlim()[1] * 4)
    axes.set_xlabel("per collapse (log above 1)")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title("What the collapsers did", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def race_figure(result: RaceResult) -> Figure:
    """Two panels side by side; no pyplot, so no global state and no display is needed."""
    figure = Figure(figsize=(11.5, 6.2), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2)
    _distributions(left, result)
    _ledger(right, result)
    w = result.workload
    title = (w["trace"] and f"trace {w['trace']}") or w["name"]
    noisy = "; the computer was too noisy for a claim" if result.noise.noisy else ""
    figure.suptitle(
        f"pgtbl race: {title}, {w['walkers']} walker(s), {w['collapsers']} collapser(s), "
        f"{result.rounds} rounds{noisy}",
        fontsize=11,
    )
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure, in the format that the suffix names."""
    name = os.fspath(path)
    kind = Path(name).suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"{name!r}: the suffix must be .png, .svg or .pdf")
    figure.savefig(name, format=kind)
