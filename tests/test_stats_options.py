"""stats(): what is counted for handlers with options, and for the other ways to emit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers import LoopThread, failing, soon, turns

from agent_event_bus import EventBus, EventSchemaError, UnknownEventError

pytestmark = pytest.mark.usefixtures("quiet_reports")


class Job:
    """A class of published objects."""


def ignore(*args: object) -> None:
    pass


def counts(bus: EventBus) -> dict[str, int]:
    """Return the counts that are not 0, of all but subscriptions and names."""
    stats = bus.stats()
    del stats["subscriptions"], stats["by_event"]
    return {name: count for name, count in stats.items() if count}


def emit(bus: EventBus, way: str, name: str) -> None:
    """Emit an event by the method of this name, and run what that returns if it is a coroutine."""
    result = getattr(bus, way)(name, "no number")
    if asyncio.iscoroutine(result):
        asyncio.run(result)


# Options


@pytest.mark.parametrize("where", [{"ok": True}, lambda payload: payload["ok"]])
def test_a_handler_whose_condition_says_no_is_not_delivered(bus: EventBus, where: Any) -> None:
    bus.on("a", ignore, where=where)
    bus.emit("a", {"ok": False})
    assert counts(bus) == {"emitted": 1}
    bus.emit("a", {"ok": True})
    assert counts(bus) == {"emitted": 2, "delivered": 1}


@pytest.mark.parametrize("way", ["emit", "emit_async", "collect"])
def test_a_condition_that_raises_has_failed_and_was_not_delivered(bus: EventBus, way: str) -> None:
    bus.on("a", ignore, where=failing(ValueError()))
    emit(bus, way, "a")
    assert counts(bus) == {"emitted": 1, "failed": 1}


def test_a_one_shot_handler_is_delivered_once(bus: EventBus) -> None:
    bus.once("a", ignore)
    bus.emit("a")
    bus.emit("a")
    assert counts(bus) == {"emitted": 2, "delivered": 1}


@pytest.mark.parametrize("way", ["emit", "emit_async"])
def test_a_guard_that_fails_has_failed_and_later_handlers_are_not_delivered(
    bus: EventBus, way: str
) -> None:
    bus.on("a", failing(PermissionError()), isolate=False)
    bus.on("a", ignore)
    with pytest.raises(PermissionError):
        bus.emit("a") if way == "emit" else asyncio.run(bus.emit_async("a"))
    assert counts(bus) == {"emitted": 1, "delivered": 1, "failed": 1}


async def test_a_handler_that_waits_for_a_permit_is_pending_and_not_yet_delivered() -> None:
    bus = EventBus(max_concurrency=1)
    gate = asyncio.Event()

    @bus.on("a")
    async def waits(payload: object) -> None:
        await gate.wait()

    bus.emit("a")
    bus.emit("a")
    await turns()
    assert counts(bus) == {"emitted": 2, "delivered": 1, "pending": 2}
    gate.set()
    assert await soon(bus.drain()) == []
    assert counts(bus) == {"emitted": 2, "delivered": 2}


async def test_what_never_began_is_cancelled_and_not_delivered(bus: EventBus) -> None:
    @bus.on("a")
    async def never(payload: object) -> None:
        raise AssertionError("it began")

    bus.emit("a")
    await bus.aclose()
    assert counts(bus) == {"emitted": 1, "cancelled": 1}


# Ways to emit


def test_collect_counts_as_emit_does(bus: EventBus) -> None:
    bus.on("a", ignore)
    bus.on("a", failing(ValueError()))
    bus.collect("a")
    asyncio.run(bus.collect_async("a"))
    assert counts(bus) == {"emitted": 2, "delivered": 4, "failed": 2}
    assert bus.stats()["by_event"] == {"a": 2}


def test_published_objects_count_under_the_name_of_their_class(bus: Any) -> None:
    bus.on(Job, ignore)
    bus.publish(Job())
    asyncio.run(bus.publish_async(Job()))
    assert counts(bus) == {"emitted": 2, "delivered": 2}
    assert bus.stats()["by_event"] == {"Job": 2}


def test_emit_threadsafe_counts_once(bus: EventBus, other: LoopThread) -> None:
    bus.bind_loop(other.loop)
    bus.on("a", ignore)
    assert bus.emit_threadsafe("a").result(20) == 1
    assert counts(bus) == {"emitted": 1, "delivered": 1}


async def test_waiting_and_streams_are_subscriptions_that_events_are_delivered_to(
    bus: EventBus,
) -> None:
    waiter = bus.wait_for("a")
    stream = bus.stream("a", maxsize=1)
    assert bus.stats()["subscriptions"] == 2
    bus.emit("a")
    bus.emit("a")
    await waiter
    stream.close()
    assert bus.stats()["subscriptions"] == 0
    # What a stream had no room for is counted by the stream.
    assert stream.dropped == 1
    assert counts(bus) == {"emitted": 2, "delivered": 3}


@pytest.mark.parametrize("way", ["emit", "emit_async", "collect", "collect_async"])
def test_what_a_schema_or_a_strict_bus_refuses_is_neither_emitted_nor_kept(way: str) -> None:
    bus = EventBus(strict=True, history=5)
    bus.define_event("a", int)
    bus.on("*", ignore)
    refused: list[tuple[str, type[ValueError]]] = [
        ("a", EventSchemaError),
        ("b", UnknownEventError),
    ]
    for name, error in refused:
        with pytest.raises(error):
            emit(bus, way, name)
    assert counts(bus) == {}
    assert bus.stats()["by_event"] == {}
    assert bus.history() == []


# The bound of by_event


def test_1024_names_are_counted_by_themselves_and_the_rest_together(bus: EventBus) -> None:
    names = [f"tool.{number}" for number in range(1030)]
    for _ in range(2):
        for name in names:
            bus.emit(name)
    found = bus.stats()["by_event"]
    assert found == {**dict.fromkeys(names[:1024], 2), "*": 12}
    assert sum(found.values()) == bus.stats()["emitted"]


def test_names_of_more_than_256_characters_are_counted_together(bus: EventBus) -> None:
    for name in ("x" * 256, "x" * 257, "y" * 257):
        bus.emit(name)
    assert bus.stats()["by_event"] == {"x" * 256: 1, "*": 2}


def test_names_that_were_only_asked_for_take_no_place_among_the_counted(bus: EventBus) -> None:
    for number in range(5000):
        bus.has_handlers(f"asked.{number}")
    bus.emit("emitted")
    assert bus.stats()["by_event"] == {"emitted": 1}


def test_the_counts_outlive_the_handlers(bus: EventBus) -> None:
    with bus.subscribe("a", ignore):
        bus.emit("a")
    bus.on("*", ignore)
    bus.emit("a")
    bus.clear()
    assert bus.stats()["by_event"] == {"a": 2}
