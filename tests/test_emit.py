"""emit with sync handlers: what is passed, what is returned, what is counted."""

from __future__ import annotations

import contextvars
import sys
from typing import Any, Callable

import pytest
from helpers import failing, recorder

from agent_event_bus import EventBus


def test_without_handlers_it_returns_zero(bus: EventBus) -> None:
    assert bus.emit("a") == 0
    assert bus.emit("a", 1) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100])
def test_it_returns_how_many_handlers_were_called(bus: EventBus, count: int) -> None:
    log: list[Any] = []
    for number in range(count):
        bus.on("a", recorder(log, number))
    assert bus.emit("a", "p") == count
    assert log == [(number, "p") for number in range(count)]


def test_failing_handlers_are_counted(bus: EventBus) -> None:
    bus.on("a", failing(ValueError("bad")))
    bus.on("a", lambda payload: None)
    bus.on("*", failing(ValueError("bad")))
    assert bus.emit("a") == 3


def test_the_payload_is_passed_by_reference_and_never_copied(bus: EventBus) -> None:
    got: list[object] = []
    payload: dict[str, object] = {}
    bus.on("a", lambda p: p.update(changed=True))
    bus.on("a", got.append)
    bus.emit("a", payload)
    assert got[0] is payload
    assert payload == {"changed": True}


def test_the_payload_is_none_when_omitted(bus: EventBus) -> None:
    log: list[Any] = []
    bus.on("a", recorder(log, "exact"))
    bus.on("*", recorder(log, "any"))
    bus.emit("a")
    assert log == [("exact", None), ("any", "a", None)]


def test_only_handlers_of_that_name_are_called(bus: EventBus) -> None:
    log: list[Any] = []
    for key in ("a", "a.b", "A", "ab"):
        bus.on(key, recorder(log, key))
    bus.emit("a", 1)
    bus.emit("a.b", 2)
    assert log == [("a", 1), ("a.b", 2)]


def test_a_name_made_at_run_time_is_the_same_name(bus: EventBus) -> None:
    log: list[Any] = []
    bus.on("tool.start", recorder(log, "h"))
    assert bus.emit(".".join(["tool", "start"]), 1) == 1
    assert log == [("h", 1)]


@pytest.mark.parametrize(
    "value", [0, "text", [1], NotImplemented, ValueError("returned")], ids=repr
)
def test_what_a_sync_handler_returns_is_ignored(bus: EventBus, value: object) -> None:
    log: list[Any] = []
    bus.on("a", lambda payload: value)
    bus.on("a", recorder(log, "after"))
    assert bus.emit("a") == 2
    assert log == [("after", None)]


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.emit(),
        lambda bus: bus.emit("a", 1, 2),
        lambda bus: bus.emit(name="a"),
        lambda bus: bus.emit("a", payload=1),
        lambda bus: bus.emit("a", other=1),
        lambda bus: bus.emit_async(),
        lambda bus: bus.emit_async("a", 1, 2),
        lambda bus: bus.emit_async("a", payload=1),
        lambda bus: bus.handlers(),
        lambda bus: bus.has_handlers("a", "b"),
    ],
)
def test_bad_calls_raise_type_error_at_once(bus: EventBus, call: Callable[[Any], object]) -> None:
    bus.on("a", lambda payload: pytest.fail("delivered"))
    with pytest.raises(TypeError):
        call(bus)


def test_a_handler_that_takes_no_payload_fails_alone(bus: EventBus) -> None:
    log: list[Any] = []

    def no_arguments() -> None: ...

    wrong = bus.subscribe("a", no_arguments)  # type: ignore[arg-type]
    bus.on("a", recorder(log, "after"))
    assert bus.emit("a", 1) == 2
    assert log == [("after", 1)]
    assert wrong.failures == 1


def test_calls_and_failures_are_counted_per_subscription(bus: EventBus) -> None:
    def fussy(payload: object) -> None:
        if payload == "bad":
            raise ValueError(payload)

    subscription = bus.subscribe("a", fussy)
    other = bus.subscribe("b", fussy)
    for payload in ("good", "bad", "good", "bad", "good"):
        bus.emit("a", payload)
    assert (subscription.calls, subscription.failures) == (5, 2)
    assert (other.calls, other.failures) == (0, 0)


def test_sync_handlers_run_inline_in_the_callers_context(bus: EventBus) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[str] = []
    bus.on("a", lambda payload: seen.append(variable.get()))
    variable.set("caller")
    bus.emit("a")
    assert seen == ["caller"]


def test_handlers_of_one_bus_may_emit_on_another(bus: EventBus) -> None:
    log: list[Any] = []
    other = EventBus()
    other.on("copy", recorder(log, "other"))
    bus.on("*", lambda name, payload: other.emit("copy", (name, payload)))
    bus.emit("a", 1)
    assert log == [("other", ("a", 1))]


def test_any_callable_is_a_handler(bus: EventBus) -> None:
    made: list[object] = []

    class Record:
        def __init__(self, payload: object) -> None:
            made.append(("class", payload))

    class Instance:
        def __call__(self, payload: object) -> None:
            made.append(("instance", payload))

        @classmethod
        def shared(cls, payload: object) -> None:
            made.append(("classmethod", payload))

        @staticmethod
        def free(payload: object) -> None:
            made.append(("staticmethod", payload))

    for handler in (Record, Instance(), Instance.shared, Instance.free, made.append):
        bus.on("a", handler)
    assert bus.emit("a", 1) == 5
    assert made == [
        ("class", 1),
        ("instance", 1),
        ("classmethod", 1),
        ("staticmethod", 1),
        1,
    ]


def test_emit_may_be_kept_and_passed_around_as_a_function(bus: EventBus) -> None:
    log: list[Any] = []
    bus.on("a", recorder(log, "h"))
    emit = bus.emit
    assert list(map(emit, ["a", "a"], [1, 2])) == [1, 1]
    assert log == [("h", 1), ("h", 2)]


def test_emit_leaves_the_exception_that_is_being_handled_alone(bus: EventBus) -> None:
    seen: list[object] = []
    outside = KeyError("outside")
    bus.on("a", failing(ValueError("inside")))
    try:
        raise outside
    except KeyError:
        bus.emit("a")
        seen.append(sys.exc_info()[1])
    assert seen == [outside]
