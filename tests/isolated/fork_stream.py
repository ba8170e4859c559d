"""A child forked while another thread is in the middle of putting an event into a stream."""

from __future__ import annotations

import asyncio
import os
import threading

from agent_event_bus import EventBus

bus = EventBus()
stream = bus.stream("a", maxsize=4)
held, done = threading.Event(), threading.Event()


def hold() -> None:
    """Do what a thread does that was interrupted while it queued an event."""
    with stream._buffer._lock:
        held.set()
        done.wait()


thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    bus.emit("a", 1)

    async def first() -> object:
        return (await stream.__anext__()).payload

    os._exit(0 if asyncio.run(first()) == 1 else 1)
done.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0
print("ok")
