"""What hostile objects do, and the scene in which they do it.

A deed is what a method of such an object does when it is called: tests/hostile_actors.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
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
