"""emit_async: lazy, ordered, concurrent; every async handler in its own task and context."""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import inspect
import sys
from collections.abc import Coroutine
from typing import Any, Callable

import pytest
from helpers import DEADLINE, anote, note, recorder, soon, turns

from agent_event_bus import EventBus


class TestWaysToAwait:
    """Everything in asyncio that takes a coroutine takes an emission."""

    def test_asyncio_run(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "h"))
        assert asyncio.run(bus.emit_async("a")) == 1
        assert asyncio.run(bus.emit_async("a"), debug=True) == 1
        assert log == ["h", "h"]

    def test_run_until_complete(self, bus: EventBus) -> None:
        bus.on("a", anote([], "h"))
        loop = asyncio.new_event_loop()
        try:
            assert loop.run_until_complete(bus.emit_async("a")) == 1
        finally:
            loop.close()

    async def test_create_task(self, bus: EventBus) -> None:
        log: list[Any] = []
        bus.on("a", recorder(log, "h"))
        task = asyncio.create_task(bus.emit_async("a", 1))
        assert log == []
        assert "emit_async" in repr(task)
        task.get_stack()
        assert await task == 1
        assert log == [("h", 1)]

    async def test_gather(self, bus: EventBus) -> None:
        bus.on("a", anote([], "h"))
        assert await asyncio.gather(*(bus.emit_async("a") for _ in range(3))) == [1, 1, 1]

    async def test_wait_for(self, bus: EventBus) -> None:
        bus.on("a", anote([], "h"))
        assert await asyncio.wait_for(bus.emit_async("a"), DEADLINE) == 1

    async def test_ensure_future_and_shield(self, bus: EventBus) -> None:
        bus.on("a", anote([], "h"))
        assert await asyncio.ensure_future(bus.emit_async("a")) == 1
        assert await asyncio.shield(bus.emit_async("a")) == 1

    async def test_run_coroutine_threadsafe(self, bus: EventBus) -> None:
        bus.on("a", anote([], "h"))
        future = asyncio.run_coroutine_threadsafe(bus.emit_async("a"), asyncio.get_running_loop())
        assert await asyncio.wrap_future(future) == 1

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup is new in 3.11")
    async def test_task_group(self, bus: EventBus) -> None:
        if sys.version_info >= (3, 11):
            bus.on("a", anote([], "h"))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(bus.emit_async("a"))
            assert task.result() == 1

    async def test_it_is_a_coroutine_to_everyone_who_asks(self, bus: EventBus) -> None:
        emission: Any = bus.emit_async("a")
        assert asyncio.iscoroutine(emission)
        assert inspect.isawaitable(emission)
        assert isinstance(emission, collections.abc.Coroutine)
        assert "emit_async" in repr(emission)
        await emission

    def test_emit_async_of_another_bus_is_a_good_handler(self, bus: EventBus) -> None:
        log: list[Any] = []
        other = EventBus()
        other.on("a", recorder(log, "forwarded"))
        bus.on("*", other.emit_async)
        assert bus.emit("a", 1) == 1
        assert log == [("forwarded", 1)]


