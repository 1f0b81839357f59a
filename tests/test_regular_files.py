"""Regular files, and their huge pages, which nobody may write to (READ_ONLY_THP_FOR_FS)."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

import numpy as np
import pytest
from forced import A_WHILE, Lab, Race, at, both_ways, collapse, expect, outcome
from machines import machine_of

import pgtbl
from pgtbl import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_REMOVE,
    torture,
)

PAGE, PAGES, EXTENT = 4096, 512, 2 << 20
ERAS = ("v6.4", "v6.5", "v6.6", "v6.13", "v6.18")
machine = machine_of(ERAS)
newest = machine_of(("v6.18",))


def numbers(pages: int = PAGES, first: int = 1000) -> bytes:
    """Pages that begin with 1000, 1001, ..."""
    words = np.zeros((pages, PAGE // 8), np.uint64)
    words[:, 0] = first + np.arange(pages)
    return words.tobytes()


def on_disk(machine: pgtbl.Machine, pages: int = PAGES) -> pgtbl.File:
    """A file that was written, synced and forgotten, as one that was installed a week ago."""
    file = machine.file(pages * PAGE)
    file.write(0, numbers(pages))
    file.sync()
    assert file.drop_cache() == pages
    return file


def program(machine: pgtbl.Machine, file: pgtbl.File, **named: object) -> tuple[pgtbl.Mm, int]:
    """Which has the file mapped as its code is."""
    mm = machine.mm()
    mapped = mm.mmap(file, **{"shared": False, "prot": "rx", **named})  # type: ignore[arg-type]
    return mm, mapped.start


def collapse_errno(mm: pgtbl.Mm, start: int, length: int = EXTENT) -> int:
    try:
        mm.madvise(start, length, MADV_COLLAPSE)
    except OSError as error:
        return error.errno or -1
    return 0


# ---- the file and its disk ----------------------------------------------------------------------


def test_what_was_written_back_comes_from_the_disk(machine: pgtbl.Machine) -> None:
    file = on_disk(machine)
    assert (file.kind, len(file.pages()), file.nr_thps) == ("regular", 0, 0)
    mm, start = program(machine, file)
    assert mm.load(start + 7 * PAGE) == 1007
    assert mm.rss == {"file": 1, "anon": 0, "shmem": 0}
    assert file.read(9 * PAGE, 8) == (1009).to_bytes(8, "little")
    pages = file.pages()
    assert pages["index"].tolist() == [7, 9]
    assert pages["dirty"].tolist() == [0, 0]


def test_what_is_dirty_or_mapped_or_pinned_stays_in_the_cache(machine: pgtbl.Machine) -> None:
    file = on_disk(machine, 4)
    mm, start = program(machine, file)
    file.write(0, b"dirty")
    mm.load(start + PAGE)
    pin = mm.pin(start + 2 * PAGE)
    mm.madvise(start, 4 * PAGE, MADV_DONTNEED)
    mm.load(start + PAGE)
    mm.load(start + 3 * PAGE)
    mm.madvise(start + 3 * PAGE, PAGE, MADV_DONTNEED)
    assert file.drop_cache() == 1
    assert file.pages()["index"].tolist() == [0, 1, 2]
    pin.close()


def test_a_store_through_a_mapping_reaches_the_disk(machine: pgtbl.Machine) -> None:
    file = on_disk(machine, 4)
    mm, start = program(machine, file, shared=True, prot="rw")
    mm.store(start + PAGE, 5)
    file.sync()
    mm.store(start + PAGE, 6)  # the entry says so; the folio learns of it as the entry goes
    mm.munmap(start, 4 * PAGE)
    assert file.drop_cache() == 0
    file.sync()
    assert file.drop_cache() == 1
    assert file.read(PAGE, 8) == (6).to_bytes(8, "little")


def test_what_is_cut_off_or_punched_is_off_the_disk_too(machine: pgtbl.Machine) -> None:
    file = on_disk(machine, 8)
    free = machine.free_memory
    file.punch(PAGE, PAGE + 100)
    file.truncate(5 * PAGE - 100)
    file.truncate(8 * PAGE)
    file.sync()
    file.drop_cache()
    words = [int.from_bytes(file.read(i * PAGE, 8), "little") for i in range(8)]
    assert words == [1000, 0, 0, 1003, 1004, 0, 0, 0]
    file.drop_cache()
    assert machine.free_memory == free + 4 * PAGE


def test_a_disk_that_is_full_is_told(newest: pgtbl.Machine) -> None:
    with pgtbl.Machine(memory="8MiB") as machine:
        file = machine.file("6MiB")
        file.write(0, bytes(5 << 20))
        with pytest.raises(pgtbl.OutOfMemory, match="on its disk"):
            file.sync()
        assert file.pages()["dirty"].sum() > 0
        file.truncate(PAGE)
        file.sync()
        machine.check()


@pytest.mark.parametrize("era", ["v6.4", "v6.18"])
def test_what_is_cut_off_a_page_is_off_the_disk_without_a_frame(era: str) -> None:
    with pgtbl.Machine(era=era, memory="8MiB") as machine:
        file = on_disk(machine, 4)
        file.write(0, b"\xff" * (4 * PAGE))
        file.sync()
        file.drop_cache()
        hog = machine.shmem("8MiB")
        with pytest.raises(pgtbl.OutOfMemory):
            hog.write(0, bytes(8 << 20))
        file.punch(PAGE, 100)
        file.truncate(3 * PAGE + 100)
        assert len(file.pages()) == 0
        file.truncate(4 * PAGE)
        hog.close()
        found = [
            (at, file.read(at, 1)[0]) for i in (1, 3) for at in (i * PAGE + 99, i * PAGE + 100)
        ]
        assert found == [
            (PAGE + 99, 0),
            (PAGE + 100, 255),
            (3 * PAGE + 99, 255),
            (3 * PAGE + 100, 0),
        ]
        machine.check()


def test_a_hole_that_is_cut_stays_a_hole(machine: pgtbl.Machine) -> None:
    file = machine.file(4 * PAGE)
    file.punch(PAGE + 100, 100)
    file.truncate(3 * PAGE + 100)
    assert len(file.pages()) == 0


def test_a_file_that_was_opened_to_be_read_is_not_stored_to(machine: pgtbl.Machine) -> None:
    file = on_disk(machine, 4)
    mm, start = program(machine, file, shared=True, prot="r")
    with pytest.raises(OSError, match="opened for reading") as error:
        mm.mprotect(start, PAGE, "rw")
    assert error.value.errno == errno.EACCES
    with pytest.raises(OSError, match="madvise") as error:
        mm.madvise(start, PAGE, MADV_REMOVE)
    assert error.value.errno == errno.EACCES
    mm.mprotect(start, PAGE, "rx")
    uffd = mm.userfaultfd()
    with pytest.raises(OSError, match="regular file") as error:
        uffd.register(start, PAGE, ["missing"])
    assert error.value.errno == errno.EINVAL


# ---- huge pages ---------------------------------------------------------------------------------


def test_clean_pages_become_huge(machine: pgtbl.Machine) -> None:
    file = on_disk(machine)
    mm, start = program(machine, file)
    mm.madvise(start, EXTENT, MADV_POPULATE_READ)
    before = machine.ledger()
    assert collapse_errno(mm, start) == 0
    took = machine.ledger() - before
    assert took["mmap_lock.write"] == (1 if machine.era in ("v6.4", "v6.5") else 0)
    assert file.nr_thps == 1
    assert file.pages()["huge"].tolist() == [1]
    assert file.pages()["dirty"].tolist() == [0]
    assert mm.rss == {"file": PAGES, "anon": 0, "shmem": 0}
    kib = mm.smaps()[0]["kib"]
    assert (kib["FilePmdMapped"], kib["Private_Clean"]) == (2048, 2048)
    assert [mm.load(start + i * PAGE) for i in (0, 255, 511)] == [1000, 1255, 1511]


def test_what_is_missing_is_read_in(machine: pgtbl.Machine) -> None:
    file = on_disk(machine)
    mm, start = program(machine, file)
    mm.load(start + 7 * PAGE)
    assert collapse_errno(mm, start) == 0
    assert mm.load(start + 300 * PAGE) == 1300


def test_an_extent_that_the_file_ends_in_stays_small(machine: pgtbl.Machine) -> None:
    file = on_disk(machine, PAGES - 1)
    mm, start = program(machine, file, length=EXTENT)
    mm.load(start)
    assert collapse_errno(mm, start) == errno.EINVAL
    assert (file.nr_thps, file.pages()["huge"].sum()) == (0, 0)


def test_dirty_pages_are_written_back_and_collapsed_the_next_time(machine: pgtbl.Machine) -> None:
    file = machine.file(EXTENT)
    file.write(0, numbers())
    mm, start = program(machine, file)
    mm.load(start)
    assert collapse_errno(mm, start) == errno.EINVAL
    assert file.pages()["dirty"].sum() == 0
    assert collapse_errno(mm, start) == 0


@pytest.mark.parametrize("how", ["madvise", "scan", "daemon"])
def test_a_full_disk_is_no_matter_of_a_collapse(how: str) -> None:
    """What is dirty cannot be written back: the extent stays small, and nothing stays locked."""
    with pgtbl.Machine(era="v6.18", memory="8MiB") as machine:
        file = machine.file("4MiB")
        file.write(0, bytes(PAGE))
        file.sync()
        file.write(PAGE, bytes((4 << 20) - PAGE))
        mm, start = program(machine, file)
        mm.load(start)
        if how == "madvise":
            assert collapse_errno(mm, start) == errno.EINVAL
        else:
            mm.madvise(start, EXTENT, MADV_HUGEPAGE)
        if how == "scan":
            assert machine.khugepaged.scan() == 0
        if how == "daemon":
            machine.khugepaged.start(0.001)
            end = time.monotonic() + 20
            while machine.ledger()["khugepaged.scans"] < 3 and time.monotonic() < end:
                time.sleep(0.001)
            machine.khugepaged.stop()
            assert machine.ledger()["khugepaged.scans"] >= 3
        machine.check()
        assert (file.nr_thps, file.pages()["huge"].sum()) == (0, 0)
        with pytest.raises(pgtbl.OutOfMemory, match="on its disk"):
            file.sync()
        file.write(0, b"x")
        machine.check()


@pytest.mark.parametrize("advice", [MADV_COLD, MADV_PAGEOUT])
def test_a_huge_page_that_advice_takes_apart_is_counted_no_more(
    machine: pgtbl.Machine, advice: int
) -> None:
    file = on_disk(machine)
    mm, start = program(machine, file)
    mm.load(start)
    assert collapse_errno(mm, start) == 0
    mm.load(start)
    mm.madvise(start + PAGE, PAGE, advice)
    assert (file.nr_thps, file.pages()["huge"].sum()) == (0, 0)
    machine.check()
    with file.open():
        assert len(file.pages()) == PAGES  # there is nothing huge to drop
    assert mm.load(start + 5 * PAGE) == 1005
    assert collapse_errno(mm, start) == 0


def test_which_mappings_qualify(machine: pgtbl.Machine) -> None:
    """Until 6.10 executable ones alone."""
    early = machine.era in ("v6.4", "v6.5", "v6.6")
    for shared in (False, True):
        for prot in ("r", "rx"):
            file = on_disk(machine)
            mm, start = program(machine, file, shared=shared, prot=prot)
            mm.load(start)
            expected = errno.EINVAL if early and prot == "r" else 0
            assert collapse_errno(mm, start) == expected, (shared, prot)
            mm.close()
            file.close()


def test_the_switch(newest: pgtbl.Machine) -> None:
    with pgtbl.Machine(era="v6.18", memory="32MiB", switches={"file_thp": 0}) as machine:
        mm, start = program(machine, on_disk(machine))
        mm.load(start)
        assert collapse_errno(mm, start) == errno.EINVAL


def test_opening_drops_the_huge_pages_everywhere(machine: pgtbl.Machine) -> None:
    file = on_disk(machine, 2 * PAGES)
    mm, start = program(machine, file)
    other, there = program(machine, file)
    mm.load(start)  # before 6.19 collapse wants the upper tables to be there
    for i in range(2):
        assert collapse_errno(mm, start + i * EXTENT) == 0
        assert other.load(there + i * EXTENT) == 1000 + i * PAGES
    own = machine.mm()
    private = own.mmap(file, shared=False, prot="rw").start
    own.store(private, 5)
    assert file.nr_thps == 2
    with file.open() as opened:
        assert not opened.closed
        assert (file.nr_thps, len(file.pages())) == (0, 0)
        assert mm.rss["file"] == other.rss["file"] == 0
        machine.check()
        assert collapse_errno(mm, start) == errno.EINVAL
        assert mm.load(start + 3 * PAGE) == 1003
        assert own.load(private) == 5  # its own copy stays
    assert opened.closed
    assert collapse_errno(mm, start) == 0


def test_every_way_to_write_opens_the_file(machine: pgtbl.Machine) -> None:
    file = on_disk(machine)
    mm, start = program(machine, file)
    mm.load(start)
    ways = [
        lambda: file.write(0, (1000).to_bytes(8, "little")),
        lambda: file.truncate(EXTENT),
        lambda: file.punch(PAGE, 8),
        lambda: file.allocate(0, EXTENT),
        lambda: mm.munmap(mm.mmap(file, prot="rw")),
    ]
    for way in ways:
        file.sync()
        assert collapse_errno(mm, start) == 0
        assert file.nr_thps == 1
        way()
        assert file.nr_thps == 0
        machine.check()


def test_a_writable_shared_mapping_keeps_the_file_open(machine: pgtbl.Machine) -> None:
    file = on_disk(machine)
    mm, start = program(machine, file)
    mm.load(start)
    writer = machine.mm()
    mapped = writer.mmap(file, prot="rw")
    child = writer.fork()
    for closes in (
        lambda: writer.munmap(mapped.start, PAGE),
        lambda: writer.close(),
        lambda: child.close(),
    ):
        assert collapse_errno(mm, start) == errno.EINVAL
        closes()
    assert collapse_errno(mm, start) == 0


def test_khugepaged_takes_what_policy_and_advice_allow(machine: pgtbl.Machine) -> None:
    file = on_disk(machine)
    mm, start = program(machine, file)
    mm.load(start)
    assert machine.khugepaged.scan() == 0
    mm.madvise(start, EXTENT, MADV_HUGEPAGE)
    assert mm.smaps()[0]["kib"]["THPeligible"] == 1
    with file.open():
        assert "THPeligible" not in mm.smaps()[0]["kib"]
        assert machine.khugepaged.scan() == 0
    machine.khugepaged.max_ptes_none = 0
    assert machine.khugepaged.scan() == 0
    machine.khugepaged.max_ptes_none = 511
    assert machine.khugepaged.scan() == 1
    assert file.nr_thps == 1
    mm.load(start)
    assert mm.smaps()[0]["kib"]["FilePmdMapped"] == 2048


def test_open_files_end_with_the_file_and_the_machine() -> None:
    with pgtbl.Machine(memory="16MiB") as machine:
        file = machine.file("1MiB")
        opened, again = file.open(), file.open()
        assert repr(opened) == f"<pgtbl.OpenFile of file {file.id}>"
        opened.close()
        opened.close()
        file.close()
        assert again.closed
        again.close()
        with pytest.raises(pgtbl.ClosedError):
            file.open()
        left = machine.file("1MiB").open()
    assert left.closed
    left.close()


# ---- long pins ----------------------------------------------------------------------------------


def frames(mm: pgtbl.Mm, addr: int) -> list[int]:
    return mm.pagemap(addr, PAGE)["pfn"].tolist()


def test_a_long_pin_to_read_is_of_the_programs_own_page(machine: pgtbl.Machine) -> None:
    """Of the zero page, and of a file's page in a private mapping, it gets a copy, which later stores reach."""
    mm = machine.mm()
    anon = mm.mmap(length=4 * PAGE, shared=False).start
    file = machine.shmem(4 * PAGE)
    file.write(0, numbers(4))
    private = mm.mmap(file, shared=False).start
    for start, word in ((anon, 0), (private, 1000)):
        assert mm.load(start) == word
        short = mm.pin(start, kind="pin")
        assert short.frames == frames(mm, start)
        short.close()
        pin = mm.pin(start, kind="longterm")
        assert pin.frames == frames(mm, start)
        assert mm.load(start) == word
        mm.store(start, 7)
        assert pin.frames == frames(mm, start)
        pin.close()
    shared = mm.mmap(file).start
    pin = mm.pin(shared, kind="longterm")
    assert pin.frames == frames(mm, shared) == [int(file.pages()["pfn"][0])]
    pin.close()


