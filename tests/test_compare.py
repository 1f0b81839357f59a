"""Comparing with Linux: the language, the laboratory as a player, the verdicts, the command."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import pgtbl
from pgtbl._compare.engine import (
    LaboratoryPlayer,
    Player,
    RecordedPlayer,
    compare_scenarios,
    only,
)
from pgtbl._compare.generate import random_scenarios
from pgtbl._compare.laboratory import Laboratory, Unsupported
from pgtbl._compare.language import ArgumentError, check_steps
from pgtbl._compare.runs import data_runs, expand_data
from pgtbl._compare.scenario import Problem, Scenario, read_scenarios
from pgtbl._compare.search import shrink
from pgtbl._compare.shrink import shrink_steps
from pgtbl._compare.verdict import Level, compare_results
from pgtbl.cli import main

DATA = Path(__file__).parent / "data"
SCENARIOS = DATA / "scenarios.jsonl.gz"

STEPS: list[dict[str, Any]] = [
    {"op": "file", "f": "f0", "n": 1024},
    {"op": "mmap", "pg": 0, "n": 1024, "prot": "rw", "flags": ["shared", "fixed"], "f": "f0"},
    {"op": "fill", "pg": 0, "n": 512, "val": 1},
    {"op": "madvise", "pg": 0, "n": 512, "advice": "COLLAPSE"},
    {"op": "snap"},
    {"op": "filecache"},
]


def recorded(name: str) -> Scenario:
    for item in read_scenarios(SCENARIOS):
        if isinstance(item, Scenario) and item.id == name:
            return item
    raise KeyError(name)


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text("".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines))
    return path


# ---- what is observed --------------------------------------------------------------------------------


def test_sweep_goes_on_where_a_program_would_die() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        mm, file = machine.mm(), machine.shmem("16KiB")
        area = mm.mmap(file, length="24KiB")  # two pages beyond the end of the file
        mm.munmap(area.start + 4096, 4096)
        got = mm.sweep(area.start, 6, "write", value=7, step=1)
        assert got == {"ok": 3, "faults": 3, "segv": 1, "bus": 2, "first": 1, "sum": 0}
        expected = 0
        for word in (7, 9, 10):
            expected = (expected * 1099511628211 + word) % 2**64
        assert mm.sweep(area.start, 6)["sum"] == expected
        assert mm.sweep(area.start, 2, stride=2) == {
            "ok": 2,
            "faults": 0,
            "segv": 0,
            "bus": 0,
            "first": None,
            "sum": 7 * 1099511628211 + 9,
        }
        for wrong in ({"how": "lick"}, {"stride": -1}, {"addr": area.start + 4}):
            arguments = {"addr": area.start, "pages": 1, **wrong}
            with pytest.raises(ValueError, match=r"."):
                mm.sweep(**arguments)


def test_snapshot_and_contents_show_pages_and_words() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        mm, file = machine.mm(), machine.shmem("2MiB")
        area = mm.mmap(file, length="2MiB")
        mm.sweep(area.start, 3, "fill", value=5, step=1)
        mm.store(area.start, 9)
        mm.store(area.start + 4096 + 16, 9)
        rows = mm.snapshot(area)
        assert [chr(k) for k in rows["kind"]] == ["F"] * 3
        assert rows["first"].tolist() == [9, 6, 7]
        assert rows["mixed"].tolist() == [0, 1, 0]
        assert rows["rest"][[0, 2]].tolist() == [5, 7]
        assert rows["mapcount"].tolist() == [1, 1, 1]
        cached = file.contents()
        assert cached["index"].tolist() == [0, 1, 2]
        assert cached["first"].tolist() == [9, 6, 7]
        mm.madvise(area, None, pgtbl.MADV_COLLAPSE)
        assert set(mm.snapshot(area)["order"]) == {9}
        assert len(file.contents()) == 512


def test_scans_are_noted_in_order() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        mm, file = machine.mm(), machine.shmem("2MiB")
        area = mm.mmap(file)
        mm.sweep(area.start, 100, "write")
        mm.madvise(area, None, pgtbl.MADV_COLLAPSE)
        assert machine.scans() == []  # not asked for
        machine.trace_scans()
        mm.madvise(area.start, area.length, pgtbl.MADV_DONTNEED)
        file.truncate(0)
        file.truncate("2MiB")
        mm.sweep(area.start, 100, "write")
        mm.madvise(area, None, pgtbl.MADV_COLLAPSE)
        assert machine.scans() == [
            ["collapse_file", "pte_mapped_hugepage"],
            ["scan_file", "pte_mapped_hugepage", 100, 0],
        ]
        assert machine.scans() == []


def test_count_is_a_row_of_the_ledger() -> None:
    with pgtbl.Machine(memory="64MiB") as machine:
        mm = machine.mm()
        mm.mmap(machine.shmem("2MiB"))
        assert machine.count("mmap_lock.write") == machine.ledger()["mmap_lock.write"] == 1
        with pytest.raises(KeyError, match=r"mmap_lock\.rite"):
            machine.count("mmap_lock.rite")


# ---- runs --------------------------------------------------------------------------------------------


def test_data_runs_say_what_was_there(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(200):
        n = int(random.integers(0, 40))
        pages = np.flatnonzero(random.random(n) < 0.8)
        m = len(pages)
        first = np.cumsum(random.integers(0, 3, m)).astype(np.uint64) * np.uint64(1)
        rest = np.cumsum(random.integers(0, 2, m)).astype(np.uint64)
        mixed = random.random(m) < 0.2
        runs = data_runs(pages, first, rest, mixed)
        assert expand_data(runs) == {
            int(p): (int(a), "mixed" if x else int(b))
            for p, a, b, x in zip(pages, first, rest, mixed, strict=True)
        }


# ---- verdicts ----------------------------------------------------------------------------------------


def changed(results: list[dict[str, Any]], step: int, change: Any) -> list[dict[str, Any]]:
    other = json.loads(json.dumps(results))
    change(other[step])
    return other


@pytest.mark.parametrize(
    ("step", "change", "level", "field"),
    [
        (3, lambda r: r.update(ret=-1, errno="EINVAL"), Level.core, "errno"),
        (2, lambda r: r.update(minflt=32), Level.detail, "minflt"),
        (3, lambda r: r["lk"].__setitem__(1, 1), Level.mechanism, "mmap_lock writes"),
        (3, lambda r: r["scan"].reverse(), Level.mechanism, "scan"),
        (3, lambda r: r.pop("scan"), Level.mechanism, "scan"),
        (2, lambda r: r.update(extra=1), Level.core, "extra"),
        (4, lambda r: r["procs"]["p0"].update(pt=1), Level.core, "p0 pt"),
        (4, lambda r: r["procs"]["p0"].pop("pt"), Level.core, "p0 pt"),
        (4, lambda r: r["procs"]["p0"].update(rss_shmem=1), Level.detail, "p0 rss_shmem"),
        (4, lambda r: r["procs"].update(q0=r["procs"]["p0"]), Level.core, "procs"),
        (4, lambda r: r["procs"]["p0"]["pages"][0].__setitem__(2, "F"), Level.core, "p0 pages"),
        (4, lambda r: r["procs"]["p0"]["pages"][0].__setitem__(1, 511), Level.core, "p0 pages"),
        (
            4,
            lambda r: r["procs"]["p0"]["pages"][0].__setitem__(5, 2),
            Level.detail,
            "p0 order and mapcount",
        ),
        (4, lambda r: r["procs"]["p0"]["data"][0].__setitem__(2, 0), Level.core, "p0 data"),
        (4, lambda r: r["procs"]["p0"]["vmas"][0].update(n=1023), Level.core, "p0 vmas"),
        (4, lambda r: r["procs"]["p0"]["vmas"].pop(), Level.core, "p0 vmas"),
        (4, lambda r: r["files"]["f0"].update(blocks=1), Level.core, "f0 blocks"),
        (4, lambda r: r["files"]["f0"]["present"].pop(), Level.core, "f0 present"),
        (5, lambda r: r["f0"][0].__setitem__(2, 8), Level.core, "f0 folio order"),
    ],
)
def test_each_field_counts_at_its_level(step: int, change: Any, level: Level, field: str) -> None:
    results = Laboratory().play(STEPS)
    other = changed(results, step, change)
    for a, b in ((results, other), (other, results)):
        found = compare_results(STEPS, a, b)
        assert found
        worst = min(found, key=lambda d: d.level)
        assert (worst.step, worst.level, worst.field) == (step, level, field)


def test_reads_of_mmap_lock_labels_and_cuts_do_not_count() -> None:
    results = Laboratory().play(STEPS)

    def cut(r: dict[str, Any]) -> None:
        (run,) = r["procs"]["p0"]["pages"]
        pg, _n, kind, order, label, mapcount = run
        r["procs"]["p0"]["pages"] = [
            [pg, 100, kind, order, label + 50, mapcount],
            [pg + 100, 412, kind, order, label + 150, mapcount],
        ]

    assert compare_results(STEPS, results, changed(results, 4, cut)) == []
    more = changed(results, 3, lambda r: r["lk"].__setitem__(0, 9))
    assert compare_results(STEPS, results, more) == []


def test_a_shorter_outcome_is_not_equal() -> None:
    results = Laboratory().play(STEPS)
    assert compare_results(STEPS, results, results[:-1])[0].level is Level.core
    assert compare_results(STEPS, results[:-1], results)[0].level is Level.core


def test_a_page_shared_in_another_way_is_another_page() -> None:
    steps: list[dict[str, Any]] = [
        *STEPS[:2],
        {"op": "mmap", "pg": 2048, "n": 1, "prot": "rw", "flags": ["shared", "fixed"], "f": "f0"},
        {"op": "read", "pg": 0, "n": 1},
        {"op": "read", "pg": 2048, "n": 1},
        {"op": "snap"},
    ]
    results = Laboratory().play(steps)
    pages = results[-1]["procs"]["p0"]["pages"]
    assert [run[4] for run in pages] == [0, 0]
    other = changed(results, 5, lambda r: r["procs"]["p0"]["pages"][1].__setitem__(4, 1))
    assert compare_results(steps, results, other)[0].field == "p0 pages"


# ---- the laboratory as a player ----------------------------------------------------------------------


def test_a_collapse_as_linux_recorded_it() -> None:
    scenario = recorded("retract.refault_read0")
    assert scenario.results is not None
    found = compare_results(scenario.steps, scenario.results, Laboratory().play(scenario.steps))
    assert [d for d in found if d.level is Level.core] == []


def test_what_cannot_be_expressed_is_named_and_never_equal() -> None:
    steps = [*STEPS[:3], {"op": "memcg"}, {"op": "snap"}]
    with pytest.raises(Unsupported, match="memory cgroups") as caught:
        Laboratory().play(steps)
    assert caught.value.step == 3
    scenario = Scenario("x.y", steps, results=[{}] * len(steps))
    comparison = compare_scenarios([scenario], RecordedPlayer(), LaboratoryPlayer())
    (verdict,) = comparison.verdicts
    assert "memory cgroups" in verdict.skipped
    assert not verdict.core
    assert comparison.to_dict()["skipped"] == 1


def test_the_laboratory_breaking_is_a_difference_of_that_scenario_alone() -> None:
    class Broken(Laboratory):
        def play(self, steps: list[Any]) -> list[dict[str, Any]]:
            if len(steps) < len(STEPS):
                raise pgtbl.InvariantError("G-1: broken")
            return super().play(steps)

    results = Laboratory().play(STEPS)
    scenarios = [
        Scenario("a", STEPS[:-1], results=results[:-1]),
        Scenario("b", STEPS, results=results),
    ]
    comparison = compare_scenarios(scenarios, RecordedPlayer(), LaboratoryPlayer(Broken()))
    assert [v.core for v in comparison.verdicts] == [False, True]
    assert "G-1: broken" in str(comparison.verdicts[0].differences[0])


# ---- reading -----------------------------------------------------------------------------------------


def good(name: str = "a.b") -> dict[str, Any]:
    return {"id": name, "steps": STEPS}


@pytest.mark.parametrize(
    ("line", "field", "says"),
    [
        ('{"id": "x", "steps"', "-", "not JSON"),
        ("[1, 2]\n", "-", "object"),
        ({"steps": STEPS}, "id", "text"),
        ({**good(), "version": 2}, "version", "this release reads 1"),
        ({**good(), "colour": 1}, "colour", "allowed are"),
        ({"id": "x", "steps": []}, "steps", "a list of steps"),
        ({"trace": "x", "cmd": ""}, "trace", "pgtbl replay"),
        ({"threads": 2, "ops": []}, "threads", "pgtbl litmus"),
        ({"id": "x", "steps": [{"op": "swapoff"}]}, "op", "allowed are file, truncate"),
        ({"id": "x", "steps": [{"op": "munmap", "pg": 0}]}, "n", "needs it"),
        ({"id": "x", "steps": [{"op": "munmap", "pg": -1, "n": 1}]}, "pg", "0 to 261631"),
        ({"id": "x", "steps": [{"op": "munmap", "pg": "0", "n": 1}]}, "pg", "an integer"),
        ({"id": "x", "steps": [{"op": "munmap", "pg": 0, "n": True}]}, "n", "an integer"),
        (
            {"id": "x", "steps": [{"op": "munmap", "pg": 0, "n": 1, "f": "f0"}]},
            "f",
            "no such field",
        ),
        (
            {"id": "x", "steps": [{"op": "madvise", "pg": 0, "n": 1, "advice": "HURRY"}]},
            "advice",
            "COLLAPSE",
        ),
        (
            {"id": "x", "steps": [{"op": "mmap", "pg": 0, "n": 1, "flags": ["huge"]}]},
            "flags",
            "allowed are shared",
        ),
        ({"id": "x", "steps": [{"op": "punch", "f": "f0", "pg": 0, "n": 1}]}, "f", "no file"),
        ({"id": "x", "steps": [{"op": "read", "pg": 0, "n": 1, "p": "q"}]}, "p", "there is p0"),
        (
            {"id": "x", "steps": [{"op": "fork", "child": "p1"}, {"op": "spawn", "child": "p1"}]},
            "child",
            "already",
        ),
        ({"id": "x", "steps": [{"op": "unpin"}]}, "pin", "no pin"),
        ({"id": "x", "steps": [{"op": "uffd_close"}]}, "u", "no userfaultfd"),
        ({**good(), "outcome": {"results": [{}]}}, "outcome", "1 results for 6 steps"),
        ({**good(), "outcome": {"results": [{}] * 6}}, "outcome", "no snapshot"),
    ],
)
def test_bad_lines_are_named_and_the_others_run(
    tmp_path: Path, line: Any, field: str, says: str
) -> None:
    path = write_lines(tmp_path / "x.jsonl", good("first"), line)
    items = list(read_scenarios(path))
    assert isinstance(items[0], Scenario)
    problem = items[1]
    assert isinstance(problem, Problem)
    assert (problem.line, problem.field) == (2, field)
    assert says in problem.why


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(json.dumps(good(f"n{i}")).encode() + b"\n" for i in range(500)))
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    items = list(read_scenarios(path))
    assert isinstance(items[-1], Problem)
    assert "cut off" in items[-1].why
    assert all(isinstance(x, Scenario) for x in items[:-1])
    assert len(items) > 1
    (tmp_path / "empty").write_text("")
    (problem,) = read_scenarios(tmp_path / "empty")
    assert isinstance(problem, Problem)
    assert "empty" in problem.why
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (problem,) = read_scenarios(tmp_path / "bytes")
    assert isinstance(problem, Problem)
    assert "not text" in problem.why


def test_an_id_stands_once(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", good(), good())
    items = list(read_scenarios(path))
    assert isinstance(items[1], Problem)
    assert "line 1" in items[1].why


def test_everything_recorded_is_of_the_language() -> None:
    for name, count in (("scenarios.jsonl.gz", 341), ("random.jsonl.gz", 94)):
        items = list(read_scenarios(DATA / name))
        assert [str(x) for x in items if isinstance(x, Problem)] == []
        assert len(items) == count


# ---- the command -------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["compare", *arguments])


def test_json_has_the_sums(tmp_path: Path) -> None:
    results = Laboratory().play(STEPS)
    other = changed(results, 2, lambda r: r.update(minflt=1))
    wrong = changed(results, 3, lambda r: r.update(ret=5))
    grouped = [*STEPS, {"op": "memcg"}]
    path = write_lines(
        tmp_path / "x.jsonl",
        {**good("equal"), "outcome": {"results": results}},
        {**good("detail"), "outcome": {"results": other}},
        {"id": "skipped", "steps": grouped, "outcome": {"results": [*results, {"ret": 0}]}},
        good("unrecorded"),
    )
    got = run(str(path), "--json", str(tmp_path / "out.json"))
    assert got.exit_code == 0, got.output
    sums = json.loads((tmp_path / "out.json").read_text())
    assert set(sums) == {"scenarios", "core", "detail", "mechanism", "skipped", "differences"}
    assert [sums[k] for k in ("scenarios", "core", "detail", "mechanism", "skipped")] == [
        4,
        2,
        1,
        1,
        2,
    ]
    different = next(d for d in sums["differences"] if d["id"] == "detail")
    assert (different["step"], different["field"]) == (2, "minflt")
    assert (different["expected"], different["found"]) == (1, 512)
    write_lines(tmp_path / "y.jsonl", {**good("wrong"), "outcome": {"results": wrong}})
    assert run(str(tmp_path / "y.jsonl")).exit_code == 1
    write_lines(tmp_path / "z.jsonl", {**good(), "outcome": {"results": results}}, "{")
    got = run(str(tmp_path / "z.jsonl"))
    assert got.exit_code == 2
    assert "z.jsonl:2" in got.output


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_outcomes_that_were_written_compare_equal(tmp_path: Path, suffix: str) -> None:
    path = write_lines(tmp_path / "x.jsonl", good())
    written = tmp_path / f"out.{suffix}"
    assert run(str(path), "--outcomes", str(written)).exit_code == 0
    got = run(str(written), "--json", "-")
    assert got.exit_code == 0
    assert json.loads(got.output)["mechanism"] == 1


def test_what_is_printed_names_step_field_and_both_values(tmp_path: Path) -> None:
    results = Laboratory().play(STEPS)
    wrong = changed(results, 3, lambda r: r.update(ret=-1, errno="EBUSY"))
    path = write_lines(tmp_path / "x.jsonl", {**good("g.one"), "outcome": {"results": wrong}})
    got = run(str(path))
    assert got.exit_code == 1
    for text in ("g.one", "madvise", "errno", "EBUSY", "(absent)", "core"):
        assert text in got.output
    assert "no such folder" in run(str(path), "--json", "/nowhere/x").output
    assert run(str(path), "--era", "v0").exit_code == 2
    assert run().exit_code == 2
    assert run(str(tmp_path / "none")).exit_code == 2


def test_only_some() -> None:
    items = list(only(read_scenarios(SCENARIOS), ["shm"]))
    assert len(items) == 15


# ---- scripts, random scenarios, shrinking ------------------------------------------------------------


def test_a_script_is_a_scenario() -> None:
    script = (
        pgtbl.Script("mine")
        .file("f0", 1024)
        .spawn("q0")
        .mmap(0, 1024, "f0", foff=512, prot="r", p="q0")
        .mmap(2048, 512)
        .fill(2048, 8, 3, stride=2)
        .collapse(2048)
        .uffd_open()
        .uffd_register(2048, 512, "wp")
        .uffd_wp(2048, 1, False)
    )
    assert script.steps[2] == {
        "op": "mmap",
        "pg": 0,
        "n": 1024,
        "prot": "r",
        "flags": ["shared", "fixed"],
        "f": "f0",
        "foff": 512,
        "p": "q0",
    }
    assert script.steps[3]["flags"] == ["private", "anon", "fixed"]
    assert pgtbl.Script.from_json(script.to_json()).steps == script.steps
    assert script.to_scenario().steps[-1] == {"op": "snap"}
    for wrong in (
        lambda s: s.read(-1),
        lambda s: s.punch("f7", 0, 1),
        lambda s: s.mprotect(0, 1, "rwz"),
        lambda s: s.read(0, p="p9"),
        lambda s: s.step("juggle"),
    ):
        before = len(script)
        with pytest.raises(ValueError, match=r"allowed|no file|no process"):
            wrong(script)
        assert len(script) == before  # nothing was added


def test_a_script_knows_what_its_steps_have_made() -> None:
    script = pgtbl.Script().file("f0", 4).mmap(0, 4, "f0")
    with pytest.raises(ArgumentError, match=r"step 2, .*there is a file"):
        script.file("f0", 4)
    script.steps.pop()  # the list is the user's: what it says counts
    script.steps.append({"op": "fork", "child": "c1"})
    script.mmap(0, 4, "f0", p="c1")
    with pytest.raises(ArgumentError, match=r"step 3, .*no process"):
        script.read(0, p="c2")
    assert len(script) == 3


FOUND = [s for s in read_scenarios(DATA / "found.jsonl.gz") if isinstance(s, Scenario)]


@pytest.mark.parametrize("scenario", FOUND, ids=lambda s: s.id)
def test_what_random_scenarios_found_stays_mended(scenario: Scenario) -> None:
    """Recorded on Linux 6.18, without tracepoints; each is the smallest script that showed a difference, or belongs to one."""
    assert scenario.results is not None
    found = compare_results(scenario.steps, scenario.results, Laboratory().play(scenario.steps))
    assert [str(d) for d in found if d.level is not Level.mechanism] == []


def test_khugepaged_goes_by_the_limits_of_a_step() -> None:
    def huge_after(pages: int, **limits: int) -> bool:
        script = pgtbl.Script().mmap(0, 512).write(0, pages).madvise(0, 512, "HUGEPAGE")
        (*_, snap) = Laboratory(memory="64MiB").play(
            script.khugepaged(**limits).khugepaged(max_ptes_none=0).snap().steps
        )
        return bool(snap["procs"]["p0"]["pages"][0][2] == "Ah")

    assert huge_after(1)
    assert not huge_after(99, max_ptes_none=412)
    assert huge_after(100, max_ptes_none=412)
    with pytest.raises(ArgumentError, match=r"max_ptes_none.*0 to 511"):
        pgtbl.Script().khugepaged(max_ptes_none=512)
    with pytest.raises(ArgumentError, match="max_ptes_young"):
        pgtbl.Script().step("khugepaged", max_ptes_young=1)


def test_a_script_of_recorded_steps_compares_with_records() -> None:
    scenario = recorded("shm.k.mapped.one0")
    found = pgtbl.compare(scenario, host=False)
    assert found["shm.k.mapped.one0"].core
    assert "equal" in repr(found)
    assert "<pre" in found._repr_html_()


def test_random_scenarios_are_of_the_language_and_repeat(seed: int) -> None:
    first = [s.steps for s in random_scenarios(30, seed)]
    assert first == [s.steps for s in random_scenarios(30, seed)]
    assert first != [s.steps for s in random_scenarios(30, seed + 1)]
    for steps in first:
        check_steps(steps)
        assert 20 <= sum(step["op"] != "snap" for step in steps) <= 62


def test_random_scenarios_have_the_recorded_proportions() -> None:
    def shares(scripts: Iterable[list[dict[str, Any]]]) -> dict[str, float]:
        counts = Counter(step["op"] for steps in scripts for step in steps)
        return {op: n / counts.total() for op, n in counts.items()}

    old = shares(
        s.steps for s in read_scenarios(DATA / "random.jsonl.gz") if isinstance(s, Scenario)
    )
    new = shares(s.steps for s in random_scenarios(300, 7))
    assert set(old) == set(new)
    for op, share in old.items():
        assert abs(new[op] - share) < 0.25 * share + 0.006, op


def test_shrinking_leaves_what_matters() -> None:
    steps = next(iter(random_scenarios(1, 5))).steps
    goal = {"op": "madvise", "pg": 0, "n": 512, "advice": "COLLAPSE"}
    hidden = [*steps[:10], goal, *steps[10:]]

    def shows(candidate: list[dict[str, Any]]) -> bool:
        return any(s["op"] == "madvise" and s["advice"] == "COLLAPSE" for s in candidate)

    assert len(shrink_steps(hidden, shows)) == 1


def test_differences_of_random_scenarios_are_shrunk() -> None:
    class Forgetful(Player):
        """The laboratory, but a write of 512 pages forgets one."""

        name = "forgetful"
        inner = LaboratoryPlayer()

        def outcome(self, scenario: Scenario) -> Any:
            results = self.inner.outcome(scenario)
            for step, result in zip(scenario.steps, results, strict=True):
                if step["op"] == "pwrite" and "done" in result:
                    result["done"] -= 1
            return results

    steps = [
        *STEPS,
        {"op": "pwrite", "f": "f0", "pg": 3, "n": 100, "val": 9},
        {"op": "read", "pg": 0, "n": 5},
    ]
    sides = Forgetful(), LaboratoryPlayer()
    (verdict,) = compare_scenarios([Scenario("a", steps)], *sides).verdicts
    finding = shrink(verdict, *sides)
    assert [step["op"] for step in finding.smallest.steps] == ["file", "pwrite"]
    assert finding.smallest.steps[1]["n"] == 1
    assert finding.differences[0].field == "done"
