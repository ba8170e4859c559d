"""Cut the power of a writing process, by keeping of its files what was brought to the disk.

    python tests/isolated/store_power.py FOLDER

A library that is loaded before all others copies a file to a folder "disk" where it would be
synced, and not when it is only written. It does not sync the file itself, which would show nothing
more and take long. What was deleted before is deleted there, too, as by file systems that write
such changes in their order. So that folder always has what would be left if the power failed at
that moment and nothing outlived it that was not synced. The script copies the folder at many
moments while it writes, and then opens each copy: all that was durable must be there.

Prints what was checked as JSON; "no compiler" when there is none, or the system is not Linux.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent_event_bus.store import EventStore

LIBRARY = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void forget(const char *folder) {
    char name[8192];
    struct dirent *entry;
    snprintf(name, sizeof name, "%s/disk", folder);
    DIR *disk = opendir(name);
    if (disk == NULL) abort();
    while ((entry = readdir(disk)) != NULL) {
        snprintf(name, sizeof name, "%s/%s", folder, entry->d_name);
        if (access(name, F_OK) == 0) continue;
        snprintf(name, sizeof name, "%s/disk/%s", folder, entry->d_name);
        unlink(name);
    }
    closedir(disk);
}

static void keep(int fd) {
    struct stat status;
    char link[64], path[4096], disk[4096], half[4200], buffer[65536];
    const char *folder = getenv("KEPT_FOLDER");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (folder == NULL || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return;
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (strncmp(path, folder, strlen(folder)) != 0) return;
    const char *name = strrchr(path, '/') + 1;
    if (snprintf(disk, sizeof disk, "%s/disk/%s", folder, name) >= (int)sizeof disk) abort();
    snprintf(half, sizeof half, "%s.half", disk);
    int from = open(path, O_RDONLY), to = open(half, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (from < 0 || to < 0) abort();
    ssize_t part;
    while ((part = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, (size_t)part) != part) abort();
    close(from);
    close(to);
    rename(half, disk);
    forget(folder);
}

int fsync(int fd) {
    keep(fd);
    return 0;
}

int fdatasync(int fd) {
    keep(fd);
    return 0;
}
"""
EVENTS = 900
"""Events in each mode: more than SQLite lets come together in its write-ahead log."""
EVERY = 60
"""Events between two power failures."""
TEXT = "x" * 900


def compiled(folder: Path) -> Path:
    """Return the library, made in a folder."""
    source, library = folder / "keep.c", folder / "keep.so"
    source.write_text(LIBRARY)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        print("no compiler")
        raise SystemExit(0)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library


class Failures:
    """Keeps what the disk had at many moments, and what had to be there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.durable: dict[int, int] = {}
        self.acked: set[int] = set()
        self.moments: list[tuple[Path, dict[int, int], set[int]]] = []

    def fail(self) -> None:
        """Keep this moment."""
        durable, acked = dict(self.durable), set(self.acked)
        copy = self.folder / f"moment-{len(self.moments)}"
        shutil.copytree(self.folder / "disk", copy)
        self.moments.append((copy, durable, acked))

    def check(self, sent: int) -> int:
        """Open what was kept, and compare; return how many events had to be there in all."""
        had_to_be_there = 0
        for copy, durable, acked in self.moments:
            with EventStore(copy / "log.db", sync="each") as store:
                found = {event.seq: event.payload["number"] for event in store.read()}
                assert store.verify() == []
                assert durable.items() <= found.items(), f"{copy.name}: something is lost"
                assert len(set(found.values())) == len(found) <= sent
                assert list(found) == list(range(1, len(found) + 1))
                pending = {event.seq for event in store.pending("mailer")}
                assert not pending & acked, f"{copy.name}: an acknowledgement is lost"
                assert store.append("next", {"number": -1}) == len(found) + 1
            had_to_be_there += len(durable)
        return had_to_be_there


def each(folder: Path) -> Failures:
    """Append one by one."""
    failures = Failures(folder)
    with EventStore(folder / "log.db", sync="each") as store:
        for number in range(EVENTS // 2):
            seq = store.append("a", {"number": number, "text": TEXT})
            assert seq is not None
            failures.durable[seq] = number
            if number % 3 == 0:
                store.ack("mailer", seq)
                failures.acked.add(seq)
            if number % (EVERY // 2) == 7:
                failures.fail()
    return failures


def batch(folder: Path) -> Failures:
    """Append to the queue; durable is what was flushed."""
    failures = Failures(folder)
    queued: list[int] = []
    with EventStore(folder / "log.db") as store:
        for number in range(EVENTS):
            store.append("a", {"number": number, "text": TEXT})
            queued.append(number)
            if number % 50 == 49:
                assert store.flush()
                failures.durable.update({number + 1: number for number in queued})
                queued.clear()
            if number % EVERY == 11:
                failures.fail()
    return failures


def process(folder: Path) -> Failures:
    """Append without waiting for the disk; durable is what was flushed, or acknowledged after."""
    failures = Failures(folder)
    written: dict[int, int] = {}
    with EventStore(folder / "log.db", sync="process") as store:
        for number in range(EVENTS):
            seq = store.append("a", {"number": number, "text": TEXT})
            assert seq is not None
            written[seq] = number
            if number % 50 == 24:
                store.ack("mailer", seq)
                failures.acked.add(seq)
            elif number % 50 == 49:
                assert store.flush()
            if number % 25 == 24:
                failures.durable.update(written)
                written.clear()
            if number % EVERY == 11:
                failures.fail()
    return failures


async def tasks(folder: Path) -> Failures:
    """Append from many tasks."""
    failures = Failures(folder)
    with EventStore(folder / "log.db") as store:

        async def write(writer: int) -> None:
            for number in range(writer, EVENTS, 16):
                seq = await store.append_async("a", {"number": number, "text": TEXT})
                failures.durable[seq] = number
                if number % 5 == 0:
                    await store.ack_async("mailer", seq)
                    failures.acked.add(seq)
                if number % EVERY == 11:
                    failures.fail()

        await asyncio.gather(*map(write, range(16)))
    return failures


def main(folder: Path) -> None:
    """Write in each way, in a process that has the library, and check."""
    counts: dict[str, Any] = {}
    library = compiled(folder)
    for run in (each, process, batch, tasks):
        place = folder / run.__name__
        (place / "disk").mkdir(parents=True)
        first = os.environ.get("LD_PRELOAD")  # a sanitizer wants to be
        preloaded = f"{first}:{library}" if first else str(library)
        environment = {**os.environ, "LD_PRELOAD": preloaded, "KEPT_FOLDER": str(place)}
        done = subprocess.run(
            [sys.executable, __file__, str(place), run.__name__],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        counts[run.__name__] = json.loads(done.stdout)
    print(json.dumps(counts))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        where = Path(sys.argv[1])
        if sys.argv[2] == "tasks":
            result = asyncio.run(tasks(where))
        else:
            result = {"each": each, "process": process, "batch": batch}[sys.argv[2]](where)
        # The copies are opened where no file is kept any more.
        os.environ.pop("KEPT_FOLDER")
        there = result.check(EVENTS)
        print(json.dumps({"moments": len(result.moments), "durable": there}))
