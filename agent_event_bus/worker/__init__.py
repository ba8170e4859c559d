"""Queued event processing that recovers from crashes.

    from agent_event_bus.worker import AgentWorker, EventBus, InboundEvent, OutboundEvent

What comes in is queued, handled one event at a time, and answered; with a store, an answer is kept
until it is acknowledged, also over a crash. docs/worker.md describes it.
"""

from agent_event_bus.worker.bus import EventBus
from agent_event_bus.worker.events import (
    Event,
    InboundEvent,
    NotSerializableError,
    OutboundEvent,
    deserialize_event,
    serialize_event,
)
from agent_event_bus.worker.workers import AgentWorker, SubscriberWorker, Worker

__all__ = [
    "AgentWorker",
    "Event",
    "EventBus",
    "InboundEvent",
    "NotSerializableError",
    "OutboundEvent",
    "SubscriberWorker",
    "Worker",
    "deserialize_event",
    "serialize_event",
]
