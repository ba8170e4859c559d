"""Replaying the log to a bus: order, consumers, speed, and what is not recorded again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import soon
from stores import names, payloads, writing_elsewhere

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore


def filled(path: Path, *events: str, **options: Any) -> EventStore:
    store = EventStore(path, **options)
    for number, name in enumerate(events, 1):
        store.append(name, number, run_id=f"run {number % 2}")
    store.flush()
    return store


def listening(**options: Any) -> tuple[EventBus, list[tuple[str, Any]]]:
    bus = EventBus(**options)
    log: list[tuple[str, Any]] = []
    bus.on("*", lambda name, payload: log.append((name, payload)))
    return bus, log


async def test_every_event_is_delivered_in_order_and_counted(path: Path) -> None:
    bus, log = listening()
    with filled(path, "a", "b", "a") as store:
        assert await soon(store.replay(bus)) == 3
        assert log == [("a", 1), ("b", 2), ("a", 3)]


async def test_a_replay_selects_as_reading_does(path: Path) -> None:
    bus, log = listening()
    with filled(path, "tool.a", "tool.b", "llm.c", "tool.d") as store:
        assert await soon(store.replay(bus, after=1, key="tool.*")) == 2
        assert await soon(store.replay(bus, run_id="run 1")) == 2
        assert [name for name, _ in log] == ["tool.b", "tool.d", "tool.a", "llm.c"]


async def test_each_event_waits_for_all_handlers_of_the_one_before(path: Path) -> None:
    bus = EventBus()
    log: list[str] = []

    @bus.on("*")
    async def handler(name: str, payload: object) -> None:
        log.append(f"begin {name}")
        await asyncio.sleep(0)
        log.append(f"end {name}")

    with filled(path, "a", "b") as store:
        await soon(store.replay(bus))
    assert log == ["begin a", "end a", "begin b", "end b"]


class Router:
    """Something else that has `emit_async`."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []

    async def emit_async(self, name: str, payload: Any = None) -> None:
        self.log.append((name, payload))


async def test_a_bus_is_whatever_has_emit_async(path: Path) -> None:
    router = Router()
    with filled(path, "a") as store:
        assert await soon(store.replay(router)) == 1
    assert router.log == [("a", 1)]


# Recording


async def test_a_recorded_bus_does_not_record_the_replay_again(path: Path) -> None:
    bus, log = listening()
    with filled(path, "a", "b") as store:
        store.attach(bus)
        store.attach(bus, "a")  # records "a" twice, but neither of them a replay
        assert await soon(store.replay(bus)) == 2
        store.flush()
        assert names(store) == ["a", "b"]
        bus.emit("a", 1)
        store.flush()
        assert names(store) == ["a", "b", "a", "a"]
        assert len(log) == 3


async def test_what_handlers_emit_during_a_replay_is_new_and_recorded(path: Path) -> None:
    bus = EventBus()
    with filled(path, "a") as store:
        store.attach(bus)

        @bus.once("a")
        def again(payload: object) -> None:
            bus.emit("a", payload)  # the same name and the same object

        @bus.on("a")
        async def later(payload: object) -> None:
            bus.emit("b", payload)

        assert await soon(store.replay(bus)) == 1
        assert await soon(bus.drain()) == []
        store.flush()
        assert sorted(names(store)) == ["a", "a", "b", "b"]


async def test_a_bus_that_the_replay_is_passed_on_to_does_not_record_it_either(path: Path) -> None:
    bus = EventBus()
    other = EventBus()
    with filled(path, "a") as store:
        store.attach(other)
        bus.on("a", lambda payload: other.emit("a", payload))
        assert await soon(store.replay(bus)) == 1
        store.flush()
        assert names(store) == ["a"]
        bus.on("a", lambda payload: other.emit("a", [payload]))  # another payload
        assert await soon(store.replay(bus)) == 1
        store.flush()
        assert payloads(store) == [1, [1]]


async def test_what_a_task_emits_after_its_event_was_replayed_is_recorded(path: Path) -> None:
    bus = EventBus()
    other = EventBus()
    tasks: list[asyncio.Task[None]] = []
    with filled(path, "a") as store:
        store.attach(other)
        over = asyncio.Event()

        async def work(payload: object) -> None:
            await over.wait()
            other.emit("a", payload)

        @bus.on("a")
        def start(payload: object) -> None:
            tasks.append(asyncio.ensure_future(work(payload)))

        assert await soon(store.replay(bus)) == 1
        over.set()
        await soon(tasks[0])
        store.flush()
        assert names(store) == ["a", "a"]


