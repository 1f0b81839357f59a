# The core in the model world, and the engines that explore it.  Use pgtbl.explore and pgtbl.litmus.
from typing import Any

class ProgramError(RuntimeError): ...

def litmus_count(
    threads: int, steps: list[tuple[int, int, int, int, int, int]], memory: str
) -> tuple[int, int]: ...
def litmus_agree(
    threads: int, steps: list[tuple[int, int, int, int, int, int]], memory: str
) -> dict[str, Any]: ...
def scenarios() -> list[dict[str, Any]]: ...
def guards() -> list[dict[str, str]]: ...
def states() -> dict[str, list[tuple[str, int, int]]]: ...
def steps() -> list[str]: ...
def verbs() -> dict[str, str]: ...
def explore(
    scenario: str,
    era: str,
    memory: str,
    without: list[str],
    *,
    seconds: float = ...,
    executions: int = ...,
    engine: str = ...,
    preemptions: int = ...,
    seed: int = ...,
    keep_hashes: bool = ...,
    shorten: bool = ...,
    graphs: list[bytes] | None = ...,
) -> dict[str, Any]: ...
def replay(
    scenario: str, era: str, memory: str, without: list[str], schedule: bytes, by_schedule: bool
) -> dict[str, Any]: ...
def engines_agree(
    scenario: str, era: str, memory: str, without: list[str], seconds: float
) -> dict[str, Any]: ...
