"""A small tool-using agent whose loop is wired to the outside through events alone.

The agent knows a bus, a model and its tools. It does not know who watches: cost, latency, audit and
display are handlers that somebody else subscribed. The events have the names and fields of the
recorded runs that `--trace` replays, so the same observers serve both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent_event_bus import EventBus
from agent_event_bus.cli.tools import Tool, ToolError

__all__ = ["Agent", "Message", "Model", "Reply", "ToolCall"]


@dataclass(frozen=True)
class ToolCall:
    """One tool call that a model asks for."""

    tool: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """What a model answers: text, tool calls, or both. Without tool calls the run is over."""

    content: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)


@dataclass(frozen=True)
class Message:
    """One entry of the conversation; `role` is system, user, assistant or tool."""

    role: str
    content: str


class Model(Protocol):
    """What the agent needs of a model."""

    name: str

    async def respond(self, messages: list[Message]) -> Reply:
        """Return the model's reply to the conversation so far."""


class Agent:
    """Asks the model, runs the tools it calls, feeds the results back, until it answers.

    Args:
        bus: where every step is emitted; the agent awaits each emission.
        model: answers `respond(messages)`.
        tools: the callables the model may use, by name.
        max_turns: how many times the model may be asked before the run is given up.
    """

    def __init__(
        self, bus: EventBus, model: Model, tools: Mapping[str, Tool], *, max_turns: int = 20
    ) -> None:
        self.bus = bus
        self.model = model
        self.tools = tools
        self.max_turns = max_turns
        self.messages: list[Message] = []
        self.run_id = ""

    async def run(self, run_id: str, system: str, question: str) -> str | None:
        """Run until the model answers; return the answer, or None after `max_turns`."""
        self.run_id = run_id
        self.messages = [Message("system", system)]
        await self._emit("run.start", model=self.model.name)
        turn = self._add(Message("user", question))
        await self._emit("user.message", turn=turn, content=question)
        answer = None
        for _ in range(self.max_turns):
            reply = await self._ask()
            if not reply.tool_calls:
                answer = reply.content
                break
            await self._call_tools(reply.tool_calls)
        await self._emit("run.end", messages=len(self.messages))
        return answer

    async def _ask(self) -> Reply:
        turn = len(self.messages)
        await self._emit("llm.request", turn=turn, model=self.model.name)
        reply = await self.model.respond(self.messages)
        calls = [f"{call.tool}({json.dumps(dict(call.args))})" for call in reply.tool_calls]
        self._add(Message("assistant", "\n".join([reply.content or "", *calls]).strip()))
        await self._emit(
            "llm.response",
            turn=turn,
            content=reply.content,
            tool_calls=[call.tool for call in reply.tool_calls],
        )
        return reply

    async def _call_tools(self, calls: list[ToolCall]) -> None:
        asked = len(self.messages) - 1
        for number, call in enumerate(calls, start=1):
            call_id = f"call_{asked}_{number}"
            args = dict(call.args)
            await self._emit("tool.start", turn=asked, call_id=call_id, tool=call.tool, args=args)
            event, result = self._call(call.tool, args)
            turn = self._add(Message("tool", result))
            await self._emit(event, turn=turn, call_id=call_id, tool=call.tool, result=result)

    def _call(self, name: str, args: dict[str, Any]) -> tuple[str, str]:
        """Return the event that tells how the call ended, and the text the model gets to see."""
        try:
            if name not in self.tools:
                raise ToolError(f"there is no tool {name!r}")
            return "tool.end", self.tools[name](**args)
        except ToolError as error:
            return "tool.error", f"Error: {error}"
        except Exception as error:
            # A wrong argument or a bug in a tool: the model is told and may try something else.
            return "tool.error", f"Error: {type(error).__name__}: {error}"

    def _add(self, message: Message) -> int:
        """Append to the conversation; return the message's turn (the system prompt has 0)."""
        self.messages.append(message)
        return len(self.messages) - 1

    async def _emit(self, name: str, **payload: Any) -> None:
        await self.bus.emit_async(name, {"run_id": self.run_id, **payload})
