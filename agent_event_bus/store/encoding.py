"""Payloads as JSON text, and back."""

from __future__ import annotations

import json

from agent_event_bus.store.events import REPR, VALUE

__all__ = ["decode", "encode"]


def encode(value: object) -> tuple[str, int]:
    """Return a payload as JSON text, and its form."""
    try:
        return json.dumps(value), VALUE
    except Exception:
        try:
            return json.dumps(repr(value)), REPR
        except Exception:
            return json.dumps(f"<{type(value).__name__}>"), REPR


def decode(text: str) -> object:
    """Return the payload that a JSON text stands for."""
    return json.loads(text)
