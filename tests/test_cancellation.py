"""Cancelling an emission from outside, a handler from elsewhere, and interrupts from within."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from typing import Any, Callable

import pytest
from helpers import anote, begin, failing, lingering, note, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


class Interruption(BaseException):
    """Neither an Exception nor one of Python's own exits."""


class Sleeper:
    """An async handler that waits until it is cancelled or released, and remembers which."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.task: Any = None
        self.ended = ""

    async def handle(self, payload: object) -> None:
        self.task = asyncio.current_task()
        self.started.set()
        try:
            await self.release.wait()
            self.ended = "released"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


class TestOuterCancellation:
    async def test_before_the_start_nothing_runs(self, bus: EventBus) -> None:
        bus.on("a", lambda payload: pytest.fail("delivered"))
        task = asyncio.create_task(bus.emit_async("a"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)

    @pytest.mark.parametrize("finished", [0, 1, 3])
    @pytest.mark.parametrize("suspended", [1, 3])
    async def test_every_unfinished_handler_is_cancelled_and_the_finished_are_left_alone(
        self, bus: EventBus, records: Records, finished: int, suspended: int
    ) -> None:
        log: list[str] = []
        sleepers = [Sleeper() for _ in range(suspended)]
        for sleeper in sleepers:
            bus.on("a", sleeper.handle)
        for _ in range(finished):
            bus.on("a", anote(log, "finished"))
        task = await begin(bus)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert task.cancelled()
        assert [sleeper.ended for sleeper in sleepers] == ["cancelled"] * suspended
        assert log == ["finished"] * finished
        assert not [record for record in records if record.levelno > logging.WARNING]

    async def test_it_waits_for_slow_cleanup(self, bus: EventBus) -> None:
        cleanup = asyncio.Event()
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                log.append("cleaning")
                await cleanup.wait()
                log.append("clean")

        task = await begin(bus)
        task.cancel()
        await turns()
        assert log == ["cleaning"]
        assert not task.done()
        cleanup.set()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert log == ["cleaning", "clean"]

    async def test_a_handler_that_swallows_the_cancellation_does_not_hide_it(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []
        go_on = asyncio.Event()

        @bus.on("a")
        async def stubborn(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("swallowed")
            await go_on.wait()
            log.append("finished its work")

        task = await begin(bus)
        task.cancel()
        await turns()
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert log == ["swallowed", "finished its work"]
        assert records == []

    async def test_an_error_in_cleanup_is_reported_and_the_cancellation_comes_out(
        self, bus: EventBus, records: Records
    ) -> None:
        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("in finally")

        sibling = Sleeper()
        bus.on("a", sibling.handle)
        task = await begin(bus)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        errors = [record for record in records if record.levelno == logging.ERROR]
        assert [record.getMessage().rsplit(": ", 1)[1] for record in errors] == ["in finally"]
        assert sibling.ended == "cancelled"

    async def test_cancelling_twice_still_waits_for_every_handler(self, bus: EventBus) -> None:
        cleanup = asyncio.Event()
        log: list[str] = []
        bus.on("a", lingering(log, cleanup))
        task = await begin(bus)
        for _ in range(2):
            task.cancel()
            await turns()
            assert not task.done()
        cleanup.set()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert log[-1] == "clean"

    async def test_handlers_that_finish_in_the_same_turn_do_not_get_lost(
        self, bus: EventBus
    ) -> None:
        sleepers = [Sleeper(), Sleeper()]
        for sleeper in sleepers:
            bus.on("a", sleeper.handle)
        task = await begin(bus)
        for sleeper in sleepers:
            sleeper.release.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert all(sleeper.ended for sleeper in sleepers)

    async def test_a_sync_handler_may_cancel_the_emission_it_is_part_of(
        self, bus: EventBus
    ) -> None:
        sleeper = Sleeper()

        @bus.on("a")
        def cancel(payload: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

        bus.on("a", sleeper.handle)
        task = asyncio.create_task(bus.emit_async("a"))
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert sleeper.ended in ("", "cancelled")
        assert sleeper.task is None or sleeper.task.done()

    async def test_an_async_handler_may_cancel_the_emission_it_is_part_of(
        self, bus: EventBus
    ) -> None:
        sleeper = Sleeper()
        log: list[str] = []

        @bus.on("a")
        async def cancel(payload: object) -> None:
            await asyncio.sleep(0)
            task.cancel()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("hit too")
                raise

        bus.on("a", sleeper.handle)
        task = asyncio.create_task(bus.emit_async("a"))
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert log == ["hit too"]
        assert sleeper.ended == "cancelled"

    async def test_it_passes_down_through_nested_emissions(self, bus: EventBus) -> None:
        sleeper = Sleeper()
        bus.on("b", sleeper.handle)

        @bus.on("a")
        async def nest(payload: object) -> None:
            await bus.emit_async("b")

        task = await begin(bus)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert sleeper.ended == "cancelled"

    async def test_wait_for_times_out_after_the_handlers_have_settled(self, bus: EventBus) -> None:
        sleepers = [Sleeper(), Sleeper()]
        for sleeper in sleepers:
            bus.on("a", sleeper.handle)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bus.emit_async("a"), 0.01)
        assert [sleeper.ended for sleeper in sleepers] == ["cancelled"] * 2

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in 3.11")
    async def test_asyncio_timeout_around_an_emission_becomes_a_timeout_error(
        self, bus: EventBus
    ) -> None:
        if sys.version_info >= (3, 11):
            sleeper = Sleeper()
            bus.on("a", sleeper.handle)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await bus.emit_async("a")
            assert sleeper.ended == "cancelled"

    async def test_the_bus_works_on_after_a_cancelled_emission(self, bus: EventBus) -> None:
        sleeper = Sleeper()
        subscription = bus.subscribe("a", sleeper.handle)
        task = await begin(bus)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert (subscription.calls, subscription.failures) == (1, 0)
        sleeper.release.set()
        assert await soon(bus.emit_async("a")) == 1
        assert sleeper.ended == "released"


class TestAHandlerIsCancelled:
    async def test_from_elsewhere_it_is_a_warning_and_disturbs_nobody(
        self, bus: EventBus, records: Records
    ) -> None:
        victim, sibling = Sleeper(), Sleeper()
        subscription = bus.subscribe("a", victim.handle)
        bus.on("a", sibling.handle)
        task = await begin(bus)
        victim.task.cancel()
        await turns()
        assert victim.ended == "cancelled"
        assert not task.done()
        sibling.release.set()
        assert await soon(task) == 2
        assert sibling.ended == "released"
        (record,) = records
        assert record.getMessage() == "Handler 'Sleeper.handle' was cancelled on event 'a'"
        assert record.levelno == logging.WARNING
        assert record.name == "agent_event_bus"
        assert vars(record)["event_name"] == "a"
        assert vars(record)["handler_name"] == "Sleeper.handle"
        assert (subscription.calls, subscription.failures) == (1, 0)

    async def test_from_elsewhere_under_emit_it_is_the_same_warning(
        self, bus: EventBus, records: Records
    ) -> None:
        victim = Sleeper()
        bus.on("a", victim.handle)
        bus.emit("a")
        await soon(victim.started.wait())
        victim.task.cancel()
        await soon(bus.drain())
        assert [record.getMessage() for record in records] == [
            "Handler 'Sleeper.handle' was cancelled on event 'a'"
        ]

    async def test_a_handler_that_raises_cancelled_error_counts_as_cancelled(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def gives_up(payload: object) -> None:
            raise asyncio.CancelledError

        bus.on("a", anote(log, "sibling"))
        assert await soon(bus.emit_async("a")) == 2
        assert log == ["sibling"]
        assert [record.getMessage() for record in records] == [
            f"Handler '{gives_up.__qualname__}' was cancelled on event 'a'"
        ]

    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_a_sync_handler_that_raises_it_counts_as_cancelled_too(
        self, bus: EventBus, records: Records, way: str
    ) -> None:
        log: list[str] = []
        handler = failing(asyncio.CancelledError())
        subscription = bus.subscribe("a", handler)
        bus.on("a", note(log, "after"))
        count = bus.emit("a") if way == "emit" else await bus.emit_async("a")
        assert count == 2
        assert log == ["after"]
        assert [record.getMessage() for record in records] == [
            f"Handler '{handler.__qualname__}' was cancelled on event 'a'"
        ]
        assert records[0].levelno == logging.WARNING
        assert (subscription.calls, subscription.failures) == (1, 0)

    async def test_a_handler_that_cancels_its_own_task_counts_as_cancelled(
        self, bus: EventBus, records: Records
    ) -> None:
        @bus.on("a")
        async def handler(payload: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
            pytest.fail("the cancellation was lost")

        assert await soon(bus.emit_async("a")) == 1
        assert [record.levelno for record in records] == [logging.WARNING]

    async def test_awaiting_a_cancelled_task_of_ones_own_counts_as_cancelled(
        self, bus: EventBus, records: Records
    ) -> None:
        @bus.on("a")
        async def handler(payload: object) -> None:
            inner = asyncio.create_task(asyncio.Event().wait())
            await asyncio.sleep(0)
            inner.cancel()
            await inner

        assert await soon(bus.emit_async("a")) == 1
        assert [record.levelno for record in records] == [logging.WARNING]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Interruption])
class TestInterrupts:
    """Run under asyncio.run, because the interrupt must not take the test session with it."""

    @staticmethod
    def run(kind: type[BaseException], main: Callable[[], Any]) -> None:
        with pytest.raises(kind):
            asyncio.run(main())

    @pytest.mark.parametrize("suspend_first", [False, True])
    def test_one_from_a_handler_comes_out_after_its_siblings_were_cancelled_and_awaited(
        self, bus: EventBus, records: Records, kind: type[BaseException], suspend_first: bool
    ) -> None:
        log: list[str] = []

        async def sibling(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns()
                log.append("settled")

        async def interrupted(payload: object) -> None:
            if suspend_first:
                await turns()
            raise kind

        async def main() -> None:
            bus.subscribe("a", sibling)
            subscription = bus.subscribe("a", interrupted)
            bus.subscribe("a", sibling)
            try:
                await bus.emit_async("a")
            except kind:
                log.append("caught")
                assert (subscription.calls, subscription.failures) == (1, 0)
                raise

        self.run(kind, main)
        # When the interrupt comes at the first step, the last sibling is not started any more.
        assert log == ["settled"] * (2 if suspend_first else 1) + ["caught"]
        assert not [record for record in records if record.levelno == logging.ERROR]

    def test_the_caller_may_catch_it_and_go_on(
        self, bus: EventBus, kind: type[BaseException]
    ) -> None:
        log: list[str] = []

        async def main() -> None:
            @bus.once("a")
            async def interrupted(payload: object) -> None:
                await asyncio.sleep(0)
                raise kind

            try:
                await bus.emit_async("a")
            except kind:
                log.append("caught")
            await turns()
            bus.on("a", anote(log, "next"))
            assert await bus.emit_async("a") == 1
            log.append("went on")

        asyncio.run(main())
        assert log == ["caught", "next", "went on"]

    def test_one_from_a_sync_handler_starts_no_async_handler(
        self, bus: EventBus, kind: type[BaseException]
    ) -> None:
        async def main() -> None:
            bus.on("a", anote([], "never"))
            bus.on("a", failing(kind()))
            assert [s.calls for s in bus.handlers("a")] == [0, 0]
            try:
                await bus.emit_async("a")
            finally:
                assert sorted(s.calls for s in bus.handlers("a")) == [0, 1]

        self.run(kind, main)

    def test_without_a_loop_it_comes_out_of_emit_after_the_siblings_settled(
        self, bus: EventBus, kind: type[BaseException]
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def sibling(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns()
                log.append("settled")

        @bus.on("a")
        async def interrupted(payload: object) -> None:
            await turns()
            raise kind

        with pytest.raises(kind):
            bus.emit("a")
        assert log == ["settled"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("control_c")
def test_control_c_during_an_emission_without_a_loop_comes_out_of_emit(
    bus: EventBus, records: Records, is_async: bool
) -> None:
    log: list[str] = []

    @bus.on("a")
    def sync_handler(payload: object) -> None:
        if not is_async:
            signal.raise_signal(signal.SIGINT)

    @bus.on("a")
    async def async_handler(payload: object) -> None:
        try:
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            log.append("settled")

    with pytest.raises(KeyboardInterrupt):
        bus.emit("a")
    assert log == (["settled"] if is_async else [])
    assert not [record for record in records if record.levelno == logging.ERROR]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_from_a_handler_that_emit_scheduled_stops_the_loop_as_from_any_task(
    bus: EventBus, kind: type[BaseException]
) -> None:
    log: list[str] = []

    async def main() -> None:
        @bus.on("a")
        async def interrupted(payload: object) -> None:
            log.append("interrupted")
            raise kind

        assert bus.emit("a") == 1
        await turns(20)
        log.append("went on")

    with pytest.raises(kind):
        asyncio.run(main())
    assert log == ["interrupted"]
    assert asyncio.run(asyncio.wait_for(bus.drain(), 10)) == []
    gc.collect()  # asyncio complains about the task now, not at the end of the session
