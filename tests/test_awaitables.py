"""What counts as an async handler, and sync handlers whose result can be awaited."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import sys
import types
import warnings
from collections.abc import Awaitable, Generator
from typing import Any, Callable
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest
from helpers import anote, failing, note, soon, turns

from agent_event_bus import EventBus

log: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh_log() -> None:
    log.clear()


async def plain(payload: object) -> None:
    await asyncio.sleep(0)
    log.append(payload)


async def two_arguments(first: object, payload: object) -> None:
    await plain(payload)


class Tracer:
    async def method(self, payload: object) -> None:
        await plain(payload)

    @classmethod
    async def of_class(cls, payload: object) -> None:
        await plain(payload)

    @staticmethod
    async def static(payload: object) -> None:
        await plain(payload)


class AsyncCall:
    async def __call__(self, payload: object) -> None:
        await plain(payload)


class InheritedAsyncCall(AsyncCall):
    pass


@types.coroutine
def generator_based(payload: object) -> Generator[Any, Any, None]:
    yield from asyncio.sleep(0).__await__()
    log.append(payload)


ASYNC: dict[str, Callable[..., Any]] = {
    "async def": plain,
    "partial": functools.partial(plain),
    "partial with argument": functools.partial(two_arguments, 1),
    "partial of partial": functools.partial(functools.partial(two_arguments, 1)),
    "bound method": Tracer().method,
    "partial of bound method": functools.partial(Tracer().method),
    "class method": Tracer.of_class,
    "static method": Tracer.static,
    "async __call__": AsyncCall(),
    "inherited async __call__": InheritedAsyncCall(),
    "bound async __call__": AsyncCall().__call__,
    "partial of async __call__": functools.partial(AsyncCall()),
}

if sys.version_info >= (3, 12):

    def marked(payload: object) -> Any:
        return plain(payload)

    class MarkedCall:
        @inspect.markcoroutinefunction
        def __call__(self, payload: object) -> Any:
            return plain(payload)

    class MarkedMethod:
        @inspect.markcoroutinefunction
        def method(self, payload: object) -> Any:
            return plain(payload)

    ASYNC["markcoroutinefunction"] = inspect.markcoroutinefunction(marked)
    ASYNC["marked __call__"] = MarkedCall()
    ASYNC["marked method"] = MarkedMethod().method


class Awaited:
    """An object with an ``__await__`` of its own."""

    def __init__(self, payload: object) -> None:
        self.payload = payload

    def __await__(self) -> Generator[Any, Any, None]:
        yield from asyncio.sleep(0).__await__()
        log.append(self.payload)


def future_of(payload: object) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: log.append(payload))
    asyncio.get_running_loop().call_soon(future.set_result, None)
    return future


def task_of(payload: object) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(plain(payload))


@functools.wraps(plain)
def wrapped(payload: object) -> Any:
    return plain(payload)


RETURNING: dict[str, Callable[[object], Awaitable[None]]] = {
    "coroutine": lambda payload: plain(payload),
    "wrapped coroutine": wrapped,
    "generator-based coroutine": lambda payload: generator_based(payload),
    "generator-based coroutine function": generator_based,
    "custom awaitable": Awaited,
}

# These need a running loop when they are called.
RETURNING_IN_A_LOOP: dict[str, Callable[[object], Awaitable[None]]] = {
    "future": future_of,
    "task": task_of,
}


class TestRecognised:
    """A handler that is known to be async takes its place among the async ones."""

    @pytest.mark.parametrize("kind", list(ASYNC))
    async def test_it_runs_after_the_sync_handlers_and_is_awaited(
        self, bus: EventBus, kind: str
    ) -> None:
        subscription = bus.subscribe("a", ASYNC[kind], priority=-1)
        bus.on("a", note(log, "sync"), priority=1)
        assert bus.handlers("a")[1] is subscription
        assert await bus.emit_async("a", kind) == 2
        assert log == ["sync", kind]

    @pytest.mark.parametrize("kind", list(ASYNC))
    async def test_under_emit_in_a_loop_it_starts_later(self, bus: EventBus, kind: str) -> None:
        bus.on("a", ASYNC[kind])
        assert bus.emit("a", kind) == 1
        assert log == []
        await soon(bus.drain())
        assert log == [kind]

    @pytest.mark.parametrize("kind", list(ASYNC))
    def test_under_emit_without_a_loop_it_runs_to_completion(
        self, bus: EventBus, kind: str
    ) -> None:
        bus.on("a", ASYNC[kind])
        assert bus.emit("a", kind) == 1
        assert log == [kind]

    async def test_an_async_mock_is_awaited(self, bus: EventBus) -> None:
        mock = AsyncMock()
        bus.on("a", mock)
        assert await bus.emit_async("a", "payload") == 1
        bus.emit("a", "again")
        await soon(bus.drain())
        assert [call.args for call in mock.await_args_list] == [("payload",), ("again",)]

    @pytest.mark.parametrize("kind", [Mock, MagicMock])
    async def test_a_sync_mock_is_a_sync_handler(self, bus: EventBus, kind: Any) -> None:
        mock = kind()
        bus.on("a", mock)
        assert bus.emit("a", 1) == 1
        mock.assert_called_once_with(1)
        assert await bus.emit_async("a", 2) == 1
        assert mock.call_count == 2

    def test_a_class_with_an_async_call_is_a_sync_handler_itself(self, bus: EventBus) -> None:
        made: list[object] = []

        class Late:
            def __init__(self, payload: object) -> None:
                made.append(payload)

            async def __call__(self, payload: object) -> None:
                raise AssertionError("the class was called, not its instance")

        late = bus.subscribe("a", Late)
        bus.on("a", anote(log, "async"))
        assert bus.handlers("a")[0] is late
        assert bus.emit("a", 1) == 2
        assert made == [1]


class TestReturned:
    """A sync handler whose result can be awaited runs inline; the rest is awaited."""

    @pytest.mark.parametrize("kind", [*RETURNING, *RETURNING_IN_A_LOOP])
    async def test_emit_async_awaits_it(self, bus: EventBus, kind: str) -> None:
        bus.on("a", {**RETURNING, **RETURNING_IN_A_LOOP}[kind])
        assert await soon(bus.emit_async("a", kind)) == 1
        await asyncio.sleep(0)
        assert log == [kind]

    @pytest.mark.parametrize("kind", [*RETURNING, *RETURNING_IN_A_LOOP])
    async def test_emit_in_a_loop_awaits_it_as_pending_work(self, bus: EventBus, kind: str) -> None:
        bus.on("a", {**RETURNING, **RETURNING_IN_A_LOOP}[kind])
        assert bus.emit("a", kind) == 1
        assert log == []
        assert await soon(bus.drain()) == []
        await asyncio.sleep(0)
        assert log == [kind]

    @pytest.mark.parametrize("kind", list(RETURNING))
    def test_emit_without_a_loop_awaits_it_before_it_returns(
        self, bus: EventBus, kind: str
    ) -> None:
        bus.on("a", RETURNING[kind])
        assert bus.emit("a", kind) == 1
        assert log == [kind]

    async def test_the_sync_part_runs_inline_and_the_rest_in_line_with_the_async_handlers(
        self, bus: EventBus
    ) -> None:
        def returns(label: str) -> Callable[[object], Any]:
            def handler(payload: object) -> Any:
                log.append(f"{label} called")
                return anote(log, f"{label} awaited")()

            return handler

        bus.on("a", anote(log, "async 2"), priority=2)
        bus.on("a", returns("late"), priority=3)
        bus.on("a", anote(log, "async 1"), priority=1)
        bus.on("a", returns("early"), priority=0)
        bus.on("a", note(log, "sync"), priority=9)
        assert await bus.emit_async("a") == 5
        assert log == [
            "early called",
            "late called",
            "sync",
            "early awaited",
            "async 1",
            "async 2",
            "late awaited",
        ]

    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_its_failure_is_reported_once_and_counted(
        self, bus: EventBus, records: list[Any], way: str
    ) -> None:
        async def fails(payload: object) -> None:
            await asyncio.sleep(0)
            raise ValueError("later")

        def handler(payload: object) -> Any:
            return fails(payload)

        subscription = bus.subscribe("a", handler)
        bus.on("a", anote(log, "after"))
        count = bus.emit("a") if way == "emit" else await bus.emit_async("a")
        await soon(bus.drain())
        assert count == 2
        assert log == ["after"]
        assert [record.getMessage() for record in records] == [
            f"Handler '{handler.__qualname__}' raised on event 'a': later"
        ]
        assert (subscription.calls, subscription.failures) == (1, 1)

    async def test_it_has_its_own_task(self, bus: EventBus) -> None:
        tasks: list[Any] = []

        async def body() -> None:
            tasks.append(asyncio.current_task())

        bus.on("a", lambda payload: body())
        bus.on("a", lambda payload: body())
        await bus.emit_async("a")
        assert len({id(task) for task in tasks}) == 2
        assert asyncio.current_task() not in tasks

    async def test_cancelling_the_emission_cancels_it(self, bus: EventBus) -> None:
        inner: list[asyncio.Task[Any]] = []

        def handler(payload: object) -> asyncio.Task[Any]:
            task = asyncio.get_running_loop().create_task(turns(10**9))
            inner.append(task)
            return task

        bus.on("a", handler)
        emission = asyncio.create_task(bus.emit_async("a"))
        await turns()
        emission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(emission)
        assert inner[0].cancelled()

    def test_a_coroutine_is_closed_when_a_later_handler_interrupts_the_emission(
        self, bus: EventBus
    ) -> None:
        bus.on("a", lambda payload: plain(payload))
        bus.on("a", failing(KeyboardInterrupt()))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(KeyboardInterrupt):
                bus.emit("a")
            gc.collect()
        assert log == []

    def test_a_coroutine_for_a_closed_bound_loop_is_closed_and_reported(
        self, bus: EventBus, records: list[Any]
    ) -> None:
        loop = asyncio.new_event_loop()
        loop.close()
        bus.bind_loop(loop)
        bus.on("a", lambda payload: plain(payload))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bus.emit("a")
            gc.collect()
        assert len(records) == 1
        assert log == []


class Rubbish:
    """Awaitables that break the rules of awaiting, one by one."""

    class YieldsRubbish:
        def __await__(self) -> Generator[Any, Any, None]:
            yield 42

    class NoIterator:
        def __await__(self) -> Any:
            return 5

    class Raises:
        def __await__(self) -> Any:
            raise ValueError("in __await__")

    class RaisesLater:
        def __await__(self) -> Generator[Any, Any, None]:
            yield None
            raise ValueError("after a step")

    @staticmethod
    def UsedUp() -> Any:  # noqa: N802
        coroutine = plain(None)
        coroutine.close()
        return coroutine


@pytest.mark.parametrize("kind", [name for name in vars(Rubbish) if not name.startswith("_")])
@pytest.mark.parametrize("way", ["emit", "emit_async", "no loop"])
def test_an_awaitable_that_misbehaves_is_one_failure_and_disturbs_nobody(
    bus: EventBus, records: list[Any], way: str, kind: str
) -> None:
    subscription = bus.subscribe("a", lambda payload: getattr(Rubbish, kind)())
    bus.on("a", anote(log, "async sibling"))
    bus.on("a", note(log, "sync sibling"))

    async def main() -> int:
        if way == "emit_async":
            return await soon(bus.emit_async("a"))
        count = bus.emit("a")
        await soon(bus.drain())
        return count

    count = bus.emit("a") if way == "no loop" else asyncio.run(main())
    assert count == 3
    assert log == ["sync sibling", "async sibling"]
    assert len(records) == 1
    assert "raised on event 'a'" in records[0].getMessage()
    assert (subscription.calls, subscription.failures) == (1, 1)


async def test_an_async_handler_that_yields_rubbish_is_one_failure(
    bus: EventBus, records: list[Any]
) -> None:
    @bus.on("a")
    async def handler(payload: object) -> None:
        await Rubbish.YieldsRubbish()

    bus.on("a", anote(log, "sibling"))
    assert await soon(bus.emit_async("a")) == 2
    assert log == ["sibling"]
    assert len(records) == 1


async def test_a_cancelled_future_counts_as_a_cancelled_handler(
    bus: EventBus, records: list[Any]
) -> None:
    def handler(payload: object) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        return future

    bus.on("a", handler)
    bus.on("a", anote(log, "sibling"))
    assert await soon(bus.emit_async("a")) == 2
    assert log == ["sibling"]
    assert [record.getMessage() for record in records] == [
        f"Handler '{handler.__qualname__}' was cancelled on event 'a'"
    ]


async def test_a_future_of_another_loop_is_one_failure(bus: EventBus, records: list[Any]) -> None:
    other = asyncio.new_event_loop()
    try:
        bus.on("a", lambda payload: other.create_future())
        bus.on("a", anote(log, "sibling"))
        assert await soon(bus.emit_async("a")) == 2
    finally:
        other.close()
    assert log == ["sibling"]
    assert len(records) == 1


@pytest.mark.parametrize("way", ["emit", "emit_async"])
async def test_a_result_whose_type_lies_about_awaiting_does_no_harm(
    bus: EventBus, records: list[Any], way: str
) -> None:
    class Liar:
        __await__ = None

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    bus.on("a", lambda payload: Liar())
    bus.on("a", note(log, "after"))
    count = bus.emit("a") if way == "emit" else await bus.emit_async("a")
    await soon(bus.drain())
    assert count == 2
    assert log == ["after"]
    assert len(records) <= 1
