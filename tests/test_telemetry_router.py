"""The telemetry routers: ways to subscribe, the order of handlers, labels, and removal.

What both routers promise is shown with both; what only the second has, in
test_telemetry_production.py.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import inspect
import logging
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any, Callable
from unittest import mock

import pytest
from helpers import ListHandler, LoopThread, anote, failing, is_gone, note, recorder, soon

from agent_event_bus import EventKey
from agent_event_bus.telemetry import ProductionTelemetryRouter, TelemetryRouter

Router = TelemetryRouter


@pytest.fixture(params=[TelemetryRouter, ProductionTelemetryRouter])
def router(request: pytest.FixtureRequest) -> TelemetryRouter:
    """A router of each kind."""
    made: TelemetryRouter = request.param()
    return made


@pytest.fixture
def production() -> ProductionTelemetryRouter:
    return ProductionTelemetryRouter()


@pytest.fixture
def routed() -> Iterator[list[logging.LogRecord]]:
    """What is logged to `telemetry.router`."""
    logger = logging.getLogger("telemetry.router")
    handler = ListHandler()
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


def payloads(log: list[Any]) -> Callable[[Any], None]:
    """A handler of an exact name, which takes one argument and no other."""

    def handler(payload: Any) -> None:
        log.append(payload)

    return handler


def events(log: list[Any]) -> Callable[[str, Any], None]:
    """A wildcard handler, which takes two arguments and no other."""

    def handler(event_name: str, payload: Any) -> None:
        log.append((event_name, payload))

    return handler


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
            router.subscribe(key)(payloads([]))

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

    def test_a_bad_event_name_is_the_emitter_s_error(self, router: Router) -> None:
        with pytest.raises(ValueError, match="tool"):
            router.emit("tool.*")
        with pytest.raises(ValueError, match=r"a\.\.b"):
            asyncio.run(router.emit_async("a..b"))


class TestOrder:
    @staticmethod
    def subscribe_everything(router: Router, log: list[Any], make: Any) -> None:
        """Subscribe two handlers of each group and priority, in an order that is wrong."""
        for priority in (1, -1, 0):
            for turn in ("first", "second"):
                router.subscribe_once("a.b", make(log, ("once", priority, turn)), priority=priority)
                router.subscribe_all(make(log, ("wildcard", priority, turn)), priority=priority)
                router.subscribe("a.b", make(log, ("exact", priority, turn)), priority=priority)

    EXPECTED = tuple(
        (group, priority, turn)
        for group in ("exact", "wildcard", "once")
        for priority in (-1, 0, 1)
        for turn in ("first", "second")
    )

    def test_exact_then_wildcard_then_one_shot_each_by_priority_then_registration(
        self, router: Router
    ) -> None:
        log: list[Any] = []
        self.subscribe_everything(router, log, note)
        assert router.emit("a.b") == 18
        assert log == [*self.EXPECTED]

    async def test_emit_async_calls_sync_handlers_in_this_order(self, router: Router) -> None:
        log: list[Any] = []
        self.subscribe_everything(router, log, note)
        assert await router.emit_async("a.b") == 18
        assert log == [*self.EXPECTED]

    async def test_emit_async_starts_async_handlers_in_this_order(self, router: Router) -> None:
        log: list[Any] = []
        self.subscribe_everything(router, log, anote)
        assert await router.emit_async("a.b") == 18
        assert log == [*self.EXPECTED]

    async def test_what_emit_schedules_starts_in_this_order(self, router: Router) -> None:
        log: list[Any] = []
        self.subscribe_everything(router, log, anote)
        router.emit("a.b")
        assert log == []
        assert await soon(router.drain()) == []
        assert log == [*self.EXPECTED]

    async def test_sync_handlers_of_all_groups_run_before_async_ones_are_started(
        self, router: Router
    ) -> None:
        log: list[str] = []
        router.subscribe("e", anote(log, "async exact"), priority=-5)
        router.subscribe_once("e", note(log, "sync once"), priority=5)
        router.subscribe_all(anote(log, "async wildcard"))
        router.subscribe_all(note(log, "sync wildcard"))
        await router.emit_async("e")
        assert log == ["sync wildcard", "sync once", "async exact", "async wildcard"]

    def test_register_has_the_same_order(self, production: ProductionTelemetryRouter) -> None:
        log: list[str] = []
        production.register("e", note(log, "once early"), -100, once=True)
        production.register_wildcard(note(log, "wildcard early"), priority=-100)
        production.register("e", note(log, "once"), once=True)
        production.register_wildcard(note(log, "wildcard"))
        production.register("e", note(log, "last exact"), priority=100)
        production.register("e", note(log, "exact"))
        production.emit("e")
        expected = ["exact", "last exact", "wildcard early", "wildcard", "once early", "once"]
        assert log == expected

    def test_patterns_and_every_event_are_one_group(self, router: Router) -> None:
        log: list[str] = []
        router.subscribe_all(note(log, "all"))
        router.subscribe("tool.*", note(log, "pattern"))
        router.subscribe("**", note(log, "early"), priority=-1)
        router.subscribe("tool.end", note(log, "exact"))
        router.emit("tool.end")
        assert log == ["exact", "early", "all", "pattern"]

    def test_one_shot_handlers_of_names_patterns_and_every_event_are_one_group(
        self, router: Router
    ) -> None:
        log: list[str] = []
        router.subscribe_once("*", note(log, "all"))
        router.subscribe_once("tool.*", note(log, "pattern"))
        router.subscribe_once("tool.end", note(log, "exact"))
        router.subscribe_all(note(log, "wildcard"))
        router.emit("tool.end")
        assert log == ["wildcard", "all", "pattern", "exact"]

    def test_groups_do_not_overlap_at_the_largest_and_smallest_priorities(
        self, router: Router
    ) -> None:
        log: list[str] = []
        least, most = -(2**60), 2**60 - 1
        router.subscribe_once("e", note(log, "once, last"), priority=most)
        router.subscribe_once("e", note(log, "once, first"), priority=least)
        router.subscribe_all(note(log, "wildcard, last"), priority=most)
        router.subscribe_all(note(log, "wildcard, first"), priority=least)
        router.subscribe("e", note(log, "exact, last"), priority=most)
        router.subscribe("e", note(log, "exact, first"), priority=least)
        router.emit("e")
        groups = ("exact", "wildcard", "once")
        assert log == [f"{group}, {place}" for group in groups for place in ("first", "last")]

    def test_a_handler_of_the_bus_itself_stands_among_exact_ones(self, router: Router) -> None:
        log: list[str] = []
        router.subscribe_all(note(log, "wildcard"))
        router.bus.on("*", note(log, "of the bus"))
        router.subscribe("e", note(log, "exact"))
        router.emit("e")
        assert log == ["of the bus", "exact", "wildcard"]


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
        router.subscribe_all("audit")(events([]))
        router.subscribe_all("audit")(failing(ValueError("broken")))
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
        reference = weakref.ref(handler)
        del handler
        assert is_gone(reference)

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


class TestLogging:
    def test_failures_are_logged_to_telemetry_router_alone(
        self, router: Router, routed: list[logging.LogRecord], records: list[logging.LogRecord]
    ) -> None:
        log: list[Any] = []
        router.subscribe("e", failing(ValueError("broken")))
        router.subscribe("e", payloads(log))
        assert router.emit("e", {"secret": 1}) == 2
        [record] = routed
        assert record.name == "telemetry.router"
        assert record.levelno == logging.ERROR
        assert record.getMessage().endswith("raised on event 'e': broken")
        assert "secret" not in record.getMessage()
        assert record.exc_info is not None
        assert records == []
        assert log == [{"secret": 1}]

    async def test_a_handler_that_is_cancelled_is_a_warning_and_disturbs_nobody(
        self, router: Router, routed: list[logging.LogRecord]
    ) -> None:
        log: list[str] = []

        async def cancelled(payload: object) -> None:
            raise asyncio.CancelledError

        router.subscribe("e", cancelled)
        router.subscribe("e", anote(log, "next"))
        assert await router.emit_async("e") == 2
        assert log == ["next"]
        assert [record.levelno for record in routed] == [logging.WARNING]
        assert router.stats()["cancelled"] == 1

    async def test_a_handler_that_hangs_holds_up_no_emission(self, router: Router) -> None:
        log: list[Any] = []

        @router.subscribe("e")
        async def hang(payload: object) -> None:
            await asyncio.Event().wait()

        router.subscribe("e", anote(log, "next"))
        router.emit("e")
        assert await router.drain(timeout=0.02) == [f"e -> {hang.__qualname__}"]
        assert log == ["next"]
        await soon(router.aclose())
        assert router.stats()["cancelled"] == 1

    def test_what_is_no_exception_propagates(self, router: Router) -> None:
        router.subscribe("e", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            router.emit("e")


class TestEmitting:
    def test_emit_without_a_loop_runs_async_handlers_to_completion(self, router: Router) -> None:
        log: list[str] = []

        @router.subscribe("e")
        async def handler(payload: object) -> None:
            await asyncio.sleep(0)
            log.append("done")

        assert router.emit("e") == 1
        assert log == ["done"]

    async def test_emit_async_waits_for_async_handlers(self, router: Router) -> None:
        log: list[str] = []

        @router.subscribe_all
        async def handler(event_name: str, payload: object) -> None:
            await asyncio.sleep(0)
            log.append(event_name)

        assert await router.emit_async("e", {"a": 1}) == 1
        assert log == ["e"]

    def test_threads_may_emit(self, router: Router) -> None:
        log: list[Any] = []
        router.subscribe("e", log.append)
        threads = [
            threading.Thread(target=lambda: [router.emit("e", n) for n in range(100)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(log) == sorted([*range(100)] * 4)

    def test_a_thread_hands_async_handlers_to_the_loop_of_the_router(
        self, other: LoopThread
    ) -> None:
        ran: list[bool] = []

        async def handler(payload: object) -> None:
            ran.append(asyncio.get_running_loop() is other.loop)

        for kind in (TelemetryRouter, ProductionTelemetryRouter):
            router = kind(loop=other.loop)
            router.subscribe("e", handler)
            router.emit("e")
            assert other.run(router.drain()) == []
        assert ran == [True, True]

    def test_handlers_may_emit_and_subscribe(self, router: Router) -> None:
        log: list[Any] = []

        def first(payload: object) -> None:
            router.subscribe("second", payloads(log))
            router.emit("second", payload)

        router.subscribe("first", first)
        router.emit("first", 1)
        assert log == [1]

    async def test_the_end_of_async_with_loses_nothing(self, router: Router) -> None:
        log: list[str] = []

        @router.subscribe("e")
        async def handler(payload: object) -> None:
            await asyncio.sleep(0.01)
            log.append("done")

        async with router as entered:
            assert entered is router
            router.emit("e")
        assert log == ["done"]
        assert router.bus.closed

    async def test_the_end_of_async_with_closes_also_after_an_error(self, router: Router) -> None:
        log: list[str] = []
        router.subscribe("e", anote(log, "done"))

        async def use() -> None:
            async with router:
                router.emit("e")
                raise LookupError

        with pytest.raises(LookupError):
            await use()
        assert log == ["done"]
        assert router.bus.closed

    async def test_a_closed_router_delivers_nothing_and_says_so_once(
        self, router: Router, routed: list[logging.LogRecord]
    ) -> None:
        router.subscribe("e", failing(AssertionError()))
        await router.aclose()
        await router.aclose()
        assert router.emit("e") == 0
        assert await router.emit_async("e") == 0
        [record] = routed
        assert record.levelno == logging.WARNING
        with pytest.raises(RuntimeError, match="closed"):
            router.subscribe("e", print)

    def test_options_of_the_bus_are_passed_on(self, router: Router) -> None:
        errors: list[str] = []

        def on_error(event_name: str, handler: object, exception: Exception) -> None:
            errors.append(event_name)

        for kind in (TelemetryRouter, ProductionTelemetryRouter):
            made = kind(name="agent", history=2, on_error=on_error)
            made.subscribe("e", failing(ValueError()))
            made.emit("e", 7)
            assert [event.payload for event in made.bus.history()] == [7]
            assert made.bus.name == "agent"
        assert errors == ["e", "e"]


class TestTheObject:
    def test_its_repr_names_class_name_and_subscriptions(self) -> None:
        router = TelemetryRouter()
        assert repr(router) == "<TelemetryRouter: 0 subscriptions>"
        router.subscribe("e", print)
        assert repr(router) == "<TelemetryRouter: 1 subscription>"
        named = ProductionTelemetryRouter(name="agent")
        assert repr(named) == "<ProductionTelemetryRouter 'agent': 0 subscriptions>"

    def test_emission_is_the_bus_s_own_without_a_wrapper(self, router: Router) -> None:
        assert inspect.isbuiltin(router.emit)
        assert inspect.isbuiltin(router.emit_async)
        assert str(inspect.signature(router.emit)) == "(name, payload=None, /)"

    def test_a_subclass_may_override_emission_and_call_the_router_s(self) -> None:
        class Counting(ProductionTelemetryRouter):
            emitted = 0

            def emit(self, name: Any, payload: Any = None, /) -> int:
                self.emitted += 1
                return super().emit(name, payload)

            async def emit_async(self, name: Any, payload: Any = None, /) -> int:
                self.emitted += 1
                return await super().emit_async(name, payload)

        router = Counting()
        log: list[Any] = []
        router.register("e", log.append)
        assert router.emit("e", 1) == 1
        assert asyncio.run(router.emit_async("e", 2)) == 1
        assert log == [1, 2]
        assert router.emitted == 2

    def test_emission_can_be_replaced_in_tests(self, router: Router) -> None:
        with mock.patch.object(router, "emit") as emit:
            router.emit("e", 1)
            emit.assert_called_once_with("e", 1)
        assert inspect.isbuiltin(router.emit)
        with mock.patch.object(TelemetryRouter, "emit") as emit:
            router.emit("e", 2)
            emit.assert_called_once_with("e", 2)
        assert router.emit("e") == 0
        stub = mock.create_autospec(router, instance=True)
        stub.emit("e", 3)
        stub.emit.assert_called_once_with("e", 3)

    def test_a_router_that_is_dropped_is_collected_with_its_handlers(self, router: Router) -> None:
        class Tracker:
            def __init__(self, router: Router) -> None:
                self.router = router
                router.subscribe("e", self.track)
                router.subscribe_all("audit")(self.audit)

            def track(self, payload: object) -> None: ...

            def audit(self, event_name: str, payload: object) -> None: ...

        made = type(router)()
        tracker = Tracker(made)
        made.emit("e")
        references: list[weakref.ref[Any]] = [
            weakref.ref(made),
            weakref.ref(tracker),
            weakref.ref(made.bus),
        ]
        del made, tracker
        assert all(is_gone(reference) for reference in references)

    def test_its_one_shot_handlers_are_let_go_of(self, router: Router) -> None:
        handler = payloads([])
        router.subscribe_once("e", handler)
        router.emit("e")
        reference = weakref.ref(handler)
        del handler
        assert is_gone(reference)

    def test_a_hundred_thousand_emissions_keep_no_memory(self, router: Router) -> None:
        router.subscribe("e", id)
        router.subscribe_all(max)
        router.emit("e", "p")
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(100_000):
                router.emit("e", "p")
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert router.stats()["emitted"] == 100_001
        assert router.stats()["failed"] == 0
        assert kept < 10_000
