"""RCU domains from Python: sections, grace periods, callbacks, limits, stalls, fork, and the GIL."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgtbl import _core
from pgtbl.errors import ClosedError, DeadlockError, UsageError

RcuDomain = _core.RcuDomain


@pytest.fixture
def domain() -> Iterator[Any]:
    with RcuDomain() as rcu:
        yield rcu


class Reader:
    """A thread that stays in a read section until it is told to leave."""

    def __init__(self, domain: Any, depth: int = 1, leave: bool = True) -> None:
        self.domain, self.depth, self.leave = domain, depth, leave
        self.inside, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, name="rcu-reader")
        self.tid = 0

    def run(self) -> None:
        self.tid = threading.get_native_id()
        for _ in range(self.depth):
            self.domain.read_lock()
        self.inside.set()
        self.go.wait(30)
        for _ in range(self.depth if self.leave else 0):
            self.domain.read_unlock()

    def __enter__(self) -> Reader:  # noqa: PYI034
        self.thread.start()
        assert self.inside.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self.go.set()
        self.thread.join(10)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


# ---- sections -----------------------------------------------------------------------------------


def test_sections_nest(domain: Any) -> None:
    assert domain.nesting == 0
    with domain.read():
        with domain.read():
            assert domain.nesting == 2
        assert domain.nesting == 1
    assert domain.nesting == 0


def test_one_section_object_can_be_entered_again(domain: Any) -> None:
    section = domain.read()
    with section, section:
        assert domain.nesting == 2
    with section:
        assert domain.nesting == 1


def test_unlock_outside_of_sections_is_refused(domain: Any) -> None:
    with pytest.raises(UsageError, match="not in a read section"):
        domain.read_unlock()
    with pytest.raises(UsageError, match="not entered"):
        domain.read().__exit__(None, None, None)
    domain.synchronize()


def test_a_section_is_left_by_the_thread_that_entered_it(domain: Any) -> None:
    section = domain.read()
    errors = []

    def other() -> None:
        try:
            section.__exit__(None, None, None)
        except UsageError as e:
            errors.append(str(e))

    with section:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert "entered by thread" in errors[0]


def test_nesting_has_an_end(domain: Any) -> None:
    for _ in range(32767):
        domain.read_lock()
    with pytest.raises(UsageError, match="32767"):
        domain.read_lock()
    for _ in range(32767):
        domain.read_unlock()
    domain.synchronize()


def test_domains_are_apart(domain: Any) -> None:
    with RcuDomain() as other, domain.read():
        other.synchronize()


# ---- grace periods ------------------------------------------------------------------------------


@pytest.mark.sanitize
@pytest.mark.parametrize("expedited", [False, True])
def test_a_grace_period_waits_for_a_section(domain: Any, expedited: bool) -> None:
    done = threading.Event()

    def update() -> None:
        domain.synchronize(expedited=expedited)
        done.set()

    with Reader(domain) as reader:
        thread = threading.Thread(target=update)
        thread.start()
        assert not done.wait(0.05)
        reader.go.set()
        assert done.wait(10)
    thread.join()


def test_waiting_in_a_section_is_a_deadlock(domain: Any) -> None:
    with domain.read():
        cookie = domain.get_state()
        for wait in (
            domain.synchronize,
            lambda: domain.synchronize(expedited=True),
            domain.barrier,
            lambda: domain.cond_synchronize(cookie),
        ):
            with pytest.raises(DeadlockError, match="inside a read section"):
                wait()
    domain.synchronize()


def test_kinds_are_counted(domain: Any) -> None:
    domain.synchronize()
    domain.synchronize(expedited=True)
    cookie = domain.start_poll()
    assert domain.poll(cookie)
    stats = domain.stats()
    assert stats["grace_periods"] == 3
    assert stats["grace_periods_by_kind"] == {"normal": 1, "expedited": 1, "polled": 1}
    assert {kind: sum(n) for kind, n in stats["latency_log2_ns"].items()} == {
        "normal": 1,
        "expedited": 1,
        "polled": 1,
    }


def test_callers_share_grace_periods(domain: Any) -> None:
    with Reader(domain) as reader:
        threads = [threading.Thread(target=domain.synchronize) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        reader.go.set()
        for thread in threads:
            thread.join(10)
    assert 1 <= domain.stats()["grace_periods"] <= 3


# ---- cookies ------------------------------------------------------------------------------------


def test_get_state_starts_nothing(domain: Any) -> None:
    cookie = domain.get_state()
    for _ in range(10):
        assert not domain.poll(cookie)
    domain.synchronize()
    assert domain.poll(cookie)
    assert domain.stats()["grace_periods"] == 1


def test_start_poll_needs_nobody_else(domain: Any) -> None:
    with Reader(domain) as reader:
        cookie = domain.start_poll()
        assert not domain.poll(cookie)
        reader.go.set()
        assert until(lambda: domain.poll(cookie))
    assert domain.poll(cookie)


def test_a_cookie_does_not_pass_in_its_own_section(domain: Any) -> None:
    with domain.read():
        cookie = domain.start_poll()
        for _ in range(10):
            assert not domain.poll(cookie)
    assert until(lambda: domain.poll(cookie))


def test_a_cookie_wants_a_whole_grace_period(domain: Any) -> None:
    """Pitfall: a blocking caller that took a poller's half-done grace period for its own."""
    with Reader(domain) as first:
        early = domain.start_poll()  # begins here, and stays half-done
        with Reader(domain) as second:
            late = domain.get_state()  # after it began: the second reader's section counts
            first.go.set()
            assert until(lambda: domain.poll(early))
            assert not domain.poll(late)
            started = domain.start_poll()
            assert not domain.poll(started)
            second.go.set()
            assert until(lambda: domain.poll(started))
            assert domain.poll(late)


