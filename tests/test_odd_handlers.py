"""Handlers, payloads and modules that are not what they are in all other programs."""

from __future__ import annotations

import asyncio
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
