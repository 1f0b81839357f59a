"""arm's cache on a machine: two addresses of a page, what is lost without a guard, and adjust_pte in its versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from machines import together

import pgtbl
from pgtbl import torture
from pgtbl._race import make_order
from pgtbl.trace import load_trace

PAGE, EXTENT = 4096, 2 << 20
SPLIT = "split locks (hypothetical)"


@pytest.fixture
def machine() -> Iterator[pgtbl.Machine]:
    with pgtbl.Machine(arch="arm", memory="64MiB") as made:
        yield made
        made.check()


def two_mappings(machine: pgtbl.Machine) -> tuple[pgtbl.Mm, pgtbl.File, int, int]:
    shm = machine.shmem(EXTENT)
    mm = machine.mm()
    first, second = mm.mmap(shm), mm.mmap(shm)
    return mm, shm, first.start, second.start


# ---- threads at once --------------------------------------------------------------------------------


def test_stores_are_kept_while_mappings_become_uncached(machine: pgtbl.Machine) -> None:
    """Each thread has a word of its own; others take the page's two mappings away, and bring them back."""
    mm, _, a, b = two_mappings(machine)

    def own(word: int) -> Callable[[], None]:
        values = iter(range(1, 1 << 60))

        def turn() -> None:
            value = next(values)
            mm.store(a + 8 * word, value)
            found = mm.load(a + 8 * word)
            assert found == value, f"thread {word} stored {value} and loads {found}"

        return turn

    def away() -> None:
        mm.madvise(a, PAGE, pgtbl.MADV_DONTNEED)
        mm.madvise(b, PAGE, pgtbl.MADV_DONTNEED)
        mm.load(a)
        mm.load(b)

    assert together(*(own(word) for word in range(4)), away) == []


def test_a_line_of_a_former_frame_is_no_breach(machine: pgtbl.Machine) -> None:
    mm = machine.mm()
    area = mm.mmap(length=4 * PAGE, shared=False)

    def store() -> None:
        for at in range(area.start, area.end, PAGE):
            mm.store(at, 1)

    assert together(store, store, lambda: mm.madvise(area, None, pgtbl.MADV_DONTNEED)) == []


def test_a_table_without_a_batch_waits_for_readers_where_dontneed_frees_it() -> None:
    """With split locks MADV_DONTNEED frees tables: with no frame left for a batch, by the table's own head."""
    with pgtbl.Machine(arch="arm", form=SPLIT, era="v6.14", memory="8MiB") as machine:
        mm, other = machine.mm(), machine.mm()
        area = mm.mmap(machine.shmem(EXTENT))
        mm.write(area.start, b"x")
        big = other.mmap(length="16MiB", shared=False)
        with ThreadPoolExecutor(1) as pool, torture.pause("map_pmd_read", arch="arm") as pause:
            reader = pool.submit(mm.pagemap, area)
            assert pause.wait(30)
            with pytest.raises(pgtbl.OutOfMemory):
                other.touch(big.addresses(), write=True)
            before = machine.ledger()
            mm.madvise(area, None, pgtbl.MADV_DONTNEED)
            d = machine.ledger() - before
            assert d["table.pte.deferred"] == 1
            assert d["table.pte.freed"] == 0
            pause.release()
            reader.result()
        machine.check()


def test_userfaultfd_moves_are_not_with_split_locks() -> None:
    with pgtbl.Machine(arch="arm", form=SPLIT, era="v6.14", memory="8MiB") as machine:
        mm = machine.mm()
        to, source = (mm.mmap(length=PAGE, shared=False) for _ in range(2))
        with mm.userfaultfd() as uffd:
            uffd.register(to, None, ["missing"])
            with pytest.raises(pgtbl.Unsupported, match="hypothetical split locks"):
                uffd.move(to.start, source.start, PAGE)


# ---- lines -------------------------------------------------------------------------------------------


def test_a_store_by_one_address_is_found_by_the_other(machine: pgtbl.Machine) -> None:
    mm, _, a, b = two_mappings(machine)
    mm.write(a, b"first")  # stays in the line, until
    assert mm.read(b, 5) == b"first"  # a second mapping makes both uncached
    mm.write(b, b"other")
    assert mm.read(a, 5) == b"other"
    mm.write(a, b"again")
    assert mm.read(b, 5) == b"again"


