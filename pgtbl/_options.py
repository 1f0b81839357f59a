"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def writable(_context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """A callback: a file that cannot be written is told of before the minute of measuring, not after it."""
    if path not in (None, "-") and not Path(str(path)).resolve().parent.is_dir():
        raise click.BadParameter(f"{path!r}: there is no such folder", param=option)
    return path


def listed(option: click.Parameter, text: str, known: Sequence[str], what: str) -> list[str]:
    """For a callback: the names of a comma-separated list, each of them known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"unknown {what} {name!r}: allowed are {', '.join(known)}", param=option
            )
    if not names:
        raise click.BadParameter(f"at least one is needed, of {', '.join(known)}", param=option)
    return names


def json_option(help: str) -> Callable[[Command], Command]:
    """`--json FILE`, as the parameter `json_file`."""
    return click.option(
        "--json", "json_file", default=None, metavar="FILE", callback=writable, help=help
    )
