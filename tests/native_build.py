"""C++ that tests compile for themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"


def one_unit(folder: Path, sources: Iterable[Path]) -> Path:
    """A file that includes them all: their headers are then parsed once, as when pip builds."""
    unit = folder / "unit.cpp"
    unit.write_text("".join(f'#include "{source}"\n' for source in sources))
    return unit


def layers(*names: str) -> list[Path]:
    """The sources of these folders of csrc/."""
    return [source for name in names for source in sorted((CSRC / name).glob("*.cpp"))]
