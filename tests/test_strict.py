"""Strict buses: what is not declared is refused, and the error names the nearest declared name."""

from __future__ import annotations

import asyncio
import enum
import gc
import pickle
import weakref
from typing import Any, Callable

import pytest
from helpers import LoopThread, is_gone, note, recorder, soon

import agent_event_bus
from agent_event_bus import EventBus, UnknownEventError


@pytest.fixture
def strict() -> EventBus:
    """A strict bus that knows "tool.start" and "tool.end", with any payload."""
    bus = EventBus(strict=True)
    bus.define_event("tool.start", None)
    bus.define_event("tool.end", None)
    return bus


class Topic(enum.Enum):
    START = "tool.start"
    MISSPELT = "tool.strat"


EMITTING: list[Any] = [
    pytest.param(lambda bus, name: bus.emit(name), id="emit"),
    pytest.param(lambda bus, name: asyncio.run(bus.emit_async(name)), id="emit_async"),
    pytest.param(lambda bus, name: bus.emitter(name), id="emitter"),
    pytest.param(lambda bus, name: bus.collect(name), id="collect"),
    pytest.param(lambda bus, name: asyncio.run(bus.collect_async(name)), id="collect_async"),
    pytest.param(lambda bus, name: bus.handlers(name), id="handlers"),
    pytest.param(lambda bus, name: bus.has_handlers(name), id="has_handlers"),
]
SUBSCRIBING: list[Any] = [
    pytest.param(lambda bus, key: bus.on(key, print), id="on"),
    pytest.param(lambda bus, key: bus.on(key), id="decorator"),
    pytest.param(lambda bus, key: bus.once(key, print), id="once"),
    pytest.param(lambda bus, key: bus.subscribe(key, print), id="subscribe"),
    pytest.param(lambda bus, key: bus.subscribe(["tool.start", key], print), id="several keys"),
    pytest.param(lambda bus, key: bus.wait_for(key), id="wait_for"),
    pytest.param(lambda bus, key: bus.expect(key), id="expect"),
    pytest.param(lambda bus, key: bus.stream(key), id="stream"),
]
Use = Callable[[EventBus, Any], object]


class TestRefusing:
    @pytest.mark.parametrize("use", EMITTING + SUBSCRIBING)
    def test_an_undeclared_name_raises_with_the_nearest_declared_one(
        self, strict: EventBus, use: Use
    ) -> None:
        with pytest.raises(UnknownEventError) as caught:
            use(strict, "tool.strat")
        assert str(caught.value) == "unknown event 'tool.strat': did you mean 'tool.start'?"
        assert (caught.value.event, caught.value.nearest) == ("tool.strat", "tool.start")
        assert len(strict) == 0

    @pytest.mark.parametrize("use", EMITTING + SUBSCRIBING)
    def test_a_declared_name_is_accepted(self, strict: EventBus, use: Use) -> None:
        assert type(use(strict, "tool.end")) is type(use(EventBus(), "tool.end"))

    def test_a_name_unlike_all_others_is_refused_without_a_guess(self, strict: EventBus) -> None:
        with pytest.raises(UnknownEventError) as caught:
            strict.emit("budget_exceeded")
        assert caught.value.nearest is None
        assert str(caught.value) == (
            "unknown event 'budget_exceeded': declare it with define_event()"
        )

    def test_a_bus_on_which_nothing_is_declared_refuses_every_name(self) -> None:
        with pytest.raises(UnknownEventError):
            EventBus(strict=True).emit("tool.start")

    def test_a_very_long_name_is_refused_at_once(self, strict: EventBus) -> None:
        with pytest.raises(UnknownEventError) as caught:
            strict.emit("tool.start" * 100_000)
        assert caught.value.nearest is None

    def test_it_is_a_value_error_that_can_be_imported_and_pickled(self) -> None:
        assert agent_event_bus.UnknownEventError is UnknownEventError
        error = UnknownEventError("a", "b")
        copy = pickle.loads(pickle.dumps(error))
        assert isinstance(error, ValueError)
        assert (copy.event, copy.nearest, str(copy)) == ("a", "b", str(error))

    def test_emit_async_refuses_when_it_is_awaited(self, strict: EventBus) -> None:
        emission = strict.emit_async("tool.strat")
        with pytest.raises(UnknownEventError):
            asyncio.run(emission)

    def test_emit_threadsafe_refuses_in_its_future(
        self, strict: EventBus, other: LoopThread
    ) -> None:
        strict.bind_loop(other.loop)
        future = strict.emit_threadsafe("tool.strat")
        assert isinstance(future.exception(20), UnknownEventError)

    def test_a_bad_name_is_still_a_bad_name(self, strict: EventBus) -> None:
        with pytest.raises(ValueError, match="a pattern is not an event") as caught:
            strict.emit("tool.*")
        assert not isinstance(caught.value, UnknownEventError)

    def test_an_enum_member_is_its_string(self, strict: EventBus) -> None:
        start: Any = Topic.START
        misspelt: Any = Topic.MISSPELT
        strict.on(start, print)
        with pytest.raises(UnknownEventError, match=r"'tool.strat'"):
            strict.emit(misspelt)

    def test_a_refused_name_takes_no_number(self, strict: EventBus) -> None:
        numbers: list[int] = []
        strict.on("tool.start", lambda event: numbers.append(event.seq), envelope=True)
        strict.emit("tool.start")
        with pytest.raises(UnknownEventError):
            strict.emit("tool.strat")
        strict.emit("tool.start")
        assert numbers == [1, 2]

    def test_in_a_handler_it_is_that_handlers_failure(
        self, strict: EventBus, records: list[Any]
    ) -> None:
        log: list[Any] = []
        strict.on("tool.start", lambda payload: strict.emit("tool.edn"))
        strict.on("tool.start", note(log, "next"))
        assert strict.emit("tool.start") == 2
        assert log == ["next"]
        assert "did you mean 'tool.end'?" in records[0].getMessage()


