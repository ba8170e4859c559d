"""Payloads and keys that the cases of this directory share.

Nothing here is run. mypy and pyright check that each expression has the type that is asserted, and
that each line with an ignore comment is an error: a comment that nothing needs is an error, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Optional, TypedDict

from agent_event_bus import EventKey


@dataclass
class ToolCalled:
    tool: str


@dataclass
class SearchCalled(ToolCalled):
    query: str


@dataclass
class ModelResponded:
    tokens: int


class Usage(TypedDict):
    tokens: int


class Message(ABC):
    @abstractmethod
    def text(self) -> str: ...


class Names(Enum):
    START = "run.start"


TOOL = EventKey[ToolCalled]("tool.called")
SEARCH = EventKey[SearchCalled]("search.called")
MODEL = EventKey[ModelResponded]("model.responded")
USAGE = EventKey[Usage]("usage")
TICK = EventKey[None]("tick")
PROGRESS = EventKey[Optional[int]]("progress")


def use(value: object) -> None:
    """Takes what would be an error to throw away."""
