"""Create and destroy subinterpreters: what each leaves behind, what they share, side by side.

usage: many_interpreters.py growth KIND WAY COUNT    what COUNT of them leave in memory
       many_interpreters.py apart KIND               whether one sees an object of another
       many_interpreters.py side_by_side WAY SECONDS interpreters with a lock each, in threads
       many_interpreters.py public                   concurrent.interpreters of Python 3.14

KIND is "legacy" or "own" (a lock of its own), WAY is "sync" or "async". An interpreter leaves
something behind on some versions of CPython whatever it runs, so that growth is what it leaves
beyond one that does the same without the package: that runs a task of a coroutine of a Python class
(which asyncio of 3.12 and 3.13 never frees) and imports the same modules of the standard library.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import importlib
import os
import subprocess
import sys
import threading
import time
from typing import Any, Callable

from interpreting import create, interpreters, run, whole_life

IMPORTS = """
import asyncio, collections.abc, contextlib, contextvars, dataclasses, inspect, logging, os
import threading, time, typing, warnings, weakref
"""
WITHOUT = {
    "sync": IMPORTS,
    "async": IMPORTS
    + """
class Coroutine(collections.abc.Coroutine):
    def send(self, value):
        raise StopIteration
    def throw(self, *error):
        raise error[0]
    def __await__(self):
        yield

async def main():
    task = asyncio.create_task(Coroutine())
    await asyncio.sleep(0)
    await task
    await asyncio.sleep(0.001)

asyncio.run(main())
""",
}
SYNC = """
from agent_event_bus import Event, EventBus

bus = EventBus("sub", history=3, timing=True, slow_after=60)
log = []

@bus.on("a", envelope=True)
def handler(event):
    assert type(event) is Event
    log.append(event.payload)

bus.on("*", lambda name, payload: log.append(name))
for number in range(20):
    assert bus.emit("a", number) == 2
    with bus.subscribe("a.b", log.append):
        assert bus.emit("a.b", number) == 2
assert log == [item for number in range(20) for item in (number, "a", "a.b", number)], log
assert [event.payload for event in bus.history()] == [19, 19, 18], bus.history()
assert bus.stats()["emitted"] == 40
"""
ASYNC = """
waited = []

@bus.on("async")
async def suspends(payload):
    await asyncio.sleep(0)
    waited.append(payload)

@bus.on("async")
async def returns(payload):
    waited.append(payload)

async def main():
    for number in range(5):
        assert await bus.emit_async("async", number) == 3
        assert bus.emit("async", number) == 3
        assert await bus.drain() == []

assert bus.emit("async", -1) == 3
asyncio.run(main())
assert sorted(waited) == [-1, -1] + [number for number in range(5) for _ in range(4)], waited
"""
USING = {"sync": IMPORTS + SYNC, "async": IMPORTS + SYNC + ASYNC}

# Every object that the collector knows of, and what the module holds, is of this interpreter's own
# types; the bus that everybody gets knows only this interpreter's handlers.
OWN_OBJECTS = """
import gc
import agent_event_bus
from agent_event_bus import _core, get_bus

def types():
    for value in [*vars(_core).values(), *gc.get_referents(_core)]:
        if isinstance(value, type):
            yield value

def foreign():
    own = {(type_.__module__, type_.__qualname__): type_ for type_ in types()}
    own[("agent_event_bus._bus", "EventBus")] = agent_event_bus.EventBus
    assert len(own) > 8, own
    # In 3.12 the traversal of asyncio's own module goes round in circles.
    found = [obj for obj in gc.get_objects() if getattr(obj, "__name__", None) != "_asyncio"]
    for value in [*found, *gc.get_referents(*found)]:
        type_ = type(value)
        if type_ is not own.get((type_.__module__, type_.__qualname__), type_):
            yield value

