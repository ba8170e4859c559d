"""Reads recorded runs: one JSON object a line, `{"event": NAME, "payload": {...}}`.

A trace comes from anywhere, so every line is checked before its event reaches the bus, and every
fault names the file and the line. What a line may cost is limited: its length, its depth and the
size of its numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import IO, Any, NoReturn

__all__ = ["TraceError", "TraceReader", "open_trace"]

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 100
MAX_DIGITS = 400


class TraceError(Exception):
    """A trace that cannot be read; the text begins with the file and, where known, the line.

    Args:
        message: what is wrong, and where.
        skippable: whether it is one malformed line, which `skip_bad` would have skipped.
    """

    def __init__(self, message: str, *, skippable: bool = False) -> None:
        super().__init__(message)
        self.skippable = skippable


class _BadLineError(ValueError):
    """What is wrong with one line, in the user's words."""


def open_trace(path: str) -> IO[bytes]:
    """Open a trace for reading bytes.

    Raises:
        TraceError: the file is missing, a directory, or cannot be read.
    """
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL character in it.
        reason = getattr(error, "strerror", None) or str(error)
        raise TraceError(f"{path}: {reason}") from None


class TraceReader:
    """Iterates over the events of a trace as `(name, payload)`.

    Args:
        stream: the trace, open for reading bytes.
        label: what error messages call it, as a rule its path.
        skip_bad: skip and count malformed lines instead of raising.

    Attributes:
        line: number of the last line read, from 1.
        bytes_read, total_bytes: how far it is; `total_bytes` is None when the size is unknown.
        events: how many events it has produced.
        bad_lines: how many malformed lines it has skipped.
        bad_samples: what was wrong with the first few of them.

    Raises:
        TraceError: while iterating, at a malformed line unless `skip_bad`; in any case at a read
            error, in a binary file, or at the end of a trace without a single event.
    """

    def __init__(self, stream: IO[bytes], label: str, *, skip_bad: bool = False) -> None:
        self.stream = stream
        self.label = label
        self.skip_bad = skip_bad
        self.line = 0
        self.bytes_read = 0
        self.total_bytes = _size_of(stream)
        self.events = 0
        self.bad_lines = 0
        self.bad_samples: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        while True:
            raw = self._read_line()
            if not raw:
                break
            try:
                event = self._parse(raw)
            except _BadLineError as fault:
                self._refuse(str(fault))
                self._pass_over_rest(raw)
                continue
            if event is not None:
                self.events += 1
                yield event
        if not self.events:
            bad = f", {self.bad_lines} malformed lines" if self.bad_lines else ""
            raise TraceError(f"{self.label}: no event in the file ({self.line} lines{bad})")

    def _read_line(self) -> bytes:
        """Return the next line, or what of it is within the limit; nothing at the end."""
        raw = self._read()
        if raw:
            self.line += 1
        return raw

    def _pass_over_rest(self, raw: bytes) -> None:
        """Read on to the end of a line that is too long, without holding it in memory."""
        while len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            raw = self._read()

    def _read(self) -> bytes:
        try:
            raw = self.stream.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise TraceError(f"{self.label}:{self.line + 1}: {error.strerror or error}") from None
        self.bytes_read += len(raw)
        return raw

    def _parse(self, raw: bytes) -> tuple[str, Any] | None:
        """Return the event of a line, None for a blank one."""
        if b"\0" in raw:
            if not self.events:
                # Skipping through a binary file would find nothing but noise.
                raise TraceError(f"{self.label}:{self.line}: NUL byte, this is a binary file")
            raise _BadLineError("NUL byte")
        if len(raw) > MAX_LINE_BYTES:
            raise _BadLineError(f"the line is longer than {MAX_LINE_BYTES // 1024 // 1024} MiB")
        if self.line == 1 and raw.startswith(b"\xef\xbb\xbf"):
            raw = raw[3:]
        if not raw.strip():
            return None
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            hint = "" if self.events else "; is this a binary file?"
            byte = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
            raise _BadLineError(f"not UTF-8 text ({byte}){hint}") from None
        return _event_of(_load(text, cut_off=not raw.endswith(b"\n")))

    def _refuse(self, fault: str) -> None:
        message = f"{self.label}:{self.line}: {fault}"
        if not self.skip_bad:
            raise TraceError(message, skippable=True)
        self.bad_lines += 1
        if len(self.bad_samples) < 3:
            self.bad_samples.append(message)


def _size_of(stream: IO[bytes]) -> int | None:
    """Return the size in bytes of a regular file; what comes through a pipe has none."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except (OSError, ValueError):
        return None


def _load(text: str, *, cut_off: bool) -> Any:
    try:
        value = json.loads(
            text, parse_int=_parse_int, parse_float=_parse_float, parse_constant=_parse_constant
        )
    except json.JSONDecodeError as error:
        fault = f"not valid JSON: {error.msg} (column {error.colno})"
        raise _BadLineError(f"{fault}; the last line is cut off" if cut_off else fault) from None
    except RecursionError:
        raise _BadLineError(f"nested more than {MAX_DEPTH} levels deep") from None
    # The number of brackets bounds the depth, so nearly every line is spared the walk.
    if text.count("{") + text.count("[") > MAX_DEPTH and _is_too_deep(value):
        raise _BadLineError(f"nested more than {MAX_DEPTH} levels deep")
    return value


def _is_too_deep(value: Any) -> bool:
    level = _containers_in([value])
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _containers_in(each)]
        if not level:
            return False
    return True


def _containers_in(value: Any) -> list[Any]:
    members = value.values() if isinstance(value, dict) else value
    return [member for member in members if isinstance(member, (dict, list))]


def _parse_int(digits: str) -> int:
    # Converting digits takes quadratic time.
    if len(digits) > MAX_DIGITS:
        raise _BadLineError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _BadLineError("a number is too large")
    return value


def _parse_constant(text: str) -> NoReturn:
    raise _BadLineError(f"{text} is not valid JSON")


def _event_of(value: Any) -> tuple[str, Any]:
    if not isinstance(value, dict):
        raise _BadLineError(f'expected an object with "event" and "payload", got {_kind(value)}')
    if "event" not in value:
        raise _BadLineError('the field "event" is missing')
    name = value["event"]
    if not isinstance(name, str):
        raise _BadLineError(f'"event" must be a string, got {_kind(name)}')
    if not name:
        raise _BadLineError('"event" is empty')
    if "*" in name:
        raise _BadLineError(f'"event" is {name[:80]!r}: a name has no "*"')
    if "" in name.split("."):
        raise _BadLineError(f'"event" is {name[:80]!r}: a name has no empty segment')
    if "payload" not in value:
        raise _BadLineError('the field "payload" is missing')
    payload = value["payload"]
    if payload is not None and not isinstance(payload, dict):
        raise _BadLineError(f'"payload" must be an object or null, got {_kind(payload)}')
    return name, payload


def _kind(value: Any) -> str:
    """Return what JSON calls this kind of value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (int, float)):
        return "a number"
    return "an array" if isinstance(value, list) else "an object"
