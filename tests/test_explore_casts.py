"""Casts that nobody wrote down: Hypothesis invents them, and shrinks one that catches a missing guard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import pgtbl
from pgtbl import _scenario

# On a file whose huge page is cached, and a table that is empty or full.
VERBS = (
    "map",
    "map_lock",
    "map_rw_nolock",
    "hardware_load",
    "lockless_walk",
    "install_table",
    "rmap",
    "collapse_pte_mapped",
    "retract",
)
BOUND = settings(max_examples=60, derandomize=True, database=None, deadline=None)


def make(actors: list[str], layout: str = "empty_table") -> pgtbl.Scenario:
    return pgtbl.Scenario(actors=actors, layout=layout)


# On anonymous memory: whoever meets whom there, in whichever state.
ANON_VERBS = (
    "map",
    "map_lock",
    "hardware_load",
    "lockless_walk",
    "load",
    "store",
    "store_last",
    "dontneed",
    "split_vma",
    "guard_install",
    "collapse_anon_decided",
    "madvise_collapse",
)
ERAS = ("v6.4", "v6.6", "v6.13", "v6.14", "v6.17", "v6.18")

casts = st.lists(st.sampled_from(VERBS), min_size=1, max_size=4).filter(
    lambda actors: actors.count("retract") <= 1
)


@BOUND
@given(casts, st.sampled_from(["empty_table", "full_table"]), st.sampled_from(["sc", "rc11"]))
def test_casts_with_every_guard_hold(actors: list[str], layout: str, memory: str) -> None:
    if "retract" in actors:
        layout = "empty_table"  # collapse_file has unmapped the pages before it retracts
    verdict = make(actors, layout).explore(memory=memory, executions=400)
    assert verdict.violation is None, str(verdict)


@BOUND
@given(
    st.lists(st.sampled_from(ANON_VERBS), min_size=1, max_size=3),
    st.sampled_from(["anon_pages", "anon_huge", "anon_none"]),
    st.sampled_from(ERAS),
    st.sampled_from(["sc", "rc11"]),
)
def test_casts_on_anonymous_memory_hold(
    actors: list[str], layout: str, era: str, memory: str
) -> None:
    cast = pgtbl.Scenario(actors=actors, layout=layout, era=era)
    verdict = cast.explore(memory=memory, executions=400)
    assert verdict.violation is None, str(verdict)


def test_the_manual_tells_every_verb_and_layout() -> None:
    manual = (Path(__file__).parents[1] / "docs" / "explorer.md").read_text()
    told = {
        name
        for line in manual.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert {*_scenario.VERBS, *_scenario.LAYOUTS} <= told


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"actors": ["truncate"], "layout": "anon_pages"}, "acts on a file"),
        ({"actors": ["retract"], "layout": "anon_huge"}, "huge page in the cache"),
        ({"actors": ["collapse_anon_decided"]}, "needs anonymous memory"),
        ({"actors": ["load"], "layout": "anon_huge", "private": True}, "has no file"),
        ({"actors": ["load"], "extents": 3}, "extents 3: 1 and 2"),
    ],
)
def test_casts_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pgtbl.Scenario(**wrong)


def test_two_extents() -> None:
    cast = pgtbl.Scenario(
        actors=["dontneed_all_but_first", "store_last_extent"],
        layout="anon_pages",
        extents=2,
        era="v6.14",
    )
    shipped = pgtbl.explore("refill-vs-reclaim", memory="sc")
    assert cast.explore(memory="sc").executions == shipped.executions


def test_an_outcome_that_nobody_comes_to_the_end_of_is_told() -> None:
    """The machine that the removed guard leaves behind makes a look-up go round: the judgement ends it."""
    cast = pgtbl.Scenario(actors=["pinned_store", "punch_last"], invariants=["stores"])
    found = cast.explore(memory="sc", without="split_freeze", shorten=False).violation
    assert found is not None
    assert found.invariant == "endless loop"
    assert "looks again and again" in found.message


@pytest.mark.parametrize(
    ("guard", "smallest"),
    [
        ("map_rcu", {"map", "retract"}),
        ("pmd_recheck", {"map_lock", "retract"}),
        ("lock_from_pmdval", {"map_lock", "retract"}),
        ("free_deferred", {"map", "retract"}),
        ("dtor_deferred", {"map_lock", "retract"}),
        ("retract_flush", {"hardware_load", "retract"}),
    ],
)
def test_a_killer_shrinks_to_its_smallest_cast(guard: str, smallest: set[str]) -> None:
    def catches(actors: list[str]) -> bool:
        options = {"memory": "sc", "without": guard, "executions": 200, "shorten": False}
        return make(actors).explore(**options).violation is not None

    found = find(casts, catches, settings=settings(BOUND, max_examples=300))
    assert len(found) == 2
    assert {"retract", "collapse_pte_mapped"} & set(found), "somebody takes the table away"
    assert catches(sorted(smallest))
    assert all(not catches([verb]) for verb in found)