class TestOrderAndConcurrency:
    async def test_sync_handlers_are_done_before_the_first_async_one_starts(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def first(payload: object) -> None:
            log.append("async starts")
            await turns()
            log.append("async ends")

        bus.on("a", note(log, "sync 1"))
        bus.on("a", note(log, "sync 2"))
        assert await bus.emit_async("a") == 3
        assert log == ["sync 1", "sync 2", "async starts", "async ends"]

    async def test_async_handlers_run_concurrently(self, bus: EventBus) -> None:
        started: list[int] = []
        everyone = asyncio.Event()

        def make(number: int) -> Callable[[object], Coroutine[Any, Any, None]]:
            async def handler(payload: object) -> None:
                started.append(number)
                if len(started) == 5:
                    everyone.set()
                await everyone.wait()

            return handler

        for number in range(5):
            bus.on("a", make(number))
        assert await soon(bus.emit_async("a")) == 5
        assert started == [0, 1, 2, 3, 4]

    async def test_it_returns_when_the_last_handler_has_settled(self, bus: EventBus) -> None:
        gates = [asyncio.Event() for _ in range(3)]

        def make(gate: asyncio.Event) -> Callable[[object], Coroutine[Any, Any, None]]:
            async def handler(payload: object) -> None:
                await gate.wait()

            return handler

        for gate in gates:
            bus.on("a", make(gate))
        emission = asyncio.create_task(bus.emit_async("a"))
        for gate in reversed(gates):
            await turns()
            assert not emission.done()
            gate.set()
        assert await soon(emission) == 3

    async def test_failing_handlers_disturb_no_sibling_and_are_counted(
        self, bus: EventBus, records: list[Any]
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def fails_at_once(payload: object) -> None:
            raise ValueError("at once")

        @bus.on("a")
        async def fails_later(payload: object) -> None:
            await turns()
            raise ValueError("later")

        @bus.on("a")
        async def works(payload: object) -> None:
            await turns(10)
            log.append("works")

        assert await bus.emit_async("a") == 3
        assert log == ["works"]
        texts = [record.getMessage().rsplit(": ", 1)[1] for record in records]
        assert texts == ["at once", "later"]

    async def test_the_count_includes_sync_async_and_wildcard_handlers(self, bus: EventBus) -> None:
        log: list[Any] = []
        bus.on("a", recorder(log, "sync"))
        bus.on("*", recorder(log, "any"))

        @bus.on("*")
        async def async_any(name: str, payload: object) -> None:
            log.append(("async any", name, payload))

        assert await bus.emit_async("a", 1) == 3
        assert log == [("sync", 1), ("any", "a", 1), ("async any", "a", 1)]
        assert await bus.emit_async("b", 2) == 2

    async def test_many_concurrent_emissions_keep_apart(self, bus: EventBus) -> None:
        got: list[object] = []

        @bus.on("a")
        async def handler(payload: int) -> None:
            await turns(payload % 7)
            got.append(payload)

        counts = await asyncio.gather(*(bus.emit_async("a", n) for n in range(100)))
        assert counts == [1] * 100
        assert sorted(got) == list(range(100))  # type: ignore[type-var]


class TestTaskAndContext:
    @pytest.mark.parametrize("suspends", [False, True])
    async def test_every_async_handler_has_its_own_current_task(
        self, bus: EventBus, suspends: bool
    ) -> None:
        before: list[object] = []
        after: list[object] = []

        async def handler(payload: object) -> None:
            before.append(asyncio.current_task())
            if suspends:
                await turns()
            after.append(asyncio.current_task())

        for _ in range(3):
            bus.subscribe("a", handler)
        await bus.emit_async("a")
        assert None not in before
        assert len({id(task) for task in before}) == 3
        assert {id(task) for task in before} == {id(task) for task in after}
        assert asyncio.current_task() not in before

    async def test_sync_handlers_run_in_the_task_of_the_caller(self, bus: EventBus) -> None:
        seen: list[object] = []
        bus.on("a", lambda payload: seen.append(asyncio.current_task()))
        await bus.emit_async("a")
        assert seen == [asyncio.current_task()]

    async def test_the_current_task_of_the_caller_is_restored(self, bus: EventBus) -> None:
        mine = asyncio.current_task()
        bus.on("a", anote([], "h"))
        await bus.emit_async("a")
        assert asyncio.current_task() is mine

    @pytest.mark.parametrize("suspends", [False, True])
    async def test_context_variables_come_in_and_do_not_leak_out(
        self, bus: EventBus, suspends: bool
    ) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        seen: list[str] = []

        def make(label: str) -> Callable[[object], Coroutine[Any, Any, None]]:
            async def handler(payload: object) -> None:
                seen.append(variable.get())
                variable.set(label)
                if suspends:
                    await turns()
                seen.append(variable.get())

            return handler

        bus.on("a", make("first"))
        bus.on("a", make("second"))
        emission = bus.emit_async("a")
        variable.set("caller")
        await emission
        assert sorted(seen) == ["caller", "caller", "first", "second"]
        assert variable.get() == "caller"

    async def test_a_task_kept_by_its_handler_ends_done(self, bus: EventBus) -> None:
        kept: list[Any] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            kept.append(asyncio.current_task())

        await bus.emit_async("a")
        await turns()
        assert kept[0].done()
        assert not kept[0].cancelled()
        assert kept[0].exception() is None

    async def test_all_tasks_shows_a_suspended_handler_and_forgets_a_finished_one(
        self, bus: EventBus
    ) -> None:
        gate = asyncio.Event()
        mine: list[Any] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            mine.append(asyncio.current_task())
            await gate.wait()

        emission = asyncio.create_task(bus.emit_async("a"))
        await turns()
        assert mine[0] in asyncio.all_tasks()
        gate.set()
        await soon(emission)
        assert mine[0] not in asyncio.all_tasks()

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in 3.11")
    @pytest.mark.parametrize("suspend_first", [False, True])
    async def test_asyncio_timeout_inside_a_handler_hits_that_handler_alone(
        self, bus: EventBus, records: list[Any], suspend_first: bool
    ) -> None:
        if sys.version_info >= (3, 11):
            log: list[str] = []
            gate = asyncio.Event()

            @bus.on("a")
            async def impatient(payload: object) -> None:
                if suspend_first:
                    await asyncio.sleep(0)
                try:
                    async with asyncio.timeout(0.01):
                        await gate.wait()
                except TimeoutError:
                    log.append("timed out")
                gate.set()

            @bus.on("a")
            async def patient(payload: object) -> None:
                await gate.wait()
                log.append("patient")

            assert await soon(bus.emit_async("a")) == 2
            assert log == ["timed out", "patient"]
            assert records == []

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup is new in 3.11")
    async def test_a_task_group_inside_a_handler_works_from_its_first_step(
        self, bus: EventBus, records: list[Any]
    ) -> None:
        if sys.version_info >= (3, 11):
            log: list[str] = []

            @bus.on("a")
            async def grouped(payload: object) -> None:
                async def fails() -> None:
                    raise ValueError("inside the group")

                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(fails())
                        group.create_task(asyncio.Event().wait())
                except Exception as errors:
                    log.append(type(errors).__name__)

            bus.on("a", anote(log, "sibling"))
            assert await soon(bus.emit_async("a")) == 2
            assert sorted(log) == ["ExceptionGroup", "sibling"]
            assert records == []

    async def test_wait_for_inside_a_handler_works_from_its_first_step(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a")
        async def impatient(payload: object) -> None:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 0.01)
            except asyncio.TimeoutError:
                log.append("timed out")

        assert await soon(bus.emit_async("a")) == 1
        assert log == ["timed out"]


class TestLoopTrips:
    @pytest.mark.parametrize("count", [0, 1, 5])
    @pytest.mark.parametrize("make", [note, anote], ids=["sync", "async"])
    async def test_handlers_that_never_suspend_cost_no_trip_through_the_loop(
        self, bus: EventBus, make: Any, count: int
    ) -> None:
        log: list[str] = []
        for _ in range(count):
            bus.on("a", make(log, "handler"))
        asyncio.get_running_loop().call_soon(log.append, "next turn")
        assert await bus.emit_async("a") == count
        assert log == ["handler"] * count
        await asyncio.sleep(0)
        assert log[-1] == "next turn"

    async def test_a_task_factory_is_called_for_every_async_handler(self, bus: EventBus) -> None:
        class Traced(asyncio.Task):  # type: ignore[type-arg]
            pass

        made: list[object] = []
        seen: list[object] = []

        def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
            task = Traced(coroutine, loop=loop, **options)
            made.append(task)
            return task

        async def suspends(payload: object) -> None:
            seen.append(asyncio.current_task())
            await asyncio.sleep(0)

        async def returns(payload: object) -> None:
            seen.append(asyncio.current_task())

        bus.on("a", suspends)
        bus.on("a", returns)
        bus.on("a", note([], "sync"))
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            assert await bus.emit_async("a") == 3
            assert seen == made
            assert bus.emit("a") == 3
            await bus.drain()
        finally:
            loop.set_task_factory(None)
        assert seen == made
        assert len(made) == 4

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
    async def test_an_eager_task_factory_is_respected(
        self, bus: EventBus, records: list[Any]
    ) -> None:
        if sys.version_info >= (3, 12):
            log: list[str] = []
            gate = asyncio.Event()

            @bus.on("a")
            async def suspends(payload: object) -> None:
                log.append("starts")
                await gate.wait()
                log.append("ends")

            @bus.on("a")
            async def opens(payload: object) -> None:
                log.append("opens")
                gate.set()

            @bus.on("a")
            async def fails(payload: object) -> None:
                raise ValueError("eagerly")

            loop = asyncio.get_running_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            try:
                assert await soon(bus.emit_async("a")) == 3
            finally:
                loop.set_task_factory(None)
            assert log == ["starts", "opens", "ends"]
            assert len(records) == 1


@pytest.mark.parametrize("how", ["at_once", "suspended", "with_a_timeout"])
async def test_a_failure_is_reported_in_the_context_of_the_handler(how: str) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    def on_error(name: str, handler: object, error: BaseException) -> None:
        seen.append(request.get())
        request.set("changed by on_error")

    bus = EventBus(on_error=on_error)

    @bus.on("a", timeout=DEADLINE if how == "with_a_timeout" else None)
    async def handler(payload: object) -> None:
        request.set("of the handler")
        if how == "suspended":
            await asyncio.sleep(0)
        raise ValueError

    @bus.on("a")
    async def later(payload: object) -> None:
        seen.append(request.get())

    assert await bus.emit_async("a") == 2
    assert sorted(seen) == ["none", "of the handler"]
    assert request.get() == "none"
