"""Emissions and their tasks' coroutines stepped, thrown into and closed without a task."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Generator
from typing import Any

import pytest
from helpers import PACKAGES, run_isolated

from agent_event_bus import Event, EventBus


def nothing(*args: object) -> None: ...


async def waits(*args: object) -> None:
    await asyncio.get_running_loop().create_future()


class TestSteps:
    @pytest.mark.parametrize("handlers", [0, 1, 3, 40])
    def test_next_ends_with_the_count(self, bus: EventBus, handlers: int) -> None:
        for _ in range(handlers):
            bus.on("a", lambda payload: None)
        for _ in range(3):
            iterator = bus.emit_async("a").__await__()
            with pytest.raises(StopIteration) as stop:
                next(iterator)
            assert stop.value.value == handlers

    def test_an_exception_that_somebody_has_kept_is_not_used_again(self, bus: EventBus) -> None:
        kept = []
        for _ in range(3):
            with pytest.raises(StopIteration) as stop:
                next(bus.emit_async("a").__await__())
            kept.append(stop.value)
        assert len({id(stop) for stop in kept}) == 3

    def test_next_gives_the_outcomes_of_a_collecting_one(self, bus: EventBus) -> None:
        bus.on("a", nothing)
        with pytest.raises(StopIteration) as stop:
            next(bus.collect_async("a").__await__())
        assert [outcome.status for outcome in stop.value.value] == ["ok"]

    @pytest.mark.parametrize("way", ["emit_async", "collect_async"])
    async def test_an_interruption_of_one_that_is_dropped_half_way_is_not_lost(
        self, bus: EventBus, unraisable: list[Any], way: str
    ) -> None:
        async def interrupts(payload: object) -> None:
            raise KeyboardInterrupt

        async def fails(payload: object) -> None:
            raise ValueError

        for name in ("a", "b"):
            bus.on(name, waits)
        bus.on("a", interrupts)
        bus.on("b", fails, isolate=False)
        emission = getattr(bus, way)("a")
        emission.send(None)  # the other handler is cancelled, and this waits for it
        del emission
        assert await bus.drain(timeout=5) == []
        gc.collect()
        assert [type(error) for error in unraisable] == [KeyboardInterrupt]
        unraisable.clear()
        emission = getattr(bus, way)("b")  # so it is with a guard's error, unless it is collected
        emission.send(None)
        del emission
        assert await bus.drain(timeout=5) == []
        gc.collect()
        expected = [ValueError] if way == "emit_async" else []
        assert [type(error) for error in unraisable] == expected

    async def test_next_gives_the_future_that_is_waited_for(self, bus: EventBus) -> None:
        bus.on("a", waits)
        emission = bus.emit_async("a")
        assert asyncio.isfuture(next(emission.__await__()))
        emission.close()

    def test_one_that_is_in_its_first_step_can_neither_be_stepped_nor_closed(
        self, bus: EventBus
    ) -> None:
        refusals: list[str] = []

        def meddle(payload: object) -> None:
            for use in (
                emission.close,
                lambda: emission.send(None),
                lambda: emission.throw(KeyError),
            ):
                with pytest.raises(ValueError, match="already executing") as refusal:
                    use()
                refusals.append(str(refusal.value))

        bus.on("a", meddle)
        emission = bus.emit_async("a")
        with pytest.raises(StopIteration):
            emission.send(None)
        assert len(refusals) == 3

    def test_one_that_is_over_cannot_be_thrown_into(self, bus: EventBus) -> None:
        emission = bus.emit_async("a")
        with pytest.raises(StopIteration):
            emission.send(None)
        with pytest.raises(RuntimeError, match="already awaited"):
            emission.throw(KeyError("late"))


class TestThrow:
    """The arguments of throw() are those of a coroutine."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((KeyError,), ()),
            ((KeyError, "a"), ("a",)),
            ((KeyError, None), ()),
            ((KeyError, KeyError("b")), ("b",)),
            ((KeyError("c"), None, None), ("c",)),
        ],
    )
    @pytest.mark.filterwarnings("ignore:the .* signature of throw:DeprecationWarning")
    def test_an_exception_or_its_class_comes_out(
        self, bus: EventBus, arguments: tuple[Any, ...], message: tuple[Any, ...]
    ) -> None:
        with pytest.raises(KeyError) as raised:
            bus.emit_async("a").throw(*arguments)
        assert raised.value.args == message

    def test_a_traceback_is_taken_on(self, bus: EventBus) -> None:
        try:
            raise ValueError("elsewhere")
        except ValueError as error:
            traceback = error.__traceback__
        with pytest.raises(KeyError) as raised:
            bus.emit_async("a").throw(KeyError, None, traceback)
        frames = []
        at = raised.value.__traceback__
        while at is not None:
            frames.append(at.tb_frame.f_code.co_name)
            at = at.tb_next
        assert frames[-1] == "test_a_traceback_is_taken_on"
        assert len(frames) >= 2

    def test_what_is_no_exception_is_refused(self, bus: EventBus) -> None:
        emission: Any = bus.emit_async("a")
        with pytest.raises(TypeError, match="exceptions must"):
            emission.throw(5)
        with pytest.raises(TypeError):
            emission.throw()
        emission.close()

    def test_a_class_that_makes_no_exception_is_refused(self, bus: EventBus) -> None:
        class OddError(Exception):
            def __new__(cls, *args: object) -> Any:
                return 5

        emission = bus.emit_async("a")
        with pytest.raises(TypeError, match="exceptions must derive from BaseException"):
            emission.throw(OddError)
        emission.close()

    async def test_a_generator_exit_ends_it_and_its_handlers(self, bus: EventBus) -> None:
        bus.on("a", waits)
        emission = bus.emit_async("a")
        emission.send(None)
        with pytest.raises(GeneratorExit):
            emission.throw(GeneratorExit())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}


