"""Tests that run on every kind of event loop, and look at what the loop complains about."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import inspect
from collections.abc import Coroutine
from typing import Any, Callable

import pytest
from helpers import DEADLINE

LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None,
            reason="uvloop is not installed: it has no release for this platform",
        ),
    ),
]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Make an event loop of one of the kinds in `LOOPS`."""
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run_on(
    kind: str, main: Coroutine[Any, Any, object], *, debug: bool = False
) -> list[dict[str, Any]]:
    """Run `main` on a new loop, to its end and with nothing left behind.

    Returns:
        What was reported to the loop's exception handler, such as exceptions never retrieved and
        tasks destroyed while they were pending.
    """
    complaints: list[dict[str, Any]] = []
    loop = new_loop(kind)
    loop.set_debug(debug)
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    try:
        loop.run_until_complete(asyncio.wait_for(main, DEADLINE))
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert not left, f"left unfinished: {left}"
    return complaints


def on_every_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a fresh loop of each kind.

    The test also fails when a task is left unfinished, and when anything was reported to the loop's
    exception handler.
    """
    signature = inspect.signature(test)
    kind = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)

    @functools.wraps(test)
    def run(*args: Any, loop_kind: str, **fixtures: Any) -> None:
        complaints = run_on(loop_kind, test(*args, **fixtures))
        gc.collect()
        assert complaints == []

    parameters = [*signature.parameters.values(), kind]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    on_each: Callable[..., None] = pytest.mark.parametrize("loop_kind", LOOPS)(run)
    return on_each
