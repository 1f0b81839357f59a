"""`Machine(arch=...)`: one class for the machines of every architecture.

Each architecture is a module of its own (``pgtbl._s390``, ...), compiled from the same sources with other sizes and other
tables, so that a walk pays for no choice. x86-64's is ``pgtbl._core``.
"""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType
from typing import Any

from . import _core
from .errors import Unsupported

__all__ = ["Machine", "arch_names", "known_arch", "module_of"]

_MODULES = {
    "x86-64": "_core",
    "x86-pae": "_x86_pae",
    "arm": "_arm",
    "powerpc": "_powerpc",
    "sparc64": "_sparc64",
    "s390": "_s390",
}


def arch_names() -> list[str]:
    """The architectures, "x86-64" first."""
    return list(_MODULES)


def known_arch(arch: Any) -> str:
    """The name, if there is such an architecture; else ValueError, or TypeError where it is no name."""
    if not isinstance(arch, str):
        raise TypeError(f"arch={arch!r}: the name of an architecture is needed")
    if arch in _MODULES:
        return arch
    near = difflib.get_close_matches(arch, _MODULES, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown arch {arch!r}; {hint}there are {', '.join(map(repr, _MODULES))}")


def module_of(arch: str, checked: bool = False) -> ModuleType:
    """The compiled module whose machines are of that architecture.

    All but x86-64's are checked builds; ``checked`` asks for x86-64's checked build too, so that they can be compared.
    """
    name = _MODULES[known_arch(arch)]
    if checked and arch == "x86-64":
        name = "_torture"
    try:
        return importlib.import_module(f"{__package__}.{name}")
    except ModuleNotFoundError:
        raise Unsupported(f"this build of pgtbl has no machines of {arch} (PGTBL_ARCHES)") from None


class _AnyMachine(type):
    """Calls and asks the class of the architecture that is meant."""

    def __call__(cls, *args: Any, arch: str = "x86-64", **options: Any) -> Any:
        if arch == "x86-64":
            return _core.Machine(*args, **options)
        return module_of(arch).Machine(*args, **options)

    def __instancecheck__(cls, thing: Any) -> bool:
        return cls.__subclasscheck__(type(thing))

    def __subclasscheck__(cls, kind: type) -> bool:
        if kind is cls or issubclass(kind, _core.Machine):
            return True
        package, _, module = kind.__module__.rpartition(".")
        return package == __package__ and module in _MODULES.values() and kind.__name__ == "Machine"

    def __getattr__(cls, name: str) -> Any:
        return getattr(_core.Machine, name)

    def __dir__(cls) -> list[str]:
        return dir(_core.Machine)


class Machine(metaclass=_AnyMachine):
    __doc__ = _core.Machine.__doc__
    __module__ = "pgtbl"
