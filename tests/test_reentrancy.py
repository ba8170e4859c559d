"""Handlers that use the bus they run on, and recursion that never ends by itself."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import weakref
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, Callable

import pytest
from helpers import Runaway, anote, is_gone, note, recorder, run_isolated, soon, turns

from agent_event_bus import EventBus, Subscription

Records = list[logging.LogRecord]

# No correct bus calls the handlers of one runaway emission more often than this.
CALLS = 20 * sys.getrecursionlimit()


class TestUsingTheBus:
    def test_nested_emissions_run_at_once_and_return_their_own_count(self, bus: EventBus) -> None:
        log: list[Any] = []

        @bus.on("outer")
        def outer(payload: object) -> None:
            log.append("before")
            log.append(bus.emit("inner", payload))
            log.append("after")

        bus.on("inner", recorder(log, "inner"))
        assert bus.emit("outer", 1) == 1
        assert log == ["before", ("inner", 1), 1, "after"]

    def test_a_handler_may_do_everything_at_once(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a")
        def busy(payload: object) -> None:
            for _ in range(20):
                subscription = bus.subscribe("a", note(log, "never"))
                bus.subscribe("*", note(log, "any"), once=True)
                bus.emit("b")
                subscription.cancel()
                bus.off("*")
                bus.clear("b")

        bus.on("a", note(log, "after"))
        assert bus.emit("a") == 2
        assert log == ["any"] * 20 + ["after"]
        assert len(bus) == 2

    async def test_async_handlers_may_emit_both_ways(self, bus: EventBus) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            assert await bus.emit_async("b") == 1
            log.append("awaited")
            assert bus.emit("c") == 1
            log.append("scheduled")

        bus.on("b", anote(log, "b"))
        bus.on("c", anote(log, "c"))
        await bus.emit_async("a")
        await soon(bus.drain())
        assert log == ["b", "awaited", "scheduled", "c"]

    @pytest.mark.parametrize("way", ["emit", "emit_async"])
    async def test_a_handler_may_drop_the_last_reference_to_the_bus(self, way: str) -> None:
        log: list[str] = []
        holder = [EventBus()]

        def drop(payload: object) -> None:
            holder.clear()
            gc.collect()
            log.append("dropped")

        holder[0].on("a", drop)
        holder[0].on("a", note(log, "after"))
        holder[0].on("a", anote(log, "async"))
        if way == "emit":
            assert holder.pop().emit("a") == 3
        else:
            assert await holder.pop().emit_async("a") == 3
        await turns()
        assert log == ["dropped", "after", "async"]

    def test_a_bus_kept_alive_by_its_bound_emit_alone_finishes_the_emission(self) -> None:
        log: list[str] = []
        bus = EventBus()
        calls: list[Callable[..., int]] = [bus.emit]
        bus.on("a", lambda payload: gc.collect())
        bus.on("a", note(log, "after"))
        ref = weakref.ref(bus)
        del bus
        assert calls.pop()("a") == 2
        assert log == ["after"]
        assert is_gone(ref)

    def test_a_finaliser_may_use_the_bus_that_releases_it(self, bus: EventBus) -> None:
        log: list[object] = []
        bus.on("farewell", log.append)

        class Handler:
            def __call__(self, payload: object) -> None: ...

            def __del__(self) -> None:
                bus.emit("farewell", len(bus))
                bus.subscribe("a", note([], "late")).cancel()

        ways: list[Callable[[], object]] = [
            lambda: bus.off("a"),
            lambda: bus.clear("a"),
            lambda: bus.emit("once"),
        ]
        for remove in ways:
            bus.on("a", Handler())
            bus.once("once", Handler())
            remove()
            bus.off("a")
            bus.off("once")
            gc.collect()
        assert len(log) == 6
        assert len(bus) == 1

    def test_a_finaliser_of_the_payload_may_use_the_bus(self, bus: EventBus) -> None:
        log: list[object] = []
        bus.on("farewell", log.append)
        bus.on("a", lambda payload: None)

        class Payload:
            def __del__(self) -> None:
                bus.emit("farewell", "payload")
                bus.off("a")

        bus.emit("a", Payload())
        gc.collect()
        assert log == ["payload"]
        assert not bus.has_handlers("a")

    def test_a_log_handler_may_emit_on_the_bus_that_logs(self, bus: EventBus) -> None:
        log: list[Any] = []

        class Forward(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                bus.emit("log", record.levelname)

        handler = Forward()
        logger = logging.getLogger("agent_event_bus")
        logger.addHandler(handler)
        try:

            @bus.on("a")
            def fails(payload: object) -> None:
                raise ValueError

            bus.on("log", recorder(log, "log"))
            bus.on("a", recorder(log, "after"))
            assert bus.emit("a") == 2
        finally:
            logger.removeHandler(handler)
        assert log == [("log", "ERROR"), ("after", None)]


class TestRunawayEmit:
    """The recursion error is isolated at the outermost emission and costs one climb each."""

    def test_a_handler_that_emits_its_own_event(self, bus: EventBus, records: Records) -> None:
        calls = 0
        log: list[str] = []

        @bus.on("a")
        def again(payload: object) -> None:
            nonlocal calls
            calls += 1
            if calls > CALLS:
                raise Runaway
            bus.emit("a")

        bus.on("a", note(log, "after"))
        assert bus.emit("a") == 2
        assert log == ["after"]
        assert [record.getMessage().split(":")[0] for record in records] == [
            f"Handler '{again.__qualname__}' raised on event 'a'"
        ]
        exc_info = records[0].exc_info
        assert exc_info is not None
        assert exc_info[0] is RecursionError
        assert 10 < calls < 2 * sys.getrecursionlimit()

    @pytest.mark.parametrize("handlers", [2, 5])
    def test_wildcard_handlers_that_set_each_other_off_end_quickly(
        self, bus: EventBus, records: Records, handlers: int
    ) -> None:
        calls = 0

        def make(number: int) -> Callable[[str, object], None]:
            def handler(name: str, payload: object) -> None:
                nonlocal calls
                calls += 1
                if calls > CALLS:
                    raise Runaway
                bus.emit(f"from.{number}")

            return handler

        for number in range(handlers):
            bus.on("*", make(number))
        assert bus.emit("a") == handlers
        assert len(records) == handlers
        assert calls < 2 * handlers * sys.getrecursionlimit()

    def test_two_buses_that_set_each_other_off_end_quickly(self, records: Records) -> None:
        one, two = EventBus("one"), EventBus("two")
        calls = 0

        def forward(to: EventBus) -> Callable[[str, object], None]:
            def handler(name: str, payload: object) -> None:
                nonlocal calls
                calls += 1
                if calls > CALLS:
                    raise Runaway
                to.emit(name)

            return handler

        for _ in range(2):
            one.on("*", forward(two))
            two.on("*", forward(one))
        assert one.emit("a") == 2
        assert len(records) == 2

    def test_the_bus_works_on_afterwards(self, bus: EventBus, records: Records) -> None:
        log: list[str] = []
        bus.on("a", lambda payload: bus.emit("a"))
        for _ in range(3):
            assert bus.emit("a") == 1
        bus.on("b", note(log, "b"))
        assert bus.emit("b") == 1
        assert log == ["b"]
        assert len(records) == 3

    def test_a_recursion_error_of_the_handlers_own_is_an_ordinary_failure(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []

        def endless(payload: object) -> None:
            endless(payload)

        bus.on("a", endless)
        bus.on("a", note(log, "after"))
        assert bus.emit("a") == 2
        assert log == ["after"]
        assert len(records) == 1

    def test_finite_nesting_is_no_recursion_error(self, bus: EventBus, records: Records) -> None:
        depths: list[int] = []

        @bus.on("a")
        def down(payload: int) -> None:
            if payload:
                bus.emit("a", payload - 1)
            depths.append(payload)

        bus.emit("a", 100)
        assert depths == list(range(101))
        assert records == []


class TestRunawayEmitAsync:
    # Two siblings that both suspend would grow as a tree, as they would in plain asyncio.
    @pytest.mark.parametrize(("handlers", "suspends"), [(1, False), (1, True), (2, False)])
    async def test_it_ends_in_one_report_per_handler_of_the_outermost_emission(
        self, bus: EventBus, records: Records, handlers: int, suspends: bool
    ) -> None:
        calls = 0

        async def again(payload: object) -> None:
            nonlocal calls
            calls += 1
            if calls > CALLS:
                raise Runaway
            if suspends:
                await asyncio.sleep(0)
            await bus.emit_async("a")

        subscriptions: list[Subscription] = []
        for _ in range(handlers):
            subscriptions.append(bus.subscribe("a", again))
        assert await asyncio.wait_for(bus.emit_async("a"), 60) == handlers
        assert len(records) == handlers
        exc_info = records[0].exc_info
        assert exc_info is not None
        assert exc_info[0] is RecursionError
        assert subscriptions[0].calls > 10

    async def test_the_depth_of_handler_tasks_is_bounded_by_the_recursion_limit(
        self, bus: EventBus, records: Records
    ) -> None:
        deepest = 0

        @bus.on("a")
        async def down(payload: int) -> None:
            nonlocal deepest
            deepest = max(deepest, payload)
            await asyncio.sleep(0)
            await bus.emit_async("a", payload + 1)

        await asyncio.wait_for(bus.emit_async("a", 1), 60)
        assert 10 < deepest <= sys.getrecursionlimit()
        assert len(records) == 1

    async def test_finite_nesting_is_no_recursion_error(
        self, bus: EventBus, records: Records
    ) -> None:
        depths: list[int] = []

        @bus.on("a")
        async def down(payload: int) -> None:
            await asyncio.sleep(0)
            if payload:
                await bus.emit_async("a", payload - 1)
            depths.append(payload)

        await soon(bus.emit_async("a", 100))
        assert depths == list(range(101))
        assert records == []


@pytest.fixture
def low_limit() -> Iterator[int]:
    """A recursion limit that is soon reached, with room for pytest and asyncio below it."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    yield 400
    sys.setrecursionlimit(before)


