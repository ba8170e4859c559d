"""The handler that writes what a router or a bus emits to a durable store.

The store, and with it sqlite3, is imported when the first handler is made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Callable, Literal, TypedDict

    from typing_extensions import Self, Unpack

    from agent_event_bus import EventKey
    from agent_event_bus._types import AnyList, Text
    from agent_event_bus.store import EventStore
    from agent_event_bus.store.replay import Bus

    class StoreOptions(TypedDict, total=False):
        """Options of ``EventStore``."""

        sync: Literal["each", "process", "batch"]
        redact: Callable[[str, Any], Any] | None
        max_queue: int
        overflow: Literal["drop_oldest", "drop_newest", "block"]

    class ReplayOptions(TypedDict, total=False):
        """Options of ``EventStore.replay``."""

        after: int
        key: Text | EventKey[Any] | AnyList | None
        run_id: str | None
        consumer: str | None
        speed: float | None
        auto_ack: bool


__all__ = ["PersistenceHandler"]


class PersistenceHandler:
    """A handler of every event that writes each to an ``EventStore``.

    ``router.subscribe_all(handler)``, ``router.register_wildcard(handler)`` and ``bus.on("*",
    handler)`` all work, and so do patterns. A payload is recorded as it is when the handler is
    called: on a router that is before all other handlers; on a bus it takes
    ``priority=handler.FIRST``. What cannot be recorded is logged and counted by the store, and
    never raised. docs/telemetry.md and docs/store.md have more.

    ``with PersistenceHandler(path) as handler:`` closes the store at its end.

    Args:
        path_or_store: Where the store is, or will be: the handler opens it, and owns it. Or an
            ``EventStore``, which belongs to who has made it.
        **options: Those of ``EventStore``, with a path; ``sync`` is ``"process"`` by default, so
            that what was emitted survives the process, however that ends.

    Raises:
        TypeError: It is neither path nor store, or there are options with a store or unknown ones.
        ValueError: A bad option.
        StoreError: The store cannot be opened.
    """

    __slots__ = ("__weakref__", "_owns", "_record", "_store")

    FIRST = -(1 << 63)
    """The lowest priority there is, for ``bus.on("*", handler, priority=handler.FIRST)``.

    The recorder of ``EventStore.attach`` stands there, too.
    """

    def __init__(
        self,
        path_or_store: str | os.PathLike[str] | EventStore,
        **options: Unpack[StoreOptions],
    ) -> None:
        from agent_event_bus.store import EventStore
        from agent_event_bus.store.recorder import Recorder

        given: Any = path_or_store
        self._owns = not isinstance(given, EventStore)
        if self._owns:
            if not isinstance(given, (str, os.PathLike)):
                kind = type(given).__name__
                raise TypeError(f"a PersistenceHandler needs a path or an EventStore, not {kind}")
            options.setdefault("sync", "process")
            given = EventStore(given, **options)
        elif options:
            raise TypeError(f"the store that is given has options already: {', '.join(options)}")
        self._store: EventStore = given
        self._record = Recorder(self._store).record

    @property
    def store(self) -> EventStore:
        """The store that it writes to."""
        return self._store

    def __call__(self, event_name: str, payload: object) -> None:
        """Record an event, unless it is the one that the store is just replaying.

        Args:
            event_name: The event name.
            payload: Any object. When it is a mapping with a ``"run_id"``, string, int or UUID, that
                is the run of the event.
        """
        self._record(event_name, payload)

    async def replay(self, bus: Bus, **options: Unpack[ReplayOptions]) -> int:
        """Deliver what is on the disk to a router or a bus, in order, with ``emit_async``.

        A router that a handler of the same store records does not record it again.

        Args:
            bus: The router or bus.
            **options: Those of ``EventStore.replay``: ``after``, ``key``, ``run_id``, ``consumer``,
                ``speed``, ``auto_ack``.

        Returns:
            How many events were delivered.

        Raises:
            TypeError, ValueError, StoreError: As ``EventStore.replay`` does.
        """
        return await self._store.replay(bus, **options)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything that was recorded before is on the disk.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            Whether all of it is.

        Raises:
            StoreError: An attempt to write failed, or the store is closed.
        """
        return self._store.flush(timeout)

    def close(self) -> None:
        """Write what is queued and close the store, if the handler owns it; else do nothing.

        Closing again does nothing. An event that comes later is logged and counted, not recorded.

        Raises:
            StoreError: Events could not be written and are lost; the store is closed all the same.
        """
        if self._owns:
            self._store.close()

    def __enter__(self) -> Self:
        """Return the handler."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Tell where the store is."""
        return f"{type(self).__name__}({self._store.path!r})"
