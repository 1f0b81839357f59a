"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from . import _core

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


def era_list(_context: click.Context, option: click.Parameter, text: str) -> list[str]:
    """A callback: the names of eras."""
    return listed(option, text, _core.eras(), "era")


def arch_list(
    _context: click.Context, option: click.Parameter, text: str | None
) -> list[str] | None:
    """A callback: the names of architectures; "all" is every one of them, and None stays None."""
    from ._machine import arch_names

    if text is None:
        return None
    if text.strip() == "all":
        return arch_names()
    return listed(option, text, arch_names(), "architecture")


def settings(
    _context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, int]:
    """A callback: NAME=VALUE of a switch, any number of times."""
    from ._race import check_switches

    switches: dict[str, int] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not value.strip().isdigit():
            raise click.BadParameter(
                f"{text!r}: NAME=VALUE is needed, VALUE a number", param=option
            )
        switches[name.strip()] = int(value)
    try:
        return check_switches(switches)
    except ValueError as error:
        raise click.BadParameter(str(error), param=option) from None


def json_option(help: str) -> Callable[[Command], Command]:
    """`--json FILE`, as the parameter `json_file`."""
    return click.option(
        "--json", "json_file", default=None, metavar="FILE", callback=writable, help=help
    )
