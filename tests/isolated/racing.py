"""What the races of races.py share: threads on one bus, and handlers that look after themselves.

The payload of every event is a `Sent`, which knows on which channel it was sent, as which event of
that channel, and when the emission began. From it, and from the moment at which its cancel()
returned, a handler can tell whether it may be called, whether the order of the channel is kept, and
whether an event comes twice.
"""

from __future__ import annotations

import asyncio
import faulthandler
import math
import sys
import threading
import time
import traceback
from collections import Counter
from typing import Any, Callable

from agent_event_bus import Event, EventBus, Subscription

DEADLINE = 60.0  # seconds in which a round ends, however slow the machine is


def lock_is_off() -> bool:
    """Whether this Python runs without its lock."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


class Sent:
    """The payload of one event; published, it is an event of its class."""

    __slots__ = ("began", "channel", "number")

    def __init__(self, channel: str, number: int) -> None:
        self.channel, self.number = channel, number
        self.began = time.perf_counter_ns()


class Tally:
    """What one thread has done and seen; nobody else writes to it."""

    def __init__(self) -> None:
        self.emitted: Counter[str] = Counter()  # events by name
        self.counted = 0  # handlers, as the emissions said
        self.calls: Counter[int] = Counter()  # of handlers, by their number
        self.done = 0  # operations of all kinds


class ObservedBus(EventBus):
    """A bus that remembers the subscriptions of its streams and of those who wait."""

    listeners: list[Subscription]

    def _subscribe_internal(self, *args: Any, **options: Any) -> Subscription:
        subscription = super()._subscribe_internal(*args, **options)
        self.listeners.append(subscription)
        return subscription


class Race:
    """One round: a bus, the threads that use it at once, and what was found to be wrong."""

    def __init__(self, operations: int, **options: Any) -> None:
        self.operations = operations
        self.violations: list[str] = []
        self.handlers: list[Handler] = []
        self.channels: dict[str, int] = {}  # how many events each has sent
        self.tallies: list[Tally] = []
        self.excused: tuple[str, ...] = ()  # what is in reports that are expected
        self.closed_at = 0  # when aclose() had returned
        self.stop = threading.Event()
        self.threads = 0
        self.bound: float = options.get("max_concurrency", math.inf)
        self.running = 0  # async handlers
        self._local = threading.local()
        self.lock = threading.Lock()
        logger: Any = self  # which has what a bus needs of one
        self.bus = ObservedBus(history=64, logger=logger, **options)
        self.bus.listeners = []

    # What the bus reports is a failure, since no handler fails on purpose.

    def error(self, message: str, *args: object, **kwargs: Any) -> None:
        said = message % args
        if not any(text in said for text in self.excused):
            info = kwargs.get("exc_info")
            self.violation(
                said + "\n" + ("".join(traceback.format_exception(*info)) if info else "")
            )

    warning = error

    def violation(self, text: str) -> None:
        self.violations.append(text)

    def expect(self, condition: bool, text: str) -> None:
        if not condition:
            self.violation(text)

    @property
    def tally(self) -> Tally:
        """The tally of this thread."""
        try:
            found: Tally = self._local.tally
        except AttributeError:
            found = self._local.tally = Tally()
            self.tallies.append(found)
        return found

    # Handlers.

    def keep(self, handler: Handler) -> int:
        """Remember a handler until the end, and give it a number."""
        with self.lock:
            self.handlers.append(handler)
            return len(self.handlers)

    def subscribe(self, key: Any, cls: type[Handler] | None = None, **options: Any) -> Handler:
        """Subscribe a handler of its own, which has the subscription."""
        handler = (cls or Handler)(self)
        handler.subscription = self.bus.subscribe(key, handler, **options)
        handler.key = key
        return handler

    # Emissions, each of the next event of a channel. A channel is of one thread and of one way.

    def next_of(self, channel: str, cls: type[Sent] = Sent) -> Sent:
        number = self.channels[channel] = self.channels.get(channel, 0) + 1
        self.tally.done += 1
        return cls(channel, number)

    def sent(self, name: str, counted: int) -> int:
        tally = self.tally
        tally.emitted[name] += 1
        tally.counted += counted
        return counted

    def emit(self, name: str, channel: str) -> int:
        return self.sent(name, self.bus.emit(name, self.next_of(channel)))

    # Threads.

    def run(
        self, *roles: Callable[[], object], inspector: Callable[[], object] | None = None
    ) -> None:
        """Run each role in a thread; an inspector is told to stop when the others have ended."""
        every = [*roles, *([inspector] if inspector else [])]
        start = threading.Barrier(len(every), timeout=DEADLINE)

        def body(role: Callable[[], object]) -> None:
            try:
                start.wait()
                role()
            except BaseException:
                self.violation(traceback.format_exc())

        self.threads = len(every)
        threads = [threading.Thread(target=body, args=(role,), daemon=True) for role in every]
        for thread in threads:
            thread.start()
        for thread in threads[: len(roles)]:
            thread.join(DEADLINE)
        self.stop.set()
        for thread in threads:
            thread.join(DEADLINE)
            if thread.is_alive():
                faulthandler.dump_traceback()
                raise SystemExit("a thread does not end: deadlock")

    # The end.

    def check(self, exact: bool = True) -> None:
        """Compare what the bus has counted with what the threads have.

        Args:
            exact: Whether as many handlers were called as the emissions said. Less are when a
                scheduled one was cancelled before it began.
        """
        stats, calls, by_event = self.bus.stats(), Counter[int](), Counter[str]()
        for tally in self.tallies:
            calls += tally.calls
            by_event += tally.emitted
        counted = sum(tally.counted for tally in self.tallies)
        listened = sum(subscription.calls for subscription in self.bus.listeners)
        delivered = sum(calls.values()) + listened

        def equal(what: str, seen: object, expected: object) -> None:
            self.expect(seen == expected, f"{what}: {seen}, and not {expected}")

        equal("emitted", stats["emitted"], sum(by_event.values()))
        equal("by_event", stats["by_event"], dict(by_event))
        equal("delivered", stats["delivered"], delivered)
        self.expect(counted >= delivered, f"counted: {counted} of {delivered}")
        if exact:
            equal("counted", counted, delivered)
        for what in ("failed", "timed_out", "dropped", "pending"):
            equal(what, stats[what], 0)
        equal("pending()", self.bus.pending(), [])
        for handler in self.handlers:
            subscription = handler.subscription
            if subscription is not None:
                equal("calls", subscription.calls, calls[handler.number])
            handler.check(calls[handler.number])
        active = sum(subscription.active for subscription in self.bus.subscriptions())
        equal("subscriptions", (stats["subscriptions"], len(self.bus)), (active, active))
        total = stats["emitted"]
        numbers = [event.seq for event in self.bus.history(limit=None)]
        equal("history", numbers, list(range(total, max(0, total - 64), -1)))


class Handler:
    """Counts its calls, and looks whether each of them may be."""

    in_full = False  # whether it gets every event of every channel
    subscription: Subscription | None = None
    key: Any = None

    def __init__(self, race: Race) -> None:
        self.race = race
        self.last: dict[str, int] = {}  # by channel, which is never in two threads at once
        self.ended = 0  # when its cancel() had returned
        self.ended_in = 0  # the thread that called it
        self.cancelled = False  # what it returned
        self.number = race.keep(self)

    def __call__(self, *args: Any) -> Any:
        sent = args[-1].payload if isinstance(args[-1], Event) else args[-1]
        race, tally = self.race, self.race.tally
        tally.calls[self.number] += 1
        if self.ended_in == threading.get_ident():
            race.violation("called after its cancel() had returned in this thread")
        elif self.ended and sent.began > self.ended:
            race.violation("called by an emission that began after its cancel() had returned")
        elif race.closed_at and sent.began > race.closed_at:
            race.violation("called by an emission that began after the bus was closed")
        last = self.last.get(sent.channel, 0)
        self.last[sent.channel] = sent.number
        if sent.number <= last or (self.in_full and sent.number != last + 1):
            race.violation(f"{sent.channel}: {sent.number} comes after {last}")

    def cancel(self) -> bool:
        assert self.subscription is not None
        self.cancelled = self.subscription.cancel()
        self.ended = time.perf_counter_ns()
        self.ended_in = threading.get_ident()
        return self.cancelled

    def check(self, calls: int) -> None:
        """Look at the end whether it was called as often as it should."""


class Permanent(Handler):
    """One that was there before the first event, and stays.

    The name of a channel is that of its events, a slash, and who sends them.
    """

    in_full = True

    def check(self, calls: int) -> None:
        key = self.key if isinstance(self.key, str) else self.key.__qualname__
        start = key[:-1] if key.endswith("*") else f"{key}/"
        channels = self.race.channels
        expected = {name: number for name, number in channels.items() if name.startswith(start)}
        self.race.expect(self.last == expected, f"{self.key}: {self.last}, and not {expected}")


class AsyncHandler(Handler):
    """The same as a coroutine function that suspends, of which no more run at once than may."""

    async def __call__(self, *args: Any) -> None:
        race = self.race
        with race.lock:
            race.running += 1
            race.expect(race.running <= race.bound, f"{race.running} handlers run at once")
        try:
            super().__call__(*args)
            await asyncio.sleep(0)
        finally:
            with race.lock:
                race.running -= 1


class Once(Handler):
    """One that is subscribed for once."""

    def check(self, calls: int) -> None:
        subscription = self.subscription
        assert subscription is not None
        wanted = 0 if self.cancelled or subscription.active else 1
        self.race.expect(calls == wanted, f"once: called {calls} times, and not {wanted}")


class LoopThread:
    """An event loop that runs in a thread of its own for the length of a ``with`` block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> asyncio.AbstractEventLoop:
        self._thread.start()
        return self.loop

    def __exit__(self, *exc_info: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()
