"""Many threads use one bus at once, in every way there is, and nothing is lost, doubled or late.

usage: races.py [CASE...] [--seconds S] [--rounds N] [--operations N] [--threads N]

Each round of a case makes a bus, runs its threads, and compares what they have done and seen with
what the bus has counted. Rounds go on for so many seconds a case, and for N rounds at least. On a
free-threaded Python the interpreter lock has to stay off, if the module says that it can.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import random
import sys
import threading
import time
from typing import Any, Callable

from racing import DEADLINE, AsyncHandler, Handler, Once, Permanent, Race, Sent


class Note(Sent):
    """What is published."""


class AsyncPermanent(Permanent, AsyncHandler):
    """A coroutine function that stays."""


NAMES = ["shared.a", "shared.b"]
KEYS: list[Any] = ["shared.a", "shared.b", "shared.*", "*", "*.a", Note, object]
CASES: dict[str, Callable[[argparse.Namespace], Race]] = {}


def case(function: Callable[[argparse.Namespace], Race]) -> Callable[..., Race]:
    CASES[function.__name__] = function
    return function


# What the threads do. Each takes the race and the number of its thread.


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
        race.expect(not numbers or numbers[0] >= emitted, "the history lags behind")
        race.expect(bus.has_handlers("shared.a"), "has_handlers() was False")
        for name in NAMES:
            order = [(s.priority, s.id) for s in bus.handlers(name)]
            race.expect(order == sorted(order), f"handlers() are in the order {order}")
        ids = [subscription.id for subscription in bus.subscriptions()]
        race.expect(ids == sorted(set(ids)), f"subscriptions() are {ids}")
        race.expect(len(bus.history("shared.*", limit=5)) <= 5, "history() ignored its limit")
        repr(bus)
        len(bus)
        bus.pending()


# Cases.


@case
def sync(options: argparse.Namespace) -> Race:
    """Everything that needs no loop, at once."""
    race = Race(options.operations, timing=bool(random.randrange(2)))
    for key in ["shared.a", "shared.b", "shared.*", "*", Note]:
        race.subscribe(key, Permanent)
        race.subscribe(key, Permanent, envelope=True)
    roles = [emitting, changing, cancelling_in_handlers, emitting_once, removing]
    numbered = [(role, n) for n in range(options.threads) for role in roles]
    bodies = [lambda r=role, n=i: r(race, n) for i, (role, _) in enumerate(numbered)]
    race.run(*bodies, inspector=lambda: inspecting(race))
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


class AsyncOnce(Once, AsyncHandler):
    """A coroutine function that is subscribed for once."""


def lock_is_off() -> bool:
    """Whether this Python runs without its lock."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


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