class TestDelivery:
    """The coroutine of a task that a handler runs as, when somebody else has got hold of it."""

    async def delivery(self, bus: EventBus, handler: Any = waits) -> Any:
        bus.on("a", handler)
        bus.emit("a")
        (delivery,) = bus._pending()
        return delivery

    async def test_it_tells_whether_it_is_suspended(self, bus: EventBus) -> None:
        delivery = await self.delivery(bus)
        await asyncio.sleep(0)
        assert delivery.cr_suspended
        assert not delivery.cr_running
        await bus.aclose()
        assert not delivery.cr_suspended

    async def test_one_that_is_over_cannot_be_stepped(self, bus: EventBus) -> None:
        delivery = await self.delivery(bus)
        await bus.aclose()
        with pytest.raises((StopIteration, RuntimeError)):
            next(delivery)
        with pytest.raises((StopIteration, RuntimeError)):
            delivery.send(None)
        delivery.close()

    async def test_it_cannot_be_stepped_by_its_own_handler(self, bus: EventBus) -> None:
        refusals: list[str] = []

        async def meddles(payload: object) -> None:
            await asyncio.sleep(0)
            (delivery,) = bus._pending()
            own: Any = delivery
            for use in (own.close, lambda: own.send(None), lambda: own.throw(KeyError("no"))):
                with pytest.raises(ValueError, match="already executing") as refusal:
                    use()
                refusals.append(str(refusal.value))

        await self.delivery(bus, meddles)
        assert await bus.drain(1) == []
        assert len(refusals) == 3

    async def test_only_deliveries_can_be_parked(self, bus: EventBus) -> None:
        park: Any = bus._park
        with pytest.raises(TypeError, match="not a delivery"):
            park(5, True)
        delivery = await self.delivery(bus)
        await asyncio.sleep(0)
        other = EventBus()
        other._park(delivery, True)  # it is none of its own
        assert await bus.drain(0) == ["a -> waits"]
        await bus.aclose()
        bus._park(delivery, True)
        assert await bus.drain(0) == []


