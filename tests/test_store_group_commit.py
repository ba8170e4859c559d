"""The group commit: who waits for it, several loops, cancellation, and a disk that refuses."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import DEADLINE, LoopThread, soon
from stores import commits, names, numbers, payloads, refusing, until, writing_elsewhere

from agent_event_bus.store import EventStore, StoreClosedError, StoreError


async def test_what_many_tasks_append_at_once_is_one_commit(path: Path) -> None:
    with EventStore(path) as store:
        before = commits(path)
        given = await soon(asyncio.gather(*(store.append_async("a", n) for n in range(500))))
        assert given == list(range(1, 501))
        assert payloads(store) == list(range(500))
        assert commits(path) == before + 1


async def test_who_waits_does_not_sit_out_the_time_of_a_group(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent_event_bus.store import writer

    monkeypatch.setattr(writer, "GROUP_SECONDS", 3 * DEADLINE)
    with EventStore(path) as store:
        store.append("queued")
        assert await soon(store.append_async("a")) == 2
        assert await soon(store.append_async("a")) == 3
        store.append("queued")
        assert store.flush()
        assert len(numbers(store)) == 4


def test_what_nobody_waits_for_is_stored_in_groups(path: Path) -> None:
    with EventStore(path) as store:
        before = commits(path)
        for number in range(500):
            store.append("a", number)
        assert store.flush()
        assert commits(path) - before <= 10
        assert payloads(store) == list(range(500))


def test_a_group_is_bounded_by_count_and_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent_event_bus.store import writer

    monkeypatch.setattr(writer, "GROUP_CHARACTERS", 1000)
    with EventStore(path) as store:
        before = commits(path)
        with writing_elsewhere(path):
            for _ in range(40):
                store.append("a", "x" * 98)  # with its quotes 100 characters
        assert store.flush()
        assert commits(path) - before in (4, 5)  # the thread may have begun after the first few
        assert len(numbers(store)) == 40
    monkeypatch.setattr(writer, "GROUP_CHARACTERS", 10**9)
    monkeypatch.setattr(writer, "LARGEST_GROUP", 1000)
    with EventStore(path.with_name("other.db")) as store:
        before = commits(path.with_name("other.db"))
        with writing_elsewhere(path.with_name("other.db")):
            for number in range(3000):
                store.append("a", number)
        assert store.flush()
        assert commits(path.with_name("other.db")) - before in (3, 4)


def test_several_loops_may_wait_at_once(path: Path) -> None:
    with EventStore(path) as store:

        async def work(label: str) -> list[int]:
            return [await store.append_async(label) for _ in range(50)]

        with LoopThread() as one, LoopThread() as two:
            first = asyncio.run_coroutine_threadsafe(work("one"), one.loop)
            second = asyncio.run_coroutine_threadsafe(work("two"), two.loop)
            given = [first.result(DEADLINE), second.result(DEADLINE)]
        assert sorted(given[0] + given[1]) == list(range(1, 101))
        assert given[0] == numbers(store, key="one")
        assert given[1] == numbers(store, key="two")


async def test_a_cancelled_append_is_stored_all_the_same_and_others_get_theirs(path: Path) -> None:
    with EventStore(path) as store:
        cancelled = asyncio.ensure_future(store.append_async("cancelled"))
        other = asyncio.ensure_future(store.append_async("other"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await soon(other) == 2
        assert names(store) == ["cancelled", "other"]


def test_a_loop_that_ends_while_it_waits_harms_nobody(path: Path) -> None:
    with EventStore(path) as store:
        with writing_elsewhere(path):
            loop = asyncio.new_event_loop()
            task = loop.create_task(store.append_async("left"))
            loop.run_until_complete(asyncio.sleep(0))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                loop.run_until_complete(task)
            loop.close()
        assert asyncio.run(soon(store.append_async("after"))) == 2
        assert names(store) == ["left", "after"]


async def test_a_loop_that_goes_on_without_its_turn_does_not_keep_an_event(path: Path) -> None:
    with EventStore(path) as store:
        waiting = asyncio.ensure_future(store.append_async("a"))
        await asyncio.sleep(0)
        # The loop has no next turn for now: the thread looks at the queue without being told.
        until(lambda: numbers(store) == [1])
        assert await soon(waiting) == 1


# The disk refuses


async def test_who_waits_is_told_that_the_disk_refuses_and_the_event_is_not_stored(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with EventStore(path) as store:
        with refusing(path, monkeypatch):
            calls = [store.append_async("lost", "contents") for _ in range(2)]
            calls += [store.append_async("lost", "contents")]
            results = await soon(asyncio.gather(*calls, return_exceptions=True))
            for result in results:
                assert isinstance(result, StoreError)
                assert isinstance(result.__cause__, sqlite3.OperationalError)
                assert "locked" in str(result)
            assert len({id(result) for result in results}) == 3
        assert await soon(store.append_async("kept")) == 1
        assert names(store) == ["kept"]
        assert store.stats()["dropped"] == 0
    assert "contents" not in caplog.text


def test_what_is_queued_waits_for_a_disk_that_takes_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with EventStore(path) as store:
        with refusing(path, monkeypatch):
            for number in range(10):
                store.append("a", number)
            with pytest.raises(StoreError, match="locked"):
                store.flush()
            with pytest.raises(StoreError, match="locked"):
                store.flush()
            counts = store.stats()
            assert (counts["stored"], counts["uncommitted"], counts["dropped"]) == (0, 10, 0)
        assert store.flush()
        assert payloads(store) == list(range(10))
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1  # two attempts failed within a second
    assert errors[0].name == "agent_event_bus.store"
    assert "10 are waiting for another attempt" in errors[0].getMessage()
    assert "are written to" in caplog.records[-1].getMessage()


def test_a_busy_emitter_does_not_hurry_a_disk_that_refuses(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent_event_bus.store import writer

    monkeypatch.setattr(writer, "RETRY_SECONDS", 10.0)
    with EventStore(path) as store:
        attempts: list[int] = []
        write = store._writer._write

        def attempt(group: list[Any]) -> list[object]:
            attempts.append(len(group))
            return write(group)

        monkeypatch.setattr(store._writer, "_write", attempt)
        with refusing(path, monkeypatch):
            store.append("first")
            until(lambda: attempts)
            for number in range(10_000):
                store.append("a", number)
            assert len(attempts) <= 3
        assert store.flush()
        assert len(numbers(store)) == 10_001


def test_each_raises_what_the_disk_says_and_goes_on_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path, sync="each") as store:
        with refusing(path, monkeypatch), pytest.raises(StoreError, match="locked"):
            store.append("a")
        assert store.append("b") == 1
        assert names(store) == ["b"]


def test_a_writer_of_another_process_is_waited_for(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        given: list[int | None] = []
        with writing_elsewhere(path):
            thread = threading.Thread(target=lambda: given.append(store.append("a")))
            thread.start()
            thread.join(0.05)
            assert given == []
        thread.join(DEADLINE)
        assert given == [1]


def test_an_event_that_cannot_be_written_at_all_does_not_keep_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from agent_event_bus.store import database

    monkeypatch.setattr(database, "checksum", lambda *row: 2**70 if row[0] == "bad" else 1)
    with EventStore(path) as store:
        for name in ["a", "bad", "b"]:
            store.append(name, "contents")
        store.flush()
        assert names(store) == ["a", "b"]
        counts = store.stats()
        assert (counts["uncommitted"], counts["dropped"]) == (0, 1)

        async def wait() -> None:
            with pytest.raises(StoreError, match="cannot be written: OverflowError"):
                await soon(store.append_async("bad", "contents"))

        asyncio.run(wait())
    assert "cannot be written and is lost: OverflowError" in caplog.text
    assert "contents" not in caplog.text


def test_a_disk_that_refuses_beside_an_event_that_cannot_be_written_changes_no_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent_event_bus.store import database, writer

    monkeypatch.setattr(database, "checksum", lambda *row: 2**70 if row[0] == "bad" else 1)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)
    with EventStore(path) as store:
        insert = store._database.insert
        refused = ["1", "3"]  # these payloads, when their turn comes for the first time

        def refuse(rows: Any) -> list[int]:
            if len(rows) == 1 and rows[0][1] in refused:
                refused.remove(rows[0][1])
                raise StoreError("disk full") from sqlite3.OperationalError("disk full")
            return insert(rows)

        monkeypatch.setattr(store._database, "insert", refuse)
        with store._writer.lock:  # so that they come into one group
            for number, name in enumerate(["a", "a", "bad", "a", "a"]):
                store.append(name, number)
        until(lambda: len(numbers(store)) == 4)
        assert payloads(store) == [0, 1, 3, 4]
        assert refused == []


def test_close_tells_of_what_it_could_not_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = EventStore(path)
    with refusing(path, monkeypatch):
        store.append("a")
        store.append("b")
        with pytest.raises(StoreError, match="events lost: 2"):
            store.close()
    assert store.closed
    store.close()
    assert f"Events lost, because {path} could not be written: 2" in caplog.text
    with EventStore(path) as again:
        assert names(again) == []


# Flushing


def test_flush_waits_for_what_was_appended_before_and_says_so(path: Path) -> None:
    with EventStore(path) as store:
        assert store.flush() is True
        store.append("a")
        assert store.flush() is True
        assert names(store) == ["a"]


async def test_flush_waits_for_acknowledgements_that_are_being_written(path: Path) -> None:
    with EventStore(path) as store:
        store.append("a")
        assert store.flush()
        assert payloads(store) == [None]
        with writing_elsewhere(path):
            waiting = asyncio.ensure_future(store.ack_async("billing", 1))
            await asyncio.sleep(0)
            queue = store._writer._queue
            until(lambda: not queue)  # the thread has taken it, and can do nothing with it
            assert store.flush(timeout=0.05) is False
        assert store.flush() is True
        assert list(store.pending("billing")) == []
        await soon(waiting)


def test_flush_gives_up_after_its_timeout_and_nothing_is_lost(path: Path) -> None:
    with EventStore(path) as store:
        with writing_elsewhere(path):
            store.append("a")
            assert store.flush(timeout=0.05) is False
            assert store.flush(timeout=0) is False
        assert store.flush(timeout=float("inf")) is True
        assert names(store) == ["a"]


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_bad_timeout_is_refused(path: Path, timeout: Any) -> None:
    with EventStore(path) as store, pytest.raises((ValueError, TypeError), match="timeout"):
        store.flush(timeout)


async def test_close_tells_those_who_still_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EventStore(path)
    with writing_elsewhere(path):
        waiting = asyncio.ensure_future(store.append_async("a"))
        await asyncio.sleep(0)
        closing = threading.Thread(target=store.close)
        closing.start()
        until(lambda: store.closed)
        with pytest.raises(StoreClosedError):
            await store.append_async("late")
    assert await soon(waiting) == 1
    closing.join(DEADLINE)
    assert not closing.is_alive()


# Calls from where they are not expected


class Noisy(logging.Handler):
    """A log handler that uses the store, in whatever thread it is called."""

    def __init__(self, store: EventStore) -> None:
        super().__init__()
        self.store = store
        self.flushed: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not self.flushed:
            self.flushed.append(self.store.flush(timeout=DEADLINE))
            self.store.append("logged")


def test_a_log_handler_of_the_writing_thread_may_use_the_store(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("agent_event_bus.store")
    with EventStore(path, max_queue=1, overflow="block") as store:
        handler = Noisy(store)
        logger.addHandler(handler)
        try:
            with refusing(path, monkeypatch):
                store.append("a")
                until(lambda: handler.flushed)
            until(lambda: names(store))
        finally:
            logger.removeHandler(handler)
        assert handler.flushed == [False]
        counts = store.stats()
        assert counts["stored"] + counts["uncommitted"] + counts["dropped"] == 2
