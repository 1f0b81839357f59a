"""
The core in the model world, and the engines that explore it.  Use pgtbl.explore().
"""
from __future__ import annotations
import collections.abc
import typing
class ProgramError(RuntimeError):
    pass
def engines_agree(scenario: str, era: str, memory: str, without: collections.abc.Sequence[str], seconds: typing.SupportsFloat) -> dict[str, typing.Any]:
    """
    Whether both engines find the same graphs of a scenario, or both a violation.
    """
def explore(scenario: str, era: str, memory: str, without: collections.abc.Sequence[str], *, seconds: typing.SupportsFloat = 1e+18, executions: typing.SupportsIndex = 18446744073709551615, engine: str = 'graphs', preemptions: typing.SupportsIndex = -1, seed: typing.SupportsIndex = 1, keep_hashes: bool = True, shorten: bool = True, reuse_addresses: bool = False, symmetry: bool = True, graphs: collections.abc.Sequence[bytes] | None = None, watch: typing.Any = None) -> dict[str, typing.Any]:
    """
    Explores a scenario; pgtbl.explore() checks the arguments.
    """
def guards() -> list[dict[str, str]]:
    """
    name, bug, era and sentence of each guard.
    """
def litmus_agree(threads: typing.SupportsIndex, steps: collections.abc.Sequence[tuple[typing.SupportsIndex, typing.SupportsIndex, typing.SupportsIndex, typing.SupportsIndex, typing.SupportsIndex, typing.SupportsIndex]], memory: str) -> dict[str, typing.Any]:
    """
    Whether both engines find the same set of execution graphs.
    """
def litmus_count(threads: typing.SupportsIndex, steps: collections.abc.Sequence[tuple[typing.SupportsIndex, typing.SupportsIndex, typing.SupportsIndex, typing.SupportsIndex, typing.SupportsIndex, typing.SupportsIndex]], memory: str) -> tuple[int, int]:
    """
    Number of executions of a litmus program, and how many were met twice (none).
    """
def replay(scenario: str, era: str, memory: str, without: collections.abc.Sequence[str], schedule: bytes, by_schedule: bool, reuse_addresses: bool = False) -> dict[str, typing.Any]:
    """
    One execution again.
    """
def scenarios() -> list[dict[str, typing.Any]]:
    """
    name, about and eras of each scenario.
    """
def states() -> dict[tuple[str, str], list[tuple[str, int, int]]]:
    """
    What may happen to a page of tables (or to a slot, or a mapping), by architecture: operation, from, to.
    """
def steps() -> list[str]:
    """
    The steps of actors that are written down.
    """
def verbs() -> list[str]:
    """
    What an actor of a written cast can do.
    """
