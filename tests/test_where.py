"""where: handlers that only get the payloads that meet a condition."""

from __future__ import annotations

import asyncio
import collections
import functools
import gc
import logging
import sys
import types
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

import pytest
from helpers import LoopThread, anote, is_gone, note, recorder, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


@dataclass
class ToolEnd:
    tool: str
    ok: bool


class Pair(NamedTuple):
    tool: str
    ok: bool


def fickle(forget: Callable[[], None]) -> object:
    """Return an object whose class calls `forget` when it is looked at, and then is no more."""

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name not in ("keys", "__call__"):
                return super().__getattribute__(name)
            forget()
            del cls
            gc.collect()
            raise AttributeError(name)

    class Fickle(metaclass=Meta):
        def __getitem__(self, key: str) -> int:
            return 1

    return Fickle()


class Lookups(Mapping[str, object]):
    """A mapping written in Python, that is no dict."""

    def __init__(self, **items: object) -> None:
        self.items_ = items

    def __getitem__(self, key: str) -> object:
        return self.items_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)


class TestMapping:
    @pytest.mark.parametrize(
        "payload",
        [
            {"tool": "search", "ok": False},
            {"tool": "search", "ok": False, "more": 1},
            collections.OrderedDict(tool="search", ok=False),
            types.MappingProxyType({"tool": "search", "ok": False}),
            collections.ChainMap[str, object]({"tool": "search"}, {"ok": False}),
            Lookups(tool="search", ok=False),
            ToolEnd("search", False),
            Pair("search", False),
            types.SimpleNamespace(tool="search", ok=0),
        ],
        ids=lambda payload: type(payload).__name__,
    )
    def test_items_of_a_mapping_and_attributes_of_anything_else_are_compared(
        self, bus: EventBus, payload: Any
    ) -> None:
        got: list[Any] = []
        bus.on("a", got.append, where={"tool": "search", "ok": False})
        assert bus.emit("a", payload) == 1
        assert got[0] is payload

    def test_a_field_with_a_dot_is_one_name_and_no_path(self, bus: EventBus) -> None:
        got: list[Any] = []
        bus.on("a", got.append, where={"args.query": "x"})
        bus.emit("a", {"args": {"query": "x"}})
        bus.emit("a", {"args.query": "x"})
        assert got == [{"args.query": "x"}]

    @pytest.mark.parametrize(
        "payload",
        [
            {"tool": "search"},
            {"tool": "read", "ok": False},
            {},
            None,
            "search",
            ["tool", "ok"],
            ToolEnd("search", True),
            Lookups(tool="search"),
            types.SimpleNamespace(tool="search"),
        ],
        ids=repr,
    )
    def test_another_value_and_a_missing_field_are_no_match(
        self, bus: EventBus, records: Records, payload: Any
    ) -> None:
        subscription = bus.subscribe("a", print, where={"tool": "search", "ok": False})
        assert bus.emit("a", payload) == 0
        assert (subscription.calls, subscription.failures, records) == (0, 0, [])

    def test_a_mapping_has_no_fields_but_its_items(self, bus: EventBus) -> None:
        bus.on("a", print, where={"keys": {}.keys})
        assert bus.emit("a", {}) == 0

    def test_any_mapping_is_a_condition(self, bus: EventBus) -> None:
        got: list[Any] = []
        bus.on("a", got.append, where=Lookups(x=1))
        bus.on("a", got.append, where=types.MappingProxyType({"x": 1}))
        assert bus.emit("a", {"x": 1}) == 2
        assert bus.emit("a", {"x": 2}) == 0

    def test_an_empty_mapping_matches_everything(self, bus: EventBus) -> None:
        bus.on("a", note([], "called"), where={})
        assert bus.emit("a") == 1

    def test_it_is_read_once_when_the_handler_is_subscribed(self, bus: EventBus) -> None:
        where = {"x": 1}
        bus.on("a", note([], "called"), where=where)
        where["x"] = 2
        assert bus.emit("a", {"x": 1}) == 1
        assert bus.emit("a", {"x": 2}) == 0

    def test_asking_a_defaultdict_does_not_make_the_field(self, bus: EventBus) -> None:
        payload: collections.defaultdict[str, int] = collections.defaultdict(int)
        bus.on("a", print, where={"x": 0})
        assert bus.emit("a", payload) == 0
        assert payload == {}

    @pytest.mark.parametrize("payload", [{"tool": "read", "ok": 1}, ToolEnd("read", True)], ids=str)
    def test_it_is_compared_without_running_python_code(
        self, bus: EventBus, payload: object
    ) -> None:
        bus.on("a", print, where={"ok": True, "tool": "search"})
        bus.on("a", print, where={"missing": 1})
        bus.emit("a", payload)
        calls: list[str] = []

        def python_calls() -> int:
            calls.clear()
            sys.setprofile(lambda frame, event, arg: calls.append(event))
            try:
                bus.emit("a", payload)
            finally:
                sys.setprofile(None)
            return calls.count("call")

        assert python_calls() == 0
        bus.on("a", print, where=lambda payload: False)
        assert python_calls() == 1

    @pytest.mark.parametrize(
        ("value", "matches"),
        [
            ("".join(["inb", "ox"]), True),
            ("inboy", False),
            ("inbox ", False),
            ("", False),
            ("\u0456nbox", False),
            (b"inbox", False),
            (None, False),
        ],
    )
    def test_strings_match_by_their_text(self, bus: EventBus, value: object, matches: bool) -> None:
        bus.on("a", note([], "called"), where={"stream": "inbox"})
        assert bus.emit("a", {"stream": value}) == matches

    def test_a_string_subclass_is_compared_by_its_own_method(self, bus: EventBus) -> None:
        class Loose(str):
            __hash__ = str.__hash__

            def __eq__(self, other: object) -> bool:
                return isinstance(other, str) and self.lower() == other.lower()

        bus.on("a", note([], "called"), where={"stream": "inbox"})
        bus.on("b", note([], "called"), where={"stream": Loose("inbox")})
        assert bus.emit("a", {"stream": Loose("INBOX")}) == 1
        assert bus.emit("b", {"stream": "INBOX"}) == 1

    def test_an_identical_value_is_equal_as_in_a_dict(self, bus: EventBus) -> None:
        nan = float("nan")
        bus.on("a", note([], "called"), where={"x": nan})
        assert bus.emit("a", {"x": nan}) == 1

    def test_an_attribute_or_a_comparison_that_raises_is_a_failure(
        self, bus: EventBus, records: Records
    ) -> None:
        class Hostile:
            def __eq__(self, other: object) -> bool:
                raise RuntimeError("no comparison")

            @property
            def y(self) -> int:
                raise RuntimeError("no attribute")

        subscription = bus.subscribe("a", print, where={"x": 1})
        other = bus.subscribe("b", print, where={"y": 1})
        assert bus.emit("a", {"x": Hostile()}) == 0
        assert bus.emit("b", Hostile()) == 0
        assert (subscription.failures, other.failures) == (1, 1)
        assert [r.getMessage().rpartition(": ")[2] for r in records] == [
            "no comparison",
            "no attribute",
        ]


