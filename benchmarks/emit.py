"""What one `emit` costs with sync handlers that do nothing, beside a loop written by hand.

    python -m benchmarks.emit --check 1.25

The inline loop is the floor that a user could write where the event happens, with neither
registration nor a bus object. Peers are used in their own idiom and with their default options.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from benchmarks.harness import (
    EVENT,
    OTHER_EVENT,
    PAYLOAD,
    Handlers,
    Pace,
    Prepare,
    Statement,
    Suite,
    Table,
    ignore,
    measure,
)
from benchmarks.peers import OURS, PEERS, Peer
from benchmarks.rows import by_hand_and_peers

INLINE = "inline loop"
COUNTS = (0, 1, 10, 100)

log = logging.getLogger(__name__)


def heading(count: int) -> str:
    """Return the head of the column for `count` handlers."""
    return "1 handler" if count == 1 else f"{count} handlers"


def inline(handlers: Handlers, *, count: int) -> Statement:
    """Prepare the loop that a user would write by hand where the event happens."""
    table = {OTHER_EVENT: [ignore]}
    if count:
        table[EVENT] = handlers.make("sync", count)
    source = (
        f"for h in handlers.get({EVENT!r}, ()):\n"
        "    try:\n"
        "        h(payload)\n"
        "    except Exception:\n"
        "        log.exception('handler failed')"
    )
    return Statement(source, {"handlers": table, "payload": PAYLOAD, "log": log})


def emission(handlers: Handlers, *, peer: Peer, count: int) -> Statement:
    """Prepare a peer's emission."""
    return peer.emission(peer.with_handlers(handlers.make("sync", count)))


def rows(count: int) -> dict[str, Prepare]:
    """Return what prepares the rows for `count` handlers."""
    return by_hand_and_peers(INLINE, inline, emission, count=count)


def run(pace: Pace) -> list[Table]:
    """Measure all peers with each number of handlers."""
    columns = [measure(heading(count), rows(count), INLINE, pace) for count in COUNTS]
    notes = {peer.label: peer.note for peer in PEERS if peer.awaits_emit}
    return [
        Table("emit", "emit, sync handlers that do nothing", list(rows(0)), columns, "ns", notes)
    ]


def complaints(tables: Sequence[Table], limit: float) -> list[str]:
    """Return, a sentence each, where agent_event_bus is not as fast as it has to be.

    It has to stay within `limit` times the inline loop and ahead of every other bus.
    """
    found = []
    for column in tables[0].columns:
        ours = column.ratio(OURS)
        if ours is None:
            return [f"{OURS} could not be measured"]
        where = f"{column.heading}: "
        if ours.median > limit:
            found.append(
                f"{where}{OURS} takes {ours.median:.2f} times the {INLINE}, limit {limit:.2f}"
            )
        for label in column.samples:
            theirs = column.ratio(label)
            if label not in (INLINE, OURS) and theirs and theirs.median < ours.median:
                found.append(
                    f"{where}{label} is faster than {OURS},"
                    f" {theirs.median:.2f} against {ours.median:.2f} times the {INLINE}"
                )
    return found


SUITE = Suite("emit", run, default_limit=1.25, complaints=complaints)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "emit", *sys.argv[1:]]))
