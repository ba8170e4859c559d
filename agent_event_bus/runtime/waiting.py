"""What ``EventBus.wait_for`` returns: the waiter of the core, told in terms of the runtime."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Optional, cast

from agent_event_bus.runtime.events import AgentEvent

if TYPE_CHECKING:
    from types import TracebackType

    from agent_event_bus import Event

__all__ = ["Wait"]


class Wait(Coroutine[Any, Any, Optional[AgentEvent]]):
    """A coroutine object that gives an event, or None when its time is up.

    No ``async def`` around the waiter of the core: to close or to drop one that has not begun would
    leave the waiter as it is, and warn.
    """

    __slots__ = ("__weakref__", "_waiter")

    def __init__(self, waiter: Coroutine[Any, Any, Event[Any]]) -> None:
        self._waiter = waiter

    @property
    def __name__(self) -> str:  # type: ignore[override, unused-ignore]
        # What asyncio calls it when it shows the task that awaits it.
        return "wait_for"

    def send(self, value: Any, /) -> Any:
        """Take a step, and put the end in terms of the runtime."""
        try:
            return self._waiter.send(value)
        except StopIteration as end:
            raise StopIteration(end.value.payload) from None
        except TimeoutError:
            raise StopIteration(None) from None

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Any:
        """Throw an exception in where it waits; it comes out, also if it is a TimeoutError."""
        if val is None and tb is None:
            return self._waiter.throw(typ)
        return self._waiter.throw(typ, val, tb)

    def close(self) -> None:
        """Give up waiting."""
        self._waiter.close()

    def __await__(self) -> Generator[Any, Any, AgentEvent | None]:
        """Return itself: its steps are those of the await."""
        return cast("Generator[Any, Any, AgentEvent | None]", self)

    def __iter__(self) -> Wait:
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Take a step."""
        return self.send(None)

    def __repr__(self) -> str:
        """Say what it waits for, and how that stands."""
        return repr(self._waiter)
