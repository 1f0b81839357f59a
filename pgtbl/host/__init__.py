"""The running kernel as a player of scenarios (see `pgtbl.compare`).

Each process of a scenario is a real one, in an otherwise empty arena; what happened is read from /proc, and, where tracefs
is mounted, from tracepoints. Needs Linux on x86-64, a C compiler at the first use, and root; `why_not()` says what is missing.
Nothing outside of these processes is changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._compare.language import (
    ADVICE,
    ARENA_PAGES,
    BASE,
    DEFAULT_UFFD_FEATURES,
    EXTENT_PAGES,
    KHUGEPAGED_LIMITS,
    OPERATIONS,
    PAGE,
    UFFD_FEATURES,
    Step,
    actor,
    check_steps,
    length_of,
    tag,
)
from .._compare.playing import Playing
from .._compare.runs import number_labels, runs_of
from . import _kernel as k
from ._agent import Agent, HostError, compiled_agent
from ._observe import (
    Frames,
    check_privileges,
    entries,
    file_rows,
    kib,
    snap_file,
    snap_process,
    vmas_of,
)
from ._tracing import Tracing

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Host", "HostError", "HostUnsupported", "why_not"]

ANCHOR = BASE + ARENA_PAGES * PAGE
_UNPIN_WAIT = 0.05  # a pipe's pages are given back a little after it was closed
_ATTEMPTS = 4
_SCAN_WAIT = 10.0  # seconds, beside the rests of khugepaged
_COLLAPSED = k.THP / "khugepaged/pages_collapsed"
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class HostUnsupported(Exception):
    """This kernel, or this user, cannot do a step."""

    def __init__(self, what: str, step: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.step = step


def why_not() -> str:
    """What keeps this computer from playing scenarios; "" where nothing does."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return "Linux on x86-64 is needed"
    if os.sysconf("SC_PAGESIZE") != PAGE:
        return f"pages of {PAGE} bytes are needed"
    if not _COLLAPSED.exists():
        return "the kernel has no transparent huge pages"
    missing = check_privileges()
    if missing:
        return missing
    try:
        compiled_agent()
    except (HostError, OSError) as error:
        return str(error)
    return ""


@dataclass
class _Process:
    name: str
    agent: Agent
    table_base: int  # VmPTE of the bare process, in pages
    child_table_base: int  # of its children
    shmem_base: int
    alive: bool = True
    fds: dict[str, int] = field(default_factory=dict)
    uffd: dict[str, int] = field(default_factory=dict)
    pins: dict[str, list[int]] = field(default_factory=dict)


def _answer(result: int) -> dict[str, Any]:
    if result < 0:
        return {"ret": -1, "errno": errno.errorcode.get(-result, str(-result))}
    return {"ret": result}


