"""Objects that do harm in whatever method the bus calls: who they are, and what they may do.

An actor is one method of one object that the bus is given, and a deed is what that method does
when it is called. ``tests/isolated/hostile.py`` puts every deed into every actor, in each way to
emit.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from typing import Any, Callable

from agent_event_bus import EventBus

# A deed is done this often in one scene: once more than it takes to emit in its own emission.
TIMES = 2


class Interruption(BaseException):
    """An error that is nobody's failure, as KeyboardInterrupt is."""


class Scene:
    """One bus with a hostile part in it, and everything that is seen of what comes of it."""

    def __init__(self, deed: Callable[[Scene], Any], **options: Any) -> None:
        self.deed = deed
        self.times = 0
        self.over = False
        self.fates: list[str] = []
        self.expected: list[BaseException] = []
        self.ran: list[str] = []
        self.cleanup: list[object] = []  # held until the end
        self.logger: Any = Log(self)
        logger: Any = self.logger
        self.holder = [EventBus(logger=logger, on_error=self.on_error, **options)]
        self.ref = weakref.ref(self.holder[0])
        self.payload: Any = {"field": 1}
        self.name: Any = "a"
        # What a test of an emission does instead of emitting, if anything.
        self.operation: Callable[[], Any] | None = None
        self.loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
        self.prepare_loop: Callable[[asyncio.AbstractEventLoop], None] = lambda loop: None

    @property
    def bus(self) -> EventBus:
        bus = self.ref()
        assert bus is not None
        return bus

    def end(self) -> None:
        """Do no deed any more."""
        self.over = True
        self.cleanup.clear()

    def act(self, *args: object) -> Any:
        """Do the deed, a few times at most."""
        if self.times >= TIMES or self.over:
            return None
        self.times += 1
        return self.deed(self)

    def on_error(self, name: str, handler: object, error: BaseException) -> None:
        self.see("on_error", error)

    def see(self, fate: str, error: object) -> None:
        """Note where an error has gone, if it is one of the deed's."""
        if any(error is each for each in self.expected):
            self.fates.append(fate)

    def bystander(self, label: str) -> Callable[..., None]:
        return lambda *args: self.ran.append(label)

    def async_bystander(self, label: str) -> Callable[..., Any]:
        async def handler(*args: object) -> None:
            await asyncio.sleep(0)
            self.ran.append(label)

        return handler


