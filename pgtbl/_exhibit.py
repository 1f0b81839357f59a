"""What a wing of the museum is made of."""

from __future__ import annotations

from typing import NamedTuple


class Exhibit(NamedTuple):
    """One bug: what it was, the guard that prevents it, and the cast, era and memory model that show it.

    ``guard``: several, with blanks between them, where each is enough to prevent it. None where a protocol has the bug as
    such; ``mended`` is an era that does not have it.
    """

    bug: str
    title: str
    guard: str
    scenario: str
    era: str
    memory: str
    history: str
    mended: str = ""

    @property
    def guards(self) -> tuple[str, ...]:
        """What is taken away to show the bug."""
        return tuple(self.guard.split())

    @property
    def needs(self) -> str:
        """What lists say of it: the guards, or the era that has the bug."""
        return " and ".join(self.guards) or self.era
