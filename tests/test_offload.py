"""offload=True: sync handlers that run in a worker thread, and inline where there is no loop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from helpers import DEADLINE, LoopThread, anote, failing, is_gone, note, recorder, soon

from agent_event_bus import Event, EventBus

Records = list[logging.LogRecord]


@pytest.fixture
def left_over(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was handed to ``threading.excepthook``, in order."""
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_value))
    return seen


async def happened(event: threading.Event) -> None:
    """Wait for an event of another thread, without the loop's own executor, which may be full."""
    with ThreadPoolExecutor(1) as pool:
        assert await asyncio.get_running_loop().run_in_executor(pool, event.wait, DEADLINE)


class Blocking:
    """A sync handler that blocks its thread until it is let go."""

    def __init__(self) -> None:
        self.started, self.gate, self.ended = (threading.Event() for _ in range(3))

    def __call__(self, payload: object) -> None:
        self.started.set()
        assert self.gate.wait(DEADLINE)
        self.ended.set()

    async def wait_until_started(self) -> None:
        await happened(self.started)


class TestTheOption:
    def test_a_subscription_shows_it(self, bus: EventBus) -> None:
        assert bus.subscribe("a", print, offload=True).offload is True
        assert bus.subscribe("a", print).offload is False

    @pytest.mark.parametrize("method", ["on", "once", "subscribe"])
    @pytest.mark.parametrize("value", [1, None, "yes"])
    def test_what_is_no_bool_is_refused(self, bus: EventBus, method: str, value: Any) -> None:
        with pytest.raises(TypeError, match="offload must be a bool"):
            getattr(bus, method)("a", print, offload=value)
        assert len(bus) == 0

    def test_coroutine_functions_are_refused(self, bus: EventBus) -> None:
        async def handler(payload: object) -> None: ...

        class Callable:
            async def __call__(self, payload: object) -> None: ...

            async def method(self, payload: object) -> None: ...

        for callable_ in (handler, partial(handler), Callable(), Callable().method):
            with pytest.raises(TypeError, match="offload is for sync handlers"):
                bus.on("a", callable_, offload=True)
            with pytest.raises(TypeError, match="offload is for sync handlers"):
                bus.on("a", offload=True)(callable_)
        assert len(bus) == 0

    async def test_a_decorator_takes_it(self, bus: EventBus) -> None:
        threads: list[int] = []

        @bus.on("a", offload=True)
        def handler(payload: object) -> None:
            threads.append(threading.get_ident())

        assert await soon(bus.emit_async("a")) == 1
        assert threads != [threading.get_ident()]
        assert len(threads) == 1

    def test_it_stands_among_the_async_handlers(self, bus: EventBus) -> None:
        offloaded = bus.subscribe("a", print, priority=-1, offload=True)
        first = bus.subscribe("a", anote([], "async"), priority=-2)
        sync = bus.subscribe("a", note([], "sync"))
        assert bus.handlers("a") == (sync, first, offloaded)


