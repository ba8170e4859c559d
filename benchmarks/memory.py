"""What memory a subscription takes: 100,000 of them, each bus in processes of its own.

    python -m benchmarks.memory

Names and handlers exist before the measurement begins; what is counted is what the bus adds. In one
process tracemalloc counts what Python's allocators gave out; in others, without it, the resident
set is read before and after, which has what malloc and the allocators keep in reserve in it too.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

from benchmarks.harness import Column, Handler, Pace, Suite, Table, UnsupportedError
from benchmarks.peers import PEERS

DICT = "dict of lists"
SUBSCRIPTIONS = 100_000
PER_NAME = {"a name each": 1, "100 to a name": 100}
WAYS = ("tracemalloc", "RSS")
PROCESSES = 3
"""How many processes the resident set is measured in; tracemalloc's figures do not vary."""
PATIENCE = 20.0
"""How long a process may take, in seconds; one bus takes time that grows with the square."""


def resident() -> int:
    """Return the resident set of this process in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        raise UnsupportedError("needs /proc") from None
    return pages * os.sysconf("SC_PAGE_SIZE")


def handler() -> Handler:
    """Return a new function that does nothing."""

    def ignore(payload: object) -> None:
        pass

    return ignore


def probe(label: str, way: str, per_name: int, count: int) -> float:
    """Subscribe in this process, and return the bytes that a subscription takes.

    Args:
        label: DICT or the label of a peer.
        way: one of WAYS.
        per_name: how many handlers each name gets.
        count: how many subscriptions there are in all.
    """
    names = [f"event_{index // per_name}" for index in range(count)]
    handlers = [handler() for _ in range(count)]
    table: dict[str, list[Any]] = {}
    peer = next((peer for peer in PEERS if peer.label == label), None)
    bus = peer.new() if peer is not None else None

    def used() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if way == "tracemalloc" else resident()

    if way == "tracemalloc":
        tracemalloc.start()
    before = used()
    if peer is None:
        for name, function in zip(names, handlers):
            table.setdefault(name, []).append(function)
    else:
        peer.preload(bus, names, handlers)
    return (used() - before) / count


def probed(label: str, way: str, per_name: int, count: int) -> float:
    """Return the same from a process of its own.

    Raises:
        UnsupportedError: it failed there, and the last line that it wrote says why, or it took too
            long.
    """
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.memory", "--probe"),
                *(label, way, str(per_name), str(count)),
            ],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedError(f"not done within {PATIENCE:g} s") from None
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        missing = reason.startswith("ModuleNotFoundError")
        raise UnsupportedError("not installed" if missing else f"fails here ({reason})")
    return float(json.loads(done.stdout))


def run(pace: Pace) -> list[Table]:
    """Measure every bus with each number of handlers to a name, in both ways."""
    count = pace.size(SUBSCRIPTIONS)
    labels = [DICT, *(peer.label for peer in PEERS)]
    columns = []
    for heading, per_name in PER_NAME.items():
        for way in WAYS:
            column = Column(f"{heading}, {way}", DICT)
            processes = 1 if way == "tracemalloc" or pace.quick else PROCESSES
            for _ in range(processes):
                for label in labels:
                    if label in column.missing:
                        continue
                    try:
                        figure = probed(label, way, per_name, count)
                    except UnsupportedError as reason:
                        column.missing[label] = str(reason)
                    else:
                        column.samples.setdefault(label, []).append(figure)
            columns.append(column)
    title = f"memory of a subscription, {count:,} of them"
    return [Table("memory", title, labels, columns, "bytes", absolute=True)]


SUITE = Suite("memory", run)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        _, _, given_label, given_way, given_per_name, given_count = sys.argv
        print(probe(given_label, given_way, int(given_per_name), int(given_count)))
        sys.exit()
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "memory", *sys.argv[1:]]))
