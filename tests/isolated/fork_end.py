"""A child that is forked in the middle of everything uses the bus, and ends as a program does."""

from __future__ import annotations

import asyncio
import os
import sys

from agent_event_bus import EventBus

bus = EventBus(max_concurrency=1)
child = -1


async def waits(payload: object) -> None:
    await asyncio.get_running_loop().create_future()


def forks(payload: object) -> None:
    global child
    child = os.fork()


def returns(payload: object) -> None: ...


async def main() -> None:
    # One runs, and the others wait for its permit.
    for _ in range(3):
        bus.emit("waits")
    await asyncio.sleep(0)
    assert len(bus.pending()) == 3
    assert bus.emit("forks") == 2  # in the parent and in the child, inside an emission of both
    if child == 0:
        # What its parent has scheduled is not the child's.
        assert bus.emit("returns") == 1
        assert bus.pending() == []
        os.write(1, b"child\n")
        return
    assert len(bus.pending()) == 3
    await bus.aclose()


bus.on("waits", waits)
bus.on("forks", forks)
bus.on("forks", returns)
bus.on("returns", returns)
try:
    asyncio.run(main())
except BaseException:
    if child == 0:
        os._exit(9)
    raise
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print("ok")
