"""The running kernel as a player. Skipped, with the reason, where it cannot be."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pgtbl
from pgtbl._compare.engine import HostPlayer, LaboratoryPlayer, Player, compare_scenarios
from pgtbl._compare.language import ArgumentError, check_steps
from pgtbl._compare.scenario import Scenario, read_scenarios
from pgtbl._compare.verdict import compare_results
from pgtbl.cli import main
from pgtbl.host import _kernel as kernel

WHY_NOT = pgtbl.host.why_not()
needs_host = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
RECORDED = Path(__file__).parent / "data" / "scenarios.jsonl.gz"
SAME_KERNEL = platform.release().startswith("6.18.")
# One scenario of each kind of thing that is observed.
SAMPLE = (
    "retract.refault_read0",
    "other.fork.priv_r.full",
    "caller.uffdwp_marker",
    "caller.pin1",
    "anon.fork.mixed",
    "anon.hugefault_zero",
    "life.punch_odd",
    "life.trunc_100",
    "caller.size_halfpage",
    "err.two_vmas_bad1",
)

STEPS: list[dict[str, Any]] = [
    {"op": "file", "f": "f0", "n": 1024},
    {"op": "mmap", "pg": 0, "n": 1024, "prot": "rw", "flags": ["shared", "fixed"], "f": "f0"},
    {"op": "fill", "pg": 0, "n": 3, "val": 1},
    {"op": "read", "pg": 0, "n": 3},
    {"op": "snap"},
]


@needs_host
def test_a_real_process_is_observed() -> None:
    with pgtbl.host.Host() as host:
        results = host.play(STEPS)
    assert results[2]["ok"] == 3
    expected = 0
    for word in (1_000_000, 1_000_001, 1_000_002):
        expected = (expected * 1099511628211 + word) % 2**64
    assert results[3]["sum"] == f"{expected:016x}"
    (run,) = results[4]["procs"]["p0"]["pages"]
    assert (run[0], run[1], run[2], run[5]) == (0, 3, "F", 1)
    assert results[4]["procs"]["p0"]["data"] == [[0, 3, 1_000_000, 1, 1_000_000, 1]]
    assert results[4]["files"]["f0"]["blocks"] == 3


@needs_host
def test_accesses_that_would_kill_are_counted() -> None:
    steps = [*STEPS[:3], {"op": "munmap", "pg": 1, "n": 1}, {"op": "read", "pg": 0, "n": 3}]
    with pgtbl.host.Host() as host:
        result = host.play(steps)[-1]
    assert (result["ok"], result["segv"], result["first"]) == (2, 1, 1)


@needs_host
@pytest.mark.skipif(not SAME_KERNEL, reason="the records are of Linux 6.18")
@pytest.mark.parametrize("name", SAMPLE)
def test_the_host_does_what_was_recorded(name: str) -> None:
    scenario = next(s for s in read_scenarios(RECORDED) if isinstance(s, Scenario) and s.id == name)
    assert scenario.results is not None

    class Recorded(Player):
        name = "recorded"
        mechanism_unobserved = "not asked"

        def outcome(self, scenario: Scenario) -> Any:
            return scenario.results

    player = HostPlayer()
    try:
        (verdict,) = compare_scenarios([scenario], Recorded(), player).verdicts
    finally:
        player.close()
    assert verdict.skipped == ""
    assert [str(d) for d in verdict.differences] == []


@needs_host
def test_wrong_steps_are_refused_before_anything_runs() -> None:
    with pgtbl.host.Host() as host, pytest.raises(ArgumentError, match="no file"):
        host.play([{"op": "punch", "f": "f9", "pg": 0, "n": 1}])


@needs_host
def test_khugepaged_of_the_host_is_never_changed() -> None:
    wanted = 3 if kernel.khugepaged("max_ptes_none") == 7 else 7
    script = pgtbl.Script().mmap(0, 512).khugepaged(max_ptes_none=wanted)
    with pgtbl.host.Host() as host, pytest.raises(pgtbl.host.HostUnsupported) as got:
        host.play(script.steps)
    assert f"max_ptes_none {wanted}" in got.value.what
    assert got.value.step == 1


@pytest.mark.parametrize(
    ("enabled", "shmem", "mount", "kinds", "why"),
    [
        ("always madvise [never]", "never [advise]", "huge=advise", set(), "enabled is never"),
        ("[madvise]", "[never] force", "huge=advise", {"memfd"}, "shmem_enabled is never"),
        ("[madvise]", "[deny]", "huge=advise", {"tmpfs"}, "shmem_enabled is deny"),
        ("[madvise]", "[advise]", "size=4k", {"tmpfs"}, "/dev/shm"),
        ("[madvise]", "[force]", "size=4k", {"tmpfs", "memfd"}, ""),
        ("[madvise]", "[advise]", "huge=advise,size=4k", {"tmpfs", "memfd"}, ""),
        ("[madvise]", "[advise]", "huge=advise", {"ext4"}, "ext4"),
        ("[madvise]", "[never]", "size=4k", set(), ""),
    ],
)
def test_what_khugepaged_of_a_host_leaves_alone(
    enabled: str,
    shmem: str,
    mount: str,
    kinds: set[str],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "enabled").write_text(enabled)
    (tmp_path / "shmem_enabled").write_text(shmem)
    (tmp_path / "mounts").write_text(f"none / ext4 rw 0 0\nnone /dev/shm tmpfs rw,{mount} 0 0\n")
    monkeypatch.setattr(kernel, "THP", tmp_path)
    monkeypatch.setattr(kernel, "MOUNTS", tmp_path / "mounts")
    said = kernel.khugepaged_leaves_alone(kinds)
    assert bool(said) == bool(why)
    assert why in said


@needs_host
def test_a_script_is_held_against_this_kernel() -> None:
    script = pgtbl.Script().file("f0", 512).mmap(0, 512, "f0").fill(0, 5).read(3)
    found = pgtbl.compare(script)
    assert len(found) == 1
    verdict = found["script"]
    assert set(verdict.outcomes) == {"this kernel", "laboratory"}
    for results in verdict.outcomes.values():
        assert results[2]["ok"] == 5
    assert "script" in repr(found)


@needs_host
def test_a_side_that_never_answers_alike_is_skipped() -> None:
    class Moody(Player):
        name = "moody"
        repeatable = True
        n = 0

        def outcome(self, _scenario: Scenario) -> Any:
            self.n += 1
            return [{"ret": self.n}]

    steps = [{"op": "file", "f": "f0", "n": 1}]
    (verdict,) = compare_scenarios([Scenario("x", steps)], Moody(), LaboratoryPlayer()).verdicts
    assert "differently each time" in verdict.skipped


@needs_host
def test_random_scenarios_run_on_both_sides(tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    got = CliRunner().invoke(
        main,
        [
            "compare",
            "--random",
            "1",
            "--seed",
            "3",
            "--save",
            str(out),
            "--json",
            str(tmp_path / "j"),
        ],
    )
    assert got.exit_code in (0, 1), got.output
    assert json.loads((tmp_path / "j").read_text())["scenarios"] == 1
    for item in read_scenarios(out):
        if isinstance(item, Scenario):
            check_steps(item.steps)


def test_where_the_host_cannot_play_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgtbl.host, "why_not", lambda: "a wizard is needed")
    with pytest.raises(pgtbl.host.HostError, match="wizard"):
        pgtbl.host.Host()
    got = CliRunner().invoke(main, ["compare", "--random", "1"])
    assert got.exit_code == 2
    assert "a wizard is needed" in got.output


@needs_host
def test_recorded_results_differ_where_the_kernel_is_told_otherwise() -> None:
    with pgtbl.host.Host() as host:
        results = host.play(STEPS)
    other = [*STEPS[:2], {**STEPS[2], "n": 4}, *STEPS[3:]]
    with pgtbl.host.Host() as host:
        again = host.play(other)
    assert compare_results(STEPS, results, again)
