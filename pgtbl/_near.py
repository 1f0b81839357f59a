"""What is said about a name that does not exist: the nearest ones that do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def known(value: str, what: str, allowed: Sequence[str]) -> str:
    """The value, which is among those allowed; else ValueError, with the nearest of them, or with all where none is near."""
    if value in allowed:
        return value
    near = difflib.get_close_matches(value, allowed, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(allowed)}"
    raise ValueError(f"unknown {what} {value!r}: {hint}")
