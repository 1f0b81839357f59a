"""The race: rounds, what they count, what is concluded from them, and how it is shown."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.progress import Progress

import pgtbl
from pgtbl import _core, _race, _stats, report
from pgtbl._race import INSTALL, LADDER, Runner, closed_loop_rates, make_order
from pgtbl._result import IDLE, LOADED, EraResult, RaceResult
from pgtbl._synthetic import SYNTHETIC, plan_synthetic
from pgtbl._tally import Rounds, Tally
from pgtbl.cli import main
from pgtbl.workload import OFF_CLOCK, Kind, Op, gaps, zipf_pages

pytestmark = pytest.mark.thread_unsafe(
    reason="races use every processor and compare their own threads"
)

RATE = 20_000.0  # steps a second: what a busy machine still keeps up with


def one_round(
    era: str = "v6.6",
    *,
    workload: str = "trace",
    switches: dict[str, int] | None = None,
    rate: float = RATE,
    idle: float = 0.05,
    loaded: float = 0.2,
    **more: Any,
) -> dict[str, Any]:
    order = make_order(eras=[era], workload=workload, seconds=5, rounds=1, **more)
    return Runner(order).round(era, switches or {}, rate, idle, loaded)


@pytest.fixture(scope="module")
def small() -> RaceResult:
    """A race of two eras that is as short as can be: enough to look at, not to claim from."""
    return pgtbl.race(["v6.4", "v6.6"], seconds=1.2, rounds=2)


def test_the_fast_build_does_not_count_what_tables_take(small: RaceResult) -> None:
    for era in small.eras.values():
        row = era.tables()
        assert row["memory"] is None  # one counter for all CPUs: checked builds alone have it
        assert row["tables_per_page"] == 1
        # A part begins and ends in the midst of allocations, which count the page and the table one after the other.
        assert abs(row["pages_allocated"] - row["allocated"]) <= 8


# ---- what a round counts ---------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["v6.4", "v6.5", "v6.6"])
def test_the_protocol_shows_in_the_ledger(era: str) -> None:
    raw = one_round(era)
    collapse, calls = raw["ledger_collapse"], raw["collapses"]
    assert raw["collapses"]["turns"] > 0
    assert collapse["collapse.mmap_lock.read"] == collapse["mmap_lock.read"] > 0
    if era == "v6.6":
        assert collapse["mmap_lock.write"] == collapse["mmap_lock.write.failed"] == 0
        assert collapse["i_mmap.write"] == 0
        assert collapse["table.pte.freed_at_once"] == 0
        assert collapse["table.pte.deferred"] == collapse["retract.done"] > 0
        assert collapse["retract.put_off"] == 0
    else:
        assert collapse["mmap_lock.write"] > 0
        assert collapse["table.pte.deferred"] == 0
        assert collapse["table.pte.freed_at_once"] == collapse["table.pte.detached"] > 0
        assert collapse["retract.put_off"] > 0
    assert not calls["error"][calls["call"] == INSTALL].any()


def test_a_collapse_in_v6_6_takes_mmap_lock_as_linux_does() -> None:
    """2n + 1 for read: three for each MADV_COLLAPSE of one extent (issue: exact outcomes)."""
    order = make_order(eras=["v6.6"], seconds=5, rounds=1)
    order.plan.collapse_mms = order.plan.collapse_mms[
        :1
    ]  # no others: no install, and khugepaged is left out
    raw = _round_without_khugepaged(order)
    good = int((raw["collapses"]["error"] == 0).sum())
    failed = int((raw["collapses"]["error"] != 0).sum())
    reads = raw["ledger_collapse"]["mmap_lock.read"]
    assert good > 0
    assert 3 * good <= reads <= 3 * (good + failed)


def _round_without_khugepaged(order: Any) -> dict[str, Any]:
    plan = order.plan
    return _core.race_round(
        era="v6.6",
        switches=[],
        memory=order.memory,
        files=plan.files,
        mms=plan.mms,
        setup=plan.setup,
        walkers=plan.walkers,
        rates=[RATE],
        gaps=gaps(1),
        idle_ns=0,
        loaded_ns=200_000_000,
        max_samples=100_000,
        processors=2,
        mode="collapse",
        collapse_file=plan.collapse_file,
        collapse_base=0x3000_0000_0000,
        collapse_mms=plan.collapse_mms,
        collapsers=plan.extents,
        khugepaged_every=0,
    )


def test_the_pace_of_the_collapsers_is_kept() -> None:
    """A tenth of a second at 100 a second is ten turns, however quick an era is; 0 is as many as there can be."""
    paced = one_round(era="v6.6", collapse_rate=100.0, idle=0, loaded=0.1)
    assert 1 <= paced["collapses"]["turns"] <= 12
    assert one_round(era="v6.6", collapse_rate=0, idle=0, loaded=0.1)["collapses"]["turns"] > 12


def test_nobody_else_is_in_the_walkers_mask_while_the_collapsers_sleep() -> None:
    """Else every munmap of a walker would interrupt a CPU that runs none of its program."""
    assert one_round(idle=0.1, loaded=0)["ledger_walkers_idle"]["tlb.flush.remote"] == 0


def test_samples_say_what_was_done() -> None:
    raw = one_round(workload="own-range", idle=0.1, loaded=0.1)
    samples = raw["samples"]
    assert {a.dtype.kind for a in samples.values()} == {"u"}
    assert len({len(a) for a in samples.values()}) == 1
    assert set(np.unique(samples["window"])) == {IDLE, LOADED}
    assert set(np.unique(samples["kind"])) == {Kind.FILE}
    assert 0 < samples["write"].mean() < 1
    in_window = (
        samples["due_ns"]
        < np.where(samples["window"] == IDLE, raw["idle_ns"], raw["loaded_ns"]) + 1000
    )
    assert in_window.all()
    steps = sum(w["windows"][i]["steps"] for w in raw["walkers"] for i in (IDLE, LOADED))
    assert steps == len(samples["kind"])
    assert sum(w["windows"][IDLE]["faults"] for w in raw["walkers"]) == int(
        samples["faults"][samples["window"] == IDLE].sum()
    )


def test_the_replay_of_the_shipped_trace_is_never_refused() -> None:
    raw = one_round(walkers=2, rate=50_000.0, idle=0.1, loaded=0.2)
    assert [w["refused"] for w in raw["walkers"]] == [0, 0]
    assert [w["dropped"] for w in raw["walkers"]] == [0, 0]


def test_open_loop_counts_from_the_moment_due() -> None:
    """Offered far more than can be done, a step waits for all before it: coordinated omission would hide that."""
    calm = one_round(workload="mincore", idle=0.2, loaded=0, rate=2_000)
    flooded = one_round(workload="mincore", idle=0.2, loaded=0, rate=1e8)
    median = {
        n: np.median(raw["samples"]["latency_ns"]) for n, raw in (("c", calm), ("f", flooded))
    }
    assert median["f"] > 1e6
    assert median["f"] > 100 * median["c"]


def test_a_closed_loop_measures_capacity() -> None:
    raw = one_round(rate=0, idle=0.2, loaded=0)
    (rate,) = closed_loop_rates(raw)
    assert rate > 1000
    assert raw["collapses"]["turns"] == 0, "the collapsers are idle"
    assert len(raw["collapses"]["call"]) == 0


def test_the_control_copies_without_a_protocol() -> None:
    order = make_order(eras=["v6.6"], seconds=5, rounds=1, mode="copy")
    raw = Runner(order).round("v6.6", {}, RATE, 0.02, 0.1)
    assert raw["collapses"]["turns"] > 0
    assert raw["ledger"]["collapse.succeeded"] == 0


def test_the_control_keeps_the_pace_of_what_it_stands_for() -> None:
    order = make_order(eras=["v6.6"], seconds=5, rounds=1, mode="copy", collapse_rate=50)
    raw = Runner(order).round("v6.6", {}, RATE, 0, 0.2)
    # From turn to turn there are 20 ms at least; without a pause it makes thousands.
    assert 0 < raw["collapses"]["turns"] <= 0.2 * 50 + 1


@pytest.mark.parametrize("workload", SYNTHETIC)
def test_synthetic_workloads(workload: str) -> None:
    raw = one_round(workload=workload, walkers=2, collapsers=2)
    assert [w["refused"] for w in raw["walkers"]] == [0, 0]
    assert raw["collapses"]["turns"] > 0
    kinds = set(np.unique(raw["samples"]["kind"]).tolist())
    if SYNTHETIC[workload].source:  # of somebody else's, all that is not off the clock is measured
        assert kinds >= set(SYNTHETIC[workload].primary)
    else:
        assert kinds == set(SYNTHETIC[workload].primary)


# What the walkers' ledger says of a named workload: for each of the first count, so many of the others.
COUNTED: dict[str, tuple[str, dict[str, float]]] = {
    "page_fault1": ("fault", {"fault.anon": 1, "frame.allocated": 1, "mmap_lock.write": 0}),
    "page_fault2": ("fault", {"fault.file": 1, "frame.allocated": 1}),
    "page_fault3": ("fault", {"fault.file": 1, "frame.allocated": 0}),
    "mmap1": ("mmap_lock.write", {"fault": 0, "tlb.flush": 0, "frame.allocated": 0}),
    "mmap2": ("mmap_lock.write", {"fault": 0, "tlb.flush": 0, "frame.allocated": 0}),
    "tlb_flush1": ("frame.allocated", {"fault": 2, "tlb.flush": 2}),  # one flush by the copy
    "tlb_flush2": ("fault.anon", {"fault.zero": 1, "zap.pages": 1, "tlb.flush": 1}),
    "tlb_flush3": ("tlb.flush", {"fault": 17 / 16, "frame.allocated": 0}),
    "mapbench-local": ("fault.anon", {"fault": 1, "mmap_lock.write": 2, "zap.pages": 1}),
    "mapbench-pipeline": ("fault.anon", {"fault": 1, "mmap_lock.write": 2, "zap.pages": 1}),
    "mapbench-global": ("fault.anon", {"fault": 1, "zap.pages": 1}),
    "cortenmm-mmap-low": ("mmap_lock.write", {"fault": 0, "tlb.flush": 0}),
    "cortenmm-mmap-high": ("mmap_lock.write", {"fault": 0, "tlb.flush": 0}),
    "cortenmm-mmap_pf-low": ("fault.anon", {"fault": 1, "mmap_lock.write": 2}),
    "cortenmm-mmap_pf-high": ("fault.anon", {"fault": 1, "mmap_lock.write": 2}),
    "cortenmm-munmap-low": ("zap.pages", {"tlb.flush": 1, "mmap_lock.write": 2}),
    "cortenmm-munmap-high": ("zap.pages", {"tlb.flush": 1, "mmap_lock.write": 2}),
    "cortenmm-munmap_virt-low": ("mmap_lock.write", {"fault": 0, "zap.pages": 0}),
    "cortenmm-munmap_virt-high": ("mmap_lock.write", {"fault": 0, "zap.pages": 0}),
    "cortenmm-pf-low": ("fault.anon", {"fault": 1, "mmap_lock.write": 0}),
    "cortenmm-pf-high": ("fault.anon", {"fault": 1, "mmap_lock.write": 0}),
}


def test_every_named_workload_is_counted() -> None:
    assert set(COUNTED) == {name for name, w in SYNTHETIC.items() if w.source}


@pytest.mark.parametrize("workload", COUNTED)
def test_a_named_workload_does_what_its_original_does(workload: str) -> None:
    raw = one_round(workload=workload, idle=0.0, loaded=0.3, rate=0, mms=0, collapse_rate=1)
    base, others = COUNTED[workload]
    counts = raw["ledger_walkers"]
    assert counts[base] > 3000  # several times through the script
    for name, each in others.items():
        assert counts[name] / counts[base] == pytest.approx(each, rel=0.25, abs=0.02), name


@pytest.mark.parametrize("walkers", [1, 2, 5])
@pytest.mark.parametrize("workload", ["mapbench-pipeline", "mapbench-global"])
def test_walkers_meet(workload: str, walkers: int) -> None:
    """Who does not wait for the others touches what is not mapped yet, or not any more."""
    raw = one_round(workload=workload, walkers=walkers, loaded=0.3, rate=0)
    assert [w["refused"] for w in raw["walkers"]] == [0] * walkers
    passed = [w["rounds"] for w in raw["walkers"]]
    assert max(passed) - min(passed) <= 1  # nobody runs ahead


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("page_fault", r"page_fault1, page_fault2, page_fault3"),
        ("TLB_flush1", r"nearest: tlb_flush1"),
        ("pipeline", r"mapbench-pipeline"),
        ("cortenmm-unmap-low", r"cortenmm-munmap-low"),
        ("own_range", r"own-range"),
    ],
)
def test_an_unknown_workload_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"workload='{name}'.*{near}"):
        pgtbl.race(workload=name)


def test_a_switch_does_what_it_says() -> None:
    """own-range takes file faults alone; under VMA locks only where the switch allows it."""
    off = one_round("v6.6", workload="own-range", switches={"file_faults_under_vma_lock": 0})
    part = one_round("v6.6", workload="own-range")
    whole = one_round("v6.6", workload="own-range", switches={"file_faults_under_vma_lock": 2})
    assert off["ledger_walkers"]["fault.vma_lock"] == 0
    assert part["ledger_walkers"]["fault.vma_lock"] > 0 < part["ledger_walkers"]["fault.mmap_lock"]
    assert (
        whole["ledger_walkers"]["fault.mmap_lock"] <= whole["ledger_walkers"]["fault.vma_lock"] / 10
    )


def test_the_ladder_leads_from_v6_4_to_v6_6() -> None:
    steps: dict[str, int] = {}
    for _, group in LADDER:
        steps |= group
        one_round("v6.4", switches=dict(steps), idle=0.02, loaded=0.05)
    here = {row["name"]: steps.get(row["name"], row["eras"]["v6.4"]) for row in pgtbl.switches()}
    assert here == {row["name"]: row["eras"]["v6.6"] for row in pgtbl.switches()}


# ---- the whole -----------------------------------------------------------------------------------------


def test_json_has_the_names_to_keep(small: RaceResult, tmp_path: Path) -> None:
    path = tmp_path / "race.json"
    data = json.loads(small.to_json(path))
    assert json.loads(path.read_text()) == data
    assert {
        "version",
        "schema",
        "machine",
        "workload",
        "eras",
        "gain",
        "split",
        "noise",
    } <= data.keys()
    assert list(data["eras"]) == ["v6.4", "v6.6"]
    percentiles = {"p50", "p90", "p99", "p999", "max"}
    for era in data["eras"].values():
        assert {"faults", "faults_per_s", "collapses", "collapses_per_s"} <= era.keys()
        assert era["fault_ns"].keys() == era["fault_ns_idle"].keys() == percentiles
        values = [era["fault_ns"][p] for p in ("p50", "p90", "p99", "p999", "max")]
        assert values == sorted(values)
        assert era["faults"] > 0 < era["collapses"]
        assert all(isinstance(v, int) and v >= 0 for v in era["ledger"].values())
        assert {
            "mmap_lock.read",
            "mmap_lock.write.held_ns",
            "tlb.flush",
            "ipi",
            "retract.done",
        } <= era["ledger"].keys()
    assert percentiles <= data["gain"].keys()
    assert {"ratio", "low", "high"} <= data["gain"]["p999"].keys()
    assert data["gain_of"]["between"] == ["v6.4", "v6.6"]
    assert data["eras"]["v6.6"]["ledger"]["collapse.mmap_lock.write"] == 0


def test_gain_is_the_old_era_divided_by_the_new(small: RaceResult) -> None:
    old, new = (small.eras[n].summary(LOADED) for n in ("v6.4", "v6.6"))
    for key in _stats.LATENCY_KEYS:
        a, b, ratio = old[key], new[key], small.gain[key].ratio
        assert a is not None
        assert b is not None
        assert ratio == pytest.approx(a / b, rel=1e-3)
    assert not any(r.claim for r in small.gain.values()), "two rounds are no ground for a claim"


def test_the_report(small: RaceResult) -> None:
    text = str(small)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    for word in (
        "faults/s",
        "p99.9",
        "worst",
        "collapsers idle",
        "mmap_lock, write",
        "put off",
        "IPIs",
        "Who gains",
    ):
        assert word in text, word
    assert "mincore" in text
    assert "sqlite" in text
    assert "no claim: too few rounds" in text
    assert "<pre>" in small._repr_html_()
    assert repr(small).startswith("<RaceResult 'trace', 2 rounds: v6.4: ")


def test_every_lock_has_its_time(small: RaceResult) -> None:
    """What the collapsers held and waited for: each lock of the ledger is in one row."""
    rows = dict(report.sections("fault"))["Time per collapse (collapsers)"]
    era = EraResult("made", {}, ())
    era.collapse_ns = [np.zeros(10, np.uint64)]
    locks = (
        "mmap_lock vma_lock i_mmap anon_vma folio_lock ptl pml page_cache allocator rcu_lock lock"
    )
    names = [n for n in small.eras["v6.4"].ledger_collapse if n.endswith((".wait_ns", ".held_ns"))]
    used = [n for n in names if n.split(".")[0] in locks.split()]
    assert {n.split(".")[0] for n in used} == set(locks.split())
    for name in used:
        era.ledger_collapse.clear()
        era.ledger_collapse[name] = 1000
        shown = {row.what: row.of(era) for row in rows if row.of(era)}
        inner = name.split(".")[0] in ("anon_vma", "page_cache", "allocator", "rcu_lock", "lock")
        assert len(shown) == (0 if inner and name.endswith(".held_ns") else 1), name
    era.ledger_collapse["folio_lock"], era.ledger_collapse["folio_lock.held_ns"] = 512, 512_000
    assert {r.what: r.of(era) for r in rows}["folio lock held, each"] == 1000
    assert "VMA locks held" in str(small)
    assert "folio lock held, each" in str(small)


def test_to_pandas(small: RaceResult) -> None:
    pytest.importorskip("pandas")
    frame = small.to_pandas()
    assert frame.loc[("v6.6", "mincore"), "p99_ns"] > 0
    assert set(frame.index.get_level_values("era")) == {"v6.4", "v6.6"}


def test_to_pandas_without_pandas(small: RaceResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'pgtbl\[pandas\]'"):
        small.to_pandas()


def test_plot(small: RaceResult, tmp_path: Path) -> None:
    figure = small.plot()
    assert len(figure.axes) == 2
    small.plot(tmp_path / "race.png")
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")
    small.plot(tmp_path / "race.svg")
    assert "<svg" in (tmp_path / "race.svg").read_text()
    with pytest.raises(ValueError, match=r"\.bmp.*\.png"):
        small.plot(tmp_path / "race.bmp")


def test_one_era_has_no_gain() -> None:
    result = pgtbl.race(["v6.5"], seconds=0.3, rounds=1, workload="populate")
    assert result.gain == {}
    assert result.between is None
    assert "call latency".lower() in str(result).lower()


def test_attribution() -> None:
    result = pgtbl.race(seconds=1.2, rounds=1, attribute=True)
    assert list(result.eras) == [name for name, _ in LADDER]
    assert result.between == ("v6.4", LADDER[-1][0])
    assert "a group of switches at a time" in str(result)
    assert max(map(len, str(result).splitlines())) <= 100


BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"eras": ["v6.3"]}, ValueError, r"'v6\.3'.*v6\.4, v6\.5, v6\.6"),
    ({"eras": []}, ValueError, "empty"),
    ({"eras": ["v6.4", "v6.4"]}, ValueError, "at most once"),
    ({"walkers": 0}, ValueError, "walkers=0: allowed are 1 to"),
    ({"walkers": "2"}, TypeError, "walkers='2'"),
    ({"walkers": True}, TypeError, "walkers=True"),
    ({"collapsers": -1}, ValueError, "collapsers=-1"),
    ({"walkers": 40, "collapsers": 40}, ValueError, "together at most"),
    ({"mms": -1}, ValueError, "mms=-1"),
    ({"collapse_rate": -1}, ValueError, "collapse_rate=-1: allowed are 0"),
    ({"collapse_rate": "fast"}, TypeError, "collapse_rate='fast'"),
    ({"collapse_rate": float("nan")}, ValueError, "collapse_rate=nan"),
    ({"seconds": 0}, ValueError, "seconds=0"),
    ({"seconds": float("nan")}, ValueError, "seconds=nan"),
    ({"seconds": "1"}, TypeError, "seconds='1'"),
    ({"rounds": 0}, ValueError, "rounds=0"),
    ({"rounds": 100_000}, ValueError, "rounds=100000"),
    ({"seed": -1}, ValueError, "seed=-1"),
    ({"workload": "chess"}, ValueError, "'chess'.*own-range"),
    ({"workload": "mincore", "trace": "x"}, ValueError, "trace"),
    ({"workload": "other-mm", "mms": 0}, ValueError, "mms must be 1"),
    ({"switches": {"no_such": 1}}, ValueError, "'no_such'.*file_faults_under_vma_lock"),
    ({"switches": {"retry_array": 2}}, ValueError, "retry_array=2: allowed are 0 to 1"),
    ({"switches": {"map_opens_rcu": 0}}, ValueError, "can not be safe together"),
    ({"switches": ["a"]}, TypeError, r"switches=\['a'\]: a mapping"),
    ({"switches": []}, TypeError, r"switches=\[\]: a mapping"),
    ({"eras": 5}, TypeError, "eras=5: the name of an era, or a list"),
    ({"eras": None}, TypeError, "eras=None"),
    ({"eras": [5]}, ValueError, "unknown era 5"),
    ({"arch": 5}, TypeError, "arch=5: the name of an architecture"),
    ({"trace": 5}, TypeError, "trace=5: the path of a trace"),
    ({"trace": b"t"}, TypeError, "trace=b't'"),
    ({"memory": "1 potato"}, ValueError, "potato"),
    ({"memory": "1tib"}, ValueError, r"memory='1tib' is no size; .*TiB"),
    ({"memory": "1TiB"}, ValueError, r"memory='1TiB': this computer has [0-9]+ MiB left"),
    ({"memory": 1 << 40}, ValueError, rf"memory={1 << 40}: this computer has [0-9]+ MiB left"),
    ({"memory": []}, TypeError, r"memory=\[\]"),
    ({"memory": 4096}, ValueError, "memory=4096"),
    ({"memory": "16MiB"}, pgtbl.OutOfMemory, "frame"),
)


@pytest.mark.parametrize(("arguments", "error", "text"), BAD)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pgtbl.race(**{"seconds": 0.5, **arguments})


def test_a_size_is_what_machine_takes() -> None:
    for text, size in (("16MiB", 16 << 20), ("33554432", 32 << 20), ("18 MiB", 18 << 20)):
        assert make_order(memory=text, workload="mincore").memory == size
        with pgtbl.Machine(memory=text) as machine:
            assert machine.memory == size


def test_what_does_not_fit_this_computer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise MemoryError("std::bad_alloc")

    order = make_order(memory="16MiB", workload="mincore")
    monkeypatch.setattr(_core, "race_round", full)
    with pytest.raises(
        MemoryError, match=f"memory={16 << 20}, and files of [0-9]+ bytes.* bytes left"
    ):
        Runner(order).round("v6.6", {}, RATE, 0.01, 0.01)


def test_bad_scripts_are_refused_by_the_core() -> None:
    order = make_order(eras=["v6.6"], seconds=5, rounds=1, workload="mincore")
    for column, value, text in (
        ("mm", 999, "address space 999"),
        ("op", 77, "unknown operation 77"),
    ):
        plan = plan_synthetic("mincore", walkers=1, collapsers=1, mms=2, seed=1)
        plan.walkers[0][column][3] = value
        order.plan = plan
        with pytest.raises(ValueError, match=text):
            Runner(order).round("v6.6", {}, RATE, 0.01, 0.01)


@pytest.mark.parametrize(
    ("op", "addr", "flags", "text"),
    [
        (Op.MEET, 2, OFF_CLOCK, "meeting point 2 of 2"),
        (Op.POST, 1 << 40, OFF_CLOCK, "meeting point 1099511627776 of 2"),
        (Op.MEET, 0, 0, "off the clock only"),
        (Op.MAP_UNMAP, 0, 0, "file 9 of"),
    ],
)
def test_bad_meetings_are_refused_by_the_core(op: Op, addr: int, flags: int, text: str) -> None:
    order = make_order(eras=["v6.6"], seconds=5, rounds=1, workload="mincore", walkers=2)
    step = order.plan.walkers[1][3:4]
    step["op"], step["addr"], step["flags"], step["file"] = op, addr, flags, 9
    with pytest.raises(ValueError, match=text):
        Runner(order).round("v6.6", {}, RATE, 0.01, 0.01)


def test_ctrl_c_stops_within_a_second_and_prints_what_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pgtbl", "race", "--seconds", "60", "--rounds", "400"]
    # Elsewhere: in the source tree, its folder pgtbl/ would shadow the installed package.
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(6)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        out, err = process.communicate(timeout=60)
        took = time.monotonic() - started
    assert process.returncode == 130, err
    assert "INTERRUPTED" in out or "Nothing was measured" in out
    assert "Traceback" not in err
    assert took < 1 + 2 * os.getloadavg()[0], "a second, on a computer that does nothing else"


def test_an_interrupt_reaches_the_caller_of_race(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pgtbl.race(seconds=30)
    finally:
        signal.signal(signal.SIGALRM, previous)


def after(function: Any, signals: list[str], name: str) -> Any:
    """The function, with a Ctrl-C before and one after it."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        result = function(*arguments, **options)
        signal.raise_signal(signal.SIGINT)
        signals.append(name)
        return result

    return wrapped


