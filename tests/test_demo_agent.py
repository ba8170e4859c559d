"""The demo's agent: its loop, its model and its tools, without the terminal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent_event_bus import EventBus
from agent_event_bus.cli.agent import Agent, Message, Reply, ToolCall
from agent_event_bus.cli.observers import attach_observers
from agent_event_bus.cli.scripted_model import QUESTION, ScriptedModel
from agent_event_bus.cli.tools import (
    ToolError,
    calculate,
    default_tools,
    documents_folder,
    read_document,
    search_files,
)


async def test_the_agent_takes_its_figures_from_what_the_tools_return() -> None:
    agent = Agent(EventBus(), ScriptedModel(), default_tools())
    answer = await agent.run("r", "system", QUESTION)
    fare, discount, nights, rate, people = 31.50, 0.10, 3, 84.00, 6
    share = 2 * fare * (1 - discount) + nights * rate
    assert answer is not None
    assert f"costs {people * share:.2f} EUR" in answer
    assert f"{share:.2f} EUR per person, which is within" in answer


async def test_an_agent_without_any_observer_gives_the_same_answer() -> None:
    watched = EventBus()
    attach_observers(watched, budget=0.001, notify=lambda text: None)
    answers = [
        await Agent(bus, ScriptedModel(), default_tools()).run("r", "system", QUESTION)
        for bus in (EventBus(), watched)
    ]
    assert answers[0] == answers[1]


class StubbornModel:
    """Calls tools in ways they are not made for, and never answers."""

    name = "stubborn"

    async def respond(self, messages: list[Message]) -> Reply:
        """Return the same three calls every time."""
        await asyncio.sleep(0)
        return Reply(
            tool_calls=[
                ToolCall("launch", {}),
                ToolCall("calculate", {"wrong": 1}),
                ToolCall("calculate", {"expression": "1/0"}),
            ]
        )


async def test_bad_tool_calls_become_errors_and_a_model_without_an_answer_is_stopped() -> None:
    bus = EventBus()
    errors: list[str] = []
    ended: list[Any] = []
    bus.on("tool.error", lambda payload: errors.append(payload["result"]))
    bus.on("run.end", ended.append)
    agent = Agent(bus, StubbornModel(), default_tools(), max_turns=2)
    assert await agent.run("r", "system", "Well?") is None
    assert errors[0] == "Error: there is no tool 'launch'"
    assert errors[1].startswith("Error: TypeError")
    assert errors[2] == "Error: division by zero"
    assert len(errors) == 6
    assert len(ended) == 1


def test_search_finds_lines_in_the_documents_that_ship_with_the_package() -> None:
    found = search_files("PORTO").splitlines()
    assert "workshop.md:1: # Porto workshop" in found
    assert {line.partition(":")[0] for line in found} == {
        "hotel-rates.md",
        "rail-fares.md",
        "workshop.md",
    }


@pytest.mark.parametrize("query", ["", "   ", "zeppelin"])
def test_search_refuses_a_query_that_finds_nothing(query: str) -> None:
    with pytest.raises(ToolError):
        search_files(query)


@pytest.mark.parametrize("name", ["", "..", "../tools.py", "/etc/passwd", "missing.md", "a\0b"])
def test_reading_is_confined_to_the_documents(name: str) -> None:
    with pytest.raises(ToolError, match="no document is named"):
        read_document(name)


def test_every_document_can_be_read() -> None:
    names = [entry.name for entry in documents_folder().iterdir() if entry.name.endswith(".md")]
    assert len(names) == 4
    assert all(read_document(name).startswith("# ") for name in names)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 + 2 * 3", "7"),
        ("-(2 ** 10) // 3", "-342"),
        ("0.1 + 0.2", "0.3"),
        ("7 / 2", "3.5"),
        ("2 ** -1", "0.5"),
        (" 10 % 4 ", "2"),
    ],
)
def test_calculate_evaluates_arithmetic(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "1 / 0",
        "9 ** 9 ** 9",
        "2 ** 100000",
        "10.0 ** 400",
        "1e999",
        "(-8) ** 0.5",
        "0 ** -1",
        "True + 1",
        "'a' * 3",
        "1j",
        "[1, 2]",
        "1 << 9",
        "x",
        "abs(-1)",
        "().__class__",
        "__import__('os')",
        "lambda: 1",
        "(" * 95 + "1" + ")" * 95,
        "-" * 199 + "1",
        "1" * 201,
        "1\0",
    ],
)
def test_calculate_refuses_everything_else(expression: str) -> None:
    try:
        outcome = calculate(expression)
    except ToolError:
        return
    # Deep but valid arithmetic may be evaluated where the interpreter has room for it.
    assert outcome in ("1", "-1")
