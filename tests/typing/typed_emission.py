"""What may be emitted under a key, and what emitting gives."""

from __future__ import annotations

from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from typed_payloads import (
    MODEL,
    PROGRESS,
    TICK,
    TOOL,
    USAGE,
    ModelResponded,
    Names,
    SearchCalled,
    ToolCalled,
    Usage,
    use,
)
from typing_extensions import assert_type

from agent_event_bus import Emitter, EventBus, EventKey, Outcome


def emitting(bus: EventBus, tool: ToolCalled, anything: Any) -> None:
    assert_type(bus.emit(TOOL, tool), int)
    use(assert_type(bus.emit_async(TOOL, tool), Coroutine[Any, Any, int]))
    assert_type(bus.emit_threadsafe(TOOL, tool), Future[int])
    assert_type(bus.collect(TOOL, tool), list[Outcome])
    use(assert_type(bus.collect_async(TOOL, tool), Coroutine[Any, Any, list[Outcome]]))
    bus.emit(TOOL, SearchCalled("search", "bus"))
    bus.emit(TOOL, anything)
    bus.emit(USAGE, {"tokens": 42})
    bus.emit(USAGE, Usage(tokens=42))
    bus.emit(EventKey[Any]("any"), tool)
    bus.emit(EventKey[object]("object"), tool)

    bus.emit(TOOL, "search")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.emit(TOOL, None)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.emit(TOOL, ModelResponded(1))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.emit(USAGE, {"token": 42})  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.emit_threadsafe(TOOL, 1)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.collect(TOOL, 1)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def awaiting(bus: EventBus, tool: ToolCalled) -> None:
    assert_type(await bus.emit_async(TOOL, tool), int)
    assert_type(await bus.collect_async(TOOL, tool), list[Outcome])
    await bus.emit_async(TOOL, 1)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await bus.collect_async(TOOL, 1)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def without_a_payload(bus: EventBus) -> None:
    bus.emit(TICK)
    bus.emit(TICK, None)
    bus.emit(PROGRESS)
    bus.emit(PROGRESS, None)
    bus.emit(PROGRESS, 50)
    bus.emit(EventKey[Any]("any"))
    bus.emit("tick")

    bus.emit(TOOL)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.emit(TICK, 1)  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.emit(PROGRESS, "half")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def plain_names(bus: EventBus, name: str) -> None:
    bus.emit("tool.called", 1)
    bus.emit(name, object())
    bus.emit(Names.START, 1)

    bus.emit(ToolCalled, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.emit(7, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def emitters(bus: EventBus, tool: ToolCalled) -> None:
    assert_type(bus.emitter(TOOL), Emitter[ToolCalled])
    assert_type(bus.emitter("tool.called"), Emitter[Any])
    assert_type(bus.emitter(TOOL)(tool), int)
    use(assert_type(bus.emitter(TOOL).emit_async(tool), Coroutine[Any, Any, int]))
    bus.emitter(TICK)()
    bus.emitter(PROGRESS)()
    bus.emitter(PROGRESS)(50)
    bus.emitter(PROGRESS).emit_async().close()
    bus.emitter("tick")()
    bus.emitter("tick")(1)

    bus.emitter(TOOL)(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.emitter(TOOL)()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def asking(bus: EventBus) -> None:
    bus.handlers(TOOL)
    bus.has_handlers(TOOL)
    bus.handlers(Names.START)
    bus.off(TOOL)
    bus.off(ToolCalled)
    bus.clear(Names.START)
    bus.clear(MODEL)


def keys(key: EventKey[ToolCalled]) -> None:
    assert_type(key.name, str)
    assert_type(key == "tool.called", bool)
    assert_type({key: 1}, dict[EventKey[ToolCalled], int])
    assert_type(EventKey[ToolCalled]("a"), EventKey[ToolCalled])
    EventKey[ToolCalled](Names.START)

    EventKey[ToolCalled](7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def schemas(bus: EventBus) -> None:
    def check(payload: ToolCalled) -> None: ...

    bus.define_event(TOOL, ToolCalled)
    bus.define_event(TOOL, check)
    bus.define_event(TOOL, None)
    bus.define_event(TOOL, lambda payload: payload.tool)
    bus.define_event("tool.called", ToolCalled)
    bus.define_event(Names.START, None)
    bus.define_event(ToolCalled, None)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