def test_a_blocking_caller_finishes_a_polled_grace_period_first(domain: Any) -> None:
    with Reader(domain) as reader:
        cookie = domain.start_poll()
        timer = threading.Timer(0.02, reader.go.set)
        timer.start()
        domain.synchronize()
        timer.join()
    assert domain.poll(cookie)
    assert domain.stats()["grace_periods"] == 2


def test_cond_synchronize_waits_only_if_it_must(domain: Any) -> None:
    cookie = domain.get_state()
    domain.synchronize()
    domain.cond_synchronize(cookie)
    assert domain.stats()["grace_periods"] == 1
    domain.cond_synchronize(domain.get_state())
    assert domain.stats()["grace_periods"] == 2


@pytest.mark.parametrize("cookie", [0, 1, 3, 1000, 2**63, 2**64 - 2])
def test_foreign_cookies_are_refused(domain: Any, cookie: int) -> None:
    with pytest.raises(ValueError, match=str(cookie)):
        domain.poll(cookie)
    with pytest.raises(ValueError, match="get_state"):
        domain.cond_synchronize(cookie)


def test_cookies_are_ints(domain: Any) -> None:
    with pytest.raises(ValueError, match="-2"):
        domain.poll(-2)
    with pytest.raises(TypeError, match="int"):
        domain.poll("2")


# ---- callbacks ----------------------------------------------------------------------------------


@pytest.mark.sanitize
def test_python_callbacks_run_once_and_in_order(domain: Any) -> None:
    ran: list[int] = []
    for i in range(1000):
        domain.call(lambda i=i: ran.append(i))
    domain.barrier()
    assert ran == list(range(1000))
    stats = domain.stats()
    assert stats["queued"] == stats["invoked"] == 1000
    assert stats["pending"] == 0


def test_a_callback_runs_without_being_waited_for(domain: Any) -> None:
    ran = threading.Event()
    domain.call(ran.set)
    assert until(ran.is_set)


def test_callbacks_wait_for_readers(domain: Any) -> None:
    ran = threading.Event()
    with Reader(domain):
        domain.call(ran.set)
        time.sleep(0.1)
        assert not ran.is_set()
    domain.barrier()
    assert ran.is_set()


