"""Each bad input has a defined answer, that names the value; the machine stays usable and clean."""

from __future__ import annotations

import contextlib
import copy
import errno
import importlib
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pgtbl

PAGE = pgtbl.PAGE_SIZE
TOP = 1 << 47


class Things:
    """A machine with an mm, a file and a mapping."""

    def __init__(self) -> None:
        self.machine = pgtbl.Machine(memory="32MiB", cpus=4)
        self.mm = self.machine.mm()
        self.shm = self.machine.shmem("4MiB")
        self.area = self.mm.mmap(self.shm)
        self.start = self.area.start


@pytest.fixture
def x() -> Iterator[Things]:
    things = Things()
    yield things
    things.mm.touch(things.area.addresses(), write=True)
    things.machine.check()
    things.machine.close()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"era": "v5.0"}, ValueError, r"v5\.0.*v6\.4"),
        ({"era": ""}, ValueError, r"v6\.4"),
        ({"era": None}, TypeError, "era"),
        ({"arch": "sparc"}, ValueError, "sparc.*x86-64"),
        ({"alloc": "never"}, ValueError, "never.*quarantine"),
        ({"memory": "2MiX"}, ValueError, "2MiX.*MiB"),
        ({"memory": "MiB"}, ValueError, "MiB"),
        ({"memory": "-2MiB"}, ValueError, "-2MiB"),
        ({"memory": "1.5GiB"}, ValueError, r"1\.5GiB"),
        ({"memory": ""}, ValueError, "size"),
        ({"memory": "99999999999999999999"}, ValueError, "too large"),
        ({"memory": "99999999TiB"}, ValueError, "too large"),
        ({"memory": 0}, ValueError, "2MiB"),
        ({"memory": "2MiB"}, ValueError, "8MiB"),
        ({"memory": (16 << 20) + 1}, ValueError, "multiple of 2MiB"),
        ({"memory": "1000TiB"}, ValueError, "this computer"),
        ({"memory": -1}, ValueError, "-1"),
        ({"memory": 2.5}, TypeError, "float"),
        ({"memory": True}, TypeError, "bool"),
        ({"memory": None}, TypeError, "NoneType"),
        ({"cpus": 0}, ValueError, "1 to 256"),
        ({"cpus": 257}, ValueError, "1 to 256"),
        ({"cpus": -1}, ValueError, "-1"),
        ({"cpus": 1 << 70}, ValueError, "out of range"),
        ({"cpus": "4"}, TypeError, "str"),
        ({"switches": {"map_may_fial": 1}}, ValueError, "map_may_fial.*map_may_fail"),
        ({"switches": {"map_may_fail": 2}}, ValueError, "map_may_fail=2.*0 to 1"),
        ({"switches": {"map_may_fail": -1}}, ValueError, "map_may_fail=-1"),
        ({"switches": {"map_may_fail": 1 << 80}}, ValueError, "map_may_fail"),
        ({"switches": {"map_may_fail": "1"}}, TypeError, "map_may_fail"),
        ({"switches": {1: 1}}, TypeError, "dict"),
        ({"switches": [1]}, TypeError, "dict"),
        ({"switches": {"free_by_rcu": 0}}, ValueError, "safe"),
        ({"era": "v6.4", "switches": {"retract_without_mmap_lock": 1}}, ValueError, "safe"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
def test_machine_refuses(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pgtbl.Machine(**arguments)


def test_machine_takes_no_positional_arguments() -> None:
    with pytest.raises(TypeError):
        pgtbl.Machine("v6.6")  # type: ignore[misc]


@pytest.mark.parametrize("size", ["4MiX", "-1", -1, 1 << 64, (1 << 63) + 5])
def test_shmem_refuses(x: Things, size: Any) -> None:
    with pytest.raises(ValueError, match="size"):
        x.machine.shmem(size)
    for wrong in (None, 1.0, b"1"):
        with pytest.raises(TypeError, match="size"):
            x.machine.shmem(wrong)  # type: ignore[arg-type]


def test_a_large_file_is_no_memory(x: Things) -> None:
    huge = x.machine.shmem("1024TiB")
    assert huge.size == 1 << 50
    huge.write((1 << 50) - 1, b"z")
    assert len(huge.pages()) == 1
    with pytest.raises(ValueError, match="1125899906842624"):
        huge.write(1 << 50, b"z")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ValueError, "length"),
        ({"length": 0}, OSError, "length 0"),
        ({"length": 1 << 60}, OSError, "address space"),
        ({"length": -4096}, ValueError, "-4096"),
        ({"length": "4KB"}, ValueError, "4KB"),
        ({"length": 4096, "fixed": True}, ValueError, "addr"),
        ({"length": 4096, "addr": 4097, "fixed": True}, OSError, "4097"),
        ({"length": 4096, "addr": 0, "fixed": True}, OSError, "address 0"),
        ({"length": 4096, "addr": TOP, "fixed": True}, OSError, "address space"),
        ({"length": 4096, "addr": -4096, "fixed": True}, ValueError, "-4096"),
        ({"length": 4096, "prot": "q"}, ValueError, "'q'.*none"),
        ({"length": 4096, "prot": "rr"}, ValueError, "'rr'"),
        ({"length": 4096, "prot": ""}, ValueError, "prot"),
        ({"length": 4096, "prot": 3}, TypeError, "prot"),
        ({"length": 4096, "offset": 4096}, ValueError, "offset"),
        ({"length": 4096, "file": "a file"}, TypeError, "File"),
    ],
)
def test_mmap_refuses(
    x: Things, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    before = x.mm.vmas()
    with pytest.raises(error, match=text):
        x.mm.mmap(**arguments)
    assert x.mm.vmas() == before


def test_mmap_of_a_file_refuses(x: Things) -> None:
    with pytest.raises(OSError, match="offset 100") as unaligned:
        x.mm.mmap(x.shm, offset=100)
    assert unaligned.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="end of the file"):
        x.mm.mmap(x.shm, offset="4MiB")
    with pytest.raises(OSError, match="offset") as beyond:
        x.mm.mmap(x.shm, length=PAGE, offset=(1 << 64) - PAGE)
    assert beyond.value.errno in {errno.EOVERFLOW, errno.EINVAL}
    tail = x.mm.mmap(x.shm, offset="4MiB", length=PAGE)  # legal, but there is nothing
    with pytest.raises(pgtbl.BusError):
        x.mm.touch(tail.start)


