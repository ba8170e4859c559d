"""weak=True: subscriptions that end when nobody else holds their handler."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
import weakref
from typing import Any, Callable

import pytest
from helpers import note, soon

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


class Panel:
    """Something with handlers, which a user interface would close some day."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def show(self, payload: Any) -> None:
        self.shown.append(payload)

    async def ashow(self, payload: Any) -> None:
        self.shown.append(payload)

    def __call__(self, payload: Any) -> None:
        self.shown.append(payload)


def make_handler(log: list[Any]) -> Callable[[Any], None]:
    """Return a function that only the caller holds."""

    def handler(payload: Any) -> None:
        log.append(payload)

    return handler


class TestLife:
    def test_a_function_is_called_as_long_as_somebody_holds_it(self, bus: EventBus) -> None:
        log: list[Any] = []
        handler = make_handler(log)
        bus.on("a", handler, weak=True)
        assert bus.emit("a", 1) == 1
        del handler
        assert bus.emit("a", 2) == 0
        assert log == [1]

    def test_a_bound_method_lives_as_long_as_its_object(self, bus: EventBus) -> None:
        panel = Panel()
        shown = panel.shown
        bus.on("a", panel.show, weak=True)
        assert bus.emit("a", 1) == 1
        del panel
        assert bus.emit("a", 2) == 0
        assert shown == [1]

    def test_a_bound_method_ends_with_its_function_too(self, bus: EventBus) -> None:
        class Plugin:
            pass

        def show(self: Plugin, payload: Any) -> None:
            pass

        plugin = Plugin()
        bus.on("a", show.__get__(plugin), weak=True)
        assert bus.emit("a") == 1
        del show
        assert bus.emit("a") == 0
        assert len(bus) == 0

    def test_a_callable_object_and_a_class(self, bus: EventBus) -> None:
        panel = Panel()
        bus.on("a", panel, weak=True)

        class Made:
            def __init__(self, payload: Any) -> None:
                pass

        bus.on("a", Made, weak=True)
        assert bus.emit("a") == 2
        del panel, Made
        gc.collect()
        assert bus.emit("a") == 0

    def test_an_async_handler(self, bus: EventBus) -> None:
        panel = Panel()
        bus.on("a", panel.ashow, weak=True)
        assert asyncio.run(bus.emit_async("a", 1)) == 1
        assert panel.shown == [1]
        del panel
        assert asyncio.run(bus.emit_async("a", 2)) == 0

    def test_an_offloaded_handler(self, bus: EventBus) -> None:
        panel = Panel()
        bus.on("a", panel.show, weak=True, offload=True)
        assert asyncio.run(bus.emit_async("a", 1)) == 1
        assert bus.emit("a", 2) == 1
        assert panel.shown == [1, 2]
        del panel
        assert len(bus) == 0

    def test_a_decorated_function_lives_in_its_scope(self, bus: EventBus) -> None:
        def scope() -> int:
            @bus.on("a", weak=True)
            def handler(payload: Any) -> None:
                pass

            return bus.emit("a")

        assert scope() == 1
        assert bus.emit("a") == 0

    def test_the_default_is_strong(self, bus: EventBus) -> None:
        bus.on("a", make_handler([]))
        gc.collect()
        assert bus.emit("a") == 1


