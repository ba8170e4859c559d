"""An event loop for one command, in which Ctrl-C is a cancellation and not an accident.

`KeyboardInterrupt` may be raised between any two instructions of the main thread, also in the
middle of a task step, and then leaves half-started coroutines behind. `asyncio.run` avoids that
from Python 3.11 on, but Ctrl-C does nothing while a coroutine of it blocks in reading a pipe. Here
coroutines are run with `run`, which turns Ctrl-C into a cancellation, and what blocks is done
between two runs, where Ctrl-C is the ordinary `KeyboardInterrupt`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

__all__ = ["event_loop", "run"]

T = TypeVar("T")


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Make an event loop; at the end cancel what is left in it and close it."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return its result.

    Args:
        loop: a loop that is not running.
        coroutine: becomes a task; Ctrl-C cancels it, a second Ctrl-C interrupts at once.

    Raises:
        KeyboardInterrupt: Ctrl-C came meanwhile, whether or not the coroutine still finished.
    """
    task = loop.create_task(coroutine)
    interrupts = 0

    def on_interrupt(signal_number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            raise KeyboardInterrupt
        task.cancel()
        # Wakes the loop when it waits in its selector.
        loop.call_soon_threadsafe(lambda: None)

    # An embedding program may have a handler of its own, or call this from another thread.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        try:
            signal.signal(signal.SIGINT, on_interrupt)
        except ValueError:
            ours = False
    try:
        result = loop.run_until_complete(task)
    except asyncio.CancelledError:
        if interrupts:
            raise KeyboardInterrupt from None
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupts:
        raise KeyboardInterrupt
    return result
