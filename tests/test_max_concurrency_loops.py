"""max_concurrency where a loop is closed, or a queued handler ended, at an awkward moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers import Gate, anote, soon, turns

from agent_event_bus import EventBus


def test_after_asyncio_run_has_left_queued_handlers_behind() -> None:
    bus = EventBus(max_concurrency=1)
    log: list[str] = []
    bus.on("a", anote(log, "ran"))

    async def emit_and_leave() -> None:
        bus.on("hangs", Gate().wait)
        for _ in range(3):
            bus.emit("hangs")
        await turns()

    async def next_run() -> int:
        return await soon(bus.emit_async("a"))

    asyncio.run(emit_and_leave())
    assert asyncio.run(next_run()) == 1
    assert log == ["ran"]


async def test_when_the_loop_of_a_handler_is_closed_that_others_wait_for() -> None:
    bus = EventBus(max_concurrency=2)
    log: list[str] = []
    bus.on("hangs", Gate().wait)
    bus.on("a", anote(log, "ran"))
    held = [bus.emit_async("hangs") for _ in range(2)]
    other = asyncio.new_event_loop()

    async def begin() -> None:
        for emission in held:
            emission.send(None)

    await asyncio.get_running_loop().run_in_executor(
        None, lambda: other.run_until_complete(begin())
    )
    first = asyncio.ensure_future(bus.emit_async("a"))
    await turns()
    assert log == []
    other.close()
    assert await soon(bus.emit_async("a")) == 1
    assert await soon(first) == 1
    assert log == ["ran", "ran"]


async def test_one_that_is_cancelled_while_another_handler_ends_is_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = EventBus(max_concurrency=1)
    log: list[str] = []
    bus.on("hold", Gate().wait)
    bus.on("a", anote(log, "queued"))
    holder = bus.emit_async("hold")

    async def begin() -> None:
        holder.send(None)

    other = asyncio.new_event_loop()
    await asyncio.get_running_loop().run_in_executor(
        None, lambda: other.run_until_complete(begin())
    )
    bus.emit("a")
    draining = asyncio.ensure_future(bus.drain())
    await turns()
    other.close()
    loop = asyncio.get_running_loop()
    wake = loop.call_soon_threadsafe

    def end_the_holder_and_wake(*args: Any, **kwargs: Any) -> Any:
        holder.close()
        return wake(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", end_the_holder_and_wake)
    await soon(bus.aclose())
    assert await soon(draining) == []
    assert log == []
