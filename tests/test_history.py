"""history=N and history(): the last events of a bus, newest first."""

from __future__ import annotations

import asyncio
import copy
import enum
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import is_gone, run_isolated, soon

from agent_event_bus import Event, EventBus


class Tool(enum.Enum):
    START = "tool.start"


class Payload:
    """Something that can be weakly referenced."""


def names(events: list[Event]) -> list[str]:
    """Return the names of events."""
    return [event.name for event in events]


@pytest.fixture
def bus() -> EventBus:
    """A bus that keeps the last ten events."""
    return EventBus(history=10)


# What is kept


def test_the_last_events_are_returned_newest_first(bus: EventBus) -> None:
    for payload in range(3):
        bus.emit("a", payload)
    assert [(event.name, event.payload, event.seq) for event in bus.history()] == [
        ("a", 2, 3),
        ("a", 1, 2),
        ("a", 0, 1),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 100])
def test_no_more_than_the_last_n_are_kept(size: int) -> None:
    bus = EventBus(history=size)
    for number in range(1, 3 * size + 2):
        bus.emit("a", number)
        kept = [event.payload for event in bus.history(limit=None)]
        assert kept == list(range(number, max(0, number - size), -1))


def test_a_bus_keeps_nothing_unless_it_is_told_to() -> None:
    bus = EventBus()
    bus.emit("a")
    assert bus.history() == []
    assert EventBus(history=0).history() == []


def test_events_without_handlers_are_kept(bus: EventBus) -> None:
    assert bus.emit("nobody.listens", 1) == 0
    assert names(bus.history()) == ["nobody.listens"]


async def test_every_way_of_emitting_is_kept(bus: EventBus) -> None:
    bus.on("c", lambda payload: None)
    emitter = bus.emitter("a")
    emitter(1)
    await emitter.emit_async(2)
    bus.emit("b", 3)
    await bus.emit_async("c", 4)
    bus.bind_loop(asyncio.get_running_loop())
    await soon(asyncio.wrap_future(bus.emit_threadsafe("d", 5)))
    assert [(event.name, event.payload) for event in reversed(bus.history())] == [
        ("a", 1),
        ("a", 2),
        ("b", 3),
        ("c", 4),
        ("d", 5),
    ]


async def test_an_emission_that_is_never_awaited_is_not_kept(bus: EventBus) -> None:
    emission = bus.emit_async("a")
    assert bus.history() == []
    emission.close()
    assert bus.history() == []


def test_the_event_is_kept_before_any_handler_runs(bus: EventBus) -> None:
    seen: list[list[str]] = []
    bus.on("a", lambda payload: seen.append(names(bus.history())))
    bus.emit("a")
    assert seen == [["a"]]


async def test_the_event_is_kept_before_an_async_handler_runs(bus: EventBus) -> None:
    seen: list[list[str]] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        seen.append(names(bus.history()))

    await bus.emit_async("a")
    assert seen == [["a"]]


def test_nested_emissions_are_kept_in_the_order_of_their_numbers(bus: EventBus) -> None:
    bus.on("outer", lambda payload: bus.emit("inner"))
    bus.emit("outer")
    bus.emit("outer")
    assert [(event.name, event.seq) for event in bus.history()] == [
        ("inner", 4),
        ("outer", 3),
        ("inner", 2),
        ("outer", 1),
    ]


def test_an_envelope_handler_gets_the_very_event_that_is_kept(bus: EventBus) -> None:
    got: list[Event] = []
    bus.on("a", got.append, envelope=True)
    for payload in range(25):
        bus.emit("a", payload)
        assert bus.history(limit=1)[0] is got[-1]
    assert [event.payload for event in got] == list(range(25))


async def test_an_async_envelope_handler_gets_the_very_event_that_is_kept(bus: EventBus) -> None:
    got: list[Event] = []

    @bus.on("a", envelope=True)
    async def handler(event: Event) -> None:
        await asyncio.sleep(0)
        got.append(event)

    await bus.emit_async("a", 1)
    assert bus.history() == got


