"""Running async handlers to completion where no event loop runs: the last resort of ``emit``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agent_event_bus import _core

if TYPE_CHECKING:
    from collections.abc import Coroutine


def run_to_completion(emission: Coroutine[Any, Any, int]) -> int:
    """Run ``emission``, and what its handlers emit in turn, in a private loop.

    Unlike ``asyncio.run`` it leaves the thread's current event loop as it is: a program that emits
    must not find it changed.

    Args:
        emission: The awaitable to run.

    Returns:
        What ``emission`` returned.

    Raises:
        BaseException: What ``emission`` raised: ``KeyboardInterrupt`` and other errors that are not
            isolated.
    """
    try:
        loop = asyncio.new_event_loop()
    except BaseException:
        emission.close()  # it will not be awaited, and must not warn about that
        raise
    try:
        return loop.run_until_complete(_run(emission))
    finally:
        try:
            _cancel_all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


async def _run(emission: Coroutine[Any, Any, int]) -> int:
    count = await emission
    # What handlers emitted in turn, on whichever bus, was scheduled on this loop and ends with it.
    while tasks := [
        task for task in asyncio.all_tasks() if _delivery_of(task) is not None
    ]:
        await asyncio.wait(tasks)
    return count


def _delivery_of(task: asyncio.Task[Any]) -> object:
    """Return the delivery that a task runs, None when it runs something else."""
    coro = task.get_coro()
    return coro if isinstance(coro, _core.HandlerTask) else getattr(task, "_delivery", None)


def _cancel_all_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel, await and report the tasks that handlers left behind, as ``asyncio.run`` does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            loop.call_exception_handler(
                {
                    "message": "exception of a task left by a handler",
                    "exception": error,
                    "task": task,
                }
            )