async def test_another_store_records_the_replay(path: Path) -> None:
    bus = EventBus()
    with filled(path, "a", "b") as store, EventStore(path.with_name("copy.db")) as copy:
        copy.attach(bus)
        await soon(store.replay(bus))
        copy.flush()
        assert payloads(copy) == payloads(store) == [1, 2]


async def test_a_second_store_of_the_same_file_does_not_record_the_replay(path: Path) -> None:
    bus = EventBus()
    with filled(path, "a") as store, EventStore(path) as same:
        same.attach(bus)
        await soon(store.replay(bus))
        same.flush()
        assert names(store) == ["a"]


async def test_a_replay_ends_with_the_last_event_there_was_at_the_call(path: Path) -> None:
    bus = EventBus()
    with filled(path, "a", "a") as store:
        bus.on("a", lambda payload: store.append("a", payload))
        assert await soon(store.replay(bus)) == 2
        store.flush()
        assert await soon(store.replay(bus)) == 4


# Consumers


async def test_a_consumer_gets_what_it_has_not_acknowledged(path: Path) -> None:
    bus, log = listening()
    with filled(path, "a", "b", "c") as store:
        store.ack("billing", 2)
        assert await soon(store.replay(bus, consumer="billing")) == 2
        assert await soon(store.replay(bus, consumer="billing")) == 2
        assert [name for name, _ in log] == ["a", "c", "a", "c"]
        store.ack_through("billing", 3)
        assert await soon(store.replay(bus, consumer="billing")) == 0
        assert await soon(store.replay(bus, consumer="another")) == 3


