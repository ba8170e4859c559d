"""agent_event_bus.runtime: publish, what it waits for, and what fails or is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from typing import Any

import pytest
from helpers import LoopThread, Runaway, failing, soon, turns

from agent_event_bus.runtime import AgentEvent, EventBus, EventType

Records = list[logging.LogRecord]


def event(kind: EventType = EventType.CUSTOM) -> AgentEvent:
    """Return an event of the stream "inbox"."""
    return AgentEvent(kind, "inbox")


class Meter:
    """An async handler that knows how many of it run, and how many ever did at once."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running = self.most = self.called = 0

    async def __call__(self, event: AgentEvent) -> None:
        self.called += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1


@pytest.fixture
def bus() -> EventBus:
    """A fresh runtime bus."""
    return EventBus()


class TestDelivery:
    def test_it_is_a_coroutine_function(self, bus: EventBus) -> None:
        assert inspect.iscoroutinefunction(bus.publish)
        publication = bus.publish(event())
        assert asyncio.iscoroutine(publication)
        publication.close()

    async def test_it_does_nothing_until_it_is_awaited(self, bus: EventBus) -> None:
        got: list[AgentEvent] = []
        bus.subscribe("custom", got.append)
        publication = bus.publish(event())
        assert (got, bus.get_history()) == ([], [])
        assert await publication == 1
        assert len(got) == len(bus.get_history()) == 1

    async def test_it_returns_when_all_handlers_are_done(self, bus: EventBus) -> None:
        meters = [Meter() for _ in range(3)]
        for meter in meters:
            bus.subscribe("custom", meter)
        task = asyncio.ensure_future(bus.publish(event()))
        for meter in meters:
            await turns()
            assert not task.done()
            meter.gate.set()
        assert await soon(task) == 3

    async def test_handlers_run_concurrently(self, bus: EventBus) -> None:
        barrier: list[str] = []
        met = asyncio.Event()

        async def meet(event: AgentEvent) -> None:
            barrier.append("here")
            if len(barrier) == 5:
                met.set()
            await met.wait()

        for _ in range(5):
            bus.subscribe("custom", meet)
        assert await soon(bus.publish(event())) == 5

    async def test_the_number_of_handlers_called_is_returned(
        self, bus: EventBus, quiet_reports: None
    ) -> None:
        bus.subscribe("custom", failing(ValueError("broken")))
        bus.subscribe("custom", lambda event: None)
        bus.subscribe("custom", lambda event: None, filter_stream="other")
        assert await bus.publish(event()) == 2
        assert await bus.publish(event(EventType.NODE_RETRY)) == 0

    async def test_a_handler_that_never_suspends_costs_no_turn_of_the_loop(
        self, bus: EventBus
    ) -> None:
        got: list[AgentEvent] = []

        async def handler(event: AgentEvent) -> None:
            got.append(event)

        bus.subscribe("custom", handler)
        bus.subscribe("custom", handler)
        with pytest.raises(StopIteration) as end:
            bus.publish(event()).send(None)
        assert end.value.value == len(got) == 2

    async def test_a_handler_added_meanwhile_waits_for_the_next_event(self, bus: EventBus) -> None:
        got: list[AgentEvent] = []

        async def handler(event: AgentEvent) -> None:
            bus.subscribe("custom", got.append)

        bus.subscribe("custom", handler)
        assert await bus.publish(event()) == 1
        assert got == []

    async def test_each_handler_has_a_task_and_a_context_of_its_own(self, bus: EventBus) -> None:
        name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")
        seen: list[tuple[object, str]] = []

        async def handler(event: AgentEvent) -> None:
            seen.append((asyncio.current_task(), name.get()))
            name.set("handler")
            await asyncio.sleep(0)

        bus.subscribe("custom", handler)
        bus.subscribe("custom", handler)
        name.set("publisher")
        await bus.publish(event())
        assert [value for _, value in seen] == ["publisher"] * 2
        assert len({*(task for task, _ in seen), asyncio.current_task()}) == 3
        assert name.get() == "publisher"

    def test_without_a_loop_sync_handlers_can_be_reached_and_async_ones_need_one(
        self, bus: EventBus
    ) -> None:
        got: list[AgentEvent] = []
        bus.subscribe("custom", got.append)
        with pytest.raises(StopIteration) as end:
            bus.publish(event()).send(None)
        assert end.value.value == len(got) == 1

        async def handler(event: AgentEvent) -> None:
            got.append(event)

        bus.subscribe("custom", handler)
        with pytest.raises(RuntimeError, match="no running event loop"):
            bus.publish(event()).send(None)
        assert asyncio.run(bus.publish(event())) == 2

    async def test_what_is_no_event_is_refused(self, bus: EventBus) -> None:
        wrong = event()
        wrong.type = "nonsense"  # type: ignore[assignment]
        with pytest.raises(ValueError, match="'nonsense' is not a valid EventType"):
            await bus.publish(wrong)
        with pytest.raises(AttributeError):
            await bus.publish("custom")  # type: ignore[arg-type]
        assert bus.get_history() == []


