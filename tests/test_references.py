"""Each public operation, and each call that has to fail, leaves nothing behind.

tests/isolated/references.py repeats them one by one, in a process of its own: see there for what it
compares. AEB_REFERENCES=1000000 in the environment repeats each a million times, or as often as it
takes AEB_REFERENCES_SECONDS (30), and looks at the resident memory, too.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Callable

import pytest
from helpers import run_isolated

SOURCES = sorted((Path(__file__).parent.parent / "src").glob("*.c"))
COUNT = os.environ.get("AEB_REFERENCES", "400")
SECONDS = os.environ.get("AEB_REFERENCES_SECONDS", "30")

# PyErr_SetString(PyExc_X, "..." "...") and PyErr_Format, as far as the text is a literal.
RAISES = re.compile(r'PyErr_(?:SetString|Format)\(\s*PyExc_\w+,\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')
TOLD = re.compile(r": (\d+) times, ([+-]\d+) KiB")
DIRECTIVES = re.compile(r"%(?:\.\d+)?(?:zd|[sUSRd])")

# What no call of a public operation raises, and why.
NOT_RAISED = {
    "maximum recursion depth exceeded in nested emit_async": "tests/isolated/recursion.py does it",
    "no running event loop": "goes to sys.unraisablehook, and the handler has no time limit",
    "agent_event_bus has been unloaded": "only finalisers see it, at the end of the interpreter",
    "asyncio.Task did not use its loop": "no asyncio there is does that",
}


def messages() -> dict[str, str]:
    """Return the messages that the core raises, and the file that each is in."""
    found = {}
    for source in SOURCES:
        for literals in RAISES.findall(source.read_text(encoding="utf-8")):
            text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals))
            found[text] = source.name
    return found


def test_every_public_name_has_an_operation() -> None:
    assert run_isolated("references.py", "names") == ""


@pytest.mark.skipif(not SOURCES, reason="the sources of the core are not here")
def test_every_message_of_the_core_has_a_call_that_provokes_it() -> None:
    said = json.loads(run_isolated("references.py", "messages"))
    raised = messages()
    assert len(raised) > 60, "the sources are not understood any more"

    def provoked(message: str) -> bool:
        pattern = re.compile(".*".join(map(re.escape, DIRECTIVES.split(message))), re.DOTALL)
        return any(map(pattern.fullmatch, said))

    missing = {text: file for text, file in raised.items() if not provoked(text)}
    assert missing.keys() == NOT_RAISED.keys(), missing


@pytest.mark.skipif(sys.platform == "win32", reason="resident memory is asked for as POSIX has it")
def test_no_operation_and_no_refused_call_leaves_anything_behind(
    record_property: Callable[[str, object], None],
) -> None:
    # It exits with 0 in any case, so that not all of its output is shown when one leaks.
    output = run_isolated("references.py", "run", COUNT, SECONDS, timeout=8 * 3600)
    lines = output.splitlines()
    assert len(lines) > 300
    assert [line for line in lines if not line.startswith("ok ")] == []
    times, growth = zip(*(map(int, TOLD.findall(line)[-1]) for line in lines))
    record_property(
        "figures",
        f"{len(lines)} operations and refused calls, {sum(times)} times in all, the rarest "
        f"{min(times)} times, resident memory {max(growth):+} KiB at most",
    )
