"""What a store does when it is killed, without power, its disk full, its file damaged or shared.

The long form of the first test kills as many processes as one likes:

    AEB_KILL_ROUNDS=300 python -m pytest tests/test_store_faults.py -k killed
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from helpers import run_isolated

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore, StoreError, verify_file

KILL_ROUNDS = int(os.environ.get("AEB_KILL_ROUNDS", "21"))

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")


class TestAProcessThatIsKilled:
    def test_what_was_durable_is_there_once_and_in_order(
        self, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        said = run_isolated("store_kill.py", str(tmp_path), str(KILL_ROUNDS), timeout=3600)
        counts = json.loads(said)
        assert counts["rounds"] == KILL_ROUNDS
        assert counts["events"] > KILL_ROUNDS
        for way in ("each", "process", "batch", "async", "acks", "bus", "files"):
            assert counts[f"{way}: durable"] > 0, way
        record_property("figures", f"{counts['rounds']} kills, {counts['events']} events")


class TestAPowerFailure:
    def test_leaves_everything_that_was_durable(self, tmp_path: Path) -> None:
        said = run_isolated("store_power.py", str(tmp_path))
        if said == "no compiler\n":
            pytest.skip("the library that keeps what was synced cannot be made here")
        for way, counts in json.loads(said).items():
            assert counts["moments"] > 10, way
            assert counts["durable"] > 1000, way


class TestAFullDisk:
    @pytest.mark.parametrize("kind", ["limit", "tmpfs"])
    def test_nothing_acknowledged_is_lost_and_what_is_queued_gets_through(
        self, tmp_path: Path, kind: str
    ) -> None:
        if not sys.platform.startswith("linux") and kind == "tmpfs":
            pytest.skip("file systems in memory are mounted otherwise here")
        said = run_isolated("store_disk_full.py", str(tmp_path), kind)
        if said == "cannot mount\n":
            pytest.skip("this user may not mount a file system")
        assert said.split() == ["each", "batch", "dropping", "tasks", "ledger"]


class TestAFileThatMayNotBeWritten:
    def test_is_refused_with_its_name_and_left_alone(self) -> None:
        assert run_isolated("store_read_only.py") == "done\n"

    def test_so_is_a_folder_and_a_place_that_is_not_there(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "nowhere" / "log.db"):
            with pytest.raises(StoreError, match=str(path)):
                EventStore(path)
        assert list(tmp_path.iterdir()) == []


class TestSeveralProcesses:
    def test_write_acknowledge_and_read_one_store(self, tmp_path: Path) -> None:
        assert json.loads(run_isolated("store_two_processes.py", str(tmp_path)))["events"] > 0

    @pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        reason="without a GIL a process that forks while its threads write may wait for ever",
    )
    def test_a_fork_in_the_middle_of_writing_loses_and_doubles_nothing(
        self, tmp_path: Path
    ) -> None:
        assert json.loads(run_isolated("store_fork.py", str(tmp_path))) == {"forks": 8}


# A damaged file -----------------------------------------------------------------------------------


def filled(path: Path, count: int = 400) -> bytes:
    """Make a closed store with so many events, and return its file."""
    with EventStore(path) as store:
        for number in range(count):
            store.append("a", {"number": number, "text": "x" * 300})
    return path.read_bytes()


def numbers(store: EventStore) -> list[int]:
    return [event.payload["number"] for event in store.read()]


def garbage(content: bytes, start: int, end: int) -> bytes:
    return content[:start] + b"\xa5" * (end - start) + content[end:]


class TestADamagedFile:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: garbage(content, 0, 100),
            lambda content: b"",
            lambda content: content[:50],
            lambda content: b"text\n" * 1000,
        ],
        ids=["header", "empty", "header alone", "other file"],
    )
    def test_a_damaged_beginning_is_refused_and_found(
        self, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        path = tmp_path / "log.db"
        content = damage(filled(path))
        path.write_bytes(content)
        assert verify_file(path) != []
        if content:  # an empty file is a new store
            with pytest.raises(StoreError, match=str(path)):
                EventStore(path)
            assert path.read_bytes() == content

    def test_events_before_a_damaged_page_are_read_and_the_damage_is_an_error(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "log.db"
        content = filled(path)
        middle = len(content) // 2 // 4096 * 4096
        path.write_bytes(garbage(content, middle, middle + 4096))
        with EventStore(path, sync="each") as store:
            problems = store.verify()
            events = store.read()
            found = [next(events).payload["number"] for _ in range(100)]
            assert found == list(range(100))
            with pytest.raises(StoreError, match=str(path)):
                list(events)
            with pytest.raises(StoreError, match=str(path)):
                list(store.pending("mailer"))
        assert problems
        assert any("damaged" in problem or "cannot be read" in problem for problem in problems)

    def test_a_file_that_was_cut_off_is_found(self, tmp_path: Path) -> None:
        path = tmp_path / "log.db"
        content = filled(path)
        path.write_bytes(content[: len(content) // 2])
        assert verify_file(path) != []

    @pytest.mark.parametrize("damage", ["cut off", "changed", "no header", "gone", "index"])
    def test_a_damaged_write_ahead_log_ends_where_it_is_damaged(
        self, tmp_path: Path, damage: str
    ) -> None:
        path, copy = tmp_path / "log.db", tmp_path / "copy.db"
        with EventStore(path, sync="each") as store:
            for number in range(60):
                store.append("a", {"number": number, "text": "x" * 300})
            # As it is on the disk when the power fails.
            for file in tmp_path.glob("log.db*"):
                shutil.copy(file, tmp_path / file.name.replace("log.db", "copy.db"))
        wal = tmp_path / "copy.db-wal"
        content = wal.read_bytes()
        if damage == "cut off":
            wal.write_bytes(content[: len(content) // 2 + 17])
        elif damage == "changed":
            wal.write_bytes(garbage(content, len(content) // 2, len(content) // 2 + 1))
        elif damage == "no header":
            wal.write_bytes(garbage(content, 0, 32))
        elif damage == "gone":
            wal.unlink()
        else:
            shm = tmp_path / "copy.db-shm"
            shm.write_bytes(garbage(shm.read_bytes(), 0, 4000))
        with EventStore(copy, sync="each") as store:
            found = numbers(store)
            assert found == list(range(len(found)))
            assert (
                len(found)
                in {
                    "cut off": range(1, 60),
                    "changed": range(1, 60),
                    "no header": range(1),
                    "gone": range(1),
                    "index": range(60, 61),
                }[damage]
            )
            assert store.verify() == []
            assert store.append("a", {"number": len(found)}) == len(found) + 1

    def test_a_damaged_event_hides_neither_those_before_nor_those_after_it(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "log.db"
        content = filled(path, 5)
        at = content.index(b'"number":3')
        path.write_bytes(garbage(content, at, at + 3))
        with EventStore(path) as store:
            assert store.verify() == ["event 4: it is no text"]
            events = store.read()
            assert [next(events).seq for _ in range(3)] == [1, 2, 3]
            with pytest.raises(StoreError):
                next(events)
            assert [event.seq for event in store.read(after=4)] == [5]


# The clock ----------------------------------------------------------------------------------------


class TestAClockThatGoesBack:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The time of day, whose only item may be set."""
        now = [1_000_000.0]
        monkeypatch.setattr(time, "time", lambda: now[0])
        return now

    def test_the_order_is_that_of_the_numbers(self, tmp_path: Path, clock: list[float]) -> None:
        with EventStore(tmp_path / "log.db", sync="each") as store:
            for number in range(5):
                clock[0] -= 3600
                assert store.append("a", {"number": number}) == number + 1
            assert numbers(store) == [0, 1, 2, 3, 4]
            times = [event.timestamp for event in store.read()]
            assert times == sorted(times, reverse=True)
            assert store.verify() == []

    async def test_a_replay_with_the_original_gaps_does_not_wait_for_it(
        self, tmp_path: Path
    ) -> None:
        got: list[Any] = []
        bus = EventBus()
        bus.on("a", got.append)
        with EventStore(tmp_path / "log.db", sync="each") as store:
            for when in (1e9, 1e9 - 1e6, 1e9 - 2e6):
                store.append("a", when, timestamp=when)
            await asyncio.wait_for(store.replay(bus, speed=1.0), 20)
        assert got == [1e9, 1e9 - 1e6, 1e9 - 2e6]

    def test_pruning_by_age_spares_what_is_in_the_future(
        self, tmp_path: Path, clock: list[float]
    ) -> None:
        with EventStore(tmp_path / "log.db", sync="each") as store:
            store.append("a", {"number": 0})
            clock[0] -= 500
            store.append("a", {"number": 1})
            clock[0] += 200
            assert store.prune(older_than=100) == 1
            assert numbers(store) == [0]
            assert store.append("a", {"number": 2}) == 3

    async def test_groups_are_committed_all_the_same(
        self, tmp_path: Path, clock: list[float]
    ) -> None:
        with EventStore(tmp_path / "log.db") as store:
            for number in range(20):
                clock[0] -= 1e5
                store.append("a", {"number": 2 * number})
                await store.append_async("a", {"number": 2 * number + 1})
            assert numbers(store) == list(range(40))