class Log:
    """A logger that notes what it is told of the deed's errors."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def error(self, *args: Any, exc_info: Any, extra: object) -> None:
        self.scene.see("logged", exc_info[1])

    def warning(self, text: str, *args: object, **options: object) -> None:
        if "cancelled" in text:
            self.scene.fates.append("cancelled")


# ---- deeds ---------------------------------------------------------------------------------------


def raising(make: Callable[[], BaseException]) -> Callable[[Scene], Any]:
    def deed(scene: Scene) -> Any:
        error = make()
        scene.expected.append(error)
        raise error

    return deed


def emits(scene: Scene) -> None:
    """Emit its own event once more, inside itself."""
    scene.bus.emit("a", scene.payload)
    scene.bus.emit("other")


def emits_by_hand(scene: Scene) -> None:
    """Take steps of an emission of its own event, and leave it."""
    for end in (
        lambda coro: coro.close(),
        lambda coro: coro.throw(ValueError()),
        lambda coro: None,
    ):
        coro = scene.bus.emit_async("a", {})
        try:
            coro.send(None)
            end(coro)
        except (StopIteration, ValueError, RuntimeError):
            pass


def collects(scene: Scene) -> None:
    with contextlib.suppress(RuntimeError):  # inside a loop
        scene.bus.collect("a", {})


def subscribes(scene: Scene) -> None:
    """Change everything that the plan of its event is made from."""
    scene.bus.subscribe(["a", "*", "b.*"], scene.bystander("late"), priority=-9)
    scene.bus.once("*", scene.bystander("late"))
    for number in range(40):
        scene.bus.emit(f"name.{number}")


def unsubscribes(scene: Scene) -> None:
    for subscription in scene.bus._subscriptions():
        subscription.cancel()


def clears(scene: Scene) -> None:
    scene.bus.clear("a")
    scene.bus.clear()


def closes(scene: Scene) -> None:
    """Begin to close the bus: the rest is for somebody who may wait."""
    bus = scene.bus
    bus._close()
    bus.clear()
    for delivery in bus._pending():
        delivery.cancel()


def ends_deliveries(scene: Scene) -> None:
    """Close by force every delivery there is, found through the collector."""
    for obj in gc.get_objects():
        if type(obj).__name__ == "HandlerTask":
            with contextlib.suppress(ValueError, RuntimeError):
                obj.close()


def drops(scene: Scene) -> None:
    """Let go of the bus, and of everything else that can be collected."""
    scene.holder.clear()
    gc.collect()


def collects_garbage(scene: Scene) -> None:
    gc.collect()


def initialises(scene: Scene) -> None:
    EventBus.__init__(scene.bus, logger=scene.logger, on_error=scene.on_error)


def reconfigures(scene: Scene) -> None:
    bus = scene.bus
    bus.on_error = None
    bus.on_error = scene.on_error
    bus.bind_loop(None)
    bus.define_event(f"new.{scene.times}", lambda payload: None)
    assert bus.stats()["emitted"] >= 0
    bus.history()


def switches(scene: Scene) -> None:
    """Let another thread change the bus and emit on it meanwhile."""
    bus = scene.bus
    began = threading.Event()

    def work() -> None:
        began.set()
        for _ in range(3):
            bus.subscribe(["a", "*"], scene.bystander("late")).cancel()
            bus.emit("other", 1)
            bus.off("a", work)
            time.sleep(0)
        for subscription in bus._subscriptions()[:1]:
            subscription.cancel()

    thread = threading.Thread(target=work)
    thread.start()
    began.wait()
    time.sleep(0)
    thread.join()


class BadTruth:
    """Cannot be asked for its truth, compared, hashed or called.

    It can be shown: a task that is given an object which cannot never ends, in plain asyncio too.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def refuse(self, *args: object) -> Any:
        error = ValueError("rubbish")
        self.scene.expected.append(error)
        raise error

    __bool__ = __eq__ = __hash__ = __call__ = __iter__ = __len__ = refuse


RAISING: dict[str, Callable[[Scene], Any]] = {
    "ValueError": raising(ValueError),
    "RecursionError": raising(RecursionError),
    "MemoryError": raising(MemoryError),
    "StopIteration": raising(lambda: StopIteration(3)),
    "StopAsyncIteration": raising(StopAsyncIteration),
    "AttributeError": raising(AttributeError),
    "KeyError": raising(KeyError),
    "CancelledError": raising(asyncio.CancelledError),
    "GeneratorExit": raising(GeneratorExit),
    "KeyboardInterrupt": raising(KeyboardInterrupt),
    "SystemExit": raising(lambda: SystemExit(3)),
    "Interruption": raising(Interruption),
}
ORDINARY = {"ValueError", "RecursionError", "MemoryError", "KeyError"}
INTERRUPTIONS = {"KeyboardInterrupt", "SystemExit", "Interruption"}
# After these the other handlers are still there, and so is the bus.
HARMLESS = {"emits", "emits_by_hand", "collects", "subscribes", "collects_garbage", "reconfigures"}
RUBBISH: dict[str, Callable[[Scene], Any]] = {
    "None": lambda scene: None,
    "a number": lambda scene: -1,
    "a str": lambda scene: "rubbish",
    "NotImplemented": lambda scene: NotImplemented,
    "itself": lambda scene: scene,
    "bad truth": BadTruth,
    "a class": lambda scene: BadTruth,
    "a generator": lambda scene: (number for number in range(3)),
    "an iterator": lambda scene: iter([1, None]),
}
DEEDS: dict[str, Callable[[Scene], Any]] = {
    **RAISING,
    **RUBBISH,
    **{
        deed.__name__: deed
        for deed in (
            emits,
            emits_by_hand,
            collects,
            subscribes,
            unsubscribes,
            clears,
            closes,
            ends_deliveries,
            drops,
            collects_garbage,
            initialises,
            reconfigures,
            switches,
        )
    },
}


# ---- actors --------------------------------------------------------------------------------------


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
