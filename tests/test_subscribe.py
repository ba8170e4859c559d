"""Subscribing, removing and asking: on, once, subscribe, off, clear, handlers, len, repr."""

from __future__ import annotations

import enum
import functools
import gc
import inspect
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Callable

import pytest
from helpers import note

from agent_event_bus import Event, EventBus, Subscription


def handler_a(*args: object) -> None:
    """A handler that does nothing."""


def handler_b(*args: object) -> None:
    """Another handler that does nothing."""


async def async_generator(payload: object) -> AsyncIterator[int]:
    yield 1


def generator(payload: object) -> Iterator[int]:
    yield 1


class Generators:
    """Generator functions in the disguises a user may pass them in."""

    async def async_method(self, payload: object) -> AsyncIterator[int]:
        yield 1

    def method(self, payload: object) -> Iterator[int]:
        yield 1


class AsyncGeneratorCall:
    async def __call__(self, payload: object) -> AsyncIterator[int]:
        yield 1


class GeneratorCall:
    def __call__(self, payload: object) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize("method", ["on", "once"])
class TestDecoratorForms:
    def test_the_call_form_returns_the_function_itself(self, bus: EventBus, method: str) -> None:
        assert getattr(bus, method)("a", handler_a) is handler_a
        assert bus.has_handlers("a")

    def test_the_decorator_form_returns_the_function_itself(
        self, bus: EventBus, method: str
    ) -> None:
        assert getattr(bus, method)("a")(handler_a) is handler_a
        assert bus.has_handlers("a")

    def test_nothing_is_subscribed_before_the_decorator_is_applied(
        self, bus: EventBus, method: str
    ) -> None:
        getattr(bus, method)("a")
        assert len(bus) == 0

    def test_a_decorator_may_be_applied_to_several_functions(
        self, bus: EventBus, method: str
    ) -> None:
        decorator = getattr(bus, method)("a")
        decorator(handler_a)
        decorator(handler_b)
        assert [s.handler for s in bus.handlers("a")] == [handler_a, handler_b]

    def test_an_explicit_none_means_the_decorator_form(self, bus: EventBus, method: str) -> None:
        assert getattr(bus, method)("a", None)(handler_a) is handler_a
        assert len(bus) == 1

    def test_options_apply_in_both_forms(self, bus: EventBus, method: str) -> None:
        got: list[object] = []
        getattr(bus, method)("a", got.append, priority=-3, envelope=True)
        getattr(bus, method)("a", priority=4, envelope=True)(got.append)
        assert [s.priority for s in bus.handlers("a")] == [-3, 4]
        bus.emit("a", "payload")
        assert [type(event) for event in got] == [Event, Event]

    @pytest.mark.parametrize("form", ["call", "decorator"])
    def test_every_option_of_subscribe_applies_in_it(
        self, bus: Any, method: str, form: str
    ) -> None:
        options: dict[str, Any] = {
            "priority": 7,
            "weak": True,
            "where": {"field": 1},
            "envelope": True,
            "isolate": False,
            "timeout": 2.5,
            "offload": True,
        }
        known = inspect.signature(EventBus.subscribe).parameters.values()
        assert {p.name for p in known if p.kind is p.KEYWORD_ONLY} == {*options, "once"}
        if form == "call":
            getattr(bus, method)("a", handler_a, **options)
        else:
            getattr(bus, method)("a", **options)(handler_a)
        (subscription,) = bus.handlers("a")
        assert subscription.once is (method == "once")
        assert bus.emit("a", {"field": 2}) == 0, "where had no effect"
        del options["where"]  # the only one that a subscription does not show
        assert {name: getattr(subscription, name) for name in options} == options

    def test_bad_keys_are_refused_before_there_is_a_function(
        self, bus: EventBus, method: str
    ) -> None:
        with pytest.raises(ValueError, match="''"):
            getattr(bus, method)("")

    def test_unknown_options_are_refused_before_there_is_a_function(
        self, bus: EventBus, method: str
    ) -> None:
        with pytest.raises(TypeError, match="bogus"):
            getattr(bus, method)("a", bogus=1)

    def test_the_decorator_refuses_what_is_not_callable(self, bus: EventBus, method: str) -> None:
        with pytest.raises(TypeError):
            getattr(bus, method)("a")(5)
        assert len(bus) == 0


