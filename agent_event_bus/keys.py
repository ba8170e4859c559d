"""Typed event keys: an event name that knows what payloads the event has."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["EventKey"]

if TYPE_CHECKING:
    from enum import Enum
    from typing import Generic, TypeVar

    T = TypeVar("T")

    class EventKey(Generic[T]):
        """What type checkers know of it.

        That it is a ``str`` is kept from them: a payload that does not fit the key would be
        accepted by what takes a ``str`` and any payload.
        """

        __slots__ = ()

        def __init__(self, name: str | Enum | EventKey[T], /) -> None: ...

        @property
        def name(self) -> str: ...

        def __eq__(self, other: object, /) -> bool: ...

        def __hash__(self) -> int: ...

else:
    from types import GenericAlias

    from agent_event_bus._core import EventBus

    class EventKey(str):
        """An event name, and for type checkers the type of its payloads.

        ``TOOL = EventKey[ToolCalled]("tool.called")`` is accepted wherever an event name is, and
        then payloads and handlers are checked against ``ToolCalled``, see docs/typing.md. At run
        time it is a ``str``, equal to its text, and checks no payload.

        Args:
            name: The event name: text, or a member of an enum whose value is text.

        Raises:
            ValueError: The name is none of an event: it is empty, has an empty segment, or is a
                pattern.
            TypeError: It is no text.
        """

        __slots__ = ()

        def __new__(cls, name, /):
            return super().__new__(cls, _names.emitter(name).name)

        @property
        def name(self):
            """The event name as an exact ``str``."""
            return str(self)

        def __repr__(self):
            return f"{type(self).__name__}({str(self)!r})"

        __class_getitem__ = classmethod(GenericAlias)

    # Emits nothing: it is here for what a bus accepts as an event name.
    _names = EventBus()
