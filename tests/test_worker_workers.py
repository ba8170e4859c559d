"""Workers: to start them, to stop them, and to ask how they ended."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import soon, turns

from agent_event_bus.worker import EventBus, InboundEvent, SubscriberWorker, Worker


class Waiting(Worker):
    """Waits for a gate; says when it has begun, and how it ended."""

    def __init__(self, context: Any = None) -> None:
        super().__init__(context)
        self.begun = 0
        self.gate = asyncio.Event()
        self.error: BaseException | None = None
        self.ended = ""

    async def run(self) -> None:
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        if self.error is not None:
            raise self.error
        self.ended = "returned"


async def crashed(worker: Waiting, error: BaseException) -> None:
    worker.error = error
    worker.gate.set()
    await asyncio.wait([worker.start()])


class TestStart:
    async def test_it_runs_in_a_task_that_start_returns(self) -> None:
        worker = Waiting()
        task = worker.start()
        assert isinstance(task, asyncio.Task)
        assert worker.is_running()
        worker.gate.set()
        await soon(task)
        assert worker.ended == "returned"
        assert not worker.is_running()

    async def test_started_twice_it_runs_once(self) -> None:
        worker = Waiting()
        task = worker.start()
        await turns()
        assert worker.start() is task
        await turns()
        assert worker.begun == 1
        await worker.stop()

    async def test_it_can_be_started_again_after_its_end(self) -> None:
        worker = Waiting()
        first = worker.start()
        await turns()
        await worker.stop()
        second = worker.start()
        await turns()
        assert second is not first
        assert worker.begun == 2
        assert worker.is_running()
        await worker.stop()

    def test_without_a_loop_it_cannot_be_started(self) -> None:
        worker = SubscriberWorker(SimpleNamespace(eventbus=None))
        with pytest.raises(RuntimeError, match="no running event loop"):
            worker.start()
        assert not worker.is_running()

    def test_run_is_abstract(self) -> None:
        with pytest.raises(TypeError, match="abstract"):
            Worker()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]

    async def test_it_has_its_context_and_a_logger_of_its_class(self) -> None:
        context = object()
        worker = Waiting(context)
        assert worker.context is context
        assert worker.logger is logging.getLogger("agent_event_bus.worker.Waiting")
        assert EventBus().logger.name == "agent_event_bus.worker.EventBus"


class TestStop:
    async def test_it_is_cancelled_and_waited_for(self) -> None:
        worker = Waiting()
        worker.start()
        await turns()
        await soon(worker.stop())
        assert worker.ended == "cancelled"
        assert not worker.is_running()

    async def test_before_start_and_twice_it_does_nothing(self) -> None:
        worker = Waiting()
        await soon(worker.stop())
        worker.start()
        await worker.stop()  # in this very turn
        await soon(worker.stop())
        assert not worker.is_running()
        assert worker.begun == 0  # it was stopped before its first step

    async def test_a_worker_may_stop_itself(self) -> None:
        after: list[str] = []

        class SelfStopping(Worker):
            async def run(self) -> None:
                await self.stop()
                after.append("stop returned")
                await asyncio.sleep(0)
                after.append("not reached")

        task = SelfStopping().start()
        await soon(asyncio.wait([task]))
        assert task.cancelled()
        assert after == ["stop returned"]

    async def test_to_cancel_who_waits_for_the_end_does_not_undo_it(self) -> None:
        cleanup = asyncio.Event()

        class Slow(Worker):
            async def run(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    await cleanup.wait()

        worker = Slow()
        task = worker.start()
        await turns()
        stopping = asyncio.ensure_future(worker.stop())
        await turns()
        stopping.cancel()
        await asyncio.wait([stopping])
        assert worker.is_running()
        cleanup.set()
        await soon(asyncio.wait([task]))
        assert task.cancelled()

    async def test_a_worker_that_swallows_its_cancellation_is_waited_for(self) -> None:
        class Stubborn(Worker):
            async def run(self) -> None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await turns()

        worker = Stubborn()
        worker.start()
        await turns()
        await soon(worker.stop())
        assert not worker.is_running()
        assert not worker.has_crashed()

    def test_when_its_loop_was_closed_it_does_nothing(self) -> None:
        worker = SubscriberWorker(SimpleNamespace(eventbus=None))

        async def begin() -> None:
            worker.start()
            await turns()

        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # which hears of the task it lost
        loop.run_until_complete(begin())
        loop.close()
        assert not worker.is_running()
        asyncio.run(worker.stop())
        assert not worker.has_crashed()


class TestTheEnd:
    async def test_an_exception_is_a_crash(self, caplog: pytest.LogCaptureFixture) -> None:
        worker = Waiting()
        error = RuntimeError("boom")
        await crashed(worker, error)
        assert worker.has_crashed()
        assert worker.get_exception() is error
        assert not worker.is_running()

    async def test_a_crash_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        worker = Waiting()
        error = RuntimeError("boom")
        await crashed(worker, error)
        await turns()
        (record,) = caplog.records
        assert record.name == "agent_event_bus.worker.Waiting"
        assert record.levelname == "ERROR"
        assert record.getMessage() == "Worker 'Waiting' crashed: boom"
        assert record.exc_info is not None
        assert record.exc_info[1] is error

    async def test_an_error_that_does_not_tell_its_text_is_named_by_its_class(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Mute(Exception):  # noqa: N818
            def __str__(self) -> str:
                raise RuntimeError("no text")

        worker = Waiting()
        await crashed(worker, Mute())
        await turns()
        (record,) = caplog.records
        assert record.getMessage() == "Worker 'Waiting' crashed: Mute"

    async def test_cancelled_or_returned_it_has_not_crashed(self) -> None:
        worker = Waiting()
        worker.start()
        await turns()
        assert not worker.has_crashed()  # while it runs
        assert worker.get_exception() is None
        await worker.stop()
        assert not worker.has_crashed()
        assert worker.get_exception() is None
        worker.gate.set()
        await soon(worker.start())
        assert not worker.has_crashed()

    async def test_one_that_was_never_started_has_not_crashed(self) -> None:
        assert not Waiting().has_crashed()
        assert Waiting().get_exception() is None

    async def test_one_that_has_crashed_can_be_started_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = Waiting()
        await crashed(worker, RuntimeError("boom"))
        worker.error = None
        worker.gate.clear()
        worker.start()
        assert worker.is_running()
        assert not worker.has_crashed()
        assert worker.get_exception() is None
        worker.gate.set()
        await soon(worker.start())
        assert worker.ended == "returned"


class TestSubscriberWorker:
    async def test_it_is_idle_until_it_is_cancelled(self) -> None:
        worker = SubscriberWorker(SimpleNamespace(eventbus=EventBus()))
        task = worker.start()
        await turns()
        assert worker.is_running()
        task.cancel()
        await soon(asyncio.wait([task]))
        assert not worker.is_running()
        assert not worker.has_crashed()

    async def test_its_handlers_are_there_until_it_ends_and_again_when_it_is_started(self) -> None:
        bus = EventBus()
        worker = SubscriberWorker(SimpleNamespace(eventbus=bus))
        log: list[object] = []
        worker.subscribe(InboundEvent, lambda event: log.append(event.content))
        bus.start()

        async def publish(content: str) -> None:
            await bus.publish(InboundEvent("s", content))
            await soon(bus.join())

        await publish("made")
        worker.start()
        await publish("started")
        await worker.stop()
        await publish("stopped")
        worker.start()
        await turns()
        await publish("again")
        assert log == ["made", "started", "again"]
        await worker.stop()
        await bus.stop()

    async def test_it_may_end_without_ever_having_been_started(self) -> None:
        bus = EventBus()
        worker = SubscriberWorker(SimpleNamespace(eventbus=bus))
        worker.subscribe(InboundEvent, print)
        await worker.stop()
        assert bus.unsubscribe(print) == 0

    async def test_what_it_subscribes_after_its_end_comes_beside_the_rest(self) -> None:
        bus = EventBus()
        worker = SubscriberWorker(SimpleNamespace(eventbus=bus))
        log: list[str] = []
        worker.subscribe(InboundEvent, lambda event: log.append("first"))
        worker.start()
        await turns()
        await worker.stop()
        worker.subscribe(InboundEvent, lambda event: log.append("second"))
        worker.start()
        await turns()
        bus.start()
        await bus.publish(InboundEvent("s", 1))
        await soon(bus.join())
        assert log == ["first", "second"]
        await worker.stop()
        await bus.stop()

    async def test_cancelled_before_its_first_step_its_handlers_are_removed(self) -> None:
        bus = EventBus()
        worker = SubscriberWorker(SimpleNamespace(eventbus=bus))
        worker.subscribe(InboundEvent, print)
        task = worker.start()
        task.cancel()
        await soon(asyncio.wait([task]))
        await turns()
        assert bus.unsubscribe(print) == 0
