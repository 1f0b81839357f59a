"""Litmus programs: how many executions they have under each memory model.

A program is one JSON object on a line of a file, plain or gzip::

    {"threads": 2, "ops": [{"thread": 0, "op": "store", "order": "release", "var": "x", "value": 1}, ...]}

``op`` is load, store, exchange, fetch_add, compare_exchange (strong: ``expect`` to ``value``) or fence; the
operations of a thread run in file order, and every variable starts at 0. An execution is who reads from whom and
the order of writes to each variable. Under TSO operations mean what x86 compilers make of them: a seq_cst store
is an exchange, an acq_rel fence costs nothing, a compare_exchange is locked even when it fails.
"""

# ruff: noqa: TRY004 -- what is wrong is the contents of a file
from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import _model

MODELS = ("sc", "ra", "rc11", "tso")
OPS = ("load", "store", "exchange", "fetch_add", "compare_exchange", "fence")
ORDERS = ("relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst")
MOST_THREADS, MOST_VARS, MOST_OPS = 8, 64, 200

_NEEDS = {
    "load": ("var",),
    "store": ("var", "value"),
    "exchange": ("var", "value"),
    "fetch_add": ("var", "value"),
    "compare_exchange": ("var", "value", "expect"),
    "fence": (),
}
_FORBIDDEN = {"load": ("release", "acq_rel"), "store": ("consume", "acquire", "acq_rel")}


class Program(NamedTuple):
    """A checked program, as the explorer takes it."""

    threads: int
    steps: list[tuple[int, int, int, int, int, int]]


def _natural(value: Any, what: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{what} is {value!r}: a whole number is needed")
    if not 0 <= value <= most:
        raise ValueError(f"{what} is {value}: allowed are 0 to {most}")
    return value


def _one_of(value: Any, what: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{what} is {value!r}: allowed are {', '.join(allowed)}")
    return value


def parse_program(program: Any) -> Program:
    """Checks one program; ValueError names the field that is wrong."""
    if not isinstance(program, dict):
        raise ValueError("a program is a JSON object")
    for field in ("threads", "ops"):
        if field not in program:
            raise ValueError(f"field {field!r} is missing")
    threads = _natural(program["threads"], "field 'threads'", MOST_THREADS)
    if threads == 0:
        raise ValueError(f"field 'threads' is 0: allowed are 1 to {MOST_THREADS}")
    if not isinstance(program["ops"], list):
        raise ValueError("field 'ops' is no list")
    if len(program["ops"]) > MOST_OPS:
        raise ValueError(
            f"field 'ops' has {len(program['ops'])} operations: at most {MOST_OPS} are allowed"
        )
    numbers: dict[str, int] = {}
    steps = [_parse_op(op, f"ops[{i}]", threads, numbers) for i, op in enumerate(program["ops"])]
    return Program(threads, steps)


def _parse_op(
    op: Any, where: str, threads: int, numbers: dict[str, int]
) -> tuple[int, int, int, int, int, int]:
    if not isinstance(op, dict):
        raise ValueError(f"{where} is no JSON object")
    for field in ("thread", "op", "order"):
        if field not in op:
            raise ValueError(f"{where}: field {field!r} is missing")
    thread = _natural(op["thread"], f"{where}.thread", threads - 1)
    kind = _one_of(op["op"], f"{where}.op", OPS)
    order = _one_of(op["order"], f"{where}.order", ORDERS)
    if order in _FORBIDDEN.get(kind, ()):
        raise ValueError(f"{where}.order is {order!r}: a {kind} cannot have it")
    for field in _NEEDS[kind]:
        if field not in op:
            raise ValueError(f"{where}: field {field!r} is missing, a {kind} needs it")
    var = 0
    if "var" in _NEEDS[kind]:
        if not isinstance(op["var"], str):
            raise ValueError(f"{where}.var is {op['var']!r}: a name is needed")
        var = numbers.setdefault(op["var"], len(numbers))
        if var >= MOST_VARS:
            raise ValueError(f"{where}.var: more than {MOST_VARS} variables")
    value = _natural(op["value"], f"{where}.value", 2**63) if "value" in _NEEDS[kind] else 0
    expect = _natural(op["expect"], f"{where}.expect", 2**63) if "expect" in _NEEDS[kind] else 0
    return thread, OPS.index(kind), ORDERS.index(order), var, value, expect


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: the gzip file is cut off or damaged ({error})") from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: this is no text in UTF-8 ({error})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def read_programs(path: str | Path) -> Iterator[tuple[int, dict[str, Any], Program]]:
    """The programs of a file with their line numbers; ValueError names file, line and field."""
    for number, line in _lines(Path(path)):
        try:
            raw = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: this is no complete JSON object ({error.msg}, column {error.colno})"
            ) from None
        try:
            yield number, raw, parse_program(raw)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


def count(program: Program, models: Iterable[str] = MODELS) -> dict[str, int]:
    """Executions of one program under each model."""
    counts = {}
    for model in models:
        executions, duplicates = _model.litmus_count(program.threads, program.steps, model)
        if duplicates:
            raise AssertionError(f"{duplicates} executions were met twice under {model}")
        counts[model] = executions
    return counts


def agree(program: Program, model: str) -> dict[str, Any]:
    """Whether both engines find the same set of graphs (models sc and tso)."""
    result: dict[str, Any] = _model.litmus_agree(program.threads, program.steps, model)
    return result
