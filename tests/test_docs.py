"""The Python blocks of the README and of some pages of the manual run as they stand, each page in one namespace."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/tour.md",
    "docs/explorer.md",
    "docs/userfaultfd.md",
    "docs/devices.md",
    "docs/files.md",
]


def blocks(page: str) -> list[tuple[int, str]]:
    """The fenced Python blocks of a page, each with the line on which its code begins."""
    text = (ROOT / page).read_text()
    return [
        (text.count("\n", 0, m.start(1)) + 1, m.group(1))
        for m in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(page)
    assert found, f"{page} has no Python blocks"
    names: dict[str, object] = {}
    for line, code in found:
        # Blank lines in front, so that a failure points at the line of the page.
        exec(compile("\n" * (line - 1) + code, page, "exec"), names)  # noqa: S102 (our own pages)


def test_the_readme_runs_in_the_clone() -> None:
    """Python finds the folder of sources first there, which has no compiled module."""
    code = "".join(code for _, code in blocks("README.md"))
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "collapse.succeeded" in done.stdout
