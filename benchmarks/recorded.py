"""What a bus adds to real runs of an agent: recorded events, replayed to typical observers.

    AEB_TRACE=runs.jsonl python -m benchmarks.recorded

The recording has one JSON object a line, `{"event": NAME, "payload": {...}}`. Each event is emitted
with `emit_async` to a sync cost tracker of the model's answers, an async tracer of requests and
tools that never suspends, and an audit of every event, which keeps the last thousand. One call is
the whole recording, read beforehand. A peer without handlers of all events has the audit subscribed
to each name of the recording.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections import Counter, deque
from pathlib import Path
from typing import Any, Callable

from benchmarks.harness import Handlers, Pace, Statement, Suite, Table, UnsupportedError, measure
from benchmarks.peers import PEERS, Peer

INLINE = "inline loop"
TRACE = Path(
    os.environ.get("AEB_TRACE")
    or Path(__file__).parents[2] / "shared" / "data" / "airline_runs.jsonl"
)
PRICED = ("llm.response",)
TRACED = ("llm.request", "llm.response", "tool.start", "tool.end")

Events = list[tuple[str, Any]]

log = logging.getLogger(__name__)


def recorded_events(path: Path, limit: int) -> Events:
    """Return the first events of a recording.

    Raises:
        UnsupportedError: there is no such file.
    """
    if not path.is_file():
        raise UnsupportedError("no recorded runs: set AEB_TRACE")
    with path.open(encoding="utf-8") as lines:
        read = [json.loads(line) for _, line in zip(range(limit), lines)]
    return [(line["event"], line["payload"]) for line in read]


class Observers:
    """What watches the agent.

    Args:
        payload_of: finds the payload in the last argument of a handler.
    """

    def __init__(self, payload_of: Callable[[Any], Any] = lambda received: received) -> None:
        self.payload_of = payload_of
        self.tokens: Counter[str] = Counter()
        self.spans: Counter[str] = Counter()
        self.audited = 0
        self.last: deque[Any] = deque(maxlen=1000)

    def track_cost(self, payload: Any) -> None:
        """Count the tokens of an answer of the model, by run."""
        payload = self.payload_of(payload)
        written = len(payload.get("content") or "") + len("".join(payload.get("tool_calls", ())))
        self.tokens[payload["run_id"]] += -(-written // 4)

    async def trace(self, payload: Any) -> None:
        """Count a span of its run."""
        self.spans[self.payload_of(payload)["run_id"]] += 1

    def audit(self, *received: Any) -> None:
        """Keep the event."""
        self.audited += 1
        self.last.append(received[-1])

    def audit_one(self, payload: Any) -> None:
        """Keep the event, of which one argument is given."""
        self.audit(payload)

    def check(self, events: Events) -> None:
        """Raise UnsupportedError unless every observer got each of its events once."""
        names = Counter(name for name, _ in events)
        spans = sum(names[name] for name in TRACED)
        if self.audited != len(events) or sum(self.spans.values()) != spans:
            raise UnsupportedError("does not reach every handler exactly once")


def inline(_: Handlers, *, events: Events) -> Statement:
    """Prepare the loop that a user would write by hand."""
    seen = Observers()
    source = (
        "for name, payload in events:\n"
        "    for h in sync.get(name, ()):\n"
        "        try:\n"
        "            h(payload)\n"
        "        except Exception:\n"
        "            log.exception('handler failed')\n"
        "    for h in everywhere:\n"
        "        try:\n"
        "            h(name, payload)\n"
        "        except Exception:\n"
        "            log.exception('handler failed')\n"
        "    for h in awaited.get(name, ()):\n"
        "        try:\n"
        "            await h(payload)\n"
        "        except Exception:\n"
        "            log.exception('handler failed')"
    )
    names = {
        "events": events,
        "sync": {name: [seen.track_cost] for name in PRICED},
        "everywhere": [seen.audit],
        "awaited": {name: [seen.trace] for name in TRACED},
        "log": log,
    }
    return checked(source, names, seen, events)


def replay(_: Handlers, *, peer: Peer, events: Events) -> Statement:
    """Prepare a peer's replay."""
    if peer.cannot_await:
        raise UnsupportedError(peer.cannot_await)
    bus = peer.make()
    emission = peer.async_by_name(bus, "name")
    seen = Observers(emission.payload_of)
    rename = peer.event_name
    for name in PRICED:
        peer.on(bus, rename(name), seen.track_cost)
    for name in TRACED:
        peer.on(bus, rename(name), seen.trace)
    if peer.any_parameters is None:
        for name in {name for name, _ in events}:
            peer.on(bus, rename(name), seen.audit_one)
    else:
        peer.on_any(bus, seen.audit)
    renamed = [(rename(name), payload) for name, payload in events]
    source = "for name, payload in events:\n" + "\n".join(
        f"    {line}" for line in emission.source.splitlines()
    )
    names = {**emission.names, "events": renamed}
    names.pop("payload", None)
    return checked(source, names, seen, events, emission.finish)


def checked(
    source: str, names: dict[str, Any], seen: Observers, events: Events, finish: Any = None
) -> Statement:
    """Return a statement that proves, after its first run, that all observers saw everything."""

    def check() -> None:
        if not checked_already:
            checked_already.append(True)
            seen.check(events)

    checked_already: list[bool] = []
    # A turn of more than one run has seen more; the proof of the harness is a turn of one.
    return Statement(
        source,
        {**names, "check": check},
        teardown="if number == 1: check()",
        awaits=True,
        finish=finish,
    )


def run(pace: Pace) -> list[Table]:
    """Replay the recording."""
    labels = [INLINE, *(peer.label for peer in PEERS)]
    try:
        events = recorded_events(TRACE, 50 if pace.quick else sys.maxsize)
    except UnsupportedError as reason:
        notes = dict.fromkeys(labels, str(reason))
        return [Table("recorded", "recorded runs, no recording here", labels, [], "ns", notes)]
    rows: dict[str, Any] = {INLINE: functools.partial(inline, events=events)}
    for peer in PEERS:
        rows[peer.label] = functools.partial(replay, peer=peer, events=events)
    column = measure(f"{len(events):,} events", rows, INLINE, pace)
    # Per event, like the other tables.
    for samples in column.samples.values():
        samples[:] = [sample / len(events) for sample in samples]
    notes = {
        peer.label: "the audit is subscribed to each name"
        for peer in PEERS
        if peer.any_parameters is None and not peer.cannot_await
    }
    return [Table("recorded", "recorded runs, per event", labels, [column], "ns", notes)]


SUITE = Suite("recorded", run)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "recorded", *sys.argv[1:]]))
