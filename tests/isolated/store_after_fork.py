"""Fork with a store open; parent and child must both go on, and nothing is written twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback

from agent_event_bus.store import EventStore

path, way = sys.argv[1:]


def wait_for(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"


def in_child(store: EventStore, number: int) -> None:
    """Use a store of the parent, and leave."""
    signal.alarm(60)
    try:
        before = store.stats()
        assert before["uncommitted"] == before["dropped"] == 0, before
        store.append("child", number)
        assert store.flush(30)
        assert asyncio.run(store.append_async("child async", number)) > 0
        store.ack("child", 1)
        assert any(event.payload == number for event in store.read(key="child"))
        store.close()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def quiet(store: EventStore) -> None:
    """Nothing goes on at the fork but an event that is queued: the parent writes it, once."""
    for number in range(5):
        store.append("parent", number)
        child = os.fork()
        if child == 0:
            in_child(store, number)
        wait_for(child)
    assert store.flush(30)
    assert [event.payload for event in store.read(key="parent")] == list(range(5))
    assert [event.payload for event in store.read(key="child")] == list(range(5))


def busy(store: EventStore) -> None:
    """Other threads append, commit and read at the moment of the fork."""
    stop = threading.Event()
    counts = [0, 0]

    def append() -> None:
        while not stop.is_set():
            store.append("parent", counts[0])
            counts[0] += 1
            if counts[0] % 50 == 0:
                store.flush(30)

    def wait() -> None:
        async def main() -> None:
            while not stop.is_set():
                await store.append_async("awaited", counts[1])
                counts[1] += 1

        asyncio.run(main())

    def read() -> None:
        while not stop.is_set():
            list(store.read(limit=50))

    threads = [threading.Thread(target=target) for target in (append, wait, read)]
    for thread in threads:
        thread.start()
    try:
        for number in range(8):
            child = os.fork()
            if child == 0:
                in_child(store, number)
            wait_for(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert store.flush(30)
    assert [event.payload for event in store.read(key="parent")] == list(range(counts[0]))
    assert [event.payload for event in store.read(key="awaited")] == list(range(counts[1]))
    assert sorted(event.payload for event in store.read(key="child")) == list(range(8))


with EventStore(path) as opened:
    {"quiet": quiet, "busy": busy}[way](opened)
with EventStore(path) as opened:
    seqs = [event.seq for event in opened.read()]
    assert seqs == list(range(1, len(seqs) + 1))
print("ok")
