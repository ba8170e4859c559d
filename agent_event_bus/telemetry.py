"""Telemetry routers, and a handler that persists what they route.

``TelemetryRouter`` and ``ProductionTelemetryRouter`` are a bus with the method names and the order
that users of telemetry routers know: exact handlers, then wildcard ones, then one-shot ones. What
a delivery does, and what becomes of a handler that fails, is what the bus does, see
docs/semantics.md; what is different is in docs/telemetry.md.
"""

# Which of several overloads is taken is the point of them, as in _typed.pyi.
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Any, overload

from agent_event_bus import EventBus
from agent_event_bus._persistence import PersistenceHandler

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import TypedDict

    from typing_extensions import Self, Unpack

    from agent_event_bus import EventKey, Subscription
    from agent_event_bus._types import (
        BinaryT,
        Decorator,
        EveryEvent,
        Payload,
        R,
        T,
        Text,
        UnaryOrBinaryT,
    )

    class RouterOptions(TypedDict, total=False):
        """Options of ``EventBus`` that both routers take; ``logger`` is none of them."""

        name: str | None
        history: int
        on_error: Callable[[str, Callable[..., object], Exception], object] | None
        loop: asyncio.AbstractEventLoop | None
        max_concurrency: int | None
        handler_timeout: float | None
        timing: bool
        strict: bool
        async_only: bool

    class PlainRouterOptions(RouterOptions, total=False):
        """Those that ``ProductionTelemetryRouter`` has under names of its own."""

        max_pending: int | None
        slow_after: float | None


__all__ = ["PersistenceHandler", "ProductionTelemetryRouter", "TelemetryRouter"]

LOGGER = "telemetry.router"
"""The logger of both routers."""

_BAND = 1 << 61
"""How many priorities each group of handlers has: half of them negative. Three fit in 64 bits."""
_EXACT, _WILDCARD, _ONCE = (group * _BAND for group in range(3))
"""The priority on the bus that stands for priority 0 in a group. That of exact handlers is 0, so
that handlers which are subscribed to ``router.bus`` directly stand among them."""


