"""The runtime bus that a careful user writes in plain Python, measured beside the package's own.

An ``asyncio.Lock`` around the history, a filter in Python over all subscriptions, a semaphore
around every handler, ``gather`` over all of them: the form that such buses have in the field. It
uses the event of this package, so that both rows deliver the same object.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable

from agent_event_bus.runtime import AgentEvent, EventType

Handler = Callable[[AgentEvent], Any]

log = logging.getLogger(__name__)


@dataclass
class PlainSubscription:
    """A handler and what it is to be given."""

    event_types: set[EventType]
    handler: Handler
    filter_stream: str | None = None
    filter_node: str | None = None
    filter_execution: str | None = None
    filter_graph: str | None = None

    def matches(self, event: AgentEvent) -> bool:
        """Return whether it wants an event."""
        if event.type not in self.event_types:
            return False
        if self.filter_stream and self.filter_stream != event.stream_id:
            return False
        if self.filter_node and self.filter_node != event.node_id:
            return False
        if self.filter_execution and self.filter_execution != event.execution_id:
            return False
        return not (self.filter_graph and self.filter_graph != event.graph_id)


class PlainRuntimeBus:
    """A list of subscriptions, a lock, a semaphore, a gather."""

    def __init__(self, max_history: int = 1000, max_concurrent_handlers: int = 10) -> None:
        self._subscriptions: list[PlainSubscription] = []
        # Not a list that is cut to length each time, which would copy it each time.
        self._history: deque[AgentEvent] = deque(maxlen=max_history)
        self._lock = asyncio.Lock()
        self._semaphore = asyncio.Semaphore(max_concurrent_handlers)

    def subscribe(
        self, event_types: Iterable[EventType], handler: Handler, **filters: str | None
    ) -> None:
        """Have a handler called with the events of these types that the filters let through."""
        self._subscriptions.append(PlainSubscription(set(event_types), handler, **filters))

    async def publish(self, event: AgentEvent) -> None:
        """Record an event, then run every handler that matches, and wait for all of them."""
        await self._record(event)
        handlers = [each.handler for each in self._subscriptions if each.matches(event)]
        if handlers:
            calls = [self._call(handler, event) for handler in handlers]
            await asyncio.gather(*calls, return_exceptions=True)

    async def _record(self, event: AgentEvent) -> None:
        async with self._lock:
            self._history.append(event)

    async def _call(self, handler: Handler, event: AgentEvent) -> None:
        async with self._semaphore:
            try:
                await handler(event)
            except Exception:
                log.exception("handler failed for %s", event.type)


class CopyingRuntimeBus(PlainRuntimeBus):
    """One that keeps its history in a list, and copies the end of that when it is too long."""

    def __init__(self, max_history: int = 1000, max_concurrent_handlers: int = 10) -> None:
        super().__init__(max_history, max_concurrent_handlers)
        self._max_history = max_history
        self._events: list[AgentEvent] = []

    async def _record(self, event: AgentEvent) -> None:
        async with self._lock:
            self._events.append(event)
            if len(self._events) > self._max_history:
                self._events = self._events[-self._max_history :]
