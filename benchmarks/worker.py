"""The worker bus beside one written by hand: a queue and gather, and a file for each event.

    python -m benchmarks.worker --check

A statement publishes some events and waits until they are delivered; times are those of one event.
The first table has events that are not stored and handlers that never suspend. In the second one
events are durable before they are delivered, published by as many tasks as there are events; see
benchmarks.durable for its folder and its files.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path
from typing import Any, Callable

from benchmarks.durable import FilePerEvent, file_system, folder_on_disk
from benchmarks.harness import (
    PAYLOAD,
    Column,
    Handlers,
    Pace,
    Prepare,
    Statement,
    Suite,
    Table,
    Target,
    measure,
)

PLAIN = "asyncio.Queue and gather"
FILES = "one file an event, and the same"
OURS = "agent_event_bus.worker"
STORE = "agent_event_bus.worker with a store"
AT_ONCE = 100
"""How many events a statement publishes."""
COUNTS = (1, 10)


class PlainBus:
    """What one would write by hand: a queue, and a task that calls all handlers of each event.

    Args:
        handlers: the handlers, async ones.
        files: where each event is written before it is queued.
    """

    def __init__(self, handlers: list[Callable[[Any], Any]], files: FilePerEvent | None) -> None:
        self.handlers = handlers
        self.files = files
        self.queue: asyncio.Queue[Any] | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task, unless it runs."""
        if self.queue is None:
            self.queue = asyncio.Queue()
            self.task = asyncio.ensure_future(self.run(self.queue))

    async def run(self, queue: asyncio.Queue[Any]) -> None:
        """Deliver events, one at a time."""
        while True:
            event = await queue.get()
            handlers = [handler(event) for handler in self.handlers]
            await asyncio.gather(*handlers, return_exceptions=True)
            queue.task_done()

    async def publish(self, event: Any) -> None:
        """Write an event and queue it."""
        assert self.queue is not None
        if self.files is not None:
            self.files.append("outbound", event.to_dict())
        await self.queue.put(event)

    async def join(self) -> None:
        """Wait until everything is delivered."""
        assert self.queue is not None
        await self.queue.join()

    async def stop(self) -> None:
        """End the task."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])


def prepare(handlers: Handlers, *, row: str, count: int, number: int, folder: Path) -> Statement:
    """Prepare a row with so many handlers that publishes so many events a statement."""
    from agent_event_bus.worker import EventBus, OutboundEvent

    if handlers.recording:
        number = 1  # every handler is to be reached once
    made = handlers.make("async", count, "event")
    where = folder / f"{len(list(folder.iterdir()))}"
    bus: Any
    teardown = ""
    if row in (PLAIN, FILES):
        bus = PlainBus(made, FilePerEvent(where) if row == FILES else None)
        teardown = "bus.files.clear()" if row == FILES else ""
    else:
        from agent_event_bus.store import EventStore

        bus = EventBus(store=EventStore(where) if row == STORE else None)
        for handler in made:
            bus.subscribe(OutboundEvent, handler)
    if row in (FILES, STORE):
        source = f"await gather(*[bus.publish(event) for _ in range({number})])\nawait bus.join()"
    else:
        source = f"for _ in range({number}):\n    await bus.publish(event)\nawait bus.join()"
    if row == STORE:
        # What is acknowledged together is one commit; without, every turn would have more to keep.
        source += f"\nawait gather(*[bus.ack_async(event) for _ in range({number})])"
    return Statement(
        source,
        {"bus": bus, "event": OutboundEvent("s", PAYLOAD), "gather": asyncio.gather},
        setup="bus.start()\nawait bus.join()",
        teardown=teardown,
        awaits=True,
        finish=bus.stop,
        payload_of=lambda event: event.content,
    )


def column(heading: str, rows: tuple[str, str], count: int, pace: Pace, folder: Path) -> Column:
    """Measure rows; the first is what the others are compared with."""
    number = pace.size(AT_ONCE)
    prepared: dict[str, Prepare] = {
        row: functools.partial(prepare, row=row, count=count, number=number, folder=folder)
        for row in rows
    }
    measured = measure(heading, prepared, rows[0], pace)
    for row, samples in measured.samples.items():
        measured.samples[row] = [sample / number for sample in samples]
    return measured


def run(pace: Pace) -> list[Table]:
    """Measure both tables, the second on the disk of the working directory."""
    headings = ["1 handler" if count == 1 else f"{count} handlers" for count in COUNTS]
    with folder_on_disk() as folder:
        queued = [
            column(heading, (PLAIN, OURS), count, pace, folder)
            for heading, count in zip(headings, COUNTS)
        ]
        durable = column(headings[0], (FILES, STORE), 1, pace, folder)
        title = f"an event that is durable, delivered and acknowledged, {file_system(folder)}"
    return [
        Table("worker", "an event that is queued and delivered", [PLAIN, OURS], queued),
        Table("worker_durable", title, [FILES, STORE], [durable]),
    ]


TARGETS = (
    Target(f"{OURS}, 1 handler: no slower", "worker", "1 handler", OURS, PLAIN, 1.0),
    Target(f"{OURS}, 10 handlers: no slower", "worker", "10 handlers", OURS, PLAIN, 1.0),
    Target(f"{STORE}: no slower", "worker_durable", "1 handler", STORE, FILES, 1.0),
)

SUITE = Suite("worker", run, targets=TARGETS)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "worker", *sys.argv[1:]]))
