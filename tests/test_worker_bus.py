"""The worker bus without a store: who gets which events, when, and what handlers may do."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

import pytest
from helpers import DEADLINE, Gate, LoopThread, soon, turns
from working import contents

from agent_event_bus import Subscription
from agent_event_bus.worker import Event, EventBus, InboundEvent, OutboundEvent

F = TypeVar("F", bound=Callable[..., object])


@dataclass
class Urgent(InboundEvent):
    """A subclass."""


def subscribed(bus: EventBus) -> Callable[[F], F]:
    """Subscribe what is decorated to every event."""

    def decorate(handler: F) -> F:
        bus.subscribe(Event, handler)
        return handler

    return decorate


async def delivered(bus: EventBus, *events: Event) -> None:
    """Publish events, run the bus until they are delivered, and stop it."""
    bus.start()
    for event in events:
        await soon(bus.publish(event))
    await soon(bus.join())
    await soon(bus.stop())


class TestSubscribing:
    async def test_a_handler_gets_the_very_events_of_its_class(self) -> None:
        bus = EventBus()
        log: list[InboundEvent] = []
        bus.subscribe(InboundEvent, log.append)
        event = InboundEvent("s", "hello")
        await delivered(bus, event, OutboundEvent("s", "no"))
        assert len(log) == 1
        assert log[0] is event

    async def test_subclasses_count(self) -> None:
        bus = EventBus()
        every: list[Event] = []
        inbound: list[InboundEvent] = []
        bus.subscribe(Event, every.append)
        bus.subscribe(InboundEvent, inbound.append)
        await delivered(bus, Urgent("s", 1), OutboundEvent("s", 2), Event("s", 3))
        assert contents(every) == [1, 2, 3]
        assert contents(inbound) == [1]

    async def test_sync_and_async_handlers_and_bound_methods_are_called(self) -> None:
        class Channel:
            def __init__(self) -> None:
                self.log: list[str] = []

            def sync(self, event: Event) -> None:
                self.log.append("sync")

            async def asynchronous(self, event: Event) -> None:
                self.log.append("async")

        bus = EventBus()
        channel = Channel()
        bus.subscribe(Event, channel.sync)
        bus.subscribe(Event, channel.asynchronous)
        await delivered(bus, Event("s", 1))
        assert channel.log == ["sync", "async"]
        assert bus.unsubscribe(channel.sync) == 1
        assert bus.unsubscribe(channel.asynchronous) == 1
        assert bus.unsubscribe(channel.asynchronous) == 0

    async def test_unsubscribe_removes_a_handler_from_every_class(self) -> None:
        bus = EventBus()
        log: list[Any] = []
        bus.subscribe(InboundEvent, log.append)
        handler = log.append
        bus.subscribe(OutboundEvent, handler)
        assert bus.unsubscribe(handler) == 2
        await delivered(bus, InboundEvent("s", 1), OutboundEvent("s", 2))
        assert log == []

    async def test_a_handler_that_is_subscribed_twice_is_called_twice(self) -> None:
        bus = EventBus()
        log: list[Any] = []
        bus.subscribe(InboundEvent, log.append)
        bus.subscribe(Event, log.append)
        await delivered(bus, InboundEvent("s", 1))
        assert contents(log) == [1, 1]

    async def test_subscribe_returns_a_subscription_that_can_be_cancelled(self) -> None:
        bus = EventBus()
        subscription = bus.subscribe(Event, print)
        assert subscription.cancel()
        assert bus.unsubscribe(print) == 0

    @pytest.mark.parametrize("key", ["InboundEvent", object, int, None, list])
    def test_what_is_no_class_of_events_is_refused(self, key: Any) -> None:
        with pytest.raises(TypeError, match="a class of events is needed"):
            EventBus().subscribe(key, print)

    def test_what_is_no_handler_is_refused(self) -> None:
        handler: Any = 5
        with pytest.raises(TypeError):
            EventBus().subscribe(Event, handler)

    @pytest.mark.parametrize("event", ["text", None, InboundEvent])
    async def test_what_is_no_event_is_not_published(self, event: Any) -> None:
        with pytest.raises(TypeError, match="an Event is needed"):
            await EventBus().publish(event)

    async def test_an_event_without_handlers_is_said_to_have_none(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = EventBus()
        await delivered(bus, Urgent("s", "a secret"))
        (record,) = caplog.records
        assert record.name == "agent_event_bus.worker.EventBus"
        assert record.levelname == "WARNING"
        assert record.getMessage() == "No handler is subscribed to Urgent"


class TestOrder:
    async def test_events_are_delivered_one_at_a_time_in_the_order_of_publishing(self) -> None:
        bus = EventBus()
        log: list[tuple[str, Any]] = []

        @subscribed(bus)
        async def handler(event: Event) -> None:
            log.append(("begin", event.content))
            await turns(3 - event.content)
            log.append(("end", event.content))

        await delivered(bus, InboundEvent("s", 0), OutboundEvent("s", 1), Event("s", 2))
        assert log == [(when, n) for n in range(3) for when in ("begin", "end")]

    async def test_all_handlers_of_an_event_run_at_once(self) -> None:
        bus = EventBus()
        inside = 0
        all_inside = asyncio.Event()

        def make() -> Any:
            async def handler(event: Event) -> None:
                nonlocal inside
                inside += 1
                if inside == 5:
                    all_inside.set()
                await all_inside.wait()

            return handler

        for _ in range(5):
            bus.subscribe(Event, make())
        await delivered(bus, Event("s", 1))
        assert inside == 5

    async def test_what_was_published_before_the_start_is_delivered(self) -> None:
        bus = EventBus()
        log: list[Event] = []
        bus.subscribe(Event, log.append)
        await bus.publish(Event("s", 1))
        await delivered(bus, Event("s", 2))
        assert contents(log) == [1, 2]

    async def test_each_publisher_of_many_sees_its_own_order_kept(self) -> None:
        bus = EventBus(maxsize=3)
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        bus.start()

        async def publisher(name: int) -> None:
            for number in range(20):
                await bus.publish(Event(str(name), number))
                await turns(name % 3)

        await soon(asyncio.gather(*map(publisher, range(10))))
        await soon(bus.join())
        for name in range(10):
            assert contents([e for e in log if e.session_id == str(name)]) == list(range(20))
        await bus.stop()

    async def test_handlers_that_never_suspend_do_not_keep_the_loop_from_others(self) -> None:
        bus = EventBus()
        count = 0

        @subscribed(bus)
        async def handler(event: Event) -> None:
            nonlocal count
            count += 1
            await bus.publish(event)  # for ever

        await bus.publish(Event("s", 1))
        bus.start()
        began = count
        await soon(asyncio.sleep(0.01))
        assert count > began
        await soon(bus.stop())


class TestIsolation:
    async def test_a_handler_that_fails_disturbs_nobody_and_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = EventBus()
        log: list[Any] = []

        @subscribed(bus)
        def sync(event: Event) -> None:
            raise ValueError("sync")

        @subscribed(bus)
        async def asynchronous(event: Event) -> None:
            await turns()
            raise ValueError("async")

        bus.subscribe(Event, log.append)
        await delivered(bus, Event("s", 1), Event("s", 2))
        assert contents(log) == [1, 2]
        assert [record.exc_info is not None for record in caplog.records] == [True] * 4
        assert {record.name for record in caplog.records} == {"agent_event_bus.worker.EventBus"}
        assert "asynchronous' raised on event 'Event': async" in caplog.text
        assert not bus.has_crashed()

    async def test_a_handler_that_is_cancelled_disturbs_nobody(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = EventBus()
        log: list[Any] = []

        @subscribed(bus)
        async def handler(event: Event) -> None:
            raise asyncio.CancelledError

        bus.subscribe(Event, log.append)
        await delivered(bus, Event("s", 1), Event("s", 2))
        assert contents(log) == [1, 2]
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


class TestReentrancy:
    async def test_a_handler_may_publish_subscribe_and_unsubscribe(self) -> None:
        bus = EventBus()
        log: list[Any] = []

        def late(event: Event) -> None:
            log.append(("late", event.content))

        @subscribed(bus)
        async def handler(event: Event) -> None:
            log.append(event.content)
            if event.content == 1:
                bus.subscribe(Event, late)
            elif event.content == 2:
                assert bus.unsubscribe(late) == 1
            if event.content < 3:
                await bus.publish(Event("s", event.content + 1))

        await delivered(bus, Event("s", 1))
        # Added in the delivery of 1 it is not called by it; sync handlers run before async ones.
        assert log == [1, ("late", 2), 2, 3]

    async def test_a_handler_of_one_bus_may_publish_on_another(self) -> None:
        first, second = EventBus(), EventBus()
        log: list[Any] = []
        first.subscribe(Event, second.publish)
        second.subscribe(Event, log.append)
        second.start()
        await delivered(first, Event("s", 1))
        await soon(second.join())
        assert contents(log) == [1]
        await second.stop()

    async def test_run_cannot_be_on_twice(self) -> None:
        bus = EventBus()
        bus.start()
        await turns()
        with pytest.raises(RuntimeError, match="running already"):
            await bus.run()
        assert bus.is_running()
        await bus.stop()

    async def test_run_may_be_awaited_without_start(self) -> None:
        bus = EventBus()
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        running = asyncio.ensure_future(bus.run())
        await turns()
        assert bus.is_running()
        with pytest.raises(RuntimeError, match="running already"):
            bus.start()
        await bus.publish(Event("s", 1))
        await soon(bus.join())
        await soon(bus.stop())
        assert running.done()
        assert running.result() is None
        assert not bus.is_running()


class TestLoops:
    def test_it_goes_on_in_another_loop_with_what_is_queued(self) -> None:
        bus = EventBus()
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        asyncio.run(bus.publish(Event("s", 1)))
        asyncio.run(delivered(bus, Event("s", 2)))
        assert contents(log) == [1, 2]

    async def test_it_is_refused_in_a_second_loop_at_the_same_time(self, other: LoopThread) -> None:
        bus = EventBus()
        bus.start()
        await turns()
        publishing = asyncio.run_coroutine_threadsafe(bus.publish(Event("s", 1)), other.loop)
        with pytest.raises(RuntimeError, match="in use in another event loop"):
            publishing.result(DEADLINE)
        await bus.stop()

    def test_so_it_is_while_the_loop_that_it_runs_in_has_paused(self) -> None:
        bus = EventBus()
        log: list[Any] = []
        bus.subscribe(Event, log.append)

        async def begin() -> None:
            bus.start()
            await bus.publish(Event("s", 1))

        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        with pytest.raises(RuntimeError, match="in use in another event loop"):
            asyncio.run(bus.publish(Event("s", 2)))
        loop.run_until_complete(soon(bus.join()))
        loop.run_until_complete(soon(bus.stop()))
        asyncio.run(delivered(bus, Event("s", 3)))  # the first loop is done with it
        loop.close()
        assert contents(log) == [1, 3]

    def test_a_loop_that_was_closed_under_it_takes_nothing_with_it(self) -> None:
        bus = EventBus(maxsize=1)
        log: list[Any] = []

        async def begin() -> None:
            subscriptions.append(bus.subscribe(Event, Gate().wait))
            bus.start()
            for content in (1, 2):
                await bus.publish(Event("s", content))  # 1 is in hand, 2 queued
            waiting.append(asyncio.ensure_future(bus.publish(Event("s", 3))))  # for room
            waiting.append(asyncio.ensure_future(bus.join()))
            await turns()

        subscriptions: list[Subscription] = []
        waiting: list[asyncio.Future[None]] = []
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # which hears of the tasks it lost
        loop.run_until_complete(begin())
        loop.close()
        assert not bus.is_running()
        (hanging,) = subscriptions
        hanging.cancel()
        bus.subscribe(Event, log.append)
        asyncio.run(delivered(bus, Event("s", 4)))
        waiting.clear()
        gc.collect()  # the tasks of the first loop end now
        assert contents(log) == [1, 2, 4]
        asyncio.run(delivered(bus, Event("s", 5)))
        assert contents(log) == [1, 2, 4, 5]

    async def test_other_threads_publish_through_its_loop(self) -> None:
        bus = EventBus()
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        bus.start()
        loop = asyncio.get_running_loop()

        def in_thread() -> None:
            asyncio.run_coroutine_threadsafe(bus.publish(Event("s", 1)), loop).result(DEADLINE)

        await loop.run_in_executor(None, in_thread)
        await soon(bus.join())
        assert contents(log) == [1]
        await bus.stop()


class TestArguments:
    @pytest.mark.parametrize("maxsize", ["1", 1.0, None, True])
    def test_a_size_that_is_no_int_is_refused(self, maxsize: Any) -> None:
        with pytest.raises(TypeError, match="maxsize must be an int"):
            EventBus(maxsize=maxsize)

    def test_a_negative_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="maxsize must be at least 0"):
            EventBus(maxsize=-1)

    @pytest.mark.parametrize("name", ["", "a..b", "a*", "."])
    def test_a_malformed_name_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="name must be text"):
            EventBus(name=name)

    def test_a_name_that_is_no_text_is_refused(self) -> None:
        name: Any = 5
        with pytest.raises(TypeError, match="name must be a str"):
            EventBus(name=name)
