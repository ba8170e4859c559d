"""What a stream does with an event that it has no room for, and what it tells of that."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any, Literal

import pytest
from helpers import DEADLINE, LoopThread, note, soon, turns
from loops import on_every_loop

from agent_event_bus import EventBus, Stream, StreamOverflowError

pytestmark = pytest.mark.usefixtures("nothing_left")

Records = list[logging.LogRecord]
Overflow = Literal["drop_oldest", "drop_newest", "block", "error"]


async def take(stream: Stream, count: int) -> list[Any]:
    """Return the payloads of the next events of a stream."""
    return [(await soon(stream.__anext__())).payload for _ in range(count)]


def emissions(bus: EventBus, *payloads: object) -> list[asyncio.Task[int]]:
    """Begin an `emit_async` of "a" for each payload, in order."""
    return [asyncio.ensure_future(bus.emit_async("a", payload)) for payload in payloads]


class TestDropOldest:
    @on_every_loop
    async def test_the_oldest_make_room_and_are_counted(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=3)
        for payload in range(5):
            assert bus.emit("a", payload) == 1
        assert stream.dropped == 2
        assert await take(stream, 3) == [2, 3, 4]

    async def test_it_is_the_default_and_1024_the_default_size(self, bus: EventBus) -> None:
        stream = bus.stream("a")
        for payload in range(1025):
            bus.emit("a", payload)
        assert stream.dropped == 1
        assert await take(stream, 2) == [1, 2]

    async def test_emit_async_does_not_wait(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="drop_oldest")
        for payload in range(3):
            assert await soon(bus.emit_async("a", payload)) == 1
        assert await take(stream, 1) == [2]
        assert stream.dropped == 2

    async def test_a_payload_whose_release_emits_does_no_harm(self, bus: EventBus) -> None:
        class Last:
            def __del__(self) -> None:
                bus.emit("a", "from the finaliser")

        stream = bus.stream("a", maxsize=2)
        bus.emit("a", Last())
        bus.emit("a", "second")
        bus.emit("a", "third")
        assert await take(stream, 2) == ["third", "from the finaliser"]
        assert stream.dropped == 2


class TestDropNewest:
    @on_every_loop
    async def test_the_newest_find_no_room_and_are_counted(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=3, overflow="drop_newest")
        for payload in range(5):
            assert bus.emit("a", payload) == 1
        assert stream.dropped == 2
        assert await take(stream, 3) == [0, 1, 2]

    async def test_room_that_has_been_made_is_used(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="drop_newest")
        bus.emit("a", 1)
        bus.emit("a", 2)
        assert await take(stream, 1) == [1]
        assert await soon(bus.emit_async("a", 3)) == 1
        assert await take(stream, 1) == [3]
        assert stream.dropped == 1


class TestError:
    @on_every_loop
    async def test_what_is_queued_is_delivered_and_then_it_raises(
        self, bus: EventBus, records: Records
    ) -> None:
        stream = bus.stream("a", maxsize=2, overflow="error")
        counts = [bus.emit("a", payload) for payload in range(3)]
        counts.append(await bus.emit_async("a", 3))
        assert counts == [1, 1, 1, 0]
        assert len(bus) == 0
        assert await take(stream, 2) == [0, 1]
        with pytest.raises(StreamOverflowError, match="more than 2 events were waiting"):
            await stream.__anext__()
        assert records == []

    async def test_after_the_error_it_has_ended(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="error")
        bus.emit("a", 1)
        bus.emit("a", 2)
        assert "overflowed" in repr(stream)
        assert await take(stream, 1) == [1]
        with pytest.raises(StreamOverflowError):
            await stream.__anext__()
        assert [event async for event in stream] == []

    async def test_the_event_without_room_is_counted(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="error")
        for payload in range(3):
            bus.emit("a", payload)
        assert stream.dropped == 1

    async def test_a_stream_that_was_closed_does_not_raise(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="error")
        bus.emit("a")
        bus.emit("a")
        stream.close()
        assert [event async for event in stream] == []

    def test_the_error_is_a_runtime_error(self) -> None:
        assert issubclass(StreamOverflowError, RuntimeError)


class TestBlockUnderEmitAsync:
    @on_every_loop
    async def test_it_waits_until_there_is_room(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        assert await soon(bus.emit_async("a", 1)) == 1
        (waiting,) = emissions(bus, 2)
        await turns()
        assert not waiting.done()
        assert await take(stream, 1) == [1]
        assert await soon(waiting) == 1
        assert await take(stream, 1) == [2]
        assert stream.dropped == 0

    @on_every_loop
    async def test_a_producer_is_held_to_the_pace_of_its_consumer(self, bus: EventBus) -> None:
        ahead: list[int] = []
        emitted = consumed = 0

        async def produce() -> None:
            nonlocal emitted
            for payload in range(50):
                await bus.emit_async("a", payload)
                emitted += 1
                ahead.append(emitted - consumed)

        stream = bus.stream("a", maxsize=4, overflow="block")
        producing = asyncio.ensure_future(produce())
        for payload in range(50):
            assert await take(stream, 1) == [payload]
            consumed += 1
            await turns(2)
        await soon(producing)
        assert max(ahead) <= 5
        assert stream.dropped == 0

    async def test_events_that_wait_enter_in_the_order_of_their_emission(
        self, bus: EventBus
    ) -> None:
        stream = bus.stream("a", maxsize=2, overflow="block")
        waiting = emissions(bus, *range(10))
        await turns()
        assert await take(stream, 10) == list(range(10))
        assert await soon(asyncio.gather(*waiting)) == [1] * 10

    async def test_no_emission_overtakes_one_that_waits(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        first = emissions(bus, 1, 2)
        await turns()
        assert (await stream.__anext__()).payload == 1
        bus.emit("a", "overtakes")
        waiting = first + emissions(bus, 3)
        assert await take(stream, 2) == [2, 3]
        assert await soon(asyncio.gather(*waiting)) == [1, 1, 1]
        assert stream.dropped == 1

    async def test_other_handlers_are_called_before_it_waits(self, bus: EventBus) -> None:
        log: list[object] = []
        stream = bus.stream("a", maxsize=1, overflow="block")
        with bus.subscribe("a", note(log, "after")):
            waiting = emissions(bus, 1, 2)
            await turns()
            assert log == ["after", "after"]
            assert not waiting[1].done()
            assert await take(stream, 2) == [1, 2]
            assert await soon(asyncio.gather(*waiting)) == [2, 2]

    @on_every_loop
    async def test_one_that_is_cancelled_drops_its_event_and_counts_it(
        self, bus: EventBus, records: Records
    ) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        first, second, third = emissions(bus, 1, 2, 3)
        await turns()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert stream.dropped == 1
        assert await take(stream, 2) == [1, 3]
        assert list(await soon(asyncio.gather(first, third))) == [1, 1]
        assert records == []

    async def test_one_that_times_out_drops_its_event(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        bus.emit("a", 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bus.emit_async("a", 2), 0.01)
        assert stream.dropped == 1
        assert await take(stream, 1) == [1]

    async def test_one_that_is_closed_by_hand_drops_its_event(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        bus.emit("a", 1)
        emission = bus.emit_async("a", 2)
        emission.send(None)
        emission.close()
        await turns()
        assert stream.dropped == 1

    @on_every_loop
    async def test_closing_the_stream_releases_all_that_wait(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        waiting = emissions(bus, 1, 2, 3)
        await turns()
        stream.close()
        assert await soon(asyncio.gather(*waiting)) == [1, 1, 1]
        assert stream.dropped == 2

    async def test_dropping_the_stream_releases_all_that_wait(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        waiting = emissions(bus, 1, 2, 3)
        await turns()
        del stream
        gc.collect()
        assert await soon(asyncio.gather(*waiting)) == [1, 1, 1]

    async def test_closing_the_bus_releases_all_that_wait_and_keeps_what_is_queued(
        self, bus: EventBus
    ) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        waiting = emissions(bus, 1, 2, 3)
        await turns()
        await bus.aclose()
        assert await soon(asyncio.gather(*waiting)) == [1, 1, 1]
        assert [event.payload async for event in stream] == [1]
        assert stream.dropped == 2

    async def test_removing_its_subscription_releases_all_that_wait(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        waiting = emissions(bus, 1, 2)
        await turns()
        bus.off("a")
        assert await soon(asyncio.gather(*waiting)) == [1, 1]
        assert [event.payload async for event in stream] == [1]

    async def test_two_streams_that_block_are_both_waited_for(self, bus: EventBus) -> None:
        streams = [bus.stream("a", maxsize=1, overflow="block") for _ in range(2)]
        waiting = emissions(bus, 1, 2)
        await turns()
        assert await take(streams[0], 2) == [1, 2]
        await turns()
        assert not waiting[1].done()
        assert await take(streams[1], 2) == [1, 2]
        assert await soon(asyncio.gather(*waiting)) == [2, 2]

    async def test_an_emission_whose_loop_was_closed_does_no_harm(
        self, bus: EventBus, records: Records
    ) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        bus.emit("a", 1)

        def abandon() -> None:
            loop = asyncio.new_event_loop()
            task = loop.create_task(bus.emit_async("a", 2))
            loop.run_until_complete(turns())
            loop.close()
            task._log_destroy_pending = False  # type: ignore[attr-defined]

        thread = threading.Thread(target=abandon)
        thread.start()
        thread.join(DEADLINE)
        gc.collect()
        assert await take(stream, 2) == [1, 2]
        assert stream.dropped == 0
        assert records == []


class TestBlockUnderEmit:
    @on_every_loop
    async def test_the_newest_is_dropped_and_counted(self, bus: EventBus, records: Records) -> None:
        stream = bus.stream("a", maxsize=2, overflow="block")
        assert [bus.emit("a", payload) for payload in range(5)] == [1] * 5
        assert stream.dropped == 3
        assert await soon(bus.drain()) == []
        assert await take(stream, 2) == [0, 1]
        assert records == []

    def test_without_a_loop_too(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        assert [bus.emit("a", payload) for payload in range(3)] == [1] * 3
        assert stream.dropped == 2
        stream.close()

    def test_from_a_thread_beside_a_bound_loop_too(self, other: LoopThread) -> None:
        bus = EventBus(loop=other.loop)
        stream = bus.stream("a", maxsize=1, overflow="block")
        assert [bus.emit("a", payload) for payload in range(3)] == [1] * 3
        assert stream.dropped == 2
        assert bus._pending() == []

    def test_an_emitter_does_as_emit_does(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        emit = bus.emitter("a")
        assert [emit(payload) for payload in range(3)] == [1] * 3
        assert stream.dropped == 2
        stream.close()

    async def test_collect_does_as_emit_does(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        outcomes = [outcome for payload in range(3) for outcome in bus.collect("a", payload)]
        assert [(outcome.status, outcome.value) for outcome in outcomes] == [("ok", None)] * 3
        assert stream.dropped == 2

    async def test_collect_async_waits_for_room(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")
        bus.emit("a", 1)
        collecting = asyncio.ensure_future(bus.collect_async("a", 2))
        await turns()
        assert not collecting.done()
        assert await take(stream, 2) == [1, 2]
        assert [outcome.status for outcome in await soon(collecting)] == ["ok"]

    def test_emit_threadsafe_waits_for_room(self, other: LoopThread) -> None:
        bus = EventBus(loop=other.loop)
        stream = bus.stream("a", maxsize=1, overflow="block")
        futures = [bus.emit_threadsafe("a", payload) for payload in range(3)]
        assert other.run(take(stream, 3)) == [0, 1, 2]
        assert [future.result(DEADLINE) for future in futures] == [1, 1, 1]
        assert stream.dropped == 0

    async def test_an_awaitable_of_another_handler_is_run_all_the_same(self, bus: EventBus) -> None:
        log: list[object] = []

        async def later(payload: object) -> None:
            log.append(payload)

        stream = bus.stream("a", maxsize=1, overflow="block")
        with bus.subscribe("a", lambda payload: later(payload)):
            assert [bus.emit("a", payload) for payload in range(3)] == [2] * 3
            assert await soon(bus.drain()) == []
        assert log == [0, 1, 2]
        assert stream.dropped == 2


class TestBlockAndTheLimitsOfTheBus:
    async def test_who_waits_for_room_is_not_timed_out(self, records: Records) -> None:
        bus = EventBus(handler_timeout=0.01)
        stream = bus.stream("a", maxsize=1, overflow="block")
        waiting = emissions(bus, 1, 2)
        await asyncio.sleep(0.03)
        assert not waiting[1].done()
        assert await take(stream, 2) == [1, 2]
        await soon(asyncio.gather(*waiting))
        assert records == []

    async def test_who_waits_for_room_takes_no_permit_that_the_consumer_needs(self) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[object] = []

        @bus.on("consumed")
        async def consumed(payload: object) -> None:
            await asyncio.sleep(0)
            log.append(payload)

        stream = bus.stream("a", maxsize=1, overflow="block")
        waiting = emissions(bus, 1, 2, 3)
        for _ in range(3):
            event = await soon(stream.__anext__())
            await soon(bus.emit_async("consumed", event.payload))
        await soon(asyncio.gather(*waiting))
        assert log == [1, 2, 3]

    async def test_emit_takes_nothing_of_max_pending(self) -> None:
        bus = EventBus(max_pending=1)
        stream = bus.stream("a", maxsize=1, overflow="block")
        assert [bus.emit("a", payload) for payload in range(3)] == [1] * 3
        assert bus._pending() == []
        assert stream.dropped == 2


class TestThreads:
    def test_who_waits_is_woken_in_its_own_loop(self, bus: EventBus, other: LoopThread) -> None:
        stream = bus.stream("a", maxsize=1, overflow="block")

        async def produce() -> list[int]:
            return [await bus.emit_async("a", payload) for payload in range(20)]

        producing = asyncio.run_coroutine_threadsafe(produce(), other.loop)
        assert asyncio.run(take(stream, 20)) == list(range(20))
        assert producing.result(DEADLINE) == [1] * 20
        assert stream.dropped == 0
        stream.close()

    @pytest.mark.usefixtures("eager_switching")
    @pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "block"])
    async def test_what_arrives_and_what_is_dropped_are_all_there_is(
        self, bus: EventBus, overflow: Overflow
    ) -> None:
        stream = bus.stream("a", maxsize=3, overflow=overflow)
        got: list[tuple[int, int]] = []

        def produce(thread: int) -> None:
            for number in range(200):
                bus.emit("a", (thread, number))

        async def consume() -> None:
            async for event in stream:
                got.append(event.payload)

        consuming = asyncio.ensure_future(consume())
        await asyncio.gather(*(asyncio.to_thread(produce, thread) for thread in range(3)))
        await turns(10)
        assert len(got) + stream.dropped == 600
        for number in range(3):
            numbers = [n for thread, n in got if thread == number]
            assert numbers == sorted(numbers)
        stream.close()
        await soon(consuming)

    @pytest.mark.usefixtures("eager_switching")
    def test_several_loops_that_wait_lose_nothing(self, bus: EventBus) -> None:
        stream = bus.stream("a", maxsize=2, overflow="block")

        async def produce(thread: int) -> None:
            for number in range(100):
                await bus.emit_async("a", (thread, number))

        threads = [
            threading.Thread(target=lambda thread=thread: asyncio.run(produce(thread)))
            for thread in range(3)
        ]
        for thread in threads:
            thread.start()
        got: list[tuple[int, int]] = asyncio.run(take(stream, 300))
        for thread in threads:
            thread.join(DEADLINE)
        for number in range(3):
            assert [n for owner, n in got if owner == number] == list(range(100))
        assert stream.dropped == 0
        stream.close()
