"""Programs of operations on a bus, and the two worlds in which they run, to be compared.

A program is a number of handlers and a list of steps: subscribe, cancel, emit, and so on. Handlers
are scripts of such steps as well, so they use the bus while it calls them; so do conditions. Every
program runs in two worlds, one with the real bus and one with the model of tests/model.py. After
every step all that can be seen must be equal: who was called, in which form and order and with
what; what was returned, raised and reported; which subscriptions are active; history, counts and
statistics.

In which order handlers go on that have suspended is not promised. They do no more than note it, and
perhaps fail; such notes are compared without their order. For the same reason what fails late is no
guard here, and cancels nothing: tests/test_guards.py has that.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import logging
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable

import model
from stepping import pause

from agent_event_bus import EventBus

HISTORY = 6
FUEL = 15  # how many operations the handlers of one step may perform


class Key(enum.Enum):
    A_B = "a.b"


class Text(str, enum.Enum):
    B = "b"


class Base:
    def __init__(self, n: int) -> None:
        self.n = n

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({self.n})"


class Derived(Base):
    class Inner(Base):
        pass


class Touchy:
    @property
    def n(self) -> int:
        raise RuntimeError("n is not to be had")


class BoomError(Exception):
    pass


class LateBoomError(Exception):
    """Of a handler that has suspended."""


class InterruptError(BaseException):
    pass


# Turns of the loop: longer than a cancellation takes to come down through emissions nested in each
# other, which may be a turn for each.
LONG = 2 * FUEL
EMISSIONS = ("emit", "emitter", "publish", "collect")
NAMES = ["a", "b", "a.b", "b.b", "a.b.c", "Derived", "Derived.Inner"]
KEYS: list[Any] = [*NAMES, "*", "**", "a.*", "a.**", "*.b", "*.*", "*.b.**", "a.*.c", "Derived.*"]
KEYS += [Key.A_B, Text.B, Base, Derived, Derived.Inner, object]
BAD_NAMES: list[Any] = ["", "a..b", "a.*", "**", 7, Base]
BAD_KEYS: list[Any] = ["", "a..b", "a*", "**.a", "a.", 7, None]
OBJECTS: list[Any] = [Base(0), Derived(0), Derived(1), Derived.Inner(1), Touchy()]
PAYLOADS: list[Any] = [None, {"n": 0}, {"n": 1}, {}, *OBJECTS]


@dataclass(frozen=True)
class Script:
    """What a handler does when it is called."""

    kind: str  # "sync", "async", or "late": a sync handler that returns a coroutine
    is_method: bool
    ops: tuple[Any, ...]
    end: str  # how this ends: "ok", "boom", "cancel", "interrupt"
    awaits: Any  # an operation to await after that, or None
    turns: int  # of the loop, to give up at the end
    fails_late: bool

    @property
    def suspends(self) -> bool:
        return self.kind != "sync" and (self.turns > 0 or self.awaits is not None)


@dataclass(frozen=True)
class Program:
    scripts: list[Script]
    subscriptions: list[Any]
    steps: list[Any]  # pairs of an operation and whether it is to be performed in an event loop


class Owner:
    """Something with a method that handles events."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__qualname__ = function.__qualname__

    def handler(self, *args: Any) -> Any:
        return self.function(*args)


class AsyncOwner(Owner):
    async def handler(self, *args: Any) -> Any:
        return await self.function(*args)


# Worlds


def shown(value: Any) -> Any:
    """Show what was delivered, returned or raised in a form that is equal in both worlds."""
    if isinstance(value, BaseException):
        own = isinstance(value, (BoomError, LateBoomError, InterruptError))
        return (type(value).__name__, *(value.args if own else ()))
    for number, payload in enumerate(PAYLOADS):
        if value is payload:
            return f"payload {number}"
    if hasattr(value, "payload"):
        return ("event", value.name, shown(value.payload), value.seq)
    if hasattr(value, "subscription"):
        error = None if value.status == "cancelled" else shown(value.exception)
        return (value.status, value.subscription.id, shown(value.value), error)
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    return value


