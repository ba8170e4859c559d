"""Hostile sequences of operations on buses, made of bytes, and judged by invariants alone.

Every byte decides what is done next, by whoever acts next: the program itself, a handler, a
condition, a payload that is deleted. They subscribe, cancel, clear, emit and close; take steps of
emissions and of the coroutines of deliveries, in any order; and drop what they have. No model says
what comes of it. But nothing may crash, no error may come out that nobody has made, counts add up,
a bus that is left has to work, and nothing may be left alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import warnings
import weakref
from typing import Any, Callable

from programs_of_bytes import Reader
from stepping import pause
from worlds import BAD_KEYS, BAD_NAMES, KEYS, NAMES, OBJECTS

from agent_event_bus import EventBus

FUEL = 60  # operations in a program
DEEP = 4  # handlers that act inside each other
BUSES = 3


class BoomError(Exception):
    pass


class InterruptError(BaseException):
    pass


# What is raised by somebody here, or by the bus or by asyncio where it is misused.
RAISED = (BoomError, InterruptError, StopIteration, GeneratorExit, asyncio.CancelledError)
MISUSED = (ValueError, TypeError, RuntimeError, asyncio.InvalidStateError, asyncio.TimeoutError)


class Payload:
    """Acts when it is deleted."""

    def __init__(self, play: Play) -> None:
        self.play = play

    def __del__(self) -> None:
        self.play.act()


class Play:
    """One program, and what there is to act on."""

    def __init__(self, data: bytes) -> None:
        self.reader = Reader(data)
        self.over, self.depth, self.operations = False, 0, 0
        self.wrong: list[BaseException] = []
        self.done: set[Any] = set()
        self.last = ""
        self.buses: list[EventBus | None] = []
        self.subs: list[tuple[weakref.ref[EventBus], Any]] = []
        self.emissions: list[Any] = []
        self.strong: list[Any] = []  # references to handlers that are subscribed weakly
        self.kept: list[weakref.ref[Any]] = []

    # What is watched.

    def check(self, error: BaseException | None) -> str:
        """Note an error that nobody can have made."""
        if error is None:
            return "ok"
        if type(error) not in (*RAISED, *MISUSED):
            self.wrong.append(error)
        return type(error).__name__

    def report(self, name: str, handler: object, error: BaseException) -> None:
        self.check(error)
        self.act()

    # Actors.

    def act(self) -> None:
        """Do what the next bytes say, as far as there are any."""
        if self.depth >= DEEP or self.over:
            return
        self.depth += 1
        try:
            for _ in range(self.reader.below(4)):
                self.perform()
        finally:
            self.depth -= 1

    def ending(self) -> Any:
        """End as the next byte says."""
        error = self.reader.below(16)
        if error < len(RAISED) and not self.over and self.reader.left > 0:
            raise RAISED[error]()
        return error

    def plays(self, *args: object) -> Any:
        self.act()
        return self.ending()

    def handler(self) -> Any:
        reader, kind = self.reader, self.reader.below(5)
        turns = reader.below(4)

        async def later() -> Any:
            self.act()
            for _ in range(turns):
                try:
                    await pause()
                except BaseException:
                    self.act()  # while it is cancelled or closed
                    raise
                self.act()
            bus = self.bus()
            if bus is not None and reader.rarely(8) and not self.over and self.depth < DEEP:
                await bus.emit_async(self.name(), None)
            return self.ending()

        if kind == 0:
            made: Any = lambda *args: self.plays()  # noqa: E731
        elif kind == 1:

            def made(*args: object) -> Any:
                self.plays()
                return later()
        elif kind == 2:

            async def made(*args: object) -> Any:
                await asyncio.sleep(0)
                return await later()
        else:

            async def made(*args: object) -> Any:
                return await later()

        self.kept.append(weakref.ref(made))
        return made

    # What is acted on.

    def bus(self) -> EventBus | None:
        return self.buses[self.reader.below(BUSES)]

    def name(self) -> Any:
        reader = self.reader
        return reader.pick(BAD_NAMES) if reader.rarely(16) else reader.pick(NAMES[:3])

    def key(self) -> Any:
        reader = self.reader
        return reader.pick(BAD_KEYS) if reader.rarely(16) else reader.pick(["a", "*", *KEYS])

    def payload(self) -> Any:
        kind = self.reader.below(4)
        if kind == 3:
            made = Payload(self)
            self.kept.append(weakref.ref(made))
            return made
        return [None, {"n": 1}, OBJECTS[0]][kind]

    # Operations.

    def perform(self) -> None:
        if self.over or self.operations >= FUEL or self.reader.left <= 0:
            return
        self.operations += 1
        operation = self.reader.pick(OPERATIONS)
        try:
            operation(self)
            result = "ok"
        except BaseException as error:
            result = self.check(error)
        self.done |= {(operation.__name__, result, self.depth), (self.last, operation.__name__)}
        self.last = operation.__name__

    def subscribe(self) -> None:
        bus, flags = self.bus(), self.reader.below(256)
        if bus is None:
            return
        handler = self.handler()
        if flags & 16:
            self.strong.append(handler)
        sub = bus.subscribe(
            [self.key() for _ in range(1 + (flags & 1))],
            handler,
            priority=(flags >> 1 & 3) - 1,
            once=flags & 8 != 0,
            weak=flags & 16 != 0,
            isolate=flags & 96 != 96,
            timeout=30 if flags & 128 else None,
            where=self.plays if self.reader.rarely(8) else None,
        )
        self.subs.append((weakref.ref(bus), sub))

    def emit(self) -> None:
        bus = self.bus()
        if bus is not None:
            way = self.reader.below(4)
            name, payload = self.name(), self.payload()
            if way == 0:
                bus.emitter(name)(payload)
            elif way == 1:
                bus.publish(payload)
            elif way == 2 and asyncio._get_running_loop() is None:
                bus.collect(name, payload)
            else:
                bus.emit(name, payload)

    def begin(self) -> None:
        """Make an emission, to be driven by hand, and mostly take its first step."""
        bus = self.bus()
        if bus is not None:
            ways: list[Any] = [bus.emit_async, bus.collect_async, bus.publish_async]
            made = self.reader.pick(ways)
            payload = self.payload()
            self.emissions.append(
                made(payload) if made == bus.publish_async else made(self.name(), payload)
            )
            if not self.reader.rarely():
                self.emissions[-1].send(None)

    def drive(self) -> None:
        """Do something with an emission, in whatever state that is."""
        if self.emissions:
            self.step(self.emissions[self.reader.below(len(self.emissions))])

    def step(self, coroutine: Any) -> None:
        """Do something with a coroutine; end its tasks, which wait for what it has given up."""
        tasks: set[Any] = set()
        if asyncio._get_running_loop() is not None:
            tasks = {task for task in asyncio.all_tasks() if task.get_coro() is coroutine}
        try:
            self.one_step(coroutine)
        finally:
            for task in tasks:
                task.cancel()

    def one_step(self, coroutine: Any) -> None:
        way = self.reader.below(7)
        if way < 2:
            coroutine.send([None, 1][way])
        elif way < 4:
            coroutine.throw(self.reader.pick(RAISED)())
        elif way == 4:
            coroutine.close()
        elif way == 5 and asyncio._get_running_loop() is not None and coroutine in self.emissions:
            # Not a delivery, which others may end while a task of it waits for something.
            asyncio.ensure_future(coroutine)  # noqa: RUF006 - all tasks are looked for at the end
        elif coroutine in self.emissions:
            self.emissions.remove(coroutine)

    def take(self) -> None:
        """Do something with a delivery, found as whatever of it a stranger can get hold of."""
        found = [obj for obj in gc.get_objects() if type(obj).__name__ == "HandlerTask"]
        if found:
            delivery = found[self.reader.below(len(found))]
            way = self.reader.below(4)
            if way == 0:
                delivery.cancel()
            elif way == 1 and delivery.task is not None:
                delivery.task.cancel()
            else:
                task = delivery.task
                try:
                    self.step(delivery)
                finally:  # nobody else drives it to its end any more
                    if task is not None:
                        task.cancel()
                    if not delivery.cr_running:
                        delivery.close()

    def cancel(self) -> None:
        if self.subs:
            self.subs[self.reader.below(len(self.subs))][1].cancel()

    def clear(self) -> None:
        bus = self.bus()
        if bus is not None:
            way = self.reader.below(3)
            bus.clear() if way == 0 else bus.clear(self.key()) if way == 1 else bus.off(self.key())

    def close(self) -> None:
        bus = self.bus()
        if bus is not None:
            self.emissions.append(bus.aclose())
            if not self.reader.rarely():
                self.emissions[-1].send(None)

    def renew(self) -> None:
        """Drop a bus, or the last reference to it, and make another one."""
        number = self.reader.below(BUSES)
        self.buses[number] = None
        if not self.reader.rarely():
            self.buses[number] = self.made()

    def look(self) -> None:
        bus = self.bus()
        if bus is not None:
            repr((bus.stats(), bus.handlers("a"), bus.history(), bus.pending(), self.emissions))

    def collect(self) -> None:
        gc.collect()

    def made(self) -> EventBus:
        limit = [None, 1, 2][self.reader.below(3)]
        bus = EventBus(history=3, logger=LOGGER, on_error=self.report, max_concurrency=limit)
        self.kept.append(weakref.ref(bus))
        return bus


OPERATIONS: list[Callable[[Play], None]] = [Play.subscribe, Play.subscribe, Play.emit, Play.emit]
OPERATIONS += [Play.begin, Play.begin, Play.drive, Play.drive, Play.take, Play.cancel, Play.clear]
OPERATIONS += [Play.close, Play.renew, Play.look, Play.collect, Play.drive]
LOGGER = logging.Logger("hostile")
LOGGER.addHandler(logging.NullHandler())
logging.getLogger("asyncio").disabled = True  # of loops that an emission runs for itself


async def played_in_a_loop(play: Play) -> None:
    while play.reader.left > 0 and play.operations < FUEL:
        play.perform()
        if play.reader.rarely(2):
            await pause()
    play.over = True
    for coroutine in play.emissions:
        try:
            coroutine.close()
        except BaseException as error:
            play.check(error)
    for _ in range(50):  # what is over may make place for what waits for a permit
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        _, stuck = await asyncio.wait(tasks, timeout=20)
        assert not stuck, stuck
        for task in tasks:
            play.check(None if task.cancelled() else task.exception())
    for bus in play.buses:
        assert bus is None or await bus.drain(timeout=20) == []


def usable(play: Play, bus: EventBus) -> None:
    """Look whether a bus works, and whether its counts are those of its subscriptions."""
    stats = bus.stats()
    assert stats["emitted"] == sum(stats["by_event"].values()), stats
    assert stats["subscriptions"] == len(bus) == len({sub.id for sub in bus._subscriptions()})
    own = [sub for ref, sub in play.subs if ref() is bus]
    assert stats["delivered"] == sum(sub.calls for sub in own), stats
    assert stats["failed"] == sum(sub.failures for sub in own), stats
    assert {sub.id for sub in own if sub.active} == {sub.id for sub in bus._subscriptions()}
    assert bus.pending() == [], bus.pending()
    if not bus.closed:
        got: list[Any] = []
        sub = bus.subscribe("probe", got.append, priority=9)
        before = sub.calls
        bus.emit("probe", 7)
        assert (got, sub.calls - before, bus.off("probe", got.append)) == ([7], 1, 1)


def kept_for_reuse(obj: Any) -> bool:
    """Whether this is a delivery or a task that waits for its next use, with nothing in it."""
    if type(obj).__name__ == "LazyTask":
        return repr(obj).startswith(
            "<LazyTask pending name=None coro=<<HandlerTask without __name__>"
        )
    return type(obj).__name__ == "HandlerTask" and gc.get_referents(obj) == [type(obj)]


def played(data: bytes) -> Play:
    """Play what `data` says, and judge the buses."""
    play = Play(data)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: play.check(context.get("exception")) and None)
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: play.check(args.exc_value) and None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            play.buses = [play.made() for _ in range(BUSES)]
            in_loop = play.reader.below(4) > 0
            while not in_loop and play.reader.left > 0 and play.operations < FUEL:
                play.perform()
            loop.run_until_complete(played_in_a_loop(play))
            for bus in play.buses:
                if bus is not None:
                    usable(play, bus)
                bus = None
            play.emissions.clear()
            play.strong.clear()
            play.subs.clear()
            play.buses.clear()
            gc.collect()
    finally:
        sys.unraisablehook = hook
        loop.close()
    return play


def hostile(data: bytes) -> tuple[int, set[Any]]:
    """Play what `data` says; return the number of operations, and what they have done."""
    # A delivery that is driven by hand changes the context it is driven in, so that has to go too.
    play = contextvars.copy_context().run(played, data)
    if play.wrong:
        raise AssertionError(f"nobody made {play.wrong!r}") from play.wrong[0]
    gc.collect()
    alive = [obj for obj in (ref() for ref in play.kept) if obj is not None]
    alive += [obj for obj in gc.get_objects() if type(obj).__module__ == "agent_event_bus._core"]
    left = [obj for obj in alive if not kept_for_reuse(obj)]
    assert len(alive) - len(left) <= 32, "more is kept for reuse than ever is"
    assert not left, f"left alive: {left}"
    return play.operations, play.done


def warmed_up() -> None:
    """Have the core make what it keeps for ever, before it is looked for what is left alive."""

    async def main() -> None:
        bus = EventBus()
        bus.on("a", lambda payload: pause())
        bus.emit("a")
        await bus.emit_async("a")
        await bus.aclose()

    asyncio.run(main())


warmed_up()
