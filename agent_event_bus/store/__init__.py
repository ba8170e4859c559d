"""The durable log of events, in one SQLite file; see docs/store.md."""

from agent_event_bus.store.errors import StoreClosedError, StoreError
from agent_event_bus.store.event_store import EventStore
from agent_event_bus.store.events import StoredEvent
from agent_event_bus.store.verify import verify_file

__all__ = ["EventStore", "StoreClosedError", "StoreError", "StoredEvent", "verify_file"]
