"""The public operations of the core, one by one: references.py and no_memory.py repeat each.

An operation is a function of a `World`, which has the buses; handlers, payloads and names are
shared by all worlds, so that what holds them shows. It asserts its effect, so that one whose
effect is missing without an error is found out. operations_async.py has those that take an event
loop, refusals.py the calls that have to fail.
"""

from __future__ import annotations

import enum
import logging
import pickle
from collections.abc import Coroutine
from typing import Any, Callable, Union

import agent_event_bus
from agent_event_bus import (
    Event,
    EventBus,
    EventKey,
    EventSchemaError,
    Outcome,
    UnknownEventError,
    current_bus,
    get_bus,
    use_buses,
)


class Base:
    """A class that is a key."""


class Payload(Base):
    """Something that can be counted, and published."""

    x = 1


class Color(enum.Enum):
    RED = "".join(["color", ".red"])


class Owner:
    def method(self, *args: object) -> None: ...


payload = Payload()
owner = Owner()
error = ValueError("of a handler")
condition_error = KeyError("of a condition")
# Made at run time, so that no constant of the code refers to them.
name = "".join(["event", ".name"])
pattern = "".join(["event", ".*"])
failing_name = "".join(["event", ".failing"])
KEY: Any = EventKey(name)
condition = {"".join(["x"]): 1}


def sync(*args: object) -> None: ...


def fails(*args: object) -> None:
    raise error.with_traceback(None)


def bad_condition(value: object) -> bool:
    raise condition_error.with_traceback(None)


def good_condition(value: object) -> bool:
    return value is payload


async def coroutine(*args: object) -> None: ...


def schema(value: object) -> None:
    if value is not payload:
        raise error.with_traceback(None)


def on_error(event_name: str, handler: object, exception: Exception) -> None: ...


class World:
    """The buses that one run of an operation uses."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.subscription = self.bus.subscribe(name, sync)
        self.wild = self.bus.subscribe([pattern, Payload], sync, envelope=True)
        self.bus.subscribe(failing_name, fails)

    def other(self, **options: Any) -> EventBus:
        """Return a bus of one's own, with the handler `sync` of `name`."""
        bus = EventBus(**options)
        bus.on(name, sync)
        return bus


Run = Callable[[World], Union[Coroutine[Any, Any, None], None]]
OPERATIONS: dict[str, Run] = {}
COVERED: dict[str, str] = {}
"""Public names, and an operation that uses each."""


def operation(*covered: str) -> Callable[[Run], Run]:
    """List a function as an operation, which covers these public names."""

    def add(run: Run) -> Run:
        label = run.__name__
        assert label not in OPERATIONS, label
        OPERATIONS[label] = run
        for each in covered:
            short = each.rpartition(".")[2]
            if not short.startswith("__"):
                assert short in names_in(run.__code__), f"{label} does not use {short}"
            COVERED.setdefault(each, label)
        return run

    return add


def raised(kind: type[BaseException], call: Callable[..., object], *arguments: object) -> Any:
    """Return the exception that a call raises."""
    try:
        call(*arguments)
    except kind as error:
        return error.with_traceback(None)
    raise AssertionError(f"{call} has not raised")


def enough_memory(outcomes: list[Outcome]) -> list[Outcome]:
    """Return outcomes, if none says that there was not enough memory; else raise that."""
    for outcome in outcomes:
        if isinstance(outcome.exception, MemoryError):
            raise outcome.exception
    return outcomes


def names_in(code: Any) -> set[str]:
    """Return the names that a piece of code and the functions in it use."""
    found = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            found |= names_in(constant)
    return found


# Subscribing


@operation("EventBus.on")
def on(world: World) -> None:
    bus = world.bus
    assert bus.on(name, sync) is sync
    assert bus.on(pattern)(sync) is sync
    assert bus.on(name, sync, priority=3, once=True, envelope=True, isolate=False) is sync
    assert len(bus) == 6


@operation("EventBus.once")
def once(world: World) -> None:
    assert world.bus.once(name, sync) is sync
    assert world.bus.once(name)(sync) is sync
    assert world.bus.emit(name, payload) == 4
    assert len(world.bus) == 3


@operation("EventBus.subscribe", "Subscription.cancel", "Subscription.active")
def subscribe(world: World) -> None:
    subscription = world.bus.subscribe(name, sync)
    assert subscription.active
    assert subscription.cancel()
    assert not subscription.cancel()
    assert not subscription.active


