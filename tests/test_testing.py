"""agent_event_bus.testing: what it records, asserts and finds, and what it says when that fails."""

from __future__ import annotations

import asyncio
import enum
import gc
import logging
import subprocess
import sys
import weakref
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

import pytest
from helpers import Gate, failing, is_gone, turns

from agent_event_bus import Event, EventBus
from agent_event_bus.testing import (
    EventRecorder,
    assert_no_leaks,
    fail_on_handler_error,
    no_leaks,
    record_events,
)


@dataclass
class ToolEnd:
    tool: str
    ok: bool = True


class LateToolEnd(ToolEnd):
    pass


class Names(enum.Enum):
    TOOL_END = "tool.end"


# mypy takes no enum members and classes as keys of what is declared for strings alone.
TOOL_END: Any = Names.TOOL_END


E = TypeVar("E", bound=BaseException)


def ends_in(kind: type[E]) -> AbstractContextManager[pytest.ExceptionInfo[E], bool]:
    """`pytest.raises` for a block of several statements, whose end raises."""
    return pytest.raises(kind)


def complaint(assertion: Callable[..., object], *args: Any, **options: Any) -> list[str]:
    """Return the lines of the AssertionError that an assertion must raise."""
    with pytest.raises(AssertionError) as caught:
        assertion(*args, **options)
    return str(caught.value).splitlines()


@pytest.fixture
def events(bus: EventBus) -> EventRecorder:
    return record_events(bus)


class TestRecording:
    def test_it_is_a_sequence_of_events_in_the_order_they_were_emitted(
        self, bus: EventBus, events: EventRecorder
    ) -> None:
        bus.emit("a", 1)
        asyncio.run(bus.emit_async("b", 2))
        bus.publish(ToolEnd("search"))
        assert all(isinstance(event, Event) for event in events)
        assert events.names == ["a", "b", "ToolEnd"]
        assert events.payloads == [1, 2, ToolEnd("search")]
        assert len(events) == 3
        assert events[-1].payload is events.payloads[-1]
        assert [event.name for event in events[:2]] == ["a", "b"]

    def test_an_event_comes_before_those_that_its_handlers_emit(
        self, bus: EventBus, events: EventRecorder
    ) -> None:
        bus.on("outer", lambda payload: bus.emit("inner"), priority=-1000)
        bus.emit("outer")
        assert events.names == ["outer", "inner"]

    def test_what_a_guard_refuses_is_recorded(self, bus: EventBus, events: EventRecorder) -> None:
        bus.on("a", failing(PermissionError("no")), isolate=False, priority=-1000)
        with pytest.raises(PermissionError):
            bus.emit("a")
        assert events.names == ["a"]

    def test_a_key_narrows_it(self, bus: EventBus) -> None:
        with record_events(bus, "tool.*") as tools:
            bus.emit("tool.end")
            bus.emit("run.end")
        assert tools.names == ["tool.end"]

    def test_it_stops_at_the_end_of_the_block_and_keeps_what_it_has(self, bus: EventBus) -> None:
        with record_events(bus) as events:
            bus.emit("a")
        bus.emit("b")
        assert events.names == ["a"]
        assert len(bus) == 0
        events.stop()

    def test_dropping_it_ends_it(self, bus: EventBus) -> None:
        record_events(bus)
        gc.collect()
        assert len(bus) == 0

    def test_clear_forgets(self, bus: EventBus, events: EventRecorder) -> None:
        bus.emit("a")
        events.clear()
        bus.emit("b")
        assert events.names == ["b"]

    def test_it_works_on_strict_and_async_only_buses(self) -> None:
        for bus in (EventBus(strict=True), EventBus(async_only=True)):
            bus.define_event("a", None)
            events = record_events(bus)
            asyncio.run(bus.emit_async("a"))
            assert events.names == ["a"]

    def test_it_does_not_keep_the_bus(self) -> None:
        bus = EventBus()
        events = record_events(bus)
        reference = weakref.ref(bus)
        del bus
        assert is_gone(reference)
        assert list(events) == []

    def test_bad_keys_are_refused_and_nothing_is_subscribed(self, bus: EventBus) -> None:
        with pytest.raises(ValueError, match=r"a\.\.b"):
            record_events(bus, "a..b")
        assert len(bus) == 0

    def test_repr_says_what_there_is(self, bus: EventBus, events: EventRecorder) -> None:
        assert repr(events) == "<EventRecorder: nothing was recorded>"
        bus.emit("a")
        bus.emit("b")
        bus.emit("a")
        events.stop()
        assert repr(events) == "<EventRecorder: recorded 'a' (2 times), 'b', stopped>"


