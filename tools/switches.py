"""Writes docs/switches.md: what makes an era, from the table that the core itself uses.

python tools/switches.py > docs/switches.md        needs an installed pgtbl; a test checks the page
"""

from __future__ import annotations

import sys

HEAD = """\
# Eras and their switches

An {term}`era` is a record of switches. Each can be overridden on its own, so that a gain can be traced to its cause:
`pgtbl race --set NAME=VALUE` (in every era of the race), `pgtbl.race(switches={...})`, `Machine(era=..., switches={...})`.
`pgtbl race --attribute` goes from v6.4 to v6.6 one group of switches at a time.

Combinations that cannot be safe are refused, with the reason. `pgtbl eras` prints this table.

This page is written by `python tools/switches.py`.
"""


def page() -> str:
    """The whole page."""
    from pgtbl import switches

    rows = switches()
    eras = list(rows[0]["eras"])
    lines = [HEAD, f"| switch | values | {' | '.join(eras)} | what it says |"]
    lines.append(f"|---|---|{'---|' * len(eras)}---|")
    for row in rows:
        values = " | ".join(str(row["eras"][era]) for era in eras)
        lines.append(f"| `{row['name']}` | 0 to {row['highest']} | {values} | {row['doc']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
