"""The systems use the public API of the core alone, and importing the package loads none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import run_python

from agent_event_bus import Emitter, Event, EventBus, Subscription

PACKAGE = Path(__file__).parents[1] / "agent_event_bus"
OWN = {
    "telemetry": ("agent_event_bus._persistence",),
    "runtime": (),
    "worker": (),
    "store": ("agent_event_bus.store._classes", "agent_event_bus.store._json"),
}
"""The systems, and what is private in each and its own."""
PRIVATE = {
    name
    for kind in (EventBus, Subscription, Emitter, Event)
    for name in dir(kind)
    if name.startswith("_") and not name.endswith("__")
}


def sources(system: str) -> Iterator[Path]:
    """Yield the files of a system."""
    if system == "telemetry":
        yield from (PACKAGE / "telemetry.py", PACKAGE / "_persistence.py")
    else:
        yield from (PACKAGE / system).glob("*.py")


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs: all but the body of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.dump(child.test) == ast.dump(
            ast.parse("TYPE_CHECKING", mode="eval").body
        ):
            for other in child.orelse:
                yield other
                yield from run_time_nodes(other)
        else:
            yield child
            yield from run_time_nodes(child)


def private_uses(source: str, own: tuple[str, ...]) -> list[str]:
    """Return what a file imports from private modules or takes from objects of the core."""
    found: list[str] = []
    for node in run_time_nodes(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        else:
            names = []
        found += [
            name
            for name in names
            if name.startswith("agent_event_bus.")
            and any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
            and not name.startswith(own)
        ]
        if (
            isinstance(node, ast.Attribute)
            and node.attr in PRIVATE
            and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        ):
            found.append(f".{node.attr} in line {node.lineno}")
    return found


def test_importing_the_package_loads_no_system_and_nothing_that_they_need() -> None:
    code = "import sys, agent_event_bus; print(*sys.modules, sep='\\n')"
    told = run_python("-c", code).splitlines()
    assert "agent_event_bus._core" in told
    assert not {f"agent_event_bus.{system}" for system in (*OWN, "_persistence")} & {*told}
    assert not {"asyncio", "concurrent.futures", "sqlite3"} & {*told}


@pytest.mark.parametrize("system", OWN)
def test_a_system_uses_nothing_private_of_the_core(system: str) -> None:
    files = sorted(sources(system))
    assert len(files) >= 2
    used = {file.name: private_uses(file.read_text("utf-8"), OWN[system]) for file in files}
    assert {name: uses for name, uses in used.items() if uses} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from agent_event_bus._bus import EventBus",
        "from agent_event_bus import _core",
        "import agent_event_bus._core",
        "def f(): from agent_event_bus._core import EventBus",
        "class A:\n    def f(self): return self.bus._pending()",
    ],
)
def test_such_a_use_would_be_found(source: str) -> None:
    assert private_uses(source, ("agent_event_bus._persistence",)) != []
