"""Work in a process of its own, which may die of it: what it answers, is refused for, or died of."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ._interrupts import Interrupts
from .errors import OutOfMemory, PgtblError

__all__ = ["Died", "answer", "apart"]

_GRACE = 60.0  # seconds that a process may take beyond the run's own bound
_LAST_WORDS = 10.0  # and after Ctrl-C
_REFUSALS: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    OutOfMemory,
    MemoryError,
    PgtblError,
)


class Died(Exception):
    """The process of a run did not live to tell. ``hung``: it was still running long after its time."""

    def __init__(self, how: str, hung: bool = False) -> None:
        super().__init__(how)
        self.hung = hung


def answer(work: Callable[[], Any]) -> None:
    """What a module that :func:`apart` runs prints: the outcome of its work as JSON, or what it was refused for."""
    try:
        told = {"answer": work()}
    except _REFUSALS as error:
        kind = next(k for k in _REFUSALS if isinstance(error, k))
        told = {"refused": [_REFUSALS.index(kind), str(error)]}
    print(json.dumps(told))


def apart(module: str, order: Any, seconds: float) -> Any:
    """What ``python -m module ORDER`` answers (:func:`answer`); order and answer are JSON.

    The process may take ``seconds`` and a while more. Died where it ended by a signal or was still running then;
    ValueError, TypeError, MemoryError and PgtblError as in the process; RuntimeError, with its last line, where it could not run.
    Ctrl-C, however often, reaches the process, which has a while to answer; KeyboardInterrupt where it does not.
    """
    command = [sys.executable, "-m", module, json.dumps(order)]
    with (
        Interrupts() as interrupts,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            try:
                with interrupts.waiting():
                    out, err = process.communicate(timeout=seconds + _GRACE)
            except KeyboardInterrupt:
                # A terminal has sent it one already, and `kill` has not.
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=_LAST_WORDS)
                if process.returncode != 0:
                    raise
        except subprocess.TimeoutExpired:
            process.kill()
            raise Died("it hung", hung=True) from None
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:
        raise Died(f"it died of signal {-process.returncode}")
    if process.returncode != 0:
        raise RuntimeError(err.strip().rpartition("\n")[2])
    told = json.loads(out)
    if "refused" in told:
        kind, why = told["refused"]
        raise _REFUSALS[kind](why)
    return told["answer"]
