"""Model-checking of the laboratory's own sources: every outcome of a small cast, or the shortest broken one.

``explore("rcu-synchronize")`` either exhausts the scenario or returns the execution that breaks an invariant;
``explore("rcu-synchronize", without="rcu_gp_waits")`` must return one. A verdict holds for its bound: the cast,
the model's small geometry (four entries a table) and the memory model.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from . import __version__, _core, _model
from ._near import known as _known
from ._story import MOST_LINES, give_places, trace_lines, write_html

# Which guards are removed is a property of the process: one exploration at a time. Processes share nothing.
_ONE_AT_A_TIME = threading.Lock()


def _call(function: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    with _ONE_AT_A_TIME:
        result: dict[str, Any] = function(*arguments, **options)
    return result


__all__ = [
    "MOST_LINES",
    "Verdict",
    "Violation",
    "check_guard",
    "check_guards",
    "engines_agree",
    "explore",
    "guards",
    "replay",
    "scenarios",
    "trace_lines",
    "write_html",
]

MODELS = ("sc", "tso", "ra", "rc11")
ERAS = tuple(_core.eras())


def scenarios() -> list[dict[str, Any]]:
    """Name, description and eras of every scenario."""
    return [{**row, "eras": row["eras"].split()} for row in _model.scenarios()]


def guards() -> list[dict[str, str]]:
    """Name, bug, era and sentence of every guard."""
    return _model.guards()


@dataclass
class Violation:
    """What went wrong, and the execution that shows it."""

    invariant: str
    message: str
    guard: str
    steps: list[dict[str, Any]]
    token: str
    preemptions: int = 0
    """How often an actor that could go on is interrupted, in the order of the steps."""
    roles: list[str] = field(default_factory=list)
    """What each actor is there for."""


@dataclass
class Verdict:
    """What an exploration found."""

    scenario: str
    era: str
    memory: str
    without: list[str]
    executions: int
    blocked: int
    duplicates: int
    complete: bool
    seconds: float
    violation: Violation | None = None
    frontier: list[bytes] = field(default_factory=list, repr=False)
    """What is left to explore, where a bound was reached."""
    reuse_addresses: bool = False
    """Whether an allocation could get the memory of what was freed."""
    symmetry: bool = True
    """Whether of actors with the same part only one order was explored."""
    cast: list[str] = field(default_factory=list)
    """Who acts, each once."""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON output."""
        found = None
        if self.violation is not None:
            v = self.violation
            found = {
                "invariant": v.invariant,
                "message": v.message,
                "guard": v.guard,
                "steps": v.steps,
                "token": v.token,
            }
        return {
            "scenario": self.scenario,
            "era": self.era,
            "memory": self.memory,
            "without": self.without,
            "executions": self.executions,
            "blocked": self.blocked,
            "duplicates": self.duplicates,
            "complete": self.complete,
            "seconds": round(self.seconds, 6),
            "violation": found,
        }

    def save(self) -> bytes:
        """What is needed to go on later: pass it as ``resume``."""
        state = {
            "version": __version__,
            **{k: getattr(self, k) for k in ("scenario", "era", "memory", "without", "executions")},
            **{
                k: getattr(self, k)
                for k in ("blocked", "duplicates", "seconds", "reuse_addresses", "symmetry")
            },
            "frontier": [base64.b64encode(g).decode() for g in self.frontier],
        }
        return zlib.compress(json.dumps(state).encode())

    @property
    def bound(self) -> str:
        """What the verdict is about: the cast, the geometry, the era, the memory model, and what was taken away."""
        name = "a cast" if self.scenario.startswith("cast:") else self.scenario
        layout = f" on {self.scenario.split(':')[2]}" if name == "a cast" else ""
        cast = f" of {', '.join(self.cast)}" if self.cast else ""
        removed = f", without {', '.join(self.without)}" if self.without else ""
        room = [word for word in self.scenario.split(":") if word.startswith("put_off=")]
        kept = "".join(
            f", room for {word.partition('=')[2]} of the extents put off" for word in room
        )
        reuse = ", memory used again" if self.reuse_addresses else ""
        return (
            f"{name}{cast}{layout}, {self.era}, memory model {self.memory}, "
            f"tables of 4 entries{kept}{removed}{reuse}"
        )

    def __str__(self) -> str:
        rate = f"{self.executions} executions ({self.blocked} blocked) in {self.seconds:.2f} s"
        if self.violation is not None:
            return f"{self.bound}: {self.violation.invariant} after {rate}\n{self.trace()}"
        if self.complete:
            return f"{self.bound}: exhausted, no violation; {rate}"
        return f"{self.bound}: stopped by a bound, no violation so far; {rate}"

    __repr__ = __str__

    def trace(self) -> str:
        """The violation, told like a review comment; at most 30 lines."""
        return "" if self.violation is None else "\n".join(trace_lines(self.violation))

    def _repr_html_(self) -> str:
        colour = "#b00" if self.violation else "#070" if self.complete else "#a60"
        return f'<pre style="border-left: 4px solid {colour}; padding-left: 8px">{html.escape(str(self))}</pre>'


