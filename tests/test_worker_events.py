"""Events of the worker bus: their fields, the way to JSON and back, and classes of one's own."""

from __future__ import annotations

import json
import sys
import time
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from agent_event_bus.worker import (
    Event,
    InboundEvent,
    OutboundEvent,
    deserialize_event,
    serialize_event,
)

JSON_VALUES = [
    None,
    True,
    0,
    -1.5,
    "",
    "naïve 🙂 \x00",
    [],
    {},
    [1, [2, {"a": None}]],
    {"text": "hello", "parts": [1, 2]},
]


@dataclass
class Upload(InboundEvent):
    """An event with a field of its own."""

    files: list[str] = field(default_factory=list)


@dataclass
class Audit(Event):
    """An event that goes neither in nor out."""


class TestFields:
    def test_an_event_has_a_session_a_content_and_the_time(self) -> None:
        before = time.time()
        event = Event("s1", "hello")
        assert (event.session_id, event.content) == ("s1", "hello")
        assert before <= event.timestamp <= time.time()

    def test_every_event_has_a_time_of_its_own(self) -> None:
        first = Event("s1", "a")
        while time.time() == first.timestamp:
            pass
        assert Event("s1", "b").timestamp > first.timestamp

    def test_the_types_of_the_fields_can_be_asked_for(self) -> None:
        hints = typing.get_type_hints(OutboundEvent)
        assert hints["session_id"] is str
        assert hints["error"] == typing.Optional[str]

    def test_an_inbound_event_counts_retries_from_0(self) -> None:
        assert InboundEvent("s1", "a").retry_count == 0
        assert InboundEvent("s1", "a", 1.0, 2).retry_count == 2

    def test_an_outbound_event_has_no_error_unless_it_is_given(self) -> None:
        assert OutboundEvent("s1", "a").error is None
        assert OutboundEvent("s1", "a", 1.0, "boom").error == "boom"

    def test_both_are_events(self) -> None:
        assert issubclass(InboundEvent, Event)
        assert issubclass(OutboundEvent, Event)

    def test_events_with_equal_fields_of_one_class_are_equal(self) -> None:
        assert InboundEvent("s", "a", 1.0) == InboundEvent("s", "a", 1.0)
        assert InboundEvent("s", "a", 1.0) != InboundEvent("s", "b", 1.0)
        assert Event("s", "a", 1.0) != InboundEvent("s", "a", 1.0)


class TestDicts:
    def test_to_dict_adds_the_type_to_the_fields(self) -> None:
        assert InboundEvent("s1", "hi", 5.0, 1).to_dict() == {
            "type": "InboundEvent",
            "session_id": "s1",
            "content": "hi",
            "timestamp": 5.0,
            "retry_count": 1,
        }
        assert list(OutboundEvent("s1", "hi", 5.0).to_dict().items())[-1] == ("error", None)
        assert Event("s1", "hi", 5.0).to_dict()["type"] == "Event"

    def test_to_dict_is_fresh_and_holds_the_values_themselves(self) -> None:
        content = ["a"]
        event = Event("s1", content)
        assert event.to_dict() is not event.to_dict()
        assert event.to_dict()["content"] is content

    def test_from_dict_makes_the_event_again(self) -> None:
        for event in (Event("s", 1, 2.0), InboundEvent("s", 1, 2.0, 3), OutboundEvent("s", 1, 2.0)):
            again = type(event).from_dict(event.to_dict())
            assert again == event
            assert type(again) is type(event)

    def test_from_dict_of_a_base_class_makes_what_the_type_names(self) -> None:
        again = Event.from_dict(OutboundEvent("s", 1, 2.0, "boom").to_dict())
        assert again == OutboundEvent("s", 1, 2.0, "boom")

    def test_from_dict_of_another_class_is_refused(self) -> None:
        with pytest.raises(ValueError, match="OutboundEvent is no InboundEvent"):
            InboundEvent.from_dict(OutboundEvent("s", 1).to_dict())

    def test_without_a_type_it_is_of_the_class_itself(self) -> None:
        again = InboundEvent.from_dict({"session_id": "s", "content": "c", "timestamp": 1.0})
        assert again == InboundEvent("s", "c", 1.0)

    def test_what_has_a_default_may_be_missing(self) -> None:
        assert InboundEvent.from_dict({"session_id": "s", "content": "c"}).retry_count == 0

    def test_a_missing_field_is_named(self) -> None:
        with pytest.raises(ValueError, match="InboundEvent needs the field 'content'"):
            InboundEvent.from_dict({"session_id": "s"})

    def test_fields_of_a_newer_version_are_left_out(self) -> None:
        event = InboundEvent("s", "c", 1.0)
        assert InboundEvent.from_dict({**event.to_dict(), "priority": 5}) == event

    def test_what_is_no_mapping_is_refused(self) -> None:
        wrong: Any = [("session_id", "s")]
        with pytest.raises(TypeError, match="made of a mapping, not of list"):
            Event.from_dict(wrong)


