"""Streams of events: what ``EventBus.stream`` returns.

The handler of a stream is its buffer. Any thread may put an event into it; one task at a time takes
them out again. What happens to an event that finds the buffer full is the stream's ``overflow``.
"""

from __future__ import annotations

import math
import os
import weakref
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Generator
from threading import RLock
from typing import TYPE_CHECKING, Any, Generic, Literal

from agent_event_bus._listener import Listener, Wakeup

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, TypeVar

    from agent_event_bus._bus import EventBus
    from agent_event_bus._core import Event

    Overflow = Literal["drop_oldest", "drop_newest", "block", "error"]
    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")  # only type checkers need the default, which is new in Python 3.13

__all__ = ["Stream", "StreamOverflowError"]

POLICIES = ("drop_oldest", "drop_newest", "block", "error")


class StreamOverflowError(RuntimeError):
    """A stream with ``overflow="error"`` had no room for an event, and has ended with that."""


class Stream(AsyncIterator["Event[T]"], Generic[T]):
    """The events that match a key, in the order of their emission, from ``EventBus.stream``.

    ``Stream[ToolCalled]`` is one of events with such a payload.
    ``async for`` it. ``async with`` closes it at the end of the block, and so does dropping it.
    """

    __slots__ = ("__weakref__", "_buffer", "_key")

    def __init__(
        self, bus: EventBus, key: Any, where: Any, maxsize: int, overflow: Overflow
    ) -> None:
        check_limits(maxsize, overflow)
        self._key = key
        self._buffer = Buffer(bus, key, where, maxsize, overflow)

    @property
    def dropped(self) -> int:
        """How many events there was no room for, so that they are lost."""
        return self._buffer.dropped

    def close(self) -> None:
        """Unsubscribe, and forget what is queued: iteration ends. Closing twice does nothing.

        May be called in any thread.
        """
        self._buffer.close()

    def __aiter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __anext__(self) -> Event[T]:
        """Return the next event, as soon as there is one.

        Cancelling it loses no event: the next call returns it.

        Raises:
            StopAsyncIteration: The stream or the bus is closed.
            StreamOverflowError: The stream has ended because it had no room for an event.
            RuntimeError: Another task waits for the next event.
        """
        while True:
            event = self._buffer.take()
            if event is not None:
                return event
            await self._buffer.wait()

    async def __aenter__(self) -> Self:
        """Return the stream."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the stream."""
        self.close()

    def __del__(self) -> None:
        """Close the stream, if that is still to be done."""
        if hasattr(self, "_buffer"):  # else its arguments were refused
            self._buffer.close()

    def __repr__(self) -> str:
        """Say what it is a stream of, and how it stands."""
        buffer = self._buffer
        state = buffer.ended or "open"
        return (
            f"<Stream of {self._key!r}: {len(buffer.queue)} queued, {buffer.dropped} dropped, "
            f"{state}>"
        )


