"""How the task of an async handler ends, for whoever has kept it or waits for it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging

import pytest
from helpers import Task, begin, current, deliver, keep_tasks, moments, soon, turns, ways
from loops import on_every_loop

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


def outcome(task: Task) -> tuple[bool, bool, object]:
    """Return whether a task is done and whether it is cancelled, and its exception if it is not."""
    return task.done(), task.cancelled(), None if task.cancelled() else task.exception()


class TestKept:
    """Looked at right after the emission, without another turn of the loop."""

    @ways
    @moments
    @on_every_loop
    async def test_the_task_of_a_handler_that_returned_is_done_with_none(
        self, bus: EventBus, suspends: bool, way: str
    ) -> None:
        kept = keep_tasks(bus, suspends)
        await deliver(bus, way)
        assert outcome(kept[0]) == (True, False, None)
        assert kept[0].result() is None
        assert await kept[0] is None

    @ways
    @moments
    @on_every_loop
    async def test_the_task_of_a_handler_that_failed_has_its_very_exception(
        self, bus: EventBus, suspends: bool, way: str, records: Records
    ) -> None:
        error = ValueError("out of tools")
        kept = keep_tasks(bus, suspends, error)
        await deliver(bus, way)
        assert kept[0].done()
        assert not kept[0].cancelled()
        assert kept[0].exception() is error
        with pytest.raises(ValueError, match="out of tools"):
            kept[0].result()
        assert len(records) == 1

    @ways
    @moments
    @on_every_loop
    async def test_an_exception_that_nobody_retrieves_is_reported_by_the_bus_alone(
        self,
        bus: EventBus,
        suspends: bool,
        way: str,
        records: Records,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        kept: list[Task] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            kept.append(current())
            if suspends:
                await asyncio.sleep(0)
            raise ValueError("out of tools")

        await deliver(bus, way)
        assert kept.pop().done()
        await turns()
        gc.collect()
        # on_every_loop looks at the exception handler of the loop, where asyncio would complain.
        assert [record.name for record in caplog.records] == ["agent_event_bus"]
        assert len(records) == 1

    @ways
    @moments
    @pytest.mark.parametrize("how", ["by its task", "by raising"])
    @on_every_loop
    async def test_the_task_of_a_cancelled_handler_is_cancelled(
        self, bus: EventBus, suspends: bool, way: str, how: str, records: Records
    ) -> None:
        kept: list[Task] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            kept.append(current())
            if suspends:
                await asyncio.sleep(0)
            if how == "by raising":
                raise asyncio.CancelledError
            current().cancel()
            await asyncio.Event().wait()

        await deliver(bus, way)
        assert kept[0].done()
        assert kept[0].cancelled()
        with pytest.raises(asyncio.CancelledError):
            kept[0].result()
        with pytest.raises(asyncio.CancelledError):
            kept[0].exception()
        assert [record.levelno for record in records] == [logging.WARNING]

    @moments
    @on_every_loop
    async def test_all_tasks_of_a_cancelled_emission_are_over_when_it_is(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        kept: list[Task] = []

        @bus.on("tool.start")
        async def waits(payload: object) -> None:
            kept.append(current())
            if suspends:
                await asyncio.sleep(0)
            await asyncio.Event().wait()

        @bus.on("tool.start")
        async def returns(payload: object) -> None:
            kept.append(current())

        emission = await begin(bus, "tool.start")
        emission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(emission)
        assert [outcome(task) for task in kept] == [(True, True, None), (True, False, None)]

    @moments
    @on_every_loop
    async def test_a_task_that_is_over_takes_no_cancellation(
        self, bus: EventBus, suspends: bool
    ) -> None:
        kept = keep_tasks(bus, suspends)
        await deliver(bus)
        assert kept[0].cancel() is False
        await deliver(bus)
        assert [outcome(task) for task in kept] == [(True, False, None)] * 2

    @moments
    @on_every_loop
    async def test_every_task_of_many_emissions_keeps_its_own_outcome(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        kept: list[Task] = []
        errors = [ValueError(str(number)) for number in range(6)]

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            number = len(kept)
            kept.append(current())
            current().set_name(f"number {number}")
            if suspends:
                await asyncio.sleep(0)
            if number % 2:
                raise errors[number]

        for _ in range(6):
            await deliver(bus)
        assert [task.get_name() for task in kept] == [f"number {n}" for n in range(6)]
        assert [task.exception() for task in kept] == [
            errors[n] if n % 2 else None for n in range(6)
        ]


class TestDoneCallback:
    @moments
    @pytest.mark.parametrize("ending", ["returns", "fails", "cancelled"])
    @on_every_loop
    async def test_one_added_in_the_handler_is_called_once_by_the_loop_with_the_finished_task(
        self, bus: EventBus, suspends: bool, ending: str, records: Records
    ) -> None:
        called: list[tuple[Task, bool, bool]] = []
        tasks: list[Task] = []
        inside = True

        def callback(task: Task) -> None:
            called.append((task, task.done(), inside))

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            nonlocal inside
            current().add_done_callback(callback)
            tasks.append(current())
            if suspends:
                await asyncio.sleep(0)
            inside = False
            if ending == "fails":
                raise ValueError("out of tools")
            if ending == "cancelled":
                raise asyncio.CancelledError

        await deliver(bus)
        await turns()
        assert called == [(tasks[0], True, False)]
        assert called[0][0] is tasks[0]

    @on_every_loop
    async def test_one_added_by_a_handler_that_keeps_nothing_is_called_all_the_same(
        self, bus: EventBus
    ) -> None:
        called: list[tuple[str, bool]] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            current().set_name(str(payload))
            current().add_done_callback(lambda task: called.append((task.get_name(), task.done())))

        for number in range(3):
            await bus.emit_async("tool.start", number)
        assert called == [], "a callback is called by the loop, in a turn of its own"
        await turns()
        assert called == [("0", True), ("1", True), ("2", True)]

    @moments
    @on_every_loop
    async def test_it_runs_in_the_context_of_the_handler(
        self, bus: EventBus, suspends: bool
    ) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        seen: list[str] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            variable.set("set in the handler")
            current().add_done_callback(lambda task: seen.append(variable.get()))
            if suspends:
                await asyncio.sleep(0)

        await deliver(bus)
        await turns()
        assert seen == ["set in the handler"]

    @moments
    @on_every_loop
    async def test_one_that_was_removed_again_is_not_called(
        self, bus: EventBus, suspends: bool
    ) -> None:
        called: list[Task] = []
        removed: list[int] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            for _ in range(2):
                current().add_done_callback(called.append)
            if suspends:
                await asyncio.sleep(0)
            removed.append(current().remove_done_callback(called.append))

        await deliver(bus)
        await turns()
        assert removed == [2]
        assert called == []

    @moments
    @on_every_loop
    async def test_one_added_after_the_handler_is_over_is_called_too(
        self, bus: EventBus, suspends: bool
    ) -> None:
        called: list[Task] = []
        kept = keep_tasks(bus, suspends)
        await deliver(bus)
        kept[0].add_done_callback(called.append)
        assert called == []
        await turns()
        assert called == kept


class TestWaitingForIt:
    """From another task, while the handler is suspended."""

    @pytest.mark.parametrize("how", ["await", "wait", "shield", "gather", "wait_for"])
    @pytest.mark.parametrize("fails", [False, True], ids=["returns", "fails"])
    @on_every_loop
    async def test_its_outcome_reaches_whoever_waits_for_it(
        self, bus: EventBus, how: str, fails: bool, records: Records
    ) -> None:
        gate = asyncio.Event()
        kept: list[Task] = []
        error = ValueError("out of tools")

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            kept.append(current())
            await gate.wait()
            if fails:
                raise error

        async def wait() -> object:
            (task,) = kept
            if how == "await":
                return await task
            if how == "shield":
                return await asyncio.shield(task)
            if how == "gather":
                return (await asyncio.gather(task))[0]
            if how == "wait_for":
                return await asyncio.wait_for(task, 10)
            done, pending = await asyncio.wait([task])
            assert (done, pending) == ({task}, set())
            return task.result()

        emission = await begin(bus, "tool.start")
        waiting = asyncio.ensure_future(wait())
        await turns()
        assert not waiting.done()
        gate.set()
        assert await soon(emission) == 1
        (answer,) = await soon(asyncio.gather(waiting, return_exceptions=True))
        assert answer is (error if fails else None)

    @on_every_loop
    async def test_a_shield_keeps_a_cancellation_away_from_the_handler(self, bus: EventBus) -> None:
        gate = asyncio.Event()
        log: list[str] = []
        kept: list[Task] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            kept.append(current())
            await gate.wait()
            log.append("finished")

        async def shielded() -> None:
            await asyncio.shield(kept[0])

        emission = await begin(bus, "tool.start")
        waiting = asyncio.ensure_future(shielded())
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(waiting)
        assert log == []
        gate.set()
        assert await soon(emission) == 1
        assert log == ["finished"]

    @on_every_loop
    async def test_an_unshielded_waiter_passes_its_cancellation_on_to_the_handler(
        self, bus: EventBus, records: Records
    ) -> None:
        kept: list[Task] = []

        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            kept.append(current())
            await asyncio.Event().wait()

        async def wait() -> None:
            await kept[0]

        emission = await begin(bus, "tool.start")
        waiting = asyncio.ensure_future(wait())
        await turns()
        waiting.cancel()
        assert await soon(emission) == 1
        assert kept[0].cancelled()
        assert waiting.done()
        assert [record.levelno for record in records] == [logging.WARNING]

    @moments
    @on_every_loop
    async def test_a_handler_that_awaits_its_own_task_fails_as_anywhere_in_asyncio(
        self, bus: EventBus, suspends: bool, records: Records
    ) -> None:
        @bus.on("tool.start")
        async def handler(payload: object) -> None:
            if suspends:
                await asyncio.sleep(0)
            await current()

        await deliver(bus)
        (record,) = records
        assert "Task cannot await on itself" in record.getMessage()
