"""What all tests share: a seed that a failure prints, and the slow tests kept for those who ask."""

from __future__ import annotations

import os
import secrets
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from explorations import Explorations, wanted_by

import pgtbl


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pgtbl")
    group.addoption(
        "--seed",
        type=int,
        default=None,
        help="seed of the whole run, as a failure prints it (default: $PGTBL_SEED, else random)",
    )
    group.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    # Decided once; the workers of pytest-xdist inherit the options of the run.
    if config.option.seed is None:
        config.option.seed = int(os.environ.get("PGTBL_SEED", secrets.randbits(32)))
    # A shell starts its background jobs with SIGINT ignored, and children inherit that: Ctrl-C would not
    # reach what the tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    return f"pgtbl: --seed={config.option.seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.slow or "slow" in config.option.markexpr:
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: needs --slow or -m slow"))


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run outside of the checkout, where the folder pgtbl/ would hide the installed package from
    the interpreters that they start."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def explorations(request: pytest.FixtureRequest) -> Iterator[Explorations]:
    """Verdicts of the explorer; those that the tests of this run want are begun when the first is asked for."""
    # A worker of pytest-xdist knows the whole run, of which it gets a part: it begins nothing ahead.
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    found = Explorations(2 if alone else 1)
    if alone:
        for wanted in wanted_by(request.session.items):
            found.begin(wanted)
    yield found
    found.close()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of this test's own, repeatable with the --seed that a failure prints."""
    run = request.config.option.seed
    request.node.add_report_section(
        "setup", "seed", f"again with: pytest '{request.node.nodeid}' --seed={run}"
    )
    return zlib.crc32(f"{run}:{request.node.nodeid}".encode())


@pytest.fixture(scope="session")
def sanitizer() -> str:
    """The sanitizers this build has ("thread", "address,undefined"), "" for none."""
    from pgtbl import _core

    return str(_core.build_info()["sanitize"])


@pytest.fixture
def mm(machine: pgtbl.Machine) -> pgtbl.Mm:
    """An address space of the test file's own `machine`."""
    return machine.mm()