def test_on_takes_once_as_an_option(bus: EventBus) -> None:
    got: list[object] = []
    bus.on("a", got.append, once=True)
    bus.emit("a", 1)
    bus.emit("a", 2)
    assert got == [1]


def test_subscribe_returns_the_subscription_it_made(bus: EventBus) -> None:
    subscription = bus.subscribe("a", handler_a, priority=2, once=True)
    assert isinstance(subscription, Subscription)
    assert bus.handlers("a") == (subscription,)
    assert subscription.handler is handler_a
    assert (subscription.priority, subscription.once) == (2, True)


def test_the_same_function_subscribed_twice_is_two_subscriptions(bus: EventBus) -> None:
    got: list[object] = []

    def handler(payload: object) -> None:
        got.append(payload)

    bus.on("a", handler)
    bus.on("a", handler)
    assert len(bus) == 2
    assert bus.emit("a", "x") == 2
    assert got == ["x", "x"]
    assert bus.off("a", handler) == 2


REFUSED: list[Any] = [
    5,
    "text",
    object(),
    [],
    async_generator,
    generator,
    Generators().async_method,
    Generators().method,
    functools.partial(async_generator),
    functools.partial(generator),
    AsyncGeneratorCall(),
    GeneratorCall(),
]


@pytest.mark.parametrize("bad", REFUSED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("method", ["on", "once", "subscribe"])
def test_what_can_never_handle_an_event_is_refused(bus: EventBus, method: str, bad: Any) -> None:
    with pytest.raises(TypeError):
        getattr(bus, method)("a", bad)
    assert len(bus) == 0
    assert not bus.has_handlers("a")


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.on(),
        lambda bus: bus.on("a", handler_a, 1),
        lambda bus: bus.on(key="a"),
        lambda bus: bus.on("a", handler=handler_a),
        lambda bus: bus.on("a", handler_a, bogus=True),
        lambda bus: bus.once("a", handler_a, once=True),
        lambda bus: bus.subscribe("a"),
        lambda bus: bus.subscribe("a", None),
        lambda bus: bus.subscribe("a", handler_a, bogus=True),
        lambda bus: bus.on("a", handler_a, priority="high"),
        lambda bus: bus.on("a", handler_a, priority=1.5),
        lambda bus: bus.on("a", handler_a, priority=None),
        lambda bus: bus.on("a", handler_a, once=1),
        lambda bus: bus.on("a", handler_a, envelope=1),
    ],
)
def test_bad_calls_raise_type_error_and_subscribe_nothing(
    bus: EventBus, call: Callable[[Any], object]
) -> None:
    with pytest.raises(TypeError):
        call(bus)
    assert len(bus) == 0


@pytest.mark.parametrize("priority", [2**63, -(2**63) - 1])
def test_a_priority_beyond_64_bits_is_refused(bus: EventBus, priority: int) -> None:
    with pytest.raises(OverflowError, match="priority"):
        bus.on("a", handler_a, priority=priority)
    assert len(bus) == 0


@pytest.mark.parametrize("priority", [True, False, 1.0, "1", None])
def test_a_priority_that_is_no_number_is_refused(bus: EventBus, priority: Any) -> None:
    with pytest.raises(TypeError, match="priority must be an int"):
        bus.on("a", handler_a, priority=priority)
    assert len(bus) == 0


