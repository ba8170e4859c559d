"""Which events a subscription of tests/model.py gets, and how: keys, patterns and conditions."""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache, partial
from typing import Any, NamedTuple

NAME = r"[^.*]+(\.[^.*]+)*"
KEY = r"((\*|[^.*]+)\.)*(\*\*?|[^.*]+)"
MISSING = object()


def checked(key: Any, rule: str = KEY) -> Any:
    key = key.value if isinstance(key, Enum) else key
    if not isinstance(key, str if rule is NAME else (str, type)):
        raise TypeError(key)
    if isinstance(key, str) and not re.fullmatch(rule, key):
        raise ValueError(key)
    return "*" if key == "**" else key


@lru_cache
def matches(key: Any, name: str) -> bool:
    parts = {"*": "[^.]+", "**": ".+"}
    rule = r"\.".join(parts.get(part, re.escape(part)) for part in str(key).split("."))
    return key == "*" or (isinstance(key, str) and re.fullmatch(rule, name) is not None)


def has_fields(fields: dict[str, Any], payload: Any) -> bool:
    get = payload.get if isinstance(payload, Mapping) else partial(getattr, payload)
    found = ((get(field, MISSING), value) for field, value in fields.items())
    return all(item is value or (item is not MISSING and item == value) for item, value in found)


class Event(NamedTuple):
    name: str
    payload: Any
    seq: int
    bases: tuple[Any, ...]  # the MRO of a published object

    def form(self, keys: Any) -> str:
        """Return in which form it comes by these keys: "exact", "named", or "" for not at all."""
        if any(exact in keys for exact in (self.name, *self.bases)):
            return "exact"
        return "named" if any(matches(key, self.name) for key in keys) else ""


class Subscription:
    priority, once, weak, envelope, isolate = 0, False, False, False, True
    where: Any = None

    def __init__(self, number: int, keys: Any, handler: Any, options: dict[str, Any]) -> None:
        self.__dict__.update(options)
        self.id, self.keys, self.calls, self.failures = number, keys, 0, 0
        self.is_async, self.subscribed = inspect.iscoroutinefunction(handler), True
        reference = weakref.WeakMethod if inspect.ismethod(handler) else weakref.ref
        self.held: Any = reference(handler) if self.weak else handler
        if isinstance(self.where, Mapping):
            self.where = partial(has_fields, dict(self.where))

    @property
    def handler(self) -> Any:
        return self.held() if self.weak else self.held

    @property
    def active(self) -> bool:
        return self.subscribed and self.handler is not None

    def cancel(self) -> bool:
        was, self.subscribed = self.active, False
        return was
