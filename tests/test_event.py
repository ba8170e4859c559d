"""Event: what envelope=True hands to a handler, and what users may make themselves."""

from __future__ import annotations

import contextlib
import gc
import time
import weakref
from typing import Any

import pytest
from helpers import recorder, soon

from agent_event_bus import Event, EventBus


class TestByHand:
    def test_it_shows_what_it_was_made_of(self) -> None:
        payload = {"tool": "search"}
        event = Event("tool.start", payload, 7, 12.5)
        assert (event.name, event.seq, event.timestamp) == ("tool.start", 7, 12.5)
        assert event.payload is payload

    def test_its_arguments_have_names(self) -> None:
        event = Event(name="a", payload=1, seq=2, timestamp=3.0)
        assert event.to_dict() == {"name": "a", "payload": 1, "seq": 2, "timestamp": 3.0}

    def test_its_defaults_are_no_payload_seq_zero_and_now(self) -> None:
        before = time.time()
        event = Event("a")
        after = time.time()
        assert event.payload is None
        assert event.seq == 0
        assert before <= event.timestamp <= after
        assert before <= Event("a", timestamp=None).timestamp

    @pytest.mark.parametrize(
        ("args", "options"),
        [
            ((), {}),
            ((5,), {}),
            ((None,), {}),
            (("a",), {"bogus": 1}),
            (("a", 1, "x"), {}),
            (("a",), {"timestamp": "now"}),
            (("a", 1, 2, 3.0, 4), {}),
        ],
    )
    def test_bad_arguments_are_refused(self, args: tuple[Any, ...], options: Any) -> None:
        with pytest.raises(TypeError):
            Event(*args, **options)

    def test_to_dict_holds_the_payload_itself_in_a_fresh_dict(self) -> None:
        payload: list[int] = []
        event = Event("a", payload, 1, 2.0)
        first = event.to_dict()
        assert list(first) == ["name", "payload", "seq", "timestamp"]
        assert first["payload"] is payload
        first["name"] = "changed"
        assert event.to_dict()["name"] == "a"

    def test_it_is_compared_by_identity_and_never_by_its_payload(self) -> None:
        event = Event("a", [1], 1, 2.0)
        assert event == event
        assert event != Event("a", event.payload, 1, 2.0)
        assert {event: "found"}[event] == "found"

    @pytest.mark.parametrize("attribute", ["name", "payload", "seq", "timestamp", "extra"])
    def test_it_is_immutable(self, attribute: str) -> None:
        event = Event("a", 1, 2, 3.0)
        with pytest.raises(AttributeError):
            setattr(event, attribute, 5)
        with pytest.raises(AttributeError):
            delattr(event, attribute)
        assert event.to_dict() == {"name": "a", "payload": 1, "seq": 2, "timestamp": 3.0}

    def test_initialising_it_again_changes_nothing(self) -> None:
        event: Any = Event("a", 1, 2, 3.0)
        with contextlib.suppress(TypeError):
            event.__init__("b", 4)
        assert event.to_dict() == {"name": "a", "payload": 1, "seq": 2, "timestamp": 3.0}

    def test_its_name_is_an_exact_str_whatever_it_was_made_of(self) -> None:
        class Text(str):
            pass

        for event in (Event(Text("tool.start")), Event(name=Text("tool.start"))):
            assert event.name == "tool.start"
            assert type(event.name) is str
            assert type(event.to_dict()["name"]) is str

    def test_its_repr_names_it(self) -> None:
        assert "Event" in repr(Event("tool.start"))
        assert "tool.start" in repr(Event("tool.start"))

    def test_it_is_weakly_referenceable_and_collected_in_a_cycle(self) -> None:
        payload: list[Any] = []
        event = Event("a", payload)
        payload.append(event)
        ref = weakref.ref(event)
        del event, payload
        gc.collect()
        assert ref() is None


class TestEnvelope:
    def test_it_carries_name_payload_and_time_of_the_emission(self, bus: EventBus) -> None:
        got: list[Event] = []
        payload = object()
        bus.on("a", got.append, envelope=True)
        before = time.time()
        bus.emit("a", payload)
        after = time.time()
        (event,) = got
        assert type(event) is Event
        assert event.name == "a"
        assert event.payload is payload
        assert before <= event.timestamp <= after

    def test_seq_counts_the_emissions_of_one_bus_from_one(self, bus: EventBus) -> None:
        got: list[Event] = []
        other = EventBus()
        bus.on("*", got.append, envelope=True)
        other.on("*", got.append, envelope=True)
        for name in ("a", "b", "a"):
            bus.emit(name)
        other.emit("a")
        assert [event.seq for event in got] == [1, 2, 3, 1]

    async def test_all_handlers_of_one_emission_see_one_seq(self, bus: EventBus) -> None:
        got: list[Event] = []
        bus.on("a", got.append, envelope=True)
        bus.on("*", got.append, envelope=True)

        @bus.on("a", envelope=True)
        async def later(event: Event) -> None:
            got.append(event)

        assert await bus.emit_async("a", 1) == 3
        assert bus.emit("a", 2) == 3
        await soon(bus.drain())
        assert [event.payload for event in got] == [1, 1, 1, 2, 2, 2]
        assert len({event.seq for event in got[:3]}) == 1
        assert got[3].seq == got[4].seq == got[5].seq == got[0].seq + 1

    def test_nested_emissions_have_their_own(self, bus: EventBus) -> None:
        got: list[tuple[str, int]] = []

        @bus.on("*", envelope=True)
        def handler(event: Event) -> None:
            if event.name == "outer":
                bus.emit("inner")
            got.append((event.name, event.seq))

        bus.emit("outer")
        assert got == [("inner", 2), ("outer", 1)]

    def test_plain_handlers_beside_it_get_the_plain_form(self, bus: EventBus) -> None:
        log: list[Any] = []
        bus.on("a", recorder(log, "exact"))
        bus.on("a", lambda event: log.append(type(event)), envelope=True)
        bus.on("*", recorder(log, "any"))
        assert bus.emit("a", 1) == 3
        assert log == [("exact", 1), Event, ("any", "a", 1)]

    def test_a_handler_that_keeps_it_keeps_its_payload(self, bus: EventBus) -> None:
        got: list[Event] = []
        bus.on("a", got.append, envelope=True)
        bus.emit("a", ["payload"])
        gc.collect()
        assert got[0].payload == ["payload"]