def test_what_a_line_has_is_not_lost(machine: pgtbl.Machine) -> None:
    shm = machine.shmem(4 * PAGE)
    mm, other = machine.mm(), machine.mm()
    area, view = mm.mmap(shm), other.mmap(shm)
    mm.write(area.start, b"by the program")
    assert shm.read(0, 14) == b"by the program"  # flush_dcache_page
    shm.write(0, b"by the kernel!")
    assert mm.read(area.start, 14) == b"by the kernel!"
    mm.write(area.start, b"for another")
    assert other.read(view.start, 11) == b"for another"  # cpu_switch_mm
    mm.write(area.start + PAGE, b"moved")
    at = mm.mremap(area.start + PAGE, PAGE, PAGE, maymove=True, fixed=True, to=area.start + EXTENT)
    assert mm.read(at, 5) == b"moved"
    mm.write(at, b"unmap")
    mm.munmap(at, PAGE)
    assert shm.read(PAGE, 5) == b"unmap"
    mm.mprotect(area.start, PAGE, "r")
    assert mm.read(area.start, 11) == b"for another"
    shm.punch(0, PAGE)
    assert mm.read(area.start, 1) == b"\0"


def test_fork_and_copy_on_write_find_what_the_line_has(machine: pgtbl.Machine) -> None:
    mm = machine.mm()
    own = mm.mmap(length=600 * PAGE, shared=False)  # more pages than the cache has lines
    for i in range(600):
        mm.write(own.start + i * PAGE, b"%03d" % i)
    child = mm.fork()
    mm.write(own.start, b"mine")
    child.write(own.start + PAGE, b"hers")
    assert child.read(own.start, 4) == b"000\0"
    assert mm.read(own.start + PAGE, 4) == b"001\0"
    assert [child.read(own.start + i * PAGE, 3) for i in range(2, 600)] == [
        b"%03d" % i for i in range(2, 600)
    ]


def test_a_device_goes_past_the_cache(machine: pgtbl.Machine) -> None:
    mm = machine.mm()
    own = mm.mmap(length=PAGE, shared=False)
    mm.store(own.start, 5)
    device = mm.secondary_mmu()
    assert device.load(own.start) == 5
    device.store(own.start, 6)
    assert mm.load(own.start) == 6


def broken(guard: str, play: Callable[[pgtbl.Machine], Any]) -> tuple[Any, str]:
    machine = pgtbl.Machine(arch="arm", memory="64MiB")
    with torture.without(guard, arch="arm"):
        found = play(machine)  # and what it keeps alive
        with pytest.raises(pgtbl.InvariantError) as error:
            machine.check()
    return found, str(error.value)


def test_a_line_that_is_not_written_back_is_seen_late() -> None:
    def play(machine: pgtbl.Machine) -> tuple[pgtbl.Mm, bytes, bytes]:
        mm, shm, a, b = two_mappings(machine)
        mm.write(a, b"store")
        lost = mm.read(b, 5)
        mm.write(b, b"later")
        with pytest.raises(pgtbl.InvariantError, match="A-9: the cache has a line"):
            machine.check()
        mm.munmap(a, PAGE)  # writes the line back, over what was stored since
        seen = shm.read(0, 5)
        mm.write(a + PAGE, b"x")
        mm.read(b + PAGE, 1)
        return mm, lost, seen

    (_, lost, seen), told = broken("arm_flush_line", play)
    assert lost == bytes(5)
    assert seen == b"store"
    assert "where frame" in told
    assert "is mapped uncached" in told


def test_a_second_mapping_that_stays_cached_is_stale() -> None:
    def play(machine: pgtbl.Machine) -> tuple[pgtbl.Mm, bytes]:
        mm, _, a, b = two_mappings(machine)
        mm.write(a, b"first")
        mm.read(b, 5)
        mm.write(a, b"again")
        return mm, mm.read(b, 5)

    (_, found), told = broken("arm_adjust_own", play)
    assert found == b"first"
    assert "of them may be cached" in told


# ---- adjust_pte in its versions -------------------------------------------------------------------------


class Told:
    """What is found broken is raised by whichever call ends next."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def do(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except pgtbl.InvariantError as error:
            self.texts.append(str(error))

    def text(self, machine: pgtbl.Machine) -> str:
        self.do(machine.check)
        return "\n".join(self.texts)


def same_table(machine: pgtbl.Machine, told: Told) -> None:
    shm = machine.shmem(PAGE)
    mm = machine.mm()
    a, b = mm.mmap(shm), mm.mmap(shm)
    assert a.start // EXTENT == b.start // EXTENT
    for area in (a, b):
        told.do(mm.write, area.start, b"x")


def no_fault(machine: pgtbl.Machine, told: Told) -> None:
    """UFFDIO_CONTINUE sets the entry, and there is no fault whose lock could be asked for."""
    mm, _, a, b = two_mappings(machine)
    mm.write(a, b"x")
    uffd = mm.userfaultfd()
    uffd.register(b, EXTENT, modes=["minor"])
    told.do(uffd.continue_, b, PAGE)


def table_goes(machine: pgtbl.Machine, told: Told) -> None:
    """MADV_DONTNEED frees the other table between adjust_pte's look at it and the next."""
    mm, _, a, b = two_mappings(machine)
    mm.write(a + PAGE, b"x")
    mm.write(b + 2 * PAGE, b"x")
    with (
        ThreadPoolExecutor(max_workers=1) as pool,
        torture.pause("ap_table_found", arch="arm") as found,
    ):
        fault = pool.submit(told.do, mm.write, a, b"x")
        assert found.wait(20)
        told.do(mm.madvise, b, EXTENT, pgtbl.MADV_DONTNEED)
        found.release()
        fault.result()


