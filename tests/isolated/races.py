"""Many threads use one bus at once, in every way there is, and nothing is lost, doubled or late.

usage: races.py [CASE...] [--seconds S] [--rounds N] [--operations N] [--threads N]

Each round of a case makes a bus, runs its threads, and compares what they have done and seen with
what the bus has counted. Rounds go on for so many seconds a case, and for N rounds at least. On a
free-threaded Python the interpreter lock has to stay off, if the module says that it can.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import logging
import random
import sys
import threading
import time
import weakref
from typing import Any, Callable

import racing_roles as roles
from racing import DEADLINE, AsyncHandler, LoopThread, Once, Permanent, Race, lock_is_off
from racing_roles import AsyncOnce, AsyncPermanent, Note

from agent_event_bus import EventBus, Subscription

CASES: dict[str, Callable[[argparse.Namespace], Race]] = {}


def case(function: Callable[[argparse.Namespace], Race]) -> Callable[..., Race]:
    CASES[function.__name__] = function
    return function


def play(race: Race, parts: list[Callable[[Race, int], None]], times: int) -> None:
    """Run each part in a number of threads, and look at everything meanwhile."""
    numbered = list(enumerate(part for _ in range(times) for part in parts))
    bodies = [lambda part=part, number=number: part(race, number) for number, part in numbered]
    race.run(*bodies, inspector=lambda: roles.inspecting(race))


@case
def sync(options: argparse.Namespace) -> Race:
    """Everything that needs no loop, at once."""
    race = Race(options.operations, timing=bool(random.randrange(2)))
    for key in ["shared.a", "shared.b", "shared.*", "*", Note]:
        race.subscribe(key, Permanent)
        race.subscribe(key, Permanent, envelope=True)
    parts = [roles.emitting, roles.changing, roles.cancelling_in_handlers]
    play(race, [*parts, roles.emitting_once, roles.removing], options.threads)
    race.check()
    return race


@case
def once(options: argparse.Namespace) -> Race:
    """All threads emit one event that is subscribed to for once."""
    race = Race(options.operations)
    meeting = threading.Barrier(options.threads * 2, timeout=DEADLINE)

    def work(number: int) -> None:
        async def emit_async() -> None:
            sent = race.next_of(f"a/{number}")
            race.sent("a", await race.bus.emit_async("a", sent))

        for turn in range(race.operations // 8):
            if number == 0:
                cls = AsyncOnce if turn % 2 else Once
                race.subscribe(["a", "*"], cls, once=True)
            meeting.wait()
            if number % 2:
                race.emit("a", f"a/{number}")
            else:
                asyncio.run(emit_async())
            meeting.wait()

    race.run(*(lambda n=n: work(n) for n in range(options.threads * 2)))
    race.check()
    return race


@case
def loops(options: argparse.Namespace) -> Race:
    """Loops in several threads, and one that the bus is bound to, share the permits of the bus."""
    with LoopThread() as loop:
        race = Race(options.operations, max_concurrency=3, loop=loop)
        for key in ["shared.a", "shared.b", "shared.*", "*", Note]:
            race.subscribe(key, Permanent)
            race.subscribe(key, AsyncPermanent, envelope=True)
        parts = [roles.awaiting, roles.emitting_threadsafe, roles.changing_async]
        play(race, [*parts, roles.waiting, roles.streaming], options.threads)
        left = asyncio.run_coroutine_threadsafe(race.bus.drain(timeout=DEADLINE), loop)
        race.expect(left.result(DEADLINE) == [], "drain() left something")
        race.check(exact=False)
    return race


@case
def weak(options: argparse.Namespace) -> Race:
    """Handlers that are held weakly go away while their event is emitted."""
    race = Race(options.operations)
    race.subscribe("a", Permanent)
    subscriptions: list[Subscription] = []
    calls: list[None] = []  # of those handlers
    gone: list[weakref.ref[Guest]] = []

    class Guest:
        def __init__(self) -> None:
            self.here = [True]

        def handle(self, *args: object) -> None:
            calls.append(None)
            race.expect(bool(self.here), "a handler was called after it had gone")

    def come_and_go(number: int) -> None:
        for turn in range(race.operations):
            guest = Guest()
            # Not when __del__ runs: up to its end weak references give the object out.
            gone.append(weakref.ref(guest, lambda _, here=guest.here: here.clear()))  # type: ignore[misc]
            handler = guest.handle
            if turn % 2:
                subscription = race.bus.subscribe(["a", "*"], handler, weak=True)
            else:
                subscription = race.bus.subscribe("a", handler, weak=True, once=turn % 4 == 0)
            subscriptions.append(subscription)
            race.emit("a", f"a/{number}")
            # Without the lock another thread may have it, for once, and not have counted the call.
            taken = subscription.once and lock_is_off()
            race.expect(subscription.calls > 0 or taken, "a handler that is there was not called")
            del guest, handler

    def emitting(number: int) -> None:
        for _ in range(race.operations):
            race.emit("a", f"a/{number}")

    count = options.threads
    bodies = [lambda number=number: come_and_go(number) for number in range(count)]
    bodies += [lambda number=number: emitting(number) for number in range(count, 2 * count)]
    race.run(*bodies)
    gc.collect()
    race.expect(not any(s.active for s in subscriptions), "a handler that has gone is subscribed")
    race.expect(sum(s.calls for s in subscriptions) == len(calls), "calls were lost")
    race.tally.calls[0] += len(calls)
    race.check()
    return race


@case
def closing(options: argparse.Namespace) -> Race:
    """Two loops close the bus while everybody uses it; after that nothing is delivered."""
    with LoopThread() as loop:
        race = Race(options.operations, max_concurrency=2, loop=loop)
        bus = race.bus
        for key in ("a", "*"):
            race.subscribe(key)
            race.subscribe(key, AsyncHandler)
        # A loop that ends leaves deliveries, which are cancelled, or fail when it is their turn.
        race.excused = ("closed bus", "was cancelled", "Event loop is closed")

        def emitting(number: int) -> None:
            for _ in range(race.operations):
                sent = race.next_of(f"a/{number}")
                closed = race.closed_at
                counted = bus.emit("a", sent)
                race.expect(not (closed and counted), "a closed bus has delivered")

        def emitting_in_a_loop(number: int) -> None:
            async def main() -> None:
                for turn in range(race.operations // 2):
                    sent = race.next_of(f"a/{number} {turn % 2}")
                    closed = race.closed_at
                    if turn % 2:
                        counted = bus.emit("a", sent)
                    else:
                        try:
                            counted = await bus.emit_async("a", sent)
                        except asyncio.CancelledError:
                            counted = 0
                    race.expect(not (closed and counted), "a closed bus has delivered")

            asyncio.run(main())

        def subscribing(number: int) -> None:
            for _ in range(race.operations):
                race.tally.done += 1
                closed = race.closed_at
                try:
                    handler = race.subscribe("a")
                except RuntimeError:
                    race.expect(bus.closed, "subscribing has failed")
                else:
                    race.expect(not closed, "a closed bus was subscribed to")
                    handler.cancel()

        def streaming(number: int) -> None:
            async def main() -> None:
                try:
                    async with bus.stream("a") as stream:
                        async for _ in stream:
                            race.tally.done += 1
                        race.expect(bus.closed, "the stream has ended")
                    await bus.wait_for("a", timeout=DEADLINE)
                except RuntimeError:
                    race.expect(bus.closed, "waiting has failed")

            asyncio.run(main())

        def closing(number: int) -> None:
            async def main() -> None:
                await asyncio.sleep(random.random() / 50)
                await bus.aclose()
                race.closed_at = race.closed_at or time.perf_counter_ns()

            asyncio.run(main())

        def sweeping() -> None:
            # A loop that ends before it has started what has a permit keeps that, and on a closed
            # bus no emission comes any more that would look for it.
            while not race.stop.wait(0.05):
                if bus.closed:
                    bus._close_stranded()

        parts = [emitting, emitting_in_a_loop, subscribing, streaming, closing]
        numbered = list(enumerate(parts * options.threads))
        bodies = [lambda part=part, number=number: part(number) for number, part in numbered]
        race.run(*bodies, inspector=sweeping)
        # Emissions that were under way when it was closed have gone on.
        left = asyncio.run_coroutine_threadsafe(bus.drain(timeout=DEADLINE), loop).result(DEADLINE)
        race.expect(left == [], f"drain() left {left}")
        stats = bus.stats()
        calls = sum(sum(tally.calls.values()) for tally in race.tallies)
        calls += sum(subscription.calls for subscription in bus.listeners)
        race.expect(stats["delivered"] == calls, f"{stats['delivered']} delivered of {calls}")
        race.expect(stats["pending"] == 0 and bus.pending() == [], "something is pending")
        race.expect(sum(stats["by_event"].values()) == stats["emitted"], f"counted {stats}")
        race.expect(bus.emit("a", race.next_of("a/after")) == 0, "a closed bus has delivered")
    return race


@case
def deleting(options: argparse.Namespace) -> Race:
    """Buses are made and dropped while others emit on them; nothing of them is left."""
    race = Race(options.operations)  # which has the tallies
    made: list[weakref.ref[Any]] = []
    subscriptions: list[Subscription] = []
    slots: list[Any] = [EventBus() for _ in range(3)]

    class Ear:
        def __init__(self) -> None:
            self.calls: list[object] = []

        def __call__(self, *args: object) -> None:
            self.calls.append(args[-1])

    def replacing(number: int) -> None:
        rng = random.Random(number)
        for _ in range(race.operations // 4):
            race.tally.done += 1
            bus, ear = EventBus(history=4, max_concurrency=2), Ear()
            subscription = bus.subscribe(["a", "*"], ear)
            made.extend((weakref.ref(bus), weakref.ref(ear)))
            slot = rng.randrange(3)
            slots[slot], token = bus, object()
            emitter = bus.emitter("a")
            race.expect(emitter(token) == 1, "an emitter did not reach its handler")
            race.expect(token in ear.calls, "a handler was not called")
            del bus, emitter, ear
            subscriptions.append(subscription)
            subscriptions[rng.randrange(len(subscriptions))].cancel()  # perhaps of no bus any more

    def emitting(number: int) -> None:
        rng = random.Random(number)
        emitters: list[Any] = []
        for turn in range(race.operations):
            race.tally.done += 1
            bus = slots[rng.randrange(3)]
            handler = Ear()
            with bus.subscribe("b", handler) as subscription:
                emitters.append(bus.emitter("b"))
                race.expect(emitters[-1](turn) >= 1, "an emitter did not reach its handler")
                race.expect(turn in handler.calls, "a handler was not called")
            race.expect(not subscription.active, "active after the end of its block")
            bus.emit("a", turn)
            del bus
            if len(emitters) > 4:
                emitters.pop(0)(turn)

    def awaiting(number: int) -> None:
        async def main() -> None:
            for turn in range(race.operations // 2):
                race.tally.done += 1
                bus = slots[turn % 3]
                stream = bus.stream("c")
                emission = bus.emit_async("c", turn)
                del bus
                await emission
                del emission
                event = await stream.__anext__()
                race.expect(event.name == "c", f"a stream gave {event.name}")

        asyncio.run(main())

    parts = [replacing, emitting, awaiting]
    numbered = list(enumerate(parts * options.threads))
    race.run(*(lambda part=part, number=number: part(number) for number, part in numbered))
    slots.clear()
    gc.collect()
    race.expect(not any(s.active for s in subscriptions), "subscribed to a bus that is gone")
    subscriptions.clear()
    gc.collect()
    alive = sum(reference() is not None for reference in made)
    race.expect(alive == 0, f"{alive} of {len(made)} buses and handlers are left")
    return race


@case
def driving(options: argparse.Namespace) -> Race:
    """Threads drive one emission and one delivery at once, which others cancel, show and close."""
    race = Race(options.operations)
    bus, n_threads = race.bus, options.threads * 2
    race.excused = (
        "was cancelled",
        "thrown in",
        "timed out",
        "loop is closed",
        "already executing",
    )
    meeting = threading.Barrier(n_threads, timeout=DEADLINE)
    began: list[object] = []  # lists, because appending loses nothing
    ended: list[object] = []
    called: list[object] = []
    driven: list[Any] = []
    expected = (StopIteration, RuntimeError, ValueError, ZeroDivisionError, AttributeError)
    expected += (asyncio.CancelledError,)  # type: ignore[assignment]

    class Name(str):
        __slots__ = ()

    async def handler(*args: object) -> None:
        began.append(args)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            ended.append(args)

    def sync_handler(*args: object) -> None:
        called.append(args)

    def unraisable(args: Any) -> None:
        race.violation(f"unraisable: {args.exc_value!r} in {args.object!r}")

    sys.unraisablehook = unraisable
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)  # whose tasks find others at work
    for key in ("a", "*", Note):
        bus.subscribe(key, handler, timeout=0.001)
        bus.subscribe(key, handler)
        bus.subscribe(key, sync_handler)
    deeds: list[Callable[[Any], object]] = [
        lambda it: it.send(None),
        lambda it: it.send(None),
        lambda it: it.throw(ZeroDivisionError("thrown in")),
        lambda it: it.throw(asyncio.CancelledError()),
        lambda it: it.close(),
        lambda it: getattr(it, "cancel", it.close)(),
        repr,
        lambda it: (it.__name__, it.cr_running),
        lambda it: (bus.pending(), bus.stats(), bus.history()),
        lambda it: bus.__init__(  # type: ignore[misc]
            history=8, logger=race, max_concurrency=random.choice([None, 1, 2])
        ),
    ]

    def next_one(turn: int) -> Any:
        kind = turn % 4
        if kind < 2:
            return bus.emit_async(Name("a"), turn) if kind else bus.publish_async(Note("a", turn))
        if kind == 2:
            return bus.collect_async("a", turn)
        bus.emit("a", turn)
        return next(iter(bus._pending()), None)

    def body(number: int) -> None:
        async def main() -> None:
            for turn in range(race.operations // 8):
                if number == 0:
                    driven[:] = [next_one(turn)]
                meeting.wait()
                for _ in range(4):
                    race.tally.done += 1
                    with contextlib.suppress(*expected):
                        random.choice(deeds)(driven[0])
                    await asyncio.sleep(0)
                meeting.wait()
                if number == 0:
                    with contextlib.suppress(*expected):
                        driven[0].close()
                    driven.clear()
                meeting.wait()

        try:
            asyncio.run(main())
        except BaseException:
            meeting.abort()
            raise

    try:
        race.run(*(lambda number=number: body(number) for number in range(n_threads)))
        asyncio.run(bus.aclose())
    finally:
        sys.unraisablehook = sys.__unraisablehook__
    gc.collect()
    race.expect(len(began) == len(ended), f"{len(began)} handlers began, and {len(ended)} ended")
    stats = bus.stats()
    race.expect(stats["pending"] == 0 and bus.pending() == [], "something is pending")
    delivered = len(began) + len(called)
    race.expect(stats["delivered"] == delivered, f"{stats['delivered']} delivered of {delivered}")
    race.expect(len(called) == 2 * stats["emitted"], f"{len(called)} calls, {stats['emitted']}")
    return race


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each case")
    parser.add_argument("--rounds", type=int, default=1, help="at least, of each case")
    parser.add_argument("--operations", type=int, default=200, help="of each thread in a round")
    parser.add_argument("--threads", type=int, default=2, help="of each kind")
    parser.add_argument("--list", action="store_true", help="print the cases and do nothing")
    options = parser.parse_args()
    if options.list:
        print(*CASES, sep="\n")
        return
    sys.setswitchinterval(1e-6)
    off = lock_is_off()
    for name in options.cases or CASES:
        began, rounds, done, threads = time.monotonic(), 0, 0, 0
        while rounds < options.rounds or time.monotonic() < began + options.seconds:
            faulthandler.dump_traceback_later(4 * DEADLINE, exit=True)
            race = CASES[name](options)
            if race.violations:
                print(f"{name}, round {rounds + 1}: {len(race.violations)} violations, the first:")
                print("\n".join(race.violations[:5]))
                sys.exit(1)
            rounds += 1
            done += sum(tally.done for tally in race.tallies)
            threads = len(race.tallies)
        seconds = time.monotonic() - began
        print(f"{name}: {rounds} rounds, {threads} threads, {done} operations, {seconds:.1f} s")
    if off and not lock_is_off():
        sys.exit("the interpreter lock has been turned on")
    print("without the interpreter lock" if off else "with the interpreter lock", "ok", sep="\n")


if __name__ == "__main__":
    main()
