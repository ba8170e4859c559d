"""What the fixtures of the pytest plugin do, once a test uses one.

pytest itself loads ``_agent_event_bus_pytest``, which imports this when it is needed.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pytest

from agent_event_bus._bus import EventBus
from agent_event_bus.buses import get_bus, use_buses
from agent_event_bus.testing import HandlerErrorCheck, LeakCheck

__all__ = ["BusWatch", "WatchEventBus", "bus_of_test"]

WatchEventBus = Callable[[EventBus], None]
"""The type of the fixture ``watch_event_bus``."""

_SETTINGS = ("fail_on_handler_error", "fail_on_leak")


class _Watched:
    """One bus that a test must leave as it was.

    Attributes:
        own: The bus goes when the test does, so what is subscribed to it is nobody's concern.
    """

    def __init__(self, bus: EventBus, own: bool) -> None:
        self.bus = bus
        self.own = own
        self.errors = HandlerErrorCheck(bus)
        self.errors.start()
        self.leaks = LeakCheck(bus)
        self.leaks.start()
        # As the body of an async test ended, in its loop: what was pending, and how many
        # deliveries had been cancelled.
        self.pending: list[str] = []
        self.cancelled = 0

    def body_ended(self) -> None:
        """Take note of what is pending before the event loop of the test ends."""
        self.pending = self.bus.pending()
        self.cancelled = self.bus.stats()["cancelled"]

    def cancelled_since(self) -> bool:
        """Whether what was pending then was cancelled, with its loop, and not by closing the bus.

        An event loop that ends cancels its tasks, and then they are pending no more.
        """
        if not self.pending or self.bus.closed:
            return False
        cancelled: int = self.bus.stats()["cancelled"]
        return cancelled > self.cancelled


class BusWatch:
    """The buses that one test watches, and what it fails for."""

    def __init__(self, *, fail_on_handler_error: bool, fail_on_leak: bool) -> None:
        self._fail_on_handler_error = fail_on_handler_error
        self._fail_on_leak = fail_on_leak
        self._watched: list[_Watched] = []
        self._failed = False

    @classmethod
    def of_test(cls, item: pytest.Item) -> BusWatch:
        """Return one for a test, by its markers and the settings.

        A marker with an argument that there is none of, or that is no bool, fails the test.
        """
        chosen = {name: bool(item.config.getini(f"event_bus_{name}")) for name in _SETTINGS}
        for marker in reversed(list(item.iter_markers("event_bus"))):  # the closest one last
            unknown = [repr(argument) for argument in marker.args]
            unknown += [name for name in marker.kwargs if name not in _SETTINGS]
            if unknown:
                pytest.fail(
                    f"the marker event_bus takes {' and '.join(_SETTINGS)}, not {unknown[0]}",
                    pytrace=False,
                )
            for name, value in marker.kwargs.items():
                if not isinstance(value, bool):
                    pytest.fail(
                        f"the marker event_bus takes True or False for {name}, not {value!r}",
                        pytrace=False,
                    )
            chosen.update(marker.kwargs)
        return cls(**chosen)

    def add(self, bus: EventBus, *, own: bool = False) -> None:
        """Watch a bus from now on. Adding it twice does nothing."""
        if all(each.bus is not bus for each in self._watched):
            self._watched.append(_Watched(bus, own))

    def around(self, item: pytest.Item) -> Generator[None, Any, None]:
        """Wrap the call of the test: fail it for what handlers have raised by its end."""
        function: Any = getattr(item, "obj", None)
        wrapped = inspect.iscoroutinefunction(function)
        if wrapped:
            item.obj = self._noting_its_end(function)  # type: ignore[attr-defined]
        outcome = yield
        if wrapped:
            item.obj = function  # type: ignore[attr-defined]
        self._failed = outcome.excinfo is not None
        text = self._take_errors()
        if not text:
            return
        if self._failed:
            item.add_report_section("call", "event bus", text)
            return
        try:
            pytest.fail(text, pytrace=False)
        except pytest.fail.Exception as failure:
            outcome.force_exception(failure)

    def finish(self, bus: EventBus | None = None) -> None:
        """Stop watching one bus, or all, and fail for what has been found since the call."""
        ending = [each for each in self._watched if bus is None or each.bus is bus]
        self._watched = [each for each in self._watched if each not in ending]
        problems = [self._errors_of(each) for each in ending]
        for each in ending:
            each.errors.stop()
            # A test that fails half-way has had no chance to clean up.
            if self._fail_on_leak and not self._failed:
                problems.append(_leaks_of(each))
        text = "\n".join(filter(None, problems))
        if text:
            pytest.fail(text, pytrace=False)

    def _noting_its_end(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def test(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            try:
                return await function(*args, **kwargs)
            finally:
                for each in self._watched:
                    each.body_ended()

        return test

    def _take_errors(self) -> str:
        return "\n".join(filter(None, map(self._errors_of, self._watched)))

    def _errors_of(self, watched: _Watched) -> str:
        """Return what is to be said of the errors on a bus, and forget them."""
        errors, watched.errors.errors = watched.errors.errors, []
        if not self._fail_on_handler_error:
            return ""
        texts: list[str] = []
        for error in errors:
            lines = traceback.format_exception(
                type(error.exception), error.exception, error.exception.__traceback__
            )
            texts.append(f"{error}\n{''.join(lines).rstrip()}")
        return "\n\n".join(texts)


def _leaks_of(watched: _Watched) -> str:
    """Return what is to be said of what has been left behind on a bus."""
    if not watched.own:
        failure = watched.leaks.failure()
        if failure is not None:
            return str(failure)
    left, how = watched.bus.pending(), ""
    if not left and watched.cancelled_since():
        left, how = watched.pending, ", and cancelled when its event loop ended"
    if not left:
        return ""
    advice = "await bus.drain() before the test ends, or bus.aclose()"
    title = f"left pending on {watched.bus!r}{how}:"
    return "\n".join([title, *(f"  {name}" for name in left), advice])


@contextmanager
def bus_of_test(options: dict[str, Any], watch: BusWatch) -> Iterator[EventBus]:
    """Make the bus of one test, which is the default bus meanwhile, and close it at the end."""
    with use_buses():
        # The default bus is the current one in every thread and task of the test, also where a
        # context variable would not reach.
        bus = get_bus("default", **options)
        watch.add(bus, own=True)
        try:
            yield bus
            watch.finish(bus)
        finally:
            _close_now(bus)


def _close_now(bus: EventBus) -> None:
    """Close a bus where there may be no event loop: what is pending is cancelled and not awaited.

    Its loop is over, or its owner, another plugin, runs it again for the next test.
    """
    closing = bus.aclose()
    try:
        closing.send(None)
    except (StopIteration, RuntimeError):
        pass  # all is done but the waiting, for which there is no loop
    finally:
        closing.close()
