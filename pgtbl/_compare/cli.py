"""`pgtbl compare`: the laboratory against recorded outcomes, or against the kernel that runs here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

__all__ = ["compare"]


def _writable(_context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    if path not in (None, "-") and not Path(str(path)).resolve().parent.is_dir():
        raise click.BadParameter(f"{path!r}: there is no such folder", param=option)
    return path


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[IO[str] | None]:
    """A file to write lines to: gzipped where its name ends so; - is standard output."""
    if path is None:
        yield None
    elif path == "-":
        yield sys.stdout
    elif path.endswith(".gz"):
        import gzip

        with gzip.open(path, "wt", encoding="utf-8") as file:
            yield file
    else:
        with Path(path).open("w", encoding="utf-8") as file:
            yield file


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False), required=False)
@click.option(
    "--only",
    multiple=True,
    metavar="PREFIX",
    help="Only scenarios whose id begins so; may be repeated.",
)
@click.option(
    "--era",
    default=None,
    metavar="NAME",
    help="Whose rules the laboratory follows.  [default: v6.18]",
)
@click.option(
    "--json",
    "json_file",
    default=None,
    metavar="FILE",
    callback=_writable,
    help="Write sums and differences as JSON; - is standard output, instead of the tables.",
)
@click.option(
    "--outcomes",
    default=None,
    metavar="FILE",
    callback=_writable,
    help="Write what the laboratory observed, in the form in which outcomes are recorded.",
)
@click.option(
    "--unsupported",
    is_flag=True,
    help="Also count what is missing, and what differs first, over all scenarios.",
)
@click.option("--all", "everything", is_flag=True, help="Print every difference of every scenario.")
def compare(
    file: str | None,
    only: tuple[str, ...],
    era: str | None,
    json_file: str | None,
    outcomes: str | None,
    unsupported: bool,
    everything: bool,
) -> None:
    """Hold the laboratory against Linux, scenario by scenario.

    FILE has scenarios, one JSON object a line (plain or gzipped), each a list of mm operations and what Linux did. Three
    verdicts each: core, detail and mechanism.

    Exit status: 1 where a scenario that was compared differs in core; 2 where a line of FILE is no scenario (the others
    still run) or an option is wrong; 130 after Ctrl-C.
    """
    if file is None:
        raise click.UsageError("a FILE of scenarios is needed")
    from .engine import LaboratoryPlayer, RecordedPlayer, compare_scenarios
    from .engine import only as only_these
    from .laboratory import Laboratory
    from .report import print_comparison
    from .scenario import read_scenarios

    scenarios = read_scenarios(file)
    if only:
        scenarios = only_these(scenarios, only)
    try:
        laboratory = Laboratory(era)
        laboratory.probe()
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--era") from None
    with _opened(outcomes) as sink:
        comparison = compare_scenarios(
            scenarios, RecordedPlayer(), LaboratoryPlayer(laboratory), sink
        )
    if json_file == "-":
        click.echo(comparison.to_json(), nl=False)
    else:
        limits: dict[str, Any] = {"most": None, "scenarios": None} if everything else {}
        print_comparison(comparison, unsupported=unsupported, **limits)
        if json_file is not None:
            comparison.to_json(json_file)
    if comparison.interrupted:
        sys.exit(130)
    if comparison.core_differs:
        sys.exit(1)
    if comparison.problems:
        sys.exit(2)
