"""A support agent on all four systems, which share one file.

Run it with `python examples/support_agent.py`. Questions go through a worker bus, whose answers are
kept until they are sent; what the agent is doing goes over a runtime bus, to whoever shows it; a
telemetry router persists what happened; and in the end that is replayed, to count what was used.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent_event_bus.runtime import AgentEvent, EventType
from agent_event_bus.runtime import EventBus as RuntimeBus
from agent_event_bus.store import EventStore
from agent_event_bus.telemetry import (
    PersistenceHandler,
    ProductionTelemetryRouter,
    TelemetryRouter,
)
from agent_event_bus.worker import AgentWorker, InboundEvent, OutboundEvent
from agent_event_bus.worker import EventBus as WorkerBus

ORDERS = {"ada": "in Porto", "bo": "at your door"}


async def work(store: EventStore) -> None:
    """Answer two questions, show what is going on, and report it."""
    async with ProductionTelemetryRouter(alert_after=1.0) as telemetry:
        telemetry.register_wildcard(PersistenceHandler(store))
        runtime = RuntimeBus()
        context = SimpleNamespace()
        bus = context.eventbus = WorkerBus(context, store=store)

        def report(event: AgentEvent) -> None:
            # The run of an event in the store is the "run_id" of its payload.
            payload = {"run_id": event.execution_id, **event.to_dict()}
            telemetry.emit(f"runtime.{event.type}", payload)

        async def show(event: AgentEvent) -> None:
            print(f"[{event.stream_id}] looks up {event.data['tool_input']['customer']}")

        runtime.subscribe(EventType, report)
        runtime.subscribe(EventType.TOOL_CALL_STARTED, show)

        async def respond(event: InboundEvent) -> str:
            customer = event.session_id
            run = f"{customer}-1"
            await runtime.emit_execution_started(customer, run, {"question": event.content})
            await runtime.emit_tool_call_started(
                customer, "lookup", "call-1", "orders", {"customer": customer}, run
            )
            answer = f"Your parcel is {ORDERS[customer]}."
            await runtime.emit_execution_completed(customer, run, {"answer": answer})
            return answer

        async def send(event: OutboundEvent) -> None:
            print(f"[{event.session_id}] {event.content}")
            await bus.ack_async(event)  # until then it would be sent again after a crash

        agent = AgentWorker(context, respond)
        bus.subscribe(OutboundEvent, send)
        agent.start()
        bus.start()
        for customer in ORDERS:
            await bus.publish(InboundEvent(customer, "Where is my parcel?"))
        await bus.join()
        await agent.stop()
        await bus.stop()


async def analyse(store: EventStore) -> None:
    """Replay what was reported: all of it, and then one run."""
    counts: Counter[str] = Counter()
    router = TelemetryRouter()

    @router.subscribe_all("counts")
    def count(event_name: str, payload: Any) -> None:
        counts[event_name] += 1

    # The pattern leaves out the answers, which the worker bus has in the same store.
    print("replayed", await store.replay(router, key="runtime.*"))
    for name, number in sorted(counts.items()):
        print(f"{name}: {number}")
    print("of one run", await store.replay(router, key="runtime.*", run_id="bo-1"))


async def main(path: Path) -> None:
    """Let the agent work, then look at what it has done."""
    with EventStore(path) as store:
        await work(store)
        store.flush()  # what telemetry has queued is on the disk from here on
        await analyse(store)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(Path(directory) / "events.db"))
