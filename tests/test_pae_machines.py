"""x86-pae's halves on real threads: torn reads are forced, and told as they happen (A-5, A-6)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import pgtbl
from pgtbl import torture

HERE = Path(__file__).parent
PAGE = 4096


class Stage:
    """A program with one extent of a file, whose table lies in a frame that others agree with in the low half.

    Four neighbouring frames agree, from a multiple of four on, and the first has 0 for its high half. The program's table
    lies in the second; the first is a page of another program. Who fills, who reads and who collapses is a thread each, so a
    CPU each: the next frame that a CPU hands out is the one that it freed last.
    """

    def __init__(self, machine: pgtbl.Machine, stack: ExitStack) -> None:
        self.filler, self.reader, self.writer = (
            stack.enter_context(ThreadPoolExecutor(max_workers=1)) for _ in range(3)
        )
        self._stack = stack
        self.told: list[str] = []
        self.shm = machine.shmem(machine.pmd_size)
        self.mm, self.other = machine.mm(), machine.mm()
        self.area = self.mm.mmap(self.shm)
        scratch = self.other.mmap(length=64 * PAGE, shared=False)
        self.filler.submit(self._fill, scratch).result()

    def _fill(self, scratch: pgtbl.Vma) -> None:
        self.shm.allocate(0, self.area.end - self.area.start)
        self.mm.write(self.mm.mmap(length=PAGE, shared=False).start, b"x")  # the upper tables
        for at in range(scratch.start, scratch.end, PAGE):
            self.other.write(at, b"x")
        pages = self.other.pagemap(scratch)
        self.page_of = {int(row["pfn"]): int(row["va"]) for row in pages}
        self.group = next(
            pfn for pfn in sorted(self.page_of) if pfn % 4 == 0 and pfn + 3 in self.page_of
        )

    def pause(self, point: str) -> torture.pause:
        return self._stack.enter_context(torture.pause(point, arch="x86-pae"))

    def _do(self, call: Callable[..., Any], *arguments: Any) -> None:
        """What is found broken is raised by whichever call ends next."""
        try:
            call(*arguments)
        except pgtbl.InvariantError as error:
            self.told.append(str(error))

    def map_with(self, frame: int) -> Future[None]:
        """A fault puts a table into the extent's PMD, and it lies in this frame."""

        def fault() -> None:
            self._do(self.other.madvise, self.page_of[frame], PAGE, pgtbl.MADV_DONTNEED)
            self._do(self.mm.read, self.area.start, 1)
            assert self.mm.walk(self.area.start)[-1].table == frame

        return self.filler.submit(fault)

    def read(self) -> Future[None]:
        """Looks at the extent without a lock, on a CPU that does not run the program."""
        return self.reader.submit(self._do, self.mm.pagemap, self.area)

    def collapse(self) -> Future[None]:
        length = self.area.end - self.area.start
        return self.writer.submit(
            self._do, self.mm.madvise, self.area.start, length, pgtbl.MADV_COLLAPSE
        )

    def punch(self) -> Future[None]:
        return self.writer.submit(self._do, self.shm.punch, 8 * PAGE, PAGE)


def low_read_and_cleared(stage: Stage) -> tuple[Any, Any, Future[None], Future[None]]:
    """A reader stands behind its first look at the low half, and the writer has cleared the PMD: where both are held."""
    stage.map_with(stage.group + 1).result()
    low, gone = stage.pause("pae_low_read"), stage.pause("rt_cleared_before_flush")
    read = stage.read()
    assert low.wait(20)
    collapse = stage.collapse()
    assert gone.wait(20)
    return low, gone, read, collapse


def another_table_comes(stage: Stage) -> None:
    """Between two looks at the low half the table goes, and another comes that agrees in it; in between, the high half is none."""
    low, gone, read, collapse = low_read_and_cleared(stage)
    high = stage.pause("pae_high_read")
    low.release()
    assert high.wait(20)
    gone.release()
    # With interrupts off here, and all CPUs interrupted there, it is not done before the reader is.
    wait([collapse], timeout=0.2)
    if collapse.done():
        stage.punch().result()  # small pages again
        stage.map_with(stage.group + 2).result()
    high.release()
    collapse.result()
    read.result()


def the_table_goes(stage: Stage) -> None:
    """The reader has the low half; the PMD is cleared; the reader goes on."""
    low, gone, read, collapse = low_read_and_cleared(stage)
    low.release()
    read.result()
    gone.release()
    collapse.result()


