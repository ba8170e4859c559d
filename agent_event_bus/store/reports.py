"""What the store logs, never more than once a second about the same, and never a payload."""

from __future__ import annotations

import logging
import time

__all__ = ["Reports"]

SECONDS = 1.0
# Names of events are part of what is logged; this bounds how many are remembered.
REMEMBERED = 1024


class Reports:
    """Logs to ``agent_event_bus.store``, each kind of message once a second at most."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("agent_event_bus.store")
        self._last: dict[object, float] = {}

    def due(self, kind: object) -> bool:
        """Whether a kind of message was not logged for a second; then it counts as logged now."""
        now = time.monotonic()
        last = self._last.get(kind)
        if last is not None and now - last < SECONDS:
            return False
        if len(self._last) >= REMEMBERED:
            self._last.clear()
        self._last[kind] = now
        return True

    def log(self, level: int, message: str, *args: object) -> None:
        """Log a message. A failure of logging reaches nobody."""
        try:
            self._logger.log(level, message, *args)
        except Exception:
            # As in the core: the agent must not fail because its log does.
            return