class TelemetryRouter:
    """Routes telemetry events to handlers of their name, of patterns and of every event.

    Handlers run in three groups: those of the exact name, then those of patterns and ``"*"``, then
    one-shot ones; each in ascending priority, then in order of registration. Sync handlers all run
    before the first async one is started. A ``PersistenceHandler`` runs before all others.

    Failures of handlers are logged to the logger ``telemetry.router`` and reach nobody else.

    ``async with TelemetryRouter() as router:`` waits at its end for what ``emit`` has scheduled,
    and closes the router. docs/telemetry.md has more.

    Args:
        **options: Those of ``EventBus``, other than ``logger``.

    Raises:
        TypeError, ValueError, OverflowError: What ``EventBus`` raises for a bad option.
    """

    _bus: EventBus
    _labels: dict[int, str]
    # By the id of the subscription, so that no handler is held that has been removed.

    # emit and emit_async are those of the bus, kept in slots: what wraps them would take longer
    # than they do. A subclass that overrides one reaches it through super() all the same.
    if TYPE_CHECKING:

        @overload
        def emit(self, name: EventKey[T], payload: Payload[T], /) -> int: ...
        @overload
        def emit(self, name: EventKey[T | None], /) -> int: ...
        @overload
        def emit(self, name: Text, payload: Any = None, /) -> int: ...
        def emit(self, name: Any, payload: Any = None, /) -> int: ...

        @overload
        def emit_async(
            self, name: EventKey[T], payload: Payload[T], /
        ) -> Coroutine[Any, Any, int]: ...
        @overload
        def emit_async(self, name: EventKey[T | None], /) -> Coroutine[Any, Any, int]: ...
        @overload
        def emit_async(self, name: Text, payload: Any = None, /) -> Coroutine[Any, Any, int]: ...
        def emit_async(self, name: Any, payload: Any = None, /) -> Coroutine[Any, Any, int]: ...

    else:
        __slots__ = {
            "__dict__": "",
            "__weakref__": "",
            "_bus": "",
            "_labels": "",
            "emit": """emit(name, payload=None, /)

Deliver an event; never raise because of a handler.

Sync handlers are called inline. In a running event loop async ones are scheduled, and nobody waits
for them; without one they run to completion.

Args:
    name: The event name.
    payload: What the handlers get.

Returns:
    How many handlers were called or scheduled, failing ones included.

Raises:
    ValueError: The name is none of an event: it is empty, has an empty segment, or is a pattern.
    TypeError: It is no string.
""",
            "emit_async": """emit_async(name, payload=None, /)

Return a coroutine object that delivers an event when it is awaited.

It calls the sync handlers, starts the async ones, which run concurrently, and waits for all.

Args:
    name: The event name.
    payload: What the handlers get.

Returns:
    A coroutine object that gives how many handlers were called. Awaiting it raises for a bad name
    what ``emit`` raises.
""",
        }

    def __init__(self, **options: Unpack[PlainRouterOptions]) -> None:
        self._make_bus({}, options)

    def _make_bus(self, own: dict[str, Any], options: Any) -> None:
        """Make the bus, with options of the router's own and those of its caller."""
        own["logger"] = logging.getLogger(LOGGER)
        for name in own:
            if name in options:
                kind = type(self).__name__
                raise TypeError(f"{kind}() got an unexpected keyword argument {name!r}")
        self._bus = EventBus(**own, **options)
        self._labels = {}
        for name, slot in _SLOTS.items():
            # Into the slot, past what a subclass may have put before it.
            slot.__set__(self, getattr(self._bus, name))

    @property
    def bus(self) -> EventBus:
        """The bus under the router, for what the router has no method for: streams, history."""
        return self._bus

    # Subscribing

    @overload
    def subscribe(
        self, event_name: EveryEvent, handler: None = None, *, priority: int = 0
    ) -> Callable[[BinaryT], BinaryT]: ...

    @overload
    def subscribe(
        self, event_name: EventKey[T], handler: None = None, *, priority: int = 0
    ) -> Decorator[T]: ...

    @overload
    def subscribe(
        self, event_name: Text, handler: None = None, *, priority: int = 0
    ) -> Callable[[UnaryOrBinaryT], UnaryOrBinaryT]: ...

    @overload
    def subscribe(
        self, event_name: EventKey[T], handler: Callable[[T], R], *, priority: int = 0
    ) -> Callable[[T], R]: ...

    @overload
    def subscribe(
        self, event_name: Text, handler: UnaryOrBinaryT, *, priority: int = 0
    ) -> UnaryOrBinaryT: ...

    def subscribe(self, event_name: Any, handler: Any = None, *, priority: int = 0) -> Any:
        """Subscribe a handler to an event name, a pattern of names, or ``"*"``.

        Also a decorator, when ``handler`` is omitted.

        Args:
            event_name: A name, whose handlers get ``(payload)``; or a pattern or ``"*"``, whose
                handlers are wildcard ones and get ``(event_name, payload)``.
            handler: The handler, sync or async.
            priority: Lower runs first, within the group of the handler. From ``-2**60`` to
                ``2**60 - 1``.

        Returns:
            The handler unchanged, or a decorator that does the same.

        Raises:
            TypeError, ValueError: A bad name, or a handler that ``EventBus`` would refuse.
            OverflowError: The priority is out of range.
            RuntimeError: The router is closed.
        """
        return self._subscribe(event_name, handler, priority)

    @overload
    def subscribe_once(
        self, event_name: EveryEvent, handler: None = None, *, priority: int = 0
    ) -> Callable[[BinaryT], BinaryT]: ...

    @overload
    def subscribe_once(
        self, event_name: EventKey[T], handler: None = None, *, priority: int = 0
    ) -> Decorator[T]: ...

    @overload
    def subscribe_once(
        self, event_name: Text, handler: None = None, *, priority: int = 0
    ) -> Callable[[UnaryOrBinaryT], UnaryOrBinaryT]: ...

    @overload
    def subscribe_once(
        self, event_name: EventKey[T], handler: Callable[[T], R], *, priority: int = 0
    ) -> Callable[[T], R]: ...

    @overload
    def subscribe_once(
        self, event_name: Text, handler: UnaryOrBinaryT, *, priority: int = 0
    ) -> UnaryOrBinaryT: ...

    def subscribe_once(self, event_name: Any, handler: Any = None, *, priority: int = 0) -> Any:
        """Subscribe a handler whose first delivery removes it.

        It runs in the last group, whatever it is subscribed to. Arguments, result and errors are
        those of ``subscribe``.
        """
        return self._subscribe(event_name, handler, priority, once=True)

    @overload
    def subscribe_all(
        self, handler_or_label: str | None = None, *, priority: int = 0
    ) -> Callable[[BinaryT], BinaryT]: ...

    @overload
    def subscribe_all(self, handler_or_label: BinaryT, *, priority: int = 0) -> BinaryT: ...

    def subscribe_all(self, handler_or_label: Any = None, *, priority: int = 0) -> Any:
        """Subscribe a handler of every event, which gets ``(event_name, payload)``.

        Also a decorator, with a label or with nothing: ``@router.subscribe_all``,
        ``@router.subscribe_all()`` and ``@router.subscribe_all("audit")`` all work.

        Args:
            handler_or_label: The handler; or a label for the handler that the decorator gets, under
                which ``stats()`` counts it and ``unsubscribe("*", label)`` removes it. Handlers may
                share a label.
            priority: As for ``subscribe``.

        Returns:
            The handler unchanged, or a decorator that does the same.

        Raises:
            TypeError, ValueError, OverflowError, RuntimeError: As for ``subscribe``. An empty label
                is a ``ValueError``.
        """
        if not isinstance(handler_or_label, str):
            return self._subscribe("*", handler_or_label, priority)
        if not handler_or_label:
            raise ValueError("a label must not be empty")
        return self._subscribe("*", None, priority, label=handler_or_label)

    def unsubscribe(self, event_name: Text | EventKey[Any], handler: object) -> int:
        """Remove a handler from an event name, a pattern, or ``"*"``, one-shot ones included.

        Args:
            event_name: What it was subscribed to; ``"*"`` for handlers of every event.
            handler: The handler, or for ``"*"`` the label of one or more.

        Returns:
            How many subscriptions were removed; 0 when there was none.

        Raises:
            TypeError: ``event_name`` is no key, or ``handler`` neither callable nor a label.
            ValueError: ``event_name`` is malformed, or is not ``"*"`` where there is a label.
        """
        if isinstance(handler, str):
            if _text(event_name) not in ("*", "**"):
                raise ValueError(f"label {handler!r}: only handlers of '*' have labels")
            return sum(each.cancel() for label, each in self._labelled() if label == handler)
        if not callable(handler):
            raise TypeError(f"handler must be callable or a label, not {type(handler).__name__}")
        key: Any = event_name
        if key is None:  # which would mean every key
            raise TypeError("event_name must be a key, not None")
        return self._bus.off(key, handler)

    def _subscribe(
        self,
        key: Any,
        handler: Any,
        priority: int,
        *,
        once: bool = False,
        label: str | None = None,
    ) -> Any:
        """Subscribe to the bus at the rank of the handler's group, or return what does so."""
        if isinstance(key, (list, tuple)):
            raise TypeError(f"one name or pattern at a time, not a {type(key).__name__}")
        pattern = "*" in _text(key)
        ranked = _ranked(priority, _ONCE if once else _WILDCARD if pattern else _EXACT)

        def add(handler: Any) -> Any:
            rank = ranked
            if isinstance(handler, PersistenceHandler):
                if not pattern:
                    raise TypeError("a PersistenceHandler takes patterns, such as '*', not a name")
                rank = PersistenceHandler.FIRST
            added = self._bus.subscribe(key, handler, priority=rank, once=once)
            if label is not None:
                self._labelled()
                self._labels[added.id] = label
            return handler

        if handler is not None:
            return add(handler)
        # A bad key is refused now, and not when the decorator that this makes is used: a function
        # under `@router.subscribe` without parentheses would be taken for a key in silence.
        self._bus.on(key, priority=ranked, once=once)
        return add

    def _labelled(self) -> list[tuple[str, Subscription]]:
        """Forget labels whose subscriptions have ended, and return the others with theirs.

        Each change of the labels is one operation of its own, so that threads need no lock here.
        """
        labels = self._labels.copy()  # first: what is in it and not on the bus has ended
        found = [
            (labels.pop(each.id), each) for each in self._bus.subscriptions() if each.id in labels
        ]
        for ended in labels:
            self._labels.pop(ended, None)
        return found

    # Looking at it, and its end

    def stats(self) -> dict[str, Any]:
        """Return what the router has counted.

        Returns:
            What ``EventBus.stats()`` returns, among it ``emitted``, ``delivered``, ``failed``,
            ``dropped`` and ``pending``; and ``labels``, which has for each label the ``calls`` and
            ``failures`` of its handlers.
        """
        labels: dict[str, dict[str, int]] = {}
        for label, each in self._labelled():
            counted = labels.setdefault(label, {"calls": 0, "failures": 0})
            counted["calls"] += each.calls
            counted["failures"] += each.failures
        return {**self._bus.stats(), "labels": labels}

    async def drain(self, timeout: float | None = None) -> list[str]:
        """Wait until all async deliveries that ``emit`` has scheduled are over.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            What is still unfinished, each as ``"event -> handler qualname"``.

        Raises:
            TypeError, ValueError: ``timeout`` is no number, negative or NaN.
        """
        return await self._bus.drain(timeout)

    async def aclose(self) -> None:
        """Cancel what ``emit`` has scheduled, wait for that, and close the router.

        From then on it delivers nothing, which a warning says once. To lose nothing, drain first,
        as ``async with`` does.
        """
        await self._bus.aclose()

    async def __aenter__(self) -> Self:
        """Return the router."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain, then close, also when the body raised."""
        try:
            await self.drain()
        finally:
            await self.aclose()

    def __repr__(self) -> str:
        """Tell the name and the number of subscriptions."""
        name = "" if self._bus.name is None else f" {self._bus.name!r}"
        count = len(self._bus)
        return f"<{type(self).__name__}{name}: {count} subscription{'' if count == 1 else 's'}>"


