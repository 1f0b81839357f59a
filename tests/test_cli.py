"""The command line: help, refusals, files, and what goes to which stream."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import pgtbl
from pgtbl import report
from pgtbl._options import write_files
from pgtbl._synthetic import workload_names
from pgtbl.cli import main

ROOT = Path(__file__).parents[1]
SHORT = ["race", "--seconds", "0.6", "--rounds", "1"]

pytestmark = pytest.mark.thread_unsafe(reason="CliRunner replaces sys.stdout")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_help_explains_every_option() -> None:
    text = run("race", "--help").output
    names = "seconds walkers collapsers mms eras trace workload seed set json plot memory rounds attribute"
    for name in names.split():
        assert f"--{name} " in text, name
    for workload in workload_names():
        assert f"  {workload} " in text
    assert "Ctrl-C" in text


def test_version() -> None:
    assert run("--version").output.strip().endswith(pgtbl.__version__)


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_eras_lists_every_switch(columns: int) -> None:
    """Each in one line with its values, and below with all of what it says."""
    file = io.StringIO()
    Console(file=file, width=columns).print(report.eras_table())
    table, meanings = file.getvalue().split("\n\n")
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert lines["switch"] == list(pgtbl.eras())
    for row in pgtbl.switches():
        assert lines[row["name"]] == [str(value) for value in row["eras"].values()]
        assert " ".join(row["doc"].split()) in " ".join(meanings.split()), row["name"]
    assert "…" not in file.getvalue()
    # A line of text, not a column of words.
    assert len(meanings.splitlines()) <= 2.5 * len(pgtbl.switches())
    result = run("eras")
    assert result.exit_code == 0
    assert "map_opens_rcu" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--eras", "v6.4,v9"], ["--eras", "'v9'", "v6.4, v6.5, v6.6"]),
        (["--eras", ","], ["--eras", "at least one"]),
        (["--workload", "chess"], ["--workload", "'chess'", "own-range"]),
        (["--walkers", "0"], ["walkers=0", "1 to"]),
        (["--walkers", "two"], ["--walkers", "'two'"]),
        (["--seconds", "-1"], ["seconds=-1.0"]),
        (["--set", "retry_array"], ["--set", "'retry_array'", "NAME=VALUE"]),
        (["--set", "retry_array=²"], ["--set", "'retry_array=²'", "NAME=VALUE"]),
        (["--set", "retry_array=7"], ["--set", "retry_array=7", "0 to 1"]),
        (["--set", "nonsense=1"], ["--set", "'nonsense'", "map_opens_rcu"]),
        (["--plot", "a.bmp"], ["--plot", "'a.bmp'", ".png, .svg"]),
        (["--json", "/no/such/folder/x.json"], ["--json", "no such folder"]),
        (["--trace", "/no/such/trace"], ["--trace", "/no/such/trace"]),
        (["--memory", "much"], ["memory='much'", "256MiB"]),
        (["--memory", "900GiB"], ["memory='900GiB'", "this computer has", "allowed are 16 MiB"]),
        (["--json", "."], ["--json", "'.'", "Is a directory"]),
        (["--json", ""], ["--json", "''", "Is a directory"]),
    ],
)
def test_bad_values_are_named(arguments: list[str], words: list[str]) -> None:
    result = run(*SHORT, *arguments)
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "command",
    [
        *(["race", "--json"], ["replay", "--json"], ["arch", "--json"], ["torture", "--json"]),
        *(["explore", "--list", "--json"], ["explore", "--html"], ["museum", "--json"]),
        *(["compare", "--random", "1", "--save"], ["record", "-o"], ["race", "--plot"]),
    ],
)
def test_a_file_that_is_a_folder_is_refused_before_the_work(
    command: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "x.png"
    folder.mkdir()
    result = run(*command, str(folder))
    assert result.exit_code == 2
    assert "Is a directory" in result.stderr


def test_what_can_be_written_is_written(tmp_path: Path) -> None:
    """A disk that is full shows only after the race; the other file is written all the same."""
    plot = tmp_path / "r.svg"
    short = [*SHORT, "--eras=v6.6", "--workload=mincore"]
    result = run(*short, "--json=/dev/full", f"--plot={plot}")
    assert result.exit_code == 1
    assert "cannot write --json '/dev/full': No space left on device" in result.stderr
    assert "<svg" in plot.read_text()
    assert "collapses/s" in result.stdout


def test_a_terminal_that_cannot_show_it_costs_no_file(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pgtbl",
            *SHORT,
            "--eras=v6.6",
            "--workload=mincore",
            f"--json={out}",
        ],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "cannot write standard output '-': 'ascii' codec can't encode" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(out.read_text())["eras"]


def test_a_mistake_of_ours_is_raised_after_all_is_written() -> None:
    written = []

    def mistaken(_path: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_files(("--a", "a", mistaken), ("--b", "b", written.append), ("--c", None, mistaken))
    assert written == ["b"]


@pytest.mark.parametrize("command", [["arch", "--seconds=0.1"], ["explore", "--list"], ["museum"]])
def test_a_full_disk_is_said(command: list[str]) -> None:
    result = run(*command, "--json=/dev/full")
    assert result.exit_code == 1
    assert "cannot write --json '/dev/full': No space left on device" in result.stderr


@pytest.mark.parametrize("command", ["eras", "race"])
def test_output_that_cannot_be_written_is_said(command: str, tmp_path: Path) -> None:
    files = [f"--json={tmp_path / 'r.json'}", "--eras=v6.6", "--workload=mincore"]
    arguments = [*SHORT, *files] if command == "race" else [command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pgtbl", *arguments],
            check=False,
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert command == "eras" or json.loads((tmp_path / "r.json").read_text())["eras"]


def test_switches_that_are_not_safe_together(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run(*SHORT, "--set", "map_opens_rcu=0", f"--json={out}")
    assert not out.exists(), "an empty file would look like a result"
    assert result.exit_code == 2
    assert "can not be safe together" in result.stderr


def test_a_broken_trace(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"trace": "x"}\n{"pid": 1, "op": "fault", "addr": -1, "acc": "r"}\n')
    result = run(*SHORT, "--trace", str(path))
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    assert "broken.jsonl:2:" in text
    assert '"addr"' in text


def test_json_to_standard_output_is_json_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgtbl", *SHORT, "--json", "-"],
        cwd=tmp_path,  # the source tree's folder pgtbl/ would shadow the installed package
        capture_output=True,
        text=True,
        check=True,
    )
    data = json.loads(done.stdout)
    assert list(data["eras"]) == ["v6.4", "v6.5", "v6.6"]
    assert done.stderr == "", "no progress bar where there is no terminal"


def test_files_beside_the_table(tmp_path: Path) -> None:
    result = run(
        *SHORT,
        "--eras=v6.6",
        "--workload=mincore",
        f"--json={tmp_path / 'r.json'}",
        f"--plot={tmp_path / 'r.svg'}",
    )
    assert result.exit_code == 0, result.output
    assert "collapses/s" in result.stdout
    assert "\x1b" not in result.stdout
    assert json.loads((tmp_path / "r.json").read_text())["workload"]["name"] == "mincore"
    assert "<svg" in (tmp_path / "r.svg").read_text()


def test_the_page_of_switches_is_in_step() -> None:
    spec = importlib.util.spec_from_file_location("switches_page", ROOT / "tools" / "switches.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = ROOT / "docs" / "switches.md"
    assert " pte_offset_map enters" in tool.page(), "identifiers stay as they are"
    assert page.read_text(encoding="utf-8") == tool.page(), (
        "run: python tools/switches.py > docs/switches.md"
    )