def test_an_event_that_somebody_has_never_changes() -> None:
    bus = EventBus(history=2)
    bus.emit("first", 1)
    kept = bus.history()[0]
    known = weakref.ref(kept)
    before = kept.to_dict()
    for payload in range(10):
        bus.emit("later", payload)
    assert kept.to_dict() == before
    assert known() is kept


def test_an_event_known_by_a_weak_reference_never_changes() -> None:
    bus = EventBus(history=1)
    bus.emit("first", 1)
    known = weakref.ref(bus.history()[0])
    bus.emit("second", 2)
    assert known() is None
    assert names(bus.history()) == ["second"]


def test_the_time_of_an_event_is_that_of_its_emission(bus: EventBus) -> None:
    for _ in range(25):
        bus.emit("a")
    times = [event.timestamp for event in bus.history()]
    assert times == sorted(times, reverse=True)
    assert Event("now").timestamp - times[-1] < 60


@pytest.mark.parametrize("name", ["", "a..b", "a.*", "*"])
def test_an_event_with_a_bad_name_is_not_kept(bus: EventBus, name: str) -> None:
    with pytest.raises(ValueError, match="bad event name"):
        bus.emit(name)
    with pytest.raises(ValueError, match="bad event name"):
        asyncio.run(bus.emit_async(name))
    assert bus.history() == []


async def test_an_event_on_a_closed_bus_is_not_kept_but_earlier_ones_still_are(
    bus: EventBus,
) -> None:
    bus.emit("before")
    await bus.aclose()
    bus.emit("after")
    await bus.emit_async("after")
    assert names(bus.history()) == ["before"]


