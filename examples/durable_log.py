"""Record an agent in a durable log, and let a consumer catch up after it was interrupted.

Run it with `python examples/durable_log.py`. The events are in a SQLite file, which is made in a
temporary directory here. What stands in for two runs of a program are two blocks that open it.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore


def redact(name: str, payload: Any) -> Any:
    """Keep keys out of the log; what the handlers get is not changed."""
    if isinstance(payload, dict) and "api_key" in payload:
        return {**payload, "api_key": "***"}
    return payload


async def agent(bus: EventBus) -> None:
    """Do some work; the loop knows the bus and nothing of the log."""
    bus.emit("run.start", {"run_id": "run-1", "api_key": "sk-123"})
    for number in range(1, 4):
        bus.emit("llm.response", {"run_id": "run-1", "usd": 0.01 * number})
    bus.emit("run.end", {"run_id": "run-1"})


async def bill(store: EventStore, stop_after: int | None = None) -> None:
    """Add up what was spent, each response once, however often this is interrupted."""
    for event in store.pending("billing", key="llm.response", limit=stop_after):
        print(f"billing: event {event.seq}, ${event.payload['usd']:.2f}")
        await store.ack_async("billing", event.seq)


async def first_run(path: Path) -> None:
    """Run the agent; billing is interrupted after the first response."""
    bus = EventBus("agent")
    with EventStore(path, redact=redact) as store:
        store.attach(bus)
        await agent(bus)
        store.flush()
        await bill(store, stop_after=1)


async def second_run(path: Path) -> None:
    """Go on where the first run has stopped, and replay what it did to another bus."""
    with EventStore(path) as store:
        await bill(store)

        bus = EventBus("audit")
        bus.on("*", lambda name, payload: print(f"audit: {name} {payload.get('api_key', '')}"))
        print("replayed:", await store.replay(bus, run_id="run-1"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "events.db"
        asyncio.run(first_run(file))
        print("-- the program is started again")
        asyncio.run(second_run(file))
