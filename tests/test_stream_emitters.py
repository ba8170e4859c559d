"""stream: what those who emit see of it, which is nothing but that they wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import LoopThread, note, soon, turns

from agent_event_bus import EventBus, Stream

Records = list[logging.LogRecord]

POLICIES = ("drop_oldest", "drop_newest", "block", "error")
NO_WAIT = ("emit", "emitter", "publish", "collect")
WAIT = ("emit_async", "emitter.emit_async", "publish_async", "collect_async", "emit_threadsafe")


class Job:
    """A class of published objects."""


async def run(bus: Any, way: str) -> int:
    """Emit "a", or publish a Job, in one of the ways, and return how many handlers were called."""
    if way == "emitter":
        result = bus.emitter("a")()
    elif way == "emitter.emit_async":
        result = await bus.emitter("a").emit_async()
    elif way == "emit_threadsafe":
        bus.bind_loop(asyncio.get_running_loop())
        result = await asyncio.wrap_future(bus.emit_threadsafe("a"))
    else:
        result = getattr(bus, way)(Job() if way.startswith("publish") else "a")
        result = await result if way in WAIT else result
    return result if isinstance(result, int) else len(result)


async def rest(stream: AsyncIterator[Any]) -> int:
    """Return how many events a stream gives before it ends."""
    count = 0
    async for _ in stream:
        count += 1
    return count


@pytest.mark.parametrize("way", [*NO_WAIT, *WAIT])
@pytest.mark.parametrize("overflow", POLICIES)
async def test_emitters_never_see_the_failure_of_a_stream(
    bus: EventBus, records: Records, way: str, overflow: Any
) -> None:
    log: list[str] = []
    stream = bus.stream(["a", "Job"], maxsize=1, overflow=overflow)
    bus.on("*", note(log, "handler"))
    emissions = [asyncio.ensure_future(run(bus, way)) for _ in range(3)]
    await turns()
    assert len(log) == 3
    stream.close()
    called = await soon(asyncio.gather(*emissions))
    # An "error" stream is gone after the second event, any other is among the handlers.
    assert called == ([2, 2, 1] if overflow == "error" else [2, 2, 2])
    assert stream.dropped == (1 if overflow == "error" else 2)
    assert await run(bus, way) == 1
    assert await rest(stream) == 0
    assert records == []


@pytest.mark.parametrize("way", NO_WAIT)
async def test_what_cannot_wait_drops_the_newest_of_a_stream_that_blocks(
    bus: EventBus, way: str
) -> None:
    stream = bus.stream("*", maxsize=1, overflow="block")
    for _ in range(3):
        assert await run(bus, way) == 1
    assert stream.dropped == 2
    assert (await soon(stream.__anext__())).seq == 1


@pytest.mark.parametrize("way", WAIT)
async def test_what_can_wait_loses_nothing_to_a_stream_that_blocks(bus: EventBus, way: str) -> None:
    stream = bus.stream("*", maxsize=1, overflow="block")
    emissions = [asyncio.ensure_future(run(bus, way)) for _ in range(3)]
    await turns(50)
    assert sum(emission.done() for emission in emissions) == 1
    assert [(await soon(stream.__anext__())).seq for _ in range(3)] == [1, 2, 3]
    assert await soon(asyncio.gather(*emissions)) == [1, 1, 1]
    assert stream.dropped == 0


@pytest.mark.parametrize("overflow", POLICIES)
def test_a_consumer_whose_loop_was_closed_is_no_failure_of_the_emitter(
    bus: EventBus, records: Records, unraisable: list[Any], overflow: Any
) -> None:
    stream = bus.stream("a", maxsize=1, overflow=overflow)
    loop = asyncio.new_event_loop()
    waits = loop.create_task(rest(stream))
    loop.run_until_complete(turns())
    loop.close()
    assert [bus.emit("a") for _ in range(2)] == [1, 1]
    assert stream.dropped == 1
    assert records == []
    assert unraisable == []
    coroutine: Any = waits.get_coro()
    coroutine.close()
    waits._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_a_guard_that_fails_ends_the_wait_for_room_and_the_event_is_dropped(
    bus: EventBus,
) -> None:
    stream = bus.stream("a", maxsize=1, overflow="block")
    bus.emit("a")

    @bus.on("a", isolate=False)
    async def guard(payload: object) -> None:
        await asyncio.sleep(0)
        raise PermissionError("no")

    with pytest.raises(PermissionError, match="no"):
        await soon(bus.emit_async("a"))
    assert stream.dropped == 1
    assert bus.stats()["cancelled"] == 1


def test_a_stream_closed_by_another_thread_lets_an_emission_go_on(
    bus: EventBus, other: LoopThread
) -> None:
    streams: list[Stream] = [bus.stream("a", maxsize=1, overflow="block")]

    async def emit() -> tuple[int, int]:
        called = await bus.emit_async("a")
        waits = asyncio.ensure_future(bus.emit_async("a"))
        await turns()
        assert not waits.done()
        closing = asyncio.get_running_loop().run_in_executor(None, streams[0].close)
        await soon(closing)
        return called, await soon(waits)

    assert other.run(emit()) == (1, 1)
    assert streams[0].dropped == 1
