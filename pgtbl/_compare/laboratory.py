"""The laboratory as a player: each process is an Mm of one Machine, each file a shmem File.

What the laboratory cannot express raises `Unsupported`: a scenario with such a step is never equal.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from .. import _core
from .language import (
    ADVICE,
    ARENA_PAGES,
    BASE,
    DEFAULT_UFFD_FEATURES,
    KHUGEPAGED_LIMITS,
    OPERATIONS,
    PAGE,
    Step,
    actor,
    length_of,
    tag,
)
from .playing import Playing
from .runs import data_runs, number_labels, page_runs, pages_from, runs_of

__all__ = ["Laboratory", "Unsupported"]

MEMORY = "512MiB"
ANCHOR = BASE + ARENA_PAGES * PAGE  # a page that keeps the arena's upper tables in being
PROFILE = "v6.18"

# What tells of a kernel's configuration that the laboratory does not model.
_ELSEWHERE = {
    "memcg": "memory cgroups",
}


# What a process may ask of another's memory.
_REMOTE_ADVICE = ("COLD", "PAGEOUT", "WILLNEED", "COLLAPSE")


class Unsupported(Exception):
    """The laboratory cannot express a step."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}")
        self.step = step
        self.what = what


class _CannotError(Exception):
    """What Unsupported is made of, before the step's number is known."""


@dataclass
class _Pin:
    """References to pages, and how many processes have the pipe or the ring that holds them: a child inherits it."""

    pin: Any
    holders: int = 1

    def drop(self) -> None:
        self.holders -= 1
        if not self.holders:
            self.pin.close()


@dataclass
class _Process:
    mm: Any
    pt_base: int
    shm_base: int
    alive: bool = True
    uffd: dict[str, Any] = field(default_factory=dict)
    pins: dict[str, _Pin] = field(default_factory=dict)


@dataclass
class _File:
    file: Any
    name: str
    kind: str
    opened: Any  # for writing; None where nobody has it


def _failed(error: OSError) -> dict[str, Any]:
    return {"ret": -1, "errno": errno.errorcode.get(error.errno or 0, str(error.errno))}


def _feature(thing: Any, name: str, what: str = "") -> Any:
    """An attribute that later releases of the laboratory may have."""
    value = getattr(thing, name, None)
    if value is None:
        raise _CannotError(what or name)
    return value


class Laboratory:
    """Plays one scenario after the other, each on a machine of its own.

    era: whose rules; by default the profile that the records were made with.
    check: whether the machine's invariants are checked at the end of each.
    """

    def __init__(
        self,
        era: str | None = None,
        switches: dict[str, int] | None = None,
        check: bool = True,
        memory: str = MEMORY,
    ) -> None:
        self.era = era or default_profile()
        self.switches = switches
        self.check = check
        self.memory = memory

    def probe(self) -> None:
        """Raises ValueError where the era or the switches do not exist, or do not go together."""
        with _core.Machine(era=self.era, memory="8MiB", cpus=1, switches=self.switches):
            pass

    def play(self, steps: list[Step]) -> list[dict[str, Any]]:
        """What is observed, one result a step. Unsupported; PgtblError where an invariant breaks."""
        with _core.Machine(
            era=self.era, memory=self.memory, cpus=4, switches=self.switches
        ) as machine:
            return _Play(machine).run(steps, self.check)


def default_profile() -> str:
    """The profile of 6.18; where this build has none, its latest era."""
    names = list(_core.switches()[0]["eras"])
    return PROFILE if PROFILE in names else names[-1]


