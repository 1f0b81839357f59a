"""The language: which operations there are, which arguments they take, and what is allowed.

Places are pages of an arena that each process has, at the same address; files have names. The table below is what
both the reader of files and `pgtbl.Script` check against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ADVICE",
    "ARENA_PAGES",
    "BASE",
    "EXTENT_PAGES",
    "KHUGEPAGED_LIMITS",
    "OPERATIONS",
    "PAGE",
    "ArgumentError",
    "Names",
    "Operation",
    "Step",
    "actor",
    "check_step",
    "check_steps",
    "length_of",
    "tag",
]

PAGE = 4096
EXTENT_PAGES = 512
BASE = 0x2000_0000_0000  # of the arena: one PMD table's reach
ARENA_PAGES = 511 * EXTENT_PAGES  # the last extent keeps the PMD table in being
MOST_FILE_PAGES = 1 << 18
MOST_PAGES = 1 << 52

Step = dict[str, Any]

ADVICE = {
    "NORMAL": 0,
    "RANDOM": 1,
    "SEQUENTIAL": 2,
    "WILLNEED": 3,
    "DONTNEED": 4,
    "FREE": 8,
    "REMOVE": 9,
    "DONTFORK": 10,
    "DOFORK": 11,
    "MERGEABLE": 12,
    "UNMERGEABLE": 13,
    "HUGEPAGE": 14,
    "NOHUGEPAGE": 15,
    "DONTDUMP": 16,
    "DODUMP": 17,
    "WIPEONFORK": 18,
    "KEEPONFORK": 19,
    "COLD": 20,
    "PAGEOUT": 21,
    "POPULATE_READ": 22,
    "POPULATE_WRITE": 23,
    "DONTNEED_LOCKED": 24,
    "COLLAPSE": 25,
    "GUARD_INSTALL": 102,
    "GUARD_REMOVE": 103,
    "BOGUS": 9999,  # what no kernel knows
}
MMAP_FLAGS = ("shared", "private", "anon", "fixed", "populate", "locked", "noreserve")
UFFD_FEATURES = (
    "PAGEFAULT_FLAG_WP",
    "EVENT_FORK",
    "EVENT_REMAP",
    "EVENT_REMOVE",
    "MISSING_HUGETLBFS",
    "MISSING_SHMEM",
    "EVENT_UNMAP",
    "SIGBUS",
    "THREAD_ID",
    "MINOR_HUGETLBFS",
    "MINOR_SHMEM",
    "EXACT_ADDRESS",
    "WP_HUGETLBFS_SHMEM",
    "WP_UNPOPULATED",
    "POISON",
    "WP_ASYNC",
    "MOVE",
)  # in the order of their bits
KHUGEPAGED_LIMITS = {"max_ptes_none": 511, "max_ptes_swap": 64, "max_ptes_shared": 256}
DEFAULT_UFFD_FEATURES = (
    "SIGBUS",
    "PAGEFAULT_FLAG_WP",
    "WP_HUGETLBFS_SHMEM",
    "MISSING_SHMEM",
    "MINOR_SHMEM",
)
SEALS = ("SEAL", "SHRINK", "GROW", "WRITE", "FUTURE_WRITE", "EXEC")


class ArgumentError(ValueError):
    """A step cannot be: says which field, and what is allowed there."""

    def __init__(self, field: str, why: str, step: int | None = None) -> None:
        self.field = field
        self.why = why
        self.step = step
        place = "" if step is None else f"step {step}, "
        super().__init__(f'{place}field "{field}": {why}')


# ---- kinds of arguments ------------------------------------------------------------------------------

Check = Callable[[str, Any], None]


def _integer(low: int, high: int) -> Check:
    def check(field: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ArgumentError(field, f"{value!r}: an integer is needed, {low} to {high}")
        if not low <= value <= high:
            raise ArgumentError(field, f"{value}: allowed are {low} to {high}")

    return check


def _one_of(allowed: Iterable[str]) -> Check:
    names = tuple(allowed)

    def check(field: str, value: Any) -> None:
        if value not in names:
            raise ArgumentError(field, f"{value!r}: allowed are {', '.join(names)}")

    return check


def _some_of(allowed: Iterable[str]) -> Check:
    names = tuple(allowed)

    def check(field: str, value: Any) -> None:
        if not isinstance(value, list | tuple):
            raise ArgumentError(field, f"{value!r}: a list is needed, of {', '.join(names)}")
        for item in value:
            if item not in names:
                raise ArgumentError(field, f"{item!r}: allowed are {', '.join(names)}")
        if len(set(value)) != len(value):
            raise ArgumentError(field, f"{list(value)!r}: each may stand there once")

    return check


def _letters(field: str, value: Any) -> None:
    if not isinstance(value, str) or set(value) - set("rwx-") or len(value) > 3:
        raise ArgumentError(field, f"{value!r}: allowed are the letters r, w and x, or none")


def _boolean(field: str, value: Any) -> None:
    if not isinstance(value, bool) and value not in (0, 1):
        raise ArgumentError(field, f"{value!r}: true or false is needed")


def _name(field: str, value: Any) -> None:
    if (
        not isinstance(value, str)
        or not value.isascii()
        or not value.replace("_", "").isalnum()
        or len(value) > 32
    ):
        raise ArgumentError(
            field, f"{value!r}: a name is needed, of up to 32 letters, digits and underscores"
        )


_place = _integer(0, ARENA_PAGES - 1)
_pages = _integer(0, MOST_PAGES)
_touched = _integer(1, ARENA_PAGES)
_file_pages = _integer(0, MOST_FILE_PAGES)
_byte = _integer(0, PAGE - 1)
_more_bytes = _integer(-PAGE, PAGE - 1)
_val = _integer(0, 1 << 40)


# ---- operations --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One operation of the language."""

    name: str
    required: dict[str, Check]
    optional: dict[str, Check]
    in_process: bool = True  # has "p"
    traced: bool = False  # its locks are counted


