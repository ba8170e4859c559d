"""timeout and handler_timeout: how long an async delivery may take."""

from __future__ import annotations

import asyncio
import decimal
import fractions
import logging
import math
import threading
import time
import weakref
from typing import Any

import pytest
from helpers import DEADLINE, LoopThread, anote, is_gone, note, recorder, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]

# Seconds: long enough for a loaded machine to reach a handler's first suspension, and no more.
SHORT = 0.05


class Hangs:
    """An async handler that never ends by itself, and keeps what it saw of its end."""

    def __init__(self) -> None:
        self.ended = ""

    async def __call__(self, *args: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


def cleans_up_for_long(bus: EventBus) -> list[str]:
    """Subscribe a handler to "a" that hangs, and whose clean-up takes longer than its timeout.

    Returns:
        What it appends "cleaned up" to at its end.
    """
    log: list[str] = []

    @bus.on("a", timeout=SHORT)
    async def handler(payload: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3 * SHORT)
            log.append("cleaned up")

    return log


@pytest.mark.parametrize("method", ["on", "once", "subscribe"])
class TestTheOptionOfASubscription:
    @pytest.mark.parametrize("value", [True, False, "1", [1], 1j, b"1"])
    def test_what_is_no_number_is_refused(self, bus: EventBus, method: str, value: Any) -> None:
        with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
            getattr(bus, method)("a", print, timeout=value)
        assert len(bus) == 0

    @pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, math.nan, -math.inf])
    def test_what_is_not_more_than_0_is_refused(
        self, bus: EventBus, method: str, value: float
    ) -> None:
        with pytest.raises(ValueError, match="timeout must be more than 0"):
            getattr(bus, method)("a", print, timeout=value)
        assert len(bus) == 0

    @pytest.mark.parametrize(
        "value", [1, 0.5, 10**9, decimal.Decimal("0.25"), fractions.Fraction(1, 3), 1e-9]
    )
    def test_a_number_is_accepted(self, bus: EventBus, method: str, value: Any) -> None:
        getattr(bus, method)("a", print, timeout=value)
        assert bus.handlers("a")[0].timeout == pytest.approx(float(value))

    @pytest.mark.parametrize("value", [None, math.inf])
    def test_none_and_infinity_set_no_limit(
        self, bus: EventBus, method: str, value: float | None
    ) -> None:
        getattr(bus, method)("a", print, timeout=value)
        assert bus.handlers("a")[0].timeout is None

    def test_async_and_offloaded_handlers_have_one_too(self, bus: EventBus, method: str) -> None:
        async def handler(payload: object) -> None: ...

        getattr(bus, method)("a", handler, timeout=1)
        getattr(bus, method)("a", print, timeout=2, offload=True)
        assert [subscription.timeout for subscription in bus.handlers("a")] == [1.0, 2.0]


class TestTheOptionOfABus:
    @pytest.mark.parametrize("value", [True, False, "1", [1], 1j])
    def test_what_is_no_number_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError, match="handler_timeout must be a number of seconds or None"):
            EventBus(handler_timeout=value)

    @pytest.mark.parametrize("value", [0, -1, math.nan])
    def test_what_is_not_more_than_0_is_refused(self, value: float) -> None:
        with pytest.raises(ValueError, match="handler_timeout must be more than 0"):
            EventBus(handler_timeout=value)

    def test_it_is_what_subscriptions_without_their_own_get(self) -> None:
        bus = EventBus(handler_timeout=2)
        assert bus.subscribe("a", print).timeout == 2.0
        assert bus.subscribe("a", print, timeout=None).timeout == 2.0
        assert bus.subscribe("a", print, timeout=0.5).timeout == 0.5

    def test_infinity_exempts_a_subscription(self) -> None:
        bus = EventBus(handler_timeout=2)
        assert bus.subscribe("a", print, timeout=math.inf).timeout is None

    @pytest.mark.parametrize("value", [None, math.inf])
    def test_none_and_infinity_set_no_limit(self, value: float | None) -> None:
        assert EventBus(handler_timeout=value).subscribe("a", print).timeout is None


def test_a_sync_handler_is_not_held_to_it(bus: EventBus) -> None:
    log: list[str] = []
    bus.on("a", note(log, "sync"), timeout=1e-9)
    assert bus.emit("a") == 1
    assert asyncio.run(emit_async(bus)) == 1
    assert log == ["sync", "sync"]


async def emit_async(bus: EventBus) -> int:
    return await bus.emit_async("a")


