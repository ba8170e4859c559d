"""What the test files of the telemetry routers share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from helpers import ListHandler

from agent_event_bus.telemetry import ProductionTelemetryRouter, TelemetryRouter

Records = list[logging.LogRecord]


@pytest.fixture(params=[TelemetryRouter, ProductionTelemetryRouter], name="router")
def each_router(request: pytest.FixtureRequest) -> TelemetryRouter:
    """A router of each kind, neither of which warns when this machine is busy."""
    if request.param is ProductionTelemetryRouter:
        return ProductionTelemetryRouter(alert_after=None)
    return TelemetryRouter()


@pytest.fixture(name="production")
def production_router() -> ProductionTelemetryRouter:
    """A router of the second kind, which does not warn when this machine is busy."""
    return ProductionTelemetryRouter(alert_after=None)


@pytest.fixture(name="routed")
def routed_records() -> Iterator[Records]:
    """What is logged to `telemetry.router`."""
    logger = logging.getLogger("telemetry.router")
    handler = ListHandler()
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


def payloads(log: list[Any]) -> Callable[[Any], None]:
    """A handler of an exact name, which takes one argument and no other."""

    def handler(payload: Any) -> None:
        log.append(payload)

    return handler


def events(log: list[Any]) -> Callable[[str, Any], None]:
    """A wildcard handler, which takes two arguments and no other."""

    def handler(event_name: str, payload: Any) -> None:
        log.append((event_name, payload))

    return handler
