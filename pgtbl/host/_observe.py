"""What /proc tells of a process and of a file: entries, folios, contents."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._compare.language import ARENA_PAGES, BASE, PAGE
from .._compare.runs import data_runs, page_runs, runs_of
from . import _kernel as k

__all__ = [
    "Frames",
    "check_privileges",
    "entries",
    "file_rows",
    "kib",
    "snap_file",
    "snap_process",
    "vmas_of",
]

Numbers = npt.NDArray[Any]
_SCAN_ROOM = 4096


def kib(pid: int, name: str) -> int:
    """A row of /proc/PID/status in KiB."""
    with Path(f"/proc/{pid}/status").open() as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1])
    return 0


class Frames:
    """Flags and map counts of physical frames, read in blocks of 512, and kept for one snapshot."""

    def __init__(self) -> None:
        self._files = [
            os.open(f"/proc/{name}", os.O_RDONLY) for name in ("kpageflags", "kpagecount")
        ]
        self._blocks: tuple[dict[int, Numbers], dict[int, Numbers]] = ({}, {})

    def forget(self) -> None:
        """What was read is out of date."""
        for blocks in self._blocks:
            blocks.clear()

    def _read(self, which: int, frames: Numbers) -> Numbers:
        out = np.zeros(len(frames), np.uint64)
        blocks = self._blocks[which]
        numbers = frames >> np.uint64(9)
        for number in np.unique(numbers).tolist():
            if number not in blocks:
                raw = os.pread(self._files[which], 4096, number * 4096)
                blocks[number] = np.frombuffer(raw.ljust(4096, b"\0"), np.uint64)
            mine = numbers == np.uint64(number)
            out[mine] = blocks[number][(frames[mine] & np.uint64(511)).astype(np.int64)]
        return out

    def anonymous(self, frames: Numbers) -> Numbers:
        """Which of them are anonymous memory."""
        return (self._read(0, frames) >> np.uint64(k.KPF_ANON) & np.uint64(1)).astype(bool)

    def mapcounts(self, frames: Numbers) -> Numbers:
        """How often each is mapped."""
        return self._read(1, frames).astype(np.int64)

    def orders(self, frames: Numbers) -> Numbers:
        """The order of the folio that each belongs to."""
        orders = np.zeros(len(frames), np.int64)
        numbers = frames >> np.uint64(9)
        for number in np.unique(numbers).tolist():
            mine = numbers == np.uint64(number)
            self._read(0, frames[mine][:1])
            of_block = _block_orders(self._blocks[0][number])
            orders[mine] = of_block[(frames[mine] & np.uint64(511)).astype(np.int64)]
        return orders

    def close(self) -> None:
        """Gives the files back."""
        for file in self._files:
            os.close(file)


def _block_orders(flags: Numbers) -> Numbers:
    """Folio orders of 512 consecutive, aligned frames: a folio is a head and the tails behind it."""
    head = (flags >> np.uint64(k.KPF_COMPOUND_HEAD) & np.uint64(1)).astype(bool)
    tail = (flags >> np.uint64(k.KPF_COMPOUND_TAIL) & np.uint64(1)).astype(bool)
    orders = np.zeros(len(flags), np.int64)
    for start in np.flatnonzero(head).tolist():
        rest = np.flatnonzero(~tail[start + 1 :])
        end = start + 1 + (int(rest[0]) if len(rest) else len(flags) - start - 1)
        orders[start:end] = (end - start).bit_length() - 1
    return orders


# ---- a process ---------------------------------------------------------------------------------------


def _categories(pagemap: int) -> Numbers:
    """PAGEMAP_SCAN's categories of every page of the arena."""
    found = np.zeros(ARENA_PAGES, np.uint32)
    room = ctypes.create_string_buffer(24 * _SCAN_ROOM)
    start, end = BASE, BASE + ARENA_PAGES * PAGE
    any_of = (
        k.PAGE_IS_PRESENT | k.PAGE_IS_SWAPPED | k.PAGE_IS_PFNZERO | k.PAGE_IS_HUGE | k.PAGE_IS_GUARD
    )
    while start < end:
        argument = bytearray(
            struct.pack(
                "<12Q",
                96,
                0,
                start,
                end,
                0,
                ctypes.addressof(room),
                _SCAN_ROOM,
                0,
                0,
                0,
                any_of,
                any_of,
            )
        )
        count = fcntl.ioctl(pagemap, k.PAGEMAP_SCAN, argument)
        (walked,) = struct.unpack_from("<Q", argument, 32)
        for i in range(count):
            a, b, categories = struct.unpack_from("<3Q", room, 24 * i)
            found[(a - BASE) // PAGE : (b - BASE) // PAGE] = categories
        if walked <= start:
            break
        start = walked
    return found


def entries(pid: int, vmas: list[dict[str, Any]], frames: Frames) -> dict[str, Numbers]:
    """Every entry that is not none: page, class, frame (0: none), order, mapcount."""
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        categories = _categories(pagemap)
        places, words = [np.array([], np.int64)], [np.array([], np.uint64)]
        for vma in vmas:
            raw = os.pread(pagemap, vma["n"] * 8, (BASE // PAGE + vma["pg"]) * 8)
            read = np.frombuffer(raw, np.uint64)
            there = np.flatnonzero(read >> np.uint64(55))
            places.append(there + vma["pg"])
            words.append(read[there])
    finally:
        os.close(pagemap)
    page, word = np.concatenate(places), np.concatenate(words)

    def bit(n: int) -> Numbers:
        return (word >> np.uint64(n) & np.uint64(1)).astype(bool)

    category = categories[page]
    zero = bit(k.PM_PRESENT) & (category & k.PAGE_IS_PFNZERO != 0)
    real = bit(k.PM_PRESENT) & ~zero
    wp = bit(k.PM_UFFD_WP)
    frame = np.where(real, word & np.uint64(k.PM_FRAME), np.uint64(0))
    kind = np.full(len(page), "", "<U4")
    anonymous = np.zeros(len(page), bool)
    anonymous[real] = frames.anonymous(frame[real])
    kind[real & anonymous] = "A"
    kind[real & ~anonymous] = "F"
    kind[zero] = "Z"
    absent = ~bit(k.PM_PRESENT)
    guard, swap = bit(k.PM_GUARD), bit(k.PM_SWAP)
    kind[absent & guard] = "g"
    kind[absent & ~guard & swap] = "s"
    kind[absent & ~guard & ~swap & wp] = "m"
    huge = bit(k.PM_PRESENT) & (category & k.PAGE_IS_HUGE != 0)
    kind = np.char.add(np.char.add(kind, np.where(huge, "h", "")), np.where(wp, "w", ""))
    order, mapcount = np.zeros(len(page), np.int64), np.zeros(len(page), np.int64)
    order[real] = frames.orders(frame[real])
    mapcount[real] = frames.mapcounts(frame[real])
    keep = kind != ""
    found = {"page": page, "kind": kind, "frame": frame, "order": order, "mapcount": mapcount}
    return {name: column[keep] for name, column in found.items()}


_HEAD = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ \d+\s*(.*)$")


def vmas_of(pid: int, names: dict[str, str]) -> list[dict[str, Any]]:
    """The mappings in the arena, from smaps. names: how the kernel calls our files."""
    found: list[dict[str, Any]] = []
    current: dict[str, Any] | None = None
    with Path(f"/proc/{pid}/smaps").open() as file:
        for line in file:
            head = _HEAD.match(line)
            if head is not None:
                start, end = int(head[1], 16), int(head[2], 16)
                current = None
                if start >= BASE and end <= BASE + ARENA_PAGES * PAGE:
                    current = {"pg": (start - BASE) // PAGE, "n": (end - start) // PAGE}
                    current["perm"] = head[3]
                    name = head[5].removesuffix(" (deleted)")
                    if name:
                        current["f"] = names.get(name, name)
                        current["foff"] = int(head[4], 16) // PAGE
                    current["sm"] = {}
                    found.append(current)
                continue
            if current is None:
                continue
            field, _, value = line.partition(":")
            if field == "VmFlags":
                current["flags"] = " ".join(
                    f for f in value.split() if f not in k.VM_FLAGS_LEFT_OUT
                )
            elif field in k.SMAPS_FIELDS and int(value.split()[0]):
                current["sm"][field] = int(value.split()[0])
    return found


def _words(raw: bytes) -> tuple[Numbers, Numbers, Numbers]:
    """Of whole pages: first words, the others, and where the others differ."""
    words = np.frombuffer(raw, np.uint64).reshape(-1, PAGE // 8)
    first, rest = words[:, 0], words[:, 1]
    mixed = (words[:, 2:] != rest[:, None]).any(axis=1)
    return first, rest, mixed


def _contents(pid: int, pages: Numbers) -> list[Any]:
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        parts = [
            _words(os.pread(memory, n * PAGE, BASE + start * PAGE)) for start, n in runs_of(pages)
        ]
    finally:
        os.close(memory)
    if not parts:
        return []
    first, rest, mixed = (np.concatenate(column) for column in zip(*parts, strict=True))
    return data_runs(pages, first, rest, mixed)


def snap_process(
    pid: int, vmas: list[dict[str, Any]], found: dict[str, Numbers], labels: Numbers
) -> dict[str, Any]:
    """Pages and contents, as a snapshot has them. labels: of the entries with a frame."""
    has = found["frame"] != 0
    all_labels = np.full(len(has), -1, np.int64)
    all_labels[has] = labels
    return {
        "vmas": vmas,
        "pages": page_runs(
            found["page"], found["kind"], found["order"], all_labels, found["mapcount"]
        ),
        "data": _contents(pid, found["page"][has]),
    }


# ---- a file ------------------------------------------------------------------------------------------


def file_rows(file: int) -> tuple[int, list[list[int]]]:
    """Its size, and the runs of pages that SEEK_DATA finds."""
    size = os.fstat(file).st_size
    runs: list[list[int]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing more
            break
        at = os.lseek(file, start, os.SEEK_HOLE)
        first = start // PAGE
        runs.append([first, -(-at // PAGE) - first])
    return size, runs


def snap_file(file: int) -> dict[str, Any]:
    """Size, blocks, what is present, and contents."""
    size, runs = file_rows(file)
    pages: list[Numbers] = [np.array([], np.int64)]
    raws = []
    for first, n in runs:
        raw = os.pread(file, n * PAGE, first * PAGE)
        raws.append(raw)
        pages.append(np.arange(first, first + -(-len(raw) // PAGE)))
    rows: list[Any] = []
    if raws:
        tail = b""
        if len(raws[-1]) % PAGE:
            # The file ends inside of its last page: its contents cannot be told.
            cut = len(raws[-1]) // PAGE * PAGE
            raws[-1], tail = raws[-1][:cut], raws[-1][cut:]
        numbers = np.concatenate(pages)
        whole = numbers[:-1] if tail else numbers
        if len(whole):
            rows = data_runs(whole, *_words(b"".join(raws)))
        if tail:
            rows.append([int(numbers[-1]), 1, "?", 0, "?", 0])
    return {
        "size": size,
        "blocks": os.fstat(file).st_blocks // 8,
        "present": runs,
        "data": rows,
    }


def check_privileges() -> str:
    """What keeps this process from seeing physical pages; "" where nothing does."""
    for name in ("/proc/kpageflags", "/proc/kpagecount"):
        try:
            with Path(name).open("rb", buffering=0) as file:
                file.read(8)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror}): root is needed"
    with contextlib.suppress(OSError):
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
        try:
            fcntl.ioctl(pagemap, k.PAGEMAP_SCAN, bytearray(struct.pack("<12Q", 96, *[0] * 11)))
            return ""
        finally:
            os.close(pagemap)
    return "the kernel has no PAGEMAP_SCAN (it came with 6.7)"
