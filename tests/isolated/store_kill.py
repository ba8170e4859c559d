"""Kill a process that writes to a store, at random instants, and look at what it left.

    python tests/isolated/store_kill.py FOLDER ROUNDS [SEED]

Each round forks a child that writes in one of seven ways and reports through a pipe what it was
told is durable. After a random time it is killed with SIGKILL. Then the parent opens the store and
checks, over all rounds:

- what was reported as durable is there, exactly once, under the number that was reported, and no
  event at all is there twice;
- the events of each writer are in the order in which it wrote them, without a gap;
- no number is given to two events, whatever was pruned or never committed;
- a file was imported as a whole or not at all, and an export is whole;
- what was acknowledged is no longer pending, and what nobody began to acknowledge still is;
- `verify` finds nothing.

Prints a line of counts as JSON. Any fault ends it with an exception.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore, StoredEvent

CONSUMER = "mailer"
ROUNDS_PER_FILE = 25
"""Rounds on one file: it is new in the first, whose child may die while it makes it."""
KEPT = 1500
"""Events that pruning leaves now and then, because each round looks at all of them."""
TASKS = 40
PATIENCE = 30.0
"""Seconds that a child may take until something is durable."""
REPORT = struct.Struct("=cqq")
DURABLE, FLUSHED, IMPORTED, EXPORTED = "d", "f", "i", "e"
TRIES, ACKED, TRIES_THROUGH, ACKED_THROUGH = "t", "a", "T", "A"
IN_FILE = 150
"""Events of a file that is imported."""

Report = Callable[[str, int, int], None]


# The children: each writes until it is killed -----------------------------------------------------


def event(round_: int, writer: int, number: int) -> dict[str, Any]:
    """Return a payload that tells which event it is."""
    return {"round": round_, "writer": writer, "number": number, "text": "x" * (number % 700)}


def write_each(path: Path, round_: int, report: Report) -> None:
    """Append one after another, each durable when the call returns."""
    with EventStore(path, sync="each") as store:
        for number in range(10**9):
            seq = store.append("each", event(round_, 0, number))
            assert seq is not None
            report(DURABLE, number, seq)


def write_process(path: Path, round_: int, report: Report) -> None:
    """Append one after another, each with the operating system when the call returns."""
    with EventStore(path, sync="process") as store:
        for number in range(10**9):
            seq = store.append("process", event(round_, 0, number))
            assert seq is not None
            report(DURABLE, number, seq)


def write_batch(path: Path, round_: int, report: Report) -> None:
    """Append to the queue, and flush now and then: all before it is durable then."""
    with EventStore(path) as store:
        for number in range(10**9):
            store.append("batch", event(round_, 0, number))
            if number % 97 == 96:
                assert store.flush()
                report(FLUSHED, number, 0)


def write_bus(path: Path, round_: int, report: Report) -> None:
    """Emit on a bus that the store is attached to, in groups of the 50 ms."""
    store = EventStore(path)
    bus = EventBus()
    store.attach(bus)
    for number in range(10**9):
        bus.emit("bus.event", event(round_, 0, number))
        if number % 300 == 299:
            assert store.flush()
            report(FLUSHED, number, 0)


def write_async(path: Path, round_: int, report: Report) -> None:
    """Append from many tasks at once."""

    async def writer(store: EventStore, index: int) -> None:
        for number in range(10**9):
            seq = await store.append_async("async", event(round_, index, number))
            report(DURABLE, index << 32 | number, seq)

    async def main() -> None:
        with EventStore(path) as store:
            await asyncio.gather(*[writer(store, index) for index in range(TASKS)])

    asyncio.run(main())


def write_acks(path: Path, round_: int, report: Report) -> None:
    """Append, and acknowledge in each of the ways what is there."""

    async def writer(store: EventStore, index: int) -> None:
        for number in range(10**9):
            seq = await store.append_async("acks", event(round_, index, number))
            report(DURABLE, index << 32 | number, seq)
            if number % 3 == 0:
                report(TRIES, seq, 0)
                await store.ack_async(CONSUMER, seq)
                report(ACKED, seq, 0)
            elif index == 0 and number % 7 == 1:
                report(TRIES, seq, 0)
                store.ack(CONSUMER, seq)
                report(ACKED, seq, 0)
            elif index == 1 and number % 11 == 1:
                through = seq - 20 * TASKS
                if through > 0:
                    report(TRIES_THROUGH, through, 0)
                    store.ack_through(CONSUMER, through)
                    report(ACKED_THROUGH, through, 0)

    async def main() -> None:
        with EventStore(path) as store:
            await asyncio.gather(*[writer(store, index) for index in range(10)])

    asyncio.run(main())


def write_files(path: Path, round_: int, report: Report) -> None:
    """Import a file, all of it or nothing, and export the log, again and again."""
    source = path.with_suffix(".import.jsonl")
    with EventStore(path) as store:
        for writer in range(10**9):
            lines = [
                json.dumps({"event": "files", "payload": event(round_, writer, number)})
                for number in range(IN_FILE)
            ]
            source.write_text("\n".join(lines))
            store.import_jsonl(source)
            report(IMPORTED, writer << 32 | IN_FILE - 1, 0)
            report(EXPORTED, store.export_jsonl(path.with_suffix(".jsonl")), 0)


WAYS = {
    "each": write_each,
    "process": write_process,
    "batch": write_batch,
    "async": write_async,
    "acks": write_acks,
    "bus": write_bus,
    "files": write_files,
}


def in_child(way: str, path: Path, round_: int, pipe: int) -> None:
    """Write until killed; never returns."""
    status = 1
    try:

        def report(kind: str, first: int, second: int) -> None:
            os.write(pipe, REPORT.pack(kind.encode(), first, second))

        WAYS[way](path, round_, report)
    except BaseException as error:
        os.write(2, f"the child failed: {error!r}\n".encode())
    finally:
        os._exit(status)


def killed(
    way: str, path: Path, round_: int, early: bool, seconds: float
) -> list[tuple[str, int, int]]:
    """Run a child, kill it, and return what it reported.

    Args:
        way: how it writes.
        path: of the store.
        round_: the number of the round.
        early: whether the time is counted from its beginning and not from its first report.
        seconds: the time until it is killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        in_child(way, path, round_, writing)
    os.close(writing)
    text = b""
    ends = time.monotonic() + (seconds if early else PATIENCE)
    counting = early
    open_ = True
    while open_ and time.monotonic() < ends:
        ready, _, _ = select.select([reading], [], [], max(0.0, ends - time.monotonic()))
        if ready:
            part = os.read(reading, 1 << 16)
            text += part
            open_ = bool(part)
            if not counting:
                counting, ends = True, time.monotonic() + seconds
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while part := os.read(reading, 1 << 16):
        text += part
    os.close(reading)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise AssertionError(f"round {round_} ({way}): the child ended by itself, {status}")
    whole = len(text) - len(text) % REPORT.size
    return [(k.decode(), a, b) for k, a, b in REPORT.iter_unpack(text[:whole])]


