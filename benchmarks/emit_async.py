"""What one `await bus.emit_async(...)` costs, beside awaiting the handlers by hand.

    python -m benchmarks.emit_async --check

Four tables: handlers that never suspend; ten that suspend, once each, for the loop or for a future
that another task completes; sync handlers only; and no handlers at all. The first two compare with
awaiting the handlers one after another, with `asyncio.gather` and with `asyncio.TaskGroup`, whose
handlers are wrapped so that an error of one does not disturb the others, as a user would write it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import sys
from typing import Callable

from benchmarks.emit import COUNTS, heading
from benchmarks.harness import (
    EVENT,
    OTHER_EVENT,
    PAYLOAD,
    Handler,
    Handlers,
    Pace,
    Prepare,
    Statement,
    Suite,
    Table,
    Target,
    UnsupportedError,
    ignore,
    measure,
)
from benchmarks.peers import OURS, PEERS, Peer

SEQUENTIAL = "await one after another"
GATHER = "asyncio.gather"
GROUP = "asyncio.TaskGroup"
BY_HAND = "empty async def and inline loop"
NOTHING = "empty async def"

SLEEPING = "10 handlers, sleep(0)"
WAITING = "10 handlers, a future each"

log = logging.getLogger(__name__)


async def isolated(handler: Handler, payload: object) -> None:
    """Await a handler so that its error disturbs nobody."""
    try:
        await handler(payload)
    except Exception:
        log.exception("handler failed")


async def nothing() -> None:
    """Do nothing."""


async def release(waiting: list[asyncio.Future[None]]) -> None:
    """Complete, once in each turn of the loop, the futures that handlers wait for."""
    while True:
        for future in waiting:
            future.set_result(None)
        waiting.clear()
        await asyncio.sleep(0)


# The rows -----------------------------------------------------------------------------------------


def by_hand(source: str, handlers: list[Handler], **names: object) -> Statement:
    """Return a statement that uses the handlers of a dict."""
    table = {OTHER_EVENT: [ignore]}
    if handlers:
        table[EVENT] = handlers
    names.update(handlers=table, payload=PAYLOAD)
    return Statement(source, names, awaits=True)


def one_after_another(handlers: list[Handler]) -> Statement:
    """Await the handlers in turn, each in a try."""
    source = (
        f"for h in handlers.get({EVENT!r}, ()):\n"
        "    try:\n"
        "        await h(payload)\n"
        "    except Exception:\n"
        "        log.exception('handler failed')"
    )
    return by_hand(source, handlers, log=log)


def gathered(handlers: list[Handler]) -> Statement:
    """Gather the wrapped handlers."""
    source = f"await gather(*[isolated(h, payload) for h in handlers.get({EVENT!r}, ())])"
    return by_hand(source, handlers, gather=asyncio.gather, isolated=isolated)


def grouped(handlers: list[Handler]) -> Statement:
    """Start the wrapped handlers in a task group."""
    task_group = getattr(asyncio, "TaskGroup", None)
    if task_group is None:
        raise UnsupportedError("comes with Python 3.11")
    source = (
        "async with TaskGroup() as group:\n"
        f"    for h in handlers.get({EVENT!r}, ()):\n"
        "        group.create_task(isolated(h, payload))"
    )
    return by_hand(source, handlers, TaskGroup=task_group, isolated=isolated)


def loop_in_async_def(handlers: list[Handler]) -> Statement:
    """Await nothing, then call the sync handlers in turn."""
    source = (
        "await nothing()\n"
        f"for h in handlers.get({EVENT!r}, ()):\n"
        "    try:\n"
        "        h(payload)\n"
        "    except Exception:\n"
        "        log.exception('handler failed')"
    )
    return by_hand(source, handlers, nothing=nothing, log=log)


def await_nothing(handlers: list[Handler]) -> Statement:
    """Await an empty coroutine."""
    return Statement("await nothing()", {"nothing": nothing}, awaits=True)


def awaited(handlers: list[Handler], *, peer: Peer) -> Statement:
    """Await a peer's emission."""
    if peer.cannot_await:
        raise UnsupportedError(peer.cannot_await)
    return peer.async_emission(peer.with_handlers(handlers))


