"""Fixtures of the whole test suite."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import ListHandler, LoopThread

from agent_event_bus import EventBus

if TYPE_CHECKING:
    from agent_event_bus.store import EventStore

# To run pytest inside of tests, for the plugin that comes with the package.
pytest_plugins = ["pytester"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what tests have counted and recorded as the property "figures"."""
    for report in terminalreporter.getreports("passed"):
        for name, value in getattr(report, "user_properties", ()):
            if name == "figures":
                terminalreporter.write_line(f"figures: {value}")


if sys.version_info < (3, 12):
    # Where asyncio makes an event loop for whoever asks, the pytest plugin asks, and the loop is
    # lost unclosed in the next asyncio.run of a test. An explicit None prevents that.
    asyncio.set_event_loop(None)


@pytest.fixture(scope="module", autouse=True)
def freeze_what_is_there_already() -> None:
    """Spare the collections of garbage in tests all that pytest and earlier files have left."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def bus() -> EventBus:
    """A fresh bus."""
    return EventBus()


@pytest.fixture
def nothing_left(bus: EventBus) -> Iterator[None]:
    """Fail the test when it leaves a subscription on its bus, or a pending delivery."""
    yield
    gc.collect()
    assert bus._subscriptions() == []
    assert bus._pending() == []


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What the test's buses log on the default logger, in order."""
    logger = logging.getLogger("agent_event_bus")
    handler = ListHandler()
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


@pytest.fixture
def quiet_reports() -> Iterator[None]:
    """Keep the reports of failing handlers out of the test's output."""
    logger = logging.getLogger("agent_event_bus")
    before = logger.propagate
    logger.propagate = False
    yield
    logger.propagate = before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "events.db"


@pytest.fixture
def store(path: Path) -> Iterator[EventStore]:
    """A new store in batch mode."""
    from agent_event_bus.store import EventStore

    with EventStore(path) as store:
        yield store


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The exceptions that were handed to ``sys.unraisablehook``, in order."""
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_value))
    return seen


@pytest.fixture
def other() -> Iterator[LoopThread]:
    """An event loop that runs in another thread."""
    with LoopThread() as other:
        yield other


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Make threads give way as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def control_c() -> Iterator[None]:
    """Have SIGINT raise KeyboardInterrupt: a shell's job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
