"""No report of any kind has the payload: not in its text, not among its attributes."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Callable

import pytest
from helpers import soon

from agent_event_bus import EventBus

Records = list[logging.LogRecord]
SECRET = "correct horse battery staple"


class Payload:
    """Refuses to be shown, and has something that must not be."""

    def __init__(self) -> None:
        self.secret = SECRET

    def __repr__(self) -> str:
        raise AssertionError("the payload must not be shown")

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        raise AssertionError("the payload must not be formatted")


def fails(payload: object) -> None:
    raise ValueError("it broke")


async def fails_later(payload: object) -> None:
    await asyncio.sleep(0)
    raise ValueError("it broke")


async def hangs(payload: object) -> None:
    await asyncio.Event().wait()


async def gives_up(payload: object) -> None:
    raise asyncio.CancelledError


def takes_long(payload: object) -> None:
    time.sleep(0.002)


def awaited(handler: Callable[..., object], **options: Any) -> Callable[[Any], Any]:
    """An emission that waits for `handler`."""

    async def run(payload: object) -> None:
        bus = EventBus(slow_after=0.001) if handler is takes_long else EventBus()
        bus.on("a", handler, **options)
        await soon(bus.emit_async("a", payload))

    return run


async def scheduled(payload: object) -> None:
    bus = EventBus()
    bus.on("a", fails_later)
    bus.emit("a", payload)
    await soon(bus.drain())


async def too_much(payload: object) -> None:
    bus = EventBus(max_pending=1)
    bus.on("a", hangs)
    bus.emit("a", payload)
    bus.emit("a", payload)
    await soon(bus.aclose())


async def too_late(payload: object) -> None:
    bus = EventBus()
    await bus.aclose()
    bus.emit("a", payload)


REPORTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "error": (awaited(fails), "raised on event 'a'"),
    "error of an async handler": (awaited(fails_later), "raised on event 'a'"),
    "error of an offloaded handler": (awaited(fails, offload=True), "raised on event 'a'"),
    "error of a condition": (awaited(hangs, where=fails), "raised on event 'a'"),
    "error of what emit scheduled": (scheduled, "raised on event 'a'"),
    "timeout": (awaited(hangs, timeout=0.01), "timed out"),
    "cancellation": (awaited(gives_up), "was cancelled"),
    "dropped": (too_much, "was dropped"),
    "slow": (awaited(takes_long), "Routing event 'a'"),
    "closed": (too_late, "closed bus"),
}


@pytest.mark.parametrize("kind", REPORTS)
async def test_no_report_has_the_payload(records: Records, kind: str) -> None:
    payload = Payload()
    emit, text = REPORTS[kind]
    await emit(payload)
    (record,) = records
    assert text in record.getMessage()
    assert SECRET not in logging.Formatter().format(record)
    for value in vars(record).values():
        assert value is not payload
        if isinstance(value, (list, tuple)):
            assert all(item is not payload for item in value)
        elif isinstance(value, dict):
            assert all(item is not payload for item in value.values())
