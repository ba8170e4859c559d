"""Builds and loads failing_allocator.c, which lets allocations of the core fail and no others."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from agent_event_bus import _core

SOURCE = Path(__file__).with_name("failing_allocator.c")
FLAGS = ["-shared", "-fPIC", "-O1", "-std=c11", "-fexceptions", "-Wall", "-Werror"]

# Libraries that the core calls, and that have their own ways of running out of memory.
LIBRARIES = ["_asyncio", "_contextvars"]


# Functions of Python that do not survive a lack of memory, so that theirs does not fail.
SPARED = {
    "PyContextVar_Set": "looks into the token that it could not make, and crashes",
    "Py_ReprLeave": "keeps what has been shown for ever when a list cannot be made shorter",
}


class Unavailable(Exception):  # noqa: N818 - what the caller makes of it is no error
    """It cannot be built here."""


def load() -> Any:
    """Return the module, which has its hooks set.

    Raises:
        Unavailable: There is no compiler, or no way to look at the stack.
    """
    if not sys.platform.startswith("linux"):
        raise Unavailable("the stack is looked at the way glibc has it")
    words = (sysconfig.get_config_var("CC") or "cc").split()
    found = [each for each in (words[0], "gcc", "cc", "clang") if shutil.which(each)]
    include = sysconfig.get_path("include")
    if not found or not os.path.exists(os.path.join(include, "Python.h")):
        raise Unavailable("it takes a C compiler and the header files of Python")
    with tempfile.TemporaryDirectory() as directory:
        target = os.path.join(directory, "failing_allocator.so")
        command = [found[0], *FLAGS, f"-I{include}", str(SOURCE), "-o", target, "-ldl", "-pthread"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Unavailable(f"{' '.join(command)} has failed: {done.stderr}")
        loader = importlib.machinery.ExtensionFileLoader("failing_allocator", target)
        spec = importlib.util.spec_from_file_location("failing_allocator", target, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    assert module.watch(_core.__file__), "the core is not among the loaded libraries"
    if not module.loop_is("_PyEval_EvalFrameDefault"):
        raise Unavailable("there is no telling what is Python code")
    for library in LIBRARIES:
        path = getattr(importlib.import_module(library), "__file__", None)
        assert path is None or module.stop_at(path), f"{path} is not loaded"
    for function in SPARED:
        assert module.spare(function), f"there is no function {function}"
    return module
