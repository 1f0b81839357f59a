"""Casts of one's own for the explorer: verbs that ship, or steps of your own, on a small address space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import _model
from ._explore import ERAS, Verdict, explore
from ._near import known as _known
from ._steps import Actor

__all__ = ["Scenario"]

VERBS: tuple[str, ...] = tuple(_model.verbs())
LAYOUTS = (
    "empty_table",
    "full_table",
    "small_pages",
    "no_table",
    "small_pages_and_hole",
    "first_page",
    "no_table_huge_page",
    "anon_pages",
    "anon_huge",
    "anon_none",
    "anon_first_page",
)
_NEEDS_EMPTY = ("retract",)
_NEEDS_FILE = (
    "collapse_file",
    "collapse_file_decided",
    "collapse_pte_mapped",
    "file_write",
    "khugepaged_collapse",
    "punch_last",
    "rmap",
    "truncate",
)
_NEEDS_ANON = ("collapse_anon_decided",)

INVARIANTS = ("accounts", "stores", "sections")


@dataclass(frozen=True)
class Scenario:
    """A cast of one's own, on a file or on anonymous memory of one extent, or of two.

    ``actors``: each a verb (of ``VERBS``, which the manual describes; "verb@1" for the second program), or an
    :class:`Actor` of your own.
    ``layout`` says what is cached and mapped at the start; those that begin with "anon" are of anonymous memory.
    ``private`` maps the file privately, ``partial`` gives the extent's last page to another mapping, ``extents`` (1 or 2)
    is how much is mapped. ``broadcast_flush``: no flush waits for GUP-fast, as where a processor flushes others' TLBs by an
    instruction. ``regular``: the file is one on a disk, mapped to be read, instead of shared memory. ``invariants``: what is judged at the end, of "accounts" (references,
    map counts, rss, page tables), "stores" (none is lost) and "sections" (none is left open); all of them by default.
    What goes wrong on the way (a use after free, a data race, a deadlock, a breach that the core reports) always counts.
    ``Scenario(...).explore()`` takes what :func:`explore` takes.
    """

    actors: Sequence[str | Actor]
    layout: str = "empty_table"
    era: str | None = None
    private: bool = False
    partial: bool = False
    invariants: Sequence[str] | None = None
    extents: int = 1
    broadcast_flush: bool = False
    regular: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.actors, str) or not 1 <= len(self.actors) <= 6:
            raise ValueError(f"a cast has 1 to 6 actors in a list, not {self.actors!r}")
        _known(self.layout, "layout", LAYOUTS)
        if self.era is not None:
            _known(self.era, "era", ERAS)
        if self.extents not in (1, 2):
            raise ValueError(f"extents {self.extents!r}: 1 and 2 are allowed")
        if self.layout.startswith("anon") and (self.private or self.partial or self.regular):
            raise ValueError(
                f"layout {self.layout} has no file that private and partial could map, or that is regular"
            )
        for name in self.invariants or ():
            _known(name, "invariant", INVARIANTS)
        if self.invariants is not None and not self.invariants:
            raise ValueError(f"no invariant is left: there are {', '.join(INVARIANTS)}")
        for actor in self.actors:
            if isinstance(actor, str):
                self._check_verb(actor)
            elif not isinstance(actor, Actor):
                raise TypeError(f"{actor!r} is no actor: a verb or a pgtbl.Actor is needed")
        if sum(str(actor).partition("@")[0] == "retract" for actor in self.actors) > 1:
            raise ValueError(
                "one retraction at a time: it holds the huge page's folio lock from the start"
            )

    def _check_verb(self, actor: str) -> None:
        verb, at, program = actor.partition("@")
        _known(verb, "verb", VERBS)
        if at and program not in ("0", "1"):
            raise ValueError(f"{actor!r}: there are programs 0 and 1")
        if verb in _NEEDS_EMPTY and self.layout != "empty_table":
            raise ValueError(
                f"{actor!r} needs a huge page in the cache, and tables whose entries collapse_file has taken away: "
                "layout empty_table"
            )
        of_file = not self.layout.startswith("anon")
        if verb in _NEEDS_FILE and not of_file:
            raise ValueError(f"{actor!r} acts on a file, and layout {self.layout} maps none")
        if verb in _NEEDS_ANON and of_file:
            raise ValueError(
                f"{actor!r} needs anonymous memory: layout anon_pages, anon_huge or anon_none"
            )

    @property
    def name(self) -> str:
        """What `pgtbl explore` calls it."""
        parts: list[str] = []
        flags: list[str] = []
        for actor in self.actors:
            if isinstance(actor, Actor):
                parts.append("*" + "@1" * (actor.program == 1))
                flags.append(f":do={actor.text()}")
            else:
                parts.append(actor)
        flags += [":2"] * any(part.endswith("@1") for part in parts)
        flags += [":private"] * self.private + [":partial"] * self.partial
        flags += [":broadcast"] * self.broadcast_flush + [":regular"] * self.regular
        flags += [":extents"] * (self.extents == 2)
        if self.invariants is not None:
            flags.append(":judge=" + ",".join(self.invariants))
        return f"cast:{','.join(parts)}:{self.layout}" + "".join(flags)

    def explore(self, **options: Any) -> Verdict:
        """As :func:`explore`."""
        return explore(self.name, **{"era": self.era, **options})
