"""Actors that users write down as steps: an idea for a protocol is tried without compiling."""

from __future__ import annotations

from typing import Any

import pytest

import pgtbl
from pgtbl._explore import replay, trace_lines

CLEAR = ["lock_ptl t", "clear_pmd old", "flush", "unlock_ptl t", "defer old"]


def retraction(name: str, inside: list[Any]) -> pgtbl.Actor:
    """Finds a table, and takes it away under the PMD's lock."""
    return pgtbl.Actor(
        name,
        [
            "lock_i_mmap_read",
            "read_pmd t",
            ("if_table t", ["lock_pml", *inside, "unlock_pml"]),
            "unlock_i_mmap_read",
        ],
    )


NAIVE = retraction("naive", CLEAR)
CAREFUL = retraction("careful", ["read_pmd now", ("if_same now t", CLEAR)])


def test_a_retraction_without_the_recheck_takes_a_table_twice() -> None:
    verdict = pgtbl.Scenario(actors=[NAIVE, NAIVE]).explore(memory="sc", seconds=60)
    assert verdict.violation is not None
    assert "naive, step 9 (defer old): the PMD is none" in verdict.violation.message
    lines = trace_lines(verdict.violation)
    assert len(lines) <= 30
    assert "A is naive; B is naive" in lines[1]
    # The user's own text stands where functions stand, each step with its number.
    assert any("naive:6 clear_pmd old" in line and "table" in line for line in lines)
    again = replay(verdict.violation.token)
    assert again.violation is not None
    assert again.violation.message == verdict.violation.message
    assert [s["text"] for s in again.violation.steps] == [
        s["text"] for s in verdict.violation.steps
    ]


@pytest.mark.parametrize("memory", ["sc", "tso", "rc11"])
@pytest.mark.parametrize("others", [[CAREFUL], ["map_lock"], ["map", CAREFUL], ["hardware_load"]])
def test_with_the_recheck_it_is_exhausted(others: list[Any], memory: str) -> None:
    verdict = pgtbl.Scenario(actors=[CAREFUL, *others]).explore(memory=memory, seconds=60)
    assert verdict.violation is None, str(verdict)
    assert verdict.complete
    assert "a cast of careful, " in verdict.bound
    assert "on empty_table" in verdict.bound


@pytest.mark.parametrize(
    ("inside", "opponent", "message"),
    [
        # Freed at once, under a walker that holds RCU.
        (
            ["lock_ptl t", "clear_pmd old", "flush", "unlock_ptl t", "free old"],
            "map",
            "after the free",
        ),
        # No lock of the table: who has locked it finds it gone.
        (
            ["read_pmd now", ("if_same now t", ["clear_pmd old", "flush", "defer old"])],
            "map_lock",
            "G-33",
        ),
        # No flush: the processor walks on through what it has cached.
        (
            [
                "read_pmd now",
                ("if_same now t", ["lock_ptl t", "clear_pmd old", "unlock_ptl t", "defer old"]),
            ],
            "hardware_load",
            "after the free",
        ),
        # No look whether a fault has put pages into the table.
        (["read_pmd now", ("if_same now t", CLEAR)], "load", "G-2"),
    ],
)
def test_other_ideas_that_do_not_work(inside: list[Any], opponent: str, message: str) -> None:
    cast = pgtbl.Scenario(actors=[retraction("idea", inside), opponent])
    verdict = cast.explore(memory="sc", seconds=60)
    assert verdict.violation is not None
    assert message in verdict.violation.message


def test_a_walker_of_ones_own() -> None:
    recheck = ["read_pmd now", ("if_same now t", ["map_page t 0"]), "unlock_ptl t"]
    for inside, broken in ((["map_page t 0", "unlock_ptl t"], True), (recheck, False)):
        walker = pgtbl.Actor(
            "walker",
            [
                "lock_mmap_read",
                "rcu_read_lock",
                "read_pmd t",
                ("if_table t", ["lock_ptl t", *inside]),
                "rcu_read_unlock",
                "unlock_mmap_read",
            ],
        )
        empty_alone = [
            "read_pmd now",
            (
                "if_same now t",
                [
                    "lock_ptl t",
                    (
                        "if_empty t",
                        ["clear_pmd old", "flush", "unlock_ptl t", "defer old"],
                        ["unlock_ptl t"],
                    ),
                ],
            ),
        ]
        cast = pgtbl.Scenario(actors=[walker, retraction("reclaim", empty_alone)])
        verdict = cast.explore(memory="rc11", seconds=60)
        assert (verdict.violation is not None) == broken, str(verdict)
        assert verdict.complete != broken


