"""A full queue: what is dropped, what waits, and that the counts add up."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import DEADLINE, soon
from stores import names, payloads, refusing, until, writing_elsewhere

from agent_event_bus.store import EventStore, StoreClosedError, StoreError


def taken(store: EventStore) -> None:
    """Wait until the thread has taken what is queued, and can do nothing with it."""
    queue = store._writer._queue  # no public name says it, and waiting 50 ms says it badly
    until(lambda: not queue)


def add_up(store: EventStore, appended: int) -> None:
    counts = store.stats()
    assert counts["stored"] + counts["uncommitted"] + counts["dropped"] == appended


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [("drop_oldest", [0, 8, 9, 10]), ("drop_newest", [0, 1, 2, 3])],
)
def test_a_full_queue_drops_and_counts_and_warns(
    path: Path, overflow: Any, kept: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with EventStore(path, max_queue=3, overflow=overflow) as store:
        with writing_elsewhere(path):
            store.append("a", 0)
            taken(store)
            for number in range(1, 11):
                store.append("a", number)
            add_up(store, 11)
        assert store.flush()
        assert payloads(store) == kept
        counts = store.stats()
        assert (counts["stored"], counts["dropped"]) == (4, 7)
    # The first is told at once, the rest at the latest when the store is closed.
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sum(int(text.split()[-1]) for text in said) == 7
    assert said[0] == f"The queue of {path} is full; events dropped: 1"


def test_what_somebody_waits_for_is_never_dropped(path: Path) -> None:
    with EventStore(path, max_queue=2) as store:

        async def main() -> list[int]:
            with writing_elsewhere(path):
                waiting = [asyncio.ensure_future(store.append_async("waited")) for _ in range(5)]
                await asyncio.sleep(0)
                for number in range(5):
                    store.append("queued", number)
                add_up(store, 10)
            return await soon(asyncio.gather(*waiting))

        given = asyncio.run(main())
        assert store.flush()
        assert len(set(given)) == 5
        assert names(store, key="waited") == ["waited"] * 5
        add_up(store, 10)


def test_a_full_queue_is_quick_however_many_wait_for_their_events(path: Path) -> None:
    with EventStore(path, max_queue=10) as store:

        async def main() -> None:
            with writing_elsewhere(path):
                calls = [store.append_async("waited") for _ in range(20_000)]
                waiting = asyncio.gather(*calls)
                await asyncio.sleep(0)
                start = time.perf_counter()
                for number in range(1000):
                    store.append("queued", number)
                took = time.perf_counter() - start
            assert took < 1.0  # a search for the oldest of them would take milliseconds each time
            await soon(waiting)

        asyncio.run(main())
        assert store.flush()
        assert payloads(store, key="queued") == list(range(990, 1000))


def test_block_waits_for_room_and_loses_nothing(path: Path) -> None:
    with EventStore(path, max_queue=3, overflow="block") as store:
        done = threading.Event()

        def work() -> None:
            for number in range(20):
                store.append("a", number)
            done.set()

        with writing_elsewhere(path):
            store.append("first")
            taken(store)
            thread = threading.Thread(target=work)
            thread.start()
            until(lambda: len(store._writer._queue) == 3)
            assert not done.wait(0.05)
        assert done.wait(DEADLINE)
        thread.join()
        assert store.flush()
        assert payloads(store) == [None, *range(20)]
        assert store.stats()["dropped"] == 0


def test_block_does_not_wait_for_a_disk_that_refuses(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path, max_queue=2, overflow="block") as store:
        with refusing(path, monkeypatch):
            appended = 0

            def fill() -> None:
                nonlocal appended
                while appended < 1000:
                    store.append("a", appended)
                    appended += 1

            with pytest.raises(StoreError, match="full and not written"):
                fill()
            assert appended < 10
        assert store.flush()
        assert payloads(store) == list(range(appended))


def test_close_ends_the_wait_for_room(path: Path) -> None:
    store = EventStore(path, max_queue=1, overflow="block")
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                store.append("a")
        except StoreClosedError as error:
            errors.append(error)

    with writing_elsewhere(path):
        thread = threading.Thread(target=work)
        thread.start()
        until(lambda: len(store._writer._queue) == 1)
        closing = threading.Thread(target=store.close)
        closing.start()
        thread.join(DEADLINE)
        assert len(errors) == 1
    closing.join(DEADLINE)
    assert not closing.is_alive()


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_while_the_disk_refuses_the_queue_keeps_its_size(
    path: Path, overflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path, max_queue=5, overflow=overflow) as store:
        with refusing(path, monkeypatch):
            for number in range(50):
                store.append("a", number)
            with pytest.raises(StoreError):
                store.flush()
            counts = store.stats()
            assert counts["uncommitted"] == 5
            assert counts["dropped"] == 45
        assert store.flush()
        kept = payloads(store)
        assert len(kept) == 5
        assert kept == sorted(kept)
        assert (kept[-1] == 49) == (overflow == "drop_oldest")


def test_no_event_is_counted_twice_in_the_moment_of_its_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(path) as store:
        write = store._writer._write
        counts: list[dict[str, int]] = []

        def committed(group: Any) -> list[object]:
            results = write(group)  # it is in the file now, and still counted as uncommitted
            thread = threading.Thread(target=lambda: counts.append(store.stats()))
            thread.start()
            thread.join(0.05)
            return results

        monkeypatch.setattr(store._writer, "_write", committed)
        store.append("a")
        assert store.flush()
        until(lambda: counts)
        assert (counts[0]["stored"], counts[0]["uncommitted"]) == (1, 0)


def test_the_counts_add_up_while_threads_overflow_the_queue(path: Path) -> None:
    with EventStore(path, max_queue=50) as store:

        def work() -> None:
            for number in range(2000):
                store.append("a", number)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        add_up(store, 6000)
        assert store.flush()
        counts = store.stats()
        assert counts["uncommitted"] == 0
        add_up(store, 6000)
        assert len(payloads(store)) == counts["stored"]
