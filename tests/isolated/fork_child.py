"""Fork with handlers pending, or while another thread uses the bus; the child must work on.

The child leaves with ``os._exit``, so every check in it ends in its exit status.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable

hooks: list[Callable[[], object]] = []


def run_hooks() -> None:
    """Run the hooks, in a child that has not yet told the bus that it is one."""
    for hook in hooks:
        hook()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=run_hooks)

from agent_event_bus import EventBus  # noqa: E402


def use(bus: EventBus) -> None:
    """Everything a child does with a bus it inherited."""
    log: list[object] = []
    assert bus.stats()["pending"] == 0
    assert bus.pending() == []

    async def handler(payload: object) -> None:
        await asyncio.sleep(0)
        log.append(payload)

    subscription = bus.subscribe("child", handler)
    assert bus.emit("child", 1) == 1
    assert log == [1], log

    async def main() -> None:
        assert await asyncio.wait_for(bus.drain(), 10) == []
        bus.emit("child", 2)
        assert await asyncio.wait_for(bus.drain(), 10) == []
        assert await bus.emit_async("child", 3) == 1
        assert log == [1, 2, 3], log

    asyncio.run(main())
    assert subscription.cancel()


def in_child(bus: EventBus) -> None:
    """Use the bus and exit 0, or show what failed and exit 1."""
    faulthandler.dump_traceback_later(30, exit=True)
    try:
        use(bus)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait_for(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"


async def fork_with_a_hook(bus: EventBus) -> None:
    """A callback that was registered before the bus was imported runs first, and uses it."""
    hooks.append(lambda: in_child(bus))
    await fork_with_pending(bus)


async def fork_with_pending(bus: EventBus) -> None:
    gate = asyncio.Event()
    finished: list[object] = []

    @bus.on("parent")
    async def handler(payload: object) -> None:
        await gate.wait()
        finished.append(payload)

    bus.emit("parent", "started")
    await asyncio.sleep(0)
    bus.emit("parent", "not started")
    child = os.fork()
    if child == 0:
        in_child(bus)
    wait_for(child)
    gate.set()
    assert await asyncio.wait_for(bus.drain(), 10) == []
    assert sorted(map(str, finished)) == ["not started", "started"], finished


def fork_beside_a_thread() -> None:
    bus = EventBus()
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            bus.subscribe("churn", print).cancel()
            bus.emit("churn.other")

    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                sys.setswitchinterval(0.005)
                in_child(bus)
            wait_for(child)
    finally:
        stop.set()
        thread.join()


def fork_while_a_thread_emits() -> None:
    """The emission that the other thread is in does not exist in the child."""
    bus = EventBus(logger=logging.getLogger("quiet"))
    inside, leave = threading.Event(), threading.Event()

    @bus.on("block")
    def block(payload: object) -> None:
        inside.set()
        leave.wait()

    @bus.on("fail")
    def fail(payload: object) -> None:
        raise RecursionError

    def emit(counts: list[int]) -> None:
        # Were it taken for a nested emission, the error would come out of it.
        counts.append(bus.emit("fail"))

    thread = threading.Thread(target=bus.emit, args=("block",))
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        counts: list[int] = []
        threading.excepthook = lambda args: None
        for _ in range(50):  # one of them may look like the thread that is gone
            beside = threading.Thread(target=emit, args=(counts,))
            beside.start()
            beside.join()
        if counts != [1] * 50:
            os._exit(1)
        in_child(bus)
    leave.set()
    thread.join()
    wait_for(child)


logging.getLogger("quiet").setLevel(logging.CRITICAL + 1)
if sys.argv[1] == "pending":
    asyncio.run(fork_with_pending(EventBus(max_pending=2)))
elif sys.argv[1] == "pending_limited":
    asyncio.run(fork_with_pending(EventBus(max_concurrency=1)))
elif sys.argv[1] == "hook":
    asyncio.run(fork_with_a_hook(EventBus(max_concurrency=1, max_pending=2)))
elif sys.argv[1] == "thread":
    fork_beside_a_thread()
else:
    fork_while_a_thread_emits()
print("ok")
