"""Loops that make their tasks in a way of their own, and loops in debug mode."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import time
from collections.abc import Coroutine
from typing import Any, Callable

import pytest
from helpers import DEADLINE, ListHandler, soon, turns
from loops import LOOPS, on_every_loop, run_on

from agent_event_bus import EventBus

Task = asyncio.Task[Any]
Records = list[logging.LogRecord]


class TracedTask(asyncio.Task):  # type: ignore[type-arg]
    """A task class of a user's own."""


class Factory:
    """A task factory that remembers what it was asked for and what it made."""

    def __init__(self) -> None:
        self.made: list[Task] = []

    def __call__(self, loop: Any, coroutine: Any, **options: Any) -> Task:
        self.made.append(TracedTask(coroutine, loop=loop, **options))
        return self.made[-1]


class TestCustomFactory:
    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    @on_every_loop
    async def test_it_is_called_once_for_each_async_handler_and_its_tasks_are_used(
        self, bus: EventBus, way: str, records: Records
    ) -> None:
        seen: dict[str, Task | None] = {}

        @bus.on("a")
        async def returns(payload: object) -> None:
            seen["returns"] = asyncio.current_task()

        @bus.on("a")
        async def suspends(payload: object) -> None:
            first = asyncio.current_task()
            await turns()
            seen["suspends"] = asyncio.current_task()
            assert seen["suspends"] is first

        @bus.on("a")
        async def fails(payload: object) -> None:
            seen["fails"] = asyncio.current_task()
            raise ValueError("out of tools")

        @bus.on("a")
        def sync(payload: object) -> None:
            seen["sync"] = asyncio.current_task()

        factory = Factory()
        loop = asyncio.get_running_loop()
        mine = asyncio.current_task()
        loop.set_task_factory(factory)
        try:
            if way == "emit":
                assert bus.emit("a") == 4
                assert await bus.drain(DEADLINE) == []
            else:
                assert await bus.emit_async("a") == 4
        finally:
            loop.set_task_factory(None)
        assert factory.made == [seen["returns"], seen["suspends"], seen["fails"]]
        assert all(type(task) is TracedTask for task in factory.made)
        assert seen["sync"] is mine
        assert len(records) == 1

    @on_every_loop
    async def test_it_is_not_called_when_there_is_no_async_handler(self, bus: EventBus) -> None:
        bus.on("a", lambda payload: None)
        factory = Factory()
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            assert await bus.emit_async("a") == 1
            assert await bus.emit_async("b") == 0
        finally:
            loop.set_task_factory(None)
        assert factory.made == []

    @on_every_loop
    async def test_setting_and_removing_it_takes_effect_with_the_next_emission(
        self, bus: EventBus
    ) -> None:
        kinds: list[bool] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            kinds.append(type(asyncio.current_task()) is TracedTask)

        loop = asyncio.get_running_loop()
        for factory in (None, Factory(), None):
            loop.set_task_factory(factory)
            await bus.emit_async("a")
        assert kinds == [False, True, False]

    @on_every_loop
    async def test_its_tasks_have_the_name_of_event_and_handler_and_a_context_of_their_own(
        self, bus: EventBus
    ) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        seen: list[str] = []

        def make(label: str) -> Callable[[object], Coroutine[Any, Any, None]]:
            async def handler(payload: object) -> None:
                seen.append(variable.get())
                variable.set(label)
                await asyncio.sleep(0)
                seen.append(variable.get())

            return handler

        for label in ("first", "second"):
            bus.on("tool.start", make(label))
        factory = Factory()
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            await bus.emit_async("tool.start")
        finally:
            loop.set_task_factory(None)
        names = [task.get_name() for task in factory.made]
        assert all("tool.start" in name and make.__qualname__ in name for name in names)
        assert sorted(seen) == ["first", "second", "unset", "unset"]
        assert variable.get() == "unset"

    @on_every_loop
    async def test_one_that_fails_is_a_failure_of_each_async_handler(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[object] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            log.append("never")

        bus.on("a", log.append)

        def refuse(loop: Any, coroutine: Any, **options: Any) -> Any:
            raise OSError("no more tasks")

        loop = asyncio.get_running_loop()
        emission = asyncio.ensure_future(bus.emit_async("a", "sync"))
        loop.set_task_factory(refuse)
        try:
            await asyncio.wait([emission])
        finally:
            loop.set_task_factory(None)
        assert log == ["sync"]
        assert emission.exception() is None
        assert [record.levelno for record in records] == [logging.ERROR]
        assert "no more tasks" in records[0].getMessage()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
class TestEagerFactory:
    """On the loops of asyncio: uvloop calls it with an argument that 3.13.0 has no place for."""

    async def test_handlers_have_distinct_tasks_and_contexts(self, bus: EventBus) -> None:
        if sys.version_info >= (3, 12):
            variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=-1)
            tasks: list[object] = []
            values: list[tuple[int, int]] = []

            async def handler(payload: object) -> None:
                number = len(tasks)
                tasks.append(asyncio.current_task())
                before = variable.get()
                variable.set(number)
                if number % 2:
                    await asyncio.sleep(0)
                assert asyncio.current_task() is tasks[number]
                values.append((before, variable.get()))

            for _ in range(4):
                bus.subscribe("a", handler)
            loop = asyncio.get_running_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            try:
                assert await soon(bus.emit_async("a")) == 4
            finally:
                loop.set_task_factory(None)
            assert len({*map(id, tasks), id(asyncio.current_task())}) == 5
            assert sorted(values) == [(-1, number) for number in range(4)]
            assert variable.get() == -1

    async def test_under_emit_handlers_settle_and_failures_are_reported(
        self, bus: EventBus, records: Records
    ) -> None:
        if sys.version_info >= (3, 12):
            log: list[str] = []

            @bus.on("a")
            async def suspends(payload: object) -> None:
                await asyncio.sleep(0)
                log.append("suspends")

            @bus.on("a")
            async def fails(payload: object) -> None:
                raise ValueError("out of tools")

            loop = asyncio.get_running_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            try:
                assert bus.emit("a") == 2
                assert await soon(bus.drain()) == []
            finally:
                loop.set_task_factory(None)
            assert log == ["suspends"]
            assert [record.levelno for record in records] == [logging.ERROR]

    async def test_an_emission_run_as_an_eager_task_is_cancelled_with_its_handlers(
        self, bus: EventBus
    ) -> None:
        if sys.version_info >= (3, 12):
            ended: list[str] = []

            @bus.on("a")
            async def handler(payload: object) -> None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise

            loop = asyncio.get_running_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            try:
                emission = asyncio.ensure_future(bus.emit_async("a"))
                emission.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await emission
            finally:
                loop.set_task_factory(None)
            assert ended == ["cancelled"]

    async def test_a_handler_may_start_eager_tasks_in_its_first_step(self, bus: EventBus) -> None:
        if sys.version_info >= (3, 12):
            log: list[bool] = []

            @bus.on("a")
            async def handler(payload: object) -> None:
                mine = asyncio.current_task()

                async def child(suspends: bool) -> None:
                    log.append(asyncio.current_task() is not mine)
                    if suspends:
                        await asyncio.sleep(0)

                loop = asyncio.get_running_loop()
                for suspends in (False, True):
                    task = asyncio.Task(child(suspends), loop=loop, eager_start=True)
                    log.append(asyncio.current_task() is mine)
                    await task
                    log.append(asyncio.current_task() is mine)

            assert await soon(bus.emit_async("a")) == 1
            assert log == [True] * 6


