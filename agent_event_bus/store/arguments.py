"""Checks of what callers give; each names the argument in a TypeError or ValueError."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["consumer", "count", "number", "run_id", "seconds", "storable", "timestamp"]


def number(name: str, value: Any, types: tuple[type, ...] = (int,)) -> Any:
    """Return a number of these types; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, types):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    return value


def count(name: str, value: Any) -> int:
    """Return a whole number that is not negative."""
    if number(name, value) < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return min(int(value), 2**63 - 1)  # more than SQLite counts


def seconds(name: str, value: Any) -> float:
    """Return a time that is not negative."""
    number(name, value, (int, float))
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return float(value)


def run_id(value: Any) -> str | None:
    """Return the run of an event, an exact string or None."""
    if value is None or type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"run_id must be a string, not {type(value).__name__}")


def consumer(value: Any) -> str:
    """Return the name of a consumer as it is written."""
    if not isinstance(value, str):
        raise TypeError(f"consumer must be a string, not {type(value).__name__}")
    if not value:
        raise ValueError("consumer must not be empty")
    return storable(str.__str__(value))


def timestamp(value: Any) -> float | None:
    """Return a timestamp as a float, or None.

    Raises:
        TypeError: It is no number.
        ValueError: It is not finite.
    """
    if value is None:
        return None
    if type(value) is float and math.isfinite(value):
        return value + 0.0  # SQLite has no -0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"timestamp must be a number of seconds, not {type(value).__name__}")
    try:
        when = float(value)
    except OverflowError:
        when = math.inf
    if not math.isfinite(when):
        raise ValueError("timestamp must be a finite number of seconds")
    return when + 0.0


def storable(text: str) -> str:
    """Return text as it can be written: a lone surrogate, which UTF-8 has not, is escaped."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
