"""The recorded runs through all four systems, one behind the other, and equal at every stage.

A telemetry router persists the runs in a store; the store replays them into the bus of an agent
runtime and into a worker bus, whose answers are durable until they are acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import DEADLINE, run_python, soon
from recorded import recorded_events

from agent_event_bus.runtime import AgentEvent, EventType
from agent_event_bus.runtime import EventBus as RuntimeBus
from agent_event_bus.store import EventStore
from agent_event_bus.telemetry import (
    PersistenceHandler,
    ProductionTelemetryRouter,
    TelemetryRouter,
)
from agent_event_bus.worker import AgentWorker, Event, InboundEvent, OutboundEvent
from agent_event_bus.worker import EventBus as WorkerBus

Recorded = tuple[str, Any]

# How many answers are made durable one after another; with AEB_ALL_RUNS=1 all that are recorded:
# AEB_ALL_RUNS=1 python -m pytest tests/test_systems_together.py
ALL = os.environ.get("AEB_ALL_RUNS") == "1"
DURABLE = 500
LIMIT = 120.0 if ALL else DEADLINE

TYPES = {
    "run.start": EventType.EXECUTION_STARTED,
    "run.end": EventType.EXECUTION_COMPLETED,
    "llm.response": EventType.LLM_TEXT_DELTA,
    "tool.start": EventType.TOOL_CALL_STARTED,
    "tool.end": EventType.TOOL_CALL_COMPLETED,
}
"""What the runtime calls these events; the others are custom ones there."""


def as_text(events: list[Recorded]) -> list[str]:
    """Return events as text, in which 1 and 1.0 and another order of fields are different."""
    return [json.dumps(event) for event in events]


class ToRuntime:
    """Publishes on a runtime bus what is replayed."""

    def __init__(self, bus: RuntimeBus) -> None:
        self.bus = bus

    async def emit_async(self, name: str, payload: Any = None, /) -> int:
        return await self.bus.publish(
            AgentEvent(
                TYPES.get(name, EventType.CUSTOM),
                stream_id=payload["run_id"],
                execution_id=payload["run_id"],
                data={"name": name, "payload": payload},
            )
        )


class ToWorker:
    """Publishes on a worker bus what is replayed."""

    def __init__(self, bus: WorkerBus) -> None:
        self.bus = bus

    async def emit_async(self, name: str, payload: Any = None, /) -> None:
        await self.bus.publish(InboundEvent(payload["run_id"], [name, payload]))


@pytest.fixture
def events() -> list[Recorded]:
    return [*recorded_events()]


async def persisted(events: list[Recorded], path: Path) -> None:
    """Route events through a telemetry router that persists them at `path`."""
    seen: list[Recorded] = []
    with PersistenceHandler(path) as handler:
        async with ProductionTelemetryRouter() as router:
            router.register_wildcard(handler)

            @router.register_wildcard
            async def every(event_name: str, payload: Any) -> None:
                seen.append((event_name, payload))

            for number, (name, payload) in enumerate(events):
                router.emit(name, payload)
                if number % 500 == 499:  # as often as an agent waits for something
                    assert await soon(router.drain()) == []
        assert router.stats()["dropped"] == 0
    assert as_text(seen) == as_text(events)


async def test_from_the_telemetry_router_through_the_store_into_the_runtime_and_back(
    events: list[Recorded], tmp_path: Path
) -> None:
    await persisted(events, tmp_path / "telemetry.db")
    runtime = RuntimeBus(max_history=len(events))
    by_stream: defaultdict[str, list[Recorded]] = defaultdict(list)
    tools: list[Recorded] = []
    one_run = events[len(events) // 2][1]["run_id"]
    of_one_run: list[Recorded] = []

    def name_and_payload(event: AgentEvent) -> Recorded:
        return event.data["name"], event.data["payload"]

    async def by_type(event: AgentEvent) -> None:
        by_stream[event.stream_id].append(name_and_payload(event))

    async def tool(event: AgentEvent) -> None:
        tools.append(name_and_payload(event))

    async def filtered(event: AgentEvent) -> None:
        of_one_run.append(name_and_payload(event))

    runtime.subscribe(EventType, by_type)
    runtime.subscribe([EventType.TOOL_CALL_STARTED, EventType.TOOL_CALL_COMPLETED], tool)
    runtime.subscribe(EventType, filtered, filter_stream=one_run)

    with EventStore(tmp_path / "runtime.db") as again:

        async def keep(event: AgentEvent) -> None:
            again.append(f"runtime.{event.type}", event.to_dict(), run_id=event.stream_id)

        runtime.subscribe(EventType, keep)
        with EventStore(tmp_path / "telemetry.db") as store:
            assert store.verify() == []
            assert await soon(store.replay(ToRuntime(runtime))) == len(events)
        assert again.flush(DEADLINE)
        kept = [AgentEvent.from_dict(event.payload) for event in again.read()]

    runs: defaultdict[str, list[Recorded]] = defaultdict(list)
    for name, payload in events:
        runs[payload["run_id"]].append((name, payload))
    assert len(runs) == 150
    assert by_stream == runs
    assert of_one_run == runs[one_run]
    assert tools == [event for event in events if event[0] in ("tool.start", "tool.end")]
    history = list(reversed(runtime.get_history(limit=None)))
    assert as_text([name_and_payload(event) for event in history]) == as_text(events)
    assert kept == history
    counted = Counter(TYPES.get(name, EventType.CUSTOM) for name, _ in events)
    assert runtime.get_stats()["events_by_type"] == counted

    # And out of the second store into another router: the whole way, and nothing has changed.
    last: list[Recorded] = []
    router = TelemetryRouter()

    @router.subscribe("runtime.*")
    def collect(event_name: str, payload: Any) -> None:
        last.append((payload["data"]["name"], payload["data"]["payload"]))

    with PersistenceHandler(tmp_path / "runtime.db") as handler:
        router.subscribe_all(handler)
        assert await soon(handler.replay(router)) == len(events)
        assert handler.store.stats()["stored"] == len(events)
    assert as_text(last) == as_text(events)


class Program:
    """A worker bus with a worker that answers each event with what it has in it.

    Args:
        path: Where outbound events are kept; None keeps none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.context = SimpleNamespace(config=SimpleNamespace(event_path=path))
        self.bus = self.context.eventbus = WorkerBus(self.context)
        self.worker = AgentWorker(self.context, self.answer)
        self.answers: list[OutboundEvent] = []

    async def answer(self, event: InboundEvent) -> Any:
        return event.content

    async def __aenter__(self) -> Program:
        self.worker.start()
        self.bus.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await soon(self.bus.stop())
        await soon(self.worker.stop())
        assert not self.bus.has_crashed()
        assert not self.worker.has_crashed()

    async def recovered(self) -> None:
        """Wait until everything that was left in the store has been delivered."""
        delivered = asyncio.Event()

        def mark(event: Event) -> None:
            if event.content == "the end":
                delivered.set()

        self.bus.subscribe(Event, mark)
        await self.bus.publish(Event("mark", "the end"))
        await asyncio.wait_for(delivered.wait(), LIMIT)

    def contents(self) -> list[Recorded]:
        """Return the events that the answers have in them."""
        assert all(answer.error is None for answer in self.answers)
        return [(answer.content[0], answer.content[1]) for answer in self.answers]


