"""The queue, and the thread that commits what is in it in groups.

Emitting only puts an event into the queue. The thread takes what has come together, commits it as
one transaction, and tells those who wait. It looks at the queue every 50 ms, and at once when
somebody waits for it, or when the queue has enough for a group.

Who awaits an event does not wake the thread by that, but asks the loop to do so in its next turn:
then all tasks that are ready have put their events in, and the loop has nothing to do while the
thread works. They would take the interpreter lock from each other otherwise.

The thread is no daemon: the interpreter waits for it when it ends, and it ends when there is
nothing left to do. It holds the queue and the database, not the store, so a store that is dropped
is still written.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Union, cast

from agent_event_bus.store import ledger
from agent_event_bus.store.database import Database, Row, insert
from agent_event_bus.store.errors import StoreClosedError, StoreError
from agent_event_bus.store.reports import Reports
from agent_event_bus.store.waiters import Waiter, resolve, same

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

Ack = tuple[str, int]
# What is to be written: an event, an acknowledgement, or None for whoever waits for all before it.
Item = tuple[Union[Row, Ack, None], Waiter]
EVENT_FIELDS = 5


def _is_event(item: Item) -> bool:
    return item[0] is not None and len(item[0]) == EVENT_FIELDS


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
        self._exiting = False
        self.start_over()

    def start_over(self) -> None:
        """Begin with an empty queue and no thread; also in a forked child."""
        # Re-entrant: a finaliser or a signal handler that emits may come in the middle.
        self.lock = threading.RLock()
        self._room = threading.Condition(self.lock)
        self._queue: deque[Item] = deque()
        self._waited_for = 0  # of the queue, how many somebody waits for
        self._uncommitted = 0  # events that are queued or being committed
        self._dropped = 0
        self._reported = 0  # of the dropped, those that the log has told of
        self._failing = False
        self._thread: threading.Thread | None = None
        # Released to wake the thread. Unlike an Event, this cannot deadlock with a signal handler.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._draining = threading.RLock()
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
            waiting = self._max_queue - (len(self._queue) - self._waited_for)
            if waiting <= 0:
                lost = not self._make_room()
            if lost:
                self._dropped += 1
            else:
                self._queue.append((row, None))
                self._uncommitted += 1
            if self._thread is None:
                self._start()
            elif len(self._queue) >= GROUP and not self._failing:
                self._rouse()  # while the disk refuses, each attempt would only take time
        if self._dropped != self._reported:
            self._report_dropped()
        if self._thread is None:
            self._drain()

    def submit(self, data: Row | Ack) -> asyncio.Future[Any]:
        """Queue an event or an acknowledgement; return a future of the running loop for it.

        Raises:
            StoreClosedError: The store is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self.lock:
            self._check_open()
            self._queue.append((data, future))
            self._waited_for += 1
            if len(data) == EVENT_FIELDS:
                self._uncommitted += 1
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
        if threading.current_thread() is self._thread:
            return False  # a log handler of ours: it would wait for itself
        done: Future[None] = Future()
        with self.lock:
            if not self._uncommitted and not self._queue:
                return True
            self._queue.append((None, done))
            self._waited_for += 1
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

    def _check_open(self) -> None:
        if self._closing:
            raise StoreClosedError(f"the store {self.database.path!r} is closed")

    def _make_room(self) -> bool:
        """Deal with a full queue; say whether there is room now. The lock is held."""
        if self._overflow == "drop_oldest":
            self._drop_oldest(1)
            return True
        if self._overflow == "drop_newest" or threading.current_thread() is self._thread:
            return False
        self._rouse()
        while len(self._queue) - self._waited_for >= self._max_queue:
            if self._failing:
                raise StoreError(f"the queue of {self.database.path!r} is full and not written")
            if self._thread is None and not self._start():
                return False
            self._room.wait()
            self._check_open()
        return True

    def _drop_oldest(self, count: int) -> None:
        index = 0
        while count > 0 and index < len(self._queue):
            try:
                if self._queue[index][1] is not None:
                    index += 1
                    continue
                del self._queue[index]
            except IndexError:  # a finaliser of this thread was faster
                return
            self._dropped += 1
            self._uncommitted -= 1
            count -= 1

    def _rouse(self) -> None:
        if self._wake.locked():  # otherwise it is awake, or about to be
            try:
                self._wake.release()
            except RuntimeError:
                return  # another thread was faster

    def _start(self) -> bool:
        """Start the thread, if one can be started. The lock is held."""
        if self._exiting:
            return False  # nothing would wait for it
        thread = threading.Thread(target=self._run, name="agent_event_bus.store", daemon=False)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # there are too many, or the interpreter ends
            self._thread = None
            return False
        return True

    # The thread

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with self.lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _work(self) -> None:
        idle_since = time.monotonic()
        while True:
            self._wake.acquire(timeout=RETRY_SECONDS if self._failing else GROUP_SECONDS)
            if self._queue:
                idle_since = time.monotonic()
            while self._commit_group() and threading.main_thread().is_alive():
                idle_since = time.monotonic()
            if not threading.main_thread().is_alive():
                self._exiting = True
            with self.lock:
                if self._closing or self._exiting:
                    # Whoever appends from now on commits by itself, so there is an end to it, also
                    # when daemon threads go on emitting.
                    self._thread = None
                    break
                idle = time.monotonic() - idle_since > LINGER_SECONDS
                if idle and not self._queue:
                    self._thread = None
                    return
        if not self._closing:
            self._finish()

    def _finish(self) -> None:
        """Write what is queued when the program ends, which waits for this, but not for ever."""
        end = time.monotonic() + LAST_SECONDS
        self._drain()
        while self._queue and time.monotonic() < end:
            time.sleep(min(RETRY_SECONDS, LAST_SECONDS))
            self._drain()
        self._lose()

    def _drain(self) -> None:
        """Commit in the calling thread, where no thread can be started."""
        with self._draining:
            while self._commit_group():
                pass

    def _commit_group(self) -> bool:
        """Commit the next group; say whether another should follow at once."""
        group: list[Item] = []
        size = 0
        with self.lock:
            while self._queue and len(group) < LARGEST_GROUP and size < GROUP_CHARACTERS:
                item = self._queue.popleft()
                group.append(item)
                if item[1] is not None:
                    self._waited_for -= 1
                if item[0] is not None and len(item[0]) == EVENT_FIELDS:
                    size += len(cast("Row", item[0])[1])
            left = bool(self._queue)
            self._room.notify_all()
        if not group:
            return False
        if self._commit(group):
            with self.lock:
                # Fewer make no group of their own, unless somebody waits for them.
                return left or len(self._queue) >= GROUP or self._closing or self._exiting
        return False

    def _commit(self, group: list[Item]) -> bool:
        try:
            # The lock is held until the count is right, for `counts`.
            with self.database.write_lock:
                results = self._write(group)
                with self.lock:
                    self._uncommitted -= sum(1 for item in group if _is_event(item))
                    recovered, self._failing = self._failing, False
        except Exception as error:
            if self._refused(error):
                self._keep(group, error)
                return False
            if len(group) > 1:
                # One of them cannot be written; the others can.
                return min([self._commit([item]) for item in group])
            self._give_up(group[0], error)
            return True
        except BaseException:
            self._keep(group, StoreError(f"{self.database.path!r}: interrupted"))
            raise
        resolve([(item[1], result) for item, result in zip(group, results)])
        if recovered:
            self._reports.log(logging.WARNING, "Events are written to %s again", self.database.path)
        return True

    def _write(self, group: list[Item]) -> list[object]:
        """Write a group as one transaction; return a result for each, or an exception."""
        results: list[object] = [None] * len(group)
        events: list[int] = []
        rows: list[Row] = []
        acks: dict[str, list[tuple[int, int]]] = {}
        for index, (data, _) in enumerate(group):
            if data is None:
                continue
            if len(data) == EVENT_FIELDS:
                events.append(index)
                rows.append(cast("Row", data))
            else:
                consumer, seq = cast("Ack", data)
                acks.setdefault(consumer, []).append((index, seq))
        if not rows and not acks:
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

    def _keep(self, group: list[Item], error: Exception) -> None:
        """Queue again what nobody waits for, and tell all who wait that it failed."""
        with self.lock:
            kept = [item for item in group if item[1] is None]
            told = [item for item in group if item[1] is not None]
            if self._waited_for:
                told += [item for item in self._queue if item[1] is not None]
                self._queue = deque(item for item in self._queue if item[1] is None)
                self._waited_for = 0
            self._queue.extendleft(reversed(kept))
            self._uncommitted -= sum(1 for item in told if _is_event(item))
            self._failing = True
            excess = len(self._queue) - self._max_queue
            if excess > 0 and self._overflow == "drop_newest":
                for _ in range(excess):
                    self._queue.pop()
                self._dropped += excess
                self._uncommitted -= excess
            elif excess > 0 and self._overflow == "drop_oldest":
                self._drop_oldest(excess)
            waiting = len(self._queue)
            self._room.notify_all()
        resolve([(item[1], same(error)) for item in told])
        if self._reports.due("refused"):
            self._reports.log(
                logging.ERROR,
                "Events cannot be written, and %d are waiting for another attempt: %s",
                waiting,
                error,
            )
        self._report_dropped()

    def _give_up(self, item: Item, error: Exception) -> None:
        """Lose an event that cannot be written, whatever the state of the disk."""
        with self.lock:
            if _is_event(item):
                self._uncommitted -= 1
                if item[1] is None:
                    self._dropped += 1
                    self._reported += 1
        # The text of such an error may have contents of the event.
        kind = type(error.__cause__ or error).__name__
        resolve([(item[1], StoreError(f"{self.database.path!r}: cannot be written: {kind}"))])
        self._reports.log(logging.ERROR, "An event cannot be written and is lost: %s", kind)

    def _report_dropped(self) -> None:
        if not self._reports.due("dropped"):
            return
        with self.lock:
            count, self._reported = self._dropped - self._reported, self._dropped
        if count:
            self._reports.log(
                logging.WARNING,
                "The queue of %s is full; events dropped: %d",
                self.database.path,
                count,
            )

    def _lose(self) -> int:
        """Drop what is still queued, tell those who wait, and say so; return how many events."""
        with self.lock:
            left, self._queue = self._queue, deque()
            self._waited_for = 0
            lost = sum(1 for item in left if _is_event(item) and item[1] is None)
            unreported = self._dropped - self._reported
            self._uncommitted -= sum(1 for item in left if _is_event(item))
            self._dropped += lost
            self._reported = self._dropped
            self._room.notify_all()
        path = self.database.path
        error = StoreClosedError(f"the store {path!r} is closed")
        resolve([(item[1], same(error)) for item in left])
        if unreported:
            self._reports.log(
                logging.WARNING,
                "The queue of %s is full; events dropped: %d",
                path,
                unreported,
            )
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
            return self._uncommitted, self._dropped

    def close(self) -> None:
        """Take nothing more, write what is queued, and end the thread.

        Raises:
            StoreError: Events could not be written, and are lost.
        """
        with self.lock:
            self._closing = True
            thread = self._thread
            self._room.notify_all()
        if thread is not None and thread is not threading.current_thread():
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
