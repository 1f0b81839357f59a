"""`pgtbl torture`: many threads do everything at once, on machines of any architecture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from . import __version__, _core
from ._options import arch_list, era_list, json_option, settings, write_json

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
        role, equals, threads = part.partition("=")
        if not equals or not threads.strip().isdigit():
            raise click.BadParameter(
                f"{part!r}: ROLE=THREADS is needed, as in writer=2,collapser=1", param=option
            )
        mix[role.strip()] = int(threads)
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
            "no" if run.clean else "YES",
        )
    return table


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
@click.option(
    "--set",
    "switches",
    multiple=True,
    callback=settings,
    metavar="NAME=VALUE",
    help="Override one switch in every era; may be repeated (see `pgtbl eras`).",
)
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
    each architecture and era. Exit status: 1 where something was found; 130 after Ctrl-C, which leaves the runs so far.
    """
    from ._near import known
    from ._stress import stress, stress_apart
    from .report import output_console, progress_bar

    wanted = [(arch, era) for arch in archs for era in eras]
    runs: list[Stress] = []
    interrupted = False
    try:
        for name in without:
            known(name, "guard", [str(row["name"]) for row in _core.guards()])
        with progress_bar(len(wanted) * options["seconds"]) as tell:
            for arch, era in wanted:
                tell(f"{arch}, {era}", len(runs) * options["seconds"])
                chosen = {**options, "arch": arch, "era": era, "checked": not unchecked}
                runs.append(
                    stress_apart(**chosen, without=without) if without else stress(**chosen)
                )
    except (ValueError, TypeError) as error:
        raise click.BadParameter(str(error)) from None
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        interrupted = True
        click.echo(f"interrupted after {len(runs)} of {len(wanted)} runs", err=True)
    text = (
        json.dumps({"version": __version__, "runs": [r.to_dict() for r in runs]}, indent=2) + "\n"
    )
    if json_file == "-":
        click.echo(text, nl=False)
    else:
        output_console().print(_table(runs))
        write_json(text, json_file)
    for run in runs:
        for line in run.complaints:
            click.echo(f"{run.arch}, {run.era}: {line}", err=True)
    if interrupted:
        sys.exit(130)
    if not all(run.clean for run in runs):
        sys.exit(1)


COMMANDS = (torture,)
