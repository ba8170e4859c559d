"""Each allocation of a call fails once: the call works or raises MemoryError; the bus works on.

For every kind of key and option, every call of the bus is repeated with its first allocation
failing, then with its second, and so on until it gets through. Each time the bus must deliver,
count and remove as before, and must not be kept alive by anything afterwards.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Callable

from agent_event_bus import EventBus, Subscription

testcapi: Any = importlib.import_module("_testcapi")  # which type checkers know nothing of


class Base: ...


class Derived(Base): ...


class Owner:
    def method(self, *args: object) -> None: ...


class Bus(EventBus):
    """A bus that remembers the subscription that a call is about."""

    subscription: Subscription


def plain(*args: object) -> None: ...


async def coroutine(*args: object) -> None: ...


OWNER = Owner()
KEYS: list[Any] = ["a.b", "a.*", "*.b", "a.**", "*", Base, ["a.b", "a.*", Base, "*"]]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"once": True},
    {"weak": True},
    {"where": {"x": 1}},
    {"where": bool},
    {"envelope": True},
    {"isolate": False},
    {"timeout": 5.0},
]
BUSES: list[dict[str, Any]] = [{}, {"history": 3}, {"timing": True}, {"slow_after": 10.0}]
PAYLOAD = {"x": 1}
ENOUGH = 8
"""A call that gets through so often in a row has no allocation left to fail."""

Case = tuple[str, Callable[[], Bus], Callable[[Bus], object]]


def bus_with(key: Any, handler: Any, options: dict[str, Any], of_bus: dict[str, Any]) -> Bus:
    bus = Bus(**of_bus)
    bus.subscription = bus.subscribe(key, handler, **options)
    return bus


def changes() -> Iterator[Case]:
    """Subscribing and removing."""
    for key in KEYS:
        for options in OPTIONS:
            for handler in (plain, coroutine, OWNER.method):

                def make(key: Any = key, options: Any = options, handler: Any = handler) -> Bus:
                    bus = bus_with(key, handler, options, {})
                    bus.handlers("a.b")
                    bus.publish(Derived())
                    return bus

                def subscribe(
                    bus: Bus, key: Any = key, options: Any = options, handler: Any = handler
                ) -> None:
                    bus.subscribe(key, handler, **options)
                    if not isinstance(key, list):
                        bus.on(key, **options)(handler)

                def off(bus: Bus, handler: Any = handler) -> None:
                    bus.off(None, handler)

                label = f"{key} {options}"
                yield f"subscribe {label}", Bus, subscribe
                yield f"subscribe again {label}", make, subscribe
                yield f"cancel {label}", make, lambda bus: bus.subscription.cancel()
                yield f"clear {label}", make, lambda bus: bus.clear()
                yield f"off {label}", make, off


def uses() -> Iterator[Case]:
    """Emitting and asking."""
    for of_bus in BUSES:
        for key in KEYS:
            for options in OPTIONS:

                def make(key: Any = key, options: Any = options, of_bus: Any = of_bus) -> Bus:
                    return bus_with(key, plain, options, of_bus)

                label = f"{key} {options} {of_bus}"
                yield f"emit {label}", make, lambda bus: bus.emit("a.b", PAYLOAD)
                yield f"publish {label}", make, lambda bus: bus.publish(Derived())
                yield f"collect {label}", make, lambda bus: bus.collect("a.b", PAYLOAD)
                yield f"emitter {label}", make, lambda bus: bus.emitter("a.b")(PAYLOAD)
                yield f"handlers {label}", make, lambda bus: bus.handlers("a.b")
                yield f"history {label}", make, lambda bus: bus.history("a.*")
                yield f"stats {label}", make, lambda bus: bus.stats()


def fails_cleanly(make: Callable[[], Bus], call: Callable[[Bus], object], number: int) -> bool:
    """Let one allocation of a call fail, and look at the bus. Return whether the call succeeded."""
    bus = make()
    succeeded = True
    testcapi.set_nomemory(number, number + 1)
    try:
        call(bus)
    except MemoryError:
        succeeded = False
    except SystemError:
        # 3.9 sets no exception where its own cache of a function's code fails.
        if (*sys.version_info[:2], number) != (3, 9, 0):
            raise
        succeeded = False
    finally:
        testcapi.remove_mem_hooks()
    got: list[object] = []
    bus.on("a.b", got.append, priority=99)
    assert bus.emit("a.b", PAYLOAD) >= 1
    assert got == [PAYLOAD]
    active = len(bus)
    assert bus.clear() == active
    assert len(bus) == 0
    assert bus.handlers("a.b") == ()
    assert bus._subscriptions() == []
    gone = weakref.ref(bus)
    del bus
    assert gone() is None or (gc.collect() and gone() is None), "it is kept alive"
    return succeeded


def main(kind: str) -> None:
    logging.getLogger("agent_event_bus").setLevel(logging.CRITICAL)
    gc.disable()
    for label, make, call in changes() if kind == "changes" else uses():
        call(make())  # what is made once only is there then
        number = in_a_row = 0
        while in_a_row < ENOUGH:
            try:
                in_a_row = in_a_row + 1 if fails_cleanly(make, call, number) else 0
            except BaseException:
                print(f"{label}, allocation {number}", file=sys.stderr)
                raise
            number += 1
    print("ok")


main(sys.argv[1])
