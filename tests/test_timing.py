"""timing=True: the latency of each handler in stats()."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from helpers import failing, is_gone, run_isolated, soon, turns

from agent_event_bus import Event, EventBus

pytestmark = pytest.mark.usefixtures("quiet_reports")

ERROR = 1 / 16
"""By what part a percentile may be off."""
PAUSE = 0.02
"""Seconds that slow handlers take."""


@pytest.fixture
def bus() -> EventBus:
    """A bus that measures."""
    return EventBus(timing=True)


def latency(bus: EventBus) -> dict[str, dict[str, float]]:
    """Return the latencies by the last part of the handler's name."""
    found: dict[str, dict[str, float]] = bus.stats()["latency"]
    return {name.rpartition(".")[2]: figures for name, figures in found.items()}


def block(seconds: float) -> None:
    """Hold up the thread, and the event loop if one runs in it."""
    time.sleep(seconds)


def spin(seconds: float) -> float:
    """Be busy for a while, and return how long it really was."""
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        pass
    return time.perf_counter() - began


# What is measured


def test_a_bus_measures_only_when_it_is_told_to() -> None:
    bus = EventBus()
    bus.on("a", lambda payload: None)
    bus.emit("a")
    assert "latency" not in bus.stats()
    assert EventBus(timing=True).stats()["latency"] == {}


def test_every_handler_has_a_count_and_figures_in_seconds(bus: EventBus) -> None:
    @bus.on("a")
    def slow(payload: object) -> None:
        time.sleep(PAUSE)

    @bus.on("a")
    def quick(payload: object) -> None:
        pass

    for _ in range(3):
        bus.emit("a")
    found = latency(bus)
    assert list(found) == ["slow", "quick"]
    for figures in found.values():
        assert list(figures) == ["count", "mean", "p50", "p99", "max"]
        assert figures["count"] == 3
        assert 0 < figures["p50"] <= figures["p99"] <= figures["max"]
        assert figures["mean"] <= figures["max"]
    assert PAUSE * (1 - ERROR) <= found["slow"]["p50"] < 1
    assert PAUSE <= found["slow"]["mean"] <= found["slow"]["max"]
    assert found["quick"]["max"] < PAUSE


def test_the_name_is_the_qualified_name_of_the_handler(bus: EventBus) -> None:
    class Tracker:
        def track(self, payload: object) -> None:
            pass

        def __call__(self, payload: object) -> None:
            pass

    tracker = Tracker()
    bus.on("a", tracker.track)
    bus.on("a", tracker)
    bus.on("a", functools.partial(tracker.track))
    bus.on("a", [].append)
    bus.on("a", tracker.track, weak=True)
    bus.emit("a")
    here = "test_the_name_is_the_qualified_name_of_the_handler.<locals>.Tracker"
    found = bus.stats()["latency"]
    counts = {name: figures["count"] for name, figures in found.items()}
    assert counts == {f"{here}.track": 3, here: 1, "list.append": 1}


def test_subscriptions_of_handlers_with_one_name_are_measured_together(bus: EventBus) -> None:
    def make() -> Callable[[object], None]:
        def handler(payload: object) -> None:
            pass

        return handler

    same = make()
    bus.on("a", same)
    bus.on("a", same)
    bus.on("b", make())
    bus.emit("a")
    bus.emit("b")
    assert {name: figures["count"] for name, figures in latency(bus).items()} == {"handler": 3}


def test_the_latency_is_kept_when_the_subscription_has_ended(bus: EventBus) -> None:
    def handler(payload: object) -> None:
        pass

    known = weakref.ref(handler)
    bus.once("a", handler)
    bus.emit("a")
    del handler
    assert is_gone(known)
    assert latency(bus)["handler"]["count"] == 1


def test_more_than_1024_names_share_the_rest(bus: EventBus) -> None:
    def handler(payload: object) -> None:
        pass

    for number in range(1030):
        named: Any = functools.partial(handler)

        def one(payload: object, named: Any = named) -> None:
            pass

        one.__qualname__ = f"handler_{number}"
        bus.on("a", one)
    bus.emit("a")
    bus.emit("a")
    found = bus.stats()["latency"]
    assert len(found) == 1025
    assert found["*"]["count"] == 12
    assert all(found[f"handler_{number}"]["count"] == 2 for number in range(1024))


