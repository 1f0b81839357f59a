"""Stress: many threads do everything at once on a machine of their own, and nothing may get lost.

A run with a guard taken away may corrupt whatever it likes: :func:`stress_apart` makes it in a process of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, cast

from . import _core
from ._apart import Died, answer, apart
from ._checks import available_memory, names_of, size, whole
from ._interrupts import Interrupts
from ._machine import module_of
from ._near import FEW, known
from .errors import Interrupted, OutOfMemory

__all__ = ["Stress", "checked_options", "stress", "stress_apart"]

ROLES = (
    *("writer", "reader", "collapser", "khugepaged"),
    *("puncher", "mapper", "truncator", "program"),
)
MAX_THREADS = 63  # a machine has 64 CPUs, of which one is the run's own
MAX_SECONDS = 604_800  # a week
_U64 = (1 << 64) - 1


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
    interrupted: bool = False
    """Ctrl-C ended it: the figures are those of the part that was run."""

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


def _named(argument: str, value: Any, what: str, allowed: Sequence[str]) -> str:
    if not isinstance(value, str):
        which = f"of {', '.join(allowed)}" if len(allowed) <= FEW else f"that of a {what}"
        raise TypeError(f"{argument}={value!r}: a name is needed, {which}")
    return known(value, what, allowed)


def _checked_mix(mix: Any) -> dict[str, int]:
    if not isinstance(mix, Mapping):
        raise TypeError(f"mix={mix!r}: a mapping of roles to numbers of threads is needed")
    threads = {
        _named("mix", role, "role", ROLES): whole(f"mix: {role}", n, 0, MAX_THREADS)
        for role, n in mix.items()
    }
    if threads.get("truncator", 0) > 1:
        raise ValueError(
            f"mix: truncator={threads['truncator']}: one at most, since it must know every stamp of its file"
        )
    if not 1 <= sum(threads.values()) <= MAX_THREADS:
        raise ValueError(
            f"mix={dict(mix)}: {sum(threads.values())} threads; allowed are 1 to {MAX_THREADS}"
        )
    return threads


def checked_options(
    *,
    arch: str,
    era: str,
    seconds: float,
    ops: int | None,
    seed: int,
    mix: Mapping[str, int] | None,
    mms: int,
    extents: int,
    memory: str | int | None,
    alloc: str,
    switches: Mapping[str, int] | None,
    jitter: int,
    without: Iterable[str],
    checked: bool,
) -> dict[str, Any]:
    """The arguments of :func:`stress` as the compiled module takes them; ValueError and TypeError name what is wrong."""
    from ._race import check_switches

    module_of(arch, checked)
    guards = [str(row["name"]) for row in _core.guards()]
    for name in (missing := names_of("without", without, "a guard")):
        _named("without", name, "guard", guards)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"seconds={seconds!r}: a number is needed")
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"seconds={seconds}: allowed are 0 to {MAX_SECONDS}")
    options: dict[str, Any] = {
        "era": _named("era", era, "era", _core.eras()),
        "seconds": seconds,
        "ops": None if ops is None else whole("ops", ops, 1, _U64),
        "seed": whole("seed", seed, 0, _U64),
        "mix": None if mix is None else _checked_mix(mix),
        "mms": whole("mms", mms, 1, 64),
        "extents": whole("extents", extents, 1, 256),
        "alloc": _named("alloc", alloc, "alloc", ("reuse", "quarantine")),
        "switches": check_switches(switches),
        "jitter": whole("jitter", jitter, 0, (1 << 32) - 1),
    }
    if memory is not None:
        options["memory"] = size("memory", memory, 0)
        if options["memory"] > (left := available_memory()):
            raise ValueError(f"memory={memory!r}: this computer has {left >> 20} MiB left")
    if not checked and (arch != "x86-64" or missing or jitter):
        raise ValueError("the unchecked build is x86-64's alone, and has every guard and no jitter")
    return options


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

    Ctrl-C ends it early and raises :class:`pgtbl.Interrupted`, a KeyboardInterrupt, whose ``result`` is the Stress of what was
    done until then. ValueError and TypeError for options that make no run, which say what is allowed.
    """
    guards = tuple(names_of("without", without, "a guard"))
    options = checked_options(
        arch=arch,
        era=era,
        seconds=seconds,
        ops=ops,
        seed=seed,
        mix=mix,
        mms=mms,
        extents=extents,
        memory=memory,
        alloc=alloc,
        switches=switches,
        jitter=jitter,
        without=guards,
        checked=checked,
    )
    build = module_of(arch, checked)
    with Interrupts() as interrupts, ExitStack() as stack:
        if guards:
            from .torture import without as taken_away

            stack.enter_context(taken_away(*guards, arch=arch))
        begun = time.monotonic()
        raw: dict[str, Any] = {"interrupted": True, "ops": 0}
        try:
            with interrupts.waiting():
                raw = build.stress(**options)
        except KeyboardInterrupt:  # too early for the run to have figures
            raw["seconds"] = time.monotonic() - begun
        except OutOfMemory:
            raise
        except MemoryError:
            asked = "the default" if memory is None else repr(memory)
            raise MemoryError(
                f"memory={asked}: this computer has {available_memory() >> 20} MiB left, and that was not enough"
            ) from None
        result = Stress(
            arch,
            era,
            seed,
            guards,
            raw["seconds"],
            raw["ops"],
            raw.get("done", {}),
            raw.get("lost", []),
            raw.get("breaches", []),
            raw.get("errors", []),
            raw["interrupted"] or interrupts.seen,
        )
        if result.interrupted:
            raise Interrupted(result, result.ops, "operations")
    return result


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
    result = Stress(**{**raw, "without": tuple(raw["without"])})
    if result.interrupted:
        raise Interrupted(result, result.ops, "operations")
    return result


def _main(arguments: Sequence[str]) -> None:
    (order,) = arguments

    def work() -> dict[str, Any]:
        try:
            return stress(**json.loads(order)).to_dict()
        except Interrupted as end:
            return cast("Stress", end.result).to_dict()

    with Interrupts():
        answer(work)


if __name__ == "__main__":
    _main(sys.argv[1:])
