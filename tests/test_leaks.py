"""Emitting leaves nothing behind, however often it is done and however it ends.

tests/isolated/leaks.py compares reference counts of handlers, payload, names, bus and types, the
number of objects and memory blocks, and resident memory before and after, in a process of its own.
"""

from __future__ import annotations

import sys

import pytest
from helpers import run_isolated

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="resident memory is asked for the way POSIX has it"
)

KINDS = [
    "emit_sync",
    "emit_pending",
    "emit_without_a_loop",
    "nobody",
    "sync",
    "published",
    "refused",
    "returns",
    "suspends",
    "fails",
    "fails_later",
    "cancels_itself",
    "raises_cancelled",
    "cancelled_outside",
    "touched",
    "nested",
    "by_hand",
    "dropped",
    "with_factory",
]


def test_every_kind_of_emission_is_looked_at() -> None:
    assert run_isolated("leaks.py", "kinds").split() == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_emissions_of_one_kind_leak_nothing(kind: str) -> None:
    assert run_isolated("leaks.py", kind, "10000").strip() == "ok"


def test_a_million_emissions_of_all_kinds_leak_nothing() -> None:
    assert run_isolated("leaks.py", "mixed", "1000000", timeout=240).strip() == "ok"
