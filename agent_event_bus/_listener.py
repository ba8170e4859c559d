"""Handlers of the bus's own: what waiting for an event and streams of events are built on.

A listener is subscribed like any handler, and must not keep alive whoever waits: the bus holds the
listener, the waiting side holds it too, and the listener refers to neither. The waiting side
unsubscribes it in the end, also when it is dropped.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from agent_event_bus._bus import EventBus
    from agent_event_bus._core import Event, Subscription


class Wakeup:
    """A future of the running loop that any thread may resolve: one task that is suspended.

    Raises:
        RuntimeError: No event loop is running.
    """

    __slots__ = ("_thread", "future", "loop")

    def __init__(self) -> None:
        from asyncio import get_running_loop

        self.loop: AbstractEventLoop = get_running_loop()
        self.future = self.loop.create_future()
        self._thread = get_ident()

    def resolve(self) -> None:
        """Wake the task. Only for the thread of the loop; others call ``wake``."""
        if not self.future.done():
            self.future.set_result(None)

    def wake(self) -> None:
        """Wake the task, from any thread. Never raises: a closed loop has no task left to wake."""
        try:
            if get_ident() == self._thread:
                self.resolve()  # without a trip through the loop's self-pipe
            else:
                self.loop.call_soon_threadsafe(self.resolve)
        except RuntimeError:
            if not self.loop.is_closed():
                raise


class Listener(ABC):
    """A handler that somebody waits behind.

    The core treats its subscription in a way of its own. An awaitable that it returns is awaited by
    ``emit_async`` alone, without a permit; anything else that delivers events closes it. And it is
    told of the end of its subscription.

    No lock is needed between the two sides: a handler stores what has come and then looks for a
    wakeup, a task that waits stores its wakeup and then looks for what has come.
    """

    __slots__ = ("__weakref__", "_subscription", "ended", "wakeup")

    def __init__(self) -> None:
        self.wakeup: Wakeup | None = None
        # Why nothing more will come, or an empty string while something may.
        self.ended = ""
        # Weak, and with a callback: the bus alone keeps the subscription, so the end of the bus is
        # told here.
        self._subscription: weakref.ref[Subscription] | None = None

    @abstractmethod
    def __call__(self, event: Event) -> object:
        """Handle an event."""

    def subscribe(self, bus: EventBus, key: Any, where: Any, **options: Any) -> None:
        """Subscribe it to a key, or to each of a list of keys, with an envelope."""
        options.update(where=where, envelope=True)
        subscription = bus._subscribe_internal(key, self, **options)
        self._subscription = weakref.ref(subscription, self._released)

    def unsubscribe(self) -> None:
        """End the subscription, if that is still to be done."""
        reference, self._subscription = self._subscription, None
        subscription = None if reference is None else reference()
        if subscription is not None:
            subscription.cancel()

    def end(self, reason: str) -> None:
        """Expect no more events, and tell the task that waits."""
        if not self.ended:
            self.ended = reason
        self.unsubscribe()
        self.wake()

    def bus_closed(self) -> None:
        """Be told that the bus delivers nothing from now on."""
        self.end("the bus was closed")

    def wake(self) -> None:
        """Wake the task that waits, if there is one.

        While it waits it is kept alive through the wakeup, as by any future; but not for a loop
        that was closed under it.
        """
        wakeup = self.wakeup
        if wakeup is not None:
            wakeup.wake()
            if wakeup.loop.is_closed():
                self.wakeup = None

    def unsubscribed(self) -> None:
        """Be told by the core that the subscription has ended, other than by its last event."""
        self.end("the subscription was removed")

    def _released(self, reference: weakref.ref[Subscription]) -> None:
        if self._subscription is reference:
            self.end("the bus is gone")
