"""The runtime bus: subscriptions with filters, publishing, a history, waiting.

All of it is one bus of the core: a type is an event name there, a filter is a condition that is
compared natively, and the history and the bound of concurrent handlers are the core's.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import sys
from collections import Counter
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

from agent_event_bus import EventBus as CoreBus
from agent_event_bus import UnknownEventError
from agent_event_bus.runtime.events import AgentEvent, EventType
from agent_event_bus.runtime.publishers import Publishers
from agent_event_bus.runtime.waiting import Wait

if TYPE_CHECKING:
    from agent_event_bus import Subscription as CoreSubscription

__all__ = ["EventBus", "EventHandler", "Subscription"]

EventHandler = Callable[[AgentEvent], Any]
"""What is called with each event: an async function, or a sync one."""

EventTypes = Union[EventType, str, Iterable[Union[EventType, str]]]
Function = TypeVar("Function", bound=Callable[..., Any])

logger = logging.getLogger("agent_event_bus.runtime")


@dataclass
class Subscription:
    """What the bus knows of a subscription. Changing it changes nothing in the bus.

    Args:
        id: What ``subscribe`` returned.
        event_types: The types that it is for.
        handler: What is called.
        filter_stream, filter_node, filter_execution, filter_graph: The only stream, node,
            execution and graph that it is for; None for any.
    """

    id: str
    event_types: set[EventType]
    handler: EventHandler
    filter_stream: Optional[str] = None  # noqa: UP045
    filter_node: Optional[str] = None  # noqa: UP045
    filter_execution: Optional[str] = None  # noqa: UP045
    filter_graph: Optional[str] = None  # noqa: UP045


def _coroutine_function(function: Function) -> Function:
    """Have a function that returns a coroutine object taken for what ``async def`` makes."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        from asyncio import coroutines

        # What asyncio.iscoroutinefunction(), and with it unittest.mock, looks for there.
        function._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined, unused-ignore]
    return function


