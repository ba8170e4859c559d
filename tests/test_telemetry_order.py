"""In which order the handlers of a telemetry router run."""

from __future__ import annotations

import enum
from typing import Any

from helpers import anote, note, soon
from telemetry_routers import each_router, production_router  # noqa: F401 - fixtures

from agent_event_bus.telemetry import ProductionTelemetryRouter, TelemetryRouter

Router = TelemetryRouter


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

    def test_so_they_do_under_emit_without_a_loop(self, router: Router) -> None:
        log: list[str] = []
        router.subscribe("e", anote(log, "async exact"))
        router.subscribe_all(note(log, "sync wildcard"))
        router.subscribe_once("e", note(log, "sync once"))
        router.emit("e")
        assert log == ["sync wildcard", "sync once", "async exact"]

    def test_register_has_the_same_order(self, production: ProductionTelemetryRouter) -> None:
        log: list[str] = []
        production.register("e", note(log, "once early"), -100, once=True)
        production.register("e", note(log, "once"), once=True)
        production.register_wildcard(note(log, "wildcard"))
        production.register_wildcard(note(log, "wildcard early"), priority=-100)
        production.register_wildcard(priority=-99)(note(log, "wildcard early, too"))
        production.register("e", note(log, "last exact"), priority=100)
        production.register("e", note(log, "exact"))
        production.emit("e")
        wildcard = ["wildcard early", "wildcard early, too", "wildcard"]
        assert log == ["exact", "last exact", *wildcard, "once early", "once"]

    def test_handlers_with_a_label_have_a_priority_as_others_do(self, router: Router) -> None:
        log: list[str] = []
        router.subscribe_all("audit")(note(log, "middle"))
        router.subscribe_all("audit", priority=1)(note(log, "last"))
        router.subscribe_all("audit", priority=-1)(note(log, "first"))
        router.emit("e")
        assert log == ["first", "middle", "last"]

    def test_patterns_and_every_event_are_one_group(self, router: Router) -> None:
        log: list[str] = []
        router.subscribe_all(note(log, "all"))
        router.subscribe("tool.*", note(log, "pattern"))
        router.subscribe("**", note(log, "early"), priority=-1)
        router.subscribe("tool.end", note(log, "exact"))
        router.emit("tool.end")
        assert log == ["exact", "early", "all", "pattern"]

    def test_so_are_patterns_that_are_members_of_an_enum_of_strings(self, router: Router) -> None:
        class Names(str, enum.Enum):
            def __new__(cls, text: str) -> Names:
                member = str.__new__(cls, text)
                member._value_ = len(text)  # the key is the text all the same
                return member

            TOOLS = "tool.*"

        log: list[str] = []
        router.subscribe(Names.TOOLS, note(log, "pattern"))
        router.subscribe("tool.end", note(log, "exact"))
        router.emit("tool.end")
        assert log == ["exact", "pattern"]

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
