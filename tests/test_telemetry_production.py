"""What the production router adds: a bound on scheduled deliveries, a slow alert, statistics."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
import time
from typing import Any

import pytest
from helpers import DEADLINE, Gate, LoopThread, failing, note, soon, turns
from telemetry_routers import (  # noqa: F401 - some are fixtures
    Records,
    routed_records,
)

from agent_event_bus.telemetry import ProductionTelemetryRouter, TelemetryRouter


def pause(*args: object) -> None:
    time.sleep(0.02)


class TestTheQueue:
    async def test_deliveries_past_the_bound_are_dropped_and_counted(self, routed: Records) -> None:
        router = ProductionTelemetryRouter(max_handler_queue=3, alert_after=None)
        gate = Gate()
        router.register("e", gate.wait)
        assert [router.emit("e") for _ in range(5)] == [1, 1, 1, 0, 0]
        stats = router.stats()
        assert (stats["pending"], stats["dropped"]) == (3, 2)
        gate.gate.set()
        assert await soon(router.drain()) == []
        stats = router.stats()
        assert (stats["pending"], stats["dropped"], stats["delivered"]) == (0, 2, 3)
        assert router.emit("e") == 1  # there is room again
        await soon(router.aclose())

    async def test_a_warning_says_so_once_and_not_for_each(self, routed: Records) -> None:
        router = ProductionTelemetryRouter(2, alert_after=None)
        gate = Gate()
        router.register("e", gate.wait)
        for _ in range(50):
            router.emit("e", {"secret": 1})
        [record] = routed
        assert (record.name, record.levelno) == ("telemetry.router", logging.WARNING)
        assert record.getMessage() == (
            "Handler 'Gate.wait' was dropped on event 'e': max_pending=2 handlers are pending "
            "(1 dropped since the last warning)"
        )
        assert router.stats()["dropped"] == 48
        await soon(router.aclose())

    async def test_it_is_a_thousand_by_default(self, routed: Records) -> None:
        router = ProductionTelemetryRouter()
        gate = Gate()
        router.register("e", gate.wait)
        assert sum(router.emit("e") for _ in range(1010)) == 1000
        assert router.stats()["dropped"] == 10
        await soon(router.aclose())

    async def test_none_sets_no_bound_and_neither_does_the_plain_router(
        self, routed: Records
    ) -> None:
        for router in (ProductionTelemetryRouter(None, alert_after=None), TelemetryRouter()):
            gate = Gate()
            router.subscribe("e", gate.wait)
            assert sum(router.emit("e") for _ in range(1100)) == 1100
            await soon(router.aclose())
        assert routed == []

    async def test_sync_handlers_and_emit_async_are_never_dropped(self, routed: Records) -> None:
        router = ProductionTelemetryRouter(1, alert_after=None)
        gate = Gate()
        log: list[str] = []
        router.register("held", gate.wait)
        router.register("e", note(log, "sync"))
        router.emit("held")

        @router.register("e")
        async def handler(payload: object) -> None:
            log.append("async")

        assert router.emit("e") == 1  # the async one found no room
        assert await soon(router.emit_async("e")) == 2
        assert log == ["sync", "sync", "async"]
        await soon(router.aclose())

    async def test_a_one_shot_handler_that_finds_no_room_is_not_used_up(
        self, routed: Records
    ) -> None:
        router = ProductionTelemetryRouter(1)
        gate, once = Gate(), Gate()
        router.register("e", gate.wait)
        router.register("e", once.wait, once=True)
        assert router.emit("e") == 1
        gate.gate.set()
        await soon(router.drain())
        assert router.unregister("e", once.wait) == 1

    def test_threads_share_the_bound(self, other: LoopThread, routed: Records) -> None:
        router = ProductionTelemetryRouter(5, loop=other.loop)

        async def make_gate() -> Gate:
            return Gate()

        gate = other.run(make_gate())
        router.register("e", gate.wait)
        counts: list[int] = []

        def work() -> None:
            counts.extend(router.emit("e") for _ in range(20))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert sum(counts) == 5
        assert router.stats()["dropped"] == 75
        other.run(router.aclose())

    @pytest.mark.parametrize("value", [0, -1])
    def test_a_bound_below_one_is_refused_by_its_name(self, value: int) -> None:
        with pytest.raises(ValueError, match=f"max_handler_queue must be at least 1, not {value}"):
            ProductionTelemetryRouter(value)

    @pytest.mark.parametrize("value", ["1", 1.0, True])
    def test_a_bound_that_is_no_int_is_refused_by_its_name(self, value: Any) -> None:
        with pytest.raises(TypeError, match="max_handler_queue must be an int or None"):
            ProductionTelemetryRouter(max_handler_queue=value)

    def test_a_bound_that_is_too_large_is_refused_by_its_name(self) -> None:
        with pytest.raises(OverflowError, match="max_handler_queue"):
            ProductionTelemetryRouter(10**30)


class TestTheAlert:
    def test_slow_routing_is_warned_about_by_default(self, routed: Records) -> None:
        router = ProductionTelemetryRouter()
        router.register("e", note([], "quick"))
        router.register_wildcard(pause)
        router.emit("e", {"secret": 1})
        [record] = routed
        text = record.getMessage()
        assert (record.name, record.levelno) == ("telemetry.router", logging.WARNING)
        taken = r"0\.\d+ s"  # how long exactly is up to the machine
        total = rf"Routing event 'e' took {taken} \(limit 0\.005 s\)"
        assert re.fullmatch(rf"{total}; slowest handler 'pause' took {taken}", text)
        assert "secret" not in text

    def test_quick_routing_is_not(self, routed: Records) -> None:
        router = ProductionTelemetryRouter(alert_after=60)
        router.register("e", note([], "quick"))
        router.emit("e")
        assert routed == []

    @pytest.mark.parametrize("value", [None, math.inf])
    def test_it_can_be_turned_off(self, routed: Records, value: float | None) -> None:
        router = ProductionTelemetryRouter(alert_after=value)
        router.register("e", pause)
        router.emit("e")
        assert routed == []

    def test_the_plain_router_does_not_warn(self, routed: Records) -> None:
        router = TelemetryRouter()
        router.subscribe("e", pause)
        router.emit("e")
        assert routed == []

    async def test_async_handlers_count_as_far_as_they_are_waited_for(
        self, routed: Records
    ) -> None:
        router = ProductionTelemetryRouter(alert_after=0.01)

        @router.register("e")
        async def slow(payload: object) -> None:
            await asyncio.sleep(0.03)

        await router.emit_async("e")
        assert len(routed) == 1
        router.emit("e")
        await soon(router.drain())
        assert len(routed) == 1

    @pytest.mark.parametrize("value", [0, -1, math.nan])
    def test_a_limit_that_is_not_more_than_zero_is_refused_by_its_name(self, value: float) -> None:
        with pytest.raises(ValueError, match="alert_after"):
            ProductionTelemetryRouter(alert_after=value)

    def test_a_limit_that_is_no_number_is_refused_by_its_name(self) -> None:
        limit: Any = "5 ms"
        with pytest.raises(TypeError, match="alert_after"):
            ProductionTelemetryRouter(alert_after=limit)


class TestStats:
    async def test_they_count_what_was_emitted_and_what_became_of_it(self, routed: Records) -> None:
        router = ProductionTelemetryRouter(handler_timeout=0.01, alert_after=None)
        router.register("e", note([], "fine"))
        router.register("e", failing(ValueError("broken")))

        @router.register("slow")
        async def slow(payload: object) -> None:
            await asyncio.sleep(DEADLINE)

        router.emit("e")
        await soon(router.emit_async("slow"))
        stats = router.stats()
        assert stats == {
            "emitted": 2,
            "delivered": 3,
            "failed": 1,
            "cancelled": 0,
            "timed_out": 1,
            "dropped": 0,
            "pending": 0,
            "subscriptions": 3,
            "by_event": {"e": 1, "slow": 1},
            "labels": {},
        }

    def test_timing_has_the_latency_of_each_handler(self) -> None:
        router = ProductionTelemetryRouter(timing=True, alert_after=None)
        router.register("e", pause)
        router.emit("e")
        latency = router.stats()["latency"]["pause"]
        assert latency["count"] == 1
        assert latency["mean"] >= 0.019


class TestDraining:
    async def test_it_names_what_is_unfinished(self, routed: Records) -> None:
        router = ProductionTelemetryRouter()
        gate = Gate()
        router.register("e", gate.wait)
        router.emit("e")
        await turns()
        assert await router.drain(timeout=0) == ["e -> Gate.wait"]
        await soon(router.aclose())
        assert gate.ended == "cancelled"
        assert await router.drain() == []

    async def test_a_cancelled_emission_cancels_its_handlers(self) -> None:
        router = ProductionTelemetryRouter(alert_after=None)
        gate = Gate()
        router.register("e", gate.wait)
        emission = asyncio.ensure_future(router.emit_async("e"))
        await turns()
        emission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(emission)
        assert gate.ended == "cancelled"
