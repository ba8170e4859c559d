"""Letting go of a long chain in a thread with a small stack: recursion in C would overflow it."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import Any, Callable

from agent_event_bus import Event, EventBus

EVENTS = 300_000
HANDLERS = 10_000

# Bytes. For events it leaves room for the nesting that the interpreter itself allows for in 3.13.
STACKS = {"events": 1 << 22, "handlers": 1 << 18}

# All that holds the chain.
kept: list[Any] = []


def events() -> None:
    """Each event is the payload of the next."""
    event: Event | None = None
    for _ in range(EVENTS):
        event = Event("a", event)
    kept.append(event)


def handlers() -> None:
    """The task of the innermost of many nested handlers, all of which have ended."""

    async def main() -> None:
        bus = EventBus()

        @bus.on("a")
        async def handler(depth: int) -> None:
            await asyncio.sleep(0)
            if depth:
                await bus.emit_async("a", depth - 1)
            else:
                kept.append(asyncio.current_task())

        assert await bus.emit_async("a", HANDLERS) == 1

    asyncio.run(main())


def release() -> None:
    assert len(kept) == 1
    kept.clear()
    gc.collect()
    print("ok")


CASES: dict[str, Callable[[], None]] = {"events": events, "handlers": handlers}

sys.setrecursionlimit(HANDLERS + 200)
CASES[sys.argv[1]]()
threading.stack_size(STACKS[sys.argv[1]])
thread = threading.Thread(target=release)
thread.start()
thread.join()