def test_a_handler_may_change_its_class_while_it_is_looked_at(bus: EventBus) -> None:
    class Other:
        def __call__(self, payload: object) -> None:
            got.append(payload)

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name != "__call__":
                return super().__getattribute__(name)
            handler.__class__ = Other
            del cls
            gc.collect()
            raise AttributeError(name)

    def make() -> Any:
        class Fickle(metaclass=Meta):
            def __call__(self, payload: object) -> None: ...

        return Fickle()

    got: list[object] = []
    handler = make()
    bus.on("a", handler)
    assert bus.emit("a", 1) == 1
    assert got == [1]


def test_a_bad_key_that_renames_its_class_is_refused_under_the_name_it_has(bus: EventBus) -> None:
    def renaming_repr(self: object) -> str:
        type(self).__name__ = type(self).__qualname__ = "Renamed"
        return "a key"

    key: Any = type("".join(["K", "ey" * 40]), (), {"__repr__": renaming_repr})()
    with pytest.raises(TypeError, match=r"a key.* not Renamed"):
        bus.on(key, handler_a)


def test_a_subscription_to_very_many_keys_is_made_as_quickly_as_very_many_subscriptions(
    bus: EventBus,
) -> None:
    keys = [f"tool.{number}" for number in range(100_000)]
    began = time.process_time()
    subscription = bus.subscribe([*keys, *keys], handler_a)
    # Comparing each key with each other one took half a minute.
    assert time.process_time() - began < 5.0
    assert subscription.keys == tuple(keys)
    assert bus.handlers(keys[-1]) == (subscription,)
    assert subscription.cancel()
    assert bus.handlers(keys[0]) == ()


def test_any_int_is_a_priority(bus: EventBus) -> None:
    class Level(enum.IntEnum):
        LATE = 10

    log: list[str] = []
    bus.on("a", note(log, "last"), priority=sys.maxsize)
    bus.on("a", note(log, "late"), priority=Level.LATE)
    bus.on("a", note(log, "first"), priority=-sys.maxsize - 1)
    bus.emit("a")
    assert log == ["first", "late", "last"]