def two_faults(machine: pgtbl.Machine, told: Told) -> None:
    """Of two pages, as the folio lock parts those of one. Each holds its table's lock, and comes for the other's."""
    mm, _, a, b = two_mappings(machine)
    mm.write(a + PAGE, b"x")
    mm.write(b + 2 * PAGE, b"x")
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=2))
        found = stack.enter_context(torture.pause("ap_table_found", 2, arch="arm"))
        faults: list[Future[None]] = [
            pool.submit(told.do, mm.write, at, b"x") for at in (a, b + 4 * PAGE)
        ]
        for _ in range(2000):
            if found.waiting == 2:
                break
            found.wait(0.01)
        assert found.waiting == 2
        found.release()
        for fault in faults:
            fault.result()


VERSIONS: list[tuple[str, str | None, str | None, Callable[..., None], str]] = [
    # era, form, without, play, what is told
    ("v6.5", SPLIT, None, same_table, "A-7"),
    ("v6.6", SPLIT, None, same_table, "A-7"),
    ("v6.13", SPLIT, None, same_table, ""),
    ("v6.14", SPLIT, None, same_table, ""),
    ("v6.14", SPLIT, "arm_same_table", same_table, "A-7"),
    ("v6.6", None, None, same_table, ""),
    ("v6.6", None, "arm_split_only", same_table, "A-7"),
    ("v6.6", SPLIT, None, no_fault, ""),
    ("v6.13", SPLIT, None, no_fault, "B49"),
    ("v6.13", None, None, no_fault, "B49"),
    ("v6.14", SPLIT, None, no_fault, ""),
    ("v6.14", SPLIT, "arm_by_address", no_fault, "B49"),
    ("v6.14", SPLIT, None, table_goes, ""),
    ("v6.14", SPLIT, "arm_one_read", table_goes, "A-8"),
    ("v6.14", SPLIT, None, two_faults, "G-31"),
    ("v6.6", SPLIT, None, two_faults, "G-31"),
]


@pytest.mark.parametrize(
    ("era", "form", "without", "play", "expected"),
    VERSIONS,
    ids=["-".join(filter(None, (v[0], v[1] and "split", v[2], v[3].__name__))) for v in VERSIONS],
)
def test_adjust_pte(
    era: str, form: str | None, without: str | None, play: Callable[..., None], expected: str
) -> None:
    machine = pgtbl.Machine(arch="arm", era=era, form=form, memory="64MiB")
    told = Told()
    with ExitStack() as stack:
        if without:
            stack.enter_context(torture.without(without, arch="arm"))
        play(machine, told)
        text = told.text(machine)
    assert f"{expected}: " in text if expected else text == ""


def test_the_version_is_a_switch() -> None:
    machine = pgtbl.Machine(
        arch="arm", era="v6.14", form=SPLIT, switches={"adjust_pte": 0}, memory="64MiB"
    )
    told = Told()
    table_goes(machine, told)
    assert "A-8: adjust_pte reads the PMD" in told.text(machine)


def test_the_hypothetical_form_is_called_so() -> None:
    with pgtbl.Machine(arch="arm", form=SPLIT, memory="64MiB") as machine:
        assert machine.form == SPLIT
    rows = [row for row in pgtbl.architectures() if row["name"] == "arm"]
    assert [(row["form"], row["split_ptl"]) for row in rows] == [
        ("virtually tagged caches", False),
        (SPLIT, True),
    ]
    # PT_RECLAIM, too, is there in that form alone.
    with pytest.raises(ValueError, match="arm, form 'virtually tagged caches', has 0 in every era"):
        pgtbl.Machine(arch="arm", era="v6.14", switches={"reclaim_tables": 1})


def test_the_race_is_adjust_pte_against_faults() -> None:
    result = pgtbl.race(["v6.6"], arch="arm", walkers=2, seconds=0.2, rounds=1, mms=0)
    assert result.workload["name"] == "aliases"
    assert "On arm there are no huge pages" in str(result)
    assert "--workload runs another" in result.workload["notes"][-1]
    other = pgtbl.race(["v6.6"], arch="arm", workload="own-range", seconds=0.2, rounds=1, mms=0)
    assert "another" not in other.workload["notes"][-1]
    mine = make_order(
        eras=["v6.6"], arch="arm", trace=load_trace(None), seconds=0.2, rounds=1, mms=0
    )
    assert "nothing is collapsed" in mine.plan.notes[-1]
    assert "another" not in mine.plan.notes[-1]
    assert result.eras["v6.6"].faults > 0
