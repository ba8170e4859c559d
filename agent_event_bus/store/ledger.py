"""What each consumer has acknowledged: a watermark, and the numbers above it.

Everything up to the watermark is acknowledged. What is acknowledged out of order is kept by its
number, until all before it is acknowledged too and the watermark passes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from agent_event_bus.store.database import last_seq

__all__ = ["UNACKNOWLEDGED", "acknowledge", "acknowledge_through", "know"]

UNACKNOWLEDGED = """
    seq > (SELECT watermark FROM consumers WHERE name = :consumer)
    AND NOT EXISTS (SELECT 1 FROM acks WHERE consumer = :consumer AND acks.seq = events.seq)
"""
"""The condition for an event that a known consumer has not acknowledged."""

CHUNK = 256


def know(connection: sqlite3.Connection, consumer: str) -> None:
    """Make a consumer known; it has acknowledged nothing."""
    connection.execute(
        "INSERT OR IGNORE INTO consumers (name, watermark) VALUES (?, 0)", (consumer,)
    )


def acknowledge(
    connection: sqlite3.Connection, consumer: str, numbers: Sequence[int]
) -> list[ValueError | None]:
    """Acknowledge events for a consumer, in a transaction.

    Returns:
        For each number None, or the error that there is no such event yet.
    """
    last = last_seq(connection)
    good = [number for number in numbers if 1 <= number <= last]
    for start in range(0, len(good), CHUNK):
        part = good[start : start + CHUNK]
        values: list[object] = []
        for number in part:
            values += (consumer, number)
        connection.execute(
            "INSERT OR IGNORE INTO acks (consumer, seq) VALUES "
            + ", ".join(["(?, ?)"] * len(part)),
            values,
        )
    if good:
        know(connection, consumer)
        _advance(connection, consumer, last)
    return [None if 1 <= number <= last else _unknown(number, last) for number in numbers]


def acknowledge_through(connection: sqlite3.Connection, consumer: str, seq: int) -> None:
    """Acknowledge for a consumer all events up to one, in a transaction.

    Raises:
        ValueError: There is no such event yet.
    """
    know(connection, consumer)
    last = last_seq(connection)
    if not 0 <= seq <= last:
        raise _unknown(seq, last)
    connection.execute(
        "UPDATE consumers SET watermark = ? WHERE name = ? AND watermark < ?", (seq, consumer, seq)
    )
    _advance(connection, consumer, last)


def _advance(connection: sqlite3.Connection, consumer: str, last: int) -> None:
    """Move the watermark up to the first event that is not acknowledged."""
    (first,) = connection.execute(
        f"SELECT seq FROM events WHERE {UNACKNOWLEDGED} ORDER BY seq LIMIT 1",
        {"consumer": consumer},
    ).fetchone() or (last + 1,)
    connection.execute("UPDATE consumers SET watermark = ? WHERE name = ?", (first - 1, consumer))
    connection.execute("DELETE FROM acks WHERE consumer = ? AND seq < ?", (consumer, first))


def _unknown(seq: int, last: int) -> ValueError:
    return ValueError(f"there is no event {seq} to acknowledge; the last one is {last}")
