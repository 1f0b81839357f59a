"""Options that several commands have."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from . import _core

Command = TypeVar("Command", bound=Callable[..., Any])


def writable(_context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """A callback: a file that cannot be written is told of before the minute of measuring, not after it."""
    if path in (None, "-"):
        return path
    target = Path(str(path))
    try:
        new = not target.exists()
        if new and not target.resolve().parent.is_dir():
            raise click.BadParameter(f"{path!r}: there is no such folder", param=option)
        if new or target.is_file() or target.is_dir():
            with target.open("ab"):
                pass
            if new:
                target.resolve().unlink()  # nothing is left behind where the run then fails
        elif not os.access(target, os.W_OK):  # a pipe: opening it would wait for who reads
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise click.BadParameter(f"{path!r}: {error.strerror or error}", param=option) from None
    return path


def write_files(*files: tuple[str, str | None, Callable[[str], object]]) -> None:
    """Writes each (option, path, what writes it) that has a path, all of them though one fails."""
    failed: list[str] = []
    gone = mistake = None
    for option, path, write in files:
        try:
            if path is not None:
                write(path)
        except BrokenPipeError as error:
            gone = error  # who read our output has enough: no message, but the others are written
        except (OSError, UnicodeError) as error:
            failed.append(f"{option} {path!r}: {getattr(error, 'strerror', None) or error}")
        except Exception as error:  # noqa: BLE001 - a mistake of ours, raised after the others are written
            mistake = error
    if mistake is not None:
        raise mistake
    if failed:
        raise click.ClickException("cannot write " + "; ".join(failed))
    if gone is not None:
        raise gone


def write_result(
    show: Callable[[], object],
    json_file: str | None,
    to_json: Callable[[], str],
    *more: tuple[str, str | None, Callable[[str], object]],
) -> None:
    """Shows the result, or prints it as JSON where --json is "-"; writes the JSON where that is a file, and ``more``, as
    :func:`write_files` has it."""
    printed = json_file == "-"

    def tell(_path: str) -> None:
        if printed:
            click.echo(to_json(), nl=False)
        else:
            show()
        sys.stdout.flush()

    write_files(
        ("standard output", "-", tell),
        (
            "--json",
            None if printed else json_file,
            lambda path: Path(path).write_text(to_json(), encoding="utf-8"),
        ),
        *more,
    )


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


def assigned(option: click.Parameter, text: str, needed: str) -> tuple[str, int]:
    """For a callback: the parts of NAME=NUMBER."""
    name, equals, number = (part.strip() for part in text.partition("="))
    if not equals or not re.fullmatch("[0-9]{1,30}", number):
        raise click.BadParameter(f"{text!r}: {needed}", param=option)
    return name, int(number)


def settings(
    _context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, int]:
    """A callback: NAME=VALUE of a switch, any number of times."""
    from ._race import check_switches

    switches: dict[str, int] = {}
    for text in values:
        name, value = assigned(option, text, "NAME=VALUE is needed, VALUE a number")
        switches[name] = value
    try:
        return check_switches(switches)
    except ValueError as error:
        raise click.BadParameter(str(error), param=option) from None


def set_option(function: Command) -> Command:
    """`--set NAME=VALUE`, as the parameter `switches`."""
    return click.option(
        "--set",
        "switches",
        multiple=True,
        callback=settings,
        metavar="NAME=VALUE",
        help="Override one switch in every era; may be repeated (see `pgtbl eras`).",
    )(function)


def json_option(help: str) -> Callable[[Command], Command]:
    """`--json FILE`, as the parameter `json_file`."""
    return click.option(
        "--json", "json_file", default=None, metavar="FILE", callback=writable, help=help
    )
