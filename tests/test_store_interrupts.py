"""Signal handlers, finalisers and log handlers in the middle of a call to the store."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest
from helpers import DEADLINE
from stores import Alarms, names, payloads, refusing, until, writing_elsewhere

from agent_event_bus.store import EventStore, StoreError, database, ledger


@contextmanager
def on_signal(handler: Callable[[], object]) -> Iterator[None]:
    """Call a handler for each `signal.raise_signal(signal.SIGINT)`."""
    previous = signal.signal(signal.SIGINT, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def before(monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    """Have a signal come once, before a function is called."""
    call = getattr(where, name)

    def signalled(*args: Any) -> Any:
        monkeypatch.setattr(where, name, call)
        signal.raise_signal(signal.SIGINT)
        return call(*args)

    monkeypatch.setattr(where, name, signalled)


class Ending:
    """What a signal handler does that ends a program."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.flushed: list[bool] = []
        self.errors: list[str] = []

    def __call__(self) -> None:
        self.flushed.append(self.store.flush())
        try:
            self.store.close()
        except StoreError as error:
            self.errors.append(str(error))


def test_a_signal_handler_that_closes_in_the_middle_of_an_append_does_not_hang(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path) as store:
        store.append("a", 1)
        before(monkeypatch, store._writer._queue, "put")
        ending = Ending(store)
        with on_signal(ending):
            store.append("a", 2)
        assert ending.flushed == [False]
        (error,) = ending.errors
        assert "in the middle of a call" in error
        assert not store.closed
        store.append("a", 3)
        assert store.flush()
        assert payloads(store) == [1, 2, 3]


def test_nor_does_one_in_the_middle_of_an_acknowledgement(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path, max_queue=1, overflow="block") as store:
        store.append("a", 1)
        assert store.flush()
        before(monkeypatch, ledger, "acknowledge")
        ending = Ending(store)

        def handle() -> None:
            store.append("a", 2)
            store.append("a", 3)  # the queue is full, and cannot get empty before this ends
            ending()

        with on_signal(handle):
            store.ack("billing", 1)
        assert ending.flushed == [False]
        assert len(ending.errors) == 1
        assert store.flush()
        assert 1 not in [event.seq for event in store.pending("billing")]
        counts = store.stats()
        assert (counts["stored"], counts["dropped"], counts["uncommitted"]) == (2, 1, 0)


def test_a_signal_handler_that_acknowledges_in_the_middle_takes_nothing_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    with EventStore(path) as store:
        for number in range(3):
            store.append("a", number)
        assert store.flush()

        def handle() -> None:
            for acknowledge in (store.ack, store.ack_through):
                try:
                    acknowledge("billing", 2)
                except StoreError as error:
                    errors.append(str(error))

        before(monkeypatch, ledger, "acknowledge")
        with on_signal(handle):
            store.ack("billing", 1)
        assert len(errors) == 2
        assert all("in the middle of a commit" in error for error in errors)
        assert [event.seq for event in store.pending("billing")] == [2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_signal_handler_may_fork_in_the_middle_of_a_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    with EventStore(path) as store:
        store.append("a", 1)
        assert store.flush()

        def handle() -> None:
            child = os.fork()
            if not child:
                # Of the parent's commit it sees nothing, and it may write when that is over.
                os._exit(0 if payloads(store) == [1] else 1)
            codes.append(os.waitpid(child, 0)[1])

        before(monkeypatch, ledger, "acknowledge")
        with on_signal(handle):
            store.ack("billing", 1)
        assert codes == [0]
        assert list(store.pending("billing")) == []
        assert store.verify() == []


def test_after_a_signal_between_two_calls_the_store_is_closed(path: Path) -> None:
    store = EventStore(path)
    ending = Ending(store)
    store.append("a", 1)
    with on_signal(ending):
        signal.raise_signal(signal.SIGINT)
    assert (ending.flushed, ending.errors) == ([True], [])
    assert store.closed


def test_an_interrupt_while_the_thread_is_started_does_not_end_the_writing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    with EventStore(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.append("a", 1)
        store.append("a", 2)
        assert store.flush()
        assert payloads(store) == [1, 2]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
@pytest.mark.skipif(
    sys.version_info < (3, 10) or sys.version_info >= (3, 14),
    reason="an interrupt of a with statement can leave its lock held in Python 3.9 and 3.14",
)
def test_the_counts_are_right_however_often_an_append_is_interrupted(path: Path) -> None:
    armed = False

    def interrupt() -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    returned = interrupted = 0
    with Alarms() as alarms, EventStore(path, max_queue=10**6) as store:
        gc.collect()
        gc.disable()  # not the finaliser of something else should be interrupted
        try:
            alarms.start(0.0005, interrupt)
            while interrupted < 300:
                try:
                    armed = True
                    store.append("a")
                    armed = False
                    returned += 1
                except KeyboardInterrupt:
                    interrupted += 1
        finally:
            alarms.stop()
            gc.enable()
        assert store.flush()
        counts = store.stats()
        assert (counts["uncommitted"], counts["dropped"]) == (0, 0)
        # The event of an interrupted call is stored or not.
        assert returned <= counts["stored"] <= returned + interrupted


class Closing(logging.Handler):
    """A log handler that closes the store, while somebody else does the same."""

    def __init__(self, store: EventStore) -> None:
        super().__init__()
        self.store = store
        self.entered = threading.Event()
        self.left = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        until(lambda: self.store.closed)  # the other one has begun, and waits for this thread
        self.store.close()
        self.left.set()


def test_a_log_handler_may_close_the_store_while_another_thread_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("agent_event_bus.store")
    store = EventStore(path)
    handler = Closing(store)
    logger.addHandler(handler)
    try:
        with refusing(path, monkeypatch):
            store.append("a", 1)
            assert handler.entered.wait(DEADLINE)
        closing = threading.Thread(target=store.close)
        closing.start()
        assert handler.left.wait(DEADLINE)
        closing.join(DEADLINE)
        assert not closing.is_alive()
    finally:
        logger.removeHandler(handler)
    with EventStore(path) as again:
        assert payloads(again) == [1]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="it is sent to a thread")
def test_a_flush_that_is_interrupted_loses_nothing(path: Path) -> None:
    with EventStore(path) as store:

        def interrupt() -> None:
            raise KeyboardInterrupt

        with on_signal(interrupt):
            with writing_elsewhere(path):
                store.append("a")
                main = threading.get_ident()
                timer = threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGINT])
                timer.start()
                with pytest.raises(KeyboardInterrupt):
                    store.flush()
                timer.join()
            assert store.flush()
        assert names(store) == ["a"]