FAR = [1 << 40, TOP - PAGE, TOP, 1 << 60, (1 << 60) + (1 << 12), 1 << 63, (1 << 64) - 8]


@pytest.mark.parametrize(
    ("addr", "from_the_mapping"),
    [*((addr, False) for addr in [0, 8, *FAR]), *((addr, True) for addr in FAR)],
)
def test_unmapped_addresses(x: Things, addr: int, from_the_mapping: bool) -> None:
    x.mm.store(x.start, 1)
    if from_the_mapping:  # also where the sum would only differ in bits that a TLB does not keep
        addr = (addr + x.start) % (1 << 64)
        assert addr not in x.area
    for use in (
        lambda: x.mm.touch(addr), lambda: x.mm.touch(addr, write=True), lambda: x.mm.touch([addr]),
        lambda: x.mm.load(addr), lambda: x.mm.store(addr, 1), lambda: x.mm.read(addr, 8), lambda: x.mm.write(addr, b"12345678"),
    ):  # fmt: skip
        with pytest.raises(pgtbl.SegmentationFault, match=r"0x|address"):
            use()


def test_ranges_that_leave_the_mapping(x: Things) -> None:
    with pytest.raises(pgtbl.SegmentationFault):
        x.mm.read(x.area.end - 4, 8)
    with pytest.raises(pgtbl.SegmentationFault):
        x.mm.write(x.area.end - 4, b"12345678")
    with pytest.raises(pgtbl.SegmentationFault):
        x.mm.read(x.start, 1 << 62)
    with pytest.raises((pgtbl.SegmentationFault, MemoryError)):
        x.mm.read(x.start, 1 << 40)
    with pytest.raises(pgtbl.SegmentationFault):
        x.mm.touch(np.append(x.area.addresses(), np.uint64(x.area.end)))


