"""The rows of Linux's own tests of khugepaged (tools/testing/selftests/mm/khugepaged.c), in our own words.

One table; each row is a script with expectations. It runs in the laboratory under the rules of several kernels, and on the kernel
that runs here where that can be: khugepaged's limits and policies are never changed for it, and a row that needs others is skipped.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

import pgtbl
from pgtbl._compare.laboratory import Laboratory
from pgtbl._compare.language import EXTENT_PAGES, KHUGEPAGED_LIMITS
from pgtbl._compare.runs import expand_pages
from pgtbl._compare.verdict import Level, compare_results

ERAS = ("v6.4", "v6.6", "v6.18")
START = 2 * EXTENT_PAGES  # of the area: the extreme row also uses what is before it
HALF = EXTENT_PAGES // 2
FOLD = 1099511628211  # what a sum of loaded words is made with

Result = dict[str, Any]
Check = Callable[[Result], None]


@dataclass
class Play:
    """A script under construction, and what must be seen as it is played."""

    context: str
    memory: str
    script: pgtbl.Script = field(default_factory=pgtbl.Script)
    checks: list[tuple[int, Check]] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    words: dict[int, int] = field(default_factory=dict)  # what each page of the area begins with
    at: int = START
    regular_files: bool = True  # else tmpfs stands for them

    @property
    def enforces(self) -> bool:
        """Whether the limits on what an extent may hold apply: MADV_COLLAPSE has none."""
        return self.context == "khugepaged"

    def expect(self, check: Check) -> None:
        self.checks.append((len(self.script) - 1, check))

    # ---- memory

    def area(self, extents: int) -> None:
        pages = extents * EXTENT_PAGES
        if self.memory == "anon":
            self.script.mmap(self.at, pages)
        elif self.memory == "shmem":
            self.script.file("f0", pages).mmap(self.at, pages, "f0")
        else:
            self.script.file("f0", pages, kind="regular" if self.regular_files else "tmpfs")
            self.script.mmap(self.at, pages, "f0", shared=False, prot="rx")
        self.expect(_succeeded)

    def fault(self, first: int, end: int, p: str | None = None) -> None:
        """The pages are there, in memory and mapped."""
        n = end - first
        if self.memory == "file":
            self.script.pwrite("f0", first, n, 7)
            self.expect(_succeeded)
            self.script.madvise(self.at + first, n, "POPULATE_READ", p=p)
            self.expect(_succeeded)
        else:
            self.script.write(self.at + first, n, 7, p=p)
            self.expect(lambda got: _equal("pages written", got["ok"], n))
        for i in range(n):
            self.words[first + i] = 7_000_000 + i

    def contents(self, first: int, end: int, p: str | None = None) -> None:
        """Every page begins with what was written to it."""
        total = 0
        for i in range(first, end):
            total = (total * FOLD + self.words[i]) % 2**64
        self.script.read(self.at + first, end - first, p=p)
        self.expect(lambda got: _equal("sum of the contents", got["sum"], f"{total:016x}"))

    def huge(self, extents: int, p: str = "p0") -> None:
        """So many extents of the area are mapped by a PMD."""
        self.script.snap()
        first = self.at
        self.expect(lambda got: _equal("huge extents", _huge_extents(got, p, first), extents))

    def advise(self, pages: int, advice: str, p: str | None = None, first: int = 0) -> None:
        self.script.madvise(self.at + first, pages, advice, p=p)
        self.expect(_succeeded)

    def huge_page(self) -> None:
        """An extent that is mapped huge, and advised to be."""
        self.area(1)
        self.fault(0, EXTENT_PAGES)
        self.madv_collapse(1, True)
        self.huge(1)
        self.advise(EXTENT_PAGES, "HUGEPAGE")

    # ---- collapse

    def collapse(self, extents: int, good: bool, p: str | None = None) -> None:
        """By the row's context, of an area that is not huge."""
        self.huge(0, p or "p0")
        if self.context == "madvise":
            self.advise(extents * EXTENT_PAGES, "HUGEPAGE", p)
            self.madv_collapse(extents, good, p)
        else:
            self.khugepaged(extents, p, refault=self.memory != "anon")
        self.huge(extents if good else 0, p or "p0")

    def madv_collapse(self, extents: int, good: bool, p: str | None = None) -> None:
        self.script.madvise(self.at, extents * EXTENT_PAGES, "COLLAPSE", retry=2, p=p)
        self.expect(lambda got: _equal("success", got["ret"] == 0, good))

    def khugepaged(self, extents: int, p: str | None = None, *, refault: bool = False) -> None:
        """refault: of a file it leaves the PMD empty, and the next fault maps the huge page.

        That fault comes before the advice is taken back: since 6.12 none maps by a PMD where MADV_NOHUGEPAGE was given.
        """
        self.advise(extents * EXTENT_PAGES, "HUGEPAGE", p)
        self.script.khugepaged(**self.limits)
        self.expect(_succeeded)
        if refault:
            self.advise(extents * EXTENT_PAGES, "POPULATE_READ", p)
        self.advise(extents * EXTENT_PAGES, "NOHUGEPAGE", p)

    def split(self, p: str | None = None) -> None:
        """The PMD goes, the huge page stays: a VMA ends inside of it for a moment."""
        self.advise(1, "NOHUGEPAGE", p)
        self.advise(EXTENT_PAGES, "NOHUGEPAGE", p)
        self.huge(0, p or "p0")