class World(ABC):
    """A bus of either kind, with handlers and subscriptions, and all that has been seen there."""

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts
        self.log: list[Any] = []
        self.late: Counter[Any] = Counter()  # what was logged by handlers that may have suspended
        self.fuel = FUEL
        self.in_loop = False
        self.has_cycles = False
        self.subs: list[Any] = []
        self.handler_names: dict[int, str] = {}
        self.running: list[int] = []
        self.bus: Any = self.make_bus()
        # The only strong references to the handlers.
        self.owners: list[Any] = [self.make_owner(n, script) for n, script in enumerate(scripts)]

    # What differs between the two.

    @abstractmethod
    def make_bus(self) -> Any: ...

    @abstractmethod
    def run(self, main: Any) -> None: ...

    @abstractmethod
    def act(self, op: Any) -> Any:
        """Emit in one way or another."""

    @abstractmethod
    def stats(self) -> Any: ...

    @abstractmethod
    def loop_runs(self) -> bool: ...

    # Handlers.

    def make_owner(self, number: int, script: Script) -> Any:
        world = self

        def handler(*args: Any) -> Any:
            world.play(number, args)
            return world.play_late(number) if script.kind == "late" else number

        async def async_handler(*args: Any) -> Any:
            world.play(number, args)
            return await world.play_late(number)

        function: Any = async_handler if script.kind == "async" else handler
        function.__qualname__ = f"handler {number}"
        if not script.is_method:
            return function
        return AsyncOwner(function) if script.kind == "async" else Owner(function)

    def handler(self, number: int) -> Any:
        owner = self.owners[number]
        return owner and (owner.handler if self.scripts[number].is_method else owner)

    def name_of(self, handler: Any) -> str:
        """Return which handler it is, also of methods."""
        return str(getattr(getattr(handler, "__self__", handler), "__qualname__", "gone"))

    def play(self, number: int, args: Any) -> None:
        script = self.scripts[number]
        self.log.append(("called", number, shown(args)))
        self.running.append(number)
        try:
            for op in script.ops:
                self.perform_inside(op, catches=script.kind == "async")
        finally:
            self.running.pop()
        if script.end == "boom":
            raise BoomError(number)
        if script.end == "cancel":
            raise asyncio.CancelledError
        if script.end == "interrupt" and script.kind != "async":
            raise InterruptError(number)

    async def play_late(self, number: int) -> Any:
        script = self.scripts[number]
        if script.kind == "late":
            self.log.append(("late", number))
        try:
            if script.awaits is not None and self.fuel > 0:
                self.fuel -= 1
                try:
                    result = shown(await self.act(script.awaits))
                except asyncio.CancelledError:
                    raise
                except BaseException as error:
                    result = shown(error)
                self.late["awaited", number, repr(result)] += 1
            for _ in range(script.turns):
                await pause()
        except asyncio.CancelledError:
            self.late["cancelled", number] += 1
            raise
        self.late["done", number] += 1
        if script.fails_late:
            raise LateBoomError(number)
        return number

    def report(self, what: str, event_name: str, handler_name: Any, error: Any) -> None:
        entry = (what, event_name, handler_name, shown(error))
        if isinstance(error, LateBoomError):
            self.late[repr(entry)] += 1
        else:
            self.log.append(entry)

    # Operations.

    def perform_inside(self, op: Any, catches: bool) -> None:
        """Perform an operation of a handler or of a condition, unless there have been too many."""
        if self.fuel <= 0:
            return
        self.fuel -= 1
        if self.may_be_cut_off() and op[0] in EMISSIONS:
            return
        try:
            self.perform(op)
        except InterruptError as error:
            if not catches:
                raise
            self.log.append(("caught", shown(error)))

    def may_be_cut_off(self) -> bool:
        """Whether what is emitted now is left to a loop that a guard or an interrupt may end.

        How much of it runs is not promised then: that loop belongs to an emission without a loop.
        """
        ends = any(script.end == "interrupt" for script in self.scripts)
        ends = ends or any(not sub.isolate for sub in self.subs)
        return ends and not self.in_loop and self.loop_runs()

    def perform(self, op: Any) -> None:
        what, *args = op
        try:
            result = shown(getattr(self, what)(*args) if hasattr(self, what) else self.act(op))
        except (ValueError, TypeError) as error:  # of arguments; others come out
            result = shown(error)
        self.log.append((what, result))

    def subscribe(self, keys: Any, number: int, options: dict[str, Any]) -> Any:
        number %= len(self.scripts)
        script, handler = self.scripts[number], self.handler(number)
        if handler is None:
            return "dropped"
        options = dict(options)
        if script.end == "cancel" or script.fails_late:
            options["isolate"] = True
        where = options["where"]
        if isinstance(where, tuple):
            options["where"] = self.condition(*where)
        sub = self.bus.subscribe(keys, handler, **options)
        self.subs.append(sub)
        self.handler_names[sub.id] = handler.__qualname__
        return sub.id

    def condition(self, op: Any, answer: Any) -> Callable[[Any], Any]:
        def where(payload: Any) -> Any:
            self.log.append(("asked", shown(payload)))
            if op is not None:
                self.perform_inside(op, catches=False)
            if answer == "raise":
                raise BoomError("where")
            return answer

        return where

    def cancel(self, index: int) -> Any:
        return self.subs[index % len(self.subs)].cancel() if self.subs else None

    def off(self, key: Any, number: int | None) -> Any:
        handler = None if number is None else self.handler(number % len(self.scripts))
        return self.bus.off(key, handler)

    def clear(self, key: Any) -> Any:
        return self.bus.clear(key)

    def drop(self, number: int) -> Any:
        """Drop the last reference to a handler, as far as this world holds one."""
        number %= len(self.scripts)
        if number in self.running or (self.running and self.scripts[number].suspends):
            return "runs"  # when its coroutine lets go of it depends on the version of Python
        self.owners[number] = None
        self.let_go()
        return None

    def let_go(self) -> None:
        """Release errors that can be in cycles with their tracebacks: of outcomes, of futures."""
        if self.has_cycles:
            gc.collect()

    def look(self, name: str) -> Any:
        """Look at what does not depend on handlers that have suspended."""
        return (
            [sub.id for sub in self.bus.handlers(name)],
            len(self.bus),
            self.stats()["by_event"],
            [(sub.active, sub.calls) for sub in self.subs],
            shown(self.bus.history()),
        )

    # A step of the program itself.

    def step(self, op: Any, in_loop: bool) -> None:
        self.fuel = FUEL
        self.has_cycles = False
        is_async = op[0].endswith("_async")
        self.in_loop = in_loop or is_async
        result: Any = None

        async def main() -> None:
            nonlocal result
            try:
                if is_async:
                    result = shown(await self.act(op))
                else:
                    self.perform(op)
            except BaseException as error:
                result = shown(error)

        if self.in_loop:
            self.run(main())
        else:
            with suppress(StopIteration):
                main().send(None)
                raise AssertionError("it has suspended")
        self.log.append(("result", result))
        self.let_go()

    def seen(self) -> dict[str, Any]:
        bus = self.bus
        return {
            "log": self.log,
            "late": self.late,
            "subscriptions": [
                (s.id, s.active, s.calls, s.failures, list(s.keys), s.priority, s.once, s.weak)
                for s in self.subs
            ],
            "handlers": {name: [sub.id for sub in bus.handlers(name)] for name in NAMES},
            "history": [shown(bus.history(key)) for key in ("*", "a.b", "*.b", Base)],
            "stats": self.stats(),
            "len": len(bus),
        }