# ---- tokens ----------------------------------------------------------------------------------------


def _make_token(
    verdict: dict[str, Any],
    found: dict[str, Any],
    name: str,
    without: list[str],
    memory: str,
    reuse: bool,
) -> str:
    content = {
        "v": __version__,
        "s": name,
        "e": verdict["era"],
        "m": found["schedule_memory"] if found["by_schedule"] else memory,
        "w": without,
        "p": base64.b64encode(found["schedule"]).decode(),
        "i": found["by_schedule"],
        "r": reuse,
    }
    packed = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)
    return "pg1." + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _read_token(token: str) -> dict[str, Any]:
    kind, dot, packed = token.strip().partition(".")
    if not dot or kind != "pg1":
        raise ValueError("this is no token of pgtbl explore: it would begin with 'pg1.'")
    try:
        padded = packed + "=" * (-len(packed) % 4)
        content = json.loads(zlib.decompress(base64.urlsafe_b64decode(padded)))
        content["p"] = base64.b64decode(content["p"])
    except (binascii.Error, zlib.error, ValueError, KeyError, TypeError):
        raise ValueError("the token is cut off or damaged") from None
    if content["v"] != __version__:
        raise ValueError(f"the token is of pgtbl {content['v']}, and this is {__version__}")
    return dict(content)


# ---- exploring ---------------------------------------------------------------------------------------


def _verdict(
    raw: dict[str, Any], name: str, memory: str, without: list[str], reuse: bool
) -> Verdict:
    found = raw["violation"]
    violation = None
    if found is not None:
        token = _make_token(raw, found, name, without, memory, reuse)
        give_places(found["steps"])
        violation = Violation(
            found["invariant"],
            found["message"],
            found["guard"],
            found["steps"],
            token,
            found["preemptions"],
            found["roles"],
        )
    if raw["duplicates"]:
        raise AssertionError(f"{raw['duplicates']} executions were met twice")
    return Verdict(
        name,
        raw["era"],
        memory,
        without,
        raw["executions"],
        raw["blocked"],
        raw["duplicates"],
        raw["complete"],
        raw["seconds"],
        violation,
        raw["frontier"],
        reuse,
        cast=raw["cast"],
    )


def _check(
    scenario: str, era: str | None, memory: str, without: str | Iterable[str]
) -> tuple[str, list[str]]:
    _known(memory, "memory model", MODELS)
    rows = {row["name"]: row for row in scenarios()}
    if scenario.startswith("broken:"):  # programs that no engine can explore: for tests, not listed
        rows[scenario] = {"eras": ["v6.6"]}
    if scenario.startswith("cast:"):
        rows[scenario] = {"eras": ["v6.6", *(e for e in ERAS if e != "v6.6")]}
    _known(scenario, "scenario", list(rows))
    if era is not None and era not in rows[scenario]["eras"]:
        known = sorted({e for row in rows.values() for e in row["eras"]})
        _known(era, "era", known)
        raise ValueError(
            f"scenario {scenario!r} is not for {era}: its eras are {', '.join(rows[scenario]['eras'])}"
        )
    names = [without] if isinstance(without, str) else list(without)
    allowed = [row["name"] for row in guards()]
    for name in names:
        _known(name, "guard", allowed)
    return era or rows[scenario]["eras"][0], names


