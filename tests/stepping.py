"""An event loop that is a list of coroutines, for tests that need to know when each of them runs.

Coroutines may suspend with a bare ``yield`` alone, as ``asyncio.sleep(0)`` does, and are resumed in
the order of the list, once a turn.
"""

from __future__ import annotations

import types
from asyncio import CancelledError
from collections.abc import Coroutine, Generator
from typing import Any

Task = Coroutine[Any, Any, Any]


@types.coroutine
def pause() -> Generator[None, None, None]:
    """Give up one turn, in this event loop or in that of asyncio."""
    yield


def step(task: Task, error: BaseException | None = None) -> tuple[Any] | None:
    """Resume a coroutine, with an error if there is one; return what it returns, if it does."""
    try:
        if error is None:
            task.send(None)
        else:
            task.throw(error)
    except StopIteration as end:
        return (end.value,)
    return None


def step_all(tasks: list[Task], error: BaseException | None = None) -> None:
    """Resume those that are in the list now, and remove the ones that have ended."""
    for task in tuple(tasks):
        tasks.remove(task)
        if step(task, error) is None:
            tasks.append(task)


class Group:
    """Coroutines that start at once and then run concurrently with each other."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def start(self, task: Task) -> None:
        if step(task) is None:
            self.tasks.append(task)

    async def settled(self) -> None:
        while self.tasks:
            await pause()
            step_all(self.tasks)

    async def cancelled(self) -> None:
        """Cancel all, and wait for them; when cancelled meanwhile, do so once more."""
        try:
            if self.tasks:
                await pause()  # as in asyncio, it strikes in the next turn
            step_all(self.tasks, CancelledError())
            await self.settled()
        except BaseException:
            await self.cancelled()
            raise


def run(main: Task, tasks: list[Task]) -> Any:
    """Run a coroutine, and all that comes to be in the list, to the end.

    Returns:
        What the coroutine returns.
    """
    value: Any = None

    async def first() -> None:
        nonlocal value
        value = await main

    tasks.insert(0, first())
    try:
        while tasks:
            step_all(tasks)
    finally:
        while tasks:  # also when the coroutine has failed
            step_all(tasks)
    return value