def _equal(what: str, found: Any, expected: Any) -> None:
    assert found == expected, f"{what}: {found}, expected {expected}"


def _succeeded(got: Result) -> None:
    _equal("errno", got.get("errno"), None)


def _huge_extents(snap: Result, p: str, first: int) -> int:
    pages = expand_pages(snap["procs"][p]["pages"])
    return (
        sum(kind in ("Ah", "Fh") for pg, (kind, *_) in pages.items() if pg >= first) // EXTENT_PAGES
    )


# ---- the rows ----------------------------------------------------------------------------------------


def at_fault(play: Play) -> None:
    """A fault gives a huge page; MADV_DONTNEED of a part of it splits the PMD."""
    play.area(1)
    play.advise(EXTENT_PAGES, "HUGEPAGE")
    play.script.write(play.at, 1, 7)
    play.huge(1)
    play.advise(1, "DONTNEED")
    play.huge(0)


def full(play: Play) -> None:
    """Four extents of which every page is there become huge."""
    play.area(4)
    play.fault(0, 4 * EXTENT_PAGES)
    play.collapse(4, True)
    play.contents(0, 4 * EXTENT_PAGES)


def empty(play: Play) -> None:
    """What nobody touched does not become huge."""
    play.area(1)
    play.collapse(1, False)


def single_entry(play: Play) -> None:
    """One page is enough."""
    play.area(1)
    play.fault(0, 1)
    play.collapse(1, True)
    play.contents(0, 1)


def max_ptes_none(play: Play) -> None:
    """One page too few for khugepaged's limit; and just enough."""
    play.limits = {"max_ptes_none": HALF}
    play.area(1)
    play.fault(0, HALF - 1)
    play.collapse(1, not play.enforces)
    play.contents(0, HALF - 1)
    if play.enforces:
        play.fault(0, HALF)
        play.collapse(1, True)
        play.contents(0, HALF)


def single_entry_of_compound(play: Play) -> None:
    """One entry that maps a page of a huge page whose others were let go."""
    play.huge_page()
    play.advise(EXTENT_PAGES, "NOHUGEPAGE")
    play.advise(EXTENT_PAGES - 1, "DONTNEED", first=1)
    play.huge(0)
    play.collapse(1, True)
    play.contents(0, 1)


def full_of_compound(play: Play) -> None:
    """A table full of entries that map one huge page."""
    play.huge_page()
    play.split()
    play.collapse(1, True)
    play.contents(0, EXTENT_PAGES)


def compound_extreme(play: Play) -> None:
    """A table of which each entry maps another huge page."""
    play.area(1)
    for i in range(EXTENT_PAGES):
        play.advise(EXTENT_PAGES, "HUGEPAGE")
        play.fault(0, EXTENT_PAGES)
        if i in (0, 1, HALF, EXTENT_PAGES - 1):
            play.huge(1)
        play.advise(EXTENT_PAGES, "NOHUGEPAGE")
        aside, fixed = play.at + 2 * EXTENT_PAGES, ("maymove", "fixed")
        # All but the first page is cut off; then the extent behind is there again, empty, and all is a page further down.
        play.script.mremap(play.at - i, i + EXTENT_PAGES, i + 1, to=aside, flags=fixed)
        play.expect(_succeeded)
        play.script.mremap(aside, i + 1, i + 1 + EXTENT_PAGES, to=play.at - i - 1, flags=fixed)
        play.expect(_succeeded)
    play.script.munmap(play.at, EXTENT_PAGES)
    play.at -= EXTENT_PAGES
    play.fault(0, EXTENT_PAGES)
    play.collapse(1, True)
    play.contents(0, EXTENT_PAGES)


def fork(play: Play) -> None:
    """A child collapses a table with a page of its parent's; the parent keeps its small page."""
    play.area(1)
    play.fault(0, 1)
    play.huge(0)
    play.script.fork("child")
    play.huge(0, "child")
    play.fault(1, 2, "child")
    play.collapse(1, True, "child")
    play.contents(0, 2, "child")
    play.script.exit("child")
    play.huge(0)
    play.contents(0, 1)


def fork_compound(play: Play) -> None:
    """A child collapses what it shares with its parent, who keeps the huge page."""
    play.limits = {"max_ptes_shared": EXTENT_PAGES - 1}
    play.huge_page()
    play.script.fork("child")
    play.huge(1, "child")
    play.split("child")
    play.fault(0, 1, "child")
    play.collapse(1, True, "child")
    play.contents(0, EXTENT_PAGES, "child")
    play.script.exit("child")
    play.huge(1)
    play.contents(0, EXTENT_PAGES)