def test_a_callback_may_call_again(domain: Any) -> None:
    ran: list[int] = []

    def again() -> None:
        ran.append(len(ran))
        if len(ran) < 5:
            domain.call(again)

    domain.call(again)
    for _ in range(5):
        domain.barrier()
    assert ran == [0, 1, 2, 3, 4]


def test_a_callback_may_wait_for_a_grace_period_but_not_for_callbacks(domain: Any) -> None:
    errors: list[BaseException] = []

    def callback() -> None:
        domain.synchronize()
        try:
            domain.barrier()
        except DeadlockError as e:
            errors.append(e)

    domain.call(callback)
    domain.barrier()
    assert len(errors) == 1


def test_what_a_callback_raises_is_unraisable(domain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    ran: list[int] = []
    domain.call(lambda: 1 / 0)
    domain.call(lambda: ran.append(1))
    domain.barrier()
    assert [s.exc_type for s in seen] == [ZeroDivisionError]
    assert ran == [1]


def test_callbacks_of_a_thread_that_ended_are_not_lost(domain: Any) -> None:
    tally = _core.RcuTally()
    threads = [
        threading.Thread(target=lambda: domain.call(tally, repeat=300, bytes="1KiB"))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    domain.barrier()
    assert tally.value == 1200


def test_leftovers_are_reclaimed_while_nobody_calls(domain: Any) -> None:
    tally = _core.RcuTally()
    domain.call(tally, repeat=10)
    assert until(lambda: bool(tally.value == 10), 5.0)


def test_callbacks_queued_in_sections_only_are_reclaimed_too(domain: Any) -> None:
    tally = _core.RcuTally()
    for _ in range(2000):
        with domain.read():
            domain.call(tally)
    assert until(lambda: bool(tally.value == 2000), 5.0)


def test_a_c_function_in_a_capsule(domain: Any) -> None:
    api = ctypes.pythonapi
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    api.PyCapsule_SetContext.argtypes = [ctypes.py_object, ctypes.c_void_p]
    cell = ctypes.create_string_buffer(b"before")
    # free(strdup("...")): a C function void(void *) that is at hand everywhere.
    libc = ctypes.CDLL(None)
    libc.strdup.restype = ctypes.c_void_p
    copy = libc.strdup(cell)
    free = ctypes.cast(libc.free, ctypes.c_void_p).value
    capsule = api.PyCapsule_New(free, b"pgtbl.rcu_callback", None)
    api.PyCapsule_SetContext(capsule, copy)
    domain.call(capsule)
    domain.barrier()
    assert domain.stats()["invoked"] == 1
    wrong = api.PyCapsule_New(free, b"something.else", None)
    with pytest.raises(ValueError, match="incorrect name"):
        domain.call(wrong)


@pytest.mark.parametrize("callback", [None, 3, "text"])
def test_what_cannot_be_called_is_refused(domain: Any, callback: object) -> None:
    with pytest.raises(TypeError, match="callable"):
        domain.call(callback)
    domain.barrier()


def test_bad_sizes_are_refused(domain: Any) -> None:
    with pytest.raises(ValueError, match="-1"):
        domain.call(print, bytes=-1)
    with pytest.raises(ValueError, match="-1"):
        domain.call(print, repeat=-1)


def test_close_runs_what_is_left() -> None:
    ran: list[int] = []
    rcu = RcuDomain()
    rcu.call(lambda: ran.append(1))
    rcu.close()
    assert ran == [1]


def test_a_forgotten_domain_runs_what_is_left() -> None:
    tally = _core.RcuTally()
    rcu = RcuDomain()
    rcu.call(tally, repeat=7)
    del rcu
    gc.collect()
    assert tally.value == 7


def test_a_callback_may_close_its_domain() -> None:
    rcu = RcuDomain()
    closed = threading.Event()

    def callback() -> None:
        rcu.close()
        closed.set()

    rcu.call(callback)
    assert until(closed.is_set)
    with pytest.raises(ClosedError):
        rcu.synchronize()


# ---- limits -------------------------------------------------------------------------------------


@pytest.mark.sanitize
@pytest.mark.parametrize("limit", ["objects", "bytes"])
def test_the_backlog_stays_at_the_hard_limit_under_a_stalled_reader(limit: str) -> None:
    limits = (
        {"soft_objects": 2_000, "hard_objects": 10_000}
        if limit == "objects"
        else {"soft_bytes": 2_000_000, "hard_bytes": 10_000_000}
    )
    with RcuDomain(**limits) as rcu:
        tally = _core.RcuTally()
        flood = threading.Thread(target=lambda: rcu.call(tally, repeat=200_000, bytes=1000))
        with Reader(rcu) as reader:
            flood.start()
            time.sleep(0.3)
            peak = rcu.stats()
            reader.go.set()
        flood.join(30)
        assert not flood.is_alive()
        rcu.barrier()
        stats = rcu.stats()
    assert 10_000 <= peak["pending"] <= 10_000 + 2 * 256
    assert stats["pending_max"] <= 10_000 + 2 * 256
    assert stats["hard_throttles"] >= 1
    assert stats["soft_throttles"] >= 1
    assert stats["throttled_seconds"] > 0.1
    assert tally.value == 200_000


def test_call_never_waits_in_a_section() -> None:
    with RcuDomain(hard_objects=100) as rcu:
        tally = _core.RcuTally()
        with rcu.read():
            rcu.call(tally, repeat=5_000)
            assert tally.value == 0
            assert rcu.stats()["pending"] == 5_000
        rcu.barrier()
        assert tally.value == 5_000


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"soft_objects": 10, "hard_objects": 5}, "soft_objects 10"),
        ({"soft_bytes": "2MiB", "hard_bytes": "1MiB"}, "hard_bytes 1048576"),
        ({"hard_objects": 0}, "hard_objects"),
        ({"hard_objects": -1}, "-1"),
        ({"stall_seconds": 0}, "stall_seconds"),
        ({"stall_seconds": -1.0}, "-1"),
    ],
)
def test_bad_limits_are_refused(limits: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RcuDomain(**limits)


# ---- stalls, exits, ends ------------------------------------------------------------------------


def test_a_stall_names_the_reader() -> None:
    # Of what happens in C++ only the warnings show: the test's own filter must not raise them.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RcuDomain(stall_seconds=0.05) as rcu:
            with Reader(rcu, depth=3) as reader:
                rcu.call(_core.RcuTally(), repeat=40, bytes=100)  # the section keeps them waiting
                timer = threading.Timer(0.25, reader.go.set)
                timer.start()
                rcu.synchronize()
                timer.join()
            stats = rcu.stats()
    # After 0.05, 0.1 and 0.2 s; a slow machine may leave the last to the next wait.
    texts = [str(w.message) for w in caught if "RCU" in str(w.message)]
    assert 2 <= len(texts) <= 4
    assert f"thread {reader.tid} (" in texts[0]
    assert "nested 3 deep" in texts[0]
    assert "40 callbacks, 4000 bytes" in texts[0]
    assert stats["stalls"] >= 2
    assert 0.1 < stats["longest_stall_seconds"] < 5


@pytest.mark.sanitize
def test_exit_inside_a_section_is_survived_and_counted(domain: Any) -> None:
    with Reader(domain, depth=2, leave=False):
        pass
    assert until(lambda: bool(domain.stats()["readers_exited_inside"] == 1))
    domain.synchronize()


@pytest.mark.sanitize
def test_threads_come_and_go(domain: Any) -> None:
    def visit() -> None:
        with domain.read():
            pass

    for _ in range(200):
        thread = threading.Thread(target=visit)
        thread.start()
        thread.join()
    domain.synchronize()
    assert until(lambda: bool(domain.stats()["readers"] <= 1))
    assert domain.stats()["readers_detached"] >= 200


def test_a_closed_domain_answers_closed(domain: Any) -> None:
    rcu = RcuDomain()
    section = rcu.read()
    rcu.close()
    rcu.close()
    for use in (
        rcu.read_lock,
        rcu.synchronize,
        rcu.barrier,
        rcu.get_state,
        rcu.start_poll,
        rcu.stats,
        section.__enter__,
        lambda: rcu.call(print),
        lambda: rcu.poll(2),
        lambda: rcu.nesting,
    ):
        with pytest.raises(ClosedError, match="closed"):
            use()


def test_close_is_refused_while_a_thread_reads() -> None:
    rcu = RcuDomain()
    with Reader(rcu) as reader, pytest.raises(UsageError, match=str(reader.tid)):
        rcu.close()
    with rcu.read(), pytest.raises(UsageError, match="read sections"):
        rcu.close()
    rcu.close()


# ---- fork ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork() -> None:
    rcu = RcuDomain()
    tally = _core.RcuTally()
    ran: list[int] = []
    rcu.call(tally, repeat=10)  # starts the worker
    rcu.call(lambda: ran.append(os.getpid()))
    with Reader(rcu) as reader:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os._exit(in_child(rcu) or int(os.getpid() in ran))
        assert exit_status(pid) == 0
        reader.go.set()
    rcu.barrier()
    assert tally.value == 10
    assert ran == [os.getpid()]
    rcu.close()


def in_child(inherited: Any) -> int:
    """Exit status: 0, or the number of what went wrong."""
    uses: list[Callable[[], object]] = [
        inherited.read_lock,
        inherited.synchronize,
        inherited.barrier,
        inherited.stats,
        lambda: inherited.call(print),
    ]
    for number, use in enumerate(uses):
        try:
            use()
        except ClosedError as e:
            if "parent process" not in str(e):
                return 20 + number
        else:
            return 10 + number
    inherited.close()
    tally = _core.RcuTally()
    with RcuDomain() as own:
        own.call(tally, repeat=1000)
        with own.read():
            pass
        own.synchronize()
        own.barrier()
    if tally.value != 1000:
        return 30
    gc.collect()
    return 0


def exit_status(pid: int, seconds: float = 10.0) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


# ---- nothing that waits holds the GIL -----------------------------------------------------------


@pytest.mark.parametrize("what", ["synchronize", "expedited", "barrier", "cond_synchronize"])
def test_waiting_holds_no_gil(domain: Any, what: str) -> None:
    """The reader needs the GIL to leave its section: a waiter that held it would wait for ever."""
    cookie = domain.get_state()
    wait: dict[str, Callable[[], None]] = {
        "synchronize": domain.synchronize,
        "expedited": lambda: domain.synchronize(expedited=True),
        "barrier": domain.barrier,
        "cond_synchronize": lambda: domain.cond_synchronize(cookie),
    }
    ran = threading.Event()
    domain.call(ran.set)
    inside = threading.Event()
    passes = 0

    def read() -> None:
        nonlocal passes
        with domain.read():
            inside.set()
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                passes += 1

    reader = threading.Thread(target=read)
    reader.start()
    assert inside.wait(10)
    start = time.monotonic()
    wait[what]()
    took = time.monotonic() - start
    reader.join()
    assert took < 5
    assert passes > 100


def test_throttling_holds_no_gil() -> None:
    with RcuDomain(hard_objects=500) as rcu:
        with Reader(rcu) as reader:
            timer = threading.Timer(0.1, reader.go.set)  # runs Python code
            timer.start()
            rcu.call(_core.RcuTally(), repeat=5_000)
            timer.join()
        rcu.barrier()


def test_a_forgotten_domain_waits_without_the_gil() -> None:
    """The destructor waits for what the worker is running, in a thread that needs the GIL."""
    for _ in range(20):
        rcu = RcuDomain()
        rcu.call(lambda: None, repeat=100)
        del rcu


def test_many_threads_queue_python_callbacks(domain: Any) -> None:
    ran: list[int] = []

    def work() -> None:
        for i in range(500):
            domain.call(lambda: ran.append(1))
            if i % 100 == 0:
                domain.synchronize()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    domain.barrier()
    assert len(ran) == 2000
