"""Fixtures that several test files have, each for its own eras."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
