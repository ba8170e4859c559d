"""Every kind of operation a few times, and nothing left behind: a short run for slow checkers.

usage: smoke.py [ROUNDS]      each operation so often, 4 times unless it is given, and once before

It is what `python -m checks.leaks` and `python -m checks.memcheck` run. By itself it looks at the
objects that the collector knows: there must be no class of which each round leaves more. For that
it takes four rounds at least.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, Callable

from agent_event_bus import (
    EventBus,
    EventKey,
    EventSchemaError,
    StreamOverflowError,
    UnknownEventError,
    current_bus,
    get_bus,
    use_buses,
)

ENOUGH = 4
"""In how many rounds nothing but a leak makes more of something each time."""


class Payload:
    """What is emitted: the collector knows each."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.itself = [self]


class Special(Payload):
    """A class that is published."""


def declared_number(payload: Any) -> None:
    """A schema."""
    payload.number + 0


class Owner:
    def method(self, *args: object) -> None: ...

    async def coroutine(self, *args: object) -> None:
        await asyncio.sleep(0)


KEYS: list[Any] = ["a.b", "a.*", "*.b", "a.**", "*", EventKey[Payload]("a.b"), Payload]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"priority": -3},
    {"once": True},
    {"where": {"number": 1}},
    {"where": lambda payload: payload.number},
    {"envelope": True},
    {"isolate": False},
    {"timeout": 5},
    {"timeout": math.inf},
]
BUSES: list[dict[str, Any]] = [
    {},
    {"history": 3, "timing": True, "slow_after": 60.0, "name": "observing"},
    {"max_pending": 2, "max_concurrency": 1, "handler_timeout": 5.0},
    {"on_error": lambda name, handler, error: None},
]


def sync(*args: object) -> object:
    return args


def fails(*args: object) -> None:
    raise ValueError(f"a {args}")


async def returns(*args: object) -> object:
    return args


async def suspends(*args: object) -> None:
    await asyncio.sleep(0)


async def fails_late(*args: object) -> None:
    await asyncio.sleep(0)
    raise ValueError(f"late {args}")


async def waits(*args: object) -> None:
    await asyncio.get_running_loop().create_future()


async def cancels(*args: object) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


HANDLERS: list[Callable[..., Any]] = [sync, fails, returns, suspends, fails_late, cancels]


@contextlib.contextmanager
def refused(*errors: type[BaseException]) -> Iterator[None]:
    """What is done inside must raise one of these."""
    try:
        yield
    except errors:
        return
    raise AssertionError("it was not refused")


def buses() -> Iterator[Any]:
    """Buses of every kind with subscriptions of every kind."""
    for of_bus in BUSES:
        bus: Any = EventBus(**of_bus)
        owner = Owner()
        for number, key in enumerate(KEYS):
            for option in OPTIONS:
                handler = HANDLERS[number % len(HANDLERS)]
                bus.subscribe(key, sync if option.get("isolate") is False else handler, **option)
        bus.subscribe(KEYS, owner.method, weak=True)
        bus.subscribe(["a.b", "a.c"], owner.coroutine, weak=True)
        bus.on("a.b", sync, offload=True)
        yield bus


def registration() -> None:
    for bus in buses():
        for key in KEYS:
            bus.on(key)(sync)
            bus.once(key, returns)
            with bus.subscribe(key, sync) as subscription:
                assert subscription.active
            for name in ("keys", "key", "handler", "id", "priority", "calls", "timeout", "offload"):
                getattr(subscription, name)
            repr(subscription)
            assert not subscription.cancel()
        assert bus.handlers("a.b")
        assert bus.has_handlers("a.c")
        assert len(bus.subscriptions()) == len(bus)
        assert bus.off("a.b", sync)
        assert bus.off(None, returns)
        assert bus.clear("*")
        repr(bus)
        with refused(TypeError, ValueError):
            bus.subscribe([], sync)
        for bad in ("", "a..b", "a*", None, 5):
            with refused(TypeError, ValueError):
                bus.on(bad, sync)
        for options in ({"priority": 2**64}, {"timeout": -1}, {"where": 5}, {"unknown": 1}):
            with refused(TypeError, ValueError, OverflowError):
                bus.on("a.b", sync, **options)
        for bad in (5, "", "*"):
            with refused(TypeError, ValueError):
                bus.emit(bad)
        assert bus.clear()
        assert not len(bus)


