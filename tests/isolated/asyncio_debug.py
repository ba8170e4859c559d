"""Handlers under PYTHONASYNCIODEBUG=1, set before asyncio is imported.

usage: asyncio_debug.py plain | slow | never_awaited | uvloop
"""

from __future__ import annotations

import gc
import os
import sys

os.environ["PYTHONASYNCIODEBUG"] = "1"

import asyncio
import importlib.util
import logging
import time
import warnings
from typing import Any

from agent_event_bus import EventBus

CASE = sys.argv[1]
texts: list[str] = []


class Keep(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        texts.append(record.getMessage())


async def main() -> None:
    """Deliver to handlers of each kind, some in their first step, some suspended."""
    loop = asyncio.get_running_loop()
    assert loop.get_debug()
    bus = EventBus()
    shown: list[str] = []
    gate = asyncio.Event()
    log: list[str] = []

    @bus.on("a")
    async def suspends(payload: object) -> None:
        shown.append(repr(asyncio.current_task()))
        await asyncio.sleep(0)
        shown.append(repr(asyncio.current_task()))
        await gate.wait()
        log.append("suspends")

    @bus.on("a")
    async def fails(payload: object) -> None:
        await asyncio.sleep(0)
        raise ValueError("out of tools")

    @bus.on("a")
    async def is_cancelled(payload: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop.call_soon(task.cancel)
        await asyncio.Event().wait()

    @bus.on("a")
    async def opens(payload: object) -> None:
        loop.call_soon(gate.set)
        log.append("opens")

    for way in (bus.emit_async, bus.emit):
        log.clear()
        shown.clear()
        gate.clear()
        delivered: Any = way("a")
        if way == bus.emit_async:
            assert await asyncio.wait_for(delivered, 20) == 4
        else:
            assert delivered == 4
            assert await bus.drain(20) == []
        assert log == ["opens", "suspends"], log
        assert len(shown) == 2
        assert all("a -> " in text and "suspends" in text for text in shown), shown
        # In debug mode asyncio knows where each task was made.
        assert "created at" in shown[1], shown


async def slow() -> None:
    """A step of a handler that takes long is reported with the name of its task."""
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 0.01
    bus = EventBus()

    @bus.on("tool.start")
    async def blocks(payload: object) -> None:
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251
        await asyncio.sleep(0)

    assert await bus.emit_async("tool.start") == 1
    assert any("took" in text and "tool.start -> " in text for text in texts), texts


async def never_awaited() -> None:
    """A coroutine that a handler forgot is reported, with the place where it was made."""
    bus = EventBus()

    async def forgotten() -> None: ...

    @bus.on("a")
    async def forgets(payload: object) -> None:
        coroutine = forgotten()
        del coroutine
        gc.collect()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert await bus.emit_async("a") == 1
        gc.collect()
    said = [str(warning.message) for warning in caught]
    assert len(said) == 1, said
    assert "forgotten" in said[0], said
    assert "in forgets" in said[0], said


logging.getLogger("asyncio").addHandler(Keep())
logging.getLogger("agent_event_bus").addHandler(Keep())
cases = {"plain": main, "slow": slow, "never_awaited": never_awaited, "uvloop": main}
if CASE == "uvloop":
    if importlib.util.find_spec("uvloop") is None:
        print("unavailable")
        sys.exit()
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    # An environment variable is for loops of asyncio to read.
    loop.set_debug(True)
else:
    loop = asyncio.new_event_loop()
loop.run_until_complete(cases[CASE]())
loop.close()
gc.collect()
assert not [text for text in texts if "never retrieved" in text or "destroyed" in text], texts
print("ok")
