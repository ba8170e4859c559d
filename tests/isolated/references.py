"""Each public operation of the core, and each call that has to fail, leaves nothing behind.

usage: references.py names       print the public names that no operation covers, and stale ones
       references.py messages    print what the calls that have to fail say, as JSON
       references.py run COUNT SECONDS [WORDS]
                                 repeat each COUNT times, or as often as SECONDS allow; with WORDS
                                 only those whose label has them in it

Each is repeated by itself. What is compared before and after: the exact reference counts of what it
is given (handlers, payload, names, keys, exceptions), of the types of the core and of the constants
of the interpreter, how many objects and memory blocks there are, and from `MEASURED` repetitions on
the resident memory.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import math
import os
import sys
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import operations
import operations_async
import refusals
from operations import COVERED, OPERATIONS, World, raised
from public_names import public_names
from refusals import REFUSALS

import agent_event_bus
from agent_event_bus import EventBus

WARM_UP = 200
"""More than what the core and the interpreter keep of a kind for reuse."""

ROUNDS = 4
MEASURED = 100_000
"""Repetitions from which on one leaked byte each is more than memory varies by."""

FEW = 3
"""Objects and blocks that may be more after every round, or half as many as there were repetitions:
what the interpreter keeps for reuse varies, but a leak is one each time.
"""

FEW_KIB = 1024


def tracked() -> dict[str, object]:
    """Return what the operations share, and what each of them is a leak of when it grows."""
    found: dict[str, object] = {}
    for module in (operations, operations_async, refusals):
        for label, value in vars(module).items():
            if not label.startswith("__") and not inspect.ismodule(value):
                found[label] = value
    for kind, handler in operations_async.HANDLERS.items():
        found[f"handler {kind}"] = handler
    core: Any = agent_event_bus._core
    for label, value in vars(core).items():
        if isinstance(value, type):
            found[f"type {label}"] = value
    bus = EventBus()
    emission = bus.emit_async("a")
    emission.close()
    found["type Emission"] = type(emission)
    found["type of decorators"] = type(bus.on("a"))
    return found


TRACKED = tracked()
CONSTANTS: dict[str, object] = {
    "None": None,
    "True": True,
    "False": False,
    **{f"int {number}": number for number in range(-1, 9)},
    "empty tuple": (),
    "empty str": "",
    "type Task": asyncio.Task,  # of which asyncio, too, keeps some for reuse
    "type Future": asyncio.Future,
}


def resident() -> int:
    """Return the resident memory of this process in KiB, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        return 0


class Levels:
    """How much there is of everything, at the beginning and after each round.

    It is written into memory that is taken beforehand, so that looking changes nothing.
    """

    def __init__(self) -> None:
        self.values = [*TRACKED.values(), *CONSTANTS.values()]
        self.labels = [*TRACKED, *CONSTANTS, "objects", "blocks", "KiB"]
        self.columns = [array("q", [0] * len(self.labels)) for _ in range(ROUNDS + 1)]
        self.taken = 0

    def take(self) -> None:
        """Note how much there is now."""
        gc.collect()
        gc.collect()  # what finalisers of the first one have let go of
        column = self.columns[self.taken]
        self.taken += 1
        for at, value in enumerate(self.values):
            column[at] = sys.getrefcount(value)
        value = None
        column[-1] = resident()
        column[-3] = len(gc.get_objects())
        column[-2] = sys.getallocatedblocks()

    def of(self, label: str) -> list[int]:
        """Return how much there was of something, at the beginning and after each round."""
        at = self.labels.index(label)
        return [column[at] for column in self.columns]

    def faults(self, count: int) -> list[str]:
        """Return what has grown over `count` repetitions."""
        found = []
        for label in self.labels:
            numbers = self.of(label)
            rounds = [later - sooner for sooner, later in zip(numbers, numbers[1:])]
            if label in TRACKED:
                leaks = numbers[0] != numbers[-1]
            elif label in CONSTANTS:
                # Caches hold some, which come and go with all that the interpreter does.
                leaks = min(map(abs, rounds)) >= count // ROUNDS // 2
            elif label == "KiB":
                # Memory comes from the system in pieces, some of which stay in use.
                grown = min(numbers[-2:]) - max(numbers[:2])
                leaks = count >= MEASURED and grown > FEW_KIB
            else:
                leaks = min(rounds) > max(FEW, count // ROUNDS // 2)
            if leaks:
                found.append(f"{label} {numbers}")
        return found


Repeat = Callable[[int, float], int]
"""Repeats something so often or until that time, and returns how often it was."""


def repeat_operation(loop: asyncio.AbstractEventLoop, label: str) -> Repeat:
    run = OPERATIONS[label]
    if inspect.iscoroutinefunction(run):

        async def steps(count: int, end: float) -> int:
            done = 0
            while done < count and (done % 64 or time.monotonic() < end):
                await run(World())
                done += 1
            for _ in range(3):
                await asyncio.sleep(0)
            # A worker thread lets go of what it did when it takes up the next thing.
            await loop.run_in_executor(None, int)
            return done

        return lambda count, end: loop.run_until_complete(steps(count, end))

    def calls(count: int, end: float) -> int:
        done = 0
        while done < count and (done % 64 or time.monotonic() < end):
            run(World())
            done += 1
        return done

    return calls


def repeat_refusal(label: str) -> Repeat:
    error, says, call = REFUSALS[label]
    world = World()
    n_subscriptions = len(world.bus)

    def calls(count: int, end: float) -> int:
        done = 0
        while done < count and (done % 64 or time.monotonic() < end):
            refusal = raised(error, call, world)
            if done == 0:
                assert says in str(refusal), f"{label} says {refusal}"
            done += 1
        assert len(world.bus) == n_subscriptions, f"{label} has left something on the bus"
        return done

    return calls


def look_at(label: str, repeat: Repeat, count: int, seconds: float) -> str:
    """Repeat one, and return what came of it: a line that begins with "ok" or "leaks"."""
    repeat(WARM_UP, math.inf)
    done, levels = 0, Levels()
    levels.take()
    for _ in range(ROUNDS):
        done += repeat(count // ROUNDS, time.monotonic() + seconds / ROUNDS)
        levels.take()
    found = levels.faults(done)
    kib = levels.of("KiB")
    told = f"{label}: {done} times, {kib[-1] - kib[0]:+} KiB"
    return f"leaks {told} {'; '.join(found)}" if found else f"ok {told}"


def quiet() -> None:
    """Have failures reported, and the reports made and thrown away."""
    logger = logging.getLogger("agent_event_bus")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def main(count: int, seconds: float, words: str) -> None:
    quiet()
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    wanted = {
        **{label: repeat_operation(loop, label) for label in OPERATIONS},
        **{label: repeat_refusal(label) for label in REFUSALS},
    }
    gc.collect()
    gc.freeze()  # what is there already need not be gone through each time
    for label, repeat in wanted.items():
        if words in label:
            print(look_at(label, repeat, count, seconds), flush=True)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def print_names() -> None:
    public = public_names()
    for each in sorted(public - COVERED.keys()):
        print("not covered:", each)
    for each in sorted(COVERED.keys() - public):
        print("not public:", each, "of", COVERED[each])


def print_messages() -> None:
    quiet()
    said = []
    for error, _, call in REFUSALS.values():
        said.append(str(raised(error, call, World())))
    print(json.dumps(said))


if __name__ != "__main__":
    pass
elif sys.argv[1] == "names":
    print_names()
elif sys.argv[1] == "messages":
    print_messages()
else:
    main(int(sys.argv[2]), float(sys.argv[3]), " ".join(sys.argv[4:]))
