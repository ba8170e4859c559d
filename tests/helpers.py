"""What several test files share: handlers, tasks, isolated scripts, a loop in a thread."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, TypeVar

import pytest

import agent_event_bus
from agent_event_bus import EventBus

Task = asyncio.Task[Any]
Handler = Callable[[object], Coroutine[Any, Any, None]]
T = TypeVar("T")

# Seconds after which a test that waits is hanging; nothing waits this long when all is well.
DEADLINE = 20.0

ISOLATED = Path(__file__).parent / "isolated"
# Where the package under test was imported from, for the interpreters that scripts run in.
PACKAGES = Path(agent_event_bus.__file__).parent.parent

# A handler that does what is tested before its first await, and one that does it after that.
moments = pytest.mark.parametrize("suspends", [False, True], ids=["first step", "resumed"])
# With `emit` the handler is pending work of the bus, with `emit_async` part of the emission.
ways = pytest.mark.parametrize("way", ["emit", "emit_async"])


class Runaway(BaseException):
    """Raised by a handler that is called far more often than any correct bus would call it."""


class Gate:
    """An async handler that waits for a gate, and says how it ended."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.ended = ""

    async def wait(self, payload: object) -> None:
        try:
            await self.gate.wait()
            self.ended = "passed"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


class ListHandler(logging.Handler):
    """Keeps the records it is given, without formatting them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def recorder(log: list[Any], label: object) -> Callable[..., None]:
    """A sync handler that appends ``(label, *arguments)`` to `log`."""

    def handler(*args: object) -> None:
        log.append((label, *args))

    return handler


def note(log: list[Any], label: object) -> Callable[..., None]:
    """A sync handler that appends `label` alone to `log`, for tests of order."""

    def handler(*args: object) -> None:
        log.append(label)

    return handler


def anote(log: list[Any], label: object) -> Callable[..., Coroutine[Any, Any, None]]:
    """The async form of `note`."""

    async def handler(*args: object) -> None:
        log.append(label)

    return handler


def failing(error: BaseException) -> Callable[..., None]:
    """A sync handler that raises `error`."""

    def boom(*args: object) -> None:
        raise error

    return boom


def lingering(log: list[str], cleanup: asyncio.Event) -> Handler:
    """An async handler that waits to be cancelled, and then for `cleanup` however often it is.

    It appends "again" to `log` for every cancellation after the first, and "clean" at its end.
    """

    async def handler(payload: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            while not cleanup.is_set():
                try:
                    await cleanup.wait()
                except asyncio.CancelledError:
                    log.append("again")
            log.append("clean")

    return handler


def current() -> Task:
    """Return the current task, which there must be."""
    task = asyncio.current_task()
    assert task is not None
    return task


def keep_tasks(bus: EventBus, suspends: bool, error: Exception | None = None) -> list[Task]:
    """Subscribe a handler of "tool.start" that keeps its task, and may suspend and then may fail.

    Returns:
        The tasks it has kept, one for each time it was called.
    """
    kept: list[Task] = []

    @bus.on("tool.start")
    async def handler(payload: object) -> None:
        kept.append(current())
        if suspends:
            await asyncio.sleep(0)
        if error is not None:
            raise error

    return kept


async def begin(bus: EventBus, name: str = "a") -> asyncio.Task[int]:
    """Begin an emission in a task, and take its handlers to their first wait."""
    emission = asyncio.ensure_future(bus.emit_async(name))
    await turns()
    return emission


async def deliver(bus: EventBus, way: str = "emit_async") -> None:
    """Emit "tool.start" and wait for its handlers."""
    if way == "emit":
        bus.emit("tool.start")
        assert await soon(bus.drain()) == []
    else:
        await soon(bus.emit_async("tool.start"))


async def soon(awaitable: Awaitable[T]) -> T:
    """Await something that must finish; a hang becomes a failure after `DEADLINE`."""
    return await asyncio.wait_for(awaitable, DEADLINE)


async def turns(count: int = 5) -> None:
    """Let the event loop go round `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


def is_gone(ref: weakref.ref[Any]) -> bool:
    """Whether the object behind `ref` is dead after a collection."""
    for _ in range(3):
        gc.collect()
    return ref() is None


def run_isolated(script: str, *args: str, timeout: float = 90.0) -> str:
    """Run ``tests/isolated/<script>`` in its own interpreter and return what it printed.

    A crash, a non-zero exit, a hang and a fatal message on stderr all fail the calling test.
    """
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(ISOLATED / script), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    said = f"exit {done.returncode}\nstdout:\n{done.stdout}\nstderr:\n{done.stderr}"
    assert done.returncode == 0, said
    assert "Fatal Python error" not in done.stderr, said
    return done.stdout


def run_python(*arguments: str) -> str:
    """Run Python in a process of its own, warnings being errors, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


class LoopThread:
    """An event loop that runs in another thread for the length of a ``with`` block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop from outside and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE)

    def __enter__(self) -> LoopThread:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(DEADLINE)
        self.loop.close()


async def is_free(bus: EventBus) -> bool:
    """Whether a handler of another event gets its turn at once."""
    log: list[str] = []
    with bus.subscribe("is.free", anote(log, "ran")):
        task = asyncio.ensure_future(bus.emit_async("is.free"))
        await turns()
        free = log == ["ran"]
        task.cancel()
        await asyncio.wait([task])
    return free
