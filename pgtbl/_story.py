"""How a violation is told: the steps that matter, one column an actor, as lines or as a page to step through."""

from __future__ import annotations

import html
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._explore import Verdict, Violation

MOST_LINES = 30
Step = dict[str, Any]

_QUIET = ("light_fence",)
# Where actors meet for reasons of the laboratory: the mailboxes of flushes, the log of breaches.
_MEETING = {"CPU": 1, "machine": 0}


def give_places(steps: list[Step]) -> None:
    """An actor's first accesses of protected variables have no place yet: they get that of its next step."""
    later: dict[int, Step] = {}
    for step in reversed(steps):
        if step["file"]:
            later[step["actor"]] = step
        elif step["actor"] in later:
            step.update(
                {k: later[step["actor"]][k] for k in ("file", "line", "function")}, near=True
            )


def weights(steps: list[Step]) -> list[int]:
    """How much each step tells: 5 the end, or with a note; 4 what users wrote down, and changes of a PMD; 3
    actors meet at a variable, or something is freed; 2 a lock that others take too; 1 where the actor changes; 0 what an actor does by itself."""
    by_variable: dict[str, list[int]] = {}
    who: dict[str, set[int]] = {}
    for i, step in enumerate(steps):
        if step["variable"]:
            by_variable.setdefault(step["variable"], []).append(i)
            who.setdefault(step["variable"], set()).add(step["actor"])
    result = [0] * len(steps)
    for i, step in enumerate(steps):
        changes = (i > 0 and steps[i - 1]["actor"] != step["actor"]) or (
            i + 1 < len(steps) and steps[i + 1]["actor"] != step["actor"]
        )
        result[i] = 1 if changes else 0
        if step["kind"] == "free":
            result[i] = 3
        elif step["kind"] in ("alloc", "update") or step["text"].startswith("unlock"):
            result[i] = 2 if len(who.get(step["variable"], ())) > 1 else 1
        elif step["kind"] in _QUIET or step["function"].endswith("::unlock"):
            result[i] = 0  # the look at its own word as a lock is given back
        written_down = "." not in step["file"]
        if written_down or (step["writes"] and step["variable"].startswith("PMD")):
            result[i] = 4
        if i + 1 == len(steps) or step["note"]:
            result[i] = 5
    for places in by_variable.values():
        for one, other in pairwise(places):
            meet = steps[one]["actor"] != steps[other]["actor"]
            if meet and (steps[one]["writes"] or steps[other]["writes"]):
                for i in (one, other):
                    if steps[i]["kind"] not in _QUIET:
                        result[i] = max(result[i], _MEETING.get(steps[i]["variable"].split()[0], 3))
    return result


def _lines_of(chosen: list[bool], steps: list[Step]) -> int:
    """Chosen steps, and one line for each stretch of one actor's steps that is left out."""
    lines = 0
    out: int | None = None
    for step, told in zip(steps, chosen, strict=True):
        if told:
            lines += 1
            out = None
        elif out != step["actor"]:
            lines += 1
            out = step["actor"]
    return lines


def choose(steps: list[Step], room: int) -> list[bool]:
    """Which steps are told: those that tell most, and of these the last ones, as far as there is room."""
    chosen = [False] * len(steps)
    weight = weights(steps)
    order = sorted(range(len(steps)), key=lambda i: (-weight[i], -i))
    for i in order:
        chosen[i] = True
        if _lines_of(chosen, steps) > room and i + 1 < len(steps):
            chosen[i] = False
    return chosen


def place_of(step: Step) -> str:
    """Source line and function."""
    if not step["file"]:
        return ""
    return f"{'near ' * step['near']}{step['file']}:{step['line']} {step['function']}"


def _left_out(steps: list[Step]) -> str:
    functions = list(dict.fromkeys(s["function"] for s in steps if s["function"]))
    names = ", ".join(functions[:2]) + (", ..." if len(functions) > 2 else "")
    plural = "steps" if len(steps) > 1 else "step"
    return f"... {len(steps)} {plural}" + (f" in {names}" if names else "")


def _column(actor: int, text: str) -> str:
    return "  " + "    " * actor + chr(ord("A") + actor) + " " + text


def _heading(violation: Violation) -> str:
    names = [f"{chr(ord('A') + i)} is {role}" for i, role in enumerate(violation.roles) if role]
    return "  " + "; ".join(names) if names else ""


def _shown(steps: list[Step], room: int) -> list[str]:
    chosen = choose(steps, room)
    lines: list[str] = []
    held: dict[int, str] = {}
    i = 0
    while i < len(steps):
        if not chosen[i]:
            end = i
            while end < len(steps) and not chosen[end] and steps[end]["actor"] == steps[i]["actor"]:
                end += 1
            lines.append(_column(steps[i]["actor"], _left_out(steps[i:end])))
            i = end
            continue
        step = steps[i]
        line = f"{_column(step['actor'], step['text']):<58} {place_of(step)}"
        if step["locks"] != held.get(step["actor"], ""):
            line += f"   [holds {step['locks'] or 'nothing'}]"
            held[step["actor"]] = step["locks"]
        if step["note"]:
            line += f"   <- {step['note']}"
        lines.append(line.rstrip())
        i += 1
    if len(lines) > room:  # actors that take turns all the time
        lines = [
            f"  ... {len(lines) - room + 1} lines before this",
            *lines[len(lines) - room + 1 :],
        ]
    return lines