def explore(
    scenario: str,
    *,
    without: str | Iterable[str] = (),
    era: str | None = None,
    memory: str = "rc11",
    seconds: float | None = None,
    executions: int | None = None,
    engine: str = "graphs",
    preemptions: int = -1,
    seed: int = 1,
    executor: Executor | None = None,
    shards: int = 8,
    resume: bytes | None = None,
    shorten: bool = True,
    reuse_addresses: bool = False,
    symmetry: bool = True,
    progress: Callable[[int, int, float], object] | None = None,
) -> Verdict:
    """Explores a scenario until it is exhausted, a bound is reached, or a violation is found.

    ``engine`` is "graphs" (every execution graph once), or for sc and tso "exhaustive", "random" or "pct"
    (interleavings; ``preemptions`` bounds an exhaustive search). ``executor``: any ``concurrent.futures`` executor;
    the graphs that are left are dealt to ``shards`` calls at a time, and counts equal the single process's.
    ``shorten``: look for the execution of fewest preemptions that shows a violation, too.
    ``resume`` goes on with what :meth:`Verdict.save` saved.
    ``reuse_addresses``: an allocation may get the memory of an object of the same size that was freed, so that an
    address that is the same need not be the same object. It makes more executions, and an allocator that orders
    its callers, so it comes beside a search without it and not instead.
    ``symmetry``: of actors with the same part that begin with the same lock or counter, only one order is explored, so
    that k of them have k! times fewer executions.
    ``progress`` is called every tenth of a second with the executions made, the blocked ones, and the part of the
    search that is done by Knuth's estimate (from 0 to 1; 0 for interleavings).
    """
    chosen, names = _check(scenario, era, memory, without)
    limits: dict[str, Any] = {
        "seconds": 1e18 if seconds is None else float(seconds),
        "executions": 2**63 if executions is None else int(executions),
        "reuse_addresses": reuse_addresses,
        "shorten": shorten,
        "symmetry": symmetry,
    }
    if engine != "graphs":
        raw = _call(
            _model.explore,
            scenario,
            chosen,
            memory,
            names,
            engine=engine,
            preemptions=preemptions,
            seed=seed,
            watch=progress,
            **limits,
        )
        return _verdict(raw, scenario, memory, names, reuse_addresses)
    start: list[bytes] | None = None
    before: dict[str, Any] = {"executions": 0, "blocked": 0, "seconds": 0.0}
    if resume is not None:
        before, start = _read_state(
            resume, scenario, chosen, memory, names, reuse_addresses, symmetry
        )
    if executor is not None:
        verdict = _sharded(
            scenario, chosen, memory, names, limits, executor, shards, start, progress
        )
    else:
        raw = _call(
            _model.explore, scenario, chosen, memory, names, graphs=start, watch=progress, **limits
        )
        verdict = _verdict(raw, scenario, memory, names, reuse_addresses)
    verdict.symmetry = symmetry
    verdict.executions += before["executions"]
    verdict.blocked += before["blocked"]
    verdict.seconds += before["seconds"]
    return verdict


def _read_state(
    saved: bytes,
    scenario: str,
    era: str,
    memory: str,
    without: list[str],
    reuse: bool,
    symmetry: bool,
) -> tuple[dict[str, Any], list[bytes]]:
    try:
        state = json.loads(zlib.decompress(saved))
        frontier = [base64.b64decode(g) for g in state["frontier"]]
    except (zlib.error, ValueError, KeyError, TypeError):
        raise ValueError("the saved exploration is cut off or damaged") from None
    for key, mine in (
        ("version", __version__),
        ("scenario", scenario),
        ("era", era),
        ("memory", memory),
        ("without", without),
        ("reuse_addresses", reuse),
        ("symmetry", symmetry),
    ):
        if state[key] != mine:
            raise ValueError(
                f"the saved exploration has {key} {state[key]!r}, and this is {mine!r}"
            )
    return state, frontier


def _explore_shard(
    scenario: str,
    era: str,
    memory: str,
    without: list[str],
    graphs: list[bytes] | None,
    limits: dict[str, Any],
) -> dict[str, Any]:
    return _call(_model.explore, scenario, era, memory, without, graphs=graphs, **limits)


