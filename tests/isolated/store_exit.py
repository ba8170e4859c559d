"""Leave a store open at the end of the program, in several ways.

Arguments: the path of the store, and the way. Each appends events named "a" with a running number.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Any

from agent_event_bus import EventBus

path, way = sys.argv[1:]
late: list[Any] = []
if way == "atexit":
    # Registered before the store is imported, so it runs after the store has been written.
    atexit.register(lambda: late[0]("a", 2))

from agent_event_bus.store import EventStore  # noqa: E402


def main() -> None:
    store = EventStore(path)
    store.append("a", 0)
    if way == "dropped":
        store.append("a", 1)
        del store  # nobody has it any more, and it is written all the same
    elif way == "atexit":
        late.append(store.append)
        # Registered after the store was imported, so it runs before the store is written.
        atexit.register(store.append, "a", 1)
    elif way == "error":
        late.append(store)
        store.append("a", 1)
        raise SystemExit("leaving")
    elif way == "thread":
        # A thread that emits when the main thread has ended.
        def work() -> None:
            threading.main_thread().join()
            for number in range(1, 50):
                store.append("a", number)

        threading.Thread(target=work).start()
    elif way == "busy":
        # A thread that goes on emitting when the main thread has ended, without waiting for disks.
        committing: set[str] = set()
        write = store._writer._write

        def watch(group: Any) -> list[object]:
            committing.add(threading.current_thread().name)
            return write(group)

        def go_on() -> None:
            threading.main_thread().join()
            store.append("a", 1)
            time.sleep(0.2)  # several times as long as the thread of the store waits for more
            store._writer._write = watch  # type: ignore[method-assign]
            for number in range(2, 50):
                store.append("a", number)
            store.flush()
            assert committing == {"agent_event_bus.store"}, committing

        threading.Thread(target=go_on).start()
    elif way == "daemon":
        bus = EventBus()
        store.attach(bus)
        emitted = threading.Event()

        def emit() -> None:
            number = 1
            while True:
                bus.emit("a", number)
                number += 1
                if number == 1000:
                    emitted.set()

        threading.Thread(target=emit, daemon=True).start()
        assert emitted.wait(30)
    elif way == "finaliser":

        class Emits:
            def __init__(self) -> None:
                self.append = store.append

            def __del__(self) -> None:
                self.append("a", 1)

        late.append(Emits())
    elif way == "refused":
        import sqlite3

        from agent_event_bus.store import database, writer

        store.flush()
        database.BUSY_SECONDS = 0.0
        writer.LAST_SECONDS = 0.2
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        late.append(blocker)
        store.append("a", 1)
    elif way == "multiprocessing":
        import multiprocessing

        def child() -> None:
            store.append("a", os.getpid())

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0
    print("ok", flush=True)


main()