class PlainIterator:
    """An awaitable whose iterator has no throw()."""

    def __init__(self) -> None:
        self.stepped = 0

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> None:
        self.stepped += 1


async def test_a_plain_iterator_that_is_cancelled_is_left_alone(bus: EventBus) -> None:
    awaitable = PlainIterator()
    bus.on("a", lambda payload: awaitable)
    task = asyncio.ensure_future(bus.emit_async("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stepped = awaitable.stepped
    await asyncio.sleep(0)
    assert awaitable.stepped == stepped >= 1


async def test_a_generator_of_the_old_kind_is_awaited(bus: EventBus) -> None:
    log: list[str] = []

    @types.coroutine
    def old() -> Generator[None, None, None]:
        yield
        log.append("resumed")

    bus.on("a", lambda payload: old())
    assert await bus.emit_async("a") == 1
    assert log == ["resumed"]


def test_a_name_that_very_many_patterns_match_reaches_them_all(bus: EventBus) -> None:
    got: list[int] = []
    segments = [("a", "*")] * 7
    patterns = [".".join(parts) for parts in itertools.product(*segments)]
    for number, pattern in enumerate(patterns):
        bus.subscribe(pattern, lambda *args, number=number: got.append(number))
    assert bus.emit(".".join("a" * 7)) == len(patterns) == 128
    assert got == list(range(128))
    assert len(bus.handlers(".".join("a" * 7))) == 128
    assert bus.clear() == 128


def test_very_many_threads_emit_at_once_and_one_inside_another(bus: EventBus) -> None:
    inside = threading.Barrier(20)
    counts: list[int] = []
    bus.on("inner", nothing)

    def outer(payload: object) -> None:
        inside.wait(20)
        counts.append(bus.emit("inner"))
        inside.wait(20)

    bus.on("outer", outer)
    threads = [threading.Thread(target=bus.emit, args=("outer",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1] * 20


def test_a_decorator_that_keeps_its_bus_in_a_cycle_is_collected() -> None:
    class Owner:
        decorator: Any

    def make() -> weakref.ref[EventBus]:
        bus = EventBus()
        owner = Owner()
        owner.decorator = bus.on("a", where=lambda payload: owner is None)
        return weakref.ref(bus)

    gone = make()
    gc.collect()
    assert gone() is None


def test_a_mapping_whose_items_are_no_pairs_is_no_condition(bus: EventBus) -> None:
    class Odd(dict[str, object]):
        def items(self) -> Any:
            return [("a", 1, 2)]

    class Pairs:
        def keys(self) -> list[str]:
            return ["a"]

        def __getitem__(self, key: str) -> int:
            return 1

        def items(self) -> Any:
            return [5]

    refuse: Any = bus
    for odd in (Odd(), Pairs()):
        with pytest.raises(TypeError):
            refuse.on("a", nothing, where=odd)
    assert len(bus) == 0


def test_an_event_that_is_its_own_payload_has_a_short_repr() -> None:
    payload: list[object] = []
    event = Event("a", payload)
    payload.append(event)
    assert "payload=[Event(...)]" in repr(event)


def test_a_bad_key_with_a_long_repr_is_shown_in_part(bus: EventBus) -> None:
    refuse: Any = bus
    with pytest.raises(TypeError, match="bad key") as refusal:
        refuse.on(list(range(10_000)), nothing)
    assert len(str(refusal.value)) < 1_000


def test_a_cancellation_is_known_before_the_core_has_used_asyncio() -> None:
    program = """
import logging, sys
import asyncio
from agent_event_bus import EventBus
bus = EventBus()
@bus.on("a")
def cancelled(payload):
    raise asyncio.CancelledError
@bus.on("a")
def after(payload):
    print("after")
try:
    print(bus.emit("a"))
except asyncio.CancelledError:
    print("cancelled")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["after", "2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_that_ends_as_programs_do_has_only_what_is_its_own() -> None:
    assert run_isolated("fork_end.py").split() == ["child", "ok"]
