"""`pgtbl replay` and `pgtbl record`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ._options import json_option, writable, write_result

if TYPE_CHECKING:
    from ._replay_run import ReplayResult

__all__ = ["COMMANDS"]


@click.command()
@click.argument("trace", type=click.Path(exists=True, dir_okay=False), required=False)
@click.option(
    "--eras",
    default="v6.4,v6.6",
    show_default=True,
    metavar="NAMES",
    help="Whose rules are followed, separated by commas (see `pgtbl eras`).",
)
@click.option(
    "--collapsers",
    type=int,
    default=1,
    show_default=True,
    help="Threads that collapse what they find in the program's memory; 0: none.",
)
@click.option("--rounds", type=int, default=3, show_default=True, help="How often each era runs.")
@click.option(
    "--max-ptes-none",
    type=int,
    default=None,
    help="How many of an extent's pages may be missing for a collapser to take it.  [default: all but one]",
)
@click.option(
    "--memory",
    default=None,
    metavar="SIZE",
    help='Simulated memory, such as "256MiB".  [default: what the trace needs]',
)
@click.option(
    "--arch", default="x86-64", show_default=True, metavar="NAME", help="On whose page tables."
)
@json_option("Write the result as JSON; - is standard output, instead of the tables.")
def replay(
    trace: str | None,
    eras: str,
    collapsers: int,
    rounds: int,
    max_ptes_none: int | None,
    memory: str | None,
    arch: str,
    json_file: str | None,
) -> None:
    """Play a recorded program, with its threads and processes, under the rules of several kernels.

    TRACE is a file that `pgtbl record` wrote; without it, the trace that ships with pgtbl. Prints what each kind of step
    took, and what was locked. Exit status: 1 where an address space does not end as recorded; 130 after Ctrl-C.
    """
    from ._interrupts import Interrupts
    from ._replay_run import replay as run
    from ._replay_run import report
    from .errors import Interrupted, PgtblError
    from .report import output_console, progress_bar

    names = [name.strip() for name in eras.split(",") if name.strip()]
    with Interrupts():
        try:
            with progress_bar(rounds * max(1, len(names))) as tell:
                result = run(
                    trace,
                    names,
                    collapsers=collapsers,
                    rounds=rounds,
                    max_ptes_none=max_ptes_none,
                    memory=memory,
                    arch=arch,
                    progress=tell,
                )
        except Interrupted as end:
            result = cast("ReplayResult", end.result)
        except (ValueError, TypeError, OSError) as error:
            raise click.BadParameter(str(error)) from None
        except (PgtblError, MemoryError) as error:
            raise click.ClickException(str(error)) from None

        def show() -> None:
            console = output_console()
            for part in report(result):
                console.print(part)

        write_result(show, json_file, result.to_json)
    if result.interrupted:
        sys.exit(130)
    if not result.as_recorded:
        sys.exit(1)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "-o",
    "--output",
    default=None,
    metavar="FILE",
    callback=writable,
    help="The trace; gzipped where its name ends in .gz.  [default: COMMAND.jsonl.gz]",
)
@click.option("--name", default="", help="What the trace is called.  [default: COMMAND]")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def record(output: str | None, name: str, command: tuple[str, ...]) -> None:
    """Record a program: pgtbl record -o t.jsonl.gz -- COMMAND [ARGUMENT...]

    Needs strace. Page faults are recorded, too, where tracefs is mounted on /sys/kernel/tracing and may be used (root);
    a trace without them is good for `pgtbl replay`, not for `pgtbl race`. Exit status: that of COMMAND.
    """
    from ._record import RecordError
    from ._record import record as run

    path = output or f"{Path(command[0]).name}.jsonl.gz"
    try:
        got = run(command, path, name=name)
    except (RecordError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{path}: {got['events']:,} events, {got['faults']:,} of them page faults", err=True)
    if got["why_no_faults"]:
        click.echo(f"no page faults were recorded: {got['why_no_faults']}", err=True)
    elif got["lost"]:
        click.echo(f"{got['lost']:,} events were lost", err=True)
    sys.exit(got["rc"] if 0 <= got["rc"] < 256 else 1)


COMMANDS = (replay, record)
