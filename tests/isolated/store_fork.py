"""Fork while a store has events queued and its thread is committing; both go on.

    python tests/isolated/store_fork.py FOLDER

Prints what was done as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

from agent_event_bus import EventBus
from agent_event_bus.store import EventStore

FORKS = 8
PARENTS = 2000
CHILDREN = 60

# That a process with threads forks is what this is about.
warnings.filterwarnings("ignore", category=DeprecationWarning)


def child(store: EventStore, bus: EventBus, number: int) -> None:
    """Write in the child, through the store and the bus of the parent."""
    assert store.stats()["uncommitted"] == 0, "the queue of the parent is not the child's"
    for index in range(CHILDREN):
        bus.emit("child", {"writer": number, "number": index})
    assert store.flush()
    mine = [e for e in store.read(key="child") if e.payload["writer"] == number]
    assert len(mine) == CHILDREN
    store.ack(f"child {number}", mine[-1].seq)
    store.close()


def parent_closes_first(path: Path) -> None:
    """Close the store in the parent while the child goes on: its write-ahead log has to stay."""
    store = EventStore(path)
    store.append("parent", 0)
    assert store.flush()
    assert len(list(store.read())) == 1
    written, write = os.pipe()
    closed, close = os.pipe()
    forked = os.fork()
    if forked == 0:
        status = 1
        try:
            store.append("child", 1)
            assert store.flush()
            os.write(write, b"w")
            os.read(closed, 1)
            store.append("child", 2)
            assert store.flush()
            status = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(status)  # as one that is killed: it closes nothing
    os.read(written, 1)
    store.close()
    os.write(close, b"c")
    _, status = os.waitpid(forked, 0)
    assert status == 0, status
    with EventStore(path) as store:
        assert [event.payload for event in store.read()] == [0, 1, 2]
        assert store.verify() == []


def main(folder: Path) -> None:
    """Fork again and again in the middle of writing."""
    parent_closes_first(folder / "closed.db")
    path = folder / "log.db"
    store = EventStore(path)
    bus = EventBus()
    store.attach(bus)
    children: list[int] = []
    for index in range(PARENTS):
        bus.emit("parent", {"number": index})
        if index % (PARENTS // FORKS) == 100:
            number = len(children)
            forked = os.fork()
            if forked == 0:
                status = 1
                try:
                    child(store, bus, number)
                    status = 0
                except BaseException as error:
                    os.write(2, f"{error!r}\n".encode())
                finally:
                    os._exit(status)
            children.append(forked)
    for forked in children:
        _, status = os.waitpid(forked, 0)
        assert status == 0, status
    store.close()
    with EventStore(path) as store:
        assert store.verify() == []
        assert [e.payload["number"] for e in store.read(key="parent")] == list(range(PARENTS))
        found = [(e.payload["writer"], e.payload["number"]) for e in store.read(key="child")]
        assert sorted(found) == [(n, i) for n in range(FORKS) for i in range(CHILDREN)]
        for number in range(FORKS):
            assert len(list(store.pending(f"child {number}"))) == PARENTS + FORKS * CHILDREN - 1
    print(json.dumps({"forks": len(children)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