class TestTheBound:
    @pytest.mark.parametrize("limit", [1, 2, 10])
    async def test_no_more_handlers_run_at_once(self, limit: int) -> None:
        bus = EventBus(max_concurrent_handlers=limit)
        meter = Meter()
        for _ in range(12):
            bus.subscribe("custom", meter)
        tasks = [asyncio.ensure_future(bus.publish(event())) for _ in range(3)]
        await turns()
        assert meter.running == limit
        meter.gate.set()
        assert await soon(asyncio.gather(*tasks)) == [12] * 3
        assert (meter.most, meter.called) == (limit, 36)

    async def test_those_that_wait_get_their_turn_in_order(self) -> None:
        bus = EventBus(max_concurrent_handlers=1)
        log: list[tuple[str, int]] = []

        async def handler(event: AgentEvent) -> None:
            await turns(event.data["iteration"] % 3)
            log.append(("handler", event.data["iteration"]))

        bus.subscribe("node_loop_iteration", handler)
        await soon(
            asyncio.gather(*(bus.emit_node_loop_iteration("s", "n", each) for each in range(20)))
        )
        assert log == [("handler", each) for each in range(20)]

    async def test_it_is_ten_unless_told_otherwise(self, bus: EventBus) -> None:
        meter = Meter()
        for _ in range(30):
            bus.subscribe("custom", meter)
        task = asyncio.ensure_future(bus.publish(event()))
        await turns()
        assert meter.running == 10
        meter.gate.set()
        assert await soon(task) == 30

    async def test_none_is_no_bound(self) -> None:
        bus = EventBus(max_concurrent_handlers=None)
        meter = Meter()
        for _ in range(30):
            bus.subscribe("custom", meter)
        task = asyncio.ensure_future(bus.publish(event()))
        await turns()
        assert meter.running == 30
        meter.gate.set()
        await soon(task)

    async def test_sync_handlers_do_not_wait(self) -> None:
        bus = EventBus(max_concurrent_handlers=1)
        meter = Meter()
        got: list[AgentEvent] = []
        bus.subscribe("custom", meter)
        bus.subscribe("node_retry", got.append)
        task = asyncio.ensure_future(bus.publish(event()))
        await turns()
        assert await bus.publish(event(EventType.NODE_RETRY)) == len(got) == 1
        meter.gate.set()
        await soon(task)

    async def test_failed_and_cancelled_handlers_make_room(self, quiet_reports: None) -> None:
        bus = EventBus(max_concurrent_handlers=1)

        async def fails(event: AgentEvent) -> None:
            await asyncio.sleep(0)
            raise ValueError("broken")

        for _ in range(20):
            bus.subscribe("custom", fails)
        assert await soon(bus.publish(event())) == 20
        stuck = Meter()
        bus.subscribe("node_retry", stuck)
        task = asyncio.ensure_future(bus.publish(event(EventType.NODE_RETRY)))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await soon(bus.publish(event())) == 20