def emissions() -> None:
    """Of all forms, where no loop runs."""
    for bus in buses():
        emitter = bus.emitter("a.b")
        repr(emitter)
        for number in range(3):
            payload = Payload(number)
            assert bus.emit("a.b", payload)
            assert bus.emit(EventKey("a.c"), payload)
            bus.emit("b.b", payload)
            bus.emit("nobody.listens.here")
            assert emitter(payload)
            assert bus.publish(Special(number))
            for outcome in bus.collect("a.b", payload):
                assert outcome.status in ("ok", "error", "cancelled"), outcome
                assert outcome.duration >= 0.0
                assert (outcome.exception is None) is (outcome.status == "ok")
                assert repr(outcome)
        for event in bus.history("a.*", 2):
            assert event.to_dict()["name"] == event.name
            assert repr(event)
        assert bus.stats()["emitted"]
        assert bus.pending() == []
        with refused(ValueError):
            bus.on("a.b", fails, isolate=False)
            bus.emit("a.b", Payload())


def reentrance() -> None:
    """Handlers that change the bus they are called by, and emit on it."""
    bus = EventBus()
    depth: list[int] = []

    def handler(payload: Any) -> None:
        bus.off("a", handler)
        bus.on("a", handler)
        bus.subscribe("b", sync).cancel()
        if len(depth) < 5:
            depth.append(1)
            bus.emit("a", payload)
            bus.emit("b", payload)

    bus.on("a", handler)
    bus.emit("a", Payload())
    assert len(depth) == 5


async def in_a_loop() -> None:
    for bus in buses():
        emitter = bus.emitter("a.b")
        payload = Payload(1)
        for _ in range(2):
            assert bus.emit("a.b", payload)
            assert emitter(payload)
            assert bus.publish(payload)
            repr(bus.pending())
            await bus.drain()
            assert await bus.emit_async("a.b", payload)
            assert await emitter.emit_async(payload)
            assert await bus.publish_async(Special(2))
            assert await bus.collect_async("a.c", payload)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(bus.emit_async("a.b", payload), 5)
        bus.on("waits", waits)
        task = asyncio.ensure_future(bus.emit_async("waits", payload))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        started = bus.emit_async("waits", payload)
        started.send(None)
        started.close()
        bus.emit_async("waits").close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dropped = bus.emit_async("waits")
            del dropped
        bus.emit("waits", payload)
        assert bus.pending()
        await bus.aclose()
        assert bus.closed


async def limits() -> None:
    bus = EventBus(max_concurrency=1, max_pending=3, handler_timeout=0.001)
    bus.on("a", waits)
    bus.on("a", suspends)
    for _ in range(4):
        bus.emit("a", Payload())
    await bus.emit_async("a", Payload())
    for outcome in await bus.collect_async("a", Payload()):
        assert outcome.status in ("ok", "timeout"), outcome
    await bus.drain()
    nested = EventBus()

    async def handler(payload: Any) -> None:
        if payload:
            await nested.emit_async("a", payload - 1)
            nested.emit("a", payload - 1)

    nested.on("a", handler)
    await nested.emit_async("a", 3)
    await nested.drain()