class _Play(Playing[_Process]):
    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.procs: dict[str, _Process] = {}
        self.files: dict[str, _File] = {}
        machine.trace_scans()
        self.procs["p0"] = self.spawn()

    def run(self, steps: list[Step], check: bool) -> list[dict[str, Any]]:
        results = []
        for i, step in enumerate(steps):
            try:
                results.append(self.step(step))
            except _CannotError as error:
                raise Unsupported(i, str(error)) from None
        if check:
            self.machine.check()
        return results

    def spawn(self) -> _Process:
        mm = self.machine.mm()
        mm.mmap(length=PAGE, addr=ANCHOR, prot="rw", shared=False, fixed=True)
        mm.store(ANCHOR, 1)
        return _Process(mm, mm.pgtables_bytes, mm.rss["shmem"])

    def step(self, step: Step) -> dict[str, Any]:
        op = step["op"]
        if op in _ELSEWHERE:
            raise _CannotError(_ELSEWHERE[op])
        play: Callable[..., dict[str, Any]] = getattr(self, f"op_{op}")
        name = actor(step)
        if name is None:
            return play(step)
        process = self.procs[name]
        if not process.alive:
            return {"err": "dead"}
        if not OPERATIONS[op].traced:
            return play(step, process)
        count = self.machine.count
        reads, writes = count("mmap_lock.read"), count("mmap_lock.write")
        self.machine.scans()
        result = play(step, process)
        reads, writes = count("mmap_lock.read") - reads, count("mmap_lock.write") - writes
        if reads or writes:
            result["lk"] = [reads, writes]
        scans = self.machine.scans()
        if scans:
            result["scan"] = scans
        return result

    # ---- files

    def op_file(self, step: Step) -> dict[str, Any]:
        kind = step.get("kind", "memfd")
        make = self.machine.file if kind in ("ext4", "regular") else self.machine.shmem
        file = make(length_of(step))
        # The outside process has what it made open for reading and writing.
        opened = file.open() if kind == "ext4" else None
        self.files[step["f"]] = _File(file, step["f"], kind, opened)
        return {"ret": 0}

    def op_truncate(self, step: Step) -> dict[str, Any]:
        return self.system_call(self.files[step["f"]].file.truncate, length_of(step))

    def op_punch(self, step: Step) -> dict[str, Any]:
        return self.system_call(
            self.files[step["f"]].file.punch, step["pg"] * PAGE + step.get("b", 0), length_of(step)
        )

    def op_fallocate(self, step: Step) -> dict[str, Any]:
        allocate = _feature(self.files[step["f"]].file, "allocate", "fallocate")
        return self.system_call(allocate, step["pg"] * PAGE + step.get("b", 0), length_of(step))

    def op_pwrite(self, step: Step) -> dict[str, Any]:
        outside = self.files[step["f"]]
        file = outside.file
        for i in range(step["n"]):
            at = (step["pg"] + i * step.get("stride", 1)) * PAGE
            try:
                if at + PAGE > file.size:
                    file.truncate(at + PAGE)
                file.write(at, np.full(PAGE // 8, tag(step["val"], i), np.uint64))
            except OSError as error:
                return {**_failed(error), "done": i}
        if outside.kind == "regular":
            file.sync()
        return {"ret": 0, "done": step["n"]}

    def op_seal(self, step: Step) -> dict[str, Any]:
        file = self.files[step["f"]]
        if file.kind == "tmpfs":  # born with F_SEAL_SEAL: memfd_create alone leaves that open
            return {"ret": -1, "errno": "EPERM"}
        return self.system_call(file.file.seal, list(step["seals"]))

    # ---- processes

    def op_fork(self, step: Step, process: _Process) -> dict[str, Any]:
        child = _feature(process.mm, "fork")()
        for pin in process.pins.values():
            pin.holders += 1
        self.procs[step["child"]] = _Process(
            child, process.pt_base, process.shm_base, True, dict(process.uffd), dict(process.pins)
        )
        return {"ret": 0}

    def op_spawn(self, step: Step) -> dict[str, Any]:
        self.procs[step["child"]] = self.spawn()
        return {"ret": 0}

    def op_exit(self, _step: Step, process: _Process) -> dict[str, Any]:
        for pin in process.pins.values():
            pin.drop()
        process.mm.close()
        process.alive = False
        return {"ret": 0}

    # ---- the address space

    @staticmethod
    def system_call(call: Callable[..., Any], *args: Any, **named: Any) -> dict[str, Any]:
        try:
            call(*args, **named)
        except OSError as error:
            return _failed(error)
        except TypeError as error:
            # An argument that this release of the laboratory does not take yet.
            if "incompatible function arguments" not in str(error):
                raise
            raise _CannotError(f"{call.__name__} with {', '.join(named) or 'these'}") from None
        return {"ret": 0}

    @staticmethod
    def place(step: Step) -> int:
        return BASE + int(step["pg"]) * PAGE + int(step.get("b", 0))

    def at(self, step: Step) -> tuple[int, int]:
        return self.place(step), length_of(step)

    @staticmethod
    def page(address: int) -> Any:
        page = (address - BASE) // PAGE
        return page if 0 <= page < 1 << 18 else "elsewhere"

    def op_mmap(self, step: Step, process: _Process) -> dict[str, Any]:
        addr, length = self.at(step)
        flags = set(step["flags"])
        named: dict[str, Any] = {
            flag: True for flag in ("populate", "locked", "noreserve") if flag in flags
        }
        file = None
        if "f" in step and "anon" not in flags:
            file = self.files[step["f"]].file
            named["offset"] = step.get("foff", 0) * PAGE
        got: list[Any] = []
        result = self.system_call(
            lambda **k: got.append(process.mm.mmap(file, **k)),
            length=length,
            addr=addr,
            prot=step.get("prot", "rw") or "none",
            shared="shared" in flags,
            fixed="fixed" in flags,
            **named,
        )
        if got:
            result["ret"] = self.page(got[0].start)
        return result

    def op_munmap(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(process.mm.munmap, *self.at(step))

    def op_mprotect(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(process.mm.mprotect, *self.at(step), step["prot"] or "none")

    def op_madvise(self, step: Step, process: _Process) -> dict[str, Any]:
        advice = step["advice"]
        if advice != "BOGUS" and not hasattr(_core, f"MADV_{advice}"):
            raise _CannotError(f"MADV_{advice}")
        result = self.system_call(process.mm.madvise, *self.at(step), ADVICE[advice])
        retries = 0
        while result.get("errno") == "EAGAIN" and retries < step.get("retry", 0):
            result = self.system_call(process.mm.madvise, *self.at(step), ADVICE[advice])
            retries += 1
        if retries:
            result["retries"] = retries
        return result

    def op_process_madvise(self, step: Step, process: _Process) -> dict[str, Any]:
        target = self.procs[step["target"]]
        advice = step["advice"]
        if not target.alive:
            return {"ret": -1, "errno": "ESRCH"}
        if target is not process and advice not in _REMOTE_ADVICE:
            return {"ret": -1, "errno": "EINVAL"}
        result = self.op_madvise({**step, "retry": 0}, target)
        if result["ret"] == 0:
            result["ret"] = length_of(step) // PAGE
        return result

    def op_mremap(self, step: Step, process: _Process) -> dict[str, Any]:
        remap = _feature(process.mm, "mremap")
        flags = set(step.get("flags", ["maymove"]))
        got: list[int] = []
        named: dict[str, Any] = {flag: True for flag in ("fixed", "dontunmap") if flag in flags}
        if "to" in step:
            named["to"] = BASE + step["to"] * PAGE
        addr, length = self.at(step)
        result = self.system_call(
            lambda **k: got.append(remap(addr, length, step["new_n"] * PAGE, **k)),
            maymove="maymove" in flags,
            **named,
        )
        if got:
            result["ret"] = self.page(got[0])
        return result

    def op_mlock(self, step: Step, process: _Process) -> dict[str, Any]:
        named = {"onfault": True} if step.get("onfault") else {}
        return self.system_call(_feature(process.mm, "mlock"), *self.at(step), **named)

    def op_munlock(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(_feature(process.mm, "munlock"), *self.at(step))

    def op_mseal(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(process.mm.mseal, *self.at(step))

    def op_msync(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(process.mm.msync, *self.at(step))

    def op_thp_disable(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(
            process.mm.thp_disable, bool(step.get("on", True)), step.get("flags", 0)
        )

    def op_mincore(self, step: Step, process: _Process) -> dict[str, Any]:
        got: list[Any] = []
        result = self.system_call(lambda *a: got.append(process.mm.mincore(*a)), *self.at(step))
        if got:
            result["resident"] = runs_of(np.flatnonzero(got[0]))
        return result

    # ---- access

    def touch(self, step: Step, process: _Process, how: str) -> dict[str, Any]:
        got = process.mm.sweep(
            self.place(step),
            step["n"],
            how,
            stride=step.get("stride", 1),
            value=tag(step.get("val", 0), 0),
            step=1,
        )
        return self.touched(got, got["faults"], got["first"], how)

    # ---- userfaultfd

    def op_uffd_open(self, step: Step, process: _Process) -> dict[str, Any]:
        open_it = _feature(process.mm, "userfaultfd")
        features = list(step.get("features", DEFAULT_UFFD_FEATURES))
        got: list[Any] = []
        result = self.system_call(lambda **k: got.append(open_it(**k)), features=features)
        if got:
            process.uffd[step.get("u", "u0")] = got[0]
        return result

    @staticmethod
    def uffd(step: Step, process: _Process) -> Any:
        return process.uffd[step.get("u", "u0")]

    def op_uffd_register(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(
            self.uffd(step, process).register, *self.at(step), list(step["mode"])
        )

    def op_uffd_unregister(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(self.uffd(step, process).unregister, *self.at(step))

    def op_uffd_wp(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(
            self.uffd(step, process).writeprotect, *self.at(step), bool(step.get("on", True))
        )

    def op_uffd_zeropage(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(self.uffd(step, process).zeropage, *self.at(step))

    def op_uffd_continue(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.system_call(self.uffd(step, process).continue_, *self.at(step))

    def op_uffd_copy(self, step: Step, process: _Process) -> dict[str, Any]:
        page = np.full(PAGE // 8, tag(step["val"], 0), np.uint64)
        named = {"wp": True} if step.get("wp") else {}
        return self.system_call(self.uffd(step, process).copy, self.place(step), page, **named)

    def op_uffd_close(self, step: Step, process: _Process) -> dict[str, Any]:
        process.uffd.pop(step.get("u", "u0")).close()
        return {"ret": 0}

    # ---- pins

    def op_pin(self, step: Step, process: _Process) -> dict[str, Any]:
        pin = _feature(process.mm, "pin")
        pages = step.get("n", 1)
        # A buffer that io_uring registers is pinned to be read and written, for as long as the ring lasts: all of it, or none.
        registered = step.get("how") == "iouring"
        named = {"write": True, "kind": "longterm"} if registered else {}
        got: list[Any] = []
        result = self.system_call(lambda *a: got.append(pin(*a, **named)), self.place(step), pages)
        if got and registered and got[0].pages < pages:
            got.pop().close()
            result = {"ret": -1, "errno": "EFAULT"}
        if got:
            process.pins[step.get("pin", "k0")] = _Pin(got[0])
            result["ret"] = 0 if registered else got[0].pages
        return result

    def op_unpin(self, step: Step, process: _Process) -> dict[str, Any]:
        pin = process.pins.pop(step.get("pin", "k0"), None)
        if pin is not None:
            pin.drop()
        return {"ret": 0}

    # ---- khugepaged

    def op_khugepaged(self, step: Step) -> dict[str, Any]:
        daemon = self.machine.khugepaged
        for name, usual in KHUGEPAGED_LIMITS.items():
            setattr(daemon, name, step.get(name, usual))
        # As on a kernel: what one pass made possible, the next one does.
        daemon.scan()
        daemon.scan()
        return {"ret": 0}

    # ---- observation

    def op_snap(self, _step: Step) -> dict[str, Any]:
        alive = {name: p for name, p in self.procs.items() if p.alive}
        pages = {name: p.mm.snapshot(BASE, ARENA_PAGES * PAGE) for name, p in alive.items()}
        labels = number_labels([s["pfn"][_has_page(s)] for s in pages.values()])
        procs: dict[str, Any] = {}
        for (name, process), own in zip(alive.items(), labels, strict=True):
            procs[name] = self.snap_process(process, pages[name], own)
        return {
            "procs": procs,
            "files": {name: self.snap_file(f.file) for name, f in self.files.items()},
        }

    def snap_process(self, process: _Process, found: Any, labels: Any) -> dict[str, Any]:
        pages, kinds = pages_from(found, BASE)
        has = _has_page(found)
        all_labels = np.full(len(found), -1, np.int64)
        all_labels[has] = labels
        data = found[has]
        return {
            "pt": (process.mm.pgtables_bytes - process.pt_base) // PAGE,
            "rss_shmem": process.mm.rss["shmem"] - process.shm_base,
            "vmas": self.vmas(process),
            "pages": page_runs(
                pages,
                kinds,
                np.where(has, found["order"], 0).astype(np.int64),
                all_labels,
                np.where(has, found["mapcount"], 0).astype(np.int64),
            ),
            "data": data_runs(pages[has], data["first"], data["rest"], data["mixed"] != 0),
        }

    def vmas(self, process: _Process) -> list[dict[str, Any]]:
        smaps = getattr(process.mm, "smaps", None)
        details = {row["start"]: row for row in smaps()} if smaps is not None else {}
        names = {id(f.file): f.name for f in self.files.values()}
        found = []
        for vma in process.mm.vmas():
            if not BASE <= vma.start < ANCHOR:
                continue
            flags = vma.prot if vma.prot != "none" else ""
            perm = "".join(c if c in flags else "-" for c in "rwx") + ("s" if vma.shared else "p")
            row: dict[str, Any] = {
                "pg": (vma.start - BASE) // PAGE,
                "n": vma.length // PAGE,
                "perm": perm,
            }
            if vma.file is not None or vma.shared:
                row["f"] = names.get(id(vma.file), "/dev/zero")
                row["foff"] = vma.offset // PAGE
            if vma.start in details:
                row["sm"] = dict(details[vma.start]["kib"])
                row["flags"] = details[vma.start]["flags"]
            found.append(row)
        return found

    def snap_file(self, file: Any) -> dict[str, Any]:
        rows = file.contents()
        size = file.size
        ready = rows[(rows["uptodate"] != 0) & (rows["index"] < -(-size // PAGE))]
        pages = ready["index"].astype(np.int64)
        return {
            "size": size,
            "blocks": len(rows),
            "present": runs_of(pages),
            "data": _file_data(ready, size),
        }

    def op_filecache(self, _step: Step) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, f in self.files.items():
            if f.kind == "ext4":
                continue  # what a file system keeps in which folios is its own affair
            rows = f.file.contents()
            rows = rows[(rows["uptodate"] != 0) & (rows["index"] < -(-f.file.size // PAGE))]
            index, order = rows["index"].astype(np.int64), rows["order"]
            ends = np.flatnonzero((np.diff(index) != 1) | (order[1:] != order[:-1])) + 1
            starts = [0, *ends.tolist(), len(index)] if len(index) else [0]
            found[name] = [[int(index[a]), b - a, int(order[a])] for a, b in pairwise(starts)]
        return found


def _has_page(found: Any) -> Any:
    return (found["kind"] == ord("A")) | (found["kind"] == ord("F"))


def _file_data(rows: Any, size: int) -> list[Any]:
    """Contents of a file; of a page in which it ends nothing is said."""
    whole = rows[rows["index"] < size // PAGE]
    pages = whole["index"].astype(np.int64)
    runs = data_runs(pages, whole["first"], whole["rest"], whole["mixed"] != 0)
    runs += [[page, 1, "?", 0, "?", 0] for page in rows["index"][len(whole) :].tolist()]
    return runs
