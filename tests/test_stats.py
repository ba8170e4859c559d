"""stats(): what a bus has counted."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from helpers import LoopThread, anote, failing, note, soon, turns

from agent_event_bus import EventBus

pytestmark = pytest.mark.usefixtures("quiet_reports")

SHORT = 0.05
"""Seconds: long enough for a handler to reach its first suspension, and no more."""

COUNTS = (
    "emitted",
    "delivered",
    "failed",
    "cancelled",
    "timed_out",
    "dropped",
    "pending",
    "subscriptions",
)


def assert_counts(bus: EventBus, **expected: int) -> None:
    """Check that these counts are as expected and that all others are 0."""
    stats = bus.stats()
    found = {name: stats[name] for name in COUNTS if name != "subscriptions" and stats[name]}
    assert found == {name: count for name, count in expected.items() if count}


def test_a_new_bus_has_counted_nothing(bus: EventBus) -> None:
    assert bus.stats() == {**dict.fromkeys(COUNTS, 0), "by_event": {}}


def test_a_new_dict_is_returned_each_time(bus: EventBus) -> None:
    bus.stats().clear()
    bus.stats()["by_event"]["a"] = 7
    assert bus.stats() == {**dict.fromkeys(COUNTS, 0), "by_event": {}}


def test_subscriptions_are_those_that_are_active(bus: EventBus) -> None:
    first = bus.subscribe("a", print)
    bus.on("b", print)
    bus.once("c", lambda payload: None)
    assert bus.stats()["subscriptions"] == 3 == len(bus)
    first.cancel()
    bus.emit("c")
    assert bus.stats()["subscriptions"] == 1 == len(bus)


# emitted


def test_accepted_events_are_emitted_whether_or_not_anybody_listens(bus: EventBus) -> None:
    bus.on("a", lambda payload: None)
    bus.emit("a")
    bus.emit("b")
    bus.emitter("b")()
    assert_counts(bus, emitted=3, delivered=1)


async def test_emissions_that_are_awaited_are_emitted(bus: EventBus) -> None:
    await bus.emit_async("a")
    bus.emit_async("a").close()
    assert_counts(bus, emitted=1)


async def test_refused_events_are_not_emitted(bus: EventBus) -> None:
    with pytest.raises(ValueError, match="bad event name"):
        bus.emit("a.*")
    with pytest.raises(ValueError, match="bad event name"):
        await bus.emit_async("")
    await bus.aclose()
    bus.emit("a")
    await bus.emit_async("a")
    assert_counts(bus)


def test_by_event_counts_each_name(bus: EventBus) -> None:
    bus.on("a", lambda payload: None)
    for name in ("a", "b", "a", "c.d"):
        bus.emit(name)
    asyncio.run(bus.emit_async("a"))
    assert bus.stats()["by_event"] == {"a": 3, "b": 1, "c.d": 1}


# delivered and failed


def test_handlers_called_are_delivered_and_failing_ones_failed_too(bus: EventBus) -> None:
    bus.on("a", lambda payload: None)
    bus.on("a", failing(ValueError()))
    bus.on("*", lambda name, payload: None)
    bus.emit("a")
    assert_counts(bus, emitted=1, delivered=3, failed=1)


async def test_async_handlers_are_counted_in_the_same_way(bus: EventBus) -> None:
    @bus.on("a")
    async def at_once(payload: object) -> None:
        pass

    @bus.on("a")
    async def fails_at_once(payload: object) -> None:
        raise ValueError

    @bus.on("a")
    async def later(payload: object) -> None:
        await asyncio.sleep(0)

    @bus.on("a")
    async def fails_later(payload: object) -> None:
        await asyncio.sleep(0)
        raise ValueError

    assert await bus.emit_async("a") == 4
    assert_counts(bus, emitted=1, delivered=4, failed=2)
    bus.emit("a")
    assert_counts(bus, emitted=2, delivered=4, failed=2, pending=4)
    await soon(bus.drain())
    assert_counts(bus, emitted=2, delivered=8, failed=4)


def test_async_handlers_that_run_to_completion_are_counted(bus: EventBus) -> None:
    bus.on("a", anote([], "async"))
    bus.on("a", lambda payload: None, offload=True)
    bus.on("a", failing(ValueError()), offload=True)
    assert bus.emit("a") == 3
    assert_counts(bus, emitted=1, delivered=3, failed=1)


async def test_offloaded_handlers_are_counted(bus: EventBus) -> None:
    bus.on("a", lambda payload: None, offload=True)
    bus.on("a", failing(ValueError()), offload=True)
    assert await soon(bus.emit_async("a")) == 2
    assert_counts(bus, emitted=1, delivered=2, failed=1)


@pytest.mark.parametrize("error", [None, ValueError()])
async def test_a_handler_that_returns_an_awaitable_is_delivered_once(
    bus: EventBus, error: Exception | None
) -> None:
    async def work() -> None:
        if error is not None:
            raise error

    bus.on("a", lambda payload: work())
    await bus.emit_async("a")
    assert_counts(bus, emitted=1, delivered=1, failed=int(error is not None))


def test_handlers_removed_before_their_turn_are_not_delivered(bus: EventBus) -> None:
    bus.on("a", lambda payload: bus.off("a", second))

    def second(payload: object) -> None:
        raise AssertionError("it was removed")

    bus.on("a", second)
    bus.emit("a")
    assert_counts(bus, emitted=1, delivered=1)


async def test_handlers_before_an_error_that_propagates_are_delivered(bus: EventBus) -> None:
    bus.on("a", lambda payload: None)
    bus.on("a", failing(KeyboardInterrupt()))
    bus.on("a", lambda payload: None)
    bus.on("a", anote([], "never"))
    with pytest.raises(KeyboardInterrupt):
        bus.emit("a")
    assert_counts(bus, emitted=1, delivered=2)
    emission = bus.emit_async("a")
    with pytest.raises(KeyboardInterrupt):
        emission.send(None)
    assert_counts(bus, emitted=2, delivered=4)


def test_async_handlers_before_an_error_that_propagates_are_delivered(bus: EventBus) -> None:
    async def interrupted(payload: object) -> None:
        raise KeyboardInterrupt

    bus.on("a", anote([], "called"))
    bus.on("a", interrupted)
    bus.on("a", anote([], "never"))
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(bus.emit_async("a"))
    assert_counts(bus, emitted=1, delivered=2)


def test_nested_emissions_count_by_themselves(bus: EventBus) -> None:
    bus.on("outer", lambda payload: bus.emit("inner"))
    bus.on("inner", failing(ValueError()))
    bus.emit("outer")
    assert_counts(bus, emitted=2, delivered=2, failed=1)


@pytest.mark.parametrize("options", [{"timing": True}, {"slow_after": 60.0}, {"history": 3}])
async def test_a_bus_that_observes_more_counts_the_same(options: dict[str, Any]) -> None:
    bus = EventBus(**options)
    log: list[str] = []
    bus.on("a", note(log, "sync"))
    bus.on("a", failing(ValueError()))
    bus.on("a", anote(log, "async"))
    bus.on("a", lambda payload: asyncio.sleep(0))
    bus.on("a", lambda payload: None, offload=True)
    assert await soon(bus.emit_async("a")) == 5
    assert_counts(bus, emitted=1, delivered=5, failed=1)
    bus.on("a", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bus.emit("a")
    assert_counts(bus, emitted=2, delivered=9, failed=2)


@pytest.mark.parametrize("way", ["emit", "emit_async"])
def test_handlers_that_a_guard_kept_from_starting_are_not_counted(bus: EventBus, way: str) -> None:
    called: list[object] = []

    @bus.on("a", isolate=False)
    async def guard(payload: object) -> None:
        raise PermissionError

    bus.on("a", anote(called, "never called"))
    bus.on("a", lambda payload: anote(called, "called and never awaited")(payload))
    emit = bus.emit if way == "emit" else lambda name: asyncio.run(bus.emit_async(name))
    with pytest.raises(PermissionError):
        emit("a")
    assert called == []
    assert_counts(bus, emitted=1, delivered=2, failed=1)


# cancelled and timed_out


async def test_a_handler_that_ends_cancelled_is_cancelled_and_did_not_fail(bus: EventBus) -> None:
    bus.on("a", failing(asyncio.CancelledError()))

    @bus.on("a")
    async def at_once(payload: object) -> None:
        raise asyncio.CancelledError

    @bus.on("a")
    async def later(payload: object) -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    await bus.emit_async("a")
    assert_counts(bus, emitted=1, delivered=3, cancelled=3)


async def test_a_handler_that_is_cancelled_from_elsewhere_is_cancelled(bus: EventBus) -> None:
    tasks: list[asyncio.Task[Any]] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await asyncio.Event().wait()

    emission = asyncio.ensure_future(bus.emit_async("a"))
    await turns()
    tasks[0].cancel()
    assert await soon(emission) == 1
    assert_counts(bus, emitted=1, delivered=1, cancelled=1)


async def test_the_handlers_of_a_cancelled_emission_are_cancelled(bus: EventBus) -> None:
    @bus.on("a")
    async def waits(payload: object) -> None:
        await asyncio.Event().wait()

    bus.on("a", waits)
    bus.on("a", anote([], "over"))
    emission = asyncio.ensure_future(bus.emit_async("a"))
    await turns()
    emission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emission
    assert_counts(bus, emitted=1, delivered=3, cancelled=2)


async def test_what_a_closed_bus_had_pending_is_cancelled(bus: EventBus) -> None:
    @bus.on("a")
    async def waits(payload: object) -> None:
        await asyncio.Event().wait()

    bus.emit("a")
    await turns()
    bus.emit("a")  # this one has not begun
    assert_counts(bus, emitted=2, delivered=1, pending=2)
    await bus.aclose()  # without `soon`, which until 3.12 takes a turn before it begins
    assert_counts(bus, emitted=2, delivered=1, cancelled=2)


def test_what_a_closed_loop_left_behind_is_cancelled(bus: EventBus) -> None:
    @bus.on("a")
    async def waits(payload: object) -> None:
        await asyncio.Event().wait()

    async def emit() -> None:
        bus.emit("a")
        await turns()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(emit())
    loop.close()
    assert asyncio.run(bus.drain()) == []
    assert_counts(bus, emitted=1, delivered=1, cancelled=1)


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_timeout_is_neither_a_failure_nor_a_cancellation(
    bus: EventBus, swallows: bool
) -> None:
    @bus.on("a", timeout=SHORT)
    async def handler(payload: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallows:
                raise

    (subscription,) = bus.handlers("a")
    await soon(bus.emit_async("a"))
    assert_counts(bus, emitted=1, delivered=1, timed_out=1)
    assert subscription.failures == 1


async def test_a_failure_after_a_timeout_is_counted_as_the_timeout(bus: EventBus) -> None:
    @bus.on("a", timeout=SHORT)
    async def handler(payload: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    await soon(bus.emit_async("a"))
    assert_counts(bus, emitted=1, delivered=1, timed_out=1)


async def test_a_handler_that_times_out_in_its_first_step_is_not_counted(bus: EventBus) -> None:
    bus.on("a", anote([], "quick"), timeout=SHORT)
    await bus.emit_async("a")
    assert_counts(bus, emitted=1, delivered=1)


# pending and dropped


async def test_pending_is_what_emit_has_scheduled_and_is_not_over(bus: EventBus) -> None:
    gate = asyncio.Event()

    @bus.on("a")
    async def waits(payload: object) -> None:
        await gate.wait()

    bus.emit("a")
    bus.emit("a")
    assert_counts(bus, emitted=2, pending=2)
    emission = asyncio.ensure_future(bus.emit_async("a"))
    await turns()
    assert_counts(bus, emitted=3, delivered=3, pending=2)
    gate.set()
    await soon(bus.drain())
    await soon(emission)
    assert_counts(bus, emitted=3, delivered=3)


async def test_dropped_deliveries_are_not_delivered() -> None:
    bus = EventBus(max_pending=1)
    bus.on("a", anote([], "kept"))
    bus.on("a", anote([], "dropped"))
    assert bus.emit("a") == 1
    assert_counts(bus, emitted=1, dropped=1, pending=1)
    await soon(bus.drain())
    assert_counts(bus, emitted=1, delivered=1, dropped=1)


# Where it is asked


def test_a_handler_may_ask(bus: EventBus) -> None:
    seen: list[tuple[int, int]] = []

    @bus.on("a")
    def handler(payload: object) -> None:
        stats = bus.stats()
        seen.append((stats["emitted"], stats["delivered"]))

    bus.on("a", handler)
    bus.emit("a")
    bus.emit("a")
    # Sync handlers are counted together, when those of an emission are through.
    assert seen == [(1, 0), (1, 0), (2, 2), (2, 2)]


async def test_a_closed_bus_can_still_be_asked(bus: EventBus) -> None:
    bus.on("a", lambda payload: None)
    bus.emit("a")
    await bus.aclose()
    assert_counts(bus, emitted=1, delivered=1)


def test_two_buses_count_by_themselves() -> None:
    first, second = EventBus(), EventBus()
    first.on("a", lambda payload: second.emit("a"))
    second.on("a", failing(ValueError()))
    first.emit("a")
    assert_counts(first, emitted=1, delivered=1)
    assert_counts(second, emitted=1, delivered=1, failed=1)


@pytest.mark.usefixtures("eager_switching")
def test_threads_lose_no_count(bus: EventBus) -> None:
    def boom(payload: object) -> None:
        raise ValueError

    bus.on("a", lambda payload: None)
    bus.on("a", boom)

    def emit() -> None:
        for _ in range(300):
            bus.emit("a")

    threads = [threading.Thread(target=emit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_counts(bus, emitted=1200, delivered=2400, failed=1200)


def test_handlers_on_the_loop_of_another_thread_are_counted(
    bus: EventBus, other: LoopThread
) -> None:
    bus.bind_loop(other.loop)
    bus.on("a", anote([], "there"))
    assert bus.emit("a") == 1
    other.run(bus.drain())
    assert_counts(bus, emitted=1, delivered=1)
