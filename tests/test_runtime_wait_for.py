"""agent_event_bus.runtime: waiting for an event."""

from __future__ import annotations

import asyncio
import inspect
import time
import weakref
from collections.abc import Coroutine
from typing import Any
from unittest.mock import AsyncMock, MagicMock, create_autospec

import pytest
from helpers import LoopThread, is_gone, soon, turns

from agent_event_bus.runtime import AgentEvent, EventBus, EventType

FILTERS = ("stream_id", "node_id", "execution_id", "graph_id")


def event(kind: EventType = EventType.CUSTOM, /, **fields: Any) -> AgentEvent:
    """Return an event, of the stream "inbox" unless it is given another one."""
    return AgentEvent(kind, **{"stream_id": "inbox", **fields})


def waiting(bus: EventBus) -> int:
    """Return how many wait, on a bus without other subscriptions."""
    number: int = bus.get_stats()["subscriptions"]
    return number


@pytest.fixture
def bus() -> EventBus:
    """A fresh runtime bus."""
    return EventBus()


class TestTheEvent:
    async def test_it_gives_the_very_event(self, bus: EventBus) -> None:
        waiter = bus.wait_for(EventType.CUSTOM)
        published = event()
        await bus.publish(event(EventType.NODE_RETRY))
        await bus.publish(published)
        assert await waiter is published
        assert waiting(bus) == 0

    async def test_it_wakes_a_task_that_waits(self, bus: EventBus) -> None:
        task = asyncio.ensure_future(bus.wait_for(EventType.CUSTOM, timeout=20))
        await turns()
        published = event()
        await bus.publish(published)
        assert await soon(task) is published

    async def test_it_listens_from_the_call_on(self, bus: EventBus) -> None:
        await bus.publish(event())
        waiter = bus.wait_for(EventType.CUSTOM, timeout=20)
        published = event()
        await bus.publish(published)
        await turns()
        assert await waiter is published

    async def test_the_first_event_wins(self, bus: EventBus) -> None:
        first, second = event(), event()
        waiter = bus.wait_for(EventType.CUSTOM)
        await bus.publish(first)
        await bus.publish(second)
        assert await waiter is first

    async def test_all_who_wait_get_it(self, bus: EventBus) -> None:
        waiters = [bus.wait_for(EventType.CUSTOM) for _ in range(20)]
        published = event()
        assert await bus.publish(published) == 20
        assert await asyncio.gather(*waiters) == [published] * 20

    async def test_types_may_be_strings_or_several(self, bus: EventBus) -> None:
        one = bus.wait_for("custom")
        several = bus.wait_for([EventType.NODE_RETRY, "custom"])
        published = event()
        await bus.publish(published)
        assert await one is published
        assert await several is published

    @pytest.mark.parametrize("field", FILTERS)
    async def test_a_filter_lets_one_value_through(self, bus: EventBus, field: str) -> None:
        waiter = bus.wait_for(EventType.CUSTOM, **{field: "a"})  # type: ignore[arg-type]
        for value in ("b", "", "a"):
            await bus.publish(event(**{field: value}))
        found = await waiter
        assert found is not None
        assert getattr(found, field) == "a"

    @pytest.mark.parametrize("field", FILTERS)
    @pytest.mark.parametrize("nothing", [None, ""])
    async def test_none_and_an_empty_string_are_no_filter(
        self, bus: EventBus, field: str, nothing: Any
    ) -> None:
        waiter = bus.wait_for(EventType.CUSTOM, **{field: nothing})
        published = event(**{field: "a"})
        await bus.publish(published)
        assert await waiter is published

    async def test_it_is_there_although_all_handlers_are_busy(self) -> None:
        bus = EventBus(max_concurrent_handlers=1)
        gate = asyncio.Event()

        async def handler(event: AgentEvent) -> None:
            await gate.wait()

        bus.subscribe("custom", handler)
        publications = [asyncio.ensure_future(bus.publish(event())) for _ in range(2)]
        await turns()
        waiter = bus.wait_for(EventType.CUSTOM)
        published = event()
        publications.append(asyncio.ensure_future(bus.publish(published)))
        assert await soon(waiter) is published
        gate.set()
        await soon(asyncio.gather(*publications))

    async def test_a_handler_may_wait_for_what_it_sets_off(self, bus: EventBus) -> None:
        got: list[AgentEvent | None] = []

        async def ask(event: AgentEvent) -> None:
            answer = bus.wait_for(EventType.NODE_RETRY, timeout=20)
            await bus.publish(AgentEvent(EventType.NODE_RETRY, "inbox"))
            got.append(await answer)

        bus.subscribe("custom", ask)
        await soon(bus.publish(event()))
        assert got == [bus.get_history("node_retry")[0]]

    async def test_an_event_of_another_thread_arrives(self, bus: EventBus) -> None:
        task = asyncio.ensure_future(bus.wait_for(EventType.CUSTOM))
        await turns()
        published = event()
        with LoopThread() as other:
            other.run(bus.publish(published))
            assert await soon(task) is published


