"""What a worker bus has in its store: outbound events until they are acknowledged.

The store has the truth: an event is there from its commit on, and the ledger of the bus's consumer
has what was acknowledged. This file keeps what the process knows of it: which events are open, as
the objects that were published, so that they can be acknowledged by these.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent_event_bus.store import EventStore, StoreError
from agent_event_bus.store.encoding import encode
from agent_event_bus.worker.events import Event, NotSerializableError, parse_event
from agent_event_bus.worker.queue import Entry

__all__ = ["Outbox", "database_of"]

SWEEP_AFTER = 1000
"""How many acknowledgements there may be before the ledger is looked after, see Outbox.sweep."""


class Outbox:
    """The open events of one bus, and the store that they lie in.

    Args:
        store: The store, which whoever gave it closes; None with a path.
        path: Where to open a store, which `close` closes and the next use opens again.
        name: The name of the bus: events are stored as "NAME.outbound", for the consumer NAME.
        logger: Where to log what cannot be read back.
    """

    def __init__(
        self, store: EventStore | None, path: Path | None, name: str, logger: logging.Logger
    ) -> None:
        self._given = store
        self._path = path
        self._opened: EventStore | None = None
        self._consumer = name
        self._event_name = f"{name}.outbound"
        self._logger = logger
        self._open: dict[int, Entry] = {}
        self._by_object: dict[int, list[Entry]] = {}  # by the id of the event, which they hold
        self._lock = threading.RLock()  # acknowledgements may come in any thread
        self._postponed: list[Entry] = []  # acknowledgements for the next `pending`
        self._unswept = 0
        self._highest = 0  # the highest number of an event that this object has stored
        self._forgotten: set[int] | None = None  # what is acknowledged while `pending` reads

    @property
    def store(self) -> EventStore:
        """The store, opened if need be."""
        if self._given is not None:
            return self._given
        with self._lock:
            if self._opened is None:
                assert self._path is not None
                try:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    said = error.strerror or type(error).__name__
                    raise StoreError(f"{str(self._path)!r}: no folder for it: {said}") from error
                self._opened = EventStore(self._path)
            return self._opened

    def introduce(self) -> None:
        """Open the store, and have it keep what the bus has not acknowledged.

        Raises:
            StoreError: It refuses.
        """
        self.store.pending(self._consumer)

    def close(self) -> None:
        """Close the store if it was opened here."""
        with self._lock:
            store, self._opened = self._opened, None
        if store is not None:
            store.close()

    # Events on their way

    async def append(self, event: Event) -> Entry:
        """Store an event as it is now, and return the entry for it once it is durable.

        Raises:
            NotSerializableError: Something in it would not come back as it is.
            StoreError: The store has not taken it.
        """
        payload = _payload_of(event)
        session: object = event.session_id  # whatever a caller has made of it
        run_id = session if isinstance(session, str) else None
        seq = await self.store.append_async(self._event_name, payload, run_id=run_id)
        with self._lock:
            self._highest = max(self._highest, seq)
            return self._add(Entry(event, seq), seq)

    def _add(self, entry: Entry, seq: int) -> Entry:
        """Have an entry found by its number and by its event. The lock is held."""
        self._open[seq] = entry
        self._by_object.setdefault(id(entry.event), []).append(entry)
        return entry

    def _remove(self, seq: int) -> None:
        """Undo that. The lock is held."""
        entry = self._open.pop(seq, None)
        if entry is None:
            return
        same = self._by_object[id(entry.event)]
        same.remove(entry)
        if not same:
            del self._by_object[id(entry.event)]

    # Acknowledging

    def claim(self, event: Event) -> Entry | None:
        """Choose the entry that an acknowledgement of this event is for.

        The object itself comes first and then an equal one; of several the oldest. None when no
        such event was delivered that is still open.
        """
        with self._lock:
            same = list(self._by_object.get(id(event), ()))
        for entry in same:
            if self._claimed(entry):
                return entry
        with self._lock:
            # What was recovered came later than what was published before, and is older.
            entries = [self._open[seq] for seq in sorted(self._open)]
        for entry in entries:
            # Outside of the lock, because a class may have an __eq__ of its own.
            if entry.delivered and entry.event == event and self._claimed(entry):
                return entry
        return None

    def _claimed(self, entry: Entry) -> bool:
        with self._lock:
            if entry.acked or not entry.delivered:
                return False
            entry.acked = True
            return True

    def acknowledge(self, entry: Entry, store: EventStore | None = None) -> None:
        """Make the acknowledgement of a chosen entry durable."""
        assert entry.seq is not None
        store = self.store if store is None else store
        try:
            store.ack(self._consumer, entry.seq)
        except BaseException:
            entry.acked = False
            raise
        self._forget(entry.seq)

    async def acknowledge_async(self, entry: Entry) -> None:
        """Do the same and leave the loop to others meanwhile; cancelled, it is to be postponed."""
        assert entry.seq is not None
        try:
            await self.store.ack_async(self._consumer, entry.seq)
        except Exception:
            entry.acked = False
            raise
        self._forget(entry.seq)

    def postpone(self, entry: Entry) -> None:
        """Leave an acknowledgement that may not have reached the disk to the next recovery."""
        self._postponed.append(entry)

    def _forget(self, seq: int) -> None:
        with self._lock:
            if self._forgotten is not None:
                self._forgotten.add(seq)
            self._remove(seq)
            self._unswept += 1

    # Reading back

    async def pending(self) -> list[tuple[int, Event]]:
        """Read what is not acknowledged, in a thread: it takes as long as the disk does."""
        self._forgotten = set()
        postponed, self._postponed = self._postponed, []
        try:
            # The store as it is now: cancelled, the thread goes on, and must not open it again.
            return await asyncio.to_thread(self._read, self.store, postponed)
        except BaseException:
            self._forgotten = None
            self._postponed += postponed  # to do it twice is fine
            raise

    def _read(self, store: EventStore, postponed: list[Entry]) -> list[tuple[int, Event]]:
        """Do it, after the acknowledgements that were postponed.

        What cannot be read back as an event is logged, left out, and kept in the store.
        """
        with suppress(StoreError):  # of a disk that refuses: then nothing is on its way any more
            # What was on its way to the disk when a loop ended is nowhere else.
            store.flush()
        for entry in postponed:
            try:
                self.acknowledge(entry, store)
            except StoreError as error:
                self._logger.error("Event %d could not be acknowledged: %s", entry.seq, error)
        self._sweep(store)
        found: list[tuple[int, Event]] = []
        for stored in store.pending(self._consumer, key=self._event_name):
            try:
                if stored.form != "value":
                    raise ValueError(f"its payload was stored in the form {stored.form!r}")
                event_class, values = parse_event(stored.payload)
            except ValueError as error:
                self._report_unreadable(stored.seq, str(error))
                continue
            try:
                found.append((stored.seq, event_class(**values)))
            except Exception as error:
                # The text of such an error may have contents of the event.
                said = f"{event_class.event_type} raised {type(error).__name__}"
                self._report_unreadable(stored.seq, said)
        return found

    def _report_unreadable(self, seq: int, reason: str) -> None:
        self._logger.error("Stored event %d cannot be read back, and is kept: %s", seq, reason)

    def entries_for(self, found: Iterable[tuple[int, Event]], queued: set[int]) -> list[Entry]:
        """Return entries for what was read, but for those that are queued or acknowledged."""
        entries = []
        with self._lock:
            forgotten, self._forgotten = self._forgotten or set(), None
            for seq, event in found:
                entry = self._open.get(seq)
                if seq in forgotten or seq in queued or (entry is not None and entry.acked):
                    continue
                if entry is None:
                    entry = self._add(Entry(event, seq, delivered=True), seq)
                entries.append(entry)
        return entries

    def needs_sweep(self) -> bool:
        """Whether so much was acknowledged that `sweep` is due."""
        return self._unswept >= SWEEP_AFTER

    async def sweep(self) -> None:
        """Have the consumer done with all that is before its own first open event.

        For a store that has events of others, too: the ledger would remember every acknowledgement
        after the first of these one by one, and nothing after it could ever be pruned.
        """
        await asyncio.to_thread(self._sweep, self.store)

    def _sweep(self, store: EventStore) -> None:
        self._unswept = 0
        try:
            self._acknowledge_foreign(store)
        except StoreError as error:
            self._logger.warning("The ledger of the store could not be tidied up: %s", error)

    def _acknowledge_foreign(self, store: EventStore) -> None:
        first = next(store.pending(self._consumer, limit=1), None)
        if first is None or first.name == self._event_name:
            return
        # Asked for before: what comes after it is for the next time. To count a large log takes a
        # while, so that is done only where nothing else is known.
        last = self._highest or store.stats()["last_seq"]
        own = next(store.pending(self._consumer, key=self._event_name, limit=1), None)
        store.ack_through(self._consumer, last if own is None else own.seq - 1)


def _payload_of(event: Event) -> dict[str, Any]:
    """Return what is stored of an event.

    Raises:
        NotSerializableError: Something in it would not come back as it is.
    """
    payload = event.to_dict()
    _, form = encode(payload)
    if form:
        raise NotSerializableError(
            f"{type(event).__name__} has something in it that cannot be serialised,"
            " and so cannot be made durable"
        )
    return payload


def database_of(context: Any) -> Path | None:
    """Return the file that a context names for the events, None when it names none.

    Raises:
        TypeError: ``context.config.event_path`` is no path.
    """
    given: object = getattr(getattr(context, "config", None), "event_path", None)
    if given is None or given == "":
        return None
    path = Path(given)  # type: ignore[arg-type]  # which says so if it is no path
    if path.suffix == ".db" and not path.is_dir():
        return path
    return path / "events.db"
