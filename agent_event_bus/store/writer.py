"""The queue, and the thread that commits what is in it in groups.

Emitting only puts an event into the queue. The thread takes what has come together, commits it as
one transaction, and tells those who wait. It looks at the queue every 50 ms, and at once when
somebody waits for it, or when the queue has enough for a group.

Who awaits an event does not wake the thread by that, but asks the loop to do so in its next turn:
then all tasks that are ready have put their events in, and the loop has nothing to do while the
thread works. They would take the interpreter lock from each other otherwise.

The thread is no daemon: the interpreter waits for it when it ends, and it ends when there is
nothing left to do and nobody left that emits, but for daemons. It holds the queue and the database,
not the store, so a store that is dropped is still written.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, cast

from agent_event_bus.store import ledger
from agent_event_bus.store.database import Database, Row, insert
from agent_event_bus.store.errors import StoreClosedError, StoreError
from agent_event_bus.store.queue import Item, Queue, is_event
from agent_event_bus.store.reports import Reports
from agent_event_bus.store.waiters import resolve, same

__all__ = ["POLICIES", "Writer"]

POLICIES = ("drop_oldest", "drop_newest", "block")
# Seconds that an event waits for others at most, events that make a group without waiting, and the
# most that a group has: more have come together when the disk, or a busy emitter, was slow.
GROUP_SECONDS = 0.05
GROUP = 1000
LARGEST_GROUP = 4096
# Characters of payloads that end a group, so that large ones make no huge transaction.
GROUP_CHARACTERS = 16_000_000
# Seconds between two attempts while the disk refuses and nobody waits.
RETRY_SECONDS = 0.5
# Seconds that the thread lives on without work, and seconds it tries at the end of the program.
LINGER_SECONDS = 1.0
LAST_SECONDS = 5.0
# The name of the thread.
THREAD = "agent_event_bus.store"

Report = tuple[Any, ...]
"""What is to be logged: the level, the message, and its arguments."""


def is_held_here(lock: threading.RLock) -> bool:
    """Whether this thread holds a lock: then a signal handler or a finaliser came in between."""
    try:
        threading.Condition(lock).notify(0)
    except RuntimeError:
        return False
    return True


def is_over() -> bool:
    """Whether the program ends: the main thread has, and no other is left that is waited for."""
    return not threading.main_thread().is_alive() and all(
        thread.daemon or thread.name == THREAD or thread is threading.main_thread()
        for thread in threading.enumerate()
    )


class Writer:
    """Commits events and acknowledgements in groups.

    Args:
        database: What to write to.
        max_queue: How many events that nobody waits for may be queued.
        overflow: What becomes of one that finds the queue full.
    """

    def __init__(self, database: Database, max_queue: int, overflow: str) -> None:
        self.database = database
        self._max_queue = max_queue
        self._overflow = overflow
        self._reports = Reports()
        self._closing = False
        self.start_over()

    def start_over(self) -> None:
        """Begin with an empty queue and no thread; also in a forked child."""
        # Re-entrant: a finaliser or a signal handler that emits may come in the middle.
        self.lock = threading.RLock()
        self._room = threading.Condition(self.lock)
        self._queue = Queue()
        self._dropped = 0
        self._reported = 0  # of the dropped, those that the log has told of
        self._failing = False
        self._exiting = False  # a child of a program that ends does not end with it
        self._thread: threading.Thread | None = None
        # Released to wake the thread. Unlike an Event, this cannot deadlock with a signal handler.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._turn = threading.RLock()  # to take a group and commit it
        self.end_lock = threading.RLock()  # for the store, to close once
        self._asked: object = None  # the loop that will wake the thread in its next turn

    # Putting something in

    def put(self, row: Row) -> None:
        """Queue an event that nobody waits for.

        Raises:
            StoreError: The queue is full, the policy is to block, and the disk refuses.
            StoreClosedError: The store is closed.
        """
        lost = False
        with self.lock:
            self._check_open()
            events = self._queue.events
            if len(events) >= self._max_queue:
                lost = not self._make_room()
            if lost:
                self._dropped += 1
            else:
                self._queue.put(row, None)
            if self._thread is None:
                self._start()
            elif len(events) >= GROUP and not self._failing:
                self._rouse()  # while the disk refuses, each attempt would only take time
        if self._dropped != self._reported:
            self._report_dropped()
        if self._thread is None:
            self._drain()

    def submit(self, data: Row | tuple[str, int]) -> asyncio.Future[Any]:
        """Queue an event or an acknowledgement; return a future of the running loop for it.

        Raises:
            StoreClosedError: The store is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self.lock:
            self._check_open()
            self._queue.put(data, future)
            if self._thread is None:
                self._start()
        if self._thread is None:
            self._drain()
        elif self._asked is not loop:
            self._asked = loop
            loop.call_soon(self._in_next_turn)
        return future

    def _in_next_turn(self) -> None:
        self._asked = None
        self._rouse()

    def flush(self, timeout: float | None) -> bool:
        """Wait until everything that was queued before is durable; say whether it is.

        Raises:
            StoreError: The disk refuses. Events that nobody waits for stay queued.
        """
        if self.is_writing_here() or self.is_interrupted():
            return False  # it would wait for itself
        done: Future[None] = Future()
        with self.lock:
            if self._queue.is_settled() and self.database.is_synced:
                return True
            self._queue.put(None, done)
            if self._thread is None:
                self._start()
            self._rouse()
        if self._thread is None:
            self._drain()
        try:
            done.result(timeout)
        except (FutureTimeoutError, TimeoutError):
            done.cancel()
            return False
        return True

    def is_settled(self) -> bool:
        """Whether nothing is queued or being committed."""
        with self.lock:
            return self._queue.is_settled()

    def is_writing_here(self) -> bool:
        """Whether this is the thread that writes, which has called a log handler."""
        return threading.current_thread() is self._thread

    def is_interrupted(self) -> bool:
        """Whether this thread is in the middle of a call, and holds what the thread needs.

        Then a signal handler or a finaliser has come in between.
        """
        return any(map(is_held_here, (self.lock, self._turn, self.database.write_lock)))

    def _check_open(self) -> None:
        if self._closing:
            raise StoreClosedError(f"the store {self.database.path!r} is closed")

    def _make_room(self) -> bool:
        """Deal with a full queue; say whether there is room now. The lock is held."""
        if self._overflow == "drop_oldest":
            self._drop_oldest(1)
            return True
        if (
            self._overflow == "drop_newest"
            or self.is_writing_here()
            or is_held_here(self._turn)
            or is_held_here(self.database.write_lock)
        ):
            return False
        self._rouse()
        while len(self._queue.events) >= self._max_queue:
            if self._failing:
                raise StoreError(f"the queue of {self.database.path!r} is full and not written")
            if self._thread is None and not self._start():
                return False
            self._room.wait()
            self._check_open()
        return True

    def _drop_oldest(self, count: int) -> None:
        for _ in range(count):
            self._queue.events.popleft()
        self._dropped += count

    def _rouse(self) -> None:
        if self._wake.locked():  # otherwise it is awake, or about to be
            try:
                self._wake.release()
            except RuntimeError:
                return  # another thread was faster

    def _start(self) -> bool:
        """Start the thread, if one can be started. The lock is held."""
        if self._exiting or self._closing:
            return False  # nothing would wait for it
        thread = threading.Thread(target=self._run, name=THREAD, daemon=False)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # there are too many, or the interpreter ends
            self._thread = None
            return False
        except BaseException:  # interrupted
            if thread.ident is None:
                self._thread = None
            raise
        return True

    # The thread

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with self.lock:
                self._leave()

    def _leave(self) -> None:
        """Count on this thread no longer. The lock is held."""
        if self._thread is threading.current_thread():
            self._thread = None
            self._room.notify_all()  # who waits for room has to see to it

    def _work(self) -> None:
        idle_since = time.monotonic()
        while True:
            self._wake.acquire(timeout=RETRY_SECONDS if self._failing else GROUP_SECONDS)
            if self._queue:
                idle_since = time.monotonic()
            while self._commit_group() and threading.main_thread().is_alive():
                idle_since = time.monotonic()
            if is_over():
                self._exiting = True
            with self.lock:
                if self._closing or self._exiting:
                    # Whoever appends from now on commits by itself, so there is an end to it, also
                    # when daemon threads go on emitting.
                    self._leave()
                    break
                idle = time.monotonic() - idle_since > LINGER_SECONDS
                if idle and not self._queue:
                    self._leave()
                    return
        if not self._closing:
            self._finish()

    def _finish(self) -> None:
        """Write what is queued when the program ends, which waits for this, but not for ever."""
        end = time.monotonic() + LAST_SECONDS
        self._drain()
        while self._failing and self._queue and time.monotonic() < end:
            time.sleep(min(RETRY_SECONDS, LAST_SECONDS))
            self._drain()
        self._lose()

    def _drain(self) -> None:
        """Commit in the calling thread, where no thread can be started."""
        if self.is_interrupted():
            return  # a later event would overtake what the call has in hand; it is written next
        while self._commit_group():
            pass

    def _commit_group(self) -> bool:
        """Commit the next group; say whether another should follow at once."""
        said: list[Report] = []
        try:
            with self._turn:
                with self.lock:
                    group = self._queue.take(LARGEST_GROUP, GROUP_CHARACTERS)
                    left = bool(self._queue)
                    self._room.notify_all()
                if not group or not self._commit(group, said):
                    return False
        finally:
            # A log handler may use the store, so nothing is held here, and nothing is in hand.
            for report in said:
                self._reports.log(*report)
            if self._failing and self._dropped != self._reported:
                self._report_dropped()
        with self.lock:
            if self._closing or self._exiting or self._thread is None:
                return True
            # Fewer make no group of their own, unless somebody waits for them.
            return left or len(self._queue) >= GROUP

    def _commit(self, group: list[Item], said: list[Report]) -> bool:
        """Commit a group that was taken; say whether the disk took it, and add what is to log."""
        done = 0
        size = len(group)
        while done < len(group):
            part = group[done : done + size]
            try:
                # The lock is held until the count is right, for `counts`.
                with self.database.write_lock:
                    results = self._write(part)
                    with self.lock:
                        self._queue.settle(part)
                        recovered, self._failing = self._failing, False
            except Exception as error:
                if self._refused(error):
                    self._keep(group[done:], error, said)
                    return False
                if size > 1:
                    size = 1  # one of them cannot be written; the others can
                    continue
                self._give_up(part, error, said)
            except BaseException:
                interrupted = StoreError(f"{self.database.path!r}: interrupted")
                self._keep(group[done:], interrupted, said)
                raise
            else:
                resolve([(waiter, result) for (_, _, waiter), result in zip(part, results)])
                if recovered:
                    path = self.database.path
                    said.append((logging.WARNING, "Events are written to %s again", path))
            done += len(part)
        return True

    def _write(self, group: list[Item]) -> list[object]:
        """Write a group as one transaction; return a result for each, or an exception."""
        results: list[object] = [None] * len(group)
        events: list[int] = []
        rows: list[Row] = []
        acks: dict[str, list[tuple[int, int]]] = {}
        for index, (_, data, _) in enumerate(group):
            if is_event(data):
                events.append(index)
                rows.append(cast("Row", data))
            elif data is not None:
                consumer, seq = cast("tuple[str, int]", data)
                acks.setdefault(consumer, []).append((index, seq))
        if not rows and not acks:
            self.database.sync()
            return results
        if not acks:
            for index, number in zip(events, self.database.insert(rows)):
                results[index] = number
            return results
        with self.database.transaction() as connection:
            for index, number in zip(events, insert(connection, rows)):
                results[index] = number
            for consumer, entries in acks.items():
                errors = ledger.acknowledge(connection, consumer, [seq for _, seq in entries])
                for (index, _), error in zip(entries, errors):
                    results[index] = error
        return results

    # What goes wrong

    @staticmethod
    def _refused(error: Exception) -> bool:
        """Whether it is the disk or the file that refuses, not one event that cannot be written."""
        cause = error.__cause__ if isinstance(error, StoreError) else error
        if type(cause) is sqlite3.DatabaseError:  # damaged, or no database; its subclasses differ
            return True
        return cause is None or isinstance(cause, (sqlite3.OperationalError, MemoryError))

    def _keep(self, group: list[Item], error: Exception, said: list[Report]) -> None:
        """Queue again what nobody waits for, and tell all who wait that it failed."""
        with self.lock:
            told = self._queue.put_back(group)
            self._failing = True
            excess = len(self._queue.events) - self._max_queue
            if excess > 0 and self._overflow == "drop_newest":
                for _ in range(excess):
                    self._queue.events.pop()
                self._dropped += excess
            elif excess > 0 and self._overflow == "drop_oldest":
                self._drop_oldest(excess)
            waiting = len(self._queue)
            self._room.notify_all()
        resolve([(waiter, same(error)) for _, _, waiter in told])
        if self._reports.due("refused"):
            message = "Events cannot be written, and %d are waiting for another attempt: %s"
            said.append((logging.ERROR, message, waiting, error))

    def _give_up(self, group: list[Item], error: Exception, said: list[Report]) -> None:
        """Lose one event that cannot be written, whatever the state of the disk."""
        ((_, _, waiter),) = group
        with self.lock:
            self._queue.settle(group)
            if waiter is None:
                self._dropped += 1
                self._reported += 1
        # The text of such an error may have contents of the event.
        kind = type(error.__cause__ or error).__name__
        resolve([(waiter, StoreError(f"{self.database.path!r}: cannot be written: {kind}"))])
        said.append((logging.ERROR, "An event cannot be written and is lost: %s", kind))

    def _report_dropped(self) -> None:
        if not self._reports.due("dropped") or self.is_interrupted():
            return  # a log handler could wait for what this thread holds; the count is told later
        with self.lock:
            count, self._reported = self._dropped - self._reported, self._dropped
        if count:
            self._log_dropped(count)

    def _log_dropped(self, count: int) -> None:
        path = self.database.path
        self._reports.log(
            logging.WARNING, "The queue of %s is full; events dropped: %d", path, count
        )

    def _lose(self) -> int:
        """Drop what is still queued, tell those who wait, and say so; return how many events."""
        interrupted = self.is_interrupted()
        # When nobody has anything in hand, which might come back into the queue afterwards.
        with self._turn, self.lock:
            # At the end of the program a daemon thread that has put something in writes it itself.
            kept = not (self._closing or self._failing or interrupted)
            left = [] if kept else self._queue.clear()
            lost = sum(1 for _, _, waiter in left if waiter is None)
            unreported = self._dropped - self._reported
            self._dropped += lost
            self._reported = self._dropped
            self._room.notify_all()
        path = self.database.path
        error = StoreClosedError(f"the store {path!r} is closed")
        resolve([(waiter, same(error)) for _, _, waiter in left])
        if unreported:
            self._log_dropped(unreported)
        if lost:
            self._reports.log(
                logging.ERROR, "Events lost, because %s could not be written: %d", path, lost
            )
        return lost

    # The end

    def count_dropped(self) -> None:
        """Count an event as dropped that never came into the queue, and that the log has."""
        with self.lock:
            self._dropped += 1
            self._reported += 1

    def counts(self) -> tuple[int, int]:
        """Return how many events are uncommitted, and how many were dropped."""
        with self.lock:
            return self._queue.uncommitted(), self._dropped

    def close(self) -> None:
        """Take nothing more, write what is queued, and end the thread.

        Raises:
            StoreError: Events could not be written, and are lost.
        """
        with self.lock:
            self._closing = True
            thread = self._thread
            self._room.notify_all()
        if thread is not None and not self.is_writing_here():
            self._rouse()
            thread.join()
        self._drain()
        lost = self._lose()
        if lost:
            raise StoreError(f"{self.database.path!r}: could not be written; events lost: {lost}")

    def exit(self) -> None:
        """Write what is queued, at the end of the program; from now on without a thread."""
        with self.lock:
            self._exiting = True
            self._room.notify_all()
            thread = self._thread
        if thread is not None:
            self._rouse()
            thread.join(LAST_SECONDS)
        self._drain()
        self._lose()
