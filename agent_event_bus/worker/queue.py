"""The queue of the worker bus: what waits for delivery, in order, and who waits for room in it.

It belongs to one event loop at a time and takes no locks: nothing here awaits between a look and a
change. What asyncio.Queue does not have is what it is for: places that are reserved while an event
is being stored, publishers that are exempt from the limit, and events that go back to where they
were taken from.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_event_bus.worker.events import Event

    Waiter = asyncio.Future[None]


class Entry:
    """One event on its way.

    Attributes:
        event: The event.
        seq: Its number in the store, None when it is not stored.
        delivered: Whether its handlers have been called, in this process or one before.
        acked: Whether it was acknowledged, and so is not to be delivered (again).
    """

    __slots__ = ("acked", "delivered", "event", "seq")

    def __init__(self, event: Event, seq: int | None = None, delivered: bool = False) -> None:
        self.event = event
        self.seq = seq
        self.delivered = delivered
        self.acked = False


class EventQueue:
    """Entries in order, with a limit on how many there are.

    Args:
        maxsize: How many entries and reserved places there may be; 0 sets no limit.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self._entries: deque[Entry] = deque()
        self._reserved = 0
        self._last_seq = 0
        self._publishers: OrderedDict[Waiter, None] = OrderedDict()  # in the order of the calls
        self._consumer: Waiter | None = None

    def successor(self) -> EventQueue:
        """Return a queue with these entries, and with nobody who waits or has reserved a place."""
        after = EventQueue(self.maxsize)
        after._entries, self._entries = self._entries, deque()
        return after

    def __len__(self) -> int:
        return len(self._entries)

    def numbers(self) -> set[int]:
        """Return the numbers of the entries that have one."""
        return {entry.seq for entry in self._entries if entry.seq is not None}

    def is_idle(self) -> bool:
        """Whether nothing is queued, and nobody has reserved a place or waits for one."""
        return not (self._entries or self.is_awaited())

    def is_awaited(self) -> bool:
        """Whether somebody has reserved a place or waits for one."""
        return bool(self._reserved or self._publishers)

    # Places

    async def reserve(self, exempt: bool) -> None:
        """Take a place, and wait for one in the order of the calls if need be.

        Args:
            exempt: Whether to take one beyond the limit rather than wait.
        """
        if exempt or not self.maxsize or not self._is_full():  # whoever waits has what is free
            self._reserved += 1
            return
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._publishers[waiter] = None
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.release()  # a place came together with the cancellation
            else:
                self._publishers.pop(waiter, None)
            raise

    def release(self) -> None:
        """Give a reserved place back."""
        self._reserved -= 1
        self._hand_on()

    def _is_full(self) -> bool:
        return len(self._entries) + self._reserved >= self.maxsize

    def _hand_on(self) -> None:
        """Give places that are free to those who have waited longest."""
        while self._publishers and not self._is_full():
            waiter, _ = self._publishers.popitem(last=False)
            if not waiter.done():
                self._reserved += 1
                waiter.set_result(None)

    # Entries

    def put(self, entry: Entry) -> None:
        """Add an entry in a place that was reserved for it: at the end.

        One whose number is lower than that of one before, which the store has told earlier, goes in
        front of all that have higher ones.
        """
        self._reserved -= 1
        entries = self._entries
        place = len(entries)
        if entry.seq is not None:
            if entry.seq < self._last_seq:
                for index, other in enumerate(entries):
                    if other.seq is not None and other.seq > entry.seq:
                        place = index
                        break
            self._last_seq = max(self._last_seq, entry.seq)
        entries.insert(place, entry)
        self.wake()

    def put_back(self, entry: Entry) -> None:
        """Make an entry the first again that was taken and not delivered to its end."""
        self._entries.appendleft(entry)
        self.wake()

    def recover(self, recovered: Iterable[Entry]) -> None:
        """Add entries that were stored earlier, limit or not, before all that they may precede.

        Those that are queued keep their order, and all that have numbers are in the order of these.
        """
        numbered = [entry.seq for entry in self._entries if entry.seq is not None]
        ahead = deque(sorted(recovered, key=lambda entry: entry.seq or 0))
        merged: deque[Entry] = deque()

        def take(passed: int) -> None:
            before = numbered[passed] if passed < len(numbered) else math.inf
            while ahead and (ahead[0].seq or 0) < before:
                merged.append(ahead.popleft())

        passed = 0
        take(passed)
        for entry in self._entries:
            merged.append(entry)
            if entry.seq is not None:
                passed += 1
                take(passed)
        self._entries = merged
        self.wake()

    def pop(self) -> Entry | None:
        """Take the first entry, None when there is none."""
        if not self._entries:
            return None
        entry = self._entries.popleft()
        self._hand_on()
        return entry

    async def wait(self) -> None:
        """Wait until an entry comes or ``wake`` is called."""
        self._consumer = asyncio.get_running_loop().create_future()
        try:
            await self._consumer
        finally:
            self._consumer = None

    def wake(self) -> None:
        """End a ``wait``, whatever there is."""
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)