# Looked up once: while a test has put a mock in their place, routers can be made all the same.
_SLOTS = {name: vars(TelemetryRouter)[name] for name in ("emit", "emit_async")}


class ProductionTelemetryRouter(TelemetryRouter):
    """A telemetry router with a bound on what it schedules and a warning about slow events.

    It has the methods of ``TelemetryRouter``, too.

    Args:
        max_handler_queue: How many async deliveries that ``emit`` has scheduled may be unfinished.
            Past it the newest are dropped: ``stats()["dropped"]`` counts them, and a warning says
            so once per second at most. None sets no limit.
        alert_after: Seconds that routing one event may take before a warning names the event, how
            long it took, and the slowest handler. None gives no warnings.
        **options: Those of ``EventBus``, other than ``logger``, ``max_pending`` and ``slow_after``.

    Raises:
        TypeError, ValueError, OverflowError: A bad argument.
    """

    __slots__ = ()

    def __init__(
        self,
        max_handler_queue: int | None = 1000,
        *,
        alert_after: float | None = 0.005,
        **options: Unpack[RouterOptions],
    ) -> None:
        try:
            self._make_bus({"max_pending": max_handler_queue, "slow_after": alert_after}, options)
        except (TypeError, ValueError, OverflowError) as error:
            name, space, text = str(error).partition(" ")
            here = {"max_pending": "max_handler_queue", "slow_after": "alert_after"}.get(name)
            if here is not None:
                error.args = (here + space + text,)
            raise

    @overload
    def register(
        self, event: EveryEvent, handler: None = None, priority: int = 0, once: bool = False
    ) -> Callable[[BinaryT], BinaryT]: ...

    @overload
    def register(
        self, event: EventKey[T], handler: None = None, priority: int = 0, once: bool = False
    ) -> Decorator[T]: ...

    @overload
    def register(
        self, event: Text, handler: None = None, priority: int = 0, once: bool = False
    ) -> Callable[[UnaryOrBinaryT], UnaryOrBinaryT]: ...

    @overload
    def register(
        self, event: EventKey[T], handler: Callable[[T], R], priority: int = 0, once: bool = False
    ) -> Callable[[T], R]: ...

    @overload
    def register(
        self, event: Text, handler: UnaryOrBinaryT, priority: int = 0, once: bool = False
    ) -> UnaryOrBinaryT: ...

    def register(
        self, event: Any, handler: Any = None, priority: int = 0, once: bool = False
    ) -> Any:
        """Subscribe a handler, as ``subscribe`` and with ``once=True`` as ``subscribe_once`` does.

        Also a decorator, when ``handler`` is omitted.
        """
        return self._subscribe(event, handler, priority, once=once)

    @overload
    def register_wildcard(
        self, handler: None = None, *, priority: int = 0
    ) -> Callable[[BinaryT], BinaryT]: ...

    @overload
    def register_wildcard(self, handler: BinaryT, *, priority: int = 0) -> BinaryT: ...

    def register_wildcard(self, handler: Any = None, *, priority: int = 0) -> Any:
        """Subscribe a handler of every event, which gets ``(event_name, payload)``.

        Also a decorator, with parentheses and without.
        """
        return self._subscribe("*", handler, priority)

    def unregister(self, event: Text | EventKey[Any], handler: object) -> int:
        """Remove a handler, as ``unsubscribe`` does; ``"*"`` for those of every event."""
        return self.unsubscribe(event, handler)


def _text(key: object) -> str:
    """Return the text of a key, that of an enum member too; nothing for what has none."""
    value = key.value if isinstance(key, Enum) and not isinstance(key, str) else key
    return str.__str__(value) if isinstance(value, str) else ""


def _ranked(priority: Any, group: int) -> int:
    """Return what a priority within a group is on the bus."""
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise TypeError(f"priority must be an int, not {type(priority).__name__}")
    if not -_BAND // 2 <= priority < _BAND // 2:
        raise OverflowError("priority must be from -2**60 to 2**60 - 1")
    return group + int(priority)
