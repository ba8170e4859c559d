"""Import the package; neither the store nor what it needs may come with it."""

from __future__ import annotations

import sys

import agent_event_bus

assert agent_event_bus.__version__
loaded = {"asyncio", "sqlite3", "agent_event_bus.store", "concurrent.futures"} & set(sys.modules)
assert not loaded, loaded

from agent_event_bus.store import EventStore  # noqa: E402

assert EventStore.__module__ == "agent_event_bus.store.event_store"
print("ok")
