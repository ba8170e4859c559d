"""drain and aclose called inside pending handlers, and while handlers are on their way to start."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any, Callable

import pytest
from helpers import DEADLINE, Gate, anote, soon, turns

from agent_event_bus import EventBus


def in_task(coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
    return asyncio.create_task(coroutine)


def gathered(coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
    return asyncio.gather(coroutine)


through_a_task = pytest.mark.parametrize("through", [soon, in_task, gathered])
Through = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]


@pytest.fixture
async def loop_errors() -> list[dict[str, Any]]:
    """What the running loop was told that nobody else would be, such as errors of lost tasks."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
    return seen


class TestDrain:
    @through_a_task
    async def test_a_handler_may_drain_through_a_task_of_its_own(
        self, bus: EventBus, through: Through
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def drains(payload: object) -> None:
            await through(bus.drain())
            log.append("drained")

        @bus.on("a")
        async def other(payload: object) -> None:
            await turns()
            log.append("other finished")

        bus.emit("a")
        assert await soon(bus.drain()) == []
        assert log == ["other finished", "drained"]

    async def test_a_handler_may_drain_twice_at_once(self, bus: EventBus) -> None:
        log: list[Any] = []

        @bus.on("a")
        async def drains(payload: object) -> None:
            log.append(await asyncio.gather(bus.drain(), bus.drain()))

        bus.on("a", anote(log, "other finished"))
        bus.emit("a")
        assert await soon(bus.drain()) == []
        assert log == ["other finished", [[], []]]

    async def test_a_drain_that_gives_up_leaves_others_under_the_same_handler_waiting(
        self, bus: EventBus
    ) -> None:
        slow = Gate()
        log: list[Any] = []

        @bus.on("inner")
        async def gives_up(payload: object) -> None:
            log.append(await bus.drain(timeout=0.01))
            slow.gate.set()

        @bus.on("inner")
        async def waits(payload: object) -> None:
            log.append(await bus.drain())

        @bus.on("outer")
        async def outer(payload: object) -> None:
            await bus.emit_async("inner")

        bus.on("slow", slow.wait)
        bus.emit("slow")
        bus.emit("outer")
        assert await soon(bus.drain()) == []
        assert log == [["slow -> Gate.wait"], []]


class TestClose:
    @through_a_task
    async def test_a_handler_may_close_the_bus_through_a_task_of_its_own(
        self, bus: EventBus, through: Through
    ) -> None:
        log: list[str] = []
        other = Gate()
        bus.on("a", other.wait)

        @bus.on("a")
        async def closes(payload: object) -> None:
            await turns()
            await through(bus.aclose())
            log.append("went on")

        bus.emit("a")
        assert await soon(bus.drain()) == []
        assert log == ["went on"]
        assert other.ended == "cancelled"

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
    async def test_a_handler_in_its_eager_first_step_is_cancelled_where_it_waits_next(
        self, bus: EventBus
    ) -> None:
        loop = asyncio.get_running_loop()
        gate = Gate()
        closing: list[asyncio.Task[None]] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            # In a fresh context, as from elsewhere: no task that this handler made.
            context = contextvars.Context()
            closing.append(context.run(loop.create_task, bus.aclose()))
            await gate.wait(payload)

        loop.set_task_factory(vars(asyncio)["eager_task_factory"])
        try:
            bus.emit("a")
        finally:
            loop.set_task_factory(None)
        assert bus.closed
        await soon(closing[0])
        assert gate.ended == "cancelled"

    async def test_in_another_thread_while_a_task_is_made_it_ends_the_handler_quietly(
        self, bus: EventBus, loop_errors: list[dict[str, Any]]
    ) -> None:
        log: list[str] = []

        def closing(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
            thread = threading.Thread(target=asyncio.run, args=(bus.aclose(),))
            thread.start()
            thread.join(DEADLINE)
            return asyncio.Task(coroutine, loop=loop, **options)

        loop = asyncio.get_running_loop()
        bus.on("a", anote(log, "never"))
        loop.set_task_factory(closing)
        try:
            bus.emit("a")
        finally:
            loop.set_task_factory(None)
        assert bus.closed
        await turns()
        gc.collect()
        await turns()
        assert log == []
        assert loop_errors == []

    async def test_a_handler_whose_future_cannot_be_cancelled_is_ended_quietly(
        self, bus: EventBus, loop_errors: list[dict[str, Any]]
    ) -> None:
        class Stubborn(asyncio.Future[None]):
            def cancel(self, *args: object, **options: object) -> bool:
                raise RuntimeError("cannot be cancelled")

        future = Stubborn()
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await future
            finally:
                log.append("ended")

        bus.emit("a")
        await turns()
        await soon(bus.aclose())
        assert log == ["ended"]
        future.set_result(None)
        await turns()
        gc.collect()
        await turns()
        assert loop_errors == []
