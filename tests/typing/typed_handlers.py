"""What handlers of each form of key get, and which are refused."""

from __future__ import annotations

from typing import Any, Callable

from typed_payloads import (
    MODEL,
    TOOL,
    Message,
    ModelResponded,
    Names,
    SearchCalled,
    ToolCalled,
    use,
)
from typing_extensions import assert_type

from agent_event_bus import Event, EventBus, Subscription


def takes_tool(payload: ToolCalled) -> int:
    return len(payload.tool)


def takes_object(payload: object, retries: int = 0) -> str:
    return f"{payload}{retries}"


def takes_model(payload: ModelResponded) -> int:
    return payload.tokens


async def takes_tool_async(payload: ToolCalled) -> int:
    return len(payload.tool)


def takes_search(payload: SearchCalled) -> int:
    return len(payload.query)


def takes_tool_event(event: Event[ToolCalled]) -> str:
    return event.payload.tool


def takes_event(event: Event) -> int:
    return event.seq


def takes_name_and_payload(event_name: str, payload: object) -> int:
    return len(event_name)


def takes_name_and_any(event_name: str, payload: Any) -> None: ...


def takes_mapping(payload: dict[str, Any]) -> int:
    return len(payload)


def takes_nothing() -> None: ...


def takes_everything(*args: Any) -> None: ...


def takes_tool_by_position(payload: ToolCalled, /) -> None: ...


class Tracker:
    def method(self, payload: ToolCalled) -> None: ...

    def __call__(self, payload: ToolCalled) -> None: ...


# A decorator gives back the function with its own type.