# What one file must have --------------------------------------------------------------------------


class Expected:
    """What is known of one file, over the rounds that wrote to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_seq: dict[int, tuple[int, int, int]] = {}  # every event that was ever seen
        self.pruned_through = self.prunings = 0
        self.known = False  # that there is a consumer
        self.acked: set[int] = set()
        self.tried: set[int] = set()
        self.through = self.tried_through = 0
        self.counts: Counter[str] = Counter()

    def check(self, round_: int, way: str, reports: list[tuple[str, int, int]]) -> None:
        """Compare the file with what was reported, in this round and before."""
        with EventStore(self.path, sync="each") as store:
            problems = store.verify()
            assert problems == [], problems
            found = list(store.read())
            self._events(round_, way, found)
            self._reported(round_, way, reports)
            self._acknowledged(store, found, reports)
            self._prune(store, found)

    def _events(self, round_: int, way: str, found: list[StoredEvent]) -> None:
        """Each event is there once, under the number it always had, in the order of its writer."""
        numbers = [event.seq for event in found]
        assert numbers == sorted(set(numbers)), "numbers do not rise"
        now = {
            event.seq: (event.payload["round"], event.payload["writer"], event.payload["number"])
            for event in found
        }
        assert len(set(now.values())) == len(now), "an event is there twice"
        for seq, identity in self.by_seq.items():
            if seq > self.pruned_through:
                assert now.get(seq) == identity, f"event {seq} has changed or is gone"
        last = max(self.by_seq, default=0)
        fresh = {seq: identity for seq, identity in now.items() if seq not in self.by_seq}
        assert all(seq > last for seq in fresh), "a number was given again"
        expected: dict[int, int] = {}
        for event in found:
            if event.seq in fresh:
                assert (event.payload["round"], event.form) == (round_, "value")
                assert event.payload == {
                    **event.payload,
                    "text": "x" * (event.payload["number"] % 700),
                }
                assert event.name == ("bus.event" if way == "bus" else way)
                writer = event.payload["writer"]
                assert event.payload["number"] == expected.get(writer, 0), "out of order, or a gap"
                expected[writer] = event.payload["number"] + 1
        if way == "files":
            assert set(expected.values()) <= {IN_FILE}, "a part of a file was imported"
        self.by_seq.update(fresh)
        self.counts["events"] += len(fresh)

    def _reported(self, round_: int, way: str, reports: list[tuple[str, int, int]]) -> None:
        """What was durable is there."""
        stored = {identity: seq for seq, identity in self.by_seq.items()}
        for kind, first, second in reports:
            if kind == DURABLE:
                identity = (round_, first >> 32, first & 0xFFFFFFFF)
                assert stored.get(identity) == second, f"{identity} is not event {second}"
            elif kind == FLUSHED:
                assert (round_, 0, first) in stored, f"{first} was flushed and is not there"
            elif kind == IMPORTED:
                identity = (round_, first >> 32, first & 0xFFFFFFFF)
                assert identity in stored, f"{identity} was imported and is not there"
            elif kind == EXPORTED:
                lines = self.path.with_suffix(".jsonl").read_text().splitlines()
                assert len(lines) >= first, "an export is not whole"
                assert all(json.loads(line)["seq"] in self.by_seq for line in lines)
            else:
                continue
            self.counts[f"{way}: durable"] += 1

    def _acknowledged(
        self, store: EventStore, found: list[StoredEvent], reports: list[tuple[str, int, int]]
    ) -> None:
        """The ledger has all that was acknowledged, and nothing that nobody acknowledged."""
        for kind, first, _ in reports:
            if kind == TRIES:
                self.tried.add(first)
            elif kind == ACKED:
                self.acked.add(first)
                self.counts["acknowledged"] += 1
            elif kind == TRIES_THROUGH:
                self.tried_through = max(self.tried_through, first)
            elif kind == ACKED_THROUGH:
                self.through = max(self.through, first)
                self.counts["acknowledged"] += 1
        if not self.known and not self.tried:
            return
        self.known = True
        pending = {event.seq for event in store.pending(CONSUMER)}
        there = {event.seq for event in found}
        must = {s for s in there if s not in self.tried and s > self.tried_through}
        must_not = {s for s in there if s in self.acked or s <= self.through}
        assert must <= pending <= there - must_not, "the ledger is wrong"
        # What was being acknowledged when the child died is settled now, one way or the other.
        self.acked |= there - pending
        self.tried |= self.acked

    def _prune(self, store: EventStore, found: list[StoredEvent]) -> None:
        """Delete old events now and then, or all of them: their numbers must not come again."""
        if len(found) < KEPT:
            return
        if self.known:
            store.ack_through(CONSUMER, found[-1].seq)
            self.through = self.tried_through = found[-1].seq
        # Every other time all of them, so that the highest number is one that is gone.
        self.prunings += 1
        keep = 100 if self.prunings % 2 else 0
        assert store.prune(keep_last=keep) == len(found) - keep
        self.pruned_through = found[len(found) - keep - 1].seq


def main(folder: Path, rounds: int, seed: int) -> None:
    """Kill children, and print what was counted."""
    chance = random.Random(seed)
    counts = Counter(rounds=rounds)
    files: list[Expected] = []
    for round_ in range(rounds):
        if round_ % ROUNDS_PER_FILE == 0:
            files.append(Expected(folder / f"{len(files)}.db"))
        # The first child of a file may well be killed while it makes the file.
        early = round_ % ROUNDS_PER_FILE == 0 or (round_ >= 2 * len(WAYS) and chance.random() < 0.2)
        way = list(WAYS)[round_ % len(WAYS)]
        reports = killed(way, files[-1].path, round_, early, chance.uniform(0.0, 0.05))
        try:
            files[-1].check(round_, way, reports)
        except AssertionError as error:
            raise AssertionError(f"round {round_} ({way}), seed {seed}: {error}") from error
    for file in files:
        counts.update(file.counts)
    print(json.dumps(counts))


if __name__ == "__main__":
    given = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(10**6)
    main(Path(sys.argv[1]), int(sys.argv[2]), given)
