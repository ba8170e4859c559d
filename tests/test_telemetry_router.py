"""The telemetry routers: ways to subscribe, bad arguments, removal, and labels.

What both routers promise is shown with both; what only the second has, in
test_telemetry_production.py.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import inspect
import threading
import tracemalloc
import weakref
from typing import Any

import pytest
from helpers import failing, is_gone, note, recorder
from telemetry_routers import (  # noqa: F401 - some are fixtures
    each_router,
    events,
    payloads,
    production_router,
)

from agent_event_bus import EventKey
from agent_event_bus.telemetry import ProductionTelemetryRouter, TelemetryRouter

Router = TelemetryRouter


class TestSubscribing:
    """Every form, each used as its promise says, returns the function unchanged."""

    def test_subscribe_with_a_handler(self, router: Router) -> None:
        log: list[Any] = []
        handler = payloads(log)
        assert router.subscribe("e", handler) is handler
        assert router.emit("e", 1) == 1
        assert router.emit("f", 2) == 0
        assert log == [1]

    def test_subscribe_as_a_decorator(self, router: Router) -> None:
        log: list[Any] = []
        handler = payloads(log)
        assert router.subscribe("e")(handler) is handler
        router.emit("e", 1)
        router.emit("e", 2)
        assert log == [1, 2]

    def test_subscribe_once_with_a_handler(self, router: Router) -> None:
        log: list[Any] = []
        handler = payloads(log)
        assert router.subscribe_once("e", handler) is handler
        assert [router.emit("e", number) for number in range(3)] == [1, 0, 0]
        assert log == [0]

    def test_subscribe_once_as_a_decorator(self, router: Router) -> None:
        log: list[Any] = []
        handler = payloads(log)
        assert router.subscribe_once("e")(handler) is handler
        router.emit("e", 1)
        router.emit("e", 2)
        assert log == [1]

    def test_subscribe_all_with_a_handler(self, router: Router) -> None:
        log: list[Any] = []
        handler = events(log)
        assert router.subscribe_all(handler) is handler
        router.emit("e", 1)
        router.emit("f.g")
        assert log == [("e", 1), ("f.g", None)]

    def test_subscribe_all_as_a_bare_decorator(self, router: Router) -> None:
        log: list[Any] = []

        @router.subscribe_all
        def handler(event_name: str, payload: object) -> None:
            log.append((event_name, payload))

        router.emit("e", 1)
        assert log == [("e", 1)]
        assert inspect.isfunction(handler)

    def test_subscribe_all_as_a_decorator_that_was_called(self, router: Router) -> None:
        log: list[Any] = []
        handler = events(log)
        assert router.subscribe_all()(handler) is handler
        router.emit("e", 1)
        assert log == [("e", 1)]

    def test_subscribe_all_as_a_decorator_with_a_label(self, router: Router) -> None:
        log: list[Any] = []
        handler = events(log)
        assert router.subscribe_all("debug_audit")(handler) is handler
        router.emit("e", 1)
        assert log == [("e", 1)]

    def test_register_with_a_handler(self, production: ProductionTelemetryRouter) -> None:
        log: list[Any] = []
        handler = payloads(log)
        assert production.register("e", handler) is handler
        production.emit("e", 1)
        assert log == [1]

    def test_register_as_a_decorator(self, production: ProductionTelemetryRouter) -> None:
        log: list[Any] = []
        handler = payloads(log)
        assert production.register("e")(handler) is handler
        assert production.register("e", priority=-1)(handler) is handler
        production.emit("e", 1)
        assert log == [1, 1]

    def test_register_once(self, production: ProductionTelemetryRouter) -> None:
        log: list[Any] = []
        production.register("e", payloads(log), once=True)
        production.register("e", once=True)(payloads(log))
        production.register("e", payloads(log), 0, True)
        production.emit("e", 1)
        production.emit("e", 2)
        assert log == [1, 1, 1]

    def test_register_wildcard_in_three_forms(self, production: ProductionTelemetryRouter) -> None:
        log: list[Any] = []
        first, second, third = events(log), events(log), events(log)
        assert production.register_wildcard(first) is first
        assert production.register_wildcard()(second) is second
        assert production.register_wildcard(priority=1)(third) is third
        production.emit("e", 1)
        assert log == [("e", 1)] * 3

    def test_the_production_router_has_the_methods_of_the_other_too(
        self, production: ProductionTelemetryRouter
    ) -> None:
        assert isinstance(production, TelemetryRouter)

    @pytest.mark.parametrize("key", ["*", "**", "tool.*", "*.end", "tool.**"])
    def test_a_pattern_gets_name_and_payload(self, router: Router, key: str) -> None:
        log: list[Any] = []
        router.subscribe(key, events(log))
        router.subscribe_once(key, events(log))
        router.emit("tool.end", 1)
        router.emit("tool.end", 2)
        assert log == [("tool.end", 1), ("tool.end", 1), ("tool.end", 2)]

    def test_event_keys_and_enum_members_are_names_and_patterns(self, router: Router) -> None:
        class Names(enum.Enum):
            END = "tool.end"
            TOOLS = "tool.*"

        log: list[Any] = []
        router.subscribe(Names.TOOLS, recorder(log, "tools"))
        router.subscribe(Names.END, recorder(log, "end"))
        router.subscribe(EventKey("tool.end"), recorder(log, "key"))
        assert router.emit(Names.END, 1) == router.emit(EventKey("tool.end"), 1) == 3
        assert log == [("end", 1), ("key", 1), ("tools", "tool.end", 1)] * 2

    def test_a_handler_of_a_name_and_of_every_event_is_called_for_each(
        self, router: Router
    ) -> None:
        log: list[Any] = []
        handler = recorder(log, "h")
        router.subscribe("e", handler)
        router.subscribe_all(handler)
        assert router.emit("e", 1) == 2
        assert log == [("h", 1), ("h", "e", 1)]


class TestBadArguments:
    @pytest.mark.parametrize("key", ["", "a..b", "a*", "**.a"])
    def test_a_malformed_name_is_refused(self, router: Router, key: str) -> None:
        for subscribe in (router.subscribe, router.subscribe_once):
            with pytest.raises(ValueError, match="key"):
                subscribe(key, payloads([]))

    @pytest.mark.parametrize("key", [None, 3, b"e", payloads([])])
    def test_what_is_no_name_is_refused(self, router: Router, key: Any) -> None:
        with pytest.raises(TypeError, match="bad key"):
            router.subscribe(key, payloads([]))

    def test_a_bad_name_is_refused_before_there_is_a_function_to_decorate(
        self, router: Router
    ) -> None:
        for decorate in (router.subscribe, router.subscribe_once):
            with pytest.raises(ValueError, match=r"a\.\.b"):
                decorate("a..b")

    def test_a_decorator_without_its_name_does_not_swallow_the_function(
        self, production: ProductionTelemetryRouter
    ) -> None:
        decorate: Any
        for decorate in (production.subscribe, production.subscribe_once, production.register):
            with pytest.raises(TypeError, match="bad key <function"):
                decorate(payloads([]))  # as `@router.subscribe` does

    @pytest.mark.parametrize("key", [["a", "*"], ("a", "b")])
    def test_several_names_at_once_are_refused(self, router: Router, key: Any) -> None:
        with pytest.raises(TypeError, match="one name or pattern at a time"):
            router.subscribe(key, payloads([]))

    @pytest.mark.parametrize("handler", [3, "e", [print]])
    def test_what_is_no_handler_is_refused(self, router: Router, handler: Any) -> None:
        with pytest.raises(TypeError, match="handler must be callable"):
            router.subscribe("e", handler)
        with pytest.raises(TypeError, match="handler must be callable"):
            router.subscribe("e")(handler)

    def test_what_is_neither_handler_nor_label_is_refused(self, router: Router) -> None:
        subscribe_all: Any = router.subscribe_all
        with pytest.raises(TypeError, match="handler must be callable"):
            subscribe_all(3)
        with pytest.raises(ValueError, match="label must not be empty"):
            router.subscribe_all("")

    @pytest.mark.parametrize("priority", ["1", 1.0, None, True])
    def test_a_priority_that_is_no_int_is_refused(self, router: Router, priority: Any) -> None:
        with pytest.raises(TypeError, match="priority must be an int, not"):
            router.subscribe("e", payloads([]), priority=priority)

    @pytest.mark.parametrize("priority", [2**60, -(2**60) - 1, 10**30])
    def test_a_priority_that_would_leave_its_group_is_refused(
        self, router: Router, priority: int
    ) -> None:
        for subscribe in (router.subscribe, router.subscribe_once):
            with pytest.raises(OverflowError, match=r"priority must be from -2\*\*60 to 2\*\*60"):
                subscribe("e", priority=priority)
        with pytest.raises(OverflowError, match="priority"):
            router.subscribe_all(events([]), priority=priority)
        assert len(router.bus) == 0

    def test_an_option_that_the_bus_does_not_know_is_refused(self) -> None:
        kind: Any
        for kind in (TelemetryRouter, ProductionTelemetryRouter):
            with pytest.raises(TypeError, match="bogus"):
                kind(bogus=1)

    @pytest.mark.parametrize("option", ["logger", "max_pending", "slow_after"])
    def test_an_option_that_a_router_sets_itself_is_refused_by_the_name_that_was_given(
        self, option: str
    ) -> None:
        making: Any = ProductionTelemetryRouter
        with pytest.raises(TypeError, match=rf"^ProductionTelemetryRouter\(\) got .* '{option}'$"):
            making(**{option: 1})

    def test_a_plain_router_takes_no_other_logger(self) -> None:
        making: Any = TelemetryRouter
        with pytest.raises(TypeError, match=r"^TelemetryRouter\(\) got .* 'logger'$"):
            making(logger=None)

    def test_an_error_of_the_caller_s_own_number_comes_out_as_it_is(self) -> None:
        class Unreadable:
            def __float__(self) -> float:
                raise UnicodeDecodeError("utf-8", b"5 ms", 0, 1, "no number")

        with pytest.raises(UnicodeDecodeError, match="no number"):
            ProductionTelemetryRouter(alert_after=Unreadable())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def test_a_bad_event_name_is_the_emitter_s_error(self, router: Router) -> None:
        with pytest.raises(ValueError, match="tool"):
            router.emit("tool.*")
        with pytest.raises(ValueError, match=r"a\.\.b"):
            asyncio.run(router.emit_async("a..b"))


class TestUnsubscribing:
    def test_it_removes_the_handler_and_says_how_many(self, router: Router) -> None:
        log: list[Any] = []
        handler, other = payloads(log), payloads(log)
        router.subscribe("e", handler)
        router.subscribe("e", handler)
        router.subscribe("e", other)
        assert router.unsubscribe("e", handler) == 2
        assert router.unsubscribe("e", handler) == 0
        assert router.emit("e", 1) == 1

    def test_it_removes_one_shot_handlers_that_have_not_been_called(self, router: Router) -> None:
        handler = payloads([])
        router.subscribe_once("e", handler)
        assert router.unsubscribe("e", handler) == 1
        assert router.emit("e") == 0

    def test_handlers_of_every_event_are_removed_under_the_star(self, router: Router) -> None:
        handler = recorder([], "h")
        router.subscribe_all(handler)
        router.subscribe("e", handler)
        assert router.unsubscribe("*", handler) == 1
        assert router.emit("e") == 1
        assert router.emit("f") == 0

    def test_a_pattern_is_removed_under_the_pattern(self, router: Router) -> None:
        handler = events([])
        router.subscribe("tool.*", handler)
        assert router.unsubscribe("tool.end", handler) == 0
        assert router.unsubscribe("tool.*", handler) == 1

    def test_bound_methods_are_compared_by_their_object(self, router: Router) -> None:
        log: list[Any] = []
        router.subscribe("e", log.append)
        assert router.unsubscribe("e", [].append) == 0
        assert router.unsubscribe("e", log.append) == 1

    def test_unregister_does_the_same(self, production: ProductionTelemetryRouter) -> None:
        exact, wildcard = payloads([]), events([])
        production.register("e", exact)
        production.register("e", exact, once=True)
        production.register_wildcard(wildcard)
        assert production.unregister("e", exact) == 2
        assert production.unregister("*", wildcard) == 1
        assert production.unregister("*", wildcard) == 0

    @pytest.mark.parametrize("arguments", [("e", None), (None, print), ("e", 3)])
    def test_neither_argument_may_be_missing(self, router: Router, arguments: Any) -> None:
        router.subscribe("e", payloads([]))
        with pytest.raises(TypeError, match=r"must be (callable or a label|a key), not"):
            router.unsubscribe(*arguments)
        assert router.emit("e") == 1

    def test_a_malformed_name_is_refused(self, router: Router) -> None:
        with pytest.raises(ValueError, match=r"a\.\.b"):
            router.unsubscribe("a..b", print)

    def test_a_handler_may_remove_itself_and_a_later_one(self, router: Router) -> None:
        log: list[str] = []
        later = note(log, "later")

        def first(payload: object) -> None:
            log.append("first")
            router.unsubscribe("e", first)
            router.unsubscribe("*", later)

        router.subscribe("e", first)
        router.subscribe_all(later)
        router.emit("e")
        router.emit("e")
        assert log == ["first"]


class TestLabels:
    def test_a_label_removes_its_handlers(self, router: Router) -> None:
        log: list[Any] = []
        router.subscribe_all("audit")(events(log))
        router.subscribe_all("audit")(events(log))
        router.subscribe_all("other")(events(log))
        assert router.unsubscribe("*", "audit") == 2
        assert router.unsubscribe("*", "audit") == 0
        assert router.unsubscribe("*", "never used") == 0
        assert router.emit("e") == 1

    def test_stats_count_calls_and_failures_of_a_label(self, router: Router) -> None:
        router.subscribe_all("audit")(failing(ValueError("broken")))
        router.subscribe_all("audit")(events([]))
        router.subscribe_all("other")(events([]))
        router.subscribe_all(events([]))
        router.emit("e")
        router.emit("f")
        assert router.stats()["labels"] == {
            "audit": {"calls": 4, "failures": 2},
            "other": {"calls": 2, "failures": 0},
        }

    def test_a_label_ends_with_its_last_handler(self, router: Router) -> None:
        handler = events([])
        router.subscribe_all("audit")(handler)
        assert router.unsubscribe("*", handler) == 1
        assert router.stats()["labels"] == {}

    @pytest.mark.parametrize("way", ["handler", "label", "bus"])
    def test_a_label_keeps_no_handler_that_was_removed(self, router: Router, way: str) -> None:
        handler = events([])
        router.subscribe_all("audit")(handler)
        reference = weakref.ref(handler)
        if way == "bus":
            router.bus.clear()
        else:
            assert router.unsubscribe("*", handler if way == "handler" else "audit") == 1
        del handler
        assert is_gone(reference)

    def test_a_label_is_found_under_an_enum_member_of_the_star(self, router: Router) -> None:
        class Names(enum.Enum):
            ALL = "*"

        router.subscribe_all("audit")(events([]))
        assert router.unsubscribe(Names.ALL, "audit") == 1

    def test_labels_that_come_and_go_keep_no_memory(self, router: Router) -> None:
        def come_and_go(times: int) -> None:
            for _ in range(times):
                handler = events([])
                router.subscribe_all("audit")(handler)
                router.unsubscribe("*", handler)

        def kept() -> int:
            come_and_go(3000)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            first = kept()  # what the interpreter keeps for reuse, too
            assert kept() - first < 20_000  # as many bytes as 3,000 labels would keep in pointers
        finally:
            tracemalloc.stop()

    def test_only_handlers_of_every_event_have_labels(self, router: Router) -> None:
        with pytest.raises(ValueError, match="label 'audit'"):
            router.unsubscribe("e", "audit")

    def test_labels_may_come_and_go_in_threads(self, router: Router, eager_switching: None) -> None:
        def work(label: str) -> None:
            for _ in range(100):
                router.subscribe_all(label)(events([]))
                router.stats()
                removed.append(router.unsubscribe("*", label))

        removed: list[int] = []
        threads = [threading.Thread(target=work, args=(f"label {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert removed == [1] * 400
        assert router.stats()["labels"] == {}
        assert len(router.bus) == 0
