"""Record a run as JSON lines, then replay it into a fresh bus with other handlers.

Run it with `python examples/record_and_replay.py`. What is recorded here is the format that
`agent-event-bus demo --trace FILE.jsonl` reads.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from agent_event_bus import EventBus


def record() -> list[str]:
    """Emit a short run on a bus and return what a handler of `"*"` wrote down."""
    lines: list[str] = []
    bus = EventBus("live")

    @bus.on("*")
    def write(event_name: str, payload: Any) -> None:
        lines.append(json.dumps({"event": event_name, "payload": payload}))

    bus.emit("run.start", {"run_id": "r1", "model": "gpt-4o"})
    for tool in ("search", "read", "search"):
        bus.emit("tool.start", {"run_id": "r1", "tool": tool})
        bus.emit("tool.end", {"run_id": "r1", "tool": tool, "result": "ok"})
    bus.emit("run.end", {"run_id": "r1"})
    return lines


def replay(lines: list[str]) -> Counter[str]:
    """Emit recorded lines on a new bus and return how often each tool was called."""
    calls: Counter[str] = Counter()
    bus = EventBus("replay")

    @bus.on("tool.start")
    def count(payload: dict[str, Any]) -> None:
        calls[payload["tool"]] += 1

    for line in lines:
        recorded = json.loads(line)
        bus.emit(recorded["event"], recorded["payload"])
    return calls


if __name__ == "__main__":
    recorded_lines = record()
    print(f"recorded {len(recorded_lines)} events")
    for tool, count in replay(recorded_lines).most_common():
        print(f"{tool}: {count}")