class TestEmitAsync:
    async def test_it_runs_in_a_worker_thread_and_is_awaited(self, bus: EventBus) -> None:
        log: list[Any] = []
        handler = recorder(log, "offloaded")

        def remember(payload: object) -> None:
            handler(payload, threading.get_ident() == main)

        main = threading.get_ident()
        bus.on("a", remember, offload=True)
        bus.on("a", note(log, "sync"))
        assert await soon(bus.emit_async("a", 5)) == 2
        assert log == ["sync", ("offloaded", 5, False)]

    async def test_a_blocking_handler_holds_up_neither_the_loop_nor_its_siblings(
        self, bus: EventBus
    ) -> None:
        blocking = Blocking()
        log: list[str] = []
        bus.on("a", blocking, offload=True)

        @bus.on("a")
        async def sibling(payload: object) -> None:
            await blocking.wait_until_started()
            log.append("sibling")
            blocking.gate.set()

        assert await soon(bus.emit_async("a")) == 2
        assert log == ["sibling"]
        assert blocking.ended.is_set()

    async def test_several_run_at_the_same_time(self, bus: EventBus) -> None:
        meeting = threading.Barrier(2, timeout=DEADLINE)
        arrived: list[int] = []

        def meet(payload: object) -> None:
            arrived.append(meeting.wait())

        bus.on("a", meet, offload=True)
        bus.on("a", meet, offload=True)
        assert await soon(bus.emit_async("a")) == 2
        assert sorted(arrived) == [0, 1]

    async def test_every_form_is_called_as_always(self, bus: EventBus) -> None:
        got: list[Any] = []

        def envelope(event: Event) -> None:
            got.append((event.name, event.payload))

        bus.on("a", lambda payload: got.append(payload), offload=True)
        await soon(bus.emit_async("a", 1))
        bus.clear()
        bus.on("*", lambda name, payload: got.append((name, payload)), offload=True)
        await soon(bus.emit_async("b", 2))
        bus.clear()
        bus.on("*", envelope, envelope=True, offload=True)
        await soon(bus.emit_async("c", 3))
        assert got == [1, ("b", 2), ("c", 3)]

    async def test_it_sees_a_copy_of_the_callers_context(self, bus: EventBus) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        seen: list[str] = []

        @bus.on("a", offload=True)
        def handler(payload: object) -> None:
            seen.append(variable.get("unset"))
            variable.set("changed by the handler")

        variable.set("caller")
        await soon(bus.emit_async("a"))
        assert seen == ["caller"]
        assert variable.get() == "caller"

    async def test_calls_and_failures_are_counted(self, bus: EventBus) -> None:
        subscription = bus.subscribe("a", failing(ValueError()), offload=True)
        for _ in range(3):
            assert await soon(bus.emit_async("a")) == 1
        assert (subscription.calls, subscription.failures) == (3, 3)

    async def test_a_once_handler_is_called_once(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.once("a", note(log, "once"), offload=True)
        assert [await soon(bus.emit_async("a")) for _ in range(2)] == [1, 0]
        assert log == ["once"]

    async def test_an_awaitable_that_it_returns_is_awaited_in_the_loop(self, bus: EventBus) -> None:
        log: list[int] = []

        async def rest() -> None:
            await asyncio.sleep(0)
            log.append(threading.get_ident())

        bus.on("a", lambda payload: rest(), offload=True)
        assert await soon(bus.emit_async("a")) == 1
        assert log == [threading.get_ident()]

    async def test_it_may_emit(self, bus: EventBus) -> None:
        got: list[Any] = []
        bus.on("b", got.append)
        bus.on("a", lambda payload: bus.emit("b", payload), offload=True)
        assert await soon(bus.emit_async("a", 4)) == 1
        assert got == [4]

    async def test_what_it_was_given_is_released(self, bus: EventBus) -> None:
        class Payload:
            pass

        payload = Payload()
        ref = weakref.ref(payload)
        bus.on("a", lambda payload: None, offload=True)
        await soon(bus.emit_async("a", payload))
        del payload
        await soon(bus.emit_async("a"))  # the worker holds its last job until the next one
        assert is_gone(ref)


class TestErrors:
    async def test_a_failure_is_reported_in_the_same_words(
        self, bus: EventBus, records: Records
    ) -> None:
        reported: list[Any] = []
        bus = EventBus(on_error=lambda *args: reported.append(args))
        error = ValueError("no")
        handler = failing(error)
        bus.on("a", handler, offload=True)
        assert await soon(bus.emit_async("a")) == 1
        (record,) = records
        assert record.getMessage() == f"Handler '{handler.__qualname__}' raised on event 'a': no"
        assert record.exc_info is not None
        assert record.exc_info[1] is error
        assert reported == [("a", handler, error)]

    async def test_stop_iteration_is_a_failure_and_no_hang(
        self, bus: EventBus, records: Records
    ) -> None:
        bus.on("a", failing(StopIteration("over")), offload=True)
        assert await soon(bus.emit_async("a")) == 1
        assert [r.levelname for r in records] == ["ERROR"]

    async def test_cancelled_error_counts_as_cancelled(
        self, bus: EventBus, records: Records
    ) -> None:
        bus.on("a", failing(asyncio.CancelledError()), offload=True)
        assert await soon(bus.emit_async("a")) == 1
        assert [r.getMessage() for r in records] == [
            "Handler 'failing.<locals>.boom' was cancelled on event 'a'"
        ]

    async def test_what_is_no_exception_comes_out(self, bus: EventBus) -> None:
        class Stop(BaseException):
            pass

        bus.on("a", failing(Stop("now")), offload=True)
        with pytest.raises(Stop, match="now"):
            await soon(bus.emit_async("a"))


class TestCancellation:
    async def test_cancelling_does_not_wait_for_the_thread(
        self, bus: EventBus, records: Records
    ) -> None:
        blocking = Blocking()
        bus.on("a", blocking, offload=True)
        task = asyncio.ensure_future(bus.emit_async("a"))
        await soon(blocking.wait_until_started())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert not blocking.ended.is_set()
        blocking.gate.set()
        assert blocking.ended.wait(DEADLINE)
        assert records == []

    async def test_an_error_that_comes_later_goes_to_the_thread_hook(
        self, bus: EventBus, records: Records, left_over: list[Any]
    ) -> None:
        started, gate = threading.Event(), threading.Event()

        def handler(payload: object) -> None:
            started.set()
            gate.wait(DEADLINE)
            raise ValueError("late")

        bus.on("a", handler, offload=True)
        task = asyncio.ensure_future(bus.emit_async("a"))
        await happened(started)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert left_over == []
        gate.set()
        await soon(asyncio.get_running_loop().shutdown_default_executor())
        assert [str(error) for error in left_over] == ["late"]
        assert records == []

    async def test_a_coroutine_that_comes_later_is_closed(self, bus: EventBus) -> None:
        started, gate = threading.Event(), threading.Event()
        log: list[str] = []
        made: list[Any] = []

        def handler(payload: object) -> Any:
            started.set()
            gate.wait(DEADLINE)
            made.append(anote(log, "never")())
            return made[0]

        bus.on("a", handler, offload=True)
        task = asyncio.ensure_future(bus.emit_async("a"))
        await happened(started)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        gate.set()
        await soon(asyncio.get_running_loop().shutdown_default_executor())
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            made[0].send(None)
        assert log == []

    async def test_one_that_the_executor_had_no_thread_for_never_runs(self, bus: EventBus) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        blocking = Blocking()
        log: list[str] = []
        bus.on("a", blocking, offload=True)
        bus.on("a", note(log, "waiting in the queue"), offload=True)
        task = asyncio.ensure_future(bus.emit_async("a"))
        await soon(blocking.wait_until_started())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        blocking.gate.set()
        await soon(asyncio.get_running_loop().shutdown_default_executor())
        assert log == []


class TestEmitInALoop:
    async def test_it_is_pending_work(self, bus: EventBus) -> None:
        blocking = Blocking()
        subscription = bus.subscribe("a", blocking, offload=True)
        assert bus.emit("a") == 1
        assert subscription.calls == 0
        await soon(blocking.wait_until_started())
        assert await bus.drain(timeout=0) == ["a -> Blocking"]
        blocking.gate.set()
        assert await soon(bus.drain()) == []
        assert blocking.ended.is_set()
        assert subscription.calls == 1

    async def test_max_pending_applies_to_it(self, records: Records) -> None:
        bus = EventBus(max_pending=1)
        blocking = Blocking()
        bus.on("a", blocking, offload=True)
        assert [bus.emit("a"), bus.emit("a")] == [1, 0]
        blocking.gate.set()
        await soon(bus.drain())
        assert [r.levelname for r in records] == ["WARNING"]

    async def test_a_failure_is_reported(self, bus: EventBus, records: Records) -> None:
        bus.on("a", failing(ValueError("no")), offload=True)
        bus.emit("a")
        await soon(bus.drain())
        assert [r.levelname for r in records] == ["ERROR"]

    def test_with_a_bound_loop_it_runs_in_a_worker_of_that_loop(self, other: LoopThread) -> None:
        bus = EventBus(loop=other.loop)
        threads: list[int] = []
        bus.on("a", lambda payload: threads.append(threading.get_ident()), offload=True)
        assert bus.emit("a") == 1
        other.run(bus.drain())
        other.run(other.loop.shutdown_default_executor())
        assert len(threads) == 1
        assert threads[0] not in (threading.get_ident(), other.thread.ident)


class TestEmitWithoutALoop:
    def test_it_runs_inline_after_the_sync_and_before_the_async_handlers(
        self, bus: EventBus
    ) -> None:
        log: list[Any] = []

        def offloaded(payload: object) -> None:
            log.append(("offloaded", payload, threading.get_ident()))

        bus.on("a", anote(log, "async"), priority=-2)
        bus.on("a", offloaded, priority=-1, offload=True)
        bus.on("a", note(log, "sync"))
        assert bus.emit("a", 3) == 3
        assert log == ["sync", ("offloaded", 3, threading.get_ident()), "async"]

    def test_there_is_no_event_loop_for_it(
        self, bus: EventBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log: list[str] = []
        monkeypatch.setattr(asyncio, "new_event_loop", failing(AssertionError("a loop was made")))
        bus.on("a", note(log, "offloaded"), offload=True)
        assert bus.emit("a") == 1
        assert log == ["offloaded"]

    def test_several_run_in_their_order(self, bus: EventBus) -> None:
        log: list[int] = []
        for priority in (3, 1, 2):
            bus.on("a", note(log, priority), priority=priority, offload=True)
        assert bus.emit("a") == 3
        assert log == [1, 2, 3]

    def test_a_failure_is_reported_and_disturbs_nobody(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []
        subscription = bus.subscribe("a", failing(ValueError("no")), offload=True)
        bus.on("a", note(log, "next"), offload=True)
        bus.on("a", anote(log, "async"))
        assert bus.emit("a") == 3
        assert log == ["next", "async"]
        assert subscription.failures == 1
        assert [r.getMessage() for r in records] == [
            "Handler 'failing.<locals>.boom' raised on event 'a': no"
        ]

    def test_an_interrupt_starts_no_async_handler(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", lambda payload: anote(log, "late")())  # must be closed, or it would warn
        bus.on("a", anote(log, "async"))
        bus.on("a", failing(KeyboardInterrupt()), offload=True)
        with pytest.raises(KeyboardInterrupt):
            bus.emit("a")
        assert log == []

    def test_a_once_handler_is_called_once(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.once("a", note(log, "once"), offload=True)
        assert [bus.emit("a"), bus.emit("a")] == [1, 0]
        assert log == ["once"]

    def test_one_that_was_removed_before_its_turn_is_skipped(self, bus: EventBus) -> None:
        log: list[str] = []
        second = bus.subscribe("a", note(log, "second"), priority=1, offload=True)
        bus.on("a", lambda payload: second.cancel(), offload=True)
        assert bus.emit("a") == 1
        assert log == []

    def test_an_awaitable_that_it_returns_takes_its_place_among_the_async_handlers(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "fourth"), priority=4)
        bus.on("a", lambda payload: anote(log, "third")(), priority=3)
        bus.on("a", lambda payload: anote(log, "second")(), priority=2, offload=True)
        bus.on("a", anote(log, "first"), priority=1)
        bus.on("a", lambda payload: anote(log, "zeroth")(), priority=0, offload=True)
        assert bus.emit("a") == 5
        assert log == ["zeroth", "first", "second", "third", "fourth"]

    def test_a_runaway_handler_ends_in_one_report(self, bus: EventBus, records: Records) -> None:
        calls: list[int] = []

        @bus.on("a", offload=True)
        def again(payload: object) -> None:
            calls.append(1)
            bus.emit("a")

        assert bus.emit("a") == 1
        assert len(calls) < 2 * sys.getrecursionlimit()
        assert [r.exc_info[0] for r in records if r.exc_info] == [RecursionError]
