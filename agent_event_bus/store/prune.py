"""Deleting old events."""

from __future__ import annotations

import time

from agent_event_bus.store import arguments
from agent_event_bus.store.database import Database

__all__ = ["prune"]

# Numbers that one transaction looks at, so that others need not wait long for their turn.
STEP = 5000

# What some known consumer has not acknowledged is kept.
DELETE = """
DELETE FROM events
WHERE seq >= :first AND seq < :stop AND (:oldest IS NULL OR timestamp < :oldest)
AND NOT EXISTS (
    SELECT 1 FROM consumers WHERE watermark < events.seq AND NOT EXISTS (
        SELECT 1 FROM acks WHERE acks.consumer = consumers.name AND acks.seq = events.seq
    )
)
"""


def prune(
    database: Database, before_seq: int | None, older_than: float | None, keep_last: int | None
) -> int:
    """Delete the events that meet all conditions, and return how many.

    Arguments and errors are those of ``EventStore.prune``.
    """
    if before_seq is None and older_than is None and keep_last is None:
        raise ValueError("prune needs a condition")
    if before_seq is not None:
        before_seq = arguments.count("before_seq", before_seq)
    if keep_last is not None:
        keep_last = arguments.count("keep_last", keep_last)
    oldest = None
    if older_than is not None:
        oldest = time.time() - arguments.seconds("older_than", older_than)
    deleted = 0
    (bounds,) = database.query("SELECT min(seq), max(seq) FROM events")
    first, last = bounds
    if first is None:
        return 0
    end = last + 1 if before_seq is None else min(before_seq, last + 1)
    if keep_last:
        kept = database.query(
            "SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ?", (keep_last - 1,)
        )
        if not kept:
            return 0
        end = min(end, kept[0][0])
    while first is not None and first < end:
        stop = min(first + STEP, end)
        with database.transaction() as connection:
            values = {"first": first, "stop": stop, "oldest": oldest}
            deleted += connection.execute(DELETE, values).rowcount
        # Where few are left, most numbers have no event.
        ((first,),) = database.query("SELECT min(seq) FROM events WHERE seq >= ?", (stop,))
    return deleted