# Where no thread can be started, and whoever appends commits


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "agent_event_bus.store":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("no_thread")
def test_a_signal_handler_does_not_overtake_what_is_in_hand(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path) as store:
        ending = Ending(store)

        def handle() -> None:
            store.append("a", 2)
            ending()

        before(monkeypatch, store._writer, "_commit")
        with on_signal(handle):
            store.append("a", 1)
        assert payloads(store) == [1, 2]
        assert ending.flushed == [False]
        assert len(ending.errors) == 1


class Logged(logging.Handler):
    """A log handler that does something the first time, in whatever thread it is called."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.action = action
        self.results: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not self.results:
            self.results.append(None)
            self.results[0] = self.action()


@contextmanager
def logged(action: Callable[[], object]) -> Iterator[list[object]]:
    """Do something when the store logs something; what it returned comes into the list."""
    logger = logging.getLogger("agent_event_bus.store")
    handler = Logged(action)
    logger.addHandler(handler)
    try:
        yield handler.results
    finally:
        logger.removeHandler(handler)


@pytest.mark.usefixtures("no_thread")
def test_a_log_handler_does_not_keep_others_from_committing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path) as store:
        other = threading.Thread(target=store.append, args=("a", 2))

        def wait() -> bool:
            other.start()
            other.join(DEADLINE)
            return other.is_alive()

        with logged(wait) as hung, refusing(path, monkeypatch):
            store.append("a", 1)
        assert hung == [False]
        assert store.flush()
        assert payloads(store) == [1, 2]


@pytest.mark.usefixtures("no_thread")
def test_nothing_is_logged_in_the_middle_of_a_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path, max_queue=1, overflow="drop_newest") as store:
        held: list[bool] = []

        def handle() -> None:
            store.append("a", 2)
            with logged(lambda: held.append(store._writer.is_interrupted())):
                store.append("a", 3)

        before(monkeypatch, store._writer, "_write")
        with on_signal(handle):
            store.append("a", 1)
        assert held == []
        assert payloads(store) == [1, 2]
        assert store.stats()["dropped"] == 1


def test_a_log_handler_that_closes_the_store_loses_nothing_of_the_group_in_hand(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "checksum", lambda *row: 2**70 if row[0] == "bad" else 1)
    store = EventStore(path)
    with logged(store.close) as closed:
        with store._writer.lock:  # so that they come into one group
            for name in ["a", "bad", "b"]:
                store.append(name)
        until(lambda: closed and store.closed)
        store.close()
    with EventStore(path) as again:
        assert names(again) == ["a", "b"]


@pytest.mark.usefixtures("no_thread")
def test_close_tells_of_what_another_thread_has_in_hand_and_cannot_write(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EventStore(path)
    writer = store._writer
    entered, refused = threading.Event(), threading.Event()
    other = threading.Thread(target=writer._drain)
    lose = writer._lose

    def write(group: Any) -> list[object]:
        if threading.current_thread() is other:
            entered.set()
            assert refused.wait(DEADLINE)
        raise StoreError("disk full")

    def lose_later() -> int:
        other.start()
        assert entered.wait(DEADLINE)
        threading.Timer(0.05, refused.set).start()
        return lose()

    monkeypatch.setattr(writer, "_write", write)
    monkeypatch.setattr(writer, "_lose", lose_later)
    store.append("a")
    with pytest.raises(StoreError, match="events lost: 1"):
        store.close()
    other.join(DEADLINE)
    assert writer.counts() == (0, 1)
