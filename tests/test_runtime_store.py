"""agent_event_bus.runtime: the events of a runtime bus in a store, and published again from it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from recorded import recorded_events
from test_runtime_recorded import telling

from agent_event_bus.runtime import AgentEvent, EventBus, EventType
from agent_event_bus.store import EventStore


async def test_recorded_runs_are_kept_in_a_store_and_published_again_from_it(
    tmp_path: Path,
) -> None:
    recorded = recorded_events()
    live = EventBus(max_history=len(recorded))
    tell = telling(live)
    with EventStore(tmp_path / "events.db") as store:
        live.subscribe(
            EventType,
            lambda event: store.append(event.type, event.to_dict(), run_id=event.execution_id),
        )
        for name, payload in recorded:
            assert await tell(name, payload) == 1
        assert store.flush()
        assert store.stats()["dropped"] == 0

    with EventStore(tmp_path / "events.db") as store:
        assert store.verify() == []
        replayed = EventBus(max_history=len(recorded))
        for stored in store.read():
            event = AgentEvent.from_dict(stored.payload)
            assert (stored.name, stored.run_id) == (event.type, event.execution_id)
            await replayed.publish(event)
        assert replayed.get_history(limit=None) == live.get_history(limit=None)
        kept = Counter(stored.name for stored in store.read())
        assert kept == replayed.get_stats()["events_by_type"]
        run = recorded[0][1]["run_id"]
        of_run = [AgentEvent.from_dict(stored.payload) for stored in store.read(run_id=run)]
        assert of_run == live.get_history(execution_id=run, limit=None)[::-1]


async def test_what_was_published_is_durable_when_publish_returns(tmp_path: Path) -> None:
    bus = EventBus()
    with EventStore(tmp_path / "events.db") as store:

        async def keep(event: AgentEvent) -> None:
            await store.append_async(event.type, event.to_dict())

        bus.subscribe(EventType, keep)
        await asyncio.gather(*(bus.emit_node_loop_iteration("s", "n", each) for each in range(50)))
        with EventStore(tmp_path / "events.db") as reader:
            iterations = [stored.payload["data"]["iteration"] for stored in reader.read()]
        assert sorted(iterations) == list(range(50))


async def test_a_consumer_gets_what_it_has_not_acknowledged(tmp_path: Path) -> None:
    with EventStore(tmp_path / "events.db", sync="each") as store:
        for number in range(3):
            event = AgentEvent(EventType.CUSTOM, "s", data={"number": number})
            assert store.append(event.type, event.to_dict()) == number + 1
        store.ack("analytics", 1)
        bus = EventBus()
        for stored in store.pending("analytics"):
            await bus.publish(AgentEvent.from_dict(stored.payload))
            store.ack("analytics", stored.seq)
        assert [event.data["number"] for event in bus.get_history()] == [2, 1]
        assert list(store.pending("analytics")) == []


def test_records_as_json_and_records_in_a_store_are_the_same(tmp_path: Path) -> None:
    event = AgentEvent(EventType.CUSTOM, "s", data={"text": "naïve"})
    with EventStore(tmp_path / "events.db", sync="each") as store:
        store.append(event.type, event.to_dict())
        (stored,) = store.read()
    assert stored.payload == json.loads(json.dumps(event.to_dict()))
