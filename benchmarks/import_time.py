"""What importing each bus costs a program, beside importing asyncio.

    python -m benchmarks.import_time

Each sample is the wall time of a fresh interpreter that imports the module, less that of one in the
same round that imports nothing. The first, unmeasured round compiles and caches what is imported.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

from benchmarks.harness import Column, Pace, Suite, Table
from benchmarks.peers import OURS, PEERS, Peer

ASYNCIO = "asyncio"
BARE = "(bare interpreter)"
ROUNDS = 15


def seconds(statement: str, path: list[str]) -> float:
    """Return how long a fresh interpreter takes for a statement.

    Raises:
        CalledProcessError: the statement failed; its `stderr` has the traceback.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, *filter(None, sys.path)])}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", statement], env=environment, check=True, capture_output=True
    )
    return time.perf_counter() - began


def statement(peer: Peer) -> str:
    """Return the import of a peer."""
    return f"import {peer.imported or peer.module}"


def run(pace: Pace) -> list[Table]:
    """Import everything in turns."""
    jobs = {BARE: ("pass", []), ASYNCIO: ("import asyncio", list[str]())}
    jobs.update({p.label: (statement(p), p.path()) for p in PEERS if p.distribution is not None})
    labels = [label for label in jobs if label != BARE]
    column = Column("import", ASYNCIO)
    for label, (text, path) in list(jobs.items()):
        try:
            seconds(text, path)
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            missing = reason.startswith("ModuleNotFoundError")
            column.missing[label] = "not installed" if missing else f"fails here ({reason})"
            del jobs[label]
    order = random.Random(column.heading)
    for _ in range(min(ROUNDS, pace.most)):
        times = {label: seconds(*jobs[label]) for label in order.sample(list(jobs), len(jobs))}
        for label in jobs:
            if label != BARE:
                sample = (times[label] - times[BARE]) * 1e3
                column.samples.setdefault(label, []).append(sample)
    notes = {OURS: "does not import asyncio", "eventkit": "imports numpy"}
    return [Table("import_time", "import in a fresh interpreter", labels, [column], "ms", notes)]


SUITE = Suite("import_time", run)

if __name__ == "__main__":
    from benchmarks.cli import main

    sys.exit(main(["--no-write", "--suite", "import_time", *sys.argv[1:]]))
