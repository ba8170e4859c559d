"""Emitters: one event name, resolved once, and otherwise as emit and emit_async."""

from __future__ import annotations

import asyncio
import enum
import gc
import logging
import sys
import threading
import weakref
from typing import Any

import pytest
from helpers import DEADLINE, anote, failing, is_gone, note, recorder, soon

import agent_event_bus
from agent_event_bus import Emitter, Event, EventBus

Records = list[logging.LogRecord]


class TestMaking:
    def test_it_shows_its_name_and_its_bus(self, bus: EventBus) -> None:
        emitter = bus.emitter("tool.start")
        assert isinstance(emitter, Emitter)
        assert emitter.name == "tool.start"
        assert emitter.bus is bus

    def test_it_is_importable_from_the_package(self) -> None:
        assert "Emitter" in agent_event_bus.__all__

    def test_only_a_bus_makes_one(self) -> None:
        kind: Any = Emitter
        with pytest.raises(TypeError):
            kind()

    @pytest.mark.parametrize("attribute", ["name", "bus", "other"])
    def test_nothing_on_it_can_be_changed(self, bus: EventBus, attribute: str) -> None:
        with pytest.raises(AttributeError):
            setattr(bus.emitter("a"), attribute, "b")

    def test_its_repr_has_the_name_and_the_bus(self) -> None:
        bus = EventBus("agent")
        assert repr(bus.emitter("tool.start")) == f"<Emitter 'tool.start' of {bus!r}>"

    @pytest.mark.parametrize("name", ["", "a..b", "*", "a.*", "**", "a*"])
    def test_what_is_no_event_name_is_refused_when_it_is_made(
        self, bus: EventBus, name: str
    ) -> None:
        with pytest.raises(ValueError, match="event name") as made:
            bus.emitter(name)
        with pytest.raises(ValueError, match="event name") as emitted:
            bus.emit(name)
        assert str(made.value) == str(emitted.value)

    @pytest.mark.parametrize("name", [None, 1, b"a", ["a"]])
    def test_what_is_no_string_is_refused_when_it_is_made(self, bus: EventBus, name: Any) -> None:
        with pytest.raises(TypeError, match="event name"):
            bus.emitter(name)

    def test_an_enum_member_is_its_string(self, bus: EventBus) -> None:
        class Topic(enum.Enum):
            START = "tool.start"

        names: list[str] = []
        bus.on("*", lambda name, payload: names.append(name))
        topic: Any = Topic.START
        assert bus.emitter(topic)() == 1
        assert names == ["tool.start"]

    def test_a_str_subclass_is_its_text(self, bus: EventBus) -> None:
        class Name(str):
            __slots__ = ()

        emitter = bus.emitter(Name("a"))
        assert type(emitter.name) is str

    def test_one_for_a_closed_bus_can_be_made(self, bus: EventBus) -> None:
        asyncio.run(bus.aclose())
        assert bus.emitter("a").name == "a"


class TestEmitting:
    def test_it_calls_the_handlers_in_order_and_counts_them(self, bus: EventBus) -> None:
        log: list[Any] = []
        bus.on("a", recorder(log, "second"), priority=1)
        bus.on("*", recorder(log, "first"))
        bus.on("b", recorder(log, "never"))
        assert bus.emitter("a")(7) == 2
        assert log == [("first", "a", 7), ("second", 7)]

    def test_the_payload_is_none_when_omitted(self, bus: EventBus) -> None:
        log: list[Any] = []
        bus.on("a", recorder(log, "handler"))
        bus.emitter("a")()
        assert log == [("handler", None)]

    def test_the_payload_is_passed_by_reference(self, bus: EventBus) -> None:
        got: list[Any] = []
        payload: dict[str, int] = {}
        bus.on("a", got.append)
        bus.emitter("a")(payload)
        assert got[0] is payload

    def test_it_counts_0_without_handlers(self, bus: EventBus) -> None:
        assert bus.emitter("a")(1) == 0

    def test_its_events_are_numbered_with_those_of_emit(self, bus: EventBus) -> None:
        numbers: list[int] = []

        def number(event: Event) -> None:
            numbers.append(event.seq)

        bus.on("a", number, envelope=True)
        emitter = bus.emitter("a")
        emitter()
        bus.emit("a")
        bus.emit("nobody listens")
        emitter()
        assert numbers == [1, 2, 4]

    @pytest.mark.parametrize("arguments", [(1, 2), (1, 2, 3)])
    def test_it_takes_one_payload_at_most(self, bus: EventBus, arguments: tuple[int, ...]) -> None:
        emitter: Any = bus.emitter("a")
        with pytest.raises(TypeError, match="payload"):
            emitter(*arguments)
        with pytest.raises(TypeError, match="payload"):
            emitter.emit_async(*arguments)

    def test_it_takes_no_keywords(self, bus: EventBus) -> None:
        emitter: Any = bus.emitter("a")
        with pytest.raises(TypeError, match="keyword"):
            emitter(payload=1)
        nothing: dict[str, int] = {}
        assert emitter(**nothing) == 0

    def test_a_failure_is_reported_and_does_not_come_out(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []
        bus.on("a", failing(ValueError("no")))
        bus.on("a", note(log, "next"))
        assert bus.emitter("a")() == 2
        assert log == ["next"]
        assert [r.getMessage() for r in records] == [
            "Handler 'failing.<locals>.boom' raised on event 'a': no"
        ]

    def test_what_is_no_exception_comes_out(self, bus: EventBus) -> None:
        bus.on("a", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            bus.emitter("a")()

    def test_without_a_loop_async_handlers_run_to_completion(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "async"))
        bus.on("a", note(log, "sync"))
        assert bus.emitter("a")() == 2
        assert log == ["sync", "async"]

    async def test_in_a_loop_async_handlers_are_pending_work(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "async"))
        assert bus.emitter("a")() == 1
        assert log == []
        assert await soon(bus.drain()) == []
        assert log == ["async"]

    def test_it_can_be_a_handler_itself(self, bus: EventBus) -> None:
        got: list[Any] = []
        bus.on("b", got.append)
        bus.on("a", bus.emitter("b"))
        assert bus.emit("a", 5) == 1
        assert got == [5]

    def test_it_works_as_a_key_of_a_dict_and_by_weak_reference(self, bus: EventBus) -> None:
        emitter = bus.emitter("a")
        ref = weakref.ref(emitter)
        assert {emitter: 1}[emitter] == 1
        assert ref() is emitter