def test_a_read_only_mapping_can_be_pinned_to_be_read(machine: pgtbl.Machine) -> None:
    mm = machine.mm()
    start = mm.mmap(length=PAGE, shared=False).start
    mm.store(start, 3)
    mm.mprotect(start, PAGE, "r")
    child = mm.fork()
    pin = mm.pin(start, kind="pin")
    assert pin.frames == frames(mm, start) != frames(child, start)
    assert (mm.load(start), child.load(start)) == (3, 3)
    mm.mprotect(start, PAGE, "rw")
    mm.store(start, 4)
    assert pin.frames == frames(mm, start)
    pin.close()


def a_huge_page(mm: pgtbl.Mm) -> int:
    """The start of one of private memory, whose first word is 3."""
    start = mm.mmap(length=EXTENT, shared=False).start
    mm.madvise(start, EXTENT, MADV_HUGEPAGE)
    mm.store(start, 3)
    return start


def test_a_shared_huge_page_is_taken_apart_for_a_pin(machine: pgtbl.Machine) -> None:
    mm = machine.mm()
    start = a_huge_page(mm)
    child = mm.fork()
    pin = mm.pin(start + PAGE, kind="pin")
    mm.store(start + PAGE, 5)
    assert pin.frames == frames(mm, start + PAGE)
    assert (child.load(start + PAGE), child.load(start), mm.load(start)) == (0, 3, 3)
    pin.close()


