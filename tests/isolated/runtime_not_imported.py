"""Importing the package neither imports the runtime bus nor asyncio; importing that does work."""

from __future__ import annotations

import sys

import agent_event_bus

assert len(agent_event_bus.EventBus()) == 0
assert not [name for name in sys.modules if name.startswith("agent_event_bus.runtime")]
assert "asyncio" not in sys.modules

from agent_event_bus.runtime import EventBus  # noqa: E402

assert EventBus().get_stats()["subscriptions"] == 0
print("ok")
