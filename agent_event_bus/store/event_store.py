"""EventStore: the durable log of events."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, Literal

from agent_event_bus.store import arguments, ledger, replay
from agent_event_bus.store.database import Database, Row, last_seq
from agent_event_bus.store.errors import StoreClosedError, StoreError
from agent_event_bus.store.jsonl import export_jsonl, import_jsonl
from agent_event_bus.store.process import register
from agent_event_bus.store.prune import prune
from agent_event_bus.store.recorder import Capture, Redact, subscribe
from agent_event_bus.store.reports import Reports
from agent_event_bus.store.verify import verify_file
from agent_event_bus.store.writer import POLICIES, Writer

if TYPE_CHECKING:
    from enum import Enum
    from types import TracebackType
    from typing import Union

    from typing_extensions import Self

    from agent_event_bus import EventBus, EventKey, Subscription
    from agent_event_bus.store.events import StoredEvent

    Name = Union[str, Enum, EventKey[Any]]

__all__ = ["EventStore"]

STATS_SECONDS = 0.5
# Seconds that an emission waits at most to be written with sync="process".
PATIENCE = 0.05


class EventStore:
    """A durable, append-only log of events in one SQLite file, see docs/store.md.

    All methods may be called in any thread, and several stores, also of several processes, may
    have the same file open.

    Args:
        path: The file; made if it is not there, in a directory that is.
        sync: ``"each"``: ``append`` returns when the event is on the disk. ``"process"``: when it
            is written, which outlives the process but not the machine. ``"batch"``: it only queues
            the event, and a thread writes what has come together within 50 ms.
        redact: Called as ``redact(name, payload)`` before anything is written, in the thread that
            emits; what it returns is written instead of the payload, which it must not change. If
            it raises an ``Exception``, the event is written without a payload.
        max_queue: How many events that nobody waits for may be queued.
        overflow: What happens to one that finds the queue full: ``"drop_oldest"`` gives up the
            oldest one, ``"drop_newest"`` this one, ``"block"`` waits for room.

    Raises:
        StoreError: The file cannot be opened, made or written, or is no store.
        TypeError: An argument is of the wrong type.
        ValueError: ``sync`` or ``overflow`` is unknown, ``max_queue`` is less than 1, or the path
            is ``":memory:"``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sync: Literal["each", "process", "batch"] = "batch",
        redact: Redact | None = None,
        max_queue: int = 100_000,
        overflow: Literal["drop_oldest", "drop_newest", "block"] = "drop_oldest",
    ) -> None:
        if sync not in ("each", "process", "batch"):
            raise ValueError(f"sync must be 'each', 'process' or 'batch', not {sync!r}")
        if overflow not in POLICIES:
            raise ValueError(f"overflow must be one of {', '.join(POLICIES)}, not {overflow!r}")
        if arguments.number("max_queue", max_queue) < 1:
            raise ValueError(f"max_queue must be at least 1, not {max_queue!r}")
        self._capture = Capture(redact)
        self._redacts = redact is not None
        self._reports = Reports()
        self._sync = sync
        self._closed = False
        self._database = Database(path)
        self._writer = Writer(self._database, max_queue, overflow)
        register(self._writer)

    @property
    def path(self) -> str:
        """The absolute path of the file, that which a link leads to."""
        return self._database.path

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<EventStore {self.path!r}{state}>"

    # Writing

    def append(
        self,
        name: Name,
        payload: object = None,
        *,
        run_id: str | None = None,
        timestamp: float | None = None,
    ) -> int | None:
        """Append an event. The payload is captured here: later changes to it are not recorded.

        Args:
            name: The event name, as for ``emit``.
            payload: Any object; docs/store.md says how it is written.
            run_id: The run that the event belongs to.
            timestamp: When it happened: seconds since the epoch, None for now.

        Returns:
            With ``sync="each"`` the number of the event, which is on the disk, and with
            ``"process"`` that of one which is written; with ``"batch"`` None: the event is queued.

        Raises:
            ValueError: The name is none of an event, or the timestamp is not finite.
            TypeError: An argument is of the wrong type.
            StoreError: The disk or the file refuses. With ``"batch"`` and
                ``overflow="block"``, that is why there is no room. The event is not stored.
            StoreClosedError: The store is closed.
        """
        row = self._row(name, payload, run_id, timestamp)
        if self._sync == "batch":
            self._writer.put(row)
            return None
        return self._database.insert([row], durable=self._sync == "each")[0]

    async def append_async(
        self,
        name: Name,
        payload: object = None,
        *,
        run_id: str | None = None,
        timestamp: float | None = None,
    ) -> int:
        """Append an event, and wait until it is on the disk, together with others.

        The payload is captured when this is first awaited. A cancelled call may have stored the
        event, or may still do so.

        Args:
            name: The event name, as for ``emit``.
            payload: Any object; docs/store.md says how it is written.
            run_id: The run that the event belongs to.
            timestamp: When it happened: seconds since the epoch, None for now.

        Returns:
            The number of the event.

        Raises:
            ValueError: The name is none of an event, or the timestamp is not finite.
            TypeError: An argument is of the wrong type.
            StoreError: The disk or the file refuses; the event is not stored.
            StoreClosedError: The store is closed.
        """
        row = self._row(name, payload, run_id, timestamp)
        number: int = await self._writer.submit(row)
        return number

    def _row(self, name: Name, payload: object, run_id: str | None, timestamp: float | None) -> Row:
        """Check what `append` was given, and return what is written of it."""
        return self._capture.row(
            self._capture.name(name),
            payload,
            arguments.run_id(run_id),
            arguments.timestamp(timestamp),
        )

    def record(self, name: str, payload: object, timestamp: float | None = None) -> None:
        """Append an event of a bus, whose ``run_id`` is that of the payload, and raise nothing.

        What ``attach`` calls for each event. What cannot be stored is counted in
        ``stats()["dropped"]`` and logged.

        Args:
            name: The event name; anything that a bus emits.
            payload: Any object. When it is a mapping with a ``"run_id"``, string, int or UUID, that
                is the run of the event.
            timestamp: When it happened: seconds since the epoch, None for now.
        """
        try:
            when = arguments.timestamp(timestamp)
            row = self._capture.row(name, payload, None, when, run_id_of_payload=True)
            if self._sync == "each":
                self._database.insert([row])
            elif self._sync == "batch" or not self._written(row):
                self._writer.put(row)
        except StoreClosedError:
            self._writer.count_dropped()
            if self._reports.due("closed"):
                self._reports.log(
                    logging.WARNING,
                    "Event %r came after the store %s was closed and is not recorded",
                    name,
                    self.path,
                )
        except Exception as error:
            self._writer.count_dropped()
            # Only the errors of the store itself are known to have no contents of the payload.
            said = error if isinstance(error, StoreError) else type(error).__name__
            if self._reports.due("not recorded"):
                self._reports.log(logging.ERROR, "Event %r is not recorded: %s", name, said)

    def _written(self, row: Row) -> bool:
        """Write an event at once, unless others are in front of it or in the way."""
        return self._writer.is_settled() and self._database.try_insert(row, PATIENCE)

    def attach(self, bus: EventBus, key: Any = "*") -> Subscription:
        """Record every event of a bus that matches a key.

        The recorder runs before all other handlers, so that they cannot change what it records,
        and never raises. An event has the time at which it was emitted, and the ``run_id`` of its
        payload when that is a mapping which has one. What ``replay`` of this store delivers is not
        recorded again.

        Args:
            bus: The bus; one with ``async_only``, too.
            key: An event name, a pattern, a class, or a list or tuple of these.

        Returns:
            The subscription; cancelling it ends the recording.

        Raises:
            ValueError: The key is malformed.
            TypeError: The key is neither string nor class.
            RuntimeError: The bus is closed.
        """
        return subscribe(self, bus, key)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything that was appended before is on the disk.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            Whether all of it is. False at once where waiting would have no end: in a log handler
            that the store itself has called, and in a signal handler or a finaliser in the middle
            of another call.

        Raises:
            StoreError: An attempt to write failed. What is queued stays queued.
            StoreClosedError: The store is closed.
        """
        if timeout is not None:
            timeout = min(arguments.seconds("timeout", timeout), TIMEOUT_MAX)
        if self._closed:
            raise StoreClosedError(f"the store {self.path!r} is closed")
        return self._writer.flush(timeout)

    # Reading

    def read(
        self,
        after: int = 0,
        key: Any = None,
        run_id: str | None = None,
        limit: int | None = None,
    ) -> Iterator[StoredEvent]:
        """Return an iterator of the events on the disk, up to the last one there is now.

        They are read in pages: others may write in the meantime, and nothing is held while the
        iterator is paused.

        Args:
            after: Only events with a higher number.
            key: Only events whose name matches this event name or pattern, or one of a list.
            run_id: Only events of this run.
            limit: At most so many events.

        Raises:
            ValueError: A malformed key, or a negative number.
            TypeError: An argument is of the wrong type; a class is no key here.
            StoreError: The file cannot be read; also from the iterator, for a damaged event.
            StoreClosedError: The store is closed; also from the iterator.
        """
        return self._events(after, key, run_id, limit, None)

    def pending(
        self,
        consumer: str,
        after: int = 0,
        key: Any = None,
        run_id: str | None = None,
        limit: int | None = None,
    ) -> Iterator[StoredEvent]:
        """Return an iterator of the events that a consumer has not acknowledged, in order.

        A consumer is known from the first call that names it, and has then acknowledged nothing.

        Args:
            consumer: The name of the consumer.
            after: Only events with a higher number.
            key: As for ``read``.
            run_id: Only events of this run.
            limit: At most so many events.

        Raises:
            ValueError: A malformed key, a negative number, or an empty consumer.
            TypeError: An argument is of the wrong type.
            StoreError: The file refuses.
            StoreClosedError: The store is closed.
        """
        consumer = arguments.consumer(consumer)
        found = self._events(after, key, run_id, limit, consumer)
        if not self._knows(consumer):
            self._know(consumer)
        return found

    def _events(
        self, after: int, key: Any, run_id: str | None, limit: int | None, consumer: str | None
    ) -> Iterator[StoredEvent]:
        after = arguments.count("after", after)
        run_id = arguments.run_id(run_id)
        if run_id is not None:
            run_id = arguments.storable(run_id)
        if limit is not None:
            arguments.count("limit", limit)
        return replay.events(
            self._database, after=after, key=key, run_id=run_id, limit=limit, consumer=consumer
        )

    async def replay(
        self,
        bus: replay.Bus,
        after: int = 0,
        key: Any = None,
        run_id: str | None = None,
        consumer: str | None = None,
        speed: float | None = None,
        *,
        auto_ack: bool = False,
    ) -> int:
        """Deliver the events on the disk to a bus, one after another, with ``emit_async``.

        It ends with the last event that there is at the call. A bus that this store records does
        not record these events again; what handlers emit in turn is new, and recorded.

        Args:
            bus: Anything with ``emit_async(name, payload)``.
            after: Only events with a higher number.
            key: As for ``read``.
            run_id: Only events of this run.
            consumer: Only events that this consumer has not acknowledged.
            speed: 1.0 keeps the time between events, 2.0 halves it; None delivers without waiting.
            auto_ack: Acknowledge each event for the consumer when all its handlers are done.

        Returns:
            How many events were delivered.

        Raises:
            ValueError: A malformed key, a negative number, a speed that is not more than 0, or
                ``auto_ack`` without a consumer.
            TypeError: An argument is of the wrong type.
            StoreError: The file refuses, or an event is damaged.
            StoreClosedError: The store is closed.
            RuntimeError: The bus is closed.
            Exception: What ``emit_async`` raises, of a guard say, ends the replay.
        """
        pace = None if speed is None else replay.Speed(speed)
        if consumer is not None:
            consumer = arguments.consumer(consumer)
        elif auto_ack:
            raise ValueError("auto_ack needs a consumer")
        found = self._events(after, key, run_id, None, consumer)
        if consumer is not None and not self._knows(consumer):
            # In a thread: the loop should not wait while another process writes.
            await asyncio.get_running_loop().run_in_executor(None, self._know, consumer)
        return await replay.replay(self, bus, found, consumer, pace, auto_ack, self._reports)

    # Consumers

    def ack(self, consumer: str, seq: int) -> None:
        """Acknowledge one event for a consumer; on the disk when it returns. Twice is fine.

        Args:
            consumer: The name of the consumer.
            seq: The number of the event.

        Raises:
            ValueError: There is no event with such a number yet, or the consumer is empty.
            TypeError: An argument is of the wrong type.
            StoreError: The disk or the file refuses.
            StoreClosedError: The store is closed.
        """
        consumer = arguments.consumer(consumer)
        arguments.number("seq", seq)
        with self._database.transaction() as connection:
            (error,) = ledger.acknowledge(connection, consumer, [seq])
        if error is not None:
            raise error

    async def ack_async(self, consumer: str, seq: int) -> None:
        """Acknowledge one event as ``ack`` does, in one commit with what else is to be written.

        Args:
            consumer: The name of the consumer.
            seq: The number of the event.

        Raises:
            ValueError: There is no event with such a number yet, or the consumer is empty.
            TypeError: An argument is of the wrong type.
            StoreError: The disk or the file refuses.
            StoreClosedError: The store is closed.
        """
        consumer = arguments.consumer(consumer)
        arguments.number("seq", seq)
        await self._writer.submit((consumer, seq))

    def ack_through(self, consumer: str, seq: int) -> None:
        """Acknowledge for a consumer all events up to one; on the disk when it returns.

        Args:
            consumer: The name of the consumer.
            seq: The number of the last event that is acknowledged; 0 for none.

        Raises:
            ValueError: There is no event with such a number yet, or the consumer is empty.
            TypeError: An argument is of the wrong type.
            StoreError: The disk or the file refuses.
            StoreClosedError: The store is closed.
        """
        consumer = arguments.consumer(consumer)
        arguments.number("seq", seq)
        with self._database.transaction() as connection:
            ledger.acknowledge_through(connection, consumer, seq)

    def _knows(self, consumer: str) -> bool:
        return bool(self._database.query("SELECT 1 FROM consumers WHERE name = ?", (consumer,)))

    def _know(self, consumer: str) -> None:
        with self._database.transaction() as connection:
            ledger.know(connection, consumer)

    # Upkeep

    def prune(
        self,
        before_seq: int | None = None,
        older_than: float | None = None,
        keep_last: int | None = None,
    ) -> int:
        """Delete old events: those that meet all the conditions given.

        What a known consumer has not acknowledged is kept. Numbers are not given again. The space
        in the file is used again; the file does not shrink.

        Args:
            before_seq: Only events with a lower number.
            older_than: Only events with a timestamp of more than so many seconds ago.
            keep_last: Not the last so many events.

        Returns:
            How many events were deleted.

        Raises:
            ValueError: No condition is given, or a number is negative.
            TypeError: An argument is of the wrong type.
            StoreError: The disk or the file refuses.
            StoreClosedError: The store is closed.
        """
        return prune(self._database, before_seq, older_than, keep_last)

    def export_jsonl(self, path: str | os.PathLike[str]) -> int:
        """Write every event that is on the disk to a file, one JSON object a line.

        The file is whole or not there: it gets its name when all of it is on the disk.

        Args:
            path: The file; one that is there is replaced.

        Returns:
            How many events it has.

        Raises:
            ValueError: It is the file of the store itself.
            OSError: The file cannot be written; nothing has changed then.
            StoreError: The store cannot be read.
            StoreClosedError: The store is closed.
        """
        return export_jsonl(self._database, path)

    def import_jsonl(self, path: str | os.PathLike[str]) -> int:
        """Append the events of a file, all of them in one commit or none.

        Args:
            path: A file of ``export_jsonl``, or recorded runs: a line has the keys ``"event"`` and
                ``"payload"``. The events get new numbers, in the order of the file.

        Returns:
            How many events were appended.

        Raises:
            ValueError: A line is malformed; the message names the file and the line.
            OSError: The file cannot be read.
            StoreError: The disk or the file of the store refuses.
            StoreClosedError: The store is closed.
        """
        return import_jsonl(self._database, path, self._capture.row if self._redacts else None)

    def verify(self) -> list[str]:
        """Check the file, every event and the ledger.

        Returns:
            What is wrong, a sentence each, without contents of payloads; empty when all is sound.

        Raises:
            StoreClosedError: The store is closed.
        """
        if self._closed:
            raise StoreClosedError(f"the store {self.path!r} is closed")
        # By a connection of its own: it takes its time, and nobody should wait for it.
        return verify_file(self.path)

    def stats(self) -> dict[str, int]:
        """Return counts. It waits for a commit that is in progress, half a second at most.

        Returns:
            ``stored``: events in the file. ``uncommitted``: events of this object that are queued
            or being written. ``dropped``: events that this object could not store and told nobody
            of but the log. ``last_seq``: the highest number that was given. ``size_bytes``: of the
            file and its write-ahead log.

        Raises:
            StoreError: The file cannot be read.
            StoreClosedError: The store is closed.
        """
        # A commit holds this lock until its events are no longer counted as uncommitted. One that
        # takes longer waits for another process or for the disk, and has not got that far.
        lock = self._database.write_lock
        held = lock.acquire(timeout=STATS_SECONDS)
        try:
            with self._database.reading() as connection:
                uncommitted, dropped = self._writer.counts()
                (stored,) = connection.execute("SELECT count(*) FROM events").fetchone()
                last = last_seq(connection)
        finally:
            if held:
                lock.release()
        return {
            "stored": stored,
            "uncommitted": uncommitted,
            "dropped": dropped,
            "last_seq": last,
            "size_bytes": self._database.size(),
        }

    def close(self) -> None:
        """Write what is queued, and close. Closing again does nothing.

        Raises:
            StoreError: Events could not be written and are lost, or with ``"process"`` not brought
                to the disk; the store is closed all the same. Or a signal handler or a finaliser
                has come in the middle of another call to the store in the same thread; it is not
                closed then.
        """
        if self._writer.is_interrupted():
            raise StoreError(f"{self.path!r}: closed in the middle of a call of the same thread")
        # A log handler that the thread calls must not wait for who is waiting for the thread.
        if not self._writer.end_lock.acquire(blocking=not self._writer.is_writing_here()):
            return
        try:
            if self._closed:
                return
            self._closed = True
            try:
                self._writer.close()
                self._database.sync()
            except StoreError:
                self._database.close()
                raise
            except BaseException:
                self._closed = False  # interrupted: nothing is lost, and it may be called again
                raise
            self._database.close()
        finally:
            self._writer.end_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
