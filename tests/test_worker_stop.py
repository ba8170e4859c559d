"""How a worker bus ends: stopped, out of time, cancelled from outside; and what it keeps then."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from helpers import DEADLINE, Gate, soon, turns

from agent_event_bus.worker import Event, EventBus, InboundEvent


async def in_hand(bus: EventBus, *contents: object) -> Gate:
    """Start a bus, have the first of some events in hand and the others queued."""
    gate = Gate()
    bus.subscribe(Event, gate.wait)
    bus.start()
    for content in contents:
        await bus.publish(Event("s", content))
    await turns()
    return gate


async def delivered_next(bus: EventBus) -> list[Any]:
    """Run the bus again and return the contents of what it delivers."""
    log: list[Any] = []
    with bus.subscribe(Event, lambda event: log.append(event.content)):
        bus.start()
        await soon(bus.join())
        await soon(bus.stop())
    return log


class TestStop:
    async def test_the_event_in_hand_is_finished_and_the_rest_kept_in_order(self) -> None:
        bus = EventBus()
        gate = await in_hand(bus, 1, 2, 3)
        stopping = asyncio.ensure_future(bus.stop())
        await turns()
        assert not stopping.done()
        assert bus.is_running()
        gate.gate.set()
        await soon(stopping)
        assert gate.ended == "passed"
        assert not bus.is_running()
        assert not bus.has_crashed()
        await bus.publish(Event("s", 4))
        assert await delivered_next(bus) == [2, 3, 4]

    async def test_idle_it_ends_at_once(self) -> None:
        bus = EventBus()
        task = bus.start()
        await turns()
        await soon(bus.stop())
        assert task.done()
        assert task.result() is None

    async def test_before_start_and_twice_it_does_nothing(self) -> None:
        bus = EventBus()
        await soon(bus.stop())
        await bus.publish(Event("s", 1))
        assert await delivered_next(bus) == [1]
        await soon(bus.stop())

    async def test_before_its_first_step_it_delivers_nothing(self) -> None:
        bus = EventBus()
        await bus.publish(Event("s", 1))
        bus.start()
        await bus.stop()  # in this very turn
        assert await delivered_next(bus) == [1]

    async def test_a_handler_may_stop_the_bus(self) -> None:
        bus = EventBus()
        log: list[object] = []

        async def handler(event: Event) -> None:
            await bus.stop()
            log.append(event.content)

        subscription = bus.subscribe(Event, handler)
        await bus.publish(Event("s", 1))
        await bus.publish(Event("s", 2))
        await soon(bus.start())
        assert log == [1]
        subscription.cancel()
        assert await delivered_next(bus) == [2]

    async def test_so_may_a_task_that_a_handler_waits_for(self) -> None:
        bus = EventBus()

        async def handler(event: Event) -> None:
            await asyncio.ensure_future(bus.stop())

        bus.subscribe(Event, handler)
        await bus.publish(Event("s", 1))
        await soon(bus.start())
        assert not bus.is_running()
        assert not bus.has_crashed()

    async def test_to_cancel_who_waits_does_not_undo_it(self) -> None:
        bus = EventBus()
        gate = await in_hand(bus, 1, 2)
        stopping = asyncio.ensure_future(bus.stop())
        await turns()
        stopping.cancel()
        await asyncio.wait([stopping])
        assert stopping.cancelled()
        assert gate.ended == ""
        gate.gate.set()
        await soon(bus.start())  # which is the task that is on its way to its end
        assert gate.ended == "passed"
        assert await delivered_next(bus) == [2]

    async def test_several_may_wait_for_it(self) -> None:
        bus = EventBus()
        gate = await in_hand(bus, 1)
        stopping = [asyncio.ensure_future(bus.stop()) for _ in range(3)]
        await turns()
        gate.gate.set()
        await soon(asyncio.gather(*stopping))
        assert not bus.is_running()

    async def test_one_that_ran_can_be_started_again_and_again(self) -> None:
        bus = EventBus()
        for content in range(5):
            await bus.publish(Event("s", content))
            assert await delivered_next(bus) == [content]


class TestTimeout:
    async def test_out_of_time_the_handlers_are_cancelled_and_the_event_is_kept(self) -> None:
        bus = EventBus()
        gate = await in_hand(bus, 1, 2)
        await soon(bus.stop(timeout=0.01))
        assert gate.ended == "cancelled"
        assert not bus.is_running()
        assert not bus.has_crashed()
        bus.unsubscribe(gate.wait)
        assert await delivered_next(bus) == [1, 2]

    async def test_handlers_that_were_done_with_it_see_it_twice(self) -> None:
        bus = EventBus()
        done: list[object] = []
        bus.subscribe(Event, lambda event: done.append(event.content))
        gate = await in_hand(bus, 1)
        await soon(bus.stop(timeout=0))
        bus.unsubscribe(gate.wait)
        assert await delivered_next(bus) == [1]
        assert done == [1, 1]

    async def test_in_time_nothing_is_cancelled(self) -> None:
        bus = EventBus()
        gate = await in_hand(bus, 1)
        stopping = asyncio.ensure_future(bus.stop(timeout=DEADLINE))
        await turns()
        gate.gate.set()
        await soon(stopping)
        assert gate.ended == "passed"

    async def test_of_0_does_not_wait_for_handlers(self) -> None:
        bus = EventBus()
        gate = await in_hand(bus, 1)
        await soon(bus.stop(timeout=0))
        assert gate.ended == "cancelled"

    async def test_of_0_before_its_first_step_it_delivers_nothing(self) -> None:
        bus = EventBus()
        await bus.publish(Event("s", 1))
        bus.start()
        await bus.stop(timeout=0)
        assert not bus.is_running()
        assert await delivered_next(bus) == [1]

    async def test_a_run_that_somebody_awaits_returns(self) -> None:
        bus = EventBus()
        gate = Gate()
        bus.subscribe(Event, gate.wait)
        await bus.publish(Event("s", 1))
        after: list[str] = []

        async def main() -> None:
            await bus.run()
            await turns()
            after.append("not cancelled")

        task = asyncio.ensure_future(main())
        await turns()
        await soon(bus.stop(timeout=0))
        await soon(task)
        assert after == ["not cancelled"]
        assert gate.ended == "cancelled"

    async def test_also_when_two_have_no_more_time(self) -> None:
        bus = EventBus()
        gate = Gate()
        bus.subscribe(Event, gate.wait)
        await bus.publish(Event("s", 1))

        async def main() -> str:
            await bus.run()
            await turns()
            return "not cancelled"

        task = asyncio.ensure_future(main())
        await turns()
        await soon(asyncio.gather(bus.stop(timeout=0), bus.stop(timeout=0)))
        assert await soon(task) == "not cancelled"
        assert gate.ended == "cancelled"

    @pytest.mark.parametrize("timeout", [-1, math.nan])
    async def test_below_0_is_refused(self, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout must not be negative"):
            await EventBus().stop(timeout)

    @pytest.mark.parametrize("timeout", ["1", True])
    async def test_what_is_no_number_is_refused(self, timeout: Any) -> None:
        with pytest.raises(TypeError, match="timeout must be a number"):
            await EventBus().stop(timeout)


class TestCancelledFromOutside:
    async def test_its_handlers_are_cancelled_and_the_event_is_kept(self) -> None:
        bus = EventBus()
        gate = await in_hand(bus, 1, 2)
        task = bus.start()
        task.cancel()
        await soon(asyncio.wait([task]))
        assert task.cancelled()
        assert gate.ended == "cancelled"
        assert not bus.has_crashed()
        bus.unsubscribe(gate.wait)
        assert await delivered_next(bus) == [1, 2]

    async def test_while_it_is_idle_it_ends(self) -> None:
        bus = EventBus()
        task = bus.start()
        await turns()
        task.cancel()
        await soon(asyncio.wait([task]))
        assert not bus.is_running()
        await bus.publish(Event("s", 1))
        assert await delivered_next(bus) == [1]

    async def test_before_its_first_step_a_stop_is_forgotten(self) -> None:
        bus = EventBus()
        await bus.publish(Event("s", 1))
        task = bus.start()
        stopping = asyncio.ensure_future(bus.stop())
        task.cancel()
        await soon(stopping)
        assert await delivered_next(bus) == [1]

    async def test_during_a_stop_it_is_cancelled(self) -> None:
        bus = EventBus()
        gate = await in_hand(bus, 1)
        task = bus.start()
        stopping = asyncio.ensure_future(bus.stop())
        await turns()
        task.cancel()
        await soon(stopping)
        assert task.cancelled()
        bus.unsubscribe(gate.wait)
        assert await delivered_next(bus) == [1]

    async def test_who_joins_is_told(self) -> None:
        bus = EventBus()
        await in_hand(bus, 1)
        joining = asyncio.ensure_future(bus.join())
        await turns()
        bus.start().cancel()
        with pytest.raises(RuntimeError, match="ended before its queue was empty"):
            await soon(joining)


class TestWhatIsNoException:
    def test_a_keyboard_interrupt_of_a_handler_ends_the_program_and_loses_nothing(self) -> None:
        bus = EventBus()

        def interrupt(event: Event) -> None:
            raise KeyboardInterrupt

        async def main() -> None:
            bus.subscribe(InboundEvent, interrupt)
            await bus.publish(InboundEvent("s", 1))
            await bus.run()

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        assert not bus.is_running()
        bus.unsubscribe(interrupt)
        assert asyncio.run(delivered_next(bus)) == [1]
