"""Whether a log is sound: what SQLite says of its file, and what the store knows of its contents.

Each problem is a sentence. None of them has anything of a payload in it, so they may be logged.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from agent_event_bus.store.database import (
    APPLICATION_ID,
    VERSION,
    checksum,
    last_seq,
    may_write,
)
from agent_event_bus.store.encoding import VALUE, WITHHELD, decode

__all__ = ["verify", "verify_file"]

PAGE = 500
"""Events that are read at a time, so that no transaction is long."""

TABLES = {"events", "consumers", "acks"}

# Text is read as bytes, because a damaged one may be no text.
_EVENTS = """
    SELECT seq, CAST(name AS BLOB), CAST(payload AS BLOB), form, timestamp,
        CAST(run_id AS BLOB), crc
    FROM events WHERE seq > ? ORDER BY seq LIMIT ?
"""
_LEDGER = """
    SELECT CAST(name AS BLOB), watermark,
        (SELECT max(seq) FROM acks WHERE acks.consumer = consumers.name),
        (SELECT min(seq) FROM acks WHERE acks.consumer = consumers.name)
    FROM consumers
"""
_STRAY = """
    SELECT DISTINCT CAST(consumer AS BLOB) FROM acks
    WHERE consumer NOT IN (SELECT name FROM consumers)
"""


def verify_file(path: str | os.PathLike[str]) -> list[str]:
    """Return what is wrong with the file of a store, one sentence each; empty when it is sound.

    For a file that ``EventStore`` refuses to open. It is opened for reading alone, except that
    SQLite may have to bring its write-ahead log into order. Nothing is raised, whatever it is.
    """
    name = os.path.abspath(os.fspath(path))
    # Beside a file that may not be written SQLite would leave the files that go with a write-ahead
    # log, which may not be written later either; in such a folder it cannot make them. Without a
    # write-ahead log it needs none.
    has_log = os.path.exists(f"{name}-wal")
    alone = "mode=ro&immutable=1"
    try:
        connection = _opened(name, "mode=ro" if has_log or may_write(name) else alone)
        try:
            connection.execute("SELECT 1 FROM sqlite_master")
        except sqlite3.OperationalError:
            if not has_log:
                connection.close()
                connection = _opened(name, alone)
        except sqlite3.DatabaseError:
            pass  # damaged, as will be found
    except (sqlite3.Error, OSError, ValueError) as error:
        return [f"the file cannot be opened: {error}"]
    try:
        return verify(connection)
    finally:
        connection.close()


def _opened(name: str, how: str) -> sqlite3.Connection:
    """Return a connection to a file; its name may have characters that URIs use."""
    return sqlite3.connect(f"{Path(name).as_uri()}?{how}", uri=True, isolation_level=None)


def verify(connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong with a store, one sentence each; empty when it is sound.

    Others may write meanwhile. No ``Exception`` is raised for a file that is damaged, or is no
    store.
    """
    problems: list[str] = []
    for check in (_file, _identity, _ledger, _events):
        try:
            problems.extend(check(connection))
        except (sqlite3.Error, UnicodeError, ValueError, TypeError, OverflowError) as error:
            problems.append(f"the file cannot be read: {error}")
        if check is _identity and problems and not _has_tables(connection):
            break
    return list(dict.fromkeys(problems))


def _has_tables(connection: sqlite3.Connection) -> bool:
    try:
        return {name for (name,) in _tables(connection)} >= TABLES
    except sqlite3.Error:
        return False


def _tables(connection: sqlite3.Connection) -> list[tuple[str]]:
    return connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()


def _file(connection: sqlite3.Connection) -> Iterator[str]:
    """What SQLite itself finds."""
    for (line,) in connection.execute("PRAGMA integrity_check").fetchall():
        if line != "ok":
            yield f"the file is damaged: {line}"


def _identity(connection: sqlite3.Connection) -> Iterator[str]:
    """Whether it is a store of this version."""
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    if mark != APPLICATION_ID:
        yield f"the file is no store: its application id is {mark}, not {APPLICATION_ID}"
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        yield f"the store has version {version}, not {VERSION}"
    for name in sorted(TABLES - {name for (name,) in _tables(connection)}):
        yield f"the table {name} is missing"


def _ledger(connection: sqlite3.Connection) -> Iterator[str]:
    """Whether nobody has acknowledged what there never was."""
    # The ledger is read before the log, to which others may add in between.
    entries = connection.execute(_LEDGER).fetchall()
    stray = connection.execute(_STRAY).fetchall()
    last = last_seq(connection)
    for name, watermark, highest, lowest in entries:
        consumer = _name(name)
        if type(watermark) is not int or watermark < 0:
            yield f"the ledger of {consumer} has no usable mark"
            continue
        for number in {watermark, watermark if highest is None else highest}:
            if number > last:
                yield (
                    f"the ledger of {consumer} is ahead of the log: it has acknowledged {number},"
                    f" and the last number that was given is {last}"
                )
        if lowest is not None and lowest <= watermark:
            yield f"the ledger of {consumer} has {lowest} twice, by number and under its mark"
    for (name,) in stray:
        yield f"the ledger has acknowledgements of {_name(name)}, which it does not know"


def _name(name: object) -> str:
    """Return how a consumer is called in a sentence."""
    return repr(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name)


def _events(connection: sqlite3.Connection) -> Iterator[str]:
    """Whether each event is what was written."""
    after = -(1 << 63)
    highest = 0
    while True:
        try:
            rows = connection.execute(_EVENTS, (after, PAGE)).fetchall()
        except sqlite3.Error as error:
            yield f"the events after {max(after, 0)} cannot be read: {error}"
            return
        for row in rows:
            highest = row[0]
            for problem in _event(*row):
                yield f"event {row[0]}: {problem}"
        if len(rows) < PAGE:
            break
        after = rows[-1][0]
    last = last_seq(connection)
    if highest > last:
        yield f"the sequence is at {last}, behind event {highest}: numbers could be given again"


def _event(
    seq: int,
    name: object,
    payload: object,
    form: object,
    timestamp: object,
    run_id: object,
    crc: object,
) -> Iterator[str]:
    """What is wrong with one event, whose texts are bytes."""
    if seq < 1:
        yield "its number is less than 1"
    if type(timestamp) not in (float, int):
        yield "its timestamp is no number"
        return
    if not isinstance(name, bytes) or not isinstance(payload, bytes):
        yield "it has no name, or no payload"
        return
    if run_id is not None and not isinstance(run_id, bytes):
        yield "its run id is no text"
        return
    try:
        name_text, text = name.decode(), payload.decode()
        run = None if run_id is None else run_id.decode()
    except UnicodeDecodeError:
        yield "it is no text"
        return
    if type(form) is not int or not VALUE <= form <= WITHHELD:
        yield f"its form {form!r} is unknown"
        return
    if checksum(name_text, text, form, float(timestamp), run) != crc:  # type: ignore[arg-type]
        yield "its checksum does not match"
    try:
        decode(text)
    except (ValueError, RecursionError):
        yield "its payload cannot be decoded"