class Buffer(Listener):
    """The queue of a stream, and the emissions that wait for room in it.

    Emissions wait only while the queue is full: whoever takes an event out lets the first of them
    in, so none overtakes another.
    """

    __slots__ = ("_lock", "_maxsize", "_overflow", "_overflowed", "_rooms", "dropped", "queue")
    # The name of the handler in logs, should a `where` raise.
    __qualname__ = "EventBus.stream"

    def __init__(
        self, bus: EventBus, key: Any, where: Any, maxsize: int, overflow: Overflow
    ) -> None:
        super().__init__()
        self.queue: deque[Event] = deque()
        self.dropped = 0
        self._maxsize = maxsize
        self._overflow = overflow
        self._overflowed = False  # and the consumer is to be told
        self._rooms: OrderedDict[Room, None] = OrderedDict()
        # Re-entrant, for a finaliser or a signal handler may emit while it is held. Nothing of a
        # user's is called or released under it.
        self._lock = RLock()
        _buffers.add(self)
        if overflow == "block":
            # A slow consumer is no failure of the emission: no timeout of the bus applies.
            self.subscribe(bus, key, where, timeout=math.inf)
        else:
            self.subscribe(bus, key, where)

    def __call__(self, event: Event) -> Room | None:
        """Queue an event, or do what is to be done when there is no room for it.

        Returns:
            When the event waits for room, what ``emit_async`` awaits and others close.
        """
        displaced = None  # released when the lock is
        with self._lock:
            full = len(self.queue) >= self._maxsize or len(self._rooms) > 0
            # Made before `ended` is looked at: a finaliser that runs meanwhile may end the stream.
            room = Room(self, event) if full and self._overflow == "block" else None
            if self.ended:
                return None
            if room is not None:
                self._rooms[room] = None
                return room
            if not full:
                self.queue.append(event)
            else:
                self.dropped += 1
                if self._overflow == "drop_newest":
                    return None
                if self._overflow == "drop_oldest":
                    displaced = self.queue.popleft()
                    self.queue.append(event)
                else:
                    self._overflowed = True
                    self.ended = "overflowed"
        del displaced
        if self._overflowed:
            self.unsubscribe()
        self.wake()
        return None

    def take(self) -> Event | None:
        """Return the next event, or None when it has yet to come.

        Raises:
            StopAsyncIteration: None will come.
            StreamOverflowError: The same, because there was no room for one.
            RuntimeError: A task waits for it.
        """
        with self._lock:
            if self.wakeup is not None and not self.wakeup.loop.is_closed():
                raise RuntimeError("another task waits for the next event of this stream")
            if self.queue:
                event = self.queue.popleft()
                if not self._rooms:
                    return event
                room, _ = self._rooms.popitem(last=False)
                self.queue.append(room.event)
            elif self._overflowed:
                self._overflowed = False
                raise StreamOverflowError(f"more than {self._maxsize} events were waiting")
            elif self.ended:
                raise StopAsyncIteration
            else:
                return None
        room.release()
        return event

    async def wait(self) -> None:
        """Wait until there may be an event to take."""
        self.wakeup = wakeup = Wakeup()
        try:
            # What has come before the wakeup was there has woken nobody.
            if not self.queue and not self.ended:
                await wakeup.future
        finally:
            if self.wakeup is wakeup:  # not so when its loop was closed and another one waits
                self.wakeup = None

    def withdraw(self, room: Room) -> None:
        """Drop the event of an emission that waits no longer, if it is not in the queue by now."""
        with self._lock:
            if room in self._rooms:
                del self._rooms[room]
                self.dropped += 1

    def end(self, reason: str) -> None:
        """Take no more events, and release the emissions that wait for room."""
        with self._lock:
            self.ended = self.ended or reason
            rooms, self._rooms = self._rooms, OrderedDict()
            self.dropped += len(rooms)
        super().end(reason)
        for room in rooms:
            room.release()

    def close(self) -> None:
        """End it, and forget what is queued."""
        self.end("closed")
        with self._lock:
            forgotten, self.queue = self.queue, deque()
            self._overflowed = False
        del forgotten

    def after_fork(self) -> None:
        """Forget what other threads of the parent process were about."""
        self._lock = RLock()
        self._rooms.clear()
        self.wakeup = None


class Room:
    """What an emission awaits when its event waits for room in a buffer."""

    __slots__ = ("_buffer", "_released", "_wakeup", "event")

    def __init__(self, buffer: Buffer, event: Event) -> None:
        self.event = event
        self._buffer = buffer
        self._released = False
        self._wakeup: Wakeup | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until the event is in the queue or the stream has ended."""
        try:
            self._wakeup = wakeup = Wakeup()
            # A release before the wakeup was there has woken nobody.
            if not self._released:
                yield from wakeup.future.__await__()
        finally:
            self.close()

    def release(self) -> None:
        """Let the emission go on."""
        self._released = True
        if self._wakeup is not None:
            self._wakeup.wake()

    def close(self) -> None:
        """Wait no longer: the event is lost if there has been no room yet."""
        self._buffer.withdraw(self)


def check_limits(maxsize: object, overflow: object) -> None:
    """Raise TypeError or ValueError unless a stream can have this size and policy."""
    if not isinstance(maxsize, int) or isinstance(maxsize, bool):
        raise TypeError(f"maxsize must be an int, not {type(maxsize).__name__}")
    if maxsize < 1:
        raise ValueError(f"maxsize must be at least 1, not {maxsize}")
    if not isinstance(overflow, str):
        raise TypeError(f"overflow must be a str, not {type(overflow).__name__}")
    if overflow not in POLICIES:
        raise ValueError(f"overflow must be one of {', '.join(POLICIES)}, not {overflow!r}")


_buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()


def _after_fork() -> None:
    for buffer in list(_buffers):
        buffer.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
