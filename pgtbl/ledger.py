"""The ledger: what a machine locked, waited for, flushed, freed and collapsed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Ledger"]


class Ledger(Mapping[str, int]):
    """A reading of a machine's counters: dotted names to ints.

    Two readings subtract, row by row: what happened between them. (The difference of a row that is a level
    and not a count, such as ``table.pte.pending``, says how it changed.) ``pgtbl.ledger_names()`` says what
    each row counts.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: Mapping[str, int]) -> None:
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> int:
        try:
            return self._rows[name]
        except KeyError:
            import difflib

            near = difflib.get_close_matches(str(name), self._rows, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise KeyError(f"no row {name!r} in the ledger{hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __sub__(self, earlier: object) -> Ledger:
        """What happened since ``earlier``, a reading of the same or of another machine."""
        if not isinstance(earlier, Mapping):
            return NotImplemented
        return Ledger({name: value - earlier.get(name, 0) for name, value in self._rows.items()})

    def __add__(self, other: object) -> Ledger:
        """The sum of two readings, row by row: of two machines, or of two rounds."""
        if not isinstance(other, Mapping):
            return NotImplemented
        names = dict.fromkeys([*self._rows, *other])
        return Ledger({name: self._rows.get(name, 0) + other.get(name, 0) for name in names})

    def __hash__(self) -> int:
        return hash(frozenset(self._rows.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Ledger, (self._rows,))

    def select(self, prefix: str) -> Ledger:
        """The rows called ``prefix``, or below it: ``select("mmap_lock")``."""
        return Ledger(
            {
                name: value
                for name, value in self._rows.items()
                if name == prefix or name.startswith(prefix + ".")
            }
        )

    def nonzero(self) -> Ledger:
        """The rows that are not zero."""
        return Ledger({name: value for name, value in self._rows.items() if value != 0})

    def to_dict(self) -> dict[str, int]:
        """A plain dict of all rows."""
        return dict(self._rows)

    def __repr__(self) -> str:
        rows = self.nonzero()._rows
        if not rows:
            return f"<pgtbl.Ledger: all {len(self)} rows are zero>"
        width = max(map(len, rows))
        digits = max(len(f"{value:,}") for value in rows.values())
        lines = [f"  {name:<{width}}  {value:>{digits},}" for name, value in rows.items()]
        return (
            "\n".join([f"<pgtbl.Ledger: {len(rows)} of {len(self)} rows are not zero", *lines])
            + ">"
        )


Ledger.__module__ = "pgtbl"
