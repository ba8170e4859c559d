"""Use the package in subinterpreters: state of its own, clean end, threads side by side."""

from __future__ import annotations

import faulthandler
import importlib
import sys
import threading
from typing import Any, Callable

interpreters: Any = None
for name in ("_interpreters", "_xxsubinterpreters"):
    try:
        interpreters = importlib.import_module(name)
        break
    except ImportError:
        continue

if interpreters is None:
    print("unavailable")
    sys.exit(0)

SCRIPT = f"""
import sys
sys.path[:] = {sys.path!r}
from agent_event_bus import EventBus, Event

bus = EventBus("sub")
log = []

@bus.on("a")
def sync_handler(payload):
    log.append(("sync", payload))

@bus.on("*", envelope=True)
def any_handler(event):
    assert type(event) is Event
    log.append(("any", event.payload))

@bus.on("a")
def fails(payload):
    raise ValueError("isolated")

import logging
logging.getLogger("agent_event_bus").addHandler(logging.NullHandler())
logging.getLogger("agent_event_bus").propagate = False
for number in range(20):
    assert bus.emit("a", number) == 3
    subscription = bus.subscribe("b", log.append)
    assert subscription.cancel()
assert len(log) == 40, log
del subscription
"""

WITH_ASYNC = """
import asyncio

@bus.on("b")
async def suspends(payload):
    await asyncio.sleep(0)
    log.append(payload)

@bus.on("b")
async def returns(payload):
    log.append(payload)

async def main():
    assert await bus.emit_async("b", 2) == 3
    assert bus.emit("b", 3) == 3
    assert await bus.drain() == []

log.clear()
assert bus.emit("b", 1) == 3
asyncio.run(main())
assert [payload for payload in log if isinstance(payload, int)] == [1, 1, 2, 2, 3, 3], log
"""

OBSERVING = """
from agent_event_bus import EventBus

observed = EventBus(history=3, timing=True, slow_after=60)
observed.on("a", sync_handler)
for number in range(5):
    observed.emit("a", (observed, number))
assert [event.payload[1] for event in observed.history()] == [4, 3, 2]
stats = observed.stats()
assert stats["emitted"] == stats["delivered"] == 5, stats
assert stats["latency"]["sync_handler"]["count"] == 5, stats
assert bus.history() == [] and "latency" not in bus.stats()
"""

failures: list[str] = []


def create() -> Any:
    """A new subinterpreter that shares the interpreter lock where there is a choice."""
    if interpreters.__name__ == "_interpreters":
        return interpreters.create("legacy")
    try:
        return interpreters.create(isolated=False)
    except TypeError:
        return interpreters.create()


def run(interpreter: Any, script: str = SCRIPT) -> None:
    """Run a script there; older versions raise, newer ones return what failed."""
    try:
        problem = interpreters.run_string(interpreter, script)
    except Exception as error:
        failures.append(repr(error))
    else:
        if problem is not None:
            failures.append(repr(problem))


def one_after_another() -> None:
    for _ in range(5):
        interpreter = create()
        run(interpreter)
        run(interpreter)
        interpreters.destroy(interpreter)


def with_async_handlers() -> None:
    for _ in range(4):
        interpreter = create()
        run(interpreter, SCRIPT + WITH_ASYNC)
        interpreters.destroy(interpreter)


def at_once() -> None:
    def whole_life() -> None:
        interpreter = create()
        for _ in range(3):
            run(interpreter)
        interpreters.destroy(interpreter)

    threads = [threading.Thread(target=whole_life) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def left_running() -> None:
    """The main interpreter uses its own bus before, between and after, and cleans up the rest."""
    from agent_event_bus import EventBus

    bus = EventBus("main")
    log: list[object] = []
    bus.on("a", log.append)
    interpreter = create()
    bus.emit("a", 1)
    run(interpreter)
    bus.emit("a", 2)
    interpreters.destroy(interpreter)
    bus.emit("a", 3)
    assert log == [1, 2, 3], log


def observing() -> None:
    """A bus that keeps, counts and measures is taken down with all that it has."""
    for _ in range(3):
        interpreter = create()
        run(interpreter, SCRIPT + OBSERVING)
        interpreters.destroy(interpreter)


faulthandler.dump_traceback_later(60, exit=True)
CASES: dict[str, Callable[[], None]] = {
    "one_after_another": one_after_another,
    "with_async_handlers": with_async_handlers,
    "at_once": at_once,
    "left_running": left_running,
    "observing": observing,
}
CASES[sys.argv[1]]()
assert not failures, failures
print("ok")
