"""Event loops and task factories of a user's own that fail where all others work."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Generator, Iterator
from typing import Any, Callable

import pytest
from helpers import soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


class OddLoop(asyncio.SelectorEventLoop):
    """Does something else, in methods that are named in `instead`."""

    def __init__(self) -> None:
        super().__init__()
        self.instead: dict[str, Callable[..., Any]] = {}

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        instead = self.instead.get(method)
        if instead is not None:
            return instead(*args, **kwargs)
        return getattr(super(), method)(*args, **kwargs)

    def create_future(self) -> Any:
        return self.call("create_future")

    def is_closed(self) -> Any:
        return self.call("is_closed")

    def call_soon_threadsafe(  # type: ignore[override]  # a TypeVarTuple is new in 3.11
        self, *args: Any, **kwargs: Any
    ) -> Any:
        return self.call("call_soon_threadsafe", *args, **kwargs)

    def call_at(  # type: ignore[override]  # as above
        self, *args: Any, **kwargs: Any
    ) -> Any:
        return self.call("call_at", *args, **kwargs)

    def __hash__(self) -> int:
        return int(self.call("__hash__"))


class Promise(asyncio.Future):  # type: ignore[type-arg]
    """What a task factory may return that runs nothing."""

    def set_name(self, name: object) -> None: ...


def fails(*args: object, **kwargs: object) -> Any:
    raise OSError("out of order")


@pytest.fixture
def loop() -> Iterator[OddLoop]:
    loop = OddLoop()
    yield loop
    loop.instead.clear()
    loop.close()


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is left to sys.unraisablehook."""
    seen: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: seen.append(repr(hook.exc_value)))
    return seen


async def suspends(payload: object) -> None:
    await asyncio.sleep(3600)


@pytest.fixture
def lazy_tasks(bus: EventBus) -> None:
    """Skip the test where handlers run in ordinary tasks, which nobody has to look up by loop."""
    kinds: list[str] = []

    async def handler(payload: object) -> None:
        kinds.append(type(asyncio.current_task()).__name__)

    with bus.subscribe("kind of task", handler):
        bus.emit("kind of task")
    if kinds != ["LazyTask"]:
        pytest.skip("handlers run in ordinary tasks here")


