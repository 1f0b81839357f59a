"""How much memory may be asked for: what the computer has left, and every control group above."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgtbl._checks import available_memory

MIB = 1 << 20


def group(root: Path, name: str, limit: str, used: int = 0, cached: int = 0) -> None:
    folder = root / "sys/fs/cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 1\ninactive_anon 5\ninactive_file {cached}\nactive_file {cached}\n"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A computer with 1000 MiB left, and this process in the group a/b."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   1024000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    return tmp_path


def test_without_groups_it_is_the_computers(root: Path) -> None:
    assert available_memory(root) == 1000 * MIB
    group(root, "a/b", "max")
    assert available_memory(root) == 1000 * MIB


def test_the_least_of_all_groups_counts(root: Path) -> None:
    group(root, "a/b", str(500 * MIB), 100 * MIB)
    assert available_memory(root) == 400 * MIB
    group(root, "a", str(300 * MIB), 200 * MIB)
    assert available_memory(root) == 100 * MIB
    group(root, "a/c", str(MIB))  # somebody else's
    assert available_memory(root) == 100 * MIB
    group(root, "a", str(300 * MIB), 301 * MIB)
    assert available_memory(root) == 0


def test_cached_files_can_be_given_up(root: Path) -> None:
    group(root, "a/b", str(500 * MIB), 450 * MIB, cached=100 * MIB)
    assert available_memory(root) == 250 * MIB


def test_a_container_sees_its_own_group_as_the_top(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/\n")
    group(root, "", str(64 * MIB), 4 * MIB)
    assert available_memory(root) == 60 * MIB


def test_a_limit_above_what_the_computer_has(root: Path) -> None:
    group(root, "a/b", str(1 << 40))
    assert available_memory(root) == 1000 * MIB


def test_the_real_one() -> None:
    assert available_memory() > 0
