"""Helpers for tests of code that uses a bus, for any test framework.

``record_events`` keeps what is emitted and has assertions about it, ``fail_on_handler_error`` lets
no failure of a handler go unnoticed, and ``no_leaks`` finds subscriptions and scheduled handlers
that a block of code has left behind. What fails raises ``AssertionError``.

With pytest there are fixtures that use these: docs/testing.md describes both.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from agent_event_bus._testing_recorder import EventRecorder, record_events
from agent_event_bus._testing_text import (
    bounded,
    exception_text,
    handler_place,
    joined,
    named,
    place,
    qualified_name,
)

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from agent_event_bus._bus import EventBus
    from agent_event_bus._core import Subscription

__all__ = [
    "EventRecorder",
    "HandlerError",
    "HandlerErrorCheck",
    "LeakCheck",
    "assert_no_leaks",
    "fail_on_handler_error",
    "no_leaks",
    "record_events",
]


# Errors of handlers -------------------------------------------------------------------------------


class HandlerError(NamedTuple):
    """A handler that has raised, or run out of time.

    Attributes:
        event_name: The event that it was called for.
        handler_name: The handler's qualified name, or that of its type.
        exception: What it raised.
    """

    event_name: str
    handler_name: str
    exception: Exception

    def __str__(self) -> str:
        """Return event, handler, exception and where that was raised as one line."""
        text = f"Handler {self.handler_name!r} raised on event {self.event_name!r}: "
        return text + exception_text(self.exception) + _raised_at(self.exception)


class HandlerErrorCheck:
    """What ``fail_on_handler_error`` returns; a context manager, sync and async, usable once.

    Attributes:
        errors: The errors so far, in order: a list of ``HandlerError``. A test may remove those
            that it expects.
    """

    def __init__(self, bus: EventBus) -> None:
        self.errors: list[HandlerError] = []
        self._bus = bus
        self._previous: Callable[[str, Callable[..., object], Exception], object] | None = None
        self._entered = False

    def start(self) -> None:
        """Collect errors from now on. ``RuntimeError`` when it has been started before."""
        if self._entered:
            raise RuntimeError("fail_on_handler_error() can be entered once only")
        self._entered = True
        self._previous = self._bus.on_error
        self._bus.on_error = self._note

    def stop(self) -> None:
        """Collect no more, and give the bus its ``on_error`` back."""
        if self._bus.on_error == self._note:
            self._bus.on_error = self._previous
        # Else somebody has put another in its place, which may well call this one.

    def failure(self) -> AssertionError | None:
        """Return the error that says which handlers have raised, or None if none has."""
        if not self.errors:
            return None
        lines = [str(error) for error in self.errors]
        if len(lines) > 1:
            lines = [f"{len(lines)} failures of handlers:", *(f"  {line}" for line in lines)]
        failure = AssertionError("\n".join(lines))
        failure.__cause__ = self.errors[0].exception
        return failure

    def __enter__(self) -> Self:
        """Collect errors from now on."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise ``AssertionError`` if a handler has raised; if the body has, add it to that."""
        __tracebackhide__ = True
        self.stop()
        failure = self.failure()
        if failure is not None:
            if exc is None:
                raise failure
            _attach(exc, failure)

    async def __aenter__(self) -> Self:
        """Collect errors from now on."""
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unless the body raised, drain the bus; then do what ``with`` does at its end."""
        __tracebackhide__ = True
        try:
            if exc_type is None:
                await self._bus.drain()
        finally:
            self.__exit__(exc_type, exc, traceback)

    def _note(self, event_name: str, handler: Callable[..., object], exception: Exception) -> None:
        self.errors.append(HandlerError(event_name, qualified_name(handler), exception))
        if self._previous is not None:
            self._previous(event_name, handler, exception)


def fail_on_handler_error(bus: EventBus) -> HandlerErrorCheck:
    """Fail when a handler has failed: ``with fail_on_handler_error(bus):``.

    The bus isolates failures of handlers as ever, and logs them, and calls its ``on_error``. At the
    end of the block ``AssertionError`` names each of them; its ``__cause__`` is the first one's
    exception. When the body itself raises, that goes on, with a note about the handlers (before
    Python 3.11 they are in its ``__context__``). ``async with`` drains the bus first.

    What guards raise reaches the emitter, and what ``collect`` collects is in the outcomes: neither
    is a failure here.
    """
    return HandlerErrorCheck(bus)


def _attach(exception: BaseException, failure: AssertionError) -> None:
    """Have an exception that passes through also tell of the failures of handlers."""
    if sys.version_info >= (3, 11):
        exception.add_note(str(failure))
    else:
        *_, last = _chain(exception)
        if any(each is last for each in _chain(failure)):
            failure.__cause__ = None  # or they would refer to each other in a circle
        last.__context__ = failure
        last.__suppress_context__ = False


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the one behind it, and so on."""
    each: BaseException | None = exception
    while each is not None:
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _raised_at(exception: BaseException) -> str:
    traceback = exception.__traceback__
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f" ({place(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)})"