class TestOff:
    def test_removes_one_function_of_one_key(self, bus: EventBus) -> None:
        for key in ("a", "b"):
            bus.on(key, handler_a)
            bus.on(key, handler_b)
        assert bus.off("a", handler_a) == 1
        assert [s.handler for s in bus.handlers("a")] == [handler_b]
        assert [s.handler for s in bus.handlers("b")] == [handler_a, handler_b]

    def test_without_a_handler_removes_the_whole_key(self, bus: EventBus) -> None:
        bus.on("a", handler_a)
        bus.on("a", handler_b)
        bus.on("b", handler_b)
        assert bus.off("a") == 2
        assert len(bus) == 1

    def test_without_a_key_removes_the_function_everywhere(self, bus: EventBus) -> None:
        bus.on("a", handler_a)
        bus.on("*", handler_a)
        bus.once("b", handler_a)
        bus.on("b", handler_b)
        assert bus.off(handler=handler_a) == 3
        assert [s.handler for s in bus.handlers("b")] == [handler_b]

    def test_takes_its_arguments_by_name(self, bus: EventBus) -> None:
        bus.on("a", handler_a)
        assert bus.off(key="a", handler=handler_a) == 1

    def test_without_arguments_is_refused(self, bus: EventBus) -> None:
        bus.on("a", handler_a)
        for nothing in ((), (None, None)):
            with pytest.raises(TypeError):
                bus.off(*nothing)
        assert len(bus) == 1

    def test_returns_zero_when_nothing_matches(self, bus: EventBus) -> None:
        bus.on("a", handler_a)
        assert bus.off("b") == 0
        assert bus.off("a", handler_b) == 0
        assert bus.off("*", handler_a) == 0
        assert bus.off(handler=handler_b) == 0
        assert len(bus) == 1

    def test_removes_a_subscription_of_several_keys_whole(self, bus: EventBus) -> None:
        subscription = bus.subscribe(["a", "b"], handler_a)
        assert bus.off("b", handler_a) == 1
        assert not subscription.active
        assert not bus.has_handlers("a")

    def test_removes_wildcard_handlers_by_their_key(self, bus: EventBus) -> None:
        bus.on("*", handler_a)
        bus.on("a", handler_b)
        assert bus.off("*") == 1
        assert [s.handler for s in bus.handlers("a")] == [handler_b]

    def test_of_an_exact_name_leaves_wildcard_handlers_alone(self, bus: EventBus) -> None:
        bus.on("*", handler_a)
        bus.on("a", handler_a)
        assert bus.off("a", handler_a) == 1
        assert bus.has_handlers("a")

    def test_knows_bound_methods_by_object_and_function(self, bus: EventBus) -> None:
        class Agent:
            def __eq__(self, other: object) -> bool:
                raise AssertionError("equality of the owner must not be asked")

            def __hash__(self) -> int:
                raise AssertionError("hash of the owner must not be asked")

            def handle(self, payload: object) -> None: ...

            def other(self, payload: object) -> None: ...

        one, two = Agent(), Agent()
        bus.on("a", one.handle)
        bus.on("a", two.handle)
        assert bus.off("a", one.other) == 0
        assert bus.off("a", one.handle) == 1
        assert len(bus) == 1
        assert bus.off("a", two.handle) == 1

    def test_knows_methods_of_built_in_objects(self, bus: EventBus) -> None:
        one: list[object] = []
        two: list[object] = []
        bus.on("a", one.append)
        bus.on("a", two.append)
        assert bus.off("a", one.append) == 1
        bus.emit("a", 1)
        assert (one, two) == ([], [1])

    def test_never_asks_a_handler_for_equality(self, bus: EventBus) -> None:
        class Stubborn:
            def __eq__(self, other: object) -> bool:
                raise AssertionError("equality must not be asked")

            def __hash__(self) -> int:
                raise AssertionError("hash must not be asked")

            def __call__(self, payload: object) -> None: ...

        one, two = Stubborn(), Stubborn()
        bus.on("a", one)
        bus.on("a", two)
        assert bus.off("a", two) == 1
        assert bus.handlers("a")[0].handler is one

    @pytest.mark.parametrize("bad", ["", "a..b", "foo*"])
    def test_refuses_malformed_keys(self, bus: EventBus, bad: str) -> None:
        for remove in (bus.off, bus.clear):
            with pytest.raises(ValueError, match=re.escape(repr(bad))):
                remove(bad)

    @pytest.mark.parametrize("bad", [5, b"a", object()])
    def test_refuses_keys_that_are_not_strings(self, bus: Any, bad: object) -> None:
        with pytest.raises(TypeError):
            bus.off(bad)
        with pytest.raises(TypeError):
            bus.clear(bad)


class TestClear:
    def test_removes_everything(self, bus: EventBus) -> None:
        subscriptions = [
            bus.subscribe("a", handler_a),
            bus.subscribe("*", handler_a),
            bus.subscribe(["b", "c"], handler_b),
        ]
        assert bus.clear() == 3
        assert len(bus) == 0
        assert not any(s.active for s in subscriptions)
        assert bus.emit("a") == 0

    def test_of_one_key_leaves_the_others(self, bus: EventBus) -> None:
        bus.on("a", handler_a)
        bus.on("b", handler_a)
        bus.on("*", handler_b)
        assert bus.clear("a") == 1
        assert len(bus) == 2
        assert bus.clear("*") == 1
        assert len(bus) == 1

    def test_of_an_empty_bus_removes_nothing(self, bus: EventBus) -> None:
        assert bus.clear() == 0
        assert bus.clear("a") == 0

    def test_leaves_a_usable_bus(self, bus: EventBus) -> None:
        bus.on("a", handler_a)
        bus.clear()
        bus.on("a", handler_b)
        assert bus.emit("a") == 1