def _sharded(
    scenario: str,
    era: str,
    memory: str,
    without: list[str],
    limits: dict[str, Any],
    executor: Executor,
    shards: int,
    start: list[bytes] | None,
    progress: Callable[[int, int, float], object] | None,
) -> Verdict:
    """Rounds: what is left is dealt out, each part explored for a while, and what is left of it collected."""
    import time

    begin = time.monotonic()
    # A first short run here makes enough graphs to deal out.
    total = _explore_shard(
        scenario,
        era,
        memory,
        without,
        start,
        {**limits, "executions": min(64, limits["executions"])},
    )
    share = 2000
    rest = 1.0 - total["progress"]
    while not total["complete"] and total["violation"] is None:
        if (
            time.monotonic() - begin > limits["seconds"]
            or total["executions"] >= limits["executions"]
        ):
            break
        left = total["frontier"]
        parts = [left[i::shards] for i in range(shards) if left[i::shards]]
        some = {
            "seconds": max(0.05, limits["seconds"] - (time.monotonic() - begin)),
            "executions": min(share, limits["executions"] - total["executions"]),
            "reuse_addresses": limits["reuse_addresses"],
            "shorten": limits["shorten"],
            "symmetry": limits["symmetry"],
        }
        jobs = [
            executor.submit(_explore_shard, scenario, era, memory, without, part, some)
            for part in parts
        ]
        done = [job.result() for job in jobs]
        for key in ("executions", "blocked", "dropped", "duplicates"):
            total[key] += sum(d[key] for d in done)
        if progress is not None:
            # Each part is taken to be as large as it has graphs.
            rest *= sum(
                len(part) * (1.0 - d["progress"]) for part, d in zip(parts, done, strict=True)
            ) / len(left)
            progress(total["executions"], total["blocked"], 1.0 - rest)
        total["frontier"] = [g for d in done for g in d["frontier"]]
        total["violation"] = next((d["violation"] for d in done if d["violation"]), None)
        total["complete"] = not total["frontier"] and total["violation"] is None
        share *= 2
    total["seconds"] = time.monotonic() - begin
    return _verdict(total, scenario, memory, without, limits["reuse_addresses"])


def replay(token: str) -> Verdict:
    """The execution that a token names, again, step by step."""
    content = _read_token(token)
    era, names = _check(content["s"], content["e"], content["m"], content["w"])
    schedule = content["p"]
    reuse = bool(content.get("r", False))
    raw = _call(
        _model.replay, content["s"], era, content["m"], names, schedule, content["i"], reuse
    )
    return _verdict(raw, content["s"], content["m"], names, reuse)


def engines_agree(
    scenario: str,
    *,
    memory: str = "sc",
    without: str | Iterable[str] = (),
    era: str | None = None,
    seconds: float = 10.0,
) -> dict[str, Any]:
    """Whether both engines find the same set of graphs, or both a violation (memory sc or tso)."""
    chosen, names = _check(scenario, era, memory, without)
    return _call(_model.engines_agree, scenario, chosen, memory, names, seconds)


def check_guard(name: str, seconds: float = 5.0) -> dict[str, Any]:
    """Removes a guard, and looks for a scenario that catches it.

    The museum knows scenario, era and memory model for most; for another guard every scenario is tried for a
    moment, under sc and then rc11.
    """
    from .museum import KILLERS

    _known(name, "guard", [row["name"] for row in guards()])
    candidates: list[tuple[str, str, str]]
    if name in KILLERS:
        candidates = [KILLERS[name]]
    else:
        part = name.startswith("rcu_")
        rows = [row for row in scenarios() if row["name"].startswith("rcu-") == part]
        candidates = [
            (row["name"], row["eras"][0], memory) for memory in ("sc", "rc11") for row in rows
        ]
        seconds = min(seconds, 0.2)
    for scenario, era, memory in candidates:
        verdict = explore(
            scenario, without=name, era=era, memory=memory, seconds=seconds, shorten=False
        )
        if verdict.violation is not None:
            return {
                "name": name,
                "caught": True,
                "scenario": scenario,
                "era": verdict.era,
                "memory": memory,
                "executions": verdict.executions,
                "seconds": round(verdict.seconds, 6),
            }
    nothing = {"scenario": None, "era": None, "memory": None, "executions": 0, "seconds": 0}
    return {"name": name, "caught": False, **nothing}


def check_guards(names: Iterable[str] | None = None, seconds: float = 5.0) -> dict[str, Any]:
    """Removes each guard in turn; the score is the share that some scenario catches, from 0 to 1."""
    chosen = list(names) if names is not None else [row["name"] for row in guards()]
    rows = [check_guard(name, seconds) for name in chosen]
    score = sum(row["caught"] for row in rows) / len(rows) if rows else 1.0
    return {"guards": rows, "score": score}
