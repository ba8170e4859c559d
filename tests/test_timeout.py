"""timeout and handler_timeout: how long an async delivery may take."""

from __future__ import annotations

import asyncio
import decimal
import fractions
import math
from typing import Any

import pytest
from helpers import note

from agent_event_bus import EventBus


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
