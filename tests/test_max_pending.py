"""max_pending: how much work emit may leave to event loops, and what happens past it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from typing import Any

import pytest
from helpers import DEADLINE, Gate, LoopThread, anote, note, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]

MESSAGE = (
    "Handler '{handler}' was dropped on event '{event}': max_pending={limit} handlers are pending "
    "({dropped} dropped since the last warning)"
)


class TestTheOption:
    @pytest.mark.parametrize("value", [1, 2, 10**6, sys.maxsize, None])
    async def test_a_count_or_none_is_accepted(self, value: int | None) -> None:
        bus = EventBus(max_pending=value)
        log: list[str] = []
        bus.on("a", anote(log, "ran"))
        assert bus.emit("a") == 1
        await soon(bus.drain())
        assert log == ["ran"]

    @pytest.mark.parametrize("value", [True, False, 1.0, "1", [1]])
    def test_what_is_no_int_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError, match="max_pending"):
            EventBus(max_pending=value)

    @pytest.mark.parametrize("value", [0, -1, -(10**30)])
    def test_less_than_one_is_refused(self, value: int) -> None:
        with pytest.raises(ValueError, match="max_pending must be at least 1"):
            EventBus(max_pending=value)

    def test_more_than_there_can_be_is_refused(self) -> None:
        with pytest.raises(OverflowError, match="max_pending"):
            EventBus(max_pending=10**30)

    async def test_without_it_there_is_no_limit(self, bus: EventBus, records: Records) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "ran"))
        assert sum(bus.emit("a") for _ in range(2000)) == 2000
        await soon(bus.drain())
        assert len(log) == 2000
        assert records == []


class TestInARunningLoop:
    async def test_past_it_the_newest_are_dropped(self) -> None:
        bus = EventBus(max_pending=3)
        got: list[int] = []

        @bus.on("a")
        async def handler(payload: int) -> None:
            await asyncio.sleep(0)
            got.append(payload)

        assert [bus.emit("a", n) for n in range(5)] == [1, 1, 1, 0, 0]
        assert await soon(bus.drain()) == []
        assert got == [0, 1, 2]

    async def test_within_one_emission_the_last_handlers_are_dropped(self) -> None:
        bus = EventBus(max_pending=2)
        log: list[str] = []
        for name in ("a", "b", "c"):
            bus.on("event", anote(log, name))
        bus.on("event", note(log, "sync"))
        assert bus.emit("event") == 3
        assert await soon(bus.drain()) == []
        assert log == ["sync", "a", "b"]

    async def test_what_is_over_makes_room(self) -> None:
        bus = EventBus(max_pending=1)
        got: list[int] = []

        @bus.on("a")
        async def handler(payload: int) -> None:
            got.append(payload)

        for n in range(5):
            assert bus.emit("a", n) == 1
            assert bus.emit("a", -1) == 0
            await soon(bus.drain())
        assert got == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()])
    async def test_a_failed_or_cancelled_one_makes_room(self, error: BaseException) -> None:
        bus = EventBus(max_pending=1)

        @bus.on("a")
        async def handler(payload: object) -> None:
            raise error

        for _ in range(3):
            assert bus.emit("a") == 1
            await soon(bus.drain())

    async def test_sync_handlers_are_never_dropped(self) -> None:
        bus = EventBus(max_pending=1)
        log: list[str] = []
        bus.on("a", anote([], "async"))
        bus.on("a", note(log, "sync"))
        assert [bus.emit("a") for _ in range(3)] == [2, 1, 1]
        assert log == ["sync"] * 3
        await soon(bus.drain())

    async def test_emit_async_is_not_limited(self, records: Records) -> None:
        bus = EventBus(max_pending=1)
        gate = Gate()
        log: list[str] = []
        bus.on("a", gate.wait)
        assert bus.emit("a") == 1
        for _ in range(3):
            bus.on("b", anote(log, "ran"))
        assert await soon(bus.emit_async("b")) == 3
        gate.gate.set()
        await soon(bus.drain())
        assert log == ["ran"] * 3
        assert records == []

    async def test_a_dropped_once_handler_is_not_used_up(self) -> None:
        bus = EventBus(max_pending=1)
        gate = Gate()
        log: list[str] = []
        bus.on("a", gate.wait)
        bus.emit("a")
        subscription = bus.subscribe("b", anote(log, "once"), once=True)
        assert bus.emit("b") == 0
        assert subscription.active
        assert subscription.calls == 0
        gate.gate.set()
        await soon(bus.drain())
        assert bus.emit("b") == 1
        await soon(bus.drain())
        assert log == ["once"]

    async def test_the_awaitable_of_a_sync_handler_is_closed_when_it_is_dropped(self) -> None:
        bus = EventBus(max_pending=1)
        gate = Gate()
        log: list[str] = []
        bus.on("a", gate.wait)
        bus.emit("a")
        bus.on("b", lambda payload: anote(log, "never")())
        # It was called, which counts. An unclosed coroutine would warn, and warnings are errors.
        assert bus.emit("b") == 1
        gate.gate.set()
        await soon(bus.drain())
        assert log == []

    async def test_it_holds_for_emitters_as_for_emit(self) -> None:
        bus = EventBus(max_pending=1)
        bus.on("a", anote([], "async"))
        emitter = bus.emitter("a")
        assert [emitter(), emitter()] == [1, 0]
        await soon(bus.drain())

    async def test_what_handlers_emit_counts_with_the_handlers_themselves(self) -> None:
        bus = EventBus(max_pending=2)
        counts: list[int] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            counts.extend(bus.emit("b") for _ in range(2))

        bus.on("b", anote([], "inner"))
        bus.emit("a")
        await soon(bus.drain())
        assert counts == [1, 0]

    async def test_a_removed_handler_is_neither_started_nor_dropped(self, records: Records) -> None:
        bus = EventBus(max_pending=1)
        bus.on("a", anote([], "first"))
        subscription = bus.subscribe("a", anote([], "second"))
        bus.on("a", lambda payload: subscription.cancel())
        assert bus.emit("a") == 2
        await soon(bus.drain())
        assert records == []


class TestElsewhere:
    def test_without_any_loop_there_is_nothing_to_limit(self, records: Records) -> None:
        bus = EventBus(max_pending=1)
        log: list[int] = []
        for n in range(5):
            bus.on("a", anote(log, n))
        assert bus.emit("a") == 5
        assert log == [0, 1, 2, 3, 4]
        assert records == []

    def test_in_a_bound_loop_the_newest_are_dropped(
        self, other: LoopThread, records: Records
    ) -> None:
        bus = EventBus(loop=other.loop, max_pending=2)
        got: list[int] = []
        gate = threading.Event()
        other.loop.call_soon_threadsafe(gate.wait, DEADLINE)

        @bus.on("a")
        async def handler(payload: int) -> None:
            got.append(payload)

        assert [bus.emit("a", n) for n in range(4)] == [1, 1, 0, 0]
        gate.set()
        other.run(bus.drain())
        assert got == [0, 1]
        assert [r.levelname for r in records] == ["WARNING"]

    @pytest.mark.usefixtures("eager_switching")
    def test_threads_that_emit_at_once_do_not_exceed_it(self, other: LoopThread) -> None:
        bus = EventBus(loop=other.loop, max_pending=10)
        gate = threading.Event()
        other.loop.call_soon_threadsafe(gate.wait, DEADLINE)
        bus.on("a", anote([], "ran"))
        meeting = threading.Barrier(4, timeout=DEADLINE)
        counts: list[int] = []

        def emit() -> None:
            meeting.wait()
            counts.extend(bus.emit("a") for _ in range(100))

        threads = [threading.Thread(target=emit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert len(counts) == 400
        assert sum(counts) == 10
        gate.set()
        other.run(bus.drain())


class TestTheWarning:
    async def test_it_names_event_handler_limit_and_number(self, records: Records) -> None:
        bus = EventBus(max_pending=1)

        async def trace(payload: object) -> None: ...

        bus.on("tool.start", trace)
        bus.emit("tool.start", "secret payload")
        bus.emit("tool.start", "secret payload")
        (record,) = records
        assert record.levelname == "WARNING"
        assert record.getMessage() == MESSAGE.format(
            handler=trace.__qualname__, event="tool.start", limit=1, dropped=1
        )
        attributes = vars(record)
        assert attributes["event_name"] == "tool.start"
        assert attributes["handler_name"] == trace.__qualname__
        assert attributes["dropped"] == 1
        await soon(bus.drain())

    async def test_one_emission_counts_all_that_it_drops(self, records: Records) -> None:
        bus = EventBus(max_pending=1)
        for _ in range(4):
            bus.on("a", anote([], "async"))
        bus.emit("a")
        assert [vars(record)["dropped"] for record in records] == [3]
        await soon(bus.drain())

    async def test_it_comes_once_per_second_at_most_and_counts_those_in_between(
        self, records: Records
    ) -> None:
        bus = EventBus(max_pending=1)
        gate = Gate()
        bus.on("a", gate.wait)
        bus.emit("a")
        began = time.monotonic()
        dropped = 0
        while time.monotonic() < began + 0.5:
            assert bus.emit("a") == 0
            dropped += 1
        assert [vars(record)["dropped"] for record in records] == [1]
        await asyncio.sleep(began + 1.1 - time.monotonic())  # the limit is one of real time
        bus.emit("a")
        assert [vars(record)["dropped"] for record in records] == [1, dropped]
        gate.gate.set()
        await soon(bus.drain())

    async def test_every_bus_has_its_own(self, records: Records) -> None:
        for _ in range(3):
            bus = EventBus(max_pending=1)
            bus.on("a", anote([], "async"))
            bus.emit("a")
            bus.emit("a")
            await soon(bus.drain())
        assert [record.levelname for record in records] == ["WARNING"] * 3

    async def test_it_goes_to_the_logger_of_the_bus(self, records: Records) -> None:
        calls: list[tuple[Any, ...]] = []

        class Logger:
            def error(self, *args: Any, **kwargs: Any) -> None:
                calls.append(("error", *args))

            def warning(self, *args: Any, **kwargs: Any) -> None:
                calls.append(("warning", args[0] % args[1:], kwargs["extra"]["dropped"]))

        logger: Any = Logger()
        bus = EventBus(logger=logger, max_pending=1)
        handler = anote([], "async")
        bus.on("a", handler)
        bus.emit("a")
        bus.emit("a")
        text = MESSAGE.format(handler=handler.__qualname__, event="a", limit=1, dropped=1)
        assert calls == [("warning", text, 1)]
        assert records == []
        await soon(bus.drain())

    async def test_a_logger_that_fails_does_not_reach_the_emitter(
        self, unraisable: list[Any]
    ) -> None:
        class Logger:
            def error(self, *args: Any, **kwargs: Any) -> None: ...

            def warning(self, *args: Any, **kwargs: Any) -> None:
                raise ValueError("the logger")

        logger: Any = Logger()
        bus = EventBus(logger=logger, max_pending=1)
        bus.on("a", anote([], "async"))
        bus.emit("a")
        assert bus.emit("a") == 0
        assert [str(error) for error in unraisable] == ["the logger"]
        await soon(bus.drain())

    async def test_a_log_handler_that_emits_on_the_full_bus_ends(self, records: Records) -> None:
        bus = EventBus(max_pending=1)
        bus.on("a", anote([], "async"))
        counts: list[int] = []

        class Emits(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                counts.append(bus.emit("a"))

        handler = Emits()
        logger = logging.getLogger("agent_event_bus")
        logger.addHandler(handler)
        try:
            assert [bus.emit("a"), bus.emit("a")] == [1, 0]
        finally:
            logger.removeHandler(handler)
        assert counts == [0]
        assert len(records) == 1
        await soon(bus.drain())


async def test_closing_a_full_bus_cancels_what_is_pending() -> None:
    bus = EventBus(max_pending=1)
    gate = Gate()
    bus.on("a", gate.wait)
    assert [bus.emit("a"), bus.emit("a")] == [1, 0]
    await turns()
    await soon(bus.aclose())
    assert gate.ended == "cancelled"