class TestAssertEmitted:
    def test_it_returns_the_events_that_match(self, bus: EventBus, events: EventRecorder) -> None:
        bus.emit("tool.end", {"tool": "search"})
        bus.emit("tool.end", {"tool": "read"})
        found = events.assert_emitted("tool.end", where={"tool": "read"})
        assert found == [events[1]]
        assert events.matching("tool.*") == list(events)
        assert events.matching("other") == []

    @pytest.mark.parametrize("key", ["tool.end", "tool.*", "*", TOOL_END, ["other", "tool.*"]])
    def test_keys_are_those_of_subscribe(
        self, bus: EventBus, events: EventRecorder, key: Any
    ) -> None:
        bus.emit("run.start")
        bus.emit("tool.end")
        assert events[1] in events.assert_emitted(key)

    def test_a_class_is_what_was_published_and_not_what_was_emitted(
        self, bus: EventBus, events: EventRecorder
    ) -> None:
        bus.emit("ToolEnd", ToolEnd("emitted"))
        bus.emit("tool.end", ToolEnd("emitted"))
        events.assert_not_emitted(ToolEnd)
        bus.publish(LateToolEnd("published"))
        assert events.assert_emitted(ToolEnd, times=1)[0].payload.tool == "published"
        events.assert_emitted("LateToolEnd", times=1)
        events.assert_not_emitted(int)

    def test_where_is_that_of_subscribe(self, bus: EventBus, events: EventRecorder) -> None:
        bus.emit("tool.end", {"tool": "search", "ok": True})
        bus.publish(ToolEnd("read"))
        events.assert_emitted("*", where={"tool": "search"}, times=1)
        events.assert_emitted(ToolEnd, where={"tool": "read", "ok": True}, times=1)
        events.assert_emitted("*", where={}, times=2)
        events.assert_emitted("*", where=lambda payload: payload["ok"], times=1)
        with pytest.raises(TypeError, match="where must be a callable or a mapping"):
            events.assert_emitted("*", where=3)  # type: ignore[call-overload]

    def test_a_condition_that_raises_is_no_match(
        self, bus: EventBus, events: EventRecorder
    ) -> None:
        bus.emit("a", {})
        bus.emit("a", {"n": 1})
        events.assert_emitted("a", where=lambda payload: payload["n"] == 1, times=1)
        events.assert_not_emitted("a", where=lambda payload: payload.n == 1)

    def test_times_is_exact_and_none_is_at_least_once(
        self, bus: EventBus, events: EventRecorder
    ) -> None:
        events.assert_emitted("a", times=0)
        for count in (1, 2):
            bus.emit("a")
            events.assert_emitted("a")
            events.assert_emitted("a", times=count)
        for wrong in (0, 1, 3):
            with pytest.raises(AssertionError):
                events.assert_emitted("a", times=wrong)

    def test_bad_arguments_are_refused(self, events: EventRecorder) -> None:
        with pytest.raises(ValueError, match="times must be at least 0, not -1"):
            events.assert_emitted("a", times=-1)
        with pytest.raises(TypeError, match="times must be an int or None, not bool"):
            events.assert_emitted("a", times=True)
        with pytest.raises(ValueError, match=r"a\.\.b"):
            events.assert_emitted("a..b")

    def test_it_may_be_used_in_a_running_loop_and_in_a_handler(
        self, bus: EventBus, events: EventRecorder
    ) -> None:
        @bus.on("a")
        async def look(payload: object) -> None:
            events.assert_emitted("a", where={"n": 1}, times=1)

        with fail_on_handler_error(bus):
            asyncio.run(bus.emit_async("a", {"n": 1}))


