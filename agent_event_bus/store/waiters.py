"""Those who wait for a commit, in event loops and in threads, and how they are told."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, InvalidStateError
from typing import Any, Union

from agent_event_bus.store.errors import StoreClosedError, StoreError

__all__ = ["Waiter", "resolve", "same"]

Waiter = Union["asyncio.Future[Any]", "Future[Any]", None]


def same(error: Exception) -> StoreError:
    """Return an error of its own for each who is told of it: raising one changes it."""
    kind = StoreClosedError if isinstance(error, StoreClosedError) else StoreError
    copy = kind(str(error))
    copy.__cause__ = error.__cause__ or error
    return copy


def resolve(results: list[tuple[Waiter, Any]]) -> None:
    """Tell those who wait; those of one loop with one call into it."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for waiter, result in results:
        if waiter is None:
            continue
        if isinstance(waiter, Future):
            try:
                if isinstance(result, BaseException):
                    waiter.set_exception(result)
                else:
                    waiter.set_result(result)
            except InvalidStateError:
                continue  # its timeout came first
        else:
            loops.setdefault(waiter.get_loop(), []).append((waiter, result))
    for loop, pairs in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve_here, pairs)
        except Exception:
            continue  # the loop is closed, and nobody waits there any more


def _resolve_here(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if future.done():
            continue  # cancelled
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
