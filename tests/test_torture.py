"""A stress test that cannot find a planted bug proves nothing: each hunt finds its own, and the page says after how long."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

import pgtbl
from pgtbl import _torture, museum, torture
from pgtbl._apart import Died, apart
from pgtbl._hunt import HUNTS, Hunt, Report, Run, run_once
from pgtbl._stress import MAX_THREADS, ROLES, stress_apart
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


RAN = {
    "seconds": 0.5,
    "ops": 7,
    "done": {"map": 7},
    "lost": [],
    "breaches": ["G-99: x"],
    "errors": [],
}


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A build whose second run is interrupted; the eras of its runs."""
    eras: list[str] = []

    def run(*, era: str, **_: object) -> dict[str, Any]:
        eras.append(era)
        if len(eras) < 2:
            return {**RAN, "interrupted": False}
        with contextlib.suppress(
            KeyboardInterrupt
        ):  # as the compiled module, which keeps the result
            signal.raise_signal(signal.SIGINT)
        return {**RAN, "interrupted": True}

    build = SimpleNamespace(stress=run)
    monkeypatch.setattr("pgtbl._stress.module_of", lambda *_: build)
    return eras


@pytest.mark.thread_unsafe(reason="CliRunner replaces sys.stdout")
@pytest.mark.parametrize("json_file", ["-", "runs.json"])
def test_ctrl_c_leaves_the_runs_so_far_and_a_second_one_loses_nothing(
    json_file: str, made_up: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    echo = click.echo

    def again(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        echo(*arguments, **options)

    monkeypatch.setattr("pgtbl._torture_cli.click.echo", again)
    got = CliRunner().invoke(main, ["torture", "--json", json_file])
    assert got.exit_code == 130, got.output
    assert made_up == ["v6.4", "v6.5"], "no run is begun after it"
    text = got.stdout if json_file == "-" else Path(json_file).read_text()
    first, second = json.loads(text)["runs"]
    assert not first["interrupted"]
    assert second["interrupted"]
    assert (second["era"], second["ops"], second["done"]) == ("v6.5", 7, {"map": 7})
    assert "interrupted after 1 of 3 runs" in got.stderr
    assert "x86-64, v6.5: G-99: x" in got.stderr
    assert json_file == "-" or "YES (part)" in got.stdout
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_run_has_its_result_in_python_too(made_up: list[str]) -> None:
    assert not torture.stress().interrupted
    with pytest.raises(pgtbl.Interrupted, match=r"interrupted after 7 operations; \.result") as end:
        torture.stress(era="v6.4", seed=3)
    assert isinstance(end.value.result, torture.Stress)
    assert end.value.result.interrupted
    assert (end.value.result.seed, end.value.result.breaches) == (3, ["G-99: x"])
    copy = pickle.loads(pickle.dumps(end.value))
    assert (str(copy), copy.result) == (str(end.value), end.value.result)
    assert made_up == ["v6.6", "v6.4"]


@pytest.mark.thread_unsafe(reason="CliRunner replaces sys.stdout")
def test_ctrl_c_ends_a_real_run() -> None:
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    got = CliRunner().invoke(main, ["torture", "--eras", "v6.6", "--seconds", "60", "--json", "-"])
    timer.join()
    assert got.exit_code == 130
    (run,) = json.loads(got.stdout)["runs"]
    assert run["interrupted"]
    assert run["ops"] == sum(run["done"].values()) > 0
    assert run["seconds"] < 30
    assert "interrupted after 0 of 1 runs" in got.stderr


ANSWERS_LATE = """
import sys, time
from pathlib import Path
from pgtbl._interrupts import Interrupts
from pgtbl._apart import answer
with Interrupts() as interrupts:
    try:
        with interrupts.waiting():
            Path("ready").touch()
            time.sleep(60)
    except KeyboardInterrupt:
        answer(lambda: "what there was")
"""


@pytest.mark.thread_unsafe(reason="signal handlers run in the main thread")
def test_ctrl_c_reaches_the_process_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers_late.py").write_text(ANSWERS_LATE)

    def interrupt() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert apart("answers_late", None, 60) == "what there was"
    thread.join()


def test_what_a_process_refuses_is_refused() -> None:
    """As without a process of its own: of the same type, and with the same words."""
    options = {"arch": "x86-64", "era": "v6.6", "seed": 1, "without": ("pmd_recheck",)}
    with pytest.raises(ValueError, match="switches can not be safe together"):
        stress_apart(seconds=0.1, switches={"map_opens_rcu": 0}, **options)
    with pytest.raises(TypeError, match="jitter='x': a whole number"):
        stress_apart(seconds=0.1, jitter="x", **options)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--without", "retract_pt"], "unknown guard 'retract_pt': did you mean retract_ptl"),
        (["--mix", "painter=1"], "unknown role 'painter'"),
        (["--mix", "writer"], "'writer': ROLE=THREADS is needed"),
        (["--mix", "writer=²"], "'writer=²': ROLE=THREADS is needed"),
        (["--mix", "writer=1,writer=5"], "'writer=1,writer=5': writer is named twice"),
        (["--mix", "writer=99999999999"], "mix: writer=99999999999: allowed are 0 to 63"),
        (["--mix", "writer=60,reader=9"], "69 threads; allowed are 1 to 63"),
        (["--mix", "truncator=2"], "mix: truncator=2: one at most"),
        (["--arch", "vax"], "unknown architecture 'vax'"),
        (["--unchecked", "--arch", "arm"], "the unchecked build is x86-64's alone"),
        (["--unchecked", "--without", "pmd_recheck"], "the unchecked build is x86-64's alone"),
        (["--memory", "3MiB"], "a multiple of 2MiB, from 32MiB on, is allowed"),
        (["--memory", "3MiB", "--without", "pmd_recheck"], "a multiple of 2MiB, from 32MiB on"),
        (["--memory", "1TiB"], "memory='1TiB': this computer has"),
        (["--eras", "v1.0"], "unknown era 'v1.0'"),
        (["--seconds", "inf"], "seconds=inf: allowed are 0 to 604800"),
        (["--seconds", "nan"], "seconds=nan: allowed are 0 to 604800"),
        (["--seed", "-1"], "seed=-1: allowed are 0 to 18446744073709551615"),
        (["--seed", str(10**23)], "seed=100000000000000000000000: allowed are 0 to"),
        (["--jitter", "-1"], "jitter=-1: allowed are 0 to 4294967295"),
        (["--ops", "-5"], "ops=-5: allowed are 1 to"),
        (["--set", "map_opens_rcu=0"], "these switches can not be safe together"),
    ],
)
@pytest.mark.thread_unsafe(reason="CliRunner replaces sys.stdout")
def test_bad_input_of_the_command(arguments: list[str], complaint: str) -> None:
    done = CliRunner().invoke(main, ["torture", "--seconds", "0.1", *arguments])
    assert done.exit_code == 2, done.output  # 1 means that something was found
    assert complaint in " ".join(done.stderr.split())
    assert isinstance(done.exception, SystemExit)


