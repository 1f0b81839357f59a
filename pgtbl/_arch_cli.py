"""`pgtbl arch`: the page tables of several architectures side by side, under real threads."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ._options import json_option, listed, write_result


def _names(_context: click.Context, option: click.Parameter, text: str | None) -> list[str]:
    from .arch import names

    return names() if text is None else listed(option, text, names(), "architecture")


def _table(rows: list[Any]) -> Any:
    from .report import plain_table

    table = plain_table("Page tables under churn, with walkers in them")
    table.add_column("", no_wrap=True)
    for column in (
        "freed/s",
        "deferred",
        "pages/table",
        "least",
        "waiting",
        "memory",
        "grace periods",
        "broken",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for r in rows:
        freed = r.deferred + r.gathered
        table.add_row(
            f"{r.arch} (one table)" if r.arch == "s390" and r.tables_per_page == 1 else r.arch,
            f"{freed / r.seconds:,.0f}",
            f"{r.deferred / freed:.0%}" if freed else "-",
            f"{r.pages_per_table:.3f}",
            f"{1 / r.tables_per_page:.3f}",
            f"{r.pending_max:,}",
            f"{r.bytes_max / 2**20:,.1f} MiB",
            f"{r.grace_periods:,}",
            "no" if r.clean else "YES",
        )
    table.caption = (
        "deferred: by pte_free_defer, the others in batches. pages/table: held for each table that lives, on average; least: "
        "a table's part of a page that is full. waiting: pages, for a grace period, at most. memory: of pages of tables, at "
        "most. broken: whether an invariant was."
    )
    table.caption_justify = "left"
    return table


@click.command()
@click.option(
    "--arch",
    "archs",
    default=None,
    callback=_names,
    metavar="NAMES",
    help="Architectures, separated by commas.  [default: all of them]",
)
@click.option("--era", default="v6.6", show_default=True, help="Decides the form of their tables.")
@click.option("--seconds", type=float, default=6.0, show_default=True, help="Time of all together.")
@click.option(
    "--churners", type=int, default=2, show_default=True, help="Threads that make and free."
)
@click.option("--walkers", type=int, default=1, show_default=True, help="Threads that walk.")
@click.option(
    "--batches",
    "batch_percent",
    type=int,
    default=50,
    show_default=True,
    help="Percent of the tables that go through a batch; the others are deferred.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of what is random.")
@json_option("Write the result as JSON; - is standard output, instead of the table.")
def arch(archs: list[str], json_file: str | None, **options: Any) -> None:
    """Page tables of several architectures, made, walked and freed by real threads.

    Says how many pages each way of freeing tables holds for those that live, and how many wait for a grace period. There
    are no faults here: `pgtbl race --arch` has them. Exit status 1 where an invariant is broken.
    """
    from .arch import matrix
    from .report import output_console

    try:
        rows = matrix(archs, **options)
    except (ValueError, TypeError) as error:
        raise click.BadParameter(str(error)) from None
    write_result(
        lambda: output_console().print(_table(rows)),
        json_file,
        lambda: json.dumps({"arch": [r.to_dict() for r in rows]}, indent=2) + "\n",
    )
    for r in rows:
        for line in r.breaches:
            click.echo(f"{r.arch}: {line}", err=True)
    if not all(r.clean for r in rows):
        sys.exit(1)


COMMANDS = (arch,)
