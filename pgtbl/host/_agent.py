"""The agent: a small C program, compiled at its first use, that does what it is told in an address space of its own."""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from importlib import resources
from pathlib import Path

from ._kernel import SYSCALLS

__all__ = ["Agent", "HostError", "compiled_agent"]

_WHERE, _CALL, _TOUCH, _POKE, _PEEK, _FILL, _KEEP, _FORK, _RUNS, _LEAVE = range(1, 11)
_REQUEST = struct.Struct("<9Q")
_ANSWER = struct.Struct("<8Q")
_M64 = (1 << 64) - 1
_TOUCHES = {"read": 0, "write": 1, "fill": 2}
_PATIENCE = 60.0


class HostError(RuntimeError):
    """This computer cannot play scenarios: says what is missing."""


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path("~/.cache").expanduser()) / "pgtbl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: nobody knows this user's home
        pass
    return Path(tempfile.mkdtemp(prefix="pgtbl-"))


def _compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise HostError("a C compiler is needed (cc, gcc or clang, or $CC): the agent is compiled here")


def compiled_agent() -> Path:
    """The agent's program, compiled unless that was done before. HostError where it cannot be."""
    source = resources.files("pgtbl.host").joinpath("agent.c").read_bytes()
    program = _cache_folder() / f"agent-{hashlib.sha256(source).hexdigest()[:16]}"
    if program.exists():
        return program
    compiler = _compiler()
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        path, built = Path(folder) / "agent.c", Path(folder) / "agent"
        path.write_bytes(source)
        errors = ""
        # Static, so that no loader maps anything; where there is no static libc, the other way does, too.
        for options in (["-static", "-no-pie"], []):
            got = subprocess.run(
                [compiler, "-O1", *options, "-o", str(built), str(path)],
                capture_output=True,
                text=True,
                check=False,
            )
            if got.returncode == 0:
                built.replace(program)  # another process may have made the same
                return program
            errors = got.stderr.strip()
    raise HostError(f"the agent does not compile with {compiler}: {errors[-300:]}")


class Agent:
    """One process under observation."""

    def __init__(self, pid: int, channel: socket.socket, child: subprocess.Popen[bytes] | None):
        self.pid = pid
        self._channel = channel
        self._child = child  # None: forked by another agent
        channel.settimeout(_PATIENCE)
        self.minor_faults = 0
        self.scratch = self._ask(_WHERE)[0]

    @classmethod
    def start(cls) -> Agent:
        """A new process. HostError where it cannot be."""
        program = compiled_agent()
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            child = subprocess.Popen(
                [str(program), str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
            )
        return cls(child.pid, ours, child)

    def _ask(self, what: int, *arguments: int, file: int | None = None) -> tuple[int, ...]:
        padded = [a & _M64 for a in arguments] + [0] * (8 - len(arguments))
        message = _REQUEST.pack(what, *padded)
        ride = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
            if file is not None
            else []
        )
        self._channel.sendmsg([message], ride)
        answer = self._channel.recv(_ANSWER.size)
        if len(answer) != _ANSWER.size:
            raise HostError(f"process {self.pid} of the scenario died")
        return _ANSWER.unpack(answer)

    # ---- what it does

    def call(self, name: str, *arguments: int) -> int:
        """A system call: what it returns, a negative errno where it failed."""
        result, self.minor_faults, *_ = self._ask(_CALL, SYSCALLS[name], *arguments)
        return result - (1 << 64) if result >> 63 else result

    def touch(
        self, how: str, address: int, pages: int, stride: int, value: int, step: int
    ) -> dict[str, int]:
        """Accesses, `stride` bytes apart, on and on where one would kill it."""
        ok, segv, bus, first, minflt, total, *_ = self._ask(
            _TOUCH, _TOUCHES[how], address, pages, stride, value, step
        )
        return {
            "ok": ok,
            "segv": segv,
            "bus": bus,
            "first": -1 if first == _M64 else first,
            "minflt": minflt,
            "sum": total,
        }

    def poke(self, offset: int, *words: int) -> int:
        """Puts words into its scratch area; returns their address."""
        for i in range(0, len(words), 6):
            part = words[i : i + 6]
            self._ask(_POKE, offset + 8 * i, len(part), *part)
        return self.scratch + offset

    def peek(self, offset: int) -> tuple[int, ...]:
        """Eight words of its scratch area."""
        return self._ask(_PEEK, offset)

    def fill(self, offset: int, count: int, value: int) -> int:
        """`count` words of one value; returns their address."""
        self._ask(_FILL, offset, count, value)
        return self.scratch + offset

    def runs(self, offset: int, count: int) -> list[list[int]]:
        """Runs (start, length) of scratch bytes whose lowest bit is set."""
        found: list[list[int]] = []
        while True:
            n, *rest = self._ask(_RUNS, offset, count, len(found))
            found += [[rest[2 * i], rest[2 * i + 1]] for i in range(n)]
            if n < 3:
                return found

    def give(self, file: int) -> int:
        """Hands an open file to it; returns the number that it has there."""
        return self._ask(_KEEP, file=file)[0]

    def fork(self) -> Agent:
        """It forks: the child. OSError where it could not."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            result = self._ask(_FORK, file=its.fileno())[0]
        if result >> 63:
            ours.close()
            raise OSError((1 << 64) - result, os.strerror((1 << 64) - result))
        child_answer = ours.recv(_ANSWER.size)  # it says that it is there
        if len(child_answer) != _ANSWER.size:
            raise HostError("a forked process died at once")
        return Agent(result, ours, None)

    # ---- its end

    def leave(self) -> None:
        """It exits; returns when its address space is gone."""
        with contextlib.suppress(OSError):
            self._channel.send(_REQUEST.pack(_LEAVE, *[0] * 8))
        self._channel.close()
        self.wait_gone()

    def wait_gone(self) -> None:
        """Waits until the process has ended."""
        if self._child is not None:
            self._child.wait(timeout=_PATIENCE)
            return
        end = time.monotonic() + _PATIENCE
        while self._state() not in ("", "Z", "X"):
            if time.monotonic() > end:
                raise HostError(f"process {self.pid} of the scenario does not end")
            time.sleep(0.0002)

    def _state(self) -> str:
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return ""
        return text.rsplit(")", 1)[1].split()[0]
