"""The worker bus in one event loop after another, each of which ends while things are on their way.

AEB_WORKER_SEEDS sets how many programs are run:

    AEB_WORKER_SEEDS=2000 python -m pytest tests/test_worker_loops.py
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from helpers import soon, turns

from agent_event_bus.store import EventStore
from agent_event_bus.worker import EventBus, OutboundEvent

SEEDS = int(os.environ.get("AEB_WORKER_SEEDS", "12"))
LOOPS = 6


class Program:
    """A bus that runs in several loops, and what is known of its events."""

    def __init__(self, store: EventStore, seed: int) -> None:
        self.chance = random.Random(seed)
        self.bus = EventBus(store=store, maxsize=self.chance.choice([0, 1, 3]))
        self.bus.subscribe(OutboundEvent, self.deliver)
        self.count = 0
        self.delivered: list[OutboundEvent] = []  # in the loop that is on
        self.published: set[int] = set()  # publish() has returned
        self.begun: set[int] = set()  # an acknowledgement has begun

    async def deliver(self, event: OutboundEvent) -> None:
        self.delivered.append(event)
        await turns(self.chance.randrange(3))
        if self.chance.random() < 0.4:
            await self.acknowledge(event)

    async def publish(self) -> None:
        self.count += 1
        event = OutboundEvent("s", self.count, 1.0)
        await self.bus.publish(event)
        self.published.add(event.content)

    async def acknowledge(self, event: OutboundEvent) -> None:
        self.begun.add(event.content)
        await self.bus.ack_async(event)

    async def loop(self, last: bool) -> None:
        """Do this and that, and wait for none of it but in the last loop."""
        before = self.delivered[:2]
        self.delivered.clear()
        if last or self.chance.random() < 0.8:
            self.bus.start()
        tasks: list[asyncio.Task[None]] = []
        for _ in range(self.chance.randrange(6)):
            tasks.append(asyncio.ensure_future(self.publish()))
            await turns(self.chance.randrange(4))
        for event in before:
            if self.chance.random() < 0.3 and event.content not in self.begun:
                tasks.append(asyncio.ensure_future(self.acknowledge(event)))
                await turns(self.chance.randrange(3))
        if last:
            await soon(asyncio.gather(*tasks))
            await soon(self.bus.join())
            await soon(self.bus.stop())


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_a_loop_cuts_off_is_seen_through_in_the_next(seed: int, tmp_path: Path) -> None:
    with EventStore(tmp_path / "events.db") as store:
        program = Program(store, seed)
        runs: list[list[int]] = []
        for number in range(LOOPS):
            asyncio.run(program.loop(last=number == LOOPS - 1))
            runs.append([event.content for event in program.delivered])
        numbers = {event.payload["content"]: event.seq for event in store.read()}
        left = {event.payload["content"] for event in store.pending("worker")}
        for run in runs:
            assert len(set(run)) == len(run), f"twice: {run}"
            order = [numbers[content] for content in run]
            assert order == sorted(order), f"out of order: {run}"
        assert program.published <= set(numbers)
        assert left == set(numbers) - program.begun
        assert left <= set(runs[-1]), f"lost: {left - set(runs[-1])}"
