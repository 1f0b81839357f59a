"""The tables that a race prints."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from . import _core
from ._result import IDLE, LOADED, SPLIT, EraResult, RaceResult
from ._stats import CONTROL, LATENCY_KEYS, NO_INTERVAL, SATURATED_NS, Ratio, summary

WIDTH = 100
PERCENTILE_NAMES = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9", "max": "worst"}


# ---- numbers -----------------------------------------------------------------------------------------


def duration(ns: float | None) -> str:
    """A time for people: three digits and a unit."""
    if ns is None:
        return "-"
    for limit, unit, factor in ((1e3, "ns", 1.0), (1e6, "us", 1e3), (1e9, "ms", 1e6)):
        if ns < limit * 0.9995:
            return f"{_three(ns / factor)} {unit}"
    return f"{_three(ns / 1e9)} s"


def _three(x: float) -> str:
    if x == 0:
        return "0"
    if x >= 99.95:
        return f"{x:.0f}"
    if x >= 9.995:
        return f"{x:.1f}"
    return f"{x:.2f}"


def amount(x: float | None) -> str:
    """A count or a rate for people."""
    if x is None:
        return "-"
    if x >= 999.5:
        return f"{x:,.0f}"
    if x == int(x):
        return f"{x:.0f}"
    return _three(x)


def verdict(ratio: Ratio | None) -> Text:
    """A ratio with its interval, or why nothing is claimed."""
    if ratio is None or ratio.ratio is None:
        return Text("-", style="dim")
    if ratio.claim:
        return Text(
            f"{_three(ratio.ratio)} ({_three(ratio.low or 0)} to {_three(ratio.high or 0)})",
            "bold green",
        )
    if ratio.why == "no difference":
        return Text(f"same ({_three(ratio.low or 0)} to {_three(ratio.high or 0)})")
    if ratio.why in (NO_INTERVAL, CONTROL):
        return Text(_three(ratio.ratio), style="dim")
    return Text(f"no claim: {ratio.why}", style="yellow")


def _quotient(a: float, b: float) -> str:
    """What became of an exact count."""
    if a == b:
        return "same" if a else "-"
    if b == 0:
        return "gone"
    if a == 0:
        return "new"
    return _three(a / b)


# ---- the main table ------------------------------------------------------------------------------------


@dataclass
class Row:
    """One line: what, its figure in an era, and how it is shown."""

    what: str
    of: Callable[[EraResult], float | None]
    show: Callable[[float | None], str] = amount
    gain: str = ""  # key of RaceResult.gain; "": quotient of the figures


def _per_collapse(total: Callable[[EraResult], float]) -> Callable[[EraResult], float | None]:
    return lambda era: total(era) / era.collapses if era.collapses else None


def _collapser(*names: str) -> Callable[[EraResult], float | None]:
    return _per_collapse(lambda era: float(sum(era.ledger_collapse[n] for n in names)))


def _total(*names: str) -> Callable[[EraResult], float | None]:
    return lambda era: float(sum(era.ledger[n] for n in names))


def _each(total: str, count: str) -> Callable[[EraResult], float | None]:
    """Of the collapsers: what one of many took."""
    return lambda era: era.ledger_collapse[total] / max(1, era.ledger_collapse[count])


def _waited(ledger: Mapping[str, int], prefixes: tuple[str, ...]) -> int:
    return sum(
        n for name, n in ledger.items() if name.endswith(".wait_ns") and name.startswith(prefixes)
    )


def _walkers_waited(*prefixes: str) -> Callable[[EraResult], float | None]:
    return lambda era: _waited(era.ledger_walkers, prefixes) / era.seconds if era.seconds else None


def _collapser_waited(*prefixes: str) -> Callable[[EraResult], float | None]:
    return _per_collapse(lambda era: float(_waited(era.ledger_collapse, prefixes)))


_OTHER_LOCKS = (
    "vma_lock",
    "i_mmap",
    "anon_vma",
    "folio_lock",
    "ptl",
    "pml",
    "page_cache",
    "allocator",
    "rcu_lock",
    "lock",
)


def _per_second(ns: float | None) -> str:
    return "-" if ns is None else f"{duration(ns)}/s"


def _latency_rows(window: int, prefix: str) -> list[Row]:
    def of(key: str) -> Callable[[EraResult], float | None]:
        return lambda era: era.summary(window)[key]

    return [Row(PERCENTILE_NAMES[key], of(key), duration, prefix + key) for key in LATENCY_KEYS]


def _call_rows(name: str, prefix: str, calls: Callable[[EraResult], Sequence[Any]]) -> list[Row]:
    def of(key: str) -> Callable[[EraResult], float | None]:
        return lambda era: summary(calls(era))[key]

    return [Row(f"{name}, {key}", of(key), duration, f"{prefix}_{key}") for key in ("p50", "p99")]


def sections(operation: str) -> list[tuple[str, list[Row]]]:
    """Every line of the main table. `operation`: what the walkers' figures count ("fault")."""
    locks = [
        ("mmap_lock, read", "mmap_lock.read"),
        ("mmap_lock, write", "mmap_lock.write"),
        ("mmap_lock, write, failed tries", "mmap_lock.write.failed"),
    ]
    return [
        (
            "Throughput",
            [
                Row(f"{operation}s/s", lambda era: era.faults_per_s, amount, "faults_per_s"),
                Row("collapses/s", lambda era: era.collapses_per_s, amount, "collapses_per_s"),
            ],
        ),
        (f"{operation.capitalize()} latency, collapsers at work", _latency_rows(LOADED, "")),
        (f"{operation.capitalize()} latency, collapsers idle", _latency_rows(IDLE, "idle_")),
        (
            "MADV_COLLAPSE",
            [
                *_call_rows("small pages to a huge one", "collapse", lambda era: era.collapse_ns),
                *_call_rows("huge already, in another mm", "install", lambda era: era.install_ns),
            ],
        ),
        (
            "Locks per collapse (collapsers)",
            [
                *(Row(what, _collapser(name)) for what, name in locks),
                Row("VMA locks", _collapser("vma_lock.read", "vma_lock.write")),
                Row("i_mmap, read", _collapser("i_mmap.read")),
                Row("i_mmap, write", _collapser("i_mmap.write")),
                Row("folio lock", _collapser("folio_lock")),
                Row("ptl", _collapser("ptl")),
                Row("pml", _collapser("pml")),
            ],
        ),
        (
            "Time per collapse (collapsers)",
            [
                Row("mmap_lock held for write", _collapser("mmap_lock.write.held_ns"), duration),
                Row("mmap_lock held for read", _collapser("mmap_lock.read.held_ns"), duration),
                Row("mmap_lock waited for", _collapser_waited("mmap_lock"), duration),
                Row(
                    "VMA locks held",
                    _collapser("vma_lock.read.held_ns", "vma_lock.write.held_ns"),
                    duration,
                ),
                Row(
                    "i_mmap held",
                    _collapser("i_mmap.read.held_ns", "i_mmap.write.held_ns"),
                    duration,
                ),
                Row("folio lock held, each", _each("folio_lock.held_ns", "folio_lock"), duration),
                Row("ptl and pml held", _collapser("ptl.held_ns", "pml.held_ns"), duration),
                Row("other locks waited for", _collapser_waited(*_OTHER_LOCKS), duration),
            ],
        ),
        (
            "What the walkers waited for",
            [
                Row("mmap_lock", _walkers_waited("mmap_lock"), _per_second),
                Row("other locks", _walkers_waited(*_OTHER_LOCKS), _per_second),
            ],
        ),
        (
            "Retraction, all loaded rounds",
            [
                Row("done", _total("retract.done")),
                Row("put off", _total("retract.put_off")),
                Row("forgotten", _total("retract.forgotten")),
            ],
        ),
        (
            "Page tables taken away",
            [
                Row("freed at once, per collapse", _collapser("table.pte.freed_at_once")),
                Row("deferred to RCU, per collapse", _collapser("table.pte.deferred")),
                Row("pending at most", lambda era: float(era.pending_max)),
            ],
        ),
        (
            "TLB, per collapse",
            [
                Row("flushes", _collapser("tlb.flush")),
                Row("IPIs", _collapser("ipi")),
            ],
        ),
    ]


