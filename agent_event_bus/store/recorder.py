"""Capturing payloads, and the handler that records what a bus emits.

A payload is captured where it is emitted and in that thread: redacted, and turned into text, so
that nothing that happens to it later is recorded. Whatever goes wrong in that is recorded and
logged, without contents, and never raised: the agent must not notice.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable
from uuid import UUID

from agent_event_bus import Event, EventBus
from agent_event_bus.store.arguments import storable
from agent_event_bus.store.encoding import REPR, WITHHELD, encode
from agent_event_bus.store.reports import Reports

if TYPE_CHECKING:
    from agent_event_bus import Subscription
    from agent_event_bus.store.database import Row
    from agent_event_bus.store.event_store import EventStore

__all__ = [
    "Capture",
    "Delivery",
    "Recorder",
    "Redact",
    "delivery",
    "run_id_of",
    "subscribe",
]

Redact = Callable[[str, Any], Any]
# Names that were found to be good; as many as the core remembers.
REMEMBERED = 1024


class Capture:
    """Makes of an event what is written.

    Args:
        redact: Called as ``redact(name, payload)``; what it returns is written.
    """

    def __init__(self, redact: Redact | None) -> None:
        if redact is not None and not callable(redact):
            raise TypeError(f"redact must be callable, not {type(redact).__name__}")
        if inspect.iscoroutinefunction(redact):
            raise TypeError("redact must be a plain function: a coroutine function is awaited")
        self._redact = redact
        self._reports = Reports()
        # Emits nothing: it is here for what a bus accepts as an event name.
        self._names = EventBus()
        self._good: set[str] = set()

    def name(self, name: Any) -> str:
        """Return an event name as an exact string.

        Raises:
            ValueError: It is none of an event, as for ``emit``.
            TypeError: It is no string.
        """
        if type(name) is str and name in self._good:
            return name
        text = self._names.emitter(name).name
        if len(self._good) >= REMEMBERED:
            self._good.clear()
        self._good.add(text)
        return text

    def row(
        self,
        name: str,
        payload: object,
        run_id: str | None,
        timestamp: float | None,
        run_id_of_payload: bool = False,
    ) -> Row:
        """Return what is written of an event.

        Args:
            name: The event name.
            payload: The payload; redacted here.
            run_id: The run, or None.
            timestamp: Seconds since the epoch, None for now.
            run_id_of_payload: Whether a payload that is a mapping may have the run.
        """
        if self._redact is None:
            text, form = encode(payload)
        else:
            try:
                payload = self._redact(name, payload)
                if inspect.isawaitable(payload):
                    if inspect.iscoroutine(payload):
                        payload.close()
                    raise TypeError("redact returned an awaitable")
            except Exception as error:
                payload = None
                text, form = "null", WITHHELD
                # The text of the error may have contents of the payload, and so may its traceback.
                kind = type(error).__name__
                self._warn(
                    "redact failed on event %r, whose payload is not written: %s", name, kind
                )
            else:
                text, form = encode(payload)
        if form == REPR:
            self._warn(
                "Event %r has something that cannot be serialised, and is stored as its repr", name
            )
        if run_id_of_payload:
            run_id = run_id_of(payload)
        when = time.time() if timestamp is None else timestamp
        return storable(name), text, form, when, None if run_id is None else storable(run_id)

    def _warn(self, message: str, name: str, *more: object) -> None:
        if self._reports.due((message, name)):
            self._reports.log(logging.WARNING, message, name, *more)


def run_id_of(payload: object) -> str | None:
    """Return the run that a payload belongs to, when it is a mapping that has one.

    A run may be a string, and an int or a UUID, of which the digits are taken.
    """
    try:
        if not isinstance(payload, Mapping):
            return None
        found = payload.get("run_id")
        if isinstance(found, str):
            return str.__str__(found)
        if isinstance(found, int) and not isinstance(found, bool):
            return int.__repr__(found)
        return str(found) if isinstance(found, UUID) else None
    except Exception:  # of the user's: a mapping, or an attribute `__class__`
        return None


class Delivery:
    """The event that a replay is delivering, for the recorders of its store to leave out."""

    __slots__ = ("name", "over", "path", "payload", "seen")

    def __init__(self, path: str, name: str, payload: object) -> None:
        self.path = path
        self.name = name
        self.payload = payload
        self.seen: list[Recorder] = []
        self.over = False


delivery: ContextVar[Delivery | None] = ContextVar("agent_event_bus.delivery", default=None)


class Recorder:
    """A handler that records events in a store, for a subscription with ``envelope=True``.

    ``Recorder(store)`` may be called with an ``Event``. ``record`` takes name and payload, for
    buses whose handlers get these. Neither ever raises an ``Exception``: what cannot be stored is
    counted and logged.

    Args:
        store: Where to record.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store

    def __call__(self, event: Event[Any]) -> None:
        """Record an event with its own timestamp."""
        self.record(event.name, event.payload, event.timestamp)

    async def record_async(self, event: Event[Any]) -> None:
        """Do the same, for a bus that takes async handlers only."""
        self.record(event.name, event.payload, event.timestamp)

    def record(self, name: str, payload: object, timestamp: float | None = None) -> None:
        """Record an event, unless it is the one that this store is just replaying.

        Args:
            name: The event name.
            payload: The payload; its ``run_id``, if it is a mapping that has one, is that of the
                event.
            timestamp: Seconds since the epoch, None for now.
        """
        current = delivery.get()
        if current is not None and self._is_replayed(current, name, payload):
            current.seen.append(self)
            return
        self.store.record(name, payload, timestamp)

    def _is_replayed(self, current: Delivery, name: str, payload: object) -> bool:
        return (
            not current.over
            and current.payload is payload
            and current.name == name
            and current.path == self.store.path
            and self not in current.seen
        )


def subscribe(store: EventStore, bus: EventBus, key: Any) -> Subscription:
    """Subscribe a recorder of a store on a bus, before all other handlers."""
    recorder = Recorder(store)
    first = -(2**63)
    try:
        return bus.subscribe(key, recorder, envelope=True, priority=first)
    except TypeError:
        # A bus with async_only refuses it. For a bad key, this raises the same again.
        return bus.subscribe(key, recorder.record_async, envelope=True, priority=first)
