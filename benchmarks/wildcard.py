"""What an emission costs when handlers are subscribed to every event.

    python -m benchmarks.wildcard

The columns with many keys have exact names; patterns of segments, such as "tool.*", which few of
the other buses have, are the subject of patterns.py.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

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
    UnsupportedError,
    ignore,
    measure,
)
from benchmarks.peers import PEERS, Peer
from benchmarks.rows import by_hand_and_peers

NAMES = 10_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """What is subscribed while EVENT is emitted.

    Attributes:
        heading: of the column.
        everywhere: how many handlers are subscribed to every event.
        names: how many other exact names have a handler.
        known: whether EVENT has a handler of its own.
    """

    heading: str
    everywhere: int
    names: int = 0
    known: bool = False

    def other_names(self) -> list[str]:
        """Return the names of the events that are not emitted."""
        return [f"other_{index}" for index in range(self.names)]


def scenes(pace: Pace) -> list[Scene]:
    """Return the columns."""
    names = pace.size(NAMES)
    return [
        Scene('1 "*" handler', 1),
        Scene('10 "*" handlers', 10),
        Scene(f'{names:,} names and "*", known name', 1, names, known=True),
        Scene(f'{names:,} names and "*", unknown name', 1, names),
    ]


def inline(handlers: Handlers, *, scene: Scene) -> Statement:
    """Prepare a loop over the handlers of the name and one over those of every event."""
    table = {name: [ignore] for name in scene.other_names()}
    if scene.known:
        table[EVENT] = handlers.make("sync", 1)
    source = (
        f"for h in handlers.get({EVENT!r}, ()):\n"
        "    try:\n"
        "        h(payload)\n"
        "    except Exception:\n"
        "        log.exception('handler failed')\n"
        "for h in everywhere:\n"
        "    try:\n"
        f"        h({EVENT!r}, payload)\n"
        "    except Exception:\n"
        "        log.exception('handler failed')"
    )
    everywhere = handlers.make("sync", scene.everywhere, "event_name, payload")
    names = {"handlers": table, "everywhere": everywhere, "payload": PAYLOAD, "log": log}
    return Statement(source, names)


def emission(handlers: Handlers, *, peer: Peer, scene: Scene) -> Statement:
    """Prepare a peer's emission."""
    if peer.any_parameters is None:
        raise UnsupportedError("has no handlers of all events")
    bus = peer.new()
    for name in scene.other_names():
        peer.on(bus, name, ignore)
    if scene.known:
        peer.on(bus, EVENT, handlers.make("sync", 1)[0])
    for handler in handlers.make("sync", scene.everywhere, peer.any_parameters):
        peer.on_any(bus, handler)
    return peer.emission(bus)


def rows(scene: Scene) -> dict[str, Prepare]:
    """Return what prepares the rows of a column."""
    return by_hand_and_peers(INLINE, inline, emission, scene=scene)


def run(pace: Pace) -> list[Table]:
    """Measure every scene."""
    columns = [measure(scene.heading, rows(scene), INLINE, pace) for scene in scenes(pace)]
    labels = [INLINE, *(peer.label for peer in PEERS)]
    notes = {
        peer.label: "handlers of all events are not told the name"
        for peer in PEERS
        if peer.any_parameters == "payload" and peer.label != "psygnal"
    }
    return [Table("wildcard", "emit, handlers of every event", labels, columns, "ns", notes)]


SUITE = Suite("wildcard", run)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "wildcard", *sys.argv[1:]]))
