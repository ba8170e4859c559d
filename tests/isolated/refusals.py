"""Every call of the core that has to fail, see operations.py: what it raises, and what that says.

references.py repeats them, no_memory.py has their allocations fail, and test_references.py compares
what they say with the messages in src/: a message that none of them provokes is named there.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any, Callable, NamedTuple

from operations import (
    World,
    bad_condition,
    coroutine,
    fails,
    name,
    payload,
    schema,
    sync,
)
from operations_async import bus_with, suspends
from refusals_async import (
    awaited_twice,
    awaits_no_iterator,
    badly_begun_task,
    collects,
    entered_twice,
    guard_that_awaits,
    in_loop,
    returns_no_awaitable,
    reused_task,
    stream_awaited_twice,
    thrown_while_awaited,
    waiter_awaited_twice,
)

from agent_event_bus import (
    Emitter,
    Event,
    EventBus,
    EventKey,
    EventSchemaError,
    UnknownEventError,
    get_bus,
    use_buses,
)


class Refusal(NamedTuple):
    error: type[BaseException]
    says: str  # a part of the message
    call: Callable[[World], Any]


def generator(*args: object) -> Any:
    yield None


async def async_generator(*args: object) -> Any:
    yield None


class BadWhere:
    def keys(self) -> Any:
        return []

    def items(self) -> Any:
        return [7]

    def __getitem__(self, key: str) -> object:
        return None


class NotReferenceable:
    __slots__ = ()

    def __call__(self, *args: object) -> None: ...


class BadSeconds:
    def __float__(self) -> float:
        raise ZeroDivisionError("seconds")


class Shy:
    """A key that cannot be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError("repr")


class NoError(Exception):
    """An exception class whose instances are none."""

    def __new__(cls, *args: object) -> Any:
        return 7


HUGE = 1 << 70
TOO_LARGE_FOR_A_FLOAT = 10**400
strict = EventBus(strict=True)
strict.define_event(name, schema)
strict.on(name, sync)
async_only = EventBus(async_only=True)
closed = EventBus()
closed._close()
UNBOUND = EventBus()
shy = Shy()
no_seconds = BadSeconds()
not_referenceable = NotReferenceable()
partial = functools.partial(sync)
bad_where = BadWhere()

# fmt: off
BAD_KEYS: list[tuple[Any, ...]] = [
    ("int", 7, TypeError, "bad key 7: it must be a str or a class, not int"),
    ("None", None, TypeError, "bad key None: it must be a str or a class"),
    ("shy", shy, TypeError, "a key must be a str or a class, not Shy"),
    ("empty", "", ValueError, "bad key ''"),
    ("segment", "a..b", ValueError, "bad key 'a..b'"),
    ("glued", "a*", ValueError, "bad key 'a*'"),
    ("middle", "**.a", ValueError, "bad key '**.a'"),
]
BAD_NAMES: list[tuple[Any, ...]] = [
    ("int", 7, TypeError, "event name must be a str, not int"),
    ("None", None, TypeError, "event name must be a str"),
    ("class", int, TypeError, "event name must be a str"),
    ("empty", "", ValueError, "bad event name ''"),
    ("segment", "a..b", ValueError, "bad event name 'a..b'"),
    ("pattern", "a.*", ValueError, "bad event name 'a.*'"),
]
BAD_HANDLERS: list[tuple[Any, ...]] = [
    ("int", 7, TypeError, "handler must be callable, not int"),
    ("generator", generator, TypeError, "is a generator function"),
    ("async generator", async_generator, TypeError, "is an async generator function"),
]
BAD_OPTIONS: list[tuple[Any, ...]] = [
    ("unknown", {"colour": 1}, TypeError, "got an unexpected keyword argument 'colour'"),
    ("priority", {"priority": "1"}, TypeError, "priority must be an int, not str"),
    ("priority bool", {"priority": True}, TypeError, "priority must be an int, not bool"),
    ("priority huge", {"priority": HUGE}, OverflowError, "priority must fit in 64 bits"),
    ("weak", {"weak": 1}, TypeError, "weak must be a bool, not int"),
    ("envelope", {"envelope": 1}, TypeError, "envelope must be a bool"),
    ("isolate", {"isolate": None}, TypeError, "isolate must be a bool"),
    ("offload", {"offload": 1}, TypeError, "offload must be a bool"),
    ("timeout", {"timeout": "1"}, TypeError, "timeout must be a number of seconds"),
    ("timeout zero", {"timeout": 0.0}, ValueError, "timeout must be more than 0 seconds"),
    ("where", {"where": 7}, TypeError, "where must be a callable or a mapping, not int"),
    ("where async", {"where": coroutine}, TypeError, "where must not be a coroutine function"),
    ("where field", {"where": {7: 1}}, TypeError, "where must map names of fields"),
    ("where items", {"where": bad_where}, TypeError, "where has items that are not pairs"),
]
BAD_WEAK: list[tuple[Any, ...]] = [
    ("lambda", lambda *args: None, "a weak handler must not be a lambda"),
    ("partial", partial, "a weak handler must not be a functools.partial"),
    ("built-in", [].append, "a weak handler must not be a method of a built-in object"),
    ("slots", not_referenceable, "a weak handler must be weakly referenceable"),
]
# fmt: on

