"""Running async handlers to completion where no event loop runs: the last resort of ``emit``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agent_event_bus import _core


def run_to_completion(bus: _core.EventBus, emission: Coroutine[Any, Any, int]) -> int:
    """Run ``emission``, and what its handlers schedule through ``bus`` in turn, in a private loop.

    Unlike ``asyncio.run`` it leaves the thread's current event loop as it is: a program that emits
    must not find it changed.

    Args:
        bus: The bus that emits.
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
        return loop.run_until_complete(_run(bus, emission, loop))
    finally:
        try:
            _cancel_all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


async def _run(
    bus: _core.EventBus, emission: Coroutine[Any, Any, int], loop: asyncio.AbstractEventLoop
) -> int:
    count = await emission
    # Only what runs here: another thread's loop may have deliveries pending on the same bus.
    while tasks := [
        delivery.task
        for delivery in bus._pending()
        if delivery.loop is loop and delivery.task is not None
    ]:
        await asyncio.wait(tasks)
    return count


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
