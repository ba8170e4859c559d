"""Making, using and ending subinterpreters, in the words of each version of CPython."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def find() -> Any:
    """The module that makes subinterpreters; ends the process where there is none."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    print("unavailable")
    sys.exit(0)


interpreters = find()


def create(kind: str) -> Any:
    """A new subinterpreter, "legacy" or "own": one that has a lock of its own.

    Ends the process where there are none of that kind.
    """
    if kind == "own" and sys.version_info < (3, 12):
        print("unavailable")
        sys.exit(0)
    if interpreters.__name__ == "_interpreters":
        return interpreters.create({"own": "isolated", "legacy": "legacy"}[kind])
    # Before 3.12 "isolated" forbids threads, and no more.
    return interpreters.create(isolated=kind == "own" and sys.version_info >= (3, 12))


def run(interpreter: Any, script: str) -> None:
    """Run a script there; 3.12 and older raise what failed, newer ones return it."""
    here = f"import sys; sys.path[:] = {sys.path!r}\n{script}"
    problem = interpreters.run_string(interpreter, here)
    assert problem is None, problem


def whole_life(kind: str, script: str) -> None:
    """Create one, run a script there, and destroy it."""
    interpreter = create(kind)
    try:
        run(interpreter, script)
    finally:
        interpreters.destroy(interpreter)
