"""A plain-Python event bus that does what the documentation says, in one thread.

It is written from the documentation and knows nothing of the core: it keeps no plans, and every
emission looks at every subscription. tests/test_model.py compares the real bus with it.
"""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Callable

from model_keys import NAME, Event, Subscription, checked
from stepping import Group, Task, run, step


@dataclass(eq=False)
class Turn:
    """The part of one subscription in an emission, and its outcome."""

    subscription: Subscription
    awaitable: Any = None  # what its sync handler has returned
    status: str = "ok"
    value: Any = None
    exception: Any = None

    @property
    def is_async(self) -> bool:
        return self.subscription.is_async or self.awaitable is not None

    def order(self) -> tuple[bool, int, int]:
        return self.is_async, self.subscription.priority, self.subscription.id


class Emission:
    """One event on its way to the subscriptions that there are when it begins."""

    def __init__(self, bus: Bus, event: Event, collects: bool, waits: bool) -> None:
        self.bus, self.event, self.collects = bus, event, collects
        self.waits = waits or bus.tasks is None  # for async handlers
        self.gathers = not waits and (self.waits or collects)  # asks all before the first starts
        self.tasks: list[Task] = [] if bus.tasks is None else bus.tasks
        self.turns, self.called, self.stopped = bus.turns(event), 0, False
        self.outcomes: list[Turn] = []

    async def run(self) -> Any:
        """Call the sync handlers, start the others, and await them or leave them to the loop."""
        ready, pending, group = list[Turn](), list[Turn](), Group()
        try:
            while self.turns:
                ready.append(self.turns.pop(0))
                if not self.admits(ready[-1]):
                    ready.pop()
                elif not (self.gathers and ready[-1].is_async):
                    self.start(ready.pop(), group)
            if ready and self.collects and not self.waits:
                raise RuntimeError
            pending, ready = ready, []
            while pending:
                self.start(pending.pop(0), group)
            await group.settled()
        except BaseException as error:
            self.stopped = True
            for turn in (*ready, *pending, *self.turns):
                if turn.awaitable is not None:
                    turn.awaitable.close()
            await group.cancelled()
            if all(turn.exception is not error for turn in self.outcomes) or not self.collects:
                raise
        return sorted(self.outcomes, key=Turn.order) if self.collects else self.called

    def start(self, turn: Turn, group: Group) -> None:
        if turn.is_async:
            self.bus.tasks = self.tasks  # if there was no loop before, there is one now
        (group.start if self.waits or not turn.is_async else self.tasks.append)(self.settle(turn))

    def admits(self, turn: Turn) -> bool:
        """Whether it is this one's turn; claims a subscription that is for once."""
        sub = turn.subscription
        if turn.awaitable is not None:
            return True
        try:
            admitted = sub.active and (not sub.where or sub.where(self.event.payload))
        except Exception as error:
            if self.failed(turn, error):
                raise
            return False
        if not admitted or not sub.active:  # it may have been ended by its condition
            return False
        self.called += 1
        sub.subscribed = not sub.once
        return True

    async def settle(self, turn: Turn) -> None:
        """See a handler, or the awaitable that it has returned, through to its end."""
        sub, event, late = turn.subscription, self.event, turn.awaitable
        try:
            if late is None:
                if sub.handler is None or not (sub.subscribed or sub.once):
                    return  # it was scheduled, and has ended since
                sub.calls += 1
                named = not sub.envelope and event.form(sub.keys) == "named"
                argument = event if sub.envelope else event.payload
                # Called without a name, which a traceback would keep alive.
                late = sub.handler(event.name, argument) if named else sub.handler(argument)
                if inspect.isawaitable(late) and not sub.is_async:
                    turn.awaitable = late
                    self.turns = sorted([*self.turns, turn], key=Turn.order)
                    return
            turn.value = await late if inspect.isawaitable(late) else late
            self.outcomes.append(turn)
        except (Exception, CancelledError) as error:
            if self.failed(turn, error):
                raise

    def failed(self, turn: Turn, error: BaseException) -> bool:
        """Count and report a failure; return whether it is to come out, being that of a guard."""
        sub, cancelled = turn.subscription, isinstance(error, CancelledError)
        sub.failures += not cancelled
        self.bus.cancelled += cancelled
        if self.collects:
            turn.status, turn.exception = "cancelled" if cancelled else "error", error
            self.outcomes.append(turn)
        if not sub.isolate and not self.stopped and (self.waits or not turn.is_async):
            return True
        if not self.collects and not (self.stopped and cancelled):
            self.bus.report(self.event.name, sub, error)
        return False


class Bus:
    def __init__(self, report: Callable[[str, Any, BaseException], object], history: int) -> None:
        self.report, self.kept = report, deque[Event](maxlen=history)
        self.subs, self.by_event, self.cancelled = list[Subscription](), Counter[str](), 0
        self.tasks: Any = None  # of the loop that runs

    def subscribe(self, keys: Any, handler: Any, **options: Any) -> Subscription:
        known = tuple(dict.fromkeys(map(checked, keys if isinstance(keys, list) else [keys])))
        if not known:
            raise ValueError(keys)
        self.subs.append(Subscription(len(self.subs) + 1, known, handler, options))
        return self.subs[-1]

    def off(self, key: Any, handler: Any) -> int:
        if key is handler is None:
            raise TypeError
        return self.clear(key, handler)

    def clear(self, key: Any = None, handler: Any = None) -> int:
        key = key if key is None else checked(key)
        found = [sub for sub in self.subs if sub.active and (key is None or key in sub.keys)]
        return sum(sub.cancel() for sub in found if handler is None or sub.handler == handler)

    def __len__(self) -> int:
        return sum(sub.active for sub in self.subs)

    def turns(self, event: Event) -> list[Turn]:
        found = [Turn(sub) for sub in self.subs if sub.active and event.form(sub.keys)]
        return sorted(found, key=Turn.order)

    def handlers(self, name: Any) -> list[Subscription]:
        return [turn.subscription for turn in self.turns(Event(checked(name, NAME), None, 0, ()))]

    def begin(self, name: Any, payload: Any, cls: Any, collects: bool, waits: bool) -> Emission:
        seq, bases = sum(self.by_event.values()) + 1, cls.__mro__ if cls else ()
        emission = Emission(self, Event(checked(name, NAME), payload, seq, bases), collects, waits)
        if collects and not emission.waits and any(turn.is_async for turn in emission.turns):
            raise RuntimeError
        self.by_event[emission.event.name] += 1
        self.kept.append(emission.event)
        return emission

    def emit(self, name: Any, payload: Any, cls: Any = None, collects: bool = False) -> Any:
        emission = self.begin(name, payload, cls, collects, waits=False)
        if not emission.waits:
            return (step(emission.run()) or [None])[0]
        try:
            return run(emission.run(), emission.tasks)
        finally:
            self.tasks = None

    async def emit_async(
        self, name: Any, payload: Any, cls: Any = None, collects: bool = False
    ) -> Any:
        return await self.begin(name, payload, cls, collects, waits=True).run()

    def run(self, main: Task) -> Any:
        """Run a coroutine as the main task of a loop, and what comes to be scheduled there."""
        self.tasks = []
        try:
            return run(main, self.tasks)
        finally:
            self.tasks = None

    def history(self, key: Any = "*") -> list[Event]:
        return [event for event in reversed(self.kept) if event.form((checked(key),))]
