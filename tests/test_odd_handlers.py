"""Handlers, payloads and modules that are not what they are in all other programs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import weakref
from typing import Any

import pytest
from helpers import run_isolated, soon, turns

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


async def suspends(payload: object) -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize("way", ["emit", "emit_async", "collect_async"])
async def test_a_function_marked_as_async_may_return_what_cannot_be_awaited(
    bus: EventBus, way: str, records: Records
) -> None:
    got: list[object] = []

    def handler(payload: object) -> int:
        got.append(payload)
        return 3

    marked: Any = handler
    marked._is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", True)
    if sys.version_info >= (3, 14):
        pytest.skip("asyncio has no mark of its own any more")
    bus.on("a", marked)
    if way == "emit":
        assert bus.emit("a", 1) == 1
        await soon(bus.drain())
    elif way == "emit_async":
        assert await bus.emit_async("a", 1) == 1
    else:
        (outcome,) = await bus.collect_async("a", 1)
        assert outcome.value == 3
    assert got == [1]
    assert records == []


class TestTasksOfHandlers:
    async def test_a_name_without_a_text_is_refused(self, bus: EventBus) -> None:
        class Nameless:
            def __str__(self) -> str:
                raise ValueError("no text")

        @bus.on("a")
        async def handler(payload: object) -> None:
            task: Any = asyncio.current_task()
            name = task.get_name()
            with pytest.raises(ValueError, match="no text"):
                task.set_name(Nameless())
            assert task.get_name() == name
            assert task._loop is asyncio.get_running_loop()

        assert await bus.emit_async("a") == 1
        assert bus.stats()["failed"] == 0

    async def test_weak_references_to_what_is_over_are_dead(self, bus: EventBus) -> None:
        bus.on("a", suspends)
        coroutines: list[Any] = []

        def factory(loop: Any, coroutine: Any, **options: object) -> Any:
            coroutines.append(coroutine)
            return asyncio.Task(coroutine, loop=loop)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        bus.emit("a")
        loop.set_task_factory(None)
        (coroutine,) = coroutines
        coroutines.clear()
        with pytest.raises(TypeError, match="exceptions must be classes or instances"):
            coroutine.throw(1)
        delivery = weakref.ref(coroutine)
        coroutine.cancel()
        del coroutine
        await soon(bus.drain())
        await turns()

        emission: Any = bus.emit_async("nobody")
        over = weakref.ref(emission)
        assert await emission == 0
        del emission

        bus.on("b", lambda payload: payload)
        (outcome,) = bus.collect("b", 1)
        collected = weakref.ref(outcome)
        del outcome
        gc.collect()
        assert delivery() is over() is collected() is None


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is left to sys.unraisablehook."""
    seen: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: seen.append(repr(hook.exc_value)))
    return seen