def test_wrong_addresses(x: Things) -> None:
    for wrong in ("address", None, 1.5, b"1", {}, object()):
        with pytest.raises((TypeError, ValueError)):
            x.mm.touch(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            x.mm.load(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            x.mm.read(wrong, 1)  # type: ignore[arg-type]
    for wrong_int in (-1, 1 << 64, -(1 << 70)):
        for use in (
            lambda n=wrong_int: x.mm.touch(n), lambda n=wrong_int: x.mm.load(n), lambda n=wrong_int: x.mm.store(n, 0),
            lambda n=wrong_int: x.mm.store(x.start, n), lambda n=wrong_int: x.mm.read(n, 1), lambda n=wrong_int: x.mm.walk(n),
            lambda n=wrong_int: x.mm.munmap(n, PAGE), lambda n=wrong_int: x.mm.munmap(x.start, n),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=str(wrong_int)):
                use()
    with pytest.raises(ValueError, match="-8"):
        x.mm.touch(np.array([x.start, -8]))
    with pytest.raises(TypeError, match="float64"):
        x.mm.touch(np.array([1.0]))
    with pytest.raises(TypeError, match="bool"):
        x.mm.touch(np.array([True]))
    for unaligned in (x.start + 1, x.start + 4):
        with pytest.raises(ValueError, match="multiple of 8"):
            x.mm.load(unaligned)
        with pytest.raises(ValueError, match="multiple of 8"):
            x.mm.store(unaligned, 1)


def test_wrong_calls_of_the_fast_methods(x: Things) -> None:
    for use in (
        lambda: x.mm.touch(), lambda: x.mm.touch(x.start, False, 1), lambda: x.mm.touch(x.start, wirte=True),
        lambda: x.mm.touch(x.start, addresses=x.start), lambda: x.mm.load(), lambda: x.mm.load(1, 2),
        lambda: x.mm.store(x.start), lambda: x.mm.store(x.start, "1"), lambda: pgtbl.Mm.touch(x.machine, x.start),
        lambda: pgtbl.Mm.touch(object(), x.start), lambda: pgtbl.Mm.touch(pgtbl.Mm.__new__(pgtbl.Mm), x.start),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            use()
    with pytest.raises(TypeError):
        pgtbl.Mm()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pgtbl.File()  # type: ignore[call-arg]

    class Angry:
        def __bool__(self) -> bool:
            raise RuntimeError("no")

        def __index__(self) -> int:
            raise RuntimeError("no index")

    with pytest.raises(RuntimeError, match="no"):
        x.mm.touch(x.start, write=Angry())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no index"):
        x.mm.load(Angry())  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["munmap", "mprotect", "madvise", "mincore"])
@pytest.mark.parametrize(
    ("start", "length"),
    [
        (1, PAGE),
        (PAGE - 1, PAGE),
        (0, 1 << 60),
        (0, (1 << 64) - 1),
        (TOP, PAGE),
        ((1 << 64) - PAGE, PAGE),
        ((1 << 64) - PAGE, 2 * PAGE),
    ],
)
def test_ranges_of_system_calls(x: Things, call: str, start: int, length: int) -> None:
    arguments = {"munmap": [], "mprotect": ["r"], "madvise": [pgtbl.MADV_DONTNEED], "mincore": []}[
        call
    ]
    if start < TOP:
        start += x.start
    with pytest.raises(OSError, match=r".") as refused:
        getattr(x.mm, call)(start, length, *arguments)
    assert refused.value.errno in {errno.EINVAL, errno.ENOMEM}


def test_unmapped_ranges_of_system_calls(x: Things) -> None:
    for use in (
        lambda: x.mm.mprotect(x.area.end, PAGE, "r"), lambda: x.mm.mincore(x.area.end - PAGE, 2 * PAGE),
        lambda: x.mm.madvise(1 << 40, PAGE, pgtbl.MADV_DONTNEED), lambda: x.mm.madvise(1 << 40, "2MiB", pgtbl.MADV_COLLAPSE),
    ):  # fmt: skip
        with pytest.raises(OSError, match=r".") as refused:
            use()
        assert refused.value.errno in {errno.ENOMEM, errno.EINVAL}
    with pytest.raises(OSError, match=r".") as unknown:
        x.mm.madvise(x.start, PAGE, 12345)
    assert unknown.value.errno == errno.EINVAL
    x.mm.munmap(1 << 40, "2MiB")  # as in Linux: no error


def test_ranges_of_looks(x: Things) -> None:
    with pytest.raises(TypeError, match="length"):
        x.mm.pagemap(x.start)
    with pytest.raises(TypeError, match="address"):
        x.mm.pagemap("x", 1)  # type: ignore[arg-type]
    assert len(x.mm.pagemap(0, TOP)) == len(x.mm.pagemap(x.area))
    with pytest.raises(pgtbl.SegmentationFault):
        x.mm.pagemap(0, TOP + 1)
    with pytest.raises(pgtbl.SegmentationFault):
        x.mm.walk(TOP)
    with pytest.raises(ValueError, match="step"):
        x.area.addresses(0)


def test_files_refuse(x: Things) -> None:
    for use in (
        lambda: x.shm.read(0, "5MiB"), lambda: x.shm.read("4MiB", 1), lambda: x.shm.read(1 << 63, 1 << 63),
        lambda: x.shm.write("4MiB", b"x"), lambda: x.shm.write((1 << 64) - 1, b"xx"), lambda: x.shm.read(-1, 1),
        lambda: x.shm.truncate(-1), lambda: x.shm.truncate((1 << 64) - 1), lambda: x.shm.punch((1 << 64) - 1, 2),
        lambda: x.shm.punch(0, -1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"[0-9]"):
            use()
    with pytest.raises(OSError, match="length 0"):
        x.shm.punch(0, 0)
    for data in ("text", None, 5, np.zeros((4, 4))[:, 1]):
        with pytest.raises((TypeError, BufferError, ValueError)):
            x.shm.write(0, data)
        with pytest.raises((TypeError, BufferError, ValueError)):
            x.mm.write(x.start, data)
    x.shm.punch("1TiB", PAGE)  # beyond the end there is nothing to punch
    assert x.shm.read(0, 0) == b""


def test_foreign_objects(x: Things) -> None:
    with pgtbl.Machine(memory="8MiB") as other:
        foreign = other.shmem("2MiB")
        with pytest.raises(pgtbl.UsageError, match="another machine"):
            x.mm.mmap(foreign)
        area = other.mm().mmap(foreign)
        for use in (
            lambda: x.mm.munmap(area), lambda: x.mm.mprotect(area, PAGE, "r"), lambda: x.mm.mincore(area),
            lambda: x.mm.madvise(area, None, pgtbl.MADV_COLLAPSE), lambda: x.mm.pagemap(area),
        ):  # fmt: skip
            with pytest.raises(pgtbl.UsageError, match="is not of mm"):
                use()
        section = other.mm().mmap_lock.read()
        with pytest.raises(pgtbl.UsageError, match="does not hold"):
            section.__exit__(None, None, None)


def test_addresses_of_64_bits_stay_ints(x: Things) -> None:
    with pytest.raises(pgtbl.SegmentationFault, match="outside of a program's address space"):
        x.mm.touch([x.start, 1 << 63])
    with pytest.raises(TypeError, match="float64"):
        x.mm.touch([x.start, 1.5])
    assert x.mm.touch([x.start, x.start + PAGE]) in (0, 1, 2)


def test_a_vma_is_of_its_own_mm_and_of_children_made_since(x: Things) -> None:
    """Two mms choose the same addresses: the Vma of one must not take away what the other has there."""
    other = x.machine.mm()
    theirs = other.mmap(length="4MiB", shared=False)
    ours = x.mm.mmap(length="4MiB", shared=False)
    with pytest.raises(pgtbl.UsageError, match=rf"0x{theirs.start:x}.* is not of mm {x.mm.id}"):
        x.mm.munmap(theirs)
    child = x.mm.fork()
    grandchild = child.fork()
    later = x.mm.mmap(length="2MiB", shared=False)
    for mm in (child, grandchild):
        with pytest.raises(pgtbl.UsageError, match="nor of a parent of before its fork"):
            mm.munmap(later)
        with pytest.raises(pgtbl.UsageError):
            x.mm.munmap(mm.mmap(length="2MiB", shared=False))
        mm.munmap(ours)
    x.mm.munmap(ours)
    from pgtbl import torture

    with torture.Machine(memory="8MiB") as other_build:
        shm = other_build.shmem("2MiB")
        with pytest.raises(TypeError):
            x.mm.mmap(shm)  # type: ignore[arg-type]


@pytest.mark.parametrize("build", ["_core", "_torture"])
def test_objects_without_init(build: str) -> None:
    module = importlib.import_module(f"pgtbl.{build}")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    assert len(classes) > 10
    for cls in classes:
        empty = cls.__new__(cls)
        for name in dir(cls):
            if name in {
                "__class__",
                "__new__",
                "__init__",
                "__init_subclass__",
                "__subclasshook__",
            }:
                continue
            attribute = getattr(cls, name)
            with contextlib.suppress(Exception):
                getattr(empty, name)
            if callable(attribute):
                for arguments in ((), (1,), (1, 2), (empty,)):
                    with contextlib.suppress(Exception):
                        attribute(empty, *arguments)
    with pytest.raises(TypeError, match="__init__"):
        module.Mm.__new__(module.Mm).vmas()


def test_no_pickling_no_copying(x: Things) -> None:
    for thing in (
        x.machine,
        x.mm,
        x.shm,
        x.area,
        x.mm.mmap_lock,
        x.machine.rcu,
        x.machine.khugepaged,
        pgtbl.RwSem(),
    ):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot pickle or copy"):
                pickle.dumps(thing, protocol=protocol)
        with pytest.raises(TypeError, match="cannot pickle or copy"):
            copy.copy(thing)


def test_init_twice(x: Things) -> None:
    x.machine.__init__(memory="8MiB")  # type: ignore[misc]
    x.machine.close()
    x.__init__()  # type: ignore[misc]


def test_khugepaged_refuses(x: Things) -> None:
    daemon = x.machine.khugepaged
    for interval in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="interval"):
            daemon.start(interval)
    with pytest.raises(ValueError, match="0 to 511"):
        daemon.max_ptes_none = 512
    with pytest.raises(ValueError, match="1 or more"):
        daemon.pages_to_scan = 0


def test_timeouts_refuse(x: Things) -> None:
    for timeout in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            x.machine.close(timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            x.machine.check(timeout=timeout)
    for use in (
        lambda: x.machine.check(timeout="long"), lambda: x.machine.close(timeout="long"),
        lambda: x.machine.khugepaged.start("long"), lambda: pgtbl.RcuDomain(stall_seconds="long"),
    ):  # fmt: skip
        with pytest.raises(
            TypeError,
            match=r"(timeout|interval|stall_seconds) must be a number of seconds, not str",
        ):
            use()
    with pytest.raises(ValueError, match="timeout 1000"):
        x.machine.check(timeout=10**400)


def test_a_collapse_that_fails_says_why(x: Things) -> None:
    private = x.mm.mmap(length="2MiB", shared=False)
    missing = x.mm.mmap(x.machine.shmem("2MiB"))
    for start, length, why in (
        (private.start, "2MiB", "anonymous and never written"), (x.start + PAGE, "1MiB", "no whole extent of 2097152"),
        (1 << 40, "2MiB", "not all of it is mapped"), (missing.start, "2MiB", f"truncated at .* {missing.start}"),
    ):  # fmt: skip
        with pytest.raises(OSError, match=why):
            x.mm.madvise(start, length, pgtbl.MADV_COLLAPSE)


def test_too_many_files(x: Things) -> None:
    with pytest.raises(ValueError, match="4096 files"):
        [x.machine.shmem(PAGE) for _ in range(5000)]


def test_torture_refuses() -> None:
    from pgtbl import torture

    with pytest.raises(ValueError, match=r"pmd_rechek.*pmd_recheck"):
        torture.without("pmd_rechek")
    with pytest.raises(ValueError, match="at least one"):
        torture.without()
    with pytest.raises(ValueError, match=r"rt_plm.*rt_pml"):
        torture.pause("rt_plm")
    for arguments in ({"arrivals": 0}, {"arrivals": -1}, {"skip": -1}, {"arrivals": 1 << 40}):
        with pytest.raises(ValueError, match=r"arrivals|skip"):
            torture.pause("rt_pml", **arguments)
