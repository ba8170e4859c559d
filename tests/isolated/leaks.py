"""Emissions of every kind leave nothing behind: no reference, no object, no memory.

usage: leaks.py KIND COUNT    that many emissions of one kind, or of all kinds mixed for "mixed"
       leaks.py kinds         print the kinds

Everything is done once before the first measurement, so that what asyncio, logging and the
interpreter keep from a first use is there already; then in rounds, so that a growth is seen as one.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import sys
import sysconfig
import warnings
import weakref
from collections.abc import Coroutine
from typing import Any, Callable

from agent_event_bus import EventBus

WARM_UP = 12
ROUNDS = 20
# Objects of asyncio, logging and free lists may come and go between two measurements: a few,
# where one leaked in each emission would be ten thousand.
FEW_OBJECTS = 40
# Without a GIL the interpreter takes longer to fill its caches.
FEW_BLOCKS = 1000 if sysconfig.get_config_var("Py_GIL_DISABLED") else 500
FEW = {"objects": FEW_OBJECTS, "blocks": FEW_BLOCKS, "KiB of resident memory": 1024}


class Payload:
    """Something that can be counted."""


bus = EventBus("leaks")
payload = Payload()
# Made at run time, so that no constant of the code refers to them.
names = {kind: "".join(["event.", kind]) for kind in ("sync", "returns", "suspends", "fails")}
names.update({kind: "".join(["event.", kind]) for kind in ("fails.later", "cancels", "raises")})
names.update({kind: "".join(["event.", kind]) for kind in ("waits", "touches", "nests", "nobody")})
tasks: list[Any] = []


def current() -> Any:
    """Return the task of the handler that asks."""
    return asyncio.current_task()


def sync(event: object) -> None: ...


def sync_fails(event: object) -> None:
    raise ValueError("sync")


async def returns(event: object) -> None: ...


async def suspends(event: object) -> None:
    await asyncio.sleep(0)


async def fails(event: object) -> None:
    raise ValueError("first step")


async def fails_later(event: object) -> None:
    await asyncio.sleep(0)
    raise ValueError("resumed")


async def cancels(event: object) -> None:
    current().cancel("by itself")
    await asyncio.sleep(0)


async def raises(event: object) -> None:
    raise asyncio.CancelledError


async def waits(event: object) -> None:
    await asyncio.get_running_loop().create_future()


async def touches(event: object) -> None:
    task = current()
    task.set_name("touched")
    task.label = task
    task.add_done_callback(sync)
    weakref.ref(task)
    tasks.append(task)


async def nests(event: object) -> None:
    await bus.emit_async(names["returns"], event)
    await bus.emit_async(names["suspends"], event)


handlers: dict[str, Callable[[Any], Any]] = {
    "sync": sync,
    "returns": returns,
    "suspends": suspends,
    "fails.later": fails_later,
    "cancels": cancels,
    "raises": raises,
    "waits": waits,
    "touches": touches,
    "nests": nests,
}
for kind, handler in handlers.items():
    bus.subscribe(names[kind], handler)
for handler in (sync_fails, fails):
    bus.subscribe(names["fails"], handler)


anything: Any = bus
for handler in (sync, returns):
    anything.subscribe(Payload, handler)


def refuses(event: object) -> None:
    raise ValueError("refused")


strict = EventBus("strict", strict=True)
strict.define_event("event.refused", refuses)
strict.on("event.refused", sync)
strict.on("event.*", lambda name, event: None)


def repeated(kind: str) -> Callable[[int], Coroutine[Any, Any, None]]:
    """Return what awaits `count` emissions of one name, one after another."""

    async def run(count: int) -> None:
        for _ in range(count):
            await bus.emit_async(names[kind], payload)

    return run


async def emit_sync(count: int) -> None:
    for _ in range(count):
        bus.emit(names["sync"], payload)


async def emit_pending(count: int) -> None:
    for kind in ("returns", "suspends", "fails.later", "cancels"):
        for _ in range(count // 4):
            bus.emit(names[kind], payload)
            if len(asyncio.all_tasks()) > 50:
                await bus.drain()
    await bus.drain()


async def emit_without_a_loop(count: int) -> None:
    def emit_some() -> None:
        for _ in range(count):
            bus.emit(names["suspends"], payload)

    await asyncio.get_running_loop().run_in_executor(None, emit_some)


async def published(count: int) -> None:
    for _ in range(count // 2):
        bus.publish(payload)
        await bus.publish_async(payload)
    await bus.drain()


async def refused(count: int) -> None:
    for number in range(count // 2):
        for name in ("event.refused", f"event.unknown.{number}"):
            try:
                if number % 2:
                    strict.emit(name, payload)
                else:
                    await strict.emit_async(name, payload)
            except ValueError:
                continue
            raise AssertionError("it was not refused")


async def touched(count: int) -> None:
    for _ in range(count):
        await bus.emit_async(names["touches"], payload)
        if len(tasks) > 50:
            tasks.clear()
    tasks.clear()
    await asyncio.sleep(0)


async def cancelled_outside(count: int) -> None:
    for _ in range(count):
        task = asyncio.ensure_future(bus.emit_async(names["waits"], payload))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])


async def by_hand(count: int) -> None:
    for number in range(count):
        emission = bus.emit_async(names["waits"], payload)
        if number % 2:
            emission.send(None)
            emission.close()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        else:
            emission.close()


async def dropped(count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            emission = bus.emit_async(names["suspends"], payload)
            del emission


async def with_factory(count: int) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
    try:
        await repeated("returns")(count // 2)
        await repeated("suspends")(count - count // 2)
    finally:
        loop.set_task_factory(None)


# How each kind is emitted, and its share of a mixed run in thousandths.
KINDS: dict[str, tuple[Callable[[int], Coroutine[Any, Any, None]], int]] = {
    "emit_sync": (emit_sync, 300),
    "emit_pending": (emit_pending, 20),
    "emit_without_a_loop": (emit_without_a_loop, 1),
    "nobody": (repeated("nobody"), 100),
    "sync": (repeated("sync"), 219),
    "published": (published, 20),
    "refused": (refused, 10),
    "returns": (repeated("returns"), 150),
    "suspends": (repeated("suspends"), 50),
    "fails": (repeated("fails"), 15),
    "fails_later": (repeated("fails.later"), 15),
    "cancels_itself": (repeated("cancels"), 15),
    "raises_cancelled": (repeated("raises"), 15),
    "cancelled_outside": (cancelled_outside, 15),
    "touched": (touched, 20),
    "nested": (repeated("nests"), 10),
    "by_hand": (by_hand, 10),
    "dropped": (dropped, 5),
    "with_factory": (with_factory, 10),
}
assert sum(share for _, share in KINDS.values()) == 1000


def resident() -> int:
    """Return the resident memory of this process in KiB; its peak, where only that is known."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def level() -> tuple[int, ...]:
    """Return how much there is of what `FEW` has."""
    return len(gc.get_objects()), sys.getallocatedblocks(), resident()