def test_a_second_ctrl_c_loses_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first comes while a round is noted down, others until everything is printed."""
    signals: list[str] = []
    monkeypatch.setattr(Runner, "note", after(Runner.note, signals, "note"))
    monkeypatch.setattr(_race, "conclude", after(_race.conclude, signals, "conclude"))
    monkeypatch.setattr(report, "print_result", after(report.print_result, signals, "print"))
    out = tmp_path / "race.json"
    short = ["--seconds=5", "--rounds=30", "--workload=mincore"]
    result = CliRunner().invoke(main, ["race", *short, f"--json={out}"])
    assert signals == ["note", "conclude", "print"]
    assert result.exit_code == 130, result.output
    assert "INTERRUPTED: these are the 1 whole rounds" in result.stdout
    assert "collapses/s" in result.stdout
    data = json.loads(out.read_text())
    assert data["interrupted"]
    assert data["rounds"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_brings_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "note", after(Runner.note, [], ""))
    with pytest.raises(pgtbl.Interrupted, match=r"after 1 rounds of each era; \.result") as caught:
        pgtbl.race(["v6.6"], seconds=5, rounds=50, workload="mincore")
    assert isinstance(caught.value, KeyboardInterrupt)
    result = caught.value.result
    assert result.interrupted
    assert result.eras["v6.6"].summary(LOADED)["p50"]
    assert "INTERRUPTED" in str(result)
    copy = pickle.loads(pickle.dumps(caught.value))  # as from a process of a pool
    assert str(copy) == str(caught.value)
    assert copy.result.to_dict() == result.to_dict()


def test_a_handler_of_the_program_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        monkeypatch.setattr(_race, "conclude", after(_race.conclude, [], ""))
        result = pgtbl.race(["v6.6"], seconds=0.2, rounds=1, workload="mincore")
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1, 1]
    assert not result.interrupted


def made_round(idle: Any, loaded: Any, own: Any = None, times: int = 1) -> dict[str, Any]:
    """A round of which the latencies of mincore are made up, each sample so many times."""
    raw = one_round(workload="mincore", rate=20_000, idle=0.02, loaded=0.05)
    n = len(idle) + len(loaded)
    samples = {
        "kind": np.full(n, int(Kind.MINCORE), np.uint8),
        "window": np.repeat(np.array([IDLE, LOADED], np.uint8), [len(idle), len(loaded)]),
        "due_ns": np.zeros(n, np.uint64),
        "latency_ns": np.concatenate([idle, loaded]).astype(np.uint32),
        "own_ns": np.concatenate([idle, loaded if own is None else own]).astype(np.uint32),
        "faults": np.zeros(n, np.uint8),
    }
    raw["samples"] = {name: np.tile(values, times) for name, values in samples.items()}
    return raw


def test_the_end_of_a_race_does_not_grow_with_its_samples() -> None:
    """A hundred times the samples are the same values, each a hundred times; and the same figures."""
    order = make_order(eras=["v6.6"], seconds=5, rounds=1, workload="mincore")
    results = []
    for times in (1, 100):
        runner = Runner(order)
        runner.capacities["x86-64"] = 1.0
        rng = np.random.default_rng(1)
        for _ in range(5):
            idle, loaded, own = (rng.lognormal(9, 2, 1000) for _ in range(3))
            runner.note(runner.eras["v6.6"], made_round(idle, loaded, own, times))
        for part in runner.eras["v6.6"].loaded:
            for tally in (part.of((Kind.MINCORE,)), part.own_of((Kind.MINCORE,))):
                assert set(tally._known) == {50, 90, 99, 99.9}, "known before the end"
        results.append(_race.conclude(runner, {}))
    few, many = (result.eras["v6.6"] for result in results)
    assert many.count(LOADED, many.primary) == 100 * few.count(LOADED, few.primary)
    for a, b in zip(few.loaded, many.loaded, strict=True):
        x, y = a.of(few.primary), b.of(few.primary)
        assert np.array_equal(x.values, y.values)
        assert np.array_equal(x.counts * 100, y.counts)
    assert few.summary(LOADED)["max"] == many.summary(LOADED)["max"]
    pooled = np.concatenate([part.of(few.primary).samples() for part in few.loaded])
    assert np.array_equal(np.sort(pooled), few.latencies(LOADED))
    assert few.summary(LOADED)["p999"] == round(float(np.percentile(pooled, 99.9)), 1)


def test_few_rounds_do_not_make_a_computer_look_quiet() -> None:
    """The intervals of claims are widened; the control's is not, or it would fail the less, the fewer rounds there are."""
    order = make_order(eras=["v6.4", "v6.6"], seconds=5, rounds=1, workload="mincore")
    runner = Runner(order)
    runner.capacities["x86-64"] = 1.0
    ns = np.random.default_rng(1).lognormal(6, 0.1, 4000)
    for times in (1.05, 1.8, 1.8, 1.8, 2.5):  # of the idle part, where eras should be alike
        runner.note(runner.eras["v6.4"], made_round(times * ns, ns))
        runner.note(runner.eras["v6.6"], made_round(ns, ns))
    result = _race.conclude(runner, {})
    shown = result.gain["idle_p99"]
    assert shown.low is not None
    assert shown.low < 1
    assert any("idle p99 of the eras" in why for why in result.noise.reasons)


