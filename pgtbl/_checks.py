"""Arguments checked: each refusal names the argument, its value, and what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["available_memory", "names_of", "size", "whole"]


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The number, if it is a whole one within these bounds; else TypeError or ValueError."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r}: a whole number is needed")
    number = int(value.__index__())
    if not low <= number <= high:
        raise ValueError(f"{name}={number}: allowed are {low} to {high}")
    return number


_UNITS = {"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}


def size(name: str, value: int | str, low: int = 16 << 20) -> int:
    """Bytes of a machine's memory, in the forms that Machine(memory=) takes."""
    if isinstance(value, str):
        parts = re.fullmatch(r"([0-9]{1,20}) *([A-Za-z]*)", value)
        if parts is None or parts[2] not in _UNITS:
            raise ValueError(
                f"{name}={value!r} is no size; a size is an int (bytes) or a whole number with B, KiB, MiB, GiB or "
                "TiB, like '256MiB'"
            )
        value = int(parts[1]) << _UNITS[parts[2]]
    return whole(name, value, low, 1 << 40)


def names_of(argument: str, value: Any, what: str) -> list[Any]:
    """One name, or several, as a list."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        raise TypeError(f"{argument}={value!r}: the name of {what}, or a list of such, is needed")
    return list(value)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that programs can have without others having to give some: of this computer, or of the control
    groups that this process is in, whichever is less. ``root``: where proc and sys are mounted."""
    try:
        facts = (root / "proc/meminfo").read_text(encoding="ascii")
        left = int(facts.split("MemAvailable:")[1].split()[0]) << 10
    except (OSError, IndexError, ValueError):
        left = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([left, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterable[int]:
    """What each control group (of version 2) from this process's up has left; one without a limit is not there."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    (path,) = [line[3:] for line in lines if line.startswith("0::/")] or ["/"]
    group = top / path.lstrip("/")
    for each in [group, *group.parents]:
        try:
            limit = int((each / "memory.max").read_text(encoding="ascii"))
            used = int((each / "memory.current").read_text(encoding="ascii"))
            stat = (each / "memory.stat").read_text(encoding="ascii")
            # Pages of files count as used, and are given up for the asking.
            files = re.findall(r"^(?:in)?active_file (\d+)$", stat, re.MULTILINE)
            yield max(0, limit - used + sum(map(int, files)))
        except (OSError, ValueError):
            pass  # the root has none of these, and "max" is no limit
        if each == top:
            return
