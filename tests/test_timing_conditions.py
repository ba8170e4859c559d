"""timing and slow_after: what a condition takes is the time of no handler."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Callable

import pytest

from agent_event_bus import EventBus

PAUSE = 0.05
"""Seconds that slow conditions take."""


def says(answer: bool) -> Callable[[object], bool]:
    def slow(payload: object) -> bool:
        time.sleep(PAUSE)
        return answer

    return slow


def fails(payload: object) -> bool:
    time.sleep(PAUSE)
    raise ValueError("no answer")


def quick(payload: object) -> None:
    pass


async def aquick(payload: object) -> None:
    pass


async def suspends(payload: object) -> None:
    await asyncio.sleep(0)


def measuring() -> EventBus:
    """Make a bus that measures, and warns."""
    return EventBus(timing=True, slow_after=PAUSE / 2)


kinds = pytest.mark.parametrize(
    ("handler", "offload", "before"),
    # What is suspended, or in a worker thread, has to wait while a condition blocks the loop.
    [(quick, False, 1), (aquick, False, 1), (suspends, False, 0), (quick, True, 0)],
    ids=["sync", "async", "suspends", "offload"],
)
ways = pytest.mark.parametrize("way", ["emit", "emit_async", "collect", "collect_async"])


def run(bus: EventBus, way: str) -> None:
    result: Any = getattr(bus, way)("a")
    if way.endswith("_async"):
        asyncio.run(result)


CONDITIONS = [says(True), says(False), fails]


@kinds
@ways
@pytest.mark.parametrize("where", CONDITIONS, ids=["yes", "no", "fails"])
def test_a_slow_condition_counts_for_no_handler(
    records: list[logging.LogRecord],
    way: str,
    handler: Callable[..., object],
    offload: bool,
    before: int,
    where: Callable[[object], bool],
) -> None:
    longest = []
    for _ in range(5):  # on a busy machine a handler may be kept waiting for that long, too
        records.clear()
        bus = measuring()
        for condition in (*[None] * before, where, None):
            bus.on("a", handler, offload=offload, where=condition)
        run(bus, way)
        [latency] = bus.stats()["latency"].values()
        assert latency["count"] == before + 1 + (where is CONDITIONS[0])
        # It counts for the event.
        assert [record.levelno for record in records].count(logging.WARNING) == 1
        longest.append(latency["max"])
        if longest[-1] < PAUSE:
            break
    assert min(longest) < PAUSE