class TestEnd:
    def test_dead_ones_vanish_without_an_error(
        self, bus: EventBus, records: Records, unraisable: list[Any]
    ) -> None:
        panel = Panel()
        subscription = bus.subscribe(["a", "b"], panel.show, weak=True)
        assert (len(bus), subscription.active, subscription.weak) == (1, True, True)
        del panel
        assert (len(bus), subscription.active) == (0, False)
        assert (bus.handlers("a"), bus.has_handlers("b")) == ((), False)
        assert bus.emit("a") == 0
        assert (records, unraisable) == ([], [])

    def test_the_subscription_gives_a_live_handler_or_none(self, bus: EventBus) -> None:
        panel = Panel()
        method = bus.subscribe("a", panel.show, weak=True)
        obj = bus.subscribe("a", panel, weak=True)
        assert method.handler == panel.show
        assert obj.handler is panel
        del panel
        assert [method.handler, obj.handler] == [None, None]
        assert "Panel.show" in repr(method)
        assert subscription_is_over(method)

    def test_a_cancelled_one_still_gives_its_handler_and_holds_it_no_more(
        self, bus: EventBus
    ) -> None:
        panel = Panel()
        subscription = bus.subscribe("a", panel, weak=True)
        subscription.cancel()
        assert subscription.handler is panel
        gone = weakref.ref(panel)
        del panel
        assert gone() is None
        assert subscription.cancel() is False

    def test_no_cycle_is_left_for_the_collector(self, bus: EventBus) -> None:
        gc.collect()
        gc.disable()
        try:
            panel = Panel()
            ended = weakref.ref(bus.subscribe("a", panel.show, weak=True))
            cancelled = bus.subscribe("a", panel.show, weak=True)
            cancelled.cancel()
            gone = weakref.ref(cancelled)
            del cancelled, panel
            assert (ended(), gone()) == (None, None)
        finally:
            gc.enable()

    def test_a_bus_that_dies_first_leaves_nothing_behind(self) -> None:
        bus = EventBus()
        panel = Panel()
        gone = weakref.ref(bus)
        subscription = bus.subscribe("a", panel.show, weak=True)
        del bus
        gc.collect()
        assert gone() is None
        assert subscription.active is False
        del panel
        assert subscription.handler is None

    def test_a_cycle_of_handler_and_bus_is_collected(self) -> None:
        class Owner:
            def __init__(self) -> None:
                self.bus = EventBus()
                self.subscription = self.bus.subscribe("a", self.handle, weak=True)

            def handle(self, payload: Any) -> None:
                pass

        owner = Owner()
        gone = weakref.ref(owner)
        del owner
        gc.collect()
        assert gone() is None

    def test_one_that_dies_during_an_emission_is_skipped(self, bus: EventBus) -> None:
        panels = [Panel()]
        bus.on("a", lambda payload: panels.clear())
        bus.on("a", panels[0].show, weak=True)
        assert bus.emit("a") == 1

    def test_one_that_dies_in_its_own_call_finishes_it(self, bus: EventBus) -> None:
        log: list[str] = []

        class Suicidal:
            def handle(self, payload: Any) -> None:
                holder.clear()
                gc.collect()
                log.append("finished")

        holder = [Suicidal()]
        bus.on("a", holder[0].handle, weak=True)
        assert bus.emit("a") == 1
        assert (log, len(bus)) == (["finished"], 0)

    def test_one_that_fails_and_dies_is_reported_by_name(self, records: Records) -> None:
        seen: list[Any] = []
        bus = EventBus(on_error=lambda *args: seen.append(args))

        class Failing:
            def handle(self, payload: Any) -> None:
                holder.clear()
                raise ValueError("boom")

        holder = [Failing()]
        bus.on("a", holder[0].handle, weak=True)
        bus.emit("a")
        assert records[0].getMessage().endswith("Failing.handle' raised on event 'a': boom")
        assert len(seen) == 1

    def test_one_that_emit_has_scheduled_and_that_dies_before_it_begins_is_skipped(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []

        class Async:
            async def handle(self, payload: Any) -> None:
                log.append("ran")

        async def main() -> None:
            handler = Async()
            subscription = bus.subscribe("a", handler.handle, weak=True, once=True)
            assert bus.emit("a") == 1
            del handler
            assert await soon(bus.drain()) == []
            assert subscription.calls == 0

        asyncio.run(main())
        assert log == []

    def test_it_may_end_in_another_thread(self, bus: EventBus) -> None:
        holder = [Panel()]
        bus.on("a", holder[0].show, weak=True)
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        assert len(bus) == 0

    def test_its_end_may_run_code_that_uses_the_bus(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("b", note(log, "b"))

        class Loud(Panel):
            def __del__(self) -> None:
                bus.emit("b")
                bus.on("c", print)

        panel = Loud()
        bus.on("a", panel.show, weak=True)
        del panel
        assert log == ["b"]
        assert len(bus) == 2


class TestOff:
    def test_finds_functions_methods_and_objects(self, bus: EventBus) -> None:
        panel, handler = Panel(), make_handler([])
        bus.on("a", panel.show, weak=True)
        bus.on("a", panel, weak=True)
        bus.on("a", handler, weak=True)
        assert bus.off("a", Panel().show) == 0
        assert bus.off("a", panel.ashow) == 0
        assert bus.off("a", panel.show) == 1
        assert bus.off("a", panel) == 1
        assert bus.off("a", handler) == 1
        assert len(bus) == 0

    def test_weak_and_strong_subscriptions_of_one_handler_are_two(self, bus: EventBus) -> None:
        panel = Panel()
        bus.on("a", panel.show, weak=True)
        bus.on("a", panel.show)
        assert bus.emit("a", 1) == 2
        assert bus.off("a", panel.show) == 2


def subscription_is_over(subscription: Any) -> bool:
    """Whether a subscription says so in every way."""
    return not subscription.active and not subscription.cancel()


class TestRefused:
    @pytest.mark.parametrize(
        ("handler", "why"),
        [
            (lambda payload: None, "must not be a lambda"),
            (functools.partial(print, end=""), "must not be a functools.partial"),
            ([].append, "must not be a method of a built-in object"),
        ],
    )
    @pytest.mark.parametrize("method", ["on", "once", "subscribe"])
    def test_what_nothing_else_holds(
        self, bus: EventBus, method: str, handler: Any, why: str
    ) -> None:
        with pytest.raises(TypeError, match=why):
            getattr(bus, method)("a", handler, weak=True)
        assert len(bus) == 0

    def test_what_cannot_be_weakly_referenced(self, bus: EventBus) -> None:
        class Slotted:
            __slots__ = ()

            def __call__(self, payload: Any) -> None:
                pass

            def method(self, payload: Any) -> None:
                pass

        slotted = Slotted()
        for handler in (slotted, slotted.method):
            with pytest.raises(TypeError, match=r"must be weakly referenceable.* Slotted"):
                bus.on("a", handler, weak=True)
        assert len(bus) == 0

    def test_a_value_that_is_no_bool(self, bus: EventBus) -> None:
        weak: Any = 1
        with pytest.raises(TypeError, match="weak must be a bool"):
            bus.on("a", print, weak=weak)

    def test_a_builtin_function_is_accepted(self, bus: EventBus) -> None:
        bus.on("a", len, weak=True)
        assert bus.emit("a", []) == 1
