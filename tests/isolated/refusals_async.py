"""The calls that have to fail in a running event loop, see refusals.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Callable

from operations import World, name, payload
from operations_async import bus_with, by_hand, fails_later, suspends, waits

LOOP = asyncio.new_event_loop()


def in_loop(call: Callable[[World], Coroutine[Any, Any, object]]) -> Callable[[World], object]:
    """Return a function that runs a coroutine function, and what it leaves on the loop."""

    async def steps(world: World) -> None:
        try:
            await call(world)
        finally:
            for _ in range(4):
                await asyncio.sleep(0)

    return lambda world: LOOP.run_until_complete(steps(world))


async def collects(world: World) -> None:
    bus_with(suspends).collect(name, payload)


async def awaited_twice(world: World) -> None:
    emission: Any = bus_with(waits).emit_async(name, payload)
    try:
        emission.send(None)
        emission.send(None)
    finally:
        emission.close()


async def thrown_while_awaited(world: World) -> None:
    bus = bus_with(waits)
    emission: Any = bus.emit_async(name, payload)
    waiting = asyncio.ensure_future(emission)
    await asyncio.sleep(0)
    try:
        await emission
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])


async def reused_task(world: World) -> None:
    with by_hand(suspends) as (delivery,):
        delivery.send(None)
        with contextlib.suppress(StopIteration):
            delivery.send(None)
        delivery.send(None)


async def badly_begun_task(world: World) -> None:
    with by_hand(waits) as (delivery,):
        try:
            delivery.send(7)
        finally:
            delivery.close()


async def returns_no_awaitable(world: World) -> None:
    class Fading:
        def __await__(self) -> Any:
            raise AssertionError("it is gone by then")

    bus = bus_with(lambda value: Fading(), isolate=False)
    bus.on(name, lambda value: delattr(Fading, "__await__"))
    await bus.emit_async(name, payload)


class BadAwaitable:
    def __await__(self) -> Any:
        return 7


async def awaits_no_iterator(world: World) -> None:
    await bus_with(lambda value: BadAwaitable(), isolate=False).emit_async(name, payload)


async def guard_that_awaits(world: World) -> None:
    await bus_with(suspends, fails_later, waits, isolate=False).emit_async(name, payload)


async def waiter_awaited_twice(world: World) -> None:
    waiter: Any = world.bus.wait_for(name)
    waiting = asyncio.ensure_future(waiter)
    await asyncio.sleep(0)
    try:
        await waiter
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])


async def entered_twice(world: World) -> None:
    expectation = world.bus.expect(name)
    await expectation.__aenter__()
    await expectation.__aenter__()


async def stream_awaited_twice(world: World) -> None:
    stream: Any = world.bus.stream(name)
    waiting = asyncio.ensure_future(stream.__anext__())
    await asyncio.sleep(0)
    try:
        await stream.__anext__()
    finally:
        stream.close()
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), StopAsyncIteration)
