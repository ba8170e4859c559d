"""Subinterpreters by the dozen: what they leave behind, what they share, and side by side.

With AEB_INTERPRETERS=1000 that many are created and destroyed for each figure instead of four.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Callable

import pytest
from helpers import run_isolated

COUNT = int(os.environ.get("AEB_INTERPRETERS", "4"))
# What one more may leave than one that does the same without the package, in bytes. Strings that
# CPython 3.12 and 3.13 intern, the names and paths of the package's modules, are never freed by
# them: some 17,000 bytes. One reference to the core that is not given back is more than 40,000.
LIMIT = (32 if (3, 12) <= sys.version_info < (3, 14) else 16) * 1024


def outcome(*arguments: str) -> str:
    said = run_isolated("many_interpreters.py", *arguments, timeout=100.0 + 2 * COUNT)
    last = said.split()[-1]
    if last == "unavailable":
        pytest.skip(f"no such interpreters in {sys.version}")
    if last == "uncounted":
        pytest.skip("not every allocation can be counted here")
    assert last == "ok", said
    if "broken" in said.split():
        pytest.skip("this Python crashes by itself when interpreters end side by side")
    return said


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("kind", ["legacy", "own"])
def test_memory_does_not_grow_with_interpreters_that_come_and_go(
    kind: str, way: str, record_property: Callable[[str, object], None]
) -> None:
    said = outcome("growth", kind, way, str(COUNT))
    found = re.search(r"^growth (-?\d+)$", said, re.MULTILINE)
    assert found is not None, said
    assert int(found[1]) < LIMIT, said
    more = f"{found[1]} bytes each beyond what they leave without the package"
    record_property("figures", f"{kind}, {way}: {COUNT} interpreters, {more}")


@pytest.mark.parametrize("kind", ["legacy", "own"])
def test_no_interpreter_sees_an_object_of_another(kind: str) -> None:
    if kind == "own" and sys.version_info[:2] == (3, 12):
        pytest.skip("3.12.1 frees what is not its own when two that have asyncio are alive")
    outcome("apart", kind)


def test_interpreters_with_a_lock_each_live_and_die_at_the_same_time() -> None:
    outcome("side_by_side", "async", "2")


def test_interpreters_of_the_standard_library_have_buses() -> None:
    outcome("public")
