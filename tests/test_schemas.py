"""define_event with callables, and what holds for schemas of every kind."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.metadata
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from helpers import PACKAGES, LoopThread, is_gone, note, recorder, soon

import agent_event_bus
from agent_event_bus import EventBus, EventSchemaError


def has_query(payload: Any) -> None:
    """A schema: the payload has a query."""
    if not payload["query"]:
        raise ValueError("query is empty")


GOOD = {"query": "flights"}
BAD = {"query": ""}


@pytest.fixture
def checked() -> EventBus:
    """A bus on which "tool.start" has a schema."""
    bus = EventBus()
    bus.define_event("tool.start", has_query)
    return bus


EMITTING: list[Any] = [
    pytest.param(lambda bus, payload: bus.emit("tool.start", payload), id="emit"),
    pytest.param(lambda bus, payload: bus.emitter("tool.start")(payload), id="emitter"),
    pytest.param(
        lambda bus, payload: asyncio.run(bus.emit_async("tool.start", payload)), id="emit_async"
    ),
    pytest.param(
        lambda bus, payload: asyncio.run(bus.emitter("tool.start").emit_async(payload)),
        id="emitter.emit_async",
    ),
    pytest.param(lambda bus, payload: len(bus.collect("tool.start", payload)), id="collect"),
    pytest.param(
        lambda bus, payload: len(asyncio.run(bus.collect_async("tool.start", payload))),
        id="collect_async",
    ),
]


class TestChecking:
    @pytest.mark.parametrize("emit", EMITTING)
    def test_a_bad_payload_raises_at_the_call_and_nothing_is_delivered(
        self, checked: EventBus, emit: Any
    ) -> None:
        log: list[Any] = []
        sync = checked.subscribe("tool.start", note(log, "sync"))
        any_event = checked.subscribe("*", note(log, "any"))
        once = checked.subscribe("tool.start", note(log, "once"), once=True)

        @checked.on("tool.start")
        async def handler(payload: object) -> None:
            log.append("async")

        with pytest.raises(EventSchemaError) as caught:
            emit(checked, BAD)
        assert str(caught.value) == "event 'tool.start': query is empty"
        assert (caught.value.event, caught.value.field) == ("tool.start", None)
        assert caught.value.fault == "query is empty"
        assert isinstance(caught.value.__cause__, ValueError)
        assert log == []
        assert (sync.calls, any_event.calls, once.active) == (0, 0, True)

    @pytest.mark.parametrize("emit", EMITTING)
    def test_a_good_payload_arrives_as_the_very_object(self, checked: EventBus, emit: Any) -> None:
        got: list[Any] = []
        checked.on("tool.start", got.append)
        payload = dict(GOOD)
        assert emit(checked, payload) == 1
        assert got[0] is payload
        assert payload == GOOD

    @pytest.mark.parametrize("emit", EMITTING)
    def test_it_is_checked_without_any_handler_too(self, checked: EventBus, emit: Any) -> None:
        with pytest.raises(EventSchemaError):
            emit(checked, BAD)
        assert emit(checked, GOOD) == 0

    def test_emit_async_checks_when_it_is_awaited(self, checked: EventBus) -> None:
        payload = dict(BAD)
        emission = checked.emit_async("tool.start", payload)
        payload["query"] = "trains"
        assert asyncio.run(emission) == 0

    def test_emit_threadsafe_tells_its_future(self, checked: EventBus, other: LoopThread) -> None:
        checked.bind_loop(other.loop)
        error = checked.emit_threadsafe("tool.start", BAD).exception(20)
        assert isinstance(error, EventSchemaError)

    def test_other_events_are_not_checked(self, checked: EventBus) -> None:
        log: list[Any] = []
        checked.on("*", recorder(log, "any"))
        assert checked.emit("tool.end", BAD) == 1
        assert log == [("any", "tool.end", BAD)]

    @pytest.mark.parametrize("emit", EMITTING)
    def test_a_refused_event_takes_no_number(self, checked: EventBus, emit: Any) -> None:
        numbers: list[int] = []
        checked.on("*", lambda event: numbers.append(event.seq), envelope=True)
        emit(checked, GOOD)
        with pytest.raises(EventSchemaError):
            emit(checked, BAD)
        emit(checked, GOOD)
        assert numbers == [1, 2]

    @pytest.mark.parametrize("emit", EMITTING)
    def test_a_refused_event_is_in_neither_history_nor_statistics(self, emit: Any) -> None:
        bus = EventBus(history=3)
        bus.define_event("tool.start", has_query)
        emit(bus, GOOD)
        with pytest.raises(EventSchemaError):
            emit(bus, BAD)
        assert [event.payload for event in bus.history()] == [GOOD]
        stats = bus.stats()
        assert (stats["emitted"], stats["failed"]) == (1, 0)
        assert stats["by_event"] == {"tool.start": 1}

    def test_numbers_stay_unique_and_in_order_when_a_schema_emits(self, bus: EventBus) -> None:
        seen: list[tuple[str, int]] = []

        def audit(payload: Any) -> None:
            bus.emit("audit", payload)
            has_query(payload)

        bus.define_event("tool.start", audit)
        bus.on("*", lambda event: seen.append((event.name, event.seq)), envelope=True)
        bus.emit("tool.start", GOOD)
        with pytest.raises(EventSchemaError):
            bus.emit("tool.start", BAD)
        bus.emit("end")
        assert seen == [("audit", 1), ("tool.start", 2), ("audit", 3), ("end", 4)]

    def test_in_a_handler_it_is_that_handlers_failure(
        self, checked: EventBus, records: list[Any]
    ) -> None:
        log: list[Any] = []
        checked.on("run", lambda payload: checked.emit("tool.start", BAD))
        checked.on("run", note(log, "next"))
        assert checked.emit("run") == 2
        assert log == ["next"]
        assert records[0].getMessage().endswith("event 'tool.start': query is empty")

    def test_it_may_be_defined_after_handlers_and_emitters_were_made(self, bus: EventBus) -> None:
        got: list[Any] = []
        bus.on("tool.start", got.append)
        emitter = bus.emitter("tool.start")
        emitter(BAD)
        bus.define_event("tool.start", has_query)
        with pytest.raises(EventSchemaError):
            emitter(BAD)
        with pytest.raises(EventSchemaError):
            bus.emit("tool.start", BAD)
        assert got == [BAD]

    def test_a_closed_bus_checks_nothing(self, checked: EventBus, records: list[Any]) -> None:
        asyncio.run(checked.aclose())
        assert checked.emit("tool.start", BAD) == 0
        assert len(records) == 1

    async def test_an_async_only_bus_checks_too(self) -> None:
        bus = EventBus(async_only=True)
        bus.define_event("tool.start", has_query)
        with pytest.raises(EventSchemaError):
            await soon(bus.emit_async("tool.start", BAD))


class TestCallables:
    def test_what_it_returns_is_ignored(self, bus: EventBus) -> None:
        bus.define_event("a", lambda payload: False)
        assert bus.emit("a", 1) == 0

    @pytest.mark.parametrize(
        ("error", "fault"),
        [
            (ValueError("too long"), "too long"),
            (TypeError("no list"), "no list"),
            (AssertionError(), "AssertionError"),
            (KeyError("query"), "KeyError: 'query'"),
            (StopIteration(), "StopIteration"),
        ],
    )
    def test_any_exception_of_its_refuses_the_payload(
        self, bus: EventBus, error: Exception, fault: str
    ) -> None:
        def schema(payload: object) -> None:
            raise error

        bus.define_event("a", schema)
        with pytest.raises(EventSchemaError) as caught:
            bus.emit("a")
        assert caught.value.fault == fault
        assert caught.value.__cause__ is error

    def test_an_exception_that_cannot_be_printed_is_named_by_its_type(self, bus: EventBus) -> None:
        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        def schema(payload: object) -> None:
            raise MuteError

        bus.define_event("a", schema)
        with pytest.raises(EventSchemaError, match=r"^event 'a': MuteError$"):
            bus.emit("a")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RecursionError, MemoryError])
    def test_what_says_nothing_about_the_payload_passes(
        self, bus: EventBus, error: type[BaseException]
    ) -> None:
        def schema(payload: object) -> None:
            raise error

        bus.define_event("a", schema)
        with pytest.raises(error):
            bus.emit("a")

    def test_a_class_is_called_as_any_callable(self, bus: EventBus) -> None:
        bus.define_event("count", int)
        assert bus.emit("count", 3) == 0
        with pytest.raises(EventSchemaError, match="invalid literal"):
            bus.emit("count", "three")

    def test_methods_and_callable_objects_will_do(self, bus: EventBus) -> None:
        class Limits:
            def check(self, payload: object) -> None:
                has_query(payload)

            __call__ = check

        for number, schema in enumerate([Limits().check, Limits(), functools.partial(has_query)]):
            bus.define_event(f"event{number}", schema)
            with pytest.raises(EventSchemaError):
                bus.emit(f"event{number}", BAD)

    def test_endless_recursion_through_a_schema_ends_in_a_recursion_error(
        self, bus: EventBus
    ) -> None:
        bus.define_event("a", lambda payload: bus.emit("a", payload))
        with pytest.raises(RecursionError):
            bus.emit("a")
        assert bus.emit("b") == 0

    def test_one_that_turns_out_to_be_async_refuses_everything(self, bus: EventBus) -> None:
        async def check(payload: object) -> None: ...

        bus.define_event("a", lambda payload: check(payload))
        with pytest.raises(EventSchemaError, match="awaitable"):
            bus.emit("a")


async def async_schema(payload: object) -> None: ...


def generator_schema(payload: object) -> Iterator[None]:
    yield


async def async_generator_schema(payload: object) -> AsyncIterator[None]:
    yield


class AsyncSchema:
    async def __call__(self, payload: object) -> None: ...


class TestDefining:
    @pytest.mark.parametrize(
        "schema",
        [
            async_schema,
            functools.partial(async_schema),
            AsyncSchema(),
            AsyncSchema().__call__,
            generator_schema,
            async_generator_schema,
            {"type": "object"},
            "ToolStart",
            list[int],
            3,
        ],
    )
    def test_what_can_be_no_schema_is_refused_and_declares_nothing(self, schema: object) -> None:
        bus = EventBus(strict=True)
        with pytest.raises(TypeError, match="schema"):
            bus.define_event("a", schema)
        with pytest.raises(agent_event_bus.UnknownEventError):
            bus.emit("a")

    @pytest.mark.parametrize("name", ["", "a..b", "*", "tool.*", "**", "a*"])
    def test_what_is_no_event_name_is_refused(self, bus: EventBus, name: str) -> None:
        with pytest.raises(ValueError, match="event name"):
            bus.define_event(name, None)

    @pytest.mark.parametrize("name", [None, 3, dict])
    def test_what_is_no_string_is_refused(self, bus: EventBus, name: Any) -> None:
        with pytest.raises(TypeError, match="event name"):
            bus.define_event(name, None)

    def test_the_same_schema_again_is_fine(self, bus: EventBus) -> None:
        class Limits:
            def check(self, payload: object) -> None:
                has_query(payload)

        limits = Limits()
        bus.define_event("a", has_query)
        bus.define_event("a", has_query)
        bus.define_event("b", limits.check)
        bus.define_event("b", limits.check)  # another object, the same method
        bus.define_event("c", None)
        bus.define_event("c", None)
        with pytest.raises(EventSchemaError):
            bus.emit("a", BAD)

    @pytest.mark.parametrize(("first", "second"), [(has_query, print), (has_query, None)])
    def test_another_schema_for_the_same_event_is_refused(
        self, bus: EventBus, first: Any, second: Any
    ) -> None:
        bus.define_event("a", first)
        with pytest.raises(ValueError, match="event 'a' is defined already, with another schema"):
            bus.define_event("a", second)
        with pytest.raises(EventSchemaError):
            bus.emit("a", BAD)

    def test_buses_have_schemas_of_their_own(self, checked: EventBus) -> None:
        assert EventBus().emit("tool.start", BAD) == 0


class TestTheError:
    def test_it_names_event_field_and_fault(self) -> None:
        error = EventSchemaError("tool.start", "args.0", "no text")
        assert str(error) == "event 'tool.start': field 'args.0': no text"
        assert (error.event, error.field, error.fault) == ("tool.start", "args.0", "no text")

    def test_it_is_a_value_error_that_can_be_imported_and_pickled(self) -> None:
        assert agent_event_bus.EventSchemaError is EventSchemaError
        copy: Any = pickle.loads(pickle.dumps(EventSchemaError("a", "b", "c")))
        assert (copy.event, copy.field, copy.fault) == ("a", "b", "c")
        assert isinstance(copy, ValueError)


class TestMemory:
    def test_a_bus_that_its_schema_refers_to_is_collected(self) -> None:
        bus = EventBus()

        def refers(payload: object, bus: EventBus = bus) -> None: ...

        bus.define_event("a", refers)
        bus.emit("a")
        gone = weakref.ref(bus)
        del bus, refers
        assert is_gone(gone)

    def test_names_with_a_schema_do_not_push_out_others(self, bus: EventBus) -> None:
        for number in range(1500):
            bus.define_event(f"event{number}", has_query)
        for number in range(1500):
            with pytest.raises(EventSchemaError):
                bus.emit(f"event{number}", BAD)
        gc.collect()
        with pytest.raises(EventSchemaError):
            bus.emit("event0", BAD)


def test_the_package_depends_on_nothing_but_extras() -> None:
    needed = importlib.metadata.requires("agent-event-bus") or []
    assert [line for line in needed if "extra ==" not in line] == []
    extras = importlib.metadata.metadata("agent-event-bus").get_all("Provides-Extra") or []
    assert {"pydantic", "msgspec"} <= set(extras)


def test_neither_library_is_imported_before_a_schema_needs_it() -> None:
    program = """
import sys
from agent_event_bus import EventBus
bus = EventBus(strict=True)
bus.define_event("a", lambda payload: None)
bus.define_event("b", None)
bus.emit("a")
print(*({"pydantic", "msgspec", "asyncio"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == []
