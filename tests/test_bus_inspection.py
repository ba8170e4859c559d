"""What a bus tells of itself: its subscriptions, what is pending, its ``on_error``."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import pytest
from helpers import Gate, failing, is_gone, turns

from agent_event_bus import EventBus


class TestSubscriptions:
    def test_all_of_them_are_there_in_order_of_registration(self, bus: EventBus) -> None:
        late = bus.subscribe("a", print, priority=5)
        early = bus.subscribe(["b.*", "*"], print, priority=-5)
        key: Any = int
        of_class = bus.subscribe(key, print)
        assert bus.subscriptions() == (late, early, of_class)

    def test_those_that_have_ended_are_not(self, bus: EventBus) -> None:
        kept = bus.subscribe("a", print)
        bus.subscribe("a", print).cancel()
        bus.once("b", print)
        bus.emit("b")
        assert bus.subscriptions() == (kept,)

    async def test_streams_and_waiting_are_among_them(self, bus: EventBus) -> None:
        stream = bus.stream("tokens")
        waiter = bus.wait_for("end")
        assert [subscription.key for subscription in bus.subscriptions()] == ["tokens", "end"]
        waiter.close()
        stream.close()
        assert bus.subscriptions() == ()


class TestPending:
    async def test_it_names_what_emit_has_scheduled_as_drain_does(self, bus: EventBus) -> None:
        gate = Gate()
        bus.on("a", gate.wait)
        bus.emit("a")
        bus.emit("a")
        assert bus.pending() == ["a -> Gate.wait"] * 2
        await turns()
        assert bus.pending() == await bus.drain(timeout=0)
        gate.gate.set()
        await bus.drain()
        assert bus.pending() == []

    def test_it_needs_no_event_loop(self, bus: EventBus) -> None:
        assert bus.pending() == []

    async def test_closing_names_nothing_any_more(self, bus: EventBus) -> None:
        bus.on("a", Gate().wait)
        bus.emit("a")
        await bus.aclose()
        assert bus.pending() == []

    def test_closing_ends_what_was_pending_on_a_loop_that_closed(self, bus: EventBus) -> None:
        loop = asyncio.new_event_loop()
        bus.bind_loop(loop)
        bus.on("a", asyncio.sleep)
        bus.emit("a", 60)
        loop.close()
        assert bus.pending() == ["a -> sleep"]
        asyncio.run(bus.aclose())
        assert bus.pending() == []


class TestOnError:
    def test_it_is_what_was_given(self) -> None:
        assert EventBus(on_error=print).on_error is print
        assert EventBus().on_error is None

    def test_another_one_is_called_from_then_on(self, bus: EventBus) -> None:
        seen: list[Any] = []
        error = ValueError("x")
        bus.on("a", failing(error))
        bus.on_error = lambda *args: seen.append(args[2])
        bus.emit("a")
        bus.on_error = None
        bus.emit("a")
        assert seen == [error]

    def test_a_bad_one_is_refused_and_changes_nothing(self, bus: EventBus) -> None:
        async def later(*args: object) -> None:
            pytest.fail("it was called")

        bus.on_error = print
        with pytest.raises(TypeError, match="on_error must be callable or None, not int"):
            bus.on_error = 3  # type: ignore[assignment]
        with pytest.raises(TypeError, match="must not be a coroutine function"):
            bus.on_error = later
        with pytest.raises(AttributeError, match="on_error cannot be deleted: set it to None"):
            del bus.on_error
        assert bus.on_error is print

    def test_one_may_replace_itself_while_it_is_called(self, bus: EventBus) -> None:
        class Once:
            def __call__(self, *args: object) -> None:
                bus.on_error = None

        bus.on("a", failing(ValueError("x")))
        bus.on_error = Once()
        reference = weakref.ref(bus.on_error)
        bus.emit("a")
        assert is_gone(reference)

    def test_one_that_refers_to_its_bus_is_no_leak(self) -> None:
        class Owner:
            def __init__(self) -> None:
                self.bus = EventBus()
                self.bus.on_error = self.note

            def note(self, *args: object) -> None:
                pytest.fail("it was called")

        reference = weakref.ref(Owner().bus)
        assert is_gone(reference)
