"""Route the telemetry of an agent, persist it, and replay it into a router with other handlers.

Run it with `python examples/telemetry_router.py [FILE]`. Without a file the events go to one in a
temporary directory.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from agent_event_bus.telemetry import (
    PersistenceHandler,
    ProductionTelemetryRouter,
    TelemetryRouter,
)


async def run_agent(path: Path) -> None:
    """Run an agent that reports to a router, with a tracker, a one-shot alert and an audit."""
    with PersistenceHandler(path) as persist:
        async with ProductionTelemetryRouter(max_handler_queue=100, alert_after=1.0) as router:
            router.register_wildcard(persist)

            @router.register("model.responded")
            def track_cost(payload: dict[str, Any]) -> None:
                print(f"{payload['tokens']} tokens")

            @router.register("tool.end", once=True)
            async def announce(payload: dict[str, Any]) -> None:
                await asyncio.sleep(0)
                print("the first tool was", payload["tool"])

            await router.emit_async("run.start", {"run_id": "r1"})
            for tool in ("search", "read"):
                await router.emit_async("model.responded", {"run_id": "r1", "tokens": 42})
                router.emit("tool.end", {"run_id": "r1", "tool": tool})
            router.emit("run.end", {"run_id": "r1"})
        print("routed", router.stats()["emitted"], "events")


async def analyse(path: Path) -> None:
    """Replay what was persisted into a router of its own."""
    seen: Counter[str] = Counter()
    router = TelemetryRouter()

    @router.subscribe_all("analysis")
    def count(event_name: str, payload: Any) -> None:
        seen[event_name] += 1

    with PersistenceHandler(path) as persist:
        replayed = await persist.replay(router, run_id="r1")
    print("replayed", replayed, "events")
    for name, number in seen.items():
        print(f"{name}: {number}")


async def main(path: Path) -> None:
    """Run the agent, then look at what it has done."""
    await run_agent(path)
    await analyse(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(main(Path(directory) / "events.db"))
