"""How long the stress runs need to find a planted bug: one guard away, real threads, x86.

python bench/bench_torture.py > docs/torture.md            writes the page
python bench/bench_torture.py --json FILE [--seeds N] [--seconds S] [GUARD ...]

Needs an installed pgtbl and no other module. Each run is a process of its own; what it finds is printed to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pgtbl._hunt import HUNTS, Report, hunt

HEAD = """\
# Stress, and the time to find a planted bug

```console
$ pgtbl torture                                    # v6.4, v6.5 and v6.6, five seconds each
$ pgtbl torture --arch all --eras v6.6             # on machines of every architecture
$ pgtbl torture --without retract_ptl --jitter 6   # with a bug planted, in a process of its own
```

Writers, readers, collapsers, khugepaged, hole punchers, mappers, a truncator and whole programs work on one machine, in the third
build (real threads, guards that can be taken away, rests at the named points). Every stamp that was stored must be found, through
whichever mapping, and no invariant be broken. `pgtbl.torture.stress()` is the same from Python; `pgtbl._torture.rcu_torture` does it
for RCU.

Exit status: 0 where nothing was found; 1 where something was; 2 where nothing could be run or written (bad options, no memory); 130
after Ctrl-C, which ends the run and prints what there is: the last row ("part"), and its field `interrupted` in the JSON output, say so. In
Python `stress()` then raises `pgtbl.Interrupted`, whose `result` is that of the part that was run.

A stress test that cannot find a planted bug proves nothing. So it is run without one guard at a time. The table says how often that was found within {seconds:g} seconds, after how long,
and after how many operations of all threads; the operations depend less on what else the computer does. A run that did not find it
counts as longer than all that did. `tests/test_torture.py` asserts that each is found.

What x86 does not show, or too seldom, is the explorer's to find ([](explorer.md)); what needs three threads at three places is
forced by pauses (`tests/test_races.py`, `tests/test_mm_races.py`).

This page is written by `python bench/bench_torture.py`: {when}, {cpus} processors, {system}; load average {load:.0f}{busy}.
"""


def head(seconds: float) -> str:
    """The text above the table."""
    load = os.getloadavg()[0]
    release = platform.release().partition("-")[0]
    cpus = os.cpu_count() or 1
    busy = ", so that the times are those of a busy computer" if load > cpus else ""
    return HEAD.format(
        seconds=seconds,
        when=date.today().isoformat(),
        cpus=cpus,
        system=f"{platform.system()} {release}",
        load=load,
        busy=busy,
    )


def _seconds(value: float | None) -> str:
    return "not in half of the runs" if value is None else f"{value:.2g} s"


def row(report: Report) -> str:
    """One line of the table."""
    found = report.found
    spread = f"{found[0].seconds:.2g} to {found[-1].seconds:.2g} s" if found else ""
    operations = f"{report.operations:,.0f}" if report.operations is not None else ""
    run = f"mm, {report.hunt.options['era']}" if report.hunt.run == "mm" else "RCU"
    return (
        f"| `{report.hunt.guard}` | {run} | {len(found)} of {len(report.runs)} | {_seconds(report.median)} "
        f"| {spread} | {operations} |"
    )


def page(reports: Sequence[Report], seconds: float) -> str:
    """The whole page."""
    lines = [head(seconds)]
    lines.append("| without | run | found | median | spread | operations (median) |")
    lines.append("|---|---|---|---|---|---|")
    lines += [row(report) for report in reports]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """The command."""
    names = [h.guard for h in HUNTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("guards", nargs="*", metavar="GUARD", help=f"of {', '.join(names)}")
    parser.add_argument("--seeds", type=int, default=7, help="runs for each guard (default 7)")
    parser.add_argument("--seconds", type=float, default=20.0, help="bound of a run (default 20)")
    parser.add_argument("--json", type=Path, help="every run, instead of the page")
    chosen = parser.parse_args(arguments)
    for name in chosen.guards:
        if name not in names:
            parser.error(f"no stress run hunts for {name!r}: there are {', '.join(names)}")
    if chosen.seeds < 1 or chosen.seconds <= 0:
        parser.error("--seeds and --seconds are above 0")
    reports = []
    for which in HUNTS:
        if chosen.guards and which.guard not in chosen.guards:
            continue
        reports.append(hunt(which, range(1, chosen.seeds + 1), chosen.seconds))
        print(
            row(reports[-1]),
            reports[-1].runs[0].how.partition("\n")[0],
            file=sys.stderr,
            flush=True,
        )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([r.to_dict() for r in reports], indent=1) + "\n")
    else:
        print(page(reports, chosen.seconds), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
