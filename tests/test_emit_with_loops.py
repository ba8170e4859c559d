"""Async handlers under emit: in a running loop, and without any loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import warnings
import weakref
from typing import Any, Callable

import pytest
from helpers import DEADLINE, anote, failing, is_gone, note, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


class TestRunningLoop:
    async def test_handlers_become_tasks_that_start_later(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "async"))
        bus.on("a", note(log, "sync"))
        assert bus.emit("a") == 2
        assert log == ["sync"]
        await soon(bus.drain())
        assert log == ["sync", "async"]

    async def test_the_caller_need_not_await_anything(self, bus: EventBus) -> None:
        done = asyncio.Event()

        @bus.on("a")
        async def handler(payload: object) -> None:
            await turns()
            done.set()

        bus.emit("a")
        await soon(done.wait())
        assert done.is_set()

    async def test_a_handler_cancelled_before_its_task_started_is_skipped(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []
        victim = bus.subscribe("a", anote(log, "victim"))
        bus.on("a", anote(log, "after"))
        bus.emit("a")
        victim.cancel()
        await soon(bus.drain())
        assert log == ["after"]

    async def test_each_handler_has_its_own_task_and_a_copy_of_the_callers_context(
        self, bus: EventBus
    ) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        seen: list[str] = []
        tasks: list[object] = []

        def make(label: str) -> Callable[[object], Any]:
            async def handler(payload: object) -> None:
                tasks.append(asyncio.current_task())
                seen.append(variable.get())
                variable.set(label)
                await turns()
                seen.append(variable.get())

            return handler

        bus.on("a", make("first"))
        bus.on("a", make("second"))
        variable.set("at emit")
        bus.emit("a")
        variable.set("after emit")
        await soon(bus.drain())
        assert sorted(seen) == ["at emit", "at emit", "first", "second"]
        assert variable.get() == "after emit"
        assert len({id(task) for task in tasks}) == 2
        assert asyncio.current_task() not in tasks

    async def test_a_suspended_handler_is_never_garbage_collected(self, bus: EventBus) -> None:
        log: list[str] = []
        release: list[weakref.ref[asyncio.Future[None]]] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            # Nothing but this frame holds the future, and nothing but the future the task.
            future = asyncio.get_running_loop().create_future()
            release.append(weakref.ref(future))
            await future
            log.append("finished")

        bus.emit("a")
        await turns()
        for _ in range(3):
            gc.collect()
        future = release[0]()
        assert future is not None, "the handler was collected while it waited"
        future.set_result(None)
        del future
        await soon(bus.drain())
        assert log == ["finished"]

    async def test_a_handler_outlives_the_last_reference_to_its_bus(self) -> None:
        done = asyncio.Event()
        bus = EventBus()

        @bus.on("a")
        async def handler(payload: object) -> None:
            await turns()
            done.set()

        bus.emit("a")
        del bus, handler
        gc.collect()
        await soon(done.wait())
        assert done.is_set()

    async def test_errors_are_reported_and_never_left_in_a_task(
        self, bus: EventBus, records: Records
    ) -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: complaints.append(context)
        )

        @bus.on("a")
        async def fails(payload: object) -> None:
            await asyncio.sleep(0)
            raise ValueError("late")

        assert bus.emit("a") == 1
        await soon(bus.drain())
        gc.collect()
        await turns()
        assert [record.getMessage().rsplit(": ", 1)[1] for record in records] == ["late"]
        assert complaints == []

    async def test_a_finished_handler_is_forgotten(self, bus: EventBus) -> None:
        class Payload:
            pass

        payload = Payload()
        ref = weakref.ref(payload)

        @bus.on("a")
        async def handler(payload: object) -> None:
            await asyncio.sleep(0)

        bus.emit("a", payload)
        await soon(bus.drain())
        del payload
        await turns()
        assert is_gone(ref)

    async def test_calls_count_when_delivered(self, bus: EventBus) -> None:
        async def fails(payload: object) -> None:
            raise ValueError

        subscription = bus.subscribe("a", fails)
        bus.emit("a")
        bus.emit("a")
        await soon(bus.drain())
        assert (subscription.calls, subscription.failures) == (2, 2)

    async def test_it_works_from_a_callback_outside_of_any_task(self, bus: EventBus) -> None:
        done = asyncio.Event()

        @bus.on("a")
        async def handler(payload: object) -> None:
            done.set()

        asyncio.get_running_loop().call_soon(bus.emit, "a")
        await soon(done.wait())
        assert done.is_set()

    async def test_a_worker_thread_runs_async_handlers_to_completion_itself(
        self, bus: EventBus
    ) -> None:
        threads: list[int] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            await turns()
            threads.append(threading.get_ident())

        def work() -> int:
            count = bus.emit("a")
            assert threads == [threading.get_ident()]
            return count

        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, work) == 1
        assert threads[0] != threading.get_ident()

    async def test_an_interrupt_while_a_task_is_made_comes_out_of_emit(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []

        def interrupted(*args: object, **options: object) -> Any:
            raise KeyboardInterrupt

        loop = asyncio.get_running_loop()
        bus.on("a", anote(log, "first"))
        bus.on("a", anote(log, "second"))
        loop.set_task_factory(interrupted)
        try:
            with pytest.raises(KeyboardInterrupt):
                bus.emit("a")
        finally:
            loop.set_task_factory(None)
        assert await soon(bus.drain()) == []
        assert log == []
        assert bus.emit("a") == 2
        assert await soon(bus.drain()) == []
        assert log == ["first", "second"]
        assert records == []

    def test_handlers_not_started_when_the_loop_ends_leave_no_warning(
        self, bus: EventBus, recwarn: pytest.WarningsRecorder
    ) -> None:
        bus.on("a", anote([], "never"))

        async def main() -> None:
            bus.emit("a")

        asyncio.run(main())
        gc.collect()
        assert [str(warning.message) for warning in recwarn] == []


class TestNoLoop:
    def test_handlers_run_to_completion_before_emit_returns(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            log.append("starts")
            await turns()
            log.append("ends")

        bus.on("a", note(log, "sync"))
        assert bus.emit("a") == 2
        assert log == ["sync", "starts", "ends"]

    def test_they_run_concurrently(self, bus: EventBus) -> None:
        log: list[str] = []
        gate: list[asyncio.Event] = []

        @bus.on("a")
        async def waits(payload: object) -> None:
            gate.append(asyncio.Event())
            await soon(gate[0].wait())
            log.append("was let in")

        @bus.on("a")
        async def opens(payload: object) -> None:
            gate[0].set()

        assert bus.emit("a") == 2
        assert log == ["was let in"]

    def test_each_has_its_own_task_and_a_copy_of_the_context(self, bus: EventBus) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        seen: list[Any] = []

        async def handler(payload: object) -> None:
            seen.append((variable.get(), asyncio.current_task()))
            variable.set("changed")

        bus.subscribe("a", handler)
        bus.subscribe("a", handler)

        def emit() -> str:
            variable.set("caller")
            bus.emit("a")
            return variable.get()

        assert contextvars.copy_context().run(emit) == "caller"
        (first, first_task), (second, second_task) = seen
        assert (first, second) == ("caller", "caller")
        assert first_task is not second_task

    def test_errors_are_reported(self, bus: EventBus, records: Records) -> None:
        log: list[str] = []

        @bus.on("a")
        async def fails(payload: object) -> None:
            await asyncio.sleep(0)
            raise ValueError("alone")

        bus.on("a", anote(log, "after"))
        assert bus.emit("a") == 2
        assert log == ["after"]
        assert [record.getMessage().rsplit(": ", 1)[1] for record in records] == ["alone"]

    def test_a_loop_that_cannot_be_made_is_a_failure_of_every_handler(
        self, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
    ) -> None:
        log: list[str] = []

        class Messages:
            """A logger that keeps no traceback, and with it nothing that the warning is about."""

            def error(self, message: str, *args: object, **options: object) -> None:
                log.append((message % args).rsplit(": ", 1)[1])

            warning = error

        bus_type: Any = EventBus
        bus = bus_type(logger=Messages())
        bus.on("a", note(log, "sync"))
        for _ in range(2):
            bus.subscribe("a", anote(log, "async"))
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "new_event_loop", failing(OSError("too many open files")))
            assert bus.emit("a") == 3
        gc.collect()
        assert log == ["sync", "too many open files", "too many open files"]
        assert [str(warning.message) for warning in recwarn] == []

    def test_what_handlers_emit_in_turn_finishes_too(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a")
        async def first(payload: object) -> None:
            await asyncio.sleep(0)
            assert bus.emit("b") == 1
            log.append("a")

        @bus.on("b")
        async def second(payload: object) -> None:
            await turns()
            assert bus.emit("c") == 1
            log.append("b")

        @bus.on("c")
        async def third(payload: object) -> None:
            await turns()
            log.append("c")

        assert bus.emit("a") == 1
        assert log == ["a", "b", "c"]

    def test_a_nested_emit_in_a_sync_handler_finishes_inline(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("b")
        async def inner(payload: object) -> None:
            await turns()
            log.append("inner")

        @bus.on("a")
        def outer(payload: object) -> None:
            bus.emit("b")
            log.append("outer")

        bus.on("a", anote(log, "outer async"))
        bus.emit("a")
        assert log == ["inner", "outer", "outer async"]

    def test_other_buses_may_emit_on_the_private_loop(self, bus: EventBus) -> None:
        log: list[str] = []
        other = EventBus()

        @other.on("b")
        async def inner(payload: object) -> None:
            await turns()
            log.append("other bus")

        @bus.on("a")
        async def outer(payload: object) -> None:
            await other.emit_async("b")

        assert bus.emit("a") == 1
        assert log == ["other bus"]

    def test_the_current_event_loop_of_the_thread_is_left_alone(self, bus: EventBus) -> None:
        bus.on("a", anote([], "h"))
        outcome: list[object] = []

        def with_a_loop() -> None:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            bus.emit("a")
            outcome.append(asyncio.get_event_loop() is loop and not loop.is_closed())
            asyncio.set_event_loop(None)
            loop.close()

        def without_a_loop() -> None:
            bus.emit("a")
            with pytest.raises(RuntimeError):
                asyncio.get_event_loop()
            outcome.append(True)

        for target in (with_a_loop, without_a_loop):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join(DEADLINE)
        assert outcome == [True, True]

    def test_a_task_the_handler_left_behind_is_cancelled_without_a_complaint(
        self, bus: EventBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        kept: list[asyncio.Task[Any]] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            kept.append(asyncio.create_task(asyncio.Event().wait()))
            await asyncio.sleep(0)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert bus.emit("a") == 1
            assert kept[0].cancelled()
            kept.clear()
            gc.collect()
        assert caplog.records == []

    def test_what_handlers_emit_on_another_bus_finishes_as_well(self, bus: EventBus) -> None:
        other = EventBus()
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            other.emit("b")

        @other.on("b")
        async def other_handler(payload: object) -> None:
            await asyncio.sleep(0)
            log.append("finished")

        assert bus.emit("a") == 1
        assert log == ["finished"]

    def test_every_thread_has_its_own(self, bus: EventBus) -> None:
        meeting = threading.Barrier(4, timeout=DEADLINE)
        loops: list[object] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            loops.append(asyncio.get_running_loop())
            # All four are inside a handler at once: none waits for another's emission.
            meeting.wait()

        threads = [threading.Thread(target=bus.emit, args=("a",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert len(set(map(id, loops))) == 4
