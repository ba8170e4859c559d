"""The bus in a program whose asyncio or logging is missing, broken or of another make.

usage: odd_modules.py CASE
"""

from __future__ import annotations

import logging
import sys
import types
from typing import Any, Callable

import agent_event_bus
from agent_event_bus import EventBus

reported: list[str] = []


class Logger:
    """What the bus reports."""

    def error(self, text: str, *args: object, **kwargs: Any) -> None:
        exc_info = kwargs.get("exc_info")
        reported.append(f"{args[0]}: {type(exc_info[1] if exc_info else None).__name__}")

    warning = error


def new_bus() -> EventBus:
    logger: Any = Logger()
    return EventBus(logger=logger)


async def handler(payload: object) -> None: ...


def raises(error: type[BaseException], call: Callable[[], object]) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"{call} has not raised {error.__name__}")


def check_without_asyncio(error: type[Exception]) -> None:
    """Sync handlers work; async ones fail, each by itself, and say why."""
    bus = new_bus()
    got: list[object] = []
    bus.on("a", got.append)
    bus.on("a", handler)
    bus.on("a", handler)
    assert bus.emit("a", 1) == 3
    assert got == [1]
    assert reported == [f"handler: {error.__name__}"] * 2, reported
    assert bus.emit("nobody") == 0
    raises(error, lambda: bus.collect("a"))
    emission: Any = bus.emit_async("a", 2)
    raises(error, lambda: emission.send(None))
    assert got == [1, 2]

    def interrupts(*args: object) -> None:
        raise KeyboardInterrupt

    interrupted = EventBus(on_error=interrupts)
    interrupted.on("a", handler)
    raises(KeyboardInterrupt, lambda: interrupted.emit("a"))
    bus.subscribe("c", handler, where=lambda payload: False)
    assert bus.emit("c") == 0  # nobody is left to blame


def no_asyncio() -> None:
    assert "asyncio" not in sys.modules
    sys.modules["asyncio"] = None  # type: ignore[assignment]
    check_without_asyncio(ModuleNotFoundError)


def another_asyncio() -> None:
    """A file of the user's that happens to be called asyncio.py."""
    assert "asyncio" not in sys.modules
    sys.modules["asyncio"] = types.ModuleType("asyncio")
    check_without_asyncio(AttributeError)


def check_with_asyncio() -> None:
    import asyncio

    seen: list[object] = []

    async def suspends(payload: object) -> None:
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    async def waits(payload: object) -> None:
        await asyncio.sleep(3600)

    async def nested(payload: object) -> None:
        assert await bus.emit_async("a") == 1

    bus = new_bus()
    bus.on("a", suspends)
    bus.on("b", nested)
    bus.on("c", waits)

    async def main() -> None:
        assert await bus.emit_async("a") == 1
        assert bus.emit("a") == 1
        assert await bus.drain() == []
        assert await bus.emit_async("b") == 1
        task = asyncio.ensure_future(bus.emit_async("c"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
    assert len(seen) == 3
    assert all(isinstance(task, asyncio.Task) for task in seen)
    assert bus.emit("a") == 1  # in a loop of its own
    assert reported == []


def no_c_tasks() -> None:
    """Python without its C accelerator for asyncio."""
    sys.modules["_asyncio"] = None  # type: ignore[assignment]
    check_with_asyncio()


def odd_table(table: object) -> None:
    """The current tasks are not where they are looked for."""
    import asyncio.tasks  # noqa: F401 - which has taken its own name for it

    module = sys.modules.get("_asyncio")
    if module is not None:
        vars(module)["_current_tasks"] = table
    check_with_asyncio()


def no_logger() -> None:
    """No logger can be made: messages are lost, and nothing else is."""

    import asyncio

    class Broken(logging.Logger):
        def __init__(self, name: str) -> None:
            raise OSError(name)

    hooked: list[str] = []
    sys.unraisablehook = lambda hook: hooked.append(type(hook.exc_value).__name__)
    logging.setLoggerClass(Broken)
    got: list[object] = []
    bus = EventBus(slow_after=1e-9, max_pending=1)

    def fails(payload: object) -> None:
        raise ValueError

    bus.on("a", fails)
    bus.on("a", got.append)
    assert bus.emit("a", 1) == 2
    assert got == [1]
    assert hooked == ["OSError"] * 2, hooked  # the failure, and how long it took
    del hooked[:]

    async def main() -> None:
        bus.on("b", handler)
        bus.emit("b")
        bus.emit("b")
        await bus.drain()

    asyncio.run(main())
    assert bus.stats()["dropped"] == 1
    assert set(hooked) == {"OSError"}


def no_loop_module() -> None:
    """What offloaded handlers run with cannot be imported."""
    import asyncio

    bus = new_bus()

    def offloaded(payload: object) -> None:
        raise AssertionError("it was called")

    bus.subscribe("a", offloaded, offload=True)

    async def main() -> None:
        assert await bus.emit_async("a") == 1

    name = "agent_event_bus._loop"
    sys.modules[name] = None  # type: ignore[assignment]
    asyncio.run(main())
    sys.modules[name] = types.ModuleType(name)
    asyncio.run(main())
    assert [line.split(": ")[1] for line in reported] == ["ModuleNotFoundError", "AttributeError"]


CASES: dict[str, Callable[[], None]] = {
    "no asyncio": no_asyncio,
    "another asyncio": another_asyncio,
    "no C tasks": no_c_tasks,
    "another table": lambda: odd_table({}),
    "no table": lambda: odd_table(None),
    "no logger": no_logger,
    "no loop module": no_loop_module,
}

if __name__ == "__main__":
    assert agent_event_bus.__version__
    CASES[sys.argv[1]]()
    print("ok")
