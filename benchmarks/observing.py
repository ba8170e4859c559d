"""What it costs to look back: a history, latencies, and a look-out for slow events.

    python -m benchmarks.observing --check

The same emission on buses of this package that differ in one option. The second table has the
differences themselves, because what an option adds to an emission does not depend on what that
costs without it: for a history and for slow events those of an event, for timing those of a
handler.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from benchmarks.harness import (
    EVENT,
    PAYLOAD,
    Column,
    Handlers,
    Pace,
    Prepare,
    Statement,
    Suite,
    Table,
    Target,
    measure,
)

OFF = "off"
OPTIONS: dict[str, dict[str, Any]] = {
    OFF: {},
    "history=1000": {"history": 1000},
    "timing=True": {"timing": True},
    "slow_after=1.0": {"slow_after": 1.0},
    "all three": {"history": 1000, "timing": True, "slow_after": 1.0},
}
HISTORY = "history, an event"
TIMING = "timing, a handler"
SLOW = "slow_after, an event"
COUNTS = (1, 10)


def emission(
    handlers: Handlers, *, options: dict[str, Any], count: int, awaits: bool, payloads: bool
) -> Statement:
    """Prepare an emission.

    Args:
        handlers: makes the handlers.
        options: of the bus.
        count: how many handlers there are.
        awaits: whether it is `emit_async` with async handlers that never suspend.
        payloads: whether each emission has a new payload, which the history keeps.
    """
    from agent_event_bus import EventBus

    bus = EventBus(**options)
    for handler in handlers.make("async" if awaits else "sync", count):
        bus.on(EVENT, handler)
    payload = repr(PAYLOAD) if payloads else "payload"
    call = f"bus.emit_async({EVENT!r}, {payload})" if awaits else f"bus.emit({EVENT!r}, {payload})"
    return Statement(
        f"await {call}" if awaits else call,
        {"bus": bus, "payload": PAYLOAD},
        awaits=awaits,
        payload_of=lambda received: PAYLOAD if received == PAYLOAD else received,
    )


def column(heading: str, count: int, pace: Pace, awaits: bool, payloads: bool) -> Column:
    """Measure one kind of emission with each option."""
    rows: dict[str, Prepare] = {
        label: functools.partial(
            emission, options=options, count=count, awaits=awaits, payloads=payloads
        )
        for label, options in OPTIONS.items()
    }
    return measure(heading, rows, OFF, pace)


def differences(measured: Column, count: int) -> Column:
    """Return what each option adds, in the rounds of a column that was measured."""

    def added(label: str, share: int) -> list[float]:
        pairs = zip(measured.samples[label], measured.samples[OFF])
        return [(on - off) / share for on, off in pairs]

    return Column(
        measured.heading,
        HISTORY,
        {
            HISTORY: added("history=1000", 1),
            TIMING: added("timing=True", count),
            SLOW: added("slow_after=1.0", 1),
        },
    )


def heading(count: int, awaits: bool, payloads: bool) -> str:
    """Return the head of a column."""
    how = "emit_async" if awaits else "emit"
    what = "1 handler" if count == 1 else f"{count} handlers"
    return f"{how}, {what}{', new payloads' if payloads else ''}"


CASES = [
    *((count, False, False) for count in COUNTS),
    (1, False, True),
    *((count, True, False) for count in COUNTS),
]
"""How many handlers, whether it awaits, whether each emission has a payload of its own."""


def run(pace: Pace) -> list[Table]:
    """Measure every option."""
    columns = []
    added = []
    for count, awaits, payloads in CASES:
        head = heading(count, awaits, payloads)
        measured = column(head, count, pace, awaits, payloads)
        columns.append(measured)
        added.append(differences(measured, count))
    title = "looking back, of the same emission without"
    costs = "what it adds"
    return [
        Table("observing", title, list(OPTIONS), columns),
        Table("added", costs, [HISTORY, TIMING, SLOW], added, absolute=True),
    ]


def target(row: str, case: tuple[int, bool, bool], limit: float) -> Target:
    """Return a target that a row adds at most so many nanoseconds."""
    head = heading(*case)
    return Target(f"{row}, {head}: at most {limit:g} ns", "added", head, row, None, limit)


TARGETS = tuple(
    target(row, case, limit) for row, limit in ((HISTORY, 80.0), (TIMING, 120.0)) for case in CASES
)

SUITE = Suite("observing", run, targets=TARGETS)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "observing", *sys.argv[1:]]))
