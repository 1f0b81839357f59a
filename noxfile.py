from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "uv|venv"
nox.options.sessions = ["lint", "tests-3.13"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
ROOT = Path(__file__).resolve().parent


def extra(name: str) -> list[str]:
    """The requirements of an extra, without the package itself (which would be built for it)."""
    return list(PYPROJECT["project"]["optional-dependencies"][name])


def runtime(name: str) -> str:
    """The path of a library of the compiler."""
    out = subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return str(Path(out.stdout.strip()).resolve())


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint, types and house rules."""
    session.install(*extra("lint"), "numpy>=1.23", "click>=8.1", "rich>=13")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    sources = [
        str(path) for top in ("csrc", "tests", "bench") for path in ROOT.glob(f"{top}/**/*.[ch]pp")
    ]
    session.run("clang-format", "--dry-run", "-Werror", *sources)
    session.run("mypy")
    session.run("python", "tools/check_world.py")


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The tests, as the README runs them."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """What no push waits for: 10^8 operations of the stress run in each era, and every other test marked slow."""
    session.install(".[test]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session(python="3.13t")
def free_threaded(session: nox.Session) -> None:
    """The tests without the GIL, each in four threads (tools/get-python-ft.sh builds that Python)."""
    session.install("--only-binary", ":all:", "--no-binary", "pgtbl", ".[test]")
    session.run("pytest", "--parallel-threads=4", *session.posargs, env={"PYTHON_GIL": "0"})


@nox.session
@nox.parametrize("sanitizer", ["thread", "address"])
def sanitize(session: nox.Session, sanitizer: str) -> None:
    """The tests marked sanitize, in a sanitizer build."""
    session.install(".[test]", env={"PGTBL_SANITIZE": sanitizer})
    if sanitizer == "thread":
        env = {
            "LD_PRELOAD": runtime("libtsan.so"),
            "TSAN_OPTIONS": f"exitcode=66:suppressions={ROOT / 'tests' / 'tsan.supp'}",
        }
    else:
        env = {
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so')}",
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        }
    session.run("pytest", "-m", "sanitize", "--timeout=400", *session.posargs, env=env)


@nox.session
def worlds(session: nox.Session) -> None:
    """Compiles every world without Python, warnings as errors; with `tidy`: under clang-tidy."""
    session.install("cmake>=3.21", "ninja")
    preset = "tidy" if "tidy" in session.posargs else "core"
    session.run("cmake", "--preset", preset)
    session.run("cmake", "--build", "--preset", preset)


@nox.session
def stubs(session: nox.Session) -> None:
    """Writes pgtbl/*.pyi again; `-- --check` only compares."""
    session.install(".[test]")
    session.run("python", "tools/stubs.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks; results are kept in .benchmarks/ for --benchmark-compare."""
    session.install(".[bench]")
    session.run("pytest", "bench", "--benchmark-only", "--benchmark-autosave",
                *session.posargs)  # fmt: skip


@nox.session
def docs(session: nox.Session) -> None:
    """The manual, in docs/_build/html; a broken reference is an error."""
    session.install(".[docs]")
    with tempfile.TemporaryDirectory() as doctrees:
        session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "-d", doctrees,
                    "docs", os.fspath(ROOT / "docs" / "_build" / "html"), *session.posargs)  # fmt: skip