class TestEmittingAsync:
    async def test_it_waits_for_every_handler_and_counts_them(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a")
        async def slow(payload: str) -> None:
            await asyncio.sleep(0)
            log.append(payload)

        bus.on("a", note(log, "sync"))
        assert await soon(bus.emitter("a").emit_async("async")) == 2
        assert log == ["sync", "async"]

    async def test_it_does_nothing_until_it_is_awaited(self, bus: EventBus) -> None:
        log: list[str] = []
        emission = bus.emitter("a").emit_async()
        bus.on("a", note(log, "subscribed in between"))
        assert log == []
        assert await emission == 1
        assert log == ["subscribed in between"]

    def test_dropping_it_warns(self, bus: EventBus) -> None:
        emission = bus.emitter("a").emit_async()
        with pytest.warns(RuntimeWarning, match=r"event 'a' was never awaited"):
            del emission


@pytest.mark.parametrize("key", ["a", "*"])
class TestChanges:
    """What is subscribed and removed after the emitter was made, with and without use before."""

    def test_a_later_subscription_is_seen(self, bus: EventBus, key: str) -> None:
        log: list[str] = []
        emitter = bus.emitter("a")
        assert emitter() == 0
        bus.on(key, note(log, "one"))
        assert emitter() == 1
        bus.on(key, note(log, "two"))
        assert emitter() == 2
        assert log == ["one", "one", "two"]

    def test_one_that_comes_before_the_first_use_is_seen(self, bus: EventBus, key: str) -> None:
        emitter = bus.emitter("a")
        bus.on(key, note([], "handler"))
        assert emitter() == 1

    def test_a_removal_is_seen(self, bus: EventBus, key: str) -> None:
        emitter = bus.emitter("a")
        subscription = bus.subscribe(key, note([], "handler"))
        assert emitter() == 1
        subscription.cancel()
        assert emitter() == 0

    def test_clear_is_seen(self, bus: EventBus, key: str) -> None:
        emitter = bus.emitter("a")
        bus.on(key, note([], "handler"))
        assert emitter() == 1
        bus.clear()
        assert emitter() == 0

    def test_a_once_handler_is_called_once(self, bus: EventBus, key: str) -> None:
        log: list[str] = []
        bus.once(key, note(log, "once"))
        emitter = bus.emitter("a")
        assert [emitter(), emitter()] == [1, 0]
        assert log == ["once"]

    def test_a_handler_added_during_an_emission_waits_for_the_next(
        self, bus: EventBus, key: str
    ) -> None:
        log: list[str] = []
        emitter = bus.emitter("a")

        @bus.on(key)
        def add(*args: object) -> None:
            bus.on(key, note(log, "added"))

        assert emitter() == 1
        assert log == []
        assert emitter() == 2
        assert log == ["added"]

    def test_a_removed_handler_is_not_kept_alive_by_an_idle_emitter(
        self, bus: EventBus, key: str
    ) -> None:
        class Handler:
            def __call__(self, *args: object) -> None: ...

        handler = Handler()
        ref = weakref.ref(handler)
        bus.on(key, handler)
        emitter = bus.emitter("a")
        assert emitter() == 1
        bus.off(key, handler)
        del handler
        assert is_gone(ref)
        assert emitter() == 0


def test_it_outlasts_the_cache_of_names(bus: EventBus) -> None:
    """Plans of names without their own handlers are forgotten from time to time, all at once."""
    log: list[str] = []
    bus.on("*", note(log, "any"))
    bus.on("own", note(log, "own"))
    own, shared = bus.emitter("own"), bus.emitter("shared")
    for i in range(5000):
        bus.emit(f"name {i}")
        assert own() == 2
        assert shared() == 1
    assert len(log) == 5000 * 4


@pytest.mark.parametrize("length", [256, 257, 100_000])
def test_a_long_name_is_a_name_like_any_other(bus: EventBus, length: int) -> None:
    got: list[Any] = []
    emitter = bus.emitter("n" * length)
    assert emitter(1) == 0
    bus.on("*", lambda name, payload: got.append((len(name), payload)))
    gc.collect()
    assert emitter(2) == 1
    bus.on("n" * length, got.append)
    assert emitter(3) == 2
    assert got == [(length, 2), (length, 3), 3]


class TestNesting:
    def test_a_handler_may_emit_its_own_event(self, bus: EventBus) -> None:
        got: list[int] = []
        emitter = bus.emitter("a")

        @bus.on("a")
        def count_down(n: int) -> None:
            got.append(n)
            if n > 0:
                emitter(n - 1)

        assert emitter(3) == 1
        assert got == [3, 2, 1, 0]

    def test_runaway_recursion_ends_in_one_report(self, bus: EventBus, records: Records) -> None:
        emitter = bus.emitter("a")
        calls: list[int] = []

        @bus.on("a")
        def again(n: int) -> None:
            calls.append(n)
            emitter(n + 1)

        @bus.on("a")
        def and_again(n: int) -> None:
            emitter(n + 1)

        assert emitter(0) == 2
        assert len(calls) < 3 * sys.getrecursionlimit()
        assert [r.exc_info[0] for r in records if r.exc_info] == [RecursionError] * 2

    def test_the_last_reference_may_go_during_its_own_call(self) -> None:
        log: list[str] = []

        def drop(payload: object) -> None:
            holder.clear()
            gc.collect()

        bus = EventBus()
        bus.on("a", drop)
        bus.on("a", note(log, "after"))
        holder = {"emitter": bus.emitter("a")}
        ref = weakref.ref(bus)
        del bus
        assert holder["emitter"]() == 2
        assert log == ["after"]
        assert is_gone(ref)


class TestClosedBus:
    def test_it_delivers_nothing_and_warns_once(self, bus: EventBus, records: Records) -> None:
        log: list[str] = []
        bus.on("a", note(log, "late"))
        emitter = bus.emitter("a")
        asyncio.run(bus.aclose())
        assert [emitter(1), emitter(2)] == [0, 0]
        assert asyncio.run(emitter_run(emitter)) == 0
        assert log == []
        assert [r.getMessage() for r in records] == [
            "Event 'a' emitted on a closed bus; nothing was delivered"
        ]


async def emitter_run(emitter: Emitter) -> int:
    return await emitter.emit_async()


class TestMemory:
    def test_a_bus_and_a_handler_that_holds_its_emitter_are_collected(self) -> None:
        bus = EventBus()
        emitter = bus.emitter("a")

        class Handler:
            def __init__(self, emitter: Emitter) -> None:
                self.emitter = emitter

            def __call__(self, payload: object) -> None:
                self.emitter(payload)

        handler = Handler(emitter)
        bus.on("b", handler)
        refs: list[weakref.ref[Any]] = [weakref.ref(obj) for obj in (bus, emitter, handler)]
        del bus, emitter, handler
        assert all(is_gone(ref) for ref in refs)

    def test_an_emitter_keeps_its_bus(self) -> None:
        got: list[Any] = []
        bus = EventBus()
        bus.on("a", got.append)
        emitter = bus.emitter("a")
        ref = weakref.ref(bus)
        del bus
        gc.collect()
        assert emitter(1) == 1
        assert got == [1]
        del emitter
        assert is_gone(ref)

    def test_using_it_leaks_no_reference(self, bus: EventBus) -> None:
        bus.on("a", note([], "sync"))
        payload = object()
        emitter = bus.emitter("a")
        before = [sys.getrefcount(x) for x in (payload, emitter, bus, emitter.name)]
        for _ in range(1000):
            emitter(payload)
        gc.collect()
        after = [sys.getrefcount(x) for x in (payload, emitter, bus, emitter.name)]
        assert after == before


@pytest.mark.usefixtures("eager_switching")
def test_threads_may_subscribe_while_others_use_it(bus: EventBus) -> None:
    emitter = bus.emitter("a")
    seen: set[int] = set()
    bus.on("a", seen.add)
    meeting = threading.Barrier(4, timeout=DEADLINE)

    def emit(start: int) -> None:
        meeting.wait()
        for i in range(start, start + 500):
            emitter(i)

    def change() -> None:
        meeting.wait()
        for i in range(500):
            with bus.subscribe("a" if i % 2 else "*", lambda *args: None):
                pass

    threads = [threading.Thread(target=emit, args=(n * 500,)) for n in range(2)]
    threads += [threading.Thread(target=change) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert seen == set(range(1000))
    assert emitter(-1) == 1
