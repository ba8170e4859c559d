"""What waiting, streams and the history give for each form of key."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from typed_payloads import MODEL, TOOL, Names, ToolCalled, use
from typing_extensions import assert_type

from agent_event_bus import Event, EventBus, Expectation, Stream


async def waiting(bus: EventBus, name: str) -> None:
    use(assert_type(bus.wait_for(TOOL), Coroutine[Any, Any, Event[ToolCalled]]))
    assert_type(await bus.wait_for(TOOL, timeout=1), Event[ToolCalled])
    assert_type((await bus.wait_for(ToolCalled)).payload, ToolCalled)
    assert_type(await bus.wait_for("tool.called"), Event[Any])
    assert_type(await bus.wait_for(name), Event[Any])
    assert_type(await bus.wait_for(Names.START), Event[Any])
    assert_type(await bus.wait_for(["a", "b"]), Event[Any])
    assert_type(await bus.wait_for([TOOL, TOOL]), Event[ToolCalled])
    await bus.wait_for([TOOL, MODEL, "a"])
    await bus.wait_for(TOOL, where=lambda payload: payload.tool == "search")
    await bus.wait_for(TOOL, where={"tool": "search"})

    await bus.wait_for(TOOL, where=lambda payload: payload.tokens)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
    await bus.wait_for(7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def expecting(bus: EventBus) -> None:
    assert_type(bus.expect(TOOL), Expectation[ToolCalled])
    assert_type(bus.expect(ToolCalled), Expectation[ToolCalled])
    assert_type(bus.expect("tool.called"), Expectation[Any])
    async with bus.expect(TOOL, where=lambda payload: payload.tool == "search") as waiter:
        pass
    assert_type(waiter.event, Event[ToolCalled])
    bus.expect(TOOL, where=lambda payload: payload.tokens)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]


async def streaming(bus: EventBus) -> None:
    assert_type(bus.stream(TOOL), Stream[ToolCalled])
    assert_type(bus.stream(ToolCalled), Stream[ToolCalled])
    assert_type(bus.stream("tool.*"), Stream[Any])
    async for event in bus.stream(TOOL, maxsize=8, overflow="block"):
        assert_type(event, Event[ToolCalled])
        assert_type(event.payload.tool, str)
    async with bus.stream(["a", "b"]) as stream:
        assert_type(stream, Stream[Any])
    bus.stream(TOOL, overflow="later")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def looking_back(bus: EventBus, tool: ToolCalled) -> None:
    assert_type(bus.history(TOOL), list[Event[ToolCalled]])
    assert_type(bus.history(ToolCalled, 3), list[Event[ToolCalled]])
    assert_type(bus.history("tool.*"), list[Event[Any]])
    assert_type(bus.history(Names.START), list[Event[Any]])
    assert_type(bus.history(), list[Event[Any]])
    assert_type(bus.history(limit=3), list[Event[Any]])


def events(tool: ToolCalled, bare: Event) -> None:
    assert_type(bare, Event[Any])
    assert_type(Event(TOOL, tool), Event[ToolCalled])
    assert_type(Event("tool.called", tool), Event[ToolCalled])
    assert_type(Event(TOOL, tool).payload.tool, str)
    assert_type(Event(TOOL, tool).name, str)
