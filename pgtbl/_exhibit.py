"""What a wing of the museum is made of."""

from __future__ import annotations

from typing import NamedTuple


class Exhibit(NamedTuple):
    """One bug: what it was, the guard that prevents it, and the cast, era and memory model that show it.

    Where a protocol has it as such, there is no guard, and ``mended`` is an era that does not have it.
    """

    bug: str
    title: str
    guard: str
    scenario: str
    era: str
    memory: str
    history: str
    mended: str = ""
