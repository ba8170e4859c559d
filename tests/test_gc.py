"""Memory: cycles are collected, nothing is kept longer than it is needed, nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import tracemalloc
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from helpers import failing, is_gone

from agent_event_bus import EventBus


class Payload:
    """Something that can be weakly referenced."""


class Handler:
    """A sync handler that can be weakly referenced."""

    def __call__(self, *args: object) -> None: ...


class AsyncHandler:
    """An async handler that can be weakly referenced."""

    async def __call__(self, *args: object) -> None:
        await asyncio.sleep(0)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Keep the log capture of pytest from holding on to exceptions."""
    logger = logging.getLogger("agent_event_bus")
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(logging.NOTSET)


ROUNDS = 100


class expect_no_growth:  # noqa: N801
    """Tells a leak from free lists and caches of the interpreter, which fill up and then stay.

    Iterating gives batch after batch to do `ROUNDS` times something in, until one batch no longer
    adds an object, of 16 bytes at least, per round; when none does so, it is a leak.
    """

    def __iter__(self) -> Iterator[range]:
        tracemalloc.start()
        try:
            size = 0
            for _ in range(20):
                yield range(ROUNDS)
                gc.collect()
                before, size = size, tracemalloc.get_traced_memory()[0]
                if size - before < ROUNDS * 16:
                    return
            pytest.fail("memory grows with every round")
        finally:
            tracemalloc.stop()


class TestCycles:
    @pytest.mark.parametrize("key", ["a", "*"])
    @pytest.mark.parametrize("emitted", [False, True])
    def test_a_bus_whose_handler_refers_to_it_is_collected(self, key: str, emitted: bool) -> None:
        bus = EventBus()

        class Observer(Handler):
            owner = bus

        bus.on(key, Observer())
        if emitted:
            bus.emit("a")
            bus.emit("b")
            bus.handlers("a")
        ref = weakref.ref(bus)
        del bus, Observer
        assert is_gone(ref)

    def test_a_bus_that_is_its_own_handler_is_collected(self) -> None:
        bus = EventBus()
        bus.on("a", bus.emit)
        bus.on("a", bus.emit_async)
        bus.on("b", bus.on)
        ref = weakref.ref(bus)
        del bus
        assert is_gone(ref)

    def test_a_bus_referenced_by_its_logger_and_its_on_error_is_collected(self) -> None:
        class Logger:
            bus: Any = None

            def error(self, *args: object, **options: object) -> None: ...

            warning = error

            def on_error(self, *args: object) -> None: ...

        bus_type: Any = EventBus
        logger = Logger()
        bus = logger.bus = bus_type(logger=logger, on_error=logger.on_error)
        bus.on("a", failing(ValueError()))
        bus.emit("a")
        ref = weakref.ref(bus)
        del bus, logger
        assert is_gone(ref)

    def test_a_subscription_held_by_its_own_handler_is_collected(self, bus: EventBus) -> None:
        handler = Handler()
        subscription = bus.subscribe("a", handler)
        vars(handler)["subscription"] = subscription
        ref = weakref.ref(subscription)
        subscription.cancel()
        del subscription, handler
        assert is_gone(ref)

    def test_a_decorator_that_was_never_applied_is_collected(self) -> None:
        bus = EventBus()
        decorator = bus.on("a")
        ref = weakref.ref(bus)
        del bus
        assert ref() is not None or is_gone(ref)
        del decorator
        assert is_gone(ref)

    def test_an_emission_that_is_its_own_payload_is_collected(self) -> None:
        bus = EventBus()
        payload: list[Any] = []
        emission = bus.emit_async("a", payload)
        payload.append(emission)
        emission.close()
        ref = weakref.ref(bus)
        del bus, emission, payload
        assert is_gone(ref)

    async def test_a_suspended_emission_that_was_dropped_is_collected(self) -> None:
        bus = EventBus()
        bus.on("a", AsyncHandler())
        emission = bus.emit_async("a")
        waiting_for = emission.send(None)
        ref = weakref.ref(bus)
        del emission, waiting_for, bus
        for _ in range(5):
            await asyncio.sleep(0)
        assert is_gone(ref)


