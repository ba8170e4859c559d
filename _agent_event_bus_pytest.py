"""The pytest plugin of agent_event_bus: what pytest loads at the start of every run.

pytest loads the plugins of all installed packages, also for test suites that do not use them. So
this is a module of its own, outside the package, whose import would load the native core: nothing
of the package is imported before a test uses one of the fixtures.

The entry point is called ``agent_event_bus``; ``-p no:agent_event_bus`` leaves it out.
docs/testing.md describes the fixtures, the marker and the settings.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agent_event_bus import EventBus
    from agent_event_bus.pytest_plugin import BusWatch, WatchEventBus
    from agent_event_bus.testing import EventRecorder

_WATCH: pytest.StashKey[BusWatch] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings for pytest.ini or pyproject.toml."""
    parser.addini(
        "event_bus_fail_on_handler_error",
        "fail tests in which a handler of a watched event bus raises (default: true)",
        type="bool",
        default=True,
    )
    parser.addini(
        "event_bus_fail_on_leak",
        "fail tests that leave something behind on a watched event bus (default: true)",
        type="bool",
        default=True,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "event_bus(fail_on_handler_error=..., fail_on_leak=...): whether this test fails when a "
        "handler raises, and when it leaves something behind on an event bus; see the settings of "
        "the same names.",
    )


@pytest.fixture
def event_bus_options() -> dict[str, Any]:
    """The options of ``event_bus``: a dict of what ``EventBus`` takes. Override it to set some."""
    return {}


@pytest.fixture
def watch_event_bus(request: pytest.FixtureRequest) -> Iterator[WatchEventBus]:
    """A function: have this test fail for what happens on a bus of your own.

    From ``watch_event_bus(bus)`` on the test fails when a handler of that bus raises, and when at
    the end of the test there is a subscription or a pending delivery that was not there.
    """
    from agent_event_bus.pytest_plugin import BusWatch

    watch = BusWatch.of_test(request.node)
    request.node.stash[_WATCH] = watch
    yield watch.add
    watch.finish()


@pytest.fixture
def event_bus(
    request: pytest.FixtureRequest,
    event_bus_options: dict[str, Any],
    watch_event_bus: WatchEventBus,
) -> Iterator[EventBus]:
    """A fresh bus, which is watched, and which ``current_bus()`` and ``get_bus()`` return.

    No other named bus exists at first. At the end of the test the bus is closed.
    """
    from agent_event_bus.pytest_plugin import bus_of_test

    with bus_of_test(event_bus_options, request.node.stash[_WATCH]) as bus:
        yield bus


@pytest.fixture
def recorded_events(event_bus: EventBus) -> Iterator[EventRecorder]:
    """Everything that is emitted and published on ``event_bus``."""
    from agent_event_bus.testing import record_events

    with record_events(event_bus) as recorder:
        yield recorder


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Fail a test in which a handler of a watched bus has raised."""
    watch = item.stash.get(_WATCH, None)
    if watch is None:
        yield
    else:
        yield from watch.around(item)
