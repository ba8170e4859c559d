"""Typed event keys: at run time an event name like others, which says at once when it is none."""

from __future__ import annotations

import ast
import asyncio
import copy
import enum
import inspect
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import PACKAGES

import agent_event_bus
from agent_event_bus import (
    Emitter,
    Event,
    EventBus,
    EventKey,
    Expectation,
    Outcome,
    Stream,
    UnknownEventError,
)


@dataclass
class ToolCalled:
    tool: str


TOOL = EventKey[ToolCalled]("tool.called")
SEARCH = ToolCalled("search")


class Names(enum.Enum):
    TOOL = "tool.called"


class Keys(enum.Enum):
    TOOL = TOOL


# What it is


class TestAsAValue:
    def test_it_is_a_str_equal_to_its_text(self) -> None:
        value: object = TOOL
        assert isinstance(value, str)
        assert value == "tool.called"
        assert value != "tool"
        assert hash(value) == hash("tool.called")
        assert {"tool.called": 1}[value] == 1
        assert f"{TOOL}" == str(TOOL) == "tool.called"
        assert json.dumps(TOOL) == '"tool.called"'

    def test_its_name_and_its_text_are_an_exact_str(self) -> None:
        assert type(TOOL.name) is type(str(TOOL)) is str
        assert TOOL.name == "tool.called"

    def test_repr_tells_it_from_a_str(self) -> None:
        assert repr(TOOL) == "EventKey('tool.called')"

    def test_it_has_no_attributes_of_its_own(self) -> None:
        key: Any = TOOL
        with pytest.raises(AttributeError):
            key.payload = 1
        with pytest.raises(AttributeError):
            key.name = "other"

    def test_with_a_type_of_payload_and_without_it_is_the_same(self) -> None:
        assert EventKey("tool.called") == EventKey[int]("tool.called") == TOOL
        assert type(EventKey[int]("a")) is EventKey

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_it_can_be_pickled(self, protocol: int) -> None:
        restored = pickle.loads(pickle.dumps(TOOL, protocol))
        assert type(restored) is EventKey
        assert restored == TOOL

    def test_it_can_be_copied(self) -> None:
        for copied in (copy.copy(TOOL), copy.deepcopy(TOOL)):
            assert type(copied) is EventKey
            assert copied == TOOL

    def test_it_can_be_made_of_another_one_and_of_an_enum_member(self) -> None:
        assert EventKey(TOOL) == EventKey(Names.TOOL) == TOOL
        assert type(EventKey(Names.TOOL)) is EventKey

    def test_importing_it_imports_no_typing_extensions(self) -> None:
        code = "import agent_event_bus, sys; sys.exit('typing_extensions' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            env={**os.environ, "PYTHONPATH": str(PACKAGES)},
            timeout=60,
            check=False,
        )
        assert done.returncode == 0


class TestBadNames:
    @pytest.mark.parametrize(
        ("name", "rule"),
        [
            ("", "it is empty"),
            ("tool.", "a segment between dots is empty"),
            ("a..b", "a segment between dots is empty"),
            ("foo*", "glued"),
            ("*", "a pattern is not an event"),
            ("tool.*", "a pattern is not an event"),
        ],
    )
    def test_they_are_refused_at_once_by_name_and_rule(self, name: str, rule: str) -> None:
        with pytest.raises(ValueError, match=rule) as caught:
            EventKey(name)
        assert repr(name) in str(caught.value)

    @pytest.mark.parametrize("name", [None, 7, b"tool", ToolCalled, ["tool"]])
    def test_what_is_no_text_is_refused_as_by_emit(self, bus: EventBus, name: Any) -> None:
        with pytest.raises(TypeError) as caught:
            EventKey(name)
        with pytest.raises(TypeError) as expected:
            bus.emit(name)
        assert str(caught.value) == str(expected.value)
        assert type(name).__name__ in str(caught.value)

    def test_a_key_has_exactly_one_name(self) -> None:
        make: Any = EventKey
        for arguments in ((), ("a", "b")):
            with pytest.raises(TypeError):
                make(*arguments)


# On a bus


