"""Several processes that write to one store, acknowledge in it, and read it, at the same time.

    python tests/isolated/store_two_processes.py FOLDER

Prints what was done as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Callable

from agent_event_bus.store import EventStore

COUNT = 160
CONSUMERS = 2


def forked(work: Callable[[], object]) -> int:
    """Run something in a child and return its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(status)
    return child


def join(children: list[int]) -> None:
    """Wait for children, which must have succeeded."""
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, status


def write(path: Path, writer: int, sync: Any) -> None:
    """Append in one of the ways; keep the numbers that were told beside the store."""
    told: list[tuple[int, int]] = []

    async def append(store: EventStore, number: int) -> None:
        payload = {"writer": writer, "number": number}
        told.append((number, await store.append_async("w", payload)))

    async def all_of_them(store: EventStore) -> None:
        for start in range(0, COUNT, 20):
            works: list[Coroutine[Any, Any, None]] = [
                append(store, number) for number in range(start, start + 20)
            ]
            await asyncio.gather(*works)

    with EventStore(path, sync="each" if sync == "each" else "batch") as store:
        if sync == "async":
            asyncio.run(all_of_them(store))
        else:
            for number in range(COUNT):
                seq = store.append("w", {"writer": writer, "number": number})
                if seq is not None:
                    told.append((number, seq))
                if sync == "batch" and number % 40 == 0:
                    store.flush()
    path.with_name(f"told-{writer}.json").write_text(json.dumps(told))


def acknowledge(path: Path, consumer: str, which: int) -> None:
    """Acknowledge, out of order, every event of a part of the log, while others come."""
    with EventStore(path) as store:
        done: set[int] = set()
        total = 3 * COUNT
        while len(done) < total // CONSUMERS:
            todo = [e.seq for e in store.pending(consumer) if e.seq % CONSUMERS == which]
            for seq in reversed(todo[:50]):
                store.ack(consumer, seq)
                assert seq not in done, "an acknowledged event was pending again"
                done.add(seq)


def watch(path: Path) -> None:
    """Read while others write: what was seen never changes, and only grows at its end."""
    with EventStore(path) as store:
        seen: list[Any] = []
        reads = 0
        while len(seen) < 3 * COUNT:
            found = list(store.read())
            assert found[: len(seen)] == seen, "the past has changed"
            assert [event.seq for event in found] == list(range(1, len(found) + 1))
            seen = found
            reads += 1
            time.sleep(0.002)
        assert reads > 1


def first_ones(path: Path) -> None:
    """Open a store that is not there yet, in several processes at the same moment."""
    reading, writing = os.pipe()

    def work() -> None:
        os.close(writing)
        os.read(reading, 1)  # until the parent closes its end
        with EventStore(path, sync="each") as store:
            store.append("first", os.getpid())

    children = [forked(work) for _ in range(5)]
    os.close(writing)
    os.close(reading)
    join(children)
    with EventStore(path) as store:
        assert sorted(event.payload for event in store.read()) == sorted(children)
        assert store.verify() == []


def main(folder: Path) -> None:
    """Run them all at once and look at the result."""
    for number in range(6):
        first_ones(folder / f"new-{number}.db")
    path = folder / "log.db"
    works = [
        partial(watch, path),
        *[
            partial(write, path, writer, way)
            for writer, way in enumerate(("each", "batch", "async"))
        ],
        *[partial(acknowledge, path, "shared", which) for which in range(CONSUMERS)],
    ]
    children = [forked(work) for work in works]
    join(children)
    with EventStore(path) as store:
        found = list(store.read())
        assert store.verify() == []
        assert list(store.pending("shared")) == []
        assert len(list(store.pending("another"))) == len(found)
    assert [event.seq for event in found] == list(range(1, 3 * COUNT + 1))
    for writer in range(3):
        mine = [e for e in found if e.payload["writer"] == writer]
        numbers = [event.payload["number"] for event in mine]
        assert sorted(numbers) == list(range(COUNT)), "lost or doubled"
        if writer != 2:
            assert numbers == list(range(COUNT)), "out of order"
        told = json.loads(path.with_name(f"told-{writer}.json").read_text())
        by_number = {event.payload["number"]: event.seq for event in mine}
        assert all(by_number[number] == seq for number, seq in told)
        assert len(told) == (0 if writer == 1 else COUNT)
    print(json.dumps({"events": len(found)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
