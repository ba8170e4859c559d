"""EventStore: appending and reading, numbers, arguments, and what the file is."""

from __future__ import annotations

import enum
import os
import sqlite3
import threading
import time
import typing
from pathlib import Path
from typing import Any

import pytest
from helpers import soon
from stores import names, numbers, payloads, until

from agent_event_bus import EventKey
from agent_event_bus.store import EventStore, StoreClosedError, StoredEvent, StoreError

modes = pytest.mark.parametrize("sync", ["each", "process", "batch"])


# Appending


@pytest.mark.parametrize("sync", ["each", "process"])
def test_each_returns_the_number_of_an_event_that_another_store_can_read(
    path: Path, sync: Any
) -> None:
    with EventStore(path, sync=sync) as store, EventStore(path) as other:
        assert store.append("a", {"n": 1}) == 1
        assert payloads(other) == [{"n": 1}]
        assert store.append("b") == 2
        assert names(other) == ["a", "b"]


def test_batch_returns_none_and_stores_within_a_moment(path: Path) -> None:
    with EventStore(path) as store:
        assert store.append("a", 1) is None
        until(lambda: numbers(store))
        assert store.stats()["uncommitted"] == 0


@modes
async def test_append_async_returns_the_number_of_an_event_that_can_be_read(
    path: Path, sync: Any
) -> None:
    with EventStore(path, sync=sync) as store:
        assert await soon(store.append_async("a", [1])) == 1
        assert payloads(store) == [[1]]
        assert await soon(store.append_async("a", [2])) == 2


@modes
async def test_an_event_has_everything_that_it_was_appended_with(path: Path, sync: Any) -> None:
    with EventStore(path, sync=sync) as store:
        store.append("tool.end", {"ok": True}, run_id="run 1", timestamp=12.5)
        await soon(store.append_async("tool.error", None, run_id="run 2", timestamp=-1))
        store.flush()
        assert list(store.read()) == [
            StoredEvent(1, "tool.end", {"ok": True}, 12.5, "run 1"),
            StoredEvent(2, "tool.error", None, -1.0, "run 2"),
        ]


@modes
def test_the_timestamp_is_the_time_of_the_call_unless_it_is_given(path: Path, sync: Any) -> None:
    with EventStore(path, sync=sync) as store:
        before = time.time()
        store.append("a")
        after = time.time()
        store.flush()
        (event,) = store.read()
        assert before <= event.timestamp <= after


@modes
def test_a_payload_that_is_changed_after_the_call_is_stored_as_it_was(
    path: Path, sync: Any
) -> None:
    with EventStore(path, sync=sync) as store:
        payload = {"steps": [1]}
        store.append("a", payload)
        payload["steps"].append(2)
        store.flush()
        assert payloads(store) == [{"steps": [1]}]


def test_events_outlive_the_store(path: Path) -> None:
    with EventStore(path) as store:
        store.append("a", 1)
    with EventStore(path) as store:
        store.append("b", 2)
    with EventStore(path) as store:
        assert names(store) == ["a", "b"]
        assert store.stats()["stored"] == 2


class Color(str, enum.Enum):
    RED = "color.red"


