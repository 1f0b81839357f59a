"""The world seam: it costs no instruction in the real world, and both ends do the same."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import CSRC, layers, one_unit

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "tests" / "native"
FUNCTIONS = ("seam_walk", "seam_section", "seam_retract", "seam_set_dirty")


def find_compilers() -> list[str]:
    gcc = [name for name in ("g++", "g++-12", "g++-13", "g++-14") if shutil.which(name)][:1]
    clang = [
        name for name in ("clang++", "clang++-19", "clang++-18", "clang++-16") if shutil.which(name)
    ][:1]
    return gcc + clang


COMPILERS = find_compilers()
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="needs g++ or clang++")
each_compiler = pytest.mark.parametrize("compiler", COMPILERS or ["none"])


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def instructions(listing: str) -> dict[str, list[str]]:
    """The instructions of each function of an objdump, without addresses and padding."""
    functions: dict[str, list[str]] = {}
    current: list[str] = []
    for line in listing.splitlines():
        if start := re.match(r"(?:[0-9a-f]+ )?<(\w+)>:$", line):
            current = functions.setdefault(start.group(1), [])
        elif line.startswith((" ", "\t")):
            text = re.sub(r"\s+", " ", line.split("#")[0]).strip()
            text = re.sub(r"^(j\w+|call) [0-9a-f]+ ", r"\1 ", text)
            current.append(text)
    for body in functions.values():
        while body and re.match(r"(nop|xchg %ax,%ax|data16|cs nop|int3)", body[-1]):
            body.pop()
    return functions


def compile_and_list(compiler: str, out: Path, *flags: str) -> dict[str, list[str]]:
    run(
        compiler,
        "-std=c++20",
        "-O2",
        "-fcf-protection=none",
        f"-I{CSRC}",
        *flags,
        "-c",
        NATIVE / "seam_walk.cpp",
        "-o",
        out,
    )
    return instructions(run("objdump", "-d", "--no-show-raw-insn", "--no-addresses", out))


@needs_compiler
@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump")
@each_compiler
def test_costs_no_instruction(compiler: str, tmp_path: Path) -> None:
    world = compile_and_list(compiler, tmp_path / "world.o", "-DPGTBL_WORLD_REAL")
    by_hand = compile_and_list(compiler, tmp_path / "by_hand.o", "-DBY_HAND")
    for function in FUNCTIONS:
        assert len(by_hand[function]) > 3
        assert world[function] == by_hand[function], f"{compiler}: {function} differs"


@needs_compiler
@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump")
def test_comparison_can_fail(tmp_path: Path) -> None:
    """A guard that is looked up at run time is seen: the torture world's functions differ."""
    torture = compile_and_list(COMPILERS[0], tmp_path / "torture.o", "-DPGTBL_WORLD_TORTURE")
    by_hand = compile_and_list(COMPILERS[0], tmp_path / "by_hand.o", "-DBY_HAND")
    assert torture["seam_retract"] != by_hand["seam_retract"]
    assert torture["seam_walk"] == by_hand["seam_walk"]


@needs_compiler
@each_compiler
def test_both_ends_do_the_same(compiler: str, tmp_path: Path) -> None:
    """One single-threaded program has one outcome in every world."""
    below = [CSRC / "sync" / name for name in ("rwsem.cpp", "spinlock.cpp", "irq.cpp")]
    below += [CSRC / "base" / name for name in ("hooks.cpp", "breach.cpp")]
    outcomes = {}
    for world in ("REAL", "TORTURE", "MODEL"):
        end = layers("world/model" if world == "MODEL" else "world/real")
        program = tmp_path / world.lower()
        run(
            compiler,
            "-std=c++20",
            "-O0",
            "-pthread",
            f"-I{CSRC}",
            f"-DPGTBL_WORLD_{world}",
            NATIVE / "seam_scenario.cpp",
            one_unit(tmp_path, [*below, *end]),
            "-o",
            program,
        )
        outcomes[world] = run(program)
    assert outcomes["REAL"].count("\n") > 40
    assert outcomes["REAL"] == outcomes["MODEL"]
    assert outcomes["REAL"] == outcomes["TORTURE"]


CORE = ("base", "sync", "memory", "arch", "pgtable", "mm", "khugepaged", "check")


@pytest.mark.timeout(900)
@needs_compiler
def test_a_machine_in_the_model_world(tmp_path: Path) -> None:
    """The whole core, compiled into the model, collapses three extents mapped twice as in the real world.

    v6.6 takes 2n+1 mmap read locks for n extents, and frees the second mapping's tables too. The reads of
    v6.4 are one to begin with and one to look at each extent; its writes, one for each extent.
    """
    unit = one_unit(tmp_path, layers("world/model", *CORE))
    program = tmp_path / "machine"
    flags = ("-std=c++20", "-O0", f"-I{CSRC}", "-DPGTBL_WORLD_MODEL")
    run(COMPILERS[0], *flags, NATIVE / "seam_machine.cpp", unit, "-o", program)
    outcome: dict[str, dict[str, int]] = {}
    for line in run(program).splitlines():
        if line.startswith("era "):
            era = outcome.setdefault(line.removeprefix("era "), {})
            continue
        what, _, value = line.rpartition(" ")
        era[what] = int(value)  # a breach or a failure is no number, and shows here

    before = {
        "tables": 6,
        "collapse: mmap_lock read": 4,
        "collapse: mmap_lock write": 3,
        "collapse: succeeded": 3,
        "collapse: tables detached": 3,
        "words lost": 0,
        "faults that mapped an extent": 0,
        "a segmentation fault": 1,
        "tables freed": 6,
    }
    after = before | {
        "collapse: mmap_lock read": 7,
        "collapse: mmap_lock write": 0,
        "collapse: tables detached": 6,
        "faults that mapped an extent": 3,
    }
    assert {era: outcome.pop(era) for era in ("v6.4", "v6.5", "v6.6")} == {
        "v6.4": before,
        "v6.5": before,
        "v6.6": after,
    }
    for era, later in outcome.items():
        assert (later["words lost"], later["collapse: mmap_lock write"]) == (0, 0), era
