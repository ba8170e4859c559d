"""Emit from atexit callbacks and finalisers while the interpreter comes down."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
from typing import Any, Callable

from agent_event_bus import EventBus

bus = EventBus("global")
keep: list[Any] = []


def say(text: str) -> None:
    """Write without the help of modules that may be gone."""
    os.write(1, text.encode() + b"\n")


def at_exit() -> None:
    @bus.on("a")
    def handler(payload: object) -> None:
        say("sync atexit")

    @bus.on("a")
    async def later(payload: object) -> None:
        await asyncio.sleep(0)
        say("async atexit")

    atexit.register(bus.emit, "a")


class Emits:
    """Emits to sync and failing handlers when it is deleted."""

    def __init__(self, target: EventBus) -> None:
        self.target = target
        self.say = say

    def __del__(self) -> None:
        self.target.emit("deleted", self)
        self.target.emit("fails", self)
        self.target.has_handlers("deleted")
        self.say("deleted")


def fails(payload: object) -> None:
    raise ValueError("while the interpreter ends")


def module_global() -> None:
    """An object that lives in the dictionary of a module until the end."""
    target = EventBus()
    target.on("deleted", lambda payload: None)
    target.on("fails", fails)
    sys.modules["holder"] = type(sys)("holder")
    vars(sys.modules["holder"])["emits"] = Emits(target)


def cycle() -> None:
    """A bus in a cycle with the object that emits on it, collected at the end."""
    target = EventBus()
    emits = Emits(target)
    vars(emits)["me"] = emits
    target.on("deleted", lambda payload: emits)
    target.on("fails", fails)


def never_awaited() -> None:
    """An emission left un-awaited in a module global."""
    keep.append(bus.emit_async("a"))
    say("end")


def failing_handler() -> None:
    """A failure that is reported after logging was shut down."""
    bus.on("a", fails)
    atexit.register(bus.emit, "a")
    say("end")


def pending_task() -> None:
    """A loop that was left with a handler of the bus waiting in it."""
    loop = asyncio.new_event_loop()
    keep.append(loop)

    @bus.on("a")
    async def waits(payload: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        bus.emit("a")
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    say("end")


def subscription_outlives_bus() -> None:
    """A subscription kept in a module global, cancelled by a finaliser."""

    class Cancels:
        def __init__(self) -> None:
            self.subscription = EventBus().subscribe("a", print)

        def __del__(self) -> None:
            self.subscription.cancel()

    keep.append(Cancels())
    say("end")


def emission_in_cycle() -> None:
    """An emission begun and left, in a cycle with what emits, collected at the end."""
    target = EventBus()
    target.on("deleted", lambda payload: None)
    target.on("fails", fails)
    emits = Emits(target)

    @target.on("a")
    async def waits(payload: object) -> None:
        await asyncio.sleep(0)

    vars(emits)["emission"] = target.emit_async("a", emits)


def modules_cleared() -> None:
    """The bus is used once more when no module can be found any more."""
    emits = Emits(EventBus())
    emits.target.on("deleted", lambda payload: None)
    emits.target.on("fails", fails)
    sys.modules.clear()
    del emits


CASES: dict[str, Callable[[], None]] = {
    "atexit": at_exit,
    "module_global": module_global,
    "cycle": cycle,
    "never_awaited": never_awaited,
    "failing_handler": failing_handler,
    "pending_task": pending_task,
    "emission_in_cycle": emission_in_cycle,
    "modules_cleared": modules_cleared,
    "subscription_outlives_bus": subscription_outlives_bus,
}
CASES[sys.argv[1]]()
