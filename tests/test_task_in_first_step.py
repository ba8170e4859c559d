"""What a handler does to its task before its first await, and what the next handler sees of it.

A handler that never suspends needs a task for the length of one call only. These tests hold on to
that task in every way there is, and change everything about it; no other handler may notice.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import weakref
from typing import Any, Callable

import pytest
from helpers import Handler, Task, current, run_isolated, soon, turns
from loops import on_every_loop

from agent_event_bus import EventBus

Records = list[logging.LogRecord]


def describe(task: Task) -> dict[str, object]:
    """Return everything about a task that must be as new when a handler starts."""
    facts: dict[str, object] = {
        "name": task.get_name(),
        "done": task.done(),
        "cancelled": task.cancelled(),
        "attributes": sorted(vars(task)) if hasattr(task, "__dict__") else [],
        "weak references": weakref.getweakrefcount(task),
        "callbacks of mine": task.remove_done_callback(never_called),
        "loop": task.get_loop() is asyncio.get_running_loop(),
    }
    if sys.version_info >= (3, 11):
        facts["cancelling"] = task.cancelling()
    return facts


def never_called(task: Task) -> None:
    """A done callback that must not be called: each test removes it or forgets its task."""
    raise AssertionError(f"called with {task!r}")


def set_attribute(task: Any) -> None:
    task.label = "mine"
    assert task.label == "mine"


def cancel_and_take_it_back(task: Any) -> None:
    assert task.cancel("not meant")
    if sys.version_info >= (3, 11):
        assert task.cancelling() == 1
        assert task.uncancel() == 0


def fail_to_finish(task: Any) -> None:
    with pytest.raises(RuntimeError):
        task.set_result(1)
    with pytest.raises(RuntimeError):
        task.set_exception(ValueError())


def ask_too_early(task: Any) -> None:
    for ask in (task.result, task.exception):
        with pytest.raises(asyncio.InvalidStateError):
            ask()


# What a handler does to its task in its first step.
DEEDS: dict[str, Callable[[Any], object]] = {
    "nothing": lambda task: None,
    "looks": describe,
    "shows it": repr,
    "names it": lambda task: task.set_name("another name"),
    "names it by a number": lambda task: task.set_name(5),
    "sets an attribute": set_attribute,
    "asks too early": ask_too_early,
    "tries to finish it": fail_to_finish,
    "cancels it and takes that back": cancel_and_take_it_back,
    "cancels it": lambda task: task.cancel(),
    "cancels it with a reason": lambda task: task.cancel("a reason"),
    "adds a callback": lambda task: task.add_done_callback(lambda task: None),
    "adds and removes a callback": lambda task: (
        task.add_done_callback(never_called),
        task.remove_done_callback(never_called),
    ),
    "looks at its stack": lambda task: task.get_stack(),
    "takes its coroutine": lambda task: task.get_coro(),
    "takes an iterator of it": lambda task: task.__await__(),
    "silences it": lambda task: setattr(task, "_log_destroy_pending", False),
    "marks it as awaited": lambda task: setattr(task, "_asyncio_future_blocking", False),
}
deeds = pytest.mark.parametrize("deed", DEEDS)


class TestTheNextHandler:
    """Sees a task as new, whatever was done to the one before, and is not hit by it either."""

    @deeds
    @pytest.mark.parametrize("kept", ["not at all", "in a list", "weakly"])
    @on_every_loop
    async def test_sees_nothing_of_what_was_done_to_the_task_before(
        self, bus: EventBus, records: Records, deed: str, kept: str
    ) -> None:
        facts: list[dict[str, object]] = []
        keep: list[object] = []

        @bus.on("first")
        async def does(payload: object) -> None:
            task = current()
            if kept == "in a list":
                keep.append(task)
            if kept == "weakly":
                keep.append(weakref.ref(task))
            DEEDS[deed](task)

        @bus.on("next")
        async def looks(payload: object) -> None:
            facts.append(describe(current()))
            await asyncio.sleep(0)
            facts.append(describe(current()))

        await bus.emit_async("next")
        for _ in range(2):
            await bus.emit_async("first")
            await bus.emit_async("next")
        await turns()
        assert len(facts) == 6
        assert facts[2:4] == facts[0:2]
        assert facts[4:6] == facts[0:2]
        assert not [record for record in records if record.levelno > logging.WARNING]

    @deeds
    @on_every_loop
    async def test_of_the_same_emission_sees_nothing_of_it_either(
        self, bus: EventBus, records: Records, deed: str
    ) -> None:
        facts: list[dict[str, object]] = []

        async def looks(payload: object) -> None:
            facts.append(describe(current()))

        async def does(payload: object) -> None:
            DEEDS[deed](current())

        for handler in (looks, does, looks, does, looks):
            bus.subscribe("a", handler)
        assert await soon(bus.emit_async("a")) == 5
        await turns()
        assert facts == [facts[0]] * 3
        assert not [record for record in records if record.levelno > logging.WARNING]

    @deeds
    @on_every_loop
    async def test_may_suspend_after_whatever_was_done_to_its_own_task(
        self, bus: EventBus, records: Records, deed: str
    ) -> None:
        log: list[object] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            task = current()
            DEEDS[deed](task)
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                log.append("cancelled")
            log.append(current() is task)

        for _ in range(2):
            assert await soon(bus.emit_async("a")) == 1
        cancelled = deed.startswith("cancels it") and (
            "takes that back" not in deed or sys.version_info < (3, 13)
        )
        assert log == ["cancelled", True] * 2 if cancelled else [True] * 2
        assert not [record for record in records if record.levelno > logging.WARNING]


class TestKept:
    @on_every_loop
    async def test_a_weak_reference_never_turns_to_the_task_of_another_handler(
        self, bus: EventBus
    ) -> None:
        refs: list[weakref.ref[Task]] = []
        log: list[bool] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            log.append(any(ref() is current() for ref in refs))
            refs.append(weakref.ref(current()))

        for _ in range(4):
            await bus.emit_async("a")
            assert all(task is None or task.done() for task in (ref() for ref in refs))
        assert log == [False] * 4

    @on_every_loop
    async def test_a_weak_reference_made_and_dropped_leaves_no_trace(self, bus: EventBus) -> None:
        counts: list[int] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            counts.append(weakref.getweakrefcount(current()))
            weakref.ref(current())

        for _ in range(3):
            await bus.emit_async("a")
        assert counts == [counts[0]] * 3

    @on_every_loop
    async def test_the_callback_of_a_weak_reference_is_called_when_the_task_is_gone(
        self, bus: EventBus
    ) -> None:
        refs: list[weakref.ref[Task]] = []
        gone: list[object] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            refs.append(weakref.ref(current(), gone.append))

        for _ in range(3):
            await bus.emit_async("a")
        await turns()
        gc.collect()
        assert [ref() for ref in refs] == [None] * 3
        assert gone == refs

    @on_every_loop
    async def test_a_finaliser_of_the_task_runs_when_the_handler_is_over(
        self, bus: EventBus
    ) -> None:
        log: list[object] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            weakref.finalize(current(), log.append, payload)
            assert log == list(range(len(log)))

        for number in range(3):
            await bus.emit_async("a", number)
        await turns()
        gc.collect()
        assert log == [0, 1, 2]

    @on_every_loop
    async def test_what_is_remembered_by_task_in_a_weak_mapping_is_not_found_by_the_next_handler(
        self, bus: EventBus
    ) -> None:
        # The way anyio, sniffio and many tracers keep what they know about a task.
        states: weakref.WeakKeyDictionary[Task, str] = weakref.WeakKeyDictionary()
        seen: list[str | None] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            seen.append(states.get(current()))
            states[current()] = "known"

        for _ in range(4):
            await bus.emit_async("a")
        assert seen == [None] * 4

    @pytest.mark.parametrize("where", ["attribute", "closure", "context", "exception", "frame"])
    @on_every_loop
    async def test_a_task_kept_out_of_sight_is_done_and_nobody_elses(
        self, bus: EventBus, where: str, records: Records
    ) -> None:
        variable: contextvars.ContextVar[Task] = contextvars.ContextVar("variable")
        kept: list[Any] = []

        class Holder:
            task: Task

        def find(thing: Any) -> Task:
            if where == "attribute":
                found = thing.task
            elif where == "closure":
                found = thing()
            elif where == "context":
                found = thing[variable]
            elif where == "exception":
                found = thing.args[0]
            else:
                found = thing.f_locals["task"]
            assert isinstance(found, asyncio.Task)
            return found

        @bus.on("a")
        async def handler(payload: object) -> None:
            task = current()
            assert not any(find(thing) is task for thing in kept)
            if where == "attribute":
                kept.append(Holder())
                kept[-1].task = task
            elif where == "closure":
                kept.append(lambda: task)
            elif where == "context":
                variable.set(task)
                kept.append(contextvars.copy_context())
            elif where == "exception":
                kept.append(ValueError(task))
            else:
                kept.append(sys._getframe())

        for _ in range(3):
            assert await bus.emit_async("a") == 1
        if where == "frame":
            # The end of a coroutine clears its frame, unless something holds the frame alive.
            kept = [frame for frame in kept if "task" in frame.f_locals]
        else:
            assert len(kept) == 3
        assert all(find(thing).done() for thing in kept)
        assert len({id(find(thing)) for thing in kept}) == len(kept)
        assert records == []

    @on_every_loop
    async def test_a_kept_method_works_when_the_handler_is_over(self, bus: EventBus) -> None:
        methods: list[Any] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            current().set_name(f"number {payload}")
            methods.append((current().get_name, current().done))

        for number in range(3):
            await bus.emit_async("a", number)
        assert [(name(), done()) for name, done in methods] == [
            (f"number {number}", True) for number in range(3)
        ]

    @on_every_loop
    async def test_a_task_kept_by_a_child_task_can_be_cancelled_and_awaited_by_it(
        self, bus: EventBus, records: Records
    ) -> None:
        log: list[object] = []
        children: list[Task] = []

        async def child(parent: Task) -> None:
            log.append(parent.done())
            parent.cancel("by a child")
            await asyncio.wait([parent])
            log.append(parent.cancelled())

        @bus.on("a")
        async def handler(payload: object) -> None:
            children.append(asyncio.ensure_future(child(current())))
            await asyncio.Event().wait()

        assert await soon(bus.emit_async("a")) == 1
        await soon(children[0])
        assert log == [False, True]
        assert [record.levelno for record in records] == [logging.WARNING]


class TestChangedThenSuspended:
    """What a handler did to its task in its first step holds after it has suspended."""

    @on_every_loop
    async def test_a_name_is_kept(self, bus: EventBus) -> None:
        names: list[str] = []
        tasks: list[Task] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            tasks.append(current())
            current().set_name("searching")
            await asyncio.sleep(0)
            names.append(current().get_name())

        await bus.emit_async("a")
        assert names == ["searching"]
        assert tasks[0].get_name() == "searching"

    @on_every_loop
    async def test_attributes_weak_references_and_callbacks_are_kept(self, bus: EventBus) -> None:
        log: list[object] = []

        @bus.on("a")
        async def handler(payload: object) -> None:
            task: Any = current()
            task.label = "mine"
            ref = weakref.ref(task)
            states: weakref.WeakKeyDictionary[Task, str] = weakref.WeakKeyDictionary({task: "x"})
            task.add_done_callback(lambda task: log.append((task.label, task.done())))
            number, hashed = id(task), hash(task)
            del task
            for _ in range(3):
                await asyncio.sleep(0)
            again: Any = current()
            log.append((ref() is again, states[again], again.label))
            log.append((id(again) == number, hash(again) == hashed))

        await soon(bus.emit_async("a"))
        await turns()
        assert log == [(True, "x", "mine"), (True, True), ("mine", True)]

    @pytest.mark.parametrize("suspends", [False, True])
    @on_every_loop
    async def test_handlers_interleaved_in_their_first_steps_keep_apart(
        self, bus: EventBus, suspends: bool
    ) -> None:
        seen: list[tuple[str, str, str]] = []
        everyone = asyncio.Event()

        def make(label: str) -> Handler:
            async def handler(payload: object) -> None:
                task: Any = current()
                task.set_name(label)
                task.label = label
                if label == "1":
                    await bus.emit_async("nested")
                if suspends:
                    await everyone.wait()
                again: Any = current()
                assert again is task
                seen.append((label, again.get_name(), again.label))

            return handler

        @bus.on("nested")
        async def nested(payload: object) -> None:
            current().set_name("nested")
            vars(current())["label"] = "nested"
            if suspends:
                await asyncio.sleep(0)

        for label in ("0", "1", "2"):
            bus.on("a", make(label))
        asyncio.get_running_loop().call_later(0.01, everyone.set)
        assert await soon(bus.emit_async("a")) == 3
        assert sorted(seen) == [(label, label, label) for label in ("0", "1", "2")]


class TestThroughTheClass:
    """A method called through asyncio.Task, as C code might, affects this handler alone."""

    @pytest.mark.parametrize("suspends", [False, True])
    async def test_a_request_to_cancel(self, bus: EventBus, suspends: bool) -> None:
        ended: list[str] = []

        @bus.on("a")
        async def cancels(payload: object) -> None:
            asyncio.Task.cancel(current())
            if suspends:
                await asyncio.sleep(0)
            ended.append("cancels")

        @bus.on("a")
        async def next_one(payload: object) -> None:
            assert current().get_name()
            await asyncio.sleep(0)
            ended.append("next")

        for _ in range(3):
            assert await soon(bus.emit_async("a")) == 2
        assert ended == (["next"] if suspends else ["cancels", "next"]) * 3

    @pytest.mark.parametrize("suspends", [False, True])
    async def test_a_done_callback(self, bus: EventBus, suspends: bool) -> None:
        called: list[str] = []

        @bus.on("a")
        async def adds(payload: object) -> None:
            asyncio.Task.add_done_callback(current(), lambda task: called.append(task.get_name()))
            if suspends:
                await asyncio.sleep(0)

        @bus.on("a")
        async def next_one(payload: object) -> None:
            assert current().get_name()
            await asyncio.sleep(0)

        assert await soon(bus.emit_async("a")) == 2
        await turns()
        assert called == [f"a -> {adds.__qualname__}"]


@pytest.mark.parametrize("when", ["first_step", "resumed", "over"])
def test_every_public_name_called_unbound_is_answered_and_never_crashes(when: str) -> None:
    assert run_isolated("task_methods.py", when).strip() == "ok"


def test_a_handler_that_ends_its_own_task_by_force_harms_no_later_handler() -> None:
    assert run_isolated("task_methods.py", "sabotage").strip() == "ok"
