"""What is to be written, in its order: events that nobody waits for, and what somebody waits for.

The two lie in queues of their own, so that giving up the oldest event that nobody waits for takes
no longer when many wait. Each item has the number of its turn, by which both become one again.

Nothing is counted that can be asked for: a signal may interrupt a thread between putting an event
in and counting it.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Union, cast

from agent_event_bus.store.database import Row
from agent_event_bus.store.waiters import Waiter

__all__ = ["Data", "Item", "Queue", "is_event"]

Data = Union["Row", tuple[str, int], None]
"""An event, an acknowledgement, or None for whoever waits for all before it."""

Item = tuple[int, Data, Waiter]
"""Something to be written: its turn, what it is, and who waits for it."""

EVENT_FIELDS = 5


def is_event(data: Data) -> bool:
    """Whether it is an event that is to be written."""
    return data is not None and len(data) == EVENT_FIELDS


class Queue:
    """Two queues in one common order. Who uses it holds the lock of the writer.

    Attributes:
        events: Events that nobody waits for.
        waited: What somebody waits for.
    """

    def __init__(self) -> None:
        self.events: deque[Item] = deque()
        self.waited: deque[Item] = deque()
        self._turns = itertools.count()
        self._in_hand = 0
        self._events_in_hand = 0

    def __len__(self) -> int:
        return len(self.events) + len(self.waited)

    def put(self, data: Data, waiter: Waiter) -> None:
        """Put something at the end."""
        where = self.events if waiter is None else self.waited
        where.append((next(self._turns), data, waiter))

    def take(self, count: int, characters: int) -> list[Item]:
        """Take a group from the front; it counts as uncommitted until it is settled.

        Args:
            count: How many items it has at most.
            characters: How many characters of payloads are enough.
        """
        group: list[Item] = []
        size = 0
        events, waited = self.events, self.waited
        while len(group) < count and size < characters:
            if events and (not waited or events[0][0] < waited[0][0]):
                item = events.popleft()
            elif waited:
                item = waited.popleft()
            else:
                break
            group.append(item)
            if is_event(item[1]):
                size += len(cast("Row", item[1])[1])
        self._in_hand += len(group)
        self._events_in_hand += _events(group)
        return group

    def settle(self, group: list[Item]) -> None:
        """Count what was taken no longer: it is written, or given up."""
        self._in_hand -= len(group)
        self._events_in_hand -= _events(group)

    def put_back(self, group: list[Item]) -> list[Item]:
        """Put what nobody waits for back in front; return all that somebody waits for."""
        self.settle(group)
        told = [item for item in group if item[2] is not None]
        told += self.waited
        self.waited.clear()
        self.events.extendleft(item for item in reversed(group) if item[2] is None)
        return told

    def clear(self) -> list[Item]:
        """Take everything out for good."""
        left = [*self.events, *self.waited]
        self.events.clear()
        self.waited.clear()
        return left

    def is_settled(self) -> bool:
        """Whether nothing is queued and nothing is being written."""
        return not self and not self._in_hand

    def uncommitted(self) -> int:
        """Return how many events are queued or being written."""
        return len(self.events) + _events(self.waited) + self._events_in_hand


def _events(items: list[Item] | deque[Item]) -> int:
    return sum(1 for _, data, _ in items if is_event(data))
