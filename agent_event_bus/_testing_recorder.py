"""Recording the events of a bus, and assertions about them, for ``agent_event_bus.testing``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Union, overload

from agent_event_bus._bus import EventBus
from agent_event_bus._core import Event
from agent_event_bus._listener import Listener
from agent_event_bus._testing_text import (
    bounded,
    differences,
    exception_text,
    joined,
    listed,
    named,
    shown,
    similar,
    times_text,
    where_text,
)

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from agent_event_bus._types import T, Typed, TypedList, Where
    from agent_event_bus.keys import EventKey

    AnyKey = Union[str, Enum, EventKey[Any], type[Any], Sequence[Any]]
    UntypedKey = Union[str, Enum, Sequence[Any]]

__all__ = ["EventRecorder", "record_events"]

_FIRST = -(2**63)
"""The lowest priority: a recorder sees an event before its handlers, and what those emit later."""

_STOPPED = "stopped"


class EventRecorder(Sequence[Event]):
    """The events of a bus in the order they were emitted; what ``record_events`` returns.

    A sequence of ``Event``, and a context manager that stops recording at its end. What has been
    recorded stays. Dropping it stops recording, too.
    """

    def __init__(self, bus: EventBus, key: AnyKey = "*") -> None:
        self._tape = _Tape()
        self._published = _Published()
        # The mark comes first, or an event could be looked at that lacks it.
        self._published.subscribe(bus, object, None, priority=_FIRST)
        try:
            self._tape.subscribe(bus, key, None, priority=_FIRST)
        except BaseException:
            self._published.unsubscribe()
            raise

    @property
    def names(self) -> list[str]:
        """The names of the events, in order."""
        return [event.name for event in self]

    @property
    def payloads(self) -> list[Any]:
        """The payloads of the events, in order."""
        return [event.payload for event in self]

    @overload
    def matching(
        self, key: Typed[T] | TypedList[T], *, where: Where[T] = None
    ) -> list[Event[T]]: ...
    @overload
    def matching(self, key: UntypedKey, *, where: Where[Any] = None) -> list[Event[Any]]: ...
    def matching(self, key: AnyKey, *, where: Where[Any] = None) -> list[Event[Any]]:
        """Return the events that a handler with this key and condition would have got.

        Args:
            key: What ``subscribe`` accepts.
            where: As for ``subscribe``. Where it raises an ``Exception``, that is no match.

        Raises:
            TypeError, ValueError: A bad key or condition, as for ``subscribe``.
        """
        return self._search(key, where).matches

    @overload
    def assert_emitted(
        self, key: Typed[T] | TypedList[T], *, where: Where[T] = None, times: int | None = None
    ) -> list[Event[T]]: ...
    @overload
    def assert_emitted(
        self, key: UntypedKey, *, where: Where[Any] = None, times: int | None = None
    ) -> list[Event[Any]]: ...
    def assert_emitted(
        self, key: AnyKey, *, where: Where[Any] = None, times: int | None = None
    ) -> list[Event[Any]]:
        """Assert that an event has been emitted, or an object published.

        Args:
            key: What ``subscribe`` accepts.
            where: Which payloads count, as for ``subscribe``. Where it raises an ``Exception``,
                that is no match.
            times: How many events have to match; None for at least one.

        Returns:
            The events that match.

        Raises:
            AssertionError: Too few or too many match. It says what was recorded, and in which
                fields the nearest events differ.
            TypeError, ValueError: A bad argument.
        """
        __tracebackhide__ = True
        _check_times(times)
        found = self._search(key, where)
        count = len(found.matches)
        if count == 0 if times is None else count != times:
            raise AssertionError(self._complaint(found, times))
        return found.matches

    @overload
    def assert_not_emitted(
        self, key: Typed[T] | TypedList[T], *, where: Where[T] = None
    ) -> None: ...
    @overload
    def assert_not_emitted(self, key: UntypedKey, *, where: Where[Any] = None) -> None: ...
    def assert_not_emitted(self, key: AnyKey, *, where: Where[Any] = None) -> None:
        """Assert that no event matches: ``assert_emitted`` with ``times=0``."""
        __tracebackhide__ = True
        self.assert_emitted(key, where=where, times=0)

    def clear(self) -> None:
        """Forget what has been recorded so far."""
        self._tape.events.clear()
        self._published.numbers.clear()

    def stop(self) -> None:
        """Record nothing more. Stopping twice does nothing."""
        if not self._tape.ended:
            self._tape.ended = _STOPPED
        self._tape.unsubscribe()
        self._published.unsubscribe()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop recording."""
        self.stop()

    def __del__(self) -> None:
        """Stop recording."""
        if hasattr(self, "_published"):
            self.stop()

    def __len__(self) -> int:
        return len(self._tape.events)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._tape.events[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(list(self._tape.events))

    def __repr__(self) -> str:
        """Say how many events there are, and their names."""
        state = f", {self._tape.ended}" if self._tape.ended else ""
        return f"<EventRecorder: {self._summary()}{state}>"

    def _search(self, key: AnyKey, where: Where[Any]) -> _Search:
        return _Search(list(self._tape.events), self._published.numbers, key, where)

    def _summary(self) -> str:
        counts = Counter(self.names)
        if not counts:
            return "nothing was recorded"
        return "recorded " + listed(
            [repr(name) + (f" ({times_text(n)})" if n > 1 else "") for name, n in counts.items()]
        )

    def _complaint(self, found: _Search, times: int | None) -> str:
        """Return what is wrong, and what may help to see why."""
        lines = [found.headline(times)]
        if len(found.matches) > (times or 0):
            lines += found.list_matches()
        elif found.misses:
            lines += found.list_misses()
        elif not found.matches:
            near = similar(found.keys, self.names)
            if near:
                lines.append(f"did you mean {near!r}?")
        lines.append(self._summary())
        if self._tape.ended and self._tape.ended != _STOPPED:
            lines.append(f"recording had ended: {self._tape.ended}")
        return "\n".join(lines)


def _check_times(times: object) -> None:
    if times is None:
        return
    if not isinstance(times, int) or isinstance(times, bool):
        raise TypeError(f"times must be an int or None, not {type(times).__name__}")
    if times < 0:
        raise ValueError(f"times must be at least 0, not {times}")


def record_events(bus: EventBus, key: AnyKey = "*") -> EventRecorder:
    """Record the events of a bus from now on.

    A recorder sees an event before the handlers do, and what a guard refuses, too. It is subscribed
    like any handler, to the key and to ``object``, which tells it what was published: ``len(bus)``
    and the numbers that ``emit`` and ``publish`` return count it.

    Args:
        bus: The bus, which may be ``async_only`` or ``strict``.
        key: What is recorded: whatever ``subscribe`` accepts; by default everything.

    Returns:
        A sequence of ``Event`` with assertions. ``with record_events(bus) as events:`` stops at the
        end of the block.

    Raises:
        TypeError, ValueError: A bad key, as for ``subscribe``.
        RuntimeError: The bus is closed.
    """
    return EventRecorder(bus, key)


class _Tape(Listener):
    """The handler behind a recorder."""

    __slots__ = ("events",)
    __qualname__ = "record_events"

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)