def test_any_part_of_a_read_only_huge_page_can_be_pinned(machine: pgtbl.Machine) -> None:
    mm = machine.mm()
    start = a_huge_page(mm)
    mm.mprotect(start, EXTENT, "r")
    for kind in ("pin", "longterm"):
        for page in (0, 1, 511):
            pin = mm.pin(start + page * PAGE, kind=kind)
            assert pin.frames == frames(mm, start + page * PAGE)
            pin.close()
    assert mm.smaps()[0]["kib"]["AnonHugePages"] == 2048


@pytest.mark.parametrize("kind", ["shmem", "regular"])
def test_a_long_pin_of_a_files_huge_page_gets_a_copy(machine: pgtbl.Machine, kind: str) -> None:
    file = on_disk(machine) if kind == "regular" else machine.shmem(EXTENT)
    if kind == "shmem":
        file.write(0, numbers())
    mm, start = program(machine, file, prot="rx")
    mm.load(start)
    assert collapse_errno(mm, start) == 0
    mm.load(start)
    at_ = start + PAGE
    cached = int(file.pages()["pfn"][0]) + 1
    short = mm.pin(at_, kind="pin")
    assert short.frames == frames(mm, at_) == [cached]
    short.close()
    pin = mm.pin(at_, kind="longterm")
    assert pin.frames == frames(mm, at_) != [cached]
    assert (mm.load(at_), mm.load(start)) == (1001, 1000)
    mm.mprotect(start, EXTENT, "rw")
    mm.store(at_, 7)
    assert pin.frames == frames(mm, at_)
    assert file.read(PAGE, 8) == (1001).to_bytes(8, "little")
    pin.close()