class TestExpiry:
    async def test_the_handler_is_cancelled_and_reported_once(
        self, bus: EventBus, records: Records
    ) -> None:
        handler = Hangs()
        subscription = bus.subscribe("tool.start", handler, timeout=SHORT)
        assert await soon(bus.emit_async("tool.start", "secret payload")) == 1
        assert handler.ended == "cancelled"
        (record,) = records
        assert record.levelname == "ERROR"
        assert (
            record.getMessage()
            == f"Handler 'Hangs' timed out after {SHORT} s on event 'tool.start'"
        )
        attributes = vars(record)
        assert attributes["event_name"] == "tool.start"
        assert attributes["handler_name"] == "Hangs"
        assert record.exc_info is not None
        assert record.exc_info[0] is TimeoutError
        assert (subscription.calls, subscription.failures) == (1, 1)

    async def test_on_error_gets_a_timeout_error(self) -> None:
        log: list[Any] = []
        bus = EventBus(on_error=recorder(log, "on_error"))
        handler = Hangs()
        bus.on("a", handler, timeout=SHORT)
        await soon(bus.emit_async("a"))
        ((_, name, failed, error),) = log
        assert name == "a"
        assert failed is handler
        assert type(error) is TimeoutError

    async def test_it_disturbs_no_sibling(self, bus: EventBus) -> None:
        log: list[str] = []
        over = asyncio.Event()

        async def patient(payload: object) -> None:
            await over.wait()
            log.append("patient")

        async def hangs(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                over.set()

        bus.on("a", patient)
        bus.on("a", hangs, timeout=SHORT)
        assert await soon(bus.emit_async("a")) == 2
        assert log == ["patient"]

    async def test_its_clean_up_is_awaited(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a", timeout=SHORT)
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns(3)
                log.append("cleaned up")

        await soon(bus.emit_async("a"))
        assert log == ["cleaned up"]

    async def test_one_that_swallows_the_cancellation_has_timed_out_all_the_same(
        self, bus: EventBus, records: Records
    ) -> None:
        @bus.on("a", timeout=SHORT)
        async def swallows(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)

        assert await soon(bus.emit_async("a")) == 1
        assert [r.getMessage() for r in records] == [
            f"Handler '{swallows.__qualname__}' timed out after {SHORT} s on event 'a'"
        ]

    async def test_another_error_on_the_way_out_is_an_ordinary_failure(
        self, bus: EventBus, records: Records
    ) -> None:
        @bus.on("a", timeout=SHORT)
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("in the clean-up")

        await soon(bus.emit_async("a"))
        assert [r.getMessage() for r in records] == [
            f"Handler '{handler.__qualname__}' raised on event 'a': in the clean-up"
        ]
        assert bus.handlers("a")[0].failures == 1

    async def test_every_delivery_has_its_own_clock(self, bus: EventBus, records: Records) -> None:
        handler = Hangs()
        subscription = bus.subscribe("a", handler, timeout=SHORT)
        await soon(asyncio.gather(bus.emit_async("a"), bus.emit_async("a")))
        await soon(bus.emit_async("a"))
        assert subscription.failures == 3
        assert len(records) == 3

    async def test_what_the_handler_awaits_is_cancelled_too(
        self, bus: EventBus, records: Records
    ) -> None:
        inner = Hangs()
        bus.on("inner", inner)

        @bus.on("outer", timeout=SHORT)
        async def outer(payload: object) -> None:
            await bus.emit_async("inner")

        await soon(bus.emit_async("outer"))
        assert inner.ended == "cancelled"
        assert [vars(r)["handler_name"] for r in records] == [outer.__qualname__]

    async def test_the_default_of_the_bus_applies_and_can_be_overridden(
        self, records: Records
    ) -> None:
        bus = EventBus(handler_timeout=SHORT)
        log: list[str] = []

        async def slow(payload: object) -> None:
            await asyncio.sleep(3 * SHORT)
            log.append("slow")

        bus.on("a", Hangs())
        bus.on("a", slow, timeout=DEADLINE)
        bus.on("a", slow, timeout=math.inf)
        assert await soon(bus.emit_async("a")) == 3
        assert log == ["slow", "slow"]
        assert [vars(r)["handler_name"] for r in records] == ["Hangs"]


class TestEveryWayToRun:
    async def test_under_emit_in_a_loop(self, bus: EventBus, records: Records) -> None:
        bus.on("a", Hangs(), timeout=SHORT)
        assert bus.emit("a") == 1
        assert await soon(bus.drain()) == []
        assert [r.levelname for r in records] == ["ERROR"]

    def test_under_emit_without_a_loop(self, bus: EventBus, records: Records) -> None:
        bus.on("a", Hangs(), timeout=SHORT)
        assert bus.emit("a") == 1
        assert [r.levelname for r in records] == ["ERROR"]

    def test_under_emit_with_a_bound_loop(self, records: Records) -> None:
        with LoopThread() as other:
            bus = EventBus(loop=other.loop)
            bus.on("a", Hangs(), timeout=SHORT)
            assert bus.emit("a") == 1
            assert other.run(bus.drain()) == []
        assert [r.levelname for r in records] == ["ERROR"]

    async def test_the_awaitable_of_a_sync_handler(self, bus: EventBus, records: Records) -> None:
        handler = Hangs()
        bus.on("a", lambda payload: handler(), timeout=SHORT)
        assert await soon(bus.emit_async("a")) == 1
        assert handler.ended == "cancelled"
        assert [r.levelname for r in records] == ["ERROR"]

    async def test_an_offloaded_handler_is_not_waited_for_any_longer(
        self, bus: EventBus, records: Records
    ) -> None:
        gate, ended = threading.Event(), threading.Event()

        def blocks(payload: object) -> None:
            gate.wait(DEADLINE)
            ended.set()

        bus.on("a", blocks, timeout=SHORT, offload=True)
        assert await soon(bus.emit_async("a")) == 1
        assert not ended.is_set()
        assert [r.levelname for r in records] == ["ERROR"]
        gate.set()
        assert ended.wait(DEADLINE)

    async def test_with_a_task_factory(self, bus: EventBus, records: Records) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
        bus.on("a", Hangs(), timeout=SHORT)
        assert await bus.emit_async("a") == 1
        assert [r.levelname for r in records] == ["ERROR"]


class TestNoExpiry:
    async def test_in_time_nothing_happens_and_nothing_is_kept(
        self, bus: EventBus, records: Records
    ) -> None:
        class Payload:
            pass

        payload = Payload()
        ref = weakref.ref(payload)

        @bus.on("a", timeout=DEADLINE)
        async def handler(payload: object) -> None:
            await asyncio.sleep(0)

        assert await soon(bus.emit_async("a", payload)) == 1
        del payload
        await turns()
        assert is_gone(ref)
        assert records == []

    async def test_a_handler_that_never_suspends_never_times_out(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []

        @bus.on("a", timeout=SHORT)
        async def busy(payload: object) -> None:
            time.sleep(2 * SHORT)  # noqa: ASYNC251 - it blocks the loop, and that is the point
            log.append("done")

        assert await soon(bus.emit_async("a")) == 1
        await asyncio.sleep(2 * SHORT)
        assert log == ["done"]
        assert records == []

    async def test_a_first_step_that_takes_too_long_counts_when_it_suspends(
        self, bus: EventBus, records: Records
    ) -> None:
        @bus.on("a", timeout=SHORT)
        async def busy(payload: object) -> None:
            time.sleep(2 * SHORT)  # noqa: ASYNC251 - the clock runs from the start
            began.append(time.monotonic())
            await asyncio.Event().wait()

        began: list[float] = []
        await soon(bus.emit_async("a"))
        assert time.monotonic() - began[0] < SHORT
        assert [r.levelname for r in records] == ["ERROR"]

    async def test_a_handler_that_was_cancelled_from_outside_does_not_time_out_in_its_clean_up(
        self, bus: EventBus, records: Records
    ) -> None:
        log = cleans_up_for_long(bus)
        task = asyncio.ensure_future(bus.emit_async("a"))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert log == ["cleaned up"]
        assert records == []

    async def test_nor_one_that_aclose_cancelled(self, bus: EventBus, records: Records) -> None:
        log = cleans_up_for_long(bus)
        bus.emit("a")
        await turns()
        await soon(bus.aclose())
        assert log == ["cleaned up"]
        assert records == []

    async def test_one_that_is_cancelled_from_elsewhere_in_time_is_a_warning(
        self, bus: EventBus, records: Records
    ) -> None:
        tasks: list[asyncio.Task[Any]] = []

        @bus.on("a", timeout=DEADLINE)
        async def handler(payload: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            await asyncio.Event().wait()

        emission = asyncio.ensure_future(bus.emit_async("a"))
        await turns()
        tasks[0].cancel()
        assert await soon(emission) == 1
        assert [r.levelname for r in records] == ["WARNING"]
        assert bus.handlers("a")[0].failures == 0

    async def test_a_timeout_error_of_the_handlers_own_is_an_ordinary_failure(
        self, bus: EventBus, records: Records
    ) -> None:
        @bus.on("a", timeout=DEADLINE)
        async def handler(payload: object) -> None:
            await asyncio.sleep(0)
            raise TimeoutError("of its own")

        await soon(bus.emit_async("a"))
        assert [r.getMessage() for r in records] == [
            f"Handler '{handler.__qualname__}' raised on event 'a': of its own"
        ]

    async def test_a_limit_inside_the_handler_works_under_it(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []

        @bus.on("a", timeout=DEADLINE)
        async def handler(payload: object) -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), SHORT)
            log.append("went on")

        await soon(bus.emit_async("a"))
        assert log == ["went on"]
        assert records == []

    async def test_without_a_limit_no_timer_is_made(
        self, bus: EventBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.get_running_loop()
        timers: list[Any] = []
        monkeypatch.setattr(loop, "call_at", lambda *args, **kwargs: timers.append(args))
        monkeypatch.setattr(loop, "call_later", lambda *args, **kwargs: timers.append(args))
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            await turns(2)
            log.append("done")

        bus.on("b", anote(log, "never suspends"), timeout=DEADLINE)
        assert await bus.emit_async("a") == 1
        assert await bus.emit_async("b") == 1
        assert log == ["done", "never suspends"]
        assert timers == []
