"""A process that is killed while it emits to a handler that persists.

The long form kills more of them:

    AEB_KILL_ROUNDS=200 python -m pytest tests/test_telemetry_kill.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import DEADLINE, ISOLATED, PACKAGES

from agent_event_bus.store import EventStore

ROUNDS = int(os.environ.get("AEB_KILL_ROUNDS", "2"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("way", ["router", "plain"])
@pytest.mark.parametrize("mode", ["default", "each", "batch", "unflushed"])
def test_what_was_acknowledged_survives(path: Path, mode: str, way: str, number: int) -> None:
    script = ISOLATED / "telemetry_killed.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(path), mode, *([way] if way == "plain" else [])],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
    )
    assert process.stdout is not None
    with process.stdout as told:
        acknowledged = [int(told.readline()) for _ in range(3)]
        # Between two of its instructions, wherever that is.
        threading.Event().wait(random.random() * 0.02)
        process.kill()
        acknowledged += [int(line) for line in told if line.endswith("\n")]
    assert process.wait(DEADLINE) == -signal.SIGKILL
    with EventStore(path) as store:
        assert store.verify() == []
        events = list(store.read())
    numbers = [event.payload["number"] for event in events]
    # A prefix of what was emitted: nothing is missing in it, nothing doubled.
    assert numbers == [*range(1, len(numbers) + 1)]
    assert len(numbers) >= acknowledged[-1]
    assert [event.seq for event in events] == numbers
    assert {event.run_id for event in events} == {"killed"}
    if mode in ("default", "each"):
        assert len(numbers) <= acknowledged[-1] + 1
