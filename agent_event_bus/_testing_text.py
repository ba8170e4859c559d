"""How the assertions of ``agent_event_bus.testing`` show keys, values and differences.

Values are of any kind: long ones are cut short, and one whose ``repr()`` raises is survived.
"""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "bounded",
    "differences",
    "exception_text",
    "handler_place",
    "joined",
    "listed",
    "named",
    "place",
    "qualified_name",
    "shown",
    "similar",
    "times_text",
    "where_text",
]

_MISSING = object()


# Values


class _Repr(reprlib.Repr):
    """Shows enough of a value to tell it from another one, on one line."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 10
        self.maxstring = self.maxlong = 80
        self.maxother = 160

    def repr_instance(self, x: object, level: int) -> str:
        try:
            text = repr(x)
        except Exception as error:
            return f"<{type(x).__qualname__} whose repr() raised {type(error).__qualname__}>"
        text = " ".join(text.split()) if "\n" in text else text
        if len(text) > self.maxother:
            half = (self.maxother - 3) // 2
            text = f"{text[:half]}...{text[-half:]}"
        return text


_repr = _Repr()


def shown(value: object) -> str:
    """Return a value as text of bounded length."""
    try:
        return _repr.repr(value)
    except Exception:  # reprlib looks into whatever calls itself a list, say
        return _repr.repr_instance(value, 0)


def where_text(where: object) -> str:
    """Return a condition as text: a mapping as it is, a callable by its name and place."""
    if isinstance(where, Mapping):
        try:
            return shown(dict(where))
        except Exception:
            return shown(where)
    return qualified_name(where) + handler_place(where)


def exception_text(exception: BaseException) -> str:
    """Return type and text of an exception."""
    try:
        text = str(exception)
    except Exception:
        text = ""
    kind = type(exception).__qualname__
    return f"{kind}: {text}" if text else kind


# Names


def named(key: object) -> str:
    """Return a key as it is written: a string quoted, a class by its name."""
    return key.__qualname__ if isinstance(key, type) else repr(key)


def qualified_name(handler: object) -> str:
    """Return what the bus calls a handler in its reports."""
    name = getattr(handler, "__qualname__", None)
    return name if isinstance(name, str) else type(handler).__qualname__


def similar(keys: Iterable[object], names: Sequence[str]) -> str | None:
    """Return the name that somebody may have meant who has written one of the keys."""
    for key in keys:
        written = key.__qualname__ if isinstance(key, type) else str(key)
        if len(written) <= 200:  # it takes quadratic time
            near = difflib.get_close_matches(written, set(names) - {written}, n=1)
            if near:
                return near[0]
    return None


def handler_place(handler: Any) -> str:
    """Return where the code of a function, or of what is made of one, stands; or nothing."""
    for _ in range(20):
        inner = None
        for attribute in ("__wrapped__", "__func__", "func"):
            inner = inner or getattr(handler, attribute, None)
        if inner is None:
            break
        handler = inner
    code = getattr(handler, "__code__", None)
    file, line = getattr(code, "co_filename", None), getattr(code, "co_firstlineno", None)
    return f" ({place(file, line)})" if isinstance(file, str) and isinstance(line, int) else ""


def place(file: str, line: int) -> str:
    """Return file and line, the file relative to the working directory where it is inside."""
    here = os.path.join(os.getcwd(), "")
    return f"{file[len(here) :] if file.startswith(here) else file}:{line}"


# Lists


def joined(texts: Iterable[str]) -> str:
    """Return alternatives as text."""
    return " or ".join(texts)


def listed(texts: Sequence[str], limit: int = 12) -> str:
    """Return texts with commas between them, and how many more there are."""
    more = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {more} more" if more > 0 else "")


def bounded(entries: Iterable[str], limit: int = 5) -> list[str]:
    """Return entries as indented lines, and how many more there are."""
    lines = [f"  {entry}" for entry in entries]
    more = len(lines) - limit
    return lines if more <= 0 else [*lines[:limit], f"  and {more} more"]


def times_text(count: int) -> str:
    """Return how often something has happened."""
    return "once" if count == 1 else f"{count} times"


# Differences


def differences(payload: object, where: Mapping[str, Any], fields: Iterable[str]) -> list[str]:
    """Return a line for each of these fields, with the value expected and the one there is."""
    return [f"{field}: expected {shown(where[field])}, {_got(payload, field)}" for field in fields]


def _got(payload: Any, field: str) -> str:
    """Say what a payload has in a field. What counts as its fields is as for `where`."""
    try:
        if isinstance(payload, dict):
            value = dict.get(payload, field, _MISSING)
        elif hasattr(type(payload), "keys") and not isinstance(payload, type):
            try:
                value = payload[field]
            except KeyError:
                value = _MISSING
        else:
            value = getattr(payload, field, _MISSING)
    except Exception as error:
        return f"but reading it raised {exception_text(error)}"
    return "but it is missing" if value is _MISSING else f"got {shown(value)}"
