"""In which order handlers run, and what an emission sees of changes made while it runs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from helpers import anote, note, soon, turns

from agent_event_bus import EventBus, Subscription


def test_handlers_run_in_registration_order(bus: EventBus) -> None:
    log: list[int] = []
    for number in range(50):
        bus.on("a", note(log, number))
    bus.emit("a")
    assert log == list(range(50))


def test_lower_priority_runs_first(bus: EventBus) -> None:
    log: list[int] = []
    for priority in (5, -5, 0, 100, -100):
        bus.on("a", note(log, priority), priority=priority)
    bus.emit("a")
    assert log == [-100, -5, 0, 5, 100]


def test_exact_wildcard_and_once_handlers_share_one_order(bus: EventBus) -> None:
    log: list[str] = []
    bus.on("*", note(log, "wildcard 1"))
    bus.on("a", note(log, "exact 2"))
    bus.once("a", note(log, "once 3"))
    bus.once("*", note(log, "once wildcard 4"))
    bus.subscribe(["b", "a"], note(log, "several 5"))
    bus.on("**", note(log, "first"), priority=-1)
    bus.emit("a")
    assert log == ["first", "wildcard 1", "exact 2", "once 3", "once wildcard 4", "several 5"]


def test_a_handler_that_comes_back_goes_to_the_end(bus: EventBus) -> None:
    log: list[str] = []
    first, second = note(log, "first"), note(log, "second")
    bus.on("a", first)
    bus.on("a", second)
    bus.off("a", first)
    bus.on("a", first)
    bus.emit("a")
    assert log == ["second", "first"]


async def test_sync_handlers_run_before_async_ones_whatever_their_priority(bus: EventBus) -> None:
    log: list[str] = []
    bus.on("a", anote(log, "async early"), priority=-10)
    bus.on("a", note(log, "sync late"), priority=10)
    bus.on("a", anote(log, "async late"), priority=5)
    bus.on("a", note(log, "sync early"))
    await bus.emit_async("a")
    assert log == ["sync early", "sync late", "async early", "async late"]


async def test_async_handlers_start_in_order_under_emit_too(bus: EventBus) -> None:
    log: list[int] = []
    for priority in (3, 1, 2, 1):
        bus.on("a", anote(log, priority), priority=priority)
    bus.emit("a")
    await soon(bus.drain())
    assert log == [1, 1, 2, 3]


def test_async_handlers_start_in_order_without_a_loop(bus: EventBus) -> None:
    log: list[int] = []
    for priority in (3, 1, 2, 1):
        bus.on("a", anote(log, priority), priority=priority)
    bus.emit("a")
    assert log == [1, 1, 2, 3]


@pytest.mark.parametrize("seed", range(10))
def test_random_changes_keep_the_documented_order(seed: int) -> None:
    """Subscribe and cancel at random, and compare with a list sorted by (priority, id)."""
    choose = random.Random(seed)
    bus = EventBus()
    log: list[int] = []
    alive: dict[int, tuple[int, str, Subscription]] = {}
    for number in range(200):
        if alive and choose.random() < 0.4:
            _, _, gone = alive.pop(choose.choice(list(alive)))
            assert gone.cancel()
        else:
            key, priority = choose.choice(["a", "b", "*"]), choose.randint(-2, 2)
            subscription = bus.subscribe(key, note(log, number), priority=priority)
            alive[number] = (priority, key, subscription)
        for name in ("a", "b"):
            expected = sorted(
                (priority, number)
                for number, (priority, key, _) in alive.items()
                if key in (name, "*")
            )
            log.clear()
            assert bus.emit(name) == len(expected)
            assert log == [number for _, number in expected]
            listed = [alive[number][2] for _, number in expected]
            assert list(bus.handlers(name)) == listed
    assert len(bus) == len(alive)


@pytest.mark.parametrize("way", ["emit", "emit_async"])
class TestSnapshot:
    """Every rule for a change made by a sync handler holds in both ways to emit."""

    @staticmethod
    async def run(bus: EventBus, way: str) -> int:
        return bus.emit("a") if way == "emit" else await bus.emit_async("a")

    async def test_a_handler_added_during_an_emission_waits_for_the_next(
        self, bus: EventBus, way: str
    ) -> None:
        log: list[str] = []

        def add(payload: object) -> None:
            log.append("add")
            if len(log) == 1:
                bus.on("a", note(log, "exact"))
                bus.on("*", note(log, "wildcard"))

        bus.on("a", add)
        assert await self.run(bus, way) == 1
        assert log == ["add"]
        assert await self.run(bus, way) == 3
        assert log == ["add", "add", "exact", "wildcard"]

    async def test_a_handler_removed_before_its_turn_is_skipped_and_not_counted(
        self, bus: EventBus, way: str
    ) -> None:
        log: list[str] = []
        handler = note(log, "victim")
        bus.on("a", lambda payload: bus.off("a", handler))
        victim = bus.subscribe("a", handler)
        bus.on("a", note(log, "after"))
        assert await self.run(bus, way) == 2
        assert log == ["after"]
        assert victim.calls == 0

    async def test_an_async_handler_removed_by_a_sync_one_is_skipped(
        self, bus: EventBus, way: str
    ) -> None:
        log: list[str] = []
        victim = bus.subscribe("a", anote(log, "victim"))
        bus.on("a", anote(log, "after"))
        bus.on("a", lambda payload: victim.cancel())
        assert await self.run(bus, way) == 2
        await soon(bus.drain())
        assert log == ["after"]

    async def test_a_handler_removed_after_its_turn_was_called(
        self, bus: EventBus, way: str
    ) -> None:
        log: list[str] = []
        earlier = bus.subscribe("a", note(log, "earlier"))
        bus.on("a", lambda payload: earlier.cancel())
        assert await self.run(bus, way) == 2
        assert await self.run(bus, way) == 1
        assert log == ["earlier"]

    async def test_a_handler_may_remove_itself(self, bus: EventBus, way: str) -> None:
        log: list[str] = []

        def leave(payload: object) -> None:
            log.append("leave")
            assert bus.off("a", leave) == 1

        bus.on("a", leave)
        bus.on("a", note(log, "after"))
        await self.run(bus, way)
        await self.run(bus, way)
        assert log == ["leave", "after", "after"]

    async def test_clearing_the_bus_skips_all_that_did_not_run(
        self, bus: EventBus, way: str
    ) -> None:
        log: list[str] = []
        bus.on("a", lambda payload: bus.clear())
        bus.on("a", note(log, "sync"))
        bus.on("*", note(log, "wildcard"))
        bus.on("a", anote(log, "async"))
        assert await self.run(bus, way) == 1
        await soon(bus.drain())
        assert log == []
        assert len(bus) == 0

    async def test_removed_and_added_again_is_a_new_handler(self, bus: EventBus, way: str) -> None:
        log: list[str] = []
        handler = note(log, "handler")

        def swap(payload: object) -> None:
            bus.off("a", handler)
            bus.on("a", handler)

        bus.on("a", swap)
        bus.on("a", handler)
        assert await self.run(bus, way) == 1
        assert log == []

    async def test_a_nested_emission_sees_the_change_and_the_outer_one_keeps_its_snapshot(
        self, bus: EventBus, way: str
    ) -> None:
        log: list[Any] = []
        inner: int | None = None

        def add(payload: object) -> None:
            nonlocal inner
            if payload is None and inner is None:
                bus.on("a", lambda payload: log.append(payload))
                inner = bus.emit("a", "nested")

        bus.on("a", add)
        bus.on("a", note(log, "old"))
        await self.run(bus, way)
        assert inner == 3
        assert log == ["old", "nested", "old"]


async def test_removal_between_the_starts_of_async_siblings_skips_the_later_one(
    bus: EventBus,
) -> None:
    log: list[str] = []

    async def remover(payload: object) -> None:
        log.append("remover")
        victim.cancel()

    bus.on("a", remover)
    victim = bus.subscribe("a", anote(log, "victim"))
    bus.on("a", anote(log, "after"))
    assert await bus.emit_async("a") == 2
    assert log == ["remover", "after"]
    assert victim.calls == 0


async def test_removal_after_the_start_lets_a_running_handler_finish(bus: EventBus) -> None:
    log: list[str] = []

    async def slow(payload: object) -> None:
        await turns()
        log.append("finished")

    async def remover(payload: object) -> None:
        subscription.cancel()

    subscription = bus.subscribe("a", slow)
    bus.on("a", remover)
    assert await bus.emit_async("a") == 2
    assert log == ["finished"]


async def test_a_handler_added_by_an_async_sibling_waits_for_the_next_emission(
    bus: EventBus,
) -> None:
    log: list[str] = []

    async def adder(payload: object) -> None:
        bus.once("a", anote(log, "added"))

    bus.once("a", adder)
    assert await bus.emit_async("a") == 1
    assert log == []
    assert await bus.emit_async("a") == 1
    assert log == ["added"]
