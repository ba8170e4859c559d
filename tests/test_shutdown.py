"""The end of the interpreter, subinterpreters, and what importing the package brings in."""

from __future__ import annotations

import sys

import pytest
from helpers import run_isolated


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("atexit", "sync atexit\nasync atexit"),
        ("module_global", "deleted"),
        ("cycle", "deleted"),
        ("never_awaited", "end"),
        ("failing_handler", "end"),
        ("pending_task", "end"),
        ("emission_in_cycle", "deleted"),
        ("modules_cleared", "deleted"),
        ("subscription_outlives_bus", "end"),
    ],
)
def test_emitting_while_the_interpreter_ends_is_quiet(case: str, expected: str) -> None:
    assert run_isolated("shutdown.py", case).strip() == expected


def test_daemon_threads_that_emit_to_the_very_end_do_no_harm() -> None:
    for _ in range(3):
        assert run_isolated("daemon_thread.py").strip() == "end"


def test_importing_and_using_the_sync_part_does_not_import_asyncio() -> None:
    assert run_isolated("no_asyncio.py").strip() == "ok"


@pytest.mark.parametrize(
    "case", ["one_after_another", "with_async_handlers", "at_once", "left_running", "observing"]
)
def test_every_subinterpreter_has_a_bus_of_its_own(case: str) -> None:
    said = run_isolated("subinterpreters.py", case).strip()
    if said == "unavailable":
        pytest.skip(f"no subinterpreters in {sys.version}")
    assert said == "ok"


def test_the_module_can_be_unloaded_and_imported_again() -> None:
    assert run_isolated("reimport.py").strip() == "ok"
