"""`pgtbl.compare`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .engine import HostPlayer, LaboratoryPlayer, Player, RecordedPlayer, compare_scenarios, only
from .laboratory import Laboratory
from .language import Step, check_steps
from .result import Comparison
from .scenario import Problem, Scenario, read_scenarios
from .script import Script

__all__ = ["compare"]

What = Script | Scenario | str | os.PathLike[str] | Iterable[Step]


def compare(
    what: What,
    *,
    host: bool | None = None,
    era: str | None = None,
    switches: dict[str, int] | None = None,
    prefixes: Iterable[str] = (),
) -> Comparison:
    """Plays scenarios on the laboratory and on Linux, and says what differs.

    what: a `Script`, a list of steps, or the path of a file of scenarios.
    host: True compares with the kernel that runs here; False with what is recorded in the file. By default a file is
    compared with its records, a script with this kernel.
    era, switches: whose rules the laboratory follows; by default those of Linux 6.18.
    prefixes: of a file, only scenarios whose id begins so.

    Returns a `Comparison`: its repr says what differs, and `bool` is not its business. Raises ValueError for unknown eras
    and wrong steps, OSError where the file cannot be opened, `pgtbl.host.HostError` where this computer cannot play
    scenarios (it says what is missing).
    """
    laboratory = Laboratory(era, switches)
    laboratory.probe()
    from_file = isinstance(what, str | os.PathLike)
    with_host = host if host is not None else not from_file
    expected: Player = HostPlayer() if with_host else RecordedPlayer()
    try:
        return compare_scenarios(
            _scenarios(what, tuple(prefixes)),
            expected,
            LaboratoryPlayer(laboratory),
            keep_outcomes=not from_file,
        )
    finally:
        expected.close()


def _scenarios(what: What, prefixes: tuple[str, ...]) -> Iterator[Scenario | Problem]:
    if isinstance(what, str | os.PathLike):
        found = read_scenarios(Path(what))
        return only(found, prefixes) if prefixes else found
    if isinstance(what, Script):
        return iter([what.to_scenario()])
    if isinstance(what, Scenario):
        return iter([what])
    steps = [dict(step) for step in what]
    check_steps(steps)
    return iter([Scenario("script", steps)])