class TestTheTimeout:
    async def test_none_when_nothing_has_come_in_time(self, bus: EventBus) -> None:
        began = time.monotonic()
        assert await bus.wait_for(EventType.CUSTOM, timeout=0.02) is None
        assert time.monotonic() - began >= 0.015
        assert waiting(bus) == 0

    async def test_what_does_not_match_does_not_count(self, bus: EventBus) -> None:
        waiter = bus.wait_for(EventType.CUSTOM, node_id="a", timeout=0.02)
        await bus.publish(event(node_id="b"))
        assert await waiter is None

    async def test_zero_polls_for_what_was_published_since_the_call(self, bus: EventBus) -> None:
        await bus.publish(event())
        assert await bus.wait_for(EventType.CUSTOM, timeout=0) is None
        waiter = bus.wait_for(EventType.CUSTOM, timeout=0)
        published = event()
        await bus.publish(published)
        assert await waiter is published

    async def test_one_that_came_in_time_counts_however_late_the_await(self, bus: EventBus) -> None:
        waiter = bus.wait_for(EventType.CUSTOM, timeout=0.02)
        published = event()
        await bus.publish(published)
        await asyncio.sleep(0.04)
        assert await waiter is published

    async def test_none_waits_as_long_as_it_takes(self, bus: EventBus) -> None:
        task = asyncio.ensure_future(bus.wait_for(EventType.CUSTOM, timeout=None))
        await turns(50)
        assert not task.done()
        await bus.publish(event())
        assert await soon(task) is not None

    @pytest.mark.parametrize(
        ("timeout", "error"),
        [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
    )
    async def test_what_is_no_timeout_is_refused_at_the_call(
        self, bus: EventBus, timeout: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match="timeout"):
            _ = bus.wait_for(EventType.CUSTOM, timeout=timeout)
        assert waiting(bus) == 0

    @pytest.mark.parametrize("kind", ["nonsense", [], "*"])
    async def test_what_is_no_type_is_refused_at_the_call(self, bus: EventBus, kind: Any) -> None:
        with pytest.raises(ValueError, match=r"event type|valid EventType"):
            _ = bus.wait_for(kind)
        assert waiting(bus) == 0


class TestTheEnd:
    async def test_a_cancelled_one_waits_no_more(self, bus: EventBus) -> None:
        for begun in (False, True):
            task = asyncio.ensure_future(bus.wait_for(EventType.CUSTOM))
            await turns(2 if begun else 0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert waiting(bus) == 0

    async def test_one_that_is_given_up_by_asyncio_wait_for_waits_no_more(
        self, bus: EventBus
    ) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bus.wait_for(EventType.CUSTOM), 0.02)
        assert waiting(bus) == 0

    @pytest.mark.parametrize("begun", [False, True])
    async def test_what_is_thrown_in_comes_out_also_if_it_is_a_timeout(
        self, bus: EventBus, begun: bool
    ) -> None:
        waiter = bus.wait_for(EventType.CUSTOM, timeout=20)
        if begun:
            waiter.send(None)
        error = TimeoutError("somebody else's")
        with pytest.raises(TimeoutError) as raised:
            waiter.throw(error)
        assert raised.value is error
        assert waiting(bus) == 0

    async def test_a_dropped_one_waits_no_more_and_does_not_warn(self, bus: EventBus) -> None:
        waiter: object = bus.wait_for(EventType.CUSTOM)
        gone = weakref.ref(waiter)
        assert waiting(bus) == 1
        del waiter
        assert is_gone(gone)
        assert waiting(bus) == 0

    async def test_a_closed_one_waits_no_more(self, bus: EventBus) -> None:
        waiter = bus.wait_for(EventType.CUSTOM)
        waiter.close()
        assert waiting(bus) == 0
        with pytest.raises(RuntimeError):
            await waiter

    async def test_it_is_awaited_once(self, bus: EventBus) -> None:
        waiter = bus.wait_for(EventType.CUSTOM)
        await bus.publish(event())
        await waiter
        with pytest.raises(RuntimeError, match="already awaited"):
            await waiter

    async def test_the_end_of_the_bus_ends_it(self) -> None:
        waiter = EventBus().wait_for(EventType.CUSTOM)
        with pytest.raises(RuntimeError, match="the bus is gone"):
            await soon(waiter)


class TestWhatItIs:
    async def test_it_is_a_coroutine_object(self, bus: EventBus) -> None:
        waiter = bus.wait_for(EventType.CUSTOM, timeout=0)
        assert isinstance(waiter, Coroutine)
        assert asyncio.iscoroutine(waiter)
        assert inspect.isawaitable(waiter)
        assert "custom" in repr(waiter)
        task: asyncio.Task[AgentEvent | None] = asyncio.get_running_loop().create_task(waiter)
        assert "wait_for" in repr(task)
        assert await task is None

    def test_it_may_be_called_without_a_loop(self, bus: EventBus) -> None:
        waiter = bus.wait_for(EventType.CUSTOM)
        published = event()

        async def main() -> AgentEvent | None:
            await bus.publish(published)
            return await waiter

        assert asyncio.run(main()) is published

    @pytest.mark.parametrize("name", ["publish", "wait_for", "emit_node_stalled"])
    async def test_mocks_of_the_bus_can_be_awaited(self, name: str) -> None:
        for mock in (MagicMock(spec=EventBus), create_autospec(EventBus, instance=True)):
            assert isinstance(getattr(mock, name), AsyncMock) or inspect.iscoroutinefunction(
                getattr(mock, name)
            )
        mock = MagicMock(spec=EventBus)
        getattr(mock, name).return_value = 5
        assert await getattr(mock, name)() == 5
