"""The file: connections, schema, transactions, and what SQLite refuses as StoreError.

One connection writes and one reads, each under a lock of its own, so that reading never waits for
a commit. No statement stays open between two calls: a reader that pauses holds no transaction.

No connection may cross a fork, so both are closed before one and opened again when they are next
needed; `process.py` arranges that.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import RLock
from typing import Any, Callable, TypeVar
from zlib import crc32

from agent_event_bus.store.errors import StoreClosedError, StoreError

__all__ = ["APPLICATION_ID", "VERSION", "Database", "Row", "checksum", "insert", "last_seq"]

APPLICATION_ID = 0x41454253  # "AEBS"
VERSION = 1
# Seconds for which a writer tries to get its turn while another process writes.
BUSY_SECONDS = 10.0

SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    payload TEXT NOT NULL,
    form INTEGER NOT NULL,
    timestamp REAL NOT NULL,
    run_id TEXT,
    crc INTEGER NOT NULL
);
CREATE INDEX events_of_run ON events (run_id, seq) WHERE run_id IS NOT NULL;
CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    watermark INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE acks (
    consumer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (consumer, seq)
) WITHOUT ROWID;
"""

Result = TypeVar("Result")

Row = tuple[str, str, int, float, "str | None"]
"""An event that has no number yet: name, payload as JSON text, form, timestamp, run id."""


def checksum(name: str, payload: str, form: int, timestamp: float, run_id: str | None) -> int:
    """Return the CRC-32 that is stored with an event.

    It covers everything but the number, which SQLite gives.
    """
    head = f"{name}\0{form}\0{timestamp!r}\0{run_id!r}\0"
    return crc32(payload.encode(), crc32(head.encode()))


def last_seq(connection: sqlite3.Connection) -> int:
    """Return the highest number that was ever given, 0 without any."""
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return int(found[0]) if found else 0


# Rows that one statement inserts at most: SQLite takes 32,766 parameters, before 3.32 only 999,
# and a row has 6. Many rows a statement, because the interpreter lock is given up and taken again
# for each, which takes 5 ms when a thread is busy that emits.
CHUNK = 4096 if sqlite3.sqlite_version_info >= (3, 32) else 128


@cache
def _insertion(size: int) -> str:
    """Return the statement that inserts so many events. Only powers of two are asked for."""
    into = "INSERT INTO events (name, payload, form, timestamp, run_id, crc) VALUES "
    return into + ", ".join(["(?, ?, ?, ?, ?, ?)"] * size)


def insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[int]:
    """Insert events in their order, inside a transaction or as one.

    Returns:
        Their numbers.
    """
    numbers: list[int] = []
    start = 0
    while start < len(rows):
        size = min(CHUNK, 1 << ((len(rows) - start).bit_length() - 1))
        values: list[object] = []
        for row in rows[start : start + size]:
            values += row
            values.append(checksum(*row))
        last = connection.execute(_insertion(size), values).lastrowid
        assert last is not None
        numbers.extend(range(last - size + 1, last + 1))
        start += size
    return numbers


def is_one_statement(count: int) -> bool:
    """Whether so many events are inserted by one statement."""
    return count <= CHUNK and count & (count - 1) == 0


def is_busy(error: BaseException | None) -> bool:
    """Whether SQLite says that another connection is writing."""
    said = str(error)
    return isinstance(error, sqlite3.OperationalError) and (
        "is locked" in said or said == "locking protocol"
    )


