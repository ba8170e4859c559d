"""Shows what the bus reports about failing handlers, without flooding the terminal.

The bus reports through the logger `agent_event_bus`; this is the handler that the demo puts on it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from agent_event_bus.cli.view import View

__all__ = ["CrashReports", "crash_reports"]

LOGGER = "agent_event_bus"


class CrashReports(logging.Handler):
    """Shows the first reports on the view and counts the others.

    Args:
        view: where reports are shown.
        limit: how many are shown in full.
    """

    def __init__(self, view: View, limit: int) -> None:
        super().__init__(logging.WARNING)
        self.view = view
        self.limit = limit
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take one report."""
        self.count += 1
        if self.count <= self.limit:
            self.view.crash(record.getMessage(), _origin(record))
        elif self.not_shown == 1:
            self.view.crash("further reports are counted, not shown", "")

    @property
    def not_shown(self) -> int:
        """How many reports were counted only."""
        return max(0, self.count - self.limit)


def _origin(record: logging.LogRecord) -> str:
    """Return the type of the exception, and the file and line that raised it."""
    if not record.exc_info or record.exc_info[0] is None:
        return record.levelname
    kind, _, traceback = record.exc_info
    if traceback is None:
        return kind.__name__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    file = os.path.basename(traceback.tb_frame.f_code.co_filename)
    return f"{kind.__name__} at {file}:{traceback.tb_lineno}"


@contextmanager
def crash_reports(view: View, limit: int) -> Iterator[CrashReports]:
    """Put a `CrashReports` on the bus's logger for the duration of a `with` block."""
    handler = CrashReports(view, limit)
    logger = logging.getLogger(LOGGER)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