def _range(**more: Check) -> dict[str, Check]:
    return {"pg": _place, "n": _pages, **more}


_PART: dict[str, Check] = {"b": _byte, "nb": _more_bytes}


def _table() -> dict[str, Operation]:
    table: dict[str, Operation] = {}

    def op(
        name: str,
        required: dict[str, Check],
        optional: dict[str, Check] | None = None,
        *,
        outside: bool = False,
        traced: bool = False,
    ) -> None:
        table[name] = Operation(name, required, optional or {}, not outside, traced)

    kinds: dict[str, Check] = {"kind": _one_of(["memfd", "tmpfs", "ext4", "regular"]), "nb": _byte}
    op("file", {"f": _name, "n": _file_pages}, kinds, outside=True)
    op("truncate", {"f": _name, "n": _file_pages}, {"nb": _byte}, outside=True)
    part: dict[str, Check] = {"b": _byte, "nb": _more_bytes}
    for name in ("punch", "fallocate"):
        op(name, {"f": _name, "pg": _file_pages, "n": _file_pages}, part, outside=True)
    op(
        "pwrite",
        {"f": _name, "pg": _file_pages, "n": _touched, "val": _val},
        {"stride": _touched},
        outside=True,
    )
    op("seal", {"f": _name, "seals": _some_of(SEALS)}, outside=True)
    op("fork", {"child": _name}, traced=True)
    op("spawn", {"child": _name}, outside=True)
    op("exit", {})
    op("memcg", {}, {"join": _boolean, "slack": _integer(0, 1 << 20)})
    op(
        "mmap",
        _range(flags=_some_of(MMAP_FLAGS)),
        {"prot": _letters, "f": _name, "foff": _integer(0, 1 << 40), **_PART},
        traced=True,
    )
    for name in ("munmap", "munlock", "mseal", "msync"):
        op(name, _range(), _PART, traced=True)
    op("mprotect", _range(prot=_letters), _PART, traced=True)
    op("mlock", _range(), {"onfault": _boolean, **_PART}, traced=True)
    op(
        "madvise",
        _range(advice=_one_of(ADVICE)),
        {"retry": _integer(0, 1000), **_PART},
        traced=True,
    )
    op("process_madvise", _range(target=_name, advice=_one_of(ADVICE)), _PART, traced=True)
    op(
        "mremap",
        _range(new_n=_pages),
        {"flags": _some_of(["maymove", "fixed", "dontunmap"]), "to": _place, **_PART},
        traced=True,
    )
    op("thp_disable", {}, {"on": _boolean, "flags": _integer(0, 3)})
    op("mincore", _range(n=_touched), _PART, traced=True)
    op("read", {"pg": _place, "n": _touched}, {"stride": _touched, "b": _byte}, traced=True)
    for name in ("write", "fill"):
        op(
            name,
            {"pg": _place, "n": _touched, "val": _val},
            {"stride": _touched, "b": _byte},
            traced=True,
        )
    handle: dict[str, Check] = {"u": _name}
    op("uffd_open", {}, {"features": _some_of(UFFD_FEATURES), **handle})
    modes = _some_of(["missing", "wp", "minor"])
    op("uffd_register", _range(mode=modes), {**handle, **_PART}, traced=True)
    op("uffd_wp", _range(), {"on": _boolean, **handle, **_PART}, traced=True)
    for name in ("uffd_unregister", "uffd_zeropage", "uffd_continue"):
        op(name, _range(), {**handle, **_PART}, traced=True)
    op(
        "uffd_copy",
        {"pg": _place, "val": _val},
        {"n": _integer(1, 1), "wp": _boolean, **handle, **_PART},
        traced=True,
    )
    op("uffd_close", {}, handle)
    op(
        "pin",
        {"pg": _place},
        {"n": _integer(1, 512), "pin": _name, "how": _one_of(["vmsplice", "iouring"]), "b": _byte},
        traced=True,
    )
    op("unpin", {}, {"pin": _name, "wait": _boolean})
    limit = _integer(0, EXTENT_PAGES)
    op(
        "khugepaged",
        {},
        {"max_ptes_none": _integer(0, EXTENT_PAGES - 1), "max_ptes_swap": limit}
        | {"max_ptes_shared": limit},
        outside=True,
    )
    op("snap", {}, outside=True)
    op("filecache", {}, outside=True)
    return table


