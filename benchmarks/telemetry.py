"""What the telemetry routers cost beside the bus that they are made of.

    python -m benchmarks.telemetry --check

The same handlers on a plain bus and on the routers. The production router warns about slow events
unless it is told not to, which means a look at the clock for each handler; the row below it is a
bus with the same option. The plain-Python router is what one would write without a bus.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
from collections import defaultdict
from typing import Any, Callable

from benchmarks.harness import (
    EVENT,
    PAYLOAD,
    Handlers,
    Pace,
    Prepare,
    Statement,
    Suite,
    Table,
    Target,
    measure,
)

BUS = "EventBus"
ROUTER = "TelemetryRouter"
QUIET = "ProductionTelemetryRouter, alert_after=None"
PRODUCTION = "ProductionTelemetryRouter"
SAME = "EventBus, slow_after=0.005"
PLAIN = "plain-Python router"
CASES = ((0, False), (1, False), (10, False), (1, True), (10, True))
"""How many handlers, and whether it is `emit_async` with async handlers that never suspend."""

Handler = Callable[..., Any]

log = logging.getLogger(__name__)


class PlainRouter:
    """A router in plain Python: lists of handlers, a `try` around each, `gather` for async ones."""

    def __init__(self) -> None:
        # With each handler, whether it is async: asking that at each call would take longer.
        self.exact: defaultdict[str, list[tuple[Handler, bool]]] = defaultdict(list)
        self.wildcard: list[tuple[Handler, bool]] = []
        self.once: defaultdict[str, list[tuple[Handler, bool]]] = defaultdict(list)
        self.tasks: set[asyncio.Future[Any]] = set()

    def subscribe(self, event_name: str, handler: Handler) -> None:
        """Subscribe a handler to a name."""
        self.exact[event_name].append((handler, inspect.iscoroutinefunction(handler)))

    def _call(self, event_name: str, payload: Any) -> list[Any]:
        """Call all handlers and return the coroutines of the async ones."""
        started: list[Any] = []
        one_shot = self.once.pop(event_name, ()) if self.once else ()
        for handlers, arguments in (
            (self.exact.get(event_name, ()), (payload,)),
            (self.wildcard, (event_name, payload)),
            (one_shot, (payload,)),
        ):
            for handler, is_async in handlers:
                try:
                    result = handler(*arguments)
                except Exception:
                    log.exception("handler failed")
                else:
                    if is_async:
                        started.append(result)
        return started

    def emit(self, event_name: str, payload: Any = None) -> None:
        """Call all handlers, and leave async ones to the loop."""
        for coroutine in self._call(event_name, payload):
            task = asyncio.ensure_future(coroutine)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def emit_async(self, event_name: str, payload: Any = None) -> None:
        """Call all handlers, and wait for async ones."""
        started = self._call(event_name, payload)
        if started:
            for result in await asyncio.gather(*started, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error("handler failed", exc_info=result)


def made(label: str) -> tuple[Any, Callable[..., Any]]:
    """Return the bus of a row, and its method that subscribes to a name."""
    from agent_event_bus import EventBus
    from agent_event_bus.telemetry import ProductionTelemetryRouter, TelemetryRouter

    if label == PLAIN:
        by_hand = PlainRouter()
        return by_hand, by_hand.subscribe
    if label == ROUTER:
        plain = TelemetryRouter()
        return plain, plain.subscribe
    if label in (QUIET, PRODUCTION):
        options: dict[str, Any] = {"alert_after": None} if label == QUIET else {}
        router = ProductionTelemetryRouter(**options)
        return router, router.register
    bus = EventBus(slow_after=0.005 if label == SAME else None)
    return bus, bus.on


def emission(handlers: Handlers, *, label: str, count: int, awaits: bool) -> Statement:
    """Prepare the emission of a row."""
    bus, subscribe = made(label)
    for handler in handlers.make("async" if awaits else "sync", count):
        subscribe(EVENT, handler)
    call = f"bus.emit_async({EVENT!r}, payload)" if awaits else f"bus.emit({EVENT!r}, payload)"
    return Statement(
        f"await {call}" if awaits else call, {"bus": bus, "payload": PAYLOAD}, awaits=awaits
    )


def heading(count: int, awaits: bool) -> str:
    """Return the head of a column."""
    how = "emit_async" if awaits else "emit"
    return f"{how}, 1 handler" if count == 1 else f"{how}, {count} handlers"


def run(pace: Pace) -> list[Table]:
    """Measure every router."""
    labels = [BUS, ROUTER, QUIET, PRODUCTION, SAME, PLAIN]
    columns = []
    for count, awaits in CASES:
        rows: dict[str, Prepare] = {
            label: functools.partial(emission, label=label, count=count, awaits=awaits)
            for label in labels
        }
        columns.append(measure(heading(count, awaits), rows, BUS, pace))
    return [Table("telemetry", "telemetry routers, of the same emission", labels, columns)]


LIMIT = 1.25
TARGETS = (
    *(
        Target(
            f"{row}, {heading(*case)}: at most {LIMIT:g} times {other}",
            "telemetry",
            heading(*case),
            row,
            other,
            LIMIT,
        )
        for row, other in ((ROUTER, BUS), (QUIET, BUS), (PRODUCTION, SAME))
        for case in CASES
    ),
    *(
        Target(
            f"{PLAIN}, {heading(*case)}: at least {ROUTER}'s time",
            "telemetry",
            heading(*case),
            PLAIN,
            ROUTER,
            1.0,
            at_least=True,
        )
        for case in CASES
    ),
)

SUITE = Suite("telemetry", run, targets=TARGETS)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "telemetry", *sys.argv[1:]]))