def test_percentiles_are_at_most_a_sixteenth_off(bus: EventBus) -> None:
    took: list[float] = []

    @bus.on("a")
    def handler(payload: float) -> None:
        took.append(spin(payload))

    for number in range(200):
        bus.emit("a", 0.0001 * (1 + (number * 37) % 200 / 20))
    took.sort()
    found = latency(bus)["handler"]
    noise = 0.00005  # seconds: the call itself, and what the machine does meanwhile
    for part, name in ((0.5, "p50"), (0.99, "p99")):
        low, high = took[math.ceil(part * 200) - 2], took[min(199, math.ceil(part * 200) + 1)]
        assert low * (1 - ERROR) - noise <= found[name] <= high * (1 + ERROR) + noise, name
    assert found["max"] >= took[-1]
    assert found["mean"] >= sum(took) / 200


def test_a_percentile_never_exceeds_the_maximum(bus: EventBus) -> None:
    @bus.on("a")
    def handler(payload: object) -> None:
        spin(0.0001)

    for _ in range(50):
        bus.emit("a")
        found = latency(bus)["handler"]
        assert found["p50"] <= found["p99"] <= found["max"]


# Sync handlers


def test_a_handler_that_fails_is_measured_without_its_report(bus: EventBus) -> None:
    class SlowLog(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(PAUSE)

    @bus.on("a")
    def fails(payload: object) -> None:
        raise ValueError

    @bus.on("a")
    def next_one(payload: object) -> None:
        pass

    logger = logging.getLogger("agent_event_bus")
    slow = SlowLog()
    logger.addHandler(slow)
    try:
        bus.emit("a")
    finally:
        logger.removeHandler(slow)
    found = latency(bus)
    assert {name: figures["count"] for name, figures in found.items()} == {
        "fails": 1,
        "next_one": 1,
    }
    assert all(figures["max"] < PAUSE for figures in found.values())


def test_a_handler_that_is_interrupted_is_measured(bus: EventBus) -> None:
    @bus.on("a")
    def interrupted(payload: object) -> None:
        raise KeyboardInterrupt

    bus.on("a", lambda payload: None)
    with pytest.raises(KeyboardInterrupt):
        bus.emit("a")
    assert {name: figures["count"] for name, figures in latency(bus).items()} == {"interrupted": 1}


def test_a_handler_that_emits_is_measured_with_what_it_emits(bus: EventBus) -> None:
    @bus.on("outer")
    def outer(payload: object) -> None:
        bus.emit("inner")

    @bus.on("inner")
    def inner(payload: object) -> None:
        time.sleep(PAUSE)

    bus.emit("outer")
    found = latency(bus)
    assert found["outer"]["max"] > found["inner"]["max"] >= PAUSE


def test_handlers_of_every_form_are_measured_and_get_what_they_should(bus: EventBus) -> None:
    got: list[object] = []

    def exact(payload: object) -> None:
        got.append(payload)

    def wildcard(name: str, payload: object) -> None:
        got.append((name, payload))

    def envelope(event: Event) -> None:
        got.append((event.name, event.payload, event.seq))

    bus.on("a", exact)
    bus.on("*", wildcard)
    bus.on("a", envelope, envelope=True)
    assert bus.emit("a", 7) == 3
    assert got == [7, ("a", 7), ("a", 7, 1)]
    assert {name: figures["count"] for name, figures in latency(bus).items()} == {
        "exact": 1,
        "wildcard": 1,
        "envelope": 1,
    }


def test_a_handler_whose_name_cannot_be_told_is_an_error_before_it_is_called(
    bus: EventBus,
) -> None:
    class Nameless(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "__qualname__":
                raise KeyboardInterrupt
            return super().__getattribute__(name)

    called: list[object] = []

    class Handler(metaclass=Nameless):
        def __call__(self, payload: object) -> None:
            called.append(payload)

    bus.on("a", Handler())
    with pytest.raises(KeyboardInterrupt):
        bus.emit("a")
    assert called == []


# Async handlers


async def test_async_handlers_are_measured_until_they_are_over(bus: EventBus) -> None:
    @bus.on("a")
    async def at_once(payload: object) -> None:
        pass

    @bus.on("a")
    async def sleeps(payload: object) -> None:
        await asyncio.sleep(PAUSE)

    @bus.on("a")
    async def fails(payload: object) -> None:
        await asyncio.sleep(PAUSE)
        raise ValueError

    @bus.on("a")
    async def fails_at_once(payload: object) -> None:
        raise ValueError

    assert await bus.emit_async("a") == 4
    found = latency(bus)
    assert {name: figures["count"] for name, figures in found.items()} == dict.fromkeys(found, 1)
    # The resolution of the loop's clock lets a sleep end a little early.
    assert found["sleeps"]["max"] > PAUSE * 0.9
    assert found["fails"]["max"] > PAUSE * 0.9
    assert found["at_once"]["max"] < PAUSE / 2
    assert found["fails_at_once"]["max"] < PAUSE / 2


async def test_of_handlers_that_never_suspend_each_has_its_own_time(bus: EventBus) -> None:
    @bus.on("a")
    async def first(payload: object) -> None:
        block(PAUSE)

    @bus.on("a")
    async def second(payload: object) -> None:
        pass

    @bus.on("a")
    async def third(payload: object) -> None:
        block(8 * PAUSE)

    await bus.emit_async("a")
    found = latency(bus)
    assert PAUSE <= found["first"]["max"] < 8 * PAUSE <= found["third"]["max"]
    assert found["second"]["max"] < PAUSE


async def test_the_call_that_returns_an_awaitable_of_its_own_kind_is_measured_too(
    bus: EventBus,
) -> None:
    class Rest:
        def __await__(self) -> Iterator[None]:
            return iter(())

    class Handler:
        async def __call__(self, payload: object) -> None: ...

    def call(self: Handler, payload: object) -> Rest:
        time.sleep(PAUSE)
        return Rest()

    bus.on("a", Handler())
    Handler.__call__ = call  # type: ignore[assignment, method-assign]
    assert await bus.emit_async("a") == 1
    (figures,) = bus.stats()["latency"].values()
    assert figures["count"] == 1
    assert figures["max"] >= PAUSE * 0.9


async def test_a_task_that_somebody_keeps_does_not_change_what_is_measured(bus: EventBus) -> None:
    tasks: list[Any] = []

    @bus.on("a")
    async def kept(payload: object) -> None:
        block(PAUSE)
        tasks.append(asyncio.current_task())

    @bus.on("a")
    async def after(payload: object) -> None:
        pass

    await bus.emit_async("a")
    found = latency(bus)
    assert (found["kept"]["count"], found["after"]["count"]) == (1, 1)
    assert found["after"]["max"] < PAUSE <= found["kept"]["max"]
    assert await tasks[0] is None


async def test_handlers_inside_handlers_are_measured(bus: EventBus) -> None:
    @bus.on("outer")
    async def outer(payload: object) -> None:
        await bus.emit_async("inner")

    @bus.on("inner")
    async def inner(payload: object) -> None:
        await asyncio.sleep(PAUSE)

    await bus.emit_async("outer")
    found = latency(bus)
    assert found["outer"]["max"] > found["inner"]["max"] > PAUSE * 0.9


async def test_what_emit_schedules_is_measured(bus: EventBus) -> None:
    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.sleep(PAUSE)

    bus.emit("a")
    assert latency(bus) == {}
    await soon(bus.drain())
    assert latency(bus)["handler"]["count"] == 1
    assert latency(bus)["handler"]["max"] > PAUSE * 0.9


def test_what_runs_to_completion_is_measured(bus: EventBus) -> None:
    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.sleep(PAUSE)

    bus.emit("a")
    assert latency(bus)["handler"]["max"] > PAUSE * 0.9


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_offloaded_handlers_are_measured(bus: EventBus, in_a_loop: bool) -> None:
    def handler(payload: object) -> None:
        time.sleep(PAUSE)

    bus.on("a", handler, offload=True)
    if in_a_loop:
        assert asyncio.run(bus.emit_async("a")) == 1
    else:
        assert bus.emit("a") == 1
    found = latency(bus)["handler"]
    assert found["count"] == 1
    assert found["max"] >= PAUSE


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("in_a_loop", [False, True])
def test_a_handler_that_returns_an_awaitable_is_measured_once_with_both_parts(
    bus: EventBus, in_a_loop: bool, offload: bool
) -> None:
    async def rest() -> None:
        await asyncio.sleep(PAUSE)

    def handler(payload: object) -> Any:
        time.sleep(PAUSE)
        return rest()

    def after(payload: object) -> None:
        pass

    bus.on("a", handler, offload=offload)
    bus.on("a", after)
    if in_a_loop:
        assert asyncio.run(bus.emit_async("a")) == 2
    else:
        assert bus.emit("a") == 2
    found = latency(bus)
    assert found["handler"]["count"] == 1
    assert found["handler"]["max"] > 2 * PAUSE * 0.9
    assert found["after"]["max"] < PAUSE


async def test_a_cancelled_handler_is_measured_until_its_end(bus: EventBus) -> None:
    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.Event().wait()

    emission = asyncio.ensure_future(bus.emit_async("a"))
    await turns()
    block(PAUSE)
    emission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emission
    assert latency(bus)["handler"]["count"] == 1
    assert latency(bus)["handler"]["max"] >= PAUSE


async def test_a_handler_that_never_begins_is_not_measured(bus: EventBus) -> None:
    @bus.on("a")
    async def handler(payload: object) -> None:
        pass

    bus.emit("a")
    await bus.aclose()
    assert latency(bus) == {}


async def test_waiting_for_a_permit_is_not_part_of_the_latency() -> None:
    bus = EventBus(timing=True, max_concurrency=1)

    async def work(payload: object) -> None:
        await asyncio.sleep(PAUSE)

    @bus.on("a")
    async def second(payload: object) -> None:
        pass

    bus.on("a", work, priority=-1)
    await bus.emit_async("a")
    found = latency(bus)
    assert found["work"]["max"] > PAUSE * 0.9
    assert found["second"]["max"] < PAUSE / 2


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_guarding_interrupt_stops_and_measures_what_was_called(bus: EventBus, kind: str) -> None:
    async def interrupted(payload: object) -> None:
        raise KeyboardInterrupt

    async def never(payload: object) -> None:
        raise AssertionError("it was called")

    bus.on("a", failing(KeyboardInterrupt()) if kind == "sync" else interrupted)
    bus.on("a", never)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(bus.emit_async("a"))
    (figures,) = latency(bus).values()
    assert figures["count"] == 1


async def test_a_loop_with_its_own_task_factory_is_measured(bus: EventBus) -> None:
    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.sleep(PAUSE)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **kw: asyncio.Task(coro, loop=loop, **kw))
    try:
        await bus.emit_async("a")
    finally:
        loop.set_task_factory(None)
    assert latency(bus)["handler"]["max"] > PAUSE * 0.9


# Memory, threads, options


def test_a_cycle_through_a_measured_handler_is_collected() -> None:
    bus = EventBus(timing=True, slow_after=60)
    bus.on("a", lambda payload, bus=bus: None)
    bus.emit("a")
    known = weakref.ref(bus)
    del bus
    assert is_gone(known)


@pytest.mark.usefixtures("eager_switching")
def test_threads_lose_no_measurement(bus: EventBus) -> None:
    def handler(payload: object) -> None:
        pass

    bus.on("a", handler)

    def emit() -> None:
        for _ in range(500):
            bus.emit("a")
            bus.stats()

    threads = [threading.Thread(target=emit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert latency(bus)["handler"]["count"] == 2000


def test_a_subinterpreter_observes_by_itself() -> None:
    said = run_isolated("subinterpreters.py", "observing").strip()
    if said == "unavailable":
        pytest.skip(f"no subinterpreters in {sys.version}")
    assert said == "ok"


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_an_option_that_is_no_bool_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="timing must be a bool"):
        EventBus(timing=value)


def test_a_bus_that_is_initialised_again_measures_from_then_on() -> None:
    bus = EventBus()

    def handler(payload: object) -> None:
        pass

    bus.on("a", handler)
    emitter = bus.emitter("a")
    emitter()
    bus.__init__(timing=True)  # type: ignore[misc]
    emitter()
    assert latency(bus)["handler"]["count"] == 1
    bus.__init__()  # type: ignore[misc]
    emitter()
    assert "latency" not in bus.stats()
