"""Fork a process whose bus keeps a history, counts and measures; both go on by themselves."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import traceback

from agent_event_bus import EventBus


def names(bus: EventBus) -> list[str]:
    return [event.name for event in bus.history()]


def use_in_child(bus: EventBus) -> None:
    assert names(bus) == ["pending", "before"]
    before = bus.stats()
    assert before["pending"] == 0, before
    assert before["emitted"] == 2, before
    bus.emit("child", 1)
    assert names(bus) == ["child", "pending", "before"]
    after = bus.stats()
    assert (after["emitted"], after["cancelled"]) == (3, 0), after
    assert after["latency"]["main.<locals>.handler"]["count"] == 2, after


def in_child(bus: EventBus) -> None:
    faulthandler.dump_traceback_later(30, exit=True)
    try:
        use_in_child(bus)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


async def main() -> None:
    bus = EventBus(history=3, timing=True)
    gate = asyncio.Event()

    def handler(payload: object) -> None:
        pass

    async def wait(payload: object) -> None:
        await gate.wait()

    bus.on("before", handler)
    bus.on("child", handler)
    bus.on("pending", wait)
    bus.emit("before")
    bus.emit("pending")
    await asyncio.sleep(0)
    child = os.fork()
    if child == 0:
        in_child(bus)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - nothing else is to run meanwhile
    assert status == 0, f"the child ended with status {status}"
    assert bus.stats()["pending"] == 1
    gate.set()
    assert await asyncio.wait_for(bus.drain(), 10) == []
    assert names(bus) == ["pending", "before"]
    stats = bus.stats()
    assert (stats["emitted"], stats["pending"]) == (2, 0), stats


if not hasattr(os, "fork"):
    print("ok")
    sys.exit()
asyncio.run(main())
print("ok")
