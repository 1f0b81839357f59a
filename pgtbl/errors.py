"""The exceptions of the laboratory; the compiled modules raise these.

Wrong values are ``ValueError`` or ``TypeError``, and a simulated system call that fails is an ``OSError``
with Linux's errno, as in Python itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._replay_run import ReplayResult
    from ._result import RaceResult
    from ._stress import Stress

__all__ = [
    "BusError",
    "ClosedError",
    "DeadlockError",
    "Interrupted",
    "InvariantError",
    "OutOfMemory",
    "PgtblError",
    "RcuStallWarning",
    "SegmentationFault",
    "Unsupported",
    "UsageError",
]


class PgtblError(Exception):
    """Root of the laboratory's own exceptions."""


class SegmentationFault(PgtblError):
    """An access that a program would die of with SIGSEGV: nothing mapped there, or not for this access."""


class BusError(PgtblError):
    """An access that a program would die of with SIGBUS: the mapping reaches beyond the end of the file."""


class OutOfMemory(PgtblError, MemoryError):
    """The machine's simulated memory is exhausted. The machine stays usable."""


class ClosedError(PgtblError):
    """An object was used after it, or its machine, was closed; or in a child process, after a fork."""


class UsageError(PgtblError):
    """Something was used where it may not be: another machine's object, a lock by a thread that has not got it."""


class InvariantError(PgtblError, AssertionError):
    """An invariant of the page tables does not hold.

    The text names the invariant (G-n, A-n), where it is broken, and between whom.
    """


class DeadlockError(PgtblError):
    """The call would wait for ever for the calling thread itself."""


class Unsupported(PgtblError):
    """The machine's architecture has nothing of the kind, as VIVT arm has no huge pages: says what it is and who has it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a race, a replay or a stress run. ``result`` is what it would have given, of what was done until then."""

    def __init__(
        self,
        result: RaceResult | ReplayResult | Stress,
        done: int,
        what: str = "rounds of each era",
    ) -> None:
        super().__init__(f"interrupted after {done} {what}; .result has them")
        self.result = result
        self._made_of = result, done, what

    def __reduce__(self) -> tuple[type[Interrupted], tuple[object, int, str]]:
        return type(self), self._made_of


class RcuStallWarning(RuntimeWarning):
    """A read section keeps a grace period waiting for long: says which thread, how deep, and what is pending."""


# Users meet these as pgtbl.SegmentationFault and so on.
for _name in __all__:
    globals()[_name].__module__ = "pgtbl"
del _name
