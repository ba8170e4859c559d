"""The public operations of the core that take an event loop, see operations.py.

A kind of handler has a name of its own under "async.", so that an operation is about one kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from typing import Any

from operations import (
    Payload,
    World,
    coroutine,
    enough_memory,
    error,
    fails,
    name,
    operation,
    payload,
    sync,
)

from agent_event_bus import EventBus, StreamOverflowError, get_bus, use_buses


async def suspends(*args: object) -> None:
    await asyncio.sleep(0)


async def fails_at_once(*args: object) -> None:
    raise error.with_traceback(None)


async def fails_later(*args: object) -> None:
    await asyncio.sleep(0)
    raise error.with_traceback(None)


async def waits(*args: object) -> None:
    await asyncio.get_running_loop().create_future()


async def cancels_itself(*args: object) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def touches(*args: object) -> None:
    task: Any = asyncio.current_task()
    task.set_name("touched")
    assert task.get_coro().cr_running
    assert not task.done()


def returns_an_awaitable(*args: object) -> Any:
    return suspends()


HANDLERS = {
    "returns": coroutine,
    "suspends": suspends,
    "fails_at_once": fails_at_once,
    "fails_later": fails_later,
    "cancels_itself": cancels_itself,
    "touches": touches,
    "returns_an_awaitable": returns_an_awaitable,
}
EVENTS = {kind: ".".join(["async", kind]) for kind in HANDLERS}


def bus_with(*handlers: Any, of_bus: Any = None, **options: Any) -> EventBus:
    """Return a bus with these handlers of `name`."""
    bus = EventBus(**(of_bus or {}))
    for handler in handlers:
        bus.on(name, handler, **options)
    return bus


class NoTask(asyncio.Future):  # type: ignore[type-arg]
    """What a task factory returns that runs nothing."""

    def set_name(self, name: object) -> None: ...


@contextlib.contextmanager
def by_hand(*handlers: Any) -> Iterator[list[Any]]:
    """Give the deliveries of an event, whose steps the caller takes, like a task factory."""
    made: list[Any] = []
    loop = asyncio.get_running_loop()

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        made.append(coro)
        return NoTask(loop=loop)

    bus = bus_with(*handlers)
    loop.set_task_factory(factory)
    try:
        assert bus.emit(name, payload) == len(handlers)
    finally:
        loop.set_task_factory(None)
    yield made
    made.clear()
    assert bus.pending() == []


async def how_it_ended(task: asyncio.Future[Any]) -> str:
    """Wait for a task, whose exception is raised if it is not a cancellation."""
    await asyncio.wait([task])
    if task.cancelled():
        return "cancelled"
    return f"returned {task.result()!r}"


def add_kinds() -> None:
    """List an operation for each kind of handler, emitted in each way."""
    for kind, handler in HANDLERS.items():

        async def awaited(world: World, handler: Any = handler) -> None:
            bus = bus_with(sync, handler, handler)
            assert await bus.emit_async(name, payload) == 3
            assert sum(each.calls for each in bus.handlers(name)) == 3

        async def emitted(world: World, handler: Any = handler) -> None:
            bus = bus_with(sync, handler, handler)
            assert bus.emit(name, payload) == 3
            assert await bus.drain() == []
            assert sum(each.calls for each in bus.handlers(name)) == 3

        async def collected(world: World, handler: Any = handler) -> None:
            bus = bus_with(sync, handler, handler)
            outcomes = enough_memory(await bus.collect_async(name, payload))
            assert len(outcomes) == 3
            assert [each.status for each in outcomes].count("ok") >= 1
            error.__traceback__ = None

        awaited.__name__ = f"emit_async_{kind}"
        emitted.__name__ = f"emit_{kind}"
        collected.__name__ = f"collect_async_{kind}"
        operation("EventBus.emit_async")(awaited)
        operation("EventBus.emit", "EventBus.drain")(emitted)
        operation("EventBus.collect_async")(collected)


add_kinds()


@operation("EventBus.emit_async", "Emitter.emit_async")
async def emit_async_to_sync_handlers(world: World) -> None:
    bus = world.bus
    bus.on(name, fails)
    assert await bus.emit_async(name, payload) == 3
    assert await bus.emitter(name).emit_async(payload) == 3
    assert await bus.emit_async("nobody") == 0
    assert world.subscription.calls == 2


@operation("EventBus.publish_async", "EventBus.publish")
async def publish_async(world: World) -> None:
    world.bus.on(Payload, suspends)
    assert await world.bus.publish_async(payload) == 2
    assert world.bus.publish(payload) == 2
    assert await world.bus.drain() == []


@operation("EventBus.emit_async")
async def emit_async_with_every_option(world: World) -> None:
    of_bus = {"history": 2, "timing": True, "slow_after": 100.0, "max_concurrency": 1}
    bus = bus_with(suspends, coroutine, suspends, of_bus=of_bus, envelope=True, timeout=50.0)
    bus.once(name, suspends, where={"x": 1}, isolate=False)
    assert await bus.emit_async(name, payload) == 4
    assert await bus.emit_async(name, payload) == 3
    assert bus.stats()["delivered"] == 7


@operation("EventBus.emit")
async def emit_past_the_limits(world: World) -> None:
    bus = bus_with(suspends, waits, of_bus={"max_pending": 1, "max_concurrency": 1})
    assert bus.emit(name, payload) >= 1
    bus.emit(name, payload)
    await bus.aclose()
    assert bus.pending() == []
    assert bus.stats()["dropped"] >= 1


@operation("EventBus.emit_async")
async def handlers_that_time_out(world: World) -> None:
    bus = bus_with(waits, of_bus={"handler_timeout": 1e-6})
    assert await bus.emit_async(name, payload) == 1
    (outcome,) = enough_memory(await bus.collect_async(name, payload))
    assert outcome.status == "timeout"
    assert bus.emit(name, payload) == 1
    assert await bus.drain() == []
    assert bus.stats()["timed_out"] == 3


@operation("EventBus.emit_async")
async def emissions_that_are_cancelled(world: World) -> None:
    bus = bus_with(waits, waits)
    task = asyncio.ensure_future(bus.emit_async(name, payload))
    await asyncio.sleep(0)
    task.cancel()
    assert await how_it_ended(task) == "cancelled"


@operation("EventBus.emit_async")
async def guards_that_refuse(world: World) -> None:
    for handler in (fails, fails_at_once, fails_later):
        bus = bus_with(handler, coroutine, isolate=False)
        heard = None
        try:
            await bus.emit_async(name, payload)
        except ValueError as refusal:
            heard = refusal
        assert heard is error
        error.__traceback__ = None


@operation("EventBus.emit_async")
async def offloaded_handlers(world: World) -> None:
    bus = bus_with(sync, fails, offload=True)
    assert await bus.emit_async(name, payload) == 2
    assert bus.emit(name, payload) == 2
    assert await bus.drain() == []


@operation(
    *("Emission.send", "Emission.throw", "Emission.close", "Emission.__await__"),
    *("Emission.__iter__", "Emission.__next__", "Emission.cr_running", "Emission.__repr__"),
    *("Emission.__name__", "Emission.__qualname__"),
)
async def emissions_by_hand(world: World) -> None:
    bus = bus_with(waits)
    emission: Any = bus.emit_async(name, payload)
    assert repr(emission)
    assert (emission.__name__, emission.cr_running) == ("emit_async", False)
    assert emission.__qualname__
    assert emission.send(None)
    emission.close()
    thrown: Any = bus.emit_async(name, payload).__await__()
    assert iter(thrown) is thrown
    assert next(thrown)
    heard = None
    try:
        thrown.throw(error)  # it waits for what it has cancelled
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        thrown.send(None)
    except ValueError as refusal:
        heard = refusal
    assert heard is error
    error.__traceback__ = None
    bus.emit_async(name, payload).close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@operation(
    *("HandlerTask.event_name", "HandlerTask.loop", "HandlerTask.task", "HandlerTask.cr_running"),
    *("HandlerTask.cr_suspended", "HandlerTask.cr_frame", "HandlerTask.cr_code"),
    *("HandlerTask.cr_await", "HandlerTask.__name__", "HandlerTask.__qualname__"),
    *("HandlerTask.cancel", "HandlerTask.close", "EventBus.pending"),
)
async def deliveries(world: World) -> None:
    bus = bus_with(waits, waits)
    assert bus.emit(name, payload) == 2
    assert len(bus.pending()) == 2
    first, second = bus._pending()
    for delivery in (first, second):
        assert delivery.event_name == name
        assert delivery.loop is asyncio.get_running_loop()
        assert delivery.task is not None
        assert repr(delivery)
        assert (delivery.__name__, delivery.__qualname__) == ("waits", "waits")
    await asyncio.sleep(0)
    assert first.cr_suspended
    assert not first.cr_running
    assert first.cr_frame is not None
    assert first.cr_code is not None
    assert first.cr_await is not None
    first.cancel()
    second.close()
    assert await bus.drain() == []


@operation(
    *("HandlerTask.send", "HandlerTask.throw", "HandlerTask.__await__"),
    *("HandlerTask.__iter__", "HandlerTask.__next__"),
)
async def deliveries_by_hand(world: World) -> None:
    with by_hand(waits, suspends) as (first, second):
        assert iter(first) is first
        assert first.__await__() is first
        assert next(first) is not None
        with contextlib.suppress(asyncio.CancelledError):
            first.throw(asyncio.CancelledError())
        assert second.send(None) is None
        with contextlib.suppress(StopIteration):
            second.send(None)


@operation("EventBus.drain", "EventBus.aclose", "EventBus.closed")
async def drain_and_close(world: World) -> None:
    bus = bus_with(waits, suspends)
    bus.emit(name, payload)
    assert len(await bus.drain(timeout=0.001)) == 1
    await bus.aclose()
    assert bus.closed
    await bus.aclose()
    assert bus.emit(name, payload) == 0


@operation("EventBus.__aenter__", "EventBus.__aexit__")
async def buses_in_a_block(world: World) -> None:
    async with EventBus() as bus:
        bus.on(name, suspends)
        bus.emit(name, payload)
    assert bus.closed


@operation("EventBus.drain")
async def drain_inside_of_a_handler(world: World) -> None:
    bus = EventBus(max_concurrency=1)

    async def drains(value: object) -> None:
        bus.emit("inner", value)
        assert await bus.drain() == []

    bus.on(name, drains)
    bus.on("inner", suspends)
    bus.emit(name, payload)
    assert await bus.drain() == []
    assert bus.stats()["failed"] == 0


@operation("Waiter.send", "Waiter.throw", "Waiter.__await__", "Waiter.__next__")
async def wait_for(world: World) -> None:
    bus = world.bus
    waiter = bus.wait_for(name, timeout=5)
    asyncio.get_running_loop().call_soon(bus.emit, name, payload)
    assert (await waiter).payload is payload
    early = bus.wait_for(name)
    bus.emit(name, payload)
    assert (await early).payload is payload
    by_hand: Any = bus.wait_for(name)
    assert by_hand.send(None) is not None
    with contextlib.suppress(ValueError):
        by_hand.throw(error)
    other: Any = bus.wait_for(name)
    assert next(other.__await__()) is not None
    other.close()
    error.__traceback__ = None
    assert len(bus) == 3


@operation("EventBus.wait_for")
async def waiters_that_end(world: World) -> None:
    with contextlib.suppress(TimeoutError):
        await world.bus.wait_for("nobody", timeout=0)
    bus = EventBus()
    waiter = bus.wait_for(name)
    await bus.aclose()
    with contextlib.suppress(RuntimeError):
        await waiter
    task = asyncio.ensure_future(world.bus.wait_for(name))
    await asyncio.sleep(0)
    task.cancel()
    assert await how_it_ended(task) == "cancelled"
    assert len(world.bus) == 3


@operation("Expectation.__aenter__", "Expectation.__aexit__", "Expectation.event")
async def expect(world: World) -> None:
    async with world.bus.expect(name, timeout=5) as waiter:
        world.bus.emit(name, payload)
    assert waiter.event.payload is payload
    assert len(world.bus) == 3


@operation("Stream.__anext__", "Stream.__aenter__", "Stream.__aexit__")
async def streams(world: World) -> None:
    async with world.bus.stream(name, maxsize=1, overflow="block") as stream:
        emission = asyncio.ensure_future(world.bus.emit_async(name, payload))
        assert await emission == 3
        assert (await stream.__anext__()).payload is payload
        world.bus.emit(name, payload)
        waiting = asyncio.ensure_future(world.bus.emit_async(name, payload))
        await asyncio.sleep(0)
        assert not waiting.done(), waiting.result()
        assert (await stream.__anext__()).payload is payload
        assert (await stream.__anext__()).payload is payload
        assert await waiting == 3
    assert len(world.bus) == 3


@operation("StreamOverflowError")
async def streams_that_overflow(world: World) -> None:
    stream = world.bus.stream(name, maxsize=1, overflow="error")
    world.bus.emit(name, payload)
    world.bus.emit(name, payload)
    assert (await stream.__anext__()).payload is payload
    for refusal in (StreamOverflowError, StopAsyncIteration):
        try:
            await stream.__anext__()
        except refusal:
            continue
        raise AssertionError("it went on")


@operation("EventBus.emit_threadsafe", "EventBus.bind_loop")
async def emit_threadsafe(world: World) -> None:
    bus = bus_with(sync, suspends)
    bus.bind_loop(asyncio.get_running_loop())
    future = bus.emit_threadsafe(name, payload)
    assert await asyncio.wrap_future(future) == 2
    bus.bind_loop(None)


@operation("UseBuses.__call__")
async def decorated_coroutines(world: World) -> None:
    @use_buses()
    async def function() -> int:
        get_bus().on(name, suspends)
        return await get_bus().emit_async(name, payload)

    assert await function() == 1


@operation("EventBus.emit_async")
async def nested_emissions(world: World) -> None:
    bus = bus_with(suspends)

    async def nests(value: object) -> None:
        assert await bus.emit_async(name, value) == 1

    bus.on("outer", nests)
    bus.on("outer", nests, timeout=math.inf)
    assert await bus.emit_async("outer", payload) == 2
    assert bus.stats()["failed"] == 0
