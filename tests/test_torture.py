"""A stress test that cannot find a planted bug proves nothing: each hunt finds its own, and the page says after how long."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from pgtbl import museum, torture
from pgtbl._hunt import HUNTS, Hunt, Report, Run, run_once
from pgtbl._stress import Died, stress_apart
from pgtbl.cli import main

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench" / "bench_torture.py"


@pytest.mark.stress
@pytest.mark.timeout(300)
@pytest.mark.parametrize("hunt", HUNTS, ids=lambda h: h.guard)
def test_the_stress_finds_what_is_planted(hunt: Hunt, sanitizer: str) -> None:
    if sanitizer:
        pytest.skip("a planted race is a finding of its own under a sanitizer")
    runs = []
    for seed in range(1, 21):
        runs.append(run_once(hunt, seed, 6.0))
        if runs[-1].found:
            break
    assert runs[-1].found, runs
    assert runs[-1].how


@pytest.mark.stress
def test_with_every_guard_there_is_nothing_to_find(sanitizer: str) -> None:
    """The runs fail because of the guard. An rcu guard does nothing to the mm, nor one of fork to a run without fork."""
    if sanitizer:
        pytest.skip("the same runs are made under sanitizers without a process of their own")
    for hunt in (Hunt("fork_flush", "mm", HUNTS[0].options), Hunt("fork_flush", "rcu", {})):
        run = run_once(hunt, 1, 1.0)
        assert not run.found, run
        assert run.operations > 0


def test_ten_mutations_at_least() -> None:
    guards = [h.guard for h in HUNTS]
    assert len(set(guards)) == len(guards) >= 10
    assert set(guards) <= {str(row["name"]) for row in torture.guards()}


def test_a_run_that_found_nothing_counts_as_longer_than_all() -> None:
    def report(*seconds: float | None) -> Report:
        runs = (Run(i, s is not None, s or 9.0, 10, "") for i, s in enumerate(seconds))
        return Report(HUNTS[0], tuple(runs))

    assert report(1.0, 3.0, 2.0).median == 2.0
    assert report(1.0, None, 2.0).median == 2.0
    assert report(1.0, None, None).median is None
    assert [r.seconds for r in report(3.0, None, 1.0).found] == [1.0, 3.0]


def test_a_process_that_cannot_run_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"could not run: .*unknown era"):
        run_once(Hunt("rmap_recheck", "mm", {"era": "v1.0"}), 1, 0.1)


def test_the_page_has_every_hunt() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| (\d+) of (\d+) \|",
        (ROOT / "docs" / "torture.md").read_text(),
        re.MULTILINE,
    )
    assert [guard for guard, _, _ in rows] == [h.guard for h in HUNTS], (
        "run: python bench/bench_torture.py > docs/torture.md"
    )
    assert all(int(found) * 2 > int(runs) for _, found, runs in rows)


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(BENCH), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    out = tmp_path / "runs.json"
    done = run("rcu_batch_waits", "--seeds", "1", "--seconds", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(out.read_text())
    assert report["guard"] == "rcu_batch_waits"
    assert len(report["runs"]) == 1
    unknown = run("rcu_bath")
    assert unknown.returncode == 2
    assert "no stress run hunts for 'rcu_bath'" in unknown.stderr


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown guard 'pmd_rechek': did you mean pmd_recheck"):
        torture.without("pmd_rechek")
    with pytest.raises(ValueError, match=r"unknown point 'rt_pmll': did you mean rt_pml"):
        torture.pause("rt_pmll")
    with pytest.raises(ValueError, match=r"unknown bug of the museum 'B1222': did you mean .*B12"):
        museum.exhibit_of("B1222")


# ---- pgtbl torture -------------------------------------------------------------------------------------


def pgtbl_torture(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pgtbl", "torture", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_run_for_each_architecture_and_era(tmp_path: Path) -> None:
    out = tmp_path / "runs.json"
    done = pgtbl_torture(
        "--arch", "x86-64,s390", "--eras", "v6.4,v6.6", "--seconds", "0.2", "--json", str(out)
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(out.read_text())["runs"]
    assert [(r["arch"], r["era"]) for r in runs] == [
        (arch, era) for arch in ("x86-64", "s390") for era in ("v6.4", "v6.6")
    ]
    assert all(r["clean"] and r["ops"] == sum(r["done"].values()) > 0 for r in runs)
    assert [line.split()[:2] for line in done.stdout.splitlines()[-4:]] == [
        [r["arch"], r["era"]] for r in runs
    ]


@pytest.mark.stress
def test_what_is_planted_is_told(sanitizer: str) -> None:
    if sanitizer:
        pytest.skip("a planted race is a finding of its own under a sanitizer")
    done = pgtbl_torture(
        *("--without", "retract_ptl", "--jitter", "6", "--extents", "1"),
        *("--eras", "v6.6", "--seconds", "10", "--json", "-"),
    )
    assert done.returncode == 1
    (run,) = json.loads(done.stdout)["runs"]
    assert run["without"] == ["retract_ptl"]
    assert "x86-64, v6.6: G-35: " in done.stderr


def test_a_process_that_dies_or_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    order = {"arch": "x86-64", "era": "v6.6", "seed": 1, "without": ("pmd_recheck",)}
    for how in (Died("it died of signal 11"), Died("it hung", hung=True)):

        def dies(*_: object, how: Died = how) -> None:
            raise how

        monkeypatch.setattr("pgtbl._stress.apart", dies)
        run = stress_apart(seconds=0.1, **order)
        assert not run.clean
        assert str(how) in run.errors[0]


@pytest.mark.thread_unsafe(reason="CliRunner replaces sys.stdout")
def test_ctrl_c_leaves_the_runs_so_far() -> None:
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    got = CliRunner().invoke(main, ["torture", "--eras", "v6.6", "--seconds", "60", "--json", "-"])
    timer.join()
    assert got.exit_code == 130
    assert json.loads(got.stdout)["runs"] == []
    assert "interrupted after 0 of 1 runs" in got.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--without", "retract_pt"], "unknown guard 'retract_pt': did you mean retract_ptl"),
        (["--mix", "painter=1"], "unknown role 'painter'"),
        (["--mix", "writer"], "'writer': ROLE=THREADS is needed"),
        (["--arch", "vax"], "unknown architecture 'vax'"),
        (["--unchecked", "--arch", "arm"], "the unchecked build is x86-64's alone"),
        (["--unchecked", "--without", "pmd_recheck"], "the unchecked build is x86-64's alone"),
        (["--memory", "3MiB"], "a multiple of 2MiB, from 32MiB on, is allowed"),
        (["--eras", "v1.0"], "unknown era 'v1.0'"),
    ],
)
def test_bad_input_of_the_command(arguments: list[str], complaint: str) -> None:
    done = pgtbl_torture("--seconds", "0.1", *arguments)
    assert done.returncode in (1, 2), done.stderr
    assert complaint in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_unchecked_build() -> None:
    run = torture.stress(checked=False, seconds=10, ops=20_000, mix={"writer": 1, "collapser": 1})
    assert run.clean
    assert run.ops >= 20_000