def test_steps_in_the_second_program_and_control() -> None:
    walker = pgtbl.Actor(
        "w", ["read_pmd t", ("if_none t", ["stop"], ["read_pte t e 3"]), "must_be_same t t"], 1
    )
    verdict = pgtbl.Scenario(actors=[walker, "map_lock"]).explore(memory="sc", seconds=60)
    assert verdict.complete
    assert verdict.cast == ["w@1", "map_lock@0"]
    loop = pgtbl.Actor("loop", ["read_pmd t", ("if_table t", ["again"])])
    verdict = pgtbl.Scenario(actors=[loop, CAREFUL]).explore(memory="sc", seconds=60)
    assert verdict.violation is None
    assert verdict.complete


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["lock_pml"], "the actor ends, and holds the pml"),
        (["read_pmd t", "lock_ptl t"], "the actor ends, and holds a ptl"),
        (["rcu_read_lock"], "inside of an RCU read section"),
        (["rcu_read_unlock"], "the actor is in no section"),
        (["unlock_pml"], "does not hold that lock"),
        (["lock_pml", "lock_pml"], "holds that lock already"),
        (["rcu_read_lock", "synchronize"], "wait for oneself"),
        (["clear_pmd t", "read_pmd u", "must_be_same t u"], "they differ"),
        (["clear_pmd t", "clear_pmd u", "lock_ptl u"], "the PMD is none"),
    ],
)
def test_what_no_machine_could_do_is_a_violation(steps: list[Any], message: str) -> None:
    verdict = pgtbl.Scenario(actors=[pgtbl.Actor("a", steps)]).explore(memory="sc", seconds=20)
    assert verdict.violation is not None
    assert message in verdict.violation.message


def test_which_invariants_are_judged() -> None:
    lossy = pgtbl.Actor("lossy", ["lock_pml", "clear_pmd t", "flush", "unlock_pml"])
    cast = pgtbl.Scenario(actors=[lossy])
    assert cast.explore(memory="sc", seconds=20).violation is not None
    cast = pgtbl.Scenario(actors=[lossy], invariants=["stores", "sections"])
    assert cast.explore(memory="sc", seconds=20).complete


def test_every_step_is_known_to_the_explorer() -> None:
    listed = pgtbl.explore_steps()
    assert "clear_pmd v" in listed
    assert "if_same v w" in listed
    known = set(pgtbl._explore._model.steps())  # type: ignore[attr-defined]
    hidden = {"unless_table", "unless_none", "unless_same", "unless_empty", "go"}
    assert {form.split()[0] for form in listed if not form.startswith("if_")} == known - hidden
    assert {"unless_" + form.split()[0][3:] for form in listed if form.startswith("if_")} | {
        "go"
    } == hidden


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("a", ["lock_pmd"], r"step 1: unknown step 'lock_pmd': did you mean .*lock_pml"),
        ("a", ["read_pmd"], r"'read_pmd' is to be written 'read_pmd v'"),
        ("a", ["lock_pml now"], r"is to be written 'lock_pml'"),
        ("a", ["lock_ptl t"], r"no step before has given 't' a value \(there are none yet\)"),
        (
            "a",
            ["read_pmd t", "lock_ptl u"],
            r"step 2: no step before has given 'u' a value \(there are t\)",
        ),
        ("a", ["read_pmd t", "map_page t 4"], "entry '4': a table has entries 0 to 3"),
        ("a", ["read_pmd 1"], "no name of a variable"),
        ("a", [("if_tabel t", [])], "unknown condition 'if_tabel': did you mean if_table"),
        ("a", [("read_pmd t", [])], "'read_pmd' is a step"),
        ("a", ["if_table t"], "'if_table' is a condition"),
        ("a", ["read_pmd t", ("if_table t",)], r"a branch is \(condition, \[steps\]\)"),
        ("a", ["read_pmd t", ("if_table t", "stop")], "'stop' is no list of steps"),
        ("a", [7], "7 is no step: a string is needed"),
        ("a", [""], "an empty step"),
        ("a", [], "has no steps"),
        ("a", ["stop"] * 101, "at most 100 steps"),
        ("a", [f"read_pmd v{i}" for i in range(9)], "more than 8 variables"),
        ("a b", ["stop"], "'a b' is no name of an actor"),
    ],
)
def test_wrong_steps_are_answered(name: str, steps: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pgtbl.Actor(name, steps)


def test_wrong_casts_are_answered() -> None:
    with pytest.raises(ValueError, match="programs 0 and 1, not 2"):
        pgtbl.Actor("a", ["stop"], 2)
    with pytest.raises(TypeError, match="7 is no actor"):
        pgtbl.Scenario(actors=[7])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="did you mean accounts"):
        pgtbl.Scenario(actors=["map"], invariants=["account"])
    with pytest.raises(ValueError, match="no invariant is left"):
        pgtbl.Scenario(actors=["map"], invariants=[])
    for name, message in (
        ("cast:", "cast:VERBS:LAYOUT"),
        ("cast:map:empty", "unknown layout"),
        ("cast:maps:empty_table", "nobody in a cast is called 'maps'"),
        ("cast:,:empty_table", "1 to 8 actors, and this has none"),
        ("cast:" + "map," * 9 + ":empty_table", "1 to 8 actors, and 'map' is one more"),
        ("cast:map@1:empty_table", "'map@1': the cast has program 0"),
        ("cast:*:empty_table", "fewer steps written"),
        ("cast:map:empty_table:big", "has no 'big'"),
        ("cast:*:empty_table:do=a=1 fly", "unknown step 'fly'"),
        ("cast:*:empty_table:do=a=1 lock_ptl", "needs 1 operands"),
        ("cast:*:empty_table:do=a=x stop", "is no number"),
        ("cast:*:empty_table:do=a=", "1 to 200 steps"),
        ("cast:*:empty_table:do=a", "NAME=STEP"),
    ):
        with pytest.raises(pgtbl._explore._model.ProgramError, match=message):  # type: ignore[attr-defined]
            pgtbl.explore(name, memory="sc")
