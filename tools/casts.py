"""Writes docs/casts.md: every cast of the explorer with its executions, and what catches each guard.

    python tools/casts.py                  explores all, on two cores, and writes the page (many minutes)
    python tools/casts.py pin-vs-fork      explores these alone, and those that the page has not; keeps what it says of others

Those that are large are stopped by a number of executions, so that the page is the same on every machine.
What needs no exploration on the page is checked by every test run, the counts by the slow tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pgtbl._explore import explore, guards, scenarios
from pgtbl.museum import KILLERS, LARGE, NEEDS_FENCES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "casts.md"
MODELS = ("sc", "tso", "ra", "rc11")
BOUND = 20_000  # executions of each of those that are large
HEAD = """\
# Casts and guards

Written by `python tools/casts.py`. Executions are execution graphs, each met once, with all guards in place and in the cast's first era. `ra` has
no seq_cst fences, so that casts which stand on them fail rightly there ("needs fences"). Where a number follows ">" the search was stopped
there.
"""


def guard_lines() -> list[str]:
    """What catches each guard; needs no exploration."""
    lines = ["## Guards", "", f"{len(guards())} guards, each caught by the cast beside it.", ""]
    lines += ["| guard | bug or rule | cast | era | memory model |", "|---|---|---|---|---|"]
    for row in guards():
        cast, era, memory = KILLERS[row["name"]]
        lines.append(f"| `{row['name']}` | {row['bug']} | `{cast}` | {era} | {memory} |")
    return lines


def cast_cells(row: dict[str, Any]) -> str:
    """What a row says of a cast but for its counts."""
    return f"| `{row['name']}` | {', '.join(row['eras'])} |"


def explored(name: str, memory: str) -> str:
    """A cell of the page; raises where the cast fails and should not, or the other way round."""
    bound = BOUND if name in LARGE else None
    verdict = explore(name, memory=memory, executions=bound, shorten=False)
    if verdict.violation is not None:
        if memory == "ra" and name in NEEDS_FENCES:
            return "needs fences"
        raise RuntimeError(f"{name}, {memory}: {verdict.violation.message}")
    if verdict.complete and memory == "ra" and name in NEEDS_FENCES:
        raise RuntimeError(f"{name} is in NEEDS_FENCES, and {memory} exhausts it")
    return f"{verdict.executions:,}" if verdict.complete else f"> {verdict.executions:,}"


def told() -> dict[str, list[str]]:
    """What the page says of each cast."""
    lines = PAGE.read_text(encoding="utf-8").partition("## Guards")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| `")]
    return {row[1].strip("`"): row[3:7] for row in rows}


def cast_lines(again: list[str]) -> Iterator[str]:
    """`again`: the casts that are explored whatever the page says; all where it is empty."""
    rows = scenarios()
    known = {name: cells for name, cells in told().items() if again and name not in again}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {
            name: [pool.submit(explored, name, memory) for memory in MODELS]
            for name in (row["name"] for row in rows)
            if name not in known
        }
        found = known | {name: [job.result() for job in cells] for name, cells in jobs.items()}
    complete = {
        (row["name"], memory): int(count.replace(",", ""))
        for row in rows
        for memory, count in zip(MODELS, found[row["name"]], strict=True)
        if count[0].isdigit()
    }
    name, memory = max(complete, key=lambda key: complete[key])
    yield f"""## Casts

{len(rows)} casts. Those that are exhausted have {sum(complete.values()):,} executions together, under all memory models that they are for; the largest is
`{name}` with {complete[name, memory]:,} executions under {memory}.
"""
    yield "| cast | eras | " + " | ".join(MODELS) + " |"
    yield "|---|---|" + "---:|" * len(MODELS)
    for row in rows:
        yield f"{cast_cells(row)} {' | '.join(found[row['name']])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("cast", nargs="*", help="explore this one again")
    again = parser.parse_args().cast
    if unknown := set(again) - {row["name"] for row in scenarios()}:
        parser.error(f"no cast is called {', '.join(sorted(unknown))}")
    lines = [HEAD, *cast_lines(again), "", *guard_lines()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
