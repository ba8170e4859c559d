"""The next run: what is delivered again, in which order, and what is not."""

from __future__ import annotations

import asyncio
import enum
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers import DEADLINE, soon, turns
from working import contents, delivered, outbound, settled, stored

from agent_event_bus import EventBus as CoreBus
from agent_event_bus.store import EventStore, StoreError
from agent_event_bus.worker import Event, EventBus, InboundEvent, OutboundEvent, outbox


class Reading:
    """A store that can be held up while it reads what is pending."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.reading = threading.Event()
        self.go_on = threading.Event()
        self.has_read = threading.Event()
        self.return_to_loop = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def pending(self, consumer: str, **options: Any) -> Iterator[Any]:
        if "key" in options and "limit" not in options:
            self.reading.set()
            assert self.go_on.wait(DEADLINE)
            found = list(self.store.pending(consumer, **options))
            self.has_read.set()
            assert self.return_to_loop.wait(DEADLINE)
            return iter(found)
        return self.store.pending(consumer, **options)


async def until(flag: threading.Event) -> None:
    assert await asyncio.to_thread(flag.wait, DEADLINE)


async def published(bus: EventBus, *events: Event) -> None:
    for event in events:
        await bus.publish(event)


class TestAfterACrash:
    """A bus that is not heard of again stands for a process that was killed."""

    async def test_the_next_run_delivers_what_was_not_acknowledged_in_order(
        self, store: EventStore
    ) -> None:
        events = outbound(*range(10))
        await published(EventBus(store=store), *events)
        again = await delivered(EventBus(store=store))
        assert again[:-1] == events  # the last one is the test's own

    async def test_delivered_or_not_makes_no_difference(self, store: EventStore) -> None:
        first = EventBus(store=store)
        await published(first, *outbound(1, 2, 3))
        assert contents(await delivered(first)) == [1, 2, 3]
        await published(first, *outbound(4))
        assert contents(await delivered(EventBus(store=store))) == [1, 2, 3, 4]

    async def test_what_was_acknowledged_is_not_delivered_again(self, store: EventStore) -> None:
        first = EventBus(store=store)
        events = outbound(*range(10))
        await published(first, *events)
        await delivered(first)
        for event in events[::2]:
            assert first.ack(event)
        assert contents(await delivered(EventBus(store=store))) == [1, 3, 5, 7, 9]

    async def test_it_is_delivered_again_at_every_run_until_it_is_acknowledged(
        self, store: EventStore
    ) -> None:
        await published(EventBus(store=store), *outbound("a"))
        for _ in range(3):
            assert contents(await delivered(EventBus(store=store))) == ["a"]
        last = EventBus(store=store)
        (event, _) = await delivered(last)
        assert last.ack(event)
        assert contents(await delivered(EventBus(store=store))) == []

    async def test_it_can_be_acknowledged_before_it_is_delivered_again(
        self, store: EventStore
    ) -> None:
        events = outbound("a", "b")
        await published(EventBus(store=store), *events)
        bus = EventBus(store=store)
        acknowledged: list[bool] = []

        def acknowledge_the_other(event: OutboundEvent) -> None:
            acknowledged.append(bus.ack(events[1]))

        bus.subscribe(OutboundEvent, acknowledge_the_other)
        assert contents(await delivered(bus)) == ["a"]
        assert acknowledged == [True]

    async def test_inbound_events_are_not_stored_and_are_gone(self, store: EventStore) -> None:
        await published(EventBus(store=store), InboundEvent("s", "in"), OutboundEvent("s", "out"))
        assert contents(await delivered(EventBus(store=store))) == ["out"]


class TestOrder:
    async def test_what_is_recovered_goes_before_what_is_queued(self, store: EventStore) -> None:
        await published(EventBus(store=store), *outbound(1, 2))
        bus = EventBus(store=store)
        await published(bus, InboundEvent("s", 3), OutboundEvent("s", 4), InboundEvent("s", 5))
        assert contents(await delivered(bus)) == [1, 2, 3, 4, 5]

    async def test_what_is_queued_is_not_delivered_twice(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        await published(bus, *outbound(1, 2, 3))
        assert contents(await delivered(bus)) == [1, 2, 3]

    async def test_what_comes_while_it_recovers_comes_after_it(self, store: EventStore) -> None:
        await published(EventBus(store=store), *outbound(1, 2))
        reading = Reading(store)
        bus = EventBus(store=reading)  # type: ignore[arg-type]
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        bus.start()
        await soon(until(reading.reading))
        await soon(published(bus, InboundEvent("s", 3), OutboundEvent("s", 4)))
        reading.go_on.set()
        await soon(until(reading.has_read))  # it has read 4, too
        await soon(published(bus, InboundEvent("s", 5), OutboundEvent("s", 6)))
        reading.return_to_loop.set()
        await settled(bus)
        assert contents(log) == [1, 2, 3, 4, 5, 6]
        await soon(bus.stop())

    async def test_also_what_it_reads_before_its_publisher_knows_that_it_is_stored(
        self, store: EventStore
    ) -> None:
        class Late(Reading):
            def __init__(self, store: EventStore) -> None:
                super().__init__(store)
                self.gate = asyncio.Event()

            async def append_async(self, *args: Any, **options: Any) -> int:
                number = await self.store.append_async(*args, **options)
                await self.gate.wait()
                return number

        await published(EventBus(store=store), *outbound(1, 2))
        late = Late(store)
        bus = EventBus(store=late)  # type: ignore[arg-type]
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        bus.start()
        await soon(until(late.reading))
        await bus.publish(InboundEvent("s", 3))
        publishing = asyncio.ensure_future(bus.publish(OutboundEvent("s", 4)))
        while stored(store) != [1, 2, 4]:
            await turns()
        late.go_on.set()
        late.return_to_loop.set()
        await soon(until(late.has_read))
        await turns()
        late.gate.set()
        await soon(publishing)
        await settled(bus)
        assert contents(log) == [1, 2, 3, 4]
        await soon(bus.stop())

    async def test_what_is_acknowledged_while_it_recovers_is_not_delivered(
        self, store: EventStore
    ) -> None:
        reading = Reading(store)
        bus = EventBus(store=reading)  # type: ignore[arg-type]
        reading.go_on.set()
        reading.return_to_loop.set()
        events = outbound(1, 2)
        await published(bus, *events)
        assert contents(await delivered(bus)) == [1, 2]
        reading.has_read.clear()
        reading.return_to_loop.clear()
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        bus.start()
        await soon(until(reading.has_read))
        assert bus.ack(events[0])
        reading.return_to_loop.set()
        await settled(bus)
        assert contents(log) == [2]
        await soon(bus.stop())

    async def test_recovered_events_do_not_count_for_the_limit_of_the_queue(
        self, store: EventStore
    ) -> None:
        await published(EventBus(store=store), *outbound(*range(10)))
        assert contents(await delivered(EventBus(store=store, maxsize=1))) == list(range(10))

    async def test_to_join_is_to_wait_for_what_is_recovered(self, store: EventStore) -> None:
        await published(EventBus(store=store), *outbound(1, 2))
        bus = EventBus(store=store)
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        bus.start()
        await soon(bus.join())
        assert contents(log) == [1, 2]
        await soon(bus.stop())


class TestTheSameBusAgain:
    async def test_it_delivers_what_is_not_acknowledged_as_after_a_crash(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store)
        events = outbound(1, 2, 3)
        await published(bus, *events)
        assert contents(await delivered(bus)) == [1, 2, 3]
        assert bus.ack(events[1])
        again = await delivered(bus)
        assert contents(again) == [1, 3]
        assert again[0] is events[0]  # the very objects
        assert again[1] is events[2]
        assert bus.ack(events[0])
        assert bus.ack(events[2])
        assert contents(await delivered(bus)) == []

    async def test_delivered_ones_go_before_those_that_are_queued(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        await published(bus, *outbound(1))
        assert contents(await delivered(bus)) == [1]
        await published(bus, *outbound(2))
        assert contents(await delivered(bus)) == [1, 2]

    async def test_an_event_whose_handlers_were_cancelled_is_delivered_once(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store)
        inside = asyncio.Event()

        async def handler(event: Event) -> None:
            inside.set()
            await asyncio.Event().wait()

        with bus.subscribe(OutboundEvent, handler):
            bus.start()
            await published(bus, *outbound(1, 2))
            await soon(inside.wait())
            await soon(bus.stop(timeout=0))
        assert contents(await delivered(bus)) == [1, 2]

    async def test_one_that_was_acknowledged_before_its_handlers_were_cancelled_is_not(
        self, store: EventStore
    ) -> None:
        bus = EventBus(store=store)
        inside = asyncio.Event()

        async def handler(event: OutboundEvent) -> None:
            assert bus.ack(event)
            inside.set()
            await asyncio.Event().wait()

        with bus.subscribe(OutboundEvent, handler):
            bus.start()
            await published(bus, *outbound(1))
            await soon(inside.wait())
            await soon(bus.stop(timeout=0))
        await soon(bus.join())  # there is nothing to wait for
        await published(bus, *outbound(2))
        assert contents(await delivered(bus)) == [2]

    async def test_to_join_is_to_wait_for_what_is_delivered_again(self, store: EventStore) -> None:
        bus = EventBus(store=store)
        await published(bus, *outbound(1))
        log: list[Any] = []
        bus.subscribe(Event, log.append)
        for times in (1, 2, 3):
            bus.start()
            await soon(bus.join())
            assert contents(log) == [1] * times
            await soon(bus.stop())


class TestWhatCannotBeReadBack:
    async def test_an_unknown_type_is_logged_kept_and_left_out(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        await published(EventBus(store=store), *outbound(1))
        unknown = {**outbound("a secret")[0].to_dict(), "type": "FromTheFuture"}
        await store.append_async("worker.outbound", unknown)
        await published(EventBus(store=store), *outbound(2))
        for _ in range(2):
            caplog.clear()
            assert contents(await delivered(EventBus(store=store))) == [1, 2]
            (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
            assert record.getMessage() == (
                "Stored event 2 cannot be read back, and is kept: Unknown event type: FromTheFuture"
            )
            assert "secret" not in caplog.text
        assert [event.seq for event in store.pending("worker")] == [1, 2, 3]

    @pytest.mark.parametrize("payload", [None, 5, "text", [], {}, {"type": "OutboundEvent"}])
    async def test_so_is_what_is_no_event(
        self, store: EventStore, payload: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.append_async("worker.outbound", payload)
        await published(EventBus(store=store), *outbound(1))
        assert contents(await delivered(EventBus(store=store))) == [1]
        assert "Stored event 1 cannot be read back" in caplog.text

    async def test_so_is_what_its_class_refuses_today(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        @dataclass
        class Checked(OutboundEvent):
            limit: ClassVar[int] = 99

            def __post_init__(self) -> None:
                if len(self.content) > self.limit:
                    raise ValueError(f"{self.content!r} is too long")

        await published(EventBus(store=store), Checked("s", "a secret"), *outbound(1))
        Checked.limit = 0
        assert contents(await delivered(EventBus(store=store))) == [1]
        assert "Stored event 1 cannot be read back" in caplog.text
        assert "Checked raised ValueError" in caplog.text
        assert "secret" not in caplog.text

    async def test_so_is_a_payload_that_was_withheld(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def redact(name: str, payload: object) -> object:
            raise ValueError("no")

        with EventStore(tmp_path / "redacted.db", redact=redact) as store:
            await published(EventBus(store=store), *outbound(1))
            assert contents(await delivered(EventBus(store=store))) == []
        assert "its payload was stored in the form 'withheld'" in caplog.text

    async def test_a_store_that_cannot_be_read_is_a_crash(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Unreadable:
            def flush(self) -> bool:
                return True

            def pending(self, consumer: str, **options: Any) -> Iterator[Any]:
                if options:
                    raise StoreError("disk I/O error")
                return iter(())

        bus = EventBus(store=Unreadable())  # type: ignore[arg-type]
        await published(bus, InboundEvent("s", 1))
        await soon(asyncio.wait([bus.start()]))
        assert bus.has_crashed()
        assert isinstance(bus.get_exception(), StoreError)

    async def test_what_was_redacted_comes_back_redacted(self, tmp_path: Path) -> None:
        def redact(name: str, payload: Any) -> Any:
            return {**payload, "content": "***"}

        with EventStore(tmp_path / "redacted.db", redact=redact) as store:
            bus = EventBus(store=store)
            await published(bus, *outbound("a secret"))
            assert contents(await delivered(bus)) == ["a secret"]
            assert contents(await delivered(EventBus(store=store))) == ["***"]


class TestASharedStore:
    async def test_only_its_own_events_are_recovered(self, store: EventStore) -> None:
        core = CoreBus()
        store.attach(core)
        core.emit("llm.response", {"text": "hi"})
        await published(EventBus(store=store), *outbound(1))
        core.emit("worker.inbound")
        store.flush()
        assert contents(await delivered(EventBus(store=store))) == [1]

    async def test_buses_of_two_names_do_not_see_each_other(self, store: EventStore) -> None:
        mail, chat = EventBus(store=store, name="mail"), EventBus(store=store, name="chat")
        (one, two) = outbound(1, 2)
        await published(mail, one)
        await published(chat, two)
        assert contents(await delivered(mail)) == [1]
        assert chat.ack(two) is False  # it was not delivered yet
        assert mail.ack(one)
        assert contents(await delivered(EventBus(store=store, name="mail"))) == []
        assert contents(await delivered(EventBus(store=store, name="chat"))) == [2]

    async def test_a_name_may_be_a_member_of_an_enum(self, store: EventStore) -> None:
        class Name(str, enum.Enum):
            MAIL = "mail"

        await published(EventBus(store=store, name=Name.MAIL), *outbound(1))
        assert contents(await delivered(EventBus(store=store, name="mail"))) == [1]

    async def test_the_bus_is_done_with_what_others_have_stored_before_its_own(
        self, store: EventStore
    ) -> None:
        for _ in range(5):
            await store.append_async("other")
        first = EventBus(store=store)
        await delivered(first)
        assert [event.seq for event in store.pending("worker")] == []
        (event,) = outbound(1)
        await store.append_async("other")
        await published(first, event)
        await store.append_async("other")
        await delivered(first)
        assert [event.seq for event in store.pending("worker")] == [7, 8]
        assert store.prune(before_seq=100) == 6
        assert contents(await delivered(EventBus(store=store))) == [1]

    async def test_also_while_it_runs_now_and_then(
        self, store: EventStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "SWEEP_AFTER", 10)  # acknowledgements
        bus = EventBus(store=store)

        async def acknowledge(event: OutboundEvent) -> None:
            await bus.ack_async(event)

        bus.subscribe(OutboundEvent, acknowledge)
        bus.start()
        await soon(bus.join())  # what others have stored from here on it has not seen yet
        await store.append_async("other")
        await soon(asyncio.gather(*map(bus.publish, outbound(*range(15)))))
        await soon(bus.join())
        assert 1 not in [event.seq for event in store.pending("worker")]
        await soon(bus.stop())

    async def test_a_disk_that_refuses_that_does_not_keep_it_from_running(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            def ack_through(self, consumer: str, seq: int) -> None:
                raise StoreError("disk is full")

        await store.append_async("other")
        await published(EventBus(store=store), *outbound(1))
        full: Any = Full()
        assert contents(await delivered(EventBus(store=full))) == [1]
        assert "could not be tidied up: disk is full" in caplog.text

    async def test_what_it_has_not_acknowledged_is_never_pruned(self, store: EventStore) -> None:
        await published(EventBus(store=store), *outbound(1, 2))
        assert store.prune(keep_last=0) == 0
        assert stored(store) == [1, 2]


async def test_cancelled_while_it_recovers_it_loses_nothing(store: EventStore) -> None:
    await published(EventBus(store=store), *outbound(1, 2))
    reading = Reading(store)
    bus = EventBus(store=reading)  # type: ignore[arg-type]
    task = bus.start()
    await soon(until(reading.reading))
    task.cancel()
    await soon(asyncio.wait([task]))
    assert task.cancelled()
    reading.go_on.set()
    reading.return_to_loop.set()
    await turns()
    assert contents(await delivered(bus)) == [1, 2]
