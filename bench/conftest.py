"""Builds the module of C++ loops, pgtbl_bench, from this checkout, and makes it importable.

It is no part of the package: it is compiled here, once for each change, into build/bench-<python>. Needs a compiler,
CMake and pybind11 (the extra ``bench``); liburcu is compared with where its headers are installed
(Debian: liburcu-dev).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / f"bench-{sys.implementation.cache_tag}"


def build_bench_module() -> str | None:
    """None, or the reason why there is no module."""
    cmake = shutil.which("cmake")
    if cmake is None:
        return "cmake is not installed (pip install '.[bench]')"
    try:
        import pybind11
    except ImportError:
        return "pybind11 is not installed (pip install '.[bench]')"
    configure = [
        cmake, "-S", str(ROOT), "-B", str(BUILD), "-DPGTBL_BENCH=ON", "-DPGTBL_PYTHON=OFF",
        "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_UNITY_BUILD=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]  # fmt: skip
    compile_ = [cmake, "--build", str(BUILD), "--target", "pgtbl_bench", "-j", str(os.cpu_count())]
    for command in (configure, compile_):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return None


def preload() -> str:
    """The liburcu to load before everything else: its thread-local storage finds no place afterwards."""
    path = BUILD / "preload.txt"
    return path.read_text().strip() if path.exists() else ""


def pytest_configure(config: pytest.Config) -> None:
    reason = build_bench_module()
    if reason is not None:
        raise pytest.UsageError(f"pgtbl_bench could not be built: {reason}")
    library = preload()
    if library and library not in os.environ.get("LD_PRELOAD", ""):
        # Only a process that starts with it has it.
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.stop_global_capturing()
        os.environ["LD_PRELOAD"] = f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()
        os.execv(sys.executable, sys.orig_argv)
    sys.path[:0] = [str(BUILD), str(Path(__file__).parent)]
