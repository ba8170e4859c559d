"""Recursion that could overflow the C stack or grow exponentially, each in its own process."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
from typing import Any, Callable

from agent_event_bus import EventBus


class Records(logging.Handler):
    """Counts what the bus logs."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert record.exc_info is not None
        self.kinds.append(record.exc_info[0])


records = Records()
logger = logging.getLogger("agent_event_bus")
logger.propagate = False
logger.addHandler(records)


def emit_into_itself() -> None:
    """The handler is the bound emit itself: no Python frame in the whole cycle."""
    bus = EventBus()
    bus.on("*", bus.emit)
    assert bus.emit("a") == 1
    assert records.kinds == [RecursionError], records.kinds
    bus.on("*", bus.emit)
    assert bus.emit("a") == 2
    assert records.kinds == [RecursionError] * 3, len(records.kinds)


def emitter_into_itself() -> None:
    """The handler is an emitter of its own event: no Python frame here either."""
    bus = EventBus()
    bus.on("a", bus.emitter("a"))
    assert bus.emit("a") == 1
    assert bus.emitter("a")() == 1
    assert records.kinds == [RecursionError] * 2, records.kinds


def emit_into_another_and_back() -> None:
    """Two buses forward to each other in C."""
    one, two = EventBus(), EventBus()
    for _ in range(2):
        one.on("*", two.emit)
        two.on("*", one.emit)
    assert one.emit("a") == 2
    assert records.kinds == [RecursionError] * 2, len(records.kinds)


def emit_async_into_itself() -> None:
    """The bound emit_async is a sync handler that returns an awaitable, all in C."""
    bus = EventBus()
    bus.on("*", bus.emit_async)
    assert asyncio.run(bus.emit_async("a")) == 1
    assert records.kinds == [RecursionError], len(records.kinds)


def failing_handlers_logged_into_the_bus() -> None:
    """Every failure is logged, every record is emitted, and every emission fails twice."""
    bus = EventBus()
    calls = 0

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bus.emit("log")

    logger.addHandler(Forward())

    @bus.on("*")
    def first(name: str, payload: object) -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    bus.on("*", first)
    bus.emit("a")
    assert calls < 50 * sys.getrecursionlimit(), calls


def async_emit_without_a_loop() -> None:
    """Every emission schedules the next one on the private loop; a handler stops the chain."""
    bus = EventBus()
    seen = 0

    @bus.on("a")
    async def handler(payload: object) -> None:
        nonlocal seen
        seen += 1
        if seen < 50_000:
            bus.emit("a")

    assert bus.emit("a") == 1
    assert seen == 50_000, seen
    assert records.kinds == []


def suspended_emit_async() -> None:
    """A chain of tasks, each waiting for the next, unwinds without using up the C stack."""
    bus = EventBus()
    sys.setrecursionlimit(5000)

    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.sleep(0)
        await bus.emit_async("a")

    async def main() -> None:
        assert await bus.emit_async("a") == 1

    asyncio.run(main())
    assert records.kinds == [RecursionError], len(records.kinds)


CASES: dict[str, Callable[[], None]] = {
    case.__name__: case
    for case in (
        emit_into_itself,
        emitter_into_itself,
        emit_into_another_and_back,
        emit_async_into_itself,
        failing_handlers_logged_into_the_bus,
        async_emit_without_a_loop,
        suspended_emit_async,
    )
}

faulthandler.dump_traceback_later(60, exit=True)
CASES[sys.argv[1]]()
print("ok")