def test_a_gain_is_claimed_under_load_and_not_idle() -> None:
    order = make_order(eras=["v6.4", "v6.6"], seconds=5, rounds=1, workload="mincore")
    runner = Runner(order)
    runner.capacities["x86-64"] = 1.0
    rng = np.random.default_rng(1)
    for _ in range(8):
        for name, times in (("v6.4", 1.3), ("v6.6", 1.0)):
            ns = times * rng.lognormal(6, 0.1, 4000)
            runner.note(runner.eras[name], made_round(ns, ns))
    for era in runner.eras.values():  # as if on a computer of our own
        for use in era.usage:
            for window in use.values():
                window["usage"].update(cpu_ns=1, wall_ns=1, involuntary=0)
    gain = _race.conclude(runner, {}).gain
    assert gain["p50"].claim
    assert gain["p50"].ratio == gain["idle_p50"].ratio
    assert not gain["idle_p50"].claim
    assert not gain["max"].claim


def test_an_interrupt_as_the_race_ends_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_race, "conclude", after(_race.conclude, [], ""))
    with pytest.raises(pgtbl.Interrupted, match="after 2 rounds"):
        pgtbl.race(["v6.6"], seconds=0.2, rounds=2, workload="mincore")


def test_a_ctrl_c_as_the_bar_closes_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[str] = []
    monkeypatch.setattr(Progress, "stop", after(Progress.stop, signals, "stop"))
    options = {"seconds": 0.2, "rounds": 2, "workload": "mincore", "progress": True}
    with pytest.raises(pgtbl.Interrupted, match="after 2 rounds") as caught:
        pgtbl.race(["v6.6"], **options)
    assert signals == ["stop"]
    assert caught.value.result.rounds == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_handler_raises_comes_out() -> None:
    class Mine(Exception):
        pass

    def handler(_number: int, _frame: object) -> None:
        raise Mine

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Mine):
            pgtbl.race(seconds=30)
    finally:
        signal.signal(signal.SIGALRM, previous)