def counts() -> dict[str, int]:
    """Return the reference counts that emitting must not change, by what they are of."""
    found = {f"handler {kind}": sys.getrefcount(handlers[kind]) for kind in handlers}
    found.update({f"name {kind}": sys.getrefcount(name) for kind, name in names.items()})
    found["handler fails"] = sys.getrefcount(fails)
    found["handler sync_fails"] = sys.getrefcount(sync_fails)
    found["payload"] = sys.getrefcount(payload)
    found["bus"] = sys.getrefcount(bus)
    found["None"] = sys.getrefcount(None) if sys.version_info >= (3, 12) else 0
    return found


def type_counts() -> dict[str, int]:
    """Return the reference counts of the types involved; a free list may hold a few of each."""
    emission = bus.emit_async("a")
    emission.close()
    types: list[type] = [type(bus), type(emission), asyncio.Task, asyncio.Future, *core_types]
    return {cls.__qualname__: sys.getrefcount(cls) for cls in types}


core_types: list[type] = []


async def main(kind: str, count: int) -> None:
    """Emit, and compare what there is after each round with what there was before the first."""
    chosen = {kind: (KINDS[kind][0], 1000)} if kind != "mixed" else KINDS
    import agent_event_bus._core as core

    core_types.extend(value for value in vars(core).values() if isinstance(value, type))

    async def go(emissions: int) -> None:
        for run, share in chosen.values():
            await run(emissions * share // 1000)
        for _ in range(3):
            await asyncio.sleep(0)
            gc.collect()

    # Objects come and go, with threads too, and memory comes from the system in pieces of up to a
    # megabyte, some of which stay in use: what counts is that the level once reached is not left
    # for good.
    levels = []
    for _ in range(WARM_UP):
        await go(count // ROUNDS)
        levels.append(level())
    references, types = counts(), type_counts()
    for _ in range(ROUNDS):
        await go(count // ROUNDS)
        levels.append(level())
    after = counts()
    assert after == references, {k: (references[k], after[k]) for k in after}
    for name, number in type_counts().items():
        assert abs(number - types[name]) <= FEW_OBJECTS, (name, types[name], number)
    for (what, few), reached in zip(FEW.items(), zip(*levels)):
        grown = min(reached[-3:]) - max(reached[:WARM_UP])
        assert grown <= few, f"{grown} more {what}: {reached}"
    assert len(asyncio.all_tasks()) == 1


if sys.argv[1] == "kinds":
    print("\n".join(KINDS))
else:
    logger = logging.getLogger("agent_event_bus")
    # Records are made and handled, and go nowhere.
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    print("ok")