@pytest.mark.parametrize("loop_kind", LOOPS)
class TestDebugMode:
    def test_handlers_of_every_kind_are_delivered_and_nothing_is_complained_about(
        self, bus: EventBus, loop_kind: str, records: Records
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def suspends(payload: object) -> None:
            await asyncio.sleep(0)
            assert "a -> " in repr(asyncio.current_task())
            log.append("suspends")

        @bus.on("a")
        async def returns(payload: object) -> None:
            assert "a -> " in repr(asyncio.current_task())
            log.append("returns")

        @bus.on("a")
        async def fails(payload: object) -> None:
            raise ValueError("out of tools")

        async def main() -> None:
            assert await bus.emit_async("a") == 3
            assert bus.emit("a") == 3
            assert await bus.drain(DEADLINE) == []

        assert run_on(loop_kind, main(), debug=True) == []
        assert log == ["returns", "suspends"] * 2
        assert len(records) == 2

    def test_a_slow_step_is_reported_with_the_name_of_the_handlers_task(
        self, bus: EventBus, loop_kind: str
    ) -> None:
        kept = ListHandler()
        logger = logging.getLogger("asyncio")
        logger.addHandler(kept)

        @bus.on("tool.start")
        async def blocks(payload: object) -> None:
            await asyncio.sleep(0)
            time.sleep(0.03)  # noqa: ASYNC251 - the step must be slow
            await asyncio.sleep(0)

        async def main() -> None:
            asyncio.get_running_loop().slow_callback_duration = 0.01
            assert await bus.emit_async("tool.start") == 1

        try:
            assert run_on(loop_kind, main(), debug=True) == []
        finally:
            logger.removeHandler(kept)
        slow = [record.getMessage() for record in kept.records if "took" in record.getMessage()]
        assert len(slow) == 1
        if loop_kind == "asyncio":  # uvloop does not name the task
            assert "tool.start -> " in slow[0]
            assert blocks.__qualname__ in slow[0]
