"""agent_event_bus.runtime: the publishers, each with the arguments and the data of its event.

The table is written out, not derived from the code: it is what users of such buses know.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, Callable
from unittest.mock import AsyncMock

import pytest

from agent_event_bus.runtime import AgentEvent, EventBus, EventType
from agent_event_bus.runtime.publishers import Publishers

PAGE = Path(__file__).parents[1] / "docs" / "runtime.md"
Call = Callable[..., Coroutine[Any, Any, int]]

# name(arguments) -> keys of `data`. An argument that ends in `=...` has that default.
TABLE = """
execution_started(stream_id, execution_id, input_data=None, correlation_id=None) -> input
execution_completed(stream_id, execution_id, output=None, correlation_id=None) -> output
execution_failed(stream_id, execution_id, error, correlation_id=None) -> error
execution_paused(stream_id, node_id, reason='', execution_id=None) -> reason
execution_resumed(stream_id, node_id, execution_id=None) ->
goal_progress(stream_id, progress, criteria_status) -> progress criteria_status
constraint_violation(stream_id, execution_id, constraint_id, description) -> \
constraint_id description
state_changed(stream_id, execution_id, key, old_value, new_value, scope) -> \
key old_value new_value scope
node_loop_started(stream_id, node_id, execution_id=None, max_iterations=None) -> max_iterations
node_loop_iteration(stream_id, node_id, iteration, execution_id=None) -> iteration
node_loop_completed(stream_id, node_id, iterations, execution_id=None) -> iterations
llm_text_delta(stream_id, node_id, content, snapshot, execution_id=None) -> content snapshot
llm_reasoning_delta(stream_id, node_id, content, execution_id=None) -> content
tool_call_started(stream_id, node_id, tool_use_id, tool_name, tool_input=None, \
execution_id=None) -> tool_use_id tool_name tool_input
tool_call_completed(stream_id, node_id, tool_use_id, tool_name, result='', is_error=False, \
execution_id=None) -> tool_use_id tool_name result is_error
client_output_delta(stream_id, node_id, content, snapshot, execution_id=None) -> content snapshot
client_input_requested(stream_id, node_id, prompt='', execution_id=None) -> prompt
node_internal_output(stream_id, node_id, content, execution_id=None) -> content
node_stalled(stream_id, node_id, reason='', execution_id=None) -> reason
node_input_blocked(stream_id, node_id, prompt='', execution_id=None) -> prompt
tool_doom_loop(stream_id, node_id, description='', execution_id=None) -> description
judge_verdict(stream_id, node_id, action, feedback='', judge_type='implicit', iteration=0, \
execution_id=None) -> action feedback judge_type iteration
output_key_set(stream_id, node_id, key, execution_id=None) -> key
node_retry(stream_id, node_id, retry_count, max_retries, error='', execution_id=None) -> \
retry_count max_retries error
edge_traversed(stream_id, source_node, target_node, edge_condition='', execution_id=None) -> \
source_node target_node edge_condition
webhook_received(source_id, path, method, headers, payload, query_params=None) -> \
path method headers payload query_params
escalation_requested(stream_id, node_id, reason='', context='', execution_id=None) -> reason context
"""
SIGNATURES = {
    line.partition("(")[0]: line[line.index("(") : line.index(")") + 1]
    for line in TABLE.strip().splitlines()
}
DATA = {
    line.partition("(")[0]: line.partition("->")[2].split() for line in TABLE.strip().splitlines()
}
TYPES = {
    name: EventType.NODE_TOOL_DOOM_LOOP if name == "tool_doom_loop" else EventType(name)
    for name in SIGNATURES
}
# Arguments that are fields of the event, where they are called otherwise there.
FIELDS = {"source_id": "stream_id", "source_node": "node_id"}
FIELD_NAMES = {"stream_id", "node_id", "execution_id", "correlation_id"}
# Arguments whose None is an empty dict in the data, by their key there.
EMPTY = {"input_data": "input", "output": "output", "tool_input": "tool_input"}
EMPTY["query_params"] = "query_params"

every = pytest.mark.parametrize("name", SIGNATURES)


def publisher(bus: EventBus, name: str) -> Call:
    """Return the publisher of that name."""
    method: Call = getattr(bus, f"emit_{name}")
    return method


def parameters(name: str) -> dict[str, str]:
    """Return what the table says: the defaults of the arguments, by name, "" for none."""
    inner = SIGNATURES[name].strip("()")
    pairs = [argument.partition("=") for argument in inner.split(", ")]
    return {argument: default for argument, _, default in pairs}


def expected(name: str, arguments: dict[str, object]) -> AgentEvent:
    """Return the event that a publisher has to build of all of its arguments."""
    fields = {FIELDS.get(each, each): value for each, value in arguments.items()}
    event = AgentEvent(TYPES[name], stream_id=str(fields["stream_id"]))
    for field in FIELD_NAMES & fields.keys():
        setattr(event, field, fields[field])
    renamed = {EMPTY.get(each, each): value for each, value in arguments.items()}
    event.data = {key: renamed[key] for key in DATA[name]}
    return event


async def published(bus: EventBus, call: Coroutine[Any, Any, int]) -> AgentEvent:
    """Await a publisher and return what it has published."""
    got: list[AgentEvent] = []
    number = bus.subscribe(EventType, got.append)
    before = datetime.now()
    assert await call == 1
    bus.unsubscribe(number)
    (event,) = got
    assert before <= event.timestamp <= datetime.now()
    return event


def alike(event: AgentEvent, other: AgentEvent) -> bool:
    """Whether two events are equal but for their time."""
    return {**vars(event), "timestamp": 0} == {**vars(other), "timestamp": 0}


def test_there_are_all_of_them_and_no_other() -> None:
    assert len(SIGNATURES) == 27
    public = {name for name in dir(EventBus) if name.startswith("emit")}
    assert public == {f"emit_{name}" for name in SIGNATURES}


@every
def test_its_signature_is_the_one_that_users_know(name: str) -> None:
    method = publisher(EventBus(), name)
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(method).parameters.values()
    ]
    assert str(inspect.Signature(shown)) == SIGNATURES[name]
    assert inspect.iscoroutinefunction(method)


@every
def test_the_page_lists_every_publisher(name: str) -> None:
    keys = ", ".join(f"`{key}`" for key in DATA[name]) or "nothing"
    line = f"| `emit_{name}{SIGNATURES[name]}` | `{TYPES[name].name}` | {keys} |"
    assert line in PAGE.read_text(encoding="utf-8").splitlines()


@every
def test_it_says_the_types_of_its_arguments_and_what_it_is_for(name: str) -> None:
    method = getattr(Publishers, f"emit_{name}")
    annotated = set(inspect.getfullargspec(method).annotations)
    assert annotated == {*parameters(name), "return"}
    assert inspect.getdoc(method)


@every
@pytest.mark.parametrize("by_name", [False, True], ids=["by position", "by name"])
async def test_every_argument_has_its_place_in_the_event(name: str, by_name: bool) -> None:
    bus = EventBus()
    arguments: dict[str, object] = {each: f"the {each}" for each in parameters(name)}
    method = publisher(bus, name)
    call = method(**arguments) if by_name else method(*arguments.values())
    event = await published(bus, call)
    assert alike(event, expected(name, arguments))
    assert list(event.data) == DATA[name]
    assert event.graph_id is None


@every
async def test_what_may_be_left_out_has_its_default(name: str) -> None:
    bus = EventBus()
    defaults: dict[str, object] = {
        each: eval(default) for each, default in parameters(name).items() if default
    }
    for each in EMPTY.keys() & defaults.keys():
        defaults[each] = {}
    needed = {each: f"the {each}" for each, default in parameters(name).items() if not default}
    event = await published(bus, publisher(bus, name)(**needed))
    assert alike(event, expected(name, {**needed, **defaults}))


@every
async def test_objects_are_passed_by_reference(name: str) -> None:
    bus = EventBus()
    objects = {each: object() for each in parameters(name)}
    event = await published(bus, publisher(bus, name)(**objects))
    for key in DATA[name]:
        argument = next((each for each, other in EMPTY.items() if other == key), key)
        assert event.data[key] is objects[argument if argument in objects else key]


@pytest.mark.parametrize("given", [{}, [], "", 0, False], ids=repr)
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("execution_started", "input_data"),
        ("execution_completed", "output"),
        ("tool_call_started", "tool_input"),
        ("webhook_received", "query_params"),
    ],
)
async def test_none_alone_becomes_an_empty_dict(name: str, argument: str, given: object) -> None:
    bus = EventBus()
    needed = {each: "x" for each, default in parameters(name).items() if not default}
    event = await published(bus, publisher(bus, name)(**needed, **{argument: given}))
    assert event.data[EMPTY[argument]] is given
    empty = await published(bus, publisher(bus, name)(**needed, **{argument: None}))
    assert empty.data[EMPTY[argument]] == {}
    again = await published(bus, publisher(bus, name)(**needed))
    assert again.data[EMPTY[argument]] is not empty.data[EMPTY[argument]]


async def test_they_go_through_the_publish_of_a_subclass() -> None:
    class Stamping(EventBus):
        async def publish(self, event: AgentEvent) -> int:
            event.graph_id = "g1"
            return await super().publish(event)

    bus = Stamping()
    assert (await published(bus, bus.emit_node_stalled("inbox", "planner"))).graph_id == "g1"


async def test_they_go_through_a_publish_that_was_replaced() -> None:
    bus = EventBus()
    bus.publish = AsyncMock(return_value=7)  # type: ignore[method-assign]
    assert await bus.emit_node_stalled("inbox", "planner", "no answer") == 7
    (event,) = bus.publish.call_args.args
    assert (event.type, event.data) == (EventType.NODE_STALLED, {"reason": "no answer"})


async def test_what_they_publish_is_in_the_history() -> None:
    bus = EventBus()
    await bus.emit_goal_progress("inbox", 0.5, {"answered": True})
    assert [event.data for event in bus.get_history(EventType.GOAL_PROGRESS)] == [
        {"progress": 0.5, "criteria_status": {"answered": True}}
    ]


def test_their_types_are_those_of_their_arguments() -> None:
    types = inspect.getfullargspec(EventBus.emit_judge_verdict).annotations
    assert (types["iteration"], types["action"], types["return"]) == ("int", "str", "int")
