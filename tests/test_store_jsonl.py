"""export_jsonl and import_jsonl: a log as a file of JSON lines, and back."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent_event_bus.store import EventStore, StoreClosedError, StoredEvent
from agent_event_bus.store.database import Database

RECORDED = (
    '{"event": "run.start", "payload": {"run_id": "r1", "at": [1, 2.5]}}\n'
    '{"event":"tool.end","payload":{"$":"tuple","v":[1]}}\n'
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    """A store that commits each event."""
    with EventStore(tmp_path / "one.db", sync="each") as store:
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[EventStore]:
    """Another one."""
    with EventStore(tmp_path / "two.db", sync="each") as store:
        yield store


def without_numbers(store: EventStore) -> list[tuple[Any, ...]]:
    return [(e.name, e.payload, e.timestamp, e.run_id, e.form) for e in store.read()]


def fill(store: EventStore) -> None:
    store.append(
        "a", {"text": "ä😀\u2028\n", "none": None, "deep": [[1.5]]}, run_id="r", timestamp=1.1
    )
    store.append(
        "b.c", (1, {2: b"x"}, datetime(2024, 1, 1, tzinfo=timezone.utc)), timestamp=0.1 + 0.2
    )
    store.append("d", ["\ud800", float("inf"), 10**40, {"$": "x"}], timestamp=-5)
    store.append("e", None, run_id="ü", timestamp=1e300)


class TestTheRoundTrip:
    def test_everything_but_the_numbers_is_equal_in_the_other_store(
        self, store: EventStore, other: EventStore, tmp_path: Path
    ) -> None:
        fill(store)
        store.append("object", {"it": object, "x": 1}, timestamp=7.0)
        assert store.export_jsonl(tmp_path / "log.jsonl") == 5
        assert other.import_jsonl(tmp_path / "log.jsonl") == 5
        assert without_numbers(other) == without_numbers(store)
        assert [event.form for event in other.read()] == ["value"] * 4 + ["repr"]

    def test_a_second_export_is_the_same_text(
        self, store: EventStore, other: EventStore, tmp_path: Path
    ) -> None:
        fill(store)
        store.export_jsonl(tmp_path / "log.jsonl")
        other.import_jsonl(tmp_path / "log.jsonl")
        other.export_jsonl(tmp_path / "again.jsonl")
        assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "log.jsonl").read_bytes()

    def test_withheld_payloads_stay_withheld(self, other: EventStore, tmp_path: Path) -> None:
        def refuse(name: str, payload: object) -> object:
            raise ValueError("no")

        with EventStore(tmp_path / "three.db", sync="each", redact=refuse) as store:
            store.append("a", {"secret": 1})
            store.export_jsonl(tmp_path / "log.jsonl")
        other.import_jsonl(tmp_path / "log.jsonl")
        (event,) = other.read()
        assert (event.payload, event.form) == (None, "withheld")

    def test_a_text_of_thousands_of_digits_and_a_path_that_is_no_utf8(
        self, store: EventStore, other: EventStore, tmp_path: Path
    ) -> None:
        store.append("a", {"digits": "9" * 5000, "file": Path("a\udce4.txt")})
        store.append("b", {"digits": "9" * 5000})
        store.export_jsonl(tmp_path / "log.jsonl")
        assert other.import_jsonl(tmp_path / "log.jsonl") == 2
        assert without_numbers(other) == without_numbers(store)
        assert {event.form for event in other.read()} == {"value"}

    def test_more_events_than_are_read_at_a_time(self, store: EventStore, tmp_path: Path) -> None:
        with EventStore(tmp_path / "many.db") as many:
            for number in range(2500):
                many.append("n", number, timestamp=float(number))
            many.flush()
            assert many.export_jsonl(tmp_path / "log.jsonl") == 2500
        assert store.import_jsonl(tmp_path / "log.jsonl") == 2500
        assert [(e.seq, e.payload) for e in store.read()] == [(n + 1, n) for n in range(2500)]


class TestExport:
    def test_each_line_is_one_json_object_with_all_of_an_event(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        store.append("first", timestamp=1.5)
        store.append("tool.end", {"a": [1]}, run_id="r1", timestamp=2)
        store.export_jsonl(tmp_path / "log.jsonl")
        lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [
            {"seq": 1, "name": "first", "timestamp": 1.5, "run_id": None, "form": "value",
             "payload": None},
            {"seq": 2, "name": "tool.end", "timestamp": 2.0, "run_id": "r1", "form": "value",
             "payload": {"a": [1]}},
        ]  # fmt: skip

    def test_the_old_file_stays_when_it_fails(
        self, store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.append("a")
        target = tmp_path / "log.jsonl"
        target.write_text("old")

        def fail(handle: int) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            store.export_jsonl(target)
        assert target.read_text() == "old"
        assert list(tmp_path.glob("*.tmp")) == list(tmp_path.glob(".*")) == []

    def test_it_replaces_a_file_keeps_its_mode_and_follows_a_link(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        store.append("a")
        target, link = tmp_path / "log.jsonl", tmp_path / "link.jsonl"
        target.write_text("old")
        target.chmod(0o640)
        link.symlink_to(target)
        store.export_jsonl(link)
        assert link.is_symlink()
        assert json.loads(target.read_text())["name"] == "a"
        assert target.stat().st_mode & 0o777 == 0o640

    def test_it_is_on_the_disk_before_it_has_its_name_and_so_is_the_name_then(
        self, store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.append("a")
        target = tmp_path / "log.jsonl"
        synced: list[tuple[bool, int, bool]] = []
        real = os.fsync

        def fsync(handle: int) -> None:
            real(handle)
            status = os.fstat(handle)
            synced.append((stat.S_ISDIR(status.st_mode), status.st_ino, target.exists()))

        monkeypatch.setattr(os, "fsync", fsync)
        store.export_jsonl(target)
        file, folder = target.stat().st_ino, tmp_path.stat().st_ino
        assert [entry for entry in synced if entry[1] in (file, folder)] == [
            (False, file, False),
            (True, folder, True),
        ]

    def test_nobody_can_read_it_who_could_not_read_the_old_one(
        self, store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.append("a")
        target = tmp_path / "log.jsonl"
        target.touch(mode=0o600)
        modes: list[int] = []
        real = Database.query

        def query(database: Database, *rest: Any) -> list[Any]:
            modes.extend(file.stat().st_mode & 0o777 for file in tmp_path.glob(".log*.tmp"))
            return real(database, *rest)

        monkeypatch.setattr(Database, "query", query)
        store.export_jsonl(target)
        assert modes == [0o600]

    def test_the_store_is_not_replaced_by_its_own_export(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        store.append("a", 1)
        (tmp_path / "link.db").symlink_to(tmp_path / "one.db")
        os.link(tmp_path / "one.db", tmp_path / "second name.db")
        for name in ("one.db", "link.db", "second name.db"):
            with pytest.raises(ValueError, match=r"\.db"):
                store.export_jsonl(tmp_path / name)
        with EventStore(tmp_path / "one.db") as again:
            assert [event.payload for event in again.read()] == [1]

    def test_a_new_file_has_the_mode_that_new_files_have(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        (tmp_path / "any").touch()
        store.export_jsonl(tmp_path / "log.jsonl")
        assert (tmp_path / "log.jsonl").stat().st_mode == (tmp_path / "any").stat().st_mode

    def test_a_folder_that_is_not_there_raises(self, store: EventStore, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            store.export_jsonl(tmp_path / "nowhere" / "log.jsonl")

    def test_it_ends_with_the_last_event_that_there_was_at_the_call(
        self, store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.append("a")
        real = Database.query

        def late(database: Database, *rest: Any) -> list[Any]:
            store.append("late")
            return real(database, *rest)

        monkeypatch.setattr(Database, "query", late)
        assert store.export_jsonl(tmp_path / "log.jsonl") == 1
        assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


class TestImport:
    def test_the_events_get_new_numbers_in_the_order_of_the_file(
        self, store: EventStore, other: EventStore, tmp_path: Path
    ) -> None:
        fill(store)
        other.append("first")
        store.export_jsonl(tmp_path / "log.jsonl")
        other.import_jsonl(tmp_path / "log.jsonl")
        other.import_jsonl(tmp_path / "log.jsonl")
        names = ["first", *["a", "b.c", "d", "e"] * 2]
        assert [(e.seq, e.name) for e in other.read()] == list(enumerate(names, 1))

    def test_a_time_of_minus_zero_is_stored_as_zero(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        (tmp_path / "runs.jsonl").write_text('{"event":"x","payload":0,"timestamp":-0.0}')
        assert store.import_jsonl(tmp_path / "runs.jsonl") == 1
        assert [str(event.timestamp) for event in store.read()] == ["0.0"]
        assert store.verify() == []

    def test_recorded_runs_are_taken_as_they_are(self, store: EventStore, tmp_path: Path) -> None:
        (tmp_path / "runs.jsonl").write_text(RECORDED + '\n{"event":"x","payload":0,"timestamp":5}')
        assert store.import_jsonl(tmp_path / "runs.jsonl") == 3
        first, second, third = store.read()
        assert first == StoredEvent(
            1, "run.start", {"run_id": "r1", "at": [1, 2.5]}, first.timestamp, "r1", "value"
        )
        assert second.payload == {"$": "tuple", "v": [1]}
        assert first.timestamp == second.timestamp > 1e9
        assert (third.payload, third.timestamp, third.run_id) == (0, 5.0, None)

    GOOD = '{"event":"a","payload":1}\n'
    BAD: ClassVar[dict[str, tuple[Any, str]]] = {
        "no json": ("nonsense", "no JSON"),
        "half a line": ('{"event":"a","payl', "no JSON"),
        "not text": (b'{"event":"\xff","payload":1}', "no JSON"),
        "not a number": ('{"event":"a","payload":NaN}', "no JSON"),
        "too large a number": ('{"event":"a","payload":[' + "9" * 5000 + "]}", "no JSON"),
        "no object": ("[1]", "no JSON object"),
        "no name": ('{"payload":1}', 'neither "name" nor "event"'),
        "no payload": ('{"event":"a"}', 'no "payload"'),
        "no exported payload": ('{"name":"a","form":"value","timestamp":1}', 'no "payload"'),
        "empty name": ('{"event":"","payload":1}', "name"),
        "name of another type": ('{"event":5,"payload":1}', "name"),
        "name that is no text": ('{"event":"\\ud800","payload":1}', "name"),
        "form": ('{"name":"a","payload":1,"timestamp":1,"form":"other"}', '"form"'),
        "form of another type": ('{"name":"a","payload":1,"timestamp":1,"form":[]}', '"form"'),
        "timestamp": ('{"name":"a","payload":1,"timestamp":"x","form":"value"}', '"timestamp"'),
        "timestamp missing": ('{"name":"a","payload":1,"form":"value"}', '"timestamp"'),
        "endless timestamp": ('{"event":"a","payload":1,"timestamp":1e999}', '"timestamp"'),
        "huge timestamp": ('{"event":"a","payload":1,"timestamp":1' + "0" * 400 + "}", '"timest'),
        "run": ('{"name":"a","payload":1,"timestamp":1,"form":"value","run_id":3}', '"run_id"'),
        "payload": (
            '{"name":"a","payload":{"$":"date","v":"x"},"timestamp":1,"form":"value"}',
            '"payload"',
        ),
        "deep": ('{"event":"a","payload":' + "[" * 200_000 + "]" * 200_000 + "}", "line 3"),
    }  # fmt: skip

    @pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD)
    def test_a_malformed_line_is_named_and_nothing_is_imported(
        self, store: EventStore, tmp_path: Path, line: str | bytes, said: str
    ) -> None:
        path = tmp_path / "runs.jsonl"
        raw = line.encode() if isinstance(line, str) else line
        path.write_bytes(self.GOOD.encode() * 2 + raw + b"\n" + self.GOOD.encode())
        with pytest.raises(ValueError, match="line 3: ") as caught:
            store.import_jsonl(path)
        assert str(path) in str(caught.value)
        assert said in str(caught.value)
        assert list(store.read()) == []
        assert store.append("next") == 1

    def test_the_error_has_nothing_of_the_line_in_it(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        (tmp_path / "runs.jsonl").write_text('{"event":"a","payload":"hunter2",}')
        with pytest.raises(ValueError, match="line 1") as caught:
            store.import_jsonl(tmp_path / "runs.jsonl")
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__
        assert caught.value.__cause__ is None

    def test_a_store_that_redacts_redacts_what_it_imports(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        def redact(name: str, payload: Any) -> Any:
            return {**payload, "key": "***"}

        store.append("a", {"key": "secret", "at": datetime(2024, 1, 1)}, timestamp=3.0)
        store.append("b", 5)
        store.export_jsonl(tmp_path / "log.jsonl")
        with EventStore(tmp_path / "clean.db", redact=redact) as clean:
            clean.import_jsonl(tmp_path / "log.jsonl")
            first, second = clean.read()
        assert first.payload == {"key": "***", "at": datetime(2024, 1, 1)}
        assert first.timestamp == 3.0
        assert (second.payload, second.form) == (None, "withheld")
        for file in tmp_path.glob("clean.db*"):
            assert b"secret" not in file.read_bytes()

    def test_redacting_an_import_makes_no_withheld_or_incomplete_payload_whole(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        lines = [
            '{"name":"a","timestamp":1.0,"form":"withheld","payload":null}',
            '{"name":"b","timestamp":1.0,"form":"repr","payload":"<object>"}',
        ]
        (tmp_path / "log.jsonl").write_text("\n".join(lines))
        with EventStore(tmp_path / "clean.db", redact=lambda name, payload: "***") as clean:
            assert clean.import_jsonl(tmp_path / "log.jsonl") == 2
            found = [(event.payload, event.form) for event in clean.read()]
        assert found == [(None, "withheld"), ("***", "repr")]

    def test_others_see_all_of_it_or_nothing(self, store: EventStore, tmp_path: Path) -> None:
        (tmp_path / "runs.jsonl").write_text(self.GOOD * 3000)
        seen: set[int] = set()
        done = threading.Event()

        def watch() -> None:
            with EventStore(tmp_path / "one.db") as same:
                while not done.is_set():
                    seen.add(same.stats()["stored"])

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            store.import_jsonl(tmp_path / "runs.jsonl")
        finally:
            done.set()
            thread.join()
        assert seen <= {0, 3000}

    def test_an_empty_file_is_no_event(self, store: EventStore, tmp_path: Path) -> None:
        (tmp_path / "runs.jsonl").write_text("\n\n")
        assert store.import_jsonl(tmp_path / "runs.jsonl") == 0

    def test_a_file_that_is_not_there_raises(self, store: EventStore, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            store.import_jsonl(tmp_path / "nothing.jsonl")


def test_a_closed_store_refuses_both(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "one.db")
    store.close()
    (tmp_path / "runs.jsonl").write_text(RECORDED)
    with pytest.raises(StoreClosedError):
        store.export_jsonl(tmp_path / "log.jsonl")
    with pytest.raises(StoreClosedError):
        store.import_jsonl(tmp_path / "runs.jsonl")
    assert not (tmp_path / "log.jsonl").exists()


def test_nothing_of_a_payload_is_logged(
    store: EventStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs.jsonl").write_text('{"event":"a","payload":"hunter2"}\nnonsense hunter2')
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match="line 2"):
        store.import_jsonl(tmp_path / "runs.jsonl")
    assert "hunter2" not in caplog.text