def test_a_regular_file_is_not_pinned_to_be_written_for_long(machine: pgtbl.Machine) -> None:
    file = on_disk(machine, 4)
    mm, start = program(machine, file, shared=True, prot="rw")
    mm.store(start, 1)
    mm.pin(start, write=True, kind="pin").close()
    assert file.pages()["dirty"].tolist() == [1]
    if machine.era == "v6.4":
        mm.pin(start, write=True, kind="longterm").close()
    else:
        with pytest.raises(OSError, match="cannot be read") as error:
            mm.pin(start, write=True, kind="longterm")
        assert error.value.errno == errno.EFAULT
    mm.pin(start, kind="longterm").close()
    private = mm.mmap(file, shared=False).start
    pin = mm.pin(private, write=True, kind="longterm")
    assert pin.frames == frames(mm, private)
    pin.close()


# ---- races --------------------------------------------------------------------------------------


class Code:
    """A file on the disk, mapped by a program that could run it."""

    def __init__(self, lab: Lab) -> None:
        self.file = lab.machine.file(EXTENT)
        lab.kept.append(self.file)
        self.file.write(0, numbers())
        self.file.sync()
        self.mm = lab.mm()
        self.at = self.mm.mmap(self.file, shared=False, prot="rx").start
        self.mm.load(self.at)