class EventBus(Publishers):
    """The event bus of a multi-stream agent runtime.

    Args:
        max_history: How many of the last events to keep for ``get_history``; 0 keeps none.
        max_concurrent_handlers: How many async handlers may run at once, over all events that are
            published, but for those that handlers publish. Further ones wait for their turn, in
            order. None sets no limit.

    Raises:
        TypeError: One of the two is no ``int``.
        ValueError: ``max_history`` is less than 0 or ``max_concurrent_handlers`` less than 1.

    docs/runtime.md has the whole of what it promises.
    """

    def __init__(self, max_history: int = 1000, max_concurrent_handlers: int | None = 10) -> None:
        _check_count("max_history", max_history, least=0)
        if max_concurrent_handlers is not None:
            _check_count("max_concurrent_handlers", max_concurrent_handlers, least=1)
        # Strict, so that an event whose type was changed to none of EventType is refused.
        self._bus = CoreBus(
            "runtime",
            history=max_history,
            max_concurrency=max_concurrent_handlers,
            logger=logger,
            strict=True,
        )
        for event_type in EventType:
            self._bus.define_event(event_type, None)
        self._emit = self._bus.emit_async
        self._numbers = itertools.count(1)
        self._subscriptions: dict[str, tuple[Subscription, CoreSubscription]] = {}

    def subscribe(
        self,
        event_types: EventTypes,
        handler: EventHandler,
        filter_stream: str | None = None,
        filter_node: str | None = None,
        filter_execution: str | None = None,
        filter_graph: str | None = None,
    ) -> str:
        """Have a handler called with the events of some types.

        Args:
            event_types: The types, in any iterable, or one of them; ``EventType`` itself is all.
                Strings that are the values of types will do.
            handler: Called with each event. What it raises is logged, and reaches neither the
                publisher nor other handlers.
            filter_stream, filter_node, filter_execution, filter_graph: Only events with this
                ``stream_id``, ``node_id``, ``execution_id`` and ``graph_id``. None and ``""`` are
                no filter.

        Returns:
            What ``unsubscribe`` takes: ``"sub_1"``, ``"sub_2"`` and so on, never the same again.

        Raises:
            ValueError: There is no type, or one that is none of ``EventType``.
            TypeError: The handler is not callable, or is an async generator function.
        """
        types = _types(event_types)
        where = _conditions(filter_stream, filter_node, filter_execution, filter_graph)
        active = self._bus.subscribe(types, handler, where=where)
        number = f"sub_{next(self._numbers)}"
        self._subscriptions[number] = (
            Subscription(
                number,
                set(types),
                handler,
                filter_stream or None,
                filter_node or None,
                filter_execution or None,
                filter_graph or None,
            ),
            active,
        )
        return number

    def unsubscribe(self, subscription_id: str) -> bool:
        """End a subscription. A handler that is running goes on, one still to be called is not.

        Returns:
            Whether there was one with this id.
        """
        found = self._subscriptions.pop(subscription_id, None)
        return found is not None and found[1].cancel()

    def get_subscriptions(self) -> list[Subscription]:
        """Return what is subscribed now, in the order in which it was. ``wait_for`` is not."""
        return [subscription for subscription, _ in list(self._subscriptions.values())]

    async def publish(self, event: AgentEvent) -> int:
        """Record an event, call every handler that it matches, and wait until all are done.

        Handlers run concurrently; sync ones are called first. Cancelling this cancels the handlers
        that are unfinished, and waits for them. No ``Exception`` of a handler comes out of it;
        ``KeyboardInterrupt`` and the like do.

        Returns:
            How many handlers were called, those that failed and those who wait for it included.

        Raises:
            ValueError: The type of the event was changed to a string that is none of ``EventType``.
        """
        try:
            return await self._emit(event.type, event)
        except UnknownEventError:
            raise ValueError(f"{event.type!r} is not a valid EventType") from None

    def get_history(
        self,
        event_type: EventType | str | None = None,
        stream_id: str | None = None,
        execution_id: str | None = None,
        limit: int | None = 100,
    ) -> list[AgentEvent]:
        """Return the last events that were published, newest first.

        Args:
            event_type: Only those of this type. None and ``""`` are no filter, here and below.
            stream_id: Only those of this stream.
            execution_id: Only those of this execution.
            limit: How many to return at most, of those that match. None returns all.

        Raises:
            ValueError: The type is none of ``EventType``, or ``limit`` is less than 0.
            TypeError: ``limit`` is no ``int``.
        """
        key = EventType(event_type) if event_type else None
        if limit is not None:
            _check_count("limit", limit, least=0)
        if not stream_id and not execution_id:
            return [event.payload for event in self._bus.history(key, limit=limit)]
        events: Iterable[AgentEvent] = (
            event.payload for event in self._bus.history(key, limit=None)
        )
        if stream_id:
            events = (event for event in events if event.stream_id == stream_id)
        if execution_id:
            events = (event for event in events if event.execution_id == execution_id)
        return list(itertools.islice(events, limit))

    def get_stats(self) -> dict[str, Any]:
        """Return what the history holds, and how many subscriptions there are.

        Returns:
            A ``dict`` with ``total_events``, the number of events in the history;
            ``events_by_type``, which has that for each type that is there; and ``subscriptions``,
            those of ``wait_for`` included.
        """
        events = self._bus.history(limit=None)
        return {
            "total_events": len(events),
            "subscriptions": len(self._bus),
            "events_by_type": dict(Counter(event.name for event in reversed(events))),
        }

    @_coroutine_function
    def wait_for(
        self,
        event_type: EventTypes,
        stream_id: str | None = None,
        node_id: str | None = None,
        execution_id: str | None = None,
        graph_id: str | None = None,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, AgentEvent | None]:
        """Wait for the next event of a type.

        It listens from this call on, not from the await on, and until it is done, cancelled or
        dropped.

        Args:
            event_type: The type, or several, of which the first to come counts.
            stream_id, node_id, execution_id, graph_id: Only an event that has these. None and
                ``""`` are no filter.
            timeout: Seconds from this call; None waits as long as it takes. With 0 the result is
                an event that was published since this call, or None at once.

        Returns:
            A coroutine object that gives the event, or None when none has come in time.

        Raises:
            ValueError: There is no type, or one that is none of ``EventType``, or the timeout is
                negative or NaN.
            TypeError: The timeout is no number.
        """
        where = _conditions(stream_id, node_id, execution_id, graph_id)
        return Wait(self._bus.wait_for(_types(event_type), where=where, timeout=timeout))


def _types(event_types: EventTypes) -> list[EventType]:
    """Return the types that were given in one of the ways that are allowed."""
    given = [event_types] if isinstance(event_types, str) else event_types
    types = list(map(EventType, given))
    if not types:
        raise ValueError("there must be at least one event type")
    return types


def _conditions(
    stream: str | None, node: str | None, execution: str | None, graph: str | None
) -> dict[str, str] | None:
    """Return what the core compares with the attributes of an event; None for nothing."""
    fields = {"stream_id": stream, "node_id": node, "execution_id": execution, "graph_id": graph}
    return {field: wanted for field, wanted in fields.items() if wanted} or None


def _check_count(name: str, value: object, *, least: int) -> None:
    """Refuse what is no whole number of at least so much."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
