"""stream: what it gives and in which order, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any, Callable

import pytest
from helpers import DEADLINE, LoopThread, is_gone, run_isolated, soon, turns
from loops import on_every_loop

from agent_event_bus import Event, EventBus, Stream

pytestmark = pytest.mark.usefixtures("nothing_left")

Records = list[logging.LogRecord]


async def take(stream: Stream, count: int) -> list[Any]:
    """Return the payloads of the next events of a stream."""
    return [(await soon(stream.__anext__())).payload for _ in range(count)]


class TestWhatItGives:
    @on_every_loop
    async def test_every_event_that_matches_in_the_order_of_emission(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        for payload in range(5):
            bus.emit("a", payload)
            bus.emit("other", payload)
        events = [await soon(stream.__anext__()) for _ in range(5)]
        assert [event.payload for event in events] == list(range(5))
        assert [event.seq for event in events] == [1, 3, 5, 7, 9]
        assert all(isinstance(event, Event) for event in events)

    @on_every_loop
    async def test_events_that_come_while_it_is_waited_for(self, bus: EventBus) -> None:
        async def produce() -> None:
            for payload in range(3):
                await turns()
                bus.emit("a", payload)
            await turns()
            stream.close()

        stream = bus.stream("a")
        task = asyncio.ensure_future(produce())
        assert [event.payload async for event in stream] == [0, 1, 2]
        await task

    async def test_events_of_emit_and_of_emit_async(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        bus.emit("a", 1)
        await bus.emit_async("a", 2)
        assert await take(stream, 2) == [1, 2]

    async def test_events_of_several_keys(self, bus: EventBus) -> None:
        stream = bus.stream(["tool.start", "tool.end"])
        for name in ("tool.start", "other", "tool.end"):
            bus.emit(name)
        assert [(await soon(stream.__anext__())).name for _ in range(2)] == [
            "tool.start",
            "tool.end",
        ]

    async def test_only_events_that_meet_its_condition(
        self, bus: EventBus, records: Records
    ) -> None:
        odd = bus.stream("a", where=lambda payload: payload["n"] % 2)
        second = bus.stream("a", where={"n": 2})
        for payload in ({"n": 1}, {"n": 2}, {}, {"n": 3}):
            bus.emit("a", payload)
        assert await take(odd, 2) == [{"n": 1}, {"n": 3}]
        assert await take(second, 1) == [{"n": 2}]
        assert [record.getMessage() for record in records] == [
            "Handler 'EventBus.stream' raised on event 'a': 'n'"
        ]
        odd.close()  # the record of the failure refers to this frame
        second.close()

    async def test_two_streams_each_give_every_event(self, bus: EventBus) -> None:
        first, second = bus.stream("a"), bus.stream("a")
        assert bus.emit("a", 1) == 2
        assert await take(first, 1) == await take(second, 1) == [1]

    async def test_it_is_an_async_iterator(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        assert isinstance(stream, AsyncIterator)
        assert aiter_of(stream) is stream

    async def test_its_repr_says_what_is_queued_and_dropped(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1)
        bus.emit("a")
        bus.emit("a")
        assert repr(stream) == "<Stream of 'a': 1 queued, 1 dropped, open>"
        stream.close()
        assert repr(stream) == "<Stream of 'a': 0 queued, 1 dropped, closed>"


def aiter_of(stream: Stream) -> object:
    """Return what ``async for`` asks for."""
    return stream.__aiter__()


class TestWhenItListens:
    async def test_from_the_call_on(self, bus: EventBus) -> None:
        bus.emit("a", "too early")
        stream = bus.stream("a")
        assert len(bus) == 1
        bus.emit("a", "in time")
        assert await take(stream, 1) == ["in time"]

    def test_without_any_loop_too(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        bus.emit("a", 1)
        assert asyncio.run(take(stream, 1)) == [1]

    def test_it_may_go_on_in_another_loop(self, bus: EventBus) -> None:
        stream = bus.stream("a")

        async def one(payload: int) -> list[Any]:
            asyncio.get_running_loop().call_soon(bus.emit, "a", payload)
            return await take(stream, 1)

        assert [asyncio.run(one(payload)) for payload in (1, 2)] == [[1], [2]]

    def test_it_may_go_on_when_its_loop_was_closed_under_it(
        self, bus: EventBus, records: Records
    ) -> None:
        stream = bus.stream("a")
        loop = asyncio.new_event_loop()
        task = loop.create_task(take(stream, 1))
        loop.run_until_complete(turns())
        loop.close()
        bus.emit("a", 1)
        assert asyncio.run(take(stream, 1)) == [1]
        assert records == []
        steps: Any = task.get_coro()
        steps.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    def test_when_its_loop_was_closed_and_nobody_else_has_it_the_next_event_ends_it(
        self, bus: EventBus
    ) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(take(bus.stream("a"), 1))
        loop.run_until_complete(turns())
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        gc.collect()
        assert bus.emit("a") == 1
        gc.collect()
        assert len(bus) == 0


class TestEnds:
    async def test_close_ends_it_at_once(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        bus.emit("a", "queued")
        stream.close()
        assert len(bus) == 0
        assert [event async for event in stream] == []

    async def test_close_is_idempotent(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        stream.close()
        stream.close()
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()

    @on_every_loop
    async def test_close_ends_the_wait_for_the_next_event(self, bus: EventBus) -> None:
        stream = bus.stream("a")

        async def consume() -> list[Event]:
            return [event async for event in stream]

        task = asyncio.ensure_future(consume())
        await turns()
        stream.close()
        assert await soon(task) == []

    async def test_close_in_another_thread_ends_it_too(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        task = asyncio.ensure_future(collect(stream))
        await turns()
        thread = threading.Thread(target=stream.close)
        thread.start()
        assert await soon(task) == []
        thread.join(DEADLINE)

    @on_every_loop
    async def test_the_end_of_its_block_closes_it(self, bus: EventBus) -> None:
        async with bus.stream("a") as stream:
            bus.emit("a", 1)
            assert await take(stream, 1) == [1]
            assert len(bus) == 1
        assert len(bus) == 0
        assert await collect(stream) == []

    async def test_an_error_in_its_block_passes_and_closes_it(self, bus: EventBus) -> None:
        with pytest.raises(KeyError, match="body"):
            async with bus.stream("a"):
                raise KeyError("body")
        assert len(bus) == 0

    async def test_a_break_out_of_the_loop_unsubscribes_it(self, bus: EventBus) -> None:
        asyncio.get_running_loop().call_soon(bus.emit, "a", 1)
        async for event in bus.stream("a"):
            assert event.payload == 1
            break
        assert len(bus) == 0

    def test_dropping_it_unsubscribes_it(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        assert len(bus) == 1
        del stream
        assert len(bus) == 0

    def test_dropping_it_in_a_cycle_unsubscribes_it(self, bus: EventBus) -> None:
        cycle: list[Any] = [bus.stream("a")]
        cycle.append(cycle)
        del cycle
        gc.collect()
        assert len(bus) == 0

    async def test_what_is_queued_is_released_with_it(self, bus: EventBus) -> None:
        class Payload:
            pass

        payloads = [Payload(), Payload()]
        released = [weakref.ref(payload) for payload in payloads]
        closed, dropped = bus.stream("a"), bus.stream("b")
        bus.emit("a", payloads[0])
        bus.emit("b", payloads[1])
        payloads.clear()
        closed.close()
        assert is_gone(released[0])
        del dropped
        assert is_gone(released[1])

    async def test_calling_it_on_a_closed_bus_raises(self, bus: EventBus) -> None:
        await bus.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            bus.stream("a")

    @on_every_loop
    async def test_when_the_bus_is_closed_it_ends_after_what_is_queued(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        bus.emit("a", 1)
        bus.emit("a", 2)
        await bus.aclose()
        assert len(bus) == 0
        assert await collect(stream) == [1, 2]

    async def test_closing_the_bus_ends_the_wait_for_the_next_event(self, bus: EventBus) -> None:
        task = asyncio.ensure_future(collect(bus.stream("a")))
        await turns()
        await bus.aclose()
        assert await soon(task) == []

    @pytest.mark.parametrize("remove", [lambda bus: bus.clear(), lambda bus: bus.off("a")])
    async def test_removing_its_subscription_ends_it_after_what_is_queued(
        self, bus: EventBus, remove: Callable[[EventBus], object]
    ) -> None:
        stream = bus.stream("a")
        bus.emit("a", 1)
        task = asyncio.ensure_future(collect(stream))
        await turns()
        remove(bus)
        assert await soon(task) == [1]

    async def test_dropping_the_bus_ends_it(self) -> None:
        bus = EventBus()
        task = asyncio.ensure_future(collect(bus.stream("a")))
        await turns()
        del bus
        gc.collect()
        assert await soon(task) == []


async def collect(stream: Stream) -> list[Any]:
    """Return the payloads of a stream up to its end."""
    return [event.payload async for event in stream]


class TestWaiting:
    @on_every_loop
    async def test_a_cancelled_wait_loses_no_event_and_the_stream_goes_on(
        self, bus: EventBus
    ) -> None:
        stream = bus.stream("a")
        task = asyncio.ensure_future(take(stream, 1))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        bus.emit("a", 1)
        assert await take(stream, 1) == [1]

    async def test_a_wait_cancelled_in_the_turn_of_the_event_loses_nothing(
        self, bus: EventBus
    ) -> None:
        stream = bus.stream("a")

        async def wait() -> Event:
            return await stream.__anext__()  # no wait_for, which until 3.12 prefers the result

        for order in ("event first", "cancel first"):
            task = asyncio.ensure_future(wait())
            await turns()
            if order == "event first":
                bus.emit("a", order)
                task.cancel()
            else:
                task.cancel()
                bus.emit("a", order)
            await asyncio.wait([task])
            assert task.cancelled()
            assert await take(stream, 1) == [order]

    async def test_a_timeout_around_the_wait_loses_no_event(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stream.__anext__(), 0.01)
        bus.emit("a", 1)
        assert await take(stream, 1) == [1]

    async def test_a_second_task_that_waits_is_refused_and_does_not_disturb_the_first(
        self, bus: EventBus
    ) -> None:
        stream = bus.stream("a")
        first = asyncio.ensure_future(take(stream, 1))
        await turns()
        with pytest.raises(RuntimeError, match="another task waits for the next event"):
            await stream.__anext__()
        bus.emit("a", 1)
        assert await soon(first) == [1]

    async def test_tasks_may_take_turns(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        for payload in range(3):
            task = asyncio.ensure_future(take(stream, 1))
            await turns()
            bus.emit("a", payload)
            assert await soon(task) == [payload]

    async def test_a_task_that_waits_is_kept_alive(self, bus: EventBus) -> None:
        log: list[object] = []

        async def consume() -> None:
            async for event in bus.stream("a"):
                log.append(event.payload)

        task = weakref.ref(asyncio.ensure_future(consume()))
        await turns()
        gc.collect()
        bus.emit("a", 1)
        await turns()
        assert log == [1]
        running = task()
        assert running is not None
        running.cancel()
        await asyncio.wait([running])


class TestThreads:
    @pytest.mark.usefixtures("eager_switching")
    @on_every_loop
    async def test_every_event_of_every_thread_arrives_in_its_threads_order(
        self, bus: EventBus
    ) -> None:
        def produce(thread: int) -> None:
            for number in range(300):
                bus.emit("a", (thread, number))

        stream = bus.stream("a", maxsize=10_000)
        threads = [threading.Thread(target=produce, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        got = await take(stream, 1200)
        for thread in threads:
            thread.join(DEADLINE)
        assert stream.dropped == 0
        for number in range(4):
            assert [n for thread, n in got if thread == number] == list(range(300))

    def test_it_may_be_consumed_in_another_loop_than_events_come_from(
        self, bus: EventBus, other: LoopThread
    ) -> None:
        stream = bus.stream("a")
        consuming = asyncio.run_coroutine_threadsafe(take(stream, 3), other.loop)

        async def produce() -> None:
            for payload in range(3):
                await bus.emit_async("a", payload)

        asyncio.run(produce())
        assert consuming.result(DEADLINE) == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_forked_child_uses_a_stream_that_a_thread_of_its_parent_was_using() -> None:
    assert run_isolated("fork_stream.py").strip() == "ok"


class TestArguments:
    @pytest.mark.parametrize("maxsize", [0, -1])
    def test_a_size_below_1_is_refused(self, bus: EventBus, maxsize: int) -> None:
        with pytest.raises(ValueError, match="maxsize must be at least 1"):
            bus.stream("a", maxsize=maxsize)
        assert len(bus) == 0

    @pytest.mark.parametrize("maxsize", [True, 1.0, "1", None])
    def test_a_size_that_is_no_int_is_refused(self, bus: EventBus, maxsize: Any) -> None:
        with pytest.raises(TypeError, match="maxsize must be an int"):
            bus.stream("a", maxsize=maxsize)
        assert len(bus) == 0

    def test_an_unknown_policy_is_refused(self, bus: EventBus) -> None:
        overflow: Any = "drop_everything"
        with pytest.raises(ValueError, match=r"overflow must be one of .* not 'drop_everything'"):
            bus.stream("a", overflow=overflow)
        assert len(bus) == 0

    @pytest.mark.parametrize("overflow", [None, 1, ["block"]])
    def test_a_policy_that_is_no_string_is_refused(self, bus: EventBus, overflow: Any) -> None:
        with pytest.raises(TypeError, match="overflow must be a str"):
            bus.stream("a", overflow=overflow)
        assert len(bus) == 0

    @pytest.mark.parametrize(
        ("key", "error"), [("", ValueError), (None, TypeError), ([], ValueError)]
    )
    def test_a_bad_key_is_refused(self, bus: EventBus, key: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            bus.stream(key)
        assert len(bus) == 0
