"""Outbound events with a store: durable when published, in order, each of them once."""

from __future__ import annotations

import asyncio
import datetime
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import soon, turns
from stores import commits
from working import contents, delivered, outbound, stored

from agent_event_bus.store import EventStore, StoreClosedError, StoreError
from agent_event_bus.worker import (
    AgentWorker,
    Event,
    EventBus,
    InboundEvent,
    NotSerializableError,
    OutboundEvent,
)


@dataclass
class Reply(OutboundEvent):
    """A subclass with a field of its own."""

    channel: str = "mail"


class Slow:
    """A store whose appends wait for a gate, before the commit or after it."""

    def __init__(self, store: EventStore, when: str) -> None:
        self.store = store
        self.when = when
        self.gate = asyncio.Event()
        self.begun = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def append_async(self, *args: Any, **options: Any) -> int:
        self.begun += 1
        when = self.when
        if when == "before":
            await self.gate.wait()
        number = await self.store.append_async(*args, **options)
        if when == "after":
            await self.gate.wait()
        return number


class Busy:
    """A store whose file another process writes to, until it is told to flush."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.other = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
        self.other.execute("BEGIN IMMEDIATE")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def flush(self) -> bool:
        self.other.execute("ROLLBACK")
        return self.store.flush()


class Full:
    """A store that refuses."""

    def __init__(self, store: EventStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def append_async(self, *args: Any, **options: Any) -> int:
        await asyncio.sleep(0)
        raise StoreError("database or disk is full")


class TestDurable:
    async def test_when_publish_returns_the_event_is_in_the_file(
        self, store: EventStore, tmp_path: Path
    ) -> None:
        bus = EventBus(store=store)
        await bus.publish(Reply("s1", {"text": "hi"}, 5.0, channel="chat"))
        connection = sqlite3.connect(tmp_path / "events.db")
        assert connection.execute("SELECT name FROM events").fetchall() == [("worker.outbound",)]
        connection.close()
        (event,) = store.read()
        assert event.payload == Reply("s1", {"text": "hi"}, 5.0, channel="chat").to_dict()
        assert event.run_id == "s1"

    async def test_only_outbound_events_are_stored(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        for event in (InboundEvent("s", 1), Event("s", 2), OutboundEvent("s", 3)):
            await bus.publish(event)
        assert stored(store) == [3]
        assert contents(await delivered(bus)) == [1, 2, 3]

    async def test_the_very_object_is_delivered(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        (event,) = outbound("a")
        await bus.publish(event)
        assert (await delivered(bus))[0] is event

    async def test_events_of_many_publishers_are_delivered_in_the_order_of_their_numbers(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store)
        await soon(asyncio.gather(*map(bus.publish, outbound(*range(300)))))
        order = stored(store)
        assert sorted(order) == list(range(300))
        assert contents(await delivered(bus)) == order

    async def test_what_several_tasks_publish_at_once_is_one_commit(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store)
        before = commits(store.path)
        await soon(asyncio.gather(*map(bus.publish, outbound(*range(100)))))
        assert commits(store.path) - before <= 3  # one, unless the writer woke in between

    async def test_also_when_the_store_tells_of_a_number_late(self, store: EventStore) -> None:
        slow = Slow(store, "after")
        bus = EventBus(store=slow)  # type: ignore[arg-type]
        first = asyncio.ensure_future(bus.publish(outbound("first")[0]))
        while not stored(store):
            await turns()
        slow.when = "never"
        await bus.publish(outbound("second")[0])
        slow.gate.set()
        await soon(first)
        assert contents(await delivered(bus)) == ["first", "second"]

    async def test_what_cannot_be_serialised_is_refused_and_not_delivered(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store)
        with pytest.raises(NotSerializableError, match="cannot be made durable"):
            await bus.publish(OutboundEvent("s", object()))
        assert issubclass(NotSerializableError, TypeError)
        assert stored(store) == []
        assert contents(await delivered(bus)) == []

    async def test_what_the_store_encodes_beyond_json_is_delivered_again_as_it_was(
        self, store: EventStore
    ) -> None:
        when = datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc)
        event = OutboundEvent("s", {"when": when, "raw": b"\x00\xff"}, 1.0)
        await EventBus(store=store).publish(event)
        assert contents(await delivered(EventBus(store=store))) == [event.content]

    async def test_without_a_store_any_content_goes(self) -> None:
        content = object()
        bus = EventBus()
        await bus.publish(OutboundEvent("s", content))
        assert contents(await delivered(bus)) == [content]

    async def test_so_is_what_has_become_so_while_its_publisher_waited_for_room(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store, maxsize=1)
        content: list[object] = []
        await bus.publish(outbound("first")[0])
        publishing = asyncio.ensure_future(bus.publish(OutboundEvent("s", content)))
        await turns()
        content.append(object())
        assert contents(await delivered(bus)) == ["first"]
        with pytest.raises(NotSerializableError):
            await soon(publishing)
        assert stored(store) == ["first"]


class TestRefused:
    async def test_an_event_that_cannot_be_stored_is_not_delivered(self, store: EventStore) -> None:
        bus = EventBus(store=Full(store))  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="disk is full"):
            await bus.publish(outbound("a")[0])
        await bus.publish(InboundEvent("s", "b"))
        assert contents(await delivered(bus)) == ["b"]

    async def test_nobody_waits_for_it_to_be_delivered(self, store: EventStore) -> None:
        bus = EventBus(store=Full(store))  # type: ignore[arg-type]
        bus.start()
        await soon(bus.join())
        publishing = asyncio.ensure_future(bus.publish(outbound("a")[0]))
        await asyncio.sleep(0)
        await soon(bus.join())
        with pytest.raises(StoreError):
            await publishing
        await bus.stop()

    async def test_its_place_is_free_again(self, store: EventStore) -> None:
        bus = EventBus(store=Full(store), maxsize=1)  # type: ignore[arg-type]
        for _ in range(3):
            with pytest.raises(StoreError):
                await soon(bus.publish(outbound("a")[0]))
        await soon(bus.join())

    async def test_a_closed_store_refuses(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        store.close()
        with pytest.raises(StoreClosedError):
            await bus.publish(outbound("a")[0])
        task = bus.start()
        await soon(asyncio.wait([task]))
        assert isinstance(bus.get_exception(), StoreClosedError)

    async def test_an_answer_that_cannot_be_stored_is_logged_as_the_failure_of_the_agent(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = EventBus(store=Full(store))  # type: ignore[arg-type]
        calls: list[InboundEvent] = []

        async def respond(event: InboundEvent) -> str:
            calls.append(event)
            return "answer"

        agent = AgentWorker(SimpleNamespace(eventbus=bus), respond)
        bus.start()
        await bus.publish(InboundEvent("s", "q"))
        await soon(bus.join())
        await bus.stop()
        assert len(calls) == 1  # the model is not asked again for what the disk refuses
        assert "AgentWorker.handle' raised on event 'InboundEvent': database or disk" in caplog.text
        await agent.stop()

    async def test_an_answer_that_cannot_be_serialised_is_a_failure_of_respond(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store)

        async def respond(event: InboundEvent) -> Any:
            return object()

        AgentWorker(SimpleNamespace(eventbus=bus), respond, max_retries=1)
        await bus.publish(InboundEvent("s", "q"))
        sent = [event for event in await delivered(bus) if isinstance(event, OutboundEvent)]
        assert [event.error is not None for event in sent] == [True, True]  # one for the marker
        assert "cannot be serialised" in str(sent[0].error)


class TestCancelledPublish:
    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_an_event_on_its_way_to_the_disk_is_stored_and_delivered_once(
        self, store: EventStore, when: str
    ) -> None:
        slow = Slow(store, when)
        bus = EventBus(store=slow)  # type: ignore[arg-type]
        publishing = asyncio.ensure_future(bus.publish(outbound("a")[0]))
        while not slow.begun or (when == "after" and not stored(store)):
            await turns()
        publishing.cancel()
        await soon(asyncio.wait([publishing]))
        assert publishing.cancelled()
        slow.gate.set()
        assert contents(await delivered(bus)) == ["a"]
        assert stored(store) == ["a"]

    async def test_before_its_first_step_it_is_not_published(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        publishing = asyncio.ensure_future(bus.publish(outbound("a")[0]))
        publishing.cancel()
        await soon(asyncio.wait([publishing]))
        assert contents(await delivered(bus)) == []
        assert stored(store) == []

    async def test_when_all_tasks_are_cancelled_it_leaves_its_place(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store, maxsize=1)
        publishing = asyncio.ensure_future(bus.publish(outbound("a")[0]))
        await asyncio.sleep(0)  # what stores it is made, and has not begun
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await soon(asyncio.wait(others))
        assert publishing.cancelled()
        await soon(bus.join())
        await soon(bus.publish(outbound("b")[0]))
        assert contents(await delivered(bus)) == ["b"]
        assert stored(store) == ["b"]

    async def test_one_that_is_then_refused_is_logged(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = EventBus(store=Full(store))  # type: ignore[arg-type]
        publishing = asyncio.ensure_future(bus.publish(outbound("a")[0]))
        await asyncio.sleep(0)  # its commit has begun
        publishing.cancel()
        await soon(asyncio.wait([publishing]))
        await turns()
        # From 3.14 on asyncio has something to say of it, too.
        (record,) = (found for found in caplog.records if found.name != "asyncio")
        assert record.levelname == "ERROR"
        assert "could not be stored" in record.getMessage()
        assert record.getMessage().endswith("was cancelled: database or disk is full")

    def test_when_the_loop_ends_before_it_is_queued_the_next_run_has_it(
        self, store: EventStore
    ) -> None:
        bus: EventBus

        async def until_stored() -> None:
            nonlocal bus
            slow = Slow(store, "after")
            bus = EventBus(store=slow)  # type: ignore[arg-type]
            await bus.publish(InboundEvent("s", "in"))
            publishing = asyncio.ensure_future(bus.publish(outbound("out")[0]))
            while not stored(store):
                await turns()
            assert not publishing.done()

        asyncio.run(until_stored())
        assert contents(asyncio.run(delivered(bus))) == ["out", "in"]

    def test_also_when_the_disk_is_slower_than_that(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        busy = Busy(store)
        again = EventBus(store=busy)  # type: ignore[arg-type]

        async def begin() -> None:
            publishing.append(asyncio.ensure_future(bus.publish(outbound("out")[0])))
            await turns()

        publishing: list[asyncio.Future[None]] = []
        asyncio.run(begin())
        assert publishing[0].cancelled()
        assert stored(store) == []
        try:
            assert contents(asyncio.run(delivered(again))) == ["out"]
        finally:
            busy.other.close()


class TestStop:
    async def test_it_waits_for_what_is_on_its_way_to_the_disk(self, store: EventStore) -> None:
        slow = Slow(store, "before")
        bus = EventBus(store=slow)  # type: ignore[arg-type]
        bus.start()
        await soon(bus.join())
        publishing = asyncio.ensure_future(bus.publish(outbound("a")[0]))
        await turns()
        stopping = asyncio.ensure_future(bus.stop())
        await turns()
        assert not stopping.done()
        slow.gate.set()
        await soon(stopping)
        assert publishing.done()
        assert stored(store) == ["a"]
        slow.when = "never"
        assert contents(await delivered(bus)) == ["a"]

    async def test_a_store_that_was_given_stays_open(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        bus.start()
        await turns()
        await soon(bus.stop())
        assert not store.closed
