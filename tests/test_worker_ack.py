"""To acknowledge: exactly one event is forgotten, durably, and only one that was delivered."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Callable

import pytest
from helpers import DEADLINE, LoopThread, soon, turns
from stores import commits
from working import contents, delivered, outbound

from agent_event_bus.store import EventStore, StoreError
from agent_event_bus.worker import Event, EventBus, InboundEvent, OutboundEvent

Ack = Callable[[EventBus, Event], Any]


async def ack(bus: EventBus, event: Event) -> bool:
    return bus.ack(event)


async def ack_async(bus: EventBus, event: Event) -> bool:
    return await bus.ack_async(event)


both = pytest.mark.parametrize("way", [ack, ack_async])


class Slow:
    """A store whose acknowledgements wait for a gate, and may be refused then."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.gate = asyncio.Event()
        self.refuses = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def ack_async(self, consumer: str, seq: int) -> None:
        await self.gate.wait()
        if self.refuses:
            raise StoreError("disk is full")
        await self.store.ack_async(consumer, seq)


async def with_delivered(store: EventStore, *events: Event) -> EventBus:
    """Return a bus that has delivered events, and none of them was acknowledged."""
    bus = EventBus(store=store)
    await soon(asyncio.gather(*map(bus.publish, events)))
    await delivered(bus)
    return bus


