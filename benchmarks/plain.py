"""The bus that a careful user writes in plain Python, measured beside the others."""

from __future__ import annotations

import logging
from typing import Any, Callable

Handler = Callable[..., Any]

log = logging.getLogger(__name__)


class PlainBus:
    """A dict of lists, a snapshot, a try around each call."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[Handler]] = {}

    def on(self, name: str, handler: Handler) -> None:
        """Register `handler` for the events called `name`."""
        self._handlers.setdefault(name, []).append(handler)

    def off(self, name: str, handler: Handler) -> None:
        """Remove `handler`; ValueError or KeyError when it is not there."""
        handlers = self._handlers[name]
        handlers.remove(handler)
        if not handlers:
            del self._handlers[name]

    def emit(self, name: str, payload: object = None) -> int:
        """Call every handler of `name` with `payload` and return how many were called."""
        handlers = tuple(self._handlers.get(name, ()))
        for handler in handlers:
            try:
                handler(payload)
            except Exception:
                log.exception("Handler raised on event %r", name)
        return len(handlers)
