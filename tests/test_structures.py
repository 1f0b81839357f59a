"""The leaf structures of mm/ against plain models, and under readers: see native/test_structures.cpp."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import CSRC, layers, one_unit

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]


def compiler() -> str:
    """$CXX, or the first compiler there is."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name
    pytest.skip("no C++ compiler")


def build(target: Path, flags: list[str]) -> None:
    test = ROOT / "tests" / "native" / "test_structures.cpp"
    # What the structures stand on, whole layers at a time.
    below = layers("world", "world/real", "base", "sync")
    unit = one_unit(target.parent, [*below, CSRC / "mm/vma_tree.cpp", CSRC / "mm/page_cache.cpp"])
    command = [*compiler().split(), *FLAGS, *flags, "-pthread", f"-I{CSRC}"]
    done = subprocess.run(
        [*command, str(test), str(unit), "-o", str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def need_sanitizer(tmp_path: Path, flag: str) -> None:
    source = tmp_path / "empty.cpp"
    source.write_text("int main() {}\n")
    command = [*compiler().split(), flag, str(source), "-o", str(tmp_path / "empty")]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"the compiler has no runtime for {flag}")


def run(program: Path, seed: int) -> None:
    environment = {
        **os.environ,
        "TSAN_OPTIONS": f"suppressions={ROOT / 'tests' / 'tsan.supp'}",
    }
    done = subprocess.run(
        [str(program), str(seed)], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), f"seed {seed}: {done.stderr}"


def test_structures(tmp_path: Path, seed: int) -> None:
    program = tmp_path / "structures"
    build(program, ["-O2", "-DNDEBUG", "-DPGTBL_WORLD_REAL"])
    for i in range(5):
        run(program, seed + i)


@pytest.mark.parametrize(
    "sanitizers",
    [
        "address,undefined",
        # Minutes where the processors have other work, too.
        pytest.param("thread", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_structures_sanitized(tmp_path: Path, seed: int, sanitizers: str) -> None:
    """Assertions on; no access to a freed node, no leak after an edit that was dropped, no race."""
    flag = f"-fsanitize={sanitizers}"
    need_sanitizer(tmp_path, flag)
    program = tmp_path / "structures"
    # g++ warns of fences under ThreadSanitizer; world/ has replaced those that matter.
    quiet = ["-Wno-tsan"] if sanitizers == "thread" and "g++" in compiler() else []
    build(program, ["-O1", "-g1", "-DPGTBL_WORLD_TORTURE", flag, *quiet])
    run(program, seed)
