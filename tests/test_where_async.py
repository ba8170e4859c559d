"""where, of async handlers: conditions are asked in order, before the handlers are started."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import Callable

import pytest
from helpers import anote, soon

from agent_event_bus import EventBus, Subscription

Records = list[logging.LogRecord]


class TestBeforeAsyncHandlersAreStarted:
    @pytest.mark.parametrize("once", [False, True], ids=["always", "once"])
    @pytest.mark.parametrize("limit", [None, 1])
    @pytest.mark.parametrize("answers", list(itertools.product([False, True], repeat=4)), ids=str)
    async def test_each_condition_is_asked_once_in_order(
        self, answers: tuple[bool, ...], limit: int | None, once: bool
    ) -> None:
        bus = EventBus(max_concurrency=limit)
        asked: list[int] = []
        log: list[int] = []

        def condition(number: int) -> Callable[[object], bool]:
            def where(payload: object) -> bool:
                asked.append(number)
                return answers[number]

            return where

        for number in range(4):
            bus.subscribe("a", anote(log, number), where=condition(number), once=once)
        wanted = [number for number in range(4) if answers[number]]
        for count in (1, 2):
            called = 0 if once and count == 2 else len(wanted)
            assert await soon(bus.emit_async("a")) == called
        assert sorted(log) == sorted(wanted * (1 if once else 2))
        assert asked[:4] == [0, 1, 2, 3]
        assert asked[4:] == [number for number in range(4) if not (once and answers[number])]

    @pytest.mark.parametrize("first", [False, True])
    async def test_one_that_fails_is_reported_and_the_next_one_asked(
        self, bus: EventBus, records: Records, first: bool
    ) -> None:
        log: list[str] = []
        if not first:
            bus.on("a", anote(log, "before"), where={"x": 1})
        bus.on("a", anote(log, "never"), where=lambda payload: 1 / 0)
        bus.on("a", anote(log, "after"), where={"x": 1})
        assert await bus.emit_async("a", {"x": 1}) == len(log) == (1 if first else 2)
        assert [record.levelname for record in records] == ["ERROR"]

    @pytest.mark.parametrize("position", [0, 1, 2])
    async def test_a_guard_whose_condition_fails_stops_the_emission(
        self, bus: EventBus, position: int
    ) -> None:
        log: list[str] = []

        def fails(payload: object) -> bool:
            began = time.monotonic()
            while time.monotonic() == began:
                pass
            raise ZeroDivisionError

        for number in range(3):
            if number == position:
                bus.on("a", anote(log, "never"), where=fails, isolate=False)
            else:
                bus.on("a", anote(log, "other"), where=lambda payload: False)
        with pytest.raises(ZeroDivisionError):
            await bus.emit_async("a")
        assert log == []
        (outcome,) = await bus.collect_async("a")
        assert outcome.status == "error"
        assert 0 < outcome.duration < 20

    async def test_one_is_asked_when_all_that_come_first_have_been_started(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []
        later = anote(log, "awaitable")

        def where(payload: object) -> bool:
            log.append("asked")
            return True

        bus.on("a", lambda payload: later())
        bus.on("a", anote(log, "handler"), where=where)
        assert await bus.emit_async("a") == 2
        assert log == ["awaitable", "asked", "handler"]

    @pytest.mark.parametrize("position", [0, 1, 2])
    async def test_a_recursion_error_of_a_condition_is_reported_wherever_it_is_asked(
        self, bus: EventBus, records: Records, position: int
    ) -> None:
        log: list[object] = []

        def too_deep(payload: object) -> bool:
            raise RecursionError

        async def outer(payload: object) -> None:
            await asyncio.sleep(0)
            log.append(await bus.emit_async("inner"))

        bus.on("outer", outer)
        for number in range(3):
            where = too_deep if number == position else None
            bus.on("inner", anote(log, number), where=where)
        assert await soon(bus.emit_async("outer")) == 1
        assert log == [*(number for number in range(3) if number != position), 2]
        assert [record.levelname for record in records] == ["ERROR"]

    @pytest.mark.parametrize("position", [0, 1, 2])
    async def test_a_recursion_error_of_a_guards_condition_is_an_outcome_wherever_it_is_asked(
        self, bus: EventBus, position: int
    ) -> None:
        log: list[str] = []

        def too_deep(payload: object) -> bool:
            raise RecursionError

        async def outer(payload: object) -> None:
            await asyncio.sleep(0)
            log.extend(outcome.status for outcome in await bus.collect_async("inner"))

        bus.on("outer", outer)
        for number in range(3):
            guard = number == position
            bus.on("inner", anote([], number), where=too_deep if guard else None, isolate=not guard)
        assert await soon(bus.emit_async("outer")) == 1
        assert log == [*["ok"] * position, "error"]

    async def test_what_a_condition_raises_that_is_no_exception_comes_out(
        self, bus: EventBus
    ) -> None:
        def interrupt(payload: object) -> bool:
            raise KeyboardInterrupt

        bus.on("a", anote([], "never"), where=interrupt)
        with pytest.raises(KeyboardInterrupt):
            await bus.emit_async("a")

    async def test_a_condition_may_end_its_own_subscription_or_a_later_one(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []
        subscriptions: dict[str, Subscription] = {}

        def ending(name: str) -> Callable[[object], bool]:
            return lambda payload: subscriptions[name].cancel()  # it says yes: there was one

        for name, ends in (("own", "own"), ("first", "later"), ("later", ""), ("last", "")):
            where = ending(ends) if ends else None
            subscriptions[name] = bus.subscribe("a", anote(log, name), where=where)
        assert await bus.emit_async("a") == 2
        assert log == ["first", "last"]

    def test_where_none_says_yes_no_loop_is_needed(self, bus: EventBus) -> None:
        handler = anote([], "called")
        bus.on("a", handler, where={"x": 1})
        bus.on("a", handler, where=lambda payload: False)
        with pytest.raises(StopIteration) as end:
            bus.emit_async("a", {"x": 2}).send(None)
        assert end.value.value == 0
        with pytest.raises(RuntimeError, match="no running event loop"):
            bus.emit_async("a", {"x": 1}).send(None)
