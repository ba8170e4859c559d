"""Kill a process that publishes, delivers and acknowledges, again and again, and see what remains.

    python tests/isolated/worker_kill.py ROUNDS SEED

Each round a child opens the bus on the same file and runs it. It says over a pipe when it begins
and when it has returned from each publish and each acknowledgement, and what is delivered to it; it
is killed with SIGKILL at a random instant. So the parent knows of each event whether it has to be
delivered again, must not be, or may be either, because the child was killed between the act and the
report. The next child is delivered what is left before anything else, and the parent compares.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

from agent_event_bus.worker import EventBus, InboundEvent, OutboundEvent

PUBLISHERS = 4
DEADLINE = 30.0  # seconds that a child may take for anything

logging.getLogger("agent_event_bus").setLevel(logging.CRITICAL)  # of recoveries


# In the child


async def work(path: Path, number: int, chance: random.Random, pipe: int, last: bool) -> None:
    """Run the bus and say what happens, until it is killed; in the last round until all is done."""

    def say(what: str, event: object) -> None:
        os.write(pipe, f"{what} {event}\n".encode())

    bus = EventBus(SimpleNamespace(config=SimpleNamespace(event_path=path)), maxsize=20)

    async def deliver(event: OutboundEvent) -> None:
        say("delivered", event.content)
        kind = 0 if last else chance.randrange(6)
        if kind == 5:
            return
        say("acknowledging", event.content)
        done = bus.ack(event) if kind < 2 else await bus.ack_async(event)
        say("acknowledged" if done else "unknown", event.content)

    def recovered(event: InboundEvent) -> None:
        say("recovered", "-")

    bus.subscribe(OutboundEvent, deliver)
    bus.subscribe(InboundEvent, recovered)
    await bus.publish(InboundEvent("parent", "all that is recovered comes before this"))
    bus.start()

    async def publisher(name: int) -> None:
        count = 0
        while True:
            content = f"{number}.{name}.{count}"
            say("publishing", content)
            await bus.publish(OutboundEvent(f"s{name}", content))
            say("published", content)
            count += 1

    if last:
        await bus.join()
        await bus.stop()
    else:
        await asyncio.gather(*map(publisher, range(PUBLISHERS)))


def child(path: Path, number: int, seed: int, pipe: int, last: bool) -> None:
    try:
        asyncio.run(work(path, number, random.Random(seed), pipe, last))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


# In the parent


def round_of(path: Path, number: int, chance: random.Random, last: bool) -> list[tuple[str, str]]:
    """Run a child, kill it unless it is the last, and return what it has said."""
    reading, writing = os.pipe()
    seed = chance.randrange(1 << 30)
    process = os.fork()
    if process == 0:
        os.close(reading)
        child(path, number, seed, writing, last)
    os.close(writing)
    said = b""
    began = time.monotonic()
    kill_at: float | None = None
    # So that many a recovery is cut short, and many are not.
    mark, longest = chance.choice([(b"delivered", 0.01), (b"recovered", 0.05)])
    while True:
        now = time.monotonic()
        if now > began + DEADLINE:
            os.kill(process, signal.SIGKILL)
            raise AssertionError(f"round {number} hangs after {said[-200:]!r}")
        pause = 1.0 if kill_at is None else max(0.0, kill_at - now)
        if select.select([reading], [], [], pause)[0]:
            data = os.read(reading, 1 << 16)
            if not data:
                break
            said += data
            if kill_at is None and not last and mark in said:
                kill_at = time.monotonic() + chance.uniform(0.0, longest)
        elif kill_at is not None and time.monotonic() >= kill_at:
            os.kill(process, signal.SIGKILL)
            kill_at = None
            last = True  # what it has said before it was killed is still to be read
    os.close(reading)
    _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL), f"round {number}: the child ended with status {status}"
    lines = said.decode().splitlines()
    return [(what, event) for what, _, event in (line.partition(" ") for line in lines)]


class Ledger:
    """What the parent knows: which events must be delivered again, and which may be."""

    def __init__(self) -> None:
        self.must: set[str] = set()
        self.may: set[str] = set()
        self.place: dict[str, int] = {}
        self.counts = {"published": 0, "acknowledged": 0, "redelivered": 0, "cut_short": 0}

    def follow(self, number: int, said: list[tuple[str, str]]) -> None:
        """Compare what a round has said with what is known, and learn from it."""
        before = set(self.must)
        maybe = set(self.may)
        recovering = True
        seen: list[str] = []
        in_doubt: set[str] = set()  # an acknowledgement has begun
        for what, event in said:
            if what == "recovered":
                recovering = False
                missing = before - set(seen)
                assert not missing, f"round {number}: lost {sorted(missing)}"
                # What may or may not have been left behind has shown by now which it was.
                self.may -= maybe - set(seen)
            elif what == "delivered":
                old = event in before or event in maybe
                assert old == recovering, f"round {number}: {event} out of turn"
                assert event not in seen, f"round {number}: {event} delivered twice"
                seen.append(event)
                if old:
                    self.counts["redelivered"] += 1
                    self.may.discard(event)
                    self.must.add(event)
            elif what == "publishing":
                self.may.add(event)
            elif what == "published":
                self.counts["published"] += 1
                if event in self.may and event not in in_doubt:
                    self.may.discard(event)
                    self.must.add(event)
            elif what == "acknowledging":
                # Its handler may be faster than the publisher, who says only later that it is done.
                in_doubt.add(event)
                self.must.discard(event)
                self.may.add(event)
            elif what == "acknowledged":
                self.counts["acknowledged"] += 1
                self.may.discard(event)
                self.must.discard(event)
            else:
                raise AssertionError(f"round {number}: {what} {event}")
        if recovering:
            self.counts["cut_short"] += 1
        self.compare_order(number, seen)

    def compare_order(self, number: int, seen: list[str]) -> None:
        """Compare with the order of earlier rounds, and with that of each publisher."""
        places = [self.place[event] for event in seen if event in self.place]
        assert places == sorted(places), f"round {number}: another order than before"
        for event in seen:
            self.place.setdefault(event, len(self.place))
        last: dict[tuple[str, str], int] = {}
        for event in seen:
            generation, name, count = event.split(".")
            assert int(count) > last.get((generation, name), -1), f"round {number}: {event} late"
            last[generation, name] = int(count)


def main(rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for number in range(rounds):
            ledger.follow(number, round_of(path, number, chance, last=False))
        ledger.follow(rounds, round_of(path, rounds, chance, last=True))
        assert not ledger.must, f"left in the end: {sorted(ledger.must)}"
        from agent_event_bus.store import EventStore

        with EventStore(path / "events.db") as store:
            left = [event.payload["content"] for event in store.pending("worker")]
            assert left == [], f"left in the store: {left}"
    print("ok", " ".join(f"{what}={count}" for what, count in ledger.counts.items()))


main(int(sys.argv[1]), int(sys.argv[2]))