def trace_lines(violation: Violation) -> list[str]:
    """One column per actor, with values, file and line, locks, and what was missing; at most 30 lines."""
    head = f"{violation.invariant}: {violation.message}".splitlines()[:3]
    heading = _heading(violation)
    if heading:
        head.append(heading)
    tail: list[str] = []
    last: dict[int, str] = {s["actor"]: s["locks"] for s in violation.steps}
    holds = [f"{chr(ord('A') + a)} holds {last[a]}" for a in sorted(last) if last[a]]
    if holds:
        tail.append("  at the end " + "; ".join(holds))
    plural = "preemption" if violation.preemptions == 1 else "preemptions"
    tail.append(f"  ({violation.preemptions} {plural})")
    if violation.guard:
        tail.append(f"  missing: {violation.guard}")
    return head + _shown(violation.steps, MOST_LINES - len(head) - len(tail)) + tail


# ---- the page --------------------------------------------------------------------------------------

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>%(title)s</title>
<style>
body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#222;background:#fff}
h1{font-size:1.2em}.broken{color:#b00;font-weight:bold;white-space:pre-line}.missing{color:#555}
nav{position:sticky;top:0;background:#fff;padding:6px 0;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin-top:8px}
th{text-align:left;padding:2px 12px}
td{padding:2px 12px;font:13px/1.4 monospace;vertical-align:top;border-top:1px solid #eee}
tr.now{background:#ffd}tr.later td{opacity:.3}tr.minor td{color:#888}
body:not(.all) tr.minor{display:none}
.place{color:#777}.note{color:#b00}.locks{color:#06c}
</style></head><body>
<h1>%(title)s</h1><p class="broken">%(message)s</p><p class="missing">%(guard)s</p>
<nav><button id="back">&larr; back</button> <button id="step">step &rarr;</button>
<label><input type="checkbox" id="all"> every step</label>
<span id="at" aria-live="polite"></span> &mdash; keys: arrows, Home, End; a: every step</nav>
<table><thead><tr><th></th>%(head)s<th>where</th><th>holds</th><th></th></tr></thead><tbody>
%(rows)s
</tbody></table>
<script>
"use strict";
const rows = [...document.querySelectorAll("tbody tr")];
const all = document.getElementById("all");
let now = 0;
function visible() { return rows.filter(r => all.checked || !r.classList.contains("minor")); }
function show() {
  document.body.classList.toggle("all", all.checked);
  const list = visible();
  if (list.length === 0) return;
  now = Math.max(0, Math.min(list.length - 1, now));
  const at = rows.indexOf(list[now]);
  rows.forEach((r, i) => { r.classList.toggle("now", i === at); r.classList.toggle("later", i > at); });
  list[now].scrollIntoView({block: "nearest"});
  document.getElementById("at").textContent = `step ${now + 1} of ${list.length}`;
}
function go(d) { now += d; show(); }
document.getElementById("back").onclick = () => go(-1);
document.getElementById("step").onclick = () => go(1);
all.onchange = show;
document.addEventListener("keydown", e => {
  if (e.ctrlKey || e.altKey || e.metaKey) return;
  const move = {ArrowRight: 1, ArrowDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, Home: -1e9, End: 1e9}[e.key];
  if (move !== undefined) { e.preventDefault(); go(move); }
  if (e.key === "a") { all.checked = !all.checked; show(); }
});
show();
</script></body></html>
"""


def _row(number: int, step: Step, told: bool, actors: int) -> str:
    cells = "".join(
        f"<td>{html.escape(step['text']) if a == step['actor'] else ''}</td>" for a in range(actors)
    )
    return (
        f'<tr{"" if told else " class=minor"}><td class="place">{number}</td>{cells}'
        f'<td class="place">{html.escape(place_of(step))}</td>'
        f'<td class="locks">{html.escape(step["locks"])}</td>'
        f'<td class="note">{html.escape(step["note"])}</td></tr>'
    )


def write_html(verdict: Verdict, path: str) -> None:
    """A self-contained page that steps through the violation."""
    found = verdict.violation
    steps = found.steps if found else []
    actors = max([len(found.roles) if found else 1, *(s["actor"] + 1 for s in steps)])
    told = choose(steps, MOST_LINES)
    rows = [_row(i + 1, s, told[i], actors) for i, s in enumerate(steps)]
    roles = found.roles if found else []
    head = [f"{chr(ord('A') + a)} {roles[a] if a < len(roles) else ''}" for a in range(actors)]
    text = _PAGE % {
        "title": html.escape(verdict.bound),
        "message": html.escape(f"{found.invariant}: {found.message}" if found else "no violation"),
        "guard": html.escape(f"missing: {found.guard}" if found and found.guard else ""),
        "head": "".join(f"<th>{html.escape(h)}</th>" for h in head),
        "rows": "\n".join(rows),
    }
    Path(path).write_text(text, encoding="utf-8")
