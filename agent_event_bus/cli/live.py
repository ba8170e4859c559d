"""Shows the built-in agent while it runs: one line an event, from a handler of `"*"`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from agent_event_bus.cli.view import View

__all__ = ["LiveDisplay", "describe"]


def describe(event_name: str, payload: dict[str, Any]) -> str:
    """Return what an event of the agent says, in one line."""
    get = payload.get
    if event_name == "run.start":
        return f"{get('run_id')}, model {get('model')}"
    if event_name == "user.message":
        return str(get("content"))
    if event_name == "llm.request":
        return f"turn {get('turn')}, model {get('model')}"
    if event_name == "llm.response":
        calls = ", ".join(get("tool_calls") or ())
        parts = (get("content"), f"[calls {calls}]" if calls else None)
        return " ".join(part for part in parts if part)
    if event_name == "tool.start":
        args = ", ".join(f"{name}={json.dumps(value)}" for name, value in payload["args"].items())
        return f"{get('tool')}({args})"
    if event_name in ("tool.end", "tool.error"):
        lines = str(get("result")).strip().splitlines() or [""]
        more = f" (+{len(lines) - 1} lines)" if len(lines) > 1 else ""
        return f"{get('tool')}: {lines[0]}{more}"
    if event_name == "run.end":
        return f"{get('run_id')}, {get('messages')} messages"
    if event_name == "budget_exceeded":
        return f"{get('run_id')} at ${payload['spent']:.4f} of ${payload['budget']:.4f}"
    return json.dumps(payload, default=str)


class LiveDisplay:
    """A handler of `"*"` that shows every event at once.

    Args:
        view: where events are shown.
        figures: returns the text of the live status line.
        stop: is called when nobody can see the output any more, because it went into a pipe whose
            reader is gone.
    """

    def __init__(
        self, view: View, *, figures: Callable[[], str], stop: Callable[[], object]
    ) -> None:
        self.view = view
        self.figures = figures
        self.stop = stop
        self.started = time.perf_counter()

    def show(self, event_name: str, payload: Any) -> None:
        """Show one event."""
        elapsed = time.perf_counter() - self.started
        self.view.event(elapsed, event_name, describe(event_name, payload))
        self.view.status(self.figures())
        if self.view.out.failure is not None:
            self.stop()
