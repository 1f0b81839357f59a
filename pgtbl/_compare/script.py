"""Scenarios as plain Python calls."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .language import (
    DEFAULT_UFFD_FEATURES,
    ArgumentError,
    Names,
    Step,
    check_step,
    check_steps,
)
from .scenario import Scenario

__all__ = ["Script"]


class Script:
    """A list of mm operations, to be played on the laboratory and on Linux with `pgtbl.compare()`.

    Each method adds one step and returns the script, so that calls can be chained. Places and lengths are pages of
    4 KiB in an arena that every process has; extents of 2 MiB begin at multiples of 512. `p` is the process that acts:
    "p0" exists, `fork` and `spawn` make others. A wrong argument raises ArgumentError (a ValueError), which names
    it and says what is allowed.

    name: what results call it. steps: steps to begin with, as they stand in a file.
    """

    def __init__(self, name: str = "script", steps: Iterable[Step] = ()) -> None:
        self.name = name
        self.steps: list[Step] = []
        self._names = Names()
        self._named: list[Step] = []  # the steps that made these names
        for step in steps:
            self._add(dict(step))

    # ---- what it is

    @classmethod
    def from_json(cls, text: str) -> Script:
        """A script from one line of a scenario file."""
        line = json.loads(text)
        if not isinstance(line, dict) or "steps" not in line:
            raise ArgumentError("steps", "a JSON object with a list of steps is needed")
        return cls(str(line.get("id", "script")), line["steps"])

    def to_json(self) -> str:
        """One line of a scenario file."""
        return json.dumps({"id": self.name, "steps": self.steps}, separators=(",", ":"))

    def to_scenario(self) -> Scenario:
        """What `pgtbl compare` runs: with a snapshot at the end, if nothing else is observed."""
        steps = list(self.steps)
        if not any(step["op"] in ("snap", "filecache") for step in steps):
            steps.append({"op": "snap"})
        return Scenario(self.name, steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"<pgtbl.Script {self.name!r}, {len(self.steps)} steps>"

    def __str__(self) -> str:
        return "\n".join(json.dumps(step) for step in self.steps)

    def _add(self, step: Step, p: str | None = None) -> Script:
        if p not in (None, "p0"):
            step["p"] = p
        check_step(step)
        if self._named != self.steps:  # somebody changed the list itself
            check_steps(self.steps)
            self._names, self._named = Names(self.steps), list(self.steps)
        try:
            self._names.step(step)
        except ArgumentError as error:
            raise ArgumentError(error.field, error.why, len(self.steps)) from None
        self.steps.append(step)
        self._named.append(step)
        return self

    # ---- files, from outside of all processes

    def file(self, f: str, n: int, *, nb: int = 0, kind: str = "memfd") -> Script:
        """A file of n pages (and nb bytes) of shared memory; kind: memfd, tmpfs, ext4 or regular.

        An ext4 file is open for writing all the time, as the others are. A regular one is so only while a step
        writes to it, and what that wrote is on its disk then: so it may become huge (READ_ONLY_THP_FOR_FS). The laboratory alone has it.
        """
        step: Step = {"op": "file", "f": f, "n": n}
        if nb:
            step["nb"] = nb
        if kind != "memfd":
            step["kind"] = kind
        return self._add(step)

    def truncate(self, f: str, n: int, *, nb: int = 0) -> Script:
        """ftruncate to n pages and nb bytes."""
        return self._add({"op": "truncate", "f": f, "n": n, **({"nb": nb} if nb else {})})

    def punch(self, f: str, pg: int, n: int, *, b: int = 0, nb: int = 0) -> Script:
        """A hole of n pages (and nb bytes) from page pg (and byte b) on."""
        return self._add({"op": "punch", "f": f, "pg": pg, "n": n, **_bytes(b, nb)})

    def fallocate(self, f: str, pg: int, n: int, *, b: int = 0, nb: int = 0) -> Script:
        """Allocates pages, without writing to them."""
        return self._add({"op": "fallocate", "f": f, "pg": pg, "n": n, **_bytes(b, nb)})

    def pwrite(self, f: str, pg: int, n: int, val: int, *, stride: int = 1) -> Script:
        """Writes n whole pages, `stride` pages apart: the i-th is full of the word val * 1000000 + i."""
        step: Step = {"op": "pwrite", "f": f, "pg": pg, "n": n, "val": val}
        return self._add({**step, **({"stride": stride} if stride != 1 else {})})

    # ---- processes

    def fork(self, child: str, p: str | None = None) -> Script:
        """p forks; the child is a process of that name."""
        return self._add({"op": "fork", "child": child}, p)

    def spawn(self, child: str) -> Script:
        """A new process that shares nothing."""
        return self._add({"op": "spawn", "child": child})

    def exit(self, p: str) -> Script:
        """p exits."""
        return self._add({"op": "exit"}, p)

    # ---- the address space

    def mmap(
        self,
        pg: int,
        n: int,
        f: str | None = None,
        *,
        shared: bool | None = None,
        prot: str = "rw",
        foff: int = 0,
        fixed: bool = True,
        populate: bool = False,
        locked: bool = False,
        noreserve: bool = False,
        p: str | None = None,
    ) -> Script:
        """Maps n pages at page pg: of file f from its page foff on, or anonymous memory.

        shared: by default files are mapped shared, anonymous memory private.
        """
        if shared is None:
            shared = f is not None
        flags = ["shared" if shared else "private"]
        flags += ["anon"] if f is None else []
        chosen = {"fixed": fixed, "populate": populate, "locked": locked, "noreserve": noreserve}
        flags += [name for name, wanted in chosen.items() if wanted]
        step: Step = {"op": "mmap", "pg": pg, "n": n, "prot": prot, "flags": flags}
        if f is not None:
            step.update(f=f, foff=foff)
        return self._add(step, p)

    def munmap(self, pg: int, n: int, *, b: int = 0, nb: int = 0, p: str | None = None) -> Script:
        """Unmaps n pages."""
        return self._add({"op": "munmap", "pg": pg, "n": n, **_bytes(b, nb)}, p)

    def mprotect(self, pg: int, n: int, prot: str, *, p: str | None = None) -> Script:
        """prot: letters of r, w and x, or ""."""
        return self._add({"op": "mprotect", "pg": pg, "n": n, "prot": prot}, p)

    def madvise(
        self,
        pg: int,
        n: int,
        advice: str,
        *,
        b: int = 0,
        nb: int = 0,
        retry: int = 0,
        p: str | None = None,
    ) -> Script:
        """advice: a name without MADV_, such as "COLLAPSE". retry: how often EAGAIN is tried again."""
        step: Step = {"op": "madvise", "pg": pg, "n": n, "advice": advice, **_bytes(b, nb)}
        return self._add({**step, **({"retry": retry} if retry else {})}, p)

    def collapse(self, pg: int, n: int = 512, *, p: str | None = None) -> Script:
        """madvise(..., MADV_COLLAPSE)."""
        return self.madvise(pg, n, "COLLAPSE", p=p)

    def process_madvise(
        self, target: str, pg: int, n: int, advice: str, *, p: str | None = None
    ) -> Script:
        """Advice on another process."""
        step = {"op": "process_madvise", "target": target, "pg": pg, "n": n, "advice": advice}
        return self._add(step, p)

    def mremap(
        self,
        pg: int,
        n: int,
        new_n: int,
        *,
        to: int | None = None,
        flags: Iterable[str] = ("maymove",),
        p: str | None = None,
    ) -> Script:
        """flags: maymove, fixed (to page `to`), dontunmap."""
        step: Step = {"op": "mremap", "pg": pg, "n": n, "new_n": new_n, "flags": list(flags)}
        return self._add({**step, **({"to": to} if to is not None else {})}, p)

    def mlock(self, pg: int, n: int, *, onfault: bool = False, p: str | None = None) -> Script:
        """mlock, or mlock2 with MLOCK_ONFAULT."""
        step: Step = {"op": "mlock", "pg": pg, "n": n}
        return self._add({**step, **({"onfault": True} if onfault else {})}, p)

    def munlock(self, pg: int, n: int, *, p: str | None = None) -> Script:
        """Undoes mlock."""
        return self._add({"op": "munlock", "pg": pg, "n": n}, p)

    def mincore(self, pg: int, n: int, *, p: str | None = None) -> Script:
        """Which pages are in memory."""
        return self._add({"op": "mincore", "pg": pg, "n": n}, p)

    # ---- access

    def read(self, pg: int, n: int = 1, *, stride: int = 1, p: str | None = None) -> Script:
        """Loads the first word of n pages, `stride` pages apart."""
        return self._touch("read", pg, n, None, stride, p)

    def write(
        self, pg: int, n: int = 1, val: int = 1, *, stride: int = 1, p: str | None = None
    ) -> Script:
        """Stores val * 1000000 + i to the first word of the i-th page."""
        return self._touch("write", pg, n, val, stride, p)

    def fill(
        self, pg: int, n: int = 1, val: int = 1, *, stride: int = 1, p: str | None = None
    ) -> Script:
        """Stores it to all words of the page."""
        return self._touch("fill", pg, n, val, stride, p)

    def _touch(
        self, op: str, pg: int, n: int, val: int | None, stride: int, p: str | None
    ) -> Script:
        step: Step = {"op": op, "pg": pg, "n": n}
        if val is not None:
            step["val"] = val
        if stride != 1:
            step["stride"] = stride
        return self._add(step, p)

    # ---- userfaultfd: a fault that it would handle raises SIGBUS

    def uffd_open(
        self,
        u: str = "u0",
        *,
        features: Iterable[str] = DEFAULT_UFFD_FEATURES,
        p: str | None = None,
    ) -> Script:
        """Opens a userfaultfd with these features."""
        step: Step = {"op": "uffd_open", **_handle(u)}
        if tuple(features) != DEFAULT_UFFD_FEATURES:
            step["features"] = list(features)
        return self._add(step, p)

    def uffd_register(
        self, pg: int, n: int, mode: Iterable[str], *, u: str = "u0", p: str | None = None
    ) -> Script:
        """mode: of missing, wp and minor."""
        modes = [mode] if isinstance(mode, str) else list(mode)
        return self._add({"op": "uffd_register", "pg": pg, "n": n, "mode": modes, **_handle(u)}, p)

    def uffd_unregister(self, pg: int, n: int, *, u: str = "u0", p: str | None = None) -> Script:
        """Ends the registration of a range."""
        return self._add({"op": "uffd_unregister", "pg": pg, "n": n, **_handle(u)}, p)

    def uffd_wp(
        self, pg: int, n: int, on: bool = True, *, u: str = "u0", p: str | None = None
    ) -> Script:
        """UFFDIO_WRITEPROTECT: protects, or ends the protection."""
        step: Step = {"op": "uffd_wp", "pg": pg, "n": n, **_handle(u)}
        return self._add({**step, **({} if on else {"on": False})}, p)

    def uffd_copy(
        self, pg: int, val: int, *, u: str = "u0", wp: bool = False, p: str | None = None
    ) -> Script:
        """UFFDIO_COPY of one page full of val * 1000000."""
        step: Step = {"op": "uffd_copy", "pg": pg, "n": 1, "val": val, **_handle(u)}
        return self._add({**step, **({"wp": True} if wp else {})}, p)

    def uffd_zeropage(self, pg: int, n: int = 1, *, u: str = "u0", p: str | None = None) -> Script:
        """UFFDIO_ZEROPAGE."""
        return self._add({"op": "uffd_zeropage", "pg": pg, "n": n, **_handle(u)}, p)

    def uffd_continue(self, pg: int, n: int = 1, *, u: str = "u0", p: str | None = None) -> Script:
        """UFFDIO_CONTINUE."""
        return self._add({"op": "uffd_continue", "pg": pg, "n": n, **_handle(u)}, p)

    def uffd_close(self, u: str = "u0", *, p: str | None = None) -> Script:
        """Closes the userfaultfd."""
        return self._add({"op": "uffd_close", **_handle(u)}, p)

    # ---- pins

    def pin(self, pg: int, n: int = 1, pin: str = "k0", *, p: str | None = None) -> Script:
        """Takes references to pages, as vmsplice does, until `unpin`."""
        return self._add({"op": "pin", "pg": pg, "n": n, "pin": pin}, p)

    def unpin(self, pin: str = "k0", *, p: str | None = None) -> Script:
        """Gives them back."""
        return self._add({"op": "unpin", "pin": pin}, p)

    # ---- khugepaged

    def khugepaged(
        self,
        *,
        max_ptes_none: int | None = None,
        max_ptes_swap: int | None = None,
        max_ptes_shared: int | None = None,
    ) -> Script:
        """khugepaged goes twice over all processes, with these limits (None: 511, 64 and 256).

        On a host that takes as long as its khugepaged rests between two passes, often 20 seconds; a host whose limits or policies are
        others cannot play it, since they are never changed.
        """
        limits = {
            "max_ptes_none": max_ptes_none,
            "max_ptes_swap": max_ptes_swap,
            "max_ptes_shared": max_ptes_shared,
        }
        chosen = {name: value for name, value in limits.items() if value is not None}
        return self._add({"op": "khugepaged", **chosen})

    # ---- observation

    def snap(self) -> Script:
        """Everything that can be seen of all processes and files."""
        return self._add({"op": "snap"})

    def filecache(self) -> Script:
        """Which folios the files' pages are in. The last step."""
        return self._add({"op": "filecache"})

    def step(self, op: str, p: str | None = None, **arguments: Any) -> Script:
        """Any other operation of the language, by its name and fields."""
        return self._add({"op": op, **arguments}, p)


def _bytes(b: int, nb: int) -> Step:
    return {**({"b": b} if b else {}), **({"nb": nb} if nb else {})}


def _handle(u: str) -> Step:
    return {"u": u} if u != "u0" else {}
