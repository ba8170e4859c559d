"""Many threads on one bus: nothing lost, nothing twice, nobody waits for another's handler."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Callable

import pytest
from helpers import DEADLINE

from agent_event_bus import EventBus, Subscription

pytestmark = pytest.mark.usefixtures("eager_switching")

THREADS = 8


def in_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Run ``work(number)`` in `count` threads that start together; their errors are the test's."""
    start = threading.Barrier(count, timeout=DEADLINE)
    errors: list[BaseException] = []

    def body(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * DEADLINE)
        assert not thread.is_alive(), "deadlock"
    if errors:
        raise errors[0]


def test_every_emission_of_every_thread_is_delivered(bus: EventBus) -> None:
    got: list[Any] = []
    subscription = bus.subscribe("a", got.append)

    def work(number: int) -> None:
        for round_ in range(500):
            assert bus.emit("a", (number, round_)) == 1

    in_threads(work)
    assert sorted(got) == [(n, r) for n in range(THREADS) for r in range(500)]
    assert subscription.calls == THREADS * 500


def test_sync_handlers_run_in_the_emitting_thread(bus: EventBus) -> None:
    seen: dict[int, set[int]] = {}

    @bus.on("a")
    def handler(payload: int) -> None:
        seen.setdefault(payload, set()).add(threading.get_ident())

    idents: dict[int, int] = {}

    def work(number: int) -> None:
        idents[number] = threading.get_ident()
        for _ in range(50):
            bus.emit("a", number)

    in_threads(work)
    assert seen == {number: {ident} for number, ident in idents.items()}


def test_subscribing_emitting_and_cancelling_at_once_leaves_what_was_kept(bus: EventBus) -> None:
    kept: list[Subscription] = []
    permanent: list[object] = []
    bus.on("shared", permanent.append)

    def work(number: int) -> None:
        keys = ["shared", f"own.{number}", "*"]
        for round_ in range(150):
            subscription = bus.subscribe(keys[round_ % 3], lambda *args: None)
            bus.emit("shared")
            bus.emit(f"own.{number}")
            assert bus.has_handlers("shared")
            if round_ % 10:
                assert subscription.cancel() is True
            else:
                kept.append(subscription)

    in_threads(work)
    assert len(permanent) == THREADS * 150
    assert len(bus) == len(kept) + 1
    assert len({subscription.id for subscription in kept}) == len(kept)
    ids = {subscription.id for subscription in bus.handlers("shared")}
    assert {s.id for s in kept if s.key in ("shared", "*")} < ids
    assert bus.clear() == len(kept) + 1
    assert bus.emit("shared") == 0


def test_a_handler_runs_in_order_whatever_other_threads_subscribe(bus: EventBus) -> None:
    order: list[int] = []
    for priority in range(10):
        bus.on("a", lambda payload, p=priority: order.append(p), priority=priority)
    stop = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            try:
                for _ in range(300):
                    order.clear()
                    assert bus.emit("a") >= 10
                    assert order == list(range(10))
            finally:
                stop.set()
        else:
            while not stop.is_set():
                bus.subscribe("a", lambda payload: None, priority=number).cancel()

    in_threads(work, 4)


def test_a_once_handler_is_delivered_exactly_once(bus: EventBus) -> None:
    rounds = 100
    got: list[int] = []
    counts: list[int] = []
    meeting = threading.Barrier(4, timeout=DEADLINE)

    def work(number: int) -> None:
        for round_ in range(rounds):
            if number == 0:
                bus.once("a", got.append)
            meeting.wait()
            counts.append(bus.emit("a", round_))
            meeting.wait()

    in_threads(work, 4)
    assert got == list(range(rounds))
    assert sum(counts) == rounds
    assert len(bus) == 0


def test_an_async_once_handler_is_delivered_exactly_once_across_loops(bus: EventBus) -> None:
    rounds = 30
    got: list[int] = []
    counts: list[int] = []
    meeting = threading.Barrier(4, timeout=DEADLINE)

    async def handler(payload: int) -> None:
        await asyncio.sleep(0)
        got.append(payload)

    async def emit(number: int) -> int:
        return await bus.emit_async("a", number)

    def work(number: int) -> None:
        for round_ in range(rounds):
            if number == 0:
                bus.subscribe("a", handler, once=True)
            meeting.wait()
            counts.append(asyncio.run(emit(round_)) if number % 2 else bus.emit("a", round_))
            meeting.wait()

    in_threads(work, 4)
    assert got == list(range(rounds))
    assert sum(counts) == rounds


def test_cancel_is_true_for_exactly_one_of_many_threads(bus: EventBus) -> None:
    subscriptions = [bus.subscribe(["a", "b"], print) for _ in range(300)]
    won: list[int] = []

    def work(number: int) -> None:
        won.append(sum(subscription.cancel() for subscription in subscriptions))

    in_threads(work)
    assert sum(won) == len(subscriptions)
    assert len(bus) == 0


def test_off_and_clear_count_every_subscription_once(bus: EventBus) -> None:
    def handler(payload: object) -> None: ...

    for _ in range(500):
        bus.subscribe(["a", "b"], handler)
    removed: list[int] = []

    def work(number: int) -> None:
        if number % 2:
            removed.append(bus.off("a", handler))
        else:
            removed.append(bus.clear("b"))

    in_threads(work)
    assert sum(removed) == 500


def test_a_busy_handler_holds_up_no_other_thread(bus: EventBus) -> None:
    inside, leave = threading.Event(), threading.Event()
    log: list[Any] = []

    @bus.on("slow")
    def slow(payload: object) -> None:
        inside.set()
        assert leave.wait(DEADLINE)
        log.append("slow")

    thread = threading.Thread(target=bus.emit, args=("slow",))
    thread.start()
    assert inside.wait(DEADLINE)
    bus.on("quick", log.append)
    assert bus.emit("quick", "quick") == 1
    assert bus.off("slow", slow) == 1
    assert bus.handlers("slow") == ()
    assert len(bus) == 1
    leave.set()
    thread.join(DEADLINE)
    assert log == ["quick", "slow"]


def test_failures_are_counted_and_reported_from_every_thread(
    bus: EventBus, records: list[Any]
) -> None:
    def fails(payload: object) -> None:
        raise ValueError(payload)

    subscription = bus.subscribe("a", fails)

    def work(number: int) -> None:
        for _ in range(25):
            bus.emit("a", number)

    in_threads(work, 4)
    assert len(records) == 100
    assert (subscription.calls, subscription.failures) == (100, 100)


def test_emissions_in_many_loops_do_not_mix(bus: EventBus) -> None:
    got: list[Any] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is loop
        got.append((payload, threading.get_ident()))

    expected: list[Any] = []

    async def main(number: int) -> None:
        for round_ in range(20):
            expected.append(((number, round_), threading.get_ident()))
            if round_ % 2:
                bus.emit("a", (number, round_))
            else:
                await bus.emit_async("a", (number, round_))
        await bus.drain()

    in_threads(lambda number: asyncio.run(main(number)), 4)
    assert sorted(got) == sorted(expected)


def test_deep_emissions_in_several_threads_keep_their_own_recursion_guard(
    bus: EventBus, records: list[Any]
) -> None:
    bus.on("a", lambda payload: bus.emit("a"))

    def work(number: int) -> None:
        for _ in range(3):
            assert bus.emit("a") == 1

    in_threads(work, 3)
    assert len(records) == 9