def may_write(path: str) -> bool:
    """Whether the permissions of a file let this process write it."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


class Database:
    """The connections to one file.

    Args:
        path: Where the file is, or will be.

    Raises:
        StoreError: It cannot be opened, created or written, or it is no store.
        ValueError: It is SQLite's name for a database without a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = os.fsdecode(path)
        if name == ":memory:":
            raise ValueError("a store is a file; there is none in ':memory:'")
        # As SQLite does, which has the write-ahead log beside the file that a link leads to.
        self.path = os.path.realpath(name)
        self.write_lock = RLock()
        self.read_lock = RLock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._inside = False  # a transaction is in progress
        self._relaxed = False  # commits of the connection that writes need not be on the disk
        self.is_synced = True  # all that was committed here is on the disk, for sure
        self._closed = False
        self._file: tuple[int, int] | None = None  # which one was opened
        with self.write_lock, self._errors():
            self._writing()

    # Opening

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            # Each commit is on the disk when it returns, on macOS in the drive's cache too; other
            # than those that _durably() is not asked for.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            # After a burst the write-ahead log is cut back to this many bytes.
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        return connection

    def _writing(self) -> sqlite3.Connection:
        """Return the connection that writes; its lock is held."""
        self.check_open()
        self._check_place()
        if self._writer is None:
            if os.path.exists(self.path) and not may_write(self.path):
                # SQLite would leave files beside it which may not be written later either.
                raise StoreError(f"{self.path!r}: may not be written")
            connection = self._connect()
            try:
                connection.execute("PRAGMA busy_timeout = 0")  # _retry waits, which is fairer
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._writer = connection
            self._relaxed = False
            self._file = self._found()
        return self._writer

    def check_open(self) -> None:
        """Raise StoreClosedError when the store is closed."""
        if self._closed:
            raise StoreClosedError(f"the store {self.path!r} is closed")

    def _check_place(self) -> None:
        # SQLite goes on writing to a file that was deleted, where nobody finds it any more, and
        # would make a new one after a fork, whose numbers begin again.
        if self._file is not None and self._found() != self._file:
            raise StoreError(f"{self.path!r} was deleted or replaced while the store was open")

    def _found(self) -> tuple[int, int] | None:
        """Return which file is at the path."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make a new file a store, and refuse what is none or cannot be written."""
        mark, version, tables = self._retry(lambda: self._identity(connection))
        if not tables and mark in (0, APPLICATION_ID):
            self._retry(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
            self._retry(lambda: connection.execute("BEGIN IMMEDIATE"))
            try:
                # Another process may have been faster.
                mark, version, tables = self._identity(connection)
                if not tables:
                    for statement in SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                    mark, version = APPLICATION_ID, VERSION
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
        if mark != APPLICATION_ID:
            raise StoreError(f"{self.path!r} is a database of another application")
        if version != VERSION:
            raise StoreError(f"{self.path!r} has version {version}; this one reads {VERSION}")
        mode = self._retry(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
        if mode != ("wal",):
            raise StoreError(f"{self.path!r} cannot have a write-ahead log, only {mode[0]!r}")
        try:
            # On a file that may only be read, BEGIN IMMEDIATE is content to read.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM acks WHERE 0")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            _roll_back(connection)
            if not is_busy(error):
                raise

    @staticmethod
    def _identity(connection: sqlite3.Connection) -> tuple[int, int, bool]:
        # The tables first: another process may make all of them, and the marks, in between.
        tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return mark, version, tables is not None

    def _retry(self, action: Callable[[], Result], seconds: float | None = None) -> Result:
        """Do what may find another process writing, until it is our turn, for so long at most.

        The waits are short and random: those of SQLite grow to 0.1 s, in which a busy writer of
        another process could take every turn.
        """
        end = time.monotonic() + (BUSY_SECONDS if seconds is None else seconds)
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > end:
                    raise
            time.sleep(random.uniform(0.0002, 0.003))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path!r}: {error}") from error

    # Writing

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock for a block; what it writes is durable after it, or not written.

        Raises:
            StoreError: What SQLite refused.
            StoreClosedError: The store is closed.
        """
        with self.write_lock, self._errors():
            self._no_nesting()
            connection = self._writing()
            self._durably(connection, True)
            self._inside = True
            try:
                self._retry(lambda: connection.execute("BEGIN IMMEDIATE"))
                yield connection
                connection.execute("COMMIT")
                self.is_synced = True
            except BaseException:
                _roll_back(connection)
                raise
            finally:
                self._inside = False

    def insert(
        self, rows: Sequence[Row], *, durable: bool = True, seconds: float | None = None
    ) -> list[int]:
        """Insert events, as fast as that goes, and return their numbers.

        Args:
            rows: The events.
            durable: Whether they have to be on the disk when this returns. Otherwise the operating
                system has them, and this process may die; `sync` brings them to the disk.
            seconds: How long to wait at most while another process writes; None for the usual time.

        Raises:
            StoreError: What SQLite refused.
            StoreClosedError: The store is closed.
        """
        if not is_one_statement(len(rows)):
            with self.transaction() as connection:
                return insert(connection, rows)
        with self.write_lock:
            self._no_nesting()
            try:
                connection = self._writing()
                self._durably(connection, durable)
                self.is_synced = self.is_synced and durable
                self._inside = True
                try:
                    # A statement outside a transaction is one of its own.
                    numbers = insert(connection, rows)
                except sqlite3.OperationalError as error:
                    if not is_busy(error):
                        raise
                    numbers = self._retry(lambda: insert(connection, rows), seconds)
                finally:
                    self._inside = False
                self.is_synced = durable
                return numbers
            except sqlite3.Error as error:
                raise StoreError(f"{self.path!r}: {error}") from error

    def try_insert(self, row: Row, seconds: float) -> bool:
        """Insert an event without waiting for the disk, if nothing is in the way; say whether.

        Args:
            row: The event.
            seconds: How long to wait at most for another thread, and then for another process.

        Raises:
            StoreClosedError: The store is closed.
        """
        if not self.write_lock.acquire(timeout=seconds):
            return False
        try:
            self.insert([row], durable=False, seconds=seconds)
        except StoreClosedError:
            raise
        except StoreError:
            return False
        finally:
            self.write_lock.release()
        return True

    def _durably(self, connection: sqlite3.Connection, durable: bool) -> None:
        """Have the commits that follow wait for the disk, or not."""
        # The flag is set before and cleared after, so that one which is wrong, because an interrupt
        # came in between, only sets the connection once more to what it is.
        if durable and self._relaxed:
            connection.execute("PRAGMA synchronous = FULL")
            self._relaxed = False
        elif not durable and not self._relaxed:
            self._relaxed = True
            connection.execute("PRAGMA synchronous = NORMAL")

    def sync(self) -> None:
        """Bring to the disk what was inserted without waiting for it.

        Raises:
            StoreError: What SQLite refused.
            StoreClosedError: The store is closed.
        """
        if not self.is_synced:
            with self.transaction() as connection:
                # Writes a page, and a commit that waits for the disk waits for the whole log.
                connection.execute(f"PRAGMA user_version = {VERSION}")

    def _no_nesting(self) -> None:
        # The lock is re-entrant: a signal handler or a finaliser may come here in the middle of a
        # transaction of the same thread. What it wrote could still be rolled back.
        if self._inside:
            raise StoreError(f"{self.path!r}: called in the middle of a commit of the same thread")

    # Reading

    def query(self, sql: str, parameters: Sequence[object] | dict[str, object] = ()) -> list[Any]:
        """Return all rows of a query, of what is committed.

        Raises:
            StoreError: What SQLite refused.
            StoreClosedError: The store is closed.
        """
        with self.reading() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the read lock for a block, which gets the connection that reads.

        Raises:
            StoreError: What SQLite refused.
            StoreClosedError: The store is closed.
        """
        with self.read_lock, self._errors():
            self.check_open()
            if self._reader is None:
                self._check_place()
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only = ON")
            yield self._reader

    def size(self) -> int:
        """Return how many bytes the file and its write-ahead log have."""
        total = 0
        for name in (self.path, f"{self.path}-wal"):
            try:
                total += os.stat(name).st_size
            except OSError:
                continue
        return total

    # The end

    def release(self) -> None:
        """Close the connections; they are opened again when they are needed. Locks are held."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    def close(self) -> None:
        """Close for good."""
        with self.write_lock, self.read_lock:
            self._closed = True
            self.release()

    def __del__(self) -> None:
        # Nobody else has it any more. Attributes are missing when opening failed.
        for connection in (getattr(self, "_reader", None), getattr(self, "_writer", None)):
            if connection is not None:
                connection.close()

    def hold(self, seconds: float) -> bool:
        """Before a fork: take the locks and close the connections; say whether that was done.

        It is not, when a commit takes longer than this, or when this thread is in the middle of
        one. The child must then leave the connections alone.
        """
        deadline = time.monotonic() + seconds
        with ExitStack() as taken:
            for lock in (self.write_lock, self.read_lock):
                if not lock.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                    return False
                taken.callback(lock.release)
            if self._inside:
                return False
            self.release()
            taken.pop_all()
        return True

    def let_go(self) -> None:
        """After a fork, in the parent: give the locks back."""
        self.read_lock.release()
        self.write_lock.release()

    def start_over(self) -> None:
        """After a fork, in the child: nobody holds the locks, and nothing is open."""
        # Closing what the parent has open could end its write-ahead log: such a connection, which
        # there is when `hold` failed, is kept and never touched.
        _of_parent.extend(c for c in (self._reader, self._writer) if c is not None)
        self._reader = self._writer = None
        self.write_lock = RLock()
        self.read_lock = RLock()
        self._inside = False


_of_parent: list[sqlite3.Connection] = []


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            # It failed for what made the rollback necessary; SQLite has ended the transaction.
            return
