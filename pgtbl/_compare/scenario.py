"""Scenarios in files: JSON lines, plain or gzipped, with or without what was observed."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .language import ArgumentError, Step, check_steps

__all__ = [
    "FORMAT_VERSION",
    "Problem",
    "Scenario",
    "dump_scenario",
    "open_for_lines",
    "read_scenarios",
]

FORMAT_VERSION = 1
_KEYS = ("id", "description", "steps", "outcome", "version")


@dataclass
class Scenario:
    """One script, and what was observed of it, if anything was."""

    id: str
    steps: list[Step]
    description: str = ""
    results: list[dict[str, Any]] | None = None
    outcome: dict[str, Any] = field(default_factory=dict)  # what else was recorded of the runs
    line: int = 0

    @property
    def group(self) -> str:
        """What the scenario is about: its id up to the first dot."""
        return self.id.split(".")[0]


@dataclass(frozen=True)
class Problem:
    """A line that is no scenario: the others are still read."""

    path: str
    line: int
    field: str
    why: str
    id: str = ""

    def __str__(self) -> str:
        named = f' of "{self.id}"' if self.id else ""
        return f'{self.path}:{self.line}: field "{self.field}"{named}: {self.why}'


def _results(line: dict[str, Any], steps: list[Step]) -> list[dict[str, Any]] | None:
    outcome = line.get("outcome")
    if outcome is None:
        return None
    results = outcome.get("results") if isinstance(outcome, dict) else None
    if not isinstance(results, list):
        raise ArgumentError("outcome", 'it has a list "results", one for each step')
    if len(results) != len(steps):
        raise ArgumentError(
            "outcome", f"{len(results)} results for {len(steps)} steps: one for each is needed"
        )
    for i, (step, result) in enumerate(zip(steps, results, strict=True)):
        if not isinstance(result, dict):
            raise ArgumentError("outcome", f"result {i} is {result!r:.40}: an object is needed")
        if step["op"] == "snap" and "err" not in result:
            _check_snap(i, result)
    return results


def _check_snap(i: int, result: dict[str, Any]) -> None:
    try:
        for process in result["procs"].values():
            for run in process["pages"]:
                _pg, _n, _kind, _order, _label, _mapcount = run
            for run in process["data"]:
                _pg, _n, _w0, _d0, _rest, _d1 = run
            for vma in process["vmas"]:
                _place = vma["pg"], vma["n"], vma["perm"]
        for file in result["files"].values():
            for run in file["data"]:
                _pg, _n, _w0, _d0, _rest, _d1 = run
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArgumentError("outcome", f"result {i} is no snapshot ({error!r})") from None


def _scenario(line: Any, number: int) -> Scenario:
    if not isinstance(line, dict):
        raise ArgumentError("-", "each line is an object with id and steps")
    if "trace" in line or ("op" in line and "us" in line):
        raise ArgumentError("trace", "this is a trace of a program: `pgtbl replay` plays it")
    if "threads" in line and "ops" in line:
        raise ArgumentError("threads", "this is a litmus program: `pgtbl litmus` runs it")
    version = line.get("version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise ArgumentError("version", f"{version!r}: this release reads {FORMAT_VERSION}")
    name = line.get("id")
    if not isinstance(name, str) or not name:
        raise ArgumentError("id", f"{name!r}: text is needed")
    for key in line:
        if key not in _KEYS:
            raise ArgumentError(key, f"no such field; allowed are {', '.join(_KEYS)}")
    check_steps(line.get("steps"))
    steps = line["steps"]
    results = _results(line, steps)
    rest = {k: v for k, v in (line.get("outcome") or {}).items() if k != "results"}
    return Scenario(name, steps, str(line.get("description", "")), results, rest, number)


def open_for_lines(path: str | os.PathLike[str]) -> IO[str]:
    """Opens a plain or gzipped text file, whatever its name."""
    with Path(path).open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    if zipped:
        return gzip.open(path, "rt", encoding="utf-8")
    return Path(path).open(encoding="utf-8")


def read_scenarios(path: str | os.PathLike[str]) -> Iterator[Scenario | Problem]:
    """Every line of the file, as a scenario or as what is wrong with it.

    OSError where the file cannot be opened. Ids that come a second time are problems.
    """
    name = os.fspath(path)
    number, failed = 0, True
    seen: dict[str, int] = {}
    with open_for_lines(path) as file:
        try:
            for raw in file:
                number += 1
                if not raw.strip():
                    continue
                line: Any = None
                try:
                    line = json.loads(raw)
                    scenario = _scenario(line, number)
                    if scenario.id in seen:
                        where = seen[scenario.id]
                        raise ArgumentError("id", f"{scenario.id!r} stands on line {where} already")
                    seen[scenario.id] = number
                    yield scenario
                except ArgumentError as error:
                    known = line.get("id", "") if isinstance(line, dict) else ""
                    step = "" if error.step is None else f"step {error.step}: "
                    yield Problem(name, number, error.field, step + error.why, str(known))
                except (ValueError, RecursionError) as error:
                    cut = "" if raw.endswith("\n") else "; the file ends in the middle of it"
                    yield Problem(name, number, "-", f"this is not JSON ({error}){cut}")
            failed = False
        except EOFError:
            yield Problem(name, number + 1, "-", "the file is cut off (truncated gzip data)")
        except (gzip.BadGzipFile, zlib.error) as error:
            yield Problem(name, number + 1, "-", f"broken gzip data ({error})")
        except UnicodeDecodeError as error:
            yield Problem(name, number + 1, "-", f"this is not text ({error.reason})")
    if number == 0 and not failed:
        yield Problem(name, 1, "-", "the file is empty")


def dump_scenario(
    scenario: Scenario, results: list[dict[str, Any]] | None = None, **outcome: Any
) -> str:
    """The scenario as one line of a file, with these results."""
    line: dict[str, Any] = {"id": scenario.id}
    if scenario.description:
        line["description"] = scenario.description
    line["steps"] = scenario.steps
    if results is not None:
        line["outcome"] = {**outcome, "results": results}
    return json.dumps(line, separators=(",", ":"))
