"""max_concurrency: what becomes of permits, and of handlers that wait for one."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import pytest
from helpers import Gate, anote, failing, is_free, run_isolated, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


class TestPermitsComeBack:
    @pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()])
    async def test_after_a_failure_and_a_cancellation(self, error: BaseException) -> None:
        bus = EventBus(max_concurrency=1)

        @bus.on("a")
        async def handler(payload: object) -> None:
            await asyncio.sleep(0)
            raise error

        for _ in range(3):
            assert await soon(bus.emit_async("a")) == 1
        assert await is_free(bus)

    async def test_after_a_handler_that_fails_when_it_is_called(self) -> None:
        bus = EventBus(max_concurrency=1)
        bus.on("a", failing(ValueError("no")), offload=True)
        for _ in range(3):
            assert await soon(bus.emit_async("a")) == 1
        assert await is_free(bus)

    async def test_after_an_error_that_is_not_isolated(self) -> None:
        class Stop(BaseException):
            pass

        bus = EventBus(max_concurrency=1)

        @bus.on("a")
        async def handler(payload: object) -> None:
            await asyncio.sleep(0)
            raise Stop

        bus.on("a", anote([], "queued behind it"))
        with pytest.raises(Stop):
            await soon(bus.emit_async("a"))
        assert await is_free(bus)

    async def test_after_the_emission_was_cancelled(self) -> None:
        bus = EventBus(max_concurrency=1)
        bus.on("a", Gate().wait)
        task = asyncio.ensure_future(bus.emit_async("a"))
        await turns()
        assert not await is_free(bus)
        task.cancel()
        await asyncio.wait([task])
        assert await is_free(bus)

    async def test_after_the_emission_was_closed_by_hand(self) -> None:
        bus = EventBus(max_concurrency=1)
        bus.on("a", Gate().wait)
        emission = bus.emit_async("a")
        emission.send(None)
        emission.close()
        await turns()
        assert await is_free(bus)

    def test_after_its_loop_was_closed(self) -> None:
        bus = EventBus(max_concurrency=1)

        async def abandon() -> None:
            bus.on("a", Gate().wait)
            bus.emit("a")
            bus.emit("a")
            await turns()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(abandon())
        loop.close()
        bus.clear()

        async def next_loop() -> bool:
            await soon(bus.drain())  # ends what was stranded
            return await is_free(bus)

        assert asyncio.run(next_loop())

    def test_when_the_loop_of_a_queued_handler_is_closed(self, records: Records) -> None:
        bus = EventBus(max_concurrency=1)
        log: list[str] = []
        bus.on("a", anote(log, "on a closed loop"))

        async def leave_queued() -> None:
            bus.emit("a")

        async def hold() -> bool:
            gate = Gate()
            bus.on("wait", gate.wait)
            holder = asyncio.ensure_future(bus.emit_async("wait"))
            await turns()
            other = asyncio.new_event_loop()
            await asyncio.get_running_loop().run_in_executor(
                None, other.run_until_complete, leave_queued()
            )
            other.close()
            gate.gate.set()
            assert await soon(holder) == 1
            return await is_free(bus)

        assert asyncio.run(hold())
        assert log == []
        assert [record.getMessage() for record in records] == [
            "Handler 'anote.<locals>.handler' raised on event 'a': Event loop is closed"
        ]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
    def test_in_a_forked_child_which_has_none_of_the_handlers_that_hold_them(self) -> None:
        assert run_isolated("fork_child.py", "pending_limited").strip() == "ok"


class TestLeavingTheQueue:
    async def test_cancelling_an_emission_removes_its_queued_handlers_unrun(
        self, records: Records
    ) -> None:
        bus = EventBus(max_concurrency=1)
        gate = Gate()
        log: list[str] = []
        bus.on("a", gate.wait)
        queued = [bus.subscribe("a", anote(log, "queued")) for _ in range(3)]
        task = asyncio.ensure_future(bus.emit_async("a"))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        await turns()
        assert gate.ended == "cancelled"
        assert log == []
        assert [subscription.calls for subscription in queued] == [0, 0, 0]
        assert records == []
        assert await is_free(bus)

    async def test_the_others_keep_their_places(self) -> None:
        bus = EventBus(max_concurrency=1)
        gate = Gate()
        log: list[Any] = []
        bus.on("first", gate.wait)

        @bus.on("a")
        async def handler(payload: object) -> None:
            log.append(payload)

        first = asyncio.ensure_future(bus.emit_async("first"))
        await turns()
        tasks = [asyncio.ensure_future(bus.emit_async("a", n)) for n in range(4)]
        await turns()
        tasks[1].cancel()
        await turns()
        gate.gate.set()
        await soon(asyncio.wait([first, *tasks]))
        assert log == [0, 2, 3]

    async def test_a_subscription_that_ends_meanwhile_is_skipped(self) -> None:
        bus = EventBus(max_concurrency=1)
        gate = Gate()
        log: list[str] = []
        bus.on("a", gate.wait)
        removed = bus.subscribe("a", anote(log, "removed"))
        bus.on("a", anote(log, "kept"))
        task = asyncio.ensure_future(bus.emit_async("a"))
        await turns()
        removed.cancel()
        gate.gate.set()
        assert await soon(task) == 2
        assert log == ["kept"]
        assert removed.calls == 0

    async def test_closing_the_bus_ends_what_is_queued_unrun(self) -> None:
        bus = EventBus(max_concurrency=1)
        gate = Gate()
        log: list[str] = []
        bus.on("a", gate.wait)
        bus.on("a", anote(log, "queued"))
        assert bus.emit("a") == 2
        await turns()
        await soon(bus.aclose())
        assert gate.ended == "cancelled"
        assert log == []


async def test_what_is_queued_begins_when_the_limit_is_gone() -> None:
    bus = EventBus(max_concurrency=1)
    log: list[object] = []
    release = asyncio.Event()

    async def handler(payload: object) -> None:
        await release.wait()
        log.append(payload)

    bus.on("a", handler)
    bus.emit("a", 1)
    bus.emit("a", 2)
    bus.emit("a", 3)
    await turns()
    bus.__init__()  # type: ignore[misc]
    release.set()
    assert await bus.drain(timeout=5) == []
    assert log == [1, 2, 3]


async def test_nobody_overtakes_those_in_the_queue_while_permits_are_handed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = EventBus(max_concurrency=1)
    loop, release = asyncio.get_running_loop(), asyncio.Event()
    began: list[object] = []

    async def handler(payload: object) -> None:
        began.append(payload)
        await release.wait()

    bus.on("a", handler)
    for number in (1, 2, 3):
        bus.emit("a", number)
    await turns()
    bus.__init__(max_concurrency=10)  # type: ignore[misc]
    call_soon, late = loop.call_soon, [4]

    def emitting(*args: Any, **kwargs: Any) -> Any:
        if late and getattr(args[0], "__name__", "") == "_start":
            bus.emit("a", late.pop())
        return call_soon(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon", emitting)
    release.set()
    assert await bus.drain(timeout=5) == []
    assert (began, late) == ([1, 2, 3, 4], [])
