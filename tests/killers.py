"""The casts that show a guard to be needed, each explored once for all tests that look at what it found."""

from __future__ import annotations

from functools import cache

from pgtbl._explore import Verdict, explore
from pgtbl.museum import KILLERS


@cache
def verdict_without(guard: str) -> Verdict:
    scenario, era, memory = KILLERS[guard]
    return explore(scenario, without=guard, era=era, memory=memory, seconds=60)
