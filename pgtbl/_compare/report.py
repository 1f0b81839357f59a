"""The tables that a comparison prints."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ..report import output_console, plain_table
from .result import Comparison, Verdict
from .scenario import dump_scenario
from .verdict import Level

if TYPE_CHECKING:
    from .search import Finding

__all__ = ["as_html", "as_text", "group_table", "print_comparison", "unsupported_table"]

WIDTH = 110
_COLOURS = {Level.core: "red", Level.detail: "yellow", Level.mechanism: "cyan"}


def _counts_table(*heads: str) -> Table:
    table = plain_table()
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    return table


def _share(equal: int, of: int) -> str:
    return f"{equal} ({equal / of:.1%})" if of else "0"


def group_table(comparison: Comparison) -> Table:
    """How many scenarios of each group are equal."""
    table = _counts_table("group", "scenarios", *(level.name for level in Level), "skipped")
    groups = comparison.groups()
    for name, verdicts in groups.items():
        equal = (_share(sum(v.equal(level) for v in verdicts), len(verdicts)) for level in Level)
        skipped = sum(bool(v.skipped) for v in verdicts)
        table.add_row(name, str(len(verdicts)), *equal, str(skipped or "-"))
    if len(groups) > 1:
        table.add_section()
        n = len(comparison)
        table.add_row(
            "all",
            str(n),
            *(_share(comparison.equal(level), n) for level in Level),
            str(comparison.skipped or "-"),
            style="bold",
        )
    return table


def unsupported_table(comparison: Comparison) -> Table:
    """What is missing, and how many scenarios fail at it first."""
    table = plain_table()
    table.add_column("not compared, since")
    table.add_column("scenarios", justify="right")
    table.add_column("such as", style="dim")
    for why, count in comparison.unsupported().most_common():
        example = next(v.id for v in comparison.verdicts if v.skipped == why)
        table.add_row(why, str(count), example)
    return table


def kinds_table(comparison: Comparison) -> Table:
    """Scenarios by what differs first at the worst level."""
    table = plain_table()
    for head in ("level", "operation", "field"):
        table.add_column(head)
    table.add_column("scenarios", justify="right")
    for (level, op, field), count in comparison.kinds().most_common():
        table.add_row(level, op, field, str(count))
    return table


def _value(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."


def difference_table(verdict: Verdict, sides: tuple[str, str], most: int | None = None) -> Table:
    """Each difference of a scenario: step, field, both values."""
    table = plain_table(
        f"{verdict.id}: {verdict.description}" if verdict.description else verdict.id
    )
    table.add_column("step", justify="right")
    table.add_column("operation")
    table.add_column("level")
    table.add_column("field")
    table.add_column(sides[0], overflow="fold")
    table.add_column(sides[1], overflow="fold")
    shown = verdict.differences if most is None else verdict.differences[:most]
    for d in shown:
        table.add_row(
            str(d.step),
            d.op,
            Text(d.level.name, style=_COLOURS[d.level]),
            Text(d.field),
            Text(_value(d.expected)),
            Text(_value(d.found)),
        )
    if len(shown) < len(verdict.differences):
        table.caption = f"and {len(verdict.differences) - len(shown)} more"
        table.caption_justify = "left"
    return table


def _parts(
    comparison: Comparison, most: int | None, scenarios: int | None, unsupported: bool
) -> list[RenderableType]:
    parts: list[RenderableType] = []
    different = [v for v in comparison.verdicts if v.differences]
    for verdict in different if scenarios is None else different[:scenarios]:
        parts += [difference_table(verdict, comparison.sides, most), Text("")]
    if scenarios and len(different) > scenarios:
        parts += [
            Text(f"... and {len(different) - scenarios} more scenarios that differ (--all)"),
            Text(""),
        ]
    if unsupported:
        parts += [unsupported_table(comparison), Text(""), kinds_table(comparison), Text("")]
    elif comparison.skipped:
        parts += [unsupported_table(comparison), Text("")]
    for problem in comparison.problems:
        parts.append(Text(f"not read: {problem}", style="red"))
    if comparison.problems:
        parts.append(Text(""))
    parts.append(group_table(comparison))
    first, second = comparison.sides
    parts.append(
        Text(
            f"{first} against {second}. core: return values, faults, mappings, page identity, contents, page tables; "
            "detail: and folio orders, map counts, fault counts, smaps; mechanism: and mmap_lock write acquisitions, "
            "collapse scans.",
            style="dim",
        )
    )
    if comparison.mechanism_unobserved:
        parts.append(
            Text(
                f"The mechanism was not observed: {comparison.mechanism_unobserved}.",
                style="yellow",
            )
        )
    if comparison.interrupted:
        parts.append(Text("INTERRUPTED: these are the scenarios that were done.", style="red"))
    return parts


def print_comparison(
    comparison: Comparison,
    *,
    most: int | None = 6,
    scenarios: int | None = 10,
    unsupported: bool = False,
) -> None:
    """Prints the whole report; the sums come last."""
    console = output_console()
    for part in _parts(comparison, most, scenarios, unsupported):
        console.print(part)


@contextmanager
def progress(count: int | None) -> Iterator[Callable[[Verdict], None]]:
    """A bar on a terminal's standard error; nothing elsewhere. count: how many scenarios, if that is known."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _verdict: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("scenarios", total=count)

        def tell(verdict: Verdict) -> None:
            bar.update(task, advance=1, description=verdict.id)

        yield tell


def print_finding(finding: Finding, sides: tuple[str, str]) -> None:
    """The smallest script of a difference, ready to be saved, and what differs in it."""
    console = output_console()
    shown = Verdict(
        finding.smallest.id,
        "",
        finding.smallest.steps,
        finding.differences,
        description=finding.smallest.description,
    )
    console.print()
    console.print(difference_table(shown, sides, 6))
    console.print("as a line of a file of scenarios:", style="dim")
    # Not wrapped: it is to be copied.
    print(dump_scenario(finding.smallest), file=console.file)


def _record(comparison: Comparison) -> Console:
    console = Console(file=io.StringIO(), record=True, width=WIDTH)
    console.print(Group(*_parts(comparison, 20, 10, False)))
    return console


def as_text(comparison: Comparison) -> str:
    """The report as plain text."""
    if len(comparison) == 1:
        return one_line(comparison)
    return _record(comparison).export_text().rstrip()


def one_line(comparison: Comparison) -> str:
    """One scenario's verdict, and every difference on a line of its own."""
    verdict = comparison.verdicts[0]
    sides = " and ".join(comparison.sides)
    if verdict.skipped:
        return f"{verdict.id}: not compared: {verdict.skipped}"
    if not verdict.differences:
        if not verdict.mechanism_observed:
            return (
                f"{verdict.id}: {sides} are equal in core and detail; the mechanism was not observed "
                f"({comparison.mechanism_unobserved})"
            )
        return f"{verdict.id}: {sides} are equal in core, detail and mechanism"
    levels = Level if verdict.mechanism_observed else (Level.core, Level.detail)
    words = ", ".join(
        f"{level.name} {'equal' if verdict.equal(level) else 'differs'}" for level in levels
    )
    lines = [f"{verdict.id}: {sides}: {words}"]
    return "\n".join([*lines, *(f"  {d}" for d in verdict.differences)])


def as_html(comparison: Comparison) -> str:
    """The report for a notebook."""
    return _record(comparison).export_html(
        inline_styles=True,
        code_format='<pre style="line-height:1.25;font-size:85%;overflow-x:auto">{code}</pre>',
    )
