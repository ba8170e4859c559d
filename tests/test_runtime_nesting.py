"""agent_event_bus.runtime: handlers that publish never wait for a turn that they hold up.

The nested publishers here would all deadlock on a bus that has a semaphore around every handler.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from helpers import LoopThread, soon, turns

from agent_event_bus.runtime import AgentEvent, EventBus, EventType

# How many handlers hold the permits, all of them or many more than there are.
crowds = pytest.mark.parametrize("crowd", [1, 10, 11, 100])


def step(depth: int) -> AgentEvent:
    """Return an event that says how deep it is."""
    return AgentEvent(EventType.CUSTOM, "inbox", data={"depth": depth})


class Chain:
    """An async handler that publishes one deeper, until it is deep enough."""

    def __init__(self, bus: EventBus, depth: int, *, suspends: bool = True) -> None:
        self.bus, self.depth, self.suspends = bus, depth, suspends
        self.deepest = 0
        bus.subscribe(EventType.CUSTOM, self)

    async def __call__(self, event: AgentEvent) -> None:
        depth: int = event.data["depth"]
        self.deepest = max(self.deepest, depth)
        if self.suspends:
            await asyncio.sleep(0)
        if depth < self.depth:
            await self.publish(step(depth + 1))

    async def publish(self, event: AgentEvent) -> None:
        """Publish, and wait for it."""
        assert await self.bus.publish(event) == 1


class ByTask(Chain):
    """One that has a task publish, and waits for that."""

    async def publish(self, event: AgentEvent) -> None:
        assert await asyncio.ensure_future(self.bus.publish(event)) == 1


class ByGather(Chain):
    """One that gathers."""

    async def publish(self, event: AgentEvent) -> None:
        both = await asyncio.gather(self.bus.publish(event), asyncio.sleep(0, result=7))
        assert list(both) == [1, 7]


@pytest.mark.parametrize("kind", [Chain, ByTask, ByGather])
@pytest.mark.parametrize("suspends", [False, True], ids=["at once", "suspends"])
@pytest.mark.parametrize("limit", [1, 10])
@pytest.mark.parametrize("depth", [2, 11, 100])
async def test_a_chain_of_publishers_ends(
    kind: type[Chain], suspends: bool, limit: int, depth: int
) -> None:
    bus = EventBus(max_concurrent_handlers=limit)
    chain = kind(bus, depth, suspends=suspends)
    assert await soon(bus.publish(step(1))) == 1
    assert chain.deepest == depth


@pytest.mark.parametrize("kind", [Chain, ByTask])
async def test_a_chain_of_suspending_publishers_may_be_as_deep_as_python_recurses(
    kind: type[Chain],
) -> None:
    bus = EventBus(max_concurrent_handlers=2)
    chain = kind(bus, sys.getrecursionlimit() - 100)
    assert await soon(bus.publish(step(1))) == 1
    assert chain.deepest == chain.depth


@pytest.mark.parametrize("suspends", [False, True], ids=["at once", "suspends"])
async def test_an_endless_chain_ends_in_a_reported_recursion_error(
    suspends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    chain = Chain(bus, sys.maxsize, suspends=suspends)
    assert await soon(bus.publish(step(1))) == 1
    assert chain.deepest > 100
    assert any("recursion depth exceeded" in record.getMessage() for record in caplog.records)


@crowds
@pytest.mark.parametrize("by_task", [False, True], ids=["itself", "by a task"])
async def test_any_number_of_handlers_may_publish_at_once(crowd: int, by_task: bool) -> None:
    bus = EventBus()
    done = 0

    async def outer(event: AgentEvent) -> None:
        await asyncio.sleep(0)  # so that all that may run do
        publication = bus.publish(AgentEvent(EventType.NODE_RETRY, "inbox"))
        await (asyncio.ensure_future(publication) if by_task else publication)

    async def inner(event: AgentEvent) -> None:
        nonlocal done
        await asyncio.sleep(0)
        done += 1

    for _ in range(crowd):
        bus.subscribe(EventType.CUSTOM, outer)
    bus.subscribe(EventType.NODE_RETRY, inner)
    bus.subscribe(EventType.NODE_RETRY, inner)
    assert await soon(bus.publish(step(1))) == crowd
    assert done == 2 * crowd


@crowds
async def test_any_number_of_publications_may_publish_at_once(crowd: int) -> None:
    bus = EventBus()
    chain = Chain(bus, 11)
    assert await soon(asyncio.gather(*(bus.publish(step(1)) for _ in range(crowd)))) == [1] * crowd
    assert chain.deepest == 11


@crowds
async def test_a_handler_may_gather_any_number_of_publications(crowd: int) -> None:
    bus = EventBus(max_concurrent_handlers=1)
    done: list[int] = []

    async def outer(event: AgentEvent) -> None:
        await asyncio.gather(*(bus.emit_node_stalled("inbox", "n") for _ in range(crowd)))

    async def inner(event: AgentEvent) -> None:
        await asyncio.sleep(0)
        done.append(1)

    bus.subscribe(EventType.CUSTOM, outer)
    bus.subscribe(EventType.NODE_STALLED, inner)
    await soon(bus.publish(step(1)))
    assert len(done) == crowd


async def test_a_sync_handler_may_leave_a_publication_to_a_task() -> None:
    bus = EventBus(max_concurrent_handlers=1)
    tasks: list[asyncio.Task[int]] = []
    chain = Chain(bus, 3)
    bus.subscribe(
        EventType.NODE_STALLED,
        lambda event: tasks.append(asyncio.ensure_future(bus.publish(step(1)))),
    )
    await bus.emit_node_stalled("inbox", "n")
    assert await soon(tasks[0]) == 1
    assert chain.deepest == 3


async def test_a_handler_may_publish_by_way_of_another_bus() -> None:
    one, two = EventBus(max_concurrent_handlers=1), EventBus(max_concurrent_handlers=1)
    log: list[str] = []

    async def there(event: AgentEvent) -> None:
        await asyncio.sleep(0)
        await two.publish(event)

    async def and_back(event: AgentEvent) -> None:
        await asyncio.sleep(0)
        await one.emit_node_stalled("inbox", "n")

    async def arrived(event: AgentEvent) -> None:
        log.append("arrived")

    one.subscribe(EventType.CUSTOM, there)
    two.subscribe(EventType.CUSTOM, and_back)
    one.subscribe(EventType.NODE_STALLED, arrived)
    await soon(one.publish(step(1)))
    assert log == ["arrived"]


async def test_a_handler_may_publish_in_the_loop_of_another_thread() -> None:
    bus = EventBus(max_concurrent_handlers=1)
    log: list[str] = []

    async def inner(event: AgentEvent) -> None:
        await asyncio.sleep(0)
        log.append("inner")

    with LoopThread() as other:

        async def outer(event: AgentEvent) -> None:
            future: Any = asyncio.run_coroutine_threadsafe(
                bus.emit_node_stalled("inbox", "n"), other.loop
            )
            await asyncio.wrap_future(future)
            log.append("outer")

        bus.subscribe(EventType.CUSTOM, outer)
        bus.subscribe(EventType.NODE_STALLED, inner)
        assert await soon(bus.publish(step(1))) == 1
    assert log == ["inner", "outer"]


async def test_a_handler_may_publish_in_a_worker_thread_that_has_its_context() -> None:
    bus = EventBus(max_concurrent_handlers=1)
    log: list[str] = []

    async def inner(event: AgentEvent) -> None:
        await asyncio.sleep(0)
        log.append("inner")

    async def outer(event: AgentEvent) -> None:
        await asyncio.to_thread(lambda: asyncio.run(bus.emit_node_stalled("inbox", "n")))
        log.append("outer")

    bus.subscribe(EventType.CUSTOM, outer)
    bus.subscribe(EventType.NODE_STALLED, inner)
    assert await soon(bus.publish(step(1))) == 1
    assert log == ["inner", "outer"]


async def test_what_a_handler_left_behind_waits_for_its_turn_once_that_is_over() -> None:
    bus = EventBus(max_concurrent_handlers=1)
    gate, go = asyncio.Event(), asyncio.Event()
    log: list[str] = []
    left: list[asyncio.Task[None]] = []

    async def leaves(event: AgentEvent) -> None:
        async def later() -> None:
            await go.wait()
            await bus.emit_node_stalled("inbox", "n")

        left.append(asyncio.ensure_future(later()))

    async def holds(event: AgentEvent) -> None:
        await gate.wait()
        log.append("held")

    async def stalled(event: AgentEvent) -> None:
        log.append("stalled")

    bus.subscribe(EventType.CUSTOM, leaves)
    bus.subscribe(EventType.NODE_RETRY, holds)
    bus.subscribe(EventType.NODE_STALLED, stalled)
    await bus.publish(step(1))
    held = asyncio.ensure_future(bus.publish(AgentEvent(EventType.NODE_RETRY, "inbox")))
    await turns()
    go.set()
    await turns()
    assert log == []
    gate.set()
    await soon(asyncio.gather(held, *left))
    assert log == ["held", "stalled"]


async def test_an_independent_publication_does_wait_while_handlers_publish() -> None:
    bus = EventBus(max_concurrent_handlers=1)
    gate = asyncio.Event()
    log: list[str] = []

    async def outer(event: AgentEvent) -> None:
        await bus.emit_node_stalled("inbox", "n")
        await gate.wait()
        log.append("outer")

    async def inner(event: AgentEvent) -> None:
        log.append("inner")

    bus.subscribe(EventType.CUSTOM, outer)
    bus.subscribe(EventType.NODE_STALLED, inner)
    first = asyncio.ensure_future(bus.publish(step(1)))
    await turns()
    second = asyncio.ensure_future(bus.emit_node_stalled("inbox", "n"))
    await turns()
    assert log == ["inner"]
    gate.set()
    await soon(asyncio.gather(first, second))
    assert log == ["inner", "outer", "inner"]
