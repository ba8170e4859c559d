"""A collection at each allocation inside a removal, with a finaliser that changes the same key.

Before 3.12 the collector runs within the allocation itself, so in the middle of off and clear.
"""

from __future__ import annotations

import gc
from typing import Callable

from agent_event_bus import EventBus

Act = Callable[[EventBus], object]


class Handler:
    def __call__(self, payload: object) -> None: ...


class LastAct:
    """Garbage in a cycle, which acts on a bus when it is collected."""

    def __init__(self, bus: EventBus, act: Act) -> None:
        self.me, self.bus, self.act = self, bus, act

    def __del__(self) -> None:
        self.act(self.bus)


def cancel_all_but_one(bus: EventBus) -> None:
    for subscription in bus.handlers("a")[1:]:
        subscription.cancel()


def subscribe_more(bus: EventBus) -> None:
    for _ in range(50):
        bus.subscribe("a", Handler())


REMOVALS: list[Act] = [lambda bus: bus.off("a"), lambda bus: bus.clear("a"), EventBus.clear]
ACTS: list[Act] = [*REMOVALS, cancel_all_but_one, subscribe_more]


def check(remove: Act, act: Act, size: int, allocations: int) -> None:
    """Remove `size` handlers; `act` runs after that many allocations of the removal."""
    gc.collect()
    gc.disable()
    bus = EventBus()
    for _ in range(size):
        bus.subscribe("a", Handler())
    LastAct(bus, act)
    gc.set_threshold(gc.get_count()[0] + allocations, 10, 10)
    gc.enable()
    remove(bus)
    gc.set_threshold(700, 10, 10)
    gc.collect()
    # Only what the finaliser itself subscribed can be left, and every part of the bus agrees.
    assert len(bus) in ((0, 50) if act is subscribe_more else (0,)), len(bus)
    assert bus.emit("a") == len(bus) == len(bus.handlers("a"))


for remove in REMOVALS:
    for act in ACTS:
        for size in (1, 2, 5, 9, 30):
            for allocations in range(12):
                check(remove, act, size, allocations)
print("ok")
