"""Durable events per second: the store beside a file for each event, with fsync and rename.

    python -m benchmarks.durable --check

All rows write the same event, to the same folder, and count it only when it is on the disk. The
folder is made in the working directory, because in memory (tmpfs) fsync costs nothing; the table
says which file system it was. The files are compared in the way that is best for them, without an
fsync of their folder. Times are those of one event: rows that write many at once, from
tasks or in a batch that ends in a flush, are divided by how many there are.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    PAYLOAD,
    Column,
    Handlers,
    Pace,
    Prepare,
    Statement,
    Suite,
    Table,
    Target,
    measure,
)

FILES = "one file an event"
EACH = 'append, sync="each"'
TASKS_100 = "append_async, 100 tasks"
TASKS_1000 = "append_async, 1,000 tasks"
BATCH = "append, then flush"

NAME = "outbound"
EVENT: dict[str, Any] = {
    "run_id": "airline-0-0",
    "turn": 4,
    "session_id": "mia_li_3668",
    "content": "I have found two flights from New York to Seattle on May 20th, one with a stop.",
    "retry_count": 0,
    "error": None,
}
IN_BATCH = 5000
NUMBERS = {FILES: 1, EACH: 1, TASKS_100: 100, TASKS_1000: 1000, BATCH: IN_BATCH}
"""How many events a statement of a row writes."""
HEADING = "one event"
NOT_RECORDED = "not recorded"
RECORDED = {
    'recorded, sync="batch"': "batch",
    'recorded, sync="process"': "process",
}
"""How the store that records is opened, by the labels of the rows."""


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, as Linux names it."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown file system"
    found, best = "unknown file system", -1
    for line in lines:
        _, point, kind, *_ = line.split()
        point = point.replace("\\040", " ")
        inside = os.path.commonpath([point, folder.resolve()]) == point.rstrip("/") or point == "/"
        if inside and len(point) >= best:
            found, best = kind, len(point)
    return found


@contextmanager
def folder_on_disk() -> Iterator[Path]:
    """Provide a folder in the working directory, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix=".durable-", dir=Path.cwd()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class FilePerEvent:
    """The queue of files that this is compared with: an event is a file, which is there or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.number = 0

    def append(self, name: str, payload: Any) -> None:
        """Write an event so that it is on the disk, under its name, when this returns."""
        self.number += 1
        final = f"{self.folder}/{self.number:012}.json"
        temporary = f"{final}.tmp"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.write(handle, json.dumps({"name": name, "payload": payload}).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, final)

    def clear(self) -> None:
        """Delete the files, so that no turn has a fuller folder than another."""
        for entry in os.scandir(self.folder):
            os.unlink(entry.path)


def prepare(handlers: Handlers, *, row: str, folder: Path, number: int) -> Statement:
    """Prepare a row that writes so many events a statement, to a place of its own in the folder."""
    from agent_event_bus.store import EventStore

    where = folder / f"{len(list(folder.iterdir()))}"
    names: dict[str, Any] = {"name": NAME, "event": EVENT}
    if row == FILES:
        files = FilePerEvent(where)
        return Statement(
            "append(name, event)",
            {**names, "append": files.append, "files": files},
            teardown="files.clear()",
        )
    store = EventStore(where, sync="each" if row == EACH else "batch", max_queue=10 * IN_BATCH)

    async def finish() -> None:
        store.close()

    names.update(append=store.append, append_async=store.append_async, flush=store.flush)
    if row == EACH:
        return Statement("append(name, event)", names, finish=finish)
    if row == BATCH:
        source = f"for _ in range({number}):\n    append(name, event)\nflush()"
        return Statement(source, names, finish=finish)
    source = f"await gather(*[append_async(name, event) for _ in range({number})])"
    return Statement(source, {**names, "gather": asyncio.gather}, awaits=True, finish=finish)


def emission(handlers: Handlers, *, row: str, folder: Path) -> Statement:
    """Prepare an emission to a handler that does nothing, on a bus that a store records or not."""
    from agent_event_bus import EventBus
    from agent_event_bus.store import EventStore

    bus = EventBus()
    for handler in handlers.make("sync", 1):
        bus.on(NAME, handler)
    names = {"bus": bus, "event": EVENT}
    source = f"bus.emit({NAME!r}, event)"
    if row == NOT_RECORDED:
        return Statement(source, names, payload_of=as_expected)
    mode: Any = RECORDED[row]
    store = EventStore(folder / f"recorded-{mode}", sync=mode, max_queue=10**6)
    store.attach(bus)

    async def finish() -> None:
        store.close()

    return Statement(
        source,
        {**names, "flush": store.flush},
        teardown="flush()",
        finish=finish,
        payload_of=as_expected,
    )


def as_expected(received: object) -> object:
    """Return what the harness looks for when a handler got the event of this suite."""
    return PAYLOAD if received is EVENT else received


def run(pace: Pace) -> list[Table]:
    """Measure every row on the disk of the working directory."""
    with folder_on_disk() as folder:
        numbers = {
            row: max(1, pace.size(number)) if number > 1 else 1 for row, number in NUMBERS.items()
        }
        rows: dict[str, Prepare] = {
            row: functools.partial(prepare, row=row, folder=folder, number=number)
            for row, number in numbers.items()
        }
        column = measure(HEADING, rows, FILES, pace)
        emissions = {
            row: functools.partial(emission, row=row, folder=folder)
            for row in (NOT_RECORDED, *RECORDED)
        }
        emitting = measure("emit, 1 handler", emissions, NOT_RECORDED, pace)
        title = f"durable events, {file_system(folder)}"
    for row, samples in column.samples.items():
        column.samples[row] = [sample / numbers[row] for sample in samples]
    rates = {row: [1e9 / sample for sample in samples] for row, samples in column.samples.items()}
    in_seconds = [Column(HEADING, FILES, rates, column.missing)]
    return [
        Table("durable", title, list(NUMBERS), [column]),
        Table("rates", "the same", list(NUMBERS), in_seconds, unit="a second", absolute=True),
        Table("recording", "what emitting takes", list(emissions), [emitting], absolute=True),
    ]


def times_faster(row: str) -> Target:
    """Return the target that a row writes ten times as many events a second as files do."""
    return Target(f"{row}: at least 10 times", "durable", HEADING, FILES, row, 10.0, at_least=True)


TARGETS = (
    times_faster(TASKS_100),
    times_faster(TASKS_1000),
    times_faster(BATCH),
    Target(f"{EACH}: no slower", "durable", HEADING, EACH, FILES, 1.0),
)

SUITE = Suite("durable", run, targets=TARGETS)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "durable", *sys.argv[1:]]))