assert not list(foreign())
assert get_bus().emit("apart") == len(get_bus().subscriptions())
"""


class Memory(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    ]


def exact_bytes() -> Callable[[], int]:
    """A function that tells how many bytes the process has allocated, every one of them counted.

    The process starts anew where Python has an allocator of its own in use. Ends it where there is
    no such count.
    """
    try:
        count = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        count = None
    without_gil = hasattr(sys, "_is_gil_enabled") and "t" in getattr(sys, "abiflags", "")
    if count is None or without_gil:
        print("uncounted")
        sys.exit(0)
    if os.environ.get("PYTHONMALLOC") != "malloc":
        os.environ["PYTHONMALLOC"] = "malloc"
        os.execv(sys.executable, [sys.executable, "-X", "faulthandler", *sys.argv])
    count.restype = Memory

    def allocated() -> int:
        gc.collect()
        memory = count()
        return int(memory.uordblks + memory.hblkhd)

    return allocated


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(kind: str, way: str, count: str) -> None:
    allocated = exact_bytes()
    left: list[float] = []
    for script in (WITHOUT[way], USING[way]):
        for _ in range(2):
            whole_life(kind, script)
        before, resident_before, since = allocated(), resident(), time.monotonic()
        for _ in range(int(count)):
            whole_life(kind, script)
        left.append((allocated() - before) / int(count))
        print(
            f"{count} interpreters in {time.monotonic() - since:.1f} s: each has left "
            f"{left[-1]:.0f} bytes, resident {(resident() - resident_before) / int(count):.0f}"
        )
    print("growth", round(left[1] - left[0]))


def apart(kind: str) -> None:
    from agent_event_bus import EventBus, get_bus

    heard: list[object] = []
    get_bus().subscribe("apart", heard.append)
    several = [create(kind) for _ in range(3)]
    reading, writing = os.pipe()
    for interpreter in several:
        run(interpreter, USING["async"])
    for interpreter in several * 2:
        run(interpreter, OWN_OBJECTS + "assert not get_bus().subscriptions()")
        run(interpreter, f"os.write({writing}, b'%d ' % id(_core.Subscription))")
    exec(OWN_OBJECTS, {})
    assert heard == [None], heard
    kept = EventBus()
    types = os.read(reading, 10_000).split()
    types.append(str(id(type(kept.subscribe("a", heard.append)))).encode())
    assert types[:3] == types[3:6], types
    assert len(set(types)) == 4, types
    for interpreter in several:
        interpreters.destroy(interpreter)
        assert kept.emit("a", 1) == 1
    assert heard == [None, 1, 1, 1], heard
    exec(OWN_OBJECTS, {})


def side_by_side(way: str, seconds: str) -> None:
    """Threads that create, use and destroy interpreters with a lock each, at the same time."""
    if way != "without" and sys.version_info[:2] == (3, 12):
        # 3.12.1 frees what is not its own when interpreters end side by side that have imported
        # the same of the standard library; what does without the package crashes as well there.
        alone = [sys.executable, __file__, "side_by_side", "without", "2"]
        if subprocess.run(alone, stderr=subprocess.DEVNULL).returncode < 0:
            print("broken")
            return
    script = WITHOUT["async"] if way == "without" else USING[way]
    until = time.monotonic() + float(seconds)
    lives = [0] * 4
    failures: list[str] = []

    def work(number: int) -> None:
        while time.monotonic() < until and not failures:
            try:
                whole_life("own", script)
            except Exception as error:
                failures.append(repr(error))
            lives[number] += 1

    interpreters.destroy(create("own"))  # the whole process ends here where there are none
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert sum(lives) > 1, lives
    print(sum(lives), "interpreters in four threads")


def public() -> None:
    """Those that the standard library offers to everybody from Python 3.14 on."""
    try:
        concurrent: Any = importlib.import_module("concurrent.interpreters")
    except ImportError:
        print("unavailable")
        sys.exit(0)
    several = [concurrent.create() for _ in range(3)]
    for interpreter in several * 2:
        interpreter.exec(USING["async"])
        interpreter.exec(OWN_OBJECTS)
    for interpreter in several:
        interpreter.close()
    del several[:]
    left_open = concurrent.create()
    left_open.exec(USING["async"])


faulthandler.dump_traceback_later(float(os.environ.get("AEB_INTERPRETERS", "4")) + 80, exit=True)
CASES: dict[str, Callable[..., None]] = {
    "growth": growth,
    "apart": apart,
    "side_by_side": side_by_side,
    "public": public,
}
CASES[sys.argv[1]](*sys.argv[2:])
print("ok")
