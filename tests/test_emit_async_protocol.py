"""The emit_async object itself: lazy, used once, and a coroutine down to send, throw and close."""

from __future__ import annotations

import asyncio
import gc
import warnings
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
from helpers import anote, is_gone, note, recorder, soon, turns

from agent_event_bus import EventBus

Emission = Coroutine[Any, Any, int]


def step(emission: Any) -> Any:
    """Drive an awaitable by hand for one step; return its result if that ended it."""
    try:
        return ("yielded", emission.send(None))
    except StopIteration as stop:
        return ("returned", stop.value)


def drop(emission: Emission) -> None:
    """Let go of an emission that nobody awaited."""
    del emission
    gc.collect()


class Payload:
    """Something that can be watched."""


def watched_local_of_a_driver(emission: Any) -> weakref.ref[Payload]:
    """Drive an emission by hand to its end, in a frame that holds the only reference to a value."""
    local = Payload()
    with pytest.raises(StopIteration):
        emission.send(None)
    return weakref.ref(local)


def test_driving_it_by_hand_keeps_nothing_of_the_driver_alive(bus: EventBus) -> None:
    bus.on("a", recorder([], "a"))
    assert is_gone(watched_local_of_a_driver(bus.emit_async("a")))


class TestLaziness:
    async def test_nothing_happens_before_it_is_awaited(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", note(log, "sync"))
        bus.on("a", anote(log, "async"))
        emission = bus.emit_async("a")
        await turns()
        assert log == []
        assert await emission == 2
        assert log == ["sync", "async"]

    async def test_the_handlers_are_those_at_the_time_of_the_await(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", note(log, "removed"))
        emission = bus.emit_async("a")
        bus.clear()
        bus.on("a", note(log, "added"))
        assert await emission == 1
        assert log == ["added"]

    def test_dropping_it_warns_that_it_was_never_awaited(self, bus: EventBus) -> None:
        text = "coroutine 'EventBus.emit_async' for event 'tool.start' was never awaited"
        with pytest.warns(RuntimeWarning, match=f"^{text}$"):
            drop(bus.emit_async("tool.start"))

    def test_dropping_one_with_a_bad_name_warns_too(self, bus: Any) -> None:
        for name in ("", "*", 5):
            with pytest.warns(RuntimeWarning, match="never awaited"):
                drop(bus.emit_async(name))

    def test_the_warning_as_an_error_does_no_harm(
        self, bus: EventBus, unraisable: list[Any]
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drop(bus.emit_async("a"))
        assert [type(error) for error in unraisable] == [RuntimeWarning]

    def test_closing_it_unstarted_runs_nothing_and_warns_of_nothing(self, bus: EventBus) -> None:
        bus.on("a", lambda payload: pytest.fail("delivered"))
        emission = bus.emit_async("a")
        emission.close()
        emission.close()
        del emission
        gc.collect()


class TestByHand:
    """The coroutine protocol: send, throw, close, and a second await."""

    def test_without_async_handlers_one_step_and_no_loop_are_enough(self, bus: EventBus) -> None:
        log: list[Any] = []
        assert step(bus.emit_async("a")) == ("returned", 0)
        bus.on("a", recorder(log, "h"))
        assert step(bus.emit_async("a", 1)) == ("returned", 1)
        assert step(bus.emit_async("a", 2).__await__()) == ("returned", 1)
        assert log == [("h", 1), ("h", 2)]

    async def test_a_finished_emission_cannot_be_awaited_again(self, bus: EventBus) -> None:
        log: list[Any] = []
        bus.on("a", recorder(log, "h"))
        emission = bus.emit_async("a")
        await emission
        for _ in range(2):
            with pytest.raises(RuntimeError):
                await emission
        assert len(log) == 1

    async def test_a_running_emission_cannot_be_awaited_by_a_second_task(
        self, bus: EventBus
    ) -> None:
        gate = asyncio.Event()

        @bus.on("a")
        async def handler(payload: object) -> None:
            await gate.wait()

        emission = bus.emit_async("a")
        first = asyncio.create_task(emission)
        await turns()

        async def second() -> int:
            return await emission

        with pytest.raises(RuntimeError):
            await soon(second())
        gate.set()
        assert await soon(first) == 1

    async def test_of_two_tasks_given_one_emission_the_first_finishes_and_the_second_fails(
        self, bus: EventBus
    ) -> None:
        gate = asyncio.Event()
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            await gate.wait()
            log.append("finished")

        emission = bus.emit_async("a")
        first, second = asyncio.create_task(emission), asyncio.create_task(emission)
        with pytest.raises(RuntimeError):
            await soon(second)
        assert not first.done()
        gate.set()
        assert await soon(first) == 1
        assert log == ["finished"]

    async def test_a_handler_that_awaits_its_own_emission_fails_alone(
        self, bus: EventBus, records: list[Any]
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            await emission

        bus.on("a", anote(log, "sibling"))
        emission = bus.emit_async("a")
        assert await soon(emission) == 2
        assert log == ["sibling"]
        assert [type(record.exc_info[1]) for record in records] == [RuntimeError]

    async def test_a_closed_emission_cannot_be_awaited(self, bus: EventBus) -> None:
        emission = bus.emit_async("a")
        emission.close()
        with pytest.raises(RuntimeError):
            await emission

    def test_the_first_send_takes_none_only(self, bus: EventBus) -> None:
        log: list[Any] = []
        bus.on("a", recorder(log, "h"))
        emission: Emission = bus.emit_async("a")
        with pytest.raises(TypeError):
            emission.send(1)
        assert log == []
        assert step(emission) == ("returned", 1)

    def test_throwing_before_the_start_runs_nothing(self, bus: EventBus) -> None:
        bus.on("a", lambda payload: pytest.fail("delivered"))
        emission = bus.emit_async("a")
        with pytest.raises(KeyError, match="thrown"):
            emission.throw(KeyError("thrown"))
        with pytest.raises(RuntimeError):
            emission.send(None)

    async def test_closing_a_suspended_emission_cancels_its_handlers(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        emission = bus.emit_async("a")
        assert step(emission)[0] == "yielded"
        await turns()
        emission.close()
        await turns()
        assert log == ["cancelled"]
        with pytest.raises(RuntimeError):
            await emission

    async def test_an_error_thrown_into_a_suspended_emission_cancels_its_handlers_and_comes_out(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                log.append("settled")

        class Throwing:
            """Awaits the emission, and turns a cancellation into another error on its way in."""

            def __await__(self) -> Any:
                inner = bus.emit_async("a").__await__()
                waiting_for = inner.send(None)
                try:
                    yield waiting_for
                except asyncio.CancelledError:
                    waiting_for = inner.throw(KeyError("thrown"))
                while True:
                    yield waiting_for
                    waiting_for = inner.send(None)

        async def main() -> None:
            await Throwing()

        task = asyncio.create_task(main())
        await turns()
        task.cancel()
        with pytest.raises(KeyError, match="thrown"):
            await soon(task)
        await turns()
        assert log == ["settled"]


class TestCancelMessage:
    """What was given to ``Task.cancel`` arrives with the CancelledError."""

    async def test_of_the_task_that_awaits_the_emission_it_reaches_the_awaiting_code(
        self, bus: EventBus
    ) -> None:
        seen: list[tuple[object, ...]] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            await asyncio.Event().wait()

        async def main() -> None:
            try:
                await bus.emit_async("a")
            except asyncio.CancelledError as error:
                seen.append(error.args)
                raise

        task = asyncio.create_task(main())
        await turns()
        task.cancel("shutting down")
        await asyncio.wait([task])
        assert task.cancelled()
        assert seen == [("shutting down",)]

    @pytest.mark.parametrize("started", [False, True])
    async def test_of_a_handlers_own_task_it_reaches_the_handler(
        self, bus: EventBus, started: bool
    ) -> None:
        seen: list[tuple[object, ...]] = []
        tasks: list[asyncio.Task[Any]] = []

        @bus.on("a")
        async def victim(payload: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                seen.append(error.args)
                raise

        @bus.on("a")
        async def sibling(payload: object) -> None:
            if started:
                await turns()
            # Else the victim has waited since its first step, and its task has seen no turn yet.
            tasks[0].cancel("no longer needed")

        assert await soon(bus.emit_async("a")) == 2
        assert tasks[0].cancelled()
        assert seen == [("no longer needed",)]

    async def test_a_future_whose_cancel_closes_the_emission_ends_it(self, bus: EventBus) -> None:
        class Closing(asyncio.Future):  # type: ignore[type-arg]
            emission: Any = None

            def cancel(self, *args: Any, **options: Any) -> bool:
                emission, self.emission = self.emission, None
                if emission is not None:
                    with pytest.raises(asyncio.CancelledError):
                        emission.close()
                return super().cancel(*args, **options)

        ended: list[str] = []
        future = Closing()

        @bus.on("a")
        async def handler(payload: object) -> None:
            await future

        @bus.on("a")
        async def slow(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("slow")

        future.emission = emission = bus.emit_async("a")
        task = asyncio.ensure_future(emission)
        await turns()
        task.cancel()
        await soon(asyncio.wait([task]))
        assert task.cancelled()
        await turns()
        assert ended == ["slow"]
