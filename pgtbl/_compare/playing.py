"""What the laboratory and a host have in common as players of a scenario."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from .language import Step

__all__ = ["Playing"]

Process = TypeVar("Process")


class Playing(ABC, Generic[Process]):
    """Plays the steps of one scenario: `op_<operation>` each."""

    procs: dict[str, Process]

    @abstractmethod
    def touch(self, step: Step, process: Process, how: str) -> dict[str, Any]:
        """Reads, writes or fills the pages of a step."""

    def op_read(self, step: Step, process: Process) -> dict[str, Any]:
        return self.touch(step, process, "read")

    def op_write(self, step: Step, process: Process) -> dict[str, Any]:
        return self.touch(step, process, "write")

    def op_fill(self, step: Step, process: Process) -> dict[str, Any]:
        return self.touch(step, process, "fill")

    @staticmethod
    def touched(got: Mapping[str, Any], faults: int, first: int | None, how: str) -> dict[str, Any]:
        """The result of a touch, as it is recorded. `first`: the first page that failed."""
        result = {"ok": got["ok"], "minflt": faults}
        result |= {kind: got[kind] for kind in ("segv", "bus") if got[kind]}
        if first is not None:
            result["first"] = first
        if how == "read":
            result["sum"] = f"{got['sum']:016x}"
        return result
