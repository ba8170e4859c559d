"""What the threads of races.py do: each function takes the race and the number of its thread."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

from racing import DEADLINE, AsyncHandler, Handler, Once, Permanent, Race, Sent, lock_is_off


class Note(Sent):
    """What is published."""


class AsyncPermanent(Permanent, AsyncHandler):
    """A coroutine function that stays."""


class AsyncOnce(Once, AsyncHandler):
    """A coroutine function that is subscribed for once."""


NAMES = ["shared.a", "shared.b"]
KEYS: list[Any] = ["shared.a", "shared.b", "shared.*", "*", "*.a", Note, object]


def emitting(race: Race, number: int) -> None:
    """Emit in all ways that do not need a loop."""
    bus, me = race.bus, f"{number}"
    emitter = bus.emitter("shared.b")
    for turn in range(race.operations):
        way = turn % 4
        if way == 0:
            race.emit("shared.a", f"shared.a/emit {me}")
        elif way == 1:
            race.sent("shared.b", emitter(race.next_of(f"shared.b/emitter {me}")))
        elif way == 2:
            race.sent("Note", bus.publish(race.next_of(f"Note/publish {me}", Note)))
        else:
            outcomes = bus.collect("shared.a", race.next_of(f"shared.a/collect {me}"))
            race.sent("shared.a", len(outcomes))


def changing(race: Race, number: int) -> None:
    """Subscribe and cancel, and look each time whether that is so."""
    rng = random.Random(number)
    mine: list[Handler] = []
    own = f"own.{number}"
    for _ in range(race.operations):
        race.tally.done += 1
        if len(mine) < 5:
            key = rng.choice([*KEYS, own, [own, "shared.a", "shared.*"]])
            mine.append(race.subscribe(key, priority=rng.randrange(-1, 2)))
        else:
            handler = mine.pop(rng.randrange(len(mine)))
            race.expect(handler.cancel(), "cancel() of an active subscription was False")
            race.expect(not handler.cancel(), "a second cancel() was True")
        before = sum(race.tally.calls[handler.number] for handler in mine)
        counted = race.emit(own, f"{own}/")
        reached = [h for h in mine if h.key in ("*", own) or isinstance(h.key, list)]
        called = sum(race.tally.calls[handler.number] for handler in mine) - before
        race.expect(called == len(reached), f"{called} of {len(reached)} handlers were called")
        race.expect(counted >= called, f"emit returned {counted}, and called {called}")


def cancelling_in_handlers(race: Race, number: int) -> None:
    """A handler cancels one that comes later in the very emission."""
    own = f"own.{number}"

    def cancel(payload: object) -> None:
        race.tally.calls[0] += 1
        later.cancel()

    race.bus.on(own, cancel)
    for _ in range(race.operations // 4):
        later = race.subscribe([own, "shared.a"], priority=1)
        race.emit(own, f"{own}/")


def emitting_once(race: Race, number: int) -> None:
    """Subscribe for once to what everybody emits, and cancel every other one."""
    for turn in range(race.operations // 2):
        handler = race.subscribe(KEYS[turn % len(KEYS)], Once, once=True)
        race.emit("shared.a", f"shared.a/once {number}")
        if turn % 2:
            handler.cancel()


def removing(race: Race, number: int) -> None:
    """Remove by key and by handler; of each subscription one thread is told."""
    bus, keys = race.bus, [f"prey.{number}", "prey"]

    def handler(*args: object) -> None:
        race.violation("nobody emits this")

    for _ in range(race.operations // 2):
        subscriptions = [bus.subscribe(keys, handler) for _ in range(3)]
        removed = bus.off(keys[0], handler) if number % 2 else bus.clear(keys[0])
        race.expect(removed == 3, f"{removed} of 3 were removed")
        race.expect(not any(s.active for s in subscriptions), "one is active after its removal")


def inspecting(race: Race) -> None:
    """Look at everything that there is to be seen, over and over."""
    bus, emitted, delivered = race.bus, 0, 0
    while not race.stop.is_set():
        stats = bus.stats()
        total = sum(stats["by_event"].values())
        race.expect(stats["emitted"] == total, f"stats() has {stats['emitted']} and {total}")
        race.expect(stats["emitted"] >= emitted, "emitted went down")
        race.expect(stats["delivered"] >= delivered, "delivered went down")
        emitted, delivered = stats["emitted"], stats["delivered"]
        numbers = [event.seq for event in bus.history()]
        race.expect(numbers == sorted(numbers, reverse=True), f"history() has {numbers}")
        race.expect(len(set(numbers)) == len(numbers), f"history() has {numbers}")
        # Without the lock each thread may be between counting an event and recording it.
        late = race.threads if lock_is_off() else 0
        race.expect(not numbers or numbers[0] >= emitted - late, "the history lags behind")
        race.expect(bus.has_handlers("shared.a"), "has_handlers() was False")
        for name in NAMES:
            order = [
                (isinstance(s.handler, AsyncHandler), s.priority, s.id) for s in bus.handlers(name)
            ]
            race.expect(order == sorted(order), f"handlers() are in the order {order}")
        ids = [subscription.id for subscription in bus.subscriptions()]
        race.expect(ids == sorted(set(ids)), f"subscriptions() are {ids}")
        race.expect(len(bus.history("shared.*", limit=5)) <= 5, "history() ignored its limit")
        repr(bus)
        len(bus)
        bus.pending()


def awaiting(race: Race, number: int) -> None:
    """Emit in all ways that there are in a loop."""
    bus, me, own = race.bus, f"{number}", f"own.{number}"
    emitter = bus.emitter("shared.b")

    async def main() -> None:
        for turn in range(race.operations // 2):
            way = turn % 5
            if way == 0:
                sent = race.next_of(f"shared.a/emit_async {me}")
                race.sent("shared.a", await bus.emit_async("shared.a", sent))
            elif way == 1:
                sent = race.next_of(f"shared.b/emitter.emit_async {me}")
                race.sent("shared.b", await emitter.emit_async(sent))
            elif way == 2:
                sent = race.next_of(f"Note/publish_async {me}", Note)
                race.sent("Note", await bus.publish_async(sent))
            elif way == 3:
                sent = race.next_of(f"shared.a/collect_async {me}")
                race.sent("shared.a", len(await bus.collect_async("shared.a", sent)))
            else:
                race.emit("shared.b", f"shared.b/emit in a loop {me}")
                handler = race.subscribe(own, AsyncHandler)
                race.emit(own, f"{own}/")
                handler.cancel()  # in the thread in which it is about to start
            if turn % 20 == 19:
                await bus.drain(timeout=0.001)
        left = await bus.drain(timeout=DEADLINE)
        race.expect(left == [], f"drain() left {left}")

    asyncio.run(main())


def emitting_threadsafe(race: Race, number: int) -> None:
    """Emit on the bound loop, with some emissions under way at once."""
    futures: deque[Any] = deque()
    for _ in range(race.operations // 2):
        sent = race.next_of(f"shared.a/emit_threadsafe {number}")
        futures.append(race.bus.emit_threadsafe("shared.a", sent))
        if len(futures) > 5:
            race.sent("shared.a", futures.popleft().result(DEADLINE))
    for future in futures:
        race.sent("shared.a", future.result(DEADLINE))


def changing_async(race: Race, number: int) -> None:
    """Subscribe coroutine functions, and cancel them when they may be about to start."""
    rng = random.Random(number)
    mine: list[Handler] = []
    for _ in range(race.operations // 2):
        race.tally.done += 1
        mine.append(race.subscribe(rng.choice(KEYS), AsyncHandler, priority=rng.randrange(-1, 2)))
        if len(mine) > 3:
            handler = mine.pop(rng.randrange(len(mine)))
            race.expect(handler.cancel(), "cancel() of an active subscription was False")


def waiting(race: Race, number: int) -> None:
    """Wait for events of all threads, and for one of its own if no other comes."""
    bus = race.bus

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(race.operations // 8):
            race.tally.done += 1
            waiter = bus.wait_for("shared.*", timeout=DEADLINE)
            emission = loop.run_in_executor(None, race.emit, "shared.b", f"shared.b/wait {number}")
            event = await waiter
            await emission
            race.expect(event.name in NAMES, f"wait_for() gave {event.name}")

    asyncio.run(main())


def streaming(race: Race, number: int) -> None:
    """Iterate over streams; what comes and what is dropped are all there is."""
    bus = race.bus
    own = f"shared.b/stream {number}"

    async def feed(satisfied: asyncio.Event) -> None:
        """Emit while the stream waits: others may have ended, and what finds no room is lost."""
        while not satisfied.is_set():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, race.emit, "shared.b", own)

    async def main() -> None:
        for turn in range(race.operations // 20):
            maxsize = 1 if turn % 2 else 1024
            overflow: Any = ("drop_oldest", "drop_newest", "block")[turn % 3]
            stream = bus.stream(["shared.*", Note], maxsize=maxsize, overflow=overflow)
            satisfied = asyncio.Event()
            feeding = asyncio.ensure_future(feed(satisfied))
            last: dict[str, int] = {}
            got = 0
            async for event in stream:
                sent = event.payload
                before = last.get(sent.channel, sent.number - 1)
                gap = sent.number != before + 1 if maxsize > 1 else sent.number <= before
                race.expect(not gap, f"{sent.channel}: {sent.number} comes after {before}")
                last[sent.channel] = sent.number
                got += 1
                if got >= 8 or own in last:
                    break
            satisfied.set()
            await feeding
            stream.close()
            race.expect(maxsize == 1 or stream.dropped == 0, "a stream with room dropped events")
            race.expect([event async for event in stream] == [], "a closed stream gave an event")

    asyncio.run(main())
