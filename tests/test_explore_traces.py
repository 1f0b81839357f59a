"""Traces: what a reader is told of a violation, for every guard that can be taken away."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from explorations import Explorations, without_guard

from pgtbl._explore import MOST_LINES, Violation, explore, guards, trace_lines, write_html
from pgtbl.museum import KILLERS

SENTENCES = {row["name"]: row["why"] for row in guards()}


def violation_without(guard: str, explorations: Explorations) -> Violation:
    found = explorations(without_guard(guard)).violation
    assert found is not None
    return found


@pytest.mark.explores(by=lambda guard: [without_guard(guard)])
@pytest.mark.parametrize("guard", sorted(KILLERS))
def test_a_trace_tells_the_race_in_thirty_lines(guard: str, explorations: Explorations) -> None:
    found = violation_without(guard, explorations)
    lines = trace_lines(found)
    assert len(lines) <= MOST_LINES, "\n".join(lines)
    assert found.preemptions <= 2
    assert lines[0].startswith(f"{found.invariant}: ")
    assert lines[-1] == f"  missing: {SENTENCES[guard]}"
    # Who is who, one column each.  (Where arm's caches are wrong, one actor that comes to the same page twice will do; and a
    # fault that goes round its table does so by itself.)
    assert len(found.roles) >= (1 if guard.startswith("arm_") or guard == "folio_in_table" else 2)
    for number, role in enumerate(found.roles):
        letter = chr(ord("A") + number)
        assert role
        assert any(f"{letter} is {role}" in line for line in lines)
    # Where: a line of the sources and a function for every step.
    for step in found.steps:
        assert re.fullmatch(r"\w+\.(cpp|hpp)", step["file"]), step
        assert step["line"] > 0
        assert step["function"]
        assert step["text"]
    # What is told: each step of the trace stands in its actor's column, and the last step is there.
    last = found.steps[-1]
    assert any(last["text"] in line for line in lines)
    told = [line for line in lines if re.match(r"  ( {4})*[A-H] \S", line) and " is " not in line]
    assert len(told) >= 5
    assert {line.strip()[0] for line in told} == {chr(ord("A") + s["actor"]) for s in found.steps}


def test_values_places_and_locks(explorations: Explorations) -> None:
    lines = trace_lines(violation_without("pmd_recheck", explorations))
    text = "\n".join(lines)
    assert "A is map_lock; B is retract" in text
    assert re.search(r"A read PMD -> table \d+ +map\.hpp:\d+ pte_offset_map", text)
    assert re.search(r"B PMD: table \d+ -> none +walk\.cpp:\d+ pmdp_collapse_flush", text)
    assert re.search(r"B lock ptl +v6_6\.cpp:\d+ retract_one", text)
    assert "[holds folio_lock, i_mmap.read, pml, ptl]" in text
    assert "at the end A holds mmap_lock.read, ptl, rcu" in text
    assert "(1 preemption)" in text


def test_a_data_page_and_a_lost_store(explorations: Explorations) -> None:
    text = "\n".join(trace_lines(violation_without("file_flush_first", explorations)))
    assert "a store was lost" in text
    assert re.search(r"frame \d+\[0\] = 50\d +access\.cpp:\d+ mm_store", text)


@pytest.mark.parametrize("guard", [g for g, k in KILLERS.items() if g == "rcu_updater_fence"])
def test_a_stale_read_says_whose_write_it_missed(guard: str, explorations: Explorations) -> None:
    found = violation_without(guard, explorations)
    notes = [s["note"] for s in found.steps if "stale" in s["note"]]
    assert notes
    assert all(re.fullmatch(r"stale: [A-H] already wrote .+ at \w+\.hpp:\d+", n) for n in notes)
    assert any("<- stale: A already wrote" in line for line in trace_lines(found))
    assert "it takes a weak memory" in found.message


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.ids: set[str] = set()
        self.minor = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        assert "src" not in values, "the page is to be self-contained"
        assert "href" not in values
        if tag == "tr":
            self.rows.append([])
            self.minor += values.get("class") == "minor"
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_page_has_every_step(tmp_path: Path) -> None:
    verdict = explore("map-lock-vs-retract", without="pmd_recheck", memory="sc")
    assert verdict.violation is not None
    file = tmp_path / "trace.html"
    write_html(verdict, str(file))
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    assert page.open == []
    head, *rows = page.rows
    assert head[1:3] == ["A map_lock", "B retract"]
    assert len(rows) == len(verdict.violation.steps)
    assert 0 < len(rows) - page.minor <= MOST_LINES
    for row, step in zip(rows, verdict.violation.steps, strict=True):
        assert row[1 + step["actor"]] == step["text"]
        assert row[2 - step["actor"]] == ""
        assert f"{step['file']}:{step['line']}" in row[3]
        assert row[4] == step["locks"]
    assert {"back", "step", "all", "at"} <= page.ids
    assert "border-left" in verdict._repr_html_()


PROBE = """
<script>
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", {key}));
const at = () => document.getElementById("at").textContent + "|" +
  [...document.querySelectorAll("tr.now")].length + "|" + document.querySelectorAll("tr.later").length;
const seen = [at()];
for (const key of ["ArrowRight", "ArrowDown", "ArrowLeft", "End", "ArrowRight", "Home", "a", "End"]) {
  press(key);
  seen.push(at());
}
document.title = JSON.stringify(seen);
document.body.textContent = "PROBE" + JSON.stringify(seen) + "PROBE";
</script>
"""
BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_page_steps_by_keyboard(tmp_path: Path) -> None:
    verdict = explore("map-lock-vs-retract", without="pmd_recheck", memory="sc")
    assert verdict.violation is not None
    file = tmp_path / "trace.html"
    write_html(verdict, str(file))
    file.write_text(file.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"))
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.search(r"<body[^>]*>PROBE(.*)PROBE", done.stdout)
    assert found, done.stdout[-2000:]
    seen = [entry.split("|") for entry in json.loads(found[1].replace("&quot;", '"'))]
    steps = [int(entry[0].split()[1]) for entry in seen]
    shown = int(seen[0][0].split()[3])
    everything = len(verdict.violation.steps)
    assert steps == [1, 2, 3, 2, shown, shown, 1, 1, everything]
    assert all(entry[1] == "1" for entry in seen), "one step is the current one"
    assert seen[-1][2] == "0", "at the end nothing is still to come"
