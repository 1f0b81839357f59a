"""Writes docs/casts.md: every cast of the explorer with its executions, and what catches each guard.

    python tools/casts.py                  explores all, on two cores, and writes the page (some minutes)
    python tools/casts.py --seconds 60     longer for those that are large (20 seconds each unless said)

What needs no exploration on the page is checked by every test run, the counts by the slow tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "casts.md"
MODELS = ("sc", "tso", "ra", "rc11")
HEAD = """\
# Casts and guards

Written by `python tools/casts.py`. Executions are execution graphs, each met once, with all guards in place and in the cast's first era. `ra` has
no seq_cst fences, so that casts which stand on them fail rightly there ("needs fences"). Where a number follows ">" the search was stopped
by its bound.
"""


def guard_lines() -> list[str]:
    """What catches each guard; needs no exploration."""
    from pgtbl._explore import guards
    from pgtbl.museum import KILLERS

    lines = ["## Guards", "", f"{len(guards())} guards, each caught by the cast beside it.", ""]
    lines += ["| guard | bug or rule | cast | era | memory model |", "|---|---|---|---|---|"]
    for row in guards():
        cast, era, memory = KILLERS[row["name"]]
        lines.append(f"| `{row['name']}` | {row['bug']} | `{cast}` | {era} | {memory} |")
    return lines


def cast_cells(row: dict[str, Any]) -> str:
    """What a row says of a cast but for its counts."""
    return f"| `{row['name']}` | {', '.join(row['eras'])} |"


def explored(name: str, memory: str, seconds: float) -> tuple[int, str, float]:
    """Executions, "" or why they are not all, seconds."""
    from pgtbl._explore import explore

    verdict = explore(name, memory=memory, seconds=seconds, shorten=False)
    if verdict.violation is not None and memory != "ra":
        raise SystemExit(f"{name}, {memory}: {verdict.violation.message}")
    why = "needs fences" if verdict.violation else "" if verdict.complete else ">"
    return verdict.executions, why, verdict.seconds


def cell(count: int, why: str) -> str:
    return f"> {count:,}" if why == ">" else why or f"{count:,}"


def cast_lines(seconds: float) -> Iterator[str]:
    from pgtbl._explore import scenarios

    rows = scenarios()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {
            (row["name"], memory): pool.submit(explored, row["name"], memory, seconds)
            for row in rows
            for memory in MODELS
        }
        found = {key: job.result() for key, job in jobs.items()}
    complete = {key: n for key, (n, why, _) in found.items() if not why}
    name, memory = max(complete, key=lambda key: complete[key])
    spent = sum(took for key, (_, _, took) in found.items() if key in complete)
    yield f"""## Casts

{len(rows)} casts. Those that are exhausted take {spent:.0f} s of processor time together, under all memory models that they are for; the largest is
`{name}` with {complete[name, memory]:,} executions under {memory}.
"""
    yield "| cast | eras | " + " | ".join(MODELS) + " |"
    yield "|---|---|" + "---:|" * len(MODELS)
    for row in rows:
        counts = (cell(*found[row["name"], memory][:2]) for memory in MODELS)
        yield f"{cast_cells(row)} {' | '.join(counts)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="bound of each exploration")
    seconds = parser.parse_args().seconds
    lines = [HEAD, *cast_lines(seconds), "", *guard_lines()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
