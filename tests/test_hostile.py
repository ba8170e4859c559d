"""Objects of strangers that do harm: handlers, what they return, and loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from helpers import failing, run_isolated, soon, turns

from agent_event_bus import EventBus


@pytest.mark.usefixtures("quiet_reports")
def test_a_loop_that_closes_the_bus_when_it_is_asked_for_its_task_factory_does_no_harm(
    bus: EventBus,
) -> None:
    log: list[str] = []

    class Loop(asyncio.SelectorEventLoop):
        armed = False

        def get_task_factory(self) -> Any:
            if self.armed:
                self.armed = False
                closing = bus.aclose()
                with contextlib.suppress(StopIteration):
                    closing.send(None)
                closing.close()
                log.append("closed")
            return super().get_task_factory()

    async def handler(payload: object) -> None:
        log.append("called")

    loop = Loop()
    bus.bind_loop(loop)
    bus.on("a", handler)
    try:
        assert bus.emit("a") == 1  # it waits for the loop to run
        loop.armed = True
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    assert log == ["closed"]
    assert bus.pending() == []
    assert bus.stats()["cancelled"] == 1


@pytest.mark.usefixtures("quiet_reports")
async def test_a_future_whose_cancel_closes_the_handler_that_waits_for_it_does_no_harm(
    bus: EventBus,
) -> None:
    tasks: list[Any] = []

    class Future(asyncio.Future):  # type: ignore[type-arg]
        def cancel(self, msg: object = None) -> bool:
            for obj in gc.get_objects():
                if type(obj).__name__ == "HandlerTask":
                    with contextlib.suppress(RuntimeError, ValueError):
                        obj.close()
            if not self.done():
                self.set_result(None)
            return False

    async def handler(payload: object) -> None:
        tasks.append(asyncio.current_task())
        await Future(loop=asyncio.get_running_loop())

    bus.on("a", handler)
    emission = bus.emit_async("a")
    emission.send(None)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(tasks[0])
    emission.close()
    assert bus.stats()["cancelled"] == 1


class Interruption(BaseException):
    """An error that is nobody's failure, as KeyboardInterrupt is."""


class TestStopIteration:
    """Out of a coroutine it would be taken for the result, and a task that gets it never ends."""

    async def test_of_a_guard_stops_who_awaits_the_emission(self, bus: EventBus) -> None:
        bus.on("a", failing(StopIteration(3)), isolate=False)
        with pytest.raises(RuntimeError, match="coroutine raised StopIteration") as caught:
            await bus.emit_async("a")
        assert isinstance(caught.value.__cause__, StopIteration)

    async def test_of_a_guard_ends_the_task_that_the_emission_runs_in(self, bus: EventBus) -> None:
        bus.on("a", failing(StopIteration(3)), isolate=False)
        with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
            await soon(asyncio.ensure_future(bus.emit_async("a")))

    @pytest.mark.parametrize("isolate", [True, False])
    @pytest.mark.usefixtures("quiet_reports")
    async def test_of_an_awaitable_ends_the_task_of_its_handler(
        self, bus: EventBus, isolate: bool
    ) -> None:
        class Awaitable:
            def __await__(self) -> Iterator[None]:
                tasks.append(asyncio.current_task())
                raise StopIteration

        tasks: list[Any] = []
        bus.on("a", lambda payload: Awaitable(), isolate=isolate)
        assert bus.emit("a") == 1
        assert await soon(bus.drain()) == []
        await asyncio.sleep(0)
        (task,) = tasks
        assert task.done()
        assert isinstance(task.exception(), RuntimeError)


def test_a_loop_whose_clock_closes_the_delivery_that_asks_it_does_no_harm(bus: EventBus) -> None:
    closed: list[str] = []

    class Loop(asyncio.SelectorEventLoop):
        armed = False

        def time(self) -> float:
            if self.armed:
                for obj in gc.get_objects():
                    if type(obj).__name__ == "HandlerTask":
                        try:
                            obj.close()
                        except ValueError as error:
                            closed.append(str(error))
            return super().time()

    loop = Loop()

    @bus.on("a", priority=-1)
    def arms(payload: object) -> None:
        loop.armed = True

    @bus.on("a", timeout=30)
    async def handler(payload: object) -> None:
        loop.armed = False

    try:
        assert loop.run_until_complete(bus.emit_async("a")) == 2
    finally:
        loop.close()
    assert closed == ["coroutine already executing"]


@pytest.mark.parametrize("name", ["throw", "close"])
async def test_an_interruption_while_a_method_of_an_awaitable_is_looked_up_is_not_lost(
    bus: EventBus, name: str
) -> None:
    class Iterating:
        def __iter__(self) -> Iterating:
            return self

        def __next__(self) -> None:
            return None

        def __getattr__(self, attribute: str) -> Any:
            if attribute == name:
                raise interruption
            raise AttributeError(attribute)

    class Awaitable:
        def __await__(self) -> Iterating:
            return Iterating()

    interruption = Interruption()
    bus.on("a", lambda payload: Awaitable())
    emission = bus.emit_async("a")
    emission.send(None)
    (task,) = asyncio.all_tasks() - {asyncio.current_task()}

    async def end() -> None:
        if name == "throw":
            task.cancel()
            await turns(2)
            emission.send(None)
        else:
            coroutine: Any = task.get_coro()
            coroutine.close()

    with pytest.raises(Interruption) as caught:
        await end()
    assert caught.value is interruption
    emission.close()


@pytest.mark.parametrize(
    "way",
    [
        *("emit", "emitter", "collect", "emit_in_loop", "emit_async", "collect_async"),
        *("cancelled", "closed", "bound", "by_hand"),
    ],
)
def test_whatever_a_strangers_method_does_the_bus_and_its_other_handlers_go_on(
    way: str, record_property: Callable[[str, object], None]
) -> None:
    said = run_isolated("hostile.py", way)
    *_, counts, verdict = said.splitlines()
    assert verdict == "ok", said
    record_property("figures", f"{way}: {counts}")
