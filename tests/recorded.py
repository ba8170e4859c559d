"""Recorded runs of an airline agent, which lie outside of the repository."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(
    os.environ.get("AEB_TRACE")
    or Path(__file__).parents[2] / "shared" / "data" / "airline_runs.jsonl"
)


@cache
def recorded_events() -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return name and payload of every recorded event, in order; skip the test without them."""
    if not RECORDED.is_file():
        pytest.skip("the recorded runs are not here; AEB_TRACE may name a file of them")
    with RECORDED.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return tuple((line["event"], line["payload"]) for line in lines)
