"""Whether the number of names and patterns that are subscribed to matters for an emission.

    python -m benchmarks.patterns --check

In each table a row has more keys than the one above it, and a column is one way to find the
handlers. The keys that are there in addition match nothing. Half of the patterns begin in a segment
of their own and half in `*`, so that neither can be told from the beginning alone.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import sys
from collections.abc import Sequence

from benchmarks.emit import INLINE
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
    ignore,
    measure,
)
from benchmarks.peers import OURS, PEERS, Peer

SIZES = (1, 100, 10_000)
EXPRESSIONS = "a regular expression each"
PYMITTER = "pymitter"
PATTERN = "agent.*"
KNOWN = "agent.started"

log = logging.getLogger(__name__)
numbers = itertools.count()


def of_size(count: int) -> str:
    """Return the label of the row with so many patterns."""
    return "1 pattern" if count == 1 else f"{count:,} patterns"


def other_patterns(count: int) -> list[str]:
    """Return that many patterns, one of them less, that match none of the names emitted here."""
    return [f"*.other_{i}" if i % 2 else f"other_{i}.*" for i in range(count - 1)]


def fresh(number: int) -> list[str]:
    """Return so many names that no bus has seen and that PATTERN matches."""
    return [f"agent.new_{next(numbers)}" for _ in range(number)]


def of_new_names(statement: Statement) -> Statement:
    """Return a statement whose `names` yields a new name each time."""
    names = {**statement.names, "fresh": fresh}
    return Statement(statement.source, names, setup="names = iter(fresh(number))")


def by_expressions(handlers: Handlers, *, count: int) -> Statement:
    """Prepare what one would write by hand: a list of compiled expressions, each asked in turn."""

    def compiled(pattern: str) -> re.Pattern[str]:
        return re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))

    (handler,) = handlers.make("sync", 1, "event_name, payload")
    table = [(compiled(pattern).fullmatch, ignore) for pattern in other_patterns(count)]
    table.append((compiled(PATTERN).fullmatch, handler))
    source = (
        "name = next(names)\n"
        "for matches, h in patterns:\n"
        "    if matches(name):\n"
        "        try:\n"
        "            h(name, payload)\n"
        "        except Exception:\n"
        "            log.exception('handler failed')"
    )
    return of_new_names(Statement(source, {"patterns": table, "payload": PAYLOAD, "log": log}))


def with_patterns(peer: Peer, handlers: Handlers, count: int) -> Statement:
    """Prepare the emission of a new name by a bus that has patterns."""
    bus = peer.load().EventEmitter(wildcard=True) if peer.label == PYMITTER else peer.make()
    parameters = "payload" if peer.label == PYMITTER else "event_name, payload"
    for pattern in other_patterns(count):
        peer.on(bus, pattern, ignore)
    peer.on(bus, PATTERN, handlers.make("sync", 1, parameters)[0])
    return of_new_names(peer.by_name(bus, "next(names)"))


def new_name(handlers: Handlers, *, peer: Peer | None, count: int) -> Statement:
    """Prepare the emission of a name that is new each time."""
    if peer is None:
        return by_expressions(handlers, count=count)
    return with_patterns(peer, handlers, count)


def known_name(handlers: Handlers, *, exact: bool, names: int, patterns: int) -> Statement:
    """Prepare our emission of a name that was emitted before.

    Args:
        handlers: makes the handler.
        exact: whether it is subscribed under the exact name, and not under PATTERN.
        names: how many other names have a handler.
        patterns: how many patterns have one.
    """
    peer = next(peer for peer in PEERS if peer.label == OURS)
    bus = peer.make()
    for index in range(names):
        peer.on(bus, f"other_{index}", ignore)
    for pattern in other_patterns(patterns + 1):
        peer.on(bus, pattern, ignore)
    parameters = "payload" if exact else "event_name, payload"
    peer.on(bus, EVENT if exact else PATTERN, handlers.make("sync", 1, parameters)[0])
    return peer.by_name(bus, repr(EVENT if exact else KNOWN))


def inline(handlers: Handlers, *, exact: bool) -> Statement:
    """Prepare the loop by hand over the handlers of a name that is known."""
    parameters = "payload" if exact else "event_name, payload"
    call = "h(payload)" if exact else f"h({KNOWN!r}, payload)"
    name = EVENT if exact else KNOWN
    source = (
        f"for h in handlers.get({name!r}, ()):\n"
        "    try:\n"
        f"        {call}\n"
        "    except Exception:\n"
        "        log.exception('handler failed')"
    )
    table = {name: handlers.make("sync", 1, parameters)}
    return Statement(source, {"handlers": table, "payload": PAYLOAD, "log": log})


def scaling(heading: str, peer: Peer | None, sizes: Sequence[int], pace: Pace) -> Column:
    """Measure how the emission of new names depends on the number of patterns."""
    rows: dict[str, Prepare] = {
        of_size(count): functools.partial(new_name, peer=peer, count=count) for count in sizes
    }
    column = measure(heading, rows, of_size(sizes[0]), pace)
    column.missing = {label: f"{heading}: {reason}" for label, reason in column.missing.items()}
    return column


def known(heading: str, exact: bool, size: int, pace: Pace) -> Column:
    """Measure how the emission of a known name depends on what else is subscribed to."""

    def ours(names: int, patterns: int) -> Prepare:
        return functools.partial(known_name, exact=exact, names=names, patterns=patterns)

    rows: dict[str, Prepare] = {
        INLINE: functools.partial(inline, exact=exact),
        "nothing else": ours(0, 0),
        "many names": ours(size, 0),
        "many patterns": ours(0, size),
        "both": ours(size, size),
    }
    return measure(heading, rows, "nothing else", pace)


def run(pace: Pace) -> list[Table]:
    """Measure both tables."""
    sizes = [1, 2, 3] if pace.quick else list(SIZES)
    peers = {peer.label: peer for peer in PEERS}
    columns = [
        scaling(OURS, peers[OURS], sizes, pace),
        scaling(EXPRESSIONS, None, sizes, pace),
        scaling(PYMITTER, peers[PYMITTER], sizes, pace),
    ]
    size = pace.size(SIZES[-1])
    places = [known("exact name", True, size, pace), known("pattern", False, size, pace)]
    first = "first emission of a new name, of 1 pattern"
    later = f"later emissions; many are {size:,}"
    return [
        Table("new_names", first, [of_size(count) for count in sizes], columns),
        Table("known_names", later, list(places[0].samples), places),
    ]


def target(what: str, table: str, heading: str, row: str, other: str, limit: float) -> Target:
    """Return a target that `row` takes at most `limit` times as long as `other`."""
    return Target(f"{what}: at most {limit:g} times", table, heading, row, other, limit)


TARGETS = (
    target(
        "a new name with 10,000 patterns, of one with 1",
        *("new_names", OURS, of_size(SIZES[-1]), of_size(1)),
        2,
    ),
    target(
        "an exact name beside 10,000 names and patterns, of one alone",
        *("known_names", "exact name", "both", "nothing else"),
        1.1,
    ),
    target(
        "a name that a pattern matches beside 10,000 of each, of one alone",
        *("known_names", "pattern", "both", "nothing else"),
        1.1,
    ),
)

SUITE = Suite("patterns", run, targets=TARGETS)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "patterns", *sys.argv[1:]]))