class TestWhatItSays:
    def test_nothing_at_all(self, events: EventRecorder) -> None:
        assert complaint(events.assert_emitted, "tool.end") == [
            "expected 'tool.end' to be emitted at least once, but it was not",
            "nothing was recorded",
        ]

    def test_a_name_that_is_misspelt(self, bus: EventBus, events: EventRecorder) -> None:
        bus.emit("tool.end")
        bus.emit("run.end")
        bus.emit("tool.end")
        assert complaint(events.assert_emitted, "tool.edn", times=2) == [
            "expected 'tool.edn' to be emitted 2 times, but it was not",
            "did you mean 'tool.end'?",
            "recorded 'tool.end' (2 times), 'run.end'",
        ]

    def test_the_fields_that_differ_the_nearest_event_first(
        self, bus: EventBus, events: EventRecorder
    ) -> None:
        bus.emit("tool.end", {"tool": "read"})
        bus.emit("run.end")
        bus.emit("tool.end", {"tool": "search", "ok": False})
        wanted = {"tool": "search", "ok": True}
        assert complaint(events.assert_emitted, "tool.end", where=wanted) == [
            "expected 'tool.end' where {'ok': True, 'tool': 'search'} to be emitted at least once, "
            "but of 2 such events none matched",
            "these do not match, the nearest first:",
            "  event 3 'tool.end':",
            "      ok: expected True, got False",
            "  event 1 'tool.end':",
            "      tool: expected 'search', got 'read'",
            "      ok: expected True, but it is missing",
            "recorded 'tool.end' (2 times), 'run.end'",
        ]

    def test_attributes_of_a_published_object(self, bus: EventBus, events: EventRecorder) -> None:
        bus.publish(ToolEnd("read"))
        assert complaint(events.assert_emitted, ToolEnd, where={"tool": "search", "id": 7}) == [
            "expected ToolEnd where {'id': 7, 'tool': 'search'} to be emitted at least once, "
            "but the one such event did not match",
            "these do not match, the nearest first:",
            "  event 1 'ToolEnd':",
            "      tool: expected 'search', got 'read'",
            "      id: expected 7, but it is missing",
            "recorded 'ToolEnd'",
        ]

    def test_a_callable_by_its_name_and_place(self, bus: EventBus, events: EventRecorder) -> None:
        def dear(payload: Any) -> bool:
            return bool(payload["usd"] > 1)

        bus.emit("cost", {"usd": 0.5})
        bus.emit("cost", {})
        first, *rest = complaint(events.assert_emitted, "cost", where=dear)
        assert first.startswith("expected 'cost' where TestWhatItSays.")
        assert "dear (" in first
        assert f"test_testing.py:{dear.__code__.co_firstlineno})" in first
        assert rest == [
            "these do not match:",
            "  event 1 'cost': {'usd': 0.5}",
            "  event 2 'cost': where raised KeyError: 'usd'",
            "recorded 'cost' (2 times)",
        ]

    def test_too_many(self, bus: EventBus, events: EventRecorder) -> None:
        bus.emit("a", 1)
        bus.emit("a", 2)
        assert complaint(events.assert_emitted, "a", times=1) == [
            "expected 'a' to be emitted once, but it was 2 times",
            "these match:",
            "  event 1 'a': 1",
            "  event 2 'a': 2",
            "recorded 'a' (2 times)",
        ]
        assert complaint(events.assert_not_emitted, ["a", "b.*"])[0] == (
            "expected 'a' or 'b.*' not to be emitted, but it was 2 times"
        )

    def test_too_few_of_several(self, bus: EventBus, events: EventRecorder) -> None:
        bus.emit("a", {"n": 1})
        bus.emit("a", {"n": 2})
        assert complaint(events.assert_emitted, "a", where={"n": 1}, times=2) == [
            "expected 'a' where {'n': 1} to be emitted 2 times, but of 2 such events 1 matched",
            "these do not match, the nearest first:",
            "  event 2 'a':",
            "      n: expected 1, got 2",
            "recorded 'a' (2 times)",
        ]

    def test_its_length_is_bounded(self, bus: EventBus, events: EventRecorder) -> None:
        for number in range(200):
            bus.emit("a", {"text": "x" * 10_000, "n": number})
            bus.emit(f"other.{number}")
        lines = complaint(events.assert_emitted, "a", where={"text": "y" * 10_000})
        assert "  and 195 more" in lines
        assert lines[-1].endswith(" and 189 more")
        assert len("\n".join(lines)) < 3000
        assert len("\n".join(complaint(events.assert_not_emitted, "a"))) < 3000

    def test_values_whose_repr_raises_are_survived(
        self, bus: EventBus, events: EventRecorder
    ) -> None:
        class Rude:
            def __repr__(self) -> str:
                raise RuntimeError("no")

            @property
            def secret(self) -> int:
                raise RuntimeError("no")

        bus.emit("a", {"n": Rude()})
        bus.emit("a", Rude())
        assert "      n: expected 1, got <" in "\n".join(
            complaint(events.assert_emitted, "a", where={"n": 1})
        )
        assert "  event 2 'a': <" in "\n".join(complaint(events.assert_emitted, "a", times=1))
        lines = complaint(events.assert_emitted, "a", where={"secret": 1})
        assert "      secret: expected 1, but reading it raised RuntimeError: no" in lines

    def test_that_recording_has_ended(self, bus: EventBus, events: EventRecorder) -> None:
        bus.clear()
        bus.emit("a")
        assert complaint(events.assert_emitted, "a")[-1] == (
            "recording had ended: the subscription was removed"
        )


