"""Awaitables, what they yield, loops and task factories that do harm. Like hostile_actors.py."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from typing import Any, Callable

from hostile_actors import ACTORS, FATES, LOGGED, NEVER_FAIL, NO_RUBBISH, actor, hostile
from hostile_deeds import DEEDS, RAISING, RUBBISH, TIMES, Scene

# ---- awaitables, and what they yield -------------------------------------------------------------


def returning(scene: Scene, make: Callable[[], Any]) -> None:
    scene.bus.on("a", lambda payload: make())


@actor("awaitable.__await__")
def _(scene: Scene) -> None:
    returning(scene, lambda: hostile(scene, "__await__"))


@actor("awaitable.__next__")
def _(scene: Scene) -> None:
    def step(self: object) -> Any:
        if scene.times >= TIMES or scene.over:
            raise StopIteration
        return scene.act()

    methods = {"__iter__": lambda self: self, "__next__": step}
    awaiting = {"__await__": lambda self: hostile(scene, **methods)}
    returning(scene, lambda: hostile(scene, **awaiting))


def suspending(scene: Scene, method: str, timeout: float | None = 0.001) -> None:
    """An awaitable that waits for ever, until its time is over, with one hostile method."""

    def iterate(self: object) -> Any:
        iterator = waiting()
        forward = {
            "__next__": lambda self: next(iterator),
            "send": lambda self, value: iterator.send(value),
            "throw": lambda self, *args: iterator.throw(*args),
            "close": lambda self: iterator.close(),
            "__iter__": lambda self: self,
        }
        forward.pop(method, None)
        return hostile(scene, method, **forward)

    scene.bus.on("a", lambda payload: hostile(scene, __await__=iterate), timeout=timeout)


def waiting() -> Generator[Any, Any, None]:
    yield from asyncio.get_running_loop().create_future()


@actor("awaitable.send", fate=LOGGED)
def _(scene: Scene) -> None:
    suspending(scene, "send")


@actor("awaitable.throw", interruption={"raised", "task"})
def _(scene: Scene) -> None:
    suspending(scene, "throw")


@actor("awaitable.__getattribute__", fate={"logged", "never"}, interruption={"raised", "task"})
def _(scene: Scene) -> None:
    suspending(scene, "__getattribute__")


@actor("types.coroutine generator.throw")
def _(scene: Scene) -> None:
    import types

    @types.coroutine
    def generator() -> Iterator[Any]:
        try:
            yield
        finally:
            scene.act()

    returning(scene, generator)


YIELDED = ("cancel", "result")


def yielding(scene: Scene, name: str) -> None:
    """An awaitable that yields a future one of whose attributes is hostile, and does so once."""

    class Future(asyncio.Future):  # type: ignore[type-arg]
        pass

    def get(self: Any) -> Any:
        answer = scene.act()
        return getattr(super(Future, self), name) if answer is None else answer

    setattr(Future, name, property(get, lambda self, value: None))

    class Awaitable:
        def __await__(self) -> Any:
            loop = asyncio.get_running_loop()
            future = Future(loop=loop)
            loop.call_soon(lambda: None if future.done() else future.set_result(None))
            if name != "_asyncio_future_blocking":
                future._asyncio_future_blocking = True
            yield future

    returning(scene, Awaitable)


for attribute in YIELDED:
    ACTORS[f"yielded future.{attribute}"] = lambda scene, name=attribute: yielding(scene, name)  # type: ignore[misc]
    FATES[f"yielded future.{attribute}"] = ({"any"}, {"any"})
    NO_RUBBISH.add(f"yielded future.{attribute}")


# ---- loops and tasks -----------------------------------------------------------------------------


def hostile_loop(scene: Scene, method: str) -> None:
    """A loop with one hostile method, which does what it should when the deed has no answer."""
    original = getattr(asyncio.SelectorEventLoop, method)

    def replacement(self: Any, *args: Any, **options: Any) -> Any:
        answer = scene.act() if armed else None
        return original(self, *args, **options) if answer is None else answer

    loop_type = type("HostileLoop", (asyncio.SelectorEventLoop,), {method: replacement})
    armed: list[bool] = []

    async def handler(payload: object) -> None:
        await asyncio.sleep(0)

    def arms(payload: object) -> None:
        armed.append(True)

    async def disarms(payload: object) -> None:
        armed.clear()

    scene.loop = loop_type
    scene.bus.on("a", arms, priority=2)
    scene.bus.on("a", handler, priority=3, timeout=5)
    scene.bus.on("a", disarms, priority=4)


for attribute in (
    "create_future",
    "create_task",
    "get_task_factory",
    "call_soon",
    "call_later",
    "call_at",
    "time",
    "get_debug",
    "is_closed",
):
    ACTORS[f"loop.{attribute}"] = lambda scene, name=attribute: hostile_loop(scene, name)  # type: ignore[misc]
    FATES[f"loop.{attribute}"] = ({"any"}, {"any"})
    NO_RUBBISH.add(f"loop.{attribute}")
    if attribute not in ("create_future", "create_task", "get_task_factory", "call_later"):
        NEVER_FAIL.add(f"loop.{attribute}")


@actor("task factory.__call__", interruption={"any"}, fate={"any"})
def _(scene: Scene) -> None:
    async def handler(payload: object) -> None:
        await asyncio.sleep(0)

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        answer = scene.act() if type(coro).__name__ == "HandlerTask" else None
        return asyncio.Task(coro, loop=loop) if answer is None else answer

    scene.bus.on("a", handler)
    scene.prepare_loop = lambda loop: loop.set_task_factory(factory)


NO_RUBBISH.add("task factory.__call__")


def deeds_of(actor: str) -> list[str]:
    """The deeds that an actor is given."""
    return [
        deed
        for deed in DEEDS
        if not (deed in RAISING and actor in NEVER_FAIL)
        and not (deed in RUBBISH and actor in NO_RUBBISH)
    ]
