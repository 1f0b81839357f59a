"""The architectures' page tables: what may happen to a page of tables, and what exploration reaches.

:func:`changes` is the table in ``csrc/arch/states.hpp``; :func:`reached` is what the shipped sources do, every interleaving
of pairs of actors. The two are the same, which ``tests/test_arch.py`` checks, and the diagrams in the manual are made of them.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from . import _model
from ._explore import _call, scenarios

__all__ = ["Change", "changes", "names", "reached", "state_name"]


class Change(NamedTuple):
    """One change of a page of tables: what was done, and the states before and after it."""

    operation: str
    before: str
    after: str


# Whose tables are those of another: one table a page, and a head of its own.
_SAME_AS = {"x86-pae": "x86-64", "arm": "x86-64"}


def names() -> list[str]:
    """The architectures, "x86-64" first."""
    return list(_model.states())


def _known(arch: str) -> None:
    known = names()
    if arch in known:
        return
    near = difflib.get_close_matches(arch, known, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise ValueError(f"unknown arch {arch!r}: {hint}")


def state_name(arch: str, state: int) -> str:
    """What a number of the tables in ``csrc/arch/states.hpp`` means.

    On s390 "AA=11 PP=00": which halves (upper, lower) are allocated, and which are pending removal; then what else the
    page is.
    """
    _known(arch)
    if arch == "powerpc":
        return ("freed", "in use", "queued", "in use, Active")[state]
    if arch != "s390":
        return ("live", "queued", "freed")[state]
    name = f"AA={state & 3:02b} PP={state >> 4 & 3:02b}"
    return name + ", Active" * (state >> 8 & 1) + ", listed" * (state >> 9 & 1)


def changes(arch: str) -> list[Change]:
    """Every change that there may be: the model's own table. ValueError for an unknown architecture."""
    _known(arch)
    return [
        Change(operation, state_name(arch, before), state_name(arch, after))
        for operation, before, after in _model.states()[arch]
    ]


def reached(arch: str, *, seconds: float = 60.0) -> set[Change]:
    """Every change that the sources make: all interleavings of the scenarios ``ARCH-states-*``, without reduction.

    ``seconds`` bounds each scenario; ValueError for an unknown architecture, RuntimeError where a bound was reached or an
    invariant broken.
    """
    _known(arch)
    prefix = _SAME_AS.get(arch, arch) + "-states-"
    found: set[Change] = set()
    for row in scenarios():
        name = row["name"]
        if not name.startswith(prefix):
            continue
        # A bound that nothing reaches: every interleaving, and none left out because it commutes with another.
        raw = _call(
            _model.explore,
            name,
            row["eras"][0],
            "sc",
            [],
            engine="exhaustive",
            preemptions=1_000_000,
            seconds=seconds,
            shorten=False,
        )
        if raw["violation"] is not None:
            raise RuntimeError(f"{name}: {raw['violation']['message']}")
        if not raw["complete"]:
            raise RuntimeError(f"{name} was not exhausted in {seconds} seconds")
        for line in raw["reached"]:
            operation, before, after = line.split("|")
            found.add(
                Change(operation, state_name(arch, int(before)), state_name(arch, int(after)))
            )
    return found