async def test_the_loop_goes_on_while_another_process_keeps_a_new_consumer_waiting(
    path: Path,
) -> None:
    bus, log = listening()
    with filled(path, "a") as store:
        with writing_elsewhere(path):
            replay = asyncio.ensure_future(store.replay(bus, consumer="new"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert log == []
        assert await soon(replay) == 1
        assert log == [("a", 1)]


async def test_auto_ack_acknowledges_what_was_delivered(path: Path) -> None:
    bus = EventBus()
    seen: list[int] = []

    @bus.on("*")
    async def handler(name: str, payload: int) -> None:
        if payload == 3 and 3 not in seen:
            seen.append(payload)
            raise asyncio.CancelledError
        seen.append(payload)

    @bus.on("b", isolate=False)
    def guard(payload: int) -> None:
        if len(seen) == 1:
            raise RuntimeError("stop here")

    with filled(path, "a", "b", "c") as store:
        with pytest.raises(RuntimeError, match="stop here"):
            await soon(store.replay(bus, consumer="c", auto_ack=True))
        assert [event.seq for event in store.pending("c")] == [2, 3]
        seen.append(0)
        assert await soon(store.replay(bus, consumer="c", auto_ack=True)) == 2
        assert list(store.pending("c")) == []


async def test_auto_ack_needs_a_consumer(path: Path) -> None:
    with filled(path, "a") as store, pytest.raises(ValueError, match="consumer"):
        await store.replay(EventBus(), auto_ack=True)


async def test_cancelling_a_replay_acknowledges_no_more(path: Path) -> None:
    bus = EventBus()
    reached = asyncio.Event()

    @bus.on("b")
    async def hang(payload: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    with filled(path, "a", "b", "c") as store:
        task = asyncio.ensure_future(store.replay(bus, consumer="c", auto_ack=True))
        await soon(reached.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [event.seq for event in store.pending("c")] == [2, 3]


# Speed


class Clock:
    """A loop's clock that goes on when somebody sleeps, and counts for how long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now, raising=False)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, delay: float) -> None:
        self.slept.append(round(delay, 6))
        self.now += delay


def gaps(path: Path, *times: float) -> EventStore:
    store = EventStore(path)
    for number, when in enumerate(times):
        store.append("a", number, timestamp=when)
    store.flush()
    return store


@pytest.mark.parametrize(("speed", "slept"), [(1.0, [2.0, 5.0]), (2.0, [1.0, 2.5]), (1e9, None)])
async def test_speed_divides_the_time_between_events(
    path: Path, monkeypatch: pytest.MonkeyPatch, speed: float, slept: list[float] | None
) -> None:
    with gaps(path, 100, 102, 107) as store:
        clock = Clock(monkeypatch)
        assert await store.replay(EventBus(), speed=speed) == 3
        assert sum(clock.slept) < 1e-6 if slept is None else clock.slept == slept


async def test_a_clock_that_was_set_back_makes_no_gap(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gaps(path, 100, 101, 50, 52) as store:
        clock = Clock(monkeypatch)
        assert await store.replay(EventBus(), speed=1.0) == 4
        assert clock.slept == [1.0, 2.0]


async def test_the_time_that_handlers_take_adds_up_to_no_drift(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = EventBus()
    with gaps(path, 100, 101, 102, 103) as store:
        clock = Clock(monkeypatch)

        @bus.on("a")
        def work(number: int) -> None:
            clock.now += 1.5 if number == 0 else 0.25

        await store.replay(bus, speed=1.0)
        # The second event is half a second late; the others come when they are due.
        assert clock.slept == [0.25, 0.75]


async def test_without_a_speed_nothing_waits(path: Path) -> None:
    with gaps(path, 100, 10_000) as store:
        began = time.monotonic()
        assert await soon(store.replay(EventBus())) == 2
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("speed", [0, -1, float("nan"), "1", True])
async def test_a_bad_speed_is_refused(path: Path, speed: Any) -> None:
    with filled(path, "a") as store, pytest.raises((ValueError, TypeError), match="speed"):
        await store.replay(EventBus(), speed=speed)


# Names and errors


async def test_a_published_object_is_replayed_under_its_name(path: Path) -> None:
    class Local:
        pass

    recorded = EventBus()
    bus, log = listening()
    with EventStore(path) as store:
        store.attach(recorded)
        recorded.publish(Local())
        store.flush()
        assert await soon(store.replay(bus)) == 1
        assert log[0][0] == Local.__qualname__
        assert "<locals>" in log[0][0]


async def test_a_name_that_no_bus_takes_is_passed_over_and_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = EventBus()
    bus, log = listening()
    with EventStore(path) as store:
        store.attach(recorded)
        recorded.publish(type("odd..name*", (), {})())
        recorded.emit("good")
        store.flush()
        assert names(store) == ["odd..name*", "good"]
        assert names(store, key="odd.*.*") == []
        assert await soon(store.replay(bus)) == 1
        assert [name for name, _ in log] == ["good"]
    assert "Event 1 is not replayed" in caplog.text


async def test_a_bus_that_refuses_a_payload_ends_the_replay(path: Path) -> None:
    bus = EventBus()
    bus.define_event("b", {"n": int}.__getitem__)  # raises for every payload
    with filled(path, "a", "b") as store, pytest.raises(ValueError, match="b"):
        await soon(store.replay(bus))


async def test_a_closed_bus_ends_the_replay_and_nothing_is_acknowledged(path: Path) -> None:
    bus = EventBus()
    await bus.aclose()
    with filled(path, "a", "b") as store:
        with pytest.raises(RuntimeError, match="event 1 is not delivered"):
            await soon(store.replay(bus, consumer="c", auto_ack=True))
        assert [event.seq for event in store.pending("c")] == [1, 2]


async def test_handlers_that_fail_disturb_no_replay(path: Path) -> None:
    bus = EventBus(on_error=lambda *args: None)

    @bus.on("*")
    def fail(name: str, payload: object) -> None:
        raise RuntimeError(name)

    with filled(path, "a", "b") as store:
        assert await soon(store.replay(bus)) == 2


async def test_the_recorded_runs_come_back_as_they_were(path: Path) -> None:
    from recorded import recorded_events

    events = recorded_events()
    recorded, (bus, log) = EventBus(), listening()
    with EventStore(path) as store:
        store.attach(recorded)
        for name, payload in events:
            recorded.emit(name, payload)
        assert store.flush()
        run = events[0][1]["run_id"]
        of_run = [(name, payload) for name, payload in events if payload.get("run_id") == run]
        assert [(e.name, e.payload) for e in store.read(run_id=run)] == of_run
        assert await store.replay(bus) == len(events)
    assert log == list(events)