OPERATIONS = _table()


def actor(step: Step) -> str | None:
    """The process that acts; None where nobody does."""
    return str(step.get("p", "p0")) if OPERATIONS[step["op"]].in_process else None


def length_of(step: Step) -> int:
    """Bytes that the step is about, as the system call gets them: 64 bits, wrapped."""
    return (int(step.get("n", 0)) * PAGE + int(step.get("nb", 0))) % (1 << 64)


def tag(val: int, page: int) -> int:
    """The word that an operation stores to its `page`-th page."""
    return val * 1_000_000 + page


# ---- checking ----------------------------------------------------------------------------------------


def check_step(step: Any) -> None:
    """Raises ArgumentError where one step, by itself, is not of the language."""
    if not isinstance(step, dict):
        raise ArgumentError("steps", f'{step!r}: each step is an object with a field "op"')
    name = step.get("op")
    if name not in OPERATIONS:
        raise ArgumentError("op", f"{name!r}: allowed are {', '.join(OPERATIONS)}")
    operation = OPERATIONS[name]
    for field in operation.required:
        if field not in step:
            raise ArgumentError(field, f'"{name}" needs it')
    for field, value in step.items():
        if field == "op":
            continue
        if field == "p" and operation.in_process:
            _name(field, value)
            continue
        check = operation.required.get(field) or operation.optional.get(field)
        if check is None:
            known = [*operation.required, *operation.optional]
            known += ["p"] if operation.in_process else []
            takes = ", ".join(known) if known else "no field"
            raise ArgumentError(field, f'"{name}" has no such field; it takes {takes}')
        check(field, value)


class Names:
    """What exists after some steps: files, processes, userfaultfds, pins."""

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self.files: set[str] = set()
        self.uffds: dict[str, set[str]] = {"p0": set()}
        self.pins: dict[str, set[str]] = {"p0": set()}
        self.dead: set[str] = set()
        for step in steps:
            self.step(step)

    def known(self, field: str, value: str, names: Iterable[str], what: str) -> None:
        if value not in names:
            there = ", ".join(sorted(names)) or "none so far"
            raise ArgumentError(field, f"{value!r}: {what} of that name; there is {there}")

    def new(self, field: str, value: str, names: Iterable[str], what: str) -> None:
        if value in names:
            raise ArgumentError(field, f"{value!r}: there is {what} of that name already")

    def step(self, step: Step) -> None:
        op, p = step["op"], actor(step)
        if p is not None:
            self.known("p", p, self.uffds, "no process")
        if op == "file":
            self.new("f", step["f"], self.files, "a file")
            self.files.add(step["f"])
        elif "f" in step:
            self.known("f", step["f"], self.files, "no file")
        if "target" in step:
            self.known("target", step["target"], self.uffds, "no process")
        if op in ("fork", "spawn"):
            self.new("child", step["child"], self.uffds, "a process")
        if p in self.dead:
            return
        if op in ("fork", "spawn"):
            child = step["child"]
            self.uffds[child] = set(self.uffds[p]) if p is not None else set()
            self.pins[child] = set(self.pins[p]) if p is not None else set()
        if p is None:
            return
        if op == "exit":
            self.dead.add(p)
        elif op == "uffd_open":
            # One that the process has of that name is forgotten: it may be a forked parent's.
            self.uffds[p].add(step.get("u", "u0"))
        elif op.startswith("uffd_"):
            self.known("u", step.get("u", "u0"), self.uffds[p], "no userfaultfd")
            if op == "uffd_close":
                self.uffds[p].discard(step.get("u", "u0"))
        elif op == "pin":
            self.new("pin", step.get("pin", "k0"), self.pins[p], "a pin")
            self.pins[p].add(step.get("pin", "k0"))
        elif op == "unpin":
            self.known("pin", step.get("pin", "k0"), self.pins[p], "no pin")
            self.pins[p].discard(step.get("pin", "k0"))


def check_steps(steps: Any) -> None:
    """Raises ArgumentError, with the step's number, where the list of steps cannot be played."""
    if not isinstance(steps, list) or not steps:
        raise ArgumentError("steps", f"{steps!r:.60}: a list of steps is needed")
    names = Names()
    for i, step in enumerate(steps):
        try:
            check_step(step)
            names.step(step)
        except ArgumentError as error:
            raise ArgumentError(error.field, error.why, i) from None
