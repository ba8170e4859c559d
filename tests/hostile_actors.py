"""Objects that do harm in whatever method the bus calls, and who they are.

An actor is one method of one object that the bus is given; tests/hostile_deeds.py has what it may
do, and tests/hostile_parts.py the actors among awaitables and loops. ``tests/isolated/hostile.py``
puts every deed into every actor, in each way to emit.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, Callable

from hostile_deeds import Scene


def hostile(scene: Scene, *methods: str, base: Any = object, **fields: Any) -> Any:
    """An object of a new class whose methods of these names do the deed."""
    members = {method: lambda self, *args, **options: scene.act() for method in methods}
    return type("Hostile", (base,), {**fields, **members})()


def property_of(scene: Scene, name: str, otherwise: Any) -> Any:
    """A property that does the deed when it is read, and answers with that, if it can."""

    def get(self: object) -> Any:
        answer = scene.act()
        return otherwise if answer is None else answer

    return property(get)


ACTORS: dict[str, Callable[[Scene], None]] = {}
# Who is not given the deeds that fail, or those that answer rubbish: asyncio itself cannot go on
# after them, so there is nothing to be seen of the bus.
NEVER_FAIL: set[str] = set()
NO_RUBBISH: set[str] = set()
# Where an ordinary exception of an actor goes, and one that must not be isolated, if not to the
# log and on_error, and to the emitter.
FATES: dict[str, tuple[set[str], set[str]]] = {}
LOGGED, RAISED, UNRAISABLE, NEVER = {"logged"}, {"raised"}, {"unraisable"}, {"never"}


def actor(
    name: str, fate: set[str] = LOGGED, interruption: set[str] = RAISED
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    def add(build: Callable[[Scene], None]) -> Callable[[Scene], None]:
        assert name not in ACTORS
        ACTORS[name] = build
        FATES[name] = (fate, interruption)
        return build

    return add


@actor("handler.__call__")
def _(scene: Scene) -> None:
    scene.bus.on("a", hostile(scene, "__call__"))


@actor("handler of *.__call__")
def _(scene: Scene) -> None:
    scene.bus.on("*", lambda name, payload: scene.act() if name == "a" else None)


@actor("handler with all options.__call__")
def _(scene: Scene) -> None:
    kept = hostile(scene, "__call__")
    scene.cleanup.append(kept)
    scene.bus.on("a", kept, weak=True, envelope=True, where={"field": 1}, timeout=5)


@actor("once handler.__call__")
def _(scene: Scene) -> None:
    scene.bus.once("a", lambda payload: scene.act())


@actor("guard.__call__", fate=RAISED)
def _(scene: Scene) -> None:
    scene.bus.on("a", lambda payload: scene.act(), isolate=False)


@actor("offloaded handler.__call__")
def _(scene: Scene) -> None:
    scene.bus.on("a", lambda payload: scene.act(), offload=True)


@actor("async handler, first step")
def _(scene: Scene) -> None:
    async def handler(payload: object) -> None:
        scene.act()

    scene.bus.on("a", handler)


@actor("async handler, second step")
def _(scene: Scene) -> None:
    async def handler(payload: object) -> None:
        await asyncio.sleep(0)
        scene.act()

    scene.bus.on("a", handler)


@actor("async guard, second step", fate={"raised", "logged"})
def _(scene: Scene) -> None:
    async def handler(payload: object) -> None:
        await asyncio.sleep(0)
        scene.act()

    scene.bus.on("a", handler, isolate=False)


@actor("async handler that is cancelled", interruption={"raised", "task"})
def _(scene: Scene) -> None:
    async def handler(payload: object) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            scene.act()

    scene.bus.on("a", handler, timeout=0.001)


@actor("handler.__del__", fate=UNRAISABLE, interruption=UNRAISABLE)
def _(scene: Scene) -> None:
    def operation() -> None:
        scene.bus.on("b", hostile(scene, "__call__", "__del__"))
        scene.bus.once("b", hostile(scene, "__call__", "__del__"))
        scene.bus.emit("b")
        scene.bus.off("b")

    scene.operation = operation


@actor("handler.__eq__", fate=RAISED)
def _(scene: Scene) -> None:
    scene.bus.on("a", hostile(scene, "__eq__", __call__=lambda self, payload: None))
    scene.operation = lambda: scene.bus.off("a", hostile(scene, "__eq__", "__call__"))


@actor("handler.__hash__ and __repr__", fate=NEVER, interruption=NEVER)
def _(scene: Scene) -> None:
    def fails(self: object, payload: object) -> None:
        raise ZeroDivisionError

    scene.bus.on("a", hostile(scene, "__hash__", "__repr__", "__str__", "__bool__", __call__=fails))


@actor("handler.__getattribute__", fate={"raised", "never"}, interruption={"raised"})
def _(scene: Scene) -> None:
    fields = {"__call__": lambda self, payload: None}
    scene.operation = lambda: scene.bus.on("b", hostile(scene, "__getattribute__", **fields))


@actor("metaclass of a handler.__call__")
def _(scene: Scene) -> None:
    meta: Any = type("Meta", (type,), {"__call__": lambda cls, *args: scene.act()})
    scene.bus.on("a", meta("Handler", (), {}))


@actor("weak handler's callback", fate=UNRAISABLE, interruption=UNRAISABLE)
def _(scene: Scene) -> None:
    def operation() -> None:
        kept: list[Any] = []
        handler = hostile(scene, __call__=lambda self, payload: None)
        scene.bus.on("b", handler, weak=True)
        ref = weakref.ref(handler, scene.act)
        scene.bus.once("b", lambda payload: kept.clear(), priority=-1)
        kept.append(handler)
        del handler
        scene.bus.emit("b")
        assert ref() is None

    scene.operation = operation


@actor("payload.__del__", fate=UNRAISABLE, interruption=UNRAISABLE)
def _(scene: Scene) -> None:
    scene.bus.on("b", lambda payload: None)
    scene.bus.on("b", scene.async_bystander("b"))
    scene.operation = lambda: scene.bus.emit("b", hostile(scene, "__del__"))


@actor("payload's other methods", fate=NEVER, interruption=NEVER)
def _(scene: Scene) -> None:
    def fails(payload: object) -> None:
        raise ZeroDivisionError

    scene.bus.on("a", fails)
    scene.payload = hostile(
        scene,
        "__eq__",
        "__hash__",
        "__repr__",
        "__str__",
        "__bool__",
        "__getattribute__",
        "__len__",
    )


@actor("field of a payload.__get__")
def _(scene: Scene) -> None:
    scene.bus.on("a", scene.bystander("matched"), where={"field": 2})
    scene.payload = hostile(scene, field=property_of(scene, "field", 1))


@actor("field of a payload.__eq__")
def _(scene: Scene) -> None:
    scene.bus.on("a", scene.bystander("matched"), where={"field": 2})
    scene.payload = {"field": hostile(scene, "__eq__")}


@actor("truth of a comparison.__bool__")
def _(scene: Scene) -> None:
    answer = hostile(scene, "__bool__")
    scene.bus.on("a", scene.async_bystander("matched"), where={"field": 2})
    scene.payload = {"field": hostile(scene, __eq__=lambda self, other: answer)}


@actor("mapping.__getitem__", fate={"logged", "never"})
def _(scene: Scene) -> None:
    scene.bus.on("a", scene.bystander("matched"), where={"field": 2})
    scene.payload = hostile(scene, "__getitem__", keys=lambda self: ["field"])


@actor("condition.__call__")
def _(scene: Scene) -> None:
    scene.bus.on("a", scene.bystander("matched"), where=hostile(scene, "__call__"))


@actor("condition of an async handler.__call__")
def _(scene: Scene) -> None:
    scene.bus.on("a", scene.async_bystander("matched"), where=hostile(scene, "__call__"))


@actor("answer of a condition.__bool__")
def _(scene: Scene) -> None:
    scene.bus.on("a", scene.bystander("matched"), where=lambda payload: hostile(scene, "__bool__"))


@actor("name of an event", fate=NEVER, interruption=NEVER)
def _(scene: Scene) -> None:
    text: Any = type(
        "Text",
        (str,),
        {
            method: lambda self, *args: scene.act()
            for method in ("__eq__", "__str__", "__repr__", "__contains__", "__len__", "split")
        },
    )
    text.__hash__ = lambda self: scene.act() or 0
    scene.bus.on(text("a"), scene.bystander("matched"))
    scene.name = text("a")


@actor("error.__str__")
def _(scene: Scene) -> None:
    # The error that is told of is the handler's; what its text raises is replaced by its type.
    error = type("HostileError", (Exception,), {"__str__": lambda self: scene.act() or ""})()

    def fails(payload: object) -> None:
        scene.expected.append(error)
        raise error

    scene.bus.on("a", fails)


@actor("error's other methods", fate=NEVER, interruption=NEVER)
def _(scene: Scene) -> None:
    methods = ("__eq__", "__hash__", "__repr__", "__bool__", "__getattribute__", "with_traceback")
    error = hostile(scene, *methods, base=Exception)

    def fails(payload: object) -> None:
        raise error

    scene.bus.on("a", fails)


# The interpreter asks it when it makes an error complete: before 3.12 after the handler has ended.
@actor(
    "metaclass of an error.__instancecheck__",
    fate={"logged", "never"},
    interruption={"logged", "never", "raised"},
)
def _(scene: Scene) -> None:
    methods = ("__instancecheck__", "__subclasscheck__", "__eq__")
    meta: Any = type("Meta", (type,), {name: lambda *args: scene.act() for name in methods})
    error = meta("HostileError", (Exception,), {})

    def fails(payload: object) -> None:
        raise error

    scene.bus.on("a", fails)


@actor("logger.error", fate=UNRAISABLE)
def _(scene: Scene) -> None:
    def fails(payload: object) -> None:
        raise ZeroDivisionError

    scene.logger.error = lambda *args, **options: scene.act()
    scene.bus.on("a", fails)


@actor("logger.error of an async handler", fate=UNRAISABLE)
def _(scene: Scene) -> None:
    async def fails(payload: object) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    scene.logger.error = lambda *args, **options: scene.act()
    scene.bus.on("a", fails)


@actor("on_error", fate=UNRAISABLE)
def _(scene: Scene) -> None:
    def fails(payload: object) -> None:
        raise ZeroDivisionError

    scene.bus.on_error = lambda *args: scene.act()
    scene.bus.on("a", fails)


@actor("checker of a schema", fate={"refused", "raised"})
def _(scene: Scene) -> None:
    scene.bus.define_event("a", hostile(scene, "__call__"))


@actor("metaclass of a published class", fate=NEVER, interruption=NEVER)
def _(scene: Scene) -> None:
    methods = (
        "__eq__",
        "__hash__",
        "__repr__",
        "__instancecheck__",
        "__subclasscheck__",
        "__bool__",
    )
    meta: Any = type("Meta", (type,), {name: lambda *args: scene.act() for name in methods})
    published = meta("Published", (), {})

    def operation() -> None:
        scene.bus.on(published, scene.bystander("matched"))
        assert scene.bus.publish(published()) == 1
        assert scene.bus.off(published) == 1

    scene.operation = operation
