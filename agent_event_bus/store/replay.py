"""Reading the log in pages, and delivering it again."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from agent_event_bus import EventBus
from agent_event_bus.store import arguments
from agent_event_bus.store.database import Database, last_seq
from agent_event_bus.store.encoding import decode
from agent_event_bus.store.errors import StoreClosedError, StoreError
from agent_event_bus.store.events import FORMS, StoredEvent
from agent_event_bus.store.ledger import UNACKNOWLEDGED
from agent_event_bus.store.recorder import Delivery, delivery
from agent_event_bus.store.reports import Reports

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from agent_event_bus.store.event_store import EventStore

__all__ = ["Bus", "Matcher", "Speed", "events", "replay"]

# Events that are read at once.
PAGE = 256


class Bus(Protocol):
    """What a replay delivers to: this package's buses and others that can do this."""

    def emit_async(self, name: Any, payload: Any = None, /) -> Awaitable[Any]: ...


class Matcher:
    """Says which event names a key matches, as a bus does.

    Args:
        key: An event name, a pattern, or a list or tuple of these; None matches every name.

    Raises:
        ValueError: The key is malformed.
        TypeError: It is no string, or a class: the log has names and no objects.
    """

    def __init__(self, key: Any) -> None:
        self._all = key is None
        self._bus = EventBus()  # which remembers what it has found for a name
        if not self._all:
            subscription = self._bus.subscribe(key, _nothing)
            if not all(isinstance(one, str) for one in subscription.keys):
                raise TypeError("a class is no key of the log, which has the names of events only")
            self._all = any(one in ("*", "**") for one in subscription.keys)

    def __call__(self, name: str) -> bool:
        """Say whether a name matches."""
        if self._all:
            return True
        try:
            return self._bus.has_handlers(name)
        except ValueError:
            return False  # the name of a published object that no bus would emit


def _nothing(*_: object) -> None:
    """Stand for a handler that is never called."""


def events(
    database: Database,
    *,
    after: int,
    key: Any,
    run_id: str | None,
    limit: int | None,
    consumer: str | None,
) -> Iterator[StoredEvent]:
    """Return an iterator of events, up to the last one there is at this call.

    They are read in pages, and nothing stays open between two.
    """
    matches = Matcher(key)
    with database.reading() as connection:
        last = last_seq(connection)
    conditions = ["seq > :after", "seq <= :last"]
    if run_id is not None:
        conditions.append("run_id = :run_id")
    if consumer is not None:
        conditions.append(UNACKNOWLEDGED)
    query = (
        "SELECT seq, name, payload, form, timestamp, run_id FROM events"
        f" WHERE {' AND '.join(conditions)} ORDER BY seq LIMIT :size"
    )
    values = {"after": after, "last": last, "run_id": run_id, "consumer": consumer}
    return _pages(database, query, values, matches, limit)


def _pages(
    database: Database, query: str, values: dict[str, Any], matches: Matcher, limit: int | None
) -> Iterator[StoredEvent]:
    left = math.inf if limit is None else limit
    size = PAGE
    while left > 0:
        try:
            page = database.query(query, {**values, "size": size})
        except StoreClosedError:
            raise
        except StoreError:
            # Where the file is damaged, what is before the damage can be read one by one.
            if size == 1:
                raise
            size = 1
            continue
        for seq, name, text, form, timestamp, run_id in page:
            if matches(name):
                database.check_open()
                yield _event(database.path, seq, name, text, form, timestamp, run_id)
                left -= 1
                if left <= 0:
                    return
        if len(page) < size:
            return
        values = {**values, "after": page[-1][0]}


def _event(
    path: str, seq: int, name: str, text: str, form: int, timestamp: float, run_id: str | None
) -> StoredEvent:
    try:
        return StoredEvent(seq, name, decode(text), timestamp, run_id, FORMS[form])
    except Exception as error:
        raise StoreError(f"{path!r}: event {seq} is damaged and cannot be read") from error


class Speed:
    """Waits as long as the gaps between recorded events were, divided by a factor.

    Each event has a time of its own on one time line, so that the time that handlers take adds up
    to no drift.
    """

    def __init__(self, factor: float) -> None:
        if not arguments.number("speed", factor, (int, float)) > 0:
            raise ValueError(f"speed must be more than 0, not {factor!r}")
        self._factor = factor
        self._due: float | None = None
        self._last = 0.0

    async def wait_for(self, timestamp: float) -> None:
        """Wait until an event is due."""
        loop = asyncio.get_running_loop()
        if self._due is None:
            self._due = loop.time()
        else:
            # A clock that was set back makes no gap.
            self._due += max(timestamp - self._last, 0.0) / self._factor
        self._last = timestamp
        delay = self._due - loop.time()
        if delay > 0:
            await asyncio.sleep(delay)


async def replay(
    store: EventStore,
    bus: Bus,
    found: Iterator[StoredEvent],
    consumer: str | None,
    pace: Speed | None,
    auto_ack: bool,
    reports: Reports,
) -> int:
    """Deliver events to a bus, see ``EventStore.replay``."""
    names = EventBus()
    delivered = 0
    for event in found:
        try:
            names.has_handlers(event.name)
        except ValueError:
            # Only published objects can have such a name.
            if reports.due("name"):
                reports.log(
                    logging.WARNING,
                    "Event %d is not replayed, because no bus takes its name %r",
                    event.seq,
                    event.name,
                )
            continue
        if pace is not None:
            await pace.wait_for(event.timestamp)
        if getattr(bus, "closed", False) is True:
            raise RuntimeError(f"{bus!r} is closed, and event {event.seq} is not delivered")
        current = Delivery(store.path, event.name, event.payload)
        token = delivery.set(current)
        try:
            await bus.emit_async(event.name, event.payload)
        finally:
            current.over = True
            delivery.reset(token)
        delivered += 1
        if auto_ack and consumer is not None:
            await store.ack_async(consumer, event.seq)
    return delivered