def operation_name(result: RaceResult) -> str:
    """What the headline figures count."""
    kinds = result.workload["primary"]
    return "fault" if set(kinds) <= {"anon", "file", "same_vma"} else "call"


def _gain_cell(result: RaceResult, row: Row) -> Text:
    if result.between is None:
        return Text("")
    if row.gain:
        cell = verdict(result.gain.get(row.gain))
        if row.gain.endswith("_per_s") and result.gain[row.gain].claim:
            cell.append(" *", "dim")
        return cell
    a, b = (row.of(result.eras[name]) for name in result.between)
    return Text(_quotient(a, b) if a is not None and b is not None else "-", style="dim")


def plain_table(title: str | None = None) -> Table:
    """A table as all of pgtbl's: a line under the head, and nothing around."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
    )


def main_table(result: RaceResult, arch: str | None = None) -> Table:
    """Throughput, latencies and the ledger, a column for each era; of one architecture, where it says which."""
    eras = {name: era for name, era in result.eras.items() if arch in (None, era.arch)}
    pair = result.between if result.between and set(result.between) <= set(eras) else None
    table = plain_table()
    table.add_column("", no_wrap=True)
    for name in eras:
        table.add_column(name, justify="right", no_wrap=True)
    if pair:
        table.add_column(f"gain, {pair[0]} / {pair[1]}", justify="right", no_wrap=True)
    for i, (heading, rows) in enumerate(sections(operation_name(result))):
        if i:
            table.add_section()
        table.add_row(Text(heading, style="bold cyan"))
        for row in rows:
            values = [row.show(row.of(era)) for era in eras.values()]
            if all(v in ("-", "0", "0 ns", "0 ns/s") for v in values) and not row.gain:
                continue
            gain = [_gain_cell(result, row)] if pair else []
            table.add_row(Text("  " + row.what), *values, *gain)
    return table


def tables_table(result: RaceResult) -> Table:
    """The arch matrix: what the page tables of each architecture and era held on to."""
    table = plain_table("Page tables, over the loaded parts of all rounds")
    table.add_column("", no_wrap=True)
    heads = (
        "freed",
        "deferred",
        "waiting",
        "pages",
        "pages/table",
        "least",
        "memory",
        "grace periods",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name, era in result.eras.items():
        row = era.tables()
        table.add_row(
            name,
            f"{row['freed']:,}",
            f"{row['deferred']:,}",
            f"{row['pending_max']:,}",
            f"{row['pages_allocated']:,}",
            f"{row['pages_per_table']:.3f}",
            f"{1 / era.tables_per_page:.3f}",
            "-" if row["memory"] is None else f"{row['memory'] / 2**20:,.1f} MiB",
            f"{row['grace_periods']:,}",
        )
    table.caption = (
        "freed, deferred (by pte_free_defer), waiting (for a grace period, at most): PTE tables. pages: taken for PTE "
        "tables; pages/table: of these, for each table; least: a table's part of a page that is full. memory: that tables of "
        "all levels took at once, at most."
    )
    table.caption_justify = "left"
    return table


# ---- the split -----------------------------------------------------------------------------------------


def split_table(result: RaceResult) -> Table | None:
    """What each kind of operation gains."""
    if result.between is None or not result.split:
        return None
    a, b = result.between
    table = plain_table(
        "Who gains: each operation's own time under load, without the wait for its turn"
    )
    table.add_column("", max_width=31)
    last = "v6.6" if result.attribution else b
    for head in ("p99 " + a, "p99 " + last, "gain p99", "gain p99.9"):
        table.add_column(head, justify="right", no_wrap=True)
    for what, ratios in result.split.items():
        values = [result.eras[n].own_summary(SPLIT[what])["p99"] for n in (a, b)]
        table.add_row(what, *map(duration, values), _short(ratios["p99"]), _short(ratios["p999"]))
    return table


def _short(ratio: Ratio) -> Text:
    if ratio.claim or ratio.ratio is None:
        return verdict(ratio)
    return Text("same" if ratio.why == "no difference" else ratio.why, style="yellow")


def ladder_table(result: RaceResult) -> Table:
    """With --attribute: the way from v6.4 to v6.6, a line for each group of switches."""
    table = plain_table(
        "From v6.4 to v6.6, a group of switches at a time: p99 of each operation's own time, under load"
    )
    kinds = {
        "anon": "anonymous fault, other VMA",
        "file": "file fault, other VMA",
        "same VMA": "fault in the VMA collapsed, other extent",
        "populate": "populate one page",
        "mincore": "mincore",
        "mmap": "mmap and munmap, untouched",
    }
    table.add_column("", no_wrap=True)
    shown = {
        head: SPLIT[what]
        for head, what in kinds.items()
        if any(era.count(LOADED, SPLIT[what]) for era in result.eras.values())
    }
    for head in shown:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("held", justify="right", no_wrap=True)
    for name, era in result.eras.items():
        held = _collapser("mmap_lock.write.held_ns")(era)
        cells = [duration(era.own_summary(k)["p99"]) for k in shown.values()]
        table.add_row(name, *cells, duration(held))
    table.caption = "Each line has the switches of those above, too. held: mmap_lock held for write, per collapse."
    table.caption_justify = "left"
    return table


# ---- notes ---------------------------------------------------------------------------------------------


def _notes(result: RaceResult) -> Iterator[str]:
    w, m = result.workload, result.machine
    if result.interrupted:
        yield f"INTERRUPTED: these are the {result.rounds} whole rounds that were done."
    yield (
        f"Workload {w['name']}: {w['what']}. {w['walkers']} walker(s), {w['collapsers']} collapser(s), "
        f"{w['mms']} other mm(s), seed {w['seed']}."
    )
    for note in w["notes"]:
        yield note[0].upper() + note[1:] + "."
    if w["replaced"]:
        each = "; ".join(f"{what}: {n}" for what, n in sorted(w["replaced"].items()))
        yield f"Replayed in the nearest form, each time through the trace: {each}."
    capacity, each = f"{w['capacity_per_s']:,.0f} operations/s", "all eras"
    if len(w["arch"]) > 1:
        capacity = ", ".join(f"{n:,.0f} on {arch}" for arch, n in w["capacity_of"].items())
        capacity, each = f"{capacity} (operations/s)", "all eras of each"
    yield (
        f"Load: half of v6.4's closed-loop capacity of {capacity} with the collapsers "
        f"idle, one Poisson schedule for {each}; latencies count from when an operation was due. "
        f"{result.rounds} rounds of each era in turn: medians of the rounds, intervals 95 %, bootstrap over rounds."
    )
    yield from _memory_note(w)
    if rate := w["collapse_rate"]:
        yield f"Each collapser turns over {rate:g} extents a second at most, the same under every era."
    behind = [n for n, e in result.eras.items() if (e.summary(LOADED)["p50"] or 0) > SATURATED_NS]
    if behind:
        yield f"{', '.join(behind)} did not keep up with the schedule: these latencies are mostly a growing queue."
    refused = sum(era.refused for era in result.eras.values())
    unserved = sum(era.unserved for era in result.eras.values())
    dropped = sum(era.dropped for era in result.eras.values())
    if refused:
        yield f"{refused:,} replayed operations were refused by the simulated kernel."
    if unserved:
        yield f"{unserved:,} operations were due, but so late that they were given up: an era could not keep up."
    if dropped:
        yield f"{dropped:,} samples had no room and are missing from the percentiles."
    if w["switches"]:
        yield (
            "Overridden in every era: "
            + ", ".join(f"{k}={v}" for k, v in w["switches"].items())
            + "."
        )
    yield f"{m['processor']}, {m['processors']} processors, {m['system']}, load {m['load'][0]}."
    yield from _verdict_notes(result)


def _memory_note(workload: Mapping[str, Any]) -> Iterator[str]:
    """Of architectures: how much memory each machine has, which differs with the size of pages."""
    if sizes := workload["memory_of"]:
        told = ", ".join(f"{size >> 20:,} MiB on {arch}" for arch, size in sizes.items())
        yield f"Simulated memory: {told}; more where pages are larger, since the program's are, too."


def _verdict_notes(result: RaceResult) -> Iterator[str]:
    noise = result.noise
    if noise.reasons:
        yield "NOISE: no gain is claimed, since " + " and ".join(noise.reasons) + "."
    elif noise.tail_reasons:
        yield ("NOISE: p99.9 is not claimed, since " + " and ".join(noise.tail_reasons) + ".")
    else:
        yield (
            f"Noise: the walkers lost {noise.stolen_idle:.2%} of their processor time to others, and were "
            f"preempted {noise.involuntary_per_s:.1f} times a second."
        )
    if any(r.claim for k, r in result.gain.items() if k.endswith("_per_s")) and result.between:
        yield f"* more is better: {result.between[1]} / {result.between[0]}."
    yield "Nanoseconds are this laboratory's, not Linux's; counts are exact."


# ---- putting it together -------------------------------------------------------------------------------


def renderable(result: RaceResult) -> RenderableType:
    """Everything that a race prints."""
    if not result.eras:
        return Text("Nothing was measured: the race ended before its first round.")
    parts: list[RenderableType] = []
    if result.attribution:
        parts += [ladder_table(result), Text("")]
    else:
        # Side by side they would be wider than any terminal.
        for arch in dict.fromkeys(era.arch for era in result.eras.values()):
            parts += [main_table(result, arch), Text("")]
    if result.workload["arch"] != ["x86-64"]:
        parts += [tables_table(result), Text("")]
    split = split_table(result)
    if split is not None:
        parts += [split, Text("")]
    notes = Table.grid(padding=(0, 1))
    for note in _notes(result):
        notes.add_row("-", note)
    return Group(*parts, notes)


def to_text(result: RaceResult) -> str:
    """The report as plain text of 100 columns."""
    file = io.StringIO()
    Console(file=file, width=WIDTH, color_system=None, legacy_windows=False).print(
        renderable(result)
    )
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def to_html(result: RaceResult) -> str:
    """The report as HTML, for notebooks."""
    console = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
    console.print(renderable(result))
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def render(*parts: RenderableType) -> str:
    """Tables and lines as plain text."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, highlight=False)
    console.print(Group(*parts))
    return console.export_text().rstrip()


