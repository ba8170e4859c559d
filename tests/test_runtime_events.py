"""agent_event_bus.runtime: EventType and AgentEvent, alike on every version of Python."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import sys
import time
import typing
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest

from agent_event_bus.runtime import AgentEvent, EventType

NAMES = """
EXECUTION_STARTED EXECUTION_COMPLETED EXECUTION_FAILED EXECUTION_PAUSED EXECUTION_RESUMED
STATE_CHANGED STATE_CONFLICT GOAL_PROGRESS GOAL_ACHIEVED CONSTRAINT_VIOLATION STREAM_STARTED
STREAM_STOPPED NODE_LOOP_STARTED NODE_LOOP_ITERATION NODE_LOOP_COMPLETED LLM_TEXT_DELTA
LLM_REASONING_DELTA TOOL_CALL_STARTED TOOL_CALL_COMPLETED CLIENT_OUTPUT_DELTA
CLIENT_INPUT_REQUESTED NODE_INTERNAL_OUTPUT NODE_INPUT_BLOCKED NODE_STALLED NODE_TOOL_DOOM_LOOP
JUDGE_VERDICT OUTPUT_KEY_SET NODE_RETRY EDGE_TRAVERSED CONTEXT_COMPACTED WEBHOOK_RECEIVED
ESCALATION_REQUESTED CUSTOM
"""
BERLIN = timezone(timedelta(hours=2))


def full() -> AgentEvent:
    """Return an event that has a value for each of its fields."""
    return AgentEvent(
        EventType.NODE_RETRY,
        "inbox",
        node_id="planner",
        execution_id="e1",
        data={"retry_count": 1, "error": "no network"},
        timestamp=datetime(2024, 5, 17, 9, 30, 1, 250_000),
        correlation_id="c1",
        graph_id="g1",
    )


class TestEventType:
    def test_it_has_the_members_of_the_field_with_their_lower_case_names_as_values(self) -> None:
        assert [member.name for member in EventType] == NAMES.split()
        assert [member.value for member in EventType] == [name.lower() for name in NAMES.split()]

    @pytest.mark.parametrize("member", EventType)
    def test_a_member_is_its_value(self, member: EventType) -> None:
        assert member == member.value
        assert hash(member) == hash(member.value)
        assert isinstance(member, str)
        assert {member: 1}[member.value] == 1  # type: ignore[index]

    @pytest.mark.parametrize("member", EventType)
    def test_a_member_is_shown_as_its_value(self, member: EventType) -> None:
        assert str(member) == member.value
        assert f"{member}" == format(member) == member.value
        assert f"{member:>30}" == member.value.rjust(30)
        assert "%s" % member == member.value  # noqa: UP031
        assert "".join([member]) == member.value

    def test_its_repr_names_the_member(self) -> None:
        assert repr(EventType.CUSTOM) == "<EventType.CUSTOM: 'custom'>"

    @pytest.mark.parametrize("member", EventType)
    def test_a_member_survives_json_pickle_and_copy(self, member: EventType) -> None:
        assert json.dumps({member: member}) == json.dumps({member.value: member.value})
        assert EventType(json.loads(json.dumps(member))) is member
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(member, protocol)) is member
        assert copy.deepcopy(member) is copy.copy(member) is member

    def test_what_is_no_value_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"'tool\.start' is not a valid EventType"):
            EventType("tool.start")


class TestAgentEvent:
    def test_its_fields_are_in_the_order_of_the_field(self) -> None:
        assert [field.name for field in dataclasses.fields(AgentEvent)] == [
            "type",
            "stream_id",
            "node_id",
            "execution_id",
            "data",
            "timestamp",
            "correlation_id",
            "graph_id",
        ]

    def test_type_and_stream_are_enough(self) -> None:
        before = datetime.now()
        event = AgentEvent(EventType.CUSTOM, "inbox")
        assert before <= event.timestamp <= datetime.now()
        assert event.timestamp.tzinfo is None
        rest = (event.node_id, event.execution_id, event.correlation_id, event.graph_id)
        assert (event.type, event.stream_id, event.data, rest) == (
            EventType.CUSTOM,
            "inbox",
            {},
            (None,) * 4,
        )

    def test_every_event_has_its_own_data_and_time(self) -> None:
        one = AgentEvent(EventType.CUSTOM, "inbox")
        while datetime.now() == one.timestamp:
            time.sleep(0)
        other = AgentEvent(EventType.CUSTOM, "inbox")
        one.data["x"] = 1
        assert other.data == {}
        assert other.timestamp > one.timestamp

    def test_the_value_of_a_type_becomes_the_type(self) -> None:
        event = AgentEvent("tool_call_started", "inbox")  # type: ignore[arg-type]
        assert event.type is EventType.TOOL_CALL_STARTED

    @pytest.mark.parametrize("kind", ["nonsense", "", "CUSTOM", None, 5])
    def test_a_type_that_does_not_exist_is_refused(self, kind: Any) -> None:
        with pytest.raises(ValueError, match="is not a valid EventType"):
            AgentEvent(kind, "inbox")

    def test_it_can_be_changed_and_is_compared_by_its_fields(self) -> None:
        event, other = full(), full()
        assert event == other
        event.graph_id = "g2"
        assert event != other
        with pytest.raises(TypeError, match="unhashable"):
            hash(event)

    def test_the_types_of_its_fields_can_be_asked_for(self) -> None:
        hints = typing.get_type_hints(AgentEvent)
        assert hints["type"] is EventType
        assert hints["timestamp"] is datetime
        assert hints["graph_id"] == typing.Optional[str]


class TestToDict:
    def test_it_has_every_field_with_type_and_time_as_text(self) -> None:
        assert full().to_dict() == {
            "type": "node_retry",
            "stream_id": "inbox",
            "node_id": "planner",
            "execution_id": "e1",
            "data": {"retry_count": 1, "error": "no network"},
            "timestamp": "2024-05-17T09:30:01.250000",
            "correlation_id": "c1",
            "graph_id": "g1",
        }

    def test_the_type_is_a_plain_string(self) -> None:
        assert type(full().to_dict()["type"]) is str

    def test_a_type_that_was_changed_to_its_value_is_that(self) -> None:
        event = full()
        event.type = "custom"  # type: ignore[assignment]
        assert event.to_dict()["type"] == "custom"

    def test_it_is_a_new_dict_with_the_very_data(self) -> None:
        event = full()
        assert event.to_dict() is not event.to_dict()
        assert event.to_dict()["data"] is event.data

    def test_the_time_keeps_its_zone(self) -> None:
        event = full()
        event.timestamp = event.timestamp.replace(tzinfo=BERLIN)
        assert event.to_dict()["timestamp"] == "2024-05-17T09:30:01.250000+02:00"


class TestFromDict:
    @pytest.mark.parametrize("zone", [None, timezone.utc, BERLIN], ids=str)
    @pytest.mark.parametrize("microsecond", [0, 250_000, 1])
    def test_it_gives_an_equal_event(self, zone: timezone | None, microsecond: int) -> None:
        event = full()
        event.timestamp = event.timestamp.replace(tzinfo=zone, microsecond=microsecond)
        assert AgentEvent.from_dict(event.to_dict()) == event
        assert AgentEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event

    @pytest.mark.parametrize("member", EventType)
    def test_it_knows_every_type(self, member: EventType) -> None:
        event = AgentEvent(member, "inbox")
        assert AgentEvent.from_dict(event.to_dict()) == event

    def test_it_keeps_the_very_data(self) -> None:
        values = full().to_dict()
        assert AgentEvent.from_dict(values).data is values["data"]

    def test_it_takes_any_mapping_and_leaves_it_as_it_is(self) -> None:
        values = full().to_dict()
        assert AgentEvent.from_dict(MappingProxyType(values)) == full()
        assert values == full().to_dict()

    def test_what_is_missing_has_its_default(self) -> None:
        event = AgentEvent.from_dict({"type": "custom", "stream_id": "inbox"})
        assert event == AgentEvent(EventType.CUSTOM, "inbox", timestamp=event.timestamp)

    def test_names_that_it_does_not_know_are_ignored(self) -> None:
        assert AgentEvent.from_dict({**full().to_dict(), "colour": "red"}) == full()

    @pytest.mark.parametrize("name", ["type", "stream_id"])
    def test_without_type_or_stream_it_is_refused(self, name: str) -> None:
        values = full().to_dict()
        del values[name]
        with pytest.raises(ValueError, match=f"not an event: it has no '{name}'"):
            AgentEvent.from_dict(values)

    @pytest.mark.parametrize("kind", ["nonsense", None])
    def test_an_unknown_type_is_refused(self, kind: object) -> None:
        with pytest.raises(ValueError, match="is not a valid EventType"):
            AgentEvent.from_dict({**full().to_dict(), "type": kind})

    @pytest.mark.parametrize("text", ["yesterday", "", "2024-13-01T00:00:00"])
    def test_what_is_no_time_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"[Ii]soformat|month"):
            AgentEvent.from_dict({**full().to_dict(), "timestamp": text})

    @pytest.mark.parametrize("value", [None, 1715938201.25])
    def test_a_time_that_is_no_text_is_refused(self, value: object) -> None:
        with pytest.raises(TypeError, match="timestamp must be a str in ISO format"):
            AgentEvent.from_dict({**full().to_dict(), "timestamp": value})

    def test_a_time_may_be_one_already(self) -> None:
        event = full()
        assert AgentEvent.from_dict({**event.to_dict(), "timestamp": event.timestamp}) == event

    @pytest.mark.parametrize("zone", ["Z", "z"])
    def test_a_time_may_end_in_z(self, zone: str) -> None:
        text = f"2024-05-17T09:30:01.250{zone}"
        event = AgentEvent.from_dict({**full().to_dict(), "timestamp": text})
        assert event.timestamp == datetime(2024, 5, 17, 9, 30, 1, 250_000, timezone.utc)

    def test_a_subclass_keeps_its_own_fields(self) -> None:
        @dataclass
        class Priced(AgentEvent):
            usd: float = 0.0

        event = Priced(EventType.CUSTOM, "inbox", usd=0.5)
        again = Priced.from_dict(json.loads(json.dumps(event.to_dict())))
        assert type(again) is Priced
        assert again == event

    def test_a_subclass_keeps_a_field_that_is_no_argument(self) -> None:
        @dataclass
        class Counted(AgentEvent):
            length: int = field(init=False)
            seen: int = field(init=False, default=0)

            def __post_init__(self) -> None:
                super().__post_init__()
                self.length = len(self.data)

        event = Counted(EventType.CUSTOM, "inbox", data={"a": 1})
        event.seen = 3
        again = Counted.from_dict(json.loads(json.dumps(event.to_dict())))
        assert again == event
        assert (again.length, again.seen) == (1, 3)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="enum.StrEnum is new in Python 3.11")
def test_the_types_are_a_str_enum_where_there_is_one() -> None:
    import enum

    assert issubclass(EventType, vars(enum)["StrEnum"])
