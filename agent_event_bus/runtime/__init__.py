"""The bus of a multi-stream agent runtime: typed events, filters by stream, node and execution.

    from agent_event_bus.runtime import AgentEvent, EventBus, EventType

    bus = EventBus()
    bus.subscribe([EventType.TOOL_CALL_STARTED], handler, filter_stream="inbox")
    await bus.emit_tool_call_started("inbox", "planner", "call-1", "search", {"query": "lamps"})

docs/runtime.md says what it promises.
"""

from agent_event_bus.runtime.bus import EventBus, EventHandler, Subscription
from agent_event_bus.runtime.events import AgentEvent, EventType

__all__ = ["AgentEvent", "EventBus", "EventHandler", "EventType", "Subscription"]
