"""Everything that a task has, called through the class, as the first touch of a handler's task.

A subclass of asyncio.Task can intercept `task.done()`, but not `asyncio.Future.done(task)`. Each
name is called on a fresh task, in several ways, once as the very first thing that a handler does.
Nothing may crash; a call must be answered, or refused with an ordinary exception. In the first step
the class does not know the task's loop, name and coroutine yet; the task itself does.

usage: task_methods.py first_step | resumed | over | sabotage
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import faulthandler
import gc
import inspect
import io
import logging
import pickle
import sys
import weakref
from functools import partial
from typing import Any, Callable

from agent_event_bus import EventBus

WHEN = sys.argv[1]
faulthandler.dump_traceback_later(30)
logging.getLogger("agent_event_bus").addHandler(logging.NullHandler())
# Of the special methods those that anyone may call; __init__, for one, would start the task anew.
SPECIAL = ["__repr__", "__str__", "__hash__", "__sizeof__", "__dir__", "__await__", "__iter__"]

# A task refuses these; called through Future they end it under its running coroutine.
SABOTAGE = {
    "Future.cancel": lambda task: asyncio.Future.cancel(task),
    "Future.set_result": lambda task: asyncio.Future.set_result(task, 1),
    "Future.set_exception": lambda task: asyncio.Future.set_exception(task, ValueError()),
}


def ignore(*args: object, **options: object) -> None:
    """The one argument that is good for a name, a message, a result and a callback alike."""


def calls() -> list[tuple[str, Callable[[Any], Any]]]:
    """Return one call for each class in the MRO, each name it has, and each set of arguments."""
    found: list[tuple[str, Callable[[Any], Any]]] = []
    for cls in (asyncio.Task, asyncio.Future):
        for name in [*sorted(dir(cls)), *SPECIAL]:
            member = inspect.getattr_static(cls, name)
            if f"{cls.__name__}.{name}" in SABOTAGE:
                continue
            if not callable(member):
                if hasattr(member, "__get__") and not name.startswith("__"):
                    found.append((f"{cls.__name__}.{name}", partial(member.__get__)))
            elif not name.startswith("_") or name in SPECIAL:
                found.append((f"{cls.__name__}.{name}()", partial(member)))
                found.append(
                    (f"{cls.__name__}.{name}(x)", lambda task, call=member: call(task, ignore))  # type: ignore[misc]
                )
    functions: list[Callable[[Any], Any]] = [
        *(repr, hash, dir, vars, weakref.ref, copy.copy, pickle.dumps, gc.get_referents),
        *(asyncio.ensure_future, asyncio.isfuture, asyncio.shield),
    ]
    found += [(str(function), function) for function in functions]
    return found


async def main() -> None:
    """Make each call in a handler of its own, and see that every handler came to its end."""
    bus = EventBus()
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    tasks: list[Any] = []
    ended: list[str] = []
    answers: dict[str, object] = {}
    refused: dict[str, Exception] = {}
    codes: list[Any] = []

    def attempt(label: str, call: Callable[[Any], Any], task: Any) -> None:
        # print_stack() prints, as it should.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                answers[label] = answer = call(task)
                if label == "Task.get_coro()" and answer is not None:
                    codes.append(answer.cr_code)
            except Exception as error:
                refused[label] = error

    @bus.on("a")
    async def handler(payload: tuple[str, Callable[[Any], Any]]) -> None:
        label, call = payload
        try:
            if WHEN == "resumed":
                await asyncio.sleep(0)
            if WHEN == "over":
                tasks.append(asyncio.current_task())
            else:
                attempt(label, call, asyncio.current_task())
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass  # one of the calls is cancel()
        finally:
            ended.append(label)

    everything = calls()
    for label, call in everything:
        delivered = await asyncio.wait_for(bus.emit_async("a", (label, call)), 10)
        assert delivered == 1, label
        for task in tasks:
            attempt(label, call, task)
        tasks.clear()
        await asyncio.sleep(0)
    assert ended == [label for label, _ in everything]

    if WHEN == "resumed":  # the class knows that of a real task only
        assert answers["Task.get_name()"] == f"a -> {handler.__qualname__}"
    done = WHEN == "over"
    for cls in ("Task", "Future"):
        assert answers[f"{cls}.done()"] is done, cls
        assert answers[f"{cls}.cancelled()"] is False, cls
        assert WHEN == "first_step" or answers[f"{cls}.get_loop()"] is loop, cls
        assert answers[f"{cls}.remove_done_callback(x)"] == 0, cls
        assert ("finished" if done else "pending") in str(answers[f"{cls}.__repr__()"]), cls
        assert (f"{cls}.result()" in answers) is done, cls
    assert answers["Task.cancel()"] is not done
    if WHEN == "resumed":
        assert codes == [handler.__code__]
    kinds = {type(error) for error in refused.values()}
    assert kinds <= {TypeError, RuntimeError, asyncio.InvalidStateError}, refused
    answers.clear()
    refused.clear()
    gc.collect()
    await asyncio.sleep(0)
    assert not complaints, complaints


async def sabotaged() -> None:
    """See that a handler which ends its own task by force harms no later handler."""
    bus = EventBus()
    asyncio.get_running_loop().set_exception_handler(ignore)
    states: list[bool] = []

    @bus.on("a")
    async def handler(end: Callable[[Any], None] | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        states.append(task.done())
        if end is not None:
            end(task)

    for end in SABOTAGE.values():
        await asyncio.wait([asyncio.ensure_future(bus.emit_async("a", end))], timeout=5)
        assert await asyncio.wait_for(bus.emit_async("a"), 5) == 1
    assert states == [False] * 6


asyncio.run(sabotaged() if WHEN == "sabotage" else main())
gc.collect()
print("ok")
