"""The committed stubs say what the compiled modules offer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "stubs.py"


def test_stubs_are_current(tmp_path: Path, sanitizer: str) -> None:
    pytest.importorskip("pybind11_stubgen")
    if sanitizer:
        pytest.skip("says nothing more in a sanitizer build")
    result = subprocess.run(
        [sys.executable, str(TOOL), "--check"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
