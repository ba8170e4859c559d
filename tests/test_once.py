"""One-shot handlers: claimed before the call, used up by it, exactly once whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any, Callable

import pytest
from helpers import failing, note, recorder, soon

from agent_event_bus import EventBus, Subscription

MAKERS: list[Callable[[EventBus, str, Any], Subscription]] = [
    lambda bus, key, fn: (bus.once(key, fn), bus.handlers("a")[-1])[1],
    lambda bus, key, fn: (bus.once(key)(fn), bus.handlers("a")[-1])[1],
    lambda bus, key, fn: (bus.on(key, fn, once=True), bus.handlers("a")[-1])[1],
    lambda bus, key, fn: (bus.on(key, once=True)(fn), bus.handlers("a")[-1])[1],
    lambda bus, key, fn: bus.subscribe(key, fn, once=True),
]
MAKER_IDS = ["once()", "@once", "on(once)", "@on(once)", "subscribe(once)"]


@pytest.mark.parametrize("make", MAKERS, ids=MAKER_IDS)
@pytest.mark.parametrize("key", ["a", "*"])
def test_delivered_once_and_gone(
    bus: EventBus, make: Callable[[EventBus, str, Any], Subscription], key: str
) -> None:
    log: list[Any] = []
    subscription = make(bus, key, recorder(log, "h"))
    assert (subscription.once, subscription.active) == (True, True)
    assert bus.emit("a", 1) == 1
    assert bus.emit("a", 2) == 0
    assert [entry[-1] for entry in log] == [1]
    assert not subscription.active
    assert subscription.calls == 1
    assert subscription.cancel() is False
    assert len(bus) == 0
    assert bus.handlers("a") == ()
    assert not bus.has_handlers("a")


def test_it_is_gone_already_while_it_runs(bus: EventBus) -> None:
    seen: list[object] = []

    def handler(payload: object) -> None:
        seen.append(bus.has_handlers("a"))
        seen.append(bus.emit("a"))
        seen.append(len(bus))

    bus.once("a", handler)
    assert bus.emit("a") == 1
    assert seen == [False, 0, 0]


def test_a_failing_one_is_used_up(bus: EventBus) -> None:
    subscription = bus.subscribe("a", failing(ValueError("bad")), once=True)
    assert bus.emit("a") == 1
    assert bus.emit("a") == 0
    assert (subscription.calls, subscription.failures) == (1, 1)


def test_one_that_is_interrupted_is_used_up(bus: EventBus) -> None:
    bus.once("a", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bus.emit("a")
    assert bus.emit("a") == 0


def test_a_nested_emission_takes_it_from_the_outer_one(bus: EventBus) -> None:
    log: list[Any] = []

    def nest(payload: object) -> None:
        if payload == "outer":
            assert bus.emit("a", "inner") == 2

    bus.on("a", nest)
    bus.once("a", recorder(log, "once"))
    assert bus.emit("a", "outer") == 1
    assert log == [("once", "inner")]


def test_with_several_keys_the_first_event_uses_it_up(bus: EventBus) -> None:
    log: list[Any] = []
    bus.subscribe(["a", "b", "*"], recorder(log, "once"), once=True)
    assert bus.emit("b", 1) == 1
    assert bus.emit("a", 2) == 0
    assert bus.emit("c", 3) == 0
    assert log == [("once", 1)]


def test_on_and_once_of_one_function_are_two_subscriptions(bus: EventBus) -> None:
    log: list[str] = []
    handler = note(log, "h")
    bus.on("a", handler)
    bus.once("a", handler)
    assert bus.emit("a") == 2
    assert bus.emit("a") == 1
    assert bus.emit("a") == 1
    assert len(log) == 4


def test_it_can_be_removed_before_it_was_ever_called(bus: EventBus) -> None:
    log: list[str] = []
    handler = note(log, "h")
    bus.once("a", handler)
    assert bus.off("a", handler) == 1
    assert bus.emit("a") == 0
    assert log == []


def test_a_handler_may_subscribe_itself_once_again(bus: EventBus) -> None:
    log: list[object] = []

    def handler(payload: object) -> None:
        log.append(payload)
        bus.once("a", handler)

    bus.once("a", handler)
    for number in range(3):
        assert bus.emit("a", number) == 1
    assert log == [0, 1, 2]


async def test_an_async_one_is_delivered_once_by_emit_async(bus: EventBus) -> None:
    log: list[object] = []

    @bus.once("a")
    async def handler(payload: object) -> None:
        log.append(bus.has_handlers("a"))

    assert await bus.emit_async("a") == 1
    assert await bus.emit_async("a") == 0
    assert log == [False]


async def test_concurrent_emissions_deliver_it_exactly_once(bus: EventBus) -> None:
    release = asyncio.Event()
    log: list[object] = []

    @bus.once("a")
    async def handler(payload: object) -> None:
        log.append(payload)
        await release.wait()

    emissions = [asyncio.create_task(asyncio.wait_for(bus.emit_async("a", n), 20)) for n in "xyz"]
    await asyncio.sleep(0)
    release.set()
    assert sorted(await asyncio.gather(*emissions)) == [0, 0, 1]
    assert len(log) == 1


async def test_under_emit_in_a_running_loop_the_first_emission_claims_it(bus: EventBus) -> None:
    log: list[object] = []

    @bus.once("a")
    async def handler(payload: object) -> None:
        log.append(payload)

    assert bus.emit("a", 1) == 1
    assert bus.emit("a", 2) == 0
    assert not bus.has_handlers("a")
    await soon(bus.drain())
    assert log == [1]


def test_without_a_loop_an_async_one_is_delivered_once(bus: EventBus) -> None:
    log: list[object] = []

    @bus.once("a")
    async def handler(payload: object) -> None:
        log.append(payload)

    assert [bus.emit("a", n) for n in range(3)] == [1, 0, 0]
    assert log == [0]


async def test_an_emission_that_was_never_awaited_does_not_use_it_up(bus: EventBus) -> None:
    log: list[object] = []
    bus.once("a", recorder(log, "once"))
    bus.emit_async("a", "closed").close()
    assert bus.has_handlers("a")
    await bus.emit_async("a", "awaited")
    assert log == [("once", "awaited")]