AnyBus: Any = EventBus
AnyEvent: Any = Event
AnyEmitter: Any = Emitter
any_get_bus: Any = get_bus

REFUSALS: dict[str, Refusal] = {}


def refused(label: str, error: type[BaseException], says: str, call: Any) -> None:
    """List a call that has to raise `error`."""
    assert label not in REFUSALS, label
    REFUSALS[label] = Refusal(error, says, call)


def options(bus: Any, **given: Any) -> None:
    """Subscribe with options, in each of the three ways; all have to raise the same."""
    ways: list[Callable[..., Any]] = [bus.subscribe, bus.on, bus.once]
    for way in ways[1:]:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            way(name, sync, **given)
            raise AssertionError(f"{way} accepts {given}")
    ways[0](name, sync, **given)


def add() -> None:
    """List them."""
    # fmt: off
    r = refused
    # The constructor
    r("EventBus name", TypeError, "name must be a str or None, not int", lambda w: AnyBus(7))
    r("EventBus too many", TypeError, "argument", lambda w: AnyBus("a", 2))
    r("EventBus unknown", TypeError, "colour", lambda w: AnyBus(colour=1))
    r("history type", TypeError, "history must be an int, not str", lambda w: AnyBus(history=""))
    r("history bool", TypeError, "history must be an int", lambda w: AnyBus(history=True))
    r("history negative", ValueError, "history must be at least 0", lambda w: AnyBus(history=-1))
    r("history below", ValueError, "history must be at least 0", lambda w: AnyBus(history=-HUGE))
    r("history huge", OverflowError, "history is too large", lambda w: AnyBus(history=HUGE))
    r("logger", TypeError, "logger must not be int: it has no method", lambda w: AnyBus(logger=7))
    r("on_error type", TypeError, "on_error must be callable", lambda w: AnyBus(on_error=7))
    r("on_error async", TypeError, "on_error must not be", lambda w: AnyBus(on_error=coroutine))
    r("loop", TypeError, "loop must not be int: it has no method", lambda w: AnyBus(loop=7))
    r("pending type", TypeError, "an int or None", lambda w: AnyBus(max_pending=1.5))
    r("pending none", ValueError, "must be at least 1", lambda w: AnyBus(max_pending=0))
    r("concurrency type", TypeError, "an int or None", lambda w: AnyBus(max_concurrency=""))
    r("concurrency none", ValueError, "at least 1", lambda w: AnyBus(max_concurrency=0))
    r("timeout type", TypeError, "a number of seconds", lambda w: AnyBus(handler_timeout=""))
    r("timeout bool", TypeError, "a number of seconds", lambda w: AnyBus(handler_timeout=True))
    r("timeout zero", ValueError, "more than 0 seconds", lambda w: AnyBus(handler_timeout=0))
    r("timeout nan", ValueError, "more than 0 seconds", lambda w: AnyBus(handler_timeout=math.nan))
    r("timeout huge", OverflowError, "handler_timeout is too large",
      lambda w: AnyBus(handler_timeout=TOO_LARGE_FOR_A_FLOAT))
    r("timeout hostile", ZeroDivisionError, "seconds", lambda w: AnyBus(handler_timeout=no_seconds))
    r("slow_after", ValueError, "more than 0 seconds", lambda w: AnyBus(slow_after=-1.0))
    r("timing", TypeError, "timing must be a bool, not int", lambda w: AnyBus(timing=1))
    r("strict", TypeError, "strict must be a bool", lambda w: AnyBus(strict=None))
    r("async_only", TypeError, "async_only must be a bool", lambda w: AnyBus(async_only=1))
    # Attributes
    r("set on_error", TypeError, "on_error must be callable or None",
      lambda w: setattr(w.bus, "on_error", 7))
    r("delete on_error", AttributeError, "on_error cannot be deleted",
      lambda w: delattr(w.bus, "on_error"))
    r("set name", AttributeError, "", lambda w: setattr(w.bus, "name", "b"))
    r("set closed", AttributeError, "", lambda w: setattr(w.bus, "closed", True))
    r("set calls", AttributeError, "", lambda w: setattr(w.subscription, "calls", 1))
    r("set of Event", AttributeError, "", lambda w: setattr(AnyEvent(name), "payload", 1))
    r("set of Emitter", AttributeError, "", lambda w: setattr(w.bus.emitter(name), "name", 1))
    # Keys
    for label, bad, kind, says in BAD_KEYS:
        r(f"on {label}", kind, says, lambda w, bad=bad: w.bus.on(bad, sync))
        r(f"on {label} decorator", kind, says, lambda w, bad=bad: w.bus.on(bad))
        r(f"once {label}", kind, says, lambda w, bad=bad: w.bus.once(bad, sync))
        r(f"subscribe {label}", kind, says, lambda w, bad=bad: w.bus.subscribe([name, bad], sync))
        if bad is not None:
            r(f"off {label}", kind, says, lambda w, bad=bad: w.bus.off(bad))
            r(f"clear {label}", kind, says, lambda w, bad=bad: w.bus.clear(bad))
            r(f"history {label}", kind, says, lambda w, bad=bad: w.bus.history(bad))
        r(f"wait_for {label}", kind, says, lambda w, bad=bad: w.bus.wait_for(bad))
        r(f"expect {label}", kind, says, lambda w, bad=bad: w.bus.expect(bad))
        r(f"stream {label}", kind, says, lambda w, bad=bad: w.bus.stream(bad))
    r("subscribe to no key", ValueError, "no key to subscribe to",
      lambda w: w.bus.subscribe([], sync))
    r("subscribe to a range", TypeError, "bad key", lambda w: w.bus.subscribe(range(3), sync))
    # Names
    for label, bad, kind, says in BAD_NAMES:
        r(f"emit {label}", kind, says, lambda w, bad=bad: w.bus.emit(bad, payload))
        r(f"emit_async {label}", kind, says,
          lambda w, bad=bad: step(w.bus.emit_async(bad, payload)))
        r(f"collect {label}", kind, says, lambda w, bad=bad: w.bus.collect(bad, payload))
        r(f"collect_async {label}", kind, says, lambda w, bad=bad: step(w.bus.collect_async(bad)))
        r(f"emitter {label}", kind, says, lambda w, bad=bad: w.bus.emitter(bad))
        r(f"handlers {label}", kind, says, lambda w, bad=bad: w.bus.handlers(bad))
        r(f"has_handlers {label}", kind, says, lambda w, bad=bad: w.bus.has_handlers(bad))
        r(f"define_event {label}", kind, says, lambda w, bad=bad: w.bus.define_event(bad, None))
        r(f"EventKey {label}", kind, says, lambda w, bad=bad: EventKey(bad))
    # Handlers
    for way in ("on", "once", "subscribe"):
        for label, bad, kind, says in BAD_HANDLERS:
            r(f"{way} handler {label}", kind, says,
              lambda w, way=way, bad=bad: getattr(w.bus, way)(name, bad))
    r("decorator handler", TypeError, "handler must be callable", lambda w: w.bus.on(name)(7))
    r("decorator keywords", TypeError, "a subscribing decorator takes no keyword arguments",
      lambda w: w.bus.on(name)(handler=sync))
    r("decorator nothing", TypeError, "takes exactly", lambda w: w.bus.on(name)())
    r("async_only on", TypeError, "is sync, and the bus is async_only",
      lambda w: async_only.on(name, sync))
    # Options of subscriptions
    for label, given, kind, says in BAD_OPTIONS:
        r(f"option {label}", kind, says, lambda w, given=given: options(w.bus, **given))
    r("option once", TypeError, "once must be a bool", lambda w: w.bus.on(name, sync, once=1))
    r("once of once", TypeError, "once", lambda w: w.bus.once(name, sync, once=True))
    r("offload coroutine", TypeError, "offload is for sync handlers",
      lambda w: w.bus.on(name, coroutine, offload=True))
    for label, bad, says in BAD_WEAK:
        r(f"weak {label}", TypeError, says,
          lambda w, bad=bad: w.bus.subscribe(name, bad, weak=True))
    # Numbers of arguments
    r("on nothing", TypeError, "on() takes a key and at most one handler", lambda w: w.bus.on())
    r("once three", TypeError, "once() takes a key", lambda w: w.bus.once(name, sync, 3))
    r("subscribe one", TypeError, "subscribe() takes a key and a handler",
      lambda w: w.bus.subscribe(name))
    r("emit nothing", TypeError, "emit() takes a name and at most one", lambda w: w.bus.emit())
    r("emit three", TypeError, "emit() takes a name", lambda w: w.bus.emit(name, 1, 2))
    r("emit keyword", TypeError, "emit()", lambda w: w.bus.emit(name, payload=1))
    r("emit_async nothing", TypeError, "emit_async() takes", lambda w: w.bus.emit_async())
    r("publish nothing", TypeError, "publish() takes one object", lambda w: w.bus.publish())
    r("publish_async two", TypeError, "publish_async() takes one object",
      lambda w: w.bus.publish_async(1, 2))
    r("collect nothing", TypeError, "collect() takes a name", lambda w: w.bus.collect())
    r("collect keyword", TypeError, "unexpected keyword", lambda w: w.bus.collect(name, colour=1))
    r("collect twice", TypeError, "multiple values for argument 'name'",
      lambda w: w.bus.collect(name, name=name))
    r("handlers two", TypeError, "handlers() takes a name", lambda w: w.bus.handlers(name, 2))
    r("emitter nothing", TypeError, "emitter() takes a name", lambda w: w.bus.emitter())
    r("emitter call", TypeError, "an emitter takes at most one payload",
      lambda w: w.bus.emitter(name)(1, 2))
    r("emitter keyword", TypeError, "an emitter takes no keyword arguments",
      lambda w: w.bus.emitter(name)(payload=1))
    r("emitter async", TypeError, "takes at most one",
      lambda w: w.bus.emitter(name).emit_async(1, 2))
    r("off nothing", TypeError, "off() needs a key, a handler or both", lambda w: w.bus.off())
    r("off handler", TypeError, "handler must be callable", lambda w: w.bus.off(name, 7))
    r("bind_loop", TypeError, "loop must not be int", lambda w: w.bus.bind_loop(7))
    r("limit type", TypeError, "limit must be an int", lambda w: w.bus.history(limit="1"))
    r("limit negative", ValueError, "limit must be at least 0", lambda w: w.bus.history(limit=-1))
    r("make an Emitter", TypeError, "cannot create", lambda w: AnyEmitter())
    # Events
    r("Event nothing", TypeError, "name", lambda w: AnyEvent())
    r("Event name", TypeError, "name must be a str, not int", lambda w: AnyEvent(7))
    r("Event seq", TypeError, "seq must be an int, not str", lambda w: AnyEvent(name, None, "7"))
    r("Event seq low", OverflowError, "seq must be at least 0", lambda w: AnyEvent(name, None, -1))
    r("Event seq huge", OverflowError, "seq must be at least 0",
      lambda w: AnyEvent(name, None, HUGE))
    r("Event time", TypeError, "timestamp must be a number of seconds",
      lambda w: AnyEvent(name, None, 0, "now"))
    r("Event time huge", OverflowError, "timestamp is too large",
      lambda w: AnyEvent(name, None, 0, TOO_LARGE_FOR_A_FLOAT))
    r("Event time hostile", ZeroDivisionError, "seconds",
      lambda w: AnyEvent(name, None, 0, no_seconds))
    # Schemas
    r("schema", TypeError, "schema", lambda w: w.bus.define_event(name, 7))
    r("schema async", TypeError, "coroutine", lambda w: w.bus.define_event(name, coroutine))
    r("schema twice", ValueError, "is defined already, with another schema",
      lambda w: strict.define_event(name, None))
    for way in ("emit", "collect"):
        r(f"{way} refused", EventSchemaError, "", lambda w, way=way: getattr(strict, way)(name, 7))
        r(f"{way} unknown", UnknownEventError, "did you mean",
          lambda w, way=way: getattr(strict, way)("event.nam", 7))
        r(f"{way} async_only", RuntimeError, "the bus is async_only",
          lambda w, way=way: getattr(async_only, way)(name))
    r("emitter refused", EventSchemaError, "", lambda w: strict.emitter(name)(7))
    r("emit_async refused", EventSchemaError, "", lambda w: step(strict.emit_async(name, 7)))
    r("subscribe unknown", UnknownEventError, "declare it", lambda w: strict.on("far", sync))
    r("emitter async_only", RuntimeError, "await emit_async()",
      lambda w: async_only.emitter(name)(payload))
    r("publish async_only", RuntimeError, "await publish_async()", lambda w: async_only.publish(1))
    # A guard, a closed bus
    r("guard", ValueError, "of a handler", guard)
    r("guard condition", KeyError, "of a condition", guard_with_a_condition)
    r("closed on", RuntimeError, "the bus is closed", lambda w: closed.on(name, sync))
    r("closed decorator", RuntimeError, "the bus is closed", lambda w: closed.on(name))
    r("closed subscribe", RuntimeError, "the bus is closed", lambda w: closed.subscribe(name, sync))
    r("closed wait_for", RuntimeError, "the bus is closed", lambda w: closed.wait_for(name))
    r("closed stream", RuntimeError, "the bus is closed", lambda w: closed.stream(name))
    # Waiting
    r("wait_for timeout", TypeError, "timeout must be", lambda w: w.bus.wait_for(name, timeout=""))
    r("wait_for negative", ValueError, "at least 0", lambda w: w.bus.wait_for(name, timeout=-1))
    r("wait_for huge", ValueError, "too large",
      lambda w: w.bus.wait_for(name, timeout=TOO_LARGE_FOR_A_FLOAT))
    r("wait_for where", TypeError, "where must be", lambda w: w.bus.wait_for(name, where=7))
    r("expect event", RuntimeError, "no event has matched", lambda w: w.bus.expect(name).event)
    r("stream maxsize", TypeError, "maxsize must be an int",
      lambda w: w.bus.stream(name, maxsize=""))
    r("stream maxsize 0", ValueError, "at least 1", lambda w: w.bus.stream(name, maxsize=0))
    r("stream overflow", TypeError, "must be a str", lambda w: w.bus.stream(name, overflow=7))
    r("stream policy", ValueError, "one of", lambda w: w.bus.stream(name, overflow="never"))
    # Registry
    r("get_bus name", TypeError, "name must be a str", lambda w: any_get_bus(7))
    r("get_bus options", TypeError, "colour", lambda w: any_get_bus("refused", colour=1))
    r("get_bus again", ValueError, "exists already", get_bus_again)
    r("use_buses", RuntimeError, "entered already", enter_twice)
    r("use_buses class", TypeError, "use_buses() decorates", lambda w: use_buses()(int))
    r("as_current", RuntimeError, "not entered",
      lambda w: w.bus.as_current().__exit__(None, None, None))
    # Coroutine objects and loops
    r("no loop", RuntimeError, "no running event loop", lambda w: step(ASYNC.emit_async(name)))
    r("no loop to collect", RuntimeError, "", lambda w: step(ASYNC.collect_async(name)))
    r("threadsafe", RuntimeError, "needs an event loop", lambda w: UNBOUND.emit_threadsafe(name))
    r("first send", TypeError, "can't send non-None value", lambda w: used(w, "send", 7))
    r("reused", RuntimeError, "cannot reuse already awaited coroutine", lambda w: reused(w))
    r("thrown type", TypeError, "exceptions must", lambda w: used(w, "throw", 7))
    r("thrown no exception", TypeError, "exceptions must derive from BaseException",
      lambda w: used(w, "throw", NoError))
    r("thrown nothing", TypeError, "throw", lambda w: used(w, "throw"))
    r("thrown", ZeroDivisionError, "", lambda w: used(w, "throw", ZeroDivisionError))
    r("not a delivery", TypeError, "not a delivery", lambda w: w.bus._park(7, True))
    # In a running loop
    r("collect in a loop", RuntimeError, "await collect_async()", in_loop(collects))
    r("sent again", RuntimeError, "is being awaited already", in_loop(awaited_twice))
    r("thrown again", RuntimeError, "is being awaited already", in_loop(thrown_while_awaited))
    r("sent inside", ValueError, "coroutine already executing", sent_inside)
    r("delivery sent", RuntimeError, "cannot reuse already awaited coroutine", in_loop(reused_task))
    r("delivery started", TypeError, "can't send non-None", in_loop(badly_begun_task))
    r("no awaitable", TypeError, "cannot be awaited", in_loop(returns_no_awaitable))
    r("no iterator", TypeError, "__await__() returned int", in_loop(awaits_no_iterator))
    r("guard in a loop", ValueError, "of a handler", in_loop(guard_that_awaits))
    r("waiter awaited", RuntimeError, "is being awaited already", in_loop(waiter_awaited_twice))
    r("entered twice", RuntimeError, "cannot be entered twice", in_loop(entered_twice))
    r("stream awaited", RuntimeError, "another task waits", in_loop(stream_awaited_twice))
    r("drain type", TypeError, "timeout must be", lambda w: step(w.bus.drain("1")))
    r("drain negative", ValueError, "at least 0", lambda w: step(w.bus.drain(-1)))
    # fmt: on