async def cancel_all() -> None:
    """Cancel every other task, as `asyncio.run` does at its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await soon(asyncio.gather(*others, return_exceptions=True))


def open_numbers(store: EventStore) -> list[int]:
    return [event.seq for event in store.pending("worker")]


class TestOneEvent:
    @both
    async def test_is_forgotten_durably(self, store: EventStore, way: Ack) -> None:
        events = outbound(1, 2, 3)
        bus = await with_delivered(store, *events)
        assert await way(bus, events[1]) is True
        assert open_numbers(store) == [1, 3]

    @both
    async def test_twice_is_once(self, store: EventStore, way: Ack) -> None:
        events = outbound(1, 2)
        bus = await with_delivered(store, *events)
        assert await way(bus, events[0]) is True
        assert await way(bus, events[0]) is False
        assert open_numbers(store) == [2]

    @both
    async def test_of_two_equal_ones_the_very_object_is(self, store: EventStore, way: Ack) -> None:
        first, second = OutboundEvent("s", "same", 1.0), OutboundEvent("s", "same", 1.0)
        bus = await with_delivered(store, first, second)
        assert await way(bus, second) is True
        assert open_numbers(store) == [1]
        assert await way(bus, first) is True
        assert open_numbers(store) == []
        assert await way(bus, first) is False

    @both
    async def test_an_equal_object_will_do(self, store: EventStore, way: Ack) -> None:
        event = OutboundEvent("s", "same", 1.0)
        bus = await with_delivered(store, event, OutboundEvent("s", "same", 1.0))
        for left in ([2], []):
            assert await way(bus, OutboundEvent.from_dict(event.to_dict())) is True
            assert open_numbers(store) == left
        assert await way(bus, OutboundEvent.from_dict(event.to_dict())) is False

    @both
    async def test_what_was_recovered_is_older_than_what_was_published_before(
        self, store: EventStore, way: Ack
    ) -> None:
        (event,) = outbound("same")
        await EventBus(store=store).publish(event)
        bus = EventBus(store=store)
        await bus.publish(event)
        await delivered(bus)
        assert open_numbers(store) == [1, 2]
        assert await way(bus, OutboundEvent.from_dict(event.to_dict())) is True
        assert open_numbers(store) == [2]

    @both
    async def test_an_object_that_was_published_twice_is_two_events(
        self, store: EventStore, way: Ack
    ) -> None:
        (event,) = outbound("twice")
        bus = await with_delivered(store, event, event)
        assert await way(bus, event) is True
        assert open_numbers(store) == [2]
        assert await way(bus, event) is True
        assert open_numbers(store) == []

    @both
    async def test_of_another_class_is_not_equal(self, store: EventStore, way: Ack) -> None:
        bus = await with_delivered(store, OutboundEvent("s", "a", 1.0))
        assert await way(bus, Event("s", "a", 1.0)) is False
        assert open_numbers(store) == [1]


class TestNothingToForget:
    @both
    async def test_an_event_that_was_not_delivered(self, store: EventStore, way: Ack) -> None:
        bus = EventBus(store=store)
        (event,) = outbound("a")
        await bus.publish(event)
        assert await way(bus, event) is False
        assert contents(await delivered(bus)) == ["a"]

    @both
    async def test_an_event_that_was_never_published(self, store: EventStore, way: Ack) -> None:
        bus = await with_delivered(store, *outbound("a"))
        assert await way(bus, OutboundEvent("s", "b")) is False

    @both
    async def test_an_inbound_event(self, store: EventStore, way: Ack) -> None:
        event = InboundEvent("s", "a")
        bus = await with_delivered(store, event)
        assert await way(bus, event) is False

    @both
    async def test_without_a_store(self, way: Ack) -> None:
        bus = EventBus()
        (event,) = outbound("a")
        await bus.publish(event)
        await delivered(bus)
        assert await way(bus, event) is False

    @both
    async def test_what_is_no_event_is_refused(self, way: Any) -> None:
        with pytest.raises(TypeError, match="an Event is needed, not int"):
            await way(EventBus(), 1)


class TestWhen:
    @both
    async def test_in_a_handler_of_the_event_itself(self, store: EventStore, way: Ack) -> None:
        bus = EventBus(store=store)
        answers: list[bool] = []

        async def handler(event: OutboundEvent) -> None:
            answers.append(await way(bus, event))

        bus.subscribe(OutboundEvent, handler)
        for event in outbound(1, 2, 3):
            await bus.publish(event)
        await delivered(bus)
        assert answers == [True] * 3
        assert open_numbers(store) == []

    async def test_in_another_thread(self, store: EventStore) -> None:
        events = outbound(1, 2)
        bus = await with_delivered(store, *events)
        assert await asyncio.to_thread(bus.ack, events[0]) is True
        assert open_numbers(store) == [2]

    async def test_of_many_threads_each_event_is_forgotten_once(self, store: EventStore) -> None:
        events = [OutboundEvent("s", "same", 1.0) for _ in range(20)]
        bus = await with_delivered(store, *events)
        answers: list[bool] = []
        barrier = threading.Barrier(5)

        def acknowledge() -> None:
            barrier.wait()
            for _ in range(5):
                answers.append(bus.ack(OutboundEvent("s", "same", 1.0)))

        threads = [threading.Thread(target=acknowledge) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sorted(answers) == [False] * 5 + [True] * 20
        assert open_numbers(store) == []

    async def test_of_many_tasks_at_once_it_is_one_commit(self, store: EventStore) -> None:
        events = outbound(*range(200))
        bus = await with_delivered(store, *events)
        before = commits(store.path)
        assert await soon(asyncio.gather(*map(bus.ack_async, events))) == [True] * 200
        assert commits(store.path) - before <= 3  # one, unless the writer woke in between
        assert open_numbers(store) == []

    async def test_while_the_disk_is_slow_the_loop_goes_on(self, store: EventStore) -> None:
        slow: Any = Slow(store)
        gate = slow.gate
        (event,) = outbound("a")
        bus = await with_delivered(slow, event)
        acknowledging = asyncio.ensure_future(bus.ack_async(event))
        await turns()
        assert not acknowledging.done()
        assert bus.ack(event) is False  # somebody is at it
        gate.set()
        assert await soon(acknowledging) is True
        assert open_numbers(store) == []


class TestCancelled:
    """An acknowledgement by a task that is cancelled while it is on its way to the disk."""

    async def begun(self, store: Any) -> tuple[EventBus, Event]:
        (event,) = outbound("a")
        bus = await with_delivered(store, event)
        acknowledging = asyncio.ensure_future(bus.ack_async(event))
        await turns()
        acknowledging.cancel()
        await soon(asyncio.wait([acknowledging]))
        assert acknowledging.cancelled()
        return bus, event

    async def test_it_goes_on_and_the_event_is_not_delivered_again(self, store: EventStore) -> None:
        slow = Slow(store)
        bus, event = await self.begun(slow)
        assert bus.ack(event) is False
        bus.subscribe(OutboundEvent, lambda event: pytest.fail("delivered again"))
        assert open_numbers(store) == [1]
        bus.start()  # which waits for it
        slow.gate.set()
        await soon(bus.join())
        await soon(bus.stop())
        assert open_numbers(store) == []

    async def test_if_it_fails_that_is_logged_and_the_event_is_delivered_again(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        slow = Slow(store)
        slow.refuses = True
        bus, event = await self.begun(slow)
        slow.gate.set()
        assert contents(await delivered(bus)) == ["a"]
        assert "acknowledged it was cancelled: disk is full" in caplog.text
        assert bus.ack(event) is True

    @pytest.mark.parametrize("later", range(5))
    def test_when_the_loop_ends_before_the_next_run_sees_it_through(
        self, store: EventStore, later: int
    ) -> None:
        first, second = outbound("a", "b")
        bus = asyncio.run(with_delivered(store, first, second))

        async def begin() -> None:
            acknowledging.append(asyncio.ensure_future(bus.ack_async(first)))
            await turns(1 + later)
            await cancel_all()

        acknowledging: list[asyncio.Future[bool]] = []
        asyncio.run(begin())
        assert contents(asyncio.run(delivered(bus))) == ["b"]
        assert open_numbers(store) == [2]

    def test_so_does_it_when_the_loop_was_closed_under_it(self, store: EventStore) -> None:
        acknowledging: list[asyncio.Future[bool]] = []

        async def begin() -> EventBus:
            slow: Any = Slow(store)
            (event,) = outbound("a")
            bus = await with_delivered(slow, event)
            acknowledging.append(asyncio.ensure_future(bus.ack_async(event)))
            await turns()
            return bus

        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # which hears of the tasks it lost
        bus = loop.run_until_complete(begin())
        loop.close()
        assert contents(asyncio.run(delivered(bus))) == []
        assert open_numbers(store) == []

    def test_if_that_fails_it_is_logged_and_the_event_is_delivered_again(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        refusing: Any = TestRefused.Refusing(store)
        (event,) = outbound("a")
        bus = asyncio.run(with_delivered(refusing, event))

        async def begin() -> None:
            acknowledging.append(asyncio.ensure_future(bus.ack_async(event)))
            await turns(1)
            await cancel_all()

        acknowledging: list[asyncio.Future[bool]] = []
        asyncio.run(begin())
        assert contents(asyncio.run(delivered(bus))) == ["a"]
        assert "Event 1 could not be acknowledged: disk is full" in caplog.text

    async def test_in_another_loop_meanwhile_it_is_refused(
        self, store: EventStore, other: LoopThread
    ) -> None:
        (event,) = outbound("a")
        bus = await with_delivered(store, event)
        acknowledging = asyncio.run_coroutine_threadsafe(bus.ack_async(event), other.loop)
        with pytest.raises(RuntimeError, match="in use in another event loop"):
            acknowledging.result(DEADLINE)
        assert bus.ack(event) is True


class TestRefused:
    class Refusing:
        """A store that refuses acknowledgements for a while."""

        def __init__(self, store: EventStore) -> None:
            self.store = store
            self.refuses = True

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

        def ack(self, consumer: str, seq: int) -> None:
            if self.refuses:
                raise StoreError("disk is full")
            self.store.ack(consumer, seq)

        async def ack_async(self, consumer: str, seq: int) -> None:
            if self.refuses:
                raise StoreError("disk is full")
            await self.store.ack_async(consumer, seq)

    @both
    async def test_what_could_not_be_made_durable_is_not_forgotten(
        self, store: EventStore, way: Ack
    ) -> None:
        refusing: Any = self.Refusing(store)
        (event,) = outbound("a")
        bus = await with_delivered(refusing, event)
        with pytest.raises(StoreError, match="disk is full"):
            await way(bus, event)
        assert contents(await delivered(bus)) == ["a"]
        refusing.refuses = False
        assert await way(bus, event) is True
        assert contents(await delivered(bus)) == []
