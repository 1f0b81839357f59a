"""What several test files have: machines of their own eras, and threads that play at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import pgtbl


def machine_of(eras: Sequence[str]) -> Any:
    """A fixture: a machine of each era in turn, whose invariants are looked at when the test is over."""

    @pytest.fixture(params=list(eras))
    def machine(request: pytest.FixtureRequest) -> Iterator[pgtbl.Machine]:
        with pgtbl.Machine(era=request.param, memory="64MiB") as made:
            yield made
            made.check()

    return machine


def together(*roles: Callable[[], None], seconds: float = 0.6) -> list[str]:
    """Each role again and again, in a thread of its own, until the time is over or one has complained."""
    over = threading.Event()
    complaints: list[str] = []

    def play(role: Callable[[], None]) -> None:
        try:
            while not over.is_set():
                role()
        except (AssertionError, pgtbl.PgtblError) as error:
            complaints.append(str(error))
            over.set()

    threads = [threading.Thread(target=play, args=[role]) for role in roles]
    for thread in threads:
        thread.start()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return complaints
