"""What happens in an agent runtime: the types of events, and the event itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:
    from enum import Enum

    class StrEnum(str, Enum):
        """What ``enum.StrEnum`` is from Python 3.11 on: members that are their values, as text."""

        __str__ = str.__str__
        __format__ = str.__format__  # type: ignore[assignment, unused-ignore]


__all__ = ["AgentEvent", "EventType"]


class EventType(StrEnum):
    """What an event is about. Each member is the string that it is in records, too."""

    EXECUTION_STARTED = "execution_started"
    EXECUTION_COMPLETED = "execution_completed"
    EXECUTION_FAILED = "execution_failed"
    EXECUTION_PAUSED = "execution_paused"
    EXECUTION_RESUMED = "execution_resumed"

    STATE_CHANGED = "state_changed"
    STATE_CONFLICT = "state_conflict"

    GOAL_PROGRESS = "goal_progress"
    GOAL_ACHIEVED = "goal_achieved"
    CONSTRAINT_VIOLATION = "constraint_violation"

    STREAM_STARTED = "stream_started"
    STREAM_STOPPED = "stream_stopped"

    NODE_LOOP_STARTED = "node_loop_started"
    NODE_LOOP_ITERATION = "node_loop_iteration"
    NODE_LOOP_COMPLETED = "node_loop_completed"

    LLM_TEXT_DELTA = "llm_text_delta"
    LLM_REASONING_DELTA = "llm_reasoning_delta"

    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_COMPLETED = "tool_call_completed"

    CLIENT_OUTPUT_DELTA = "client_output_delta"
    CLIENT_INPUT_REQUESTED = "client_input_requested"

    NODE_INTERNAL_OUTPUT = "node_internal_output"
    NODE_INPUT_BLOCKED = "node_input_blocked"
    NODE_STALLED = "node_stalled"
    NODE_TOOL_DOOM_LOOP = "node_tool_doom_loop"

    JUDGE_VERDICT = "judge_verdict"
    OUTPUT_KEY_SET = "output_key_set"
    NODE_RETRY = "node_retry"
    EDGE_TRAVERSED = "edge_traversed"
    CONTEXT_COMPACTED = "context_compacted"
    WEBHOOK_RECEIVED = "webhook_received"
    ESCALATION_REQUESTED = "escalation_requested"
    CUSTOM = "custom"


# Optional[str] and not `str | None`: who asks for the types of the fields evaluates them, and in
# Python 3.9 there is no such operator.
@dataclass
class AgentEvent:
    """One thing that has happened in a stream of an agent runtime.

    Args:
        type: What it is about; a string that is the value of an ``EventType`` becomes that.
        stream_id: The stream in which it happened.
        node_id: The node of the graph, if one did it.
        execution_id: The execution that it is part of.
        data: What there is to say, by name.
        timestamp: When it happened; by default now, in local time and without a time zone.
        correlation_id: What ties events of several streams together.
        graph_id: The graph that the node is part of.

    Raises:
        ValueError: The type is none of ``EventType``.
    """

    type: EventType
    stream_id: str
    node_id: Optional[str] = None  # noqa: UP045
    execution_id: Optional[str] = None  # noqa: UP045
    data: dict[str, Any] = field(default_factory=dict)
    timestamp: datetime = field(default_factory=datetime.now)
    correlation_id: Optional[str] = None  # noqa: UP045
    graph_id: Optional[str] = None  # noqa: UP045

    def __post_init__(self) -> None:
        """Take the value of a type for the type."""
        if self.type.__class__ is not EventType:
            self.type = EventType(self.type)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields in a new ``dict``, fit for JSON if ``data`` is.

        The type is there as a plain string, the timestamp in ISO format; ``data`` is the very
        object that the event has.
        """
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        values["type"] = str(self.type)
        values["timestamp"] = self.timestamp.isoformat()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the event that ``to_dict`` was called on, or one equal to it.

        Args:
            values: By name of the field. Those that are missing have their defaults, other names
                are ignored. The timestamp may be a ``datetime``, too.

        Raises:
            ValueError: The type is unknown or missing, ``stream_id`` is missing, or the timestamp
                is in no ISO format that this version of Python reads.
            TypeError: The timestamp is neither a string nor a ``datetime``.
        """
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        for required in ("type", "stream_id"):
            if required not in known:
                raise ValueError(f"not an event: it has no {required!r}")
        if "timestamp" in known:
            known["timestamp"] = _moment(known["timestamp"])
        computed = {each.name for each in fields(cls) if not each.init} & known.keys()
        event = cls(**{name: value for name, value in known.items() if name not in computed})
        for name in computed:  # fields of a subclass that are no arguments
            setattr(event, name, known[name])
        return event


def _moment(value: object) -> datetime:
    """Return the time that a record has."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"timestamp must be a str in ISO format or a datetime, not {kind}")
    # Before Python 3.11 the Z of other programs is not understood.
    return datetime.fromisoformat(f"{value[:-1]}+00:00" if value[-1:] in ("Z", "z") else value)
