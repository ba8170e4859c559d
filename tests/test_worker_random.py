"""The worker bus under whatever may happen to it at once, in random order.

AEB_WORKER_SEEDS sets how many programs are run:

    AEB_WORKER_SEEDS=2000 python -m pytest tests/test_worker_random.py
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest
from helpers import soon, turns

from agent_event_bus.store import EventStore, StoreError
from agent_event_bus.worker import Event, EventBus, InboundEvent, OutboundEvent, outbox

SEEDS = int(os.environ.get("AEB_WORKER_SEEDS", "12"))
STEPS = 40


class Moody:
    """A store that is slow, refuses for a while, and remembers what it has done for a program."""

    def __init__(self, store: EventStore, program: Program) -> None:
        self.store = store
        self.program = program
        self.refuses = False
        self.acknowledged: dict[int, int] = {}  # number of an event, in which run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def _wait(self) -> None:
        await turns(self.program.chance.choice([0, 0, 1, 8]))
        self._check()

    def _check(self) -> None:
        if self.refuses:
            raise StoreError("not now")

    async def append_async(self, *args: Any, **options: Any) -> int:
        await self._wait()
        return await self.store.append_async(*args, **options)

    async def ack_async(self, consumer: str, seq: int) -> None:
        run = self.program.run
        await self._wait()
        await self.store.ack_async(consumer, seq)
        self.acknowledged[seq] = run

    def ack(self, consumer: str, seq: int) -> None:
        self._check()
        self.store.ack(consumer, seq)
        self.acknowledged[seq] = self.program.run

    def ack_through(self, consumer: str, seq: int) -> None:
        self._check()
        self.store.ack_through(consumer, seq)


class Program:
    """A random program over one store, and what it knows of every event."""

    def __init__(self, store: EventStore, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = Moody(store, self)
        self.count = 0
        self.run = 0  # which run this is
        self.deliveries: list[tuple[int, Event]] = []
        self.published: list[Event] = []  # publish() has returned
        self.refused: set[int] = set()  # publish() has raised StoreError
        self.begun: set[int] = set()  # an acknowledgement has begun, and was not refused
        self.inbound: set[int] = set()  # of this bus, to be delivered
        self.tasks: list[asyncio.Task[None]] = []
        self.bus = self.new_bus()

    def new_bus(self) -> EventBus:
        self.inbound = set()
        store: Any = self.store
        bus = EventBus(store=store, maxsize=self.chance.choice([0, 1, 3]))
        bus.subscribe(Event, self.deliver)
        return bus

    def new_event(self) -> Event:
        self.count += 1
        kind = InboundEvent if self.chance.random() < 0.5 else OutboundEvent
        return kind("s", self.count, 1.0)

    async def deliver(self, event: Event) -> None:
        self.deliveries.append((self.run, event))
        if self.chance.random() < 0.5:
            await turns(self.chance.randrange(4))
        if self.chance.random() < 0.2 and self.count < STEPS * 2:
            await self.publish(self.new_event())
        if self.chance.random() < 0.3:
            await self.acknowledge(event)
        self.inbound.discard(event.content)

    async def publish(self, event: Event) -> None:
        bus = self.bus
        try:
            await bus.publish(event)
        except StoreError:
            self.refused.add(event.content)
            return
        self.published.append(event)
        if isinstance(event, InboundEvent) and bus is self.bus:
            self.inbound.add(event.content)

    async def acknowledge(self, event: Event) -> None:
        first = event.content not in self.begun
        if isinstance(event, OutboundEvent):
            self.begun.add(event.content)
        if self.chance.random() < 0.5:
            event = type(event).from_dict(event.to_dict())  # an equal one
        how = self.bus.ack_async if self.chance.random() < 0.5 else None
        try:
            done = self.bus.ack(event) if how is None else await how(event)
        except StoreError:
            self.begun.discard(event.content)
            return
        if first:
            assert done == isinstance(event, OutboundEvent)

    async def acknowledge_later(self, event: Event) -> None:
        """Acknowledge outside of any handler, as who hears from the other side does."""
        await turns(self.chance.randrange(4))
        await self.acknowledge(event)

    async def step(self) -> None:
        chance = self.chance.random()
        if chance < 0.45:
            self.tasks.append(asyncio.ensure_future(self.publish(self.new_event())))
        elif chance < 0.52 and self.tasks:
            self.chance.choice(self.tasks).cancel()
        elif chance < 0.56 and self.deliveries:
            _, event = self.chance.choice(self.deliveries[-3:])
            self.tasks.append(asyncio.ensure_future(self.acknowledge_later(event)))
        elif chance < 0.65:
            self.start()
        elif chance < 0.72:
            await soon(self.bus.stop(timeout=self.chance.choice([0, 0.001, None])))
        elif chance < 0.75 and self.bus.is_running():
            await self.cancel()
        elif chance < 0.78:
            await self.crash()
        elif chance < 0.82:
            self.store.refuses = not self.store.refuses
        elif chance < 0.85:
            self.store.store.append("other")  # of something else that has this store
        await turns(self.chance.randrange(6))

    def start(self) -> None:
        if not self.bus.is_running():
            self.run += 1
        self.bus.start()

    async def cancel(self) -> None:
        task = self.bus.start()
        task.cancel()
        await soon(asyncio.wait([task]))

    async def crash(self) -> None:
        """Go on with another bus, as after the end of the process."""
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await soon(asyncio.wait(self.tasks))
        self.tasks.clear()
        await soon(self.bus.stop(timeout=0))
        self.bus = self.new_bus()

    async def finish(self) -> None:
        """Let everything come to its end, in a last run."""
        self.store.refuses = False
        await soon(self.bus.stop(timeout=0))
        self.start()
        await soon(self.publish(self.new_event()))
        for task in self.tasks:
            if self.chance.random() < 0.3:
                task.cancel()
        if self.tasks:
            await soon(asyncio.wait(self.tasks))
        await soon(self.bus.join())
        await soon(self.bus.stop())

    def check(self) -> None:
        own = list(self.store.read(key="worker.outbound"))
        numbers = {each.payload["content"]: each.seq for each in own}
        assert not self.refused & set(numbers), "refused, and stored all the same"
        acknowledged = {
            content: self.store.acknowledged[number]
            for content, number in numbers.items()
            if number in self.store.acknowledged
        }
        for run in range(1, self.run + 1):
            of_run = [event for number, event in self.deliveries if number == run]
            out = [event.content for event in of_run if isinstance(event, OutboundEvent)]
            assert len(set(out)) == len(out), f"twice in run {run}: {out}"
            order = [numbers[content] for content in out]
            assert order == sorted(order), f"out of order in run {run}: {out}"
            late = [c for c in out if acknowledged.get(c, run) < run]
            assert not late, f"acknowledged before run {run}: {late}"
        in_last = {event.content for number, event in self.deliveries if number == self.run}
        for event in self.published:
            if isinstance(event, OutboundEvent):
                if event.content not in acknowledged:
                    assert event.content in in_last, f"lost {event.content}"
                assert event.content in numbers, f"not durable: {event.content}"
        pending = self.store.pending("worker", key="worker.outbound")
        left = {each.payload["content"] for each in pending}
        assert left == set(numbers) - set(acknowledged)
        assert not self.inbound, f"inbound ones lost: {self.inbound}"


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nothing_is_lost_doubled_or_out_of_order(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SWEEP_AFTER", 3)  # acknowledgements
    with EventStore(tmp_path / "events.db") as store:
        program = Program(store, seed)
        for _ in range(STEPS):
            await program.step()
        await program.finish()
        program.check()
        assert program.deliveries