class TestFailures:
    async def test_a_failure_is_logged_and_reaches_nobody(
        self, bus: EventBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        log: list[str] = []

        async def fails(event: AgentEvent) -> None:
            raise ValueError("first step")

        async def fails_later(event: AgentEvent) -> None:
            await asyncio.sleep(0)
            raise ValueError("resumed")

        async def works(event: AgentEvent) -> None:
            await asyncio.sleep(0)
            log.append("done")

        for handler in (failing(ValueError("sync")), fails, fails_later, works):
            bus.subscribe("custom", handler)
        secret = event()
        secret.data["key"] = "hunter2"
        assert await bus.publish(secret) == 4
        assert log == ["done"]
        assert [(r.name, r.levelname) for r in caplog.records] == [
            ("agent_event_bus.runtime", "ERROR")
        ] * 3
        messages = [record.getMessage() for record in caplog.records]
        assert [message.rpartition(": ")[2] for message in messages] == [
            "sync",
            "first step",
            "resumed",
        ]
        assert "fails' raised on event 'custom'" in messages[1]
        assert "hunter2" not in caplog.text

    async def test_a_handler_that_is_cancelled_disturbs_nobody(
        self, bus: EventBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        log: list[str] = []

        async def cancels_itself(event: AgentEvent) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        async def raises_it(event: AgentEvent) -> None:
            raise asyncio.CancelledError

        async def works(event: AgentEvent) -> None:
            await turns()
            log.append("done")

        for handler in (cancels_itself, raises_it, works):
            bus.subscribe("custom", handler)
        assert await soon(bus.publish(event())) == 3
        assert log == ["done"]
        assert [(r.name, r.levelname) for r in caplog.records] == [
            ("agent_event_bus.runtime", "WARNING")
        ] * 2

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Runaway()], ids=repr)
    async def test_what_is_no_exception_comes_out_when_the_others_are_over(
        self, bus: EventBus, error: BaseException
    ) -> None:
        meter = Meter()

        async def interrupts(event: AgentEvent) -> None:
            raise error

        bus.subscribe("custom", meter)
        bus.subscribe("custom", interrupts)
        with pytest.raises(type(error)):
            await bus.publish(event())
        assert (meter.called, meter.running) == (1, 0)


class TestCancellation:
    async def test_the_publisher_takes_its_handlers_along_and_waits_for_them(
        self, bus: EventBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        cleanup = asyncio.Event()
        log: list[str] = []

        async def handler(event: AgentEvent) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await cleanup.wait()
                log.append("clean")

        bus.subscribe("custom", handler)
        task = asyncio.ensure_future(bus.publish(event()))
        await turns()
        task.cancel()
        await turns()
        assert not task.done()
        cleanup.set()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert log == ["clean"]
        assert caplog.records == []

    async def test_a_handler_that_waits_for_its_turn_is_never_called(self) -> None:
        bus = EventBus(max_concurrent_handlers=1)
        meter = Meter()
        for _ in range(3):
            bus.subscribe("custom", meter)
        task = asyncio.ensure_future(bus.publish(event()))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert meter.called == 1

    async def test_a_timeout_around_it_works(self, bus: EventBus) -> None:
        meter = Meter()
        bus.subscribe("custom", meter)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bus.publish(event()), 0.02)
        assert meter.running == 0
        assert len(bus.get_history()) == 1


class TestThreads:
    def test_any_thread_and_loop_may_publish(self, bus: EventBus) -> None:
        threads: set[int] = set()
        count = [0]
        lock, start = threading.Lock(), threading.Barrier(4)

        async def handler(event: AgentEvent) -> None:
            await asyncio.sleep(0)
            with lock:
                threads.add(threading.get_ident())
                count[0] += 1

        bus.subscribe("custom", handler)
        bus.subscribe("custom", handler, filter_stream="inbox")

        async def publish() -> None:
            for _ in range(50):
                assert await bus.publish(event()) == 2

        def work() -> None:
            start.wait()  # threads that end before others begin would share their numbers
            asyncio.run(publish())

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert count[0] == 400
        assert len(threads) == 4
        assert bus.get_stats()["total_events"] == 200

    async def test_the_bound_is_that_of_all_loops_together(self) -> None:
        bus = EventBus(max_concurrent_handlers=1)
        here = Meter()
        got: list[AgentEvent] = []

        async def handler(event: AgentEvent) -> None:
            got.append(event)

        bus.subscribe("custom", here)
        bus.subscribe("node_retry", handler)
        task = asyncio.ensure_future(bus.publish(event()))
        await turns()
        with LoopThread() as other:
            elsewhere = asyncio.run_coroutine_threadsafe(
                bus.publish(event(EventType.NODE_RETRY)), other.loop
            )
            other.run(turns())
            assert got == []
            here.gate.set()
            await soon(task)
            assert await soon(asyncio.wrap_future(elsewhere)) == len(got) == 1


async def test_what_a_handler_does_to_the_event_is_seen_by_the_next_ones(bus: EventBus) -> None:
    seen: list[Any] = []
    bus.subscribe("custom", lambda event: event.data.update(seen=True))
    bus.subscribe("custom", lambda event: seen.append(event.data))
    await bus.publish(event())
    assert seen == [{"seen": True}]
    assert bus.get_history()[0].data == {"seen": True}