class TestCallable:
    def test_it_gets_the_payload_whatever_the_form_of_the_handler(self, bus: EventBus) -> None:
        asked: list[Any] = []

        def where(payload: Any) -> bool:
            asked.append(payload)
            return True

        bus.on("a", note([], 1), where=where)
        bus.on("*", note([], 2), where=where)
        bus.on("a", note([], 3), where=where, envelope=True)
        payload = object()
        assert bus.emit("a", payload) == 3
        assert asked == [payload] * 3

    def test_what_counts_is_the_truth_of_its_answer(self, bus: EventBus) -> None:
        got: list[Any] = []
        bus.on("a", got.append, where=lambda payload: payload)
        payloads: list[Any] = [0, 1, "", "x", [], None]
        for payload in payloads:
            bus.emit("a", payload)
        assert got == [1, "x"]

    def test_one_that_raises_is_a_failure_and_no_match(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []
        subscription = bus.subscribe("a", note(log, "never"), where=lambda payload: 1 / 0)
        bus.on("a", note(log, "next"))
        assert bus.emit("a") == 1
        assert log == ["next"]
        assert (subscription.calls, subscription.failures) == (0, 1)
        assert [r.levelname for r in records] == ["ERROR"]
        assert records[0].getMessage().endswith("raised on event 'a': division by zero")

    def test_its_failure_reaches_on_error(self) -> None:
        seen: list[Any] = []
        bus = EventBus(on_error=lambda *args: seen.append(args))
        handler = recorder([], "never")
        bus.on("a", handler, where=lambda payload: payload["missing"])
        bus.emit("a", {})
        assert [(name, failed) for name, failed, _ in seen] == [("a", handler)]
        assert isinstance(seen[0][2], KeyError)

    def test_a_truth_that_raises_is_a_failure(self, bus: EventBus) -> None:
        class Undecided:
            def __bool__(self) -> bool:
                raise ValueError("cannot say")

        subscription = bus.subscribe("a", print, where=lambda payload: Undecided())
        assert bus.emit("a") == 0
        assert subscription.failures == 1

    def test_keyboard_interrupt_propagates(self, bus: EventBus) -> None:
        def where(payload: Any) -> bool:
            raise KeyboardInterrupt

        bus.on("a", print, where=where)
        with pytest.raises(KeyboardInterrupt):
            bus.emit("a")

    def test_one_that_ends_the_subscription_prevents_the_call(self, bus: EventBus) -> None:
        bus.on("a", print, where=lambda payload: bus.clear() == 1)
        assert bus.emit("a") == 0

    def test_it_may_emit_and_subscribe(self, bus: EventBus) -> None:
        log: list[str] = []

        def where(payload: Any) -> bool:
            bus.on("b", note(log, "inner"))
            bus.emit("b")
            return True

        bus.on("a", note(log, "outer"), where=where)
        assert bus.emit("a") == 1
        assert log == ["inner", "outer"]


class TestTurn:
    def test_it_is_asked_when_it_is_the_handlers_turn(self, bus: EventBus) -> None:
        flags = {"on": False}

        def switch(payload: Any) -> None:
            flags["on"] = True

        bus.on("a", switch)
        bus.on("a", note([], "called"), where=lambda payload: flags["on"])
        assert bus.emit("a") == 2

    def test_a_no_does_not_use_up_a_once_handler(self, bus: EventBus) -> None:
        got: list[int] = []
        bus.once("a", got.append, where=lambda payload: payload > 1)
        assert [bus.emit("a", n) for n in (0, 2, 3)] == [0, 1, 0]
        assert got == [2]

    def test_a_failure_does_not_use_it_up_either(self, bus: EventBus) -> None:
        got: list[Any] = []
        bus.once("a", got.append, where=lambda payload: payload["x"])
        assert [bus.emit("a", payload) for payload in ({}, {"x": 1}, {"x": 1})] == [0, 1, 0]

    def test_one_of_two_nested_emissions_gets_a_once_handler(self, bus: EventBus) -> None:
        got: list[int] = []

        def where(payload: int) -> bool:
            if payload == 1:
                bus.emit("a", 2)
            return True

        bus.once("a", got.append, where=where)
        assert bus.emit("a", 1) == 0
        assert got == [2]


class TestAsync:
    def test_emit_async_starts_only_what_matches(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "yes"), where={"x": 1})
        bus.on("a", anote(log, "no"), where={"x": 2})
        bus.on("a", anote(log, "plain"))
        assert asyncio.run(bus.emit_async("a", {"x": 1})) == 2
        assert log == ["yes", "plain"]

    def test_one_that_raises_is_a_failure_there_too(self, bus: EventBus, records: Records) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "never"), where=lambda payload: 1 / 0)
        bus.on("a", anote(log, "next"))
        assert asyncio.run(bus.emit_async("a")) == 1
        assert log == ["next"]
        assert [r.levelname for r in records] == ["ERROR"]

    def test_emit_in_a_loop_asks_before_it_schedules(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "yes"), where={"x": 1})
        bus.on("a", anote(log, "no"), where={"x": 2})

        async def main() -> int:
            payload = {"x": 1}
            started = bus.emit("a", payload)
            payload["x"] = 2
            await soon(bus.drain())
            return started

        assert asyncio.run(main()) == 1
        assert log == ["yes"]

    def test_emit_without_a_loop_runs_only_what_matches(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "yes"), where={"x": 1})
        bus.on("a", note(log, "offloaded no"), where={"x": 2}, offload=True)
        bus.on("a", note(log, "offloaded yes"), where={"x": 1}, offload=True)
        assert bus.emit("a", {"x": 1}) == 2
        assert log == ["offloaded yes", "yes"]

    def test_on_a_bound_loop_the_emitting_thread_is_asked(
        self, bus: EventBus, other: LoopThread
    ) -> None:
        bus.bind_loop(other.loop)
        log: list[str] = []
        bus.on("a", anote(log, "yes"), where={"x": 1})
        bus.on("a", anote(log, "no"), where={"x": 2})
        assert bus.emit("a", {"x": 1}) == 1
        other.run(bus.drain())
        assert log == ["yes"]

    def test_keyboard_interrupt_propagates_after_siblings_are_cancelled(
        self, bus: EventBus
    ) -> None:
        ended: list[str] = []

        async def sibling(payload: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("ended")

        class Stop(BaseException):
            pass

        def where(payload: Any) -> bool:
            raise Stop

        bus.on("a", sibling)
        bus.on("a", anote([], "never"), where=where)

        async def main() -> None:
            with pytest.raises(Stop):
                await soon(bus.emit_async("a"))

        asyncio.run(main())
        assert ended == ["ended"]

    def test_a_handler_that_does_not_match_is_not_counted_as_dropped(
        self, records: Records
    ) -> None:
        bus = EventBus(max_pending=1)
        bus.on("a", anote([], 1))
        bus.on("a", anote([], 2), where={"x": 2})

        async def main() -> int:
            started = bus.emit("a", {"x": 1}) + bus.emit("b", {"x": 1})
            await turns()
            await bus.drain()
            return started

        assert asyncio.run(main()) == 1
        assert records == []


class TestArguments:
    @pytest.mark.parametrize("where", [1, "tool", [("x", 1)], object(), True])
    @pytest.mark.parametrize("method", ["on", "once", "subscribe"])
    def test_what_is_neither_is_refused(self, bus: EventBus, method: str, where: Any) -> None:
        with pytest.raises(TypeError, match="where must be a callable or a mapping"):
            getattr(bus, method)("a", print, where=where)
        assert len(bus) == 0

    def test_fields_that_are_no_str_are_refused(self, bus: EventBus) -> None:
        where: Any = {1: 2}
        with pytest.raises(TypeError, match="where must map names of fields"):
            bus.on("a", print, where=where)

    def test_a_coroutine_function_is_refused(self, bus: EventBus) -> None:
        async def where(payload: Any) -> bool:
            return False

        with pytest.raises(TypeError, match="where must not be a coroutine function"):
            bus.on("a", print, where=where)

    def test_none_is_no_condition(self, bus: EventBus) -> None:
        bus.on("a", note([], 1), where=None)
        assert bus.emit("a") == 1

    def test_a_decorator_keeps_it_for_every_use(self, bus: EventBus) -> None:
        decorate = bus.on("a", where={"x": 1})
        decorate(note([], 1))
        decorate(note([], 2))
        assert [bus.emit("a", {"x": 1}), bus.emit("a", {})] == [2, 0]

    def test_a_payload_may_change_its_class_while_it_is_looked_at(self, bus: EventBus) -> None:
        class Other: ...

        def forget() -> None:
            payload.__class__ = Other

        payload: Any = fickle(forget)
        got: list[object] = []
        bus.on("a", got.append, where={"x": 1})
        assert bus.emit("a", payload) == 0
        assert got == []
        assert type(payload) is Other

    def test_it_may_change_its_own_class_while_it_is_looked_at(self, bus: EventBus) -> None:
        class Other: ...

        def forget() -> None:
            where.__class__ = Other

        where: Any = fickle(forget)
        with pytest.raises(TypeError, match="where"):
            bus.on("a", note([], 1), where=where)
        assert bus.emit("a") == 0

    def test_it_is_released_with_the_subscription(self, bus: EventBus) -> None:
        class Where:
            def __call__(self, payload: Any) -> bool:
                return True

        where = Where()
        gone = weakref.ref(where)
        bus.on("a", note([], 1), where=where)
        del where
        bus.emit("a")
        assert gone() is not None
        bus.clear()
        assert is_gone(gone)

    def test_the_names_of_its_fields_are_released_with_the_subscription(
        self, bus: EventBus
    ) -> None:
        field = "".join(["made", " up"])
        before = sys.getrefcount(field)
        subscription = bus.subscribe("a", note([], 1), where={field: 1})
        assert bus.emit("a", {field: 1}) == 1
        subscription.cancel()
        del subscription
        assert sys.getrefcount(field) == before

    def test_a_cycle_through_it_is_collected(self) -> None:
        bus = EventBus()
        gone = weakref.ref(bus)
        bus.on("a", print, where=functools.partial(isinstance, bus))
        decorate = bus.on("a", where={"bus": bus})
        del bus, decorate
        gc.collect()
        assert gone() is None
