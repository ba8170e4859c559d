"""Programs for tests/worlds.py, made of bytes: every string of bytes is one.

A byte chooses among what is possible at its place, so a small change of the bytes is mostly a small
change of the program. Where the bytes end the first choice is taken, which is a plain one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, TypeVar

from worlds import BAD_KEYS, BAD_NAMES, KEYS, LONG, NAMES, OBJECTS, PAYLOADS, Program, Script

T = TypeVar("T")
STEPS = 12  # at most, in a program
EMISSIONS = ["emit", "emit", "emitter", "publish", "collect"]
REMOVALS = ["cancel", "off", "off handler", "clear", "drop", "look"]


class Reader:
    """Takes choices from bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def below(self, limit: int) -> int:
        self.position += 1
        return self.data[self.position - 1] % limit if self.left >= 0 else 0

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def rarely(self, one_in: int = 4) -> bool:
        return self.below(one_in) == one_in - 1


def name(reader: Reader) -> Any:
    return reader.pick(BAD_NAMES) if reader.rarely(16) else reader.pick(NAMES)


def key(reader: Reader) -> Any:
    return reader.pick(BAD_KEYS) if reader.rarely(16) else reader.pick(KEYS)


def keys(reader: Reader) -> Any:
    return [key(reader) for _ in range(reader.below(4))] if reader.rarely() else key(reader)


def emission(reader: Reader, suffix: str = "") -> Any:
    what = reader.pick(EMISSIONS)
    if what == "publish":
        return (what + suffix, reader.pick(OBJECTS))
    # Only an emission by itself is made of a bad name: an emitter is refused without an event.
    given = name(reader) if what == "emit" else reader.pick(NAMES)
    return (what + suffix, given, reader.pick(PAYLOADS))


def removal(reader: Reader) -> Any:
    what = reader.pick(REMOVALS)
    if what == "off":
        return ("off", key(reader), None if reader.rarely(2) else reader.below(8))
    if what == "off handler":
        return ("off", None, reader.below(8))
    if what == "clear":
        return (what, key(reader))
    return (what, reader.pick(NAMES) if what == "look" else reader.below(8))


def condition(reader: Reader) -> Any:
    kind = reader.below(8)
    if kind < 4:
        return [None, None, {"n": 1}, {"n": 0, "m": 1}][kind]
    operations: list[Callable[[Reader], Any]] = [lambda reader: None, removal, emission, emission]
    operation = operations[kind - 4](reader)
    return (operation, reader.pick([True, False, "raise"]))


def subscribing(reader: Reader) -> Any:
    given, number, flags = keys(reader), reader.below(8), reader.below(256)
    options = {
        "priority": (0, 0, 1, -1)[flags & 3],
        "once": flags & 12 == 12,
        "weak": flags & 16 != 0,
        "envelope": flags & 96 == 96,
        "isolate": flags & 128 == 0,
        "where": condition(reader),
    }
    return ("subscribe", given, number, options)


def script(reader: Reader) -> Script:
    flags = reader.below(256)
    inside: list[Callable[[Reader], Any]] = [emission, removal, subscribing]
    return Script(
        kind=("sync", "async", "late")[flags & 3] if flags & 3 < 3 else "async",
        is_method=flags & 4 != 0,
        ops=tuple(reader.pick(inside)(reader) for _ in range(flags >> 3 & 3 if flags & 32 else 0)),
        end=reader.pick(["ok", "ok", "ok", "ok", "boom", "cancel", "interrupt"]),
        awaits=emission(reader, "_async") if flags & 64 else None,
        turns=LONG if flags & 128 else 0,
        fails_late=reader.rarely(),
    )


def operation(reader: Reader) -> Any:
    kind = reader.below(8)
    if kind < 2:
        return subscribing(reader)
    if kind < 4:
        return removal(reader)
    return emission(reader, "_async" if kind > 5 else "")


def program_of(data: bytes) -> Program:
    """Make the program that these bytes are."""
    reader = Reader(data)
    scripts = [script(reader) for _ in range(1 + reader.below(4))]
    subscriptions = [subscribing(reader) for _ in range(1 + reader.below(6))]
    steps: list[Any] = []
    while reader.left > 0 and len(steps) < STEPS:
        steps.append((operation(reader), reader.rarely(2)))
    return Program(scripts, subscriptions, steps)
