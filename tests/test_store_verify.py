"""verify: what is wrong with a store, in sentences, whatever state its file is in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from agent_event_bus.store import EventStore, StoreClosedError, StoreError, verify_file
from agent_event_bus.store.database import checksum
from agent_event_bus.store.encoding import decode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The closed file of a store with 200 events and two consumers."""
    path = tmp_path / "log.db"
    with EventStore(path) as store:
        for number in range(200):
            store.append("tool.end", {"number": number, "text": "x" * 300}, run_id="r")
        store.flush()
        store.ack("mailer", 3)
        store.ack_through("other", 150)
    return path


@pytest.fixture
def damaged(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that damages it."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def problems(path: Path) -> list[str]:
    with EventStore(path) as store:
        found = store.verify()
    assert verify_file(path) == found
    return found


class TestASoundStore:
    def test_has_no_problems(self, path: Path) -> None:
        assert problems(path) == []

    def test_an_empty_one_has_none(self, tmp_path: Path) -> None:
        EventStore(tmp_path / "empty.db").close()
        assert problems(tmp_path / "empty.db") == []

    def test_a_pruned_one_has_none(self, path: Path) -> None:
        with EventStore(path) as store:
            store.ack_through("mailer", 200)
            store.ack_through("other", 200)
            assert store.prune(keep_last=0) == 200
        assert problems(path) == []

    def test_payloads_of_every_form_are_no_problem(self, tmp_path: Path) -> None:
        def redact(name: str, payload: object) -> object:
            return 1 / 0 if name == "withheld" else payload

        with EventStore(tmp_path / "log.db", sync="each", redact=redact) as store:
            store.append("withheld", 1)
            store.append("object", object())
            store.append("é", ("ä", float("nan")), run_id="ü", timestamp=-1.5)
            store.record("<locals>.\ud800", {"run_id": "\ud800"})
        assert problems(tmp_path / "log.db") == []

    def test_it_may_be_written_and_read_meanwhile(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        numbers: list[int | None] = []

        def decoded(text: str) -> object:
            # As another thread would, in the middle of it.
            if len(numbers) < 3:
                numbers.append(store.append("more"))
                assert store.stats()["stored"] == 200 + len(numbers)
            return decode(text)

        monkeypatch.setattr("agent_event_bus.store.verify.decode", decoded)
        with EventStore(path, sync="each") as store:
            assert store.verify() == []
        assert numbers == [201, 202, 203]


class TestWhatIsWrong:
    def test_a_changed_payload(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("UPDATE events SET payload = replace(payload, 'x', 'y') WHERE seq = 7")
        assert problems(path) == ["event 7: its checksum does not match"]

    @pytest.mark.parametrize(
        "change",
        ["name = 'other'", "timestamp = 1.5", "run_id = NULL", "form = 1", "crc = crc + 1"],
    )
    def test_any_other_change_of_an_event(
        self, path: Path, damaged: sqlite3.Connection, change: str
    ) -> None:
        damaged.execute(f"UPDATE events SET {change} WHERE seq = 9")
        assert problems(path) == ["event 9: its checksum does not match"]

    def test_a_payload_that_cannot_be_decoded(
        self, path: Path, damaged: sqlite3.Connection
    ) -> None:
        for text in ('{"$":"unknown","v":1}', "nonsense", "[" * 100_000):
            crc = checksum("a", text, 0, 1.0, None)
            damaged.execute(
                "INSERT INTO events (name, payload, form, timestamp, crc) VALUES ('a', ?, 0, 1, ?)",
                (text, crc),
            )
        assert problems(path) == [
            f"event {seq}: its payload cannot be decoded" for seq in (201, 202, 203)
        ]

    def test_a_payload_that_is_no_text(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("UPDATE events SET payload = CAST(X'ff00' AS TEXT) WHERE seq = 5")
        damaged.execute("UPDATE events SET timestamp = 'never' WHERE seq = 6")
        assert problems(path) == ["event 5: it is no text", "event 6: its timestamp is no number"]

    def test_an_unknown_form(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("UPDATE events SET form = 9 WHERE seq = 5")
        assert problems(path) == ["event 5: its form 9 is unknown"]

    def test_a_ledger_ahead_of_the_log(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("UPDATE consumers SET watermark = 999 WHERE name = 'other'")
        damaged.execute("INSERT INTO acks VALUES ('mailer', 500)")
        assert problems(path) == [
            "the ledger of 'mailer' is ahead of the log: it has acknowledged 500, and the last"
            " number that was given is 200",
            "the ledger of 'other' is ahead of the log: it has acknowledged 999, and the last"
            " number that was given is 200",
        ]

    def test_an_acknowledgement_twice_or_of_nobody(
        self, path: Path, damaged: sqlite3.Connection
    ) -> None:
        damaged.execute("INSERT INTO acks VALUES ('other', 5)")
        damaged.execute("INSERT INTO acks VALUES ('nobody', 5)")
        assert problems(path) == [
            "the ledger of 'other' has 5 twice, by number and under its mark",
            "the ledger has acknowledgements of 'nobody', which it does not know",
        ]

    def test_a_sequence_behind_the_log(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("UPDATE sqlite_sequence SET seq = 150 WHERE name = 'events'")
        assert "the sequence is at 150, behind event 200: numbers could be given again" in problems(
            path
        )

    def test_a_sequence_that_is_gone(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("DELETE FROM sqlite_sequence")
        assert "the sequence is at 0, behind event 200: numbers could be given again" in problems(
            path
        )

    def test_an_event_behind_those_that_are_read_at_a_time(self, tmp_path: Path) -> None:
        with EventStore(tmp_path / "long.db") as store:
            for number in range(1005):
                store.append("n", number)
        connection = sqlite3.connect(tmp_path / "long.db", isolation_level=None)
        connection.execute("UPDATE events SET payload = '-1' WHERE seq IN (500, 501, 1001, 1005)")
        connection.close()
        assert problems(tmp_path / "long.db") == [
            f"event {seq}: its checksum does not match" for seq in (500, 501, 1001, 1005)
        ]

    def test_an_index_that_has_not_all_of_the_events(
        self, path: Path, damaged: sqlite3.Connection
    ) -> None:
        # Every event is as it was, so SQLite's own check alone can find this.
        damaged.execute("PRAGMA writable_schema = ON")
        (schema,) = damaged.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'events_of_run'"
        ).fetchone()
        damaged.execute(
            "UPDATE sqlite_master SET sql = ? WHERE name = 'events_of_run'",
            (schema.replace("run_id IS NOT NULL", "run_id = 'none'"),),
        )
        damaged.execute("PRAGMA writable_schema = RESET")
        damaged.execute("REINDEX events_of_run")
        damaged.execute("PRAGMA writable_schema = ON")
        damaged.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'events_of_run'", (schema,))
        damaged.close()
        found = problems(path)
        assert found
        assert all(problem.startswith("the file is damaged: ") for problem in found)

    def test_a_number_below_one(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("UPDATE events SET seq = -4 WHERE seq = 5")
        assert problems(path) == ["event -4: its number is less than 1"]


class TestAFileThatIsNoStore:
    def test_another_application(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("PRAGMA application_id = 7")
        assert verify_file(path) == [
            "the file is no store: its application id is 7, not 1095058003"
        ]
        with pytest.raises(StoreError, match="another application"):
            EventStore(path)

    def test_another_version(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("PRAGMA user_version = 99")
        assert verify_file(path) == ["the store has version 99, not 1"]

    def test_a_table_that_is_missing(self, path: Path, damaged: sqlite3.Connection) -> None:
        damaged.execute("DROP TABLE acks")
        assert verify_file(path)[0] == "the table acks is missing"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "no store"),
            (b"no database at all" * 100, "cannot be read"),
            (b"SQLite format 3\x00", "cannot be read"),
        ],
    )
    def test_another_file(self, tmp_path: Path, content: bytes, said: str) -> None:
        (tmp_path / "x").write_bytes(content)
        assert said in verify_file(tmp_path / "x")[0]

    def test_no_file(self, tmp_path: Path) -> None:
        assert "unable to open" in verify_file(tmp_path / "nothing.db")[0]
        assert not (tmp_path / "nothing.db").exists()

    def test_a_folder(self, tmp_path: Path) -> None:
        assert len(verify_file(tmp_path)) >= 1

    def test_a_name_with_characters_that_mean_something_in_a_uri(self, tmp_path: Path) -> None:
        name = tmp_path / "a?mode=memory#%41.db"
        EventStore(name).close()
        assert verify_file(name) == []


def test_no_damage_at_all_makes_it_raise_and_none_of_the_log_goes_unnoticed(path: Path) -> None:
    sound = path.read_bytes()
    seed = 1
    noticed = 0
    for round_ in range(60):
        seed = crc32(seed.to_bytes(4, "big"))
        damaged = bytearray(sound)
        if round_ % 4 == 3:
            del damaged[seed % len(sound) :]
        else:
            at = seed % (len(sound) - 64)
            damaged[at : at + 64] = bytes(byte ^ 0x5A for byte in damaged[at : at + 64])
        path.write_bytes(damaged)
        for leftover in path.parent.glob("log.db-*"):
            leftover.unlink()
        noticed += bool(verify_file(path))
    assert noticed >= 40  # the rest hits what is free in a page


def test_nothing_of_a_payload_is_in_a_problem(path: Path, damaged: sqlite3.Connection) -> None:
    damaged.execute("UPDATE events SET payload = '{\"hunter2\": hunter2' WHERE seq = 5")
    found = problems(path)
    assert len(found) == 2
    assert "hunter2" not in " ".join(found)


def test_a_closed_store_refuses(path: Path) -> None:
    store = EventStore(path)
    store.close()
    with pytest.raises(StoreClosedError):
        store.verify()