async def decorated_under_an_event_key(bus: EventBus, tool: ToolCalled) -> None:
    @bus.on(TOOL)
    def plain(payload: ToolCalled) -> int:
        return 1

    @bus.on(TOOL, priority=1)
    @bus.on(MODEL)
    def stacked(payload: ToolCalled | ModelResponded, retries: int = 0) -> str:
        return ""

    @bus.once(TOOL)
    async def asynchronous(payload: ToolCalled) -> int:
        return 1

    @bus.on(TOOL, envelope=True)
    def enveloped(event: Event[ToolCalled]) -> str:
        return event.payload.tool

    assert_type(plain(payload=tool), int)
    assert_type(stacked(payload=ModelResponded(1), retries=2), str)
    assert_type(enveloped(event=Event(TOOL, tool)), str)
    assert_type(bus.on(TOOL)(Tracker().method)(payload=tool), None)
    assert_type(await asynchronous(payload=tool), int)

    @bus.on(TOOL)
    def untyped(payload: Any) -> int:
        return 1

    @bus.on(TOOL)
    def positional(payload: ToolCalled, /, retries: int = 0) -> int:
        return 1

    assert_type(untyped(payload=tool), int)
    assert_type(positional(tool, retries=1), int)

    # Right, but refused by mypy.
    bus.on(TOOL)(takes_tool_by_position)  # type: ignore[arg-type]
    bus.on(TOOL, takes_tool_by_position)

    plain(payload=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    bus.on(TOOL)(takes_model)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(TOOL)(takes_search)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(TOOL)(takes_name_and_payload)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(TOOL)(takes_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.once(TOOL)(takes_model)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(TOOL, envelope=True)(takes_tool)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(MODEL, envelope=True)(takes_tool_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def decorated_under_a_class(bus: EventBus, tool: ToolCalled) -> None:
    @bus.on(ToolCalled)
    def plain(payload: ToolCalled) -> int:
        return 1

    @bus.on(ToolCalled, envelope=True)
    def enveloped(event: Event[ToolCalled]) -> str:
        return event.payload.tool

    @bus.on(Message)
    def abstract(message: Message) -> str:
        return message.text()

    assert_type(plain(payload=tool), int)
    assert_type(enveloped(event=Event("a", tool)), str)
    use(abstract)
    bus.on(SearchCalled)(takes_tool)

    bus.on(ToolCalled)(takes_search)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(ToolCalled)(takes_name_and_payload)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(ToolCalled, envelope=True)(takes_tool)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def decorated_under_text(bus: EventBus, name: str, tool: ToolCalled) -> None:
    @bus.on("tool.called")
    def plain(payload: ToolCalled) -> int:
        return 1

    @bus.on("tool.*")
    def pattern(event_name: str, payload: ToolCalled) -> int:
        return 1

    @bus.once(name)
    def unknown(event_name: str, payload: ToolCalled) -> int:
        return 1

    @bus.on(Names.START)
    def member(payload: ToolCalled) -> int:
        return 1

    @bus.on("tool.called", envelope=True)
    def enveloped(event: Event) -> int:
        return event.seq

    @bus.on("*")
    def every(event_name: str, payload: ToolCalled) -> int:
        return 1

    assert_type(plain(payload=tool), int)
    assert_type(pattern(event_name="a", payload=tool), int)
    assert_type(unknown(event_name="a", payload=tool), int)
    assert_type(member(payload=tool), int)
    assert_type(enveloped(event=Event("a")), int)
    assert_type(every(event_name="a", payload=tool), int)
    assert_type(bus.on("a")(Tracker()), Tracker)

    bus.on("tool.called")(takes_nothing)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    bus.on("*")(takes_tool)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    bus.on("**")(takes_tool)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    bus.once("*")(takes_event)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    bus.on("a", envelope=True)(takes_tool)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    bus.on("a", envelope=True)(takes_name_and_payload)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    bus.on("*", envelope=True)(takes_name_and_payload)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


# Together with its key, a lambda gets the types of its arguments.


def called_with_an_event_key(bus: EventBus, flag: bool) -> None:
    assert_type(bus.on(TOOL, takes_tool), Callable[[ToolCalled], int])
    assert_type(bus.once(TOOL, takes_object), Callable[[ToolCalled], str])
    assert_type(bus.on(TOOL, lambda payload: payload.tool), Callable[[ToolCalled], str])
    assert_type(
        bus.on(TOOL, lambda event: event.payload.tool, envelope=True),
        Callable[[Event[ToolCalled]], str],
    )
    bus.on(TOOL, lambda payload, retries=3: None)
    bus.on(TOOL, lambda event, retries=3: None, envelope=True)
    bus.on(TOOL, Tracker())
    bus.on(TOOL, takes_everything)
    bus.on(TOOL, takes_tool_async, timeout=1.0)
    bus.on(TOOL, takes_event, envelope=True)
    bus.on(TOOL, takes_object, envelope=flag)
    bus.on(TOOL, takes_tool, where=lambda payload: payload.tool == "search")
    bus.on(TOOL, takes_tool, where={"tool": "search"}, weak=True, isolate=False, once=True)
    assert_type(bus.subscribe(TOOL, takes_tool), Subscription)
    bus.subscribe(TOOL, lambda payload: payload.tool)
    bus.subscribe(TOOL, takes_tool_event, envelope=True)
    bus.subscribe(TOOL, takes_object, envelope=flag)

    bus.on(TOOL, takes_model)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on(TOOL, takes_name_and_payload)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on(TOOL, lambda payload: payload.tokens)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
    bus.on(TOOL, takes_tool, envelope=True)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on(MODEL, takes_tool_event, envelope=True)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on(TOOL, takes_tool, where=lambda payload: payload.tokens)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
    bus.on(TOOL, takes_tool, priority="first")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on(TOOL, takes_tool, unknown=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    bus.once(TOOL, takes_tool, once=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    bus.subscribe(TOOL, takes_model)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.subscribe(TOOL, takes_name_and_payload)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def called_with_a_class(bus: EventBus) -> None:
    assert_type(bus.on(ToolCalled, takes_tool), Callable[[ToolCalled], int])
    assert_type(bus.on(ToolCalled, lambda payload: payload.tool), Callable[[ToolCalled], str])
    assert_type(bus.on(Message, lambda message: message.text()), Callable[[Message], str])
    bus.subscribe(SearchCalled, takes_tool)
    bus.subscribe(object, takes_object)

    bus.on(ToolCalled, takes_search)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on(ToolCalled, takes_name_and_payload)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.subscribe(ToolCalled, takes_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.subscribe(ToolCalled, takes_tool, envelope=True)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def called_with_text(bus: EventBus, name: str, anything: Any, flag: bool) -> None:
    bus.on("tool.called", takes_tool)
    bus.on("tool.*", takes_name_and_payload)
    bus.on(name, takes_tool)
    bus.on(Names.START, takes_name_and_payload)
    bus.on("tool.called", lambda payload: payload["tool"])
    bus.on("tool.called", lambda payload, retries=3: None)
    bus.on("tool.*", lambda event_name, payload: use((event_name, payload)))
    bus.on("tool.called", bus.emit)
    bus.on("tool.called", anything)
    bus.on(anything, anything)
    bus.on("*", takes_name_and_payload)
    bus.on("*", takes_name_and_any)
    bus.on("*", takes_everything)
    bus.on("*", anything)
    bus.on("*", lambda event_name, payload: use((event_name, payload)))
    bus.on("*", lambda event_name, payload, retries=3: None)
    bus.on("*", takes_event, envelope=True)
    bus.on("tool.called", takes_tool_event, envelope=True)
    bus.on("tool.called", lambda event: event.payload, envelope=True)
    bus.on("tool.called", takes_object, envelope=flag)
    assert_type(bus.subscribe("*", takes_name_and_payload), Subscription)
    assert_type(bus.subscribe("tool.called", takes_tool), Subscription)
    assert_type(bus.subscribe("*", takes_event, envelope=True), Subscription)

    bus.on("*", takes_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on("tool.called", takes_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on("*", takes_tool)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    bus.on("**", takes_tool)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    bus.on("*", lambda payload: None)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    bus.on("*", takes_mapping)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    bus.once("*", takes_event)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    bus.subscribe("*", takes_tool)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    bus.subscribe("*", takes_tool).cancel()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    bus.on("a", takes_tool, envelope=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on("a", takes_name_and_payload, envelope=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.subscribe("*", takes_name_and_payload, envelope=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.on(7, takes_tool)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# Of a list of keys, types are inferred where all keys have the same; the number of arguments is
# always checked.


def called_with_a_list(
    bus: EventBus, names: list[str], members: tuple[Names, ...], mixed: list[str | type[Any]]
) -> None:
    bus.subscribe(mixed, takes_tool)
    bus.subscribe(mixed, takes_event, envelope=True)
    bus.subscribe(mixed, takes_name_and_payload)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(bus.subscribe([TOOL, TOOL], lambda payload: payload.tool), Subscription)
    bus.subscribe((ToolCalled, SearchCalled), takes_tool)
    bus.subscribe([TOOL, MODEL], takes_object)
    bus.subscribe([TOOL, "tool.called", ToolCalled], takes_tool)
    bus.subscribe(["a", "b"], takes_tool)
    bus.subscribe(["a.*", "b.*"], takes_name_and_payload)
    bus.subscribe(names, takes_name_and_payload)
    bus.subscribe(members, takes_tool)
    bus.subscribe([TOOL, MODEL], takes_event, envelope=True)
    bus.subscribe([TOOL, TOOL], takes_tool_event, envelope=True)
    bus.subscribe(["a", TOOL], takes_event, envelope=True)

    # Wrong, but not refused.
    bus.subscribe([TOOL, TOOL], takes_model)

    bus.subscribe([TOOL, MODEL], takes_name_and_payload)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.subscribe([ToolCalled], takes_nothing)  # type: ignore[arg-type, type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.subscribe([TOOL, MODEL], takes_tool, envelope=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    bus.subscribe([7], takes_tool)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