@pytest.mark.thread_unsafe(reason="CliRunner replaces sys.stdout")
def test_what_could_not_be_had_is_nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pgtbl._stress.module_of", lambda *_: SimpleNamespace(stress=fails))
    done = CliRunner().invoke(main, ["torture", "--memory", "32MiB"])
    assert done.exit_code == 2
    assert "memory='32MiB': this computer has" in " ".join(done.stderr.split())
    monkeypatch.undo()
    full = CliRunner().invoke(main, ["torture", "--seconds", "0.1", "--json", "/dev/full"])
    assert full.exit_code == 2
    assert "cannot write --json '/dev/full'" in full.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ops": -5}, "ops=-5: allowed are 1 to"),
        ({"ops": 1.5}, "ops=1.5: a whole number is needed"),
        ({"mms": -1}, "mms=-1: allowed are 1 to 64"),
        ({"extents": 257}, "extents=257: allowed are 1 to 256"),
        ({"mix": 5}, "mix=5: a mapping of roles to numbers of threads is needed"),
        ({"mix": {1: 2}}, "mix=1: a name is needed, of writer, reader"),
        ({"mix": {"writer": "2"}}, "mix: writer='2': a whole number is needed"),
        ({"mix": {}}, r"mix={}: 0 threads; allowed are 1 to 63"),
        ({"alloc": 3}, "alloc=3: a name is needed, of reuse, quarantine"),
        ({"alloc": "x"}, "unknown alloc 'x': there are reuse, quarantine"),
        ({"without": 5}, "without=5: the name of a guard, or a list of such, is needed"),
        ({"without": [5]}, "without=5: a name is needed, that of a guard"),
        ({"seconds": "1"}, "seconds='1': a number is needed"),
        ({"memory": 3.5}, "memory=3.5: a whole number is needed"),
        ({"switches": {"x": 1}}, "unknown switch 'x'"),
        ({"era": 5}, "era=5: a name is needed, of v6.4"),
    ],
)
def test_bad_arguments(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint):
        torture.stress(**options)


def test_a_guard_by_its_name_alone() -> None:
    run = torture.stress(without="gup_unshare", seconds=0.1, mix={"writer": 1})
    assert run.without == ("gup_unshare",)


def test_every_role_is_known() -> None:
    with pytest.raises(ValueError, match=f"the roles are {', '.join(ROLES)}$"):
        _torture.stress(mix={"painter": 1})
    mix = dict.fromkeys(ROLES, 0) | {"writer": MAX_THREADS}
    assert torture.stress(mix=mix, ops=10).ops
    with pytest.raises(ValueError, match="64 threads"):
        _torture.stress(mix={"writer": MAX_THREADS + 1})


def test_the_unchecked_build() -> None:
    run = torture.stress(checked=False, seconds=10, ops=20_000, mix={"writer": 1, "collapser": 1})
    assert run.clean
    assert run.ops >= 20_000