class TestEmitting:
    def test_an_emission_that_cannot_wait_cancels_its_handlers(
        self, bus: EventBus, loop: OddLoop
    ) -> None:
        ended: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append("finally")

        async def main() -> None:
            emission = bus.emit_async("a")
            # The sleep of the handler takes the first future, the emission wants the second.
            futures = [asyncio.Future[None](loop=loop)]
            loop.instead["create_future"] = lambda: futures.pop() if futures else fails()
            with pytest.raises(OSError, match="out of order"):
                await emission
            loop.instead.clear()
            await turns()
            assert ended == ["finally"]

        loop.run_until_complete(main())

    def test_an_emission_is_over_when_its_handlers_end_while_it_gets_a_future(
        self, bus: EventBus, loop: OddLoop
    ) -> None:
        coroutines: list[Any] = []

        def factory(loop: Any, coroutine: Any, **options: object) -> Any:
            coroutines.append(coroutine)
            return Promise(loop=loop)

        def closes() -> asyncio.Future[None]:
            for coroutine in coroutines:
                coroutine.close()
            return asyncio.Future(loop=loop)

        async def main() -> int:
            loop.set_task_factory(factory)
            loop.instead["create_future"] = closes
            return await bus.emit_async("a")

        bus.on("a", suspends)
        assert loop.run_until_complete(main()) == 0
        assert len(coroutines) == 1

    def test_an_emission_that_is_closed_while_it_gets_a_future_is_misused(
        self, bus: EventBus, loop: OddLoop
    ) -> None:
        emissions: list[Any] = []

        def closes() -> asyncio.Future[None]:
            loop.instead.clear()
            with contextlib.suppress(ValueError):
                emissions[0].close()
            return asyncio.Future(loop=loop)

        async def main() -> None:
            emissions.append(bus.emit_async("a"))
            waiter = emissions[0].send(None)
            assert not waiter.done()
            # Now it waits. A second future is asked for when this one is done too early.
            waiter.set_result(None)
            loop.instead["create_future"] = closes
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                emissions[0].send(None)
            await turns()

        bus.on("a", suspends)
        loop.run_until_complete(main())

    def test_an_emission_that_its_own_future_closes_is_misused(
        self, bus: EventBus, loop: OddLoop
    ) -> None:
        emissions: list[Any] = []

        class Closes(asyncio.Future):  # type: ignore[type-arg]
            def done(self) -> bool:
                emissions[0].close()
                return True

        async def main() -> None:
            emissions.append(bus.emit_async("a"))
            futures = [Closes(loop=loop), asyncio.Future[None](loop=loop)]
            loop.instead["create_future"] = lambda: futures.pop()
            emissions[0].send(None)
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                emissions[0].send(None)
            loop.instead.clear()
            await turns()

        bus.on("a", suspends)
        loop.run_until_complete(main())

    def test_a_future_that_is_none_is_an_error_of_the_emission(
        self, bus: EventBus, loop: OddLoop
    ) -> None:
        async def main() -> None:
            emission = bus.emit_async("a")
            futures: list[object] = [object(), asyncio.Future[None](loop=loop)]
            loop.instead["create_future"] = lambda: futures.pop()
            with pytest.raises(AttributeError, match="_asyncio_future_blocking"):
                await emission
            loop.instead.clear()
            await turns()

        bus.on("a", suspends)
        loop.run_until_complete(main())

    def test_an_interruption_of_the_future_of_an_emission_is_not_lost(
        self, bus: EventBus, loop: OddLoop, unraisable: list[str]
    ) -> None:
        class Interrupts(asyncio.Future):  # type: ignore[type-arg]
            def done(self) -> bool:
                raise KeyboardInterrupt("done")

        async def handler(payload: object) -> None:
            await asyncio.sleep(0)

        async def main() -> None:
            emission: Any = bus.emit_async("a")
            loop.instead["create_future"] = lambda: Interrupts(loop=loop)
            emission.send(None)
            loop.instead.clear()
            with pytest.raises(KeyboardInterrupt):
                emission.send(None)
            assert unraisable == []
            await turns()
            with pytest.raises(StopIteration) as stop:
                emission.send(None)
            assert stop.value.value == 1

        bus.on("a", handler)
        loop.run_until_complete(main())
        assert unraisable == ["KeyboardInterrupt('done')"]

    def test_a_factory_that_ends_a_coroutine_and_fails_is_unraisable(
        self, bus: EventBus, unraisable: list[str]
    ) -> None:
        def factory(loop: Any, coroutine: Any, **options: object) -> Any:
            coroutine.close()
            raise OSError("no task")

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_task_factory(factory)
            assert bus.emit("a") == 1
            loop.set_task_factory(None)

        bus.on("a", suspends)
        asyncio.run(main())
        assert unraisable == ["OSError('no task')"]
        assert bus.pending() == []

    def test_an_interruption_of_the_naming_of_a_task_comes_out(self, bus: EventBus) -> None:
        class Nameless(Promise):
            def set_name(self, name: object) -> None:
                raise KeyboardInterrupt

        def factory(loop: Any, coroutine: Any, **options: object) -> Any:
            return Nameless(loop=loop)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_task_factory(factory)
            with pytest.raises(KeyboardInterrupt):
                bus.emit("a")
            loop.set_task_factory(None)
            assert bus.pending() == []

        bus.on("a", suspends)
        asyncio.run(main())

    @pytest.mark.usefixtures("lazy_tasks")
    def test_a_loop_without_a_hash_is_an_error_of_the_emitter(
        self, bus: EventBus, loop: OddLoop
    ) -> None:
        async def returns(payload: object) -> None: ...

        async def main() -> None:
            emission = bus.emit_async("a")
            loop.instead["__hash__"] = fails
            try:
                with pytest.raises(OSError, match="out of order"):
                    emission.send(None)
            finally:
                loop.instead.clear()
            assert await bus.emit_async("a") == 1

        bus.on("a", returns)
        loop.run_until_complete(main())

    def test_a_handler_that_leaves_its_task_is_over_all_the_same(
        self, bus: EventBus, loop: OddLoop
    ) -> None:
        emissions: list[Any] = []

        @bus.on("a")
        async def leaves(payload: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            asyncio.tasks._leave_task(loop, task)

        def outside_of_tasks() -> None:
            assert asyncio.current_task() is None
            with pytest.raises(StopIteration) as stop:
                bus.emit_async("a").send(None)
            emissions.append(stop.value.value)
            assert asyncio.current_task() is None

        loop.call_soon(outside_of_tasks)
        loop.run_until_complete(asyncio.sleep(0))
        assert emissions == [1]


class TestPermitsAndPending:
    @pytest.mark.usefixtures("lazy_tasks")
    def test_whether_a_handler_emits_cannot_be_known_on_a_loop_without_a_hash(
        self, loop: OddLoop
    ) -> None:
        bus = EventBus(max_concurrency=1)
        bus.on("a", suspends)

        async def main() -> None:
            bus.emit("a")
            await turns()
            for call in (lambda: bus.emit("a"), bus._own_delivery, bus._give_up_permits):
                loop.instead["__hash__"] = fails
                try:
                    with pytest.raises(OSError, match="out of order"):
                        call()
                finally:
                    loop.instead.clear()
            assert len(bus.pending()) == 1
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await soon(bus.drain())

        loop.run_until_complete(main())

    def test_a_loop_that_cannot_say_whether_it_is_closed_keeps_its_permit(
        self, loop: OddLoop, unraisable: list[str]
    ) -> None:
        bus = EventBus(max_concurrency=1)
        bus.on("a", suspends)

        async def begins() -> None:
            bus.emit("a")
            await turns()

        loop.run_until_complete(begins())
        loop.instead["is_closed"] = fails

        async def another() -> None:
            bus.emit("a")
            await turns()
            assert len(bus.pending()) == 2  # one that runs, and one in the queue

        asyncio.run(another())
        assert unraisable == ["OSError('out of order')"]
        loop.instead.clear()
        loop.close()
        gc.collect()

    def test_a_handler_that_is_closed_while_it_waits_for_a_permit_takes_none(
        self, loop: OddLoop
    ) -> None:
        bus = EventBus(max_concurrency=1)
        bus.on("a", suspends)

        async def begins() -> None:
            bus.emit("a")
            await turns()

        def closes() -> bool:
            bus._pending()[-1].close()
            return False

        loop.run_until_complete(begins())
        loop.instead["is_closed"] = closes

        async def another() -> None:
            bus.emit("a")
            assert len(bus.pending()) == 1

        asyncio.run(another())

    def test_an_interruption_of_a_loop_that_is_given_a_permit_is_not_lost(
        self, loop: OddLoop, unraisable: list[str]
    ) -> None:
        def interrupts(*args: object, **kwargs: object) -> Any:
            raise KeyboardInterrupt("a")

        bus = EventBus(max_concurrency=1)
        gates: list[asyncio.Event] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            gates.append(asyncio.Event())
            await gates[-1].wait()

        async def first() -> None:
            bus.emit("a")
            await turns()
            assert len(gates) == 1

        async def second() -> None:
            bus.emit("a")
            await turns()
            assert len(gates) == 1

        async def release() -> None:
            gates[0].set()
            await turns()

        other = asyncio.new_event_loop()
        other.run_until_complete(first())
        loop.run_until_complete(second())
        loop.instead["call_soon_threadsafe"] = interrupts
        other.run_until_complete(release())
        assert unraisable == ["KeyboardInterrupt('a')"]
        assert bus.pending() == []
        other.close()


class TestTimeouts:
    def test_a_timer_that_cannot_be_cancelled_is_unraisable(
        self, bus: EventBus, loop: OddLoop, unraisable: list[str]
    ) -> None:
        class Timer:
            cancel = fails

        async def handler(payload: object) -> None:
            await asyncio.sleep(0)

        async def main() -> None:
            loop.instead["call_at"] = lambda *args, **kwargs: Timer()
            try:
                assert await bus.emit_async("a") == 1
            finally:
                loop.instead.clear()

        bus.subscribe("a", handler, timeout=60)
        loop.run_until_complete(main())
        assert unraisable == ["OSError('out of order')"]

    def test_a_handler_that_is_driven_outside_of_a_loop_has_no_limit(
        self, bus: EventBus, loop: OddLoop, unraisable: list[str]
    ) -> None:
        coroutines: list[Any] = []

        def factory(loop: Any, coroutine: Any, **options: object) -> Any:
            coroutines.append(coroutine)
            return Promise(loop=loop)

        class Yields:
            def __await__(self) -> Generator[int, None, None]:
                yield 1

        async def handler(payload: object) -> None:
            await Yields()

        async def main() -> None:
            loop.set_task_factory(factory)
            bus.emit("a")
            loop.set_task_factory(None)

        bus.subscribe("a", handler, timeout=60)
        loop.run_until_complete(main())
        (coroutine,) = coroutines
        assert coroutine.send(None) == 1
        assert set(unraisable) == {"RuntimeError('no running event loop')"}
        with pytest.raises(StopIteration):
            coroutine.send(None)
        assert bus.pending() == []


class TestEnds:
    def test_what_a_handler_returned_is_closed_with_the_bus(self) -> None:
        closed: list[str] = []

        class Late:
            """What is not a coroutine, which would be found and closed by itself."""

            def __await__(self) -> Iterator[None]:
                yield

            def close(self) -> None:
                closed.append("closed")

        async def main() -> None:
            bus = EventBus()
            bus.on("a", lambda payload: Late())
            loop = asyncio.get_running_loop()
            loop.set_task_factory(lambda loop, coro, **options: Promise(loop=loop))
            bus.emit("a")
            loop.set_task_factory(None)

        asyncio.run(main())
        gc.collect()
        assert closed == ["closed"]