class _Published(Listener):
    """Notes which events are published objects: an ``Event`` does not tell."""

    __slots__ = ("numbers",)
    __qualname__ = "record_events"

    def __init__(self) -> None:
        super().__init__()
        self.numbers: set[int] = set()

    def __call__(self, event: Event) -> None:
        self.numbers.add(event.seq)


class _Probe:
    """Asks a bus of its own what it would deliver, so that its rules are not written down twice."""

    def __init__(self, key: Any, where: Any = None) -> None:
        self._bus = EventBus()
        # A guard, so that what the condition raises comes out.
        subscription = self._bus.subscribe(
            key, self._ignore, where=where, envelope=True, isolate=False
        )
        self.keys: tuple[str | type[Any], ...] = subscription.keys

    def __call__(self, event: Event, published: bool) -> bool:
        """Whether a handler would get this event. Raises what the condition raises."""
        if published:
            return self._bus.publish(event.payload) > 0
        return self._bus.emit(event.name, event.payload) > 0

    def agrees(self, payload: object) -> bool:
        """Whether the condition is met, when it is all that matters."""
        try:
            return self._bus.emit("event", payload) > 0
        except Exception:
            return False

    @staticmethod
    def _ignore(event: Event) -> None:
        """Handle an event."""


class _Miss(NamedTuple):
    """An event of the right name whose payload does not meet the condition."""

    event: Event
    error: Exception | None


class _Search:
    """The events that match a key and a condition, and those that match the key alone."""

    def __init__(self, events: list[Event], published: set[int], key: Any, where: Any) -> None:
        self.matches: list[Event] = []
        self.misses: list[_Miss] = []
        self.where = where
        self._published = published
        of_key = _Probe(key)
        of_both = _Probe(key, where)
        self.keys = of_key.keys
        for event in events:
            is_published = event.seq in published
            if not of_key(event, is_published):
                continue
            error = None
            try:
                if where is None or of_both(event, is_published):
                    self.matches.append(event)
                    continue
            except Exception as raised:
                error = raised
            self.misses.append(_Miss(event, error))

    def headline(self, times: int | None) -> str:
        """Return what was expected and what has happened instead, in one line."""
        what = joined(named(key) for key in self.keys)
        if self.where is not None:
            what += f" where {where_text(self.where)}"
        wanted = "at least once" if times is None else times_text(times)
        expected = f"expected {what} to be emitted {wanted}"
        if times == 0:
            expected = f"expected {what} not to be emitted"
        count, total = len(self.matches), len(self.matches) + len(self.misses)
        if self.misses and total == 1:
            return f"{expected}, but the one such event did not match"
        if self.misses:
            return f"{expected}, but of {total} such events {count or 'none'} matched"
        return f"{expected}, but it was {times_text(count) if count else 'not'}"

    def list_matches(self) -> list[str]:
        """Return the lines that show the events that match."""
        return ["these match:", *bounded(_with_payload(event) for event in self.matches)]

    def list_misses(self) -> list[str]:
        """Return the lines that show why the others do not, the nearest first."""
        if not isinstance(self.where, Mapping):
            return [
                "these do not match:",
                *bounded(
                    _with_payload(event)
                    if error is None
                    else f"{_title(event)}: where raised {exception_text(error)}"
                    for event, error in self.misses
                ),
            ]
        probes = {field: _Probe("*", {field: value}) for field, value in self.where.items()}
        explained: list[tuple[int, str]] = []
        for event, _ in self.misses:
            wrong = [field for field, probe in probes.items() if not probe.agrees(event.payload)]
            lines = differences(event.payload, self.where, wrong)
            explained.append((len(wrong), "\n      ".join([f"{_title(event)}:", *lines])))
        explained.sort(key=lambda each: each[0])  # stable: equally near ones stay in order
        return ["these do not match, the nearest first:", *bounded(text for _, text in explained)]


def _title(event: Event) -> str:
    return f"event {event.seq} {event.name!r}"


def _with_payload(event: Event) -> str:
    return f"{_title(event)}: {shown(event.payload)}"
