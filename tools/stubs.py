"""Writes pgtbl/_core.pyi, _torture.pyi and _model.pyi from the compiled modules.

    python tools/stubs.py            write them, from the pgtbl that is installed
    python tools/stubs.py --check    exit status 1, and a diff, when they are out of date

pybind11-stubgen does the work; what it writes is then put right where mypy --strict or the eye of a reader
objects. Reads docstrings only, so it is quick.
"""

from __future__ import annotations

import argparse
import difflib
import enum
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("pgtbl._core", "pgtbl._torture", "pgtbl._model")

# In this order. What pybind11 accepts for a number is spelled as the shorter type that callers know.
SUBSTITUTIONS = (
    (r"typing\.SupportsInt \| typing\.SupportsIndex", "typing.SupportsIndex"),
    (r"typing\.SupportsFloat \| typing\.SupportsIndex", "typing.SupportsFloat"),
    (r"def __enter__\(self\) -> typing\.Any:", "def __enter__(self) -> typing_extensions.Self:"),
    (r"\btyping\.Self\b", "typing_extensions.Self"),
    (r"(\*\*?(?:args|kwargs))(?=[,)])", r"\1: typing.Any"),
    # Comparison takes any object.
    (r"def __(eq|ne)__\(self, (\w+): [^)]*\)", r"def __\1__(self, \2: object)"),
    (r"__hash__: typing\.ClassVar\[None\] = None", "__hash__: typing.ClassVar[None]  # type: ignore[assignment]"),
    (r'    """\n    An enumeration\.\n    """\n', ""),  # what Python 3.10 says of every enum
    # Members of an enum.Enum are assignments, and its machinery is not ours to declare.
    (r"    @classmethod\n    def __new__\(cls, value\):\n(?:        [^\n]*\n)+", ""),
    (r"(?m)^    ([A-Z][A-Z0-9_]*): typing\.ClassVar\[\w+\](?: = .*)?  # value = (.*)$", r"    \1 = \2"),
    (r"(?m)^    ([A-Z][A-Z0-9_]*): typing\.ClassVar\[\w+\]$", r"    \1 = ..."),
    # A tuple of one is not its item.
    (r"(?m)(: typing\.ClassVar\[tuple\] = )\(('\w+')\)$", r"\1(\2,)"),
    # Nothing that differs between two builds.
    (r"(?m)^__version__: str = .*$", "__version__: str"),
    (r"(?m)^__all__: .*\n", ""),
)  # fmt: skip


def generate(name: str, folder: Path) -> str:
    """The stub of a compiled module; `folder` is a scratch folder, away from the source tree."""
    module = importlib.import_module(name)
    command = [sys.executable, "-m", "pybind11_stubgen", name, "-o", str(folder), "--exit-code"]
    for key, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, enum.Enum):
            command.append(f"--enum-class-locations={key}:{name}")
    # In the source tree, `python -m` would find the folder pgtbl/ instead of the installed package.
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"pybind11-stubgen fails on {name}:\n{result.stdout}{result.stderr}")
    text = (folder / Path(*name.split("."))).with_suffix(".pyi").read_text(encoding="utf-8")
    for pattern, replacement in SUBSTITUTIONS:
        text = re.sub(pattern, replacement, text)
    for needed in ("typing_extensions", "typing"):
        if re.search(rf"\b{needed}\.", text) and not re.search(rf"(?m)^import {needed}$", text):
            text = re.sub(
                r"(?m)^(import |from (?!__future__))", rf"import {needed}\n\1", text, count=1
            )
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when out of date")
    check = parser.parse_args().check
    stale = False
    for name in MODULES:
        target = (ROOT / Path(*name.split("."))).with_suffix(".pyi")
        with tempfile.TemporaryDirectory() as folder:
            text = generate(name, Path(folder))
        old = target.read_text(encoding="utf-8") if target.exists() else ""
        if not check:
            target.write_text(text, encoding="utf-8")
        elif text != old:
            stale = True
            where = str(target.relative_to(ROOT))
            diff = difflib.unified_diff(
                old.splitlines(True), text.splitlines(True), where, where + " as it should be"
            )
            sys.stdout.writelines(diff)
    if stale:
        print("the stubs are out of date: run tools/stubs.py", file=sys.stderr)
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