@operation("EventBus.subscribe")
def subscribe_to_everything(world: World) -> None:
    keys = [name, pattern, Base, "*", Color.RED, KEY]
    subscription = world.bus.subscribe(keys, sync)
    assert len(subscription.keys) == 5
    assert world.bus.emit(name, payload) == 3
    assert subscription.cancel()


@operation("EventBus.subscribe")
def subscribe_weakly(world: World) -> None:
    subscription = world.bus.subscribe(name, owner.method, weak=True)
    assert subscription.handler == owner.method
    mine = Owner()
    vanishing = world.bus.subscribe(name, mine.method, weak=True)
    assert world.bus.emit(name, payload) == 4
    del mine
    assert not vanishing.active
    assert vanishing.handler is None
    assert subscription.cancel()


@operation("EventBus.subscribe")
def subscribe_with_conditions(world: World) -> None:
    bus = world.bus
    bus.subscribe(name, sync, where=condition)
    bus.subscribe(name, sync, where=good_condition)
    bus.subscribe(name, sync, where={"y": 1})
    bus.subscribe(name, sync, where=bad_condition)
    assert bus.emit(name, payload) == 4
    assert bus.emit(name, {"x": 1, "y": 1}) == 4


@operation("EventBus.subscribe", "Subscription.timeout", "Subscription.offload")
def subscribe_with_options(world: World) -> None:
    bus = world.other(handler_timeout=5.0)
    first = bus.subscribe(name, sync, timeout=3.5, offload=True)
    assert (first.timeout, first.offload) == (3.5, True)
    assert bus.subscribe(name, sync).timeout == 5.0
    assert bus.subscribe(name, sync, timeout=float("inf")).timeout is None


@operation(
    *("Subscription.keys", "Subscription.key", "Subscription.handler", "Subscription.id"),
    *("Subscription.priority", "Subscription.once", "Subscription.weak", "Subscription.envelope"),
    *("Subscription.isolate", "Subscription.calls", "Subscription.failures"),
    *("Subscription.__repr__", "Subscription.__enter__", "Subscription.__exit__"),
)
def attributes_of_subscriptions(world: World) -> None:
    with world.bus.subscribe([name, Payload], fails, once=True, envelope=True) as subscription:
        assert subscription.keys == (name, Payload)
        assert subscription.key is subscription.keys[0]
        assert subscription.handler is fails
        assert (subscription.id, subscription.priority) == (4, 0)
        assert (subscription.once, subscription.weak) == (True, False)
        assert (subscription.envelope, subscription.isolate) == (True, True)
        assert (subscription.calls, subscription.failures) == (0, 0)
        assert repr(subscription)
        assert world.bus.emit(name, payload) == 3
        assert (subscription.calls, subscription.failures) == (1, 1)


@operation("EventBus.off")
def off(world: World) -> None:
    bus = world.other()
    bus.on(pattern, sync)
    assert bus.off(name, sync) == 1
    assert bus.off(pattern) == 1
    assert bus.off(handler=sync) == 0
    bus.on(Payload, owner.method)
    assert bus.off(None, owner.method) == 1


@operation("EventBus.clear", "EventBus.__len__", "EventBus.__bool__")
def clear(world: World) -> None:
    bus = world.bus
    assert bus.clear(name) == 1
    assert bus.clear() == 2
    assert len(bus) == 0
    assert bus


# Asking


@operation("EventBus.handlers", "EventBus.has_handlers", "EventBus.subscriptions")
def ask_for_handlers(world: World) -> None:
    bus = world.bus
    assert bus.handlers(name) == (world.subscription, world.wild)
    assert bus.has_handlers(KEY)
    assert not bus.has_handlers(Color.RED)
    assert not bus.has_handlers("nobody")
    assert len(bus.subscriptions()) == 3


@operation("EventBus.history")
def ask_for_history(world: World) -> None:
    bus = world.other(history=3)
    for _ in range(5):
        bus.emit(name, payload)
    bus.publish(payload)
    assert len(bus.history()) == 3
    assert bus.history(pattern)[0].payload is payload
    assert bus.history(Payload, limit=None)[0].seq == 6
    assert bus.history(name, limit=0) == []


@operation("EventBus.stats")
def ask_for_stats(world: World) -> None:
    bus = world.other(timing=True)
    bus.emit(name, payload)
    assert bus.stats()["emitted"] == 1
    assert bus.stats()["latency"]
    assert world.bus.stats()["emitted"] == 0