class TestFailOnHandlerError:
    def test_a_failure_names_event_handler_and_error(self, bus: EventBus) -> None:
        def price(response: dict[str, int]) -> int:
            return response["usage"]

        bus.on("model_responded", price)
        with ends_in(AssertionError) as caught, fail_on_handler_error(bus):
            bus.emit("model_responded", {})
        text = str(caught.value)
        assert "price' raised on event 'model_responded': KeyError: 'usage' (" in text
        assert f"test_testing.py:{price.__code__.co_firstlineno + 1})" in text
        assert isinstance(caught.value.__cause__, KeyError)

    def test_several_are_all_named(self, bus: EventBus) -> None:
        first = ValueError("one")
        bus.on("a", failing(first))
        bus.on("b", failing(KeyError()))
        with ends_in(AssertionError) as caught, fail_on_handler_error(bus) as check:
            bus.emit("a")
            bus.emit("b")
        lines = str(caught.value).splitlines()
        assert lines[0] == "2 failures of handlers:"
        assert "on event 'a': ValueError: one (" in lines[1]
        assert "on event 'b': KeyError (" in lines[2]
        assert caught.value.__cause__ is first
        assert [error.event_name for error in check.errors] == ["a", "b"]

    def test_without_one_nothing_is_raised(self, bus: EventBus) -> None:
        bus.on("a", lambda payload: None)
        with fail_on_handler_error(bus):
            bus.emit("a")

    def test_the_bus_still_isolates_logs_and_calls_on_error(
        self, bus: EventBus, records: list[logging.LogRecord]
    ) -> None:
        seen: list[Any] = []
        ran: list[object] = []

        def on_error(*args: Any) -> None:
            seen.append(args)

        error = ValueError("x")
        handler = bus.on("a", failing(error))
        bus.on("a", ran.append)
        bus.on_error = on_error
        with pytest.raises(AssertionError), fail_on_handler_error(bus):
            bus.emit("a", 1)
        assert seen == [("a", handler, error)]
        assert ran == [1]
        assert len(records) == 1
        assert bus.on_error is on_error

    def test_errors_that_are_expected_may_be_removed(self, bus: EventBus) -> None:
        bus.on("a", failing(ValueError("x")))
        with fail_on_handler_error(bus) as check:
            bus.emit("a")
            assert isinstance(check.errors.pop().exception, ValueError)

    def test_a_body_that_raises_keeps_its_error_and_tells_of_them(self, bus: EventBus) -> None:
        bus.on("a", failing(ValueError("x")))
        with ends_in(LookupError) as caught, fail_on_handler_error(bus):
            bus.emit("a")
            raise LookupError("mine") from None
        if sys.version_info >= (3, 11):
            told = "\n".join(caught.value.__notes__)
        else:
            told = str(caught.value.__context__)
            assert not caught.value.__suppress_context__
        assert "raised on event 'a': ValueError: x" in told

    def test_a_body_that_raises_the_very_error_of_a_handler(self, bus: EventBus) -> None:
        error = ValueError("x")
        bus.on("a", failing(error))
        with ends_in(ValueError) as caught, fail_on_handler_error(bus):
            bus.emit("a")
            raise error
        seen: list[BaseException] = []
        each: BaseException | None = caught.value
        while each is not None:
            assert all(other is not each for other in seen), "a circle"
            seen.append(each)
            each = each.__cause__ or each.__context__

    def test_blocks_may_be_nested(self, bus: EventBus) -> None:
        bus.on("a", failing(ValueError("x")))
        with ends_in(AssertionError), fail_on_handler_error(bus) as outer:
            with pytest.raises(AssertionError, match="event 'a'"), fail_on_handler_error(bus):
                bus.emit("a")
            assert len(outer.errors) == 1
        assert bus.on_error is None

    def test_an_on_error_that_was_set_inside_stays(self, bus: EventBus) -> None:
        with fail_on_handler_error(bus):
            bus.on_error = print
        assert bus.on_error is print

    async def test_async_with_waits_for_what_is_pending(self, bus: EventBus) -> None:
        @bus.on("a")
        async def fail(payload: object) -> None:
            await asyncio.sleep(0)
            raise ValueError("late")

        with pytest.raises(AssertionError, match="ValueError: late"):
            async with fail_on_handler_error(bus):
                bus.emit("a")

    def test_timeouts_are_failures(self, bus: EventBus) -> None:
        async def slow(payload: object) -> None:
            await asyncio.Event().wait()

        bus.on("a", slow, timeout=0.01)
        with ends_in(AssertionError) as caught, fail_on_handler_error(bus):
            bus.emit("a")
        assert "slow' raised on event 'a': TimeoutError: " in str(caught.value)

    def test_guards_and_collect_are_none(self, bus: EventBus) -> None:
        bus.on("a", failing(ValueError("x")), isolate=False)
        with fail_on_handler_error(bus):
            with pytest.raises(ValueError, match="x"):
                bus.emit("a")
            assert bus.collect("a")[0].status == "error"

    def test_it_is_entered_once_only(self, bus: EventBus) -> None:
        check = fail_on_handler_error(bus)
        with check:
            pass
        with pytest.raises(RuntimeError, match="once only"):
            check.__enter__()


