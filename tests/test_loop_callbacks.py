"""What a suspended handler costs the loop: the table of docs/architecture.md, counted."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Callable

import pytest

from agent_event_bus import EventBus

Handler = Callable[[Any], Coroutine[Any, Any, None]]


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the callbacks that it is asked to call soon."""

    called_soon = 0

    def call_soon(  # type: ignore[override]  # a TypeVarTuple is new in 3.11
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self.called_soon += 1
        return super().call_soon(callback, *args, context=context)


async def returns(waiting: object) -> None:
    pass


async def sleeps(waiting: object) -> None:
    await asyncio.sleep(0)


async def waits(waiting: list[asyncio.Future[None]]) -> None:
    future = asyncio.get_running_loop().create_future()
    waiting.append(future)
    await future


async def by_bus(handlers: list[Handler], waiting: object) -> None:
    bus = EventBus()
    for handler in handlers:
        bus.subscribe("a", handler)
    assert await bus.emit_async("a", waiting) == len(handlers)


async def by_gather(handlers: list[Handler], waiting: object) -> None:
    await asyncio.gather(*(handler(waiting) for handler in handlers))


def callbacks(way: Callable[..., Coroutine[Any, Any, None]], handlers: list[Handler]) -> int:
    """How many callbacks running the handlers in this way costs."""
    loop = CountingLoop()
    waiting: list[asyncio.Future[None]] = []

    def release() -> None:
        for future in waiting:
            future.set_result(None)

    async def main() -> int:
        loop.call_later(0, release)  # a timer: runs after the first turn, and is not counted
        before = loop.called_soon
        await way(handlers, waiting)
        return loop.called_soon - before

    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def for_each_and_for_all(
    way: Callable[..., Coroutine[Any, Any, None]], handler: Handler
) -> tuple[int, int]:
    """The callbacks for each handler, and those that come on top once."""
    ten, twenty = callbacks(way, [handler] * 10), callbacks(way, [handler] * 20)
    return (twenty - ten) // 10, 2 * ten - twenty


@pytest.mark.parametrize(
    ("handler", "with_bus", "with_gather"),
    [
        pytest.param(returns, (0, 0), (2, 1), id="never_suspends"),
        pytest.param(sleeps, (1, 1), (3, 1), id="sleep"),
        # Before 3.12 a task cannot wait for the future at once: its start comes on top.
        pytest.param(waits, (1 if sys.version_info >= (3, 12) else 2, 1), (3, 1), id="future"),
    ],
)
def test_callbacks_for_each_handler_and_for_the_emission(
    handler: Handler, with_bus: tuple[int, int], with_gather: tuple[int, int]
) -> None:
    assert for_each_and_for_all(by_bus, handler) == with_bus
    assert for_each_and_for_all(by_gather, handler) == with_gather
