"""What the tests of the worker bus share: events, a run of the bus, and what is in its store."""

from __future__ import annotations

import asyncio
from typing import Any

from helpers import soon

from agent_event_bus.store import EventStore
from agent_event_bus.worker import Event, EventBus, InboundEvent, OutboundEvent


def outbound(*contents: object) -> list[OutboundEvent]:
    return [OutboundEvent("s", content) for content in contents]


def stored(store: EventStore) -> list[Any]:
    return [each.payload["content"] for each in store.read(key="worker.outbound")]


async def delivered(bus: EventBus) -> list[Any]:
    """Run the bus, and return the events that it has delivered until its queue was empty."""
    log: list[Any] = []
    with bus.subscribe(Event, log.append):
        bus.start()
        await settled(bus)
        await soon(bus.stop())
    return log


async def settled(bus: EventBus) -> None:
    """Wait until the bus has recovered, which it does in a thread, and delivered everything."""
    marker = asyncio.Event()

    def handler(event: Event) -> None:
        if event.content == "marker":
            marker.set()

    with bus.subscribe(InboundEvent, handler):
        await bus.publish(InboundEvent("marker", "marker"))  # delivered after what is recovered
        await soon(marker.wait())
        await soon(bus.join())


def contents(events: list[Any]) -> list[Any]:
    return [event.content for event in events if event.content != "marker"]