def prepared(
    handlers: Handlers, *, row: Callable[[list[Handler]], Statement], kind: str, count: int
) -> Statement:
    """Prepare a row with handlers of a kind, and the task that completes the futures of some."""
    statement = row(handlers.make(kind, count))
    if kind != "waiting":
        return statement
    return dataclasses.replace(
        statement,
        setup="releaser = create_task(release(waiting))",
        teardown="releaser.cancel()\nawait sleep(0)",
        names={
            **statement.names,
            "create_task": asyncio.ensure_future,
            "release": release,
            "waiting": handlers.waiting,
            "sleep": asyncio.sleep,
        },
    )


def rows(
    kind: str, count: int, *baselines: tuple[str, Callable[[list[Handler]], Statement]]
) -> dict[str, Prepare]:
    """Return what prepares the baselines and all peers, with handlers of a kind."""
    found: dict[str, Callable[[list[Handler]], Statement]] = dict(baselines)
    for peer in PEERS:
        found[peer.label] = functools.partial(awaited, peer=peer)
    return {
        label: functools.partial(prepared, row=row, kind=kind, count=count)
        for label, row in found.items()
    }


BY_AWAITING = ((SEQUENTIAL, one_after_another), (GATHER, gathered), (GROUP, grouped))


# The suite ----------------------------------------------------------------------------------------


def run(pace: Pace) -> list[Table]:
    """Measure the four tables."""
    notes = {peer.label: peer.note for peer in PEERS if peer.note and not peer.awaits_emit}
    notes[SEQUENTIAL] = "handlers do not overlap"

    def table(key: str, title: str, baseline: str, columns: dict[str, dict[str, Prepare]]) -> Table:
        measured = [measure(name, rows, baseline, pace) for name, rows in columns.items()]
        labels = list(next(iter(columns.values())))
        return Table(key, title, labels, measured, "ns", notes)

    return [
        table(
            "never_suspending",
            "emit_async, async handlers that never suspend",
            SEQUENTIAL,
            {heading(count): rows("async", count, *BY_AWAITING) for count in COUNTS},
        ),
        table(
            "suspending",
            "emit_async, async handlers that suspend once",
            SEQUENTIAL,
            {
                SLEEPING: rows("suspending", 10, *BY_AWAITING),
                WAITING: rows("waiting", 10, *BY_AWAITING),
            },
        ),
        table(
            "sync_only",
            "emit_async, sync handlers only",
            BY_HAND,
            {heading(n): rows("sync", n, (BY_HAND, loop_in_async_def)) for n in (1, 10)},
        ),
        table(
            "nobody",
            "emit_async, no handlers",
            NOTHING,
            {heading(0): rows("async", 0, (NOTHING, await_nothing))},
        ),
    ]


def target(
    what: str, table: str, head: str, row: str, other: str, limit: float, *, faster: bool = False
) -> Target:
    """Return a target, its limit being part of its text."""
    bound = f"at least {limit:g} times faster" if faster else f"at most {limit:g} times"
    return Target(f"{what}: {bound}", table, head, row, other, limit, faster)


TARGETS = (
    target("1 handler, of awaiting it", "never_suspending", heading(1), OURS, SEQUENTIAL, 2.5),
    target("10 handlers, of awaiting them", "never_suspending", heading(10), OURS, SEQUENTIAL, 1.6),
    target("1 handler, than gather", "never_suspending", heading(1), GATHER, OURS, 20, faster=True),
    target(
        "10 handlers, than gather", "never_suspending", heading(10), GATHER, OURS, 25, faster=True
    ),
    target(
        "10 suspending handlers, than gather",
        "suspending",
        SLEEPING,
        GATHER,
        OURS,
        1.8,
        faster=True,
    ),
    target("1 sync handler, of the loop by hand", "sync_only", heading(1), OURS, BY_HAND, 1.5),
    target("10 sync handlers, of the loop by hand", "sync_only", heading(10), OURS, BY_HAND, 1.5),
    target("no handlers, of awaiting nothing", "nobody", heading(0), OURS, NOTHING, 1.5),
)

SUITE = Suite("emit_async", run, targets=TARGETS)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "emit_async", *sys.argv[1:]]))
