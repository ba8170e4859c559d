"""agent_event_bus.runtime: recorded runs of an agent pass through the bus, and are replayed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Callable

from recorded import recorded_events

from agent_event_bus.runtime import AgentEvent, EventBus, EventType

NODE = "assistant"


def telling(bus: EventBus) -> Callable[[str, dict[str, Any]], Coroutine[Any, Any, int]]:
    """Return what publishes a recorded event on a bus, a stream for each task."""

    def tell(name: str, payload: dict[str, Any]) -> Coroutine[Any, Any, int]:
        run: str = payload["run_id"]
        stream = run.rpartition("-")[0]
        rest = {key: value for key, value in payload.items() if key != "run_id"}
        if name == "run.start":
            return bus.emit_execution_started(stream, run, rest, correlation_id=run)
        if name == "run.end":
            return bus.emit_execution_completed(stream, run, rest, correlation_id=run)
        if name == "llm.request":
            return bus.emit_node_loop_iteration(stream, NODE, payload["turn"], run)
        if name == "llm.response":
            text = payload["content"] or ""
            return bus.emit_llm_text_delta(stream, NODE, text, text, execution_id=run)
        if name == "tool.start":
            call, tool, args = payload["call_id"], payload["tool"], payload["args"]
            return bus.emit_tool_call_started(stream, NODE, call, tool, args, run)
        if name in ("tool.end", "tool.error"):
            failed = name == "tool.error"
            call, tool, result = payload["call_id"], payload["tool"], payload["result"]
            return bus.emit_tool_call_completed(stream, NODE, call, tool, result, failed, run)
        return bus.publish(AgentEvent(EventType.CUSTOM, stream, NODE, run, {name: rest}))

    return tell


COUNTS = {
    "node_loop_iteration": "llm.request",
    "llm_text_delta": "llm.response",
    "custom": "user.message",
    "tool_call_started": "tool.start",
    "execution_started": "run.start",
    "execution_completed": "run.end",
}


async def test_they_pass_through_the_bus_are_recorded_and_replayed_and_come_out_equal() -> None:
    recorded = recorded_events()
    live = EventBus(max_history=len(recorded))
    lines: list[str] = []
    published: list[AgentEvent] = []
    live.subscribe(EventType, lambda event: lines.append(json.dumps(event.to_dict())))
    live.subscribe(EventType, published.append)
    tell = telling(live)
    for name, payload in recorded:
        assert await tell(name, payload) == 2

    names = Counter(name for name, _ in recorded)
    by_type = live.get_stats()["events_by_type"]
    for kind, name in COUNTS.items():
        assert by_type[kind] == names[name]
    assert by_type["tool_call_completed"] == names["tool.end"] + names["tool.error"]
    assert live.get_stats()["total_events"] == len(recorded)

    replayed = EventBus(max_history=len(recorded))
    for line in lines:
        await replayed.publish(AgentEvent.from_dict(json.loads(line)))
    assert replayed.get_history(limit=None) == live.get_history(limit=None)
    assert replayed.get_history(limit=None) == published[::-1]
    assert replayed.get_stats()["events_by_type"] == by_type


async def test_each_subscriber_gets_its_own_runs_while_all_run_at_once() -> None:
    recorded = recorded_events()
    bus = EventBus()
    tell = telling(bus)
    runs: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, payload in recorded:
        runs.setdefault(payload["run_id"], []).append((name, payload))
    got: dict[str, list[AgentEvent]] = {run: [] for run in runs}

    def collector(run: str) -> Callable[[AgentEvent], Coroutine[Any, Any, None]]:
        async def collect(event: AgentEvent) -> None:
            await asyncio.sleep(0)
            got[run].append(event)

        return collect

    async def play(events: list[tuple[str, dict[str, Any]]]) -> None:
        for name, payload in events:
            assert await tell(name, payload) == 1

    for run in runs:
        bus.subscribe(EventType, collector(run), filter_execution=run)
    await asyncio.gather(*(play(events) for events in runs.values()))
    assert {run: len(events) for run, events in runs.items()} == {
        run: len(events) for run, events in got.items()
    }
    assert all(event.execution_id == run for run, events in got.items() for event in events)
    for run, events in runs.items():
        calls = [payload["call_id"] for name, payload in events if name == "tool.start"]
        assert calls == [
            event.data["tool_use_id"]
            for event in got[run]
            if event.type is EventType.TOOL_CALL_STARTED
        ]
