"""What the core does with event loops in Python: running them privately, and worker threads."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from typing import TYPE_CHECKING, Any, Callable

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
    while tasks := [task for task in asyncio.all_tasks() if _delivery_of(task) is not None]:
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


async def offloaded(handler: Callable[..., object], *args: object) -> object:
    """Call ``handler(*args)`` in the loop's default executor, in a copy of the current context.

    A thread cannot be interrupted. When this is cancelled the call goes on, if it has begun, with
    nobody waiting for it: what it raises then goes to ``threading.excepthook``, and an awaitable
    that it returns is closed.

    Args:
        handler: A sync handler. If it returns an awaitable, that is awaited here.
        args: What it is called with.

    Returns:
        What the handler returned, or what came of awaiting that.

    Raises:
        BaseException: What the handler raised.
    """
    call = _Call(handler, args)
    try:
        await asyncio.get_running_loop().run_in_executor(
            None, contextvars.copy_context().run, call.run
        )
    except BaseException:
        call.abandon()
        raise
    result = call.take()
    return await result if inspect.isawaitable(result) else result


class _Call:
    """A call in another thread whose outcome has one owner: who waits for it, or nobody any more.

    Futures are not told the outcome, because before Python 3.12 a future that gets a
    ``StopIteration`` never ends.
    """

    __slots__ = ("abandoned", "args", "handler", "outcome")

    def __init__(self, handler: Callable[..., object], args: tuple[object, ...]) -> None:
        self.handler = handler
        self.args = args
        self.abandoned = False
        self.outcome: list[tuple[object, BaseException | None]] = []  # whoever pops it owns it

    def run(self) -> None:
        """Make the call, in the other thread."""
        try:
            self.outcome.append((self.handler(*self.args), None))
        except BaseException as error:
            self.outcome.append((None, error))
        if self.abandoned:
            self._dispose()

    def take(self) -> object:
        """Return or raise the outcome."""
        result, error = self.outcome.pop()
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame

    def abandon(self) -> None:
        """Stop waiting; to be called when the outcome will not be taken."""
        self.abandoned = True
        self._dispose()

    def _dispose(self) -> None:
        try:
            result, error = self.outcome.pop()
        except IndexError:
            return  # not over yet, or the other thread was faster
        if error is not None:
            threading.excepthook(
                threading.ExceptHookArgs(
                    (type(error), error, error.__traceback__, threading.current_thread())
                )
            )
        elif inspect.isawaitable(result) and hasattr(result, "close"):
            result.close()
