"""docs/telemetry.md and the example say what there is; importing the module costs little."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from helpers import run_python
from test_readme import DOCS, bare, rows, section

from agent_event_bus import telemetry
from agent_event_bus.store import EventStore

ROOT = Path(__file__).parents[1]
PAGE = DOCS / "telemetry.md"
CLASSES = ("TelemetryRouter", "ProductionTelemetryRouter", "PersistenceHandler")


def listed(name: str) -> list[str]:
    """Return what the page lists for a class."""
    return [row[0].strip("`") for row in rows(section(PAGE, name))]


def signature(name: str, cls: type[Any]) -> str:
    """Return a method, or the class by its own name, with its signature as a caller sees it."""
    if name == cls.__name__:
        return name + bare(inspect.signature(cls))
    if name in ("emit", "emit_async"):  # attributes of each router
        return name + bare(inspect.signature(getattr(cls(), name)))
    found = inspect.signature(getattr(cls, name))
    return name + bare(found.replace(parameters=list(found.parameters.values())[1:]))


@pytest.mark.parametrize("name", CLASSES)
def test_the_page_gives_every_method_with_its_real_signature(name: str) -> None:
    cls: type[Any] = getattr(telemetry, name)
    entries = listed(name)
    assert len(entries) >= 4
    for entry in entries:
        method, parenthesis, _ = entry.partition("(")
        if parenthesis:
            assert entry == signature(method, cls)
        else:
            assert not callable(getattr(cls, method)), entry


@pytest.mark.parametrize("name", CLASSES)
def test_the_page_lists_every_public_attribute_and_no_other(name: str) -> None:
    cls: type[Any] = getattr(telemetry, name)
    inherited = {each for base in cls.__mro__[1:] for each in vars(base)}
    public = {each for each in dir(cls) if not each.startswith("_")} - inherited
    assert {entry.partition("(")[0] for entry in listed(name)} == public | {name}


def test_everything_that_is_public_is_documented() -> None:
    assert sorted(telemetry.__all__) == sorted(CLASSES)
    for name in CLASSES:
        cls: type[Any] = getattr(telemetry, name)
        for attribute in (each for each in dir(cls) if not each.startswith("_")):
            assert inspect.getdoc(getattr(cls, attribute)), (name, attribute)


def test_importing_the_routers_imports_neither_asyncio_nor_the_store() -> None:
    told = run_python(
        "-c",
        "import sys, agent_event_bus.telemetry as t\n"
        "r = t.ProductionTelemetryRouter(alert_after=None)\n"
        "r.register('e', print)\n"
        "r.emit('e', 1)\n"
        "print({'asyncio', 'sqlite3', 'agent_event_bus.store'} & set(sys.modules))",
    )
    assert told == "1\nset()\n"


def test_the_example_persists_and_replays(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    told = run_python(str(ROOT / "examples" / "telemetry_router.py"), str(path))
    assert told.splitlines() == [
        "42 tokens",
        "42 tokens",
        "the first tool was search",
        "routed 6 events",
        "replayed 6 events",
        "run.start: 1",
        "model.responded: 2",
        "tool.end: 2",
        "run.end: 1",
    ]
    with EventStore(path) as store:
        assert [event.name for event in store.read()] == [
            "run.start",
            "model.responded",
            "tool.end",
            "model.responded",
            "tool.end",
            "run.end",
        ]
