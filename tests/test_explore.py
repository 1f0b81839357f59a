"""The explorer: what is exhausted, what each guard's removal shows, and that both engines agree."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from explorations import Case, Explorations, case, in_every_era, of_exhibit, without_guard

import pgtbl
from pgtbl import _explore as explorer
from pgtbl import museum
from pgtbl._explore import (
    MOST_LINES,
    Verdict,
    check_guards,
    engines_agree,
    explore,
    guards,
    replay,
    scenarios,
)
from pgtbl._explore_cli import estimate
from pgtbl._model import ProgramError
from pgtbl.museum import EXHAUSTED_IN_MINUTES, EXHIBITS, KILLERS, LARGE, NEEDS_FENCES

NAMES = [row["name"] for row in scenarios()]
SMALL = [name for name in NAMES if name not in (*LARGE, *EXHAUSTED_IN_MINUTES)]
# These have one protocol for all eras.
ALONE = ("rcu", "irq", "rwsem", "ptl", "primer")
# Few enough interleavings for the plain engine too.
TINY = (
    "primer-wc",
    "primer-wcc",
    "primer-wwc",
    "ptl",
    "ptl-three",
    "rwsem-read-read",
    "rwsem-read-write",
    "rwsem-write-write",
    "rwsem-downgrade",
    "rwsem-trywrite",
    "rcu-definition",
    "rcu-synchronize",
    "rcu-fences",
    "rcu-nesting",
    "rcu-two-sections",
    "map-vs-retract",
    "map-lock-vs-retract",
    "map-nolock-vs-retract",
    "lockless-walk-vs-retract",
)
# Store buffers make too many of these.
NOT_TINY_UNDER_TSO = (
    "rcu-nesting",
    "rcu-two-sections",
    "map-vs-retract",
    "map-lock-vs-retract",
    "map-nolock-vs-retract",
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgtbl", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def holds_under(name: str, memory: str) -> bool:
    """Release-acquire has no seq_cst fences, which some stand on."""
    return memory != "ra" or name not in NEEDS_FENCES


def small_case(name: str, memory: str) -> list[Case]:
    return [case(name, memory)] if holds_under(name, memory) else []


@pytest.mark.explores(by=small_case)
@pytest.mark.parametrize("memory", ["sc", "tso", "ra", "rc11"])
@pytest.mark.parametrize("name", SMALL)
def test_small_scenarios_are_exhausted(name: str, memory: str, explorations: Explorations) -> None:
    if not holds_under(name, memory):
        pytest.skip("stands on seq_cst fences")
    verdict = explorations(case(name, memory))
    assert verdict.violation is None, str(verdict)
    assert verdict.complete
    assert verdict.duplicates == 0
    assert verdict.executions > 0


@pytest.mark.parametrize("name", sorted(NEEDS_FENCES))
def test_what_stands_on_fences_fails_without_them(name: str) -> None:
    """The other half of the list: what is not on it is exhausted under release-acquire."""
    assert explore(name, memory="ra", seconds=60, shorten=False).violation is not None


# What GenMC 0.10.1 counts for the same programs, under sc and under rc11.
PRIMER = {
    "primer-wc": (10, 10),
    "primer-wcc": (20, 20),
    "primer-wwc": (121, 121),
    "primer-wwcc": (246, 246),
    "primer-wwwc": (2151, 2151),
    "primer-wwwrc": (10719, 10719),
    "primer-wwwwc": (51369, 51369),
    "primer-ffc": (12163, 12329),
}


@pytest.mark.parametrize("memory", ["sc", "tso", "ra", "rc11"])
@pytest.mark.parametrize("name", sorted(PRIMER))
def test_counts_are_those_of_another_tool(name: str, memory: str) -> None:
    verdict = explore(name, memory=memory, symmetry=False)
    assert verdict.complete, str(verdict)
    assert verdict.executions == PRIMER[name][memory in ("ra", "rc11")]


# Who begins with the same lock or counter as another of the same part: k such actors, k! orders.
SYMMETRIC = {
    "ptl": 2,
    "ptl-three": 6,
    "rwsem-read-read": 2,
    "rwsem-hand-off": 2,
    "primer-wcc": 2,
    "primer-wwcc": 2,
}


@pytest.mark.parametrize("memory", ["sc", "tso", "ra", "rc11"])
@pytest.mark.parametrize("name", sorted(SYMMETRIC))
def test_of_actors_with_the_same_part_one_order_is_explored(name: str, memory: str) -> None:
    one = explore(name, memory=memory)
    all_orders = explore(name, memory=memory, symmetry=False)
    assert one.complete
    assert all_orders.complete
    assert one.executions * SYMMETRIC[name] == all_orders.executions
    assert one.violation is None


def test_primer_needs_its_fences() -> None:
    whole = {m: explore("primer-wwwc-epochs", memory=m) for m in ("sc", "tso", "rc11")}
    assert {m: v.executions for m, v in whole.items()} == {"sc": 2018, "tso": 2018, "rc11": 2018}
    # Release-acquire has no seq_cst fences: the grace period ends too early.
    broken = explore("primer-wwwc-epochs", memory="ra").violation
    assert broken is not None
    assert broken.invariant == "use after free"


def at_first(name: str) -> list[Case]:
    return in_every_era(name, "sc", seconds=0.5)


@pytest.mark.explores(by=at_first)
@pytest.mark.parametrize("name", [*LARGE, *EXHAUSTED_IN_MINUTES])
def test_larger_scenarios_show_nothing_at_first(name: str, explorations: Explorations) -> None:
    for verdict in map(explorations, at_first(name)):
        assert verdict.violation is None, str(verdict)


def older_cases(name: str, memory: str) -> list[Case]:
    return in_every_era(name, memory)[1:] if holds_under(name, memory) else []


# RC11 lets happen whatever the other three do.
@pytest.mark.explores(by=older_cases)
@pytest.mark.parametrize(
    "memory", ["rc11", *(pytest.param(m, marks=pytest.mark.slow) for m in ("sc", "tso", "ra"))]
)
@pytest.mark.parametrize("name", [n for n in SMALL if not n.startswith(ALONE)])
def test_older_protocols_are_exhausted(name: str, memory: str, explorations: Explorations) -> None:
    for older in older_cases(name, memory):
        verdict = explorations(older)
        assert verdict.violation is None, str(verdict)
        assert verdict.complete


# About two hundred thousand executions, in every era's protocol of collapse.
EXHAUSTED = case(*EXHAUSTED_IN_MINUTES, "sc")._replace(seconds=240)


@pytest.mark.timeout(300)
@pytest.mark.explores(by=lambda wanted: [wanted])
@pytest.mark.parametrize("wanted", [EXHAUSTED], ids=lambda wanted: wanted.scenario)
def test_one_of_the_larger_scenarios_is_exhausted(wanted: Case, explorations: Explorations) -> None:
    verdict = explorations(wanted)
    assert verdict.violation is None, str(verdict)
    assert verdict.complete
    assert verdict.executions > 100_000


CASTS = (Path(__file__).parents[1] / "docs" / "casts.md").read_text().splitlines()


def test_the_manual_lists_every_cast_and_guard() -> None:
    """tools/casts.py writes the page; what it counts is checked below."""
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "casts.py"))
    told = [line for line in CASTS if line.startswith("| `")]
    expected = [tool["cast_cells"](row) for row in scenarios()]
    assert [
        line for line, begin in zip(told, expected, strict=False) if not line.startswith(begin)
    ] == []
    assert CASTS[-len(tool["guard_lines"]()) :] == tool["guard_lines"]()


@pytest.mark.slow
@pytest.mark.explores(by=lambda name: [case(name, memory) for memory in ("sc", "rc11")])
@pytest.mark.parametrize("name", SMALL)
def test_the_manual_counts_right(name: str, explorations: Explorations) -> None:
    line = next(line for line in CASTS if line.startswith(f"| `{name}` |"))
    counts = [cell.strip() for cell in line.split("|")[3:7]]
    found = [explorations(case(name, memory)).executions for memory in ("sc", "rc11")]
    assert [counts[0], counts[3]] == [f"{n:,}" for n in found], "run tools/casts.py"


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        (name, memory)
        for name in TINY
        for memory in ("sc", "tso")
        if memory == "sc" or name not in NOT_TINY_UNDER_TSO
    ],
)
def test_engines_find_the_same_graphs(name: str, memory: str) -> None:
    found = engines_agree(name, memory=memory, seconds=2)
    assert found["violation"] == (False, False)
    if not found["complete"]:
        pytest.skip(f"more than {found['interleavings']} interleavings")
    assert found["same"], found
    assert found["graphs"] > 0


@pytest.mark.explores(by=lambda guard: [without_guard(guard)])
@pytest.mark.parametrize("guard", sorted(KILLERS))
def test_removing_a_guard_is_noticed(guard: str, explorations: Explorations) -> None:
    verdict = explorations(without_guard(guard))
    assert verdict.violation is not None, (
        f"{KILLERS[guard][0]} does not notice that {guard} is gone"
    )
    assert verdict.violation.guard
    again = replay(verdict.violation.token)
    assert again.violation is not None
    assert again.violation.invariant == verdict.violation.invariant


def test_every_guard_has_its_killer() -> None:
    assert sorted(KILLERS) == sorted(row["name"] for row in guards())
    found = check_guards()
    assert [row["name"] for row in found["guards"] if not row["caught"]] == []
    assert found["score"] == 1


STRONGER = {"tso": ("sc",), "rc11": ("sc", "tso")}


@pytest.mark.parametrize("guard", [g for g, killer in KILLERS.items() if killer[2] != "sc"])
def test_the_matrix_names_the_strongest_memory_model_that_shows_it(guard: str) -> None:
    scenario, era, memory = KILLERS[guard]
    for model in STRONGER[memory]:
        verdict = explore(scenario, without=guard, era=era, memory=model, seconds=60)
        assert verdict.complete, str(verdict)


def test_every_bug_that_a_guard_prevents_is_in_the_museum() -> None:
    shown = {e.bug for e in EXHIBITS}
    assert len(shown) == len(EXHIBITS)
    assert {row["bug"] for row in guards() if row["bug"].startswith("B")} <= shown


# docs/explorer.md says why.
NOT_SHOWN = {"B25", "B38", "B53"}


def test_the_museum_is_complete() -> None:
    assert {e.bug for e in EXHIBITS} == {f"B{n:02}" for n in range(1, 58)} - NOT_SHOWN
    told = (Path(__file__).parents[1] / "docs" / "explorer.md").read_text()
    assert all(bug in told for bug in NOT_SHOWN)


def test_either_of_two_lines_is_enough_for_b01() -> None:
    """Linux has both: the interrupt came for B02, after the second look at the PMD."""

    def explored(*without: str) -> Verdict:
        return explore("pin-vs-anon-collapse", memory="sc", without=without)

    assert explored("gup_recheck").complete
    assert explored("sync_before_free").complete
    assert explored("gup_recheck", "sync_before_free").violation is not None


@pytest.mark.explores(by=of_exhibit)
@pytest.mark.parametrize("bug", [e.bug for e in EXHIBITS])
def test_museum(bug: str, explorations: Explorations) -> None:
    broken, fixed = map(explorations, of_exhibit(bug))
    exhibit = museum.exhibit_of(bug)
    assert broken.violation is not None
    assert fixed.violation is None
    assert fixed.complete
    assert (", ".join(exhibit.guards) or exhibit.era) in broken.bound


@pytest.mark.parametrize("bug", ["B01", "B12", "B52"])
def test_the_museum_shows_an_exhibit(bug: str) -> None:
    broken, fixed, exhibit = museum.show(bug)
    assert (broken.scenario, broken.era) == (exhibit.scenario, exhibit.era)
    assert broken.violation is not None
    assert fixed.complete
    shown = run("museum", bug)
    assert shown.returncode == 0, shown.stderr
    with_it = "With them:" if len(exhibit.guards) > 1 else "With it:"
    assert (f"In {exhibit.mended}:" if exhibit.mended else with_it) in shown.stdout
    assert all(guard in shown.stdout for guard in exhibit.guards)


def test_a_bound_says_what_a_cast_changes_of_the_protocol() -> None:
    e = museum.exhibit_of("B52")
    assert "room for 1 of the extents put off" in museum.show("B52")[0].bound
    # With the protocol's own eight both extents are remembered, in 6.4 too.
    whole = explore(e.scenario.removesuffix(":put_off=1"), era=e.era, memory=e.memory)
    assert (whole.violation, whole.complete) == (None, True)
    assert "room for" not in whole.bound
    for wrong in ("0", "9", "", "12"):
        with pytest.raises(ProgramError, match="1 to 8 extents can be put off"):
            explore(e.scenario.removesuffix("1") + wrong, era=e.era)


def test_before_6_17_no_cast_needs_the_section_that_b36_tells_of() -> None:
    e = museum.exhibit_of("B36")
    verdict = explore(e.scenario, without=e.guards, era="v6.14", memory=e.memory)
    assert (verdict.violation, verdict.complete) == (None, True)


def test_weak_memory_is_needed_and_said() -> None:
    for guard in ("rcu_announce_release", "rcu_scan_acquire"):
        scenario, era, _ = KILLERS[guard]
        assert explore(scenario, without=guard, era=era, memory="tso", seconds=60).complete
    verdict = explore("rcu-synchronize", without="rcu_updater_fence", memory="tso")
    assert verdict.violation is not None
    assert any("reaches memory" in s["text"] for s in verdict.violation.steps) or any(
        "stale" in s["note"] for s in verdict.violation.steps
    )


def test_other_searches_find_a_missing_wait() -> None:
    for engine in ("exhaustive", "pct"):
        verdict = explore(
            "rcu-synchronize", without="rcu_gp_waits", memory="sc", engine=engine, seconds=20
        )
        assert verdict.violation is not None, engine
        assert replay(verdict.violation.token).violation is not None
    chance = explore("rwsem-hand-off", memory="tso", engine="random", executions=3000)
    assert chance.violation is None
    assert not chance.complete
    bounded = explore("rcu-synchronize", memory="sc", engine="exhaustive", preemptions=1)
    assert bounded.complete
    assert bounded.violation is None


def test_shards_count_the_same() -> None:
    alone = explore("rcu-two-sections-two-updaters", memory="rc11")
    with ThreadPoolExecutor(1) as pool:
        shared = explore("rcu-two-sections-two-updaters", memory="rc11", executor=pool, shards=5)
    assert (shared.executions, shared.blocked) == (alone.executions, alone.blocked)
    assert shared.complete


def test_threads_do_not_mix_their_guards() -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(
                explore, "map-lock-vs-retract", memory="sc", without=["pmd_recheck"] * (i % 2)
            )
            for i in range(16)
        ]
        found = [job.result().violation is not None for job in jobs]
    assert found == [i % 2 == 1 for i in range(16)]


def test_processes_count_the_same() -> None:
    alone = explore("rwsem-hand-off", memory="sc")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        shared = explore("rwsem-hand-off", memory="sc", executor=pool, shards=3)
    assert (shared.executions, shared.blocked) == (alone.executions, alone.blocked)
    assert shared.complete


def test_a_cluster_counts_the_same() -> None:
    distributed = pytest.importorskip("distributed", reason="the extra [cluster]")
    alone = explore("rcu-two-sections-two-updaters", memory="tso")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        shared = explore(
            "rcu-two-sections-two-updaters",
            memory="tso",
            executor=client.get_executor(),
            shards=3,
        )
    assert (shared.executions, shared.blocked) == (alone.executions, alone.blocked)
    assert shared.complete


def test_memory_that_is_used_again() -> None:
    """Only then is an address that is the same no proof of anything."""
    assert explore("primer-same-address").complete
    for memory in ("sc", "tso", "ra", "rc11"):
        assert explore("primer-same-address", memory=memory).violation is None
        found = explore("primer-same-address", memory=memory, reuse_addresses=True)
        assert found.violation is not None
        assert "another table" in found.violation.message
        assert "memory used again" in found.bound
        again = replay(found.violation.token)
        assert again.violation is not None
        assert again.violation.message == found.violation.message
    for engine in ("exhaustive", "random"):
        found = explore("primer-same-address", memory="sc", engine=engine, reuse_addresses=True)
        assert found.violation is not None, engine
    # The real protocol does not mind; there are more executions, because blocks come back in several orders.
    more = explore("primer-ffc", reuse_addresses=True)
    assert more.complete
    assert more.violation is None
    assert more.executions > PRIMER["primer-ffc"][1]
    first = explore("primer-ffc", reuse_addresses=True, executions=100)
    with pytest.raises(ValueError, match="reuse_addresses"):
        explore("primer-ffc", resume=first.save())
    rest = explore("primer-ffc", reuse_addresses=True, resume=first.save())
    assert rest.executions == more.executions


def test_progress_tells_what_remains() -> None:
    told: list[tuple[int, int, float]] = []
    whole = explore(
        "rcu-barrier-runners", memory="sc", progress=lambda *now: told.append(now), seconds=120
    )
    assert whole.complete
    assert told, "a search of a second is told of"
    assert [n for n, _, _ in told] == sorted(n for n, _, _ in told)
    assert [done for _, _, done in told] == sorted(done for _, _, done in told)
    assert all(0 < done <= 1 for _, _, done in told)
    # Knuth's estimate is rough; once a third is done it is no longer wrong by a factor of five.
    late = [n / done for n, _, done in told if done > 0.3]
    assert all(whole.executions / 5 < n < whole.executions * 5 for n in late), late
    sharded: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        explore(
            "rwsem-three-writers",
            executor=pool,
            progress=lambda _n, _b, done: sharded.append(done),
        )
    assert sharded == sorted(sharded)
    assert sharded[-1] == pytest.approx(1)
    assert estimate(0, 0.0) == "0 executions"
    assert estimate(1000, 0.1) == "1,000 executions, some 9,000 left"


def test_an_exception_of_the_progress_ends_the_search() -> None:
    def enough(_executions: int, _blocked: int, _done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explore("two-faults", memory="sc", progress=enough, seconds=120)
    assert explore("ptl").complete


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        ("broken:rolls-dice", {}, r"not deterministic .* actor A was .*, and .* now a .* at off"),
        ("broken:rolls-dice", {"engine": "exhaustive"}, r"not deterministic .* actor A .* at off"),
        ("broken:makes-too-many", {}, r"actor A makes more than 64 objects, here a .*atomic"),
        ("broken:makes-too-many", {"engine": "random"}, "actor A makes more than 64 objects"),
    ],
)
def test_programs_that_cannot_be_explored(
    program: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        explore(program, memory="sc", **options)
    assert explore("ptl").complete


@pytest.mark.parametrize("engine", ["graphs", "exhaustive", "random"])
def test_a_loop_without_await_is_told(engine: str) -> None:
    found = explore("broken:spins", memory="sc", engine=engine, shorten=False).violation
    assert found is not None
    assert found.invariant == "endless loop"
    assert (
        "A has taken 2000 steps and goes on with a load of flag at offenders.cpp" in found.message
    )
    assert "await" in found.message


def test_stop_save_and_resume() -> None:
    alone = explore("rcu-two-sections-two-updaters")
    first = explore("rcu-two-sections-two-updaters", executions=500)
    assert not first.complete
    assert first.frontier
    rest = explore("rcu-two-sections-two-updaters", resume=first.save())
    assert rest.complete
    assert (rest.executions, rest.blocked) == (alone.executions, alone.blocked)
    with pytest.raises(ValueError, match="scenario"):
        explore("ptl", resume=first.save())
    with pytest.raises(ValueError, match="symmetry"):
        explore("rcu-two-sections-two-updaters", symmetry=False, resume=first.save())
    with pytest.raises(ValueError, match="cut off or damaged"):
        explore("ptl", resume=b"nonsense")


def test_tokens_of_others_are_refused() -> None:
    verdict = explore("ptl", memory="sc")
    assert verdict.violation is None
    for token in ("", "pg1.", "pg1.!!!", "abc", "pg2.xyz"):
        with pytest.raises(ValueError, match=r"no token|cut off or damaged"):
            replay(token)
    found = explore("rcu-synchronize", without="rcu_gp_waits").violation
    assert found is not None
    before = explorer.__version__
    try:
        explorer.__version__ = "other"  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="the token is of pgtbl"):
            replay(found.token)
    finally:
        explorer.__version__ = before  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "rcu-synchronise"}, "unknown scenario .* did you mean rcu-synchronize"),
        (
            {"scenario": "xyz"},
            r"unknown scenario 'xyz': the nearest of \d+ are [^,]+, [^,]+, [^,]+$",
        ),
        ({"scenario": "ptl", "memory": "arm"}, "unknown memory model"),
        ({"scenario": "ptl", "era": "v5.0"}, "unknown era"),
        ({"scenario": "ptl", "without": "pmd_rechek"}, "did you mean pmd_recheck"),
        ({"scenario": "ptl", "engine": "fast", "memory": "sc"}, "unknown strategy"),
        ({"scenario": "ptl", "engine": "random", "memory": "rc11"}, "sc and tso alone"),
    ],
)
def test_names_that_do_not_exist(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explore(arguments.pop("scenario"), **arguments)


def test_command(tmp_path: Path) -> None:
    listed = json.loads(run("explore", "--list", "--json", "-").stdout)
    assert {"name", "about", "eras"} <= set(listed["scenarios"][0])
    out = tmp_path / "verdict.json"
    done = run("explore", "map-lock-vs-retract", "--memory", "sc", "--json", out)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(out.read_text())
    assert set(verdict) == {
        "scenario",
        "era",
        "memory",
        "without",
        "executions",
        "blocked",
        "duplicates",
        "complete",
        "seconds",
        "violation",
    }
    assert verdict["complete"]
    assert verdict["violation"] is None
    done = run("explore", "map-lock-vs-retract", "--without", "pmd_recheck", "--json", out)
    assert done.returncode == 1
    violation = json.loads(out.read_text())["violation"]
    assert set(violation) == {"invariant", "message", "guard", "steps", "token"}
    assert "replay" in done.stdout
    assert len(done.stdout.splitlines()) <= MOST_LINES + 2
    assert run("explore", "--replay", violation["token"]).returncode == 1
    assert run("explore", "rcu-two-sections-two-updaters", "--executions", 10).returncode == 3
    again = run("explore", "primer-same-address", "--reuse-addresses")
    assert again.returncode == 1
    assert "another table" in again.stdout
    broken = run("explore", "broken:rolls-dice")
    assert broken.returncode == 2
    assert "not deterministic" in broken.stderr
    assert "Traceback" not in broken.stderr
    unknown = run("explore", "nothing")
    assert unknown.returncode == 2
    assert "unknown scenario" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_casts_of_ones_own() -> None:
    cast = pgtbl.Scenario(actors=["map_lock", "retract"])
    whole = pgtbl.explore("map-lock-vs-retract", memory="sc")
    assert cast.explore(memory="sc").executions == whole.executions
    broken = cast.explore(memory="sc", without="pmd_recheck")
    assert broken.violation is not None
    assert replay(broken.violation.token).violation is not None
    for wrong, message in (
        ({"actors": ["map_lok"]}, "did you mean map_lock"),
        ({"actors": []}, "1 to 6 actors"),
        ({"actors": ["map@7"]}, "programs 0 and 1"),
        ({"actors": ["map"], "layout": "full"}, "did you mean full_table"),
        ({"actors": ["retract"], "layout": "small_pages"}, "huge page"),
        ({"actors": ["retract", "retract"]}, "one retraction"),
    ):
        with pytest.raises(ValueError, match=message):
            pgtbl.Scenario(**wrong)  # type: ignore[arg-type]
