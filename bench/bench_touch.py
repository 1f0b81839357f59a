"""What mm.touch costs: one address from Python, and many from NumPy.

    pytest bench/bench_touch.py -s

The ratio of the scalar call to ``_core.echo`` (a METH_FASTCALL function that takes and returns one int) should be at most
2; one NumPy call should touch at least 20 million mapped pages a second; two threads of a free-threaded Python should
reach at least 1.8 times one. pytest-benchmark misreads calls below a microsecond, so
each round here is a loop of them, and what is printed are minima.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pgtbl
from pgtbl import _core

CALLS = 100_000
SHORT = 5_000


@pytest.fixture
def mm() -> Iterator[pgtbl.Mm]:
    with pgtbl.Machine(memory="64MiB") as machine:
        yield machine.mm()


def repeat(call: Callable[[int], Any], value: int) -> float:
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

    # Minima of short loops, by turns: what a call costs when nobody else has the processor.
    pairs = [(loop(call), loop(None)) for _ in range(240)]
    return (min(pair[0] for pair in pairs) - min(pair[1] for pair in pairs)) / SHORT


def test_scalar_touch(benchmark: Any, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="1MiB", shared=False)
    mm.touch(area.start, write=True)
    echo = repeat(_core.echo, area.start)
    touch = repeat(mm.touch, area.start)
    load = repeat(mm.load, area.start)
    benchmark.extra_info.update(echo_ns=echo, touch_ns=touch, load_ns=load, ratio=touch / echo)
    print(
        f"\necho {echo:.1f} ns, touch {touch:.1f} ns ({touch / echo:.2f} times), load {load:.1f} ns"
    )
    benchmark.pedantic(repeat, (mm.touch, area.start), rounds=3)


@pytest.mark.parametrize("order", ["in order", "at random"])
@pytest.mark.parametrize("write", [False, True])
def test_numpy_touch(benchmark: Any, mm: pgtbl.Mm, order: str, write: bool) -> None:
    area = mm.mmap(length="2MiB", shared=False)
    addresses = np.resize(area.addresses(), 1_000_000)
    if order == "at random":
        addresses = np.random.default_rng(1).permutation(addresses)
    mm.touch(area.addresses(), write=True)
    benchmark(mm.touch, addresses, write=write)
    rate = len(addresses) / benchmark.stats.stats.min if benchmark.enabled else 0.0
    benchmark.extra_info["touches_per_s"] = rate
    print(f"\n{rate / 1e6:.1f} million touches a second, {order}, write={write}")


def test_two_threads(benchmark: Any, mm: pgtbl.Mm) -> None:
    area = mm.mmap(length="1MiB", shared=False)
    mm.touch(area.addresses(), write=True)

    def together(threads: int) -> float:
        """Calls a second of so many threads, each at a page of its own."""
        barrier = threading.Barrier(threads + 1)

        def work(address: int) -> None:
            touch = mm.touch
            touch(address)
            barrier.wait()
            for _ in range(5 * CALLS):
                touch(address)
            barrier.wait()

        workers = [
            threading.Thread(target=work, args=(area.start + 4096 * i,)) for i in range(threads)
        ]
        for worker in workers:
            worker.start()
        barrier.wait()
        begin = time.perf_counter()
        barrier.wait()
        seconds = time.perf_counter() - begin
        for worker in workers:
            worker.join()
        return threads * 5 * CALLS / seconds

    one = max(together(1) for _ in range(5))
    two = max(together(2) for _ in range(5))
    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    benchmark.extra_info.update(one=one, two=two, ratio=two / one, free_threaded=free)
    print(
        f"\none thread {one / 1e6:.1f}, two {two / 1e6:.1f} million calls a second; free threading: {free}"
    )
    benchmark.pedantic(together, (2,), rounds=1)
