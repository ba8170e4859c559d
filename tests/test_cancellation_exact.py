"""Cancelling an emission at every moment it can be hit, on every loop.

test_cancellation.py has the rules; here are the moments and the combinations.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from helpers import DEADLINE, Handler, Task, anote, begin, lingering, soon, turns
from loops import on_every_loop

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


def waiting(log: list[str], label: str = "waits") -> Handler:
    """An async handler that waits until it is cancelled, and tells `log` that it was."""

    async def handler(payload: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append(label)
            raise

    return handler


async def is_cancelled(task: Task) -> bool:
    """Wait for a task; return whether it ended with a cancellation."""
    await asyncio.wait([task], timeout=DEADLINE)
    assert task.done()
    return task.cancelled()


class TestTheMoment:
    @pytest.mark.parametrize(
        "kinds", ["", "s", "w", "rw", "wr", "swrw", "www"], ids=lambda kinds: kinds or "nothing"
    )
    @on_every_loop
    async def test_in_the_turn_in_which_it_starts_it_may_finish_but_leaves_no_handler_behind(
        self, bus: EventBus, kinds: str
    ) -> None:
        log: list[str] = []
        for kind in kinds:  # a sync handler, one that returns at once, and one that waits
            if kind == "s":
                bus.on("a", lambda payload: log.append("s"))
            else:
                bus.on("a", anote(log, "r") if kind == "r" else waiting(log, "w"))
        task: Task = asyncio.ensure_future(bus.emit_async("a"))
        await asyncio.sleep(0)
        suspended = "w" in kinds
        assert task.done() is not suspended
        assert task.cancel() is suspended
        assert await is_cancelled(task) is suspended
        assert sorted(log) == sorted(kinds)
        if not suspended:
            assert task.result() == len(kinds)

    @pytest.mark.parametrize("position", [0, 1, 2])
    @pytest.mark.parametrize("then", ["returns", "fails", "waits"])
    @on_every_loop
    async def test_from_the_first_step_of_a_handler_nobody_is_left_unfinished(
        self, bus: EventBus, position: int, then: str, records: Records
    ) -> None:
        log: list[str] = []
        emission: list[Task] = []

        async def cancels(payload: object) -> None:
            assert emission[0].cancel()
            log.append("cancels")
            if then == "fails":
                raise ValueError("out of tools")
            if then == "waits":
                await waiting(log, "hit too")(payload)

        handlers = [waiting(log, "0"), waiting(log, "1")]
        handlers.insert(position, cancels)
        for handler in handlers:
            bus.on("a", handler)
        emission.append(asyncio.ensure_future(bus.emit_async("a")))
        assert await is_cancelled(emission[0])
        # Whether handlers after it are started at all is not promised; that they end is.
        assert "cancels" in log
        assert set(map(str, range(position))) <= set(log)
        assert ("hit too" in log) is (then == "waits")
        assert len(records) == (then == "fails")

    @on_every_loop
    async def test_of_a_handler_that_only_ever_gives_up_its_turn_it_is_raised_there(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await turns(1000)  # bare yields: there is no future to cancel
            except asyncio.CancelledError:
                log.append("hit")
                raise

        task: Task = asyncio.ensure_future(bus.emit_async("a"))
        await asyncio.sleep(0)
        task.cancel()
        assert await is_cancelled(task)
        assert log == ["hit"]

    @on_every_loop
    async def test_when_what_a_handler_waits_for_is_there_already_it_may_finish(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]

        def make(future: asyncio.Future[None]) -> Handler:
            async def handler(payload: object) -> None:
                try:
                    await future
                    log.append("finished")
                except asyncio.CancelledError:
                    log.append("cancelled")
                    raise

            return handler

        for future in futures:
            bus.on("a", make(future))
        task = await begin(bus)
        futures[0].set_result(None)
        futures[1].set_result(None)
        task.cancel()
        assert await is_cancelled(task)
        assert len(log) == 3
        assert futures[2].cancelled()

    @on_every_loop
    async def test_a_cancellation_that_comes_with_the_last_result_is_not_lost(
        self, bus: EventBus
    ) -> None:
        gate = asyncio.Event()
        task: Task

        @bus.on("a")
        async def handler(payload: object) -> None:
            await gate.wait()
            task.cancel()

        task = await begin(bus)
        gate.set()
        assert await is_cancelled(task)


class TestTwice:
    @pytest.mark.parametrize("pause", [0, 1, 3])
    @on_every_loop
    async def test_handlers_that_clean_up_are_awaited_both_times(
        self, bus: EventBus, pause: int
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                log.append("cleaning")
                try:
                    await turns(4)
                finally:
                    log.append("clean")

        bus.on("a", waiting(log))
        task = await begin(bus)
        task.cancel()
        await turns(pause)
        task.cancel()
        assert await is_cancelled(task)
        log.append("over")
        assert sorted(log) == ["clean", "cleaning", "over", "waits"]
        assert log[-1] == "over"

    @on_every_loop
    async def test_a_handler_that_swallows_the_first_is_hit_by_the_second(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def stubborn(payload: object) -> None:
            for _ in range(2):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    log.append("swallowed")

        task = await begin(bus)
        task.cancel()
        await turns()
        assert not task.done()
        assert log == ["swallowed"]
        task.cancel()
        assert await is_cancelled(task)
        assert log == ["swallowed"] * 2


class TestHandlersOfEveryKindTogether:
    @on_every_loop
    async def test_each_settles_in_its_way_and_the_cancellation_comes_out_last(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[str] = []
        cleanup = asyncio.Event()

        @bus.on("a")
        async def swallows(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("swallows")

        @bus.on("a")
        async def raises_in_finally(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                log.append("raises")
                raise ValueError("in finally")

        @bus.on("a")
        async def takes_long(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await cleanup.wait()
                log.append("takes long")

        bus.on("a", waiting(log))
        bus.on("a", anote(log, "returned"))
        task = await begin(bus)
        task.cancel()
        await turns(10)
        assert not task.done()
        assert sorted(log) == ["raises", "returned", "swallows", "waits"]
        cleanup.set()
        assert await is_cancelled(task)
        assert log[-1] == "takes long"
        assert [record.levelno for record in records] == [logging.ERROR]

    @pytest.mark.parametrize("cleanup", ["quick", "long", "failing"])
    @on_every_loop
    async def test_a_wait_for_that_times_out_raises_after_all_have_settled(
        self, bus: EventBus, cleanup: str, records: Records
    ) -> None:
        log: list[str] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                if cleanup == "long":
                    await asyncio.sleep(0.03)
                log.append("settled")
                if cleanup == "failing":
                    raise ValueError("in finally")

        bus.on("a", waiting(log))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bus.emit_async("a"), 0.01)
        assert sorted(log) == ["settled", "waits"]
        assert len(records) == (cleanup == "failing")

    @on_every_loop
    async def test_a_wait_for_that_does_not_time_out_changes_nothing(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.on("a", anote(log, "returned"))

        @bus.on("a")
        async def suspends(payload: object) -> None:
            await turns()
            log.append("resumed")

        assert await asyncio.wait_for(bus.emit_async("a"), DEADLINE) == 2
        assert log == ["returned", "resumed"]


class TestByHand:
    """A suspended emission that is closed or thrown into, without a task around it."""

    @on_every_loop
    async def test_closing_it_cancels_every_suspended_handler_and_their_tasks_end(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []
        for label in ("0", "1", "2"):
            bus.on("a", waiting(log, label))
        emission = bus.emit_async("a")
        emission.send(None)
        await turns()
        emission.close()
        emission.close()
        await turns()
        assert sorted(log) == ["0", "1", "2"]
        with pytest.raises(RuntimeError):
            emission.send(None)

    @pytest.mark.parametrize(
        "error", [asyncio.CancelledError("why"), ValueError("thrown"), KeyboardInterrupt()]
    )
    @on_every_loop
    async def test_what_is_thrown_in_comes_out_once_the_handlers_have_settled(
        self, bus: EventBus, error: BaseException
    ) -> None:
        log: list[str] = []
        bus.on("a", waiting(log))
        emission = bus.emit_async("a")
        emission.send(None)
        await turns()
        emission.throw(error)  # goes on waiting, for the handlers
        await turns()
        assert log == ["waits"]
        with pytest.raises(type(error)) as caught:
            emission.send(None)
        assert caught.value is error

    @on_every_loop
    async def test_a_second_throw_while_handlers_clean_up_does_not_abandon_them(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []
        cleanup = asyncio.Event()
        bus.on("a", lingering(log, cleanup))
        emission = bus.emit_async("a")
        emission.send(None)
        for _ in range(2):
            await turns()
            emission.throw(asyncio.CancelledError())
        await turns()
        assert "clean" not in log
        cleanup.set()
        await turns()
        assert log[-1] == "clean"
        with pytest.raises(asyncio.CancelledError):
            emission.send(None)

    @on_every_loop
    async def test_awaiting_it_again_raises_whatever_became_of_it(self, bus: EventBus) -> None:
        log: list[str] = []
        bus.once("a", waiting(log))
        emission = bus.emit_async("a")

        async def awaits() -> int:
            return await emission

        task = asyncio.ensure_future(awaits())
        await turns()
        with pytest.raises(RuntimeError):
            await soon(awaits())
        task.cancel()
        assert await is_cancelled(task)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                await soon(awaits())
        assert log == ["waits"]

    @on_every_loop
    async def test_dropping_it_unawaited_warns_with_the_name_of_the_event(
        self, bus: EventBus
    ) -> None:
        log: list[str] = []
        bus.on("tool.start", anote(log, "delivered"))
        emissions = [bus.emit_async("tool.start")]
        with pytest.warns(RuntimeWarning, match=r"'tool\.start' was never awaited"):
            emissions.clear()
        assert log == []
