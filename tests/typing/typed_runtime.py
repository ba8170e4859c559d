"""The runtime bus: what its methods give, and what they refuse."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Optional

from typed_payloads import use
from typing_extensions import assert_type

from agent_event_bus.runtime import AgentEvent, EventBus, EventHandler, EventType, Subscription


async def asynchronous(event: AgentEvent) -> None: ...


def synchronous(event: AgentEvent) -> None: ...


async def wrong(event: int) -> None: ...


class Stamping(EventBus):
    async def publish(self, event: AgentEvent) -> int:
        event.graph_id = "g"
        return await super().publish(event)


def subscribing(bus: EventBus) -> None:
    handler: EventHandler = asynchronous
    assert_type(bus.subscribe([EventType.CUSTOM], handler), str)
    bus.subscribe(EventType, synchronous, filter_stream="s", filter_graph=None)
    bus.subscribe({"custom", EventType.NODE_RETRY}, asynchronous, "s", "n", "e", "g")
    bus.subscribe("custom", asynchronous)
    assert_type(bus.unsubscribe("sub_1"), bool)
    assert_type(bus.get_subscriptions(), list[Subscription])
    assert_type(bus.get_subscriptions()[0].event_types, set[EventType])

    bus.subscribe("custom", wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe([5], synchronous)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def publishing(bus: EventBus) -> None:
    event = AgentEvent(EventType.CUSTOM, "s")
    assert_type(event.timestamp, datetime)
    assert_type(event.node_id, Optional[str])
    assert_type(AgentEvent.from_dict(event.to_dict()), AgentEvent)
    assert_type(await bus.publish(event), int)
    assert_type(await Stamping().emit_node_stalled("s", "n"), int)
    assert_type(await bus.emit_tool_call_started("s", "n", "c", "search", {"q": 1}), int)
    await bus.emit_goal_progress("s", 0.5, {})

    await bus.publish("custom")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bus.emit_node_stalled("s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bus.emit_node_retry("s", "n", "1", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def looking_back(bus: EventBus) -> None:
    assert_type(bus.get_history("custom", "s", limit=None), list[AgentEvent])
    assert_type(bus.get_stats(), dict[str, Any])
    use(assert_type(bus.wait_for("custom"), Coroutine[Any, Any, Optional[AgentEvent]]))
    assert_type(await bus.wait_for(EventType.CUSTOM, timeout=0), Optional[AgentEvent])
