"""What a Subscription shows, how it is cancelled, and that nobody can change it."""

from __future__ import annotations

import functools
import weakref
from typing import Any, Callable

import pytest
from helpers import failing, note, recorder

from agent_event_bus import EventBus, Subscription


def handler(*args: object) -> None:
    """Does nothing."""


def test_it_shows_what_was_asked_for(bus: EventBus) -> None:
    subscription = bus.subscribe(["a", "b"], handler, priority=7, once=True)
    assert subscription.keys == ("a", "b")
    assert subscription.key == "a"
    assert subscription.handler is handler
    assert subscription.priority == 7
    assert subscription.once is True
    assert subscription.active is True
    assert (subscription.calls, subscription.failures) == (0, 0)
    assert isinstance(subscription.id, int)


def test_its_defaults_are_those_of_the_contract(bus: EventBus) -> None:
    subscription = bus.subscribe("*", handler)
    assert subscription.keys == ("*",)
    assert subscription.key == "*"
    assert subscription.priority == 0
    assert subscription.once is subscription.weak is subscription.envelope is False
    assert subscription.isolate is True
    assert subscription.timeout is None
    assert subscription.offload is False


@pytest.mark.parametrize(
    "attribute",
    [name for name in dir(Subscription) if name[0] != "_"] + ["extra"],
)
def test_nothing_on_it_can_be_changed(bus: EventBus, attribute: str) -> None:
    subscription = bus.subscribe("a", handler)
    with pytest.raises(AttributeError):
        setattr(subscription, attribute, "changed")
    with pytest.raises(AttributeError):
        delattr(subscription, attribute)
    assert bus.emit("a") == 1


def test_it_is_made_by_a_bus_alone() -> None:
    kind: Any = Subscription
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError):
        kind("a", handler)


@pytest.mark.parametrize("callable_", [handler, print, functools.partial(handler), list], ids=repr)
def test_the_handler_is_the_very_object_that_was_subscribed(bus: EventBus, callable_: Any) -> None:
    assert bus.subscribe("a", callable_).handler is callable_


def test_the_handler_of_a_bound_method_is_the_method(bus: EventBus) -> None:
    log: list[Any] = []
    subscription = bus.subscribe("a", log.append)
    assert subscription.handler == log.append


def test_ids_are_never_reused(bus: EventBus) -> None:
    ids: list[int] = []
    for _ in range(500):
        subscription = bus.subscribe("a", handler)
        ids.append(subscription.id)
        subscription.cancel()
        del subscription
    assert len(set(ids)) == 500
    assert ids == sorted(ids)


class TestCancel:
    def test_the_first_call_removes_it_and_says_so(self, bus: EventBus) -> None:
        subscription = bus.subscribe("a", handler)
        assert subscription.cancel() is True
        assert subscription.active is False
        assert bus.emit("a") == 0
        assert len(bus) == 0

    def test_later_calls_do_nothing_and_say_so(self, bus: EventBus) -> None:
        subscription = bus.subscribe("a", handler)
        other = bus.subscribe("a", handler)
        subscription.cancel()
        assert subscription.cancel() is False
        assert subscription.cancel() is False
        assert other.active
        assert len(bus) == 1

    @pytest.mark.parametrize("remove", ["off", "clear", "clear all", "once"])
    def test_after_another_way_of_removal_it_says_false(self, bus: EventBus, remove: str) -> None:
        subscription = bus.subscribe("a", handler, once=remove == "once")
        ways: dict[str, Callable[[], object]] = {
            "off": lambda: bus.off("a", handler),
            "clear": lambda: bus.clear("a"),
            "clear all": bus.clear,
            "once": lambda: bus.emit("a"),
        }
        ways[remove]()
        assert subscription.active is False
        assert subscription.cancel() is False

    def test_it_removes_its_own_subscription_only(self, bus: EventBus) -> None:
        one = bus.subscribe("a", handler)
        two = bus.subscribe("a", handler)
        assert one.cancel()
        assert bus.handlers("a") == (two,)

    def test_it_works_when_the_bus_is_gone(self) -> None:
        subscription = EventBus().subscribe("a", handler)
        subscription.cancel()
        assert not subscription.active
        assert subscription.cancel() is False

    def test_what_it_shows_stays_readable(self, bus: EventBus) -> None:
        subscription = bus.subscribe(["a", "b"], handler, priority=3)
        bus.emit("b")
        subscription.cancel()
        assert subscription.keys == ("a", "b")
        assert (subscription.priority, subscription.calls) == (3, 1)
        assert "handler" in repr(subscription)


class TestContextManager:
    def test_it_cancels_at_exit(self, bus: EventBus) -> None:
        log: list[Any] = []
        with bus.subscribe("a", recorder(log, "h")) as subscription:
            assert bus.handlers("a") == (subscription,)
            bus.emit("a", 1)
        assert not subscription.active
        bus.emit("a", 2)
        assert log == [("h", 1)]

    def test_an_error_in_the_body_passes_and_cancels(self, bus: EventBus) -> None:
        with pytest.raises(KeyError, match="body"), bus.subscribe("a", handler):
            raise KeyError("body")
        assert len(bus) == 0

    def test_cancelling_inside_is_fine(self, bus: EventBus) -> None:
        with bus.subscribe("a", handler) as subscription:
            assert subscription.cancel()
        assert not subscription.active


class TestCounters:
    def test_calls_include_failed_ones(self, bus: EventBus) -> None:
        subscription = bus.subscribe("a", failing(ValueError()))
        good = bus.subscribe("a", handler)
        for _ in range(3):
            bus.emit("a")
        assert (subscription.calls, subscription.failures) == (3, 3)
        assert (good.calls, good.failures) == (3, 0)

    def test_a_call_counts_from_its_start(self, bus: EventBus) -> None:
        seen: list[int] = []
        subscription: Subscription = bus.subscribe(
            "a", lambda payload: seen.append(subscription.calls)
        )
        bus.emit("a")
        assert seen == [1]

    def test_a_skipped_handler_was_not_called(self, bus: EventBus) -> None:
        log: list[str] = []
        skipped = note(log, "h")
        bus.on("a", lambda payload: bus.off("a", skipped))
        subscription = bus.subscribe("a", skipped)
        bus.emit("a")
        assert subscription.calls == 0
        assert log == []


def test_it_is_weakly_referenceable_hashable_and_equal_to_itself_alone(bus: EventBus) -> None:
    one = bus.subscribe("a", handler)
    two = bus.subscribe("a", handler)
    assert weakref.ref(one)() is one
    assert one != two
    assert {one: 1, two: 2}[one] == 1


def test_the_bus_keeps_it_alive(bus: EventBus) -> None:
    log: list[str] = []
    bus.subscribe("a", note(log, "h"))
    assert bus.emit("a") == 1
    assert log == ["h"]


def test_the_registered_object_is_handed_out_again(bus: EventBus) -> None:
    subscription = bus.subscribe("a", handler)
    assert bus.handlers("a")[0] is subscription
