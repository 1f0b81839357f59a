"""pgtbl: a laboratory for page-table concurrency.

Real threads fault, walk, unmap and collapse real multi-level page tables, under the locks and the RCU of Linux mm,
by the rules of the kernel release that you choose::

    import pgtbl

    with pgtbl.Machine(era="v6.6", memory="256MiB") as machine:
        mm = machine.mm()
        shm = machine.shmem("8MiB")
        area = mm.mmap(shm)
        mm.touch(area.addresses(), write=True)
        mm.madvise(area.start, "2MiB", pgtbl.MADV_COLLAPSE)
        print(machine.ledger())

``pgtbl.race()`` is the main experiment, and ``pgtbl`` the command line. ``pgtbl.torture`` has the same classes with
run-time checks, guards that can be taken away, and pauses.
"""

from __future__ import annotations

from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# In a clone, where Python looks into the current folder first, this is the source, and the compiled modules are those of the
# installed package.
__path__ = extend_path(__path__, __name__)

from pgtbl._core import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
    PAGE_SIZE,
    PMD_SIZE,
    VM_EXEC,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    File,
    Khugepaged,
    Mm,
    MmapLock,
    OpenFile,
    Pin,
    RcuDomain,
    RcuTally,
    RwSem,
    SecondaryMmu,
    SpinLock,
    UffdFork,
    UffdMessage,
    UffdPagefault,
    UffdRemap,
    UffdRemove,
    UffdServer,
    UffdUnmap,
    Userfaultfd,
    Vma,
    WalkLevel,
    architectures,
    build_info,
    eras,
    guards,
    ledger_names,
    switches,
)
from pgtbl._core import __version__ as __version__
from pgtbl.errors import (
    BusError,
    ClosedError,
    DeadlockError,
    Interrupted,
    InvariantError,
    OutOfMemory,
    PgtblError,
    RcuStallWarning,
    SegmentationFault,
    Unsupported,
    UsageError,
)
from pgtbl.ledger import Ledger

if TYPE_CHECKING:
    # To the type checker machines of all architectures are of this class: their modules have the same one.
    from pgtbl._core import Machine
else:
    from pgtbl._machine import Machine

if TYPE_CHECKING:
    from pgtbl import arch, host, torture
    from pgtbl._compare.api import compare
    from pgtbl._compare.result import Comparison
    from pgtbl._compare.script import Script
    from pgtbl._explore import explore
    from pgtbl._race import race
    from pgtbl._replay_run import replay
    from pgtbl._scenario import Scenario
    from pgtbl._steps import Actor, explore_steps
    from pgtbl.trace import TraceError

# Made at their first use: they bring the second build, or the libraries of tables and plots.
_LATER = {
    "Actor": "pgtbl._steps",
    "Comparison": "pgtbl._compare.result",
    "Scenario": "pgtbl._scenario",
    "Script": "pgtbl._compare.script",
    "arch": "pgtbl.arch",
    "compare": "pgtbl._compare.api",
    "explore": "pgtbl._explore",
    "explore_steps": "pgtbl._steps",
    "host": "pgtbl.host",
    "race": "pgtbl._race",
    "replay": "pgtbl._replay_run",
    "torture": "pgtbl.torture",
    "TraceError": "pgtbl.trace",
}

__all__ = [
    "MADV_COLD",
    "MADV_COLLAPSE",
    "MADV_DODUMP",
    "MADV_DOFORK",
    "MADV_DONTDUMP",
    "MADV_DONTFORK",
    "MADV_DONTNEED",
    "MADV_DONTNEED_LOCKED",
    "MADV_FREE",
    "MADV_GUARD_INSTALL",
    "MADV_GUARD_REMOVE",
    "MADV_HUGEPAGE",
    "MADV_KEEPONFORK",
    "MADV_NOHUGEPAGE",
    "MADV_NORMAL",
    "MADV_PAGEOUT",
    "MADV_POPULATE_READ",
    "MADV_POPULATE_WRITE",
    "MADV_RANDOM",
    "MADV_REMOVE",
    "MADV_SEQUENTIAL",
    "MADV_WILLNEED",
    "MADV_WIPEONFORK",
    "PAGE_SIZE",
    "PMD_SIZE",
    "VM_EXEC",
    "VM_READ",
    "VM_SHARED",
    "VM_WRITE",
    "Actor",
    "BusError",
    "ClosedError",
    "Comparison",
    "DeadlockError",
    "File",
    "Interrupted",
    "InvariantError",
    "Khugepaged",
    "Ledger",
    "Machine",
    "Mm",
    "MmapLock",
    "OpenFile",
    "OutOfMemory",
    "PgtblError",
    "Pin",
    "RcuDomain",
    "RcuStallWarning",
    "RcuTally",
    "RwSem",
    "Scenario",
    "Script",
    "SecondaryMmu",
    "SegmentationFault",
    "SpinLock",
    "TraceError",
    "UffdFork",
    "UffdMessage",
    "UffdPagefault",
    "UffdRemap",
    "UffdRemove",
    "UffdServer",
    "UffdUnmap",
    "Unsupported",
    "UsageError",
    "Userfaultfd",
    "Vma",
    "WalkLevel",
    "arch",
    "architectures",
    "build_info",
    "compare",
    "eras",
    "explore",
    "explore_steps",
    "guards",
    "host",
    "ledger_names",
    "race",
    "replay",
    "switches",
    "torture",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'pgtbl' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_LATER[name])
    value = module if _LATER[name].endswith("." + name) else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
