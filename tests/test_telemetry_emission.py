"""How the telemetry routers emit and log, how they end, and what they are as objects."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import tracemalloc
import weakref
from typing import Any
from unittest import mock

import pytest
from helpers import Gate, LoopThread, anote, failing, is_gone, soon, turns
from telemetry_routers import (  # noqa: F401 - some are fixtures
    each_router,
    payloads,
    routed_records,
)

from agent_event_bus.telemetry import ProductionTelemetryRouter, TelemetryRouter

Router = TelemetryRouter


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

    async def test_a_cancelled_end_of_async_with_cancels_and_closes(self, router: Router) -> None:
        gate = Gate()
        router.subscribe("e", gate.wait)

        async def use() -> None:
            async with router:
                router.emit("e")

        user = asyncio.ensure_future(use())
        await turns()
        user.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(user)
        assert gate.ended == "cancelled"
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

    def test_a_router_can_be_made_while_a_test_has_replaced_emission_on_the_class(
        self, router: Router
    ) -> None:
        with mock.patch.object(TelemetryRouter, "emit") as emit:
            made = type(router)()
            made.emit("e", 1)
            emit.assert_called_once_with("e", 1)
        made.subscribe("e", payloads([]))
        assert made.emit("e") == 1

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
