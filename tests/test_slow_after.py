"""slow_after: a warning about events whose routing takes too long."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from typing import Any, Callable

import pytest
from helpers import LoopThread, failing, note, soon

from agent_event_bus import EventBus

Records = list[logging.LogRecord]

PAUSE = 0.02
"""Seconds that slow handlers take."""
LIMIT = PAUSE / 2

WARNING = re.compile(
    r"Routing event '(?P<event>.+?)' took (?P<total>\S+) s \(limit (?P<limit>\S+) s\)"
    r"(?:; slowest handler '(?P<handler>.+)' took (?P<longest>\S+) s)?"
)


@pytest.fixture
def bus() -> EventBus:
    """A bus that warns of what takes longer than half a pause."""
    return EventBus(slow_after=LIMIT)


class Job:
    """A class of published objects."""


def pause(*args: object) -> None:
    time.sleep(PAUSE)


async def apause(*args: object) -> None:
    await asyncio.sleep(PAUSE)


def warnings_of(records: Records) -> list[dict[str, str | None]]:
    """Return the parts of each warning; nothing else may have been logged."""
    found = []
    for record in records:
        match = WARNING.fullmatch(record.getMessage())
        assert match is not None, record.getMessage()
        assert record.levelno == logging.WARNING
        found.append(match.groupdict())
    return found


def slowest(records: Records) -> list[tuple[str | None, str | None]]:
    """Return event and slowest handler of each warning."""
    return [(found["event"], found["handler"]) for found in warnings_of(records)]


# What it says


def test_the_warning_names_event_total_limit_and_slowest_handler(
    bus: EventBus, records: Records
) -> None:
    quick = note([], "quick")
    bus.on("tool.end", quick)
    bus.on("tool.end", pause)
    bus.on("tool.end", quick)
    began = time.perf_counter()
    bus.emit("tool.end", {"secret": 1})
    passed = time.perf_counter() - began
    [found] = warnings_of(records)
    assert (found["event"], found["handler"]) == ("tool.end", "pause")
    assert float(found["limit"] or 0) == LIMIT
    longest, total = float(found["longest"] or 0), float(found["total"] or 0)
    assert PAUSE * 0.99 <= longest <= total <= passed * 1.001  # four digits of each are shown


def test_the_record_has_the_attributes_of_all_reports_and_not_the_payload(
    bus: EventBus, records: Records
) -> None:
    bus.on("a", pause)
    bus.emit("a", {"secret": 1})
    [record] = records
    assert record.name == "agent_event_bus"
    assert record.__dict__["event_name"] == "a"
    assert record.__dict__["handler_name"] == "pause"
    assert "secret" not in repr(record.__dict__)


def test_the_logger_of_the_bus_gets_it(records: Records) -> None:
    got: list[str] = []

    class Log:
        def warning(self, message: str, *args: object, **options: object) -> None:
            got.append(message % args)

        error = warning

    bus = EventBus(slow_after=LIMIT, logger=Log())  # type: ignore[arg-type]
    bus.on("a", pause)
    bus.emit("a")
    assert len(got) == 1
    assert got[0].startswith("Routing event 'a' took ")
    assert records == []


def test_time_that_no_handler_took_counts_for_the_event_and_names_none(
    bus: EventBus, records: Records
) -> None:
    def slow_condition(payload: object) -> bool:
        pause()
        return False

    bus.on("a", lambda payload: None, where=slow_condition)
    bus.emit("a")
    assert slowest(records) == [("a", None)]
    assert records[0].__dict__["handler_name"] is None


# When it says so


def test_within_the_limit_nothing_is_logged(records: Records) -> None:
    bus = EventBus(slow_after=60)
    bus.on("a", pause)
    bus.emit("a")
    asyncio.run(bus.emit_async("a"))
    bus.collect("a")
    assert records == []


def test_a_bus_without_a_limit_never_warns(records: Records) -> None:
    for unlimited in (EventBus(), EventBus(slow_after=None), EventBus(slow_after=math.inf)):
        unlimited.on("a", pause)
        unlimited.emit("a")
    assert records == []


Way = Callable[[EventBus], object]

WAYS: list[Any] = [
    pytest.param(lambda bus: bus.emit("a"), id="emit"),
    pytest.param(lambda bus: bus.emitter("a")(), id="emitter"),
    pytest.param(lambda bus: bus.collect("a"), id="collect"),
    pytest.param(lambda bus: asyncio.run(bus.emit_async("a")), id="emit_async"),
    pytest.param(lambda bus: asyncio.run(bus.collect_async("a")), id="collect_async"),
]


@pytest.mark.parametrize("handler", [pause, apause])
@pytest.mark.parametrize("way", WAYS)
def test_whoever_waits_for_the_handlers_is_warned_of_slow_ones_sync_or_async(
    bus: EventBus, records: Records, way: Way, handler: Callable[..., object]
) -> None:
    bus.on("a", handler)
    bus.on("*", lambda name, payload: None)
    way(bus)
    assert slowest(records) == [("a", handler.__name__)]


@pytest.mark.parametrize("way", ["publish", "publish_async"])
def test_published_objects_are_events_like_others(bus: Any, records: Records, way: str) -> None:
    bus.on(Job, pause)
    if way == "publish":
        bus.publish(Job())
    else:
        asyncio.run(bus.publish_async(Job()))
    assert slowest(records) == [("Job", "pause")]


async def test_an_async_handler_that_blocks_the_loop_in_its_first_step_is_named(
    bus: EventBus, records: Records
) -> None:
    @bus.on("a")
    async def blocks(payload: object) -> None:
        pause()

    await bus.emit_async("a")
    [(event, handler)] = slowest(records)
    assert event == "a"
    assert handler is not None
    assert handler.endswith("<locals>.blocks")


async def test_an_offloaded_handler_is_named_where_it_is_waited_for(
    bus: EventBus, records: Records
) -> None:
    bus.on("a", pause, offload=True)
    await bus.emit_async("a")
    assert slowest(records) == [("a", "pause")]


def test_what_emit_threadsafe_runs_on_the_loop_is_one_event(
    records: Records, other: LoopThread
) -> None:
    bus = EventBus(slow_after=LIMIT, loop=other.loop)
    bus.on("a", apause)
    bus.emit_threadsafe("a").result(20)
    assert slowest(records) == [("a", "apause")]


@pytest.mark.parametrize("handler", [apause, pause])
async def test_what_emit_only_schedules_is_no_part_of_routing_the_event(
    bus: EventBus, records: Records, handler: Callable[..., object]
) -> None:
    bus.on("a", handler, offload=handler is pause)
    bus.emit("a")
    assert await soon(bus.drain()) == []
    assert records == []


async def test_waiting_for_a_permit_counts_for_the_event_and_not_for_the_handler(
    records: Records,
) -> None:
    bus = EventBus(slow_after=1.5 * PAUSE, max_concurrency=1)
    bus.on("a", apause)
    bus.on("a", apause)
    await bus.emit_async("a")
    [found] = warnings_of(records)
    assert float(found["total"] or 0) >= 2 * PAUSE * 0.99
    assert float(found["longest"] or 0) < float(found["total"] or 0)


def test_a_nested_event_is_warned_of_by_itself_and_counts_for_the_outer_one(
    bus: EventBus, records: Records
) -> None:
    def outer(payload: object) -> None:
        bus.emit("inner")

    outer.__qualname__ = "outer"
    bus.on("outer", outer)
    bus.on("inner", pause)
    bus.emit("outer")
    assert slowest(records) == [("inner", "pause"), ("outer", "outer")]


# When the event fails


@pytest.mark.parametrize("way", ["emit", "emit_async"])
def test_an_error_that_propagates_comes_out_and_is_warned_of(
    bus: EventBus, records: Records, way: str
) -> None:
    bus.on("a", pause)
    bus.on("a", failing(KeyboardInterrupt("now")))
    with pytest.raises(KeyboardInterrupt, match="now"):
        bus.emit("a") if way == "emit" else asyncio.run(bus.emit_async("a"))
    assert slowest(records) == [("a", "pause")]


def test_a_failing_guard_comes_out_and_is_warned_of(bus: EventBus, records: Records) -> None:
    bus.on("a", pause)
    bus.on("a", failing(PermissionError("no")), isolate=False)
    with pytest.raises(PermissionError, match="no"):
        bus.emit("a")
    assert slowest(records) == [("a", "pause")]


async def test_a_cancelled_emission_is_warned_of(bus: EventBus, records: Records) -> None:
    @bus.on("a")
    async def cancels(payload: object) -> None:
        await asyncio.sleep(PAUSE)
        task.cancel()
        await asyncio.Event().wait()

    async def emission() -> int:
        return await bus.emit_async("a")

    task = asyncio.ensure_future(emission())
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    [(event, handler)] = slowest(records)
    assert event == "a"
    assert handler is not None
    assert handler.endswith("cancels")


def test_a_logger_that_fails_does_not_reach_the_emitter(unraisable: list[Any]) -> None:
    class Broken:
        def warning(self, *args: object, **options: object) -> None:
            raise ValueError("no log")

        error = warning

    bus = EventBus(slow_after=LIMIT, logger=Broken())  # type: ignore[arg-type]
    bus.on("a", pause)
    assert bus.emit("a") == 1
    assert asyncio.run(bus.emit_async("a")) == 1
    assert [str(error) for error in unraisable] == ["no log", "no log"]


def test_a_log_handler_may_emit_on_the_slow_bus(bus: EventBus) -> None:
    log: list[str] = []

    class Emits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bus.emit("warned")

    bus.on("a", pause)
    bus.on("warned", note(log, "warned"))
    logger = logging.getLogger("agent_event_bus")
    emits = Emits()
    logger.addHandler(emits)
    try:
        bus.emit("a")
    finally:
        logger.removeHandler(emits)
    assert log == ["warned"]


def test_runaway_recursion_is_not_warned_of_at_every_level(records: Records) -> None:
    bus = EventBus(slow_after=1e-9)
    bus.on("a", lambda payload: bus.emit("a"))
    bus.emit("a")
    assert [record.levelname for record in records] == ["ERROR", "WARNING"]


# The option


@pytest.mark.parametrize("value", ["1", True, 1j, [], object()])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="slow_after must be a number of seconds or None"):
        EventBus(slow_after=value)


@pytest.mark.parametrize("value", [0, 0.0, -1, -math.inf, math.nan])
def test_what_is_not_more_than_0_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="slow_after must be more than 0 seconds"):
        EventBus(slow_after=value)
