"""The store that a worker bus opens where its context says, and closes when it has stopped."""

from __future__ import annotations

import asyncio
import os
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import DEADLINE, soon, turns
from working import contents, delivered, stored

from agent_event_bus.store import EventStore, StoreError
from agent_event_bus.worker import Event, EventBus, InboundEvent, OutboundEvent, outbox


def is_open(folder: Path) -> bool:
    """Whether anybody has the store in a folder open: at the last close SQLite removes its log."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip(
            "without a GIL the interpreter frees what another thread made when that runs again"
        )
    return any(folder.glob("events.db-*"))


class TestContext:
    @staticmethod
    def context(path: object) -> Any:
        return SimpleNamespace(config=SimpleNamespace(event_path=path))

    async def use(self, path: object) -> None:
        bus = EventBus(self.context(path))
        await bus.publish(OutboundEvent("s", "a"))
        await bus.stop()

    @pytest.mark.parametrize("form", [str, Path, os.fspath], ids=["str", "Path", "fspath"])
    async def test_a_folder_gets_a_file_events_db(self, tmp_path: Path, form: Any) -> None:
        await self.use(form(tmp_path / "new" / "folder"))
        with EventStore(tmp_path / "new" / "folder" / "events.db") as store:
            assert stored(store) == ["a"]

    async def test_a_path_that_ends_in_db_is_the_file(self, tmp_path: Path) -> None:
        await self.use(tmp_path / "new" / "mine.db")
        with EventStore(tmp_path / "new" / "mine.db") as store:
            assert stored(store) == ["a"]

    async def test_a_folder_that_is_there_is_one_whatever_its_name(self, tmp_path: Path) -> None:
        (tmp_path / "odd.db").mkdir()
        await self.use(tmp_path / "odd.db")
        assert (tmp_path / "odd.db" / "events.db").is_file()

    @pytest.mark.parametrize("path", [None, ""])
    async def test_without_a_path_there_is_no_store(self, path: object) -> None:
        await self.use(path)
        for context in (SimpleNamespace(), SimpleNamespace(config=SimpleNamespace()), None):
            bus = EventBus(context)
            event = OutboundEvent("s", object())
            await bus.publish(event)  # which no store would take
            assert bus.ack(event) is False

    async def test_a_store_that_is_given_comes_first(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        bus = EventBus(self.context(tmp_path / "other"), store=store)
        await bus.publish(OutboundEvent("s", "a"))
        assert stored(store) == ["a"]
        assert not (tmp_path / "other").exists()

    def test_what_is_no_path_is_refused(self) -> None:
        with pytest.raises(TypeError):
            EventBus(self.context(5))

    def test_a_file_that_is_no_store_is_refused_when_the_bus_is_made(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").write_text("no database, but long enough to be looked at" * 50)
        with pytest.raises(StoreError):
            EventBus(self.context(tmp_path / "x.db"))

    @pytest.mark.parametrize("path", ["folder", "folder/mine.db"])
    def test_a_folder_that_cannot_be_made_is_refused_by_the_store(
        self, tmp_path: Path, path: str
    ) -> None:
        (tmp_path / "folder").write_text("which is none")
        with pytest.raises(StoreError, match=r"\.db': no folder for it: "):
            EventBus(self.context(tmp_path / path))

    async def test_a_stopped_bus_has_closed_its_store_and_opens_it_again_when_used(
        self, tmp_path: Path
    ) -> None:
        bus = EventBus(self.context(tmp_path))
        assert contents(await delivered(bus)) == []
        assert not is_open(tmp_path)
        await bus.publish(OutboundEvent("s", "a"))
        assert is_open(tmp_path)
        assert contents(await delivered(bus)) == ["a"]
        await bus.stop()
        assert not is_open(tmp_path)

    async def test_so_has_one_that_a_handler_has_stopped(self, tmp_path: Path) -> None:
        bus = EventBus(self.context(tmp_path))
        bus.subscribe(Event, lambda event: asyncio.ensure_future(bus.stop()))
        await bus.publish(OutboundEvent("s", "a"))
        await soon(bus.start())
        assert not is_open(tmp_path)

    async def test_so_has_one_that_ran_out_of_time(self, tmp_path: Path) -> None:
        bus = EventBus(self.context(tmp_path))
        inside = asyncio.Event()

        async def handler(event: OutboundEvent) -> None:
            inside.set()
            await asyncio.Event().wait()

        bus.subscribe(OutboundEvent, handler)
        await bus.publish(OutboundEvent("s", "a"))
        bus.start()
        await soon(inside.wait())
        await soon(bus.stop(timeout=0))
        assert not is_open(tmp_path)

    async def test_so_has_one_with_an_event_on_its_way_to_the_disk(self, tmp_path: Path) -> None:
        bus = EventBus(self.context(tmp_path))
        publishing = asyncio.ensure_future(bus.publish(OutboundEvent("s", "a")))
        await asyncio.sleep(0)
        await soon(bus.stop())
        await soon(publishing)
        assert not is_open(tmp_path)

    async def test_one_that_was_started_again_meanwhile_keeps_it_open(self, tmp_path: Path) -> None:
        bus = EventBus(self.context(tmp_path))
        publishing = asyncio.ensure_future(bus.publish(OutboundEvent("s", "a")))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(bus.stop())  # which waits for that
        await asyncio.sleep(0)
        bus.start()
        await soon(bus.join())
        await soon(asyncio.gather(publishing, stopping))
        assert is_open(tmp_path)
        await soon(bus.stop())
        assert not is_open(tmp_path)

    @pytest.mark.parametrize("later", [0, 1, 2])
    async def test_so_has_one_whose_handler_publishes_at_its_end(
        self, tmp_path: Path, later: int
    ) -> None:
        bus = EventBus(self.context(tmp_path))
        inside = asyncio.Event()
        publishing: list[asyncio.Task[None]] = []

        async def handler(event: InboundEvent) -> None:
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                publishing.append(asyncio.ensure_future(bus.publish(OutboundEvent("s", "a"))))
                await turns(later)

        bus.subscribe(InboundEvent, handler)
        bus.start()
        await bus.publish(InboundEvent("s", "q"))
        await soon(inside.wait())
        await soon(bus.stop(timeout=0))
        await soon(publishing[0])
        assert not is_open(tmp_path)

    async def test_so_has_one_that_was_still_reading(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading, go_on = threading.Event(), threading.Event()

        class SlowToRead(EventStore):
            def pending(self, consumer: str, *args: Any, **options: Any) -> Iterator[Any]:
                found = super().pending(consumer, *args, **options)
                if options:
                    reading.set()
                    assert go_on.wait(DEADLINE)
                return found

        monkeypatch.setattr(outbox, "EventStore", SlowToRead)
        bus = EventBus(self.context(tmp_path))
        bus.start()
        while not reading.is_set():
            await turns()
        await soon(bus.stop(timeout=0))
        go_on.set()
        await asyncio.get_running_loop().shutdown_default_executor()  # the thread has ended
        assert not is_open(tmp_path)
