"""The commands of the explorer: `pgtbl litmus`, `pgtbl explore`, `pgtbl museum`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ._options import json_option, writable, write_files


def _write_json(result: Any, file: str) -> None:
    text = json.dumps(result) + "\n"
    if file == "-":
        click.echo(text, nl=False)
    else:
        write_files(("--json", file, lambda path: Path(path).write_text(text, encoding="utf-8")))


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


def _list(json_file: str | None) -> None:
    from ._explore import scenarios

    rows = scenarios()
    if json_file is not None:
        _write_json({"scenarios": rows}, json_file)
    if json_file != "-":
        width = max(len(row["name"]) for row in rows)
        for row in rows:
            click.echo(f"{row['name']:<{width}}  {row['about']} ({', '.join(row['eras'])})")


def _guards(json_file: str | None, seconds: float | None) -> None:
    from ._explore import check_guard, guards

    rows = []
    for row in guards():
        rows.append(check_guard(row["name"], seconds or 10.0))
        if json_file != "-":
            r = rows[-1]
            how = f"{r['scenario']}, {r['era']}, {r['memory']}: {r['executions']} executions, {r['seconds']:.2f} s"
            click.echo(f"{r['name']:<24} {how if r['caught'] else 'NOT CAUGHT'}")
    score = sum(r["caught"] for r in rows) / len(rows)
    if json_file is not None:
        _write_json({"guards": rows, "score": score}, json_file)
    if json_file != "-":
        click.echo(f"score: {100 * score:.1f} % of {len(rows)} guards")
    if score < 1:
        sys.exit(1)


def estimate(executions: int, done: float) -> str:
    """How much is left, in words: D. Knuth's estimate, from the part of the search that is done."""
    if executions == 0 or done <= 0:
        return f"{executions:,} executions"
    left = executions / done - executions
    return f"{executions:,} executions, some {float(f'{left:.1g}'):,.0f} left"


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, float], None]]:
    """A bar on standard error, where that is a terminal; yields what to tell it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>5.1f} %  {task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=1.0)

        def tell(executions: int, _blocked: int, done: float) -> None:
            bar.update(task, description=estimate(executions, done), completed=done)

        yield tell


def _finish(verdict: Any, json_file: str | None) -> None:
    if json_file is not None:
        _write_json(verdict.to_dict(), json_file)
    if json_file != "-":
        click.echo(str(verdict))
        if verdict.violation is not None:
            click.echo(f"  replay: pgtbl explore --replay {verdict.violation.token}")
    if verdict.violation is not None:
        sys.exit(1)
    if not verdict.complete:
        sys.exit(3)


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_them", is_flag=True, help="List the scenarios.")
@click.option(
    "--guards",
    "all_guards",
    is_flag=True,
    help="Remove every guard in turn, and report which are caught.",
)
@click.option(
    "--without", multiple=True, metavar="GUARD", help="Remove this guard; may be repeated."
)
@click.option("--era", default=None, metavar="E", help="Under the rules of this release.")
@click.option(
    "--memory",
    default="rc11",
    show_default=True,
    metavar="M",
    help="Memory model: sc, tso, ra or rc11.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=None, metavar="S", help="Stop after so long."
)
@click.option(
    "--executions",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Stop after so many.",
)
@click.option(
    "--exhaustive", "engine", flag_value="exhaustive", help="Explore interleavings, all (sc, tso)."
)
@click.option("--random", "engine", flag_value="random", help="Explore interleavings, at random.")
@click.option(
    "--pct", "engine", flag_value="pct", help="Explore interleavings by random priorities (PCT)."
)
@click.option(
    "--bound", type=click.IntRange(min=0), default=None, metavar="K", help="At most K preemptions."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of --random and --pct.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes to share the work.",
)
@click.option(
    "--reuse-addresses",
    is_flag=True,
    help="What is freed may be handed to the next allocation, so that ABA shows.",
)
@click.option("--replay", "token", default=None, metavar="TOKEN", help="Run one execution again.")
@click.option(
    "--html",
    "html_file",
    default=None,
    metavar="FILE",
    callback=writable,
    help="Write a page to step through.",
)
@json_option("Write the verdict as JSON; - is standard output.")
def explore(
    name: str | None,
    list_them: bool,
    all_guards: bool,
    without: tuple[str, ...],
    era: str | None,
    memory: str,
    seconds: float | None,
    executions: int | None,
    engine: str | None,
    bound: int | None,
    seed: int,
    workers: int,
    reuse_addresses: bool,
    token: str | None,
    html_file: str | None,
    json_file: str | None,
) -> None:
    """Explore a scenario on the shipped sources: every outcome, or the one that breaks an invariant.

    Exit status: 0 exhausted without a violation, 1 violation, 3 stopped by a bound.
    """
    from . import _model
    from ._explore import explore as run
    from ._explore import replay

    if list_them:
        return _list(json_file)
    if all_guards:
        return _guards(json_file, seconds)
    try:
        if token is not None:
            verdict = replay(token)
        elif name is None:
            raise click.UsageError("which scenario? `pgtbl explore --list` names them")
        else:
            if bound is not None:
                engine = "exhaustive"
            options: dict[str, Any] = {
                "without": without,
                "era": era,
                "memory": memory,
                "seconds": seconds,
                "executions": executions,
                "engine": engine or "graphs",
                "preemptions": -1 if bound is None else bound,
                "seed": seed,
                "reuse_addresses": reuse_addresses,
            }
            with progress_bar() as tell:
                if workers > 1:
                    from concurrent.futures import ProcessPoolExecutor
                    from multiprocessing import get_context

                    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                        verdict = run(name, executor=pool, progress=tell, **options)
                else:
                    verdict = run(name, progress=tell, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except _model.ProgramError as error:
        # Not 1, which says that an invariant is broken.
        raise click.UsageError(str(error)) from None
    if html_file is not None:
        from ._explore import write_html

        write_files(("--html", html_file, lambda path: write_html(verdict, path)))
    return _finish(verdict, json_file)


@click.command()
@click.argument("bug", required=False)
@json_option("Write it as JSON; - is standard output.")
def museum(bug: str | None, json_file: str | None) -> None:
    """The known bugs that the explorer can show: the counterexample, the guard, and the fixed protocol exhausted."""
    from .museum import EXHIBITS, show

    if bug is None:
        rows = [
            {"bug": e.bug, "title": e.title, "guards": list(e.guards), "history": e.history}
            for e in EXHIBITS
        ]
        if json_file is not None:
            _write_json({"museum": rows}, json_file)
        if json_file != "-":
            for e in EXHIBITS:
                click.echo(f"{e.bug}  {e.title}  [{e.needs}]")
        return
    try:
        broken, fixed, exhibit = show(bug)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if json_file is not None:
        _write_json(
            {
                "bug": exhibit.bug,
                "title": exhibit.title,
                "broken": broken.to_dict(),
                "fixed": fixed.to_dict(),
            },
            json_file,
        )
    if json_file != "-":
        how, mended = f"Without the guard {exhibit.needs}:", "With it:"
        if len(exhibit.guards) > 1:
            how, mended = f"Without the guards {exhibit.needs}:", "With them:"
        if exhibit.mended:
            how, mended = f"In {exhibit.era}:", f"In {exhibit.mended}:"
        click.echo(f"{exhibit.bug}: {exhibit.title}\n{exhibit.history}\n\n{how}")
        click.echo(str(broken))
        click.echo(f"\n{mended}")
        click.echo(str(fixed))
    if broken.violation is None or not fixed.complete:
        sys.exit(1)


COMMANDS = [litmus, explore, museum]
