"""Writes docs/agreement.md: how far the laboratory agrees with what Linux 6.18 did, and what still differs.

python tools/agreement.py > docs/agreement.md        needs an installed pgtbl; a test checks the page
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pgtbl._compare.engine import LaboratoryPlayer, RecordedPlayer, compare_scenarios
from pgtbl._compare.result import Comparison, Verdict
from pgtbl._compare.scenario import read_scenarios
from pgtbl._compare.verdict import Level

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
FILES = {
    "scenarios.jsonl.gz": "Deterministic scenarios",
    "random.jsonl.gz": "Random sequences",
}

HEAD = """\
# Agreement with Linux

The scenarios in `tests/data` were played on Linux 6.18.44 and recorded. This page says how the laboratory does beside them
(profile "v6.18"); [](compare.md) says what is compared. A skipped scenario is not equal.

This page is written by `python tools/agreement.py`.
"""

# Why something differs: by the operation and the field in which it shows first, or by the scenario.
REASONS: tuple[tuple[str, str], ...] = (
    ("memory cgroups", "memory cgroups are not modelled"),
    ("mseal", "mseal is not modelled"),
    ("process_madvise", "process_madvise is not modelled"),
    ("PR_SET_THP_DISABLE", "PR_SET_THP_DISABLE is not modelled"),
    ("file seals", "file seals are not modelled"),
    ("msync", "msync is not modelled"),
    ("ext4", "the laboratory's files are shared memory"),
    ("io_uring", "io_uring is not modelled"),
)


def reason(text: str) -> str:
    """The reason of a difference."""
    for words, why in REASONS:
        if words in text:
            return why
    return "not explained yet"


def first(verdict: Verdict) -> str:
    """What differs first, of what matters most."""
    worst = min(verdict.differences, key=lambda d: (d.level, d.step))
    return f"{worst.level.name}: step {worst.step}, {worst.op}, {worst.field}"


def table(comparison: Comparison) -> Iterable[str]:
    """One line for each group, and the sum."""
    levels = [level.name for level in Level]
    yield f"| group | scenarios | {' | '.join(levels)} | skipped |"
    yield f"|---|---|{'---|' * len(levels)}---|"
    groups = comparison.groups()
    rows = [*groups.items()]
    if len(groups) > 1:
        rows.append(("**all**", comparison.verdicts))
    for name, verdicts in rows:
        equal = (sum(v.equal(level) for v in verdicts) for level in Level)
        cells = " | ".join(f"{n} ({n / len(verdicts):.1%})" for n in equal)
        skipped = sum(bool(v.skipped) for v in verdicts)
        yield f"| {name} | {len(verdicts)} | {cells} | {skipped} |"


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    comparisons = {
        name: compare_scenarios(read_scenarios(DATA / name), RecordedPlayer(), LaboratoryPlayer())
        for name in FILES
    }
    for name, title in FILES.items():
        lines += [f"## {title}", "", *table(comparisons[name]), ""]
    different = [v for c in comparisons.values() for v in c.verdicts if v.differences]
    lines += ["## What still differs", ""]
    lines += ["| scenario | what | why |", "|---|---|---|"] if different else ["Nothing."]
    for verdict in different:
        what = first(verdict)
        lines.append(f"| `{verdict.id}` | {what} | {reason(what)} |")
    lines += ["", "## What is skipped", "", "| scenario | why |", "|---|---|"]
    for comparison in comparisons.values():
        for verdict in comparison.verdicts:
            if verdict.skipped:
                lines.append(f"| `{verdict.id}` | {reason(verdict.skipped)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