# ---- statistics ----------------------------------------------------------------------------------------


def rounds_of(rng: np.random.Generator, scale: float, n: int = 10, size: int = 4000) -> list[Any]:
    return [
        (rng.lognormal(6, 0.7, size) * scale * rng.uniform(0.97, 1.03)).astype(np.uint32)
        for _ in range(n)
    ]


@pytest.mark.parametrize("n", [1, 2, 700, 100_000])
@pytest.mark.parametrize("kind", [np.uint32, np.uint64, np.float64])
def test_a_tally_is_the_samples(n: int, kind: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounds = [rng.lognormal(9, 2, n).astype(np.uint32).astype(kind) for _ in range(3)]
    tally = Tally.of(rounds[0])
    assert len(tally) == n
    assert np.array_equal(tally.samples(), np.sort(rounds[0]))
    pooled = Rounds(rounds).pooled
    assert np.array_equal(pooled.samples(), np.sort(np.concatenate(rounds)))
    for percent in (0, 50, 90, 99.9, 100):
        expected = np.percentile(np.concatenate(rounds), percent)
        assert pooled.percentile(percent) == pytest.approx(expected, rel=1e-12)


def test_percentiles_are_exact() -> None:
    assert _stats.summary([np.arange(1, 1001)]) == {
        "p50": 500.5,
        "p90": 900.1,
        "p99": 990.0,
        "p999": 999.0,
        "max": 1000.0,
    }
    assert set(_stats.summary([np.empty(0)]).values()) == set(_stats.summary([]).values()) == {None}


def test_one_bad_round_does_not_spoil_a_percentile_but_shows_as_the_worst() -> None:
    calm, bad = np.arange(1, 1001), np.arange(1, 1001) * 1000
    found = _stats.summary([calm, calm, bad])
    assert found["p99"] == _stats.summary([calm])["p99"]
    assert found["max"] == 1_000_000
    # A round of a thousand samples cannot tell its p99.9: there, all are one.
    assert found["p999"] == round(float(np.percentile(np.concatenate([calm, calm, bad]), 99.9)), 1)


def test_a_true_difference_is_claimed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratios = _stats.latency_ratios(rounds_of(rng, 2.0), rounds_of(rng, 1.0), 1, {})
    for key in ("p50", "p90", "p99"):
        r = ratios[key]
        assert r.claim
        assert r.low is not None
        assert r.high is not None
        assert r.low - 0.05 <= 2.0 <= r.high + 0.05 or abs((r.ratio or 0) - 2) < 0.15


@pytest.mark.parametrize("rounds", [4, 15])
def test_no_difference_is_not_claimed_often(rounds: int) -> None:
    """At 95 %, five in a hundred, also of the fewest rounds that anything is claimed from; of the worst, never."""
    rng = np.random.default_rng(1)
    claims: Counter[str] = Counter()
    for i in range(60):
        a, b = (rounds_of(rng, 1, rounds, size=500) for _ in range(2))
        x, y = rng.lognormal(0, 0.1, (2, rounds))
        ratios = _stats.latency_ratios(a, b, i, {}) | {"rate": _stats.rate_ratio(x, y, i)}
        claims.update(key for key, ratio in ratios.items() if ratio.claim)
    assert claims["max"] == 0
    assert max(claims.values(), default=0) <= 6, claims


def test_the_worst_has_a_quotient_and_no_interval() -> None:
    worst = _stats.latency_ratios([np.arange(9)] * 8, [np.arange(5)] * 8, 1, {})["max"]
    assert worst.ratio == 2
    assert worst.low is worst.high is None
    assert not worst.claim
    assert report.verdict(worst).plain == "2.00"


def test_few_rounds_widen_an_interval() -> None:
    """By Student's quantiles: 3.18 for three degrees of freedom, 2.14 for fourteen, where a normal law has 1.96."""
    for rounds, student in ((4, 3.182), (6, 2.571), (15, 2.145)):
        wide = _stats.judge(4.0, np.array([2.0, 8.0] * 50), rounds, "")
        assert wide.low is not None
        assert wide.high is not None
        factor = student / 1.960 * np.sqrt(rounds / (rounds - 1))
        assert np.log2(4 / wide.low) == pytest.approx(factor, rel=0.01)
        assert np.log2(wide.high / 4) == pytest.approx(factor, rel=0.01)


def test_idle_rows_are_a_control() -> None:
    rng = np.random.default_rng(1)
    ratios = _stats.latency_ratios(rounds_of(rng, 2), rounds_of(rng, 1), 1, {})
    control = _stats.as_control(ratios)
    assert ratios["p50"].claim
    assert not any(r.claim for r in control.values())
    assert control["p50"].ratio == ratios["p50"].ratio
    assert report.verdict(control["p50"]).plain == report._three(control["p50"].ratio or 0)


def test_the_bootstrap_is_repeatable() -> None:
    rng = np.random.default_rng(1)
    a, b = rounds_of(rng, 1.1), rounds_of(rng, 1)
    assert _stats.latency_ratios(a, b, 7, {}) == _stats.latency_ratios(a, b, 7, {})


@pytest.mark.parametrize(
    ("draws", "rounds", "noisy", "why"),
    [
        ([1.9, 2.1], 10, "", ""),
        ([1.9, 2.1], 3, "", "too few rounds"),
        ([1.9, 2.1], 10, "busy", "too noisy"),
        ([0.95, 1.05], 10, "", "no difference"),
        ([0.5, 3.0], 10, "", "too noisy"),
        ([1.001, 1.002], 10, "", "no difference"),
    ],
)
def test_verdicts(draws: list[float], rounds: int, noisy: str, why: str) -> None:
    ratio = _stats.judge(float(np.mean(draws)), np.array(draws * 50), rounds, noisy)
    assert ratio.claim == (why == "")
    assert ratio.why == why


def test_nothing_to_compare() -> None:
    assert _stats.latency_ratios([], [], 1, {})["p50"].ratio is None
    assert _stats.rate_ratio([1.0], [0.0], 1).ratio is None


def test_the_noise_gate() -> None:
    quiet = {
        "stolen_idle": 0.001,
        "involuntary_per_s": 2.0,
        "minor_faults": 0,
        "idle_p99": _stats.Ratio(1.1, 0.9, 1.3, False),
    }
    assert not _stats.judge_noise(**quiet, crowded=False).noisy
    assert _stats.judge_noise(**{**quiet, "stolen_idle": 0.5}, crowded=False).noisy
    # The control: alike, or not told apart, or told apart by less than the code may explain.
    for ratio, noisy in (
        (_stats.Ratio(3.0, 2.0, 4.0, True), True),
        (_stats.Ratio(0.3, 0.2, 0.5, True), True),
        (_stats.Ratio(3.0, 0.5, 4.0, False), False),
        (_stats.Ratio(1.2, 1.1, 1.3, True), False),
        (_stats.NOTHING, False),
    ):
        assert _stats.judge_noise(**{**quiet, "idle_p99": ratio}, crowded=False).noisy == noisy
    behind = _stats.judge_noise(**quiet, crowded=False, loaded_p50=[5e6, 2e7])
    assert behind.noisy
    assert "queue" in behind.reasons[0]
    # Where one era keeps up, the other's queue is what was to be shown.
    assert not _stats.judge_noise(**quiet, crowded=False, loaded_p50=[5e6, 500.0]).noisy
    crowded = _stats.judge_noise(**quiet, crowded=True)
    assert not crowded.noisy
    assert crowded.verdicts()["p999"]
    assert not crowded.verdicts()["p99"]


def test_the_schedule_is_poisson_and_fixed() -> None:
    values = gaps(3)
    assert np.array_equal(values, gaps(3))
    assert not np.array_equal(values, gaps(4))
    assert values.mean() == pytest.approx(1, rel=1e-4)
    assert values.std() == pytest.approx(1, rel=0.05)


def test_zipf(seed: int) -> None:
    pages = zipf_pages(np.random.default_rng(seed), 100, 20_000, 1.1)
    counts = np.sort(np.bincount(pages, minlength=100))[::-1]
    assert counts[0] > 5 * counts[20] > 0
    assert pages.min() >= 0
    assert pages.max() < 100
