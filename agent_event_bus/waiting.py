"""Waiting for one event: what ``EventBus.wait_for`` and ``EventBus.expect`` return.

Both subscribe when they are made, so no event is missed between the call and the await.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Coroutine, Generator
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, cast

from agent_event_bus._listener import Listener, Wakeup

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, TypeVar

    from agent_event_bus._bus import EventBus
    from agent_event_bus._core import Event

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")  # only type checkers need the default, which is new in Python 3.13

__all__ = ["Expectation", "Waiter"]


class Waiter(Coroutine[Any, Any, "Event"]):
    """The coroutine object that ``EventBus.wait_for`` returns.

    Unlike a coroutine it does not warn when it is dropped without having been awaited: it has been
    of use by then, and cleans up.
    """

    __slots__ = ("__weakref__", "_slot", "_steps")

    def __init__(self, bus: EventBus, key: Any, where: Any, timeout: float | None) -> None:
        self._slot = Slot(bus, key, where, seconds(timeout))
        self._slot.start_clock()
        # Made at the first step, because one that is never run would warn.
        self._steps: Coroutine[Any, Any, Event] | None = None

    @property
    def __name__(self) -> str:  # type: ignore[override, unused-ignore]
        # What asyncio calls it when it shows the task that awaits it.
        return "wait_for"

    def send(self, value: Any, /) -> Any:
        """Take a step. ``RuntimeError`` when another task awaits it, or it has been awaited."""
        wakeup = self._slot.wakeup
        if wakeup is not None and not wakeup.future.done():
            raise RuntimeError(f"{self!r} is being awaited already")
        return self._begin().send(value)

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Any:
        """Throw an exception in where it waits."""
        steps = self._begin()
        try:
            return steps.throw(typ) if val is None and tb is None else steps.throw(typ, val, tb)
        finally:
            if self._slot.wakeup is None:
                self._slot.unsubscribe()  # thrown in before its first step, which does it else

    def close(self) -> None:
        """Give up waiting."""
        self._begin().close()
        self._slot.unsubscribe()

    def __await__(self) -> Generator[Any, Any, Event]:
        """Return itself: its steps are those of the await."""
        return cast("Generator[Any, Any, Event]", self)

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Take a step."""
        return self.send(None)

    def __del__(self) -> None:
        """Unsubscribe, if that is still to be done."""
        if hasattr(self, "_slot"):  # else its arguments were refused
            self._slot.unsubscribe()

    def __repr__(self) -> str:
        """Say what it waits for, and how that stands."""
        return f"<wait_for({self._slot.key!r}): {self._slot.state}>"

    def _begin(self) -> Coroutine[Any, Any, Event]:
        if self._steps is None:
            self._steps = self._slot.wait()
        return self._steps


class Expectation(Generic[T]):
    """What ``EventBus.expect`` returns: the event is there after the ``async with`` block.

    ``Expectation[ToolCalled]`` is one of an event with such a payload.
    """

    __slots__ = ("__weakref__", "_entered", "_slot")

    def __init__(self, bus: EventBus, key: Any, where: Any, timeout: float | None) -> None:
        self._slot = Slot(bus, key, where, seconds(timeout))
        self._entered = False

    @property
    def event(self) -> Event[T]:
        """The event. ``RuntimeError`` while none has matched."""
        event = self._slot.event
        if event is None:
            raise RuntimeError(f"no event has matched {self._slot.key!r} yet")
        return event

    async def __aenter__(self) -> Self:
        """Start the clock of the timeout; return itself."""
        if self._entered:
            raise RuntimeError(f"{self!r} cannot be entered twice")
        self._entered = True
        self._slot.start_clock()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the event, unless the body raised."""
        if exc_type is None:
            await self._slot.wait()
        else:
            self._slot.unsubscribe()

    def __del__(self) -> None:
        """Unsubscribe, if that is still to be done."""
        if hasattr(self, "_slot"):
            self._slot.unsubscribe()

    def __repr__(self) -> str:
        """Say what it waits for, and how that stands."""
        return f"<expect({self._slot.key!r}): {self._slot.state}>"


class Slot(Listener):
    """The place where the first event that matches is put."""

    __slots__ = ("_deadline", "_timeout", "event", "key")
    # The name of the handler in logs, should a `where` raise.
    __qualname__ = "EventBus.wait_for"

    def __init__(self, bus: EventBus, key: Any, where: Any, timeout: float | None) -> None:
        super().__init__()
        self.event: Event | None = None
        self.key = key
        self._timeout = timeout
        self._deadline = math.inf
        self.subscribe(bus, key, where, once=True)

    def __call__(self, event: Event) -> None:
        """Keep the event, if it has come in time, and wake whoever waits."""
        if not self.expired:
            self.event = event
            self.wake()

    @property
    def expired(self) -> bool:
        """Whether it is too late. One that polls takes what has come by then."""
        return self._timeout != 0 and monotonic() > self._deadline

    @property
    def state(self) -> str:
        """How things stand, for ``repr``."""
        if self.event is not None:
            return "arrived"
        return "expired" if self.expired else self.ended or "waiting"

    def start_clock(self) -> None:
        """Count the timeout from now on."""
        if self._timeout is not None:
            self._deadline = monotonic() + self._timeout

    async def wait(self) -> Event:
        """Return the event, as soon as there is one.

        Raises:
            TimeoutError: None has come in time.
            RuntimeError: None can come any more.
        """
        try:
            if self.event is None and not self.ended and monotonic() < self._deadline:
                await self._suspend()
            if self.event is not None:
                return self.event
            if self.ended and not self.expired:
                raise RuntimeError(f"{self.ended} before an event has matched {self.key!r}")
            raise timeout_error()(f"no event has matched {self.key!r} within {self._timeout:g} s")
        finally:
            self.unsubscribe()

    async def _suspend(self) -> None:
        """Wait until there is an event or no more hope."""
        self.wakeup = wakeup = Wakeup()
        timer = None
        if self._deadline < math.inf:
            timer = wakeup.loop.call_later(self._deadline - monotonic(), wakeup.resolve)
        try:
            # What has come before the wakeup was there has woken nobody.
            if self.event is None and not self.ended:
                await wakeup.future
        finally:
            self.wakeup = None
            wakeup.wake()  # should another task have ended this, the first must not hang
            if timer is not None:
                timer.cancel()


def seconds(timeout: object) -> float | None:
    """Return an argument `timeout` as a float, or None for one that never ends.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, NaN, or more than a float can hold.
    """
    if timeout is None:
        return None
    number = hasattr(type(timeout), "__float__") or hasattr(type(timeout), "__index__")
    if not number or isinstance(timeout, (bool, complex)):
        kind = type(timeout).__name__
        raise TypeError(f"timeout must be a number of seconds or None, not {kind}")
    try:
        value = float(cast("float", timeout))
    except OverflowError:
        raise ValueError("timeout is too large") from None
    if not value >= 0.0:  # NaN is not, either
        raise ValueError(f"timeout must be at least 0 seconds, not {timeout}")
    return None if math.isinf(value) else value


@cache
def timeout_error() -> type[TimeoutError]:
    """Return the class of timeout errors, which is ``asyncio.TimeoutError``, too.

    The two are one from Python 3.11 on. Before, callers may expect either.
    """
    if sys.version_info >= (3, 11):
        both = TimeoutError
    else:
        import asyncio

        both = type(
            "TimeoutError", (TimeoutError, asyncio.TimeoutError), {"__module__": "builtins"}
        )
    return both
