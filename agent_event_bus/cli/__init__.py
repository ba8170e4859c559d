"""The command line of agent-event-bus: a tool-using agent observed through the bus.

Importing this package loads neither asyncio nor rich; both are imported when a command needs them.
"""

from __future__ import annotations

from agent_event_bus.cli.app import main

__all__ = ["main"]