async def test_from_the_telemetry_router_through_the_store_into_the_worker(
    events: list[Recorded], tmp_path: Path
) -> None:
    await persisted(events, tmp_path / "telemetry.db")
    with EventStore(tmp_path / "telemetry.db") as store:
        async with Program() as program:

            async def deliver(event: OutboundEvent) -> None:
                program.answers.append(event)

            program.bus.subscribe(OutboundEvent, deliver)
            assert await soon(store.replay(ToWorker(program.bus))) == len(events)
            await soon(program.bus.join())
    assert as_text(program.contents()) == as_text(events)
    runs = [answer.session_id for answer in program.answers]
    assert runs == [payload["run_id"] for _, payload in events]


async def test_answers_of_the_worker_are_delivered_once_more_until_they_are_acknowledged(
    events: list[Recorded], tmp_path: Path
) -> None:
    events = events if ALL else events[:DURABLE]
    half = len(events) // 2
    path = tmp_path / "worker.db"
    await persisted(events, tmp_path / "telemetry.db")

    first = Program(path)

    async def deliver_first(event: OutboundEvent) -> None:
        first.answers.append(event)
        if len(first.answers) <= half:
            assert await first.bus.ack_async(event)

    first.bus.subscribe(OutboundEvent, deliver_first)
    with EventStore(tmp_path / "telemetry.db") as store:
        async with first:
            replayed = await store.replay(ToWorker(first.bus), consumer="worker", auto_ack=True)
            assert replayed == len(events)
            await asyncio.wait_for(first.bus.join(), LIMIT)
            # What the worker has been given it is not given again.
            assert await store.replay(ToWorker(first.bus), consumer="worker") == 0
    assert as_text(first.contents()) == as_text(events)

    second = Program(path)

    async def deliver_second(event: OutboundEvent) -> None:
        second.answers.append(event)
        assert await second.bus.ack_async(event)

    second.bus.subscribe(OutboundEvent, deliver_second)
    async with second:
        await second.recovered()
    assert as_text(second.contents()) == as_text(events[half:])

    third = Program(path)
    third.bus.subscribe(OutboundEvent, lambda event: third.answers.append(event))
    async with third:
        await third.recovered()
    assert third.answers == []

    # The store of the worker has all of it, which a telemetry router can look at, too.
    seen: list[Recorded] = []
    router = TelemetryRouter()

    @router.subscribe("*.outbound")
    def outbound(event_name: str, payload: Any) -> None:
        seen.append((payload["content"][0], payload["content"][1]))

    with PersistenceHandler(path) as handler:
        assert handler.store.verify() == []
        await soon(handler.replay(router))
    assert as_text(seen) == as_text(events)


def test_the_example_of_all_four_answers_shows_and_replays() -> None:
    example = Path(__file__).parents[1] / "examples" / "support_agent.py"
    told = run_python(str(example)).splitlines()
    # In which order the two customers are served is not what this is about.
    assert sorted(told[:4]) == [
        "[ada] Your parcel is in Porto.",
        "[ada] looks up ada",
        "[bo] Your parcel is at your door.",
        "[bo] looks up bo",
    ]
    assert told[4:] == [
        "replayed 6",
        "runtime.execution_completed: 2",
        "runtime.execution_started: 2",
        "runtime.tool_call_started: 2",
        "of one run 3",
    ]