def render_html(*parts: RenderableType) -> str:
    """The same for a notebook."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, highlight=False)
    console.print(Group(*parts))
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def output_console() -> Console:
    """Standard output: colours on a terminal, plain text of 100 columns in a pipe."""
    console = Console(highlight=False)
    return (
        console if console.is_terminal else Console(highlight=False, width=WIDTH, color_system=None)
    )


def print_result(result: RaceResult) -> None:
    """Prints the report: with colours on a terminal."""
    console = output_console()
    if console.is_terminal:
        console.print(renderable(result))
    else:
        print(to_text(result))


@contextmanager
def progress_bar(seconds: float) -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error; yields what to tell it: what happens, and the seconds done."""
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=seconds)

        def tell(what: str, done: float) -> None:
            bar.update(task, description=what, completed=done)

        yield tell


def eras_table() -> RenderableType:
    """The eras and their switches, and below what each switch says: beside the values there is no room for that."""
    rows = _core.switches()
    table = plain_table()
    table.padding = (0, 1, 0, 0)
    table.add_column("switch", no_wrap=True)
    for era in rows[0]["eras"]:
        table.add_column(era, justify="right", no_wrap=True)
    meanings = Table.grid(padding=(0, 2, 0, 0))
    meanings.add_column(no_wrap=True)
    meanings.add_column()
    for row in rows:
        table.add_row(row["name"], *map(str, row["eras"].values()))
        meanings.add_row(row["name"], row["doc"])
    return Group(table, Text(""), meanings)
