"""EventBus: the native core, and what needs a coroutine of its own to be written down.

asyncio is imported where it is used, so that importing the package stays cheap for programs that
only emit synchronously.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, overload

from agent_event_bus._listener import Listener
from agent_event_bus.streams import Stream
from agent_event_bus.waiting import Expectation, Waiter, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future
    from types import TracebackType

    from typing_extensions import Self

    from agent_event_bus._core import Event, HandlerTask, Subscription
    from agent_event_bus._typed import EventBus as CoreBus
    from agent_event_bus._types import (
        AnyList,
        Name,
        Payload,
        T,
        Text,
        Typed,
        TypedList,
        Where,
    )
    from agent_event_bus.buses import CurrentBus
    from agent_event_bus.keys import EventKey
    from agent_event_bus.streams import Overflow
else:
    from agent_event_bus._core import EventBus as CoreBus

__all__ = ["EventBus"]


class EventBus(CoreBus):
    """An event bus: handlers subscribe to event names, ``emit`` and ``emit_async`` deliver to them.

    Args:
        name: A name for ``repr`` and logs.
        history: How many of the last events to keep for ``history()``. Their payloads are kept too.
        logger: Where failures of handlers are reported; by default the logger ``agent_event_bus``.
        on_error: Called as ``on_error(event_name, handler, exception)`` after a failure was logged.
            What it raises itself goes to ``sys.unraisablehook``.
        loop: The event loop for async handlers of ``emit`` calls made in threads that run none; see
            ``bind_loop``.
        max_pending: How many async handlers ``emit`` may have scheduled that are not over. Past it,
            the newest are dropped, which a warning says once per second at most. None sets no
            limit.
        max_concurrency: How many async handlers, offloaded ones included, may run at once. Further
            ones wait for their turn, in order. Emissions made inside a handler are exempt. None
            sets no limit.
        handler_timeout: Seconds that an async delivery may take, for subscriptions without a
            ``timeout`` of their own. None sets no limit.
        slow_after: Seconds that routing one event may take before a warning names the event, how
            long it took, and the slowest handler. None gives no warnings.
        timing: Whether to measure how long each handler takes, for ``stats()["latency"]``.
        strict: Event names that ``define_event`` has not declared are refused, emitted or
            subscribed to, with ``UnknownEventError``. Patterns, ``"*"`` and published objects are
            free.
        async_only: Sync handlers, which would hold up the event loop, are refused, unless they are
            offloaded, and ``emit``, ``publish`` and ``collect`` raise ``RuntimeError``: their async
            forms are the only way.

    Raises:
        TypeError: An argument is of the wrong type, or ``on_error`` is a coroutine function.
        ValueError: ``max_pending`` or ``max_concurrency`` is less than 1, ``history`` is less than
            0, or ``handler_timeout`` or ``slow_after`` is not more than 0.
    """

    __slots__ = ()

    @overload
    def define_event(self, name: EventKey[T], schema: Callable[[T], object] | None) -> None: ...

    @overload
    def define_event(self, name: Name, schema: object) -> None: ...

    def define_event(self, name: Name, schema: object) -> None:
        """Declare an event and what its payloads must look like.

        From then on every ``emit``, and every ``emit_async`` when it is awaited, checks the payload
        first, with or without handlers. One that does not fit raises ``EventSchemaError``, and
        nothing is delivered. It is checked and not converted: handlers get the object that was
        emitted. Published objects are not checked.

        Args:
            name: The event name; a pattern is none.
            schema: A pydantic model, a dataclass, a ``TypedDict``, a ``msgspec.Struct``, any
                callable that is called with a payload and raises an ``Exception`` for a bad one, or
                None to declare an event with any payload. docs/schemas.md says what fits each kind.

        Raises:
            ValueError: The name is none of an event, or is declared with another schema already.
            TypeError: The name is no string, the schema is none of these or a coroutine function,
                or its library cannot use it.
            ImportError: The library that the schema needs is not installed.
        """
        from agent_event_bus.schema import checker_of

        self._define_event(name, schema, checker_of(schema))

    def as_current(self) -> CurrentBus[Self]:
        """Make this the bus that ``current_bus()`` returns, inside ``with bus.as_current():``.

        It is carried by a context variable: tasks that are started inside, and copies of the
        context, inherit it, other threads do not. May be nested and used again.

        Returns:
            A context manager, which gives the bus. Leaving it in another context than it was
            entered in raises ``RuntimeError``.
        """
        from agent_event_bus.buses import CurrentBus

        return CurrentBus(self)

    @overload
    def emit_threadsafe(self, name: EventKey[T], payload: Payload[T]) -> Future[int]: ...

    @overload
    def emit_threadsafe(self, name: EventKey[T | None]) -> Future[int]: ...

    @overload
    def emit_threadsafe(self, name: Text, payload: Any = None) -> Future[int]: ...

    def emit_threadsafe(self, name: Any, payload: Any = None) -> Future[int]:
        """Deliver an event on the bound event loop, from any thread, and do not wait for it.

        All handlers, sync ones too, run in the thread of the loop, and see the context variables of
        the caller. Cancelling the future cancels the emission.

        Args:
            name: The event name.
            payload: What the handlers get.

        Returns:
            A future of what ``emit_async`` returns: how many handlers were called. It also gets the
            errors for a bad name and for a payload that does not fit. Waiting for it in the thread
            of the loop itself would never end.

        Raises:
            RuntimeError: The bus is bound to no loop, or to one that is closed.
        """
        import asyncio

        loop = self._loop
        if loop is None:
            raise RuntimeError("emit_threadsafe() needs an event loop: bind one with bind_loop()")
        emission = self.emit_async(name, payload)
        try:
            return asyncio.run_coroutine_threadsafe(emission, loop)
        except BaseException:
            emission.close()  # it will not be awaited, and must not warn about that
            raise

    @overload
    def wait_for(
        self, key: Typed[T] | TypedList[T], *, where: Where[T] = None, timeout: float | None = None
    ) -> Coroutine[Any, Any, Event[T]]: ...

    @overload
    def wait_for(
        self,
        key: Text | AnyList,
        *,
        where: Where[Any] = None,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Event[Any]]: ...

    def wait_for(
        self, key: Any, *, where: Any = None, timeout: float | None = None
    ) -> Coroutine[Any, Any, Event[Any]]:
        """Wait for the next event that matches.

        It is subscribed when this is called, not when the result is awaited, and unsubscribed when
        that is done, cancelled, or dropped. It may be called without a running loop.

        Args:
            key: What ``subscribe`` accepts.
            where: Which payloads match, as for ``subscribe``.
            timeout: Seconds from this call; None waits as long as it takes. With 0 the result, when
                it is awaited, is an event that has matched since this call, or it raises at once.

        Returns:
            A coroutine object that gives the ``Event``. Awaiting it raises ``TimeoutError`` when
            none has matched in time (on Python 3.9 and 3.10 that is an ``asyncio.TimeoutError``,
            too), and ``RuntimeError`` when the bus is closed or its subscription removed meanwhile.

        Raises:
            TypeError, ValueError: A bad argument, as for ``subscribe``, or a bad timeout.
            RuntimeError: The bus is closed.
        """
        return Waiter(self, key, where, timeout)

    @overload
    def expect(
        self, key: Typed[T] | TypedList[T], *, where: Where[T] = None, timeout: float | None = None
    ) -> Expectation[T]: ...

    @overload
    def expect(
        self,
        key: Text | AnyList,
        *,
        where: Where[Any] = None,
        timeout: float | None = None,
    ) -> Expectation[Any]: ...

    def expect(
        self, key: Any, *, where: Any = None, timeout: float | None = None
    ) -> Expectation[Any]:
        """Wait for what a block of code sets off: ``async with bus.expect(key) as waiter:``.

        It is subscribed when this is called, and at the end of the block waits for the event, which
        is ``waiter.event`` from then on. When the block raises, it does not wait.

        Args:
            key: What ``subscribe`` accepts.
            where: Which payloads match, as for ``subscribe``.
            timeout: Seconds from the entry into the block; None waits as long as it takes.

        Returns:
            An async context manager. Leaving it raises as awaiting ``wait_for`` does.

        Raises:
            TypeError, ValueError: A bad argument, as for ``subscribe``, or a bad timeout.
            RuntimeError: The bus is closed.
        """
        return Expectation(self, key, where, timeout)

    @overload
    def stream(
        self,
        key: Typed[T] | TypedList[T],
        *,
        maxsize: int = 1024,
        overflow: Overflow = "drop_oldest",
        where: Where[T] = None,
    ) -> Stream[T]: ...

    @overload
    def stream(
        self,
        key: Text | AnyList,
        *,
        maxsize: int = 1024,
        overflow: Overflow = "drop_oldest",
        where: Where[Any] = None,
    ) -> Stream[Any]: ...

    def stream(
        self,
        key: Any,
        *,
        maxsize: int = 1024,
        overflow: Overflow = "drop_oldest",
        where: Any = None,
    ) -> Stream[Any]:
        """Iterate over the events that match: ``async for event in bus.stream(key):``.

        It is subscribed when this is called, and unsubscribed by ``close()``, at the end of an
        ``async with`` block, or when it is dropped.

        Args:
            key: What ``subscribe`` accepts.
            maxsize: How many events may wait to be consumed.
            overflow: What happens when more come: ``"drop_oldest"`` or ``"drop_newest"`` drops one;
                ``"block"`` has ``emit_async`` wait for room, and drops the newest under ``emit``;
                ``"error"`` ends the stream with ``StreamOverflowError``.
            where: Which payloads match, as for ``subscribe``.

        Returns:
            An async iterator of ``Event``, which ends when it or the bus is closed.

        Raises:
            TypeError, ValueError: A bad argument, as for ``subscribe``, or a bad limit or policy.
            RuntimeError: The bus is closed.
        """
        return Stream(self, key, where, maxsize, overflow)

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Return what is subscribed now, whatever its key, in order of registration.

        Those of ``wait_for``, ``expect`` and ``stream`` are among them.
        """
        listed = {each.id: each for each in self._subscriptions()}  # it has one for every key
        return tuple(listed[number] for number in sorted(listed))

    def pending(self) -> list[str]:
        """Return what ``emit`` has scheduled and is not over, as ``drain`` names it.

        Returns:
            ``"event -> handler qualname"`` for each delivery, in the order in which they were
            scheduled.
        """
        return [_named(delivery) for delivery in self._pending()]

    async def drain(self, timeout: float | None = None) -> list[str]:
        """Wait until everything that ``emit`` scheduled is over, also what its handlers scheduled.

        Called inside a handler that is itself pending, it does not wait for that handler. It gives
        up the handler's share of ``max_concurrency``, which others may need to get done.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            What is still unfinished, each as ``"event -> handler qualname"``.

        Raises:
            TypeError: ``timeout`` is no number.
            ValueError: It is negative or NaN.
        """
        import asyncio

        limit = seconds(timeout)
        loop = asyncio.get_running_loop()
        idle = loop.create_future()

        def wake() -> None:
            if not idle.done():
                idle.set_result(None)

        def on_idle() -> None:
            # Called in whichever thread finished the last one; this loop may be gone by then.
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self._close_stranded()
        self._give_up_permits()
        own = self._own_delivery()
        if own is not None:
            self._park(own, True)
        try:
            self._when_idle(on_idle, own is not None)
            await asyncio.wait([idle], timeout=limit)
        finally:
            self._forget_idle(on_idle)
            if own is not None:
                self._park(own, False)
        if idle.done():
            return []
        return [_named(delivery) for delivery in self._pending() if delivery is not own]

    async def aclose(self) -> None:
        """Close the bus: cancel what ``emit`` has scheduled, wait for it, and deliver nothing more.

        Later events are dropped with one warning; subscribing raises ``RuntimeError``. Closing
        twice does nothing. Called inside a pending handler, it neither cancels that handler nor
        waits for it. Whoever waits for an event gets a ``RuntimeError``, and streams end when what
        is queued has been consumed.
        """
        self._close()
        for subscription in self._subscriptions():
            if isinstance(subscription.handler, Listener):
                subscription.handler.bus_closed()
        self._close_stranded()
        own = self._own_delivery()
        for delivery in self._pending():
            if delivery is not own:
                delivery.cancel()
        await self.drain()

    async def __aenter__(self) -> Self:
        """Return the bus."""
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

    def _close_stranded(self) -> None:
        """End the deliveries whose loop was closed: nothing will ever run them again."""
        for delivery in self._pending():
            if delivery.loop.is_closed():
                with suppress(ValueError):  # another thread is closing it at this moment
                    delivery.close()


def _named(delivery: HandlerTask) -> str:
    return f"{delivery.event_name} -> {delivery.__qualname__}"


EventBus._own_methods()