def opened_before_the_count(lab: Lab) -> None:
    """A collapse has every small page; somebody opens the file, and finds no huge page to drop."""
    code = Code(lab)
    with torture.pause("cf_unmapped_i", skip=PAGES - 1) as pause:
        collapser = lab.task(lambda: collapse(code.mm, code.at))
        at(pause)
        lab.kept.append(code.file.open())
    expect(collapser.join(), errno.EINVAL, "errno of MADV_COLLAPSE, G-48")


def opened_after_the_look(lab: Lab) -> None:
    """A collapse has found no writer, and its huge page is still to come: who opens the file then waits for it, and drops it."""
    code = Code(lab)
    with torture.pause("cf_copied_i", skip=PAGES - 1) as pause:
        collapser = lab.task(lambda: collapse(code.mm, code.at))
        at(pause)
        opener = lab.task(code.file.open)
        opener.done(A_WHILE)
    # The opener may drop the huge page before the collapse has mapped it.
    assert collapser.join() in (0, errno.EINVAL)
    lab.kept.append(opener.join())
    expect(code.file.nr_thps, 0, "G-48: huge pages of a file that is open for writing")


def dirty_page_is_collapsed(lab: Lab) -> None:
    """The last page is stored to after the collapse has begun; then the file is opened, which drops what is clean."""
    code = Code(lab)
    with torture.pause("cf_unmapped_i", skip=9) as pause:
        collapser = lab.task(lambda: collapse(code.mm, code.at))
        at(pause)
        code.file.write(EXTENT - PAGE, (7).to_bytes(8, "little"))
    collapser.join()
    code.file.open().close()
    expect(code.mm.load(code.at + EXTENT - PAGE), 7, "G-12: what was written")


