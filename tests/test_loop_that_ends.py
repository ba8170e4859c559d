"""A loop that is closed, or stopped by an interrupt, while handlers are suspended."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest
from helpers import anote, turns
from loops import LOOPS, new_loop

from agent_event_bus import EventBus

Task = asyncio.Task[Any]
Records = list[logging.LogRecord]


@pytest.mark.parametrize("loop_kind", LOOPS)
class TestLoopThatEnds:
    """Its emissions are pending: their handlers get their finally, and nothing crashes."""

    @pytest.mark.parametrize("first_closed", ["the loop", "the emission"])
    def test_a_loop_closed_under_a_suspended_emission_leaves_no_handler_unfinished(
        self, bus: EventBus, loop_kind: str, first_closed: str, records: Records
    ) -> None:
        log: list[str] = []
        loop = new_loop(loop_kind)
        complaints: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda loop, context: complaints.append(context))

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                log.append("finally")

        async def begin(emission: Any) -> None:
            emission.send(None)
            await turns()

        emission = bus.emit_async("a")
        loop.run_until_complete(begin(emission))
        if first_closed == "the loop":
            loop.close()
            emission.close()
        else:
            emission.close()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        del emission
        gc.collect()
        assert log == ["finally"]
        assert not [record for record in records if record.levelno >= logging.ERROR]
        # Of a task whose loop is gone asyncio itself may say that it was destroyed, and no more.
        assert all("destroyed" in context["message"] for context in complaints)

    def test_the_bus_works_in_the_next_loop_after_one_was_closed_with_an_emission_pending(
        self, bus: EventBus, loop_kind: str
    ) -> None:
        log: list[str] = []

        @bus.once("a")
        async def waits(payload: object) -> None:
            await asyncio.Event().wait()

        bus.on("a", anote(log, "returned"))
        loop = new_loop(loop_kind)
        loop.set_exception_handler(lambda loop, context: None)

        async def begin() -> Task:
            emission: Task = asyncio.ensure_future(bus.emit_async("a"))
            await turns()
            return emission

        task = loop.run_until_complete(begin())
        loop.close()
        del task
        gc.collect()
        second = new_loop(loop_kind)
        assert second.run_until_complete(bus.emit_async("a")) == 1
        second.close()
        assert log.count("returned") == 2

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("suspends", [False, True], ids=["first step", "resumed"])
    def test_an_interrupt_out_of_one_handler_comes_out_after_the_suspended_ones_have_settled(
        self,
        bus: EventBus,
        loop_kind: str,
        kind: type[BaseException],
        suspends: bool,
        records: Records,
    ) -> None:
        log: list[str] = []
        kept: list[Task | None] = []
        loop = new_loop(loop_kind)
        complaints: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda loop, context: complaints.append(context))

        @bus.on("a")
        async def sibling(payload: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns()
                log.append("settled")

        @bus.on("a")
        async def interrupted(payload: object) -> None:
            kept.append(asyncio.current_task())
            if suspends:
                await turns()
            raise kind

        async def main() -> None:
            try:
                await bus.emit_async("a")
            finally:
                log.append("out")

        task = loop.create_task(main())
        with pytest.raises(kind):
            loop.run_until_complete(task)
        # Where the interrupt stopped the loop in another task than main's, main has still to end.
        if not task.done():
            with pytest.raises(kind):
                loop.run_until_complete(task)
        assert isinstance(task.exception(), kind)
        loop.run_until_complete(asyncio.sleep(0))
        left = asyncio.all_tasks(loop)
        loop.close()
        assert log == ["settled", "out"]
        assert left == set()
        assert kept[0] is not None
        assert kept[0].done()
        kept.clear()
        del task
        gc.collect()
        assert complaints == []
        assert records == []


def test_what_a_closed_loop_has_left_may_be_ended_by_two_threads_at_once(
    bus: EventBus, records: Records
) -> None:
    """Closing the bus in one thread finds what another one is about to end."""
    ended: list[str] = []

    @bus.on("a")
    async def handler(payload: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other = threading.Thread(target=bus._close_stranded)
            other.start()
            other.join()
            ended.append("here")

    async def leave() -> None:
        assert bus.emit("a") == 1
        await turns()

    caught: list[object] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    hook, threading.excepthook = threading.excepthook, caught.append
    try:
        asyncio.run(bus.aclose())
    finally:
        threading.excepthook = hook
    assert caught == []
    assert ended == ["here"]
    assert bus.pending() == []
