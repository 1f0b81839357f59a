"""What a comparison found: a verdict a scenario, and the sums."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .language import Step
from .scenario import Problem
from .verdict import Difference, Level

__all__ = ["Comparison", "Verdict"]


@dataclass
class Verdict:
    """One scenario on both sides.

    skipped: why it was not compared ("" where it was): an operation that one side cannot express or may not do, or no
    outcome to compare with. Such a scenario is not equal in any way.
    outcomes: what each side observed, one result a step, where that was kept (`pgtbl.compare(script)` keeps it).
    """

    id: str
    group: str
    steps: list[Step] = field(repr=False)
    differences: list[Difference] = field(default_factory=list)
    skipped: str = ""
    skipped_step: int | None = None
    description: str = ""
    mechanism_observed: bool = True
    outcomes: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)

    def equal(self, level: Level) -> bool:
        """Whether nothing differs up to that level. What was not observed is not equal."""
        if self.skipped or (level is Level.mechanism and not self.mechanism_observed):
            return False
        return all(d.level > level for d in self.differences)

    @property
    def core(self) -> bool:
        """Return values, errno, faults, mappings, page identity, contents and page tables are equal."""
        return self.equal(Level.core)

    @property
    def detail(self) -> bool:
        """And folio orders, map counts, fault counts and smaps."""
        return self.equal(Level.detail)

    @property
    def mechanism(self) -> bool:
        """And mmap_lock's write acquisitions, and what collapse scans found."""
        return self.equal(Level.mechanism)


class Comparison:
    """The verdicts of a comparison, in order.

    `sides` names what was compared: the expected side, then the other. `problems` are the lines that could not be read.
    """

    def __init__(self, sides: tuple[str, str]) -> None:
        self.sides = sides
        self.verdicts: list[Verdict] = []
        self.problems: list[Problem] = []
        self.interrupted = False
        self.mechanism_unobserved = ""  # why locks and scans were not compared

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    def __len__(self) -> int:
        return len(self.verdicts)

    def __getitem__(self, name: str) -> Verdict:
        for verdict in self.verdicts:
            if verdict.id == name:
                return verdict
        raise KeyError(f"no scenario {name!r}")

    @property
    def skipped(self) -> int:
        """Scenarios that were not compared."""
        return sum(bool(v.skipped) for v in self.verdicts)

    def equal(self, level: Level | str) -> int:
        """How many scenarios are equal up to that level ("core", "detail" or "mechanism")."""
        wanted = Level[level] if isinstance(level, str) else level
        return sum(v.equal(wanted) for v in self.verdicts)

    @property
    def core_differs(self) -> bool:
        """Whether any scenario that was compared differs in core."""
        return any(not v.skipped and not v.core for v in self.verdicts)

    def groups(self) -> dict[str, list[Verdict]]:
        """The verdicts by group, in order of appearance."""
        found: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.group, []).append(verdict)
        return found

    def unsupported(self) -> Counter[str]:
        """Why scenarios were skipped, and how many each."""
        return Counter(v.skipped for v in self.verdicts if v.skipped)

    def kinds(self) -> Counter[tuple[str, str, str]]:
        """Scenarios by what first differs in them: (level, operation, field without names and numbers)."""
        found: Counter[tuple[str, str, str]] = Counter()
        for verdict in self.verdicts:
            if verdict.differences:
                worst = min(verdict.differences, key=lambda d: (d.level, d.step))
                found[worst.level.name, worst.op, _kind(worst)] += 1
        return found

    # ---- output

    def to_dict(self) -> dict[str, Any]:
        """The sums and every difference, as `--json` writes them."""
        differences: list[dict[str, Any]] = [
            {"id": p.id, "level": "bad input", "line": p.line, "field": p.field, "why": p.why}
            for p in self.problems
        ]
        for verdict in self.verdicts:
            if verdict.skipped:
                differences.append(
                    {
                        "id": verdict.id,
                        "level": "skipped",
                        "step": verdict.skipped_step,
                        "why": verdict.skipped,
                    }
                )
            differences += [
                {
                    "id": verdict.id,
                    "level": d.level.name,
                    "step": d.step,
                    "op": d.op,
                    "field": d.field,
                    "expected": d.expected,
                    "found": d.found,
                }
                for d in verdict.differences
            ]
        return {
            "scenarios": len(self.verdicts),
            **{level.name: self.equal(level) for level in Level},
            "skipped": self.skipped,
            "differences": differences,
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """to_dict() as JSON; written to a file where one is named."""
        text = json.dumps(self.to_dict(), indent=1, default=str) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def __str__(self) -> str:
        from .report import as_text

        return as_text(self)

    def __repr__(self) -> str:
        n = len(self.verdicts)
        if n == 1:
            return str(self)
        equal = ", ".join(f"{level.name} {self.equal(level)}" for level in Level)
        return (
            f"<pgtbl.Comparison of {self.sides[0]} and {self.sides[1]}: {n} scenarios, equal in "
            f"{equal}; {self.skipped} skipped>"
        )

    def _repr_html_(self) -> str:
        from .report import as_html

        return as_html(self)


def _kind(difference: Difference) -> str:
    """The field without what is particular to one scenario."""
    words = difference.field.split()
    if len(words) > 1 and words[0][-1].isdigit():
        words = words[1:]
    return " ".join(w for w in words if not w.isdigit())
