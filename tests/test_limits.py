"""Large numbers and odd payloads: bounded memory, nothing lost, nothing looked into."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from helpers import note, recorder

from agent_event_bus import EventBus

MILLION = 1_000_000
STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of memory this process has in use."""
    return int(STATM.read_text().split()[1]) * 4096


@pytest.mark.skipif(not STATM.exists(), reason="needs the process statistics of Linux")
@pytest.mark.parametrize("wildcard", [False, True])
def test_a_million_distinct_names_do_not_grow_memory(bus: EventBus, wildcard: bool) -> None:
    calls = 0

    def count(*args: object) -> None:
        nonlocal calls
        calls += 1

    bus.on("*" if wildcard else "event.7", count)
    for number in range(20_000):
        bus.emit(f"event.{number}")
    gc.collect()
    before = resident()
    for number in range(20_000, MILLION):
        bus.emit(f"event.{number}")
    # Keeping every name would take some 60 MB for the strings alone.
    assert resident() - before < 16 * 2**20
    assert calls == (MILLION if wildcard else 1)


@pytest.mark.parametrize("use", ["emit", "emit_async", "handlers", "has_handlers", "subscribe"])
def test_names_that_were_used_once_are_forgotten(bus: EventBus, use: str) -> None:
    bus.on("*", lambda *args: None)

    def touch(name: str) -> None:
        if use == "emit":
            bus.emit(name)
        elif use == "emit_async":
            with pytest.raises(StopIteration):
                bus.emit_async(name).send(None)
        elif use == "subscribe":
            bus.subscribe(name, print).cancel()
        else:
            getattr(bus, use)(name)

    tracemalloc.start()
    try:
        for number in range(10_000):
            touch(f"event.{number}")
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000, 30_000):
            touch(f"event.{number}")
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 512 * 1024


def test_long_names_that_were_used_once_do_not_pile_up(bus: EventBus) -> None:
    bus.on("*", lambda *args: None)
    tracemalloc.start()
    try:
        for number in range(3000):
            bus.emit(f"{number}.{'x' * 50_000}")
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # All of them together are 150 MB.
    assert used < 16 * 2**20


def test_names_in_use_survive_any_number_of_others(bus: EventBus) -> None:
    log: list[Any] = []
    bus.on("kept", recorder(log, "kept"))
    for number in range(50_000):
        bus.emit(f"event.{number}")
    assert bus.emit("kept", 1) == 1
    assert log == [("kept", 1)]


def test_a_change_reaches_every_cached_name(bus: EventBus) -> None:
    log: list[Any] = []
    names = [f"event.{number}" for number in range(3000)]
    for name in names:
        assert bus.emit(name) == 0
    bus.on("*", recorder(log, "any"))
    for name in names:
        assert bus.emit(name) == 1
    bus.off("*")
    for name in names:
        assert bus.emit(name) == 0
    assert len(log) == 3000


class TestTenThousandHandlers:
    COUNT = 10_000

    def test_on_one_name_run_in_order_and_go_one_by_one(self, bus: EventBus) -> None:
        log: list[int] = []
        subscriptions = [bus.subscribe("a", note(log, n)) for n in range(self.COUNT)]
        assert bus.emit("a") == self.COUNT
        assert log == list(range(self.COUNT))
        for subscription in subscriptions[::2]:
            assert subscription.cancel()
        log.clear()
        assert bus.emit("a") == self.COUNT // 2
        assert log == list(range(1, self.COUNT, 2))
        assert len(bus.handlers("a")) == self.COUNT // 2
        assert bus.off("a") == self.COUNT // 2
        assert bus.emit("a") == 0

    def test_subscribed_while_the_name_is_emitted(self, bus: EventBus) -> None:
        log: list[int] = []
        for number in range(2000):
            bus.on("a", note(log, number))
            if number % 100 == 0:
                log.clear()
                assert bus.emit("a") == number + 1
                assert log == list(range(number + 1))

    def test_that_are_used_up_by_one_emission(self, bus: EventBus) -> None:
        log: list[int] = []
        for number in range(self.COUNT):
            bus.once("a", note(log, number))
        assert bus.emit("a") == self.COUNT
        assert log == list(range(self.COUNT))
        assert len(bus) == 0
        assert bus.emit("a") == 0

    def test_that_are_async_all_settle(self, bus: EventBus) -> None:
        finished: list[int] = []

        async def handler(payload: object) -> None:
            await asyncio.sleep(0)
            finished.append(1)

        for _ in range(self.COUNT):
            bus.subscribe("a", handler)
        assert asyncio.run(bus.emit_async("a")) == self.COUNT
        assert bus.emit("a") == self.COUNT
        assert len(finished) == 2 * self.COUNT

    def test_a_handler_for_each_of_ten_thousand_names(self, bus: EventBus) -> None:
        log: list[int] = []
        for number in range(self.COUNT):
            bus.on(f"name.{number}", note(log, number))
        for number in range(self.COUNT):
            assert bus.emit(f"name.{number}") == 1
        assert log == list(range(self.COUNT))
        assert bus.clear() == self.COUNT

    def test_a_subscription_of_ten_thousand_keys(self, bus: EventBus) -> None:
        log: list[Any] = []
        keys = [f"name.{number}" for number in range(self.COUNT)]
        subscription = bus.subscribe(keys, recorder(log, "h"))
        assert subscription.keys == tuple(keys)
        assert bus.emit(keys[0], 1) + bus.emit(keys[-1], 2) == 2
        assert len(bus) == 1
        assert subscription.cancel()
        assert bus.emit(keys[0]) == 0


class Untouchable:
    """A payload that refuses every question."""

    def _refuse(self, *args: object) -> Any:
        raise AssertionError("the payload must not be looked into")

    __eq__ = __ne__ = __hash__ = __bool__ = __len__ = __iter__ = _refuse
    __repr__ = __str__ = __format__ = __getattr__ = __call__ = _refuse
    __await__ = __enter__ = __getitem__ = __contains__ = __index__ = _refuse


def numbers() -> Any:
    yield 1


PAYLOADS: list[Any] = [
    None,
    0,
    -1,
    10**100,
    float("nan"),
    1j,
    True,
    "",
    "text",
    "\ud800",
    b"bytes",
    bytearray(10),
    memoryview(b"view"),
    [],
    {},
    set(),
    (),
    range(3),
    slice(1),
    NotImplemented,
    ...,
    object(),
    object,
    type,
    int,
    sys,
    print,
    lambda: None,
    numbers(),
    ValueError("an error as payload"),
    KeyboardInterrupt(),
    StopIteration(1),
    threading.Lock(),
    EventBus(),
    Untouchable(),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: type(payload).__name__)
@pytest.mark.parametrize("way", ["emit", "emit_async"])
async def test_any_object_is_a_payload_and_arrives_untouched(
    bus: EventBus, way: str, payload: Any
) -> None:
    got: list[Any] = []

    @bus.on("a")
    async def later(event: object) -> None:
        got.append(event)

    bus.on("a", got.append)
    bus.on("*", lambda name, event: got.append(event))
    bus.on("a", lambda event: got.append(event.payload), envelope=True)
    count = bus.emit("a", payload) if way == "emit" else await bus.emit_async("a", payload)
    await bus.drain()
    assert count == 4
    assert [id(each) for each in got] == [id(payload)] * 4


def test_a_payload_may_be_the_bus_the_name_or_the_handler(bus: EventBus) -> None:
    got: list[Any] = []
    handler = got.append
    bus.on("a", handler)
    for payload in (bus, "a", handler):
        bus.emit("a", payload)
    assert got[0] is bus
    assert got[1:] == ["a", handler]
