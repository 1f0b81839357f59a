"""Architectures: their state machines are those of the tables, and what breaks without each guard is what should."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pgtbl
from pgtbl import _core, _model, arch, explore, torture
from pgtbl._explore import scenarios

ROOT = Path(__file__).parent.parent
NAMES = ["x86-64", "x86-pae", "arm", "sparc64", "powerpc", "s390"]


@pytest.mark.parametrize(
    ("name", "of"), [*((name, "table") for name in NAMES), ("x86-pae", "slot"), ("arm", "mapping")]
)
def test_what_exploration_reaches_is_the_table_of_states(name: str, of: str) -> None:
    assert arch.reached(name, of) == set(arch.changes(name, of))


def test_state_machines_are_listed() -> None:
    assert arch.state_machines()[0] == ("x86-64", "table")
    assert ("x86-pae", "slot") in arch.state_machines()
    with pytest.raises(ValueError, match="s390 has no state machine of='slot': it has 'table'"):
        arch.changes("s390", "slot")


def test_a_table_leaves_no_slot_that_nobody_waited_for() -> None:
    # The one way on from a cleared PMD is by way of the interrupt to all CPUs.
    after = [c for c in arch.changes("x86-pae", "slot") if c.before.startswith("cleared")]
    assert [c.operation for c in after] == ["pmdp_get_lockless_sync"]


def test_no_half_of_an_s390_page_is_allocated_and_pending() -> None:
    for _, before, after in _model.states()["s390", "table"]:
        for state in (before, after):
            assert state & state >> 4 & 3 == 0, hex(state)
            # Listed with nothing to hand out: only inside of the lock, on the way off the list.
            if state & 0x200 and state & 0x33 in (0x03, 0x30):
                assert any(
                    b == state and a == state & ~0x200
                    for _, b, a in _model.states()["s390", "table"]
                ), hex(state)


@pytest.mark.parametrize(
    "scenario", ["s390-defer-gather-alloc", "s390-defer-vs-free", "powerpc-whole-page"]
)
def test_three_and_four_actors_leave_the_table_of_states_nowhere(scenario: str, seed: int) -> None:
    table = {
        f"{operation}|{before}|{after}"
        for operation, before, after in _model.states()[scenario.split("-")[0], "table"]
    }
    raw = _model.explore(
        scenario, "v6.6", "sc", [], engine="random", seed=seed, executions=20_000, shorten=False
    )
    assert raw["violation"] is None
    assert set(raw["reached"]) <= table


# What is found, not only that something is: with the guard gone, this and nothing else goes wrong first.
BROKEN = [
    ("ppc_one_head", "powerpc-two-defers", "A-10: .* queued as an rcu_head, and are queued"),
    ("ppc_active_first", "powerpc-two-defers", "Active comes? after the free"),
    ("ppc_free_sees_active", "powerpc-defer-vs-free", r"load of .*pte\[0\] comes? after the free"),
    ("ppc_destroy_drops", "powerpc-defer-vs-walk-vs-exit", "A-11"),
    ("assert_none_exempt", "powerpc-collapse-vs-lock", "assert_pte_locked"),
    ("deposit_table", "powerpc-huge-vs-zap", "no table was deposited"),
    ("ppc_slots_cleared", "powerpc-hash-vs-zap", "B50: .* has hash slots in it"),
    ("ppc_serialize", "powerpc-hash-vs-zap", "comes? after the free|B50"),
    ("s390_pgste_whole", "s390-pgste-gather", "A-19: a page that has a guest's status"),
    ("s390_pending_busy", "s390-gather-vs-alloc", r"A-15.*0x13"),
    ("s390_two_steps", "s390-two-frees", "comes? after the free"),
    ("s390_unlist", "s390-one-half-defer-vs-alloc", "is on the list of its mm"),
    ("s390_one_head", "s390-two-defers", "A-17: the two words"),
    ("s390_active_unlisted", "s390-two-pages", "B45: the head of the list"),
    ("s390_callback_no_mm", "s390-defer-vs-exit", "mm->context comes? after the free"),
    ("s390_pgste_allowed", "s390-guests", "B47"),
    ("pae_irq_off", "pae-rmap-vs-refill", "A-5.*wild pointer"),
    ("pae_sync_all", "pae-rmap-vs-failed-collapse", "A-5.*wild pointer"),
    ("arm_split_only", "arm-second-mapping", "A-7"),
    ("arm_by_address", "arm-split-migration", "was not called by a fault"),
    ("arm_one_read", "arm-split-vs-retract", "A-8"),
    ("arm_flush_line", "arm-second-mapping", "A-9: a load .* misses what was stored"),
    ("arm_adjust_own", "arm-second-mapping", "A-9: .* one of the mappings is cached"),
]


@pytest.mark.parametrize(("guard", "scenario", "text"), BROKEN)
def test_what_goes_wrong_without_a_guard(guard: str, scenario: str, text: str) -> None:
    verdict = explore(scenario, without=guard, memory="sc")
    assert verdict.violation is not None
    assert re.search(text, verdict.violation.message, re.DOTALL), verdict.violation.message
    assert explore(scenario, memory="rc11").complete


def test_a_cpu_that_runs_the_program_is_interrupted_by_the_flush() -> None:
    # So the interrupt to all CPUs is needed for those that run another: a walk of the reverse map.
    assert explore("pae-fault-vs-refill", without="pae_sync_all", memory="sc").complete
    assert explore("pae-rmap-vs-refill", without="pae_sync_all", memory="sc").violation


def test_split_locks_and_aliases_do_not_go_together() -> None:
    verdict = explore("broken:arm-split-locks", memory="sc")
    assert verdict.violation is not None
    assert verdict.violation.invariant == "deadlock"


def test_architectures_are_listed() -> None:
    rows = pgtbl.architectures()
    assert list(dict.fromkeys(row["name"] for row in rows)) == [
        "x86-64", "x86-pae", "arm", "powerpc", "sparc64", "s390"
    ]  # fmt: skip
    assert sorted(arch.names()) == sorted({row["name"] for row in rows})
    for name in arch.names():  # each era has exactly one form of it, beside what is hypothetical
        forms = [
            era
            for row in rows
            if row["name"] == name and "hypothetical" not in row["form"]
            for era in row["eras"]
        ]
        assert sorted(forms) == sorted(pgtbl.eras())
    assert {row["name"].split("-")[0] for row in scenarios()} >= {
        "pae", "arm", "powerpc", "s390", "sparc64"
    }  # fmt: skip


def test_a_module_has_the_machines_of_its_architecture() -> None:
    with pytest.raises(ValueError, match="the machines of this module are x86-64"):
        _core.Machine(arch="s390")


def test_unknown_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown arch 'mips'.*'x86-64'.*'s390'"):
        pgtbl.Machine(arch="mips")
    with pytest.raises(ValueError, match="did you mean s390"):
        arch.changes("s309")
    with pytest.raises(ValueError, match="unknown arch 'mips'"):
        arch.reached("mips")


# ---- real threads ------------------------------------------------------------------------------------


@pytest.mark.stress
@pytest.mark.parametrize("batches", [0, 50, 100])
@pytest.mark.parametrize("name", NAMES)
def test_real_threads_leave_nothing_behind(name: str, batches: int, seed: int) -> None:
    for era in ("v6.6", "v6.13") if name == "s390" else ("v6.6",):
        run = arch.load(
            name, era=era, seconds=0.15, churners=3, walkers=2, batch_percent=batches, seed=seed
        )
        assert run.clean, run
        assert run.allocated > 0
        assert run.pages_allocated == run.pages_freed
        assert (run.deferred == 0) == (batches == 100)
        assert (run.gathered == 0) == (batches == 0)
        # A page holds no more tables than fit, and no page is held for nothing but what waits for RCU.
        assert run.pages_max * run.tables_per_page >= run.tables_max


@pytest.mark.stress
@pytest.mark.parametrize(
    ("guard", "name", "seen"),
    [
        ("ppc_one_head", "powerpc", "A-10"),
        ("ppc_destroy_drops", "powerpc", None),
        ("s390_one_head", "s390", "A-17"),
        ("s390_unlist", "s390", "A-19|G-8|A-17"),
        ("sparc_handle_is_entries", "sparc64", None),
    ],
)
def test_real_threads_show_the_removal_of_a_guard(
    guard: str, name: str, seen: str | None, seed: int
) -> None:
    with torture.without(guard):
        run = torture.arch_load(
            arch=name, seconds=0.3, churners=3, slots=64, batch_percent=0, seed=seed
        )
    assert run["pages_left"] or run["breaches"]
    if seen is not None:
        assert re.search(seen, "\n".join(run["breaches"]))
    clean = torture.arch_load(arch=name, seconds=0.1, churners=3, slots=64, seed=seed)
    assert not clean["breaches"]
    assert clean["pages_left"] == 0


def test_the_form_follows_the_era() -> None:
    assert arch.form_of("s390", "v6.6") == "two halves a page"
    assert arch.form_of("s390", "v6.18") == "one table a page"
    with pytest.raises(
        ValueError, match=r"'two halves a page' in v6\.4, v6\.5, v6\.6, not in v6\.13"
    ):
        arch.load("s390", era="v6.13", form="two halves a page")
    with pytest.raises(ValueError, match=r"no form 'fragments'.*'two halves a page'"):
        arch.form_of("s390", "v6.6", "fragments")
    with pytest.raises(ValueError, match=r"unknown era 'v5\.0'; the eras are v6\.4"):
        arch.form_of("s390", "v5.0")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"churners": 0}, "churners 0: 1 to 64"),
        ({"walkers": 65}, "walkers 65: 0 to 64"),
        ({"slots": 5000}, "slots 5000"),
        ({"programs": 0}, "programs 0"),
        ({"batch_percent": 101}, "batch_percent 101: 0 to 100"),
        ({"seconds": -1}, "seconds"),
    ],
)
def test_loads_that_make_no_run_are_refused(arguments: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        arch.load("x86-64", **arguments)


def test_command() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pgtbl", "arch", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("--arch", "powerpc,s390", "--seconds", "0.2", "--json", "-")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["arch"]
    assert [row["arch"] for row in rows] == ["powerpc", "s390"]
    assert all(row["clean"] and row["pages_left"] == 0 for row in rows)
    assert rows[0]["page_size"] == 65536
    table = run("--arch", "x86-64", "--seconds", "0.1")
    assert table.returncode == 0
    assert "x86-64" in table.stdout
    refused = run("--arch", "mips")
    assert refused.returncode == 2
    assert "s390" in refused.stderr


def test_the_page_in_the_manual_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "arch_docs.py"), "--check"], check=False
    )
    assert done.returncode == 0, "run tools/arch_docs.py"
