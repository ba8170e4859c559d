"""The store at the end of the program, across forks, and when it is dropped or interrupted."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from helpers import DEADLINE, ISOLATED, PACKAGES, is_gone, run_isolated
from stores import Alarms, numbers, payloads, refusing, until

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore, StoreError

# Python 3.12 and later warn of a fork beside threads, which is what is tested.
FORK_WARNING = "ignore:This process:DeprecationWarning"
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def leave(path: Path, way: str, code: int = 0) -> str:
    """Run a program that ends with a store open, and return what it logged."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            FORK_WARNING,
            str(ISOLATED / "store_exit.py"),
            str(path),
            way,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ("" if code else "ok\n")
    return done.stderr


def stored(path: Path) -> list[Any]:
    with EventStore(path) as store:
        return payloads(store)


# The end of the program


@pytest.mark.parametrize(
    ("way", "expected"),
    [("dropped", 2), ("atexit", 3), ("thread", 50), ("busy", 50), ("plain", 1)],
)
def test_a_program_that_closes_nothing_has_stored_everything(
    path: Path, way: str, expected: int
) -> None:
    assert leave(path, way) == ""
    assert stored(path) == list(range(expected))


def test_a_program_that_ends_with_an_error_has_stored_everything(path: Path) -> None:
    assert leave(path, "error", code=1).strip() == "leaving"
    assert stored(path) == [0, 1]


def test_a_daemon_thread_that_emits_to_the_end_loses_nothing_silently(path: Path) -> None:
    said = leave(path, "daemon")
    found = stored(path)
    assert len(found) >= 999
    assert found == sorted(set(found))
    # It emits faster than a disk takes it, so that the queue may have overflown.
    assert found == list(range(len(found))) or "events dropped" in said


def test_what_a_daemon_thread_is_about_to_write_at_the_end_is_not_taken_from_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path) as store:
        lose = store._writer._lose
        late: list[int] = []

        def lose_later() -> int:
            late.append(len(late) + 1)
            with monkeypatch.context() as patch:
                # It has put in an event, and got no further.
                patch.setattr(store._writer, "_drain", int)
                store.append("a", late[-1])
            return lose()

        store.append("a", 0)
        with monkeypatch.context() as patch:
            patch.setattr(store._writer, "_lose", lose_later)
            store._writer.exit()
        store._writer._drain()
        assert late
        assert payloads(store) == [0, *late]
        assert store.stats()["dropped"] == 0


def test_a_program_does_not_wait_at_its_end_for_what_has_failed_and_is_not_queued(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    with EventStore(path) as store:

        async def append() -> None:
            with pytest.raises(StoreError):
                await store.append_async("a")

        with refusing(path, monkeypatch):
            asyncio.run(append())
            with monkeypatch.context() as patch:
                patch.setattr(time, "sleep", slept.append)
                store._writer._finish()
    assert slept == []


def test_a_finaliser_may_append_to_the_end(path: Path) -> None:
    said = leave(path, "finaliser")
    assert stored(path) == [0, 1] or "Error" in said  # stored, or said aloud


def test_a_program_ends_though_the_disk_refuses_and_says_what_it_lost(path: Path) -> None:
    said = leave(path, "refused")
    assert "could not be written: 1" in said
    assert stored(path) == [0]


@forks
def test_a_child_of_multiprocessing_stores_what_it_appended(path: Path) -> None:
    assert leave(path, "multiprocessing") == ""
    assert len(stored(path)) == 2


# Forks


@forks
@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without a GIL a process that forks while its threads write may wait for ever",
)
@pytest.mark.parametrize("way", ["quiet", "busy"])
def test_parent_and_child_both_go_on_after_a_fork(path: Path, way: str) -> None:
    assert run_isolated("store_after_fork.py", str(path), way) == "ok\n"


def test_a_store_does_not_go_to_another_process_by_pickle(path: Path) -> None:
    with EventStore(path) as store, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(store)


# Threads and memory


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "agent_event_bus.store"]


def test_the_thread_ends_when_the_store_is_closed(path: Path) -> None:
    with EventStore(path) as store:
        before = len(workers())
        store.append("a")
        assert len(workers()) == before + 1
        (mine,) = [thread for thread in workers() if thread is store._writer._thread]
    assert not mine.is_alive()


def test_the_thread_ends_when_there_is_nothing_to_do_and_starts_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent_event_bus.store import writer

    monkeypatch.setattr(writer, "LINGER_SECONDS", 0.0)
    with EventStore(path) as store:
        for number in range(3):
            store.append("a", number)
            until(lambda: store._writer._thread is None)
            assert numbers(store) == list(range(1, number + 2))


def test_without_a_thread_events_are_written_by_the_caller(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with EventStore(path) as store:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        store.append("a", 1)
        assert payloads(store) == [1]
        assert store.flush()


def test_a_child_of_a_program_that_ends_has_a_thread_of_its_own(path: Path) -> None:
    with EventStore(path) as store:
        store._writer.exit()
        store.append("a", 1)
        assert payloads(store) == [1]  # without a thread
        store._writer.start_over()  # as in a child
        store.append("a", 2)
        assert store._writer._thread is not None
        assert store.flush()
        assert payloads(store) == [1, 2]


def test_a_store_that_is_dropped_is_collected_and_what_it_had_is_stored(path: Path) -> None:
    store = EventStore(path)
    store.append("a", 1)
    writer = weakref.ref(store._writer)
    gone = weakref.ref(store)
    del store
    assert is_gone(gone)
    until(lambda: (gc.collect(), writer())[1] is None)
    assert stored(path) == [1]


def test_a_bus_holds_the_store_that_records_it(path: Path) -> None:
    bus = EventBus()
    store = EventStore(path)
    subscription = store.attach(bus)
    gone = weakref.ref(store)
    del store
    bus.emit("a", 1)
    assert gone() is not None
    subscription.cancel()
    bus.clear()
    del subscription
    assert is_gone(gone)
    until(lambda: stored(path) == [1])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
def test_a_signal_handler_may_append_in_the_middle_of_anything(path: Path) -> None:
    taken: list[str] = []
    refusals: list[str] = []
    appended = 0
    with Alarms() as alarms, EventStore(path, sync="each") as store, EventStore(path) as queued:

        def handle() -> None:
            queued.append("signal")
            try:
                store.append("signal")
                taken.append("stored")
            except StoreError as error:
                taken.append("refused")
                refusals.append(str(error))

        alarms.start(0.001, handle)
        while len(taken) < 100:
            store.append("main")
            queued.append("main")
            appended += 2
        alarms.stop()
        assert queued.flush(DEADLINE)
        expected = appended + len(taken) + taken.count("stored")
        assert store.stats()["stored"] == expected
        assert all("in the middle of a commit" in refusal for refusal in refusals)
