"""Runs the command line: `python -m agent_event_bus demo`."""

from __future__ import annotations

from agent_event_bus.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
