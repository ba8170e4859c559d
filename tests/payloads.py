"""Payloads of many kinds, for the tests of how the store keeps them."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections import deque, namedtuple
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import datetime
from enum import Enum, Flag, IntEnum, IntFlag
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest

from agent_event_bus.store import _json
from agent_event_bus.store.encoding import VALUE, decode, encode

BACKENDS = {
    "json": (_json.standard_dump, _json.standard_load),
    "msgspec": (_json.msgspec_dump, _json.msgspec_load),
}


@pytest.fixture(params=BACKENDS, name="backend")
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and write with one of the libraries."""
    dump, load = BACKENDS[request.param]
    monkeypatch.setattr(_json, "dump", dump)
    monkeypatch.setattr(_json, "load", load)


class Colour(Enum):
    RED = "red"
    CRIMSON = "red"  # noqa: PIE796 - an alias is meant
    DEEP = (1, 2)


class Name(str, Enum):
    TOOL = "tool"


class Level(IntEnum):
    LOW = 1


class Rights(Flag):
    READ = 1
    WRITE = 2


class Bits(IntFlag):
    A = 1
    B = 2


@dataclass
class Point:
    x: int
    y: float = 0.5


@dataclass(frozen=True)
class Frozen:
    at: datetime
    inside: tuple[Point, ...] = ()


@dataclass
class Later:
    name: str
    length: int = field(init=False)
    scratch: InitVar[int] = 3
    unset: str = field(init=False)
    made: list[int] = field(init=False, default_factory=list)

    def __post_init__(self, scratch: int) -> None:
        self.length = len(self.name) + scratch


SLOTS: dict[str, Any] = {"slots": True} if sys.version_info >= (3, 10) else {}
Slotted: Any = make_dataclass("Slotted", [("a", int), ("b", str)], frozen=True, **SLOTS)
Slotted.__module__ = __name__


class Pair(NamedTuple):
    left: int
    right: str = "r"


Old = namedtuple("Old", "a b")


class Struct(msgspec.Struct, frozen=True):
    a: int
    b: list[int] = []


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int
    when: datetime
    _secret: int = pydantic.PrivateAttr(default=7)


def there_and_back(value: object) -> Any:
    text, form = encode(value)
    assert form == VALUE
    json.loads(text)
    return decode(text)


def same(left: object, right: object) -> bool:
    """Whether two values are equal, of the same types, bit by bit, with NaN equal to itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        assert isinstance(right, float)
        both = math.isnan(left) and math.isnan(right)
        return both or struct.pack("d", left) == struct.pack("d", right)
    if isinstance(left, (list, tuple, deque)):
        assert isinstance(right, (list, tuple, deque))
        if getattr(left, "maxlen", None) != getattr(right, "maxlen", None):
            return False
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        assert isinstance(right, dict)
        pairs = zip(left.items(), right.items())
        return len(left) == len(right) and all(same(a, b) for a, b in pairs)
    return bool(left == right)