ASYNC = bus_with(suspends)


def step(awaitable: Any) -> None:
    """Take the first step of a coroutine object that will not get further."""
    try:
        awaitable.send(None)
    finally:
        awaitable.close()


def used(world: World, method: str, *args: Any) -> None:
    emission: Any = world.bus.emit_async(name, payload)
    try:
        getattr(emission, method)(*args)
    finally:
        emission.close()


def reused(world: World) -> None:
    emission: Any = world.bus.emit_async(name, payload)
    with contextlib.suppress(StopIteration):
        emission.send(None)
    emission.send(None)


def guard(world: World) -> None:
    bus_with(fails, isolate=False).emit(name, payload)


def guard_with_a_condition(world: World) -> None:
    bus_with(sync, isolate=False, where=bad_condition).emit(name, payload)


def sent_inside(world: World) -> None:
    emissions: list[Any] = []
    bus = bus_with(lambda value: emissions[0].send(None), isolate=False)
    emissions.append(bus.emit_async(name, payload))
    try:
        emissions[0].send(None)
    finally:
        emissions.clear()


def get_bus_again(world: World) -> None:
    with use_buses():
        get_bus("twice")
        get_bus("twice", history=3)


def enter_twice(world: World) -> None:
    block = use_buses()
    with block:
        block.__enter__()


add()