class TestJson:
    @pytest.mark.parametrize("content", JSON_VALUES, ids=repr)
    def test_any_json_value_is_a_content(self, content: object) -> None:
        for event in (InboundEvent("s", content), OutboundEvent("s", content, error="e")):
            text = json.dumps(serialize_event(event))
            assert deserialize_event(json.loads(text)) == event

    def test_it_is_a_dict_with_the_type(self) -> None:
        event = OutboundEvent("s", {"a": [1]}, 2.0)
        assert serialize_event(event) == event.to_dict()
        assert serialize_event(event)["type"] == "OutboundEvent"

    def test_an_unknown_type_is_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match=r"^Unknown event type: Nonsense$"):
            deserialize_event({"type": "Nonsense", "session_id": "s", "content": ""})
        with pytest.raises(ValueError, match=r"^Unknown event type: \['x'\]$"):
            deserialize_event({"type": ["x"], "session_id": "s", "content": ""})

    @pytest.mark.parametrize("data", [[1], 1, None, "{}", b"{}"], ids=repr)
    def test_what_is_no_mapping_is_refused(self, data: Any) -> None:
        with pytest.raises(ValueError, match="a serialised event is a mapping"):
            deserialize_event(data)

    def test_what_has_no_type_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a serialised event has a type"):
            deserialize_event({"session_id": "s", "content": ""})


class TestOwnClasses:
    def test_a_subclass_registers_itself(self) -> None:
        event = Upload("s", "two files", 1.0, 2, ["a.txt", "b.txt"])
        assert event.to_dict()["type"] == "Upload"
        assert deserialize_event(serialize_event(event)) == event
        assert deserialize_event(serialize_event(Audit("s", 1, 2.0))) == Audit("s", 1, 2.0)

    def test_its_own_fields_may_be_missing_when_they_have_defaults(self) -> None:
        data = {"type": "Upload", "session_id": "s", "content": "", "timestamp": 1.0}
        assert deserialize_event(data) == Upload("s", "", 1.0)

    def test_another_name_may_be_given_in_the_class_body(self) -> None:
        @dataclass
        class Renamed(OutboundEvent):
            event_type: ClassVar[str] = "shop.Renamed"

        assert deserialize_event(Renamed("s", 1, 2.0).to_dict()) == Renamed("s", 1, 2.0)
        assert Renamed("s", 1).to_dict()["type"] == "shop.Renamed"
        with pytest.raises(ValueError, match="Unknown event type: Renamed"):
            deserialize_event({**Renamed("s", 1).to_dict(), "type": "Renamed"})

    def test_a_subclass_of_a_class_with_a_given_name_has_its_own(self) -> None:
        @dataclass
        class Order(InboundEvent):
            event_type: ClassVar[str] = "shop.Order"

        @dataclass
        class RushOrder(Order):
            pass

        assert RushOrder("s", 1).to_dict()["type"] == "RushOrder"
        assert type(Order.from_dict(RushOrder("s", 1).to_dict())) is RushOrder

    def test_a_class_of_a_name_that_another_one_has_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"'Upload' of elsewhere.Upload is that of .*\.Upload"):
            type("Upload", (InboundEvent,), {"__module__": "elsewhere"})
        assert type(deserialize_event(Upload("s", 1).to_dict())) is Upload

    def test_a_class_that_is_defined_again_takes_the_place_of_the_first(self) -> None:
        def define() -> type[InboundEvent]:
            @dataclass
            class Twice(InboundEvent):
                pass

            return Twice

        first, second = define(), define()
        assert first is not second
        assert type(deserialize_event(first("s", 1).to_dict())) is second

    def test_functions_may_each_have_a_class_of_one_name(self) -> None:
        def define() -> type[InboundEvent]:
            @dataclass
            class Local(InboundEvent):
                pass

            return Local

        def define_another() -> type[OutboundEvent]:
            @dataclass
            class Local(OutboundEvent):
                pass

            return Local

        for define_one in (define, define_another, define):
            event = define_one()("s", 1, 2.0)
            assert deserialize_event(serialize_event(event)) == event

    def test_a_class_in_a_function_does_not_take_the_name_of_one_outside(self) -> None:
        with pytest.raises(TypeError, match=r"'Upload' of .*<locals>.Upload is that of"):
            type("Upload", (InboundEvent,), {"__qualname__": "f.<locals>.Upload"})
        assert type(deserialize_event(Upload("s", 1).to_dict())) is Upload

    @pytest.mark.parametrize("name", ["", 5])
    def test_a_name_that_is_no_text_is_refused(self, name: object) -> None:
        with pytest.raises(TypeError, match="event_type of"):
            type("Nameless", (Event,), {"event_type": name})

    def test_a_field_of_the_name_type_is_refused(self) -> None:
        @dataclass
        class Typed(Event):
            type: str = "x"

        with pytest.raises(TypeError, match="Typed has a field 'type'"):
            Typed("s", 1).to_dict()

    def test_a_field_of_the_name_event_type_does_not_change_the_type(self) -> None:
        @dataclass
        class Tagged(Event):
            event_type: str = "Tagged"  # type: ignore[misc]

        event = Tagged("s", 1, 2.0, "urgent")
        assert event.to_dict()["type"] == "Tagged"
        assert deserialize_event(serialize_event(event)) == event

    def test_a_field_that_is_computed_is_written_and_not_read(self) -> None:
        @dataclass
        class Measured(Event):
            length: int = field(init=False, default=0)

            def __post_init__(self) -> None:
                self.length = len(self.content)

        data = Measured("s", "four").to_dict()
        assert data["length"] == 4
        assert deserialize_event({**data, "length": 99}) == Measured("s", "four", data["timestamp"])

    @pytest.mark.skipif(sys.version_info < (3, 10), reason="slots=True came with Python 3.10")
    def test_a_class_with_slots_is_registered_as_it_is_in_the_end(self) -> None:
        options: dict[str, Any] = {"slots": True}

        @dataclass(**options)
        class Slotted(InboundEvent):
            extra: int = 0

        assert type(deserialize_event(Slotted("s", 1).to_dict())) is Slotted