def in_task(emission: Coroutine[Any, Any, int]) -> Awaitable[int]:
    return asyncio.create_task(emission)


def gathered(emission: Coroutine[Any, Any, int]) -> Awaitable[Any]:
    return asyncio.gather(emission)


class TestRunawayThroughTasks:
    """A task in between hides the nesting from the interpreter, but not from the bus."""

    @pytest.mark.parametrize("through", [in_task, gathered, soon])
    async def test_awaiting_the_nested_emission_in_a_task_ends_in_one_recursion_error(
        self,
        bus: EventBus,
        records: Records,
        low_limit: int,
        through: Callable[[Coroutine[Any, Any, int]], Awaitable[Any]],
    ) -> None:
        calls = 0

        @bus.on("a")
        async def again(payload: object) -> None:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0)
            if calls < 5 * low_limit:
                await through(bus.emit_async("a"))

        assert await soon(bus.emit_async("a")) == 1
        assert 10 < calls <= low_limit
        assert len(records) == 1
        exc_info = records[0].exc_info
        assert exc_info is not None
        assert exc_info[0] is RecursionError

    @pytest.mark.parametrize("outlives_the_next", [False, True])
    async def test_a_handler_that_starts_the_next_emission_and_ends_may_go_on_for_ever(
        self, bus: EventBus, records: Records, low_limit: int, outlives_the_next: bool
    ) -> None:
        ticks: list[asyncio.Task[int]] = []

        @bus.on("tick")
        async def tick(payload: object) -> None:
            if len(ticks) < 5 * low_limit:
                ticks.append(asyncio.create_task(bus.emit_async("tick")))
                if outlives_the_next:
                    await turns(3)

        async def main() -> None:
            await bus.emit_async("tick")
            for task in ticks:  # grows meanwhile
                assert await task == 1

        await soon(main())
        assert len(ticks) == 5 * low_limit
        assert records == []


@pytest.mark.parametrize(
    "case",
    [
        "emit_into_itself",
        "emitter_into_itself",
        "emit_into_another_and_back",
        "emit_async_into_itself",
        "failing_handlers_logged_into_the_bus",
        "async_emit_without_a_loop",
        "suspended_emit_async",
    ],
)
def test_runaway_recursion_in_c_never_crashes_or_blows_up(case: str) -> None:
    assert run_isolated("recursion.py", case).strip() == "ok"


async def test_a_handler_that_changes_every_context_variable_can_still_emit(bus: EventBus) -> None:
    log: list[object] = []
    gate = asyncio.Event()

    @bus.on("a")
    async def handler(payload: object) -> None:
        for variable in contextvars.copy_context():
            variable.set("something else")
        log.append(await bus.emit_async("b"))

    async def waiting(payload: object) -> None:
        await gate.wait()

    bus.on("b", anote(log, "nested"))
    bus.on("c", waiting)
    other = asyncio.ensure_future(bus.emit_async("c"))
    await turns()
    assert await soon(bus.emit_async("a")) == 1
    assert log == ["nested", 1]
    gate.set()
    assert await soon(other) == 1
