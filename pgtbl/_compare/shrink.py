"""Smaller scripts that still show a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .language import ArgumentError, Step, check_steps

__all__ = ["shrink_steps"]

Shows = Callable[[list[Step]], bool]
_NUMBERS = {"n": (1, 512), "pg": (0, 512), "val": (1,), "foff": (0,), "new_n": (1, 512)}
_OPTIONAL = ("stride", "b", "nb", "foff", "retry", "onfault", "u", "wp", "features")


def shrink_steps(steps: list[Step], shows: Shows, most_tries: int = 400) -> list[Step]:
    """The smallest list found that still `shows` it; the steps themselves where none is smaller.

    First steps are left out, many at once and then fewer, then arguments are made simpler. `shows` is asked
    about lists that are of the language only, and at most most_tries times.
    """
    tries = 0

    def good(candidate: list[Step]) -> bool:
        nonlocal tries
        if tries >= most_tries:
            return False
        try:
            check_steps(candidate)
        except ArgumentError:
            return False
        tries += 1
        return shows(candidate)

    best = _fewer(steps, good)
    changed = True
    while changed and tries < most_tries:
        changed = False
        for candidate in _simpler(best):
            if good(candidate):
                best, changed = _fewer(candidate, good), True
                break
    return best


def _fewer(steps: list[Step], good: Shows) -> list[Step]:
    size = max(1, len(steps) // 2)
    while size >= 1:
        at, smaller = 0, False
        while at < len(steps):
            candidate = steps[:at] + steps[at + size :]
            if candidate and good(candidate):
                steps, smaller = candidate, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2) if size > 1 else 1
    return steps


def _simpler(steps: list[Step]) -> Iterator[list[Step]]:
    """Lists in which one argument of one step is simpler."""
    for i, step in enumerate(steps):

        def with_step(changed: Step, i: int = i) -> list[Step]:
            return [*steps[:i], changed, *steps[i + 1 :]]

        for name in _OPTIONAL:
            if name in step:
                yield with_step({k: v for k, v in step.items() if k != name})
        for name, values in _NUMBERS.items():
            yield from (with_step({**step, name: v}) for v in values if step.get(name, v) > v)
        for name in ("flags", "mode"):
            for item in step.get(name, []):
                if item not in ("fixed", "shared", "private", "anon"):
                    yield with_step({**step, name: [x for x in step[name] if x != item]})
