"""Buses that are async_only: no handler holds up the loop, and emit_async is the only way."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest
from helpers import LoopThread, soon

from agent_event_bus import EventBus


@pytest.fixture
def async_only() -> EventBus:
    """A bus that is async_only."""
    return EventBus(async_only=True)


async def noop(payload: object) -> None:
    pass


def sync(payload: object) -> None:
    pass


class Sync:
    def method(self, payload: object) -> None:
        pass

    def __call__(self, payload: object) -> None:
        pass


class Async:
    async def method(self, payload: object) -> None:
        pass

    async def __call__(self, payload: object) -> None:
        pass


SYNC_HANDLERS: list[Any] = [
    sync,
    lambda payload: None,
    lambda payload: noop(payload),  # that it returns an awaitable is not known beforehand
    functools.partial(sync),
    Sync().method,
    Sync(),
    print,
]


class TestRefusingSyncHandlers:
    @pytest.mark.parametrize("handler", SYNC_HANDLERS)
    def test_every_way_to_subscribe_refuses_them_and_says_why(
        self, async_only: EventBus, handler: Any
    ) -> None:
        for subscribe in (
            lambda: async_only.on("a", handler),
            lambda: async_only.on("a")(handler),
            lambda: async_only.once("a", handler),
            lambda: async_only.subscribe(["a", "b"], handler),
            lambda: async_only.on("*", handler),
        ):
            with pytest.raises(TypeError, match=r"is sync, and the bus is async_only"):
                subscribe()
        assert len(async_only) == 0

    @pytest.mark.parametrize("weak", [False, True])
    def test_the_error_names_the_handler_and_both_ways_out(
        self, async_only: EventBus, weak: bool
    ) -> None:
        with pytest.raises(TypeError) as caught:
            async_only.on("a", sync, weak=weak)
        assert str(caught.value) == (
            "handler sync is sync, and the bus is async_only: make it a coroutine function, or "
            "subscribe it with offload=True"
        )

    @pytest.mark.parametrize("handler", [noop, functools.partial(noop), Async().method, Async()])
    def test_async_handlers_of_all_kinds_are_taken(
        self, async_only: EventBus, handler: Any
    ) -> None:
        async_only.on("a", handler)
        assert asyncio.run(async_only.emit_async("a")) == 1

    async def test_an_offloaded_sync_handler_is_taken_and_never_runs_in_the_loops_thread(
        self, async_only: EventBus
    ) -> None:
        threads: list[threading.Thread] = []
        async_only.on("a", lambda payload: threads.append(threading.current_thread()), offload=True)
        assert await soon(async_only.emit_async("a")) == 1
        assert threads[0] is not threading.current_thread()

    async def test_what_the_bus_subscribes_itself_may_be_sync(self, async_only: EventBus) -> None:
        got: list[Any] = []
        subscription = async_only._subscribe_internal(["a", "b"], got.append, once=True)
        assert subscription.keys == ("a", "b")
        assert await soon(async_only.emit_async("b", 1)) == 1
        assert got == [1]
        assert not subscription.active

    async def test_waiting_and_streams_work(self, async_only: EventBus) -> None:
        waiter = async_only.wait_for("a")
        async with async_only.stream("a") as stream, async_only.expect("a", timeout=20) as expected:
            assert await soon(async_only.emit_async("a", 1)) == 3
            assert (await soon(stream.__anext__())).payload == 1
        assert expected.event.payload == (await soon(waiter)).payload == 1

    def test_other_bad_handlers_are_refused_as_ever(self, async_only: EventBus) -> None:
        wrong: Any = 3
        with pytest.raises(TypeError, match="handler must be callable"):
            async_only.on("a", wrong)


class TestRefusingEmit:
    @pytest.mark.parametrize("handled", [False, True])
    def test_emit_and_emitters_raise_and_name_emit_async(
        self, async_only: EventBus, handled: bool
    ) -> None:
        if handled:
            async_only.on("a", noop)
        for emit in (async_only.emit, lambda name: async_only.emitter(name)()):
            with pytest.raises(RuntimeError, match=r"async_only: await emit_async\(\) instead"):
                emit("a")

    async def test_emit_raises_inside_a_loop_too_and_schedules_nothing(
        self, async_only: EventBus
    ) -> None:
        async_only.on("a", noop)
        with pytest.raises(RuntimeError, match="async_only"):
            async_only.emit("a")
        assert async_only._pending() == []

    async def test_emit_async_of_the_bus_and_of_an_emitter_deliver(
        self, async_only: EventBus
    ) -> None:
        got: list[Any] = []

        @async_only.on("a")
        async def handler(payload: object) -> None:
            got.append(payload)

        assert await soon(async_only.emit_async("a", 1)) == 1
        assert await soon(async_only.emitter("a").emit_async(2)) == 1
        assert got == [1, 2]

    def test_emit_threadsafe_delivers_since_it_is_emit_async(
        self, async_only: EventBus, other: LoopThread
    ) -> None:
        async_only.on("a", noop)
        async_only.bind_loop(other.loop)
        assert async_only.emit_threadsafe("a").result(20) == 1

    @pytest.mark.parametrize("handled", [False, True])
    def test_publish_raises_too_and_names_publish_async(
        self, async_only: Any, handled: bool
    ) -> None:
        got: list[Any] = []

        async def handler(payload: object) -> None:
            got.append(payload)

        if handled:
            async_only.on(int, handler)
        with pytest.raises(RuntimeError, match=r"async_only: await publish_async\(\) instead"):
            async_only.publish(1)
        assert got == []
        assert asyncio.run(async_only.publish_async(2)) == handled
        assert got == [2] * handled

    def test_collect_raises_too_and_names_collect_async(self, async_only: EventBus) -> None:
        async_only.on("a", noop)
        with pytest.raises(RuntimeError, match=r"async_only: await collect_async\(\) instead"):
            async_only.collect("a")
        (outcome,) = asyncio.run(async_only.collect_async("a"))
        assert outcome.status == "ok"

    def test_a_late_event_on_a_closed_one_is_dropped_as_on_any_bus(
        self, async_only: EventBus, records: list[Any]
    ) -> None:
        asyncio.run(async_only.aclose())
        assert async_only.emit("a") == 0
        assert async_only.emitter("a")() == 0
        assert async_only.publish(1) == 0
        assert len(records) == 1


class TestTheOption:
    def test_it_is_off_by_default(self, bus: EventBus) -> None:
        bus.on("a", sync)
        assert bus.emit("a") == 1

    def test_it_must_be_a_bool(self) -> None:
        wrong: Any = "yes"
        with pytest.raises(TypeError, match="async_only must be a bool"):
            EventBus(async_only=wrong)

    def test_a_bus_initialised_again_follows_the_new_options(self, async_only: EventBus) -> None:
        async_only.__init__()  # type: ignore[misc]
        async_only.on("a", sync)
        assert async_only.emit("a") == 1