def test_an_event_whose_handler_raises_is_kept(bus: EventBus) -> None:
    @bus.on("a")
    def interrupted(payload: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bus.emit("a")
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(bus.emit_async("a"))
    assert names(bus.history()) == ["a", "a"]


async def test_a_cancelled_emission_is_kept(bus: EventBus) -> None:
    @bus.on("a")
    async def handler(payload: object) -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(bus.emit_async("a"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(bus.history()) == ["a"]


# What is returned


def test_a_limit_cuts_off_the_oldest(bus: EventBus) -> None:
    for payload in range(5):
        bus.emit("a", payload)
    assert [event.payload for event in bus.history(limit=2)] == [4, 3]
    assert bus.history(limit=0) == []
    assert len(bus.history(limit=1000)) == 5


def test_a_hundred_are_returned_unless_another_limit_is_given() -> None:
    bus = EventBus(history=150)
    for _ in range(150):
        bus.emit("a")
    assert len(bus.history()) == 100
    assert len(bus.history(limit=None)) == 150


def test_the_limit_counts_the_events_that_match(bus: EventBus) -> None:
    for _ in range(3):
        bus.emit("a")
        bus.emit("b")
    assert [event.seq for event in bus.history("a", 2)] == [5, 3]
    assert [event.seq for event in bus.history(key="a", limit=None)] == [5, 3, 1]


def test_a_new_list_is_returned_each_time(bus: EventBus) -> None:
    bus.emit("a")
    bus.history().clear()
    assert names(bus.history()) == ["a"]


def test_a_key_selects_by_exact_name(bus: EventBus) -> None:
    for name in ("tool", "tool.start", "tool.start.now", "tool.end"):
        bus.emit(name)
    assert names(bus.history("tool.start")) == ["tool.start"]
    assert names(bus.history(Tool.START)) == ["tool.start"]
    assert bus.history("model") == []


@pytest.mark.parametrize("key", ["*", "**", None])
def test_a_key_of_every_event_selects_all(bus: EventBus, key: str | None) -> None:
    bus.emit("a.b")
    bus.emit("c")
    assert names(bus.history(key)) == ["c", "a.b"]


PATTERNS = ["a.*", "a.**", "*.b", "a.*.c", "*.*", "*.**", "*.b.*", "é.*", "a.b.**"]
NAMES = ["a", "b", "a.b", "a.bb", "a.b.c", "a.b.c.d", "x.b", "x.b.y", "é.b", "ab.b", "a.é.c"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_selects_what_its_subscribers_get(pattern: str) -> None:
    bus = EventBus(history=100)
    got: list[str] = []
    bus.on(pattern, lambda name, payload: got.append(name))
    for name in NAMES:
        bus.emit(name)
    assert 0 < len(got) < len(NAMES)
    assert list(reversed(names(bus.history(pattern)))) == got


class Base:
    pass


class Derived(Base):
    pass


def test_a_class_selects_published_objects_of_it_and_of_its_subclasses(bus: EventBus) -> None:
    base, derived = Base(), Derived()
    bus.publish(base)
    bus.publish(derived)
    bus.publish("text")
    bus.emit("Base", base)  # not published
    assert [event.payload for event in bus.history(Base)] == [derived, base]
    assert [event.payload for event in bus.history(Derived)] == [derived]
    assert [event.payload for event in bus.history(object)] == ["text", derived, base]
    assert names(bus.history("Base")) == ["Base", "Base"]


def test_an_event_that_takes_the_place_of_a_published_one_is_not_published() -> None:
    bus = EventBus(history=1)
    bus.publish(Base())
    bus.emit("Base", Base())
    assert bus.history(Base) == []
    assert len(bus.history()) == 1


@pytest.mark.parametrize("key", ["", "a..b", "foo*", "a.**.b", "***"])
def test_a_malformed_key_is_refused_as_subscribing_refuses_it(bus: EventBus, key: str) -> None:
    with pytest.raises(ValueError, match="key") as subscribing:
        bus.on(key, print)
    with pytest.raises(ValueError, match="key") as looking:
        bus.history(key)
    assert str(looking.value) == str(subscribing.value)


@pytest.mark.parametrize("key", [1, b"a", ["a"], object()])
def test_a_key_of_another_type_is_refused_as_subscribing_refuses_it(
    bus: EventBus, key: Any
) -> None:
    with pytest.raises(TypeError) as subscribing:
        bus.on(key, print)
    with pytest.raises(TypeError) as looking:
        bus.history(key)
    assert str(looking.value) == str(subscribing.value)


@pytest.mark.parametrize("limit", [True, 1.0, "1", [1]])
def test_a_limit_that_is_no_int_is_refused(bus: EventBus, limit: Any) -> None:
    with pytest.raises(TypeError, match="limit must be an int"):
        bus.history(limit=limit)


def test_a_negative_limit_is_refused(bus: EventBus) -> None:
    with pytest.raises(ValueError, match="limit must be at least 0, not -1"):
        bus.history(limit=-1)


# The option


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1]])
def test_a_size_that_is_no_int_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="history must be an int"):
        EventBus(history=value)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="history must be at least 0, not -1"):
        EventBus(history=-1)


def test_a_size_beyond_what_can_be_counted_is_refused() -> None:
    with pytest.raises(OverflowError, match="history is too large"):
        EventBus(history=10**30)


def test_a_large_size_takes_no_memory_before_there_are_events() -> None:
    bus = EventBus(history=2**60)
    for payload in range(1000):
        bus.emit("a", payload)
    assert [event.payload for event in bus.history(limit=3)] == [999, 998, 997]


def test_a_bus_that_is_initialised_again_forgets_and_keeps_what_it_is_told_to() -> None:
    bus = EventBus(history=2)
    emitter = bus.emitter("a")
    emitter(1)
    bus.__init__(history=0)  # type: ignore[misc]
    emitter(2)
    assert bus.history() == []
    bus.__init__(history=1)  # type: ignore[misc]
    emitter(3)
    emitter(4)
    assert [event.payload for event in bus.history()] == [4]


