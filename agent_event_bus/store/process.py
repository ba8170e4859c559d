"""Forks and the end of the program, for all stores of the process.

No connection to SQLite may cross a fork, and no thread does. So before a fork each store finishes
its commit and closes its connections, and in the child its queue is empty, because what was queued
is written by the parent. At the end of the program what is queued is written.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref

from agent_event_bus.store.database import Database
from agent_event_bus.store.writer import Writer

__all__ = ["register"]

# Seconds that a fork waits for a commit. If that takes longer, the child leaves the connection be.
FORK_SECONDS = 15.0

_lock = threading.RLock()
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
_held: list[Database] = []


def register(writer: Writer) -> None:
    """Take care of a writer for as long as it lives."""
    with _lock:
        _writers.add(writer)


def _before_fork() -> None:
    _lock.acquire()
    for writer in list(_writers):
        if writer.database.hold(FORK_SECONDS):
            _held.append(writer.database)


def _after_in_parent() -> None:
    while _held:
        _held.pop().let_go()
    _lock.release()


def _after_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _held.clear()
    for writer in list(_writers):
        writer.database.start_over()
        writer.start_over()


def _at_exit() -> None:
    with _lock:  # a daemon thread may open a store in the middle
        writers = list(_writers)
    for writer in writers:
        writer.exit()
        with writer.database.write_lock, writer.database.read_lock:
            writer.database.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
atexit.register(_at_exit)
