"""What the assertions of a recorder give and take for each form of key."""

from __future__ import annotations

from typing import Any

from typed_payloads import MODEL, TOOL, Names, SearchCalled, ToolCalled
from typing_extensions import assert_type

from agent_event_bus import Event, EventBus
from agent_event_bus.testing import record_events


def recording(bus: EventBus, name: str) -> None:
    events = record_events(bus, TOOL)
    record_events(bus, [TOOL, MODEL, "a"])
    assert_type(events.assert_emitted(TOOL), list[Event[ToolCalled]])
    assert_type(events.assert_emitted(TOOL, times=1)[0].payload.tool, str)
    assert_type(events.assert_emitted(SearchCalled), list[Event[SearchCalled]])
    assert_type(events.assert_emitted("tool.*", where={"tool": "search"}), list[Event[Any]])
    assert_type(events.assert_emitted(name), list[Event[Any]])
    assert_type(events.matching(TOOL), list[Event[ToolCalled]])
    assert_type(events.matching([TOOL, TOOL]), list[Event[ToolCalled]])
    assert_type(events.matching(Names.START), list[Event[Any]])
    events.matching([TOOL, MODEL, "a"])
    events.assert_emitted(TOOL, where=lambda payload: payload.tool == "search")
    events.assert_not_emitted(TOOL, where=lambda payload: payload.tool == "search")
    events.assert_not_emitted("a", where=lambda payload: payload.anything)

    events.assert_emitted(TOOL, where=lambda payload: payload.tokens)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
    events.assert_emitted(7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