# Leaks --------------------------------------------------------------------------------------------


class LeakCheck:
    """What ``no_leaks`` returns; a context manager, sync and async."""

    def __init__(self, bus: EventBus, timeout: float = 0.0) -> None:
        self._bus = bus
        self._timeout = timeout
        self._ids: set[int] = set()
        self._pending: Counter[str] = Counter()

    def start(self) -> None:
        """Take what there is now for given."""
        self._ids = {subscription.id for subscription in self._bus.subscriptions()}
        self._pending = Counter(self._bus.pending())

    def failure(self) -> AssertionError | None:
        """Return the error that names what has come since, or None if nothing has."""
        return _leaks(self._bus, self._ids, self._pending)

    def __enter__(self) -> Self:
        """Take what there is now for given."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise ``AssertionError`` for what has come since, unless the body raised."""
        __tracebackhide__ = True
        failure = self.failure() if exc_type is None else None
        if failure is not None:
            raise failure

    async def __aenter__(self) -> Self:
        """Take what there is now for given."""
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give what is pending its time, then do what a ``with`` block does at its end."""
        __tracebackhide__ = True
        if exc_type is None and self._timeout > 0:
            await self._bus.drain(self._timeout)
        self.__exit__(exc_type, exc, traceback)


def no_leaks(bus: EventBus, *, timeout: float = 0.0) -> LeakCheck:
    """Fail when a block leaves something behind: ``with no_leaks(bus):``, or ``async with``.

    At its end ``AssertionError`` names each subscription that has been made inside and is active,
    those of streams that are open and of ``wait_for`` among them, and each delivery that ``emit``
    has scheduled inside and that is not over. When the body raises, nothing is checked.

    Args:
        bus: The bus.
        timeout: Seconds that ``async with`` waits for what is pending. ``with`` does not wait.
    """
    return LeakCheck(bus, timeout)


def assert_no_leaks(bus: EventBus) -> None:
    """Assert that nothing at all is subscribed to a bus, and nothing pending.

    Raises:
        AssertionError: It names what there is, as that of ``no_leaks`` does.
    """
    __tracebackhide__ = True
    failure = _leaks(bus, set(), Counter())
    if failure is not None:
        raise failure


def _leaks(bus: EventBus, known: set[int], known_pending: Counter[str]) -> AssertionError | None:
    def subscribed() -> list[Subscription]:
        return [each for each in bus.subscriptions() if each.id not in known]

    if subscribed():
        gc.collect()  # weakly held handlers and dropped streams may wait in cycles to be collected
    lines = _section("subscribed:", map(_describe, subscribed()))
    pending = Counter(bus.pending()) - known_pending
    lines += _section("pending:", pending.elements())
    return AssertionError("\n".join([f"left behind on {bus!r}:", *lines])) if lines else None


def _section(title: str, entries: Iterable[str]) -> list[str]:
    lines = bounded(entries, 20)
    return [title, *lines] if lines else []


def _describe(subscription: Subscription) -> str:
    keys = joined(named(key) for key in subscription.keys)
    handler = subscription.handler
    return f"{keys} -> {qualified_name(handler)}{handler_place(handler)}"
