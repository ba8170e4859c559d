"""Each allocation that the core makes in each operation and each refused call fails, one by one.

usage: no_memory_core.py once|always [WORDS]

Once: one allocation fails, and those after it work. Always: it and all after it fail, until the
operation is over. Only allocations of the core's own code, and of what it calls in C, do: see
failing_allocator.c, and allocator.py for what is spared and why. _testcapi.set_nomemory() cannot be
used here: Python 3.13 crashes where a generator cannot be made, and any Python code may make one.
What is swept is in operations.py and refusals.py, with and without event loops.

Whatever fails, the process lives on, nothing hangs, and there is an error: the operation raises
`MemoryError`, or what it raises in any case, or a failure of a handler is reported, or the
interpreter's hook for errors that nobody can be told is called. Without any of those the operation
has to have had its whole effect. Afterwards the bus delivers, counts and removes as before; it is
collected when it is dropped; and of the whole sweep no reference is left to what the operation was
given.

For each operation it is printed how many allocations have failed, and at the end at how many places
of the core that was.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import allocator
import operations
import refusals_async
from operations import OPERATIONS, World, name, payload, sync
from references import TRACKED
from refusals import REFUSALS

from agent_event_bus import EventBus

HANGS = 20.0
"""Seconds after which an operation is stuck: none waits for more than a few milliseconds."""

PATIENCE = 0.1
"""Seconds for which an operation may go on when an error has been told: it may wait for what never
comes because of that, such as the timeout of a handler whose timer could not be set.
"""

KEPT = {"type HandlerTask": 16}
"""Of what the core keeps some for reuse: AEB_MAX_FREE in src/state.h."""

Run = Callable[[World], object]


class Evidence(logging.Handler):
    """Hears of errors that are reported, and not raised."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.unexpected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())

    def unraisable(self, hook: Any) -> None:
        self.note(hook.exc_value if hook.exc_value is not None else hook.exc_type)

    def of_loop(self, loop: object, context: dict[str, Any]) -> None:
        self.note(context.get("exception", context["message"]))

    def note(self, error: object) -> None:
        self.heard.append(repr(error))
        if isinstance(error, SystemError):
            self.unexpected.append(repr(error))


evidence = Evidence()
failing: Any = None


def check_bus(world: World) -> None:
    """Look at a bus on which something has run out of memory."""
    bus = world.bus
    got: list[object] = []
    bus.on("event.checked", got.append, priority=99)
    assert bus.emit("event.checked", payload) >= 1
    assert got == [payload]
    subscription = world.subscription
    if subscription.active:
        calls = subscription.calls
        assert bus.emit(name, payload) >= 1
        assert subscription.calls == calls + 1
        assert subscription.cancel()
    calls = subscription.calls
    bus.emit(name, payload)
    assert subscription.calls == calls
    active = len(bus)
    assert len(bus.subscriptions()) == active
    assert bus.clear() == active
    assert len(bus) == 0
    assert bus.handlers(name) == bus.handlers("event.checked") == ()
    assert bus.stats()["subscriptions"] == 0
    assert bus.pending() == []


class StuckError(Exception):
    """An operation does not end, and nobody has been told why."""


async def settled(coro: Any) -> None:
    """Await an operation, which must not hang."""
    task = asyncio.ensure_future(coro)
    end = time.monotonic() + HANGS
    while not task.done():
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done() or not evidence.heard, "it waits for what failed"
        if time.monotonic() > end:
            raise StuckError
    failing.stop()
    task.result()


