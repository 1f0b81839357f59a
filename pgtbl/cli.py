"""The command line: `pgtbl race` and friends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from . import __version__, _arch_cli, _explore_cli, _replay_cli, _torture_cli
from ._compare.cli import compare
from ._options import arch_list, era_list, json_option, set_option, writable, write_result

# Heavy modules (NumPy, matplotlib, rich) are imported by the commands that use them.

DEFAULT_ERAS = "v6.4,v6.5,v6.6"


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # click ends without a word
        except OSError as error:
            raise click.ClickException(str(error)) from None
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pgtbl")
def main() -> None:
    """A laboratory for page-table concurrency."""


def _plot_file(_context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    if path is not None and Path(path).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise click.BadParameter(f"{path!r}: the suffix must be .png, .svg or .pdf", param=option)
    return path


class _WorkloadType(click.ParamType):  # type: ignore[type-arg]
    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from ._synthetic import check_workload

        try:
            return check_workload(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--seconds",
        type=float,
        default=30.0,
        show_default=True,
        help="Measured time, over all eras and rounds.",
    ),
    click.option(
        "--rounds",
        type=int,
        default=None,
        help="Rounds of each era.  [default: 15, fewer if --seconds is short]",
    ),
    click.option(
        "--walkers",
        type=int,
        default=1,
        show_default=True,
        help="Threads that replay the workload, in the same address spaces.",
    ),
    click.option(
        "--collapsers",
        type=int,
        default=1,
        show_default=True,
        help="Threads that keep collapsing 2 MiB extents, each its own.",
    ),
    click.option(
        "--collapse-rate",
        type=float,
        default=1000.0,
        show_default=True,
        metavar="PER_S",
        help="Extents that each collapser turns over a second at most, in every era; 0: without a pause.",
    ),
    click.option(
        "--mms",
        type=int,
        default=2,
        show_default=True,
        help="Other address spaces that map the file being collapsed.",
    ),
    click.option(
        "--eras",
        default=DEFAULT_ERAS,
        show_default=True,
        callback=era_list,
        metavar="NAMES",
        help="Eras to race, separated by commas (see `pgtbl eras`).",
    ),
    click.option(
        "--trace",
        type=click.Path(exists=True, dir_okay=False),
        default=None,
        metavar="FILE",
        help="A recorded trace to replay.  [default: sqlite, which ships with pgtbl]",
    ),
    click.option(
        "--workload",
        type=_WorkloadType(),
        default=None,
        help="What the walkers do: trace, or a synthetic workload (listed below).  [default: trace; aliases where there "
        "are no huge pages (--arch arm)]",
    ),
    click.option(
        "--seed",
        type=int,
        default=1,
        show_default=True,
        help="Seed of the schedule and of what is random.",
    ),
    set_option,
    click.option(
        "--attribute",
        is_flag=True,
        help="Instead of --eras, go from v6.4 to v6.6 one group of switches at a time.",
    ),
    click.option(
        "--memory",
        default=None,
        metavar="SIZE",
        help='Simulated memory, such as "256MiB"; with --arch, of an x86-64 machine: powerpc gets 16 times as much, sparc64 '
        "4 times.  [default: what the workload needs]",
    ),
    click.option(
        "--arch",
        default=None,
        callback=arch_list,
        metavar="NAMES",
        help="Race on these architectures, separated by commas, side by side in checked builds; all: on every one.  [default: x86-64]",
    ),
    json_option("Write the result as JSON; - is standard output, instead of the table."),
    click.option(
        "--plot",
        "plot_file",
        default=None,
        metavar="FILE",
        callback=lambda c, o, p: _plot_file(c, o, writable(c, o, p)),
        help="Draw latency distributions and the ledger; PNG, SVG or PDF by the suffix.",
    ),
)


def _race_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


class _RaceCommand(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ._race import workload_table

        with formatter.section("Workloads"):
            formatter.write_dl(list(workload_table().items()))


@main.command(cls=_RaceCommand)
@_race_options
def race(
    eras: list[str],
    json_file: str | None,
    plot_file: str | None,
    **arguments: Any,
) -> None:
    """Race collapsers against walkers, before and after Linux 6.6.

    Replays a recorded program in walker threads while collapser threads keep collapsing extents of a shared
    file, under the rules of several kernels in alternating rounds, and prints throughput, fault latencies (from
    when each was due), the lock ledger, and the gain of v6.6 over v6.4. Ctrl-C prints what there is.
    """
    from ._interrupts import Interrupts
    from ._race import make_order, run_order
    from .errors import PgtblError
    from .report import print_result, progress_bar

    if json_file == "-" and plot_file == "-":
        raise click.BadParameter("'-': JSON goes to standard output already")
    try:
        order = make_order(eras=eras, **arguments)
    except (ValueError, TypeError, OSError) as error:
        raise click.BadParameter(str(error)) from None
    with Interrupts():
        try:
            with progress_bar(order.seconds) as tell:
                result = run_order(order, tell)
        except ValueError as error:  # switches that are not safe together
            raise click.BadParameter(str(error)) from None
        except (PgtblError, MemoryError) as error:
            raise click.ClickException(str(error)) from None

        write_result(
            lambda: print_result(result),
            json_file,
            result.to_json,
            ("--plot", plot_file if result.eras else None, result.plot),
        )
        if result.interrupted:
            sys.exit(130)


@main.command()
def eras() -> None:
    """List the eras and their switches."""
    from .report import eras_table, output_console

    output_console().print(eras_table())


for _command in (
    *_explore_cli.COMMANDS,
    *_arch_cli.COMMANDS,
    *_torture_cli.COMMANDS,
    compare,
    *_replay_cli.COMMANDS,
):
    main.add_command(_command)
