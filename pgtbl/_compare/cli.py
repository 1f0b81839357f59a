"""`pgtbl compare`: the laboratory against recorded outcomes, or against the kernel that runs here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from .._options import json_option, writable, write_result

if TYPE_CHECKING:
    from .engine import Player
    from .search import Finding

__all__ = ["compare"]


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
    "--host",
    "with_host",
    is_flag=True,
    help="Compare with the kernel that runs here, instead of what is recorded in FILE.",
)
@click.option(
    "--play",
    type=click.Choice(["laboratory", "host"]),
    default="laboratory",
    show_default=True,
    help="Who is held against the records: with host, the kernel that runs here.",
)
@click.option(
    "--random",
    "count",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Instead of FILE: N random scenarios, on the laboratory and on the kernel that runs here.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of --random.")
@click.option(
    "--save",
    default=None,
    metavar="FILE",
    callback=writable,
    help="With --random: write the smallest scripts that differ, as a file of scenarios.",
)
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
@json_option("Write sums and differences as JSON; - is standard output, instead of the tables.")
@click.option(
    "--outcomes",
    default=None,
    metavar="FILE",
    callback=writable,
    help="Write what was observed, in the form in which outcomes are recorded.",
)
@click.option(
    "--unsupported",
    is_flag=True,
    help="Also count what is missing, and what differs first, over all scenarios.",
)
@click.option("--all", "everything", is_flag=True, help="Print every difference of every scenario.")
def compare(
    file: str | None,
    with_host: bool,
    play: str,
    count: int | None,
    seed: int,
    save: str | None,
    only: tuple[str, ...],
    era: str | None,
    json_file: str | None,
    outcomes: str | None,
    unsupported: bool,
    everything: bool,
) -> None:
    """Hold the laboratory against Linux, scenario by scenario.

    FILE has scenarios, one JSON object a line (plain or gzipped), each a list of mm operations and what Linux did. Three
    verdicts each: core, detail and mechanism. With --host or --random the other side is the kernel that runs here (needs
    root and a C compiler).

    Exit status: 1 where a scenario that was compared differs in core; 2 where a line of FILE is no scenario (the others
    still run), an option is wrong, or this computer cannot play scenarios; 130 after Ctrl-C.
    """
    if (file is None) == (count is None):
        raise click.UsageError("either a FILE of scenarios or --random is needed")
    if play == "host" and (with_host or count is not None):
        raise click.UsageError("--play host is for records: without --host and --random")
    if save is not None and count is None:
        raise click.UsageError("--save needs --random")
    from .engine import LaboratoryPlayer, RecordedPlayer, compare_scenarios
    from .engine import only as only_these
    from .laboratory import Laboratory
    from .report import print_comparison, progress
    from .scenario import read_scenarios

    try:
        laboratory = Laboratory(era)
        laboratory.probe()
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--era") from None
    found: Player = _host_player() if play == "host" else LaboratoryPlayer(laboratory)
    on_host = with_host or count is not None
    expected: Player = _host_player() if on_host else RecordedPlayer()
    findings: list[Finding] = []
    try:
        if count is not None:
            from .search import search

            with progress(count) as tell:
                searched = search(count, seed, expected, found, tell)
            comparison, findings = searched.comparison, searched.findings
        else:
            assert file is not None
            scenarios = read_scenarios(file)
            if only:
                scenarios = only_these(scenarios, only)
            with _opened(outcomes) as sink, progress(None) as tell:
                comparison = compare_scenarios(scenarios, expected, found, sink, tell)
    finally:
        expected.close()
        found.close()

    def show() -> None:
        limits: dict[str, Any] = {"most": None, "scenarios": None} if everything else {}
        if findings:
            limits = {"scenarios": 0}
        print_comparison(comparison, unsupported=unsupported, **limits)
        _print_findings(findings, comparison.sides)

    write_result(
        show,
        json_file,
        comparison.to_json,
        ("--save", save, lambda path: _save(findings, path)),
    )
    if comparison.interrupted:
        sys.exit(130)
    if comparison.core_differs:
        sys.exit(1)
    if comparison.problems:
        sys.exit(2)


def _host_player() -> Player:
    from ..host import HostError
    from .engine import HostPlayer

    try:
        return HostPlayer()
    except HostError as error:
        raise click.UsageError(f"this computer cannot play scenarios: {error}") from None


def _print_findings(findings: list[Finding], sides: tuple[str, str]) -> None:
    from .report import print_finding

    for finding in findings:
        print_finding(finding, sides)


def _save(findings: list[Finding], path: str) -> None:
    from .scenario import dump_scenario

    with _opened(path) as file:
        assert file is not None
        for finding in findings:
            file.write(dump_scenario(finding.smallest) + "\n")
