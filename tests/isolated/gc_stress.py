"""Finalisers that subscribe, remove and emit run in the middle of subscribing and removing.

With a collection at nearly every allocation they run inside every call that allocates, while a
pseudo-random sequence of calls changes the same few names, patterns and classes. In the end the bus
must agree with what is still subscribed.
"""

from __future__ import annotations

import gc
import random
import sys
import weakref
from typing import Any

from agent_event_bus import EventBus, Subscription

NAMES = ["a", "b", "c", "d", "a.b", "c.d"]


class Base: ...


class Derived(Base): ...


# What each pattern and class matches of NAMES, and of the objects of the classes.
MATCHES: dict[Any, list[str]] = {
    "*": NAMES,
    "a.*": ["a.b"],
    "*.*": ["a.b", "c.d"],
    "c.**": ["c.d"],
    "*.b": ["a.b"],
    Base: ["Base", "Derived"],
    Derived: ["Derived"],
}
KEYS = [*NAMES, *MATCHES]

rng = random.Random(int(sys.argv[1]))
bus = EventBus()
made: list[weakref.ref[Subscription]] = []
depth = 0


class Handler:
    """Garbage in a cycle once it is removed; using the bus is its last act."""

    def __init__(self) -> None:
        self.me = self

    def __call__(self, *args: object) -> None: ...

    def __del__(self) -> None:
        global depth
        if depth <= 3:
            depth += 1
            try:
                act()
            finally:
                depth -= 1


def subscribe(keys: list[Any], once: bool = False) -> None:
    priority = rng.randrange(3)
    subscription = bus.subscribe(keys, Handler(), priority=priority, once=once)
    made.append(weakref.ref(subscription))


def act() -> None:
    """One call chosen at random."""
    name, key = rng.choice(NAMES), rng.choice(KEYS)
    choice = rng.randrange(10)
    if choice < 2:
        subscribe([key])
    elif choice == 2:
        subscribe([rng.choice(["*", key])], once=True)
    elif choice == 3:
        subscribe([name, key, rng.choice(NAMES)])
    elif choice == 4:
        bus.clear(rng.choice(["*", key]))
    elif choice == 5:
        bus.emit(rng.choice([name, f"{name}.{rng.randrange(2000)}"]))
    elif choice == 6:
        for subscription in bus.handlers(name):
            bus.off(name, subscription.handler)
            break
    elif choice == 7:
        for subscription in bus.handlers(name)[-1:]:
            subscription.cancel()
    elif choice == 8:
        bus.publish(rng.choice([Base(), Derived()]))
    else:
        Handler()
        bus.has_handlers(name)


gc.set_threshold(1, 1, 1)
for _ in range(3000):
    act()
    if len(bus) > 60:
        bus.clear()
gc.set_threshold(700, 10, 10)
gc.disable()

live = [subscription for ref in made if (subscription := ref()) is not None]


def expected(name: str) -> set[int]:
    """The ids of the subscriptions that an event of this name reaches."""
    keys = {name, "*", *(key for key, names in MATCHES.items() if name in names)}
    return {s.id for s in live if s.active and keys.intersection(s.keys)}


for name in [*NAMES, "other"]:
    assert {s.id for s in bus.handlers(name)} == expected(name), name
for obj in (Base(), Derived()):
    before = {s.id: s.calls for s in live}
    reached = expected(type(obj).__qualname__)
    assert bus.publish(obj) == len(reached)
    assert {s.id for s in live if s.calls > before[s.id]} == reached, obj
assert len(bus) == sum(s.active for s in live)
bus.clear()
assert not any(s.active for s in live)
print("ok")
sys.stdout.flush()