async def waiting() -> None:
    async with EventBus() as bus:
        waiter = bus.wait_for("a.*", where={"number": 1}, timeout=5)
        bus.emit("a.b", Payload(0))
        bus.emit("a.b", Payload(1))
        assert (await waiter).payload.number == 1
        with refused(TimeoutError, asyncio.TimeoutError):
            await bus.wait_for("nothing", timeout=0)
        async with bus.expect("a.b") as expected:
            bus.emit("a.b", Payload(2))
        assert expected.event.name == "a.b"
        for overflow in ("drop_oldest", "drop_newest", "block", "error"):
            async with bus.stream("a.b", maxsize=2, overflow=overflow) as stream:
                for number in range(4):
                    bus.emit("a.b", Payload(number))
                assert stream.dropped
                for _ in range(2):
                    assert (await stream.__anext__()).name == "a.b"
                if overflow == "error":
                    with refused(StreamOverflowError):
                        await stream.__anext__()


def declared() -> None:
    bus: Any = EventBus(strict=True)
    bus.define_event("a.b", declared_number)
    bus.define_event("a.c", None)
    bus.on("a.b", sync)
    assert bus.emit("a.b", Payload(1)) == 1
    bus.emit("a.c", Payload())
    with refused(EventSchemaError):
        bus.emit("a.b", {"number": Payload()})
    with refused(UnknownEventError):
        bus.emit("a.bb")
    only: Any = EventBus(async_only=True)
    only.on("a", returns)
    with refused(RuntimeError):
        only.emit("a")
    asyncio.run(only.emit_async("a", Payload()))


def named() -> None:
    with use_buses():
        bus = get_bus("smoke", history=1)
        with bus.as_current():
            assert current_bus() is bus
        assert get_bus() is current_bus()


def threads() -> None:
    """Emissions of other threads, with a loop that the bus is bound to and without."""

    async def main() -> None:
        bus: Any = EventBus(loop=asyncio.get_running_loop())
        for handler in (sync, returns, suspends, fails_late):
            bus.on("a", handler)

        def emits() -> None:
            for number in range(3):
                bus.emit("a", Payload(number))
                bus.emit_threadsafe("a", Payload(number)).result(10)

        await asyncio.gather(*(asyncio.to_thread(emits) for _ in range(2)))
        await bus.drain()
        bus.bind_loop(None)

    asyncio.run(main())
    bus = EventBus()
    bus.on("a", suspends)
    thread = threading.Thread(target=bus.emit, args=("a", Payload()))
    thread.start()
    thread.join()


def lifecycle() -> None:
    """Buses that are in cycles, subclassed, and gone before what was made with them."""

    class Sub(EventBus):
        me: object

    bus: Any = Sub()
    bus.me = bus
    bus.on("a", lambda payload, it=bus: it)
    emitter, subscription = bus.emitter("a"), bus.subscribe("a", sync)
    del bus
    emitter(Payload())
    del emitter
    gc.collect()
    subscription.cancel()
    owner = Owner()
    weakly = EventBus()
    weakly.on("a", owner.method, weak=True)
    del owner
    assert weakly.emit("a") == 0


def once() -> None:
    for part in (registration, emissions, reentrance, declared, named, threads, lifecycle):
        part()
    for work in (in_a_loop, limits, waiting):
        asyncio.run(work())


def census() -> Counter[str]:
    """How many objects there are of each class that the collector knows."""
    for _ in range(3):
        gc.collect()
    return Counter(f"{type(it).__module__}.{type(it).__qualname__}" for it in gc.get_objects())


def main(rounds: int) -> None:
    logger = logging.getLogger("agent_event_bus")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    once()  # what is kept from a first use is there then
    counts: list[Counter[str]] = [Counter() for _ in range(rounds)]
    for count in counts:
        once()
        count.update(census())
    if rounds < ENOUGH:
        print("ok")
        return
    # Caches fill and are emptied again; what leaks is more after each round.
    grown = {
        what: [count[what] for count in counts]
        for what in counts[-1]
        if all(earlier[what] < later[what] for earlier, later in zip(counts, counts[1:]))
    }
    assert not grown, f"more after each round: {grown}"
    print("ok")


main(int(sys.argv[1]) if len(sys.argv) > 1 else ENOUGH)
