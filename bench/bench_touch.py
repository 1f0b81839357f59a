"""What mm.touch costs: one address from Python, and many from NumPy.

    pytest bench/bench_touch.py -s

The scalar call is held against ``_core.echo``, a METH_FASTCALL function that takes and returns one int. pytest-benchmark
misreads calls below a microsecond, so all of it is timed by loops here, whose minima count: what a call costs when nobody
else has the processor. Two threads are held to their bar on a free-threaded Python only, and on two processors.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rows import Row, record

import pgtbl
from pgtbl import _core

SHORT = 5_000  # calls of a loop
CALLS = 500_000  # of each thread
TOUCHES = 1_000_000  # of one NumPy call


@contextmanager
def mapped(length: str) -> Iterator[tuple[pgtbl.Mm, pgtbl.Vma]]:
    """An area whose pages are all there."""
    with pgtbl.Machine(memory="64MiB") as machine:
        mm = machine.mm()
        area = mm.mmap(length=length, shared=False)
        mm.touch(area.addresses(), write=True)
        yield mm, area


# ---- one address ------------------------------------------------------------------------------------------


def call_ns(call: Callable[[int], Any], value: int) -> float:
    """Nanoseconds of one call(value), the loop's own cost subtracted."""

    def loop(body: Callable[[int], Any] | None) -> int:
        turns = itertools.repeat(None, SHORT)
        begin = time.perf_counter_ns()
        if body is None:
            for _ in turns:
                pass
        else:
            for _ in turns:
                body(value)
        return time.perf_counter_ns() - begin

    pairs = [(loop(call), loop(None)) for _ in range(240)]
    return (min(pair[0] for pair in pairs) - min(pair[1] for pair in pairs)) / SHORT


def scalar() -> Iterator[Row]:
    with mapped("1MiB") as (mm, area):
        echo, touch, load = (call_ns(f, area.start) for f in (_core.echo, mm.touch, mm.load))
    for name, ns, bar in (("touch", touch, 2.0), ("load", load, None)):
        beside = f"{ns:.1f} / {echo:.1f} ns"
        yield Row(f"mm.{name}, beside a METH_FASTCALL function", ns / echo, "", beside, bar)


# ---- many by one call -------------------------------------------------------------------------------------


def arrays() -> Iterator[Row]:
    with mapped("2MiB") as (mm, area):
        in_order = np.resize(area.addresses(), TOUCHES)
        at_random = np.random.default_rng(1).permutation(in_order)
        for order, addresses in (("in order", in_order), ("at random", at_random)):
            for kind, write in (("loads", False), ("stores", True)):
                seconds = []
                for _ in range(15):
                    begin = time.perf_counter()
                    mm.touch(addresses, write=write)
                    seconds.append(time.perf_counter() - begin)
                name = f"a million {kind} by one NumPy call, {order}"
                rate = TOUCHES / min(seconds) / 1e6
                yield Row(name, rate, "million/s", "512 pages", 20, at_least=True)


# ---- two threads ------------------------------------------------------------------------------------------


def together(mm: pgtbl.Mm, start: int, threads: int) -> float:
    """Calls a second of so many threads, each at a page of its own."""
    barrier = threading.Barrier(threads + 1)

    def work(address: int) -> None:
        touch = mm.touch
        touch(address)
        barrier.wait()
        for _ in range(CALLS):
            touch(address)
        barrier.wait()

    workers = [threading.Thread(target=work, args=(start + 4096 * i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    begin = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - begin
    for worker in workers:
        worker.join()
    return threads * CALLS / seconds


def threaded() -> Iterator[Row]:
    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    with mapped("1MiB") as (mm, area):
        one, two = (max(together(mm, area.start, n) for _ in range(5)) for n in (1, 2))
    beside = f"{two / 1e6:.1f} / {one / 1e6:.1f} million calls a second"
    bar = 1.8 if free and len(os.sched_getaffinity(0)) >= 2 else None
    gil = "free-threaded" if free else "with the GIL"
    yield Row(f"two Python threads, beside one, {gil}", two / one, "", beside, bar, at_least=True)


# ---- pytest-benchmark -------------------------------------------------------------------------------------


def test_scalar_touch(benchmark: Any) -> None:
    """One address: at most twice what calling anything costs."""
    record(benchmark, scalar)


def test_numpy_touch(benchmark: Any) -> None:
    """A million addresses: at least 20 million a second."""
    record(benchmark, arrays)


def test_two_threads(benchmark: Any) -> None:
    """Without the GIL, two threads reach at least 1.8 times one."""
    record(benchmark, threaded, attempts=5)
