"""StoredEvent: one event as the log has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Optional

__all__ = ["FORMS", "Form", "StoredEvent"]

Form = Literal["value", "repr", "withheld"]

FORMS: tuple[Form, Form, Form] = ("value", "repr", "withheld")
"""The names of the forms, by the numbers that are written in the log; see `encoding.py`."""


@dataclass(frozen=True)
class StoredEvent:
    """One event of the log, see docs/store.md.

    Attributes:
        seq: Its number in the log, from 1, in commit order, never used again.
        name: The event name.
        payload: What was recorded, decoded.
        timestamp: When it happened: seconds since the epoch, as ``time.time()`` has it.
        run_id: The run that it belongs to, or None.
        form: ``"value"``; ``"repr"`` when something in the payload could not be serialised and is
            its ``repr``; ``"withheld"`` when ``redact`` failed, so that the payload was not
            written and is None.
    """

    seq: int
    name: str
    payload: Any
    timestamp: float
    # Optional[str]: who asks for the types evaluates this, and in Python 3.9 there is no such `|`.
    run_id: Optional[str]  # noqa: UP045
    form: Form = "value"
