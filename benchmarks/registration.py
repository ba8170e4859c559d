"""What subscribing and removing a handler costs, and the first emission of a new name.

    python -m benchmarks.registration

A bus that prepares its emissions at subscription time, as agent_event_bus does, pays here. Each row
subscribes one handler and removes it again, so that the bus stays as large as the column says.
"""

from __future__ import annotations

import itertools
import logging
import sys

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
    ignore,
    measure,
)
from benchmarks.peers import PEERS, Peer
from benchmarks.rows import by_hand_and_peers

DICT = "dict of lists"
SIZE = 10_000

log = logging.getLogger(__name__)
numbers = itertools.count()


def fresh(number: int) -> list[str]:
    """Return so many names that no bus has seen."""
    return [f"new_{next(numbers)}" for _ in range(number)]


def others(count: int, *, same: bool) -> list[str]:
    """Return the names of the subscriptions that are there already."""
    return [EVENT if same else f"other_{index}" for index in range(count)]


def by_hand(handlers: Handlers, *, count: int, same: bool) -> Statement:
    """Prepare the least that can be done by hand."""
    table: dict[str, list[object]] = {}
    for name, handler in zip(others(count, same=same), Handlers().make("sync", count)):
        table.setdefault(name, []).append(handler)
    source = (
        f"handlers.setdefault({EVENT!r}, []).append(handler)\nhandlers[{EVENT!r}].remove(handler)"
    )
    return Statement(source, {"handlers": table, "handler": ignore})


def registering(handlers: Handlers, *, peer: Peer, count: int, same: bool) -> Statement:
    """Prepare a peer's subscription and removal."""
    bus = peer.make()
    peer.preload(bus, others(count, same=same), Handlers().make("sync", count))
    return peer.registration(bus, ignore)


def inline(handlers: Handlers, *, count: int) -> Statement:
    """Prepare a loop over the handlers of a name that has none, and those of every event."""
    source = (
        "for h in handlers.get(next(names), ()):\n"
        "    try:\n"
        "        h(payload)\n"
        "    except Exception:\n"
        "        log.exception('handler failed')\n"
        "for h in everywhere:\n"
        "    try:\n"
        "        h('name', payload)\n"
        "    except Exception:\n"
        "        log.exception('handler failed')"
    )
    table = {name: [ignore] for name in others(count - 1, same=False)}
    everywhere = handlers.make("sync", 1, "event_name, payload")
    names = {"handlers": table, "everywhere": everywhere, "payload": PAYLOAD, "log": log}
    names["fresh"] = fresh
    return Statement(source, names, setup="names = iter(fresh(number))")


def first_emission(handlers: Handlers, *, peer: Peer, count: int) -> Statement:
    """Prepare a peer's emission of a new name each time."""
    bus = peer.make()
    for name in others(count - 1, same=False):
        peer.on(bus, name, ignore)
    if peer.any_parameters is not None and peer.label != "psygnal":
        peer.on_any(bus, handlers.make("sync", 1, peer.any_parameters)[0])
    else:
        peer.on(bus, EVENT, ignore)
    statement = peer.by_name(bus, "next(names)")
    return Statement(
        statement.source,
        {**statement.names, "fresh": fresh},
        setup="names = iter(fresh(number))",
        awaits=statement.awaits,
        finish=statement.finish,
        payload_of=statement.payload_of,
    )


def registrations(count: int, *, same: bool = False) -> dict[str, Prepare]:
    """Return what prepares the rows with so many other subscriptions."""
    return by_hand_and_peers(DICT, by_hand, registering, count=count, same=same)


def first_emissions(count: int) -> dict[str, Prepare]:
    """Return what prepares the rows with so many subscriptions."""
    return by_hand_and_peers(INLINE, inline, first_emission, count=count)


def run(pace: Pace) -> list[Table]:
    """Measure both tables."""
    size = pace.size(SIZE)
    labels = [peer.label for peer in PEERS]
    registered = [
        measure("the only one", registrations(0), DICT, pace),
        measure(f"number {size:,}, other names", registrations(size - 1), DICT, pace),
        measure(f"number {size:,}, same name", registrations(size - 1, same=True), DICT, pace),
    ]
    emitted = [
        measure(
            "1 subscription" if count == 1 else f"{count:,} subscriptions",
            first_emissions(count),
            INLINE,
            pace,
        )
        for count in (1, 10 if pace.quick else 100, size)
    ]
    nobody = {
        peer.label: "has no handlers of all events: the name reaches nobody"
        for peer in PEERS
        if peer.any_parameters is None or peer.label == "psygnal"
    }
    return [
        Table("registration", "on and off", [DICT, *labels], registered),
        Table("cold", "first emission of a new name", [INLINE, *labels], emitted, "ns", nobody),
    ]


SUITE = Suite("registration", run)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "registration", *sys.argv[1:]]))
