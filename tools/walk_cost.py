"""Counts the instructions of a walk to a PTE, architecture by architecture.

    python tools/walk_cost.py            with g++, or what CXX says

Each is compiled as the fast build is. What an architecture has that x86-64 has not must cost x86-64 nothing: its counts are
what they were before there were others (g++ 12: 106 and 203).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tests" / "native" / "walk_cost.cpp"
ARCHS = ("", "X86_PAE", "ARM", "POWERPC", "SPARC64", "S390")
FUNCTIONS = ("core_walk", "core_lock")
OPTIONS = ["-std=c++20", "-O3", "-DNDEBUG", "-fno-inline-small-functions", "-finline-functions"]


def count(arch: str, folder: Path) -> list[int]:
    """Instructions of each function, on that architecture; "": x86-64."""
    out = folder / "walk.o"
    define = [f"-DPGTBL_ARCH_{arch}"] if arch else []
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, *OPTIONS, *define, f"-I{ROOT / 'csrc'}", "-c", str(SOURCE), "-o", str(out)]
    subprocess.run(command, check=True)
    found = []
    for function in FUNCTIONS:
        text = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", str(out)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        found.append(len(re.findall(r"^\s+[0-9a-f]+:", text, re.MULTILINE)))
    return found


def main() -> None:
    print(f"{'':10}" + "".join(f"{name:>12}" for name in FUNCTIONS))
    with tempfile.TemporaryDirectory() as folder:
        for arch in ARCHS:
            counts = count(arch, Path(folder))
            print(f"{arch.lower() or 'x86-64':10}" + "".join(f"{n:>12}" for n in counts))


if __name__ == "__main__":
    main()
