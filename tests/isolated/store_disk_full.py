"""Write to a store whose disk is full, make room, and write on.

    python tests/isolated/store_disk_full.py FOLDER limit|tmpfs

With "limit" no file may grow beyond a size, which SQLite is told as an I/O error or a full disk;
with "tmpfs" the store is on a small file system of its own, which a file fills: that takes the
right to mount one, and without it the script prints "cannot mount".
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import resource
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_event_bus.store import EventStore, StoreError

TEXT = "x" * 500


class Disk(ABC):
    """A disk that can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def fill(self) -> None:
        """Leave no room."""

    @abstractmethod
    def make_room(self) -> None:
        """Have room again."""


class Limited(Disk):
    """The process may not make any file larger than the largest one is now."""

    def fill(self) -> None:
        sizes = [file.stat().st_size for file in self.folder.iterdir()]
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) + 5000, hard))

    def make_room(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class Tmpfs(Disk):
    """A file takes all the room that there is."""

    def fill(self) -> None:
        with open(self.folder / "filler", "ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while file.write(b"\0" * size) == size:
                        pass
                except OSError:
                    continue

    def make_room(self) -> None:
        (self.folder / "filler").unlink()


@contextmanager
def disk(folder: Path, kind: str) -> Iterator[Disk]:
    """Provide a disk of a kind."""
    if kind == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        yield Limited(folder)
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        print("cannot mount")
        raise SystemExit(0) from None
    yield Tmpfs(folder)


def have_own_mounts() -> None:
    """Mount for this process alone: whatever becomes of it, nothing stays mounted."""
    new_namespace = 0x00020000  # CLONE_NEWNS
    try:
        if ctypes.CDLL(None).unshare(new_namespace) == 0:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)
            return
    except (OSError, AttributeError, subprocess.CalledProcessError):
        pass
    print("cannot mount")
    raise SystemExit(0)


def numbers(store: EventStore) -> list[int]:
    """Return what the payloads are numbered."""
    return [event.payload["number"] for event in store.read()]


def flush(store: EventStore) -> None:
    """Flush a store that has room again; an attempt that began before may fail once more."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        try:
            assert store.flush(timeout=30)
            return
        except StoreError:
            continue
    raise AssertionError("what is queued does not get through")


def each(disk: Disk, path: Path) -> None:
    """An append that has no room raises, and stored nothing; what was acknowledged stays."""
    with EventStore(path, sync="each") as store:
        stored = [store.append("a", {"number": number, "text": TEXT}) for number in range(50)]
        disk.fill()
        number = 50
        while number < 10_000:
            try:
                stored.append(store.append("a", {"number": number, "text": TEXT}))
            except StoreError as error:
                said = str(error)
                break
            number += 1
        assert number < 10_000, "the disk was never full"
        assert str(path) in said, said
        for _ in range(3):
            try:
                store.append("a", {"number": -1, "text": TEXT * 20})
            except StoreError:
                continue
            raise AssertionError("an append succeeded on a full disk")
        assert [event.seq for event in store.read()] == stored
        assert store.verify() == []
        disk.make_room()
        stored.append(store.append("a", {"number": number, "text": TEXT}))
        assert [event.seq for event in store.read()] == stored == list(range(1, number + 2))
        assert numbers(store) == list(range(number + 1))
        assert store.verify() == []
        assert store.stats()["dropped"] == store.stats()["uncommitted"] == 0
    print("each")


def batch(disk: Disk, path: Path) -> None:
    """What is queued while there is no room gets through when there is; appending never raises."""
    with EventStore(path) as store:
        store.append("a", {"number": 0})
        assert store.flush()
        disk.fill()
        for number in range(1, 4001):
            store.append("a", {"number": number, "text": TEXT})
        try:
            flushed = store.flush(timeout=5)
        except StoreError:
            flushed = False
        assert not flushed, "it was flushed to a full disk"
        stats = store.stats()
        assert stats["dropped"] == 0
        assert stats["uncommitted"] + stats["stored"] == 4001, stats
        assert numbers(store) == list(range(stats["stored"]))
        disk.make_room()
        flush(store)
        assert numbers(store) == list(range(4001))
        assert store.stats()["uncommitted"] == 0
        assert store.verify() == []
    print("batch")


def dropping(disk: Disk, path: Path) -> None:
    """A full queue drops the oldest and counts them; the counts add up."""
    with EventStore(path, max_queue=100) as store:
        store.append("a", {"number": 0})
        assert store.flush()
        disk.fill()
        for number in range(1, 10_001):
            store.append("a", {"number": number, "text": TEXT})
        disk.make_room()
        flush(store)
        stats = store.stats()
        assert stats["dropped"] > 0
        assert stats["stored"] + stats["dropped"] == 10_001, stats
        found = numbers(store)
        assert found == sorted(set(found))
        assert found[-50:] == list(range(9951, 10_001))
    print("dropping")


async def tasks(disk: Disk, path: Path) -> None:
    """Who awaits an event is told, and the event is stored exactly if nobody was told otherwise."""
    with EventStore(path) as store:

        async def write(number: int) -> int | None:
            try:
                return await store.append_async("a", {"number": number, "text": TEXT})
            except StoreError:
                return None

        first = await asyncio.gather(*map(write, range(50)))
        assert None not in first
        disk.fill()
        told = [await asyncio.gather(*map(write, range(n, n + 100))) for n in range(50, 5050, 100)]
        results = [*first, *(result for group in told for result in group)]
        refused = [number for number, seq in enumerate(results) if seq is None]
        assert refused, "the disk was never full"
        by_seq = {event.seq: event.payload["number"] for event in store.read()}
        assert by_seq == {seq: number for number, seq in enumerate(results) if seq is not None}
        disk.make_room()
        again = await asyncio.gather(*map(write, refused))
        assert None not in again
        assert sorted(numbers(store)) == list(range(5050))
        assert store.verify() == []
    print("tasks")


def ledger(disk: Disk, path: Path) -> None:
    """An acknowledgement that has no room raises, and the event stays pending."""
    with EventStore(path, sync="each") as store:
        for number in range(120):
            store.append("a", {"number": number, "text": TEXT})
        assert len(list(store.pending("mailer"))) == 120
        disk.fill()
        acked = set()
        for seq in range(120, 0, -1):
            try:
                store.ack("mailer", seq)
            except StoreError:
                break
            acked.add(seq)
        assert len(acked) < 120, "the disk was never full"
        left = sorted(set(range(1, 121)) - acked)
        assert [event.seq for event in store.pending("mailer")] == left
        disk.make_room()
        store.ack_through("mailer", 120)
        assert list(store.pending("mailer")) == []
        assert store.verify() == []
    print("ledger")


def main(folder: Path, kind: str) -> None:
    """Run all of them, each on a disk of its own."""
    if kind == "tmpfs":
        have_own_mounts()
    records: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keeper()
    logger = logging.getLogger("agent_event_bus")
    logger.addHandler(handler)
    logger.propagate = False
    for run in (each, batch, dropping, tasks, ledger):
        place = folder / run.__name__
        place.mkdir()
        with disk(place, kind) as full:
            result = run(full, place / "log.db")
            if result is not None:
                asyncio.run(result)
    errors = [record for record in records if record.levelno == logging.ERROR]
    assert errors, "nothing was logged"
    assert all(TEXT not in record.getMessage() for record in records)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
