"""Importing the package and its sync part must not pull in asyncio."""

from __future__ import annotations

import sys

import agent_event_bus

assert "asyncio" not in sys.modules

bus = agent_event_bus.EventBus()
log: list[object] = []
bus.on("a", log.append)
bus.once("a", log.append)
bus.on("*", lambda name, payload: log.append(name))
with bus.subscribe("a", log.append, envelope=True):
    assert bus.emit("a", 1) == 4
bus.handlers("a")
bus.off("a", log.append)
bus.clear()
repr(bus)
assert len(log) == 4

assert "asyncio" not in sys.modules
print("ok")
