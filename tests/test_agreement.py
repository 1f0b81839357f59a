"""How far the laboratory agrees with what Linux 6.18 did: no less than before, and as the page says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]

# The least number of equal scenarios: core, detail, mechanism. To be raised with each gain.
LEAST = {
    "scenarios.jsonl.gz": (326, 326, 326),
    "random.jsonl.gz": (94, 94, 94),
}


@pytest.fixture(scope="module")
def page() -> str:
    return agreement().page()


def agreement() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agreement", ROOT / "tools" / "agreement.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", LEAST)
def test_no_scenario_is_lost(page: str, name: str) -> None:
    title = agreement().FILES[name]
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    last = [line for line in section.splitlines() if line.startswith("| ")][-1]
    equal = [int(n) for n in re.findall(r"(\d+) \(", last)]
    assert len(equal) == 3
    for found, least in zip(equal, LEAST[name], strict=True):
        assert found >= least, last


def test_the_page_is_current(page: str) -> None:
    written = (ROOT / "docs" / "agreement.md").read_text()
    assert written == page, "run: python tools/agreement.py > docs/agreement.md"


def test_the_page_explains_what_differs(page: str) -> None:
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    unexplained = [line for line in lines if "not explained yet" in line]
    assert len(unexplained) <= 3, "\n".join(unexplained)
