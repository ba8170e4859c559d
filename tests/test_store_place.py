"""Where the file of a store is: odd names, links, and a file that is deleted or replaced."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import soon
from stores import names, numbers, payloads

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore, StoreError

# Windows lets nobody delete or rename a file that is open.
moves = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be moved here")
FORK_WARNING = "ignore:This process:DeprecationWarning"


def test_a_store_in_memory_is_refused_and_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a store is a file"):
        EventStore(":memory:")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="file names have fewer characters there")
@pytest.mark.parametrize(
    "name", ["a b?mode=ro#%41.db", "file:a.db?mode=memory", "Ünï 😀.db", "'\".db", b"\xff.db"]
)
def test_every_file_name_is_taken_as_it_is(tmp_path: Path, name: str | bytes) -> None:
    expected = os.fsdecode(name)
    with EventStore(tmp_path / expected) as store:
        store.append("a")
        assert store.flush()
        assert expected in os.listdir(tmp_path)
        assert store.path == str(tmp_path / expected)
        assert store.verify() == []
    assert os.listdir(tmp_path) == [expected]


def test_a_relative_path_is_that_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with EventStore("events.db", sync="each") as store:
        monkeypatch.chdir(tmp_path / "other")
        assert store.append("a") == 1
        assert names(store) == ["a"]
        assert store.verify() == []
    assert os.listdir(tmp_path / "other") == []


@moves
async def test_a_link_leads_to_the_same_store(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    bus = EventBus()
    with EventStore(path, sync="each") as store, EventStore(link, sync="each") as linked:
        store.append("a", 1)
        assert linked.path == store.path
        assert linked.stats()["size_bytes"] == store.stats()["size_bytes"]
        linked.attach(bus)
        assert await soon(store.replay(bus)) == 1  # and `linked` does not record it again
        assert payloads(linked) == [1]


# A file that is gone


def remove(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink()


def replace(path: Path) -> None:
    remove(path)
    with EventStore(path, sync="each") as another:
        another.append("another")


@moves
@pytest.mark.parametrize("way", [remove, replace])
async def test_nothing_is_called_durable_in_a_file_that_nobody_finds(path: Path, way: Any) -> None:
    with EventStore(path, sync="each") as store:
        assert store.append("a") == 1
        way(path)
        with pytest.raises(StoreError, match="was deleted or replaced"):
            store.append("b")
        with pytest.raises(StoreError, match="was deleted or replaced"):
            await soon(store.append_async("c"))
        with pytest.raises(StoreError, match="was deleted or replaced"):
            store.ack("billing", 1)
    if way is replace:
        with EventStore(path) as store:
            assert names(store) == ["another"]
    else:
        assert os.listdir(os.path.dirname(path)) == []


@moves
def test_what_is_queued_waits_until_the_file_is_back(path: Path) -> None:
    away = path.with_name("away.db")
    with EventStore(path) as store:
        store.append("a")
        assert store.flush()
        assert names(store) == ["a"]
        path.rename(away)
        store.append("b")
        with pytest.raises(StoreError, match="was deleted or replaced"):
            store.flush()
        assert store.stats()["uncommitted"] == 1  # what is open can still be read
        away.rename(path)
        assert store.flush()
        assert names(store) == ["a", "b"]


@moves
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings(FORK_WARNING)
def test_no_numbers_begin_again_in_a_new_file_after_a_fork(path: Path) -> None:
    with EventStore(path, sync="each") as store:
        store.append("a")
        remove(path)
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(StoreError, match="was deleted or replaced"):
            store.append("b")
        with pytest.raises(StoreError, match="was deleted or replaced"):
            numbers(store)
    assert not path.exists()