@operation("EventBus.name", "EventBus.closed", "EventBus.on_error", "EventBus.__repr__")
def attributes_of_buses(world: World) -> None:
    bus = EventBus(name, on_error=on_error)
    assert bus.name is name
    assert bus.on_error is on_error
    bus.on_error = None
    assert bus.on_error is None
    assert not bus.closed
    assert name in repr(bus)


@operation("EventBus.__init__", "EventBus.__new__")
def make_buses(world: World) -> None:
    EventBus(
        name,
        history=3,
        logger=logging.getLogger("agent_event_bus"),
        on_error=on_error,
        max_pending=3,
        max_concurrency=4,
        handler_timeout=5,
        slow_after=0.5,
        timing=True,
        strict=True,
        async_only=True,
    )
    EventBus()


@operation("EventBus.pending", "EventBus.bind_loop")
def ask_for_pending(world: World) -> None:
    assert world.bus.pending() == []
    world.bus.bind_loop(None)


# Emitting


@operation("EventBus.emit")
def emit(world: World) -> None:
    bus = world.bus
    assert bus.emit(name, payload) == 2
    assert bus.emit(KEY, payload) == 2
    assert bus.emit(Color.RED) == 0
    assert world.subscription.calls == 2


@operation("EventBus.emit")
def emit_to_handlers_that_fail(world: World) -> None:
    world.bus.on_error = on_error
    assert world.bus.emit(failing_name, payload) == 2
    assert world.bus.stats()["failed"] == 1


@operation("EventBus.emit")
def emit_with_every_option(world: World) -> None:
    bus = world.other(history=2, timing=True, slow_after=100.0)
    bus.on(name, sync, envelope=True)
    bus.on("*", sync)
    bus.on(name, sync, once=True, isolate=False)
    assert bus.emit(name, payload) == 4
    assert bus.emit(name, payload) == 3


@operation("EventBus.emit")
def emit_slowly(world: World) -> None:
    bus = world.other(slow_after=1e-9)
    bus.on(name, fails)
    assert bus.emit(name, payload) == 2


@operation("EventBus.emit")
def emit_new_names(world: World) -> None:
    for number in range(3):
        assert world.bus.emit(f"event.{number}", payload) == 1


@operation("EventBus.emit")
def emit_inside_of_handlers(world: World) -> None:
    bus = world.bus
    bus.on("outer", lambda value: bus.emit(name, value) and None)
    assert bus.emit("outer", payload) == 1
    assert world.subscription.calls == 1


@operation("EventBus.emit")
def emit_while_handlers_leave(world: World) -> None:
    bus = world.bus

    def leaves(value: object) -> None:
        bus.off("outer")
        bus.on("outer", sync)

    bus.on("outer", leaves)
    assert bus.emit("outer", payload) == 1
    assert bus.emit("outer", payload) == 1


@operation("EventBus.publish")
def publish(world: World) -> None:
    assert world.bus.publish(payload) == 1
    assert world.wild.calls == 1
    assert world.bus.publish(object()) == 0


@operation("EventBus.publish")
def publish_new_classes(world: World) -> None:
    cls = type("Fresh", (Payload,), {})
    assert world.bus.publish(cls()) == 1


@operation(
    *("EventBus.collect", "Outcome.subscription", "Outcome.status", "Outcome.value"),
    *("Outcome.exception", "Outcome.duration", "Outcome.__repr__"),
)
def collect(world: World) -> None:
    bus = world.bus
    bus.on(failing_name, lambda value: value)
    first, second, third = sorted(
        enough_memory(bus.collect(failing_name, payload)), key=lambda each: each.subscription.id
    )
    assert first.subscription is world.wild
    assert (second.status, third.status) == ("error", "ok")
    assert second.exception is error
    assert third.value is payload
    assert first.duration >= 0
    assert repr(second)
    error.__traceback__ = None


@operation(
    *("EventBus.emitter", "Emitter.__call__", "Emitter.name", "Emitter.bus"),
    *("Emitter.__repr__", "Emitter.__class_getitem__"),
)
def emitters(world: World) -> None:
    emitter = world.bus.emitter(name)
    assert emitter(payload) == 2
    world.bus.on(name, sync)
    assert emitter(payload) == 3
    assert emitter.name == name
    assert emitter.bus is world.bus
    assert repr(emitter)
    assert agent_event_bus.Emitter[int] is not None


# Events, keys, schemas, errors


