"""drain, aclose, async with, what a closed bus does, and what a forked child starts with."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import pytest
from helpers import Gate, anote, failing, note, recorder, run_isolated, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


class TestDrain:
    async def test_with_nothing_pending_it_returns_at_once(self, bus: EventBus) -> None:
        assert await soon(bus.drain()) == []
        assert await soon(bus.drain(timeout=0)) == []
        assert await soon(bus.drain(0.01)) == []

    async def test_it_waits_for_everything_that_emit_scheduled(self, bus: EventBus) -> None:
        log: list[object] = []

        @bus.on("a")
        async def handler(payload: int) -> None:
            await turns(payload)
            log.append(payload)

        for payload in (3, 1, 2):
            bus.emit("a", payload)
        assert await soon(bus.drain()) == []
        assert log == [1, 2, 3]

    async def test_it_waits_for_what_those_handlers_scheduled_in_turn(self, bus: EventBus) -> None:
        log: list[int] = []

        @bus.on("a")
        async def handler(payload: int) -> None:
            await turns()
            log.append(payload)
            if payload:
                bus.emit("a", payload - 1)

        bus.emit("a", 5)
        assert await soon(bus.drain()) == []
        assert log == [5, 4, 3, 2, 1, 0]

    async def test_failing_and_cancelled_handlers_count_as_finished(self, bus: EventBus) -> None:
        @bus.on("a")
        async def fails(payload: object) -> None:
            raise ValueError

        @bus.on("a")
        async def gives_up(payload: object) -> None:
            raise asyncio.CancelledError

        bus.emit("a")
        assert await soon(bus.drain()) == []

    async def test_on_timeout_it_names_what_is_unfinished_and_leaves_it_running(
        self, bus: EventBus
    ) -> None:
        one, two = Gate(), Gate()
        bus.on("tool.start", one.wait)
        bus.on("tool.end", two.wait)
        bus.on("tool.end", anote([], "finishes"))
        bus.emit("tool.start")
        bus.emit("tool.end")
        unfinished = await soon(bus.drain(timeout=0.02))
        assert sorted(unfinished) == ["tool.end -> Gate.wait", "tool.start -> Gate.wait"]
        assert all(isinstance(line, str) for line in unfinished)
        one.gate.set()
        await turns()
        assert await soon(bus.drain(timeout=0)) == ["tool.end -> Gate.wait"]
        two.gate.set()
        assert await soon(bus.drain()) == []
        assert (one.ended, two.ended) == ("passed", "passed")

    async def test_cancelling_drain_leaves_the_handlers_running(self, bus: EventBus) -> None:
        gate = Gate()
        bus.on("a", gate.wait)
        bus.emit("a")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bus.drain(), 0.01)
        assert gate.ended == ""
        gate.gate.set()
        assert await soon(bus.drain()) == []
        assert gate.ended == "passed"

    async def test_a_handler_may_drain_without_waiting_for_itself(self, bus: EventBus) -> None:
        log: list[Any] = []

        @bus.on("a")
        async def drains(payload: object) -> None:
            unfinished = await bus.drain()
            log.append("others were finished")
            await turns(20)
            log.append(unfinished)

        @bus.on("a")
        async def other(payload: object) -> None:
            await turns()
            log.append("other finished")

        bus.emit("a")
        assert await soon(bus.drain()) == []
        assert log == ["other finished", "others were finished", []]

    async def test_two_handlers_that_drain_do_not_wait_for_each_other(self, bus: EventBus) -> None:
        log: list[Any] = []

        async def drains(payload: object) -> None:
            log.append(await bus.drain())

        for _ in range(2):
            bus.subscribe("a", drains)
        bus.emit("a")
        assert await soon(bus.drain()) == []
        assert log == [[], []]

    async def test_a_timeout_that_is_no_number_is_refused(self, bus: EventBus) -> None:
        with pytest.raises(TypeError, match="timeout"):
            await bus.drain(timeout="soon")  # type: ignore[arg-type]

    async def test_the_bus_stays_open(self, bus: EventBus) -> None:
        await bus.drain()
        assert not bus.closed
        bus.on("a", note([], "h"))
        assert bus.emit("a") == 1

    async def test_several_may_drain_at_once(self, bus: EventBus) -> None:
        gate = Gate()
        bus.on("a", gate.wait)
        bus.emit("a")
        drains = asyncio.gather(*[bus.drain() for _ in range(3)])
        await turns()
        assert not drains.done()
        gate.gate.set()
        assert await soon(drains) == [[], [], []]


class TestClose:
    async def test_it_cancels_what_is_pending_awaits_it_and_closes(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns()
                log.append("cleaned up")

        bus.emit("a")
        await turns()
        await soon(bus.aclose())
        assert log == ["cleaned up"]
        assert bus.closed

    async def test_handlers_that_have_not_started_never_do(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "never"))
        bus.emit("a")
        await bus.aclose()  # directly: as a task it would start after the handler
        await turns()
        assert log == []

    async def test_an_emit_async_in_progress_goes_on(self, bus: EventBus) -> None:
        gate = Gate()
        bus.on("a", gate.wait)
        emission = asyncio.create_task(bus.emit_async("a"))
        await turns()
        await soon(bus.aclose())
        gate.gate.set()
        assert await soon(emission) == 1
        assert gate.ended == "passed"

    async def test_closing_again_is_fine(self, bus: EventBus) -> None:
        gate = Gate()
        bus.on("a", gate.wait)
        bus.emit("a")
        await turns()
        await soon(asyncio.gather(bus.aclose(), bus.aclose()))
        await soon(bus.aclose())
        assert bus.closed
        assert gate.ended == "cancelled"

    async def test_a_handler_may_close_the_bus_without_waiting_for_itself(
        self, bus: EventBus
    ) -> None:
        log: list[object] = []
        other = Gate()

        @bus.on("a")
        async def closes(payload: object) -> None:
            await bus.aclose()
            log.append(bus.closed)
            await turns()
            log.append("went on")

        bus.on("a", other.wait)
        bus.emit("a")
        await turns()
        await soon(bus.drain())
        assert log == [True, "went on"]
        assert other.ended in ("", "cancelled")

    async def test_async_with_gives_the_bus_drains_it_and_closes_it(self) -> None:
        log: list[str] = []
        bus = EventBus()
        async with bus as entered:
            assert entered is bus

            @bus.on("a")
            async def handler(payload: object) -> None:
                await turns()
                log.append("finished")

            bus.emit("a")
            assert not bus.closed
        assert log == ["finished"]
        assert bus.closed

    async def test_async_with_drains_and_closes_when_the_body_raised(self) -> None:
        log: list[str] = []
        bus = EventBus()

        @bus.on("a")
        async def handler(payload: object) -> None:
            await turns()
            log.append("finished")

        async def body() -> None:
            async with bus:
                bus.emit("a")
                raise KeyError("body")

        with pytest.raises(KeyError, match="body"):
            await body()
        assert log == ["finished"]
        assert bus.closed

    async def test_async_with_of_a_subclass_gives_the_subclass(self) -> None:
        class Mine(EventBus):
            extra = 1

        async with Mine("mine") as bus:
            assert bus.extra == 1


class TestClosedBus:
    @pytest.fixture
    async def closed(self, bus: EventBus) -> EventBus:
        bus.on("a", lambda payload: pytest.fail("delivered on a closed bus"))
        bus.on("*", lambda name, payload: pytest.fail("delivered on a closed bus"))
        await bus.aclose()
        return bus

    async def test_emitting_delivers_nothing_and_warns_once_per_bus(
        self, closed: EventBus, records: Records
    ) -> None:
        assert closed.emit("a") == 0
        assert closed.emit("b", 1) == 0
        assert await closed.emit_async("a") == 0
        assert [record.getMessage() for record in records] == [
            "Event 'a' emitted on a closed bus; nothing was delivered"
        ]
        assert records[0].levelno == logging.WARNING
        assert records[0].name == "agent_event_bus"

    async def test_emit_async_alone_warns_too(self, closed: EventBus, records: Records) -> None:
        assert await closed.emit_async("tool.start") == 0
        assert await closed.emit_async("tool.start") == 0
        assert [record.getMessage() for record in records] == [
            "Event 'tool.start' emitted on a closed bus; nothing was delivered"
        ]

    async def test_an_emission_made_before_the_close_delivers_nothing_after_it(
        self, bus: EventBus
    ) -> None:
        bus.on("a", lambda payload: pytest.fail("delivered on a closed bus"))
        emission = bus.emit_async("a")
        await bus.aclose()
        assert await emission == 0

    async def test_subscribing_is_refused(self, bus: EventBus) -> None:
        decorator = bus.on("a")
        await bus.aclose()
        for call in (
            lambda: bus.on("a", print),
            lambda: bus.once("a", print),
            lambda: bus.subscribe("a", print),
            lambda: decorator(print),
            lambda: bus.on("a")(print),
        ):
            with pytest.raises(RuntimeError):
                call()
        assert len(bus) == 0

    async def test_a_handler_that_closes_the_bus_while_it_is_looked_at_is_refused(
        self, bus: EventBus
    ) -> None:
        class Closing:
            def __call__(self, payload: object) -> None: ...

            def __getattr__(self, name: str) -> object:
                bus._close()
                raise AttributeError(name)

        with pytest.raises(RuntimeError, match="closed"):
            bus.subscribe("a", Closing())
        assert len(bus) == 0

    async def test_asking_and_removing_still_work(self, closed: EventBus) -> None:
        assert len(closed.handlers("a")) == 2
        assert closed.has_handlers("a")
        assert len(closed) == 2
        subscription = closed.handlers("a")[0]
        assert subscription.active
        assert subscription.cancel() is True
        assert closed.off("*") == 1
        assert closed.clear() == 0
        assert "closed" in repr(closed)

    async def test_a_drain_of_a_closed_bus_is_empty(self, closed: EventBus) -> None:
        assert await soon(closed.drain()) == []

    async def test_the_warning_goes_to_the_logger_of_the_user(self, records: Records) -> None:
        got: list[str] = []

        class Duck:
            def error(self, message: str, *args: object, **options: object) -> None: ...

            def warning(self, message: str, *args: object, **options: object) -> None:
                got.append(message % args if args else message)

        bus_type: Any = EventBus
        bus = bus_type(logger=Duck())
        await bus.aclose()
        bus.emit("a")
        assert got == ["Event 'a' emitted on a closed bus; nothing was delivered"]
        assert records == []

    async def test_a_logger_that_fails_does_not_reach_the_late_emitter(
        self, unraisable: list[Any]
    ) -> None:
        class Broken:
            error = warning = staticmethod(failing(OSError("disk full")))

        bus_type: Any = EventBus
        bus = bus_type(logger=Broken())
        await bus.aclose()
        assert bus.emit("a") == 0


async def test_a_bus_outlives_one_loop_and_works_in_the_next(bus: EventBus) -> None:
    log: list[Any] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        await turns()
        log.append(payload)

    async def main(payload: int) -> None:
        bus.emit("a", payload)
        await bus.drain()
        await bus.emit_async("a", payload + 1)

    def both() -> None:
        asyncio.run(main(1))
        asyncio.run(main(3))

    await asyncio.get_running_loop().run_in_executor(None, both)
    assert log == [1, 2, 3, 4]


def test_a_sync_only_bus_closes_and_drains_in_any_loop(bus: EventBus) -> None:
    log: list[Any] = []
    bus.on("a", recorder(log, "h"))
    bus.emit("a", 1)
    assert asyncio.run(bus.drain()) == []
    asyncio.run(bus.aclose())
    assert bus.emit("a", 2) == 0
    assert log == [("h", 1)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.parametrize("case", ["pending", "hook", "thread", "emitting"])
def test_a_forked_child_starts_with_no_tasks_and_a_working_bus(case: str) -> None:
    assert run_isolated("fork_child.py", case).strip() == "ok"
