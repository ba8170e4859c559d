"""The task that an async handler sees is a task like any other, on every loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import io
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Callable

import pytest
from helpers import (
    Handler,
    ListHandler,
    Task,
    begin,
    current,
    deliver,
    keep_tasks,
    moments,
    run_isolated,
    soon,
    turns,
    ways,
)
from loops import on_every_loop

from agent_event_bus import EventBus


def subscribe(bus: EventBus, suspends: bool, look: Callable[[Task], object]) -> list[Any]:
    """Subscribe a handler that shows its task to `look`; return the list of what it answered."""
    answers: list[Any] = []

    @bus.on("tool.start")
    async def handler(payload: object) -> None:
        if suspends:
            await asyncio.sleep(0)
        answers.append(look(current()))

    return answers


@asynccontextmanager
async def suspended(bus: EventBus) -> AsyncIterator[tuple[Task, Handler]]:
    """Provide the task of a suspended handler, and the handler; it is over after the block."""
    gate = asyncio.Event()
    tasks: list[Task] = []

    @bus.on("tool.start")
    async def handler(payload: object) -> None:
        tasks.append(current())
        await gate.wait()

    emission = await begin(bus, "tool.start")
    try:
        yield tasks[0], handler
    finally:
        gate.set()
        await soon(emission)


class TestIdentity:
    @ways
    @moments
    @on_every_loop
    async def test_the_current_task_is_an_asyncio_task(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        answers = subscribe(
            bus, suspends, lambda task: (isinstance(task, asyncio.Task), asyncio.isfuture(task))
        )
        await deliver(bus, way)
        assert answers == [(True, True)]

    @ways
    @moments
    @on_every_loop
    async def test_handlers_that_run_concurrently_have_distinct_tasks(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        tasks: list[Task] = []
        everyone = asyncio.Event()

        async def handler(payload: object) -> None:
            tasks.append(current())
            if len(tasks) == 5:
                everyone.set()
            if suspends:
                await everyone.wait()
                assert tasks.count(current()) == 1

        for _ in range(5):
            bus.subscribe("tool.start", handler)
        await deliver(bus, way)
        assert len({*map(id, tasks), id(current())}) == 6

    @on_every_loop
    async def test_tasks_that_were_kept_are_distinct_from_those_of_later_emissions(
        self, bus: EventBus
    ) -> None:
        tasks = subscribe(bus, False, lambda task: task)
        for _ in range(4):
            await deliver(bus)
        assert len({*map(id, tasks), id(current())}) == 5

    @on_every_loop
    async def test_it_is_the_same_before_and_after_every_suspension(self, bus: EventBus) -> None:
        seen: list[Task] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            for _ in range(3):
                seen.append(current())
                await asyncio.sleep(0)
            await asyncio.wait_for(turns(), 10)
            seen.append(current())

        await deliver(bus)
        assert len(seen) == 4
        assert all(task is seen[0] for task in seen)

    @moments
    @on_every_loop
    async def test_a_nested_emission_gives_the_task_of_its_handler_back(
        self, bus: EventBus, suspends: bool
    ) -> None:
        seen: list[tuple[str, Task]] = []

        @bus.on("inner")
        async def inner(payload: object) -> None:
            seen.append(("inner", current()))
            if suspends:
                await asyncio.sleep(0)

        @bus.on("tool.start")
        async def outer(payload: object) -> None:
            seen.append(("before", current()))
            for _ in range(2):
                await bus.emit_async("inner")
            seen.append(("after", current()))

        mine = current()
        await deliver(bus)
        assert current() is mine
        assert [label for label, _ in seen] == ["before", "inner", "inner", "after"]
        assert seen[0][1] is seen[3][1]
        assert len({id(task) for _, task in seen}) == 3


class TestName:
    @ways
    @moments
    @on_every_loop
    async def test_it_has_the_event_and_the_handler_in_it(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        answers = subscribe(bus, suspends, lambda task: task.get_name())
        (handler,) = (subscription.handler for subscription in bus.handlers("tool.start"))
        await deliver(bus, way)
        assert "tool.start" in answers[0]
        assert handler.__qualname__ in answers[0]

    @moments
    @on_every_loop
    async def test_repr_shows_it_while_the_handler_runs(
        self, bus: EventBus, suspends: bool
    ) -> None:
        answers = subscribe(bus, suspends, lambda task: (repr(task), task.get_name()))
        await deliver(bus)
        ((shown, name),) = answers
        assert name in shown
        assert "Task pending" in shown

    @on_every_loop
    async def test_repr_shows_it_and_what_is_awaited_while_the_handler_is_suspended(
        self, bus: EventBus
    ) -> None:
        async with suspended(bus) as (task, handler):
            shown = repr(task)
        assert "Task pending" in shown
        assert task.get_name() in shown
        assert handler.__qualname__ in shown
        assert "wait_for=<Future pending" in shown

    @moments
    @on_every_loop
    async def test_repr_shows_it_and_the_outcome_once_the_handler_is_over(
        self, bus: EventBus, suspends: bool, records: list[logging.LogRecord]
    ) -> None:
        tasks: list[Task] = []

        @bus.on("tool.start")
        async def works(payload: object) -> None:
            tasks.append(current())
            if suspends:
                await asyncio.sleep(0)

        @bus.on("tool.start")
        async def fails(payload: object) -> None:
            tasks.append(current())
            if suspends:
                await asyncio.sleep(0)
            raise ValueError("out of tools")

        await deliver(bus)
        for task, handler in zip(tasks, (works, fails)):
            assert "Task finished" in repr(task)
            assert task.get_name() in repr(task)
            assert handler.__qualname__ in task.get_name()
        assert "result=None" in repr(tasks[0])
        assert "ValueError('out of tools')" in repr(tasks[1])

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="taskName is new in logging in 3.12")
    @moments
    @on_every_loop
    async def test_a_log_record_made_in_a_handler_has_it_as_task_name(
        self, bus: EventBus, suspends: bool
    ) -> None:
        logger = logging.getLogger("test_task_truth")
        kept = ListHandler()
        logger.addHandler(kept)

        def log(task: Task) -> str:
            logger.warning("in a handler")
            return task.get_name()

        names = subscribe(bus, suspends, log)
        try:
            await deliver(bus)
        finally:
            logger.removeHandler(kept)
        assert [vars(record)["taskName"] for record in kept.records] == names


class TestWhileItRuns:
    @ways
    @moments
    @on_every_loop
    async def test_it_is_not_done_and_has_no_outcome_yet(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        def look(task: Task) -> tuple[bool, bool]:
            for ask in (task.result, task.exception):
                with pytest.raises(asyncio.InvalidStateError):
                    ask()
            return task.done(), task.cancelled()

        answers = subscribe(bus, suspends, look)
        await deliver(bus, way)
        assert answers == [(False, False)]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="Task.uncancel is new in 3.11")
    @ways
    @moments
    @on_every_loop
    async def test_requests_to_cancel_are_counted_and_taken_back(
        self, bus: EventBus, suspends: bool, way: str, records: list[logging.LogRecord]
    ) -> None:
        if sys.version_info >= (3, 11):

            def look(task: Task) -> list[int]:
                counts = [task.cancelling()]
                for _ in range(2):
                    assert task.cancel()
                    counts.append(task.cancelling())
                for _ in range(2):
                    assert task.uncancel() == counts[-1] - 1
                    counts.append(task.cancelling())
                return counts

            answers = subscribe(bus, suspends, look)
            await deliver(bus, way)
            assert answers == [[0, 1, 2, 1, 0]]
            assert records == []

    @moments
    @on_every_loop
    async def test_a_request_to_cancel_strikes_at_the_next_await(
        self, bus: EventBus, suspends: bool, records: list[logging.LogRecord]
    ) -> None:
        log: list[str] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            if suspends:
                await asyncio.sleep(0)
            assert current().cancel()
            log.append("goes on")
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                log.append("struck")
                raise

        await deliver(bus)
        assert log == ["goes on", "struck"]
        assert [record.levelno for record in records] == [logging.WARNING]


class TestCoroutineAndStack:
    @ways
    @moments
    @on_every_loop
    async def test_get_coro_is_the_running_coroutine_of_the_handler(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        def look(task: Task) -> tuple[bool, object, bool]:
            coroutine: Any = task.get_coro()
            running = inspect.getcoroutinestate(coroutine) == inspect.CORO_RUNNING
            return asyncio.iscoroutine(coroutine), coroutine.cr_code, running

        answers = subscribe(bus, suspends, look)
        (handler,) = (subscription.handler for subscription in bus.handlers("tool.start"))
        await deliver(bus, way)
        assert answers == [(True, handler.__code__, True)]

    @on_every_loop
    async def test_get_coro_is_the_suspended_coroutine_of_the_handler(self, bus: EventBus) -> None:
        async with suspended(bus) as (task, handler):
            coroutine: Any = task.get_coro()
            code, state = coroutine.cr_code, inspect.getcoroutinestate(coroutine)
        assert code is handler.__code__
        assert state == inspect.CORO_SUSPENDED
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    @moments
    @on_every_loop
    async def test_the_stack_of_a_running_handler_has_its_frame(
        self, bus: EventBus, suspends: bool
    ) -> None:
        def look(task: Task) -> tuple[list[str], str]:
            printed = io.StringIO()
            task.print_stack(file=printed)
            return [frame.f_code.co_name for frame in task.get_stack()], printed.getvalue()

        answers = subscribe(bus, suspends, look)
        await deliver(bus)
        ((names, printed),) = answers
        assert "handler" in names
        assert "in handler" in printed

    @on_every_loop
    async def test_the_stack_of_a_suspended_handler_is_its_frame(self, bus: EventBus) -> None:
        async with suspended(bus) as (task, _):
            names = [frame.f_code.co_name for frame in task.get_stack()]
            printed = io.StringIO()
            task.print_stack(file=printed)
        assert names == ["handler"]
        assert "await gate.wait()" in printed.getvalue()
        assert task.get_stack() == []

    @moments
    @on_every_loop
    async def test_the_stack_of_a_failed_handler_is_where_it_failed(
        self, bus: EventBus, suspends: bool, records: list[logging.LogRecord]
    ) -> None:
        tasks = keep_tasks(bus, suspends, ValueError("out of tools"))
        (handler,) = (subscription.handler for subscription in bus.handlers("tool.start"))
        await deliver(bus)
        printed = io.StringIO()
        tasks[0].print_stack(file=printed)
        assert tasks[0].get_stack()[-1].f_code is handler.__code__
        assert "ValueError: out of tools" in printed.getvalue()


class TestLoopAndContext:
    @ways
    @moments
    @on_every_loop
    async def test_get_loop_is_the_running_loop(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        answers = subscribe(bus, suspends, lambda task: task.get_loop())
        await deliver(bus, way)
        assert answers == [asyncio.get_running_loop()]

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="Task.get_context is new in 3.12")
    @ways
    @moments
    @on_every_loop
    async def test_get_context_is_the_context_in_which_the_handler_runs(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        if sys.version_info >= (3, 12):
            variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")
            seen: list[tuple[str, object]] = []
            tasks: list[Task] = []

            @bus.on("tool.start")
            async def handler(payload: object) -> None:
                tasks.append(current())
                for value in ("first", "second"):
                    variable.set(value)
                    found = current().get_context().get(variable)
                    seen.append((value, found))
                    if suspends:
                        await asyncio.sleep(0)

            await deliver(bus, way)
            assert seen == [("first", "first"), ("second", "second")]
            assert tasks[0].get_context()[variable] == "second"
            assert variable not in contextvars.copy_context()

    @ways
    @moments
    @on_every_loop
    async def test_a_context_variable_set_in_one_handler_is_seen_by_no_other_and_not_by_the_caller(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        log: list[str] = []

        def make(label: str) -> Handler:
            async def handler(payload: object) -> None:
                log.append(variable.get())
                variable.set(label)
                if suspends:
                    await turns(3)
                log.append(variable.get())
                variable.set(f"{label} again")
                if suspends:
                    await turns(3)
                log.append(variable.get())

            return handler

        for label in ("1", "2", "3"):
            bus.on("tool.start", make(label))
        variable.set("caller")
        await deliver(bus, way)
        expected = ["caller"] * 3 + [f"{label}{rest}" for label in "123" for rest in ("", " again")]
        assert sorted(log) == sorted(expected)
        assert variable.get() == "caller"

    @on_every_loop
    async def test_a_token_of_the_first_step_resets_after_a_suspension(self, bus: EventBus) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        log: list[str] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            token = variable.set("set")
            await asyncio.sleep(0)
            log.append(variable.get())
            variable.reset(token)  # refused when the token was made in another context
            log.append(variable.get())

        await deliver(bus)
        assert log == ["set", "unset"]


class TestAllTasks:
    @ways
    @on_every_loop
    async def test_it_lists_suspended_handlers_and_not_finished_ones(
        self, bus: EventBus, way: str
    ) -> None:
        gate = asyncio.Event()
        suspended: list[Task] = []
        finished: list[Task] = []

        async def waits(payload: object) -> None:
            suspended.append(current())
            await gate.wait()

        async def returns(payload: object) -> None:
            finished.append(current())

        for handler in (waits, returns, waits):
            bus.subscribe("tool.start", handler)
        delivery = asyncio.ensure_future(deliver(bus, way))
        await turns()
        listed = asyncio.all_tasks()
        gate.set()
        await delivery
        assert set(suspended) <= listed
        assert len(set(suspended)) == 2
        assert listed.isdisjoint(finished)
        assert asyncio.all_tasks().isdisjoint([*suspended, *finished])

    @on_every_loop
    async def test_it_is_as_before_when_no_handler_suspended(self, bus: EventBus) -> None:
        tasks = subscribe(bus, False, lambda task: task)
        before = asyncio.all_tasks()
        for _ in range(3):
            await bus.emit_async("tool.start")
        assert len(tasks) == 3
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("case", ["plain", "slow", "never_awaited", "uvloop"])
def test_it_works_with_asyncio_in_debug_mode_from_the_environment(case: str) -> None:
    said = run_isolated("asyncio_debug.py", case).strip()
    if said == "unavailable":
        pytest.skip("uvloop is not installed: it has no release for this platform")
    assert said == "ok"