class TestAsking:
    def test_handlers_is_a_tuple_in_the_order_they_would_run(self, bus: EventBus) -> None:
        async def later(payload: object) -> None: ...

        async_early = bus.subscribe("a", later, priority=-5)
        wildcard = bus.subscribe("*", lambda name, payload: None)
        exact = bus.subscribe("a", handler_a, priority=-1)
        assert bus.handlers("a") == (exact, wildcard, async_early)
        assert bus.handlers("b") == (wildcard,)

    def test_handlers_of_an_unknown_name_is_empty(self, bus: EventBus) -> None:
        assert bus.handlers("nobody") == ()

    def test_has_handlers_follows_every_change(self, bus: EventBus) -> None:
        assert not bus.has_handlers("a")
        subscription = bus.subscribe("a", handler_a)
        assert bus.has_handlers("a") is True
        subscription.cancel()
        assert bus.has_handlers("a") is False
        bus.on("*", handler_a)
        assert bus.has_handlers("a")
        assert bus.has_handlers("any.other")

    def test_len_counts_subscriptions_not_keys(self, bus: EventBus) -> None:
        assert len(bus) == 0
        bus.subscribe(["a", "b", "c"], handler_a)
        bus.on("*", handler_b)
        assert len(bus) == 2

    def test_a_bus_is_true_even_when_empty(self, bus: EventBus) -> None:
        assert bool(bus) is True

    def test_repr_names_the_class_and_the_bus(self) -> None:
        class Special(EventBus):
            pass

        assert "EventBus" in repr(EventBus())
        assert "planner" in repr(EventBus("planner"))
        assert "Special" in repr(Special("x"))

    def test_repr_never_asks_a_handler(self, bus: EventBus) -> None:
        class Shy:
            def __repr__(self) -> str:
                raise AssertionError("repr must not be asked")

            __str__ = __repr__

            def __call__(self, payload: object) -> None: ...

        subscription = bus.subscribe("a", Shy())
        assert repr(bus)
        assert "Shy" in repr(subscription)


class TestConstruction:
    def test_a_bus_has_the_name_it_was_given(self) -> None:
        assert EventBus().name is None
        assert EventBus("planner").name == "planner"
        assert EventBus(name="planner").name == "planner"

    def test_its_name_is_an_exact_str_whatever_it_was_made_of(self) -> None:
        class Text(str):
            pass

        for bus in (EventBus(Text("tools")), EventBus(name=Text("tools"))):
            assert bus.name == "tools"
            assert type(bus.name) is str

    @pytest.mark.parametrize("attribute", ["name", "closed"])
    def test_name_and_closed_are_read_only(self, bus: EventBus, attribute: str) -> None:
        with pytest.raises(AttributeError):
            setattr(bus, attribute, "changed")

    def test_a_new_bus_is_open(self, bus: EventBus) -> None:
        assert bus.closed is False

    def test_buses_do_not_share_handlers(self) -> None:
        one, two = EventBus("same"), EventBus("same")
        one.on("a", handler_a)
        assert two.emit("a") == 0

    @pytest.mark.parametrize(
        "options",
        [
            {"bogus": 1},
            {"on_error": 5},
            {"logger": "root"},
            {"logger": object()},
            {"logger": type("Half", (), {"error": lambda *a: None})()},
            {"logger": type("Flat", (), {"error": 1, "warning": 2})()},
        ],
        ids=str,
    )
    def test_bad_options_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            EventBus(**options)

    def test_an_async_on_error_is_refused(self) -> None:
        async def on_error(name: str, handler: object, error: BaseException) -> None: ...

        bus_type: Any = EventBus
        with pytest.raises(TypeError):
            bus_type(on_error=on_error)

    def test_options_other_than_the_name_are_keyword_only(self) -> None:
        bus_type: Any = EventBus
        with pytest.raises(TypeError):
            bus_type("name", logging.getLogger("x"))
