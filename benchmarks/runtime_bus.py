"""The runtime bus beside the one that a careful user writes in plain Python.

    python -m benchmarks.runtime_bus --check

`publish` to subscribers that filter by stream, with async handlers. One in ten of the subscribers
matches; of one subscriber that can mean two things, that it matches each time or one time in ten,
and both are measured. The events are made beforehand.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import (
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
from benchmarks.plain_runtime import CopyingRuntimeBus, PlainRuntimeBus

OURS = "agent_event_bus.runtime"
PLAIN = "lock, semaphore, gather"
COPYING = "the same, history cut by copying"
BUSES: dict[str, Any] = {PLAIN: PlainRuntimeBus, COPYING: CopyingRuntimeBus}
KEPT = 1000
AT_LEAST = 8.0


@dataclass(frozen=True)
class Case:
    """What is published, and to whom.

    Attributes:
        heading: of the column.
        subscribers: how many there are.
        matching: how many of them an event matches.
        publishes: how many events there are, of which the last one alone matches anybody.
        kind: of the handlers, see BODIES.
    """

    heading: str
    subscribers: int
    matching: int
    publishes: int = 1
    kind: str = "async"


CASES = [
    Case("1 subscriber, matches", 1, 1),
    Case("10 subscribers, 1 matches", 10, 1),
    Case("100 subscribers, 10 match", 100, 10),
    Case("1 subscriber, matches 1 publish of 10", 1, 1, publishes=10),
    Case("10 subscribers match, sleep(0)", 10, 10, kind="suspending"),
]


def publication(handlers: Handlers, *, row: str, case: Case) -> Statement:
    """Prepare a publication on the bus of a row."""
    from agent_event_bus.runtime import AgentEvent, EventBus, EventType

    async def unwanted(event: object) -> None:
        handlers.calls.append((-1, event))  # so that the row is found not to work

    bus: Any = BUSES.get(row, EventBus)(KEPT)
    for handler in handlers.make(case.kind, case.matching, "event"):
        bus.subscribe([EventType.CUSTOM], handler, filter_stream="wanted")
    for number in range(case.subscribers - case.matching):
        bus.subscribe([EventType.CUSTOM], unwanted, filter_stream=f"other {number}")

    wanted = AgentEvent(EventType.CUSTOM, "wanted")
    other = AgentEvent(EventType.CUSTOM, "nobody's")
    once = case.publishes == 1
    return Statement(
        "await bus.publish(wanted)" if once else "for event in events: await bus.publish(event)",
        {
            "bus": bus,
            "wanted": wanted,
            "other": other,
            "events": [*[other] * (case.publishes - 1), wanted],
        },
        setup=f"for _ in range({KEPT}): await bus.publish(other)",  # a full history is what lasts
        awaits=True,
        payload_of=lambda received: PAYLOAD if received is wanted else received,
    )


def column(case: Case, pace: Pace) -> Column:
    """Measure all rows of one case."""
    rows: dict[str, Prepare] = {
        row: functools.partial(publication, row=row, case=case) for row in [PLAIN, COPYING, OURS]
    }
    return measure(case.heading, rows, PLAIN, pace)


def run(pace: Pace) -> list[Table]:
    """Measure every case."""
    columns = [column(case, pace) for case in CASES]
    return [Table("runtime_bus", "publish", [PLAIN, COPYING, OURS], columns)]


TARGETS = tuple(
    Target(
        f"publish, {case.heading}: at least {AT_LEAST:g} times faster than a plain-Python bus",
        "runtime_bus",
        case.heading,
        PLAIN,
        OURS,
        AT_LEAST,
        at_least=True,
    )
    for case in CASES[:3]
)

SUITE = Suite("runtime_bus", run, targets=TARGETS)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "runtime_bus", *sys.argv[1:]]))
