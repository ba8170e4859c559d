"""Many threads on one bus, and many interpreters at once: a stress for ThreadSanitizer.

usage: parallel.py threads [SECONDS]        threads of one interpreter that use one bus
       parallel.py interpreters [SECONDS]   interpreters with a lock each (3.13 and up), and buses

Where threads take turns on the interpreter's lock, the second form is what runs the core several
times at the same moment: all that the process has once, and not each interpreter, is shared then.
It is what `python -m checks.races` runs. Each thread checks what it can know for itself.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import logging
import sys
import threading
import time
from typing import Any, Callable

from agent_event_bus import EventBus

THREADS = 4
TIMEOUT = 300.0
failures: list[str] = []


def silence() -> None:
    logger = logging.getLogger("agent_event_bus")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def in_threads(work: Callable[[int, float], None], seconds: float) -> None:
    """Run `work(number, until)` in several threads at once, and keep what fails."""
    ready = threading.Barrier(THREADS)

    def run(number: int) -> None:
        try:
            ready.wait()
            work(number, time.monotonic() + seconds)
        except BaseException as error:
            failures.append(f"thread {number}: {error!r}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def use_one_bus(seconds: float) -> None:
    bus: Any = EventBus(history=10, timing=True)
    counted = [0] * THREADS

    async def later(*args: object) -> None:
        await asyncio.sleep(0)

    def fails(*args: object) -> None:
        raise ValueError("isolated")

    bus.on("shared.*", lambda name, payload: None)
    bus.on("shared.fails", fails)
    bus.on("shared.async", later)

    def work(number: int, until: float) -> None:
        def count(payload: int) -> None:
            assert payload == number
            counted[number] += 1

        emitter = bus.emitter(f"own.{number}")
        rounds = 0
        while time.monotonic() < until:
            rounds += 1
            subscription = bus.subscribe(f"own.{number}", count)
            assert bus.emit(f"own.{number}", number) == 1
            assert emitter(number) == 1
            bus.emit("shared.fails", number)
            bus.emit("shared.async", number)
            asyncio.run(bus.emit_async("shared.async", number))
            bus.once("shared.once", later, priority=number)
            bus.emit("shared.once")
            bus.handlers("shared.fails")
            bus.history("shared.*")
            bus.stats()
            assert subscription.cancel()
            assert subscription.calls == 2
            assert not emitter(number)
        assert counted[number] == 2 * rounds, (counted[number], rounds)

    in_threads(work, seconds)
    assert len(bus) == 3, bus.subscriptions()


SCRIPT = """
import sys
sys.path[:] = {path!r}
import asyncio, time
from agent_event_bus import EventBus

log = []
def make():
    bus = EventBus(history=3, timing=True)
    bus.on("a", log.append)
    bus.on("a.*", lambda name, payload: log.append(payload))
    async def later(payload):
        await asyncio.sleep(0)
        log.append(payload)
    bus.on("a", later)
    return bus

until = time.monotonic() + {seconds}
while time.monotonic() < until:
    bus = make()
    for number in range(20):
        log.clear()
        assert bus.emit("a", number) == 2 and log == [number] * 2, log
        assert bus.emit("a.b", number) == 1
        assert asyncio.run(bus.emit_async("a", number)) == 2
        assert log == [number] * 5, log
        with bus.subscribe("c", log.append) as subscription:
            assert bus.emit("c", number) == 1
        assert bus.emit("c", number) == 0
    bus.history(), bus.stats()
"""


def use_interpreters(seconds: float) -> None:
    try:
        interpreters: Any = importlib.import_module("_interpreters")
    except ImportError:
        # Before 3.12 they share one lock, and 3.12.1 frees what is not its own when several that
        # have used asyncio end side by side, without the core too.
        print("unavailable")
        sys.exit(0)

    def work(number: int, until: float) -> None:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return
            interpreter = interpreters.create()
            script = SCRIPT.format(path=sys.path, seconds=min(left, seconds / 3))
            problem = interpreters.run_string(interpreter, script)
            interpreters.destroy(interpreter)
            assert problem is None, problem

    in_threads(work, seconds)


def use_threads(seconds: float) -> None:
    sys.setswitchinterval(1e-5)
    use_one_bus(seconds)


faulthandler.dump_traceback_later(TIMEOUT, exit=True)
silence()
WAYS = {"threads": use_threads, "interpreters": use_interpreters}
WAYS[sys.argv[1]](float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
assert not failures, failures
print("ok")
