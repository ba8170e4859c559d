"""Watch an agent loop from outside: sync, async, one-shot and crashing handlers on one bus.

Run it with `python examples/watch_an_agent.py`. The agent's answer does not depend on any handler;
the report of the one that crashes appears on standard error, through `logging`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agent_event_bus import EventBus

bus = EventBus("agent")
spans: list[str] = []
spent = 0.0


@bus.on("llm.response")
def crash(payload: dict[str, Any]) -> None:
    """Fail on every response: there is no such field."""
    payload["usage"]["total_tokens"]


@bus.on("llm.response")
def track_cost(payload: dict[str, Any]) -> None:
    """Add up the cost; a handler may itself emit."""
    global spent
    spent += payload["usd"]
    if spent > 0.02:
        bus.emit("budget_exceeded", {"spent": spent})


@bus.once("budget_exceeded")
def alert(payload: dict[str, Any]) -> None:
    """Tell once, however often the budget is exceeded."""
    print(f"alert: ${payload['spent']:.3f} spent")


@bus.on("tool.end")
async def trace(payload: dict[str, Any]) -> None:
    """Stand for a tracer that sends its spans over a network."""
    await asyncio.sleep(0)
    spans.append(payload["tool"])


@bus.on("*")
def audit(event_name: str, payload: dict[str, Any]) -> None:
    """See every event with its name."""
    print(f"audit: {event_name}")


async def agent() -> int:
    """Do three turns of work; the loop knows the bus and nothing else."""
    total = 0
    for number in (1, 2, 3):
        await bus.emit_async("llm.response", {"usd": 0.01, "text": f"call square({number})"})
        total += number**2
        await bus.emit_async("tool.end", {"tool": f"square({number})"})
    return total


if __name__ == "__main__":
    print("answer:", asyncio.run(agent()))
    print("traced:", ", ".join(spans))
