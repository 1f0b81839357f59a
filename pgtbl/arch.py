"""The architectures' page tables: their state machines, what exploration reaches, and real threads on them.

:func:`changes` is the table in ``csrc/arch/states.hpp``; :func:`reached` is what the shipped sources do, every interleaving
of pairs of actors. The two are the same, which ``tests/test_arch.py`` checks, and the diagrams in the manual are made of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from . import _model
from ._core import arch_load, architectures, eras
from ._explore import _call, scenarios

__all__ = [
    "Change",
    "Load",
    "changes",
    "form_of",
    "load",
    "matrix",
    "names",
    "reached",
    "state_machines",
    "state_name",
]


class Change(NamedTuple):
    """One change of state: what was done, and the states before and after it."""

    operation: str
    before: str
    after: str


# Whose tables are those of another: one table a page, and a head of its own.
_SAME_AS = {"x86-pae": "x86-64", "arm": "x86-64"}


def names() -> list[str]:
    """The architectures, "x86-64" first."""
    return list(dict.fromkeys(arch for arch, _ in _model.states()))


def state_machines() -> list[tuple[str, str]]:
    """The state machines, as (architecture, of what): a page of "table"s, x86-pae's PMD "slot", arm's "mapping"."""
    return list(_model.states())


def _known(arch: str, of: str = "table") -> None:
    known = names()
    if arch in known:
        machines = [what for name, what in state_machines() if name == arch]
        if of not in machines:
            raise ValueError(
                f"{arch} has no state machine of={of!r}: it has {', '.join(map(repr, machines))}"
            )
        return
    near = difflib.get_close_matches(arch, known, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise ValueError(f"unknown arch {arch!r}: {hint}")


_STATES = {
    "slot": (
        "none",
        "high half stored",
        "whole",
        "low half cleared",
        "cleared, CPUs not interrupted",
    ),
    "mapping": ("none", "cached, no line", "cached, clean line", "cached, dirty line", "uncached"),
}


def state_name(arch: str, state: int, of: str = "table") -> str:
    """What a number of the tables in ``csrc/arch/states.hpp`` means.

    On s390 "AA=11 PP=00": which halves (upper, lower) are allocated, and which are pending removal; then what else the
    page is.
    """
    _known(arch, of)
    if of in _STATES:
        return _STATES[of][state]
    if arch == "powerpc":
        return ("freed", "in use", "queued", "in use, Active")[state]
    if arch != "s390":
        return ("live", "queued", "freed")[state]
    name = f"AA={state & 3:02b} PP={state >> 4 & 3:02b}"
    return name + ", Active" * (state >> 8 & 1) + ", listed" * (state >> 9 & 1)


def changes(arch: str, of: str = "table") -> list[Change]:
    """Every change that there may be: the model's own table, of a page of tables, or of what else has one
    (:func:`state_machines`). ValueError for a machine that there is not."""
    _known(arch, of)
    return [
        Change(operation, state_name(arch, before, of), state_name(arch, after, of))
        for operation, before, after in _model.states()[arch, of]
    ]


def reached(arch: str, of: str = "table", *, seconds: float = 60.0) -> set[Change]:
    """Every change that the sources make: all interleavings of the scenarios ``*-states-*``, without reduction.

    ``seconds`` bounds each scenario; ValueError for a machine that there is not, RuntimeError where a bound was reached or
    an invariant broken.
    """
    _known(arch, of)
    prefix = ({"x86-pae": "pae"} if of != "table" else _SAME_AS).get(arch, arch) + "-states-"
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
                Change(
                    operation,
                    state_name(arch, int(before), of),
                    state_name(arch, int(after), of),
                )
            )
    return found


# ---- real threads ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What real threads did to the page tables of one architecture, and what that held on to.

    Counts are of tables unless they say pages; ``pages_*`` are pages that hold tables. ``breaches`` names every invariant
    that was broken; ``stale`` counts walks that met a table which was not the one that they had come for.
    """

    arch: str
    form: str
    era: str
    seconds: float
    allocated: int
    deferred: int
    gathered: int
    walks: int
    stale: int
    pages_allocated: int
    pages_freed: int
    pages_left: int
    pages_max: int
    pages_mean: float
    tables_max: int
    tables_mean: float
    page_size: int
    tables_per_page: int
    pending_max: int
    grace_periods: int
    breaches: list[str]

    @property
    def clean(self) -> bool:
        """No breach, nothing stale, and no page left over."""
        return not self.breaches and self.stale == 0 and self.pages_left == 0

    @property
    def pages_per_table(self) -> float:
        """Pages held for each living table, on average: 1 / tables_per_page would be the least."""
        return self.pages_mean / self.tables_mean if self.tables_mean else float("nan")

    @property
    def bytes_max(self) -> int:
        """Memory in pages of tables, at most."""
        return self.pages_max * self.page_size

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON output."""
        return {
            **asdict(self),
            "pages_per_table": self.pages_per_table,
            "bytes_max": self.bytes_max,
            "clean": self.clean,
        }


def form_of(arch: str, era: str = "v6.6", form: str | None = None) -> str:
    """The form that an architecture's tables have in an era.

    ``form`` overrides it, and must be one that the architecture had in that era: ValueError otherwise, which names what
    there is.
    """
    _known(arch)
    if era not in eras():
        raise ValueError(f"unknown era {era!r}; the eras are {', '.join(eras())}")
    rows: dict[str, list[str]] = {
        row["form"]: row["eras"] for row in architectures() if row["name"] == arch
    }
    if form is None:
        return next(name for name, of in rows.items() if era in of)
    if form not in rows:
        raise ValueError(f"{arch} has no form {form!r}: it has {', '.join(map(repr, rows))}")
    if era not in rows[form]:
        raise ValueError(f"{arch} had {form!r} in {', '.join(rows[form])}, not in {era}")
    return form


def load(
    arch: str,
    *,
    era: str = "v6.6",
    form: str | None = None,
    seconds: float = 1.0,
    churners: int = 2,
    walkers: int = 1,
    programs: int = 2,
    slots: int = 512,
    batch_percent: int = 50,
    seed: int = 1,
) -> Load:
    """Lets real threads make, walk and free page tables of an architecture, and counts what it costs in memory.

    No machine and no faults: only tables, in pages of the architecture's size, with the laboratory's RCU. Churners fill
    empty slots with new tables and free the tables of full ones, ``batch_percent`` of them through batches (mmu_gather) and
    the others by ``pte_free_defer``; walkers read them inside of RCU sections. ``seconds`` above 0, ``churners`` 1 to 64, ``walkers`` 0
    to 64, ``programs`` 1 to 64, ``slots`` of each program 1 to 4096. ValueError for what makes no run, and for a form that
    the architecture did not have in that era.
    """
    chosen = form_of(arch, era, form)
    one_table = arch == "s390" and chosen == "one table a page"
    counts = arch_load(
        arch=arch,
        one_table=one_table,
        seconds=seconds,
        churners=churners,
        walkers=walkers,
        programs=programs,
        slots=slots,
        batch_percent=batch_percent,
        seed=seed,
    )
    return Load(arch=arch, form=chosen, era=era, **counts)


def matrix(
    archs: Iterable[str] | None = None, *, seconds: float = 6.0, **options: Any
) -> list[Load]:
    """:func:`load` for several architectures, one after the other; ``seconds`` is the time of all together."""
    chosen = list(names() if archs is None else archs)
    if not chosen:
        raise ValueError(f"at least one architecture is needed, of {', '.join(names())}")
    for name in chosen:
        form_of(name, options.get("era", "v6.6"), options.get("form"))
    return [load(name, seconds=seconds / len(chosen), **options) for name in chosen]
