"""expect: the async context manager form of wait_for."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from typing import Any

import pytest
from helpers import soon, turns
from loops import on_every_loop

from agent_event_bus import EventBus, Expectation

pytestmark = pytest.mark.usefixtures("nothing_left")


class TestTheEvent:
    @on_every_loop
    async def test_is_there_after_the_block(self, bus: EventBus) -> None:
        async with bus.expect("tool.end", timeout=5) as waiter:
            bus.emit("tool.end", {"rows": 3})
        assert isinstance(waiter, Expectation)
        assert (waiter.event.name, waiter.event.payload) == ("tool.end", {"rows": 3})

    @on_every_loop
    async def test_is_waited_for_at_the_end_of_the_block(self, bus: EventBus) -> None:
        async def work() -> None:
            await turns()
            bus.emit("tool.end", "later")

        async with bus.expect("tool.end") as waiter:
            task = asyncio.ensure_future(work())
        assert waiter.event.payload == "later"
        await task

    async def test_is_the_first_that_matches_and_the_last_that_is_listened_to(
        self, bus: EventBus
    ) -> None:
        async with bus.expect("a") as waiter:
            assert [bus.emit("a", payload) for payload in range(3)] == [1, 0, 0]
        assert waiter.event.payload == 0

    async def test_meets_the_condition(self, bus: EventBus) -> None:
        async with bus.expect("tool.end", where={"tool": "search"}) as waiter:
            bus.emit("tool.end", {"tool": "read"})
            bus.emit("tool.end", {"tool": "search"})
        assert waiter.event.payload == {"tool": "search"}

    async def test_may_be_read_in_the_block_once_it_is_there(self, bus: EventBus) -> None:
        async with bus.expect("a") as waiter:
            bus.emit("a", 1)
            assert waiter.event.payload == 1

    async def test_before_it_is_there_asking_for_it_is_an_error(self, bus: EventBus) -> None:
        async with bus.expect("a") as waiter:
            with pytest.raises(RuntimeError, match="no event has matched 'a' yet"):
                _ = waiter.event
            bus.emit("a")
        assert waiter.event.name == "a"

    async def test_may_come_between_the_call_and_the_entry(self, bus: EventBus) -> None:
        expectation = bus.expect("a")
        bus.emit("a", "early")
        async with expectation as waiter:
            pass
        assert waiter.event.payload == "early"


class TestTimeout:
    async def test_counts_from_the_entry(self, bus: EventBus) -> None:
        expectation = bus.expect("a", timeout=0.05)
        time.sleep(0.06)  # noqa: ASYNC251, the clock must not have been started by the call
        async with expectation as waiter:
            bus.emit("a", 1)
        assert waiter.event.payload == 1

    @on_every_loop
    async def test_on_expiry_the_end_of_the_block_raises(self, bus: EventBus) -> None:
        with pytest.raises(TimeoutError, match=r"'a' within 0.01 s"):
            async with bus.expect("a", timeout=0.01):
                pass
        assert len(bus) == 0

    async def test_that_ran_out_in_the_block_raises_at_its_end(self, bus: EventBus) -> None:
        waiter = await bus.expect("a", timeout=0.01).__aenter__()
        await asyncio.sleep(0.02)
        bus.emit("a", "too late")
        with pytest.raises(TimeoutError):
            await waiter.__aexit__(None, None, None)
        with pytest.raises(RuntimeError, match="no event has matched"):
            _ = waiter.event

    async def test_of_0_takes_what_has_come_by_the_end_of_the_block(self, bus: EventBus) -> None:
        async with bus.expect("a", timeout=0) as waiter:
            await asyncio.sleep(0.01)
            bus.emit("a", 1)
        assert waiter.event.payload == 1
        with pytest.raises(TimeoutError):
            async with bus.expect("a", timeout=0):
                pass

    @pytest.mark.parametrize("timeout", [-1, math.nan, True, "1"])
    def test_that_is_none_is_refused_at_the_call(self, bus: EventBus, timeout: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="timeout must be"):
            bus.expect("a", timeout=timeout)
        assert len(bus) == 0


class TestEnds:
    async def test_an_error_in_the_block_passes_and_unsubscribes(self, bus: EventBus) -> None:
        expectation = bus.expect("a")
        with pytest.raises(KeyError, match="body"):
            async with expectation:
                raise KeyError("body")
        assert len(bus) == 0  # though somebody still has it
        with pytest.raises(RuntimeError, match="no event has matched"):
            _ = expectation.event

    async def test_a_cancellation_of_the_block_passes_and_unsubscribes(self, bus: EventBus) -> None:
        expectation = bus.expect("a")

        async def work() -> None:
            async with expectation:
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await turns()
        assert len(bus) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(bus) == 0

    @on_every_loop
    async def test_a_cancellation_at_its_end_passes_and_unsubscribes(self, bus: EventBus) -> None:
        async def work() -> None:
            async with bus.expect("a", timeout=3600):
                pass

        task = asyncio.ensure_future(work())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(bus) == 0

    def test_dropped_before_it_is_entered_it_unsubscribes(self, bus: EventBus) -> None:
        expectation = bus.expect("a")
        assert len(bus) == 1
        del expectation
        gc.collect()
        assert len(bus) == 0

    async def test_entering_it_again_is_refused(self, bus: EventBus) -> None:
        expectation = bus.expect("a")
        async with expectation:
            bus.emit("a")
        with pytest.raises(RuntimeError, match="cannot be entered twice"):
            async with expectation:
                pass

    async def test_closing_the_bus_in_the_block_raises_at_its_end(self, bus: EventBus) -> None:
        with pytest.raises(RuntimeError, match="the bus was closed"):
            await soon(self._close_in_the_block(bus))
        with pytest.raises(RuntimeError, match="closed"):
            bus.expect("a")

    @staticmethod
    async def _close_in_the_block(bus: EventBus) -> None:
        async with bus.expect("a"):
            await bus.aclose()

    async def test_its_repr_says_how_things_stand(self, bus: EventBus) -> None:
        expectation = bus.expect("a")
        assert repr(expectation) == "<expect('a'): waiting>"
        async with expectation:
            bus.emit("a")
        assert repr(expectation) == "<expect('a'): arrived>"
