"""Random scenarios, in the proportions of the recorded ones.

Two styles: *tidy* keeps most mappings aligned and writable, so that about half of the collapses succeed; *wild* does not
care. The generator remembers roughly what each process has mapped, so that most operations hit something; it predicts
nothing. Scenario k of a seed is always the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .language import EXTENT_PAGES, Step
from .scenario import Scenario

__all__ = ["STYLES", "random_scenario", "random_scenarios"]

STYLES = ("tidy", "wild")
_EDGES = (0, 1, 5, 16, 64, 100, 255, 256, 300, 400, 511)
_LENGTHS = (1, 1, 2, 3, 8, 16, 30, 64, 100, 200, 256, 300, 511, 512, 512, 700, 1024)
_SNAP_EVERY = 8  # operations
_FEWEST, _MOST = 20, 60

# Operation -> its weight when wild, and when tidy.
_WEIGHTS: dict[str, tuple[float, float]] = {
    "mmap": (9, 7),
    "munmap": (3, 1),
    "mprotect": (4, 2),
    "read": (13, 13),
    "write": (11, 13),
    "fill": (8, 11),
    "collapse": (18, 22),
    "dontneed": (6, 6),
    "free": (2, 1.5),
    "nohugepage": (1, 0.3),
    "populate": (2, 2),
    "guard": (2, 0.8),
    "remove": (1, 1),
    "cold": (1, 1),
    "mremap": (4, 2),
    "fork": (2, 3),
    "spawn": (1, 2),
    "exit": (1, 1),
    "truncate": (2, 1.2),
    "punch": (4, 3),
    "pwrite": (4, 4),
    "fallocate": (1, 1),
    "mlock": (2, 1.2),
    "uffd": (4, 1.5),
    "pin": (2, 1.2),
    "mincore": (1, 1),
}
_PROCESSES_FORKED, _PINS = 2, 2
# What a tidy scenario does to whole extents rather often.
_WHOLE_WHEN_TIDY = ("mprotect", "mremap", "munmap", "uffd", "mlock", "dontneed")


@dataclass
class _Region:
    pg: int
    n: int
    kind: str

    def extents(self) -> range:
        """Numbers of the extents that lie in it."""
        return range(-(-self.pg // EXTENT_PAGES), (self.pg + self.n) // EXTENT_PAGES)


class _Generator:
    def __init__(self, seed: int, tidy: bool) -> None:
        self.random = random.Random(seed)
        self.tidy = tidy
        self.steps: list[Step] = []
        self.files: dict[str, int] = {}
        self.regions: dict[str, list[_Region]] = {"p0": []}
        self.forks = self.spawns = self.pins = self.value = 0
        self.armed: set[str] = set()  # processes with a userfaultfd
        self.pinned: dict[str, str] = {}

    # ---- drawing

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def number(self, *things: int) -> int:
        return self.random.choice(things)

    def next_value(self) -> int:
        self.value += 1
        return self.value

    def process(self) -> str:
        return self.random.choice(list(self.regions))

    def region(self) -> tuple[str, _Region] | None:
        able = [p for p, regions in self.regions.items() if regions]
        if not able:
            return None
        p = self.random.choice(able)
        return p, self.random.choice(self.regions[p])

    def part(self, region: _Region, whole_extent: float) -> tuple[int, int]:
        """Pages in the region: with that probability an extent, if it has one."""
        extents = region.extents()
        if self.chance(whole_extent) and extents:
            return self.random.choice(extents) * EXTENT_PAGES, EXTENT_PAGES
        at = self.number(0, 0, *_EDGES, self.random.randrange(region.n))
        start = region.pg + min(region.n - 1, at)
        return start, max(1, min(self.number(*_LENGTHS), region.pg + region.n - start))

    def add(self, op: str, p: str | None = None, **fields: object) -> None:
        step: Step = {"op": op}
        if p not in (None, "p0"):
            step["p"] = p
        step.update(fields)
        self.steps.append(step)

    # ---- the whole

    def run(self) -> list[Step]:
        for i in range(self.number(1, 2)):
            self.files[f"f{i}"] = self.number(1024, 1024, 1536, 600)
            self.add("file", f=f"f{i}", n=self.files[f"f{i}"])
        self.mmap()
        self.mmap()
        wanted = self.random.randrange(_FEWEST, _MOST + 1)
        snapped = 0
        names = list(_WEIGHTS)
        weights = [w[self.tidy] for w in _WEIGHTS.values()]
        while (done := sum(step["op"] != "snap" for step in self.steps)) < wanted:
            if done - snapped >= _SNAP_EVERY:
                snapped = done
                self.add("snap")
            self.operation(self.random.choices(names, weights)[0])
        self.add("snap")
        self.add("filecache")
        return self.steps

    def operation(self, name: str) -> None:
        alone: Callable[[], None] | None = getattr(self, name, None)
        if alone is not None:
            alone()
            return
        found = self.region()
        if found is None:
            self.mmap()
            return
        p, region = found
        whole = 0.6 if self.tidy and name in _WHOLE_WHEN_TIDY else 0.3
        place = self.part(region, whole)
        getattr(self, f"on_{name}")(p, region, *place)

    # ---- files and processes

    def truncate(self) -> None:
        f = self.random.choice(list(self.files))
        n = self.files[f]
        self.add("truncate", f=f, n=self.number(0, 100, 256, 511, 512, 700, n, n, n))

    def file_part(self) -> tuple[str, int, int]:
        f = self.random.choice(list(self.files))
        start = min(self.number(0, EXTENT_PAGES) + self.number(*_EDGES), self.files[f] - 1)
        return f, start, min(self.number(1, 2, 16, 64, 100, 256, 512), self.files[f] - start)

    def punch(self) -> None:
        f, pg, n = self.file_part()
        self.add("punch", f=f, pg=pg, n=n)

    def fallocate(self) -> None:
        f, pg, n = self.file_part()
        self.add("fallocate", f=f, pg=pg, n=n)

    def pwrite(self) -> None:
        f, pg, n = self.file_part()
        self.add("pwrite", f=f, pg=pg, n=min(n, 256), val=self.next_value())

    def fork(self) -> None:
        if self.forks == _PROCESSES_FORKED:
            return
        self.forks += 1
        p, child = self.process(), f"p{self.forks}"
        self.add("fork", p, child=child)
        self.regions[child] = [_Region(r.pg, r.n, r.kind) for r in self.regions[p]]

    def spawn(self) -> None:
        if self.spawns:
            return
        self.spawns = 1
        self.add("spawn", child="q0")
        self.regions["q0"] = []

    def exit(self) -> None:
        if len(self.regions) < 3 or self.chance(0.5):
            return
        p = self.random.choice([name for name in self.regions if name != "p0"])
        self.add("exit", p)
        del self.regions[p]
        self.pinned = {pin: owner for pin, owner in self.pinned.items() if owner != p}

    # ---- mapping

    def place_of_mapping(self) -> tuple[int, int, bool]:
        """Page, pages, and whether it is a tidy one."""
        slot = self.random.randrange(8) * EXTENT_PAGES
        if not (self.tidy and self.chance(0.85)):
            offset = self.number(0, 0, 0, 0, 0, 1, 256, 100)
            return slot + offset, self.number(512, 512, 1024, 1024, 300, 100, 800, 1536), False
        if self.chance(0.7):
            slot = self.random.randrange(0, 8, 2) * EXTENT_PAGES
        return slot, self.number(512, 1024, 1024, 1024), True

    def mmap(self) -> None:
        p = self.process()
        pg, n, tidy = self.place_of_mapping()
        kinds = ["shared"] * 5 + ["private"] * 3 + ["anon"] * 4 + ["shared anon"]
        kind = self.random.choice(kinds)
        prot = self.random.choice(["rw"] * 7 + ["r"] * 2 + [""])
        if tidy and self.chance(0.8):
            prot = "rw"
        flags = ["shared" if kind in ("shared", "shared anon") else "private"]
        fields: Step = {}
        if kind in ("shared", "private"):
            fields["f"] = self.random.choice(list(self.files))
            odd = (pg % EXTENT_PAGES, 512, 256, 1)
            fields["foff"] = self.number(0, 0, 0, 512) if tidy else self.number(0, 0, 0, 0, *odd)
        else:
            flags.append("anon")
        flags.append("fixed")
        if self.chance(0.06):
            flags.append("populate")
        self.add("mmap", p, pg=pg, n=n, prot=prot, flags=flags, **fields)
        self.forget(p, pg, n)
        self.regions[p].append(_Region(pg, n, kind))

    def forget(self, p: str, pg: int, n: int) -> None:
        """[pg, pg + n) is not what it was."""
        left: list[_Region] = []
        for r in self.regions[p]:
            if r.pg + r.n <= pg or pg + n <= r.pg:
                left.append(r)
                continue
            if r.pg < pg:
                left.append(_Region(r.pg, pg - r.pg, r.kind))
            if r.pg + r.n > pg + n:
                left.append(_Region(pg + n, r.pg + r.n - pg - n, r.kind))
        self.regions[p] = left

    def on_munmap(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.add("munmap", p, pg=pg, n=n)
        self.forget(p, pg, n)

    def on_mprotect(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.add("mprotect", p, pg=pg, n=n, prot=self.random.choice(["r", "rw", "rw", "rw", ""]))

    def on_mremap(self, p: str, region: _Region, pg: int, n: int) -> None:
        to = self.random.randrange(8, 12) * EXTENT_PAGES + self.number(0, 0, 0, 1, 256)
        flags = ["maymove", "fixed"] + (["dontunmap"] if self.chance(0.2) else [])
        self.add("mremap", p, pg=pg, n=n, new_n=n, flags=flags, to=to)
        if "dontunmap" not in flags:
            self.forget(p, pg, n)
        self.forget(p, to, n)
        self.regions[p].append(_Region(to, n, region.kind))

    def on_mlock(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.add(self.random.choice(["mlock", "munlock"]), p, pg=pg, n=n)

    def on_mincore(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.add("mincore", p, pg=pg, n=n)

    # ---- access

    def touch(self, op: str, p: str, pg: int, n: int) -> None:
        fields: Step = {"pg": pg, "n": n}
        if n >= 8 and self.chance(0.25):
            stride = self.number(2, 7, 8, 16)
            fields = {"pg": pg, "n": max(1, n // stride), "stride": stride}
        if op != "read":
            fields["val"] = self.next_value()
        self.add(op, p, **fields)

    def on_read(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.touch("read", p, pg, n)

    def on_write(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.touch("write", p, pg, n)

    def on_fill(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.touch("fill", p, pg, n)

    # ---- advice

    def advise(self, p: str, pg: int, n: int, *advice: str) -> None:
        self.add("madvise", p, pg=pg, n=n, advice=self.random.choice(advice))

    def on_collapse(self, p: str, region: _Region, pg: int, n: int) -> None:
        extents = region.extents()
        if extents and self.chance(0.9):
            start = self.random.choice(extents) * EXTENT_PAGES
            if self.tidy and self.chance(0.6):
                self.prepare(p, start)
            self.advise(p, start, EXTENT_PAGES * (2 if self.chance(0.15) else 1), "COLLAPSE")
        else:
            self.advise(p, pg, self.number(n, 512, 1024), "COLLAPSE")
        self.add("snap")

    def prepare(self, p: str, start: int) -> None:
        """Touches some of an extent, so that there is something to collapse."""
        op, n = self.random.choice(["fill", "write", "read"]), self.number(1, 20, 100, 512, 512)
        shift = self.number(0, 0, 0, 30) if n < 400 else 0
        fields: Step = {"pg": start + shift, "n": n}
        if op != "read":
            fields["val"] = self.next_value()
        self.add(op, p, **fields)

    def on_dontneed(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.advise(p, pg, n, "DONTNEED")

    def on_free(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.advise(p, pg, n, "FREE")

    def on_nohugepage(self, p: str, region: _Region, _pg: int, _n: int) -> None:
        self.advise(p, region.pg, region.n, "NOHUGEPAGE")

    def on_populate(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.advise(p, pg, n, "POPULATE_READ", "POPULATE_WRITE")

    def on_guard(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.advise(p, pg, min(n, 40), "GUARD_INSTALL", "GUARD_INSTALL", "GUARD_REMOVE")

    def on_remove(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.advise(p, pg, n, "REMOVE")

    def on_cold(self, p: str, _region: _Region, pg: int, n: int) -> None:
        self.advise(p, pg, n, "COLD")

    # ---- userfaultfd and pins

    def on_uffd(self, p: str, _region: _Region, pg: int, n: int) -> None:
        if p not in self.armed:
            self.armed.add(p)
            self.add("uffd_open", p)
        what = self.random.random()
        if what < 0.5:
            modes = [["wp"]] * 3 + [["missing"], ["wp", "missing"], ["minor"]]
            self.add("uffd_register", p, pg=pg, n=n, mode=self.random.choice(modes))
        elif what < 0.85:
            self.add("uffd_wp", p, pg=pg, n=min(n, 64), on=self.chance(0.75))
        else:
            self.add("uffd_unregister", p, pg=pg, n=n)

    def on_pin(self, p: str, _region: _Region, pg: int, n: int) -> None:
        if self.pinned and self.chance(0.6):
            pin = self.random.choice(list(self.pinned))
            self.add("unpin", self.pinned.pop(pin), pin=pin)
        elif len(self.pinned) < _PINS:
            pin = f"k{self.pins}"
            self.pins += 1
            self.pinned[pin] = p
            self.add("pin", p, pg=pg, n=min(n, 4), pin=pin)


def random_scenario(seed: int, number: int, style: str) -> Scenario:
    """Scenario `number` of a seed."""
    steps = _Generator(seed * 1_000_003 + number, style == "tidy").run()
    return Scenario(
        f"random.{style}.{seed}.{number:03}",
        steps,
        f"random ({style}), seed {seed}, number {number}",
    )


def random_scenarios(count: int, seed: int) -> Iterator[Scenario]:
    """Two tidy ones to each wild one."""
    for number in range(count):
        yield random_scenario(seed, number, "wild" if number % 3 == 2 else "tidy")
