"""Writes the tables and the state diagrams of docs/architectures.md, between its markers.

python tools/arch_docs.py            writes them
python tools/arch_docs.py --check    exit status 1 where they are out of date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pgtbl
from pgtbl import arch

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"


def facts() -> str:
    head = "| architecture | tables | eras | page | entries | tables a page | levels | split ptl, pml | VMA locks | huge pages |"
    lines = [head, "|" + "---|" * 10]

    def yes(there: bool) -> str:
        return "yes" if there else "no"

    for row in pgtbl.architectures():
        eras = row["eras"]
        span = "all" if eras == pgtbl.eras() else f"{eras[0]} to {eras[-1]}"
        cells = [
            row["name"],
            row["form"],
            span,
            f"{row['page_size'] // 1024}K",
            row["entries"],
            row["tables_per_page"],
            row["levels"],
            f"{yes(row['split_ptl'])}, {yes(row['split_pml'])}",
            yes(row["vma_locks"]),
            yes(row["thp"]),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def diagram(name: str, of: str) -> str:
    rows = arch.changes(name, of)
    states = sorted({s for c in rows for s in (c.before, c.after)})
    ids = {s: f"s{i}" for i, s in enumerate(states)}
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'  state "{s}" as {ids[s]}' for s in states]
    lines += [
        f"  {ids[c.before]} --> {ids[c.after]} : {c.operation.replace(': ', ', ')}" for c in rows
    ]
    return "\n".join([*lines, "```"])


def page() -> str:
    """The page with what is generated in it."""
    text = PAGE.read_text(encoding="utf-8")
    parts = {"facts": facts()}
    for name in ("x86-64", "powerpc", "s390"):
        parts[f"states {name}"] = diagram(name, "table")
    for name, of in arch.state_machines():
        if of != "table":
            parts[f"states {name} {of}"] = diagram(name, of)
    for name, content in parts.items():
        begin, end = f"<!-- {name}: tools/arch_docs.py -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{PAGE} has no {begin}")
        text = pattern.sub(f"{begin}\n{content}\n{end}".replace("\\", r"\\"), text)
    return text


def main() -> int:
    new = page()
    if "--check" in sys.argv[1:]:
        return int(new != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
