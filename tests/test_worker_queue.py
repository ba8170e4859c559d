"""The queue of the worker bus: its limit, who is exempt from it, and `join`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers import Gate, soon, turns

from agent_event_bus.worker import Event, EventBus


async def is_waiting(task: asyncio.Future[Any]) -> bool:
    await turns()
    return not task.done()


def publishing(bus: EventBus, *contents: object) -> list[asyncio.Task[None]]:
    return [asyncio.ensure_future(bus.publish(Event("s", content))) for content in contents]


async def run_to_the_end(bus: EventBus) -> list[Any]:
    """Deliver what is published and return the contents."""
    log: list[Any] = []
    subscription = bus.subscribe(Event, lambda event: log.append(event.content))
    bus.start()
    await soon(bus.join())
    await soon(bus.stop())
    subscription.cancel()
    return log


class TestMaxsize:
    async def test_publish_waits_only_when_the_limit_is_reached(self) -> None:
        bus = EventBus(maxsize=2)
        first, second, third = publishing(bus, 1, 2, 3)
        assert await is_waiting(third)
        assert first.done()
        assert second.done()
        assert await run_to_the_end(bus) == [1, 2, 3]
        assert third.done()

    async def test_without_a_limit_it_never_waits(self) -> None:
        bus = EventBus()
        for content in range(1000):
            publish = bus.publish(Event("s", content))
            with pytest.raises(StopIteration):
                publish.send(None)
        assert await run_to_the_end(bus) == list(range(1000))

    async def test_who_waits_gets_room_in_the_order_of_the_calls(self) -> None:
        bus = EventBus(maxsize=1)
        publishing(bus, *range(10))
        await turns()
        assert await run_to_the_end(bus) == list(range(10))

    async def test_nobody_overtakes_who_waits(self) -> None:
        bus = EventBus(maxsize=1)
        log: list[Any] = []
        late: list[asyncio.Task[None]] = []

        def handler(event: Event) -> None:
            log.append(event.content)

        bus.subscribe(Event, handler)
        tasks = publishing(bus, 1, 2, 3)
        await turns()
        bus.start()
        # There is room as soon as 1 is in hand, but 2 and 3 have waited for it.
        late += publishing(bus, 4)
        await soon(asyncio.gather(*tasks, *late))
        await soon(bus.join())
        assert log == [1, 2, 3, 4]
        await bus.stop()

    async def test_cancelled_while_it_waits_nothing_is_published(self) -> None:
        bus = EventBus(maxsize=1)
        _, second, third = publishing(bus, 1, 2, 3)
        assert await is_waiting(second)
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
        assert await run_to_the_end(bus) == [1, 3]
        assert third.done()

    async def test_cancelled_in_the_turn_in_which_it_gets_room_the_next_one_gets_it(self) -> None:
        bus = EventBus(maxsize=1)
        gate = Gate()
        bus.subscribe(Event, gate.wait)
        _, second, third = publishing(bus, 1, 2, 3)
        await turns()
        running = bus.run()
        running.send(None)  # it has taken 1, so 2 has room, but its task has not run yet
        assert not second.done()
        second.cancel()
        await soon(asyncio.wait([second, third]))
        assert second.cancelled()
        assert third.result() is None
        running.close()

    async def test_a_cancelled_publisher_leaves_no_place_taken(self) -> None:
        bus = EventBus(maxsize=1)
        for _ in range(3):
            (blocked,) = publishing(bus, 0)[:1]
            waiting = publishing(bus, 1)[0]
            await turns()
            waiting.cancel()
            await asyncio.wait([waiting])
            assert await run_to_the_end(bus) == [0]
            assert blocked.done()

    async def test_the_event_in_hand_takes_no_place(self) -> None:
        bus = EventBus(maxsize=1)
        gate = Gate()
        bus.subscribe(Event, gate.wait)
        bus.start()
        await soon(bus.publish(Event("s", 1)))
        await turns()
        await soon(bus.publish(Event("s", 2)))
        (third,) = publishing(bus, 3)
        assert await is_waiting(third)
        gate.gate.set()
        await soon(third)
        await soon(bus.join())
        await bus.stop()


class TestHandlersThatPublish:
    async def test_they_do_not_wait_so_they_cannot_deadlock(self) -> None:
        bus = EventBus(maxsize=1)
        log: list[Any] = []

        async def handler(event: Event) -> None:
            log.append(event.content)
            if event.content == 1:
                for content in (2, 3, 4):
                    await bus.publish(Event("s", content))

        bus.subscribe(Event, handler)
        await bus.publish(Event("s", 1))
        bus.start()
        await soon(bus.join())
        assert log == [1, 2, 3, 4]
        await bus.stop()

    async def test_tasks_of_a_handler_do_not_wait_while_it_runs(self) -> None:
        bus = EventBus(maxsize=1)
        log: list[Any] = []

        async def handler(event: Event) -> None:
            log.append(event.content)
            if event.content == 1:
                await asyncio.gather(*publishing(bus, 2, 3, 4))

        bus.subscribe(Event, handler)
        await bus.publish(Event("s", 1))
        bus.start()
        await soon(bus.join())
        assert log == [1, 2, 3, 4]
        await bus.stop()

    async def test_tasks_that_outlive_the_delivery_wait_as_others_do(self) -> None:
        bus = EventBus(maxsize=1)
        go_on = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        async def later() -> None:
            await go_on.wait()
            await bus.publish(Event("s", "late"))

        def handler(event: Event) -> None:
            if event.content == 1:
                tasks.append(asyncio.ensure_future(later()))

        bus.subscribe(Event, handler)
        await bus.publish(Event("s", 1))
        bus.start()
        await soon(bus.join())
        await bus.stop()
        await bus.publish(Event("s", 2))
        go_on.set()
        assert await is_waiting(tasks[0])
        assert await run_to_the_end(bus) == [2, "late"]

    async def test_nor_do_handlers_of_a_bus_that_a_handler_runs(self) -> None:
        outer, inner = EventBus(maxsize=1), EventBus()
        inner.subscribe(Event, outer.publish)

        async def handler(event: Event) -> None:
            if event.content:
                return
            inner.start()
            for content in (1, 2, 3):
                await inner.publish(Event("s", content))
            await inner.join()
            await inner.stop()

        log: list[Any] = []
        outer.subscribe(Event, handler)
        outer.subscribe(Event, lambda event: log.append(event.content))
        outer.start()
        await outer.publish(Event("s", 0))
        await soon(outer.join())
        await outer.stop()
        assert log == [0, 1, 2, 3]

    async def test_handlers_of_another_bus_wait(self) -> None:
        first, second = EventBus(maxsize=1), EventBus(maxsize=1)
        first.subscribe(Event, second.publish)
        await second.publish(Event("s", 0))
        first.start()
        await first.publish(Event("s", 1))
        joining = asyncio.ensure_future(first.join())
        assert await is_waiting(joining)
        log: list[Any] = []
        second.subscribe(Event, lambda event: log.append(event.content))
        second.start()
        await soon(joining)
        await soon(second.join())
        assert log == [0, 1]
        await second.stop()
        await first.stop()


class TestJoin:
    async def test_it_returns_at_once_when_there_is_nothing(self) -> None:
        assert await soon(EventBus().join()) is None  # type: ignore[func-returns-value]

    async def test_it_waits_for_the_event_in_hand(self) -> None:
        bus = EventBus()
        gate = Gate()
        bus.subscribe(Event, gate.wait)
        bus.start()
        await bus.publish(Event("s", 1))
        joining = asyncio.ensure_future(bus.join())
        assert await is_waiting(joining)
        gate.gate.set()
        await soon(joining)
        assert gate.ended == "passed"
        await bus.stop()

    async def test_it_waits_for_what_handlers_publish_in_turn(self) -> None:
        bus = EventBus()
        log: list[Any] = []

        async def handler(event: Event) -> None:
            log.append(event.content)
            await turns()
            if event.content:
                await bus.publish(Event("s", event.content - 1))

        bus.subscribe(Event, handler)
        bus.start()
        await bus.publish(Event("s", 5))
        await soon(bus.join())
        assert log == [5, 4, 3, 2, 1, 0]
        await bus.stop()

    async def test_it_waits_for_those_who_wait_for_room(self) -> None:
        bus = EventBus(maxsize=1)
        tasks = publishing(bus, 1, 2, 3)
        await turns()
        assert await run_to_the_end(bus) == [1, 2, 3]
        assert all(task.done() for task in tasks)

    async def test_not_for_one_that_is_cancelled_when_it_gets_room(self) -> None:
        bus = EventBus(maxsize=1)
        tasks = publishing(bus, 1, 2)
        bus.subscribe(Event, lambda event: tasks[1].cancel())
        await turns()
        joining = asyncio.ensure_future(bus.join())
        await turns()
        bus.start()
        await soon(joining)
        assert tasks[1].cancelled()
        await bus.stop()

    async def test_it_may_be_called_before_the_bus_runs(self) -> None:
        bus = EventBus()
        await bus.publish(Event("s", 1))
        joining = asyncio.ensure_future(bus.join())
        assert await is_waiting(joining)
        bus.subscribe(Event, lambda event: None)
        bus.start()
        await soon(joining)
        await bus.stop()

    async def test_when_the_bus_ends_before_it_raises(self) -> None:
        bus = EventBus()
        gate = Gate()
        bus.subscribe(Event, gate.wait)
        bus.start()
        await asyncio.gather(*publishing(bus, 1, 2))
        await turns()
        joining = asyncio.ensure_future(bus.join())
        await turns()
        gate.gate.set()
        await bus.stop()
        with pytest.raises(RuntimeError, match="ended before its queue was empty"):
            await soon(joining)

    async def test_cancelled_it_does_no_harm(self) -> None:
        bus = EventBus()
        await bus.publish(Event("s", 1))
        joining = asyncio.ensure_future(bus.join())
        await turns()
        joining.cancel()
        await asyncio.wait([joining])
        assert await run_to_the_end(bus) == [1]

    async def test_in_a_handler_it_is_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        bus = EventBus()

        async def handler(event: Event) -> None:
            await bus.join()

        bus.subscribe(Event, handler)
        bus.start()
        await bus.publish(Event("s", 1))
        await soon(bus.join())
        assert "join() in a handler would wait for the handler itself" in caplog.text
        await bus.stop()