class TestEmitting:
    def test_it_is_the_same_event_as_its_text(self, bus: EventBus) -> None:
        log: list[object] = []
        bus.on("tool.called", log.append)
        bus.on(TOOL, log.append)
        assert bus.emit(TOOL, SEARCH) == 2
        assert bus.emit("tool.called", SEARCH) == 2
        assert all(payload is SEARCH for payload in log)
        assert len(log) == 4
        assert bus.stats()["by_event"] == {"tool.called": 2}

    @pytest.mark.parametrize("key", [Names.TOOL, Keys.TOOL])
    def test_an_enum_member_with_it_as_its_value_is_the_same_key(
        self, bus: EventBus, key: enum.Enum
    ) -> None:
        log: list[object] = []
        bus.on(key, log.append)
        assert bus.emit(TOOL, SEARCH) == 1
        assert bus.emit(key, SEARCH) == 1
        assert log == [SEARCH, SEARCH]

    def test_patterns_match_it_and_get_an_exact_str(self, bus: EventBus) -> None:
        log: list[tuple[type, str, object]] = []

        def record(event_name: str, payload: object) -> None:
            log.append((type(event_name), event_name, payload))

        for pattern in ("tool.*", "*.called", "tool.**"):
            bus.on(pattern, record)
        bus.on("*", record)
        assert bus.emit(TOOL, SEARCH) == 4
        assert log == [(str, "tool.called", SEARCH)] * 4

    def test_an_envelope_and_a_subscription_have_its_name_as_an_exact_str(
        self, bus: EventBus
    ) -> None:
        events: list[Event[ToolCalled]] = []
        subscription = bus.subscribe(TOOL, events.append, envelope=True)
        bus.emit(TOOL, SEARCH)
        assert [(type(e.name), e.name, e.payload) for e in events] == [(str, "tool.called", SEARCH)]
        assert subscription.keys == ("tool.called",)
        assert type(subscription.key) is str
        assert type(Event(TOOL, SEARCH).name) is str

    async def test_every_way_to_emit_takes_it(self, bus: EventBus) -> None:
        log: list[object] = []
        bus.on(TOOL, log.append)
        bus.bind_loop(asyncio.get_running_loop())
        assert await bus.emit_async(TOOL, SEARCH) == 1
        assert await asyncio.wrap_future(bus.emit_threadsafe(TOOL, SEARCH)) == 1
        assert [outcome.status for outcome in bus.collect(TOOL, SEARCH)] == ["ok"]
        outcomes: list[Outcome] = await bus.collect_async(TOOL, SEARCH)
        assert [outcome.status for outcome in outcomes] == ["ok"]
        assert log == [SEARCH] * 4

    async def test_an_emitter_of_it_emits_its_name(self, bus: EventBus) -> None:
        log: list[object] = []
        bus.on("tool.called", log.append)
        emitter: Emitter[ToolCalled] = bus.emitter(TOOL)
        assert type(emitter.name) is str
        assert emitter(SEARCH) == 1
        assert await emitter.emit_async(SEARCH) == 1
        assert log == [SEARCH, SEARCH]

    def test_it_is_no_check_of_payloads(self, bus: EventBus) -> None:
        log: list[object] = []
        bus.on("tool.called", log.append)
        anything: Any = 42
        assert bus.emit(TOOL, anything) == 1
        assert log == [42]

    def test_asking_and_removing_take_it(self, bus: EventBus) -> None:
        def handler(payload: object) -> None: ...

        bus.on("tool.called", handler)
        bus.on(TOOL, handler)
        assert bus.has_handlers(TOOL)
        assert len(bus.handlers(TOOL)) == 2
        assert bus.off(TOOL, handler) == 2
        bus.on("tool.called", handler)
        assert bus.clear(TOOL) == 1
        assert not bus.has_handlers(TOOL)

    def test_it_stands_in_a_list_of_keys(self, bus: EventBus) -> None:
        log: list[object] = []
        other = EventKey[ToolCalled]("tool.failed")
        bus.subscribe([TOOL, other], log.append)
        bus.emit(TOOL, SEARCH)
        bus.emit(other, SEARCH)
        assert log == [SEARCH, SEARCH]


class TestDeclaring:
    def test_a_declared_key_is_known_to_a_strict_bus_by_its_name(self) -> None:
        bus = EventBus(strict=True)
        with pytest.raises(UnknownEventError):
            bus.emit(TOOL, SEARCH)
        bus.define_event(TOOL, None)
        assert bus.emit(TOOL, SEARCH) == 0
        assert bus.emit("tool.called", 1) == 0

    def test_its_schema_is_checked_under_both_names(self, bus: EventBus) -> None:
        def check(payload: object) -> None:
            if not isinstance(payload, ToolCalled):
                raise TypeError("no tool was called")

        bus.define_event(TOOL, check)
        names: list[Any] = [TOOL, "tool.called"]
        for name in names:
            with pytest.raises(agent_event_bus.EventSchemaError, match=r"'tool\.called'"):
                bus.emit(name, 42)
        assert bus.emit(TOOL, SEARCH) == 0


class TestObserving:
    def test_the_history_is_found_by_it(self) -> None:
        bus = EventBus(history=8)
        bus.emit("tool.called", SEARCH)
        bus.emit("other")
        bus.emit(TOOL, SEARCH)
        found: list[Event[ToolCalled]] = bus.history(TOOL)
        assert [event.seq for event in found] == [3, 1]

    async def test_waiting_for_it_gives_its_event(self, bus: EventBus) -> None:
        waiting = bus.wait_for(TOOL, where=lambda payload: payload.tool == "search", timeout=5)
        async with bus.expect(TOOL, timeout=5) as waiter:
            bus.emit(TOOL, SEARCH)
        event = await waiting
        assert event.payload is waiter.event.payload is SEARCH
        assert event.name == "tool.called"

    async def test_a_stream_of_it_has_its_events(self, bus: EventBus) -> None:
        async with bus.stream(TOOL) as stream:
            bus.emit("other", 1)
            bus.emit(TOOL, SEARCH)
            async for event in stream:
                assert event.payload is SEARCH
                break


# What annotations need


@pytest.mark.parametrize("cls", [Event, Emitter, EventKey, Stream, Expectation])
def test_a_class_takes_the_type_of_payload_in_an_annotation(cls: Any) -> None:
    alias = cls[ToolCalled]
    assert alias.__origin__ is cls
    assert alias.__args__ == (ToolCalled,)


def test_an_event_can_be_made_through_such_an_annotation() -> None:
    event = Event[ToolCalled]("tool.called", SEARCH)
    assert type(event) is Event
    assert event.payload is SEARCH


# The stub that type checkers read instead of the signatures of the core


def options_in_the_stub() -> dict[str, set[str]]:
    """Return the fields of each TypedDict of options."""
    stub = Path(agent_event_bus.__file__).with_name("_types.pyi")
    return {
        node.name: {field.target.id for field in node.body if isinstance(field, ast.AnnAssign)}  # type: ignore[union-attr]
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and "Options" in node.name
    }


@pytest.mark.parametrize("method", ["on", "once", "subscribe"])
def test_type_checkers_know_every_option_and_no_other(method: str) -> None:
    parameters = inspect.signature(getattr(EventBus, method)).parameters.values()
    real = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"envelope"}
    known = options_in_the_stub()
    assert known["OptionsOfOnce"] | (set() if method == "once" else known["Options"]) == real