@operation(
    *("Event.name", "Event.payload", "Event.seq", "Event.timestamp", "Event.to_dict"),
    *("Event.__new__", "Event.__repr__", "Event.__reduce__", "Event.__class_getitem__"),
)
def events(world: World) -> None:
    event = Event(name, payload, 7, 1.5)
    assert event.name is name
    assert event.payload is payload
    assert (event.seq, event.timestamp) == (7, 1.5)
    assert event.to_dict()["payload"] is payload
    assert repr(event)
    assert pickle.loads(pickle.dumps(Event("a", 3))).payload == 3
    assert Event(name).timestamp > 0
    assert Event[int] is not None


@operation("EventKey.name", "EventKey.__new__", "EventKey.__repr__", "EventKey.__class_getitem__")
def event_keys(world: World) -> None:
    key: Any = EventKey(name)
    assert key.name == name
    assert repr(key)
    assert EventKey[int] is not None


@operation(
    "EventBus.define_event",
    "EventSchemaError.__init__",
    "EventSchemaError.__str__",
    "EventSchemaError",
)
def define_events(world: World) -> None:
    bus = world.other(strict=False)
    bus.define_event(name, schema)
    bus.define_event("other", None)
    assert bus.emit(name, payload) == 1
    assert bus.publish(payload) == 0
    assert str(raised(EventSchemaError, bus.emit, name))
    assert raised(EventSchemaError, bus.emit, name).field is None
    raised(EventSchemaError, bus.collect, name)
    raised(EventSchemaError, bus.emitter(name))


@operation("UnknownEventError", "UnknownEventError.__init__", "UnknownEventError.__str__")
def strict_buses(world: World) -> None:
    bus = EventBus(strict=True)
    bus.define_event(name, None)
    assert bus.on(name, sync) is sync
    assert bus.on(pattern, sync) is sync
    assert bus.emit(name, payload) == 2
    assert str(raised(UnknownEventError, bus.emit, "event.nam"))
    assert str(raised(UnknownEventError, bus.emit, "far"))


# The registry


@operation("get_bus", "use_buses", "UseBuses.__enter__", "UseBuses.__exit__", "UseBuses.__init__")
def named_buses(world: World) -> None:
    with use_buses():
        bus = get_bus(name)
        assert get_bus(name) is bus
        assert get_bus() is not bus
        get_bus("with options", history=3)


@operation("UseBuses.__call__")
def decorated_functions(world: World) -> None:
    @use_buses()
    def function() -> EventBus:
        return get_bus(name)

    assert function() is not function()


@operation(
    *("EventBus.as_current", "current_bus", "CurrentBus.__init__"),
    *("CurrentBus.__enter__", "CurrentBus.__exit__", "CurrentBus.bus"),
)
def current_buses(world: World) -> None:
    with use_buses():
        with world.bus.as_current() as bus:
            assert current_bus() is bus
            assert bus.as_current().bus is bus
        assert current_bus() is not bus


# Waiting, as far as it goes without a loop


@operation(
    *("EventBus.wait_for", "Waiter.__init__", "Waiter.close", "Waiter.__repr__"),
    *("Waiter.__name__", "Waiter.__iter__"),
)
def waiters_that_are_dropped(world: World) -> None:
    waiter: Any = world.bus.wait_for(name, where=good_condition, timeout=5)
    assert waiter.__name__ == "wait_for"
    assert repr(waiter)
    assert iter(waiter) is waiter
    assert world.bus.emit(name, payload) == 3
    waiter.close()
    dropped = world.bus.wait_for([name, pattern])
    assert len(world.bus) == 4
    del dropped
    assert len(world.bus) == 3


@operation("EventBus.expect", "Expectation.__init__", "Expectation.__repr__", "Expectation.event")
def expectations_that_are_dropped(world: World) -> None:
    expectation = world.bus.expect(name)
    assert repr(expectation)
    assert world.bus.emit(name, payload) == 3
    assert expectation.event.payload is payload


@operation(
    *("EventBus.stream", "Stream.__init__", "Stream.close", "Stream.dropped", "Stream.__repr__"),
    "Stream.__aiter__",
)
def streams_that_are_dropped(world: World) -> None:
    for overflow in ("drop_oldest", "drop_newest", "block", "error"):
        stream: Any = world.bus.stream(pattern, maxsize=1, overflow=overflow)
        assert stream.__aiter__() is stream
        assert repr(stream)
        world.bus.emit(name, payload)
        world.bus.emit(name, payload)
        assert stream.dropped == 1
        stream.close()
    stream = world.bus.stream(name)
    del stream
    assert len(world.bus) == 3
