"""Bad arguments of every public call: the error comes at the call and names the argument.

One row an argument and a value. What each option is for, and which values are good, the files of
those subjects test.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import agent_event_bus
from agent_event_bus import Event, EventBus, current_bus, get_bus, use_buses

NAN = float("nan")
HUGE = 10**400  # more than a float can hold


async def coroutine_function(*args: object) -> None: ...


def generator_function(payload: object) -> Iterator[None]:
    yield


def handler(payload: object) -> None: ...


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def each(*values: Any) -> tuple[Any, ...]:
    """Values of any types, for a loop."""
    return values


Row = tuple[Callable[[Any], object], type[Exception], str]


def call(method: str, *args: Any, **options: Any) -> Callable[[Any], object]:
    """A call of a method of the bus that it is given; what it returns is awaited, if it can be."""

    def run(bus: Any) -> object:
        result = getattr(bus, method)(*args, **options)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    return run


def await_(method: str, *args: Any, **options: Any) -> Callable[[Any], object]:
    """The same for the coroutine objects of the core, which `inspect` does not know."""

    def run(bus: Any) -> object:
        return asyncio.run(getattr(bus, method)(*args, **options))

    return run


def make(*args: Any, **options: Any) -> Callable[[Any], object]:
    """The construction of a bus."""
    return lambda bus: EventBus(*args, **options)


def assign(attribute: str, value: object) -> Callable[[Any], object]:
    """An assignment to an attribute of the bus."""
    return lambda bus: setattr(bus, attribute, value)


ROWS: list[Row] = []

# What EventBus() takes.

for option in ("max_pending", "max_concurrency"):
    ROWS += [(make(**{option: bad}), TypeError, option) for bad in each("1", 1.5, True, [])]
    ROWS += [(make(**{option: bad}), ValueError, option) for bad in each(0, -1, -(2**80))]
    ROWS += [(make(**{option: 2**80}), OverflowError, option)]
for option in ("handler_timeout", "slow_after"):
    ROWS += [(make(**{option: bad}), TypeError, option) for bad in each("1", True, 1j, [])]
    ROWS += [(make(**{option: bad}), ValueError, option) for bad in each(0, -1, NAN, float("-inf"))]
    ROWS += [(make(**{option: HUGE}), OverflowError, option)]
for option in ("timing", "strict", "async_only"):
    ROWS += [(make(**{option: bad}), TypeError, option) for bad in each(1, 0, None, "yes")]
ROWS += [
    *[(make(bad), TypeError, "name") for bad in each(1, b"a", ["a"], EventBus)],
    *[(make(history=bad), TypeError, "history") for bad in each("1", 1.5, True, None)],
    (make(history=-1), ValueError, "history"),
    (make(history=2**80), OverflowError, "history"),
    *[(make(logger=bad), TypeError, "logger") for bad in each(1, "name", print)],
    *[(make(on_error=bad), TypeError, "on_error") for bad in each(1, "name", coroutine_function)],
    *[(assign("on_error", bad), TypeError, "on_error") for bad in each(1, coroutine_function)],
    *[(make(loop=bad), TypeError, "loop") for bad in each(1, "loop", asyncio)],
    (make(bogus=1), TypeError, "bogus"),
    (make("name", 10), TypeError, "positional"),
]

# Subscribing.

BAD_KEYS: list[tuple[Any, type[Exception], str]] = [
    *[
        (bad, TypeError, "key")
        for bad in each(None, 3, 1.5, b"a", {"a"}, {"a": 1}, NoRepr(), list[int])
    ],
    *[
        (bad, ValueError, f"bad key {bad!r}")
        for bad in each("", "a..b", ".a", "a.", "a*", "***", "**.a")
    ],
]
BAD_LISTS: list[tuple[Any, type[Exception], str]] = [
    ([], ValueError, "key"),
    ((), ValueError, "key"),
    (["a", 3], TypeError, "bad key 3"),
    (["a", "b*"], ValueError, "bad key 'b*'"),
    ([["a"]], TypeError, "bad key ['a']"),
]
BAD_OPTIONS: list[tuple[str, Any, type[Exception]]] = [
    *[("priority", bad, TypeError) for bad in each("1", 1.5, None, True)],
    *[("priority", bad, OverflowError) for bad in each(2**63, -(2**63) - 1)],
    *[
        (flag, bad, TypeError)
        for flag in ("once", "weak", "envelope", "isolate", "offload")
        for bad in each(1, 0, None, "yes")
    ],
    *[("where", bad, TypeError) for bad in each(3, "a", ["a"], {1: 2}, coroutine_function)],
    *[("timeout", bad, TypeError) for bad in each("1", True, 1j, [])],
    *[("timeout", bad, ValueError) for bad in each(0, -1, NAN)],
    ("timeout", HUGE, OverflowError),
    ("bogus", 1, TypeError),
]
for method in ("on", "once", "subscribe"):
    ROWS += [
        *[(call(method, key, handler), error, text) for key, error, text in BAD_KEYS],
        *[
            (call(method, "a", bad), TypeError, "handler")
            for bad in each(3, "b", [], generator_function)
        ],
        *[
            (call(method, "a", handler, **{option: bad}), error, option)
            for option, bad, error in BAD_OPTIONS
        ],
        (call(method), TypeError, "key"),
        (call(method, "a", handler, 1), TypeError, "key"),
        (call(method, key="a"), TypeError, "key"),
    ]
ROWS += [(call("subscribe", keys, handler), error, text) for keys, error, text in BAD_LISTS]
ROWS += [
    (call("subscribe", "a", None), TypeError, "handler"),
    (call("subscribe", "a"), TypeError, "handler"),
    (call("on", ["a", "b"], handler), TypeError, "key"),
    (call("once", ["a", "b"], handler), TypeError, "key"),
    (lambda bus: bus.on("a")(3), TypeError, "handler"),
    (lambda bus: bus.once("a")(generator_function), TypeError, "generator_function"),
    (lambda bus: bus.on("a")(), TypeError, "argument"),
    (lambda bus: bus.on("a")(handler, 1), TypeError, "argument"),
    (lambda bus: bus.on("a")(handler=handler), TypeError, "keyword"),
    (call("on", "a", coroutine_function, offload=True), TypeError, "offload"),
    (call("on", "a", lambda payload: None, weak=True), TypeError, "weak"),
]

# Removing and asking.

for method in ("off", "clear"):
    ROWS += [(call(method, key), error, text) for key, error, text in BAD_KEYS if key is not None]
    ROWS += [
        (call(method, ["a"]), TypeError, "key"),
        (call(method, bogus=1), TypeError, "bogus"),
        (call(method, 1, 2, 3), TypeError, "argument"),
    ]
ROWS += [
    (call("off"), TypeError, "needs a key, a handler or both"),
    (call("off", None, None), TypeError, "needs a key, a handler or both"),
    *[(call("off", "a", bad), TypeError, "handler must be callable") for bad in each(3, "b", [])],
    (call("off", handler="a"), TypeError, "handler must be callable, not str"),
]

# Names.

BAD_NAMES: list[tuple[Any, type[Exception], str]] = [
    *[(bad, TypeError, "event name") for bad in each(None, 3, b"a", ["a"], object, NoRepr())],
    *[(bad, ValueError, "event name") for bad in each("", "a..b", "*", "**", "a.*", "a*")],
]
for method in ("emit", "collect", "handlers", "has_handlers", "emitter"):
    ROWS += [(call(method, name), error, text) for name, error, text in BAD_NAMES]
for method in ("emit_async", "collect_async"):
    ROWS += [(await_(method, name), error, text) for name, error, text in BAD_NAMES]
for method in ("emit", "emit_async", "collect", "collect_async"):
    ROWS += [
        (call(method), TypeError, "name"),
        (call(method, "a", 1, 2), TypeError, "payload"),
    ]
for method in ("emit", "emit_async"):
    ROWS += [
        (call(method, "a", payload=1), TypeError, "keyword"),
        (call(method, name="a"), TypeError, "keyword"),
    ]
for method in ("collect", "collect_async"):
    ROWS += [
        (call(method, payload=1), TypeError, "name"),
        (call(method, "a", bogus=1), TypeError, "bogus"),
        (call(method, "a", 1, payload=1), TypeError, "payload"),
        (call(method, "a", name="a"), TypeError, "name"),
    ]
for method in ("handlers", "has_handlers", "emitter"):
    ROWS += [
        (call(method), TypeError, "name"),
        (call(method, "a", 1), TypeError, "name"),
        (call(method, "a", payload=1), TypeError, "payload"),
        (call(method, "a", name="a"), TypeError, "name"),
    ]
ROWS += [
    (lambda bus: bus.emitter("a")(1, 2), TypeError, "payload"),
    (lambda bus: bus.emitter("a")(payload=1), TypeError, "keyword"),
    (lambda bus: bus.emitter("a").emit_async(1, 2), TypeError, "payload"),
    *[(call(method), TypeError, "one object") for method in ("publish", "publish_async")],
    *[(call(method, 1, 2), TypeError, "one object") for method in ("publish", "publish_async")],
    (call("emit_threadsafe"), TypeError, "name"),
    (call("emit_threadsafe", "a", 1, payload=1), TypeError, "payload"),
]

# Loops, looking back, waiting.

ROWS += [
    *[(call("bind_loop", bad), TypeError, "loop") for bad in each(3, "loop", asyncio)],
    *[(call("drain", bad), TypeError, "timeout") for bad in each("1", 1j, True, [])],
    *[(call("drain", bad), ValueError, "timeout") for bad in each(-1, NAN, HUGE)],
    *[(call("history", key), error, text) for key, error, text in BAD_KEYS if key is not None],
    (call("history", ["a"]), TypeError, "key"),
    *[(call("history", limit=bad), TypeError, "limit") for bad in each("1", 1.5, True)],
    (call("history", limit=-1), ValueError, "limit"),
    (call("history", limit=2**80), OverflowError, "limit"),
    (call("stats", 1), TypeError, "argument"),
]
for method in ("wait_for", "expect", "stream"):
    ROWS += [(call(method, key), error, text) for key, error, text in BAD_KEYS + BAD_LISTS]
    ROWS += [
        (call(method, "a", where=bad), TypeError, "where")
        for bad in each(3, "a", {1: 2}, coroutine_function)
    ]
    ROWS += [(call(method), TypeError, "key"), (call(method, "a", bogus=1), TypeError, "bogus")]
for method in ("wait_for", "expect"):
    ROWS += [(call(method, "a", timeout=bad), TypeError, "timeout") for bad in each("1", True, 1j)]
    ROWS += [(call(method, "a", timeout=bad), ValueError, "timeout") for bad in each(-1, NAN, HUGE)]
ROWS += [
    *[
        (call("stream", "a", maxsize=bad), TypeError, "maxsize")
        for bad in each("1", 1.5, True, None)
    ],
    *[(call("stream", "a", maxsize=bad), ValueError, "maxsize") for bad in each(0, -1)],
    *[
        (call("stream", "a", overflow=bad), TypeError, "overflow")
        for bad in each(3, None, ["block"])
    ],
    (call("stream", "a", overflow="drop"), ValueError, "overflow"),
]

# Beyond one bus object.

ROWS += [
    *[(call("define_event", name, None), error, text) for name, error, text in BAD_NAMES],
    *[
        (call("define_event", "a", bad), TypeError, "schema")
        for bad in each(
            3, "a", {"type": "object"}, coroutine_function, generator_function, list[int]
        )
    ],
    (call("define_event", "a"), TypeError, "schema"),
    *[(lambda bus, bad=bad: get_bus(bad), TypeError, "name") for bad in each(3, None, b"a")],
    (lambda bus: get_bus("a new one", bogus=1), TypeError, "bogus"),
    (lambda bus: get_bus("a new one", max_pending=0), ValueError, "max_pending"),
    *[(lambda bus, f=f: f(1), TypeError, "argument") for f in (current_bus, use_buses)],
    (call("as_current", 1), TypeError, "argument"),
    *[(lambda bus, bad=bad: Event(bad), TypeError, "name") for bad in each(3, None, b"a")],
    *[(lambda bus, bad=bad: Event("a", 1, bad), TypeError, "seq") for bad in each("1", 1.5, True)],
    *[(lambda bus, bad=bad: Event("a", 1, bad), OverflowError, "seq") for bad in each(-1, 2**64)],
    (lambda bus: Event("a", timestamp="now"), TypeError, "timestamp"),  # type: ignore[call-overload]
    (lambda bus: Event("a", timestamp=HUGE), OverflowError, "timestamp"),
]


@pytest.mark.parametrize(("wrong", "error", "text"), ROWS)
def test_the_error_comes_at_the_call_and_names_the_argument(
    bus: EventBus, wrong: Callable[[Any], object], error: type[Exception], text: str
) -> None:
    kept = bus.subscribe("a", handler)
    with use_buses(), pytest.raises(error) as caught:
        wrong(bus)
    assert type(caught.value) is error
    assert text in str(caught.value)
    # and nothing was subscribed, removed, delivered or counted
    assert bus._subscriptions() == [kept]
    assert kept.calls == 0
    assert bus.stats()["emitted"] == 0


@pytest.mark.parametrize("cls", [agent_event_bus.Subscription, agent_event_bus.Outcome])
def test_what_a_bus_alone_can_make_says_so(cls: Any) -> None:
    with pytest.raises(TypeError, match=f"cannot create 'agent_event_bus.{cls.__name__}'"):
        cls()


def test_every_exception_is_importable_from_the_package() -> None:
    for name, base in {
        "EventSchemaError": ValueError,
        "UnknownEventError": ValueError,
        "StreamOverflowError": RuntimeError,
    }.items():
        assert name in agent_event_bus.__all__
        assert issubclass(getattr(agent_event_bus, name), base)


def test_every_public_method_of_a_bus_that_takes_an_argument_has_rows() -> None:
    takes_nothing = {"aclose", "pending", "subscriptions"}
    public = {
        name
        for name in dir(EventBus)
        if name[0] != "_" and not isinstance(getattr(EventBus, name), types.MemberDescriptorType)
    }
    covered = {
        text
        for wrong, _, _ in ROWS
        for text in [
            *(cell.cell_contents for cell in wrong.__closure__ or ()),
            *wrong.__code__.co_names,
        ]
        if isinstance(text, str)
    }
    assert public - takes_nothing <= covered
