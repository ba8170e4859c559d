"""What the bus keeps for reuse, seen by others: it harms neither them nor later handlers."""

from __future__ import annotations

import asyncio
import gc
import sysconfig
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import soon, turns

from agent_event_bus import EventBus


@pytest.fixture(autouse=True)
def all_is_seen() -> None:
    """Have a look at the heap find what earlier tests have left for reuse, and no rubbish."""
    gc.unfreeze()
    gc.collect()


def found_by_gc(type_name: str) -> Iterator[Any]:
    """Find the objects of a type of the core that a look at the heap shows."""
    return (obj for obj in gc.get_objects() if type(obj).__name__ == type_name)


async def look_at_my_task(payload: object) -> None:
    """Handle an event in a way that takes a delivery and a task."""
    task = asyncio.current_task()
    assert task is not None
    task.get_name()


async def do_nothing(payload: object) -> None:
    """Handle an event in a way that takes a task only."""


class TestTheCoroutineOfAHandlerThatIsOver:
    @pytest.mark.parametrize("method", ["close", "send", "throw", "cancel"])
    async def test_it_can_be_driven_by_whoever_finds_it_on_the_heap(
        self, bus: EventBus, method: str
    ) -> None:
        bus.on("a", look_at_my_task)
        assert await bus.emit_async("a") == 1
        found = list(found_by_gc("HandlerTask"))
        if not found and sysconfig.get_config_var("Py_GIL_DISABLED"):
            pytest.skip("without a GIL none is kept for reuse")
        assert found
        arguments: dict[str, list[object]] = {"send": [None], "throw": [ValueError()]}
        for coroutine in found:
            if method in arguments:
                with pytest.raises(RuntimeError, match="already awaited"):
                    getattr(coroutine, method)(*arguments[method])
            else:
                assert getattr(coroutine, method)() is None
        assert await bus.emit_async("a") == 1


class CancelsTheCurrentTask:
    """A value whose finaliser cancels the task that is the current one then."""

    def __del__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()


def passing(log: list[str]) -> Any:
    """Make an async handler that notes how it ended after it has waited."""

    async def handler(payload: object) -> None:
        try:
            await turns()
            log.append("passed")
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    return handler


class TestATaskThatWaitsForReuse:
    async def test_it_can_be_printed(self, bus: EventBus) -> None:
        bus.on("a", do_nothing)
        assert await bus.emit_async("a") == 1
        printed = [repr(task) for task in found_by_gc("LazyTask")]
        assert all(text.startswith("<LazyTask ") for text in printed)

    async def test_cancelling_it_cancels_no_later_handler(self, bus: EventBus) -> None:
        log: list[str] = []

        bus.on("a", do_nothing)
        bus.on("b", passing(log))
        assert await bus.emit_async("a") == 1
        for task in found_by_gc("LazyTask"):
            task.cancel()
        assert await soon(bus.emit_async("b")) == 1
        assert log == ["passed"]

    @pytest.mark.parametrize("together", [True, False])
    async def test_cancelling_it_as_the_result_of_a_handler_dies_cancels_no_later_handler(
        self, bus: EventBus, together: bool
    ) -> None:
        log: list[str] = []

        async def leaving(payload: object) -> CancelsTheCurrentTask:
            return CancelsTheCurrentTask()

        bus.on("a", leaving)
        bus.on("a" if together else "b", passing(log))
        assert await soon(bus.emit_async("a")) == 1 + together
        assert await soon(bus.emit_async("b")) == 1 - together
        assert log == ["passed"]

    async def test_a_finaliser_that_keeps_it_keeps_no_later_handlers_task(
        self, bus: EventBus
    ) -> None:
        kept: list[object] = []
        tasks: list[object] = []

        class KeepsTheCurrentTask:
            def __del__(self) -> None:
                kept.append(asyncio.current_task())

        @bus.on("a")
        async def marking(payload: object) -> None:
            task: Any = asyncio.current_task()
            task.mark = KeepsTheCurrentTask()

        async def keeping(payload: object) -> None:
            tasks.append(asyncio.current_task())

        bus.on("a", do_nothing)
        bus.on("a", keeping)
        assert await bus.emit_async("a") == 3
        assert len(kept) == len(tasks) == 1
        assert kept[0] is not tasks[0]


class AsksForTheCurrentTask:
    """Cyclic garbage whose finaliser wants to know which task it runs in."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.itself = self

    def __del__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.names.append(task.get_name())


async def test_a_handler_ends_although_a_collection_asks_for_its_task_while_it_asks_itself(
    bus: EventBus,
) -> None:
    kept: list[object] = []
    names: list[str] = []

    async def keeping(payload: object) -> None:
        kept.append(asyncio.current_task())

    for _ in range(20):  # more than are kept for reuse: what the handler needs must be allocated
        bus.on("kept", keeping)
    assert await bus.emit_async("kept") == 20

    @bus.on("a")
    async def handler(payload: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        gc.disable()
        thresholds = gc.get_threshold()
        gc.set_threshold(1)
        AsksForTheCurrentTask(names)
        try:
            gc.enable()
            names.append(task.get_name())
        finally:
            gc.set_threshold(*thresholds)

    assert await soon(bus.emit_async("a")) == 1
    gc.collect()
    assert len(names) == 2  # when the collection asks depends on the version
    assert f"a -> {handler.__qualname__}" in names
