"""Buses without plumbing: a registry of named ones, and the current one of a context.

The registry is global to the process, like that of ``logging``: code in any thread or task that
asks for a name gets the same bus. The current bus travels in a context variable, like the context
of ``decimal``: tasks and copied contexts inherit it, other threads do not.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar, cast

from agent_event_bus._bus import EventBus

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["current_bus", "get_bus", "use_buses"]

BusT = TypeVar("BusT", bound=EventBus)
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

Registry = dict[str, EventBus]

_registries: list[Registry] = [{}]
"""The process's own registry, and one for each use_buses() that is open; the last is in use."""

_lock = threading.RLock()
"""Held while a bus is entered into a registry. Re-entrant, for a finaliser may ask for a bus."""


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # Another thread may have held it when the process was forked, and is not there to let go of it.
    os.register_at_fork(after_in_child=_renew_lock)


# The registry


def get_bus(name: str = "default", **options: Any) -> EventBus:
    """Return the bus of this name, which is made when it is first asked for.

    A bus that has been closed is of no use to anybody, so the next call makes a new one.

    Args:
        name: Any text. The bus has it as its ``name``.
        **options: Those of ``EventBus``, for the call that makes the bus.

    Returns:
        The same object for the same name, in every thread.

    Raises:
        TypeError: The name is no ``str``, or an option is unknown or of a wrong type.
        ValueError: Options are given and there is a bus of this name, or an option has a bad value.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    found = _registries[-1].get(name)
    if found is None or found.closed:
        # Made outside the lock, for the options may come with code of their own.
        fresh = EventBus(name, **options)
        with _lock:
            registry = _registries[-1]
            found = registry.get(name)  # another thread may have been faster
            if found is None or found.closed:
                registry[name] = fresh
                return fresh
    if options:
        given = ", ".join(options)
        raise ValueError(
            f"the bus {name!r} exists already, so it cannot be given options ({given})"
        )
    return found


class FreshBuses:
    """What ``use_buses()`` returns: a context manager and decorator, for one block at a time."""

    __slots__ = ("_registry",)

    def __init__(self) -> None:
        self._registry: Registry | None = None

    def __enter__(self) -> None:
        """Begin with no buses.

        Raises:
            RuntimeError: The block was entered already.
        """
        if self._registry is not None:
            raise RuntimeError("this use_buses() block was entered already")
        self._registry = {}
        _registries.append(self._registry)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Bring back the buses that were there before."""
        registry, self._registry = self._registry, None
        # Not simply the last one, for overlapping blocks may end in any order. By identity, because
        # all empty dicts are equal.
        del _registries[[id(each) for each in _registries].index(id(registry))]

    def __call__(self, function: FunctionT) -> FunctionT:
        """Return a function each call of which is inside a block of its own.

        Raises:
            TypeError: It is a class, or a generator function, which would run after the block.
        """
        import functools
        import inspect

        if (
            isinstance(function, type)
            or inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise TypeError(
                "use_buses() decorates functions and coroutine functions: in what is none of them, "
                "write `with use_buses():`"
            )
        wrapped: Any
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with FreshBuses():
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with FreshBuses():
                    return function(*args, **kwargs)

        return cast("FunctionT", wrapped)


def use_buses() -> FreshBuses:
    """Give a test a registry of its own: ``with use_buses():``, or as a decorator.

    Inside, in all threads and tasks, ``get_bus`` begins with no buses at all and ``current_bus``
    knows no scope that was entered outside. At the end what was there before is back. Such blocks
    may be nested; where several overlap, in concurrent tasks say, the one entered last is in use.
    The buses made inside are not closed at the end.

    Returns:
        A context manager, which decorates functions and coroutine functions, too. Each call of
        those is inside a block of its own.
    """
    return FreshBuses()


# The current bus


class _Scope(Generic[BusT]):
    """One passage through a ``with bus.as_current():`` block. Those that enclose it follow."""

    __slots__ = ("bus", "enclosing", "manager", "registry", "token")

    token: Token[_Scope[Any] | None]

    def __init__(self, manager: CurrentBus[BusT], enclosing: _Scope[Any] | None) -> None:
        self.bus = manager.bus
        self.manager = manager
        self.enclosing = enclosing
        self.registry = _registries[-1]


_current: ContextVar[_Scope[Any] | None] = ContextVar("agent_event_bus.current", default=None)


class CurrentBus(Generic[BusT]):
    """What ``bus.as_current()`` returns: a context manager, which may be used again and nested."""

    __slots__ = ("bus",)

    def __init__(self, bus: BusT) -> None:
        self.bus = bus

    def __enter__(self) -> BusT:
        """Make the bus the current one of this context, and return it."""
        scope = _Scope(self, _current.get())
        scope.token = _current.set(scope)
        return self.bus

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the bus that was current before.

        Raises:
            RuntimeError: The block was entered in another context, or not at all.
        """
        innermost = _current.get()
        within: list[_Scope[Any]] = []
        scope = innermost
        while scope is not None and scope.manager is not self:
            within.append(scope)
            scope = scope.enclosing
        if scope is None:
            raise RuntimeError("as_current() cannot end here: it was not entered in this context")
        try:
            _current.reset(scope.token)  # knows the context that it was made in
        except (ValueError, RuntimeError) as error:
            raise RuntimeError(
                "as_current() cannot end here: it was entered in another context, of which this "
                "one is a copy"
            ) from error
        if within:
            # Blocks inside this one are still open: they stay in force, and now lead past it.
            within[-1].enclosing = scope.enclosing
            _current.set(innermost)
        else:
            _current.set(scope.enclosing)  # what the token restores may have ended meanwhile


def current_bus() -> EventBus:
    """Return the bus of the innermost ``with bus.as_current():`` block, or the default bus.

    Tasks, and functions that run in a copy of the context, as ``asyncio.to_thread`` does it, are
    inside the blocks that they were started in. A new ``threading.Thread`` is outside all of them
    (unless it inherits its context, as it may from Python 3.14 on).

    Returns:
        That bus, also when it is closed; outside every block ``get_bus()``.
    """
    scope = _current.get()
    if scope is not None and scope.registry is _registries[-1]:
        bus: EventBus = scope.bus
        return bus
    return get_bus()
