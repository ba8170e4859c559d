"""The exceptions that the bus itself raises, each importable from ``agent_event_bus``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["EventSchemaError", "UnknownEventError"]

_LONGEST_COMPARED = 200
"""Characters of a name beyond which no similar one is looked for: it takes quadratic time."""


class EventSchemaError(ValueError):
    """A payload does not fit the schema that ``define_event`` has set for its event.

    Raised to the code that emits; nothing was delivered. ``__cause__`` is the error of the library
    or of the callable that has checked the payload.

    Attributes:
        event: The name of the event.
        field: Where in the payload the first fault is, as a dotted path (``"args.0.query"``), or
            None when it concerns the payload as a whole.
        fault: What is wrong there.
    """

    def __init__(self, event: str, field: str | None, fault: str) -> None:
        super().__init__(event, field, fault)  # all three, so that it can be pickled
        self.event = event
        self.field = field
        self.fault = fault

    def __str__(self) -> str:
        """Return event, field and fault as one line."""
        where = "" if self.field is None else f" field {self.field!r}:"
        return f"event {self.event!r}:{where} {self.fault}"


class UnknownEventError(ValueError):
    """A ``strict`` bus was given an event name that ``define_event`` has not declared.

    Attributes:
        event: The name.
        nearest: The declared name that is most like it, or None when none is much like it.
    """

    def __init__(self, event: str, nearest: str | None = None) -> None:
        super().__init__(event, nearest)
        self.event = event
        self.nearest = nearest

    def __str__(self) -> str:
        """Return the name and the nearest one as one line."""
        if self.nearest is None:
            return f"unknown event {self.event!r}: declare it with define_event()"
        return f"unknown event {self.event!r}: did you mean {self.nearest!r}?"


def unknown_event(name: str, declared: Sequence[str]) -> UnknownEventError:
    """Return the error for a name that is not among the declared ones."""
    if len(name) > _LONGEST_COMPARED:
        return UnknownEventError(name)
    import difflib

    nearest = difflib.get_close_matches(name, declared, n=1)
    return UnknownEventError(name, nearest[0] if nearest else None)