class TestRelease:
    """What the bus no longer needs is released at once, caches included."""

    @pytest.mark.parametrize("kind", [Handler, AsyncHandler])
    @pytest.mark.parametrize("key", ["a", "*"])
    @pytest.mark.parametrize("remove", ["off", "clear", "cancel", "once", "bus"])
    def test_a_removed_handler(self, kind: Any, key: str, remove: str) -> None:
        bus = EventBus()
        handler = kind()
        ref = weakref.ref(handler)
        subscription = bus.subscribe(key, handler, once=remove == "once")
        if remove != "once":
            bus.emit("a")
            bus.emit("b")
            assert bus.has_handlers("a")
        if remove == "off":
            bus.off(key, handler)
        elif remove == "clear":
            bus.clear()
        elif remove == "cancel":
            subscription.cancel()
        elif remove == "once":
            bus.emit("a")
        else:
            del bus
        del subscription, handler
        assert is_gone(ref)

    @pytest.mark.parametrize("fails", [False, True])
    @pytest.mark.parametrize("is_async", [False, True])
    @pytest.mark.parametrize("envelope", [False, True])
    @pytest.mark.usefixtures("quiet")
    def test_a_payload_after_its_emission(
        self, bus: EventBus, fails: bool, is_async: bool, envelope: bool
    ) -> None:
        def handler(event: object) -> None:
            if fails:
                raise ValueError

        async def async_handler(event: object) -> None:
            await asyncio.sleep(0)
            handler(event)

        bus.subscribe("a", async_handler if is_async else handler, envelope=envelope)

        def emit_both_ways() -> weakref.ref[Payload]:
            payload = Payload()
            bus.emit("a", payload)
            asyncio.run(bus.emit_async("a", payload))
            return weakref.ref(payload)

        assert is_gone(emit_both_ways())

    @pytest.mark.parametrize("fails", [False, True])
    @pytest.mark.usefixtures("quiet")
    def test_reference_counts_are_unchanged_by_emitting(self, bus: EventBus, fails: bool) -> None:
        def handler(*args: object) -> None:
            if fails:
                raise ValueError

        name, payload = "".join(["some", ".", "name"]), Payload()
        bus.on(name, handler)
        bus.on("*", handler)
        bus.emit(name, payload)
        gc.collect()
        before = [sys.getrefcount(thing) for thing in (name, payload, handler, bus)]
        for _ in range(100):
            bus.emit(name, payload)
        gc.collect()
        after = [sys.getrefcount(thing) for thing in (name, payload, handler, bus)]
        assert after == before

    def test_a_payload_of_an_emission_that_was_never_awaited(self, bus: EventBus) -> None:
        payload = Payload()
        ref = weakref.ref(payload)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dropped = bus.emit_async("a", payload)
            del payload, dropped
            assert is_gone(ref)

    async def test_a_payload_of_a_finished_emission_that_is_kept(self, bus: EventBus) -> None:
        payload = Payload()
        ref = weakref.ref(payload)
        emission = bus.emit_async("a", payload)
        await emission
        del payload
        assert is_gone(ref)

    async def test_a_cancelled_emission_keeps_nothing(self, bus: EventBus) -> None:
        handler = AsyncHandler()
        refs = [weakref.ref(handler)]
        bus.on("a", handler)
        task = asyncio.create_task(bus.emit_async("a"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        bus.clear()
        del task, handler
        await asyncio.sleep(0)
        assert is_gone(refs[0])


def subscribe_and_cancel(bus: EventBus) -> None:
    bus.subscribe(["a", "b", "*"], lambda *args: None, priority=3).cancel()


def subscribe_and_off(bus: EventBus) -> None:
    handler = bus.on("a")(lambda payload: None)
    bus.off("a", handler)


def once_and_emit(bus: EventBus) -> None:
    bus.once("a", lambda payload: None)
    bus.emit("a", [])


def fail(bus: EventBus) -> None:
    bus.once("a", failing(ValueError("x")))
    bus.emit("a", [])


def refuse(bus: Any) -> None:
    for call in (
        lambda: bus.on("a..b", print),
        lambda: bus.subscribe(["a", 5], print),
        lambda: bus.on("a", 5),
        lambda: bus.on("a", print, bogus=1),
        lambda: bus.emit("*"),
        lambda: bus.emit(5),
        lambda: bus.off(),
        lambda: EventBus(bogus=1),  # type: ignore[call-arg]
    ):
        with pytest.raises((TypeError, ValueError)):
            call()


def emit_async_by_hand(bus: EventBus) -> None:
    bus.once("a", lambda payload: None)
    emission = bus.emit_async("a", [])
    with pytest.raises(StopIteration):
        emission.send(None)


def never_awaited(bus: EventBus) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dropped = bus.emit_async("a", [])
        del dropped


def envelope(bus: EventBus) -> None:
    bus.subscribe("a", lambda event: event.to_dict(), envelope=True, once=True)
    bus.emit("a", [])


def a_whole_bus(bus: EventBus) -> None:
    other = EventBus("other")
    other.on("a", other.emit)
    other.handlers("a")
    repr(other)


def new_names(bus: EventBus) -> None:
    name = f"name.{id(object())}.{len(bus)}"
    bus.subscribe(name, print).cancel()


@pytest.mark.parametrize(
    "work",
    [
        subscribe_and_cancel,
        subscribe_and_off,
        once_and_emit,
        fail,
        refuse,
        emit_async_by_hand,
        never_awaited,
        envelope,
        a_whole_bus,
        new_names,
    ],
    ids=lambda work: work.__name__,
)
@pytest.mark.usefixtures("quiet")
def test_doing_it_a_thousand_times_takes_no_more_memory_than_doing_it_once(
    bus: EventBus, work: Callable[[EventBus], None]
) -> None:
    for rounds in expect_no_growth():
        for _ in rounds:
            work(bus)


@pytest.mark.usefixtures("quiet")
def test_async_deliveries_leak_nothing(bus: EventBus) -> None:
    class Work:
        async def suspends(self, payload: object) -> None:
            await asyncio.sleep(0)

        async def returns(self, payload: object) -> None: ...

        async def fails(self, payload: object) -> None:
            await asyncio.sleep(0)
            raise ValueError

    work = Work()
    for method in (work.suspends, work.returns, work.fails):
        bus.on("a", method)

    async def main() -> None:
        for _ in expect_no_growth():
            await batch()

    async def batch() -> None:
        for _ in range(ROUNDS):
            await bus.emit_async("a", [])
            bus.emit("a", [])
            await bus.drain()
            task = asyncio.create_task(bus.emit_async("a", []))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())


def test_collecting_at_every_allocation_finds_nothing_half_made(bus: EventBus) -> None:
    log: list[Any] = []

    async def main() -> None:
        for number in range(20):
            with bus.subscribe(["a", "*"], lambda payload: log.append(payload), envelope=True):
                bus.once("a", failing(ValueError()))
                bus.subscribe("a", AsyncHandler(), once=True)
                assert await bus.emit_async("a", number) == 3
                bus.subscribe("a", AsyncHandler(), once=True)
                assert bus.emit("a", number) == 2
            await bus.drain()

    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        asyncio.run(main())
    finally:
        gc.set_threshold(*before)
    assert [event.payload for event in log] == [n for n in range(20) for _ in range(2)]


class TestSubclass:
    def test_it_may_add_attributes_and_override_methods(self) -> None:
        class Loud(EventBus):
            def __init__(self, volume: int, name: str) -> None:
                super().__init__(name)
                self.volume = volume

            def emit(self, name: Any, payload: Any = None, /) -> int:
                return super().emit(name, payload) * self.volume

        bus = Loud(11, "loud")
        bus.on("a", lambda payload: None)
        assert bus.emit("a") == 11
        assert bus.name == "loud"

    def test_it_is_collected_with_its_own_attributes(self) -> None:
        class Holder(EventBus):
            pass

        bus: Any = Holder()
        bus.me = bus
        bus.on("a", bus.emit)
        ref = weakref.ref(bus)
        del bus
        assert is_gone(ref)

    def test_one_with_slots_is_as_good(self) -> None:
        class Slotted(EventBus):
            __slots__ = ("extra",)
            extra: EventBus

        bus = Slotted()
        bus.extra = bus
        ref = weakref.ref(bus)
        del bus
        assert is_gone(ref)

    def test_one_that_forgets_super_init_never_crashes(self) -> None:
        class Forgetful(EventBus):
            def __init__(self) -> None:
                pass

        log: list[object] = []

        def async_part(bus: EventBus) -> None:
            async def main() -> None:
                await bus.emit_async("a")
                await bus.drain()
                await bus.aclose()

            asyncio.run(main())

        uses: list[Callable[[EventBus], object]] = [
            lambda bus: bus.on("a", log.append),
            lambda bus: bus.emit("a", 1),
            lambda bus: bus.handlers("a"),
            lambda bus: bus.has_handlers("a"),
            lambda bus: bus.off("a", log.append),
            lambda bus: bus.clear(),
            lambda bus: bus.bind_loop(None),
            len,
            repr,
            bool,
            lambda bus: (bus.name, bus.closed),
            async_part,
        ]
        bus = Forgetful()
        for use in uses:
            with contextlib.suppress(RuntimeError):  # refusing is as good as working
                use(bus)
        assert log in ([], [1])

    def test_initialising_a_bus_twice_never_crashes(self, bus: EventBus) -> None:
        log: list[object] = []
        bus.on("a", log.append)
        again: Any = bus.__init__  # type: ignore[misc]
        for name in ("one", "two"):
            try:
                again(name)
            except RuntimeError:
                break
        bus.on("b", log.append)
        assert bus.emit("b", 1) == 1
        assert log[-1] == 1


def test_all_types_are_known_to_the_collector(bus: EventBus) -> None:
    subscription = bus.subscribe("a", print)
    emission = bus.emit_async("a")
    for thing in (bus, subscription, emission):
        assert gc.is_tracked(thing)
        assert weakref.ref(thing)() is thing
    emission.close()
    assert any(referent is print for referent in gc.get_referents(subscription))
