"""What handlers of the telemetry routers get, and which are refused."""

from __future__ import annotations

from typing import Any, Callable

from typed_handlers import (
    takes_model,
    takes_name_and_payload,
    takes_nothing,
    takes_object,
    takes_tool,
    takes_tool_async,
)
from typed_payloads import MODEL, TICK, TOOL, ModelResponded, Names, ToolCalled
from typing_extensions import assert_type

from agent_event_bus.telemetry import ProductionTelemetryRouter, TelemetryRouter


async def decorated(router: TelemetryRouter, tool: ToolCalled) -> None:
    @router.subscribe(TOOL)
    def by_key(payload: ToolCalled) -> int:
        return 1

    @router.subscribe_once("tool.called", priority=1)
    async def by_text(payload: ToolCalled) -> int:
        return 1

    @router.subscribe("tool.*")
    def by_pattern(event_name: str, payload: ToolCalled) -> int:
        return 1

    @router.subscribe_all
    def bare(event_name: str, payload: ToolCalled) -> int:
        return 1

    @router.subscribe_all("audit")
    async def labelled(event_name: str, payload: ToolCalled) -> int:
        return 1

    @router.subscribe_all()
    def called(event_name: str, payload: ToolCalled) -> int:
        return 1

    assert_type(by_key(payload=tool), int)
    assert_type(await by_text(payload=tool), int)
    assert_type(by_pattern(event_name="a", payload=tool), int)
    assert_type(bare(event_name="a", payload=tool), int)
    assert_type(await labelled(event_name="a", payload=tool), int)
    assert_type(called(event_name="a", payload=tool), int)

    router.subscribe(TOOL)(takes_model)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    router.subscribe("*")(takes_tool)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    router.subscribe_all()(takes_tool)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    router.subscribe_all("audit")(takes_nothing)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def given(router: TelemetryRouter, production: ProductionTelemetryRouter) -> None:
    assert_type(router.subscribe(TOOL, takes_object), Callable[[ToolCalled], str])
    assert_type(router.subscribe(TOOL, lambda payload: payload.tool), Callable[[ToolCalled], str])
    assert_type(router.subscribe("a", takes_tool)(ToolCalled("a")), int)
    assert_type(router.subscribe_once(Names.START, takes_tool)(ToolCalled("a")), int)
    assert_type(router.subscribe_all(takes_name_and_payload)(event_name="a", payload=1), int)
    assert_type(production.register(MODEL, takes_model, 1, True), Callable[[ModelResponded], int])
    assert_type(production.register("a", takes_tool, priority=1)(ToolCalled("a")), int)
    assert_type(
        production.register_wildcard(takes_name_and_payload)(event_name="a", payload=1), int
    )
    assert_type(production.register("a")(takes_tool)(ToolCalled("a")), int)
    assert_type(production.register_wildcard()(takes_name_and_payload)("a", 1), int)

    router.subscribe(TOOL, takes_model)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    router.subscribe_all(takes_tool)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
    production.register("a", takes_nothing)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
    production.register_wildcard(takes_tool)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
    production.register("a", takes_tool, "high")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def emitted(router: TelemetryRouter, tool: ToolCalled) -> None:
    assert_type(router.emit(TOOL, tool), int)
    assert_type(router.emit(TICK), int)
    assert_type(router.emit("a", {"any": "payload"}), int)
    assert_type(await router.emit_async(TOOL, tool), int)
    assert_type(await router.emit_async(Names.START), int)
    assert_type(router.unsubscribe(TOOL, takes_tool), int)
    assert_type(router.stats(), dict[str, Any])
    router.subscribe(TOOL, takes_tool_async)

    router.emit(TOOL, 1)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await router.emit_async(TOOL, 1)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def made(path: str) -> None:
    TelemetryRouter(name="agent", history=10, max_pending=10)
    ProductionTelemetryRouter(100, alert_after=None, timing=True)
    async with ProductionTelemetryRouter() as router:
        assert_type(router, ProductionTelemetryRouter)

    TelemetryRouter(logger=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ProductionTelemetryRouter(max_pending=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
