"""Replaying recorded programs with their threads and processes, and recording them."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import pgtbl
from pgtbl import _replay_run
from pgtbl._intervals import Interval, final_spaces, merged
from pgtbl._program import Op, compile_trace
from pgtbl._record import RecordError, parse_strace, record
from pgtbl._replay_run import wrong_spaces
from pgtbl.cli import main
from pgtbl.trace import Trace, load_trace

BASE = 0x7F00_0000_0000
PAGE = 4096


def trace_of(tmp_path: Path, *events: dict[str, Any]) -> Trace:
    rows = [{"trace": "made", "cmd": "made up", "kernel": "0"}]
    rows += [{"us": i, "pid": 1, **event} for i, event in enumerate(events)]
    path = tmp_path / "made.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_trace(path, faults_needed=False)


def mapped(at: int, pages: int, prot: str = "rw", **more: Any) -> dict[str, Any]:
    row = {"op": "mmap", "addr": 0, "len": pages * PAGE, "prot": prot, "flags": ["private"]}
    return {**row, "ret": BASE + at * PAGE, **more}


def fault(at: int, acc: str = "w", **more: Any) -> dict[str, Any]:
    return {"op": "fault", "addr": BASE + at * PAGE, "acc": acc, **more}


BUSY: list[dict[str, Any]] = [
    {"op": "exec", "path": "a"},
    mapped(0, 16),
    fault(0),
    mapped(100, 8, "rw", fd="file", path="/f", off=2 * PAGE, flags=["shared"]),
    {"op": "thread", "child": 2},
    fault(1, tid=2),
    fault(101, tid=2),
    {"op": "mprotect", "addr": BASE + 4 * PAGE, "len": 4 * PAGE, "prot": "r"},
    fault(5, "r", tid=2),
    {"op": "fork", "child": 2},
    {"pid": 2, "op": "munmap", "addr": BASE, "len": 2 * PAGE},
    fault(2, pid=2),
    {"op": "vfork", "child": 3},
    {"pid": 3, "op": "exec", "path": "b"},
    mapped(0, 1, "r", pid=3),
    {
        "op": "mremap",
        "addr": BASE + 10 * PAGE,
        "len": 2 * PAGE,
        "new_len": 4 * PAGE,
        "flags": ["maymove"],
        "ret": BASE + 200 * PAGE,
    },
    fault(203),
    {"op": "madvise", "addr": BASE, "len": 2 * PAGE, "advice": "DONTNEED", "ret": 0},
    {"pid": 2, "op": "exit"},
    {"op": "exit"},
]


# ---- the interval model ------------------------------------------------------------------------------


def test_the_model_does_what_the_calls_did(tmp_path: Path) -> None:
    spaces = dict(final_spaces(trace_of(tmp_path, *BUSY).events))

    def rows(pid: int) -> list[tuple[int, int, str]]:
        return [
            ((x.start - BASE) // PAGE, (x.end - BASE) // PAGE, "".join(sorted(x.prot)))
            for x in spaces[pid]
        ]

    kept = [(0, 4, "rw"), (4, 8, "r")]
    assert rows(1) == [*kept, (8, 10, "rw"), (12, 16, "rw"), (100, 108, "rw"), (200, 204, "rw")]
    assert rows(2) == [(2, 4, "rw"), (4, 8, "r"), (8, 16, "rw"), (100, 108, "rw")]
    assert rows(3) == [(0, 1, "r")]
    assert spaces[1][4].offset == 2 * PAGE


def test_neighbours_join_only_where_they_mean_the_same() -> None:
    rw, r = frozenset("rw"), frozenset("r")
    file = ("file", "/f")
    joined = merged(
        [
            Interval(8, 12, rw, False, None, 0),
            Interval(0, 8, rw, False, None, 0),
            Interval(12, 16, r, False, None, 0),
            Interval(16, 20, r, True, file, 4),
            Interval(20, 24, r, True, file, 8),
            Interval(24, 28, r, True, file, 0),
        ]
    )
    assert [(x.start, x.end) for x in joined] == [(0, 12), (12, 16), (16, 24), (24, 28)]


# ---- replaying ---------------------------------------------------------------------------------------


def test_each_thread_waits_for_what_was_before(tmp_path: Path) -> None:
    program = compile_trace(trace_of(tmp_path, *BUSY))
    assert program.lanes == [(1, 0), (1, 2), (2, 0), (3, 0)]
    first, second = program.threads[0], program.threads[1]
    assert first["op"].tolist()[:4] == [Op.BEGIN, Op.MAP_ANON, Op.TOUCH_WRITE, Op.MAP_FILE]
    # A change waits for every step before it; a touch for the changes before it.
    protect = first[first["op"] == Op.PROTECT][0]
    assert (protect["changes"], protect["steps"]) == (3, 6)
    assert second["changes"].tolist() == [3, 3, 4]
    assert second["steps"].tolist() == [0, 0, 0]
    child = program.threads[2]
    assert child["changes"][0] == 1  # the fork


@pytest.mark.parametrize("era", ["v6.4", "v6.6"])
@pytest.mark.parametrize("collapsers", [0, 1])
def test_address_spaces_end_as_recorded(tmp_path: Path, era: str, collapsers: int) -> None:
    result = pgtbl.replay(trace_of(tmp_path, *BUSY), [era], rounds=3, collapsers=collapsers)
    assert result.eras[era].wrong == []
    assert result.eras[era].spaces == 3
    assert result.as_recorded
    assert len(result.eras[era].latencies("fork")) == 3
    assert result.eras[era].refused == 0
    assert "interval model" in str(result)
    assert "<pre" in result._repr_html_()


def test_the_trace_that_ships(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    got = CliRunner().invoke(
        main, ["replay", "--rounds", "1", "--eras", "v6.6", "--json", str(out)]
    )
    assert got.exit_code == 0, got.output
    sums = json.loads(out.read_text())
    assert sums["as_recorded"] is True
    assert sums["eras"]["v6.6"]["ns"]["fault, anonymous"]["count"] > 100
    assert sums["eras"]["v6.6"]["ledger"]["fault"] > 1000


def test_a_wrong_address_space_is_told(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, *BUSY)
    program = compile_trace(trace)
    raw = pgtbl._core.replay_program(
        era="v6.6",
        switches=[],
        memory=64 << 20,
        files=program.files,
        spaces=len(program.space_pids),
        threads=program.threads,
        collapsers=0,
        max_ptes_none=511,
    )
    expected = list(final_spaces(trace.events))
    assert wrong_spaces(raw["areas"], program, expected) == []
    without = [a for a in raw["areas"] if not (a[0] == 0 and a[1] == BASE + 12 * PAGE)]
    (line,) = wrong_spaces(without, program, expected)
    assert "process 1" in line
    other = [(*a[:3], a[3] ^ 2, *a[4:]) for a in raw["areas"]]
    assert len(wrong_spaces(other, program, expected)) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t[0]["op"].__setitem__(0, 99), "unknown operation"),
        (lambda t: t[0]["space"].__setitem__(1, 77), "no such address space"),
        (lambda t: t[0]["file"].__setitem__(3, 9), "no such file"),
        (lambda t: t[0]["changes"].__setitem__(3, 999), "more than ever happens"),
        (lambda t: t[0]["changes"].__setitem__(1, 0), "not there yet"),
    ],
)
def test_arrays_that_cannot_be_are_refused(tmp_path: Path, change: Any, says: str) -> None:
    program = compile_trace(trace_of(tmp_path, *BUSY))
    threads = [t.copy() for t in program.threads]
    change(threads)
    with pytest.raises(ValueError, match=says):
        pgtbl._core.replay_program(
            era="v6.6",
            switches=[],
            memory=64 << 20,
            files=program.files,
            spaces=len(program.space_pids),
            threads=threads,
            collapsers=0,
            max_ptes_none=511,
        )


@pytest.fixture
def ctrl_c_after_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """One as the first round of the first era is noted down, and a second, as it has been."""
    note = _replay_run._note

    def noted(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        note(*arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_replay_run, "_note", noted)


@pytest.mark.usefixtures("ctrl_c_after_a_round")
@pytest.mark.thread_unsafe(reason="signal handlers run in the main thread")
def test_ctrl_c_brings_the_rounds_that_were_done(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, *BUSY)
    with pytest.raises(pgtbl.Interrupted, match="after 0 rounds of each era") as caught:
        pgtbl.replay(trace, collapsers=0)
    result = caught.value.result
    assert result.interrupted
    assert [len(era.wall_s) for era in result.eras.values()] == [1, 0]
    out = tmp_path / "out.json"
    got = CliRunner().invoke(main, ["replay", trace.path, f"--json={out}", "--collapsers=0"])
    assert got.exit_code == 130, got.output
    assert "INTERRUPTED" in got.stdout
    assert json.loads(out.read_text())["interrupted"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="eras are"):
        pgtbl.replay(eras=["v5"])
    with pytest.raises(ValueError, match="collapsers"):
        pgtbl.replay(collapsers=-1)
    with pytest.raises(ValueError, match="rounds"):
        pgtbl.replay(rounds=0)
    with pytest.raises(ValueError, match="max_ptes_none"):
        pgtbl.replay(max_ptes_none=512)
    with pytest.raises(ValueError, match="memory"):
        pgtbl.replay(memory="1MiB")
    assert CliRunner().invoke(main, ["replay", "--eras", "nine"]).exit_code == 2


def test_random_programs_end_as_recorded(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    events: list[dict[str, Any]] = [{"op": "exec", "path": "a"}, mapped(0, 64)]
    pids = [1]
    for _ in range(400):
        pid = int(random.choice(pids))
        at, n = int(random.integers(0, 60)), int(random.integers(1, 12))
        tid = {"tid": 2} if random.random() < 0.4 else {}
        where = {"pid": pid, **tid}
        match int(random.integers(0, 8)):
            case 0:
                events.append(mapped(at, n, str(random.choice(["r", "rw", ""])), **where))
            case 1:
                more = {"fd": "file", "path": "/f", "off": at * PAGE, "flags": ["shared"]}
                events.append(mapped(at, n, **more, **where))
            case 2:
                events.append({"op": "munmap", "addr": BASE + at * PAGE, "len": n * PAGE, **where})
            case 3:
                prot = str(random.choice(["r", "rw", "rx", ""]))
                events.append(
                    {
                        "op": "mprotect",
                        "addr": BASE + at * PAGE,
                        "len": n * PAGE,
                        "prot": prot,
                        **where,
                    }
                )
            case 4 if len(pids) < 4:
                pids.append(len(pids) + 1)
                events.append({"op": "fork", "child": pids[-1], "pid": pid})
            case _:
                events.append(fault(at, str(random.choice(["r", "w"])), **where))
    trace = trace_of(tmp_path, *events)
    # mprotect of what is not mapped is mapped first, which no listed call asked for: the model knows nothing of it.
    result = pgtbl.replay(trace, ["v6.4", "v6.6"], rounds=2, collapsers=1)
    assert result.eras["v6.6"].wrong == []
    assert result.eras["v6.4"].wrong == []


# ---- recording ---------------------------------------------------------------------------------------

STRACE = """\
10 1700000000.000100 execve("/bin/x", ["x", "a, b"], 0x7ffc /* 3 vars */) = 0
10 1700000000.000200 brk(NULL)       = 0x55e069511000
10 1700000000.000300 mmap(NULL, 8192, 0x3 /* PROT_READ|PROT_WRITE */, 0x22 /* MAP_PRIVATE|MAP_ANONYMOUS */, -1, 0) = 0x7fd1f3541000
10 1700000000.000400 mmap(0x7fd1f3510000, 110592, 0x5 /* PROT_READ|PROT_EXEC */, 0x812 /* MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE */, 3</usr/lib/a,b.so>, 0x7000) = 0x7fd1f3510000
10 1700000000.000500 clone3({flags=CLONE_VM|CLONE_THREAD, stack=0x7ff188, stack_size=0x7fff80} => {parent_tid=[11]}, 88) = 11
11 1700000000.000600 munmap(0x7fd1f3541000, 4096 <unfinished ...>
10 1700000000.000650 mprotect(0x7fd1f3541000, 4096, 0x1 /* PROT_READ */) = 0
11 1700000000.000700 <... munmap resumed>) = 0
10 1700000000.000800 mmap(NULL, 99, 0x3 /* PROT_READ|PROT_WRITE */, 0x22 /* MAP_PRIVATE|MAP_ANONYMOUS */, -1, 0) = -1 ENOMEM (Cannot allocate memory)
10 1700000000.000900 vfork( <unfinished ...>
12 1700000000.000950 execve("/bin/y", ["y"], 0x1 /* 0 vars */) = 0
10 1700000000.001000 <... vfork resumed>) = 12
12 1700000000.001100 exit_group(0)   = ?
12 1700000000.001200 +++ exited with 0 +++
10 1700000000.001300 madvise(0x7fd1f3541000, 4096, 0x4 /* MADV_DONTNEED */) = 0
10 1700000000.001400 --- SIGCHLD {si_signo=SIGCHLD} ---
10 1700000000.001500 +++ exited with 0 +++
"""


def test_strace_is_understood() -> None:
    events = list(parse_strace(STRACE.splitlines()))
    assert [(e["task"], e["op"]) for e in events] == [
        (10, "exec"),
        (10, "brk"),
        (10, "mmap"),
        (10, "mmap"),
        (10, "thread"),
        (10, "mprotect"),
        (11, "munmap"),
        (10, "mmap"),
        (12, "exec"),
        (10, "vfork"),
        (12, "exit"),
        (10, "madvise"),
        (10, "exit"),
    ]
    library = events[3]
    assert (library["fd"], library["path"], library["off"]) == ("file", "/usr/lib/a,b.so", 0x7000)
    assert library["ret"] == 0x7FD1F3510000
    assert (library["prot"], library["flags"]) == ("rx", ["private", "fixed", "denywrite"])
    assert events[6]["at"] == 1700000000.0006  # when it began
    assert events[7]["errno"] == "ENOMEM"
    assert events[9]["child"] == 12
    assert events[11]["advice"] == "DONTNEED"


def test_without_strace_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecordError, match="install"):
        record(["ls"], tmp_path / "t.jsonl")
    got = CliRunner().invoke(main, ["record", "-o", str(tmp_path / "t.jsonl"), "--", "ls"])
    assert got.exit_code == 1
    assert "apt install strace" in got.output


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_what_is_recorded_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    try:
        head = record(["sh", "-c", "true; ls / >/dev/null; exit 3"], path)
    except RecordError as error:
        pytest.skip(str(error))
    assert head["rc"] == 3
    trace = load_trace(path, faults_needed=False)
    assert {"exec", "mmap", "munmap", "exit"} <= {event.op for event in trace.events}
    assert trace.processes == 2
    result = pgtbl.replay(trace, ["v6.6"], rounds=1)
    assert result.as_recorded, str(result)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    got = CliRunner().invoke(
        main, ["record", "-o", str(tmp_path / "t"), "--", "no-such-command-anywhere"]
    )
    assert got.exit_code == 1
    assert "no such command" in got.output
