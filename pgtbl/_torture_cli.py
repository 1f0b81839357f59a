"""`pgtbl torture`: many threads do everything at once, on machines of any architecture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from . import __version__
from ._options import arch_list, assigned, era_list, json_option, set_option, write_result
from .errors import Interrupted, PgtblError

if TYPE_CHECKING:
    from ._stress import Stress

__all__ = ["COMMANDS"]

# Of what was done: column, and the operation that it counts.
_SHOWN = {"collapsed": "collapsed", "split": "split", "maps": "map", "programs": "program"}


def _mix(
    _context: click.Context, option: click.Parameter, text: str | None
) -> dict[str, int] | None:
    if text is None:
        return None
    mix: dict[str, int] = {}
    for part in text.split(","):
        role, threads = assigned(option, part, "ROLE=THREADS is needed, as in writer=2,collapser=1")
        if role in mix:
            raise click.BadParameter(f"{text!r}: {role} is named twice", param=option)
        mix[role] = threads
    return mix


def _table(runs: Sequence[Stress]) -> Any:
    from .report import amount, plain_table

    table = plain_table()
    table.add_column("architecture", no_wrap=True)
    table.add_column("era", no_wrap=True)
    for column in ("operations", "a second", *_SHOWN, "broken"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            run.arch,
            run.era,
            f"{run.ops:,}",
            amount(run.ops / run.seconds if run.seconds else 0.0),
            *(f"{run.done.get(name, 0):,}" for name in _SHOWN.values()),
            ("no" if run.clean else "YES") + (" (part)" if run.interrupted else ""),
        )
    return table


def _run(wanted: Sequence[dict[str, Any]], seconds: float) -> tuple[list[Stress], bool]:
    """The runs that were wanted, or those until Ctrl-C, and whether it came."""
    from ._interrupts import Interrupts
    from ._stress import stress, stress_apart
    from .report import progress_bar

    runs: list[Stress] = []
    with Interrupts() as interrupts:
        try:
            with progress_bar(len(wanted) * seconds) as tell:
                for chosen in wanted:
                    if interrupts.seen:
                        break
                    tell(f"{chosen['arch']}, {chosen['era']}", len(runs) * seconds)
                    runs.append((stress_apart if chosen["without"] else stress)(**chosen))
        except Interrupted as end:
            runs.append(cast("Stress", end.result))
            return runs, True
        except KeyboardInterrupt:
            return runs, True
        return runs, interrupts.seen


@click.command()
@click.option(
    "--arch",
    "archs",
    default="x86-64",
    show_default=True,
    callback=arch_list,
    metavar="NAMES",
    help="On machines of these architectures, separated by commas; all: of every one.",
)
@click.option(
    "--eras",
    default="v6.4,v6.5,v6.6",
    show_default=True,
    callback=era_list,
    metavar="NAMES",
    help="Whose rules are followed, separated by commas (see `pgtbl eras`).",
)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Of each run.")
@click.option("--ops", type=int, default=None, help="A run ends after so many operations, too.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of every thread's choices.")
@click.option(
    "--mix",
    default=None,
    callback=_mix,
    metavar="ROLE=THREADS,...",
    help="Threads of each role: writer, reader, collapser, khugepaged, puncher, mapper, truncator, program. "
    "[default: two writers, two mappers, one of each other]",
)
@click.option("--mms", type=int, default=3, show_default=True, help="Programs that map the file.")
@click.option(
    "--extents", type=int, default=3, show_default=True, help="Extents of the file with stamps."
)
@click.option(
    "--memory",
    default=None,
    metavar="SIZE",
    help='Simulated memory.  [default: "128MiB"; more on powerpc]',
)
@click.option(
    "--alloc",
    type=click.Choice(["reuse", "quarantine"]),
    default="reuse",
    show_default=True,
    help="Whether a freed frame is handed out at once, or late and poisoned.",
)
@click.option(
    "--jitter",
    type=int,
    default=0,
    show_default=True,
    help="Once in so many times a thread rests where it could be paused; 0: never.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="GUARD",
    help="Take a guard away, in a process of its own; may be repeated (`pgtbl.guards()` lists them).",
)
@set_option
@click.option(
    "--unchecked",
    is_flag=True,
    help="x86-64's faster build: looks at contents and counters alone.",
)
@json_option("Write the result as JSON; - is standard output, instead of the table.")
def torture(
    archs: list[str],
    eras: list[str],
    unchecked: bool,
    without: tuple[str, ...],
    json_file: str | None,
    **options: Any,
) -> None:
    """Let many threads do everything at once, and look whether anything gets lost.

    Writers, readers, collapsers, khugepaged, hole punchers, mappers, a truncator and whole programs work on one machine, each choice
    from the seed; every stamp that was stored must be found, and no invariant be broken, during the run and at its end. One run for
    each architecture and era. Exit status: 0 where nothing was found; 1 where something was; 2 where nothing could be run or written; 130
    after Ctrl-C, which leaves the runs so far, the last one as far as it got.
    """
    from ._interrupts import Interrupts
    from ._stress import checked_options
    from .report import output_console

    wanted = [
        {**options, "arch": arch, "era": era, "checked": not unchecked, "without": without}
        for arch in archs
        for era in eras
    ]
    with Interrupts():
        try:
            for chosen in wanted:
                checked_options(**chosen)
            runs, interrupted = _run(wanted, options["seconds"])
        except (ValueError, TypeError, MemoryError) as error:
            raise click.BadParameter(str(error)) from None
        except (RuntimeError, PgtblError) as error:
            click.ClickException(str(error)).show()
            sys.exit(2)
        if interrupted:
            whole = sum(not run.interrupted for run in runs)
            click.echo(f"interrupted after {whole} of {len(wanted)} runs", err=True)
        for run in runs:
            for line in run.complaints:
                click.echo(f"{run.arch}, {run.era}: {line}", err=True)
        told = {"version": __version__, "runs": [run.to_dict() for run in runs]}
        found = not all(run.clean for run in runs)
        try:
            write_result(
                lambda: output_console().print(_table(runs)),
                json_file,
                lambda: json.dumps(told, indent=2) + "\n",
            )
        except click.ClickException as error:
            error.show()
            sys.exit(1 if found else 2)
        if interrupted:
            sys.exit(130)
        if found:
            sys.exit(1)


COMMANDS = (torture,)