# Memory


def test_payloads_are_held_until_their_events_are_replaced() -> None:
    bus = EventBus(history=2)
    payload = Payload()
    known = weakref.ref(payload)
    bus.emit("a", payload)
    del payload
    gc.collect()
    assert known() is not None
    bus.emit("b")
    assert known() is not None
    bus.emit("c")
    assert known() is None


def test_a_cycle_through_the_history_is_collected() -> None:
    bus = EventBus(history=5)
    payload: dict[str, Any] = {"bus": bus}
    known = weakref.ref(bus)
    bus.emit("a", payload)
    bus.emit("b", bus.history())
    del bus, payload
    assert is_gone(known)


def test_the_history_goes_with_its_bus() -> None:
    bus = EventBus(history=5)
    payload = Payload()
    known = weakref.ref(payload)
    bus.emit("a", payload)
    event = bus.history()[0]
    del bus, payload
    gc.collect()
    assert known() is event.payload
    del event
    assert known() is None


class EmitsWhenReleased:
    """A payload whose finaliser emits."""

    def __init__(self, bus: EventBus, name: str) -> None:
        self.bus, self.name = bus, name

    def __del__(self) -> None:
        self.bus.emit(self.name)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_replacing_an_event_may_run_a_finaliser_that_emits(size: int) -> None:
    bus = EventBus(history=size)
    for number in range(size):
        bus.emit("a", EmitsWhenReleased(bus, f"released.{number}"))
    bus.emit("b")
    # "b" has replaced the first one, whose end has replaced the second one, and so on.
    expected = [f"released.{number}" for number in reversed(range(size))]
    assert names(bus.history()) == expected[:size]
    assert bus.history()[0].seq == 2 * size + 1


class EmitsWhenCollected:
    """Part of a cycle, so that only the collector ends it."""

    def __init__(self, bus: EventBus, count: int) -> None:
        self.itself = self
        self.bus, self.count = bus, count

    def __del__(self) -> None:
        for number in range(self.count):
            self.bus.emit("collected", number)


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Run the collector at every opportunity."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.usefixtures("eager_collector")
def test_events_that_a_collection_emits_meanwhile_are_kept_in_order(count: int) -> None:
    bus = EventBus(history=3)
    for _ in range(50):
        held = bus.history()  # so that each new event has to be made, which may collect
        EmitsWhenCollected(bus, count)
        bus.emit("a", held[:1])
        numbers = [event.seq for event in bus.history()]
        assert numbers == sorted(numbers, reverse=True)
        assert len(numbers) <= 3
    last = bus.stats()["emitted"]
    assert bus.history()[0].seq == last


def test_an_event_survives_a_copy_of_what_is_kept(bus: EventBus) -> None:
    bus.emit("a", [1])
    event = bus.history()[0]
    assert copy.copy(event).to_dict() == event.to_dict()


@pytest.mark.usefixtures("eager_switching")
def test_threads_emit_and_look_back_at_the_same_time() -> None:
    bus = EventBus(history=7)
    faults: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            numbers = [event.seq for event in bus.history()]
            if numbers != sorted(numbers, reverse=True) or len(numbers) > 7:
                faults.append(f"out of order: {numbers}")

    def emit(thread: int) -> None:
        for payload in range(500):
            bus.emit(f"thread.{thread}", payload)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    emitters = [threading.Thread(target=emit, args=(number,)) for number in range(4)]
    for thread in lookers + emitters:
        thread.start()
    for thread in emitters:
        thread.join()
    stop.set()
    for thread in lookers:
        thread.join()
    assert faults == []
    assert [event.seq for event in bus.history()] == list(range(2000, 1993, -1))


def test_a_forked_child_has_a_history_of_its_own() -> None:
    assert run_isolated("observing_fork.py") == "ok\n"
