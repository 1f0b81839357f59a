"""What is said about a name that does not exist: the nearest ones that do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

FEW = 30
"""Names that a line or two can hold."""


def known(value: str, what: str, allowed: Sequence[str]) -> str:
    """The value, which is among those allowed; else ValueError, with the nearest of them, or with all where none
    is near and they are few."""
    if value in allowed:
        return value
    near = difflib.get_close_matches(value, allowed, n=3, cutoff=0.4)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif len(allowed) > FEW:
        nearest = difflib.get_close_matches(value, allowed, n=3, cutoff=0.0)
        hint = f"the nearest of {len(allowed)} are {', '.join(nearest)}"
    else:
        hint = f"there are {', '.join(allowed)}"
    raise ValueError(f"unknown {what} {value!r}: {hint}")