class Host:
    """Plays scenarios on the running kernel, one after the other.

    `traced` says whether locks and scans are observed (else they are missing from the results, with the reason in
    `why_untraced`). Close it, or use it in a with statement. HostError where `why_not()` says why not.
    """

    def __init__(self) -> None:
        missing = why_not()
        if missing:
            raise HostError(missing)
        self._tracing = Tracing()
        self._frames = Frames()

    @property
    def traced(self) -> bool:
        """Whether mmap_lock and collapse scans are observed."""
        return self._tracing.available

    @property
    def why_untraced(self) -> str:
        """Why they are not."""
        return "" if self.traced else self._tracing.why

    def play(self, steps: list[Step]) -> list[dict[str, Any]]:
        """What is observed, one result a step.

        A run during which khugepaged collapsed something, unasked, is repeated. Raises ArgumentError for steps that are not of the
        language, HostUnsupported where this kernel or user cannot do one.
        """
        check_steps(steps)
        results: list[dict[str, Any]] = []
        asked = any(step["op"] == "khugepaged" for step in steps)
        for _ in range(1 if asked else _ATTEMPTS):
            before = _COLLAPSED.read_text()
            run = _Run(self._tracing, self._frames)
            try:
                results = run.play(steps)
            finally:
                run.close()
            if _COLLAPSED.read_text() == before:
                break
        return results

    def close(self) -> None:
        """Gives back what it holds of the kernel. Harmless if repeated."""
        self._tracing.close()
        with contextlib.suppress(OSError):
            self._frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Run(Playing[_Process]):
    """One scenario under way."""

    def __init__(self, tracing: Tracing, frames: Frames) -> None:
        self.tracing = tracing
        self.frames = frames
        self.procs: dict[str, _Process] = {}
        self.files: dict[str, int] = {}
        self.paths: list[Path] = []
        self.kinds: dict[str, str] = {}
        self.kernel_names: dict[str, str] = {}
        self.memcg: Path | None = None

    # ---- processes

    def start(self, name: str, traced: bool = True) -> _Process:
        agent = Agent.start()
        anchor = agent.call(
            "mmap", ANCHOR, PAGE, 3, k.MAP["private"] | k.MAP["anon"] | k.MAP["fixed"], -1, 0
        )
        if anchor != ANCHOR:
            agent.leave()
            raise HostError(f"the arena cannot be mapped: {anchor}")
        agent.touch("write", ANCHOR, 1, PAGE, 1, 0)
        child = agent.fork()  # only to see which tables a child of the bare process has
        child.touch("write", ANCHOR, 1, PAGE, 1, 0)
        child_base = kib(child.pid, "VmPTE") // 4
        child.leave()
        agent.touch("write", ANCHOR, 1, PAGE, 1, 0)
        base = kib(agent.pid, "VmPTE") // 4
        process = _Process(name, agent, base, child_base, kib(agent.pid, "RssShmem") // 4)
        if traced:
            self.tracing.follow(agent.pid)
        return process

    def play(self, steps: list[Step]) -> list[dict[str, Any]]:
        self.procs["p0"] = self.start("p0")
        results = []
        for i, step in enumerate(steps):
            try:
                results.append(self.step(step))
            except HostUnsupported as error:
                raise HostUnsupported(error.what, i) from None
        return results

    def close(self) -> None:
        for process in self.procs.values():
            if process.alive:
                process.agent.leave()
        for file in self.files.values():
            os.close(file)
        for path in self.paths:
            with contextlib.suppress(OSError):
                path.unlink()
        if self.memcg is not None:
            with contextlib.suppress(OSError):
                self.memcg.rmdir()
        self.tracing.forget_all()

    def step(self, step: Step) -> dict[str, Any]:
        op = step["op"]
        play: Callable[..., dict[str, Any]] = getattr(self, f"op_{op}")
        name = actor(step)
        if name is None:
            return play(step)
        process = self.procs[name]
        if not process.alive:
            return {"err": "dead"}
        self.tracing.drain()
        result = play(step, process)
        if self.tracing.available and OPERATIONS[op].traced:
            locks, scans = self.tracing.take(process.agent.pid)
            if any(locks):
                result["lk"] = locks
            if scans:
                result["scan"] = scans
        return result

    def prepared(self) -> None:
        """What was traced so far was preparation, not the operation itself."""
        self.tracing.drain()

    # ---- files

    def op_file(self, step: Step) -> dict[str, Any]:
        name, kind = step["f"], step.get("kind", "memfd")
        own = f"pgtbl.{os.getpid()}.{name}"
        if kind == "regular":
            raise HostUnsupported("files that nobody has open for writing (READ_ONLY_THP_FOR_FS)")
        if kind == "memfd":
            file = os.memfd_create(own, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self.kernel_names[f"/memfd:{own}"] = name
        else:
            folder = Path("/dev/shm") if kind == "tmpfs" else Path.cwd()
            if kind == "ext4" and not _is_ext4(folder):
                raise HostUnsupported("a current folder on ext4 (the scenario makes a file there)")
            path = folder / own
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise HostUnsupported(f"a file in {folder} ({error.strerror})") from None
            self.paths.append(path)
            self.kernel_names[str(path)] = name
        self.files[name], self.kinds[name] = file, kind
        os.ftruncate(file, length_of(step))
        return {"ret": 0}

    @staticmethod
    def attempt(call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        try:
            call(*arguments)
        except OSError as error:
            return _answer(-(error.errno or errno.EIO))
        return {"ret": 0}

    def op_truncate(self, step: Step) -> dict[str, Any]:
        return self.attempt(os.ftruncate, self.files[step["f"]], length_of(step))

    def op_punch(self, step: Step) -> dict[str, Any]:
        return self.allocate(step, k.FALLOC_KEEP_SIZE_PUNCH_HOLE)

    def op_fallocate(self, step: Step) -> dict[str, Any]:
        return self.allocate(step, 0)

    def allocate(self, step: Step, mode: int) -> dict[str, Any]:
        assert _libc is not None
        start = step["pg"] * PAGE + step.get("b", 0)
        failed = _libc.fallocate(
            self.files[step["f"]], mode, ctypes.c_long(start), ctypes.c_long(length_of(step))
        )
        return _answer(-ctypes.get_errno() if failed else 0)

    def op_pwrite(self, step: Step) -> dict[str, Any]:
        done = 0
        for i in range(step["n"]):
            page = np.full(PAGE // 8, tag(step["val"], i), np.uint64).tobytes()
            at = (step["pg"] + i * step.get("stride", 1)) * PAGE
            result = self.attempt(os.pwrite, self.files[step["f"]], page, at)
            if result["ret"] < 0:
                return {**result, "done": done}
            done += 1
        return {"ret": 0, "done": done}

    def op_seal(self, step: Step) -> dict[str, Any]:
        seals = sum(k.SEALS[name] for name in step["seals"])
        return self.attempt(fcntl.fcntl, self.files[step["f"]], k.F_ADD_SEALS, seals)

    # ---- the life of processes

    def op_fork(self, step: Step, process: _Process) -> dict[str, Any]:
        try:
            child = process.agent.fork()
        except OSError as error:
            return _answer(-(error.errno or errno.EAGAIN))
        base = process.child_table_base
        self.procs[step["child"]] = _Process(
            step["child"],
            child,
            base,
            base,
            process.shmem_base,
            True,
            dict(process.fds),
            dict(process.uffd),
            {name: list(fds) for name, fds in process.pins.items()},
        )
        return {"ret": 0}

    def op_spawn(self, step: Step) -> dict[str, Any]:
        self.procs[step["child"]] = self.start(step["child"])
        return {"ret": 0}

    def op_exit(self, _step: Step, process: _Process) -> dict[str, Any]:
        process.agent.leave()
        process.alive = False
        return {"ret": 0}

    def op_memcg(self, step: Step, process: _Process) -> dict[str, Any]:
        root = Path("/sys/fs/cgroup/memory")
        if not (root / "memory.limit_in_bytes").exists():
            raise HostUnsupported("memory cgroups of version 1")
        if self.memcg is None:
            self.memcg = root / f"pgtbl.{os.getpid()}"
            try:
                self.memcg.mkdir()
            except OSError as error:
                self.memcg = None
                raise HostUnsupported(f"memory cgroups ({error.strerror})") from None
        if step.get("join", True):
            (self.memcg / "cgroup.procs").write_text(str(process.agent.pid))
        if "slack" in step:
            used = int((self.memcg / "memory.usage_in_bytes").read_text())
            (self.memcg / "memory.limit_in_bytes").write_text(str(used + step["slack"] * PAGE))
        return {"ret": 0}

    # ---- the address space

    @staticmethod
    def at(step: Step) -> tuple[int, int]:
        return BASE + step["pg"] * PAGE + step.get("b", 0), length_of(step)

    @staticmethod
    def placed(result: int) -> dict[str, Any]:
        if result < 0:
            return _answer(result)
        inside = BASE <= result < BASE + (ARENA_PAGES + EXTENT_PAGES) * PAGE
        return {"ret": (result - BASE) // PAGE if inside else "elsewhere"}

    def fd(self, process: _Process, name: str) -> int:
        if name not in process.fds:
            process.fds[name] = process.agent.give(self.files[name])
        return process.fds[name]

    @staticmethod
    def prot(letters: str) -> int:
        return sum(k.PROT[letter] for letter in set(letters) - {"-"})

    def op_mmap(self, step: Step, process: _Process) -> dict[str, Any]:
        flags = sum(k.MAP[name] for name in step["flags"])
        file = self.fd(process, step["f"]) if "f" in step else -1
        offset = step.get("foff", 0) * PAGE if "f" in step else 0
        self.prepared()
        prot = self.prot(step.get("prot", "rw"))
        return self.placed(process.agent.call("mmap", *self.at(step), prot, flags, file, offset))

    def op_munmap(self, step: Step, process: _Process) -> dict[str, Any]:
        return _answer(process.agent.call("munmap", *self.at(step)))

    def op_mprotect(self, step: Step, process: _Process) -> dict[str, Any]:
        return _answer(process.agent.call("mprotect", *self.at(step), self.prot(step["prot"])))

    def op_madvise(self, step: Step, process: _Process) -> dict[str, Any]:
        advice = ADVICE[step["advice"]]
        result = process.agent.call("madvise", *self.at(step), advice)
        retries = 0
        while result == -errno.EAGAIN and retries < step.get("retry", 0):
            result = process.agent.call("madvise", *self.at(step), advice)
            retries += 1
        return {**_answer(result), **({"retries": retries} if retries else {})}

    def op_process_madvise(self, step: Step, process: _Process) -> dict[str, Any]:
        target = self.procs[step["target"]].agent.pid
        try:
            ours = os.pidfd_open(target)
        except OSError as error:
            return _answer(-(error.errno or errno.ESRCH))
        try:
            pidfd = process.agent.give(ours)
        finally:
            os.close(ours)
        vector = process.agent.poke(0, *self.at(step))
        self.prepared()
        result = process.agent.call("process_madvise", pidfd, vector, 1, ADVICE[step["advice"]], 0)
        # Closing it now would be traced, too; the process takes it with it.
        return _answer(result) if result < 0 else {"ret": result // PAGE}

    def op_mremap(self, step: Step, process: _Process) -> dict[str, Any]:
        flags = sum(k.MREMAP[name] for name in step.get("flags", ["maymove"]))
        to = BASE + step["to"] * PAGE if "to" in step else 0
        return self.placed(
            process.agent.call("mremap", *self.at(step), step["new_n"] * PAGE, flags, to)
        )

    def op_mlock(self, step: Step, process: _Process) -> dict[str, Any]:
        return _answer(process.agent.call("mlock2", *self.at(step), int(step.get("onfault", 0))))

    def op_munlock(self, step: Step, process: _Process) -> dict[str, Any]:
        return _answer(process.agent.call("munlock", *self.at(step)))

    def op_msync(self, step: Step, process: _Process) -> dict[str, Any]:
        return _answer(process.agent.call("msync", *self.at(step), k.MS_SYNC))

    def op_mseal(self, step: Step, process: _Process) -> dict[str, Any]:
        result = process.agent.call("mseal", *self.at(step), 0)
        if result == -errno.ENOSYS:
            raise HostUnsupported("mseal")
        return _answer(result)

    def op_thp_disable(self, step: Step, process: _Process) -> dict[str, Any]:
        on, flags = int(step.get("on", 1)), step.get("flags", 0)
        result = process.agent.call("prctl", k.PR_SET_THP_DISABLE, on, flags, 0, 0)
        if result == -errno.EINVAL and flags:
            raise HostUnsupported("PR_THP_DISABLE_EXCEPT_ADVISED")
        return _answer(result)

    def op_mincore(self, step: Step, process: _Process) -> dict[str, Any]:
        start, length = self.at(step)
        result = _answer(process.agent.call("mincore", start, length, process.agent.scratch))
        if result["ret"] == 0:
            result["resident"] = process.agent.runs(0, -(-length // PAGE))
        return result

    # ---- access

    def touch(self, step: Step, process: _Process, how: str) -> dict[str, Any]:
        start, _ = self.at({"n": 0, **step})
        got = process.agent.touch(
            how, start, step["n"], step.get("stride", 1) * PAGE, tag(step.get("val", 0), 0), 1
        )
        first = got["first"] if got["first"] >= 0 else None
        return self.touched(got, got["minflt"], first, how)

    # ---- userfaultfd

    def op_uffd_open(self, step: Step, process: _Process) -> dict[str, Any]:
        fd = process.agent.call("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK)
        if fd in (-errno.ENOSYS, -errno.EPERM):
            raise HostUnsupported(f"userfaultfd ({os.strerror(-fd)})")
        if fd < 0:
            return _answer(fd)
        wanted = step.get("features", DEFAULT_UFFD_FEATURES)
        bits = sum(1 << UFFD_FEATURES.index(name) for name in wanted)
        api = process.agent.poke(0, k.UFFD_API_VERSION, bits, 0)
        process.uffd[step.get("u", "u0")] = fd
        return _answer(process.agent.call("ioctl", fd, k.UFFDIO_API, api))

    def uffd(self, step: Step, process: _Process, request: int, *words: int) -> dict[str, Any]:
        argument = process.agent.poke(0, *words)
        self.prepared()
        fd = process.uffd[step.get("u", "u0")]
        return _answer(process.agent.call("ioctl", fd, request, argument))

    def op_uffd_register(self, step: Step, process: _Process) -> dict[str, Any]:
        modes = sum(k.UFFD_MODES[name] for name in step["mode"])
        return self.uffd(step, process, k.UFFDIO_REGISTER, *self.at(step), modes, 0)

    def op_uffd_unregister(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.uffd(step, process, k.UFFDIO_UNREGISTER, *self.at(step))

    def op_uffd_wp(self, step: Step, process: _Process) -> dict[str, Any]:
        on = int(step.get("on", True))
        return self.uffd(step, process, k.UFFDIO_WRITEPROTECT, *self.at(step), on)

    def op_uffd_zeropage(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.uffd(step, process, k.UFFDIO_ZEROPAGE, *self.at(step), 0, 0)

    def op_uffd_continue(self, step: Step, process: _Process) -> dict[str, Any]:
        return self.uffd(step, process, k.UFFDIO_CONTINUE, *self.at(step), 0, 0)

    def op_uffd_copy(self, step: Step, process: _Process) -> dict[str, Any]:
        source = process.agent.fill(2 * PAGE, PAGE // 8, tag(step["val"], 0))
        mode = 2 if step.get("wp") else 0
        start, _ = self.at(step)
        return self.uffd(step, process, k.UFFDIO_COPY, start, source, PAGE, mode, 0)

    def op_uffd_close(self, step: Step, process: _Process) -> dict[str, Any]:
        return _answer(process.agent.call("close", process.uffd.pop(step.get("u", "u0"))))

    # ---- pins

    def op_pin(self, step: Step, process: _Process) -> dict[str, Any]:
        pages, start = step.get("n", 1), BASE + step["pg"] * PAGE + step.get("b", 0)
        if step.get("how") == "iouring":
            return self.pin_by_ring(step, process, start, pages)
        agent = process.agent
        agent.call("pipe2", agent.scratch, os.O_CLOEXEC)
        both = agent.peek(0)[0]
        ends = [both & 0xFFFFFFFF, both >> 32]
        if pages > 16:
            agent.call("fcntl", ends[1], k.F_SETPIPE_SIZE, pages * PAGE)
        vector = agent.poke(64, start, pages * PAGE)
        self.prepared()
        result = agent.call("vmsplice", ends[1], vector, 1, 0)
        process.pins[step.get("pin", "k0")] = ends
        return _answer(result) if result < 0 else {"ret": result // PAGE}

    def pin_by_ring(self, step: Step, process: _Process, start: int, pages: int) -> dict[str, Any]:
        agent = process.agent
        ring = agent.call("io_uring_setup", 8, agent.fill(0, 15, 0))
        if ring < 0:
            raise HostUnsupported(f"io_uring ({os.strerror(-ring)})")
        vector = agent.poke(256, start, pages * PAGE)
        self.prepared()
        process.pins[step.get("pin", "k0")] = [ring]
        return _answer(agent.call("io_uring_register", ring, 0, vector, 1))

    def op_unpin(self, step: Step, process: _Process) -> dict[str, Any]:
        for file in process.pins.pop(step.get("pin", "k0")):
            process.agent.call("close", file)
        if step.get("wait", True):
            time.sleep(_UNPIN_WAIT)
        return {"ret": 0}

    # ---- khugepaged

    def op_khugepaged(self, step: Step) -> dict[str, Any]:
        for name, usual in KHUGEPAGED_LIMITS.items():
            wanted, there = step.get(name, usual), k.khugepaged(name)
            if wanted != there:
                raise HostUnsupported(f"khugepaged with {name} {wanted} (it is {there})")
        why = k.khugepaged_leaves_alone(set(self.kinds.values()))
        if why:
            raise HostUnsupported(f"khugepaged for this ({why})")
        # A pass that is under way may have been here already: two more must end.
        end = k.khugepaged("full_scans") + 2
        rest = k.khugepaged("scan_sleep_millisecs") / 1000
        deadline = time.monotonic() + _SCAN_WAIT + 4 * rest
        while k.khugepaged("full_scans") < end:
            if time.monotonic() > deadline:
                raise HostUnsupported("khugepaged that comes around in time")
            time.sleep(0.05)
        return {"ret": 0}

    # ---- observation

    def op_snap(self, _step: Step) -> dict[str, Any]:
        self.frames.forget()
        alive = [p for p in self.procs.values() if p.alive]
        vmas = [vmas_of(p.agent.pid, self.kernel_names) for p in alive]
        found = [entries(p.agent.pid, v, self.frames) for p, v in zip(alive, vmas, strict=True)]
        labels = number_labels([e["frame"][e["frame"] != 0] for e in found])
        procs = {}
        for process, own_vmas, own, own_labels in zip(alive, vmas, found, labels, strict=True):
            pid = process.agent.pid
            procs[process.name] = {
                "pt": kib(pid, "VmPTE") // 4 - process.table_base,
                "rss_shmem": kib(pid, "RssShmem") // 4 - process.shmem_base,
                **snap_process(pid, own_vmas, own, own_labels),
            }
        return {
            "procs": procs,
            "files": {name: snap_file(file) for name, file in self.files.items()},
        }

    def op_filecache(self, _step: Step) -> dict[str, Any]:
        # Seen through a process of our own that maps each file, misaligned so that no PMD is installed.
        self.frames.forget()
        probe = self.start("probe", traced=False)
        try:
            return {
                name: self.cached_orders(probe, name)
                for name in self.files
                if self.kinds[name] != "ext4"
            }
        finally:
            probe.agent.leave()

    def cached_orders(self, probe: _Process, name: str) -> list[list[int]]:
        size, runs = file_rows(self.files[name])
        pages = -(-size // PAGE)
        if not pages:
            return []
        start = BASE + 3 * PAGE
        fixed = k.MAP["shared"] | k.MAP["fixed"]
        probe.agent.call("mmap", start, pages * PAGE, 1, fixed, self.fd(probe, name), 0)
        for first, count in runs:
            probe.agent.touch("read", start + first * PAGE, count, PAGE, 0, 0)
        found = entries(probe.agent.pid, [{"pg": 3, "n": pages}], self.frames)
        probe.agent.call("munmap", start, pages * PAGE)
        index = found["page"] - 3
        data = np.zeros(pages, bool)
        for first, count in runs:
            data[first : first + count] = True
        seen = data[index]
        index, order = index[seen], found["order"][seen]
        rows = []
        for value in np.unique(order).tolist():
            rows += [[a, n, value] for a, n in runs_of(index[order == value])]
        return sorted(rows)


def _is_ext4(folder: Path) -> bool:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(where, kind) for where, kind in mounts if Path(where) in (folder, *folder.parents)]
    return bool(inside) and max(inside, key=lambda m: len(m[0]))[1] == "ext4"