class TestInterruptions:
    """Of what the bus calls beside handlers, by an error that must not be isolated."""

    @pytest.fixture
    def slow(self) -> EventBus:
        class Logger:
            def error(self, *args: object, **options: object) -> None: ...

            def warning(self, *args: object, **options: object) -> None:
                raise KeyboardInterrupt("warning")

        logger: Any = Logger()
        return EventBus(slow_after=1e-9, logger=logger)

    def test_the_log_of_a_slow_emission(self, slow: EventBus) -> None:
        got: list[object] = []
        slow.on("a", got.append)
        with pytest.raises(KeyboardInterrupt, match="warning"):
            slow.emit("a", 1)
        with pytest.raises(KeyboardInterrupt, match="warning"):
            slow.emitter("a")(2)
        with pytest.raises(KeyboardInterrupt, match="warning"):
            slow.collect("a", 3)
        emission: Any = slow.emit_async("a", 4)
        with pytest.raises(KeyboardInterrupt, match="warning"):
            emission.send(None)
        assert got == [1, 2, 3, 4]

    def test_the_log_of_a_slow_emission_that_has_been_interrupted(
        self, slow: EventBus, unraisable: list[str]
    ) -> None:

        async def exits(payload: object) -> None:
            raise SystemExit("handler")

        slow.on("a", exits)

        async def main() -> None:
            emission: Any = slow.emit_async("a")
            with pytest.raises(SystemExit, match="handler"):
                emission.send(None)

        asyncio.run(main())
        assert unraisable == ["KeyboardInterrupt('warning')"]

        def exits_at_once(payload: object) -> None:
            raise SystemExit("sync handler")

        slow.on("b", exits_at_once)
        with pytest.raises(SystemExit, match="sync handler"):
            slow.emit("b")
        assert unraisable == ["KeyboardInterrupt('warning')"] * 2

    def test_the_callback_of_a_timeout_that_a_handler_has_swallowed(self) -> None:
        def interrupts(*args: object) -> None:
            raise KeyboardInterrupt("on_error")

        async def swallows(payload: object) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

        bus = EventBus(on_error=interrupts)
        bus.subscribe("a", swallows, timeout=0.001)

        async def main() -> None:
            await bus.emit_async("a")

        with pytest.raises(KeyboardInterrupt, match="on_error"):
            asyncio.run(main())

    def test_closing_what_a_handler_that_is_dropped_has_returned(
        self, unraisable: list[str]
    ) -> None:

        class Late:
            def __await__(self) -> Any:
                yield

            def close(self) -> None:
                raise KeyboardInterrupt("close")

        bus = EventBus(max_pending=1)
        bus.on("a", suspends)
        bus.on("b", lambda payload: Late())

        async def main() -> None:
            bus.emit("a")
            bus.emit("b")
            assert bus.stats()["dropped"] == 1
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await soon(bus.drain())

        asyncio.run(main())
        assert unraisable == ["KeyboardInterrupt('close')"]

    def test_an_interruption_of_a_handler_whose_loop_is_gone_is_unraisable(
        self, bus: EventBus, unraisable: list[str]
    ) -> None:
        emissions: list[Any] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            try:
                await asyncio.sleep(3600)
            except GeneratorExit:
                raise KeyboardInterrupt("closing") from None

        async def main() -> None:
            emissions.append(bus.emit_async("a"))
            emissions[0].send(None)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        emissions[0].close()
        assert unraisable == ["KeyboardInterrupt('closing')"]

    def test_an_interruption_of_a_handler_that_holds_a_permit_of_a_closed_loop(
        self, unraisable: list[str]
    ) -> None:
        bus = EventBus(max_concurrency=1)
        got: list[object] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            got.append(payload)
            if payload == 1:
                try:
                    await asyncio.sleep(3600)
                except GeneratorExit:
                    raise KeyboardInterrupt("closing") from None

        async def main(payload: int) -> None:
            bus.emit("a", payload)
            await turns()

        for payload in (1, 2):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main(payload))
            loop.close()
        assert got == [1, 2]
        assert unraisable == ["KeyboardInterrupt('closing')"]

    def test_a_condition_that_fails_is_no_match_for_what_is_dropped(self, records: Records) -> None:
        bus = EventBus(max_pending=1)
        asked: list[object] = []

        def condition(payload: object) -> bool:
            asked.append(payload)
            if payload == "interrupt":
                raise KeyboardInterrupt
            if payload == "fail":
                raise ValueError("no answer")
            return True

        bus.subscribe("a", suspends, where=condition)

        async def main() -> None:
            bus.emit("a", 1)
            bus.emit("a", "fail")
            assert bus.stats()["dropped"] == 0
            with pytest.raises(KeyboardInterrupt):
                bus.emit("a", "interrupt")
            assert bus.emit("a", 2) == 0
            assert bus.stats()["dropped"] == 1
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await soon(bus.drain())

        asyncio.run(main())
        assert asked == [1, "fail", "interrupt", 2]


async def test_a_marked_function_may_look_at_its_task_before_it_returns_a_coroutine(
    bus: EventBus,
) -> None:
    seen: list[object] = []

    async def rest() -> None:
        seen.append(asyncio.current_task())

    def handler(payload: object) -> Any:
        task: Any = asyncio.current_task()
        seen.append(task)
        seen.append(task.get_coro() is not None)
        return rest()

    marked: Any = handler
    marked._is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", True)
    bus.on("a", marked)
    assert await bus.emit_async("a") == 1
    assert seen[1] is True
    assert seen[0] is seen[2]


class TestNames:
    def test_a_class_whose_name_is_no_text_is_named_by_its_type(
        self, bus: EventBus, records: Records
    ) -> None:
        class Name(str):
            __slots__ = ()

        class Meta(type):
            def __getattribute__(cls, name: str) -> Any:
                return given if name == "__qualname__" else super().__getattribute__(name)

        class Handler(metaclass=Meta):
            def __call__(self, payload: object) -> None:
                raise ValueError("failed")

        given: Any = 3
        bus.on("a", Handler())
        bus.emit("a")
        given = Name("given")
        bus.emit("a")
        names = [vars(record)["handler_name"] for record in records]
        assert names == ["Handler", "given"]
        assert [type(name) for name in names] == [str, str]

    def test_an_interruption_while_a_payload_is_asked_what_it_is_comes_out(
        self, bus: EventBus
    ) -> None:
        class Meta(type):
            def __getattribute__(cls, name: str) -> Any:
                if name == "keys":
                    raise KeyboardInterrupt
                return super().__getattribute__(name)

        class Payload(metaclass=Meta):
            def __getitem__(self, key: str) -> int:
                return 1

        bus.subscribe("a", print, where={"field": 1})
        with pytest.raises(KeyboardInterrupt):
            bus.emit("a", Payload())

    def test_an_interruption_while_a_bad_key_is_shown_comes_out(self, bus: EventBus) -> None:
        class Key:
            def __repr__(self) -> str:
                raise KeyboardInterrupt

        key: Any = Key()
        with pytest.raises(KeyboardInterrupt):
            bus.on(key, print)


@pytest.mark.parametrize(
    "case",
    [
        *("no asyncio", "another asyncio", "no C tasks", "another table", "no table"),
        *("no logger", "no loop module"),
    ],
)
def test_a_program_whose_modules_are_not_what_they_should_be(case: str) -> None:
    assert run_isolated("odd_modules.py", case).strip() == "ok"