def test_a_run_may_be_a_member_of_an_enum(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        store.append("a", run_id=Color.RED)
        (event,) = store.read(run_id=Color.RED)
        assert event.run_id == "color.red"
        assert list(store.pending("c", run_id=Color.RED)) == [event]


def test_members_of_enums_and_typed_keys_are_names_as_on_a_bus(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        store.append(Color.RED)
        store.append(EventKey[int]("tool.end"), 1)
        assert names(store) == ["color.red", "tool.end"]
        assert names(store, key=Color.RED) == ["color.red"]


def test_text_that_utf8_has_not_is_escaped_in_names_and_runs(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        store.append("a\ud800", run_id="\udfff")
        (event,) = store.read()
        assert (event.name, event.run_id) == ("a\\ud800", "\\udfff")
        assert list(store.read(run_id="\udfff")) == [event]
        store.ack("\ud800", 1)
        assert list(store.pending("\ud800")) == []


# Numbers


def test_numbers_are_not_given_again_after_the_last_events_were_deleted(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        assert [store.append("a"), store.append("a")] == [1, 2]
        assert store.prune(before_seq=100) == 2
        assert store.stats()["last_seq"] == 2
        assert store.append("a") == 3
    with EventStore(path, sync="each") as store:
        assert store.prune(keep_last=0) == 1
    with EventStore(path, sync="each") as store:
        assert store.append("a") == 4


async def test_numbers_follow_the_order_of_commits_of_all_stores_of_a_file(path: Path) -> None:
    with EventStore(path) as one, EventStore(path, sync="each") as two:
        given = [await soon(one.append_async("one")), two.append("two")]
        given += [await soon(one.append_async("one")), two.append("two")]
        assert given == [1, 2, 3, 4]
        assert names(one) == ["one", "two", "one", "two"]


async def test_queued_events_and_awaited_ones_keep_the_order_of_the_calls(path: Path) -> None:
    with EventStore(path) as store:
        for number in range(5):
            store.append("queued", 2 * number)
            await soon(store.append_async("awaited", 2 * number + 1))
        assert payloads(store) == list(range(10))


def test_threads_get_numbers_of_their_own(path: Path) -> None:
    given: list[int | None] = []
    with EventStore(path, sync="each") as store:

        def work() -> None:
            given.extend([store.append("a", threading.get_ident()) for _ in range(10)])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(number or 0 for number in given) == list(range(1, 41))
        assert numbers(store) == list(range(1, 41))


# Reading


def test_reading_selects_by_number_key_run_and_limit(path: Path) -> None:
    with EventStore(path) as store:
        for number, name in enumerate(["tool.start", "tool.end", "llm.response", "tool.a.b"]):
            store.append(name, number, run_id=f"run {number % 2}")
        store.flush()
        assert names(store, after=2) == ["llm.response", "tool.a.b"]
        assert names(store, key="tool.end") == ["tool.end"]
        assert names(store, key="tool.*") == ["tool.start", "tool.end"]
        assert names(store, key="tool.**") == ["tool.start", "tool.end", "tool.a.b"]
        assert names(store, key="*.end") == ["tool.end"]
        assert names(store, key=["tool.end", "llm.*"]) == ["tool.end", "llm.response"]
        assert len(names(store, key="*")) == len(names(store, key="**")) == 4
        assert names(store, run_id="run 1") == ["tool.end", "tool.a.b"]
        assert names(store, limit=3) == ["tool.start", "tool.end", "llm.response"]
        assert names(store, limit=0) == []
        assert names(store, after=1, key="tool.*", run_id="run 1", limit=1) == ["tool.end"]
        assert names(store, run_id="nobody's") == []
        assert names(store, after=2**70) == []
        assert len(names(store, limit=2**70)) == 4


def test_a_limit_counts_the_events_that_match_also_over_many_pages(path: Path) -> None:
    with EventStore(path) as store:
        for number in range(2000):
            store.append("even" if number % 2 == 0 else "odd", number)
        store.flush()
        assert payloads(store, key="odd", limit=700) == list(range(1, 1400, 2))
        assert payloads(store) == list(range(2000))


@pytest.mark.parametrize("key", ["", "a..b", "foo*", "**.a"])
def test_a_malformed_key_is_refused_at_the_call(path: Path, key: str) -> None:
    with EventStore(path) as store, pytest.raises(ValueError, match="key"):
        store.read(key=key)


def test_a_class_is_no_key_of_the_log(path: Path) -> None:
    with EventStore(path) as store, pytest.raises(TypeError, match="a class is no key"):
        store.read(key=int)


def test_reading_ends_with_the_last_event_there_was_at_the_call(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        store.append("a")
        seen = 0
        for _ in store.read():
            seen += 1
            store.append("more")
        assert seen == 1
        assert len(numbers(store)) == 2


def test_a_reader_ends_when_the_store_is_closed(path: Path) -> None:
    store = EventStore(path, sync="each")
    store.append("a")
    store.append("b")
    reader = store.read()
    assert next(reader).name == "a"
    store.close()
    with pytest.raises(StoreClosedError):
        next(reader)


def test_a_paused_reader_holds_up_nobody(path: Path) -> None:
    with EventStore(path) as store:
        for _ in range(300):
            store.append("a")
        store.flush()
        reader = store.read()
        next(reader)
        # Neither writing, nor deleting, nor moving the log into the file waits for it.
        store.append("b")
        store.flush()
        assert store.prune(keep_last=1) == 300
        connection = sqlite3.connect(path)
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.close()
        assert busy == 0
        assert len(list(reader)) == 255  # the rest of the page that was read


async def test_what_is_queued_is_not_read_before_it_is_stored(path: Path) -> None:
    with EventStore(path) as store:
        store.append("a")
        assert store.flush() is True
        assert names(store) == ["a"]


def test_a_damaged_event_is_an_error_that_names_it_and_not_its_contents(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        store.append("a", 1)
        store.append("a", 2)
        connection = sqlite3.connect(path)
        connection.execute("UPDATE events SET payload = '{secret' WHERE seq = 2")
        connection.commit()
        connection.close()
        reader = store.read()
        assert next(reader).payload == 1
        with pytest.raises(StoreError, match="event 2 is damaged") as caught:
            next(reader)
        assert "secret" not in str(caught.value)


# Statistics


def test_stats_count_what_is_in_the_file_and_what_is_to_come(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        empty = store.stats()
        assert empty.pop("size_bytes") > 0
        assert empty == {"stored": 0, "uncommitted": 0, "dropped": 0, "last_seq": 0}
        for _ in range(3):
            store.append("a", "x" * 10_000)
        store.prune(before_seq=2)
        full = store.stats()
        assert full.pop("size_bytes") > 30_000
        assert full == {"stored": 2, "uncommitted": 0, "dropped": 0, "last_seq": 3}


# Arguments


def test_the_path_may_be_relative_and_stays_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with EventStore("events.db") as store:
        monkeypatch.chdir("/")
        assert store.path == os.path.join(tmp_path, "events.db")
        store.append("a")
        assert store.flush()
    assert (tmp_path / "events.db").exists()
    assert repr(store) == f"<EventStore {store.path!r} closed>"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sync": "sometimes"}, ValueError),
        ({"overflow": "error"}, ValueError),
        ({"max_queue": 0}, ValueError),
        ({"max_queue": 1.5}, TypeError),
        ({"max_queue": True}, TypeError),
        ({"redact": 1}, TypeError),
    ],
)
def test_bad_options_are_refused_and_make_no_file(
    path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        EventStore(path, **options)
    assert not path.exists()


def test_redact_must_be_no_coroutine_function(path: Path) -> None:
    async def redact(name: str, payload: object) -> object:
        return payload

    with pytest.raises(TypeError, match="coroutine function"):
        EventStore(path, redact=redact)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": "a*"}, ValueError),
        ({"name": ""}, ValueError),
        ({"name": 5}, TypeError),
        ({"name": "a", "run_id": 5}, TypeError),
        ({"name": "a", "timestamp": "now"}, TypeError),
        ({"name": "a", "timestamp": 10**400}, ValueError),
        ({"name": "a", "timestamp": float("nan")}, ValueError),
    ],
)
async def test_bad_arguments_of_an_event_are_refused_at_the_call(
    path: Path, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with EventStore(path) as store:
        with pytest.raises(error):
            store.append(**arguments)
        with pytest.raises(error):
            await store.append_async(**arguments)
        assert store.flush()
        assert store.stats()["stored"] == 0


@pytest.mark.parametrize(
    "arguments", [{"after": -1}, {"limit": -1}, {"after": 1.5}, {"run_id": 1}, {"limit": "1"}]
)
def test_bad_arguments_of_reading_are_refused_at_the_call(
    path: Path, arguments: dict[str, Any]
) -> None:
    with EventStore(path) as store, pytest.raises((ValueError, TypeError)):
        store.read(**arguments)


# The file


def test_the_file_is_a_database_in_wal_mode_with_an_identity(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        store.append("a")
        connection = sqlite3.connect(path)
        found = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "application_id", "user_version")
        ]
        connection.close()
        assert found == ["wal", 0x41454253, 1]
        with store._database.transaction() as connection:  # that of the store itself
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_database_of_another_application_is_refused_and_not_changed(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another application"):
        EventStore(path)
    assert path.read_bytes() == before


def test_a_store_of_a_later_version_is_refused(path: Path) -> None:
    EventStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(StoreError, match="version 2"):
        EventStore(path)


def test_a_directory_that_is_not_there_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere.+events\.db"):
        EventStore(tmp_path / "nowhere" / "events.db")


def test_many_stores_may_make_one_file_at_once(path: Path) -> None:
    stores: list[EventStore] = []
    threads = [threading.Thread(target=lambda: stores.append(EventStore(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 8
    for store in stores:
        store.append("a")
        store.close()
    with EventStore(path) as store:
        assert store.stats()["stored"] == 8


# Closing


@modes
async def test_a_closed_store_refuses_everything(path: Path, sync: Any) -> None:
    store = EventStore(path, sync=sync)
    store.append("a")
    reader = store.read()
    store.close()
    store.close()
    assert store.closed
    for call in (
        lambda: store.append("a"),
        lambda: store.flush(),
        lambda: store.read(),
        lambda: store.pending("c"),
        lambda: store.ack("c", 1),
        lambda: store.ack_through("c", 1),
        lambda: store.prune(keep_last=1),
        lambda: store.stats(),
        lambda: next(reader),
    ):
        with pytest.raises(StoreClosedError, match=r"events\.db"):
            call()
    for awaitable in (store.append_async("a"), store.ack_async("c", 1)):
        with pytest.raises(StoreClosedError):
            await awaitable


@modes
def test_close_stores_what_is_queued_and_leaves_one_file(path: Path, sync: Any) -> None:
    with EventStore(path, sync=sync) as store:
        for number in range(5000):
            store.append("a", number)
            if sync != "batch" and number == 20:
                break
    assert [file.name for file in path.parent.iterdir()] == ["events.db"]
    with EventStore(path) as store:
        assert payloads(store) == list(range(number + 1))


def test_close_from_several_threads_stores_everything_once(path: Path) -> None:
    store = EventStore(path)
    for number in range(1000):
        store.append("a", number)
    threads = [threading.Thread(target=store.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with EventStore(path) as again:
        assert payloads(again) == list(range(1000))


def test_a_close_that_is_interrupted_may_be_called_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    store = EventStore(path)
    store.append("a", 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.close()
    store.close()
    with EventStore(path) as again:
        assert payloads(again) == [1]


def test_the_types_of_the_fields_of_a_stored_event_can_be_asked_for() -> None:
    hints = typing.get_type_hints(StoredEvent)
    assert hints["seq"] is int
    assert hints["run_id"] == typing.Optional[str]
