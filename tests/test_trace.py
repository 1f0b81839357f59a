"""Traces: reading them, refusing broken ones, and what replay makes of them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgtbl._program import compile_trace
from pgtbl._replay import plan_trace
from pgtbl._walk import Area, Space
from pgtbl.trace import TraceError, load_trace
from pgtbl.workload import NO_FILE, OFF_CLOCK, PAGE, SHARED, STEP, TASK_SIZE, Kind, Op, Plan

HEAD = {"trace": "made", "cmd": "made up", "kernel": "6.18", "rc": 0}
BASE = 0x7F00_0000_0000


def write(path: Path, *events: Any, head: Any = HEAD) -> Path:
    lines = [json.dumps(x) if not isinstance(x, str) else x for x in (head, *events)]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def ev(op: str, pid: int = 1, **data: Any) -> dict[str, Any]:
    return {"us": 0, "pid": pid, "op": op, **data}


def fault(addr: int, acc: str = "w", **more: Any) -> dict[str, Any]:
    return ev("fault", addr=addr, acc=acc, **more)


def mmap(ret: int, length: int, prot: str = "rw", *flags: str, **more: Any) -> dict[str, Any]:
    return ev("mmap", addr=0, len=length, prot=prot, flags=list(flags), ret=ret, **more)


def plan(path: Path, walkers: int = 1) -> Plan:
    return plan_trace(load_trace(path), walkers=walkers, collapsers=1, mms=1, seed=1)


def own_steps(p: Plan) -> list[Any]:
    """The steps of the first walker that come from the trace."""
    probes = {Kind.SAME_VMA, Kind.POPULATE, Kind.MINCORE, Kind.MMAP_MUNMAP}
    return [
        s
        for s in p.walkers[0]
        if (s["kind"] not in probes and s["addr"] < 0x3000_0000_0000) or s["addr"] >= BASE
    ]


# ---- reading ---------------------------------------------------------------------------------------


def test_the_trace_that_ships() -> None:
    trace = load_trace()
    assert trace.name == "sqlite"
    assert trace.processes == 2
    assert trace.faults == 1827
    assert "sqlite3" in repr(trace)
    assert "Event" not in repr(trace), "a repr that prints every event is of no use"


def test_a_plain_file_is_read_as_a_zipped_one(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jsonl", mmap(BASE, PAGE, "rw", "private", "anonymous"), fault(BASE))
    zipped = tmp_path / "b.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_trace(plain).events == load_trace(zipped).events


def _mremap(**data: int) -> dict[str, Any]:
    return ev("mremap", addr=BASE, len=PAGE, flags=["maymove"], **data)


TOP = TASK_SIZE - PAGE
GOOD = fault(BASE, img=1)
BROKEN: dict[str, tuple[list[Any], int, str]] = {
    "not JSON": ([GOOD, "{"], 3, "not JSON"),
    "not an object": ([GOOD, "[1]"], 3, "object"),
    "no op": ([{"us": 1, "pid": 1}, GOOD], 2, '"op"'),
    "no pid": ([{"op": "fault", "addr": BASE, "acc": "r"}], 2, '"pid"'),
    "pid is text": ([{**GOOD, "pid": "1"}], 2, "'1'"),
    "pid is a truth": ([{**GOOD, "pid": True}], 2, "True"),
    "no address": ([ev("fault", acc="r")], 2, '"addr"'),
    "negative address": ([fault(-4096)], 2, "-4096"),
    "kernel address": ([fault(1 << 47)], 2, str(1 << 47)),
    "unknown access": ([fault(BASE, "q")], 2, "'q'"),
    "no flags": ([{**mmap(BASE, PAGE), "flags": None}], 2, '"flags"'),
    "unknown protection": ([mmap(BASE, PAGE, "rq")], 2, "'rq'"),
    "unaligned mapping": ([mmap(BASE + 1, PAGE)], 2, str(BASE + 1)),
    "empty mapping": ([mmap(BASE, 0)], 2, '"len"'),
    "file without offset": ([mmap(BASE, PAGE, "r", "private", fd="file", path="x")], 2, '"off"'),
    "advice is a number": ([ev("madvise", addr=BASE, len=PAGE, advice=4, ret=0)], 2, '"advice"'),
    "child is missing": ([ev("fork")], 2, '"child"'),
    "no fault at all": ([mmap(BASE, PAGE)], 2, "no page fault"),
    "access is a list": ([{**GOOD, "acc": []}], 2, "[]"),
    "flags of no names": ([{**mmap(BASE, PAGE), "flags": [["shared"]]}], 2, "[['shared']]"),
    "thread is text": ([{**GOOD, "tid": "main"}], 2, "'main'"),
    "half a character": ([GOOD, '{"pid": 1, "op": "exec", "path": "\\ud800"}'], 3, "surrogates"),
    "nested for ever": ([GOOD, "[" * 100_000], 3, "'[[["),
    "mapping beyond the end": ([mmap(TOP, 2 * PAGE), GOOD], 2, str(TASK_SIZE + PAGE)),
    "munmap beyond the end": ([ev("munmap", addr=TOP, len=2 * PAGE, ret=0)], 2, str(TOP)),
    "heap beyond the end": ([ev("brk", addr=0, ret=1 << 60)], 2, str(1 << 60)),
    "moved beyond the end": ([_mremap(ret=1 << 60, new_len=PAGE)], 2, str(1 << 60)),
    "grown beyond the end": ([_mremap(ret=TOP, new_len=2 * PAGE)], 2, str(TASK_SIZE + PAGE)),
    "moved to no page": ([_mremap(ret=BASE + 1, new_len=PAGE)], 2, str(BASE + 1)),
    "shrunk to nothing": ([_mremap(ret=BASE, new_len=0)], 2, '"new_len"'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_is_refused(name: str, tmp_path: Path) -> None:
    events, line, text = BROKEN[name]
    path = write(tmp_path / "broken.jsonl", *events)
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    assert isinstance(caught.value, ValueError)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert text in str(caught.value)


def test_a_trace_whose_faults_are_all_left_out_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t", fault(0), fault(PAGE))
    with pytest.raises(TraceError, match=r"t:3: no page fault"):
        plan(path)


_ODD: list[Any] = [
    *(None, True, -1, 0, 1, 4095, PAGE, TOP, TASK_SIZE - 1, TASK_SIZE, 1 << 60, 1 << 63, 1 << 200),
    *(0.5, float("inf"), "", "x", "rw", "anonymous", [], [[]], {}, ["shared"], ["fixed", 1]),
]
_FIELDS = ("op", "pid", "tid", "addr", "len", "new_len", "ret", "prot", "flags")
_FIELDS += ("fd", "off", "path", "acc", "img", "advice", "child", "errno")


def test_odd_fields_are_refused_or_replayed(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    events = [
        ev("exec", path="a.out", ret=0),
        fault(BASE - 64 * PAGE, img=1),
        mmap(BASE, 4 * PAGE, "rw", "private", "anonymous"),
        mmap(BASE + 8 * PAGE, 4 * PAGE, "rw", "shared", fd="file", path="x", off=0),
        fault(BASE),
        ev("brk", addr=0, ret=BASE + (1 << 30)),
        ev("brk", addr=0, ret=BASE + (1 << 30) + PAGE),
        ev("mprotect", addr=BASE, len=PAGE, prot="r", ret=0),
        ev("madvise", addr=BASE, len=PAGE, advice="DONTNEED", ret=0),
        {**_mremap(ret=BASE + 64 * PAGE, new_len=2 * PAGE), "addr": BASE + 8 * PAGE},
        ev("munmap", addr=BASE, len=PAGE, ret=0),
        ev("fork", child=2),
        fault(BASE + PAGE, pid=2),
        ev("vfork", child=3),
        ev("exit", pid=2),
    ]
    refused = []
    for _ in range(100):
        odd = [dict(event) for event in events]
        for _ in range(rng.randrange(1, 4)):
            event = rng.choice(odd)
            key = rng.choice([*event, rng.choice(_FIELDS)])
            if rng.random() < 0.1:
                event.pop(key, None)
            else:
                event[key] = rng.choice(_ODD)
        path = write(tmp_path / "odd", *odd)
        try:
            trace = load_trace(path)
            compile_trace(trace)
            plan_trace(trace, walkers=2, collapsers=1, mms=1, seed=1)
        except ValueError as error:
            refused.append(error)
    assert 10 < len(refused) < 90
    for error in refused:
        # A mapping as large as the address space is no error of the trace.
        assert isinstance(error, TraceError) or "no room to move" in str(error)


def _shipped_bytes() -> bytes:
    return Path(load_trace().path).read_bytes()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda b: b[: len(b) // 2],
    "changed in the middle": lambda b: b[:4000] + bytes(64) + b[4064:],
    "only the magic number": lambda b: b[:2],
    "no gzip after all": lambda b: b"\x1f\x8bnothing of the sort",
    "binary": lambda b: bytes(range(128, 256)) * 8,
    "empty": lambda b: b"",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_refused(how: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.jsonl.gz"
    path.write_bytes(DAMAGE[how](_shipped_bytes()))
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    assert str(path) in str(caught.value)


def test_a_trace_without_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="first line"):
        load_trace(write(tmp_path / "t", GOOD, head=GOOD))


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_trace(tmp_path / "none")


# ---- the model of an address space -------------------------------------------------------------------


def test_space_against_a_table_of_pages(seed: int) -> None:
    rng = random.Random(seed)
    space, pages = Space(), dict[int, tuple[int, int, int]]()
    for i in range(400):
        start = rng.randrange(64) * PAGE
        end = start + rng.randrange(1, 16) * PAGE
        numbers = range(start // PAGE, end // PAGE)
        if rng.random() < 0.6:
            file = rng.choice([NO_FILE, 3])
            offset = rng.randrange(8) * PAGE
            space.put(Area(start, end, i % 8, file, offset))
            for n in numbers:
                place = offset + (n * PAGE - start if file != NO_FILE else 0)
                pages[n] = (i % 8, file, place)
        else:
            space.clear(start, end)
            for n in numbers:
                pages.pop(n, None)
        for n in range(96):
            area = space.find(n * PAGE + 17)
            assert (area is None) == (n not in pages)
            if area is not None:
                part = area.part(n * PAGE, (n + 1) * PAGE)
                assert (part.prot, part.file, part.offset) == pages[n]
        holes = {n for a, b in space.holes(0, 96 * PAGE) for n in range(a // PAGE, b // PAGE)}
        assert holes == set(range(96)) - pages.keys()


# ---- what becomes of events ----------------------------------------------------------------------------


def test_a_step_has_the_size_that_the_core_expects() -> None:
    assert STEP.itemsize == 32


def test_anonymous_memory_and_brk(tmp_path: Path) -> None:
    heap = BASE + (1 << 30)
    p = plan(
        write(
            tmp_path / "t",
            mmap(BASE, 2 * PAGE, "rw", "private", "anonymous"),
            fault(BASE + PAGE + 8),
            ev("brk", addr=0, ret=heap),
            ev("brk", addr=heap + 100, ret=heap + 100),
            fault(heap),
            ev("brk", addr=heap, ret=heap),
        )
    )
    steps = [(Op(s["op"]), int(s["addr"]), int(s["flags"])) for s in own_steps(p)]
    assert steps == [
        (Op.MAP_ANON, BASE, 0),
        (Op.TOUCH_WRITE, BASE + PAGE, 0),
        (Op.MAP_ANON, heap, 0),
        (Op.TOUCH_WRITE, heap, 0),
        (Op.UNMAP, heap, 0),
        (Op.UNMAP, BASE, OFF_CLOCK),  # so that the script can start over
    ]
    assert p.replaced == {}


def test_files_are_shared_or_private_as_recorded(tmp_path: Path) -> None:
    p = plan(
        write(
            tmp_path / "t",
            mmap(BASE, PAGE, "r", "private", fd="file", path="lib", off=PAGE),
            mmap(BASE + PAGE, PAGE, "rw", "shared", fd="file", path="lib", off=0),
            fault(BASE, "r"),
        )
    )
    maps = [s for s in own_steps(p) if s["op"] == Op.MAP_FILE]
    assert [int(s["offset"]) for s in maps] == [PAGE, 0]
    assert [bool(s["flags"] & SHARED) for s in maps] == [False, True]
    assert maps[0]["file"] == maps[1]["file"]
    assert p.files[int(maps[0]["file"])] == 2 * PAGE


def test_what_exec_mapped_is_mapped_before_it_is_touched(tmp_path: Path) -> None:
    p = plan(
        write(
            tmp_path / "t",
            ev("exec", path="a.out", ret=0),
            fault(BASE, "x", img=1),
            fault(BASE + 5 * PAGE, "r", img=1),
            fault(BASE + 5000 * PAGE, "w", img=1),
        )
    )
    first = own_steps(p)[:2]
    assert [(Op(s["op"]), int(s["addr"]), int(s["length"])) for s in first] == [
        (Op.MAP_FILE, BASE, 6 * PAGE),
        (Op.MAP_ANON, BASE + 5000 * PAGE, PAGE),
    ]
    assert all(s["flags"] & OFF_CLOCK for s in first)


def test_the_nearest_form_is_counted(tmp_path: Path) -> None:
    p = plan(
        write(
            tmp_path / "t",
            mmap(BASE, 4 * PAGE, "rw", "private", "anonymous"),
            fault(BASE),
            ev("fork", child=2),
            {**fault(BASE, prot=1), "pid": 2},
            ev(
                "mremap",
                addr=BASE,
                len=4 * PAGE,
                new_len=8 * PAGE,
                flags=["maymove"],
                ret=BASE + 64 * PAGE,
            ),
            ev("madvise", addr=BASE + 64 * PAGE, len=PAGE, advice="FREE", ret=0),
            ev("madvise", addr=BASE + 64 * PAGE, len=PAGE, advice="DONTFORK", ret=0),
            ev("munmap", addr=BASE, len=PAGE, ret=-1, errno="EINVAL"),
            ev("shmat", args="1, 2", ret=0),
            fault(BASE + 500 * PAGE),
            fault(0),
        )
    )
    assert p.mms == 3  # two programs, and another that maps the file
    assert sum(p.replaced.values()) == 9
    for what in (
        "fork",
        "copy on write",
        "mremap",
        "FREE, as",
        "DONTFORK",
        "failed",
        "shmat",
        "outside",
        "null",
    ):
        assert any(what in key for key in p.replaced), what


def test_a_large_shared_file_of_the_trace_is_what_is_collapsed(tmp_path: Path) -> None:
    size = 8 << 20
    p = plan(
        write(
            tmp_path / "t",
            mmap(BASE, size, "rw", "shared", fd="memfd", path="heap", off=0),
            mmap(BASE + size, PAGE, "rw", "private", "anonymous"),
            *(fault(BASE + i * PAGE) for i in range(600)),
            fault(BASE + size),
        )
    )
    assert "heap" in p.notes[0]
    assert sorted(e for extents in p.extents for e in extents) == [0, 1, 2, 3]
    touched = [s for s in own_steps(p) if s["op"] == Op.TOUCH_WRITE and s["addr"] < BASE + size]
    assert {int(s["kind"]) for s in touched} == {Kind.COLLAPSED}, "not counted as throughput"
    assert p.files[p.collapse_file] > size, "the walkers' own extents come after the file's"


def test_walkers_do_not_meet(tmp_path: Path) -> None:
    trace = load_trace()
    p = plan_trace(trace, walkers=3, collapsers=1, mms=1, seed=1)

    def pages(k: int) -> set[tuple[int, int]]:
        touched = p.walkers[k][p.walkers[k]["op"] <= Op.TOUCH_EXEC]
        return set(zip(touched["mm"].tolist(), (touched["addr"] // PAGE).tolist(), strict=True))

    one, two, three = (pages(k) for k in range(3))
    assert not one & two
    assert not one & three
    assert not two & three
    # Moved by whole GiB: what is decided by lower bits of the address is as recorded.
    low = (1 << 30) - 1
    assert np.array_equal(
        p.walkers[0]["addr"][p.walkers[0]["kind"] == Kind.ANON] & low,
        p.walkers[1]["addr"][p.walkers[1]["kind"] == Kind.ANON] & low,
    )


def test_a_script_ends_with_nothing_left() -> None:
    p = plan_trace(load_trace(), walkers=1, collapsers=1, mms=1, seed=1)
    mapped = [Space() for _ in range(p.mms)]
    for s in p.walkers[0]:
        space, start = mapped[s["mm"]], int(s["addr"])
        end = start + -(-int(s["length"]) // PAGE) * PAGE
        if s["op"] in (Op.MAP_ANON, Op.MAP_FILE):
            space.put(Area(start, end, int(s["prot"])))
        elif s["op"] == Op.UNMAP:
            space.clear(start, end)
        elif s["op"] <= Op.TOUCH_EXEC and s["kind"] in (Kind.ANON, Kind.FILE):
            assert space.find(start) is not None
    assert all(not space.areas for space in mapped)
