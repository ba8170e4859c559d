"""What the tests of published objects share: classes of messages, and both ways to publish them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Callable

import pytest


@dataclass
class Message:
    """What the handlers of these tests are subscribed to."""

    text: str = ""


class Inbound(Message):
    """A message that came in."""


def publish(bus: Any, obj: object) -> int:
    """Publish in the sync way."""
    called: int = bus.publish(obj)
    return called


def publish_async(bus: Any, obj: object) -> int:
    """Publish in the async way, in a loop of its own."""
    called: int = asyncio.run(bus.publish_async(obj))
    return called


both = pytest.mark.parametrize("way", [publish, publish_async], ids=["publish", "publish_async"])
Way = Callable[[Any, object], int]


def class_named(qualname: str) -> type[Any]:
    """Return a new class of this qualified name."""
    return type("Named", (), {"__qualname__": qualname})
