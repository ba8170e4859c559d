"""The opening example of the contract, word for word, and the sentences around it one by one."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest

from agent_event_bus import EventBus

EXAMPLE = """\
from agent_event_bus import EventBus

bus = EventBus()

@bus.on("model_responded")              # exact name: the handler gets the payload itself
def track_cost(event):
    tracker.record(event["response"])

@bus.on("*")                            # every event: the handler gets (event_name, payload)
def log_everything(event_name, event): ...

@bus.once("budget_exceeded")            # removed by its first delivery
def alert_once(event): ...

@bus.on("tool_called")
async def trace(event):                 # sync and async handlers share one bus
    await tracer.record(event)

bus.emit("model_responded", {"response": r})             # never raises because of a handler
await bus.emit_async("tool_called", {"tool": "search"})  # awaits every coroutine handler
bus.off("model_responded", track_cost)                   # removing is one line
"""


class Tracker:
    """Stands for the user's cost tracker."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def record(self, response: object) -> None:
        self.seen.append(response)


class Tracer:
    """Stands for the user's async tracer."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    async def record(self, event: object) -> None:
        self.seen.append(event)


async def run_example() -> dict[str, Any]:
    """Execute the example as a program and return its names."""
    names: dict[str, Any] = {"tracker": Tracker(), "tracer": Tracer(), "r": object()}
    code = compile(EXAMPLE, "<contract>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    body = eval(code, names)
    assert inspect.iscoroutine(body)
    await body
    return names


async def test_the_example_runs_and_every_line_does_what_its_comment_says() -> None:
    names = await run_example()
    assert names["tracker"].seen == [names["r"]]
    assert names["tracer"].seen == [{"tool": "search"}]


async def test_the_decorated_functions_of_the_example_are_plain_functions_still() -> None:
    names = await run_example()
    for name in ("track_cost", "log_everything", "alert_once", "trace"):
        assert inspect.isfunction(names[name]), name
    assert inspect.iscoroutinefunction(names["trace"])


async def test_after_the_example_the_removed_handler_is_no_longer_called() -> None:
    names = await run_example()
    names["bus"].emit("model_responded", {"response": "later"})
    assert names["tracker"].seen == [names["r"]]


async def test_the_one_shot_handler_of_the_example_goes_with_its_first_delivery() -> None:
    names = await run_example()
    bus = names["bus"]
    before = [subscription.handler for subscription in bus.handlers("budget_exceeded")]
    assert names["alert_once"] in before
    assert bus.emit("budget_exceeded", {"spent": 5}) == 2
    after = [subscription.handler for subscription in bus.handlers("budget_exceeded")]
    assert after == [names["log_everything"]]


def test_an_exact_handler_gets_the_payload_itself(bus: EventBus) -> None:
    got: list[object] = []
    payload = {"response": object()}

    @bus.on("model_responded")
    def track_cost(event: object) -> None:
        got.append(event)

    bus.emit("model_responded", payload)
    assert len(got) == 1
    assert got[0] is payload


def test_a_wildcard_handler_gets_the_name_and_the_payload_of_every_event(bus: EventBus) -> None:
    got: list[tuple[object, object]] = []

    @bus.on("*")
    def log_everything(event_name: object, event: object) -> None:
        got.append((event_name, event))

    bus.emit("model_responded", 1)
    bus.emit("tool.start", 2)
    bus.emit("anything at all")
    assert got == [("model_responded", 1), ("tool.start", 2), ("anything at all", None)]


def test_a_once_handler_is_removed_by_its_first_delivery(bus: EventBus) -> None:
    got: list[object] = []

    @bus.once("budget_exceeded")
    def alert_once(event: object) -> None:
        got.append(event)

    bus.emit("budget_exceeded", 1)
    bus.emit("budget_exceeded", 2)
    assert got == [1]
    assert not bus.has_handlers("budget_exceeded")


async def test_sync_and_async_handlers_share_one_bus(bus: EventBus) -> None:
    got: list[tuple[str, object]] = []

    @bus.on("tool_called")
    async def trace(event: object) -> None:
        got.append(("async", event))

    @bus.on("tool_called")
    def count(event: object) -> None:
        got.append(("sync", event))

    await bus.emit_async("tool_called", "search")
    assert got == [("sync", "search"), ("async", "search")]


@pytest.mark.filterwarnings("error")
def test_emit_never_raises_because_of_a_handler(bus: EventBus) -> None:
    got: list[object] = []

    @bus.on("model_responded")
    def crash(event: object) -> None:
        raise RuntimeError("observer crashed")

    @bus.on("model_responded")
    def after(event: object) -> None:
        got.append(event)

    assert bus.emit("model_responded", "payload") == 2
    assert got == ["payload"]


def test_removing_is_one_line(bus: EventBus) -> None:
    got: list[object] = []
    bus.on("model_responded", got.append)

    @bus.on("model_responded")
    def track_cost(event: object) -> None:
        got.append(("cost", event))

    assert bus.off("model_responded", track_cost) == 1
    bus.emit("model_responded", 1)
    assert got == [1]


def test_all_three_ways_to_subscribe_work_and_return_the_function_unchanged(bus: EventBus) -> None:
    got: list[str] = []

    def first(event: object) -> None:
        got.append("first")

    def second(event: object) -> None:
        got.append("second")

    assert bus.on("name")(first) is first
    assert bus.on("name", second) is second

    @bus.on("name")
    def third(event: object) -> None:
        got.append("third")

    assert inspect.isfunction(third)
    bus.emit("name")
    assert got == ["first", "second", "third"]
