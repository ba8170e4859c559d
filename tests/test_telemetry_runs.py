"""The recorded runs through both routers: persisted, replayed into another router, and compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import DEADLINE, soon
from recorded import recorded_events

from agent_event_bus.telemetry import (
    PersistenceHandler,
    ProductionTelemetryRouter,
    TelemetryRouter,
)

Kind = type[TelemetryRouter]


class Seen:
    """What handlers of each group were given."""

    def __init__(self, router: TelemetryRouter) -> None:
        self.every: list[tuple[str, Any]] = []
        self.responses: list[Any] = []
        self.tools: list[tuple[str, Any]] = []
        self.first: list[Any] = []
        router.subscribe_all(lambda event_name, payload: self.every.append((event_name, payload)))
        router.subscribe("llm.response", self.responses.append)
        router.subscribe("tool.*", self.tool)
        router.subscribe_once("run.start", self.first.append)

    async def tool(self, event_name: str, payload: Any) -> None:
        self.tools.append((event_name, payload))

    def as_text(self) -> str:
        """Return all of it, so that 1 and 1.0, and another order of fields, are different."""
        return json.dumps([self.every, self.responses, self.tools, self.first])


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[PersistenceHandler]:
    with PersistenceHandler(tmp_path / "runs.db") as handler:
        yield handler


@pytest.mark.parametrize("replayed_by", [TelemetryRouter, ProductionTelemetryRouter])
@pytest.mark.parametrize("recorded_by", [TelemetryRouter, ProductionTelemetryRouter])
async def test_the_recorded_runs_come_back_equal(
    handler: PersistenceHandler, recorded_by: Kind, replayed_by: Kind
) -> None:
    events = [*recorded_events()]
    assert len(events) > 6000
    router = recorded_by()
    router.subscribe_all(handler)
    seen = Seen(router)
    for name, payload in events:
        await router.emit_async(name, payload)
    assert seen.every == events
    assert handler.flush(DEADLINE)

    stored = list(handler.store.read())
    assert [(event.name, event.payload) for event in stored] == events
    assert [event.run_id for event in stored] == [payload["run_id"] for _, payload in events]
    assert [event.seq for event in stored] == [*range(1, len(events) + 1)]

    other = replayed_by()
    again = Seen(other)
    assert await soon(handler.replay(other)) == len(events)
    assert again.as_text() == seen.as_text()
    assert other.stats()["by_event"] == Counter(name for name, _ in events)
    # And into the router that the handler records: nothing is recorded twice.
    assert await soon(handler.replay(router, after=len(events) - 100)) == 100
    assert handler.flush(DEADLINE)
    assert handler.store.stats()["stored"] == len(events)


async def test_one_run_can_be_replayed_alone(handler: PersistenceHandler) -> None:
    events = recorded_events()
    router = ProductionTelemetryRouter()
    router.register_wildcard(handler)
    for name, payload in events:
        router.emit(name, payload)
    assert handler.flush(DEADLINE)
    run = events[-1][1]["run_id"]
    seen: list[tuple[str, Any]] = []
    other = TelemetryRouter()
    other.subscribe_all(lambda event_name, payload: seen.append((event_name, payload)))
    await soon(handler.replay(other, run_id=run))
    assert seen == [(name, payload) for name, payload in events if payload["run_id"] == run]
    assert 0 < len(seen) < len(events)
