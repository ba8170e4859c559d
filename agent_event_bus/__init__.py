"""An in-process event bus for Python agents, with its core in C.

The agent loop is the host, handlers are guests: it emits events, and an exception of a handler
never reaches it.

    from agent_event_bus import EventBus

    bus = EventBus()

    @bus.on("model_responded")
    def track_cost(event):
        ...

    bus.emit("model_responded", {"response": "hello"})

PYTEST_DONT_REWRITE: pytest would warn programs that import this and then run pytest, for the sake
of the plugin that comes with it.
"""

from agent_event_bus._bus import EventBus
from agent_event_bus._core import Emitter, Event, Outcome, Subscription
from agent_event_bus.buses import current_bus, get_bus, use_buses
from agent_event_bus.errors import EventSchemaError, UnknownEventError
from agent_event_bus.keys import EventKey
from agent_event_bus.streams import Stream, StreamOverflowError
from agent_event_bus.waiting import Expectation

__all__ = [
    "Emitter",
    "Event",
    "EventBus",
    "EventKey",
    "EventSchemaError",
    "Expectation",
    "Outcome",
    "Stream",
    "StreamOverflowError",
    "Subscription",
    "UnknownEventError",
    "__version__",
    "current_bus",
    "get_bus",
    "use_buses",
]

__version__ = "0.1.0"
