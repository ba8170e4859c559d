"""Events of the worker bus: what comes in, what goes out, and how both become dicts and come back.

Every class of events has a name, which is what an event that was stored or sent is read back by.
docs/worker.md describes them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional, TypeVar, cast

__all__ = [
    "Event",
    "InboundEvent",
    "NotSerializableError",
    "OutboundEvent",
    "deserialize_event",
    "serialize_event",
]

E = TypeVar("E", bound="Event")

# Held strongly: what was stored must stay readable as long as the program that stored it runs.
_classes: dict[str, type[Event]] = {}


class NotSerializableError(TypeError):
    """An event is to be stored and has something in it that the store cannot give back."""


@dataclass
class Event:
    """Something that happened in a session.

    A subclass is a dataclass, too. It registers itself under its ``event_type``, which is the name
    of the class unless the class body sets another.

    Args:
        session_id: Which conversation it belongs to.
        content: Any JSON value, and what the store encodes beyond that: datetimes, enums,
            dataclasses, bytes.
        timestamp: When it happened, in seconds as ``time.time()`` counts them; now, by default.

    Raises:
        TypeError: From the definition of a subclass, when its ``event_type`` is no text, is empty,
            or belongs to a class that was defined elsewhere, unless both are local to functions.
    """

    session_id: str
    content: Any
    timestamp: float = field(default_factory=time.time)

    event_type: ClassVar[str] = "Event"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # In the class body alone: an inherited name is that of the base class. It is written into
        # the class, because @dataclass(slots=True) makes the class again from what is in it.
        name: object = cls.__dict__.get("event_type", cls.__name__)
        if not isinstance(name, str) or not name:
            raise TypeError(f"event_type of {_place(cls)} must be a text, not {name!r}")
        taken = _classes.get(name)
        if taken is not None and not _is_again(cls, taken):
            raise TypeError(
                f"the event type {name!r} of {_place(cls)} is that of {_place(taken)} already;"
                " set event_type in the class body to another name"
            )
        cls.event_type = name
        _classes[name] = cls

    def to_dict(self) -> dict[str, Any]:
        """Return a fresh dict of ``"type"`` and every field, in order; the values are not copied.

        Raises:
            TypeError: A subclass has a field of the name ``type``.
        """
        values: dict[str, Any] = {"type": type(self).event_type}  # whatever fields it has
        for each in dataclasses.fields(self):
            if each.name == "type":
                raise TypeError(f"{_place(type(self))} has a field 'type', the key of the class")
            values[each.name] = getattr(self, each.name)
        return values

    @classmethod
    def from_dict(cls: type[E], data: Mapping[str, Any]) -> E:
        """Make the event that ``to_dict`` gave this dict of.

        Fields that the class does not have are left out, so that an event which a newer version has
        stored can be read.

        Args:
            data: The fields. With a ``"type"``, which may name a subclass of this class.

        Returns:
            An event of the class that the type names, of this class without one.

        Raises:
            ValueError: The type is unknown or no subclass of this class, or a field that has no
                default is missing.
            TypeError: ``data`` is no mapping.
        """
        if not isinstance(cast(object, data), Mapping):
            raise TypeError(f"an event is made of a mapping, not of {type(data).__name__}")
        found: type[Event] = cls
        if "type" in data:
            found = _class_of(data["type"])
            if not issubclass(found, cls):
                raise ValueError(f"{data['type']} is no {cls.__name__}")
        return cast(E, found(**_arguments_of(found, data)))


_classes[Event.event_type] = Event


@dataclass
class InboundEvent(Event):
    """Something that came in: what a user said, for instance.

    Args:
        session_id: As of ``Event``.
        content: As of ``Event``.
        timestamp: As of ``Event``.
        retry_count: How many attempts to handle it have failed.
    """

    retry_count: int = 0


@dataclass
class OutboundEvent(Event):
    """Something that is to go out: what the agent answers. The one kind that a store keeps.

    Args:
        session_id: As of ``Event``.
        content: As of ``Event``.
        timestamp: As of ``Event``.
        error: What went wrong, when it is no answer.
    """

    # Optional[str]: who asks for the types evaluates this, and in Python 3.9 there is no such `|`.
    error: Optional[str] = None  # noqa: UP045


def serialize_event(event: Event) -> dict[str, Any]:
    """Return an event of any class as a dict, which ``json.dumps`` takes if its content is JSON.

    Args:
        event: An event of any class.

    Raises:
        TypeError: A subclass has a field of the name ``type``.
    """
    return event.to_dict()


def deserialize_event(data: Mapping[str, Any]) -> Event:
    """Return the event that was serialised, of the class that its type names.

    Args:
        data: What ``serialize_event`` or ``to_dict`` has returned.

    Raises:
        ValueError: ``Unknown event type: X``; or it is no mapping, has no type, or lacks a field.
    """
    found, values = parse_event(data)
    return found(**values)


def parse_event(fields: object) -> tuple[type[Event], dict[str, Any]]:
    """Return the class of a serialised event, and the arguments that make the event of it.

    Raises:
        ValueError: As of ``deserialize_event``; its text has no values of fields but the type.
    """
    if not isinstance(fields, Mapping):
        raise ValueError("a serialised event is a mapping")
    if "type" not in fields:
        raise ValueError("a serialised event has a type")
    found = _class_of(fields["type"])
    return found, _arguments_of(found, fields)


def _arguments_of(found: type[Event], data: Mapping[str, Any]) -> dict[str, Any]:
    """Choose from a dict what a class is made of."""
    taken: dict[str, Any] = {}
    for each in dataclasses.fields(found):
        if not each.init:
            continue
        if each.name in data:
            taken[each.name] = data[each.name]
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise ValueError(f"{found.event_type} needs the field {each.name!r}")
    return taken


def _class_of(name: object) -> type[Event]:
    """Return the class that is registered under a name."""
    found = _classes.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"Unknown event type: {name}")
    return found


def _place(cls: type[Any]) -> str:
    """Return where a class was defined."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_again(cls: type[Any], before: type[Any]) -> bool:
    """Whether a class is one that was defined before, defined again.

    That is so in an interactive session or after a reload, when a dataclass with slots is made of
    one without, which has its fields and gets its qualified name later, and when both are local to
    functions, as in tests, each of which defines its own.
    """
    fields = cls.__dict__.get("__dataclass_fields__")
    remade = fields is not None and fields is before.__dict__.get("__dataclass_fields__")
    local = all("<locals>" in each.__qualname__ for each in (cls, before))
    return remade or local or _place(cls) == _place(before)
