"""What the tests of the store share: a disk that refuses, alarms, payloads, and waiting."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest
from helpers import DEADLINE

from agent_event_bus.store import EventStore, database


def names(store: EventStore, **options: Any) -> list[str]:
    """Return the names of the events in a store, in order."""
    return [event.name for event in store.read(**options)]


def payloads(store: EventStore, **options: Any) -> list[Any]:
    """Return the payloads of the events in a store, in order."""
    return [event.payload for event in store.read(**options)]


def numbers(store: EventStore, **options: Any) -> list[int]:
    """Return the numbers of the events in a store, in order."""
    return [event.seq for event in store.read(**options)]


def commits(path: str | Path) -> int:
    """Return how many transactions the write-ahead log of a new store has."""
    header, page = 32, 24 + 4096
    log = Path(f"{path}-wal").read_bytes()
    frames = [log[at : at + 24] for at in range(header, len(log), page)]
    return sum(1 for frame in frames if any(frame[4:8]))  # of the last page of each: a size


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does; fail when it does not."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@contextmanager
def writing_elsewhere(path: Path) -> Iterator[None]:
    """Keep everybody else from writing to a store, as a process in a long transaction does."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


@contextmanager
def refusing(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every commit to a store fail, and at once."""
    with monkeypatch.context() as patch, writing_elsewhere(path):
        patch.setattr(database, "BUSY_SECONDS", 0.0)
        yield


class Alarms:
    """Calls a handler again and again, in the middle of whatever the main thread does.

    What is tested is opened within, and closed when this ends: an alarm may be on its way in a
    thread of the store when no more are asked for, and must not meet the handler of before.
    """

    def __enter__(self) -> Alarms:
        self._handler: Callable[[], object] = int
        self._previous = signal.signal(signal.SIGALRM, lambda *_: self._handler())
        return self

    def start(self, seconds: float, handler: Callable[[], object]) -> None:
        """Call a handler every so many seconds."""
        self._handler = handler
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    def stop(self) -> None:
        """Call it no more; also when an alarm is on its way."""
        self._handler = int
        signal.setitimer(signal.ITIMER_REAL, 0)

    def __exit__(self, *_: object) -> None:
        self.stop()
        signal.signal(signal.SIGALRM, self._previous)
