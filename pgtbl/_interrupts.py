"""Ctrl-C while something runs that has a result to give: the first one ends it, and no other spoils the result."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts"]


class Interrupts:
    """Inside of `with`, SIGINT raises KeyboardInterrupt in `waiting()` only, and once; elsewhere it is noted.

    Where a program has a handler of its own, and in threads, where Python runs no handler, nothing is changed. Inside of
    another one, `with` gives that one.
    """

    def __init__(self) -> None:
        self.seen = False
        self._waiting = False
        self._ours = False

    def __enter__(self) -> Interrupts:  # noqa: PYI034
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Interrupts):
                return outer
            self._ours = handler is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._waiting and not self.seen:
            self.seen = True
            raise KeyboardInterrupt
        self.seen = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What may be given up half done."""
        if self.seen:
            raise KeyboardInterrupt
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False