class TestNoLeaks:
    def test_a_subscription_is_named_with_handler_and_place(self, bus: EventBus) -> None:
        def handler(payload: object) -> None:
            pytest.fail("it was called")

        bus.on("before", handler)
        with ends_in(AssertionError) as caught, no_leaks(bus):
            bus.subscribe(["a", "b.*"], handler)
            bus.on("c", handler)
            bus.off("c")
        lines = str(caught.value).splitlines()
        assert lines[:2] == ["left behind on <EventBus: 2 subscriptions>:", "subscribed:"]
        assert len(lines) == 3
        assert lines[2].startswith("  'a' or 'b.*' -> TestNoLeaks.")
        assert lines[2].endswith(f"test_testing.py:{handler.__code__.co_firstlineno})")

    def test_streams_waiting_and_recorders_are_found(self, bus: EventBus) -> None:
        with ends_in(AssertionError) as caught, no_leaks(bus):
            stream = bus.stream("tokens")
            waiter = bus.wait_for("end")
            events = record_events(bus, "a")
        lines = str(caught.value).splitlines()
        assert any(line.startswith("  'tokens' -> ") for line in lines)
        assert "  'end' -> EventBus.wait_for" in lines
        assert "  'a' -> record_events" in lines
        stream.close()
        waiter.close()
        events.stop()
        assert_no_leaks(bus)

    def test_what_only_waits_to_be_collected_is_no_leak(self, bus: EventBus) -> None:
        class Panel:
            def __init__(self) -> None:
                self.me = self

            def show(self, payload: object) -> None:
                pytest.fail("it was called")

        gc.disable()
        try:
            with no_leaks(bus):
                bus.on("a", Panel().show, weak=True)
                assert len(bus) == 1
        finally:
            gc.enable()

    async def test_pending_deliveries_are_named(self, bus: EventBus) -> None:
        gate = Gate()
        bus.on("a", gate.wait)
        bus.emit("a")
        with ends_in(AssertionError) as caught, no_leaks(bus):
            bus.emit("a")
            await turns()
        assert str(caught.value).splitlines() == [
            "left behind on <EventBus: 1 subscription>:",
            "pending:",
            "  a -> Gate.wait",
        ]
        gate.gate.set()
        await bus.drain()

    async def test_async_with_gives_them_the_time_that_is_set(self, bus: EventBus) -> None:
        gate = Gate()
        bus.on("a", gate.wait)
        async with no_leaks(bus, timeout=20):
            bus.emit("a")
            gate.gate.set()
        gate.gate.clear()
        with pytest.raises(AssertionError, match=r"a -> Gate\.wait"):
            async with no_leaks(bus, timeout=0.01):
                bus.emit("a")
        await bus.aclose()

    def test_a_body_that_raises_is_not_checked(self, bus: EventBus) -> None:
        with ends_in(LookupError), no_leaks(bus):
            bus.on("a", print)
            raise LookupError
        assert len(bus) == 1  # it was there to be found

    def test_assert_no_leaks_allows_nothing_at_all(self, bus: EventBus) -> None:
        assert_no_leaks(bus)
        subscription = bus.subscribe("a", print)
        with pytest.raises(AssertionError, match="'a' -> print"):
            assert_no_leaks(bus)
        subscription.cancel()
        assert_no_leaks(bus)


def test_it_needs_no_pytest() -> None:
    program = """
import sys
sys.modules["pytest"] = None
from agent_event_bus import EventBus
from agent_event_bus.testing import record_events
bus = EventBus()
with record_events(bus) as recorder:
    bus.emit("a")
print(recorder.names)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "['a']\n", "")
