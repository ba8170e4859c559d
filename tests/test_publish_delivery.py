"""Published objects: options, async handlers, re-entrancy, threads and memory."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import tracemalloc
import warnings
import weakref
from typing import Any

import pytest
from helpers import LoopThread, anote, failing, is_gone, note, recorder, soon
from publishing import Inbound, Message, Way, both, class_named

from agent_event_bus import EventBus, EventSchemaError, UnknownEventError


class TestOptions:
    @both
    def test_where_is_asked_of_the_object(self, bus: Any, way: Way) -> None:
        log: list[Any] = []
        bus.on(Message, recorder(log, "fields"), where={"text": "yes"})
        bus.on(Message, recorder(log, "called"), where=lambda message: message.text == "yes")
        yes = Message("yes")
        assert way(bus, Message("no")) == 0
        assert way(bus, yes) == 2
        assert log == [("fields", yes), ("called", yes)]

    @both
    def test_a_once_handler_gets_one_object(self, bus: Any, way: Way) -> None:
        log: list[Any] = []
        bus.once(Message, log.append)
        assert [way(bus, Message(text)) for text in "ab"] == [1, 0]
        assert log == [Message("a")]
        assert len(bus) == 0

    @both
    def test_a_weak_handler_vanishes(self, bus: Any, way: Way) -> None:
        log: list[Any] = []

        def handler(message: object) -> None:
            log.append(message)

        bus.on(Message, handler, weak=True)
        assert way(bus, Message()) == 1
        del handler
        gc.collect()
        assert way(bus, Message()) == 0
        assert (len(log), len(bus)) == (1, 0)

    @both
    def test_a_guard_of_a_class_stops_the_publication(self, bus: Any, way: Way) -> None:
        bus.on(Message, failing(PermissionError("no")), isolate=False, priority=-1)
        bus.on(Inbound, lambda obj: pytest.fail("delivered"))
        with pytest.raises(PermissionError):
            way(bus, Inbound())

    def test_a_strict_bus_takes_any_object_and_refuses_undeclared_names(self) -> None:
        bus: Any = EventBus(strict=True)
        log: list[Any] = []
        bus.on(Message, recorder(log, "class"))
        bus.on("*", recorder(log, "any"))
        message = Message()
        assert bus.publish(message) == 2
        assert asyncio.run(bus.publish_async(message)) == 2
        assert log == [("class", message), ("any", "Message", message)] * 2
        with pytest.raises(UnknownEventError):
            bus.emit("Message", message)
        with pytest.raises(UnknownEventError):
            bus.on("Message", print)

    @both
    def test_the_schema_of_an_event_of_the_same_name_is_not_asked(self, bus: Any, way: Way) -> None:
        def refuse(payload: object) -> None:
            raise ValueError("no")

        bus.define_event("Message", refuse)
        bus.on("Message", lambda obj: None)
        assert way(bus, Message()) == 1
        with pytest.raises(EventSchemaError):
            bus.emit("Message", Message())

    @both
    def test_a_closed_bus_delivers_nothing_and_says_so_by_name(
        self, bus: Any, way: Way, records: list[logging.LogRecord]
    ) -> None:
        bus.on(Message, lambda obj: pytest.fail("delivered"))
        asyncio.run(bus.aclose())
        assert way(bus, Message()) == 0
        assert way(bus, Message()) == 0
        (record,) = records
        assert "'Message'" in record.getMessage()


class TestAsync:
    async def test_publish_async_awaits_async_handlers(self, bus: Any) -> None:
        log: list[Any] = []

        async def handler(message: Message) -> None:
            await asyncio.sleep(0)
            log.append("async")

        bus.on(Message, handler)
        bus.on(Message, note(log, "sync"))
        assert await soon(bus.publish_async(Inbound())) == 2
        assert log == ["sync", "async"]

    async def test_publish_async_does_nothing_until_it_is_awaited(self, bus: Any) -> None:
        log: list[Any] = []
        publication = bus.publish_async(Message())
        bus.on(Message, note(log, "h"))
        assert log == []
        assert await soon(publication) == 1
        assert log == ["h"]

    def test_publish_async_warns_by_name_when_it_is_dropped(self, bus: Any) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bus.publish_async(Message())
            gc.collect()
        (warning,) = caught
        assert "publish_async" in str(warning.message)
        assert "'Message' was never awaited" in str(warning.message)

    async def test_publish_in_a_loop_starts_tasks_that_drain_waits_for(self, bus: Any) -> None:
        log: list[Any] = []
        bus.on(Message, anote(log, "async"))
        assert bus.publish(Message()) == 1
        assert log == []
        assert await soon(bus.drain()) == []
        assert log == ["async"]

    async def test_drain_names_an_unfinished_one_by_its_class(self, bus: Any) -> None:
        go_on = asyncio.Event()

        async def slow(message: object) -> None:
            await go_on.wait()

        bus.on(Message, slow)
        bus.publish(Message())
        (unfinished,) = await bus.drain(timeout=0.01)
        assert unfinished.startswith("Message -> ")
        assert unfinished.endswith(".slow")
        go_on.set()
        await soon(bus.drain())

    def test_without_a_loop_async_handlers_run_to_completion(self, bus: Any) -> None:
        log: list[Any] = []
        bus.on(Message, anote(log, "async"))
        assert bus.publish(Message()) == 1
        assert log == ["async"]

    def test_on_a_bound_loop_async_handlers_run_there(self, bus: Any, other: LoopThread) -> None:
        threads: list[threading.Thread] = []

        async def handler(message: object) -> None:
            threads.append(threading.current_thread())

        bus.on(Message, handler)
        bus.bind_loop(other.loop)
        assert bus.publish(Message()) == 1
        other.run(bus.drain())
        assert threads == [other.thread]


class TestReentrancy:
    def test_a_handler_added_during_a_publication_waits_for_the_next(self, bus: Any) -> None:
        log: list[Any] = []
        bus.once(Message, lambda obj: bus.on(Message, note(log, "late")))
        assert bus.publish(Message()) == 1
        assert log == []
        assert bus.publish(Message()) == 1
        assert log == ["late"]

    def test_a_handler_removed_before_its_turn_is_skipped(self, bus: Any) -> None:
        bus.on(Message, lambda obj: bus.clear(object))
        bus.on(object, lambda obj: pytest.fail("delivered"))
        assert bus.publish(Message()) == 1

    def test_a_handler_may_change_the_class_that_is_being_published(self, bus: Any) -> None:
        cls = class_named("Before")
        log: list[Any] = []

        def rename(obj: object) -> None:
            cls.__qualname__ = "After"

        bus.on(cls, rename)
        bus.on("*", lambda name, obj: log.append(name))
        bus.publish(cls())
        bus.publish(cls())
        assert log == ["Before", "After"]

    def test_endless_publication_ends_in_a_reported_recursion_error(
        self, bus: Any, records: list[logging.LogRecord]
    ) -> None:
        bus.on(Message, lambda obj: bus.publish(obj))
        assert bus.publish(Message()) == 1
        assert len(records) == 1
        assert records[0].exc_info is not None
        assert records[0].exc_info[0] is RecursionError


class TestMemory:
    def test_a_class_is_kept_by_its_subscriptions_and_not_by_publications(self, bus: Any) -> None:
        cls = class_named("Short")
        gone = weakref.ref(cls)
        bus.on("*", lambda name, obj: None)
        subscription = bus.subscribe(cls, print)
        bus.publish(cls())
        del cls
        assert not is_gone(gone)
        subscription.cancel()
        del subscription
        assert is_gone(gone)

    def test_a_new_class_at_the_address_of_a_dead_one_is_not_mistaken_for_it(
        self, bus: Any
    ) -> None:
        log: list[str] = []
        bus.on("*", lambda name, obj: log.append(name))
        addresses = set()
        for number in range(200):
            cls = class_named(f"Class{number}")
            addresses.add(id(cls))
            bus.publish(cls())
            del cls
            gc.collect(0)
        assert log == [f"Class{number}" for number in range(200)]
        assert len(addresses) < 200, "no address was used again, so this has shown nothing"

    def test_many_classes_that_were_published_once_are_forgotten(self, bus: Any) -> None:
        bus.on("*", lambda name, obj: None)
        # They live, so that what the bus remembers of them is not replaced at their addresses.
        objects = [class_named(f"C{number}")() for number in range(7000)]

        def used_after(count: int) -> int:
            for obj in objects[:count]:
                bus.publish(obj)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            few, many = used_after(1000), used_after(7000)
        finally:
            tracemalloc.stop()
        assert many < 2 * few

    def test_the_object_is_released_after_its_publication(self, bus: Any) -> None:
        bus.on(Message, lambda obj: None)
        message = Message()
        gone = weakref.ref(message)
        bus.publish(message)
        asyncio.run(bus.publish_async(message))
        del message
        assert is_gone(gone)


def test_threads_may_publish_while_others_subscribe(bus: Any, eager_switching: None) -> None:
    stop = threading.Event()
    wrong: list[int] = []
    bus.on(Message, lambda obj: None)

    def work() -> None:
        while not stop.is_set():
            if bus.publish(Inbound()) < 1:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(1000):
        with bus.subscribe([Inbound, "Inb.*"], lambda *args: None):
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
