"""Async handlers under emit in a thread without a loop, on the loop the bus is bound to."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from typing import Any

import pytest
from helpers import DEADLINE, LoopThread, anote, failing, note, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


@pytest.mark.parametrize("bound_by", ["constructor", "bind_loop"])
def test_handlers_run_on_the_bound_loop(other: LoopThread, bound_by: str) -> None:
    if bound_by == "constructor":
        bus = EventBus(loop=other.loop)
    else:
        bus = EventBus()
        bus.bind_loop(other.loop)
    log: list[Any] = []
    done = threading.Event()

    @bus.on("a")
    async def handler(payload: object) -> None:
        log.append((payload, threading.get_ident(), asyncio.get_running_loop()))
        done.set()

    bus.on("a", lambda payload: log.append(("sync", threading.get_ident())))
    assert bus.emit("a", 1) == 2
    assert done.wait(DEADLINE)
    assert log[0] == ("sync", threading.get_ident())
    assert log[1] == (1, other.thread.ident, other.loop)


def test_emit_does_not_wait_for_them(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    release, done = threading.Event(), threading.Event()

    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, release.wait, DEADLINE)
        done.set()

    assert bus.emit("a") == 1
    assert not done.is_set()
    release.set()
    assert done.wait(DEADLINE)


def test_they_start_in_order(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    log: list[int] = []
    for priority in (2, 0, 1):
        bus.on("a", anote(log, priority), priority=priority)
    for _ in range(10):
        bus.emit("a")
    other.run(bus.drain())
    assert log == [0, 1, 2] * 10


def test_they_see_the_context_of_the_emitter(other: LoopThread) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    bus = EventBus(loop=other.loop)
    seen: list[str] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        seen.append(variable.get("unset"))

    def emit() -> None:
        variable.set("emitter")
        bus.emit("a")

    contextvars.copy_context().run(emit)
    other.run(bus.drain())
    assert seen == ["emitter"]


def test_failures_are_reported(other: LoopThread, records: Records) -> None:
    bus = EventBus(loop=other.loop)

    @bus.on("a")
    async def fails(payload: object) -> None:
        raise ValueError("over there")

    bus.emit("a")
    other.run(bus.drain())
    assert [record.getMessage().rsplit(": ", 1)[1] for record in records] == ["over there"]


def test_a_handler_cancelled_before_it_started_is_skipped(bus: EventBus) -> None:
    loop = asyncio.new_event_loop()
    log: list[str] = []
    bus.bind_loop(loop)
    victim = bus.subscribe("a", anote(log, "victim"))
    bus.on("a", anote(log, "after"))
    bus.emit("a")
    victim.cancel()
    loop.run_until_complete(bus.drain())
    loop.close()
    assert log == ["after"]


async def test_a_running_loop_comes_before_the_bound_one(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    loops: list[object] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        loops.append(asyncio.get_running_loop())

    bus.emit("a")
    await soon(bus.drain())
    assert loops == [asyncio.get_running_loop()]


def test_binding_none_unbinds(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    bus.bind_loop(None)
    threads: list[object] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        threads.append(threading.get_ident())

    assert bus.emit("a") == 1
    assert threads == [threading.get_ident()]


def test_a_loop_that_runs_later_gets_what_was_emitted_before(bus: EventBus) -> None:
    loop = asyncio.new_event_loop()
    log: list[str] = []
    bus.bind_loop(loop)
    bus.on("a", anote(log, "h"))
    assert bus.emit("a") == 1
    assert log == []
    loop.run_until_complete(bus.drain())
    loop.close()
    assert log == ["h"]


def test_a_closed_loop_is_a_failure_of_every_async_handler(bus: EventBus, records: Records) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    bus.bind_loop(loop)
    log: list[str] = []
    first = bus.subscribe("a", anote(log, "never"))
    bus.subscribe("a", anote(log, "never"))
    bus.on("a", note(log, "sync"))
    bus.emit("a")
    gc.collect()
    assert log == ["sync"]
    assert [record.levelno for record in records] == [logging.ERROR] * 2
    assert "raised on event 'a'" in records[0].getMessage()
    assert first.failures == 1


def test_an_interrupt_on_the_way_to_the_loop_comes_out_of_emit(records: Records) -> None:
    class Interrupted:
        """A loop during whose calls the user presses Ctrl-C."""

        call_soon_threadsafe = staticmethod(failing(KeyboardInterrupt()))

        def is_closed(self) -> bool:
            return False

    bus_type: Any = EventBus
    bus = bus_type(loop=Interrupted())
    bus.on("a", anote([], "never"))
    with pytest.raises(KeyboardInterrupt):
        bus.emit("a")
    assert asyncio.run(bus.drain()) == []
    assert records == []


@pytest.mark.parametrize("started", [False, True])
def test_what_was_pending_on_a_loop_that_closed_is_dropped_by_the_next_drain(
    bus: EventBus, started: bool, recwarn: pytest.WarningsRecorder
) -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    bus.bind_loop(loop)
    log: list[str] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        log.append("started")
        await asyncio.Event().wait()
        log.append("finished")

    assert bus.emit("a") == 1
    if started:
        loop.run_until_complete(turns())
    loop.close()
    assert asyncio.run(asyncio.wait_for(bus.drain(), DEADLINE)) == []
    assert asyncio.run(asyncio.wait_for(bus.drain(timeout=0), DEADLINE)) == []
    gc.collect()
    logging.getLogger("asyncio").setLevel(logging.NOTSET)
    assert log == (["started"] if started else [])
    assert [str(warning.message) for warning in recwarn] == []


def test_a_handler_that_drains_in_a_task_of_its_own_does_not_wait_for_itself(
    other: LoopThread,
) -> None:
    bus = EventBus(loop=other.loop)
    drained: list[list[str]] = []
    over = threading.Event()

    @bus.on("a")
    async def handler(payload: object) -> None:
        try:
            drained.append(await soon(asyncio.ensure_future(bus.drain())))
        finally:
            over.set()

    assert bus.emit("a") == 1
    assert over.wait(2 * DEADLINE)
    assert drained == [[]]


def test_drain_may_be_awaited_in_another_loop_than_the_handlers(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    log: list[object] = []
    gates: list[asyncio.Event] = []
    started = threading.Event()

    @bus.on("a")
    async def handler(payload: object) -> None:
        gates.append(asyncio.Event())
        started.set()
        await gates[0].wait()
        log.append(threading.get_ident())

    async def main() -> None:
        assert await bus.drain(timeout=0) == [f"a -> {handler.__qualname__}"]
        drain = asyncio.ensure_future(bus.drain())
        await turns()
        assert not drain.done()
        other.loop.call_soon_threadsafe(gates[0].set)
        assert await soon(drain) == []

    bus.emit("a")
    assert started.wait(DEADLINE)
    asyncio.run(main())
    assert log == [other.thread.ident]


def test_aclose_in_another_loop_cancels_the_handlers_in_theirs(other: LoopThread) -> None:
    bus = EventBus(loop=other.loop)
    log: list[object] = []
    started = threading.Event()

    @bus.on("a")
    async def handler(payload: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await turns()
            log.append(threading.get_ident())

    bus.emit("a")
    assert started.wait(DEADLINE)
    asyncio.run(asyncio.wait_for(bus.aclose(), DEADLINE))
    assert bus.closed
    assert log == [other.thread.ident]