def half_cleared(stage: Stage) -> None:
    """A whole read while the writer stands between the halves that it clears."""
    stage.map_with(stage.group + 1).result()
    half = stage.pause("pae_half_cleared")
    collapse = stage.collapse()
    assert half.wait(20)
    stage.read().result()
    half.release()
    collapse.result()


def half_stored(stage: Stage) -> None:
    """The same between the halves that a fault stores."""
    half = stage.pause("pae_half_stored")
    fault = stage.map_with(stage.group + 1)
    assert half.wait(20)
    stage.read().result()
    half.release()
    fault.result()


def act(machine: pgtbl.Machine, play: Callable[[Stage], None]) -> tuple[int, str]:
    """The frame that a torn read leads to, and what is told."""
    with ExitStack() as stack:
        stage = Stage(machine, stack)
        play(stage)
    try:
        machine.check()
    except pgtbl.InvariantError as error:
        stage.told.append(str(error))
    return stage.group, "\n".join(stage.told)


PLAYS: list[tuple[str, Callable[[Stage], None], set[str]]] = [
    ("pae_irq_off", another_table_comes, {"A-5"}),
    ("pae_sync", another_table_comes, {"A-5", "A-6"}),
    ("pae_sync_all", another_table_comes, {"A-5", "A-6"}),
    ("pae_low_again", the_table_goes, {"A-5"}),
    ("pae_low_off_first", half_cleared, {"A-5"}),
    ("pae_high_first", half_stored, {"A-5"}),
]


@pytest.fixture
def machine() -> Iterator[pgtbl.Machine]:
    with pgtbl.Machine(arch="x86-pae", memory="64MiB") as made:
        yield made


@pytest.mark.parametrize("play", dict.fromkeys(play for _, play, _ in PLAYS))
def test_a_read_by_halves_is_whole(machine: pgtbl.Machine, play: Callable[[Stage], None]) -> None:
    assert act(machine, play)[1] == ""


def test_a_high_half_alone_is_none(machine: pgtbl.Machine) -> None:
    # The first half of a huge PMD that is stored says that nothing may be executed there, and no more.
    with ExitStack() as stack:
        stage = Stage(machine, stack)
        stage.map_with(stage.group + 1).result()
        look = stage.pause("map_rcu_entered")
        read = stage.read()
        assert look.wait(20)  # it has seen a table
        half = stage.pause("pae_half_stored")
        collapse = stage.collapse()
        assert half.wait(20)
        look.release()
        read.result()
        half.release()
        collapse.result()
        assert stage.told == []
    machine.check()


TEXT = """
import os, sys
sys.path.insert(0, {folder!r})
import test_pae_machines as t
from pgtbl import Machine, torture
with torture.without({guard!r}, arch="x86-pae"):
    print(*t.act(Machine(arch="x86-pae", memory="64MiB"), t.{play}), sep="\\n", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("guard", "play", "told"), PLAYS, ids=[p[0] for p in PLAYS])
def test_a_torn_read_is_a_wild_pointer_and_is_told(guard: str, play: Any, told: set[str]) -> None:
    """In a process of its own: what is broken is broken."""
    code = TEXT.format(folder=str(HERE), guard=guard, play=play.__name__)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    out = run.stdout + run.stderr
    frame, _, text = run.stdout.partition("\n")
    assert {name for name in ("A-5", "A-6") if f"{name}: " in text} == told, out
    assert "never stored there" in text, out
    # The reader has followed it into another program's page.
    assert f"frame {frame} is a data, not a PTE table" in text, out


@pytest.mark.parametrize("guard", ["pae_sync", "pae_sync_all"])
def test_a_store_after_a_clear_that_waited_for_nobody_is_told(guard: str) -> None:
    """Without any reader: the rule is broken on every day (A-6)."""
    machine = pgtbl.Machine(arch="x86-pae", memory="64MiB")
    mm = machine.mm()
    area = mm.mmap(machine.shmem(machine.pmd_size))
    mm.write(area.start, b"x")
    with (
        torture.without(guard, arch="x86-pae"),
        pytest.raises(pgtbl.InvariantError, match=r"A-6: .*table .* taken out by CPU"),
    ):
        mm.madvise(area.start, machine.pmd_size, pgtbl.MADV_COLLAPSE)
    machine.check()  # told once
    machine.close()
