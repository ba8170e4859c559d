"""max_concurrency: how many async handlers of a bus run at once."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from typing import Any

import pytest
from helpers import DEADLINE, Gate, LoopThread, anote, is_free, note, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


class Meter:
    """Makes handlers, and measures how many of them run at once."""

    def __init__(self) -> None:
        self.running = 0
        self.peak = 0
        self.log: list[Any] = []

    def handler(self, label: object = None) -> Any:
        async def metered(payload: object) -> None:
            self.running += 1
            self.peak = max(self.peak, self.running)
            self.log.append(payload if label is None else label)
            try:
                await turns(3)
            finally:
                self.running -= 1

        return metered


class TestTheOption:
    @pytest.mark.parametrize("value", [1, 2, 10**6, sys.maxsize, None])
    async def test_a_count_or_none_is_accepted(self, value: int | None) -> None:
        bus = EventBus(max_concurrency=value)
        log: list[int] = []
        for n in range(3):
            bus.on("a", anote(log, n))
        assert await soon(bus.emit_async("a")) == 3
        assert log == [0, 1, 2]

    @pytest.mark.parametrize("value", [True, False, 1.0, "1", [1]])
    def test_what_is_no_int_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError, match="max_concurrency"):
            EventBus(max_concurrency=value)

    @pytest.mark.parametrize("value", [0, -1, -(10**30)])
    def test_less_than_one_is_refused(self, value: int) -> None:
        with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
            EventBus(max_concurrency=value)

    def test_more_than_there_can_be_is_refused(self) -> None:
        with pytest.raises(OverflowError, match="max_concurrency"):
            EventBus(max_concurrency=10**30)


class TestTheBound:
    @pytest.mark.parametrize("limit", [1, 2, 3, 10])
    async def test_no_more_than_that_run_at_once_in_one_emission(self, limit: int) -> None:
        bus = EventBus(max_concurrency=limit)
        meter = Meter()
        for n in range(8):
            bus.on("a", meter.handler(n))
        assert await soon(bus.emit_async("a")) == 8
        assert meter.peak == min(limit, 8)
        assert meter.log == list(range(8))

    async def test_nor_in_several_emissions_and_the_first_to_come_is_the_first_to_run(self) -> None:
        bus = EventBus(max_concurrency=2)
        meter = Meter()
        bus.on("a", meter.handler())
        bus.on("b", meter.handler())
        emissions = [bus.emit_async("ab"[n % 2], n) for n in range(8)]
        assert await soon(asyncio.gather(*emissions)) == [1] * 8
        assert meter.peak == 2
        assert meter.log == list(range(8))

    @pytest.mark.parametrize("way", ["emit_async", "emit", "emit_threadsafe"])
    async def test_who_comes_before_a_queued_handler_has_begun_does_not_overtake_it(
        self, way: str
    ) -> None:
        bus = EventBus(max_concurrency=2, loop=asyncio.get_running_loop())
        gates = [asyncio.Event() for _ in range(4)]
        log: list[int] = []

        @bus.on("a")
        async def handler(number: int) -> None:
            log.append(number)
            await gates[number].wait()

        tasks: list[asyncio.Future[int]] = []

        def emit(number: int) -> None:
            if way == "emit_async":
                tasks.append(asyncio.ensure_future(bus.emit_async("a", number)))
            elif way == "emit":
                bus.emit("a", number)
            else:
                tasks.append(asyncio.wrap_future(bus.emit_threadsafe("a", number)))

        for number in range(3):
            emit(number)
        await turns(4)
        assert log == [0, 1]
        # In the turn in which both end there are two permits, and one handler that waits for them.
        gates[0].set()
        gates[1].set()
        emit(3)
        await turns(6)
        assert log == [0, 1, 2, 3]
        for gate in gates:
            gate.set()
        await soon(asyncio.gather(*tasks))
        assert await soon(bus.drain()) == []

    async def test_nor_of_what_emit_has_scheduled(self) -> None:
        bus = EventBus(max_concurrency=2)
        meter = Meter()
        bus.on("a", meter.handler())
        assert [bus.emit("a", n) for n in range(6)] == [1] * 6
        assert await soon(bus.drain()) == []
        assert meter.peak == 2
        assert meter.log == list(range(6))

    def test_nor_without_a_loop(self) -> None:
        bus = EventBus(max_concurrency=2)
        meter = Meter()
        for n in range(6):
            bus.on("a", meter.handler(n))
        assert bus.emit("a") == 6
        assert meter.peak == 2
        assert meter.log == list(range(6))

    def test_nor_on_a_bound_loop(self) -> None:
        with LoopThread() as other:
            bus = EventBus(loop=other.loop, max_concurrency=2)
            meter = Meter()
            bus.on("a", meter.handler())
            emitted = threading.Event()
            other.loop.call_soon_threadsafe(emitted.wait)
            for n in range(6):
                bus.emit("a", n)
            emitted.set()
            assert other.run(bus.drain()) == []
        assert meter.peak == 2
        assert meter.log == list(range(6))

    async def test_every_bus_has_its_own(self) -> None:
        meter = Meter()
        buses = [EventBus(max_concurrency=1) for _ in range(3)]
        for bus in buses:
            bus.on("a", meter.handler())
        await soon(asyncio.gather(*(bus.emit_async("a") for bus in buses)))
        assert meter.peak == 3

    async def test_sync_handlers_do_not_wait(self) -> None:
        bus = EventBus(max_concurrency=1)
        gate = Gate()
        log: list[str] = []
        bus.on("a", gate.wait)
        bus.emit("a")
        await turns()
        bus.on("b", note(log, "sync"))
        assert bus.emit("b") == 1
        assert await bus.emit_async("b") == 1
        assert log == ["sync", "sync"]
        gate.gate.set()
        await soon(bus.drain())

    async def test_the_awaitable_of_a_sync_handler_counts(self) -> None:
        bus = EventBus(max_concurrency=1)
        meter = Meter()
        for _ in range(3):
            handler = meter.handler()
            bus.on("a", lambda payload, handler=handler: handler(payload))
        assert await soon(bus.emit_async("a")) == 3
        assert meter.peak == 1

    async def test_offloaded_handlers_count(self) -> None:
        bus = EventBus(max_concurrency=1)
        lock = threading.Lock()
        overlaps: list[bool] = []

        def exclusive(payload: object) -> None:
            overlaps.append(not lock.acquire(blocking=False))
            threading.Event().wait(0.01)
            lock.release()

        for _ in range(3):
            bus.on("a", exclusive, offload=True)
        assert await soon(bus.emit_async("a")) == 3
        assert overlaps == [False] * 3

    async def test_a_queued_handler_is_called_with_what_was_emitted(self) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[Any] = []

        @bus.on("*")
        async def handler(name: str, payload: object) -> None:
            await asyncio.sleep(0)
            log.append((name, payload))

        await soon(asyncio.gather(*(bus.emit_async(name, name.upper()) for name in "abc")))
        assert log == [("a", "A"), ("b", "B"), ("c", "C")]

    async def test_a_queued_handler_sees_the_context_of_its_emitter(self) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        bus = EventBus(max_concurrency=1)
        seen: list[tuple[object, str]] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            await asyncio.sleep(0)
            seen.append((payload, variable.get()))
            variable.set("changed by a handler")

        async def emit(who: str) -> None:
            variable.set(who)
            bus.emit("a", "emit")
            await bus.emit_async("a", "emit_async")

        variable.set("main")
        await soon(asyncio.gather(emit("one"), emit("two")))
        await soon(bus.drain())
        assert sorted(seen, key=str) == [
            ("emit", "one"),
            ("emit", "two"),
            ("emit_async", "one"),
            ("emit_async", "two"),
        ]
        assert variable.get() == "main"

    async def test_a_queued_handler_has_a_task_of_its_own(self) -> None:
        bus = EventBus(max_concurrency=1)
        tasks: list[Any] = []

        async def handler(payload: object) -> None:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(0)

        for _ in range(3):
            bus.on("a", handler)
        await soon(bus.emit_async("a"))
        assert len({id(task) for task in [*tasks, asyncio.current_task()]}) == 4


class TestNesting:
    """Emissions made inside a handler wait for nobody, so that nesting cannot deadlock."""

    async def test_an_emission_in_a_handler_is_exempt(self) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[str] = []

        @bus.on("outer")
        async def outer(payload: object) -> None:
            await asyncio.sleep(0)
            assert await bus.emit_async("inner") == 2
            log.append("outer")

        bus.on("inner", Meter().handler())
        bus.on("inner", anote(log, "inner"))
        assert await soon(bus.emit_async("outer")) == 1
        assert log == ["inner", "outer"]

    async def test_so_is_one_in_a_task_that_a_handler_made(self) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[str] = []

        @bus.on("outer")
        async def outer(payload: object) -> None:
            await asyncio.ensure_future(bus.emit_async("inner"))

        bus.on("inner", anote(log, "inner"))
        assert await soon(bus.emit_async("outer")) == 1
        assert log == ["inner"]

    async def test_so_is_what_a_handler_leaves_to_emit_and_waits_for(self) -> None:
        bus = EventBus(max_concurrency=1)
        done = asyncio.Event()

        @bus.on("outer")
        async def outer(payload: object) -> None:
            bus.emit("inner")
            await done.wait()

        @bus.on("inner")
        async def inner(payload: object) -> None:
            done.set()

        assert await soon(bus.emit_async("outer")) == 1
        assert done.is_set()
        await soon(bus.drain())

    async def test_so_is_one_that_comes_back_by_way_of_another_bus(self) -> None:
        one, two = EventBus(max_concurrency=1), EventBus(max_concurrency=1)
        log: list[str] = []

        @one.on("a")
        async def there(payload: object) -> None:
            await asyncio.sleep(0)
            await two.emit_async("b")

        @two.on("b")
        async def and_back(payload: object) -> None:
            await asyncio.sleep(0)
            await one.emit_async("c")

        one.on("c", anote(log, "arrived"))
        assert await soon(one.emit_async("a")) == 1
        assert log == ["arrived"]

    async def test_exempt_handlers_hold_no_permit(self) -> None:
        bus = EventBus(max_concurrency=2)
        gate = Gate()
        bus.on("inner", gate.wait)

        @bus.on("outer")
        async def outer(payload: object) -> None:
            bus.emit("inner")

        bus.on("wait", Gate().wait)
        await soon(bus.emit_async("outer"))
        await turns()
        holds_one = asyncio.ensure_future(bus.emit_async("wait"))
        await turns()
        assert await is_free(bus)
        holds_one.cancel()
        await asyncio.wait([holds_one])
        gate.gate.set()
        await soon(bus.drain())

    async def test_so_is_one_in_a_sync_handler(self) -> None:
        bus = EventBus(max_concurrency=1)
        gate = Gate()
        log: list[str] = []
        bus.on("inner", anote(log, "inner"))
        bus.on("outer", lambda payload: bus.emit("inner"))
        bus.on("wait", gate.wait)
        bus.emit("wait")
        await turns()
        bus.emit("outer")
        await turns()
        assert log == ["inner"]
        gate.gate.set()
        await soon(bus.drain())

    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_a_handler_that_drains_the_bus_makes_room_for_what_it_waits_for(
        self, way: str
    ) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[str] = []

        @bus.on("outer")
        async def outer(payload: object) -> None:
            await turns()
            assert await bus.drain() == []
            log.append("outer")

        bus.on("queued", anote(log, "queued"))
        task = asyncio.ensure_future(bus.emit_async("outer")) if way == "emit_async" else None
        if task is None:
            bus.emit("outer")
        await turns(1)
        bus.emit("queued")
        await soon(bus.drain() if task is None else task)
        assert log == ["queued", "outer"]


class TestOtherOptions:
    async def test_drain_waits_for_the_queued_ones_and_names_them(self) -> None:
        bus = EventBus(max_concurrency=1)
        gate = Gate()
        log: list[str] = []
        bus.on("a", gate.wait)

        @bus.on("b")
        async def queued(payload: object) -> None:
            log.append("queued")

        bus.emit("a")
        bus.emit("b")
        await turns()
        assert await bus.drain(timeout=0) == ["a -> Gate.wait", f"b -> {queued.__qualname__}"]
        gate.gate.set()
        assert await soon(bus.drain()) == []
        assert log == ["queued"]

    async def test_queued_ones_count_for_max_pending(self) -> None:
        bus = EventBus(max_concurrency=1, max_pending=2)
        gate = Gate()
        bus.on("a", gate.wait)
        assert [bus.emit("a") for _ in range(4)] == [1, 1, 0, 0]
        gate.gate.set()
        await soon(bus.drain())

    async def test_the_clock_of_a_timeout_starts_with_the_handler(self, records: Records) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[str] = []

        async def slow(payload: object) -> None:
            await asyncio.sleep(0.15)

        async def quick(payload: object) -> None:
            await asyncio.sleep(0)
            log.append("quick")

        bus.on("a", slow)
        bus.on("a", quick, timeout=0.1)
        assert await soon(bus.emit_async("a")) == 2
        assert log == ["quick"]
        assert records == []

    async def test_a_handler_that_times_out_makes_room(self) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[str] = []
        bus.on("a", Gate().wait, timeout=0.05)
        bus.on("a", anote(log, "next"))
        assert await soon(bus.emit_async("a")) == 2
        assert log == ["next"]

    async def test_a_once_handler_that_is_queued_runs_once(self) -> None:
        bus = EventBus(max_concurrency=1)
        meter = Meter()
        bus.on("a", meter.handler("other"))
        bus.once("a", meter.handler("once"))
        await soon(asyncio.gather(bus.emit_async("a"), bus.emit_async("a")))
        assert sorted(meter.log) == ["once", "other", "other"]

    def test_threads_with_loops_of_their_own_share_the_bound(self) -> None:
        bus = EventBus(max_concurrency=1)
        lock = threading.Lock()
        overlaps: list[bool] = []

        @bus.on("a")
        async def exclusive(payload: object) -> None:
            overlaps.append(not lock.acquire(blocking=False))
            await turns(3)
            lock.release()

        async def emit() -> None:
            for _ in range(20):
                assert await bus.emit_async("a") == 1

        threads = [threading.Thread(target=lambda: asyncio.run(emit())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert overlaps == [False] * 60
