"""Casts that nobody wrote down: Hypothesis invents them, and shrinks one that catches a missing guard."""

from __future__ import annotations

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import pgtbl

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
