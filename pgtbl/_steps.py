"""Actors that are written down as steps: an idea for a protocol, tried without compiling."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import _model

Step = str | tuple[Any, ...]

# What a step does. v, w: variables, that hold values of entries; i: the number of an entry.
STEPS = {
    "read_pmd v": "v is what the PMD holds",
    "read_pte v w i": "w is what entry i of the table that v leads to holds",
    "clear_pmd v": "the PMD becomes none; v is what it held",
    "set_pmd v": "the PMD becomes v",
    "map_page v i": "entry i of v's table maps page i of the file, if it is none",
    "unmap_page v i": "entry i of v's table becomes none, and the page loses a mapping",
    "lock_pml": "take the lock of the PMD",
    "unlock_pml": "give it back",
    "lock_ptl v": "take the lock of the table that v leads to",
    "unlock_ptl v": "give it back",
    "rcu_read_lock": "enter an RCU read section",
    "rcu_read_unlock": "leave it",
    "lock_mmap_read": "take mmap_lock for read",
    "unlock_mmap_read": "give it back",
    "lock_mmap_write": "take mmap_lock for write",
    "unlock_mmap_write": "give it back",
    "lock_i_mmap_read": "take i_mmap_rwsem for read",
    "unlock_i_mmap_read": "give it back",
    "lock_i_mmap_write": "take i_mmap_rwsem for write",
    "unlock_i_mmap_write": "give it back",
    "lock_folio": "lock the huge page that is cached",
    "unlock_folio": "unlock it",
    "flush": "flush the TLBs of the extent, cached upper levels too",
    "flush_leaf": "flush the TLBs of the extent, cached upper levels not",
    "ipi": "interrupt all CPUs and wait (tlb_remove_table_sync_one)",
    "free v": "free the table that v leads to, now",
    "defer v": "free it after a grace period (pte_free_defer)",
    "synchronize": "wait for a grace period",
    "must_be_same v w": "a violation, unless they are equal",
    "again": "from the first step, once more",
    "stop": "the actor has ended",
}
# The first element of a branch: (condition, [steps where it holds], [steps where not]).
CONDITIONS = {
    "if_table v": "v leads to a table",
    "if_none v": "v is none",
    "if_same v w": "they are equal",
    "if_empty v": "every entry of the table that v leads to is none",
}
_MOST_STEPS = 100
_MOST_VARIABLES = 8
_DEEPEST = 8
_ENTRIES = 4
_WRITES = {"read_pmd": 0, "read_pte": 1, "clear_pmd": 0}
_FORMS = {text.split()[0]: text.split()[1:] for text in [*STEPS, *CONDITIONS]}


class _Compiler:
    """From nested steps to the flat ones of the explorer, where a branch is a jump forwards."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.flat: list[str] = []
        self.number = 0
        self.variables: set[str] = set()

    def wrong(self, why: str) -> ValueError:
        return ValueError(f"actor {self.name!r}, step {self.number}: {why}")

    def words(self, text: Any, allowed: dict[str, str], what: str) -> list[str]:
        if not isinstance(text, str):
            raise self.wrong(f"{text!r} is no {what}: a string is needed")
        words = text.split()
        if not words:
            raise self.wrong(f"an empty {what}")
        names = [form.split()[0] for form in allowed]
        if words[0] not in names:
            other = CONDITIONS if allowed is STEPS else STEPS
            if words[0] in [form.split()[0] for form in other]:
                kind = (
                    "a condition: (condition, [steps], [steps])" if allowed is STEPS else "a step"
                )
                raise self.wrong(f"{words[0]!r} is {kind}")
            near = difflib.get_close_matches(words[0], names, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
            raise self.wrong(f"unknown {what} {words[0]!r}: {hint}")
        form = _FORMS[words[0]]
        if len(words) - 1 != len(form):
            needs = " ".join([words[0], *form])
            raise self.wrong(f"{text!r} is to be written {needs!r}")
        for place, (letter, word) in enumerate(zip(form, words[1:], strict=True)):
            self.operand(words[0], place, letter, word)
        return words

    def operand(self, verb: str, place: int, letter: str, word: str) -> None:
        if letter == "i":
            if not word.isdecimal() or int(word) >= _ENTRIES:
                raise self.wrong(f"entry {word!r}: a table has entries 0 to {_ENTRIES - 1} here")
            return
        if not re.fullmatch(r"[A-Za-z_]\w{0,19}", word):
            raise self.wrong(f"{word!r} is no name of a variable")
        if _WRITES.get(verb) == place:
            self.variables.add(word)
            if len(self.variables) > _MOST_VARIABLES:
                raise self.wrong(f"more than {_MOST_VARIABLES} variables")
        elif word not in self.variables:
            known = ", ".join(sorted(self.variables)) or "none yet"
            raise self.wrong(f"no step before has given {word!r} a value (there are {known})")

    def put(self, words: str) -> int:
        self.flat.append(f"{self.number} {words}")
        return len(self.flat) - 1

    def land(self, at: int) -> None:
        """The jump at that place leads to the next step."""
        self.flat[at] += f" {len(self.flat)}"

    def steps(self, steps: Any, depth: int = 0) -> None:
        if isinstance(steps, str) or not isinstance(steps, Sequence):
            raise self.wrong(f"{steps!r} is no list of steps")
        if depth > _DEEPEST:
            raise self.wrong(f"branches are nested more than {_DEEPEST} deep")
        for step in steps:
            self.number += 1
            if self.number > _MOST_STEPS:
                raise self.wrong(f"an actor has at most {_MOST_STEPS} steps")
            if isinstance(step, tuple):
                self.branch(step, depth)
            else:
                self.put(" ".join(self.words(step, STEPS, "step")))

    def branch(self, step: tuple[Any, ...], depth: int) -> None:
        if len(step) not in (2, 3):
            raise self.wrong("a branch is (condition, [steps]) or (condition, [steps], [steps])")
        words = self.words(step[0], CONDITIONS, "condition")
        unless = self.put(" ".join([words[0].replace("if_", "unless_", 1), *words[1:]]))
        self.steps(step[1], depth + 1)
        if len(step) == 2:
            self.land(unless)
            return
        over = self.put("go")
        self.land(unless)
        self.steps(step[2], depth + 1)
        self.land(over)


@dataclass(frozen=True)
class Actor:
    """An actor of one's own: a list of primitive steps on the PMD of the extent and its table.

    A step is a string ("lock_ptl t"); a branch is a tuple of a condition, the steps where it holds and, if need be,
    those where it does not: ``("if_same now t", ["clear_pmd old"], ["again"])``. ``pgtbl.explore_steps()`` lists
    both. Variables hold values of entries. ``program``: in which of two programs it acts.

    Locks that the actor still holds when it ends, and what no machine could do (the lock of what is no table), are
    violations like any other.
    """

    name: str
    steps: Sequence[Step]
    program: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w{0,29}", self.name):
            raise ValueError(
                f"{self.name!r} is no name of an actor: letters, digits and _, at most 30"
            )
        if self.program not in (0, 1):
            raise ValueError(
                f"actor {self.name!r}: there are programs 0 and 1, not {self.program!r}"
            )
        self.text()

    def text(self) -> str:
        """As the explorer reads it."""
        compiler = _Compiler(self.name)
        compiler.steps(self.steps)
        if not compiler.flat:
            raise ValueError(f"actor {self.name!r} has no steps")
        return f"{self.name}=" + ";".join(compiler.flat)


def explore_steps() -> dict[str, str]:
    """The steps and conditions that an :class:`Actor` may have, each with what it does."""
    known = set(_model.steps())
    missing = {form.split()[0] for form in STEPS} - known
    if missing:
        raise AssertionError(f"the explorer does not know {', '.join(sorted(missing))}")
    return {**STEPS, **CONDITIONS}
