"""emit_threadsafe: an emission on the bound loop, from any thread, with a future."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import threading
import warnings
from typing import Any

import pytest
from helpers import DEADLINE, LoopThread, failing, note, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


@pytest.mark.parametrize("bound_by", ["constructor", "bind_loop"])
def test_it_delivers_in_the_thread_of_the_bound_loop_and_counts(
    other: LoopThread, bound_by: str
) -> None:
    bus = EventBus(loop=other.loop if bound_by == "constructor" else None)
    if bound_by == "bind_loop":
        bus.bind_loop(other.loop)
    log: list[Any] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        log.append(("async", payload, threading.get_ident(), asyncio.get_running_loop()))

    bus.on("a", lambda payload: log.append(("sync", payload, threading.get_ident())))
    future = bus.emit_threadsafe("a", 1)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(DEADLINE) == 2
    assert log == [
        ("sync", 1, other.thread.ident),
        ("async", 1, other.thread.ident, other.loop),
    ]


def test_it_waits_for_async_handlers(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    log: list[str] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        log.append("done")

    assert bus.emit_threadsafe("a").result(DEADLINE) == 1
    assert log == ["done"]


def test_the_payload_is_none_when_omitted(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    got: list[Any] = []
    bus.on("a", got.append)
    bus.emit_threadsafe("a").result(DEADLINE)
    assert got == [None]


def test_it_counts_0_without_handlers(other: LoopThread) -> None:
    assert EventBus(loop=other.loop).emit_threadsafe("a").result(DEADLINE) == 0


def test_it_does_not_wait_itself(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    gate = threading.Event()

    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, gate.wait, DEADLINE)

    future = bus.emit_threadsafe("a")
    assert not future.done()
    gate.set()
    assert future.result(DEADLINE) == 1


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("a.*", ValueError), (3, TypeError)])
def test_a_bad_name_reaches_the_future(
    other: LoopThread, name: Any, error: type[Exception]
) -> None:
    future = EventBus(loop=other.loop).emit_threadsafe(name)
    with pytest.raises(error, match="event name"):
        future.result(DEADLINE)


def test_a_failing_handler_is_reported_and_counted(other: LoopThread, records: Records) -> None:
    bus = EventBus(loop=other.loop)
    bus.on("a", failing(ValueError("no")))
    assert bus.emit_threadsafe("a").result(DEADLINE) == 1
    assert [r.getMessage() for r in records] == [
        "Handler 'failing.<locals>.boom' raised on event 'a': no"
    ]


def test_without_a_bound_loop_it_raises(bus: EventBus) -> None:
    log: list[str] = []
    bus.on("a", note(log, "called"))
    with pytest.raises(RuntimeError, match="bind_loop"):
        bus.emit_threadsafe("a")
    gc.collect()
    assert log == []


async def test_a_running_loop_is_no_bound_loop(bus: EventBus) -> None:
    with pytest.raises(RuntimeError, match="bind_loop"):
        bus.emit_threadsafe("a")


def test_after_unbinding_it_raises(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    bus.bind_loop(None)
    with pytest.raises(RuntimeError, match="bind_loop"):
        bus.emit_threadsafe("a")


def test_with_a_closed_loop_it_raises_and_does_not_warn() -> None:
    loop = asyncio.new_event_loop()
    bus = EventBus(loop=loop)
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError, match="closed"):
            bus.emit_threadsafe("a")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_handlers_see_the_context_of_the_caller(other: LoopThread) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    bus = EventBus(loop=other.loop)
    seen: list[str] = []
    bus.on("a", lambda payload: seen.append(variable.get("unset")))

    @bus.on("a")
    async def handler(payload: object) -> None:
        seen.append(variable.get("unset"))
        variable.set("changed by a handler")

    def emit() -> None:
        variable.set("caller")
        bus.emit_threadsafe("a").result(DEADLINE)
        seen.append(variable.get())

    contextvars.copy_context().run(emit)
    assert seen == ["caller", "caller", "caller"]


def test_cancelling_the_future_cancels_the_emission(other: LoopThread, records: Records) -> None:
    bus = EventBus(loop=other.loop)
    started, ended = threading.Event(), threading.Event()
    log: list[str] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        finally:
            ended.set()

    future = bus.emit_threadsafe("a")
    assert started.wait(DEADLINE)
    assert future.cancel()
    assert ended.wait(DEADLINE)
    assert log == ["cancelled"]
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(DEADLINE)
    assert records == []


def test_cancelled_at_once_it_still_ends_without_a_trace(
    other: LoopThread, records: Records
) -> None:
    """The loop has been handed the emission: it begins, and is then cancelled."""
    bus = EventBus(loop=other.loop)
    log: list[str] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.Event().wait()
        log.append("went on")

    gate = threading.Event()
    other.loop.call_soon_threadsafe(gate.wait, DEADLINE)
    future = bus.emit_threadsafe("a")
    assert future.cancel()
    gate.set()
    other.run(turns(10))
    assert other.run(unfinished_tasks()) == 0
    assert log == []
    assert records == []


async def unfinished_tasks() -> int:
    return len(asyncio.all_tasks() - {asyncio.current_task()})


async def test_the_loop_may_call_it_itself(bus: EventBus) -> None:
    log: list[str] = []
    bus.bind_loop(asyncio.get_running_loop())
    bus.on("a", note(log, "called"))
    future = bus.emit_threadsafe("a")
    assert log == []
    assert await soon(asyncio.wrap_future(future)) == 1
    assert log == ["called"]


def test_a_closed_bus_delivers_nothing(other: LoopThread, records: Records) -> None:
    bus = EventBus(loop=other.loop)
    log: list[str] = []
    bus.on("a", note(log, "late"))
    other.run(bus.aclose())
    assert bus.emit_threadsafe("a").result(DEADLINE) == 0
    assert log == []
    assert [r.levelname for r in records] == ["WARNING"]


def test_an_error_that_is_not_isolated_reaches_the_future(other: LoopThread) -> None:
    class Stop(BaseException):
        pass

    bus = EventBus(loop=other.loop)
    bus.on("a", failing(Stop("now")))
    with pytest.raises(Stop, match="now"):
        bus.emit_threadsafe("a").result(DEADLINE)


@pytest.mark.parametrize("arguments", [(), ("a", 1, 2)])
def test_it_takes_a_name_and_at_most_one_payload(
    other: LoopThread, arguments: tuple[Any, ...]
) -> None:
    bus = EventBus(loop=other.loop)
    emit: Any = bus.emit_threadsafe
    with pytest.raises(TypeError, match="argument"):
        emit(*arguments)


@pytest.mark.usefixtures("eager_switching")
def test_threads_may_call_it_at_once(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    got: list[int] = []
    threads_seen: set[int] = set()

    @bus.on("a")
    async def handler(payload: int) -> None:
        await asyncio.sleep(0)
        got.append(payload)
        threads_seen.add(threading.get_ident())

    meeting = threading.Barrier(4, timeout=DEADLINE)
    results: list[int] = []

    def emit(start: int) -> None:
        meeting.wait()
        futures = [bus.emit_threadsafe("a", n) for n in range(start, start + 50)]
        results.extend(future.result(DEADLINE) for future in futures)

    threads = [threading.Thread(target=emit, args=(n * 50,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == [1] * 200
    assert sorted(got) == list(range(200))
    assert threads_seen == {other.thread.ident}
