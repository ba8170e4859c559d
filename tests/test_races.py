"""Many threads use one bus in every way at once: tests/isolated/races.py, in its quick form.

The long form is that script by itself, with as many seconds a case as there is time for:

    python tests/isolated/races.py --seconds 60 --threads 4
"""

from __future__ import annotations

from typing import Callable

import pytest
from helpers import run_isolated

CASES = ["sync", "once", "loops", "weak", "closing", "deleting", "driving"]


@pytest.mark.parametrize("case", CASES)
def test_what_many_threads_do_at_once_adds_up(
    case: str, record_property: Callable[[str, object], None]
) -> None:
    said = run_isolated("races.py", case, "--seconds", "1.5").splitlines()
    assert said[0].startswith(f"{case}: ")
    assert said[-1] == "ok"
    record_property("figures", said[0])


def test_every_case_of_the_script_is_run() -> None:
    assert run_isolated("races.py", "--list").split() == CASES
