"""Stress: many threads do everything at once on a machine of their own, and nothing may get lost.

A run with a guard taken away may corrupt whatever it likes: :func:`apart` makes it in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from ._machine import module_of

__all__ = ["Died", "Stress", "apart", "stress", "stress_apart"]

_GRACE = 60.0  # seconds that a process may take beyond the run's own bound


@dataclass(frozen=True)
class Stress:
    """What a stress run came to.

    ``done`` counts the operations by kind. The other three are empty where nothing was found: ``lost`` has contents that were
    wrong, ``breaches`` the invariants that were broken, ``errors`` what no operation may raise.
    """

    arch: str
    era: str
    seed: int
    without: tuple[str, ...]
    seconds: float
    ops: int
    done: dict[str, int]
    lost: list[str]
    breaches: list[str]
    errors: list[str]

    @property
    def complaints(self) -> list[str]:
        """All that was found."""
        return [*self.lost, *self.breaches, *self.errors]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.complaints

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON output."""
        return {**asdict(self), "clean": self.clean}


def stress(
    *,
    arch: str = "x86-64",
    era: str = "v6.6",
    seconds: float = 1.0,
    ops: int | None = None,
    seed: int = 1,
    mix: Mapping[str, int] | None = None,
    mms: int = 3,
    extents: int = 3,
    memory: str | int | None = None,
    alloc: str = "reuse",
    switches: Mapping[str, int] | None = None,
    jitter: int = 0,
    without: Iterable[str] = (),
    checked: bool = True,
) -> Stress:
    """Lets many threads do everything at once on a machine of its own, and looks whether anything gets lost.

    Writers store stamps through several mappings in several mms; readers look for them through others and in the page
    cache, while extents collapse, fall apart, are punched, truncated, mapped, unmapped and protected, and programs come
    and go. The machine is checked at the end, with everything mapped and again with everything closed; the first breach
    ends the run.

    arch, era, switches, alloc, memory: as for :class:`pgtbl.Machine`; memory from 16 huge pages on.
    seconds, ops: the run ends after this time or so many operations, whichever comes first.
    seed: of every thread's choices; the interleaving is the processor's.
    mix: threads of each role (writer, reader, collapser, khugepaged, puncher, mapper, truncator, program); a role that is not named
    gets none. Without it: two writers, two mappers, one of each other.
    mms, extents: how many programs map the file, and how many of its extents hold stamps.
    jitter: once in so many times a thread rests where it could be paused; 0: never.
    without: guards taken away for the run. What then gets corrupt is this process: see ``pgtbl torture``, which takes another.
    checked: False takes x86-64's faster build, which looks at contents and counters alone, and has every guard.

    Ctrl-C ends it early and raises KeyboardInterrupt. ValueError for options that make no run, which says what is allowed.
    """
    build = module_of(arch, checked)
    guards = tuple(without)
    if not checked and (arch != "x86-64" or guards or jitter):
        raise ValueError("the unchecked build is x86-64's alone, and has every guard and no jitter")
    options: dict[str, Any] = {
        "era": era,
        "seconds": seconds,
        "ops": ops,
        "seed": seed,
        "mix": mix,
        "mms": mms,
        "extents": extents,
        "alloc": alloc,
        "switches": switches or {},
        "jitter": jitter,
    }
    if memory is not None:
        options["memory"] = memory
    with ExitStack() as stack:
        if guards:
            from .torture import without as taken_away

            stack.enter_context(taken_away(*guards, arch=arch))
        raw = build.stress(**options)
    return Stress(
        arch,
        era,
        seed,
        guards,
        raw["seconds"],
        raw["ops"],
        raw["done"],
        raw["lost"],
        raw["breaches"],
        raw["errors"],
    )


class Died(Exception):
    """The process of a run did not live to tell. ``hung``: it was still running long after its time."""

    def __init__(self, how: str, hung: bool = False) -> None:
        super().__init__(how)
        self.hung = hung


def apart(module: str, order: Any, seconds: float) -> Any:
    """What ``python -m module ORDER`` answers; order and answer are JSON.

    The process may take ``seconds`` and a while more. Died where it ended by a signal or was still running then;
    RuntimeError, with its last line, where it could not run.
    """
    command = [sys.executable, "-m", module, json.dumps(order)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + _GRACE
        )
    except subprocess.TimeoutExpired:
        raise Died("it hung", hung=True) from None
    if done.returncode < 0:
        raise Died(f"it died of signal {-done.returncode}")
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return json.loads(done.stdout)


def stress_apart(*, seconds: float, **options: Any) -> Stress:
    """:func:`stress` in a process of its own; one that dies of what is missing, or hangs, has an error that says so."""
    try:
        raw = apart(__name__, {"seconds": seconds, **options}, seconds)
    except Died as how:
        who = {name: options[name] for name in ("arch", "era", "seed")}
        without = tuple(options["without"])
        return Stress(
            **who,
            without=without,
            seconds=seconds,
            ops=0,
            done={},
            lost=[],
            breaches=[],
            errors=[f"the process of the run: {how}"],
        )
    del raw["clean"]
    return Stress(**{**raw, "without": tuple(raw["without"])})


def _main(arguments: Sequence[str]) -> None:
    (order,) = arguments
    print(json.dumps(stress(**json.loads(order)).to_dict()))


if __name__ == "__main__":
    _main(sys.argv[1:])