class RealWorld(World):
    def make_bus(self) -> Any:
        logger = logging.Logger("model")
        logger.addHandler(Reports(self))
        return EventBus(history=HISTORY, logger=logger, on_error=self.on_error)

    def on_error(self, name: str, handler: Any, error: Exception) -> None:
        self.report("on_error", name, self.name_of(handler), error)

    def run(self, main: Any) -> None:
        async def drained() -> None:
            try:
                await main
            finally:
                assert await self.bus.drain(timeout=20) == []

        LOOP.run_until_complete(drained())

    def act(self, op: Any) -> Any:
        what, *args = op
        self.has_cycles |= what.startswith("collect")
        method: Any = getattr(self.bus, what, None)
        if what.startswith("emitter"):
            emitter = self.bus.emitter(args.pop(0))
            method = emitter if what == "emitter" else emitter.emit_async
        try:
            return method(*args)
        except BaseException:
            # Of a loop that was run for it, whose future has the error, and that the frame.
            self.has_cycles |= not self.loop_runs()
            raise

    def stats(self) -> Any:
        return self.bus.stats()

    def loop_runs(self) -> bool:
        return asyncio._get_running_loop() is not None


class ModelWorld(World):
    def make_bus(self) -> Any:
        return model.Bus(self.on_report, HISTORY)

    def on_report(self, name: str, sub: Any, error: BaseException) -> None:
        handler_name = self.handler_names[sub.id]
        if isinstance(error, asyncio.CancelledError):
            self.report("WARNING", name, handler_name, error)
        else:
            self.report("ERROR", name, handler_name, error)
            self.report("on_error", name, self.name_of(sub.handler), error)

    def run(self, main: Any) -> None:
        self.bus.run(main)

    def act(self, op: Any) -> Any:
        what, first, *rest = op
        self.has_cycles |= what.startswith("collect")
        emit = self.bus.emit_async if what.endswith("_async") else self.bus.emit
        if what.startswith("publish"):
            return emit(type(first).__qualname__, first, type(first))
        return emit(first, *rest, collects=what.startswith("collect"))

    def loop_runs(self) -> bool:
        return self.bus.tasks is not None

    def stats(self) -> Any:
        bus = self.bus
        return {
            "emitted": sum(bus.by_event.values()),
            "delivered": sum(sub.calls for sub in bus.subs),
            "failed": sum(sub.failures for sub in bus.subs),
            "cancelled": bus.cancelled,
            "timed_out": 0,
            "dropped": 0,
            "pending": 0,
            "subscriptions": len(bus),
            "by_event": dict(bus.by_event),
        }


class Reports(logging.Handler):
    """Tells a world what its bus logs."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def emit(self, record: Any) -> None:
        error = record.exc_info[1] if record.exc_info else asyncio.CancelledError()
        self.world.report(record.levelname, record.event_name, record.handler_name, error)


LOOP = asyncio.new_event_loop()


def compare(program: Program, real: RealWorld, modelled: ModelWorld) -> None:
    """Run a program in both worlds, and look after each step whether they are still equal."""
    for op, in_loop in [*((op, False) for op in program.subscriptions), *program.steps]:
        modelled.step(op, in_loop)
        real.step(op, in_loop)
        expected = modelled.seen()
        for what, seen in real.seen().items():
            if seen != expected[what]:
                raise AssertionError(f"{what} after {op}:\n{seen}\nand not\n{expected[what]}")
