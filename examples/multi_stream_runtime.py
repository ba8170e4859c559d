"""Two streams of an agent runtime on one bus; a client and a supervisor look on.

Run it with `python examples/multi_stream_runtime.py`. The triage stream finds that a message is too
hard and asks for help; the handler that helps publishes in turn, and takes nobody's place by that.
The report of a handler that fails appears on standard error, through `logging`.
"""

from __future__ import annotations

import asyncio

from agent_event_bus.runtime import AgentEvent, EventBus, EventType

bus = EventBus(max_history=100, max_concurrent_handlers=2)


async def show(event: AgentEvent) -> None:
    """Be the client of the inbox: it sees that stream and no other."""
    await asyncio.sleep(0)  # stands for sending it over a socket
    print(f"client: {event.data['content']}")


async def supervise(event: AgentEvent) -> None:
    """Answer an escalation, which is an event of its own."""
    print(f"supervisor: {event.stream_id} says {event.data['reason']!r}")
    await bus.emit_execution_resumed(event.stream_id, "triage", event.execution_id)


async def watch_tools(event: AgentEvent) -> None:
    """Fail on every tool, which the streams do not notice."""
    raise ConnectionError("the tracer is not there")


async def inbox() -> None:
    """Answer a message."""
    await bus.emit_execution_started("inbox", "e1", {"message": "Where is my lamp?"})
    await bus.emit_tool_call_started("inbox", "answer", "c1", "find_order", {"id": 7}, "e1")
    text = ""
    for content in ("It is ", "on its way."):
        text += content
        await bus.emit_client_output_delta("inbox", "answer", content, text, "e1")
    await bus.emit_execution_completed("inbox", "e1", {"answer": text})


async def triage() -> None:
    """Sort messages, until one is too hard; then wait for somebody to help."""
    await bus.emit_execution_started("triage", "e2")
    await bus.emit_client_output_delta("triage", "triage", "nobody sees this", "", "e2")
    resumed = bus.wait_for(EventType.EXECUTION_RESUMED, execution_id="e2", timeout=5)
    await bus.emit_escalation_requested("triage", "triage", "angry customer", execution_id="e2")
    event = await resumed  # it has come already, and is not missed
    print("triage:", "goes on" if event else "gives up")
    await bus.emit_execution_completed("triage", "e2")


async def main() -> None:
    """Run one stream after the other, so that what is printed is always the same."""
    bus.subscribe(EventType.CLIENT_OUTPUT_DELTA, show, filter_stream="inbox")
    bus.subscribe([EventType.ESCALATION_REQUESTED, EventType.NODE_STALLED], supervise)
    bus.subscribe(EventType.TOOL_CALL_STARTED, watch_tools)
    await triage()
    await inbox()


if __name__ == "__main__":
    asyncio.run(main())
    stats = bus.get_stats()
    print(f"{stats['total_events']} events, {stats['events_by_type']['execution_completed']} done")
    print("the last of the inbox:", bus.get_history(stream_id="inbox", limit=1)[0].data["output"])