def stored_through_a_mapping_that_went(lab: Lab) -> None:
    """A page is stored to by a mapping, after it was synced: as the collapse looks, only that mapping's entry knows.  The collapse
    takes the entry away; the mapping goes, and with it the only writer."""
    code = Code(lab)
    writer = lab.mm()
    with torture.pause("cf_page_seen") as begun:
        collapser = lab.task(lambda: collapse(code.mm, code.at))
        at(begun)
        mapped = writer.mmap(code.file, prot="rw").start
        writer.store(mapped, 5)
        code.file.sync()
        writer.store(mapped, 7)
        with torture.pause("cf_unmapped_i") as unmapped:
            begun.release()
            at(unmapped)
            writer.munmap(mapped, EXTENT)
    collapser.join()
    code.file.open().close()
    expect(code.mm.load(code.at), 7, "G-12: what was stored")


def punched_after_the_mapping_went(lab: Lab) -> None:
    """MADV_REMOVE has given up mmap_lock, the mapping goes, and somebody else collapses what is about to be punched."""
    code = Code(lab)
    writer = lab.mm()
    mapped = writer.mmap(code.file, prot="rw").start
    with torture.pause("md_unlocked") as pause:
        punch = lab.task(lambda: writer.madvise(mapped + PAGE, PAGE, MADV_REMOVE))
        at(pause)
        writer.munmap(mapped, EXTENT)
        expect(collapse(code.mm, code.at), errno.EINVAL, "errno of MADV_COLLAPSE, G-48")
    punch.join()
    expect(code.mm.load(code.at + PAGE), 0, "the word of the page that was punched")
    expect(collapse(code.mm, code.at), 0, "errno of MADV_COLLAPSE, nobody writing any more")


