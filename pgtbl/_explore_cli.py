"""The commands of the explorer: `pgtbl litmus`, `pgtbl explore`, `pgtbl museum`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click


def _write_json(result: Any, file: str) -> None:
    text = json.dumps(result) + "\n"
    if file == "-":
        click.echo(text, nl=False)
    else:
        Path(file).write_text(text)


def _writable(_context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    if path not in (None, "-") and not Path(str(path)).resolve().parent.is_dir():
        raise click.BadParameter(f"{path!r}: there is no such folder", param=option)
    return path


def json_option(help: str) -> Any:
    return click.option(
        "--json", "json_file", default=None, metavar="FILE", callback=_writable, help=help
    )


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@json_option("Write the counts as JSON, in the file's order; - is standard output.")
def litmus(file: str, json_file: str | None) -> None:
    """Count the executions of litmus programs under SC, RA, RC11 and TSO.

    FILE has one JSON program a line, plain or gzip. Where a program brings its own "executions", they are
    compared, and the exit status is 1 if any differ.
    """
    from .litmus import count, read_programs

    programs: list[dict[str, Any]] = []
    wrong: list[str] = []
    try:
        # All of the file is checked before any of it runs.
        for number, raw, program in list(read_programs(file)):
            counts = count(program)
            programs.append({"executions": counts})
            expected = raw.get("executions")
            if isinstance(expected, dict):
                wrong += [
                    f"line {number}: {model} has {counts[model]} executions, the file says {expected[model]}"
                    for model in counts
                    if model in expected and expected[model] != counts[model]
                ]
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if json_file is not None:
        _write_json({"programs": programs}, json_file)
    if json_file != "-":
        totals = {m: sum(p["executions"][m] for p in programs) for m in ("sc", "ra", "rc11", "tso")}
        click.echo(
            f"{len(programs)} programs; executions: "
            + ", ".join(f"{m} {n}" for m, n in totals.items())
        )
    for line in wrong:
        click.echo(line, err=True)
    if wrong:
        sys.exit(1)


COMMANDS = [litmus]