class TestFree:
    @pytest.mark.parametrize("key", ["tool.*", "tool.**", "*.start", "nothing.like.it.*"])
    def test_patterns_need_no_declaration(self, strict: EventBus, key: str) -> None:
        log: list[Any] = []
        strict.on(key, recorder(log, "pattern"))
        strict.emit("tool.start", 1)
        expected = [] if key == "nothing.like.it.*" else [("pattern", "tool.start", 1)]
        assert log == expected

    def test_looking_back_for_what_was_never_declared_finds_nothing(self) -> None:
        assert EventBus(history=3, strict=True).history("tool.strat") == []

    @pytest.mark.parametrize("key", ["*", "**"])
    def test_wildcards_need_no_declaration(self, strict: EventBus, key: str) -> None:
        log: list[Any] = []
        strict.on(key, recorder(log, "any"))
        strict.emit("tool.start", 1)
        assert log == [("any", "tool.start", 1)]

    def test_removing_what_was_never_declared_removes_nothing(self, strict: EventBus) -> None:
        strict.on("tool.start", print)
        assert strict.off("tool.strat") == 0
        assert strict.clear("tool.strat") == 0
        assert len(strict) == 1

    def test_a_bus_that_is_not_strict_takes_any_name(self, bus: EventBus) -> None:
        bus.define_event("tool.start", None)
        bus.on("tool.strat", print)
        assert bus.emit("tool.end") == 0

    def test_a_closed_bus_drops_a_late_event_of_any_name(
        self, strict: EventBus, records: list[Any]
    ) -> None:
        asyncio.run(strict.aclose())
        assert strict.emit("tool.strat") == 0
        assert len(records) == 1


class TestDeclaring:
    def test_a_name_is_known_from_its_declaration_on(self, strict: EventBus) -> None:
        with pytest.raises(UnknownEventError):
            strict.emit("later")
        strict.define_event("later", None)
        log: list[Any] = []
        strict.on("later", log.append)
        assert strict.emit("later", 1) == 1
        assert log == [1]

    def test_strict_must_be_a_bool(self) -> None:
        wrong: Any = 1
        with pytest.raises(TypeError, match="strict must be a bool"):
            EventBus(strict=wrong)

    def test_initialised_again_it_forgets_what_it_would_have_let_through(
        self, bus: EventBus
    ) -> None:
        bus.emit("a")
        bus.__init__(strict=True)  # type: ignore[misc]
        with pytest.raises(UnknownEventError):
            bus.emit("a")

    async def test_async_handlers_of_declared_events_run(self, strict: EventBus) -> None:
        log: list[Any] = []

        @strict.on("tool.start")
        async def handler(payload: object) -> None:
            log.append(payload)

        assert await soon(strict.emit_async("tool.start", 1)) == 1
        assert log == [1]


def test_a_strict_bus_in_a_cycle_is_collected_and_its_finalisers_may_emit() -> None:
    class Emits:
        def __init__(self, bus: EventBus) -> None:
            self.bus = bus
            bus.on("tool.start", self.handle)

        def handle(self, payload: object) -> None:
            pass

        def __del__(self) -> None:
            counts.append(self.bus.emit("tool.start"))

    counts: list[int] = []
    bus = EventBus(strict=True)
    bus.define_event("tool.start", None)
    Emits(bus)
    gone = weakref.ref(bus)
    del bus
    assert is_gone(gone)
    gc.collect()
    assert len(counts) == 1
