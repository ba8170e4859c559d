"""Daemon threads that subscribe, emit and fail until the interpreter is gone under them."""

from __future__ import annotations

import logging
import sys
import threading

from agent_event_bus import EventBus

logging.getLogger("agent_event_bus").addHandler(logging.NullHandler())
logging.getLogger("agent_event_bus").propagate = False
bus = EventBus()
busy = threading.Barrier(4)


@bus.on("*")
def handler(*args: object) -> None:
    payload = args[-1]
    if payload:
        raise ValueError(payload)


@bus.on("a")
async def async_handler(payload: object) -> None:
    pass


def work(number: int) -> None:
    for round_ in range(10**9):
        bus.subscribe("b", handler).cancel()
        bus.emit("b", round_ % 5 == 0)
        if number == 0:
            bus.emit("a")
        if round_ == 10:
            busy.wait()


sys.setswitchinterval(1e-5)
for number in range(3):
    threading.Thread(target=work, args=(number,), daemon=True).start()
busy.wait()
print("end", flush=True)