def read_behind_a_truncate(lab: Lab) -> None:
    """A page is about to be read in that is not in the file any more."""
    code = Code(lab)
    code.mm.munmap(code.at, EXTENT)
    code.file.drop_cache()
    with torture.pause("pc_missing") as pause:
        reader = lab.task(lambda: code.file.read(3 * PAGE, 8))
        at(pause)
        code.file.truncate(PAGE)
    with pytest.raises(ValueError, match="not within the file"):
        reader.join()
    expect(len(code.file.pages()), 0, "pages in the cache")


def collapsed_behind_a_truncate(lab: Lab) -> None:
    """The same by a collapse."""
    code = Code(lab)
    code.mm.munmap(code.at, EXTENT)
    code.file.drop_cache()
    code.at = code.mm.mmap(code.file, shared=False, prot="rx").start
    code.mm.load(code.at)
    with torture.pause("pc_missing") as pause:
        collapser = lab.task(lambda: collapse(code.mm, code.at))
        at(pause)
        code.file.truncate(PAGE)
    expect(collapser.join(), errno.EINVAL, "errno of MADV_COLLAPSE")
    expect(len(code.file.pages()), 1, "pages in the cache")


FILE_RACES = [
    Race("file_thp_writers", opened_before_the_count, "G-48"),
    Race("file_open_drops", opened_after_the_look, "G-48"),
    Race("file_thp_clean", dirty_page_is_collapsed, "G-12"),
    Race("file_thp_clean", dirty_page_is_collapsed, "G-12", era="v6.4"),
    Race("file_thp_clean", stored_through_a_mapping_that_went, "G-12", era="v6.18"),
]

test_with_the_guard_the_race_ends_well, test_without_the_guard_the_race_is_seen = both_ways(
    FILE_RACES
)


@pytest.mark.parametrize(
    "run",
    [punched_after_the_mapping_went, read_behind_a_truncate, collapsed_behind_a_truncate],
    ids=lambda run: run.__name__,
)
def test_races_that_no_guard_can_open(run: Callable[[Lab], None]) -> None:
    assert outcome(Race("", run, "", era="v6.18")) == ""


# ---- check() beside a fault that sleeps ----------------------------------------------------------


def test_check_beside_a_fault_that_sleeps(machine: pgtbl.Machine) -> None:
    lab = Lab(machine.era)
    mm = lab.mm()
    start = mm.mmap(length=4 * PAGE, shared=False).start
    uffd = mm.userfaultfd()
    uffd.register(start, 4 * PAGE, ["missing"])
    fault = lab.task(lambda: mm.load(start))
    message = uffd.read(timeout=20)
    assert message.address == start
    for _ in range(3):
        lab.machine.check(timeout=1)
    assert not fault.done(0)
    uffd.copy(start, (9).to_bytes(8, "little") + bytes(PAGE - 8))
    assert fault.join() == 9
    lab.machine.check()
    for task in lab.tasks:
        task.end()
    lab.machine.close()


def test_check_waits_for_a_server(machine: pgtbl.Machine) -> None:
    """Also for one that is inside of an answer to a fault which somebody else has answered meanwhile."""
    lab = Lab(machine.era)
    mm = lab.mm()
    start = mm.mmap(length=4 * PAGE, shared=False).start
    uffd = mm.userfaultfd()
    uffd.register(start, 4 * PAGE, ["missing"])
    with uffd.serve():
        with torture.pause("uf_pmd_checked") as pause:
            fault = lab.task(lambda: mm.load(start))
            at(pause)
            with pytest.raises(pgtbl.UsageError, match="does not answer"):
                lab.machine.check(timeout=0.1)
            uffd.copy(start, (9).to_bytes(8, "little") + bytes(PAGE - 8))
            assert fault.join() == 9
            with pytest.raises(pgtbl.UsageError, match="does not answer"):
                lab.machine.check(timeout=0.1)
        lab.machine.check()
    lab.machine.check()
    for task in lab.tasks:
        task.end()
    lab.machine.close()
