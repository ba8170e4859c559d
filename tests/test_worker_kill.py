"""A worker bus whose process is killed at random instants, for real.

The suite kills it a few times. AEB_WORKER_KILL_ROUNDS sets the number of rounds, and
AEB_WORKER_KILL_SEED what is random in them:

    AEB_WORKER_KILL_ROUNDS=200 python -m pytest tests/test_worker_kill.py
"""

from __future__ import annotations

import os
import re
import sys
from typing import Callable

import pytest
from helpers import run_isolated

ROUNDS = int(os.environ.get("AEB_WORKER_KILL_ROUNDS", "10"))
SEED = os.environ.get("AEB_WORKER_KILL_SEED", "1")


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_killed_at_any_instant_the_next_run_delivers_exactly_the_unacknowledged_events(
    record_property: Callable[[str, object], None],
) -> None:
    said = run_isolated("worker_kill.py", str(ROUNDS), SEED, timeout=60.0 + 2 * ROUNDS)
    assert said.startswith("ok "), said
    counts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", said)}
    # That something was there to be lost or doubled.
    assert counts["published"] >= ROUNDS
    assert counts["acknowledged"] >= ROUNDS
    assert counts["redelivered"] >= ROUNDS
    assert counts["cut_short"] < ROUNDS
    record_property("figures", said.strip())