async def settle() -> None:
    """Let what an operation has left on the loop come to its end."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(None)
    for _ in range(4):
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    if left:
        _, stuck = await asyncio.wait(left, timeout=HANGS)
        assert not stuck, f"{stuck} cannot be cancelled"
    await loop.run_in_executor(None, int)


def replace_kept() -> None:
    """Replace the exceptions that end emissions, by how many handlers they had.

    Python 3.9 calls next() to await, and the core keeps what that has raised for the next time,
    with the frame of a function that has called it.
    """
    for n_handlers in range(4):
        bus = EventBus()
        for _ in range(n_handlers):
            bus.on(name, sync)
        emission: Any = bus.emit_async(name)
        assert list(emission) == []


class Sweep:
    """One operation or refused call, again and again."""

    def __init__(self, label: str, run: Run, refused: Any, loop: Any, always: bool) -> None:
        self.label = label
        self.run = run
        self.refused = refused  # what it raises in any case
        self.loop = loop
        self.always = always
        self.raised = self.reported = self.absorbed = 0

    def step(self, number: int) -> int:
        """Let allocation `number` fail. Return how many have failed."""
        if self.always:
            gc.collect()  # before 3.12 Python aborts when its 16 spare MemoryErrors are in use
        world = World()
        evidence.heard.clear()
        evidence.unexpected.clear()
        error = self.outcome(world, number)
        failed: int = failing.stop()[1]
        self.loop.run_until_complete(settle())
        if failed:
            self.judge(error)
        elif error is not None:
            raise error
        del error
        check_bus(world)
        for kept in (operations.error, operations.condition_error):
            kept.__traceback__ = kept.__context__ = None
        if sys.version_info[:2] not in ((3, 10), (3, 11)):
            replace_kept()
        gone = weakref.ref(world.bus)
        del world
        assert gone() is None or (gc.collect() and gone() is None), "it is kept alive"
        return failed

    def outcome(self, world: World, number: int) -> BaseException | None:
        """Run it with a failure, and return what it raises that it does not raise in any case."""
        failing.start(number, 0 if self.always else number + 1)
        try:
            result: Any = self.run(world)
            if inspect.iscoroutine(result):
                self.loop.run_until_complete(settled(result))
        except BaseException as error:
            failing.stop()
            return None if isinstance(error, self.refused) else error.with_traceback(None)
        failing.stop()
        return None

    def judge(self, error: BaseException | None) -> None:
        """Raise AssertionError unless this is a way in which a lack of memory may show."""
        assert not evidence.unexpected, evidence.unexpected
        if isinstance(error, MemoryError):
            self.raised += 1
        elif self.always and isinstance(error, (AssertionError, RuntimeError, ValueError)):
            self.reported += 1  # or would have been: telling of it takes memory, too
        elif evidence.heard:
            self.reported += 1
            # The effect is not what it would have been, and that has been told.
            assert error is None or isinstance(error, (AssertionError, RuntimeError, ValueError)), (
                repr(error)
            )
        else:
            self.absorbed += 1
            assert error is None, repr(error)

    def all(self) -> str:
        """Sweep, and say how that went."""
        number = 0
        for _ in range(3):  # what is made once only is there then
            self.step(1 << 40)
        faults = []
        before = references()
        while True:
            try:
                if self.step(number) == 0:
                    break
            except Exception as error:
                where = hex(failing.site()) if failing.site() else ""
                faults.append(f"  FAILED at allocation {number} {where}: {error!r}")
            number += 1
        faults += [
            f"  FAILED with {after - before[label]:+} references to {label}"
            for label, after in references().items()
            if not 0 <= after - before[label] <= KEPT.get(label, 0)
        ]
        counts = f"{self.raised} raised, {self.reported} reported, {self.absorbed} absorbed"
        return "\n".join([f"{self.label}: {number} allocations, {counts}", *faults])


def references() -> dict[str, int]:
    """Return the reference counts of what all worlds share."""
    gc.collect()
    return {label: sys.getrefcount(value) for label, value in TRACKED.items()}


def main(always: bool, words: str) -> None:
    global failing
    try:
        failing = allocator.load()
    except allocator.Unavailable as reason:
        print(f"skipped: {reason}")
        return
    warnings.simplefilter("ignore")  # of coroutines that were made and could not be awaited
    threading.excepthook = lambda arguments: evidence.note(arguments.exc_value)
    logger = logging.getLogger("agent_event_bus")
    logger.addHandler(evidence)
    logger.propagate = False
    sys.unraisablehook = evidence.unraisable
    loop = refusals_async.LOOP
    loop.set_exception_handler(evidence.of_loop)
    loop.set_default_executor(ThreadPoolExecutor(1))
    loop.run_until_complete(settle())
    sweeps = [Sweep(label, run, (), loop, always) for label, run in OPERATIONS.items()]
    sweeps += [
        Sweep(f"refused {label}", each.call, each.error, loop, always)
        for label, each in REFUSALS.items()
    ]
    gc.freeze()
    for sweep in sweeps:
        if words in sweep.label:
            print(sweep.all(), flush=True)
    print(f"{len(failing.sites())} places")


if __name__ == "__main__":
    main(sys.argv[1] == "always", " ".join(sys.argv[2:]))
