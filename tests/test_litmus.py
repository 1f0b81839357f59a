"""Litmus programs: the counts of another tool, agreement of both engines, and files that are not right."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgtbl import litmus

GOLDEN = Path(__file__).parent / "data" / "litmus.jsonl.gz"


def golden() -> list[tuple[int, dict[str, Any], litmus.Program]]:
    return list(litmus.read_programs(GOLDEN))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgtbl", "litmus", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_counts_are_the_golden_ones() -> None:
    programs = golden()
    assert len(programs) == 392
    for number, raw, program in programs:
        assert litmus.count(program) == raw["executions"], f"line {number}"


def test_engines_find_the_same_graphs() -> None:
    for number, raw, program in golden():
        for model in ("sc", "tso"):
            found = litmus.agree(program, model)
            assert found["same"], f"line {number}, {model}: {found}"
            assert found["graphs"] == raw["executions"][model]


def ops(*rows: tuple[Any, ...]) -> dict[str, Any]:
    keys = ("thread", "op", "order", "var", "value", "expect")
    return {
        "threads": 1 + max(row[0] for row in rows),
        "ops": [dict(zip(keys, row, strict=False)) for row in rows],
    }


def test_store_buffering() -> None:
    def sb(order: str, fence: str | None = None) -> dict[str, int]:
        rows: list[tuple[Any, ...]] = []
        for thread, mine, other in ((0, "x", "y"), (1, "y", "x")):
            rows.append((thread, "store", order, mine, 1))
            if fence:
                rows.append((thread, "fence", fence))
            rows.append((thread, "load", "acquire" if order == "release" else order, other))
        return litmus.count(litmus.parse_program(ops(*rows)))

    assert sb("release") == {"sc": 3, "ra": 4, "rc11": 4, "tso": 4}
    assert sb("seq_cst") == {"sc": 3, "ra": 4, "rc11": 3, "tso": 3}
    assert sb("relaxed", "seq_cst") == {"sc": 3, "ra": 4, "rc11": 3, "tso": 3}
    assert sb("relaxed", "acq_rel")["tso"] == 4


def test_message_passing() -> None:
    def mp(store: str, load: str) -> dict[str, int]:
        return litmus.count(
            litmus.parse_program(
                ops(
                    (0, "store", "relaxed", "x", 1),
                    (0, "store", store, "y", 1),
                    (1, "load", load, "y"),
                    (1, "load", "relaxed", "x"),
                )
            )
        )

    assert mp("release", "acquire") == {"sc": 3, "ra": 3, "rc11": 3, "tso": 3}
    assert mp("relaxed", "relaxed") == {"sc": 3, "ra": 4, "rc11": 4, "tso": 3}


def test_command_writes_counts_in_order(tmp_path: Path) -> None:
    lines = gzip.decompress(GOLDEN.read_bytes()).decode().splitlines()[:25]
    bare = [{k: v for k, v in json.loads(line).items() if k != "executions"} for line in lines]
    plain = tmp_path / "some.jsonl"
    plain.write_text("\n".join(json.dumps(p) for p in bare) + "\n\n")
    done = run(plain, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result == {
        "programs": [{"executions": json.loads(line)["executions"]} for line in lines]
    }
    assert json.loads(run(plain, "--json", "-").stdout) == result


def test_command_compares_what_the_file_says(tmp_path: Path) -> None:
    program = json.loads(gzip.decompress(GOLDEN.read_bytes()).decode().splitlines()[0])
    program["executions"]["tso"] += 1
    path = tmp_path / "wrong.jsonl"
    path.write_text(json.dumps(program))
    done = run(path)
    assert done.returncode == 1
    assert "line 1: tso has 2 executions, the file says 3" in done.stderr


GOOD = {"thread": 0, "op": "load", "order": "relaxed", "var": "x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "swap"}, "ops[0].op is 'swap': allowed are load, store, exchange"),
        ({"order": "strong"}, "ops[0].order is 'strong': allowed are relaxed"),
        ({"order": "release"}, "ops[0].order is 'release': a load cannot have it"),
        ({"thread": 3}, "ops[0].thread is 3: allowed are 0 to 1"),
        ({"thread": "a"}, "ops[0].thread is 'a': a whole number is needed"),
        ({"var": 7}, "ops[0].var is 7: a name is needed"),
        ({"op": "store"}, "ops[0]: field 'value' is missing, a store needs it"),
        ({"op": "compare_exchange", "value": 1}, "field 'expect' is missing"),
        ({"op": "store", "value": -1}, "ops[0].value is -1"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n" + json.dumps({"threads": 2, "ops": [{**GOOD, **change}]}))
    done = run(path)
    assert done.returncode != 0
    assert f"{path}, line 2" in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "text", ["[1]", '{"ops": []}', '{"threads": 0, "ops": []}', '{"threads": 1, "ops": 5}', "7"]
)
def test_wrong_programs(text: str) -> None:
    with pytest.raises(ValueError, match=r"object|missing|threads|ops"):
        litmus.parse_program(json.loads(text))


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    whole = GOLDEN.read_bytes()
    cut = tmp_path / "cut.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    done = run(cut)
    assert done.returncode != 0
    assert "cut off or damaged" in done.stderr
    line = gzip.decompress(whole).decode().splitlines()[0]
    plain = tmp_path / "cut.jsonl"
    plain.write_text(line + "\n" + line[:50])
    done = run(plain)
    assert done.returncode != 0
    assert "line 2: this is no complete JSON object" in done.stderr
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(128, 256)))
    assert "no text in UTF-8" in run(noise).stderr