def max_ptes_shared(play: Play) -> None:
    """One page more than khugepaged's limit is shared; and just as many."""
    own = EXTENT_PAGES - KHUGEPAGED_LIMITS["max_ptes_shared"]
    play.huge_page()
    play.script.fork("child")
    play.huge(1, "child")
    play.fault(0, own - 1, "child")
    play.collapse(1, not play.enforces, "child")
    if play.enforces:
        play.fault(0, own, "child")
        play.collapse(1, True, "child")
    play.contents(0, EXTENT_PAGES, "child")
    play.script.exit("child")
    play.huge(1)
    play.contents(0, EXTENT_PAGES)


def existing_thps(play: Play) -> None:
    """MADV_COLLAPSE of what is huge already succeeds."""
    play.area(1)
    play.fault(0, EXTENT_PAGES)
    play.collapse(1, True)
    play.contents(0, EXTENT_PAGES)
    play.madv_collapse(1, True)
    play.huge(1)
    play.contents(0, EXTENT_PAGES)


def retracted_page_tables(play: Play) -> None:
    """khugepaged leaves an empty PMD; MADV_COLLAPSE maps the huge page that is in the cache by it."""
    play.area(1)
    play.fault(0, EXTENT_PAGES)
    play.khugepaged(1)
    play.collapse(1, True)
    play.contents(0, EXTENT_PAGES)


def swapin_single(_play: Play) -> None:
    """One page is swapped out."""
    pytest.skip("swap is not modelled")


def max_ptes_swap(_play: Play) -> None:
    """More pages than khugepaged's limit are swapped out; and just as many."""
    pytest.skip("swap is not modelled")


Row = Callable[[Play], None]
BOTH = ("khugepaged", "madvise")
TABLE: tuple[tuple[Row, tuple[str, ...], tuple[str, ...]], ...] = (
    (at_fault, ("fault",), ("anon",)),
    (full, BOTH, ("anon", "file", "shmem")),
    (empty, BOTH, ("anon",)),
    (single_entry, BOTH, ("anon", "file", "shmem")),
    (max_ptes_none, BOTH, ("anon", "file")),
    (single_entry_of_compound, BOTH, ("anon", "file")),
    (full_of_compound, BOTH, ("anon", "file", "shmem")),
    (compound_extreme, BOTH, ("anon",)),
    (swapin_single, BOTH, ("anon",)),
    (max_ptes_swap, BOTH, ("anon",)),
    (fork, BOTH, ("anon",)),
    (fork_compound, BOTH, ("anon",)),
    (max_ptes_shared, BOTH, ("anon",)),
    (existing_thps, ("madvise",), ("anon", "file", "shmem")),
    (retracted_page_tables, ("madvise",), ("file", "shmem")),
)


def rows(*, slow_khugepaged: bool = False) -> list[Any]:
    """Each row with its context and kind of memory. slow_khugepaged: a pass of it takes as long as it rests."""
    found = []
    for row, contexts, memories in TABLE:
        for context in contexts:
            for memory in memories:
                waits = context == "khugepaged" or row is retracted_page_tables
                marks = [pytest.mark.slow] if waits and slow_khugepaged else []
                found.append(
                    pytest.param(
                        row, context, memory, id=f"{row.__name__}-{context}-{memory}", marks=marks
                    )
                )
    return found


def built(row: Row, context: str, memory: str, *, regular_files: bool = True) -> Play:
    play = Play(context, memory, regular_files=regular_files)
    row(play)
    return play


def check(play: Play, results: list[Result]) -> None:
    for step, expectation in play.checks:
        try:
            expectation(results[step])
        except AssertionError as error:
            raise AssertionError(f"step {step}, {play.script.steps[step]}: {error}") from None


def test_the_table_is_complete() -> None:
    assert len(rows()) == 46


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("row", "context", "memory"), rows())
def test_in_the_laboratory(row: Row, context: str, memory: str, era: str) -> None:
    play = built(row, context, memory)
    # Each of the extreme row's 512 huge pages stays whole while one of its pages is mapped.
    room = "1536MiB" if row is compound_extreme else "64MiB"
    check(play, Laboratory(era=era, memory=room).play(play.script.steps))


WHY_NOT = pgtbl.host.why_not()


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize(("row", "context", "memory"), rows(slow_khugepaged=True))
def test_on_this_kernel(row: Row, context: str, memory: str) -> None:
    # A kernel without READ_ONLY_THP_FOR_FS makes huge pages of files on tmpfs alone.
    play = built(row, context, memory, regular_files=False)
    steps = play.script.steps
    with pgtbl.host.Host() as host:
        try:
            results = host.play(steps)
        except pgtbl.host.HostUnsupported as error:
            pytest.skip(f"this computer has no {error.what}")
    check(play, results)
    if platform.release().startswith("6.18."):  # whose rules the laboratory follows by default
        mine = Laboratory(memory="1536MiB").play(steps)
        differences = compare_results(steps, results, mine)
        assert [str(d) for d in differences if d.level is Level.core] == []
