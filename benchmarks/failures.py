"""What an emission costs when handlers fail, beside a loop that logs with the traceback.

    python -m benchmarks.failures

All log to loggers that have a `NullHandler` and do not propagate, so what is measured is finding
out about the failure and handing it to `logging`, not writing it somewhere. What each bus does with
an exception is in the notes; one that lets it through cannot do the job and is not measured.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.emit import INLINE
from benchmarks.harness import (
    EVENT,
    PAYLOAD,
    Handlers,
    Pace,
    Prepare,
    Statement,
    Suite,
    Table,
    measure,
)
from benchmarks.peers import PEERS, Peer
from benchmarks.rows import by_hand_and_peers

HANDLERS = 10
LOGGERS = ("agent_event_bus", "benchmarks", "eventkit", "aeventkit", "bubus")

log = logging.getLogger(__name__)


@contextmanager
def silent() -> Iterator[None]:
    """Give the loggers of all buses a handler that does nothing, and no other."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before):
            logger.handlers, logger.propagate = handlers, propagate


def inline(handlers: Handlers, *, failing: int) -> Statement:
    """Prepare the loop that logs the failures."""
    table = {EVENT: handlers.make("failing", failing) + handlers.make("sync", HANDLERS - failing)}
    source = (
        f"for h in handlers.get({EVENT!r}, ()):\n"
        "    try:\n"
        "        h(payload)\n"
        "    except Exception:\n"
        "        log.error('handler failed', exc_info=True)"
    )
    return Statement(source, {"handlers": table, "payload": PAYLOAD, "log": log})


def emission(handlers: Handlers, *, peer: Peer, failing: int) -> Statement:
    """Prepare a peer's emission, the failing handlers first."""
    made = handlers.make("failing", failing) + handlers.make("sync", HANDLERS - failing)
    return peer.isolated_emission(peer.with_handlers(made))


def rows(failing: int) -> dict[str, Prepare]:
    """Return what prepares the rows with so many failing handlers."""
    return by_hand_and_peers(INLINE, inline, emission, failing=failing)


def run(pace: Pace) -> list[Table]:
    """Measure with one failing handler of ten, and with ten."""
    with silent():
        columns = [
            measure(f"{failing} of {HANDLERS} fail", rows(failing), INLINE, pace)
            for failing in (1, HANDLERS)
        ]
    notes = {peer.label: peer.on_failure for peer in PEERS}
    return [Table("failures", "emit, failing handlers", list(rows(1)), columns, "ns", notes)]


SUITE = Suite("failures", run)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "failures", *sys.argv[1:]]))
