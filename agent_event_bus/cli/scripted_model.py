"""A model without a key or a network: a fixed plan whose every argument comes from tool results.

The plan is scripted, the work is not. The model starts with a document that does not exist, reads
the error, searches, takes document names and figures out of what the tools returned, and calculates
with those. Change a number in `documents/` and the answer changes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from agent_event_bus.cli.agent import Message, Reply, ToolCall

__all__ = ["QUESTION", "SYSTEM_PROMPT", "ScriptedModel"]

SYSTEM_PROMPT = (
    "You plan business trips. Use search_files, read_document and calculate; never guess a number."
)
QUESTION = "What will the workshop in Porto cost us, and does the trip stay within our policy?"


class ScriptedModel:
    """Answers the trip question, step by step, from what the tools have returned.

    Args:
        delay: seconds each answer takes, so that a person can watch the run.
    """

    name = "scripted-model"

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self._steps: list[Callable[[list[Message]], Reply]] = [
            self._guess_a_document,
            self._search,
            self._read_what_was_found,
            self._search_the_limit,
            self._calculate_the_total,
            self._calculate_the_share,
            self._answer,
        ]

    async def respond(self, messages: list[Message]) -> Reply:
        """Return the next step of the plan; how far it has come is read off the conversation."""
        if self.delay > 0:
            await asyncio.sleep(self.delay)
        done = sum(message.role == "assistant" for message in messages)
        return self._steps[min(done, len(self._steps) - 1)](messages)

    def _guess_a_document(self, messages: list[Message]) -> Reply:
        return _calls(ToolCall("read_document", {"name": "porto-budget.md"}))

    def _search(self, messages: list[Message]) -> Reply:
        return _calls(
            ToolCall("search_files", {"query": "Porto"}),
            content="There is no such document. I will search for the right ones.",
        )

    def _read_what_was_found(self, messages: list[Message]) -> Reply:
        names = dict.fromkeys(re.findall(r"^([\w-]+\.md):", messages[-1].content, re.MULTILINE))
        return _calls(*(ToolCall("read_document", {"name": name}) for name in names))

    def _search_the_limit(self, messages: list[Message]) -> Reply:
        return _calls(ToolCall("search_files", {"query": "at most"}))

    def _calculate_the_total(self, messages: list[Message]) -> Reply:
        people = _find(messages, r"Participants: (\d+)")
        nights = _find(messages, r"Nights: (\d+)")
        fare = _find(messages, r"\| Lisbon +\| Porto +\| +([\d.]+)")
        hotel = _find(messages, r"Hotel: ([\w ]+)")
        rate = _find(messages, rf"\| {re.escape(hotel)} +\| +([\d.]+)")
        percent = _find(messages, r"discount: (\d+) percent")
        group = _find(messages, r"for (\d+) or more people")
        paid = 100 - int(percent) if int(people) >= int(group) else 100
        expression = f"{people} * (2 * {fare} * {paid} / 100 + {nights} * {rate})"
        return _calls(ToolCall("calculate", {"expression": expression}))

    def _calculate_the_share(self, messages: list[Message]) -> Reply:
        people = _find(messages, r"Participants: (\d+)")
        total = messages[-1].content
        return _calls(ToolCall("calculate", {"expression": f"{total} / {people}"}))

    def _answer(self, messages: list[Message]) -> Reply:
        total, share = (message.content for message in messages if _is_number(message))
        limit = _find(messages, r"at most ([\d.]+) EUR")
        within = float(share) <= float(limit)
        verdict = "is within" if within else "exceeds"
        return Reply(
            f"The Porto workshop costs {float(total):.2f} EUR in all, train and hotel. That is "
            f"{float(share):.2f} EUR per person, which {verdict} the policy's limit of {limit} EUR."
        )


def _calls(*tool_calls: ToolCall, content: str | None = None) -> Reply:
    return Reply(content, list(tool_calls))


def _find(messages: list[Message], pattern: str) -> str:
    """Return the first group of `pattern` in the tool results, the newest result first."""
    for message in reversed(messages):
        if message.role == "tool":
            match = re.search(pattern, message.content)
            if match:
                return match.group(1).strip()
    raise LookupError(f"no tool result matches {pattern!r}")


def _is_number(message: Message) -> bool:
    return message.role == "tool" and re.fullmatch(r"[\d.]+", message.content) is not None
